#include "review.h"

#include "cache_check.h"
#include "compat.h"
#include "datums.h"
#include "extension.h"
#include "feed.h"
#include "feed_tables.h"
#include "hooks.h"
#include "injection.h"
#include "lists.h"
#include "log.h"
#include "owner_guard.h"
#include "policies.h"
#include "settings.h"
#include "verify.h"

extern "C" {
#include "access/table.h"
#include "access/tableam.h"
#include "commands/progress.h"
#include "commands/trigger.h"
#include "utils/backend_status.h"
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

constexpr int most_users = 20000;

Statement counts = {
    "SELECT count(*) FILTER (WHERE online), coalesce(sum(sessions) FILTER (WHERE online), 0)::bigint,"
    " (SELECT count(*) FROM @.presence_session WHERE online) - (SELECT count(*) FROM @.presence_session WHERE leave_until IS NOT NULL), count(*),"
    " (SELECT count(*) FROM (SELECT DISTINCT user_id, room FROM @.presence_room_member) AS occupants),"
    " (SELECT coalesce(sum(users), 0)::bigint FROM @.presence_room_count) FROM @.presence_user",
    0,
    {}};

// The first argument is a list of users, or NULL: all.
#define USERS_WITH_SESSIONS                                                                                                                                       \
    "WITH ranked AS (SELECT *, array_position(ARRAY['active', 'busy', 'idle', 'away'], status) AS rank"                                                           \
    " FROM @.presence_session WHERE $1 IS NULL OR user_id = ANY ($1)),"                                                                                           \
    " owned AS (SELECT user_id, bool_or(online) AS online,"                                                                                                       \
    " (count(*) FILTER (WHERE online AND ended_at IS NULL))::int4 AS sessions,"                                                                                   \
    " (ARRAY['active', 'busy', 'idle', 'away'])[coalesce(min(rank) FILTER (WHERE online AND ended_at IS NULL), min(rank) FILTER (WHERE online))] AS status,"      \
    " min(online_since) FILTER (WHERE online) AS online_since, max(online_since) FILTER (WHERE online) AS last_since,"                                            \
    " min(coalesce(status_choice, '') COLLATE \"C\") FILTER (WHERE online) AS first_choice,"                                                                      \
    " max(coalesce(status_choice, '') COLLATE \"C\") FILTER (WHERE online) AS last_choice,"                                                                       \
    " min(coalesce(choice_until, 'infinity')) FILTER (WHERE online) AS first_until, max(coalesce(choice_until, 'infinity')) FILTER (WHERE online) AS last_until," \
    " max(ended_at) AS ended_at FROM ranked GROUP BY user_id)"
// What the feed tells of them last. Where its history is complete, who is not in it has never been online.
#define USERS_IN_FEED                                                                                                  \
    " complete AS (SELECT NOT EXISTS (SELECT FROM @.presence_feed_dropped WHERE seq > 0) AND NOT EXISTS (SELECT FROM @.presence_feed_range WHERE first_seq = 0) AS it),"
#define LAST_OF_USERS                                                                                                        \
    " told AS (SELECT DISTINCT ON (user_id COLLATE \"C\") user_id COLLATE \"C\" AS user_id, event = 'user_online' AS online" \
    " FROM @.presence_event WHERE event IN ('user_online', 'user_offline')"

// Those who disagree with their sessions, or ($2) with what the feed tells of them; and whose rows are missing.
Statement find_users = {
    USERS_WITH_SESSIONS
    "," USERS_IN_FEED LAST_OF_USERS " AND $2 ORDER BY user_id COLLATE \"C\", id DESC)"
    " SELECT array_agg(user_id ORDER BY user_id), array_agg(user_id ORDER BY user_id) FILTER (WHERE missing), count(*)"
    " FROM (SELECT coalesce(u.user_id, o.user_id, t.user_id) AS user_id, u.user_id IS NULL AS missing"
    " FROM @.presence_user AS u FULL JOIN owned AS o ON o.user_id = u.user_id FULL JOIN told AS t ON t.user_id = coalesce(u.user_id, o.user_id), complete"
    " WHERE CASE WHEN u.user_id IS NULL THEN o.user_id IS NOT NULL OR t.online"
    " ELSE u.online <> coalesce(o.online, false) OR u.sessions <> coalesce(o.sessions, 0) OR u.status IS DISTINCT FROM CASE WHEN o.status IS NOT NULL THEN coalesce(u.status_choice, o.status) END"
    " OR (o.online AND (o.first_choice <> o.last_choice OR o.first_choice <> coalesce(u.status_choice, '')"
    " OR o.first_until <> o.last_until OR o.first_until <> coalesce(u.choice_until, 'infinity')))"
    " OR (o.online AND (u.online_since IS DISTINCT FROM o.online_since OR o.online_since <> o.last_since)) OR t.online <> u.online"
    " OR ($2 AND u.online AND t.user_id IS NULL AND complete.it) END LIMIT $3) AS found",
    3,
    {TEXTARRAYOID, BOOLOID, INT4OID}};

// As if they had been there, offline: from here on nobody else can make them.
Statement create_users = {
    "INSERT INTO @.presence_user (user_id, offline_at) SELECT name, clock_timestamp() FROM unnest($1) AS name ORDER BY name COLLATE \"C\" ON CONFLICT DO NOTHING",
    1,
    {TEXTARRAYOID}};
Statement lock_users = {
    "SELECT array_agg(user_id), array_agg(user_id) FILTER (WHERE online), count(*) FROM (SELECT user_id, online FROM @.presence_user"
    " WHERE user_id = ANY ($1) ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED) AS held",
    1,
    {TEXTARRAYOID}};
// Returns those who stay online and are now shown with another status.
Statement correct_users = {
    USERS_WITH_SESSIONS
    ", corrected AS (UPDATE @.presence_user AS u SET online = coalesce(o.online, false), sessions = coalesce(o.sessions, 0),"
    " status = CASE WHEN o.status IS NOT NULL THEN coalesce(old.status_choice, o.status) END,"
    " online_since = coalesce(o.online_since, old.online_since),"
    " offline_at = CASE WHEN o.online THEN old.offline_at WHEN old.online OR old.offline_at IS NULL THEN coalesce(o.ended_at, clock_timestamp()) ELSE old.offline_at END"
    " FROM @.presence_user AS old LEFT JOIN owned AS o ON o.user_id = old.user_id WHERE old.user_id = ANY ($1) AND u.user_id = old.user_id"
    " RETURNING u.user_id, u.online AND old.online AND u.status <> old.status AS changed)"
    " SELECT array_agg(user_id) FROM corrected WHERE changed",
    1,
    {TEXTARRAYOID}};
Statement correct_sessions = {
    "UPDATE @.presence_session AS s SET online_since = u.online_since, status_choice = u.status_choice, choice_until = u.choice_until FROM @.presence_user AS u"
    " WHERE s.user_id = ANY ($1) AND u.user_id = s.user_id AND s.online"
    " AND (s.online_since, s.status_choice, s.choice_until) IS DISTINCT FROM (u.online_since, u.status_choice, u.choice_until)",
    1,
    {TEXTARRAYOID}};
// What the feed has to tell of them to agree again. $2: whose rows said that they were online; $3: whose status is another;
// $4 and $5: where events of users and of sessions are announced.
Statement write_changes = {
    "WITH" USERS_IN_FEED LAST_OF_USERS " AND user_id = ANY ($1) ORDER BY user_id COLLATE \"C\", id DESC),"
    " told_sessions AS (SELECT DISTINCT ON (user_id COLLATE \"C\", coalesce(session_id, '') COLLATE \"C\") user_id COLLATE \"C\" AS user_id,"
    " coalesce(session_id, '') COLLATE \"C\" AS session_id, event = 'session_start' AS online FROM @.presence_event"
    " WHERE event IN ('session_start', 'session_end') AND user_id = ANY ($1)"
    " ORDER BY user_id COLLATE \"C\", coalesce(session_id, '') COLLATE \"C\", id DESC),"
    " live AS (SELECT user_id, session_id FROM @.presence_session WHERE user_id = ANY ($1) AND online AND ended_at IS NULL),"
    " users AS (SELECT u.user_id, u.online, u.sessions, u.status, u.choice_message, coalesce(t.online, NOT complete.it AND u.user_id = ANY ($2), false) AS told_online"
    " FROM @.presence_user AS u LEFT JOIN told AS t ON t.user_id = u.user_id, complete WHERE u.user_id = ANY ($1)),"
    " changes AS (SELECT coalesce(t.user_id, l.user_id) AS user_id, nullif(coalesce(t.session_id, l.session_id), '') AS session_id,"
    " CASE WHEN t.online THEN 'session_end' ELSE 'session_start' END AS event, $5 AS channel, 1 AS step"
    " FROM told_sessions AS t FULL JOIN live AS l ON l.user_id = t.user_id AND l.session_id = t.session_id, complete"
    " WHERE coalesce(t.online, NOT complete.it) <> (l.user_id IS NOT NULL)"
    " UNION ALL SELECT user_id, NULL, CASE WHEN online THEN 'user_online' ELSE 'user_offline' END, $4, 2 FROM users WHERE online <> told_online"
    " UNION ALL SELECT user_id, NULL, 'update', $4, 3 FROM users WHERE online AND told_online AND user_id = ANY ($3))"
    " INSERT INTO @.presence_event (at, event, user_id, session_id, reason, sessions, details, channel)"
    " SELECT clock_timestamp(), c.event, c.user_id, c.session_id, 'admin', u.sessions,"
    " CASE WHEN u.online THEN jsonb_build_object('status', u.status, 'metadata', (SELECT metadata FROM @.presence_session AS s"
    " WHERE s.user_id = u.user_id AND s.online ORDER BY s.ended_at IS NULL DESC, s.heartbeat_at DESC LIMIT 1))"
    " || CASE WHEN u.choice_message IS NULL THEN '{}' ELSE jsonb_build_object('message', u.choice_message) END END, c.channel"
    " FROM changes AS c JOIN users AS u ON u.user_id = c.user_id ORDER BY c.user_id, c.step",
    5,
    {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTOID}};
Statement forget_bare_users = {
    "DELETE FROM @.presence_user AS u WHERE user_id = ANY ($1) AND NOT EXISTS (SELECT FROM @.presence_session AS s WHERE s.user_id = u.user_id)",
    1,
    {TEXTARRAYOID}};

// Sessions that are where those of the user's choice do not belong: of invisible users where others see them, of others where
// nobody does. They end, or go; whoever is there begins them again with the next heartbeat.
Statement find_misplaced = {
    "SELECT array_agg(user_id), count(*) FROM (SELECT user_id FROM @.presence_user AS u WHERE status_choice = 'invisible' AND EXISTS"
    " (SELECT FROM @.presence_session AS s WHERE s.user_id = u.user_id AND s.online) UNION SELECT h.user_id FROM @.presence_hidden_session AS h"
    " LEFT JOIN @.presence_user AS u ON u.user_id = h.user_id WHERE u.status_choice IS DISTINCT FROM 'invisible') AS found",
    0,
    {}};
Statement end_misplaced = {
    "UPDATE @.presence_session SET online = false, ended_at = coalesce(ended_at, clock_timestamp()), end_reason = coalesce(end_reason, 'admin'), leave_until = NULL"
    " WHERE online AND user_id IN (SELECT user_id FROM @.presence_user WHERE user_id = ANY ($1) AND status_choice = 'invisible')",
    1,
    {TEXTARRAYOID}};
Statement remove_misplaced = {
    "DELETE FROM @.presence_hidden_session AS h WHERE user_id = ANY ($1) AND NOT EXISTS"
    " (SELECT FROM @.presence_user AS u WHERE u.user_id = h.user_id AND (u.status_choice = 'invisible' OR u.user_id <> ALL ($2)))",
    2,
    {TEXTARRAYOID, TEXTARRAYOID}};
// The last event of each user in each room. $1: whose, or NULL: everybody's.
#define LAST_IN_ROOMS                                                                                                                   \
    " told AS (SELECT DISTINCT ON (user_id COLLATE \"C\", room) user_id COLLATE \"C\" AS user_id, room, event = 'room_join' AS present" \
    " FROM @.presence_event WHERE room IS NOT NULL AND event IN ('room_join', 'room_leave') AND ($1 IS NULL OR user_id = ANY ($1))"     \
    " ORDER BY user_id COLLATE \"C\", room, id DESC),"
// What is to become of those who are in rooms: they stay if their session and their user are there, and one who is leaving
// stays if it is the only one.
#define JUDGED_MEMBERS                                                                                                                               \
    " candidate AS (SELECT m.user_id, m.room, m.session_id, m.entered_at, m.leave_until, m.metadata, m.changed_at, u.status,"                        \
    " coalesce(u.online AND (m.leave_until IS NOT NULL OR (s.online AND s.ended_at IS NULL)), false) AS is_there"                                    \
    " FROM @.presence_room_member AS m LEFT JOIN @.presence_user AS u ON u.user_id = m.user_id"                                                      \
    " LEFT JOIN @.presence_session AS s ON s.user_id = m.user_id AND s.session_id = m.session_id WHERE $1 IS NULL OR m.user_id = ANY ($1)),"         \
    " judged AS (SELECT *, is_there AND (leave_until IS NULL OR (count(*) FILTER (WHERE is_there) OVER (PARTITION BY user_id, room)) = 1) AS stays," \
    " min(entered_at) OVER (PARTITION BY user_id, room) AS first_entered FROM candidate)"

// Whose rooms disagree with their sessions, or ($2) with what the feed tells of them; and whose rows are missing.
Statement find_in_rooms = {
    "WITH" USERS_IN_FEED LAST_IN_ROOMS JUDGED_MEMBERS
    " SELECT array_agg(f.user_id ORDER BY f.user_id), array_agg(f.user_id) FILTER (WHERE u.user_id IS NULL), count(*), count(u.user_id)"
    " FROM (SELECT user_id FROM judged WHERE NOT stays OR entered_at <> first_entered"
    " UNION SELECT coalesce(t.user_id, o.user_id) FROM (SELECT * FROM told WHERE $2) AS t"
    " FULL JOIN (SELECT DISTINCT user_id, room FROM judged WHERE $2) AS o ON o.user_id = t.user_id AND o.room = t.room, complete"
    " WHERE coalesce(t.present, NOT complete.it) <> (o.user_id IS NOT NULL) LIMIT $3) AS f"
    " LEFT JOIN @.presence_user AS u ON u.user_id = f.user_id",
    3,
    {TEXTARRAYOID, BOOLOID, INT4OID}};
// $2: where it is announced; $3: by presence.room_channels instead.
Statement correct_rooms = {
    "WITH" USERS_IN_FEED LAST_IN_ROOMS JUDGED_MEMBERS
    ", gone AS (DELETE FROM @.presence_room_member AS m USING judged AS j"
    " WHERE m.user_id = j.user_id AND m.room = j.room AND m.session_id = j.session_id AND NOT j.stays),"
    " moved AS (UPDATE @.presence_room_member AS m SET entered_at = j.first_entered FROM judged AS j"
    " WHERE m.user_id = j.user_id AND m.room = j.room AND m.session_id = j.session_id AND j.stays AND j.entered_at <> j.first_entered),"
    " occupant AS (SELECT user_id, room, bool_or(stays) AS present, (count(*) FILTER (WHERE stays AND leave_until IS NULL))::int4 AS sessions, min(status) AS status,"
    " (array_agg(metadata ORDER BY changed_at DESC) FILTER (WHERE stays AND metadata IS NOT NULL))[1] AS metadata FROM judged GROUP BY user_id, room)"
    " INSERT INTO @.presence_event (at, event, user_id, reason, sessions, details, channel, room)"
    " SELECT clock_timestamp(), CASE WHEN o.present THEN 'room_join' ELSE 'room_leave' END, coalesce(t.user_id, o.user_id), 'admin', coalesce(o.sessions, 0),"
    " CASE WHEN o.present THEN jsonb_build_object('status', o.status, 'metadata', o.metadata) END,"
    " CASE WHEN $3 THEN @.presence_room_channel(coalesce(t.room, o.room)::@.presence_id) ELSE $2 END, coalesce(t.room, o.room)"
    " FROM told AS t FULL JOIN occupant AS o ON o.user_id = t.user_id AND o.room = t.room, complete"
    " WHERE coalesce(t.present, NOT complete.it AND o.user_id IS NOT NULL) <> coalesce(o.present, false)",
    3,
    {TEXTARRAYOID, TEXTOID, BOOLOID}};

// Where there is no shared memory in which to note them. Whoever reviews takes them first, so that none is lost.
Statement note_change = {"INSERT INTO @.presence_change (at, only_added) VALUES (clock_timestamp(), $1)", 1, {BOOLOID}};
Statement take_changes = {
    "WITH taken AS (DELETE FROM @.presence_change WHERE (SELECT NOT bool_and(only_added) OR max(at) < clock_timestamp() - '20 seconds'::interval FROM @.presence_change)"
    " RETURNING at) SELECT count(*) FROM taken",
    0,
    {}};

// In the caller's memory, because the next statement takes its place.
NullableDatum kept_column(int column)
{
    NullableDatum kept = null_datum;
    if (SPI_processed > 0)
        kept.value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &kept.isnull);
    if (!kept.isnull)
        kept.value = PointerGetDatum(DatumGetArrayTypePCopy(kept.value));
    return kept;
}

