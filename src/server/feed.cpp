#include "feed.h"

#include <algorithm>

#include "extension.h"
#include "settings.h"
#include "shared.h"
#include "storage.h"

extern "C" {
#include "access/transam.h"
#include "commands/async.h"
}

namespace presence {

namespace {

// A pass is one transaction; larger ones keep listeners waiting.
constexpr int most_in_a_pass = 5000;
// Beyond that, notifications wait in a table, so that nobody's NOTIFY fails because of ours.
constexpr double fullest_queue = 0.5;
constexpr long patience_of_readers_ms = 1000;

// Two at once must not wait for each other to make it.
Statement make_feed = {
    "INSERT INTO @.presence_feed (last_seq, dropped_seq, online_users) SELECT 0, 0, 0"
    " WHERE NOT EXISTS (SELECT FROM @.presence_feed) AND pg_try_advisory_xact_lock($1::int4, 1) ON CONFLICT DO NOTHING",
    1,
    {OIDOID}};
Statement lock_feed = {"SELECT FROM @.presence_feed FOR UPDATE", 0, {}};
Statement try_lock_feed = {"SELECT FROM @.presence_feed FOR UPDATE SKIP LOCKED", 0, {}};
Statement any_waiting = {"SELECT FROM @.presence_event_queue LIMIT 1", 0, {}};
Statement waiting_events = {"SELECT id FROM @.presence_event_queue ORDER BY id", 0, {}};
Statement new_events = {
    "SELECT id FROM @.presence_event_queue WHERE id > $1 OR id <= $2 OR id = ANY ($3) ORDER BY id LIMIT $4",
    4,
    {INT8OID, INT8OID, INT8ARRAYOID, INT4OID}};
Statement number_events = {
    "WITH moved AS (DELETE FROM @.presence_event_queue WHERE id = ANY ($1) RETURNING *),"
    " feed AS (UPDATE @.presence_feed SET last_seq = last_seq + (SELECT count(*) FROM moved), online_users = online_users"
    " + (SELECT count(*) FILTER (WHERE event = 'user_online') - count(*) FILTER (WHERE event = 'user_offline') FROM moved)"
    " WHERE EXISTS (SELECT FROM moved) RETURNING last_seq),"
    " numbered AS (SELECT (SELECT last_seq FROM feed) - count(*) OVER () + row_number() OVER (ORDER BY id) AS n, * FROM moved),"
    " kept AS (INSERT INTO @.presence_events (seq, at, event, user_id, session_id, reason, sessions, details)"
    " SELECT n, at, event, user_id, session_id, reason, sessions, details FROM numbered ORDER BY n)"
    " SELECT n, channel, @.presence_event_payload(n, at, event, user_id, session_id, reason, sessions, details)"
    " FROM numbered WHERE channel IS NOT NULL ORDER BY n",
    1,
    {INT8ARRAYOID}};
#define EVENT_DETAILS "CASE WHEN $7 IS NOT NULL THEN jsonb_build_object('status', $7, 'metadata', $8) END"
#define EVENT_ARGUMENTS                                                                                                \
    {                                                                                                                  \
        TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, JSONBOID, TEXTOID                        \
    }
Statement insert_event = {
    "INSERT INTO @.presence_event_queue (at, event, user_id, session_id, reason, sessions, details, channel)"
    " VALUES ($1, $2, $3, nullif($4, ''), $5, $6, " EVENT_DETAILS ", $9)",
    9, EVENT_ARGUMENTS};
// A nearly full notification queue must not fail the caller's commit: whoever numbers the event then sends it, later.
Statement send_event = {
    "SELECT pg_notify($9, @.presence_event_payload(NULL, $1, $2, $3, nullif($4, ''), $5, $6, " EVENT_DETAILS "))"
    " WHERE pg_notification_queue_usage() < 0.9",
    9, EVENT_ARGUMENTS};

Statement put_off = {"INSERT INTO @.presence_unannounced (seq, channel) VALUES ($1, $2)", 2, {INT8OID, TEXTOID}};
Statement any_put_off = {"SELECT FROM @.presence_unannounced LIMIT 1", 0, {}};
Statement take_put_off = {
    "WITH due AS (DELETE FROM @.presence_unannounced WHERE seq IN (SELECT seq FROM @.presence_unannounced ORDER BY seq LIMIT $1) RETURNING *)"
    " SELECT seq, channel, @.presence_event_payload(seq, at, event, user_id, session_id, reason, sessions, details)"
    " FROM due JOIN @.presence_events USING (seq) ORDER BY seq",
    1,
    {INT4OID}};
Statement last_id = {
    "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM @.presence_event_queue_id_seq", 0, {}};

bool wrote_events = false;
bool some_put_off = true;  // nobody knows
Time wrote_leave = 0;

void tell_worker(SharedDatabase *database, Time leave_until)
{
    if (database == nullptr)
        return;
    if (leave_until != 0)
        database->worker.note_departure(leave_until);
    database->worker.note_event_commit();
}

// The transaction is visible to others by now. Nothing here may fail.
void at_transaction_end(XactEvent event, void *)
{
    if (!wrote_events)
        return;
    if (event == XACT_EVENT_COMMIT)
        tell_worker(my_known_database(), wrote_leave);
    else if (event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    wrote_events = false;
    wrote_leave = 0;
}

void note_written(Time leave_until)
{
    (void)my_database();  // made now, because nothing may fail later
    wrote_events = true;
    if (leave_until != 0 && (wrote_leave == 0 || leave_until < wrote_leave))
        wrote_leave = leave_until;
}

char null_if(bool is_null) { return is_null ? 'n' : ' '; }

bool queue_has_room() { return DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, 0)) < fullest_queue; }

// The rows that the last statement returned: number, channel, text.
void send_or_put_off(bool send)
{
    SPITupleTable *rows = SPI_tuptable;
    const std::uint64_t count = SPI_processed;
    for (std::uint64_t i = 0; i < count; ++i) {
        bool is_null = false;
        Datum values[] = {SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &is_null),
                          SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &is_null)};
        if (send)
            Async_Notify(TextDatumGetCString(values[1]),
                         TextDatumGetCString(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &is_null)));
        else
            run(put_off, values);
    }
    SPI_freetuptable(rows);
}

