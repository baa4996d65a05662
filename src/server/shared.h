// What all backends of the server share when the library is preloaded: one state for each database that has sessions, with
// the shards of its heartbeat cache. Lives here: memory, locks and clocks. Does not live here: what a heartbeat means
// (cache.h), and what processes tell each other (worker_control.h).
#pragma once

#include "../core/heartbeat_shard.h"
#include "server.h"
#include "worker_control.h"

extern "C" {
#include "storage/lwlock.h"
#include "utils/dsa.h"
}

namespace presence {

inline constexpr unsigned shard_count = 64;

struct SharedShard {
    LWLockPadded lock;
    dsa_pointer block;  // of a HeartbeatShard; InvalidDsaPointer until the first session
};

// Allocated at the first use in a database, freed by the launcher after the database was dropped. Whoever is connected
// to the database may keep the pointer.
struct SharedDatabase {
    Oid database;
    dsa_pointer next;

    WorkerControl worker;
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

// Has the worker of that database, or with InvalidOid of all, replaced by a new one. Raises nothing.
void request_worker_restart(Oid database);
// Null without preloading.
LauncherControl *launcher_control();

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
