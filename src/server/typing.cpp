// The locks around who is typing, and the SQL functions.
//
// A user's hash picks one of the database's shards, which is a block of dynamic shared memory and an LWLock. The rules are
// those of the cache (cache.cpp): the lock is held for one pass over a shard, nothing is allocated or raised under it, no
// other lock is taken under it, and memory is fetched before.
//
// Nobody types longer than his session lasts, although set_typing() takes no lock on the session. It reads the session's count
// of ends, finds the session online, and enters it under the shard's lock if the count is the same. An end works in the other
// direction: first others can see it, then it is counted, then the entries go. There are two ways to see that a session is
// online, and an end passes both:
//
// cache    An open entry says so. Before an end is written, the entry is closed, the end is counted, and what is typed is
//          removed under the shard's lock (end_typing()). Whoever saw the open entry comes before the count, and is removed,
//          or sees that it has changed.
// row      Where there is no open entry, the latest committed row says so. The commit shows the end; then it is counted
//          (note_session_end()). The commit's callback may raise nothing, and the shard may lie in memory that this process
//          has not mapped, so it removes nothing: an entry that was made by a row counts only as long as its session's count
//          of ends is the one that was read before.
//
// A transaction that has begun a session itself sees its row; where it is rolled back, the end is counted as well.
#include "typing.h"

#include <algorithm>

#include "access.h"
#include "arguments.h"
#include "datums.h"
#include "extension.h"
#include "readers.h"

namespace presence {

namespace {

constexpr Time default_ttl = 6 * USECS_PER_SEC, shortest_ttl = USECS_PER_SEC, longest_ttl = 60 * USECS_PER_SEC;
// The worker announces so many at a time.
constexpr std::size_t changes_at_once = 256;

Statement session_row = {"SELECT heartbeat_at, coalesce(-timeout, heartbeat_interval) FROM @.presence_session"
                         " WHERE user_id = $1 AND session_id = $2 AND online AND leave_until IS NULL",
                         2,
                         {TEXTOID, TEXTOID}};

bool all_end = false;  // with this transaction

TypingClock clock_now() { return {monotonic_ms(), GetCurrentTimestamp()}; }

// Of this database's extension; never 0.
std::uint64_t hash_of(std::string_view name)
{
    SipHash13 hash(server_secret(), SipHash13::Output::bits64);
    hash.add_u64(session_table());
    hash.add(name);
    const std::uint64_t result = hash.finish64();
    return result == 0 ? 1 : result;
}

SharedTypingShard &shard_of(SharedDatabase &database, std::uint64_t user)
{
    return database.typing.shards[user % typing_shard_count];
}

template <typename Work>
auto with_shard(SharedTypingShard &shard, LWLockMode mode, Work work)
{
    return with_block<TypingShard>(shard, mode, work);
}

// False: there is no memory, or no more is possible.
bool grow(SharedTypingShard &shard)
{
    const std::uint32_t capacity = with_shard(shard, LW_SHARED, capacity_of<TypingShard>);
    const std::uint32_t wanted = capacity == 0 ? TypingShard::min_capacity : 2 * capacity;
    return wanted <= TypingShard::max_capacity && replace_block<TypingShard>(shard, capacity, wanted);
}

// The worker is to look then, or at once. Raises nothing.
void expect_change(SharedDatabase &database, std::uint64_t at_ms)
{
    std::uint64_t due = pg_atomic_read_u64(&database.typing.due_ms);
    while (at_ms < due && !pg_atomic_compare_exchange_u64(&database.typing.due_ms, &due, at_ms)) {
    }
    // Whoever was first has told the worker.
    if (at_ms != 0 || due == 0)
        return;
    WorkerControl &worker = database.worker;
    if (worker.pid() != 0) {
        worker.wake();
    } else if (worker.is_wanted() && worker.next_work_ms() != 0) {
        worker.set_next_work_ms(0);
        wake_launcher();
    }
}

// By the latest committed state, whatever the transaction's own snapshot is.
bool is_online_by_row(const SessionName &name)
{
    const OwnerWork work = begin_owner_work();
    PushActiveSnapshot(GetLatestSnapshot());
    Datum values[] = {PointerGetDatum(make_text(name.user)), PointerGetDatum(make_text(name.session))};
    bool online = run(session_row, values, nullptr, true) > 0;
    if (online) {
        NullableDatum interval;
        interval.value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &interval.isnull);
        const Time heartbeat_at = DatumGetTimestampTz(first_value(1));
        online = GetCurrentTimestamp() <= effective_times({name, heartbeat_at, interval_time(interval)}).stale_after;
    }
    PopActiveSnapshot();
    end_owner_work(work);
    return online;
}

// False: the session is not online, or there is no memory at all.
bool set_typing(SharedDatabase &database, const SessionName &name, std::string_view room, std::uint64_t ttl_ms)
{
    const Typist typist{cache_key(name), hash_of(name.user), hash_of(room), name.user, name.session, room};
    SharedTypingShard &shard = shard_of(database, typist.user);
    const SessionEnds &ends = database.typing.ends;
    bool may_grow = true;
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        TypingProof proof{ends.of(typist.session), false};
        if (cache_state(typist.session) != CachedState::online) {
            if (!is_online_by_row(name))
                return false;
            proof.from_row = true;
        }
        const TypingClock clock = clock_now();
        const std::uint64_t expires_ms = clock.now_ms + ttl_ms;
        enum class Outcome { refreshed, began, full, changed };
        const Outcome outcome = with_shard(shard, LW_EXCLUSIVE, [&](TypingShard *typing) {
            if (typing == nullptr)
                return Outcome::full;
            if (ends.of(typist.session) != proof.ends)
                return Outcome::changed;
            switch (typing->set(typist, expires_ms, clock, proof, ends, may_grow)) {
            case TypingShard::Set::refreshed:
                return Outcome::refreshed;
            case TypingShard::Set::began:
                return Outcome::began;
            default:
                return Outcome::full;
            }
        });
        if (outcome == Outcome::full) {
            if (!grow(shard)) {
                if (!may_grow)
                    return false;
                may_grow = false;
            }
        } else if (outcome != Outcome::changed) {
            expect_change(database, outcome == Outcome::began ? 0 : expires_ms);
            return true;
        }
    }
}

