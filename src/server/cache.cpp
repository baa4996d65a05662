// The heartbeat cache of this database: its locks.
//
// A session's key picks one of the database's shards. A shard is a block of dynamic shared memory (core/heartbeat_shard.h
// says what is in it) and an LWLock. The lock protects the pointer to the block as well as the block.
//
// SHARED      Heartbeats, lookups and searches. They change times, counters and the bound by atomic operations alone, so
//             any number of them run side by side: no heartbeat waits for another.
// EXCLUSIVE   What lets a session in or out, opens or closes it, or puts another block in the place of the old one.
//
// with_shard() alone takes these locks. What runs under one of them
//
// - is short: a few instructions, one step of a batch (batch_step), or one pass over a shard's words;
// - takes no other lock, so that shards need no order among themselves. A lock on a user's row is always taken before, never
//   under a shard's lock;
// - allocates nothing and raises nothing. Memory for a larger or smaller block is fetched before the lock is taken, and what
//   made it seem necessary is checked again under the lock, for somebody else may have been quicker; whichever block is not
//   needed is freed after. dsa_get_address() alone can raise an error, in a backend that has not mapped that segment yet:
//   nothing has been changed by then, and the abort of the transaction releases the lock.
//
// A block's address and a slot's number are good for as long as the lock is held, because any holder of the exclusive lock
// may move the shard. The locks order single operations only. What makes the sequence of operations right, such as "close,
// write the row, commit, open", is the lock on the user's row: see "What keeps the cache honest" in docs/design.md.
#include "cache.h"

#include <algorithm>
#include <type_traits>

#include "extension.h"
#include "hooks.h"
#include "injection.h"
#include "settings.h"
#include "typing.h"

namespace presence {

namespace {

constexpr std::uint32_t first_capacity = 64;
// Batches hold a shard's lock for so many at a time, and ask for their memory ahead of its use.
constexpr std::uint32_t batch_step = 64;

unsigned shard_number(const SessionKey &key) { return (key.hi >> 32) % shard_count; }
SharedShard &shard_of(SharedDatabase &database, const SessionKey &key) { return database.shards[shard_number(key)]; }

SessionKey key_of(const SessionName &name)
{
    return session_key(server_secret(), session_table(), name.user, name.session);
}

// work(HeartbeatShard *) with the shard locked; null where it has no block yet. What work returns.
template <typename Work>
auto with_shard(SharedShard &shard, LWLockMode mode, Work work)
{
    return with_block<HeartbeatShard>(shard, mode, work);
}

// work(HeartbeatShard &) for each shard of this database that has a block.
template <typename Work>
void with_each_shard(LWLockMode mode, Work work)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    for (SharedShard &shard : database->shards)
        with_shard(shard, mode, [&work](HeartbeatShard *sessions) {
            if (sessions != nullptr)
                work(*sessions);
        });
}

// work(HeartbeatShard &, slot) where the session is known.
template <typename Work>
void with_entry(const SessionName &name, LWLockMode mode, Work work)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    const SessionKey key = key_of(name);
    with_shard(shard_of(*database, key), mode, [&](HeartbeatShard *sessions) {
        const std::uint32_t slot = sessions != nullptr ? sessions->find(key) : HeartbeatShard::no_slot;
        if (slot != HeartbeatShard::no_slot)
            work(*sessions, slot);
    });
}

// Beside the status, in the bits of an entry that are the caller's.
constexpr std::uint8_t hidden_flag = 8;

std::uint8_t status_bits(const SessionDetails &details)
{
    const std::uint8_t code = pair_code(details.status.value_or(Status::active), details.shown);
    return details.hidden ? code | hidden_flag : code;
}

StatusPair statuses_of(const HeartbeatShard &sessions, std::uint32_t slot)
{
    return status_pairs[sessions.slot(slot).status() & ~hidden_flag];
}

// By the monotonic clock; 0 stays 0.
std::uint64_t activity_ms(Time last_activity, Time wall, std::uint64_t now)
{
    if (last_activity == 0)
        return 0;
    const std::uint64_t age = last_activity < wall ? static_cast<std::uint64_t>(wall - last_activity) / 1000 : 0;
    return now > age ? now - age : 1;
}

// Whether the session shows the same after a heartbeat that tells of this activity.
bool keeps_its_status(const HeartbeatShard &sessions, std::uint32_t slot, std::uint64_t active_ms, std::uint64_t now,
                      const Timeouts &timeouts)
{
    const StatusPair statuses = statuses_of(sessions, slot);
    const bool turned = statuses.said != statuses.shown;
    if (likely(!turned && active_ms == 0 && timeouts.inactivity == InactivityLimits<std::uint64_t>{}))
        return true;
    // Whoever searches for those that turn has to hear of one that may.
    const bool tells_first = active_ms != 0 && sessions.active_ms(slot) == 0;
    return !tells_first && !sessions.is_turning(slot, now, timeouts) &&
           !(turned && active_ms != 0 &&
             now - std::min(now, active_ms) < timeouts.inactivity.from(statuses.said, statuses.shown));
}

