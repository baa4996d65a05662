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
    return DsaPointerIsValid(shard.block) ? static_cast<HeartbeatShard *>(dsa_get_address(shared_area(), shard.block)) : nullptr;
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
           (given.interval_ms == 0 || beat_word::interval_ms(beat_word::pack(0, given.interval_ms, SlotState::open)) == beats.interval_ms(at)) &&
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
        pg_atomic_write_u32(&database.cache_full, 1);
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
    pg_atomic_write_u32(&database.cache_full, 0);
    return true;
}

SessionKey key_of(Oid table, std::string_view user, std::string_view session) { return session_key(server_secret(), table, user, session); }

// Positions of keys in the order of their shards: of shard s those from begin[s] up to begin[s + 1].
std::uint32_t *by_shard(std::span<const SessionKey> keys, std::uint32_t (&begin)[shard_count + 1])
{
    auto *order = static_cast<std::uint32_t *>(palloc_extended(sizeof(std::uint32_t) * keys.size(), MCXT_ALLOC_HUGE));
    std::fill_n(begin, shard_count + 1, 0);
    for (const SessionKey &key : keys)
        ++begin[shard_number(key) + 1];
    for (unsigned s = 0; s < shard_count; ++s)
        begin[s + 1] += begin[s];
    std::uint32_t next[shard_count];
    std::copy_n(begin, shard_count, next);
    for (std::size_t i = 0; i < keys.size(); ++i)
        order[next[shard_number(keys[i])]++] = static_cast<std::uint32_t>(i);
    return order;
}

// Batches hold a shard's lock for so many at a time, and ask for their memory ahead of its use.
constexpr std::uint32_t batch_step = 64;

void find_ahead(const HeartbeatShard &beats, const SessionKey *keys, std::span<const std::uint32_t> order, std::uint32_t *slots)
{
    for (const std::uint32_t i : order)
        beats.prefetch_find(keys[i]);
    for (const std::uint32_t i : order) {
        *slots = beats.find(keys[i]);
        if (*slots != HeartbeatShard::no_slot)
            beats.prefetch_slot(*slots);
        ++slots;
    }
}

} // namespace

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
        taken = at != HeartbeatShard::no_slot && agrees(*held.beats, at, given) && held.beats->touch(at, now, wall, timeouts);
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

int cache_touch_many(Oid session_table, std::span<const SessionName> sessions, bool *heard)
{
    const std::size_t count = sessions.size();
    std::fill_n(heard, count, false);
    SharedDatabase *database = my_database();
    if (database == nullptr || count == 0)
        return 0;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    const Time wall = GetCurrentTimestamp();

    // In the order of shards, so that each is locked once, and its memory is asked for ahead of its use.
    auto *keys = static_cast<SessionKey *>(palloc_extended(sizeof(SessionKey) * count, MCXT_ALLOC_HUGE));
    for (std::size_t i = 0; i < count; ++i)
        keys[i] = key_of(session_table, sessions[i].user, sessions[i].session);
    std::uint32_t begin[shard_count + 1];
    std::uint32_t *order = by_shard({keys, count}, begin);

    int taken = 0;
    for (unsigned s = 0; s < shard_count; ++s) {
        for (std::uint32_t from = begin[s]; from < begin[s + 1]; from += batch_step) {
            const std::uint32_t to = std::min(from + batch_step, begin[s + 1]);
            std::uint32_t slots[batch_step];
            int taken_here = 0;
            Locked held(database->shards[s], LW_SHARED);
            if (held.beats != nullptr) {
                find_ahead(*held.beats, keys, {order + from, to - from}, slots);
                for (std::uint32_t i = from; i < to; ++i)
                    if (slots[i - from] != HeartbeatShard::no_slot && held.beats->touch(slots[i - from], now, wall, timeouts))
                        heard[order[i]] = true, ++taken_here;
                held.beats->count_hits(static_cast<std::uint64_t>(taken_here));
                held.beats->count_misses(to - from - static_cast<std::uint64_t>(taken_here));
            } else {
                pg_atomic_fetch_add_u64(&database->early_misses, to - from);
            }
            held.unlock();
            taken += taken_here;
        }
    }
    pfree(keys);
    pfree(order);
    return taken;
}

namespace {

// What is known without the cache.
Life recorded_life(Time floor, Time heartbeat_at, Time interval)
{
    return {heartbeat_at, std::max(heartbeat_at, floor) + patience(ms_to_time(timeout_ms), ms_to_time(max_timeout_ms), interval)};
}

// What the cache knows better, by the monotonic clock, whatever was done to the other one meanwhile.
// The promised interval is the row's: a change of it that was rolled back may have left another one here.
void add_cached(Life &life, Time promised_interval, const HeartbeatShard &beats, std::uint32_t at, const Timeouts &timeouts, Time wall, std::uint64_t now)
{
    life.heartbeat_at = std::max(life.heartbeat_at, beats.wall_us(at));
    const std::uint64_t word = beat_word::pack(beats.beat_ms(at), time_to_ms(promised_interval), SlotState::open);
    // To the end of that millisecond, so that nobody is called stale whom the search for stale sessions does not find yet.
    life.stale_after = wall + (static_cast<std::int64_t>(beat_word::deadline(word, timeouts)) - static_cast<std::int64_t>(now)) * 1000 + 999;
}

} // namespace

