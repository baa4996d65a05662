#include "shared.h"

#include <algorithm>
#include <ctime>

#include "injection.h"
#include "settings.h"

extern "C" {
#include <sys/stat.h>

#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/pidfile.h"
}

namespace presence {

namespace {

constexpr const char *tranche_name = "presence";
// Enough for a few databases with few sessions; the rest comes in segments, as it is needed.
constexpr Size area_bytes = Size{256} * 1024;

struct SharedState {
    LWLock *list_lock;  // protects the list of databases
    dsa_pointer first;
    pg_atomic_uint64 floor_wall;  // 0: not accepting yet
    pg_atomic_uint64 floor_ms;
    LauncherControl launcher;
    alignas(MAXIMUM_ALIGNOF) char area[area_bytes];
};

SharedState *state = nullptr;
dsa_area *area = nullptr;
SharedDatabase *mine = nullptr;
shmem_request_hook_type previous_request_hook = nullptr;
shmem_startup_hook_type previous_startup_hook = nullptr;

void on_request()
{
    if (previous_request_hook != nullptr)
        previous_request_hook();
    RequestAddinShmemSpace(sizeof(SharedState));
    RequestNamedLWLockTranche(tranche_name, 1);
}

void on_startup()
{
    if (previous_startup_hook != nullptr)
        previous_startup_hook();
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    bool found = false;
    state = static_cast<SharedState *>(ShmemInitStruct("presence", sizeof(SharedState), &found));
    if (!found) {
        state->list_lock = &GetNamedLWLockTranche(tranche_name)->lock;
        state->first = InvalidDsaPointer;
        pg_atomic_init_u64(&state->floor_wall, 0);
        pg_atomic_init_u64(&state->floor_ms, 0);
        state->launcher.initialize();
        dsa_area *made = dsa_create_in_place(state->area, area_bytes, state->list_lock->tranche, nullptr);
        dsa_pin(made);
        dsa_detach(made);
    }
    LWLockRelease(AddinShmemInitLock);
}

void attach()
{
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    area = dsa_attach_in_place(state->area, nullptr);
    dsa_pin_mapping(area);
    on_shmem_exit(dsa_on_shmem_exit_release_in_place, PointerGetDatum(state->area));
    MemoryContextSwitchTo(caller);
}

SharedDatabase *at(dsa_pointer pointer) { return static_cast<SharedDatabase *>(dsa_get_address(area, pointer)); }

SharedDatabase *find(Oid database)
{
    for (dsa_pointer p = state->first; DsaPointerIsValid(p); p = at(p)->next)
        if (at(p)->database == database)
            return at(p);
    return nullptr;
}

dsa_pointer make(Oid database)
{
    const dsa_pointer pointer = try_allocate(sizeof(SharedDatabase), DSA_ALLOC_ZERO);
    if (!DsaPointerIsValid(pointer))
        return pointer;
    SharedDatabase *added = at(pointer);
    added->database = database;
    added->worker.initialize();
    pg_atomic_init_u32(&added->held_expiry.state, 0);
    pg_atomic_init_u64(&added->held_expiry.since_ms, 0);
    pg_atomic_init_u64(&added->held_expiry.floor_ms, 0);
    pg_atomic_init_u64(&added->held_expiry.silent, 0);
    initialize_metrics(added->metrics);
    initialize_user_count(added->users);
    pg_atomic_init_u64(&added->early_misses, 0);
    for (SharedShard &shard : added->shards) {
        LWLockInitialize(&shard.lock.lock, state->list_lock->tranche);
        shard.block = InvalidDsaPointer;
        shard.tombstones = InvalidDsaPointer;
    }
    pg_atomic_init_u64(&added->typing.due_ms, PG_UINT64_MAX);
    for (SharedTypingShard &shard : added->typing.shards) {
        LWLockInitialize(&shard.lock.lock, state->list_lock->tranche);
        shard.block = InvalidDsaPointer;
    }
    return pointer;
}

}  // namespace

bool shared_memory_exists() { return state != nullptr; }

void request_shared_memory()
{
    previous_request_hook = shmem_request_hook;
    shmem_request_hook = on_request;
    previous_startup_hook = shmem_startup_hook;
    shmem_startup_hook = on_startup;
}

dsa_area *shared_area()
{
    if (unlikely(area == nullptr))
        attach();
    return area;
}

LauncherControl *launcher_control() { return state != nullptr ? &state->launcher : nullptr; }

dsa_pointer try_allocate(std::size_t bytes, int flags)
{
    volatile dsa_pointer block = InvalidDsaPointer;
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        block = dsa_allocate_extended(shared_area(), bytes, flags | DSA_ALLOC_NO_OOM);
        ReleaseCurrentSubTransaction();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    return block;
}

SharedDatabase *shared_database(Oid database, bool create)
{
    if (state == nullptr)
        return nullptr;
    shared_area();
    LWLockAcquire(state->list_lock, LW_SHARED);
    SharedDatabase *found = find(database);
    LWLockRelease(state->list_lock);
    if (found != nullptr || !create)
        return found;
    const dsa_pointer made = make(database);
    if (!DsaPointerIsValid(made))
        return nullptr;
    PRESENCE_POINT("state-made");
    LWLockAcquire(state->list_lock, LW_EXCLUSIVE);
    found = find(database);
    if (found == nullptr) {
        found = at(made);
        found->next = state->first;
        state->first = made;
    }
    LWLockRelease(state->list_lock);
    if (found != at(made))
        dsa_free(area, made);
    return found;
}

SharedDatabase *my_database(bool create)
{
    // A parallel query can't make it, and needs none that is empty.
    if (unlikely(mine == nullptr) && state != nullptr)
        mine = shared_database(MyDatabaseId, create && !IsInParallelMode());
    return mine;
}

SharedDatabase *my_known_database() { return mine; }

SharedDatabase *pause_worker(Oid database)
{
    if (state == nullptr)
        return nullptr;
    shared_area();
    LWLockAcquire(state->list_lock, LW_SHARED);
    SharedDatabase *found = find(database);
    if (found != nullptr)
        found->worker.pause();
    LWLockRelease(state->list_lock);
    return found;
}

std::span<SharedDatabase *> known_databases()
{
    if (state == nullptr)
        return {};
    shared_area();
    for (std::size_t room = 16;; room *= 2) {
        auto **found = static_cast<SharedDatabase **>(palloc(sizeof(SharedDatabase *) * room));
        std::size_t count = 0;
        LWLockAcquire(state->list_lock, LW_SHARED);
        for (dsa_pointer p = state->first; DsaPointerIsValid(p); p = at(p)->next, ++count)
            if (count < room)
                found[count] = at(p);
        LWLockRelease(state->list_lock);
        if (count <= room)
            return {found, count};
        pfree(found);
    }
}

bool free_dropped_database(SharedDatabase *gone)
{
    LWLockAcquire(state->list_lock, LW_EXCLUSIVE);
    dsa_pointer *link = &state->first;
    while (at(*link) != gone)
        link = &at(*link)->next;
    const dsa_pointer pointer = *link;
    const bool paused = gone->worker.is_paused();
    if (!paused)
        *link = gone->next;
    LWLockRelease(state->list_lock);
    if (paused)
        return false;
    PRESENCE_POINT("state-unlinked");
    for (const SharedShard &shard : gone->shards)
        for (const dsa_pointer block : {shard.block, shard.tombstones})
            if (DsaPointerIsValid(block))
                dsa_free(area, block);
    for (const SharedTypingShard &shard : gone->typing.shards)
        if (DsaPointerIsValid(shard.block))
            dsa_free(area, shard.block);
    dsa_free(area, pointer);
    return true;
}

const HashKey &server_secret()
{
    static HashKey secret;
    static bool known = false;
    if (unlikely(!known)) {
        // The server's own secret, which never leaves it, seeds ours.
        HashKey seed;
        memcpy(&seed, GetMockAuthenticationNonce(), sizeof seed);
        SipHash13 hash(seed, SipHash13::Output::bits128);
        hash.add("presence");
        const SessionKey derived = hash.finish128();
        secret = {derived.lo, derived.hi};
        known = true;
    }
    return secret;
}

std::uint64_t monotonic_ms()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return HeartbeatShard::clock_base_ms + static_cast<std::uint64_t>(now.tv_sec) * 1000 +
           static_cast<std::uint64_t>(now.tv_nsec) / 1000000;
}