bool repeats_known_details(const HeartbeatShard &sessions, std::uint32_t slot, const SessionDetails &given)
{
    const HeartbeatShard::Slot &known = sessions.slot(slot);
    const Fingerprints &fingerprints = given.fingerprints;
    return (fingerprints.user_agent == 0 || fingerprints.user_agent == known.fingerprints.user_agent) &&
           (fingerprints.ip_address == 0 || fingerprints.ip_address == known.fingerprints.ip_address) &&
           (fingerprints.metadata == 0 || fingerprints.metadata == known.fingerprints.metadata) &&
           (given.interval_ms == 0 || sessions.interval_ms(slot) < 0 ||
            beat_word::interval_ms(beat_word::pack(0, given.interval_ms, SlotState::open)) ==
                sessions.interval_ms(slot)) &&
           (!given.status || *given.status == statuses_of(sessions, slot).said);
}

// Makes room for more sessions. False: there is no memory, or no more is possible.
bool grow(SharedDatabase &database, SharedShard &shard)
{
    const std::uint32_t capacity = with_shard(shard, LW_SHARED, capacity_of<HeartbeatShard>);
    const std::uint32_t wanted = capacity == 0 ? first_capacity : HeartbeatShard::grown_capacity(capacity);
    if (wanted > capacity && replace_block<HeartbeatShard>(shard, capacity, wanted))
        return true;
    database.worker.note_cache_full();
    note_cache_gap_at_commit();
    return false;
}

// write(HeartbeatShard &), which returns false for lack of room; that is then made. False: there is no memory.
template <typename Write>
bool write_with_room(SharedDatabase &database, const SessionKey &key, Write write)
{
    SharedShard &shard = shard_of(database, key);
    for (;;) {
        const bool done = with_shard(shard, LW_EXCLUSIVE,
                                     [&](HeartbeatShard *sessions) { return sessions != nullptr && write(*sessions); });
        if (done || !grow(database, shard))
            return done;
    }
}

// Looks many sessions up, in the order of their shards: visit(sessions, positions, slots) with the shard locked, for some
// positions at a time; sessions is null where the shard has no block yet.
template <typename NameAt, typename Visit>
void find_many(SharedDatabase &database, std::size_t count, NameAt name_at, Visit visit)
{
    auto *keys = static_cast<SessionKey *>(palloc_extended(sizeof(SessionKey) * count, MCXT_ALLOC_HUGE));
    auto *order = static_cast<std::uint32_t *>(palloc_extended(sizeof(std::uint32_t) * count, MCXT_ALLOC_HUGE));
    std::uint32_t begin[shard_count + 1] = {};
    for (std::size_t i = 0; i < count; ++i) {
        keys[i] = key_of(name_at(i));
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
            with_shard(database.shards[s], LW_SHARED, [&](HeartbeatShard *sessions) {
                std::uint32_t slots[batch_step];
                if (sessions != nullptr) {
                    for (const std::uint32_t i : positions)
                        sessions->prefetch_find(keys[i]);
                    for (std::size_t i = 0; i < positions.size(); ++i) {
                        slots[i] = sessions->find(keys[positions[i]]);
                        if (slots[i] != HeartbeatShard::no_slot)
                            sessions->prefetch_slot(slots[i]);
                    }
                }
                visit(sessions, positions, slots);
            });
        }
    }
    pfree(keys);
    pfree(order);
}

}  // namespace

std::uint64_t detail_fingerprint(std::string_view bytes) { return fingerprint(server_secret(), bytes); }

bool cache_touch(const SessionName &name, const SessionDetails &given)
{
    SharedDatabase *database = my_database();
    if (unlikely(database == nullptr))
        return false;
    const SessionKey key = key_of(name);
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    const Time wall = GetCurrentTimestamp();
    const std::uint64_t active = activity_ms(given.last_activity, wall, now);
    return with_shard(shard_of(*database, key), LW_SHARED, [&](HeartbeatShard *sessions) {
        if (unlikely(sessions == nullptr)) {
            pg_atomic_fetch_add_u64(&database->early_misses, 1);
            return false;
        }
        const std::uint32_t slot = sessions->find(key);
        const bool taken = slot != HeartbeatShard::no_slot && repeats_known_details(*sessions, slot, given) &&
                           keeps_its_status(*sessions, slot, active, now, timeouts) &&
                           sessions->touch(slot, now, wall, timeouts);
        if (taken && active != 0)
            sessions->note_activity(slot, active);
        if (taken)
            sessions->count_hits();
        else
            sessions->count_misses();
        return taken;
    });
}