Datum or_empty(const NullableDatum &names) { return names.isnull ? text_array(nullptr, 0) : names.value; }

// A transaction that has not ended yet makes this user, or somebody has just done so.
bool exists_by_now(const IndexScan &users, Datum name)
{
    ScanKeyData key = equals(1, F_TEXTEQ, name);
    index_rescan(users.scan, &key, 1, nullptr, 0);
    return next(users);
}

// Those of the names that nobody else is about to make; to make those would be to wait for that.
Datum makable(Datum names, bool &locked)
{
    Datum *all;
    int count, makable_count = 0;
    deconstruct_array(DatumGetArrayTypeP(names), TEXTOID, -1, false, TYPALIGN_INT, &all, nullptr, &count);
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    const IndexScan users = begin_reading(Table::user, {1}, false, 1, &dirty);
    for (int i = 0; i < count; ++i) {
        if (exists_by_now(users, all[i]))
            locked = true;
        else
            all[makable_count++] = all[i];
    }
    end_reading(users);
    return text_array(all, static_cast<std::size_t>(makable_count));
}

void bring_sessions_in_place(Reviewed &done)
{
    run(find_misplaced);
    const std::int64_t found = DatumGetInt64(first_value(2));
    if (found == 0)
        return;
    Datum names[] = {kept_column(1).value, 0};
    run(lock_users, names);
    done.locked |= DatumGetInt64(first_value(3)) < found;
    names[1] = or_empty(kept_column(1));
    run(end_misplaced, names + 1);
    run(remove_misplaced, names);
    done.users += static_cast<int>(found);
}