namespace {

// Where nothing is shared, the postmaster's own file says when it began to accept: it is written anew at that moment.
Time accepting_since()
{
    static Time known = 0;
    if (known != 0 || RecoveryInProgress())
        return known != 0 ? known : PgStartTime;
    FILE *file = AllocateFile("postmaster.pid", "r");
    if (file == nullptr)
        return PgStartTime;
    char line[MAXPGPATH] = "";
    int lines = 0;
    while (lines < LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof line, file) != nullptr)
        ++lines;
    struct stat about;
    const bool failed = fstat(fileno(file), &about) != 0;
    (void)FreeFile(file);
    if (failed || lines < LOCK_FILE_LINE_PM_STATUS)  // no postmaster
        return PgStartTime;
    if (strncmp(line, PM_STATUS_READY, strlen(PM_STATUS_READY)) != 0)
        return GetCurrentTimestamp();  // it is about to be written
    known = std::max<Time>(PgStartTime, time_t_to_timestamptz(about.st_mtim.tv_sec) + about.st_mtim.tv_nsec / 1000);
    return known;
}

Floor start_of_heartbeats()
{
    if (state == nullptr)
        return {accepting_since(), 0};
    std::uint64_t ms = pg_atomic_read_u64(&state->floor_ms);
    if (unlikely(ms == 0) && !RecoveryInProgress()) {
        // The launcher comes here as soon as the server accepts; whoever else is first does as well.
        pg_atomic_write_u64(&state->floor_wall, static_cast<std::uint64_t>(GetCurrentTimestamp()));
        std::uint64_t unset = 0;
        ms = monotonic_ms();
        if (!pg_atomic_compare_exchange_u64(&state->floor_ms, &unset, ms))
            ms = unset;
    }
    return {static_cast<TimestampTz>(pg_atomic_read_u64(&state->floor_wall)), ms};
}

// 0: no ends are held, or this process belongs to no database.
std::uint64_t held_floor_ms()
{
    SharedDatabase *database = OidIsValid(MyDatabaseId) ? my_database() : nullptr;
    return database != nullptr ? pg_atomic_read_u64(&database->held_expiry.floor_ms) : 0;
}

}  // namespace

Floor heartbeat_floor()
{
    const Floor start = start_of_heartbeats();
    const std::uint64_t held = held_floor_ms();
    if (likely(held <= start.monotonic_ms))
        return start;
    const auto age = static_cast<std::int64_t>(monotonic_ms() - held);
    return {GetCurrentTimestamp() - age * 1000, held};
}

Timeouts timeouts_without_guard()
{
    return {static_cast<std::uint64_t>(timeout_ms),
            static_cast<std::uint64_t>(max_timeout_ms),
            start_of_heartbeats().monotonic_ms,
            {static_cast<std::uint64_t>(idle_after_ms), static_cast<std::uint64_t>(away_after_ms)}};
}

Timeouts current_timeouts()
{
    Timeouts timeouts = timeouts_without_guard();
    timeouts.floor_ms = std::max(timeouts.floor_ms, held_floor_ms());
    return timeouts;
}

}  // namespace presence