int cache_touch_many(std::span<const SessionName> names, const Time *last_activity, bool *taken)
{
    const std::size_t count = names.size();
    std::fill_n(taken, count, false);
    SharedDatabase *database = my_database();
    if (database == nullptr || count == 0)
        return 0;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    const Time wall = GetCurrentTimestamp();

    std::size_t taken_count = 0;
    const auto touch = [&](HeartbeatShard *sessions, std::span<const std::uint32_t> positions,
                           const std::uint32_t *slots) {
        if (sessions == nullptr) {
            pg_atomic_fetch_add_u64(&database->early_misses, static_cast<int64>(positions.size()));
            return;
        }
        std::size_t taken_here = 0;
        for (std::size_t i = 0; i < positions.size(); ++i) {
            const std::uint64_t active =
                last_activity != nullptr ? activity_ms(last_activity[positions[i]], wall, now) : 0;
            if (slots[i] == HeartbeatShard::no_slot || !keeps_its_status(*sessions, slots[i], active, now, timeouts) ||
                !sessions->touch(slots[i], now, wall, timeouts))
                continue;
            if (active != 0)
                sessions->note_activity(slots[i], active);
            taken[positions[i]] = true, ++taken_here;
        }
        sessions->count_hits(taken_here);
        sessions->count_misses(positions.size() - taken_here);
        taken_count += taken_here;
    };
    find_many(
        *database, count, [names](std::size_t i) { return names[i]; }, touch);
    return static_cast<int>(taken_count);
}

namespace {

// What is known without the cache.
EffectiveTimes recorded_times(const RecordedSession &session, Time floor)
{
    return {session.heartbeat_at, deadline(session.heartbeat_at, floor, effective_timeout(session.interval)),
            session.last_activity.value_or(0)};
}

// What the cache knows better, by the monotonic clock, whatever was done to the other one meanwhile.
// The promised interval is the row's: a change of it that was rolled back may have left another one here.
void add_cached(EffectiveTimes &times, const RecordedSession &session, const HeartbeatShard &sessions,
                std::uint32_t slot, const Timeouts &timeouts, Time wall, std::uint64_t now)
{
    const std::uint64_t active = session.last_activity ? sessions.active_ms(slot) : 0;
    if (active != 0)
        times.last_activity =
            std::max(times.last_activity, wall - static_cast<Time>(now - std::min(now, active)) * 1000);
    times.heartbeat_at = std::max(times.heartbeat_at, sessions.wall_us(slot));
    const std::uint64_t word =
        beat_word::pack(sessions.beat_ms(slot), interval_to_ms(session.interval), SlotState::open);
    // To the end of that millisecond, so that nobody is called stale whom the search for stale sessions does not find yet.
    times.stale_after =
        wall +
        (static_cast<std::int64_t>(beat_word::deadline(word, timeouts)) - static_cast<std::int64_t>(now)) * 1000 + 999;
}

}  // namespace

EffectiveTimes effective_times(const RecordedSession &session)
{
    if (RecoveryInProgress())
        return {session.heartbeat_at, never, session.last_activity.value_or(0)};
    EffectiveTimes times = recorded_times(session, heartbeat_floor().wall);
    const Timeouts timeouts = current_timeouts();
    with_entry(session.name, LW_SHARED, [&](const HeartbeatShard &sessions, std::uint32_t slot) {
        add_cached(times, session, sessions, slot, timeouts, GetCurrentTimestamp(), monotonic_ms());
    });
    return times;
}

void effective_times(std::span<const RecordedSession> sessions, EffectiveTimes *times)
{
    const std::size_t count = sessions.size();
    if (count == 1) {
        times[0] = effective_times(sessions[0]);
        return;
    }
    if (RecoveryInProgress()) {
        for (std::size_t i = 0; i < count; ++i)
            times[i] = {sessions[i].heartbeat_at, never, sessions[i].last_activity.value_or(0)};
        return;
    }
    const Time floor = heartbeat_floor().wall;
    for (std::size_t i = 0; i < count; ++i)
        times[i] = recorded_times(sessions[i], floor);
    SharedDatabase *database = my_database();
    if (database == nullptr || count == 0)
        return;
    const Timeouts timeouts = current_timeouts();
    const Time wall = GetCurrentTimestamp();
    const std::uint64_t now = monotonic_ms();
    const auto add = [&](const HeartbeatShard *known, std::span<const std::uint32_t> positions,
                         const std::uint32_t *slots) {
        for (std::size_t i = 0; known != nullptr && i < positions.size(); ++i)
            if (slots[i] != HeartbeatShard::no_slot)
                add_cached(times[positions[i]], sessions[positions[i]], *known, slots[i], timeouts, wall, now);
    };
    find_many(
        *database, count, [sessions](std::size_t i) { return sessions[i].name; }, add);
}

namespace {

// Of two intervals, whether the first allows less silence.
bool is_shorter(std::int64_t a, std::int64_t b, const Timeouts &timeouts)
{
    const auto allowed = [&timeouts](std::int64_t interval_ms) {
        return beat_word::deadline(beat_word::pack(timeouts.floor_ms, interval_ms, SlotState::open), timeouts);
    };
    return allowed(a) < allowed(b);
}

SessionEntry new_entry(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at)
{
    const std::uint64_t now = monotonic_ms();
    return {.key = key_of(name),
            .row_id = row_id,
            .beat_ms = now,
            .wall_us = heartbeat_at,
            .interval_ms = details.interval_ms,
            .fingerprints = details.fingerprints,
            .state = SlotState::open,
            .status = status_bits(details),
            .active_ms = activity_ms(details.last_activity, GetCurrentTimestamp(), now)};
}

}  // namespace