// With the feed's row locked. What was put off goes first, so that listeners get everything in order.
void number(Datum *ids, int count)
{
    bool send = queue_has_room();
    some_put_off = run(any_put_off) > 0;
    if (some_put_off && send) {
        Datum most[] = {Int32GetDatum(most_in_a_pass)};
        run(take_put_off, most);
        send_or_put_off(true);
        some_put_off = run(any_put_off) > 0;
    }
    send = send && !some_put_off;
    if (count == 0)
        return;
    some_put_off = !send;
    Datum values[] = {int8_array(ids, static_cast<std::size_t>(count))};
    run(number_events, values);
    send_or_put_off(send);
}

// make: it may be made where it is missing. While a dump is being restored, the one in the dump must come first.
bool feed_locked(Statement &lock, bool make)
{
    if (run(lock) > 0)
        return true;
    if (!make)
        return false;
    Datum table[] = {ObjectIdGetDatum(session_table())};
    run(make_feed, table);
    return run(lock) > 0;
}

// Of the last statement's rows.
Datum *found_ids(int &count)
{
    count = static_cast<int>(SPI_processed);
    auto *ids = static_cast<Datum *>(palloc_extended(sizeof(Datum) * (SPI_processed + 1), MCXT_ALLOC_HUGE));
    bool is_null = false;
    for (int i = 0; i < count; ++i)
        ids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null);
    SPI_freetuptable(SPI_tuptable);
    return ids;
}

std::uint64_t full_id(TransactionId id, FullTransactionId next)
{
    const std::uint64_t whole = U64FromFullTransactionId(next);
    const std::uint64_t guess = (whole & ~std::uint64_t{0xffffffff}) | id;
    return guess > whole ? guess - (std::uint64_t{1} << 32) : guess;
}

}  // namespace

