#include "cache.h"

#include <algorithm>

#include "settings.h"

namespace presence {

namespace {

constexpr std::uint32_t first_capacity = 64;

unsigned shard_number(const SessionKey &key) { return (key.hi >> 32) % shard_count; }
SharedShard &shard_of(SharedDatabase &database, const SessionKey &key) { return database.shards[shard_number(key)]; }

// With the shard's lock held.
HeartbeatShard *opened(const SharedShard &shard)
{
    return DsaPointerIsValid(shard.block) ? static_cast<HeartbeatShard *>(dsa_get_address(shared_area(), shard.block))
                                          : nullptr;
}

class Locked {
public:
    Locked(SharedShard &shard, LWLockMode mode) : shard_(shard)
    {
        LWLockAcquire(&shard.lock.lock, mode);
        beats = opened(shard);
    }
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;
    void unlock() { LWLockRelease(&shard_.lock.lock); }

    HeartbeatShard *beats;

private:
    SharedShard &shard_;
};

bool agrees(const HeartbeatShard &beats, std::uint32_t at, const SessionDetails &given)
{
    const HeartbeatShard::Slot &known = beats.slot(at);
    const Fingerprints &said = given.fingerprints;
    return (said.user_agent == 0 || said.user_agent == known.fingerprints.user_agent) &&
           (said.ip_address == 0 || said.ip_address == known.fingerprints.ip_address) &&
           (said.metadata == 0 || said.metadata == known.fingerprints.metadata) &&
           (given.interval_ms == 0 ||
            beat_word::interval_ms(beat_word::pack(0, given.interval_ms, SlotState::open)) == beats.interval_ms(at)) &&
           (!given.has_status || static_cast<std::uint8_t>(given.status) == known.status());
}

// Memory without an error: where there is none, the table does the work. Raises nothing, whatever the server's memory does.
dsa_pointer allocate(std::size_t bytes)
{
    volatile dsa_pointer block = InvalidDsaPointer;
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        block = dsa_allocate_extended(shared_area(), bytes, DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
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

// Makes room for more sessions. False: there is no memory, or no more is possible.
bool grow(SharedDatabase &database, SharedShard &shard)
{
    Locked now(shard, LW_SHARED);
    const std::uint32_t capacity = now.beats == nullptr ? 0 : now.beats->capacity();
    now.unlock();

    const std::uint32_t wanted = capacity == 0 ? first_capacity : HeartbeatShard::grown_capacity(capacity);
    if (wanted <= capacity)
        return false;
    dsa_pointer block = allocate(HeartbeatShard::bytes_for(wanted));
    if (!DsaPointerIsValid(block)) {
        database.worker.set_cache_full(true);
        return false;
    }
    void *address = dsa_get_address(shared_area(), block);
    Locked held(shard, LW_EXCLUSIVE);
    // Somebody else may have been quicker.
    const bool still_wanted = (held.beats == nullptr ? 0 : held.beats->capacity()) == capacity;
    if (still_wanted) {
        if (held.beats == nullptr)
            HeartbeatShard::create(address, wanted);
        else
            held.beats->rebuild_into(address, wanted);
        std::swap(shard.block, block);
    }
    held.unlock();
    if (DsaPointerIsValid(block))
        dsa_free(shared_area(), block);
    database.worker.set_cache_full(false);
    return true;
}

// write() with the shard locked, where there is one: false for lack of room, which is then made. False: there is no memory.
template <typename Write>
bool write_with_room(SharedDatabase &database, SharedShard &shard, Write write)
{
    for (;;) {
        Locked held(shard, LW_EXCLUSIVE);
        const bool done = held.beats != nullptr && write(*held.beats);
        held.unlock();
        if (done || !grow(database, shard))
            return done;
    }
}

SessionKey key_of(Oid table, std::string_view user, std::string_view session)
{
    return session_key(server_secret(), table, user, session);
}

// Batches hold a shard's lock for so many at a time, and ask for their memory ahead of its use.
constexpr std::uint32_t batch_step = 64;

// Looks many sessions up, in the order of their shards: visit(beats, positions, slots) with the shard locked, for some
// positions at a time; beats is null where the shard has no block yet.
template <typename NameAt, typename Visit>
void find_many(SharedDatabase &database, Oid session_table, std::size_t count, NameAt name_at, Visit visit)
{
    auto *keys = static_cast<SessionKey *>(palloc_extended(sizeof(SessionKey) * count, MCXT_ALLOC_HUGE));
    auto *order = static_cast<std::uint32_t *>(palloc_extended(sizeof(std::uint32_t) * count, MCXT_ALLOC_HUGE));
    std::uint32_t begin[shard_count + 1] = {};
    for (std::size_t i = 0; i < count; ++i) {
        const SessionName name = name_at(i);
        keys[i] = key_of(session_table, name.user, name.session);
        ++begin[shard_number(keys[i]) + 1];
    }
    for (unsigned s = 0; s < shard_count; ++s)
        begin[s + 1] += begin[s];
    std::uint32_t next[shard_count];
    std::copy_n(begin, shard_count, next);
    for (std::size_t i = 0; i < count; ++i)
        order[next[shard_number(keys[i])]++] = static_cast<std::uint32_t>(i);

    for (unsigned s = 0; s < shard_count; ++s) {
        for (std::uint32_t from = begin[s]; from < begin[s + 1]; from += batch_step) {
            const std::span<const std::uint32_t> positions(order + from, std::min(batch_step, begin[s + 1] - from));
            std::uint32_t slots[batch_step];
            Locked held(database.shards[s], LW_SHARED);
            if (held.beats != nullptr) {
                for (const std::uint32_t i : positions)
                    held.beats->prefetch_find(keys[i]);
                for (std::size_t i = 0; i < positions.size(); ++i) {
                    slots[i] = held.beats->find(keys[positions[i]]);
                    if (slots[i] != HeartbeatShard::no_slot)
                        held.beats->prefetch_slot(slots[i]);
                }
            }
            visit(held.beats, positions, slots);
            held.unlock();
        }
    }
    pfree(keys);
    pfree(order);
}

}  // namespace

std::uint64_t detail_fingerprint(std::string_view bytes) { return fingerprint(server_secret(), bytes); }

bool cache_touch(Oid session_table, std::string_view user, std::string_view session, const SessionDetails &given)
{
    SharedDatabase *database = my_database();
    if (unlikely(database == nullptr))
        return false;
    const SessionKey key = key_of(session_table, user, session);
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    const Time wall = GetCurrentTimestamp();
    bool taken = false;

    Locked held(shard_of(*database, key), LW_SHARED);
    if (likely(held.beats != nullptr)) {
        const std::uint32_t at = held.beats->find(key);
        taken = at != HeartbeatShard::no_slot && agrees(*held.beats, at, given) &&
                held.beats->touch(at, now, wall, timeouts);
        if (taken)
            held.beats->count_hits();
        else
            held.beats->count_misses();
    } else {
        pg_atomic_fetch_add_u64(&database->early_misses, 1);
    }
    held.unlock();
    return taken;
}

int cache_touch_many(Oid session_table, std::span<const SessionName> sessions, bool *taken)
{
    const std::size_t count = sessions.size();
    std::fill_n(taken, count, false);
    SharedDatabase *database = my_database();
    if (database == nullptr || count == 0)
        return 0;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    const Time wall = GetCurrentTimestamp();

    int taken_count = 0;
    const auto touch = [&](HeartbeatShard *beats, std::span<const std::uint32_t> positions,
                           const std::uint32_t *slots) {
        if (beats == nullptr) {
            pg_atomic_fetch_add_u64(&database->early_misses, static_cast<int64>(positions.size()));
            return;
        }
        std::size_t taken_here = 0;
        for (std::size_t i = 0; i < positions.size(); ++i)
            if (slots[i] != HeartbeatShard::no_slot && beats->touch(slots[i], now, wall, timeouts))
                taken[positions[i]] = true, ++taken_here;
        beats->count_hits(taken_here);
        beats->count_misses(positions.size() - taken_here);
        taken_count += static_cast<int>(taken_here);
    };
    find_many(
        *database, session_table, count, [sessions](std::size_t i) { return sessions[i]; }, touch);
    return taken_count;
}

namespace {

// What is known without the cache.
EffectiveTimes recorded_times(Time floor, Time heartbeat_at, Time interval)
{
    return {heartbeat_at, deadline(heartbeat_at, floor, effective_timeout(interval))};
}

// What the cache knows better, by the monotonic clock, whatever was done to the other one meanwhile.
// The promised interval is the row's: a change of it that was rolled back may have left another one here.
void add_cached(EffectiveTimes &times, Time promised_interval, const HeartbeatShard &beats, std::uint32_t at,
                const Timeouts &timeouts, Time wall, std::uint64_t now)
{
    times.heartbeat_at = std::max(times.heartbeat_at, beats.wall_us(at));
    const std::uint64_t word = beat_word::pack(beats.beat_ms(at), time_to_ms(promised_interval), SlotState::open);
    // To the end of that millisecond, so that nobody is called stale whom the search for stale sessions does not find yet.
    times.stale_after =
        wall +
        (static_cast<std::int64_t>(beat_word::deadline(word, timeouts)) - static_cast<std::int64_t>(now)) * 1000 + 999;
}

}  // namespace

EffectiveTimes effective_times(Oid session_table, std::string_view user, std::string_view session,
                               Time recorded_heartbeat, Time promised_interval)
{
    const RecordedSession recorded{{user, session}, recorded_heartbeat, promised_interval};
    EffectiveTimes times;
    effective_times(session_table, {&recorded, 1}, &times);
    return times;
}

void effective_times(Oid session_table, std::span<const RecordedSession> sessions, EffectiveTimes *times)
{
    const std::size_t count = sessions.size();
    if (RecoveryInProgress()) {
        for (std::size_t i = 0; i < count; ++i)
            times[i] = {sessions[i].heartbeat_at, never};
        return;
    }
    const Time floor = heartbeat_floor().wall;
    for (std::size_t i = 0; i < count; ++i)
        times[i] = recorded_times(floor, sessions[i].heartbeat_at, sessions[i].interval);
    SharedDatabase *database = my_database();
    if (database == nullptr || count == 0)
        return;
    const Timeouts timeouts = current_timeouts();
    if (count == 1) {
        const SessionKey key = key_of(session_table, sessions[0].name.user, sessions[0].name.session);
        Locked held(shard_of(*database, key), LW_SHARED);
        if (held.beats != nullptr) {
            const std::uint32_t at = held.beats->find(key);
            if (at != HeartbeatShard::no_slot)
                add_cached(times[0], sessions[0].interval, *held.beats, at, timeouts, GetCurrentTimestamp(),
                           monotonic_ms());
        }
        held.unlock();
        return;
    }

    const Time wall = GetCurrentTimestamp();
    const std::uint64_t now = monotonic_ms();
    const auto add = [&](const HeartbeatShard *beats, std::span<const std::uint32_t> positions,
                         const std::uint32_t *slots) {
        for (std::size_t i = 0; beats != nullptr && i < positions.size(); ++i)
            if (slots[i] != HeartbeatShard::no_slot)
                add_cached(times[positions[i]], sessions[positions[i]].interval, *beats, slots[i], timeouts, wall, now);
    };
    find_many(
        *database, session_table, count, [sessions](std::size_t i) { return sessions[i].name; }, add);
}

bool cache_put(Oid session_table, std::string_view user, std::string_view session, std::uint64_t row_id,
               const SessionDetails &details, Time heartbeat_at, bool open)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return false;
    SessionEntry entry;
    entry.key = key_of(session_table, user, session);
    entry.row_id = row_id;
    entry.beat_ms = monotonic_ms();
    entry.wall_us = heartbeat_at;
    entry.interval_ms = details.interval_ms;
    entry.fingerprints = details.fingerprints;
    entry.state = open ? SlotState::open : SlotState::closed;
    entry.status = static_cast<std::uint8_t>(details.status);
    const Timeouts timeouts = current_timeouts();
    return write_with_room(*database, shard_of(*database, entry.key), [&](HeartbeatShard &beats) {
        // Until this transaction has committed, the old interval may still be the true one: the search for stale
        // sessions goes by the shorter, and what it finds is judged by the row.
        const std::uint32_t at = beats.find(entry.key);
        if (!open && at != HeartbeatShard::no_slot)
            entry.interval_ms = std::min(details.interval_ms, beats.interval_ms(at));
        return beats.insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
    });
}

void cache_correct_interval(Oid session_table, std::string_view user, std::string_view session,
                            std::uint64_t interval_ms)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    const SessionKey key = key_of(session_table, user, session);
    const Timeouts timeouts = current_timeouts();
    Locked held(shard_of(*database, key), LW_EXCLUSIVE);
    if (held.beats != nullptr) {
        const std::uint32_t at = held.beats->find(key);
        if (at != HeartbeatShard::no_slot && held.beats->state(at) == SlotState::closed) {
            SessionEntry entry = held.beats->entry(at);
            entry.interval_ms = interval_ms;
            (void)held.beats->insert_or_update(entry, timeouts);
        }
    }
    held.unlock();
}

bool cache_restore(SharedDatabase &database, const SessionEntry &entry)
{
    const Timeouts timeouts = current_timeouts();
    return write_with_room(database, shard_of(database, entry.key), [&](HeartbeatShard &beats) {
        const std::uint32_t at = beats.find(entry.key);
        if (at == HeartbeatShard::no_slot)
            return beats.insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
        beats.advance(at, entry.beat_ms, entry.wall_us);
        return true;
    });
}

bool cache_watch(Oid session_table, std::string_view user, std::string_view session, std::uint64_t row_id,
                 std::uint64_t interval_ms, Time heartbeat_at)
{
    const std::uint64_t now = monotonic_ms();
    const std::uint64_t age =
        static_cast<std::uint64_t>(std::max<Time>(0, GetCurrentTimestamp() - heartbeat_at)) / 1000;
    SessionEntry entry{};
    entry.key = key_of(session_table, user, session);
    entry.row_id = row_id;
    entry.beat_ms = now > age ? now - age : 1;
    entry.wall_us = heartbeat_at;
    entry.interval_ms = interval_ms;
    entry.state = SlotState::closed;
    return cache_restore(*my_database(), entry);
}

SessionEntry *cache_copy(SharedShard &shard, std::uint32_t &count)
{
    std::uint32_t room = 0;
    SessionEntry *entries = nullptr;
    for (;;) {
        Locked held(shard, LW_SHARED);
        const std::uint32_t wanted = held.beats == nullptr ? 0 : held.beats->count();
        if (wanted <= room) {
            count = 0;
            for (std::uint32_t at = 0; count < wanted; ++at)
                if (held.beats->state(at) != SlotState::free)
                    entries[count++] = held.beats->entry(at);
            held.unlock();
            return entries;
        }
        held.unlock();
        if (entries != nullptr)
            pfree(entries);
        room = wanted + wanted / 16 + 16;
        entries = static_cast<SessionEntry *>(palloc_extended(sizeof(SessionEntry) * room, MCXT_ALLOC_HUGE));
    }
}

void cache_shrink()
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    for (SharedShard &shard : database->shards) {
        Locked seen(shard, LW_SHARED);
        const std::uint32_t capacity =
            seen.beats != nullptr && seen.beats->should_shrink() ? seen.beats->shrunk_capacity() : 0;
        seen.unlock();
        dsa_pointer block = capacity != 0 ? allocate(HeartbeatShard::bytes_for(capacity)) : InvalidDsaPointer;
        if (!DsaPointerIsValid(block))
            continue;
        void *address = dsa_get_address(shared_area(), block);
        Locked held(shard, LW_EXCLUSIVE);
        // More may have come meanwhile.
        if (held.beats->should_shrink() && held.beats->rebuild_into(address, capacity) != nullptr)
            std::swap(shard.block, block);
        held.unlock();
        dsa_free(shared_area(), block);
    }
}