bool cache_put_open(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return false;
    const SessionEntry entry = new_entry(name, row_id, details, heartbeat_at);
    const Timeouts timeouts = current_timeouts();
    bool turns_sooner = false;
    const bool taken = write_with_room(*database, entry.key, [&](HeartbeatShard &sessions) {
        const std::uint64_t first_turn = sessions.earliest_turn(timeouts);
        const bool put = sessions.insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
        turns_sooner = sessions.earliest_turn(timeouts) < first_turn;
        return put;
    });
    // Of other changes, it hears by a commit.
    if (turns_sooner)
        database->worker.wake();
    return taken;
}

// ---------------------------------------------------------------------------------------------------------------------
// What a commit does
//
// A backend is seen to have committed a moment before its callback runs, so somebody else may have locked the user's row and
// changed the session's entry by then. Each who closes an entry leaves a token of his own in it; the callback touches what has
// its own token and nothing else. It must not fail, so it allocates nothing and looks only at blocks that this process has
// mapped: where one has been replaced since, the entry stays closed, and the next heartbeat opens it.
// ---------------------------------------------------------------------------------------------------------------------

namespace {

struct PendingChange {
    SessionEntry entry;  // as it is to be; with state free, it is to go
    std::uint64_t token;
    SubTransactionId subtransaction;
    bool made;  // the entry was not there before
};

// In memory of the transaction. In the order in which they were made, so that those of a subtransaction are the last ones.
PendingChange *pending = nullptr;
std::size_t pending_count = 0, pending_room = 0;
dsa_pointer mapped_blocks[shard_count];

std::uint64_t next_token()
{
    static std::uint32_t counter = 0;
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(MyProcPid)) << 32U) | ++counter;
}

PendingChange &add_pending(const SessionEntry &entry, std::uint64_t token)
{
    if (pending_count == pending_room) {
        pending_room = pending_room == 0 ? 16 : 2 * pending_room;
        const std::size_t bytes = sizeof(PendingChange) * pending_room;
        pending = static_cast<PendingChange *>(pending == nullptr ? MemoryContextAllocHuge(TopTransactionContext, bytes)
                                                                  : repalloc_huge(pending, bytes));
    }
    pending[pending_count] = {entry, token, GetCurrentSubTransactionId(), false};
    return pending[pending_count++];
}

void forget_pending()
{
    pending = nullptr;  // with the transaction's memory
    pending_count = pending_room = 0;
}

// False: a session that is online has no entry; whoever searched for stale ones before the commit could not see its row.
bool apply_at_commit(SharedDatabase &database, const PendingChange &change, const Timeouts &timeouts)
{
    bool known = true;
    const unsigned number = shard_number(change.entry.key);
    SharedShard &shard = database.shards[number];
    LWLockAcquire(&shard.lock.lock, LW_EXCLUSIVE);
    if (DsaPointerIsValid(shard.block) && shard.block == mapped_blocks[number]) {
        auto &sessions = *static_cast<HeartbeatShard *>(dsa_get_address(shared_area(), shard.block));
        const std::uint32_t slot = sessions.find(change.entry.key);
        if (slot == HeartbeatShard::no_slot)
            known = change.entry.state == SlotState::free;
        else if (!sessions.is_closed_by(slot, change.token))
            ;
        else if (change.entry.state == SlotState::free)
            sessions.erase(slot);
        else
            (void)sessions.insert_or_update(change.entry, timeouts);
    }
    LWLockRelease(&shard.lock.lock);
    return known;
}

// Who types in one of these sessions, and was seen to be online by its row, is not any more: where the change counts, only if
// that is the end of the session; where it does not, because the row may have been this transaction's own.
void doubt_typing_since(std::size_t first, bool only_ended)
{
    SharedDatabase *database = my_known_database();
    for (std::size_t i = first; database != nullptr && i < pending_count; ++i)
        if (!only_ended || pending[i].entry.state == SlotState::free)
            note_session_end(*database, pending[i].entry.key);
}

// Of sessions whose beginning is rolled back, nothing stays.
void remove_made_since(std::size_t first)
{
    SharedDatabase *database = my_known_database();
    for (std::size_t i = first; database != nullptr && i < pending_count; ++i) {
        if (!pending[i].made)
            continue;
        const SessionKey &key = pending[i].entry.key;
        SharedShard &shard = shard_of(*database, key);
        LWLockAcquire(&shard.lock.lock, LW_EXCLUSIVE);
        if (DsaPointerIsValid(shard.block) && shard.block == mapped_blocks[shard_number(key)]) {
            auto &sessions = *static_cast<HeartbeatShard *>(dsa_get_address(shared_area(), shard.block));
            const std::uint32_t slot = sessions.find(key);
            if (slot != HeartbeatShard::no_slot && sessions.is_closed_by(slot, pending[i].token))
                sessions.erase(slot);
        }
        LWLockRelease(&shard.lock.lock);
    }
}