bool worker_is_expected()
{
    SharedDatabase *database = my_database();
    return database != nullptr && worker_enabled && launcher_exists() && database->worker.problem() == no_problem;
}

void watch_transactions() { RegisterXactCallback(at_transaction_end, nullptr); }

void write_events(const StoredUser &user, const EventList &events, Time now, Time leave_until)
{
    if (events.items().empty())
        return;
    const bool by_worker = worker_is_expected();
    for (const Event &e : events.items()) {
        const auto &s = *static_cast<const StoredSession *>(e.session);
        const auto *shown = static_cast<const StoredSession *>(e.shown);
        const bool tells_all = notify_level == notify_session || e.type == EventType::user_online ||
                               e.type == EventType::user_offline || e.type == EventType::update;
        bool to_send = notifications_wanted() && tells_all;
        const bool no_metadata = shown == nullptr || shown->metadata.isnull;
        Datum values[] = {TimestampTzGetDatum(now),
                          PointerGetDatum(make_text(to_text(e.type))),
                          PointerGetDatum(user.name),
                          PointerGetDatum(s.name),
                          PointerGetDatum(make_text(to_text(e.reason))),
                          Int32GetDatum(e.sessions),
                          PointerGetDatum(make_text(to_text(e.status))),
                          no_metadata ? 0 : shown->metadata.value,
                          PointerGetDatum(make_text(notify_channel != nullptr ? notify_channel : ""))};
        char nulls[] = {' ', ' ', ' ', ' ', ' ', ' ', null_if(!e.online), null_if(no_metadata), ' '};
        if (to_send && !by_worker)
            to_send = run(send_event, values, nulls) == 0;
        nulls[8] = null_if(!to_send);
        run(insert_event, values, nulls);
    }
    note_written(leave_until);
}

void events_may_be_written() { tell_worker(my_known_database(), 1); }

bool announcements_wait() { return some_put_off; }

void bring_feed_up_to_date()
{
    // A transaction with a snapshot of its own sees what it has seen at first; a standby sees what the primary has numbered.
    if (RecoveryInProgress() || IsolationUsesXactSnapshot())
        return;
    if (worker_is_expected()) {
        my_database()->worker.wait_until_numbered(patience_of_readers_ms);
        return;
    }
    if (XactReadOnly || run(any_waiting) == 0 || !feed_locked(try_lock_feed, true))
        return;
    run(waiting_events);
    int count = 0;
    Datum *ids = found_ids(count);
    number(ids, count);
}

void restart_window(IdWindow &window)
{
    run(last_id);
    const int64 id = DatumGetInt64(first_value(1));
    window.restart(id, U64FromFullTransactionId(ReadNextFullTransactionId()));
}

bool number_committed_events(IdWindow &window)
{
    const std::span<const std::int64_t> holes = window.holes();
    auto *ids = static_cast<Datum *>(palloc(sizeof(Datum) * (holes.size() + 1)));
    for (std::size_t i = 0; i < holes.size(); ++i)
        ids[i] = Int64GetDatum(holes[i]);
    Datum values[] = {Int64GetDatum(window.above()), Int64GetDatum(window.again_up_to()), int8_array(ids, holes.size()),
                      Int32GetDatum(most_in_a_pass)};
    // Older than the snapshot of the next statement, so never too young.
    const TransactionId oldest = GetLatestSnapshot()->xmin;
    run(new_events, values);
    int count = 0;
    Datum *found = found_ids(count);
    const bool complete = count < most_in_a_pass;
    if (count > 0 || some_put_off) {
        if (feed_locked(lock_feed, my_database()->worker.event_commits() > 0)) {
            number(found, count);
        } else {
            // What is there stays for a pass after the first event written here.
            some_put_off = false;
            return false;
        }
    }
    const FullTransactionId next = ReadNextFullTransactionId();
    static_assert(sizeof(Datum) == sizeof(std::int64_t));
    window.passed({reinterpret_cast<const std::int64_t *>(found), static_cast<std::size_t>(count)},
                  full_id(oldest, next), U64FromFullTransactionId(next), complete);
    return !complete;
}

}  // namespace presence