void cache_close(Oid session_table, std::string_view user, std::string_view session)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    const SessionKey key = key_of(session_table, user, session);
    Locked held(shard_of(*database, key), LW_EXCLUSIVE);
    if (held.beats != nullptr) {
        const std::uint32_t at = held.beats->find(key);
        if (at != HeartbeatShard::no_slot)
            held.beats->close(at);
    }
    held.unlock();
}

void cache_clear()
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    for (SharedShard &shard : database->shards) {
        Locked held(shard, LW_EXCLUSIVE);
        if (held.beats != nullptr)
            held.beats->clear();
        held.unlock();
    }
    // Should the extension stay after all, its sessions must not be forgotten.
    database->worker.request_cache_fill();
}

CacheNumbers cache_numbers()
{
    CacheNumbers sum{};
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return sum;
    sum.misses = static_cast<std::int64_t>(pg_atomic_read_u64(&database->early_misses));
    for (SharedShard &shard : database->shards) {
        Locked held(shard, LW_SHARED);
        if (held.beats != nullptr) {
            for (std::uint32_t at = 0; at < held.beats->slots_used(); ++at)
                sum.sessions += held.beats->state(at) == SlotState::open;
            sum.hits += static_cast<std::int64_t>(held.beats->hits());
            sum.misses += static_cast<std::int64_t>(held.beats->misses());
            sum.bytes += static_cast<std::int64_t>(HeartbeatShard::bytes_for(held.beats->capacity()));
        }
        held.unlock();
    }
    return sum;
}