void bring_users_in_line(ReviewDepth depth, Reviewed &done)
{
    Datum find[] = {0, BoolGetDatum(depth == ReviewDepth::feed), Int32GetDatum(most_users)};
    run(find_users, find, "n  ");
    const std::int64_t found = DatumGetInt64(first_value(3));
    if (found == 0)
        return;
    Datum names = kept_column(1).value;
    const NullableDatum missing = kept_column(2);
    done.more = found == most_users;

    Datum created = 0;
    if (!missing.isnull) {
        created = makable(missing.value, done.locked);
        run(create_users, &created);
    }
    run(lock_users, &names);
    const std::int64_t held = DatumGetInt64(first_value(3));
    done.locked |= held < found;
    if (held == 0)
        return;
    names = kept_column(1).value;
    const Datum were_online = or_empty(kept_column(2));
    run(correct_users, &names);
    const Datum other_status = or_empty(kept_column(1));
    run(correct_sessions, &names);
    Datum changes[] = {names, were_online, other_status, CStringGetTextDatum(notify_channel),
                       CStringGetTextDatum(notify_channel)};
    const char nulls[] = {' ', ' ', ' ', notifications_wanted() ? ' ' : 'n',
                          notifications_wanted() && notify_level == notify_session ? ' ' : 'n'};
    if (run(write_changes, changes, nulls) > 0)
        note_events_written();
    if (created != 0)
        run(forget_bare_users, &created);
    done.users += static_cast<int>(held);
}