void at_transaction_end(XactEvent event, void *)
{
    // Also where subtransactions have taken back all changes: the memory goes with the transaction.
    if (pending == nullptr)
        return;
    SharedDatabase *database = my_known_database();
    if (event == XACT_EVENT_COMMIT && database != nullptr) {
        PRESENCE_POINT("session-committed");
        const Timeouts timeouts = current_timeouts();
        for (std::size_t i = 0; i < pending_count; ++i)
            if (!apply_at_commit(*database, pending[i], timeouts))
                database->worker.note_cache_gap();
        doubt_typing_since(0, true);
        PRESENCE_POINT("session-opened");
    }
    if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
        doubt_typing_since(0, false);
    if (event == XACT_EVENT_ABORT)
        remove_made_since(0);
    // Of a prepared transaction, others will open what they find committed.
    if (event == XACT_EVENT_PREPARE && pending_count > 0 && database != nullptr) {
        PRESENCE_POINT("session-prepared");
        database->worker.set_sessions_prepared(true);
    }
    if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
        forget_pending();
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *)
{
    if (event == SUBXACT_EVENT_ABORT_SUB) {
        std::size_t kept = pending_count;
        while (kept > 0 && pending[kept - 1].subtransaction >= mine)
            --kept;
        doubt_typing_since(kept, false);
        remove_made_since(kept);
        pending_count = kept;
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        for (std::size_t i = pending_count; i > 0 && pending[i - 1].subtransaction >= mine; --i)
            pending[i - 1].subtransaction = parent;
    }
}

}  // namespace

void watch_commits()
{
    RegisterXactCallback(at_transaction_end, nullptr);
    RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

bool cache_hear(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return false;
    SessionEntry entry = new_entry(name, row_id, details, heartbeat_at);
    entry.state = SlotState::closed;
    entry.fingerprints = HeartbeatShard::closed_by(next_token());
    const Timeouts timeouts = current_timeouts();
    return write_with_room(*database, entry.key, [&](HeartbeatShard &sessions) {
        const std::uint32_t slot = sessions.find(entry.key);
        if (slot == HeartbeatShard::no_slot)
            return sessions.insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
        sessions.advance(slot, entry.beat_ms, entry.wall_us);
        sessions.take_activity(slot, entry.active_ms, entry.beat_ms, timeouts);
        return true;
    });
}

void cache_close(const SessionName &name)
{
    with_entry(name, LW_EXCLUSIVE,
               [](HeartbeatShard &sessions, std::uint32_t slot) { sessions.close(slot, next_token()); });
}

void cache_open_at_commit(const SessionName &name, std::uint64_t row_id, const SessionDetails &details,
                          Time heartbeat_at)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    const SessionEntry entry = new_entry(name, row_id, details, heartbeat_at);
    const std::uint64_t token = next_token();
    const Timeouts timeouts = current_timeouts();
    PendingChange &change = add_pending(entry, token);
    (void)write_with_room(*database, entry.key, [&](HeartbeatShard &sessions) {
        mapped_blocks[shard_number(entry.key)] = shard_of(*database, entry.key).block;
        SessionEntry closed = entry;
        closed.state = SlotState::closed;
        closed.fingerprints = HeartbeatShard::closed_by(token);
        // Until this transaction has committed, the old interval may still be the true one: the search for stale
        // sessions goes by the shorter, and what it finds is judged by the row. So are the old statuses.
        const std::uint32_t slot = sessions.find(entry.key);
        if (slot != HeartbeatShard::no_slot) {
            if (is_shorter(sessions.interval_ms(slot), entry.interval_ms, timeouts))
                closed.interval_ms = sessions.interval_ms(slot);
            closed.status = sessions.slot(slot).status();
        }
        change.made = slot == HeartbeatShard::no_slot;
        return sessions.insert_or_update(closed, timeouts) != HeartbeatShard::Insert::full;
    });
}

void cache_erase_at_commit(const SessionName &name)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    SessionEntry gone{};
    gone.key = key_of(name);
    const std::uint64_t token = next_token();
    add_pending(gone, token);
    with_entry(name, LW_EXCLUSIVE, [&](HeartbeatShard &sessions, std::uint32_t slot) {
        mapped_blocks[shard_number(gone.key)] = shard_of(*database, gone.key).block;
        sessions.close(slot, token);
    });
    end_typing(name);
}

void cache_correct(const SessionName &name, const SessionDetails &details)
{
    const Timeouts timeouts = current_timeouts();
    with_entry(name, LW_EXCLUSIVE, [&](HeartbeatShard &sessions, std::uint32_t slot) {
        if (sessions.state(slot) != SlotState::closed)
            return;
        SessionEntry entry = sessions.entry(slot);
        entry.interval_ms = details.interval_ms;
        entry.status = status_bits(details);
        (void)sessions.insert_or_update(entry, timeouts);
    });
}

