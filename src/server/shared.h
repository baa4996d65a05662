// What all backends of the server share when the library is preloaded: one state for each database that has sessions, with
// the shards of its heartbeat cache. Lives here: memory, locks and clocks. Does not live here: what a heartbeat means
// (cache.h), and what processes tell each other (worker_control.h).
#pragma once

#include <type_traits>
#include <utility>

#include "../core/heartbeat_shard.h"
#include "../core/typing.h"
#include "metrics.h"
#include "server.h"
#include "user_count.h"
#include "worker_control.h"

extern "C" {
#include "storage/lwlock.h"
#include "utils/dsa.h"
}

namespace presence {

inline constexpr unsigned shard_count = 64;

struct SharedShard {
    LWLockPadded lock;
    dsa_pointer block;       // of a HeartbeatShard; InvalidDsaPointer until the first session
    dsa_pointer tombstones;  // of Tombstones; InvalidDsaPointer until the first
};

// Of expiry_guard.cpp, which alone writes it; times are monotonic milliseconds.
struct HeldExpiry {
    pg_atomic_uint32 state;     // a GuardState
    pg_atomic_uint64 since_ms;  // when it began to hold
    pg_atomic_uint64 floor_ms;  // silence before that does not count; 0: all of it does
    pg_atomic_uint64 silent;    // sessions, when it last looked
};

// Who is typing; its locks are explained in typing.cpp.
inline constexpr unsigned typing_shard_count = 16;

struct SharedTypingShard {
    LWLockPadded lock;
    dsa_pointer block;  // of a TypingShard; InvalidDsaPointer until somebody types
};

struct SharedTyping {
    SessionEnds ends;
    pg_atomic_uint64 due_ms;  // when the worker is to look, by the monotonic clock
    SharedTypingShard shards[typing_shard_count];
};

// One for each database in which the extension is used. Its lifetime is simple, so that nobody can meet freed memory:
// - It is made by a process that is connected to the database, or by the launcher from the file of heartbeats.
// - Only the launcher frees it: when the database's row is gone, which the server allows only while nobody is connected to
//   the database, and when nobody pauses its worker.
// So a pointer to it is good in a process that is connected to the database, in the launcher between two calls of
// free_dropped_database(), and from pause_worker() to the end of that pause.
struct SharedDatabase {
    Oid database;
    dsa_pointer next;

    HeldExpiry held_expiry;  // read by each heartbeat, so apart from what changes often
    WorkerControl worker;
    SharedMetrics metrics;
    SharedUserCount users;
    pg_atomic_uint64 early_misses;  // of shards that had no block yet

    SharedShard shards[shard_count];
    SharedTyping typing;
};

// Whether the library was preloaded, so that there is anything to share.
bool shared_memory_exists();

// Before the server starts: asks for memory and, once it is there, sets it up.
void request_shared_memory();

// Of the database that this process is connected to. Null without preloading, where it is not known and not to be made, and
// where there is no memory for it. In a transaction, if it may be made.
SharedDatabase *my_database(bool create = true);
// What that returned last; for callbacks, in which nothing may fail.
SharedDatabase *my_known_database();

// For the launcher. The list is in memory of the caller's context.
SharedDatabase *shared_database(Oid database, bool create);
std::span<SharedDatabase *> known_databases();
// One that was known before a snapshot in which it does not exist. False: its worker is paused, so it stays for now.
bool free_dropped_database(SharedDatabase *gone);

// The worker of any database is to leave, and none is started until its control's resume(). Null: there is nothing to pause.
SharedDatabase *pause_worker(Oid database);

// Memory of the shared area, or an invalid pointer. Raises nothing, whatever the server's memory does. In a transaction.
dsa_pointer try_allocate(std::size_t bytes, int flags);
dsa_area *shared_area();

// work(Block *) on the block of a shard with the shard's lock held; null where it has none yet. What work returns.
template <typename Block, typename Shard, typename Work>
auto with_block(Shard &shard, LWLockMode mode, Work work)
{
    LWLockAcquire(&shard.lock.lock, mode);
    Block *const block =
        DsaPointerIsValid(shard.block) ? static_cast<Block *>(dsa_get_address(shared_area(), shard.block)) : nullptr;
    if constexpr (std::is_void_v<std::invoke_result_t<Work, Block *>>) {
        work(block);
        LWLockRelease(&shard.lock.lock);
    } else {
        const auto result = work(block);
        LWLockRelease(&shard.lock.lock);
        return result;
    }
}

template <typename Block>
std::uint32_t capacity_of(const Block *block)
{
    return block != nullptr ? block->capacity() : 0;
}

// Gives the shard a block of the capacity wanted, with what is in the one it has, unless that is not of this capacity any
// more: somebody was quicker. False: there is no memory. In a transaction.
template <typename Block, typename Shard>
bool replace_block(Shard &shard, std::uint32_t capacity, std::uint32_t wanted)
{
    dsa_pointer block = try_allocate(Block::bytes_for(wanted), DSA_ALLOC_HUGE);
    if (!DsaPointerIsValid(block))
        return false;
    void *address = dsa_get_address(shared_area(), block);
    with_block<Block>(shard, LW_EXCLUSIVE, [&](const Block *old) {
        if (capacity_of(old) != capacity)
            return;
        if (old == nullptr)
            Block::create(address, wanted);
        else
            old->rebuild_into(address, wanted);
        std::swap(shard.block, block);
    });
    if (DsaPointerIsValid(block))
        dsa_free(shared_area(), block);
    return true;
}

// Null without preloading.
LauncherControl *launcher_control();

// The server's secret for the keys of sessions; the same after a restart and on a standby.
const HashKey &server_secret();

// Monotonic milliseconds for the cache.
std::uint64_t monotonic_ms();

// The moment at which the server began to accept heartbeats, before which nobody could beat, or while ends are held
// (expiry_guard.h) a later one. Without preloading, the start of the server. Wall time, and the same by the monotonic clock.
struct Floor {
    TimestampTz wall;
    std::uint64_t monotonic_ms;
};
Floor heartbeat_floor();

Timeouts current_timeouts();
// The same as if no ends were held.
Timeouts timeouts_without_guard();

}  // namespace presence
