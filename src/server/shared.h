// What all backends of the server share when the library is preloaded: one state for each database that has sessions, with
// the shards of its heartbeat cache and what is known of its worker. Lives here: memory, locks and clocks. Does not live
// here: what a heartbeat means (cache.h), and what the worker does (worker.h).
#pragma once

#include "../core/heartbeat_shard.h"
#include "server.h"

extern "C" {
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"
}

namespace presence {

inline constexpr unsigned shard_count = 64;

struct SharedShard {
    LWLockPadded lock;
    dsa_pointer block;  // of a HeartbeatShard; InvalidDsaPointer until the first session
};

// Why a database that wants a worker has none; 0: no reason.
enum WorkerProblem : std::uint32_t { no_problem, switched_off, no_free_process, keeps_failing };

// Allocated at the first use in a database, freed by the launcher after the database was dropped. Whoever is connected
// to the database may keep the pointer.
struct SharedDatabase {
    Oid database;
    dsa_pointer next;

    // The worker of this database; written by the launcher and the worker.
    pg_atomic_uint32 worker_pid;      // 0: none
    pg_atomic_uint32 worker_procno;   // for its latch, while worker_pid is set
    pg_atomic_uint32 worker_problem;  // a WorkerProblem
    pg_atomic_uint32 wants_worker;    // the extension is here, or was when somebody last looked
    pg_atomic_uint32 pauses;          // utility commands that want no worker in this database
    pg_atomic_uint32 look_again;  // the extension or its settings may have changed: the worker gives way to a new one
    pg_atomic_uint32 left_on_purpose;  // the last worker has not failed

    // What the worker is to number, and has numbered: commits that wrote events.
    pg_atomic_uint64 written_batches;
    pg_atomic_uint64 numbered_batches;
    ConditionVariable numbered;     // the latter has grown
    pg_atomic_uint64 next_leave;    // wall time of the earliest leave_until, or PG_UINT64_MAX
    pg_atomic_uint32 watch_all;     // the worker is to look for online sessions that are not in the cache
    pg_atomic_uint32 cache_full;    // memory could not be had
    pg_atomic_uint64 early_misses;  // of shards that had no block yet

    SharedShard shards[shard_count];
};

// Whether the library was preloaded, so that there is anything to share.
bool shared_memory_exists();

// Before the server starts: asks for memory and, once it is there, sets it up.
void request_shared_memory();

// Of a database; null without preloading, or where it is not known and not to be made. Raises errors of memory, so no lock
// may be held that is not released by the end of the transaction.
SharedDatabase *shared_database(Oid database, bool create);
// The one that this backend is connected to, made if necessary.
SharedDatabase *my_database();

// All that are known, in memory of the caller's context. Good until drop_shared_database(), which only the launcher calls.
std::span<SharedDatabase *> known_databases();
// Forgets a database that nobody is or can be connected to.
void drop_shared_database(Oid database);

dsa_area *shared_area();

// Each says by its latch that there is something to do; nothing happens where it does not run.
void wake_worker(SharedDatabase &database);
void wake_launcher();
bool launcher_exists();
// True for the first one since the server started.
bool this_is_the_launcher();
// Databases have come or gone: the launcher is to look. The latter takes the word back.
void mark_databases_changed();
bool databases_have_changed();
// The extension is used here: there should be a worker.
void ask_for_worker();
// Has the worker of that database, or with InvalidOid of all, replaced by a new one. Raises nothing.
void look_again(Oid database);
// Somebody's grace ends then.
void note_leave(SharedDatabase &database, std::int64_t leave_until);
std::uint32_t my_procno();

// The server's secret for the keys of sessions; the same after a restart and on a standby.
const HashKey &server_secret();

// Monotonic milliseconds for the cache.
std::uint64_t monotonic_ms();

// The moment at which the server began to accept heartbeats: nobody could beat before. Without preloading, the start of
// the server. Wall time, and the same by the monotonic clock.
struct Floor {
    TimestampTz wall;
    std::uint64_t monotonic_ms;
};
Floor heartbeat_floor();

Timeouts current_timeouts();

}  // namespace presence