Life session_life(Oid session_table, std::string_view user, std::string_view session, Time recorded_heartbeat, Time promised_interval)
{
    const RecordedLife recorded{{user, session}, recorded_heartbeat, promised_interval};
    Life life;
    session_lives(session_table, {&recorded, 1}, &life);
    return life;
}

void session_lives(Oid session_table, std::span<const RecordedLife> sessions, Life *lives)
{
    const std::size_t count = sessions.size();
    if (RecoveryInProgress()) {
        for (std::size_t i = 0; i < count; ++i)
            lives[i] = {sessions[i].heartbeat_at, PG_INT64_MAX};
        return;
    }
    const Time floor = heartbeat_floor().wall;
    for (std::size_t i = 0; i < count; ++i)
        lives[i] = recorded_life(floor, sessions[i].heartbeat_at, sessions[i].interval);
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
                add_cached(lives[0], sessions[0].interval, *held.beats, at, timeouts, GetCurrentTimestamp(), monotonic_ms());
        }
        held.unlock();
        return;
    }

    auto *keys = static_cast<SessionKey *>(palloc_extended(sizeof(SessionKey) * count, MCXT_ALLOC_HUGE));
    for (std::size_t i = 0; i < count; ++i)
        keys[i] = key_of(session_table, sessions[i].name.user, sessions[i].name.session);
    std::uint32_t begin[shard_count + 1];
    std::uint32_t *order = by_shard({keys, count}, begin);
    const Time wall = GetCurrentTimestamp();
    const std::uint64_t now = monotonic_ms();
    for (unsigned s = 0; s < shard_count; ++s) {
        for (std::uint32_t from = begin[s]; from < begin[s + 1]; from += batch_step) {
            const std::uint32_t to = std::min(from + batch_step, begin[s + 1]);
            std::uint32_t slots[batch_step];
            Locked held(database->shards[s], LW_SHARED);
            if (held.beats != nullptr) {
                find_ahead(*held.beats, keys, {order + from, to - from}, slots);
                for (std::uint32_t i = from; i < to; ++i)
                    if (slots[i - from] != HeartbeatShard::no_slot)
                        add_cached(lives[order[i]], sessions[order[i]].interval, *held.beats, slots[i - from], timeouts, wall, now);
            }
            held.unlock();
        }
    }
    pfree(keys);
    pfree(order);
}

bool cache_put(Oid session_table, std::string_view user, std::string_view session, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at, bool open)
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
    SharedShard &shard = shard_of(*database, entry.key);
    for (;;) {
        Locked held(shard, LW_EXCLUSIVE);
        bool done = false;
        if (held.beats != nullptr) {
            // Until this transaction has committed, the old interval may still be the true one: the search for stale
            // sessions goes by the shorter, and what it finds is judged by the row.
            const std::uint32_t at = held.beats->find(entry.key);
            if (!open && at != HeartbeatShard::no_slot)
                entry.interval_ms = std::min(details.interval_ms, held.beats->interval_ms(at));
            done = held.beats->insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
        }
        held.unlock();
        if (done || !grow(*database, shard))
            return done;
    }
}

void cache_correct_interval(Oid session_table, std::string_view user, std::string_view session, std::uint64_t interval_ms)
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
    SharedShard &shard = shard_of(database, entry.key);
    for (;;) {
        Locked held(shard, LW_EXCLUSIVE);
        bool done = false;
        if (held.beats != nullptr) {
            const std::uint32_t at = held.beats->find(entry.key);
            if (at != HeartbeatShard::no_slot) {
                held.beats->hear(at, entry.beat_ms, entry.wall_us);
                done = true;
            } else {
                done = held.beats->insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
            }
        }
        held.unlock();
        if (done || !grow(database, shard))
            return done;
    }
}

bool cache_watch(Oid session_table, std::string_view user, std::string_view session, std::uint64_t row_id, std::uint64_t interval_ms, Time heartbeat_at)
{
    const std::uint64_t now = monotonic_ms();
    const std::uint64_t age = static_cast<std::uint64_t>(std::max<Time>(0, GetCurrentTimestamp() - heartbeat_at)) / 1000;
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
        const std::uint32_t capacity = seen.beats != nullptr && seen.beats->should_shrink() ? seen.beats->shrunk_capacity() : 0;
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
    pg_atomic_write_u32(&database->watch_all, 1);
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
            sum.entries += held.beats->count();
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

} // namespace presence