// After the users themselves, whose rows say what their rooms have to agree with.
void bring_rooms_in_line(ReviewDepth depth, Reviewed &done)
{
    Datum find[] = {0, BoolGetDatum(depth == ReviewDepth::feed), Int32GetDatum(most_users)};
    run(find_in_rooms, find, "n  ");
    const std::int64_t found = DatumGetInt64(first_value(3)), to_lock = DatumGetInt64(first_value(4));
    if (found == 0)
        return;
    Datum names = kept_column(1).value;
    const NullableDatum missing = kept_column(2);
    done.more |= found == most_users;
    run(lock_users, &names);
    const std::int64_t held = DatumGetInt64(first_value(3));
    done.locked |= held < to_lock;
    for (const NullableDatum &users : {kept_column(1), missing}) {
        if (users.isnull)
            continue;
        Datum correct[] = {users.value, CStringGetTextDatum(notify_channel), BoolGetDatum(room_channels)};
        const char nulls[] = {' ', notifications_wanted() ? ' ' : 'n', ' '};
        if (run(correct_rooms, correct, nulls) > 0)
            note_events_written();
    }
    done.users += static_cast<int>(found - (to_lock - held));
}

void correct_cache(const CacheDifference &difference, void *context)
{
    // Whoever is not in the cache is entered by the worker.
    if (difference.claim != nullptr)
        cache_retract(*difference.claim);
    else
        my_database()->worker.note_cache_gap();
    ++*static_cast<int *>(context);
}

}  // namespace