std::uint64_t cache_next_deadline()
{
    std::uint64_t earliest = HeartbeatShard::no_deadline;
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return earliest;
    const Timeouts timeouts = current_timeouts();
    for (SharedShard &shard : database->shards) {
        Locked held(shard, LW_SHARED);
        if (held.beats != nullptr)
            earliest = std::min(earliest, held.beats->earliest_deadline(timeouts));
        held.unlock();
    }
    return earliest;
}

std::size_t cache_collect_stale(std::span<ExpiredSession> found)
{
    std::size_t count = 0;
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return 0;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    for (SharedShard &shard : database->shards) {
        if (count == found.size())
            break;
        Locked held(shard, LW_SHARED);
        if (held.beats != nullptr && held.beats->scan_due(now, timeouts))
            count += held.beats->collect_expired(now, timeouts, found.subspan(count)).found;
        held.unlock();
    }
    return count;
}

Datum row_ids(std::span<const ExpiredSession> sessions)
{
    auto *ids = static_cast<Datum *>(palloc(sizeof(Datum) * (sessions.size() + 1)));
    for (std::size_t i = 0; i < sessions.size(); ++i)
        ids[i] = Int64GetDatum(static_cast<int64>(sessions[i].row_id));
    return int8_array(ids, sessions.size());
}

bool cache_any_stale()
{
    ExpiredSession one;
    return cache_collect_stale({&one, 1}) > 0;
}

void cache_forget_stale(const SessionKey &key)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    Locked held(shard_of(*database, key), LW_EXCLUSIVE);
    if (held.beats != nullptr)
        (void)held.beats->erase_if_still_stale(key, monotonic_ms(), current_timeouts());
    held.unlock();
}

}  // namespace presence
