#include "verify.h"

#include "cache_check.h"
#include "datums.h"
#include "extension.h"
#include "hooks.h"
#include "policies.h"
#include "readers.h"

extern "C" {
#include "access/table.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
}

namespace presence {

namespace {

// Each query is one snapshot of its own, in which what one transaction has written is there as a whole or not at all.

Statement broken_users = {
    "WITH ranked AS (SELECT *, array_position(ARRAY['active', 'busy', 'idle', 'away'], status) AS rank FROM @.presence_session),"
    " live AS (SELECT user_id, count(*) FILTER (WHERE ended_at IS NULL) AS sessions, min(online_since) AS first_since, max(online_since) AS last_since,"
    " (ARRAY['active', 'busy', 'idle', 'away'])[coalesce(min(rank) FILTER (WHERE ended_at IS NULL), min(rank))] AS status"
    " FROM ranked WHERE online GROUP BY user_id),"
    " pair AS (SELECT u.user_id, u.online, u.sessions, u.status, u.online_since, l.user_id IS NOT NULL AS has_live,"
    " coalesce(l.sessions, 0) AS live_sessions, CASE WHEN l.status IS NOT NULL THEN coalesce(u.status_choice, l.status) END AS live_status, l.first_since, l.last_since"
    " FROM @.presence_user AS u LEFT JOIN live AS l ON l.user_id = u.user_id)"
    " SELECT 'a user is online as long as a session is', user_id, format('online is %s, but %s sessions are', online, live_sessions)"
    " FROM pair WHERE online <> has_live"
    " UNION ALL SELECT 'a user has as many sessions as are online', user_id, format('sessions is %s, but %s are online', sessions, live_sessions)"
    " FROM pair WHERE sessions <> live_sessions"
    " UNION ALL SELECT 'a user has the most present status of the sessions', user_id, format('status is %L, that of the sessions %L', status, live_status)"
    " FROM pair WHERE status IS DISTINCT FROM live_status"
    " UNION ALL SELECT 'a user and the sessions have one online_since', user_id, format('online_since is %s, that of the sessions %s to %s', online_since, first_since, last_since)"
    " FROM pair WHERE has_live AND (online_since IS DISTINCT FROM first_since OR first_since <> last_since)"
    " UNION ALL SELECT 'a session has a user', s.user_id, format('session %L has none', s.session_id)"
    " FROM @.presence_session AS s LEFT JOIN @.presence_user AS u ON u.user_id = s.user_id WHERE u.user_id IS NULL"
    " UNION ALL SELECT 'the sessions of a user repeat the choice', s.user_id, format('session %L has %L until %s', s.session_id, s.status_choice, s.choice_until)"
    " FROM @.presence_session AS s JOIN @.presence_user AS u ON u.user_id = s.user_id"
    " WHERE s.online AND (s.status_choice IS DISTINCT FROM u.status_choice OR s.choice_until IS DISTINCT FROM u.choice_until)"
    " UNION ALL SELECT 'only an invisible user has hidden sessions', h.user_id, format('session %L is hidden', h.session_id)"
    " FROM @.presence_hidden_session AS h LEFT JOIN @.presence_user AS u ON u.user_id = h.user_id WHERE u.status_choice IS DISTINCT FROM 'invisible'"
    " UNION ALL SELECT 'a session has the timeout of its policy', s.user_id, format('session %L has %s, policy %L has %s', s.session_id, coalesce(s.timeout::text, 'none'), s.policy, coalesce(p.timeout::text, 'none'))"
    " FROM " SESSIONS_WITH_POLICY
    " AS s LEFT JOIN @.presence_policies AS p ON p.name = s.policy WHERE s.timeout IS DISTINCT FROM p.timeout",
    0,
    {}};

// As far as retention has kept the events. The feed knows of all who are online since its beginning only where it has no
// number 0, which stands for those who were online when it began.
Statement broken_turns = {
    "WITH dropped AS MATERIALIZED (SELECT coalesce(max(seq), 0) AS seq FROM @.presence_feed_dropped),"
    " last AS MATERIALIZED (SELECT DISTINCT ON (user_id COLLATE \"C\") user_id COLLATE \"C\" AS user_id, event"
    " FROM @.presence_event WHERE event IN ('user_online', 'user_offline') ORDER BY user_id COLLATE \"C\", id DESC)"
    " SELECT 'a user''s last event agrees with the user', l.user_id, format('it is %s', l.event)"
    " FROM last AS l LEFT JOIN @.presence_user AS u ON u.user_id = l.user_id WHERE (l.event = 'user_online') <> coalesce(u.online, false)"
    " UNION ALL SELECT 'a user who is online came online', u.user_id, 'there is no user_online'"
    " FROM @.presence_user AS u LEFT JOIN last AS l ON l.user_id = u.user_id, dropped"
    " WHERE u.online AND l.user_id IS NULL AND dropped.seq = 0 AND NOT EXISTS (SELECT FROM @.presence_feed_range WHERE first_seq = 0)"
    " UNION ALL SELECT 'the feed counts who is online', NULL, format('it counts %s, but %s are online', counted, online)"
    " FROM (SELECT coalesce((SELECT online_users FROM @.presence_feed_range ORDER BY first_seq DESC LIMIT 1), 0)"
    " + count(*) FILTER (WHERE event = 'user_online') - count(*) FILTER (WHERE event = 'user_offline') AS counted,"
    " (SELECT count(*) FROM @.presence_user WHERE online) AS online FROM @.presence_event_queue) AS c WHERE counted <> online",
    0,
    {}};

Statement broken_numbers = {
    "WITH dropped AS MATERIALIZED (SELECT coalesce(max(seq), 0) AS seq FROM @.presence_feed_dropped),"
    " ranges AS MATERIALIZED (SELECT *, first_seq + events - 1 AS last_seq, first_id + events - 1 AS last_of_range FROM @.presence_feed_range),"
    " queue AS MATERIALIZED (SELECT id FROM @.presence_event_queue),"
    " numbered AS MATERIALIZED (SELECT generate_series(first_id, last_of_range) AS id FROM ranges),"
    " turns AS (SELECT id, user_id, event, lag(event) OVER (PARTITION BY user_id COLLATE \"C\" ORDER BY id) AS before"
    " FROM @.presence_event WHERE event IN ('user_online', 'user_offline'))"
    " SELECT 'user_online and user_offline alternate', user_id, format('event %s is another %s', id, event) FROM turns WHERE event = before"
    " UNION ALL SELECT 'numbers have no gap', NULL, format('after %s comes %s', coalesce(r.before, dropped.seq), r.first_seq)"
    " FROM (SELECT first_seq, lag(last_seq) OVER (ORDER BY first_seq) AS before FROM ranges, dropped WHERE last_seq > dropped.seq) AS r, dropped"
    " WHERE CASE WHEN r.before IS NULL THEN r.first_seq > dropped.seq + 1 ELSE r.first_seq <> r.before + 1 END"
    " UNION ALL SELECT 'an event has one number', NULL, format('ids %s to %s have a number, and so has %s', first_id, last_of_range, following)"
    " FROM (SELECT first_id, last_of_range, lead(first_id) OVER (ORDER BY first_id) AS following FROM ranges) AS r WHERE following <= last_of_range"
    " UNION ALL SELECT 'a number has an event', NULL, format('of events with numbers %s to %s, some are missing', first_seq, last_seq)"
    " FROM (SELECT r.first_seq, r.last_seq, greatest(last_seq - greatest(first_seq - 1, dropped.seq), 0) AS expected,"
    " (SELECT count(*) FROM @.presence_event AS e WHERE e.id BETWEEN r.first_id + greatest(dropped.seq + 1 - r.first_seq, 0) AND r.last_of_range) AS found"
    " FROM ranges AS r, dropped) AS r WHERE expected <> found"
    " UNION ALL SELECT 'every event is numbered or waits for it', NULL, format('event %s is neither', id)"
    " FROM (SELECT id FROM @.presence_event EXCEPT SELECT id FROM numbered EXCEPT SELECT id FROM queue) AS e"
    " UNION ALL SELECT 'an event that waits for its number has none', NULL, format('event %s has one', id)"
    " FROM (SELECT id FROM queue INTERSECT SELECT id FROM numbered) AS e"
    " UNION ALL SELECT 'what waits to be announced has a number', NULL, format('%s to %s have none', first_seq, last_seq)"
    " FROM @.presence_unannounced WHERE last_seq > coalesce((SELECT max(last_seq) FROM ranges), 0)"
    " UNION ALL SELECT 'numbers that were given are kept', NULL, 'there are none any more'"
    " WHERE EXISTS (SELECT FROM @.presence_feed_dropped) AND NOT EXISTS (SELECT FROM ranges)"
    " UNION ALL SELECT 'the feed has an epoch', NULL, 'there is none' WHERE NOT EXISTS (SELECT FROM @.presence_feed)",
    0,
    {}};

#define COUNTED_ROOMS                                                                                                                                          \
    " newest AS (SELECT room, count(*) AS rows, (array_agg(users ORDER BY seq DESC))[1] AS users FROM @.presence_room_count GROUP BY room),"                   \
    " changes AS (SELECT room COLLATE \"C\" AS room, (count(*) FILTER (WHERE event = 'room_join')) - (count(*) FILTER (WHERE event = 'room_leave')) AS change" \
    " FROM @.presence_event_queue WHERE room IS NOT NULL GROUP BY 1),"                                                                                         \
    " counted AS (SELECT room, sum(users) AS users FROM (SELECT room, users FROM newest UNION ALL SELECT room, change FROM changes) AS c GROUP BY room),"
#define WRONG_COUNTS                                                                                                   \
    " FROM counted AS c FULL JOIN present AS p ON p.room = c.room WHERE coalesce(c.users, 0) <> coalesce(p.users, 0)"

Statement wrong_room_counts = {
    "WITH" COUNTED_ROOMS
    " present AS (SELECT room, count(DISTINCT user_id) AS users FROM @.presence_room_member GROUP BY room)"
    " SELECT" WRONG_COUNTS " UNION ALL SELECT FROM newest WHERE rows > 1",
    0,
    {}};

// As far as retention has kept the events.
Statement broken_rooms = {
    "WITH member AS MATERIALIZED (SELECT m.*, s.online IS TRUE AND s.ended_at IS NULL AS session_online FROM @.presence_room_member AS m"
    " LEFT JOIN @.presence_session AS s ON s.user_id = m.user_id AND s.session_id = m.session_id),"
    " occupant AS MATERIALIZED (SELECT user_id, room, min(entered_at) AS entered_at, max(entered_at) AS last_entered,"
    " count(*) AS members, count(leave_until) AS leaving FROM member GROUP BY user_id, room),"
    " events AS MATERIALIZED (SELECT id, user_id COLLATE \"C\" AS user_id, room, event FROM @.presence_event WHERE room IS NOT NULL AND event IN ('room_join', 'room_leave')),"
    " turns AS (SELECT *, lag(event) OVER (PARTITION BY user_id, room ORDER BY id) AS before,"
    " lead(event) OVER (PARTITION BY user_id, room ORDER BY id) AS after FROM events)," COUNTED_ROOMS
    " present AS (SELECT room, count(*) AS users FROM occupant GROUP BY room)"
    " SELECT 'a session in a room is online, or is leaving', user_id, format('session %L is neither, in room %L', session_id, room)"
    " FROM member WHERE NOT session_online AND leave_until IS NULL"
    " UNION ALL SELECT 'a user in a room is online', o.user_id, format('in room %L', o.room)"
    " FROM occupant AS o LEFT JOIN @.presence_user AS u ON u.user_id = o.user_id WHERE u.online IS NOT TRUE"
    " UNION ALL SELECT 'a session that is leaving a room is the last one there', user_id, format('in room %L there are %s', room, members)"
    " FROM occupant WHERE leaving > 0 AND members > 1"
    " UNION ALL SELECT 'the sessions of a user have one entered_at in a room', user_id, format('in room %L, %s to %s', room, entered_at, last_entered)"
    " FROM occupant WHERE entered_at <> last_entered"
    " UNION ALL SELECT 'room_join and room_leave alternate', user_id, format('event %s is another %s in room %L', id, event, room) FROM turns WHERE event = before"
    " UNION ALL SELECT 'a user''s last event in a room agrees with the room', t.user_id, format('in room %L it is %s', t.room, t.event)"
    " FROM turns AS t LEFT JOIN occupant AS o ON o.user_id = t.user_id AND o.room = t.room WHERE t.after IS NULL AND (t.event = 'room_join') <> (o.user_id IS NOT NULL)"
    " UNION ALL SELECT 'a user who is in a room came there', o.user_id, format('there is no room_join in room %L', o.room)"
    " FROM occupant AS o LEFT JOIN events AS e ON e.user_id = o.user_id AND e.room = o.room"
    " WHERE e.id IS NULL AND NOT EXISTS (SELECT FROM @.presence_feed_dropped WHERE seq > 0) AND NOT EXISTS (SELECT FROM @.presence_feed_range WHERE first_seq = 0)"
    " UNION ALL SELECT 'the feed counts who is in a room', NULL, format('it counts %s in room %L, but there are %s', coalesce(c.users, 0), coalesce(c.room, p.room), coalesce(p.users, 0))" WRONG_COUNTS
    " UNION ALL SELECT 'a room has one count', NULL, format('room %L has %s', room, rows) FROM newest WHERE rows > 1",
    0,
    {}};

// Sessions of which no event waits to be read. Where retention dropped what comes next, the reports will begin anew.
Statement broken_reports = {
    "WITH read AS MATERIALIZED (SELECT seq FROM @.presence_report_position"
    " WHERE seq >= (SELECT coalesce(max(seq), 0) FROM @.presence_feed_dropped)),"
    " last AS (SELECT first_seq + events - 1 AS seq FROM @.presence_feed_range ORDER BY first_seq DESC LIMIT 1),"
    " unread AS MATERIALIZED (SELECT id FROM @.presence_event_queue UNION ALL"
    " SELECT r.first_id + n FROM read, @.presence_feed_range AS r, generate_series(greatest(read.seq - r.first_seq + 1, 0), r.events - 1) AS n"
    " WHERE r.first_seq >= (SELECT coalesce(max(first_seq), 0) FROM @.presence_feed_range WHERE first_seq <= read.seq + 1)),"
    " waiting AS (SELECT e.user_id COLLATE \"C\" AS user_id, coalesce(e.session_id, '') COLLATE \"C\" AS session_id FROM unread JOIN @.presence_event AS e USING (id)"
    " WHERE e.event IN ('session_start', 'session_end')),"
    " online AS (SELECT user_id, session_id FROM @.presence_session WHERE online AND ended_at IS NULL)"
    " SELECT CASE WHEN o.user_id IS NULL THEN 'a session that goes on in the reports is online' ELSE 'a session that is online goes on in the reports' END,"
    " user_id, format('session %L is not', session_id)"
    " FROM online AS o FULL JOIN @.presence_report_session AS r USING (user_id, session_id), read"
    " WHERE (o.user_id IS NULL OR r.user_id IS NULL) AND (user_id, session_id) NOT IN (SELECT * FROM waiting)"
    " UNION ALL SELECT 'the reports have read no more than there is', NULL, format('%s of %s', read.seq, coalesce(last.seq, 0))"
    " FROM read LEFT JOIN last ON true WHERE read.seq > coalesce(last.seq, (SELECT max(seq) FROM @.presence_feed_dropped), 0)",
    0,
    {}};

void report(ReturnSetInfo *result, Statement &statement)
{
    const std::uint64_t count = run(statement, nullptr, nullptr, true);
    for (std::uint64_t i = 0; i < count; ++i) {
        Datum values[3];
        bool nulls[3];
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    SPI_freetuptable(SPI_tuptable);
}

void report_difference(const CacheDifference &difference, void *context)
{
    auto *result = static_cast<ReturnSetInfo *>(context);
    const bool unknown = difference.claim == nullptr;
    Datum values[] = {CStringGetTextDatum(unknown
                                              ? "the cache knows all sessions that are online"
                                              : "the cache takes heartbeats of sessions that are online, as they are"),
                      0, 0};
    if (unknown) {
        values[1] = PointerGetDatum(make_text(difference.name.user));
        values[2] = CStringGetTextDatum(
            psprintf("it does not know session \"%s\"", text_to_cstring(make_text(difference.name.session))));
    } else {
        values[2] =
            CStringGetTextDatum(psprintf("the entry " UINT64_FORMAT " has no such row", difference.claim->key.hi));
    }
    const bool nulls[] = {false, !unknown, false};
    tuplestore_putvalues(result->setResult, result->setDesc, values, const_cast<bool *>(nulls));
}

// The extension's own writes do not evaluate them.
void report_broken_constraints(ReturnSetInfo *result, Table which)
{
    Relation table = table_open(table_oid(which), AccessShareLock);
    const TupleConstr *constraints = RelationGetDescr(table)->constr;
    const int count = constraints != nullptr ? constraints->num_check : 0;
    EState *state = CreateExecutorState();
    ExprContext *context = GetPerTupleExprContext(state);
    auto **checks = static_cast<ExprState **>(palloc(sizeof(ExprState *) * static_cast<std::size_t>(count + 1)));
    for (int i = 0; i < count; ++i)
        checks[i] = ExecPrepareExpr(static_cast<Expr *>(stringToNode(constraints->check[i].ccbin)), state);
    TupleTableSlot *row = table_slot_create(table, nullptr);
    TableScanDesc scan = table_beginscan(table, GetActiveSnapshot(), 0, nullptr);
    while (table_scan_getnextslot(scan, ForwardScanDirection, row)) {
        CHECK_FOR_INTERRUPTS();
        ResetPerTupleExprContext(state);
        context->ecxt_scantuple = row;
        for (int i = 0; i < count; ++i) {
            if (ExecCheck(checks[i], context))
                continue;
            const char *where = DatumGetCString(DirectFunctionCall1(tidout, PointerGetDatum(&row->tts_tid)));
            Datum values[] = {
                CStringGetTextDatum("a row meets the constraints of its table"), 0,
                CStringGetTextDatum(psprintf("row %s of %s violates %s", where, RelationGetRelationName(table),
                                             constraints->check[i].ccname))};
            bool nulls[] = {false, true, false};
            tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
        }
    }
    table_endscan(scan);
    ExecDropSingleTupleTableSlot(row);
    FreeExecutorState(state);
    table_close(table, NoLock);
}

// In the order of those who write.
constexpr Table watched_tables[] = {Table::user,  Table::session,    Table::hidden_session, Table::room_member,
                                    Table::event, Table::feed_range, Table::feed_dropped,   Table::room_count};

}  // namespace

bool feed_is_damaged() { return run(broken_numbers) > 0; }
bool room_counts_agree() { return run(wrong_room_counts) == 0; }

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_verify)
{
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    // What changes them waits for the end of this call; heartbeats of known sessions, and whoever reads, do not.
    const bool lock = !RecoveryInProgress();
    for (const Table table : watched_tables)
        if (lock)
            LockRelationOid(table_oid(table), ShareLock);
    if (lock)
        await_prepared_commits();
    CommandCounterIncrement();
    PushActiveSnapshot(GetLatestSnapshot());
    report(result, broken_users);
    report(result, broken_turns);
    report(result, broken_numbers);
    report(result, broken_rooms);
    report(result, broken_reports);
    for (const Table table : watched_tables)
        report_broken_constraints(result, table);
    if (lock)
        compare_cache(true, report_difference, result);
    PopActiveSnapshot();
    for (const Table table : watched_tables)
        if (lock)
            UnlockRelationOid(table_oid(table), ShareLock);
    end_owner_work(work);
    return 0;
}