bool cache_restore(SharedDatabase &database, const SessionEntry &entry)
{
    const Timeouts timeouts = current_timeouts();
    return write_with_room(database, entry.key, [&](HeartbeatShard &sessions) {
        const std::uint32_t slot = sessions.find(entry.key);
        if (slot == HeartbeatShard::no_slot)
            return sessions.insert_or_update(entry, timeouts) != HeartbeatShard::Insert::full;
        sessions.advance(slot, entry.beat_ms, entry.wall_us);
        sessions.take_activity(slot, entry.active_ms, monotonic_ms(), timeouts);
        if (sessions.state(slot) != SlotState::closed)
            return true;
        // What promised a longer silence may be out of date: the search for stale sessions goes by the shorter. Where nobody
        // has closed the entry, it is as it was restored, and this is newer.
        const bool newer = sessions.is_closed_by(slot, 0);
        SessionEntry known = sessions.entry(slot);
        const bool shorter = is_shorter(entry.interval_ms, known.interval_ms, timeouts);
        if (!shorter && (!newer || (known.status == entry.status && known.interval_ms == entry.interval_ms)))
            return true;
        if (newer)
            known.status = entry.status;
        known.interval_ms = entry.interval_ms;
        (void)sessions.insert_or_update(known, timeouts);
        return true;
    });
}

bool cache_watch(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at)
{
    SessionEntry entry = new_entry(name, row_id, details, heartbeat_at);
    const std::uint64_t age =
        static_cast<std::uint64_t>(std::max<Time>(0, GetCurrentTimestamp() - heartbeat_at)) / 1000;
    entry.beat_ms = entry.beat_ms > age ? entry.beat_ms - age : 1;
    entry.state = SlotState::closed;
    return cache_restore(*my_database(), entry);
}

SessionEntry *cache_copy(SharedShard &shard, std::uint32_t &count)
{
    std::uint32_t room = 0;
    SessionEntry *entries = nullptr;
    for (;;) {
        const std::uint32_t wanted = with_shard(shard, LW_SHARED, [&](const HeartbeatShard *sessions) {
            const std::uint32_t known = sessions == nullptr ? 0 : sessions->count();
            count = 0;
            for (std::uint32_t slot = 0; known <= room && count < known; ++slot)
                if (sessions->state(slot) != SlotState::free)
                    entries[count++] = sessions->entry(slot);
            return known;
        });
        if (wanted <= room)
            return entries;
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
        const std::uint32_t capacity = with_shard(shard, LW_SHARED, [](const HeartbeatShard *sessions) {
            return sessions != nullptr && sessions->should_shrink() ? sessions->shrunk_capacity() : 0;
        });
        dsa_pointer block =
            capacity != 0 ? try_allocate(HeartbeatShard::bytes_for(capacity), DSA_ALLOC_HUGE) : InvalidDsaPointer;
        if (!DsaPointerIsValid(block))
            continue;
        void *address = dsa_get_address(shared_area(), block);
        with_shard(shard, LW_EXCLUSIVE, [&](const HeartbeatShard *sessions) {
            if (sessions->should_shrink() && sessions->rebuild_into(address, capacity) != nullptr)
                std::swap(shard.block, block);
        });
        dsa_free(shared_area(), block);
    }
}

namespace {

Tombstones *tombstones_of(const SharedShard &shard)
{
    return DsaPointerIsValid(shard.tombstones)
               ? static_cast<Tombstones *>(dsa_get_address(shared_area(), shard.tombstones))
               : nullptr;
}

}  // namespace

bool cache_reserve_tombstones(const SessionName &name)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return false;
    SharedShard &shard = shard_of(*database, cache_key(name));
    if (with_shard(shard, LW_SHARED, [&shard](HeartbeatShard *) { return tombstones_of(shard) != nullptr; }))
        return true;
    dsa_pointer block = try_allocate(sizeof(Tombstones), 0);
    if (!DsaPointerIsValid(block))
        return false;
    static_cast<Tombstones *>(dsa_get_address(shared_area(), block))->clear();
    with_shard(shard, LW_EXCLUSIVE, [&shard, &block](HeartbeatShard *) {
        if (!DsaPointerIsValid(shard.tombstones))
            std::swap(shard.tombstones, block);
        (void)tombstones_of(shard);
    });
    if (DsaPointerIsValid(block))
        dsa_free(shared_area(), block);
    return true;
}

namespace {

// work(Tombstones &, now). Nothing here may fail.
template <typename Work>
void with_tombstones(const SessionKey &key, Work work)
{
    SharedDatabase *database = my_known_database();
    if (database == nullptr)
        return;
    SharedShard &shard = shard_of(*database, key);
    const std::uint64_t now = monotonic_ms();
    LWLockAcquire(&shard.lock.lock, LW_EXCLUSIVE);
    if (Tombstones *tombstones = tombstones_of(shard))
        work(*tombstones, now);
    LWLockRelease(&shard.lock.lock);
}

}  // namespace