bool counts_agree()
{
    const std::uint64_t committed = committed_users();
    begin_consistent_reading();
    const Recorded told = recorded(GetActiveSnapshot());
    run(counts, nullptr, nullptr, true);
    note_counted_users(DatumGetInt64(first_value(4)), committed);
    const bool agree = DatumGetInt64(first_value(1)) == told.online_users &&
                       DatumGetInt64(first_value(2)) == DatumGetInt64(first_value(3)) &&
                       DatumGetInt64(first_value(5)) == DatumGetInt64(first_value(6)) + told.room_changes;
    end_consistent_reading();
    return agree;
}

bool restore_is_running()
{
    pgstat_clear_backend_activity_snapshot();
    bool running = false;
    for (int i = 1; i <= pgstat_fetch_stat_numbackends() && !running; ++i) {
        const PgBackendStatus *backend = compat::backend_status(i);
        if (backend == nullptr || backend->st_databaseid != MyDatabaseId || backend->st_procpid == MyProcPid)
            continue;
        const bool copies = backend->st_progress_command == PROGRESS_COMMAND_COPY &&
                            backend->st_progress_param[PROGRESS_COPY_COMMAND] == PROGRESS_COPY_COMMAND_FROM;
        running = copies || (backend->st_appname != nullptr && strcmp(backend->st_appname, "pg_restore") == 0);
    }
    return running;
}