bool clear(SharedDatabase &database, SharedTypingShard &shard, const SessionKey &session, std::uint64_t room)
{
    const TypingClock clock = clock_now();
    const bool any = with_shard(shard, LW_EXCLUSIVE, [&](TypingShard *typing) {
        return typing != nullptr && typing->clear(session, room, clock, database.typing.ends);
    });
    if (any)
        expect_change(database, 0);
    return any;
}

// In memory of the caller's context.
std::span<ListedTypist> list_room(SharedDatabase &database, std::string_view room)
{
    const std::uint64_t hash = hash_of(room);
    const TypingClock clock = clock_now();
    std::size_t space = 64, count = 0;
    auto *found = static_cast<ListedTypist *>(palloc(sizeof(ListedTypist) * space));
    for (SharedTypingShard &shard : database.typing.shards) {
        for (;;) {
            const std::size_t more = with_shard(shard, LW_SHARED, [&](const TypingShard *typing) {
                return typing != nullptr
                           ? typing->list(hash, clock, database.typing.ends, {found + count, space - count})
                           : std::size_t{0};
            });
            if (more <= space - count) {
                count += more;
                break;
            }
            space = 2 * (count + more);
            found = static_cast<ListedTypist *>(repalloc_huge(found, sizeof(ListedTypist) * space));
        }
    }
    return {found, count};
}

SessionName session_name_argument(FunctionCallInfo fcinfo)
{
    return {text_view(required_text(fcinfo, 0, "user_id")), text_view(session_argument(fcinfo, 1))};
}

std::uint64_t ttl_argument(FunctionCallInfo fcinfo, int argument)
{
    const Time ttl = PG_ARGISNULL(argument) ? default_ttl : interval_time(PG_GETARG_DATUM(argument));
    if (ttl < shortest_ttl || ttl > longest_ttl)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("ttl is out of range: %s",
                               DatumGetCString(DirectFunctionCall1(interval_out, PG_GETARG_DATUM(argument)))),
                        errhint("Pass how long the user counts as typing without another call: one second to one "
                                "minute.")));
    return time_to_ms(ttl);
}

void at_transaction_end(XactEvent event, void *)
{
    if (!all_end || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
        return;
    all_end = false;
    doubt_all_typing();
}

}  // namespace

void watch_typing() { RegisterXactCallback(at_transaction_end, nullptr); }

void end_typing(const SessionName &name)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    const SessionKey session = cache_key(name);
    // What was seen in a row is over by that alone.
    note_session_end(*database, session);
    (void)clear(*database, shard_of(*database, hash_of(name.user)), session, 0);
}

void end_typing(const SessionKey &session)
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    note_session_end(*database, session);
    for (SharedTypingShard &shard : database->typing.shards)
        (void)clear(*database, shard, session, 0);
}

void end_all_typing()
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return;
    all_end = true;
    database->typing.ends.note_all();
    const TypingClock clock = clock_now();
    for (SharedTypingShard &shard : database->typing.shards)
        with_shard(shard, LW_EXCLUSIVE, [&clock](TypingShard *typing) {
            if (typing != nullptr)
                typing->clear_all(clock);
        });
    expect_change(*database, 0);
}

void note_session_end(SharedDatabase &database, const SessionKey &session)
{
    database.typing.ends.note(session);
    if (pg_atomic_read_u64(&database.typing.due_ms) != TypingShard::never)
        expect_change(database, 0);
}

void doubt_all_typing()
{
    SharedDatabase *database = my_known_database();
    if (database == nullptr)
        return;
    database->typing.ends.note_all();
    expect_change(*database, 0);
}

std::uint64_t next_typing_change()
{
    SharedDatabase *database = my_database();
    return database != nullptr ? pg_atomic_read_u64(&database->typing.due_ms) : TypingShard::never;
}