void cache_add_tombstone(const SessionKey &key, std::uint64_t lasting_ms)
{
    with_tombstones(key,
                    [&](Tombstones &tombstones, std::uint64_t now) { tombstones.add(key, now, now + lasting_ms); });
}

void cache_announce_tombstone(const SessionKey &key, std::uint64_t owner, Goodbye goodbye)
{
    with_tombstones(key,
                    [&](Tombstones &tombstones, std::uint64_t now) { tombstones.announce(key, now, owner, goodbye); });
}

void cache_take_back_tombstone(const SessionKey &key, std::uint64_t owner)
{
    with_tombstones(key, [&](Tombstones &tombstones, std::uint64_t) { tombstones.take_back(key, owner); });
}

Tombstones::Found cache_find_tombstone(const SessionKey &key)
{
    constexpr Tombstones::Found none{Goodbye::none, 0};
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return none;
    SharedShard &shard = shard_of(*database, key);
    const std::uint64_t now = monotonic_ms();
    return with_shard(shard, LW_SHARED, [&](HeartbeatShard *) {
        const Tombstones *tombstones = tombstones_of(shard);
        return tombstones != nullptr ? tombstones->find(key, now) : none;
    });
}

void cache_clear()
{
    forget_user_count();
    with_each_shard(LW_EXCLUSIVE, [](HeartbeatShard &sessions) { sessions.clear(); });
    if (SharedDatabase *database = my_database())
        for (SharedShard &shard : database->shards)
            with_shard(shard, LW_EXCLUSIVE, [&shard](HeartbeatShard *) {
                if (Tombstones *tombstones = tombstones_of(shard))
                    tombstones->clear();
            });
    end_all_typing();
    // Should the extension stay after all, its sessions must not be forgotten.
    if (SharedDatabase *database = my_database())
        database->worker.note_cache_gap();
}

CacheNumbers cache_numbers()
{
    CacheNumbers sum{};
    if (SharedDatabase *database = my_database())
        sum.misses = static_cast<std::int64_t>(pg_atomic_read_u64(&database->early_misses));
    with_each_shard(LW_SHARED, [&sum](const HeartbeatShard &sessions) {
        for (std::uint32_t slot = 0; slot < sessions.slots_used(); ++slot)
            sum.sessions += sessions.state(slot) == SlotState::open;
        sum.hits += static_cast<std::int64_t>(sessions.hits());
        sum.misses += static_cast<std::int64_t>(sessions.misses());
        sum.bytes += static_cast<std::int64_t>(HeartbeatShard::bytes_for(sessions.capacity()));
    });
    return sum;
}

bool cache_watches_everybody()
{
    SharedDatabase *database = my_database();
    return database != nullptr && database->worker.cache_is_complete();
}

std::uint64_t cache_next_deadline()
{
    std::uint64_t earliest = HeartbeatShard::no_deadline;
    const Timeouts timeouts = current_timeouts();
    with_each_shard(LW_SHARED, [&](const HeartbeatShard &sessions) {
        earliest = std::min({earliest, sessions.earliest_deadline(timeouts), sessions.earliest_turn(timeouts)});
    });
    return earliest;
}

namespace {

struct SearchPosition {
    unsigned shard = 0;
    std::uint32_t slot = 0;
};
SearchPosition next_search, next_turn_search;

// until: until when nothing can be found; search: what is.
template <typename Until, typename Search>
std::size_t collect(std::span<ExpiredSession> found, SearchPosition &position, Until until, Search search)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return 0;
    std::size_t count = 0;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    for (unsigned done = 0; done < shard_count && count < found.size(); ++done) {
        HeartbeatShard::Scan scan{0, HeartbeatShard::no_slot};
        with_shard(database->shards[position.shard], LW_SHARED, [&](HeartbeatShard *sessions) {
            if (sessions != nullptr && (position.slot > 0 || now > (sessions->*until)(timeouts)))
                scan = (sessions->*search)(now, timeouts, found.subspan(count), position.slot);
        });
        count += scan.found;
        if (scan.resume_at != HeartbeatShard::no_slot)
            position.slot = scan.resume_at;
        else
            position = {(position.shard + 1) % shard_count, 0};
    }
    return count;
}

std::size_t collect_stale(std::span<ExpiredSession> found, SearchPosition &position)
{
    return collect(found, position, &HeartbeatShard::earliest_deadline, &HeartbeatShard::collect_expired);
}

std::size_t collect_turning(std::span<ExpiredSession> found, SearchPosition &position)
{
    return collect(found, position, &HeartbeatShard::earliest_turn, &HeartbeatShard::collect_turning);
}

}  // namespace

std::size_t cache_collect_stale(std::span<ExpiredSession> found) { return collect_stale(found, next_search); }
std::size_t cache_collect_turning(std::span<ExpiredSession> found) { return collect_turning(found, next_turn_search); }

bool cache_any_stale()
{
    ExpiredSession one;
    SearchPosition from;
    return collect_stale({&one, 1}, from) > 0;
}