Reviewed review(ReviewDepth depth)
{
    Reviewed done;
    if (depth == ReviewDepth::feed && feed_is_damaged()) {
        if (!begin_new_feed()) {
            done.locked = true;
            return done;
        }
        done.new_feed = true;
    }
    bring_sessions_in_place(done);
    bring_users_in_line(depth, done);
    bring_rooms_in_line(depth, done);
    const PolicyRun policies = apply_policies(Lock::skip_locked);
    done.users += policies.sessions;
    done.locked |= policies.locked;
    PRESENCE_POINT("users-reviewed");
    if (!done.more)
        compare_cache(false, correct_cache, &done.cache_entries);
    // What retention has dropped from the feed cannot tell who was online.
    if (depth == ReviewDepth::feed && !done.more && !done.locked && !(counts_agree() && room_counts_agree())) {
        done.new_feed = begin_new_feed();
        done.locked = !done.new_feed;
    }
    if (done.found_something())
        log_review(done.users, done.cache_entries, done.new_feed);
    return done;
}

void review_without_worker(bool scheduled)
{
    // Under a snapshot of its own, a transaction does not see what it would have to go by.
    if (IsolationUsesXactSnapshot() || restore_is_running())
        return;
    SharedDatabase *database = my_database();
    const std::uint64_t changes = database != nullptr ? database->worker.changes_by_hand() : 0;
    bool suspicious = database != nullptr && database->worker.review_due_ms() <= monotonic_ms();
    if (run(take_changes) > 0)
        suspicious |= DatumGetInt64(first_value(1)) > 0;
    suspicious = suspicious || !counts_agree();
    if (!suspicious && !scheduled)
        return;
    Reviewed done;
    do
        done = review(suspicious ? ReviewDepth::feed : ReviewDepth::tables);
    while (done.more && !done.locked);
    if (!suspicious)
        return;
    Datum rewritten = BoolGetDatum(false);
    if (done.locked)
        run(note_change, &rewritten);
    else if (database != nullptr)
        database->worker.note_reviewed(changes);
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_note_change)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR,
                (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED), errmsg("presence_note_change() is a trigger")));
    // By the extension itself.
    if (guarded_statement != nullptr)
        return 0;
    const auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
    const bool only_added = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
    extension_of(fcinfo);
    if (my_database() != nullptr) {
        note_change_by_hand_at_commit(only_added);
        return 0;
    }
    const OwnerWork work = begin_owner_work();
    Datum value = BoolGetDatum(only_added);
    run(note_change, &value);
    end_owner_work(work);
    return 0;
}
