#include "retention.h"

#include <algorithm>

#include "compat.h"
#include "datums.h"
#include "extension.h"
#include "feed.h"
#include "feed_tables.h"
#include "injection.h"
#include "reports.h"
#include "settings.h"
#include "shared.h"

extern "C" {
#include "access/table.h"
#include "access/tableam.h"
#include "common/pg_prng.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
}

namespace presence {

namespace {

Statement note_dropped = {"INSERT INTO @.presence_feed_dropped (seq) VALUES ($1)", 1, {INT8OID}};
Statement forget_lower = {"DELETE FROM @.presence_feed_dropped WHERE seq < $1", 1, {INT8OID}};
// Rooms in which nobody has been since: no count is as good as 0.
Statement forget_empty_rooms = {"DELETE FROM @.presence_room_count WHERE users = 0 AND seq <= $1", 1, {INT8OID}};
// Among the lowest ids, which are the oldest: an index on the time would cost every goodbye an entry.
Statement drop_log = {
    "WITH gone AS (DELETE FROM @.presence_admin_log WHERE id IN (SELECT id FROM @.presence_admin_log WHERE at < $1"
    " AND id <= (SELECT max(id) FROM (SELECT id FROM @.presence_admin_log ORDER BY id LIMIT $2) AS lowest) FOR UPDATE SKIP LOCKED)"
    " RETURNING id) SELECT count(*) FROM gone",
    2,
    {TIMESTAMPTZOID, INT4OID}};

// A session may go when it ended before $3 and its user has a later one, or when all of the user's ended before $4 and no choice
// of the user lasts. The ids are compared so that each row is looked at by index, and not all rows for the sake of some.
Statement find_users = {
    "SELECT array_agg(user_id), count(*) FROM (SELECT DISTINCT s.user_id FROM @.presence_session AS s"
    " WHERE s.ctid >= $1 AND s.ctid < $2 AND NOT s.online AND s.ended_at < greatest($3, $4) AND"
    " ((s.ended_at < $3 AND EXISTS (SELECT FROM @.presence_session AS o WHERE o.user_id = s.user_id AND (o.online OR (o.ended_at, o.session_id) > (s.ended_at, s.session_id))))"
    " OR (s.ended_at < $4 AND NOT EXISTS (SELECT FROM @.presence_session AS o WHERE o.user_id = s.user_id AND o.session_id <> s.session_id AND (o.online OR o.ended_at >= $4))"
    " AND NOT EXISTS (SELECT FROM @.presence_user AS u WHERE u.user_id = s.user_id AND (u.status_choice IS NOT NULL OR u.choice_message IS NOT NULL))))"
    " LIMIT $5) AS found",
    5,
    {TIDOID, TIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID}};
// Nothing leaves users behind without a session; this is for those whose sessions were deleted by hand.
Statement find_bare_users = {
    "SELECT array_agg(user_id), count(*) FROM (SELECT user_id FROM @.presence_user AS u WHERE ctid >= $1 AND ctid < $2 AND NOT online"
    " AND status_choice IS NULL AND choice_message IS NULL AND coalesce(offline_at, '-infinity') < $3 AND NOT EXISTS (SELECT FROM @.presence_session AS s WHERE s.user_id = u.user_id) LIMIT $4) AS found",
    4,
    {TIDOID, TIDOID, TIMESTAMPTZOID, INT4OID}};
Statement lock_users = {
    "SELECT array_agg(user_id) FROM (SELECT user_id FROM @.presence_user WHERE user_id = ANY ($1) ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED) AS held",
    1,
    {TEXTARRAYOID}};
Statement drop_sessions = {
    "DELETE FROM @.presence_session AS s WHERE user_id = ANY ($1) AND NOT online AND ended_at < $2"
    " AND EXISTS (SELECT FROM @.presence_session AS o WHERE o.user_id = s.user_id AND (o.online OR (o.ended_at, o.session_id) > (s.ended_at, s.session_id)))",
    2,
    {TEXTARRAYOID, TIMESTAMPTZOID}};
Statement drop_users = {
    "WITH gone AS (DELETE FROM @.presence_user AS u WHERE user_id = ANY ($1) AND NOT online AND status_choice IS NULL AND choice_message IS NULL"
    " AND NOT EXISTS (SELECT FROM @.presence_session AS s WHERE s.user_id = u.user_id AND (s.online OR s.ended_at >= $2))"
    " AND (coalesce(offline_at, '-infinity') < $2 OR EXISTS (SELECT FROM @.presence_session AS s WHERE s.user_id = u.user_id)) RETURNING user_id)"
    " DELETE FROM @.presence_session WHERE user_id IN (SELECT user_id FROM gone)",
    2,
    {TEXTARRAYOID, TIMESTAMPTZOID}};

// Of invisible users, whose other rows say when they were last seen.
Statement find_hidden = {
    "SELECT array_agg(user_id), count(*) FROM (SELECT DISTINCT user_id FROM @.presence_hidden_session WHERE NOT online AND ended_at < $1 LIMIT $2) AS found",
    2,
    {TIMESTAMPTZOID, INT4OID}};
Statement drop_hidden = {
    "DELETE FROM @.presence_hidden_session WHERE user_id = ANY ($1) AND NOT online AND ended_at < $2",
    2,
    {TEXTARRAYOID, TIMESTAMPTZOID}};

// Of sessions that have ended.
Statement drop_locations = {
    "DELETE FROM @.presence_location AS l WHERE NOT EXISTS (SELECT FROM (SELECT user_id, session_id, joined_at FROM @.presence_session WHERE online AND ended_at IS NULL"
    " UNION ALL SELECT user_id, session_id, joined_at FROM @.presence_hidden_session WHERE online AND ended_at IS NULL) AS s"
    " WHERE s.user_id = l.user_id AND s.session_id = l.session_id AND s.joined_at = l.joined_at)",
    0,
    {}};

// What a run may do at most. Users stay locked until the run's transaction ends, so it is to end soon.
constexpr int most_rows = 50000;
constexpr int most_users = 10000;
constexpr Time most_time = 500000;
constexpr BlockNumber step_blocks = 1000;
constexpr BlockNumber bare_blocks = 200;

struct Cutoffs {
    Time session, user;
};

Time ago(Time now, int seconds) { return now - static_cast<Time>(seconds) * USECS_PER_SEC; }

BlockNumber blocks_of(Oid relation)
{
    Relation opened = table_open(relation, AccessShareLock);
    const BlockNumber blocks = RelationGetNumberOfBlocks(opened);
    table_close(opened, NoLock);
    return blocks;
}

ItemPointerData block_start(BlockNumber block)
{
    ItemPointerData start;
    ItemPointerSet(&start, block, 0);
    return start;
}

// Decides anew under each user's lock, which every change of a user takes.
void forget_users(Datum names, const Cutoffs &cutoffs)
{
    run(lock_users, &names);
    PRESENCE_POINT("retention-locked");
    Datum held[] = {first_value(1), TimestampTzGetDatum(cutoffs.session)};
    if (held[0] == 0)
        return;
    run(drop_sessions, held);
    if (cutoffs.user == DT_NOBEGIN)
        return;
    held[1] = TimestampTzGetDatum(cutoffs.user);
    run(drop_users, held);
}

// From a block chosen by chance to the end, and then from the beginning: where a run does not get round, all of them
// together do, without keeping count. An index would find the same last rows of the same users in vain each time.
bool forget_sessions(const Cutoffs &cutoffs, Time until)
{
    const BlockNumber blocks = blocks_of(session_table());
    if (blocks == 0)
        return false;
    BlockNumber at = pg_prng_uint32(&pg_global_prng_state) % blocks;
    BlockNumber left = blocks;
    int room = most_users;
    while (left > 0 && room > 0 && GetCurrentTimestamp() < until) {
        CHECK_FOR_INTERRUPTS();
        const BlockNumber count = std::min({step_blocks, left, blocks - at});
        ItemPointerData from = block_start(at), to = block_start(at + count);
        Datum values[] = {PointerGetDatum(&from), PointerGetDatum(&to), TimestampTzGetDatum(cutoffs.session),
                          TimestampTzGetDatum(cutoffs.user), Int32GetDatum(room)};
        run(find_users, values);
        room -= static_cast<int>(DatumGetInt64(first_value(2)));
        if (const Datum names = first_value(1); names != 0)
            forget_users(names, cutoffs);
        left -= count;
        at = at + count == blocks ? 0 : at + count;
    }
    return room < most_users && left > 0;
}

void forget_hidden_sessions(Time cutoff)
{
    Datum values[] = {TimestampTzGetDatum(cutoff), Int32GetDatum(most_users)};
    run(find_hidden, values);
    Datum names = first_value(1);
    if (names == 0)
        return;
    run(lock_users, &names);
    Datum held[] = {first_value(1), values[0]};
    if (held[0] != 0)
        run(drop_hidden, held);
}

bool forget_bare_users(const Cutoffs &cutoffs)
{
    const Oid users = get_relname_relid("presence_user", get_rel_namespace(session_table()));
    const BlockNumber blocks = OidIsValid(users) ? blocks_of(users) : 0;
    if (blocks == 0)
        return false;
    const BlockNumber at = blocks <= bare_blocks ? 0 : pg_prng_uint32(&pg_global_prng_state) % blocks;
    ItemPointerData from = block_start(at), to = block_start(std::min(at + bare_blocks, blocks));
    Datum values[] = {PointerGetDatum(&from), PointerGetDatum(&to), TimestampTzGetDatum(cutoffs.user),
                      Int32GetDatum(most_users)};
    run(find_bare_users, values);
    const Datum names = first_value(1);
    if (names != 0)
        forget_users(names, cutoffs);
    return names != 0;
}

bool forget_rows(Statement &statement, Time cutoff, Time until)
{
    Datum values[] = {TimestampTzGetDatum(cutoff), Int32GetDatum(most_rows)};
    do {
        CHECK_FOR_INTERRUPTS();
        run(statement, values);
    } while (DatumGetInt64(first_value(1)) == most_rows && GetCurrentTimestamp() < until);
    return DatumGetInt64(first_value(1)) == most_rows;
}

// False: another transaction holds the row, or has changed it.
bool remove(const KeyScan &scan, Snapshot snapshot)
{
    TM_FailureData failure;
    return compat::delete_row(scan.table, &scan.slot->tts_tid, snapshot, false, &failure) == TM_Ok;
}

// Removes a range's old events that come after low, and the range with the last of them. Returns the number of the last
// event removed, or low. The head stays without its events, because it says where numbering goes on.
std::int64_t forget_range(const KeyScan &ranges, KeyScan &events, std::int64_t low, std::int64_t head, Time cutoff,
                          Snapshot snapshot)
{
    const FeedRange range = range_of(ranges);
    seek(events, range.first_id + std::max<std::int64_t>(low + 1 - range.first_seq, 0), range.last_id());
    while (next(events)) {
        bool is_null = false;
        if (DatumGetTimestampTz(slot_getattr(events.slot, event_at, &is_null)) >= cutoff || !remove(events, snapshot))
            return low;
        low = range.first_seq + (int8_of(events, event_id) - range.first_id);
    }
    if (range.last_seq() != head && !remove(ranges, snapshot))
        return low;
    return range.last_seq();
}

// From the low end of the feed to the first event that is young enough to stay. Locks nothing that writers of events, those
// who number them, or readers need.
bool forget_events(Time cutoff, Time until)
{
    CommandCounterIncrement();
    const std::int64_t reported = reported_seq();
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    const std::int64_t before = dropped_seq(snapshot), head = read_head(snapshot).last_seq;
    std::int64_t low = before;
    KeyScan ranges = begin_key_scan(Table::feed_range, snapshot, RowExclusiveLock);
    KeyScan events = begin_key_scan(Table::event, snapshot, RowExclusiveLock);
    seek_range(ranges, before + 1);
    bool more = false;
    while (!more && next(ranges)) {
        CHECK_FOR_INTERRUPTS();
        if (range_of(ranges).last_seq() > reported)
            break;
        low = forget_range(ranges, events, low, head, cutoff, snapshot);
        if (low < range_of(ranges).last_seq())
            break;
        more = GetCurrentTimestamp() >= until;
    }
    end_reading(events);
    end_reading(ranges);
    UnregisterSnapshot(snapshot);
    if (low == before)
        return false;
    PRESENCE_POINT("events-removed");
    Datum values[] = {Int64GetDatum(low)};
    run(note_dropped, values);
    run(forget_lower, values);
    run(forget_empty_rooms, values);
    return more;
}

}  // namespace

const char *task_name(Retention retention)
{
    constexpr const char *names[] = {"remove old sessions", "remove users without sessions",
                                     "remove old entries of the admin log", "write reports", "remove old events"};
    return names[static_cast<std::size_t>(retention)];
}

bool forget_old(Retention retention, Time budget)
{
    const Time now = GetCurrentTimestamp();
    // A session ended on purpose is needed for as long as it refuses late heartbeats.
    const Time guard = now - ms_to_time(rejoin_guard_ms);
    const Cutoffs cutoffs{std::min(ago(now, session_retention_s), guard),
                          user_retention_s < 0 ? DT_NOBEGIN : std::min(ago(now, user_retention_s), guard)};
    const Time cutoff = ago(now, event_retention_s);
    switch (retention) {
    case Retention::sessions:
        run(drop_locations);
        forget_hidden_sessions(cutoffs.session);
        return forget_sessions(cutoffs, now + budget);
    case Retention::users:
        return cutoffs.user != DT_NOBEGIN && forget_bare_users(cutoffs);
    case Retention::log:
        return forget_rows(drop_log, cutoff, now + budget);
    case Retention::reports:
        forget_old_reports();
        return write_reports(budget);
    case Retention::events:
        return begin_feed_task(FeedTask::drop) && forget_events(cutoff, now + budget);
    }
    return false;
}

namespace {

// False: it has failed, and is undone.
pg_noinline bool try_to_forget(Retention retention)
{
    MemoryContext context = CurrentMemoryContext;
    ResourceOwner owner = CurrentResourceOwner;
    volatile bool done = false;
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(context);
    PG_TRY();
    {
        (void)forget_old(retention, most_time);
        ReleaseCurrentSubTransaction();
        done = true;
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(context);
        ErrorData *error = CopyErrorData();
        FlushErrorState();
        RollbackAndReleaseCurrentSubTransaction();
        MemoryContextSwitchTo(context);
        CurrentResourceOwner = owner;
        if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
            ReThrowError(error);
        ereport(WARNING,
                (errcode(error->sqlerrcode), errmsg("could not %s: %s", task_name(retention), error->message)));
        if (SharedDatabase *database = my_database())
            database->worker.report_trouble(task_name(retention), error->message);
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
    return done;
}

}  // namespace

void forget_old()
{
    SharedDatabase *database = my_database();
    for (const Retention retention : all_retention)
        if (try_to_forget(retention) && database != nullptr)
            database->worker.report_success(task_name(retention));
}

int retention_interval_s()
{
    int shortest = std::min(event_retention_s, session_retention_s);
    if (user_retention_s >= 0)
        shortest = std::min(shortest, user_retention_s);
    return std::clamp(shortest / 100, 5, 600);
}

}  // namespace presence
