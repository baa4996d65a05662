#include "reports.h"

#include <algorithm>

#include "extension.h"
#include "feed.h"
#include "feed_tables.h"
#include "review.h"
#include "settings.h"
#include "shared.h"

namespace presence {

namespace {

Statement find_position = {"SELECT seq, at FROM @.presence_report_position", 0, {}};
// Rows that were added by hand may be a dump of which more comes.
Statement any_change = {"SELECT FROM @.presence_change LIMIT 1", 0, {}};

// Where nothing was read yet, or what comes next was dropped: with the first event that is left ($1: the time now, where there
// is none). Whoever is online then and began before it is known from the table, and is counted as any other whose sessions go on.
Statement begin = {
    "WITH dropped AS (SELECT coalesce(max(seq), 0) AS seq FROM @.presence_feed_dropped),"
    " start AS (SELECT seq, coalesce((SELECT least(at, $1) FROM @.presence_event ORDER BY id LIMIT 1), $1) AS at FROM dropped),"
    " sessions AS (SELECT s.user_id, s.session_id, s.joined_at, (start.at AT TIME ZONE 'UTC')::date - 1 FROM @.presence_session AS s, start WHERE s.online AND s.ended_at IS NULL AND s.joined_at < start.at),"
    " kept AS (INSERT INTO @.presence_report_session (user_id, session_id, started_at, day) SELECT * FROM sessions)"
    " INSERT INTO @.presence_report_position AS p (seq, at) SELECT seq, at FROM start"
    " ON CONFLICT (singleton) DO UPDATE SET seq = excluded.seq, at = excluded.at RETURNING seq, at",
    1,
    {TIMESTAMPTZOID}};
Statement empty_sessions = {"DELETE FROM @.presence_report_session", 0, {}};

// The end of what is read next: whole passes of numbering, because only the last range of each says how many are online after
// it. $1: after which number; $2: about how many events.
Statement find_batch = {
    "SELECT last_seq, online_users, last_seq >= (SELECT max(first_seq + events - 1) FROM @.presence_feed_range) AS is_last FROM"
    " (SELECT first_seq + events - 1 AS last_seq, online_users, sum(events) OVER (ORDER BY first_seq) AS total FROM"
    " (SELECT * FROM @.presence_feed_range WHERE first_seq >= (SELECT coalesce(max(first_seq), 0) FROM @.presence_feed_range WHERE first_seq <= $1 + 1)"
    " ORDER BY first_seq LIMIT 2 * $2) AS next) AS added"
    " WHERE last_seq > $1 AND online_users IS NOT NULL ORDER BY total > $2, CASE WHEN total > $2 THEN total ELSE -total END LIMIT 1",
    2,
    {INT8OID, INT4OID}};
Statement online_at_end = {"SELECT online_users FROM @.presence_feed_range ORDER BY first_seq DESC LIMIT 1", 0, {}};

// Reads the events after $1 up to $2, after which $3 users are online. $4: up to which time everything is in the reports; $5: the
// time up to which it is to be then, if that is later than the last event, or NULL; $6: the time now, later than which nothing
// happened; $7: nothing older than this is kept; $8: how many sessions of others, which go on, are looked at.
//
// A user counts once in each of the windows of 1, 7 and 30 days that end on a day, and is added to the windows in which the day
// before on which he was there is not. So it is enough to know that day, and to count each user's days in their order: all of the
// user's sessions that go on are looked at where one of them begins or ends, and those of others before the next events are read.
Statement add_up = {
    "WITH batch AS MATERIALIZED ("
    " SELECT e.seq, greatest($4, max(least(e.at, $6)) OVER (ORDER BY e.seq)) AS at, e.event, e.user_id COLLATE \"C\" AS user_id,"
    "  coalesce(e.session_id, '') COLLATE \"C\" AS session_id, e.reason"
    " FROM (SELECT r.first_seq + (e.id - r.first_id) AS seq, e.* FROM @.presence_feed_range AS r"
    "  JOIN @.presence_event AS e ON e.id BETWEEN r.first_id AND r.first_id + r.events - 1"
    "  WHERE r.first_seq >= (SELECT coalesce(max(first_seq), 0) FROM @.presence_feed_range WHERE first_seq <= $1 + 1) AND r.first_seq <= $2"
    "  AND e.event IN ('user_online', 'user_offline', 'session_start', 'session_end')) AS e"
    " WHERE e.seq > $1 AND e.seq <= $2"
    "), done AS MATERIALIZED ("
    " SELECT at, (at AT TIME ZONE 'UTC')::date AS day, ($7 AT TIME ZONE 'UTC')::date AS oldest_day FROM (SELECT greatest($4, $5, (SELECT max(at) FROM batch)) AS at) AS latest"

    // How many were online, in slots of five minutes.
    "), changes AS ("
    " SELECT seq, at, user_id, event, CASE event WHEN 'user_online' THEN 1 ELSE -1 END AS change,"
    "  lag(event) OVER one AS previous, lag(at) OVER one AS previous_at, lead(seq) OVER one IS NULL AS is_last"
    " FROM batch WHERE event IN ('user_online', 'user_offline') WINDOW one AS (PARTITION BY user_id ORDER BY seq)"
    "), counts AS ("
    " SELECT $1 AS seq, $4 AS at, $3 - coalesce((SELECT sum(change) FROM changes), 0) AS online"
    " UNION ALL SELECT seq, at, $3 - coalesce(sum(change) OVER (ORDER BY seq DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) FROM changes"
    "), spans AS ("
    " SELECT greatest(online, 0)::bigint AS online, at AS from_at, lead(at, 1, (SELECT at FROM done)) OVER (ORDER BY seq) AS to_at FROM counts"
    "), slices AS ("
    " SELECT s.online, slot.at, greatest(s.from_at, slot.at) AS from_at,"
    "  extract(epoch FROM least(s.to_at, slot.at + '5 min'::interval) - greatest(s.from_at, slot.at))::double precision AS seconds"
    " FROM spans AS s, generate_series(date_bin('5 min', greatest(s.from_at, $7), '2000-01-01 00:00+00'), s.to_at, '5 min'::interval) AS slot (at)"
    " WHERE slot.at < s.to_at OR slot.at <= s.from_at"
    "), slots AS ("
    " INSERT INTO @.presence_report_slot AS s (at, seconds, person_seconds, peak, peak_at)"
    " SELECT at, sum(seconds), sum(seconds * online), max(online), (array_agg(from_at ORDER BY online DESC, from_at))[1] FROM slices GROUP BY at"
    " ON CONFLICT (at) DO UPDATE SET seconds = s.seconds + excluded.seconds, person_seconds = s.person_seconds + excluded.person_seconds,"
    "  peak = greatest(s.peak, excluded.peak), peak_at = CASE WHEN excluded.peak > s.peak THEN excluded.peak_at ELSE s.peak_at END"

    // Sessions, from their beginning to their end.
    "), steps AS MATERIALIZED ("
    " SELECT seq, at, user_id, session_id, event, reason, lag(event) OVER one AS previous, lead(event) OVER one AS next, lead(at) OVER one AS next_at,"
    "  lead(reason) OVER one AS next_reason"
    " FROM batch WHERE event IN ('session_start', 'session_end') WINDOW one AS (PARTITION BY user_id, session_id ORDER BY seq)"
    "), spells AS MATERIALIZED ("
    " SELECT user_id, at AS from_at, next_at AS to_at, next_reason AS reason, next IS NOT DISTINCT FROM 'session_end' AS ended,"
    "  (at AT TIME ZONE 'UTC')::date AS first_day FROM steps WHERE event = 'session_start'"
    " UNION ALL SELECT e.user_id, o.started_at, e.at, e.reason, true, o.day + 1 FROM steps AS e LEFT JOIN @.presence_report_session AS o"
    "  ON o.user_id = e.user_id AND o.session_id = e.session_id WHERE e.event = 'session_end' AND e.previous IS DISTINCT FROM 'session_start'"
    "), lengths AS ("
    " SELECT at_least, lead(at_least) OVER (ORDER BY at_least) AS less_than"
    " FROM unnest('{0s,10s,30s,1min,2min,5min,10min,30min,1h,2h,4h,8h,24h}'::interval[]) AS at_least"
    "), ends AS ("
    " INSERT INTO @.presence_report_end AS s (day, reason, at_least, less_than, sessions)"
    " SELECT (e.to_at AT TIME ZONE 'UTC')::date, e.reason, l.at_least, l.less_than, count(*) FROM spells AS e LEFT JOIN lengths AS l"
    "  ON make_interval(secs => greatest(extract(epoch FROM e.to_at - e.from_at), 0)::double precision) >= l.at_least"
    "  AND (l.less_than IS NULL OR make_interval(secs => greatest(extract(epoch FROM e.to_at - e.from_at), 0)::double precision) < l.less_than)"
    " WHERE e.ended AND e.to_at >= $7 GROUP BY 1, 2, 3, 4"
    " ON CONFLICT (day, reason, at_least) DO UPDATE SET sessions = s.sessions + excluded.sessions"
    "), last_steps AS ("
    " SELECT user_id, session_id, event, at FROM steps WHERE next IS NULL"
    "), opened AS ("
    " INSERT INTO @.presence_report_session (user_id, session_id, started_at, day) SELECT l.user_id, l.session_id, l.at, done.day FROM last_steps AS l, done WHERE l.event = 'session_start'"
    " ON CONFLICT (user_id, session_id) DO UPDATE SET started_at = excluded.started_at, day = excluded.day"
    "), closed AS ("
    " DELETE FROM @.presence_report_session AS s USING last_steps AS l WHERE l.event = 'session_end' AND s.user_id = l.user_id AND s.session_id = l.session_id"

    // Who was there on which day.
    "), lasting AS MATERIALIZED ("
    " SELECT o.user_id, o.session_id, o.day FROM @.presence_report_session AS o, done WHERE o.day < done.day AND o.user_id IN (SELECT user_id FROM steps)"
    "  AND NOT EXISTS (SELECT FROM steps AS e WHERE e.user_id = o.user_id AND e.session_id = o.session_id)"
    " UNION (SELECT o.user_id, o.session_id, o.day FROM @.presence_report_session AS o, done WHERE o.day < done.day"
    "  AND NOT EXISTS (SELECT FROM steps AS e WHERE e.user_id = o.user_id AND e.session_id = o.session_id) ORDER BY o.day LIMIT $8)"
    "), counted AS ("
    " UPDATE @.presence_report_session AS s SET day = done.day FROM lasting AS o, done WHERE s.user_id = o.user_id AND s.session_id = o.session_id"
    "), present AS MATERIALIZED ("
    " SELECT DISTINCT there.user_id, there.first_day + n AS day FROM ("
    "  SELECT s.user_id, s.first_day, coalesce((s.to_at AT TIME ZONE 'UTC')::date, done.day) AS last_day FROM spells AS s, done WHERE s.first_day IS NOT NULL"
    "  UNION ALL SELECT o.user_id, o.day + 1, done.day FROM lasting AS o, done) AS there,"
    " done, generate_series(greatest(done.oldest_day - there.first_day, 0), there.last_day - there.first_day) AS n"
    "), firsts AS ("
    " SELECT p.day, greatest(lag(p.day) OVER (PARTITION BY p.user_id ORDER BY p.day), u.last_day) AS before"
    " FROM present AS p LEFT JOIN @.presence_report_user AS u ON u.user_id = p.user_id"
    "), news AS ("
    " SELECT day, before, count(*) AS users FROM firsts WHERE before IS NULL OR day > before GROUP BY day, before"
    "), days AS ("
    " INSERT INTO @.presence_report_day AS d (day, users, users_7d, users_30d, arrivals)"
    " SELECT day, sum(users), sum(users_7d), sum(users_30d), sum(arrivals) FROM ("
    "  SELECT news.day + n AS day, CASE WHEN n = 0 THEN users ELSE 0 END AS users, CASE WHEN n < 7 AND news.day + n >= coalesce(before + 7, news.day) THEN users ELSE 0 END AS users_7d,"
    "   CASE WHEN news.day + n >= coalesce(before + 30, news.day) THEN users ELSE 0 END AS users_30d, 0 AS arrivals FROM news, generate_series(0, 29) AS n"
    "  UNION ALL SELECT (at AT TIME ZONE 'UTC')::date, 0, 0, 0, count(*) FROM changes WHERE event = 'user_online' AND at >= $7 GROUP BY 1) AS parts GROUP BY day"
    " ON CONFLICT (day) DO UPDATE SET users = d.users + excluded.users, users_7d = d.users_7d + excluded.users_7d, users_30d = d.users_30d + excluded.users_30d,"
    "  arrivals = d.arrivals + excluded.arrivals"

    // Who comes back within a minute, again and again.
    "), returns AS ("
    " INSERT INTO @.presence_report_return AS r (hour, user_id, returns)"
    " SELECT date_bin('1 hour', c.at, '2000-01-01 00:00+00'), c.user_id, count(*) FROM changes AS c LEFT JOIN @.presence_report_user AS u ON u.user_id = c.user_id"
    " WHERE c.event = 'user_online' AND c.at >= $7 AND c.at - CASE c.previous WHEN 'user_offline' THEN c.previous_at WHEN 'user_online' THEN NULL ELSE u.offline_at END < '1 min'::interval"
    " GROUP BY 1, 2 ON CONFLICT (hour, user_id) DO UPDATE SET returns = r.returns + excluded.returns"
    "), users AS ("
    " INSERT INTO @.presence_report_user AS u (user_id, last_day, offline_at)"
    " SELECT user_id, coalesce(p.last_day, o.last_day), CASE c.event WHEN 'user_offline' THEN c.at WHEN 'user_online' THEN NULL ELSE o.offline_at END"
    " FROM (SELECT user_id, max(day) AS last_day FROM present GROUP BY user_id) AS p"
    " FULL JOIN (SELECT user_id, event, at FROM changes WHERE is_last) AS c USING (user_id) LEFT JOIN @.presence_report_user AS o USING (user_id)"
    " WHERE p.last_day IS NOT NULL OR o.last_day IS NOT NULL"
    " ON CONFLICT (user_id) DO UPDATE SET last_day = greatest(u.last_day, excluded.last_day), offline_at = excluded.offline_at"
    "  WHERE (u.last_day, u.offline_at) IS DISTINCT FROM (excluded.last_day, excluded.offline_at)"
    ")"
    " UPDATE @.presence_report_position SET seq = $2, at = done.at FROM done RETURNING presence_report_position.at, (SELECT count(*) FROM batch)",
    8,
    {INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID}};

// $1: the oldest time that is kept; $2: the oldest time that counts for the people of thirty days.
Statement forget_reports = {
    "WITH slots AS (DELETE FROM @.presence_report_slot WHERE at < $1), days AS (DELETE FROM @.presence_report_day WHERE day < ($1 AT TIME ZONE 'UTC')::date),"
    " ends AS (DELETE FROM @.presence_report_end WHERE day < ($1 AT TIME ZONE 'UTC')::date), returns AS (DELETE FROM @.presence_report_return WHERE hour < $1)"
    " DELETE FROM @.presence_report_user WHERE last_day < ($2 AT TIME ZONE 'UTC')::date",
    2,
    {TIMESTAMPTZOID, TIMESTAMPTZOID}};

// Sessions that go on although their day is over.
Statement any_uncounted = {
    "SELECT FROM @.presence_report_session WHERE day < ($1 AT TIME ZONE 'UTC')::date LIMIT 1", 1, {TIMESTAMPTZOID}};

constexpr int events_at_once = 5000;
constexpr int sessions_at_once = 2000;
constexpr Time window = 31 * USECS_PER_DAY;

struct Position {
    std::int64_t seq;
    Time at;
};

std::int64_t dropped()
{
    begin_command();
    const std::int64_t seq = dropped_seq(GetActiveSnapshot());
    end_command();
    return seq;
}

Position position(Time now)
{
    const std::int64_t low = dropped();
    if (run(find_position) > 0) {
        const Position known{DatumGetInt64(first_value(1)), DatumGetTimestampTz(first_value(2))};
        // Else it was switched off for so long that something is missing.
        if (known.seq >= low)
            return known;
    }
    run(empty_sessions);
    Datum values[] = {TimestampTzGetDatum(now)};
    run(begin, values);
    return {DatumGetInt64(first_value(1)), DatumGetTimestampTz(first_value(2))};
}

// One after the other, each of which moves the position. Without more events, the count at the end of the feed goes on until
// then.
std::int64_t add_up_events(Time until, Time deadline, bool &more)
{
    const Time now = GetCurrentTimestamp();
    const Time oldest = now - static_cast<Time>(report_retention_s) * USECS_PER_SEC;
    Position from = position(now);
    std::int64_t events = 0;
    more = true;
    while (more && GetCurrentTimestamp() < deadline) {
        CHECK_FOR_INTERRUPTS();
        Datum batch[] = {Int64GetDatum(from.seq), Int32GetDatum(events_at_once)};
        Datum reached = TimestampTzGetDatum(from.at);
        std::int64_t to = from.seq, online = 0;
        if (run(any_uncounted, &reached) > 0) {
            more = true;
        } else if (run(find_batch, batch) > 0) {
            to = DatumGetInt64(first_value(1));
            online = DatumGetInt64(first_value(2));
            more = !DatumGetBool(first_value(3));
        } else {
            run(online_at_end);
            online = DatumGetInt64(first_value(1));
            more = false;
        }
        Datum values[] = {Int64GetDatum(from.seq),
                          Int64GetDatum(to),
                          Int64GetDatum(online),
                          TimestampTzGetDatum(std::min(from.at, now)),
                          TimestampTzGetDatum(std::min(until, now)),
                          TimestampTzGetDatum(now),
                          TimestampTzGetDatum(oldest),
                          Int32GetDatum(sessions_at_once)};
        const char nulls[] = {' ', ' ', ' ', ' ', more ? 'n' : ' ', ' ', ' ', ' '};
        run(add_up, values, nulls);
        from = {to, DatumGetTimestampTz(first_value(1))};
        events += DatumGetInt64(first_value(2));
        reached = TimestampTzGetDatum(from.at);
        more = run(any_uncounted, &reached) > 0 || more;
    }
    return events;
}

// To compile such a statement would take longer than to run it.
template <typename Work>
auto without_jit(Work work)
{
    const int level = NewGUCNestLevel();
    set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    const auto result = work();
    AtEOXact_GUC(false, level);
    return result;
}

bool dump_is_being_read()
{
    SharedDatabase *database = my_database();
    return restore_is_running() || run(any_change) > 0 ||
           (database != nullptr && database->worker.review_due_ms() != PG_UINT64_MAX);
}

}  // namespace

bool write_reports(Time budget)
{
    if (!reports_enabled || dump_is_being_read() || !begin_feed_task(FeedTask::drop))
        return false;
    const Time now = GetCurrentTimestamp();
    return without_jit([=] {
        bool more = false;
        (void)add_up_events(now, now + budget, more);
        return more;
    });
}

void write_reports_now(Time budget)
{
    if (!reports_enabled)
        return;
    const Time now = GetCurrentTimestamp();
    without_jit([=] {
        bool more = false;
        return add_up_events(now, now + budget, more);
    });
}

std::int64_t reported_seq()
{
    if (!reports_enabled)
        return PG_INT64_MAX;
    return run(find_position) > 0 ? DatumGetInt64(first_value(1)) : 0;
}

void forget_old_reports()
{
    const Time now = GetCurrentTimestamp();
    Datum values[] = {TimestampTzGetDatum(now - static_cast<Time>(report_retention_s) * USECS_PER_SEC),
                      TimestampTzGetDatum(now - window)};
    run(forget_reports, values);
    // Switched off for so long that their ends will never be read.
    if (!reports_enabled && run(find_position) > 0 && DatumGetInt64(first_value(1)) < dropped())
        run(empty_sessions);
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_roll_up)
{
    require_writable("presence_roll_up");
    const OwnerWork work = begin_owner_work(fcinfo);
    if (!reports_enabled)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("presence.reports is off"),
                        errhint("Set presence.reports to on for this database or in the configuration.")));
    const Time until = PG_ARGISNULL(0) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(0);
    bring_feed_up_to_date();
    wait_for_feed_task(FeedTask::drop);
    const std::int64_t events = without_jit([=] {
        bool more = false;
        return add_up_events(until, PG_INT64_MAX, more);
    });
    end_owner_work(work);
    PG_RETURN_INT64(events);
}