bool cache_any_due()
{
    ExpiredSession one;
    SearchPosition from;
    return cache_any_stale() || collect_turning({&one, 1}, from) > 0;
}

Silence cache_silence()
{
    Silence all;
    const Timeouts timeouts = timeouts_without_guard();
    const std::uint64_t now = monotonic_ms();
    with_each_shard(LW_SHARED, [&](const HeartbeatShard &sessions) {
        const Silence here = sessions.silence(now, timeouts);
        all.sessions += here.sessions;
        all.silent += here.silent;
    });
    return all;
}

SessionKey cache_key(const SessionName &name) { return key_of(name); }

void cache_forget_stale(const SessionKey &key)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    const bool gone = with_shard(shard_of(*database, key), LW_EXCLUSIVE, [&](HeartbeatShard *sessions) {
        return sessions != nullptr &&
               sessions->erase_if_still_stale(key, now, timeouts) == HeartbeatShard::Erase::erased;
    });
    if (!gone)
        return;
    end_typing(key);
    // The row may be there, and only the entry have known another online_since: that of a file from before a crash, or of a
    // transaction that was rolled back.
    database->worker.note_cache_gap();
}

namespace {

bool is_before(const SessionKey &a, const SessionKey &b) { return a.hi != b.hi ? a.hi < b.hi : a.lo < b.lo; }

std::uint64_t details_digest(std::int64_t interval_ms, const Fingerprints &fingerprints, std::uint64_t status)
{
    // As the entry rounds it.
    interval_ms = beat_word::interval_ms(beat_word::pack(0, interval_ms, SlotState::open));
    const std::uint64_t values[] = {static_cast<std::uint64_t>(interval_ms), fingerprints.user_agent,
                                    fingerprints.ip_address, fingerprints.metadata, status};
    return detail_fingerprint({reinterpret_cast<const char *>(values), sizeof values});
}

}  // namespace

CacheClaims cache_claims()
{
    CacheClaims claims;
    SharedDatabase *database = my_database();
    for (unsigned s = 0; database != nullptr && s < shard_count; ++s) {
        CHECK_FOR_INTERRUPTS();
        std::uint32_t count = 0, open = 0;
        SessionEntry *entries = cache_copy(database->shards[s], count);
        if (count == 0)
            continue;
        auto *of_shard = static_cast<CacheClaim *>(palloc_extended(sizeof(CacheClaim) * count, MCXT_ALLOC_HUGE));
        for (const SessionEntry &entry : std::span(entries, count))
            if (entry.state == SlotState::open)
                of_shard[open++] = {entry.key, details_digest(entry.interval_ms, entry.fingerprints, entry.status),
                                    false};
        pfree(entries);
        std::sort(of_shard, of_shard + open,
                  [](const CacheClaim &a, const CacheClaim &b) { return is_before(a.key, b.key); });
        claims.of_shard[s] = {of_shard, open};
    }
    return claims;
}

void cache_confirm(const CacheClaims &claims, const SessionName &name, const SessionDetails &details)
{
    const SessionKey key = key_of(name);
    const std::span<CacheClaim> of_shard = claims.of_shard[shard_number(key)];
    const auto claim = std::lower_bound(of_shard.begin(), of_shard.end(), key,
                                        [](const CacheClaim &a, const SessionKey &b) { return is_before(a.key, b); });
    if (claim != of_shard.end() && claim->key == key)
        claim->confirmed =
            claim->details == details_digest(details.interval_ms, details.fingerprints, status_bits(details));
}

CachedState cache_state(const SessionKey &key)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return CachedState::unknown;
    const Timeouts timeouts = current_timeouts();
    const std::uint64_t now = monotonic_ms();
    return with_shard(shard_of(*database, key), LW_SHARED, [&](const HeartbeatShard *sessions) {
        const std::uint32_t slot = sessions != nullptr ? sessions->find(key) : HeartbeatShard::no_slot;
        if (slot == HeartbeatShard::no_slot)
            return CachedState::unknown;
        if (sessions->is_stale(slot, now, timeouts))
            return CachedState::stale;
        // Nobody is told of hidden ones; the row says so too.
        const bool hidden = (sessions->slot(slot).status() & hidden_flag) != 0;
        return sessions->state(slot) == SlotState::open && !hidden ? CachedState::online : CachedState::unknown;
    });
}

bool cache_knows(const SessionName &name)
{
    bool known = false;
    with_entry(name, LW_SHARED, [&known](const HeartbeatShard &, std::uint32_t) { known = true; });
    return known;
}

void cache_retract(const CacheClaim &claim)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    with_shard(shard_of(*database, claim.key), LW_EXCLUSIVE, [&claim](HeartbeatShard *sessions) {
        const std::uint32_t slot = sessions != nullptr ? sessions->find(claim.key) : HeartbeatShard::no_slot;
        if (slot != HeartbeatShard::no_slot)
            sessions->erase(slot);
    });
    end_typing(claim.key);
    database->worker.note_cache_gap();
}

}  // namespace presence