void expect_typing_changes() { pg_atomic_write_u64(&my_database()->typing.due_ms, 0); }

std::span<TypingChange> take_typing_changes()
{
    static unsigned first_shard = 0;
    SharedTyping &typing = my_database()->typing;
    // Forgotten before it is looked for, so that what comes meanwhile is kept.
    pg_atomic_write_u64(&typing.due_ms, TypingShard::never);
    auto *changes = static_cast<TypingChange *>(palloc(sizeof(TypingChange) * changes_at_once));
    std::size_t count = 0;
    std::uint64_t next = TypingShard::never;
    const TypingClock clock = clock_now();
    first_shard = (first_shard + 1) % typing_shard_count;
    for (unsigned i = 0; i < typing_shard_count; ++i) {
        SharedTypingShard &shard = typing.shards[(first_shard + i) % typing_shard_count];
        next = std::min(
            next, with_shard(shard, LW_EXCLUSIVE, [&](TypingShard *in_shard) {
                if (in_shard == nullptr)
                    return TypingShard::never;
                count += in_shard->take_changes(clock, typing.ends, {changes + count, changes_at_once - count});
                return in_shard->next_expiry();
            }));
    }
    expect_change(*my_database(), count + 2 > changes_at_once ? 1 : next);
    return {changes, count};
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(set_typing)
{
    const SessionName name = session_name_argument(fcinfo);
    const std::string_view room = text_view(required_text(fcinfo, 2, "room"));
    const std::uint64_t ttl_ms = ttl_argument(fcinfo, 3);
    require_writable("set_typing");
    extension_of(fcinfo);
    require_may_act_for(PG_GETARG_TEXT_PP(0));
    if (unlikely(caller_access().own_only)) {
        const OwnerWork work = begin_owner_work();
        require_may_join(work, PG_GETARG_TEXT_PP(2));
        end_owner_work(work);
    }
    SharedDatabase *database = my_database();
    PG_RETURN_BOOL(database != nullptr && set_typing(*database, name, room, ttl_ms));
}

PRESENCE_FUNCTION(clear_typing)
{
    const SessionName name = session_name_argument(fcinfo);
    require_writable("clear_typing");
    extension_of(fcinfo);
    require_may_act_for(PG_GETARG_TEXT_PP(0));
    SharedDatabase *database = my_database();
    PG_RETURN_BOOL(database != nullptr && clear(*database, shard_of(*database, hash_of(name.user)), cache_key(name),
                                                PG_ARGISNULL(2) ? 0 : hash_of(text_view(PG_GETARG_TEXT_PP(2)))));
}

PRESENCE_FUNCTION(get_typing)
{
    const std::string_view room = text_view(required_text(fcinfo, 0, "room"));
    extension_of(fcinfo);
    ReturnSetInfo *result = begin_list(fcinfo);
    if (unlikely(caller_access().filtered)) {
        const OwnerWork work = begin_owner_work();
        require_may_look_into(work, PG_GETARG_TEXT_PP(0));
        end_owner_work(work);
    }
    SharedDatabase *database = RecoveryInProgress() ? nullptr : my_database();
    if (database == nullptr)
        return 0;
    std::span<ListedTypist> typists = list_room(*database, room);
    // Whoever has fallen silent and is not ended yet does not type.
    typists = {typists.data(), static_cast<std::size_t>(std::remove_if(typists.begin(), typists.end(),
                                                                       [](const ListedTypist &each) {
                                                                           return cache_state(each.session) ==
                                                                                  CachedState::stale;
                                                                       }) -
                                                        typists.begin())};
    std::sort(typists.begin(), typists.end(), [](const ListedTypist &a, const ListedTypist &b) {
        const int users = a.names.user().compare(b.names.user());
        return users != 0 ? users < 0 : a.since_us < b.since_us;
    });
    // One of each user, from who has typed longest.
    std::size_t users = 0;
    for (const ListedTypist &each : typists) {
        if (users > 0 && typists[users - 1].names.user() == each.names.user())
            typists[users - 1].expires_ms = std::max(typists[users - 1].expires_ms, each.expires_ms);
        else
            typists[users++] = each;
    }
    typists = typists.first(users);
    std::stable_sort(typists.begin(), typists.end(),
                     [](const ListedTypist &a, const ListedTypist &b) { return a.since_us < b.since_us; });
    const TypingClock clock = clock_now();
    const OwnerWork work = begin_owner_work();
    Sight sight = begin_sight(work);
    for (const ListedTypist &each : typists) {
        text *const user = make_text(each.names.user());
        if (!sees(sight, work, user))
            continue;
        const Time left = (static_cast<Time>(each.expires_ms) - static_cast<Time>(clock.now_ms)) * 1000;
        Datum values[] = {PointerGetDatum(user), TimestampTzGetDatum(each.since_us),
                          TimestampTzGetDatum(clock.wall_us + left)};
        bool nulls[3] = {};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    end_owner_work(work);
    return 0;
}
