#include "feed.h"

#include <algorithm>

#include "announcements.h"
#include "compat.h"
#include "datums.h"
#include "extension.h"
#include "feed_epoch.h"
#include "feed_tables.h"
#include "injection.h"
#include "metrics.h"
#include "room_counts.h"
#include "rooms.h"
#include "rows.h"
#include "settings.h"
#include "shared.h"
#include "storage.h"

extern "C" {
#include "access/tableam.h"
#include "access/transam.h"
#include "commands/sequence.h"
#include "storage/lock.h"
#include "storage/procarray.h"
}

namespace presence {

namespace {

// A pass is one transaction; larger ones keep listeners waiting.
constexpr std::int64_t most_in_a_pass = 5000;
constexpr long reader_wait_ms = 1000;
// A nearly full notification queue must not fail the caller's commit: whoever numbers the event then sends it, later.
constexpr double nearly_full_queue = 0.9;

Statement insert_ranges = {
    "INSERT INTO @.presence_feed_range (first_seq, first_id, events) SELECT * FROM unnest($1, $2, $3)",
    3,
    {INT8ARRAYOID, INT8ARRAYOID, INT4ARRAYOID}};
Statement insert_head = {
    "INSERT INTO @.presence_feed_range (first_seq, first_id, events, online_users, last_id, open_from, open_to, open_until)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    8,
    {INT8OID, INT8OID, INT4OID, INT8OID, INT8OID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}};

// Number 0 stands for those who are online at the beginning. What is written meanwhile is not seen, and gets its number
// later. The last count makes the rows go before the new one comes.
Statement restart = {
    "WITH events AS (DELETE FROM @.presence_event), dropped AS (DELETE FROM @.presence_feed_dropped WHERE seq > 0), waiting AS (DELETE FROM @.presence_unannounced), reported AS (DELETE FROM @.presence_report_position),"
    " counts AS (DELETE FROM @.presence_room_count RETURNING seq),"
    " counted AS (INSERT INTO @.presence_room_count (room, seq, users) SELECT room, 0, count(DISTINCT user_id) FROM @.presence_room_member,"
    " (SELECT count(*) FROM counts) AS gone GROUP BY room),"
    " ranges AS (DELETE FROM @.presence_feed_range RETURNING first_seq)"
    " INSERT INTO @.presence_feed_range (first_seq, first_id, events, online_users, last_id)"
    " SELECT 0, 0, 1, (SELECT count(*) FROM @.presence_user WHERE online), 0 FROM (SELECT count(*) FROM ranges) AS gone",
    0,
    {}};

// That ranges without any of them are not the beginning.
Statement note_beginning = {
    "INSERT INTO @.presence_feed_dropped (seq) SELECT 0 WHERE NOT EXISTS (SELECT FROM @.presence_feed_dropped) ON CONFLICT DO NOTHING",
    0,
    {}};

// ---------------------------------------------------------------------------------------------------------------------
// Telling the worker
// ---------------------------------------------------------------------------------------------------------------------

bool wrote_events = false;
Time wrote_due = 0;

void tell_worker(SharedDatabase *database, Time due)
{
    if (database == nullptr)
        return;
    if (due != 0)
        database->worker.note_departure(due);
    database->worker.note_event_commit();
}

// The transaction is visible to others by now. Nothing here may fail.
void at_transaction_end(XactEvent event, void *)
{
    if (!wrote_events)
        return;
    if (event == XACT_EVENT_COMMIT)
        tell_worker(my_known_database(), wrote_due);
    else if (event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    wrote_events = false;
    wrote_due = 0;
}

void note_written(Time due)
{
    (void)my_database();  // made now, because nothing may fail later
    wrote_events = true;
    if (due != 0 && (wrote_due == 0 || due < wrote_due))
        wrote_due = due;
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

void push_text(compat::JsonbBuilder &builder, JsonbIteratorToken token, std::string_view value)
{
    JsonbValue text;
    text.type = jbvString;
    text.val.string.val = const_cast<char *>(value.data());
    text.val.string.len = static_cast<int>(value.size());
    builder.push(token, &text);
}

// What others see of the user: {"status": …, "metadata": …}, and a message where there is one.
Jsonb *details_of(Status status, Jsonb *metadata, const text *message)
{
    compat::JsonbBuilder builder;
    JsonbValue value;
    builder.push(WJB_BEGIN_OBJECT);
    push_text(builder, WJB_KEY, "status");
    push_text(builder, WJB_VALUE, to_text(status));
    push_text(builder, WJB_KEY, "metadata");
    if (metadata == nullptr) {
        value.type = jbvNull;
    } else if (JB_ROOT_IS_SCALAR(metadata)) {
        (void)JsonbExtractScalar(&metadata->root, &value);
    } else {
        value.type = jbvBinary;
        value.val.binary.data = &metadata->root;
        value.val.binary.len = static_cast<int>(VARSIZE(metadata) - VARHDRSZ);
    }
    builder.push(WJB_VALUE, &value);
    if (message != nullptr) {
        push_text(builder, WJB_KEY, "message");
        push_text(builder, WJB_VALUE, text_view(message));
    }
    builder.push(WJB_END_OBJECT);
    return builder.finish();
}

// Every channel gets those that change what others see of a user.
bool is_announced(EventType type)
{
    return notifications_wanted() && (notify_level == notify_session || type == EventType::user_online ||
                                      type == EventType::user_offline || type == EventType::update);
}

// False: the server's queue is nearly full.
bool send_at_commit(const char *channel, const Announcement &announcement, const char *epoch)
{
    if (DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, 0)) >= nearly_full_queue)
        return false;
    Async_Notify(channel, payload_of(announcement, epoch));
    count_notification(0);
    return true;
}

struct EventWriter {
    OpenTable *events;
    bool by_worker;                                    // announces
    const char *epoch;                                 // where this transaction announces
    text *channel;                                     // where the worker does
    Jsonb *plain[static_cast<int>(Status::away) + 1];  // details with nothing but the status, once they are needed
};

Jsonb *details_of(EventWriter &writer, Status status, const NullableDatum &metadata, const text *message)
{
    if (!metadata.isnull || message != nullptr)
        return details_of(status, metadata.isnull ? nullptr : DatumGetJsonbP(metadata.value), message);
    Jsonb *&plain = writer.plain[static_cast<int>(status)];
    if (plain == nullptr)
        plain = details_of(status, nullptr, nullptr);
    return plain;
}

constexpr Oid event_types[] = {INT8OID, TIMESTAMPTZOID, TEXTOID,  TEXTOID, TEXTOID,
                               TEXTOID, INT4OID,        JSONBOID, TEXTOID, TEXTOID};

// An event that is to be written; no details and no room are null.
struct NewEvent {
    std::string_view type;
    bool announced;
    Reason reason;
    text *session;  // empty: the unnamed one; null: none
    std::int32_t sessions;
    Jsonb *details;
    text *room;
};

void add_event(EventWriter &writer, const StoredUser &user, const NewEvent &event)
{
    const bool named = event.session != nullptr && !text_view(event.session).empty();
    text *type = make_text(event.type), *reason = make_text(to_text(event.reason));
    text *channel = event.room != nullptr && room_channels && event.announced
                        ? cstring_to_text(room_channel(text_view(event.room)))
                        : writer.channel;
    bool left_to_others = event.announced;
    if (left_to_others && !writer.by_worker)
        left_to_others =
            !send_at_commit(text_to_cstring(channel),
                            {0, user.changed_at, text_to_cstring(type), text_to_cstring(user.name),
                             named ? text_to_cstring(event.session) : nullptr, text_to_cstring(reason), event.sessions,
                             event.details, event.room != nullptr ? text_to_cstring(event.room) : nullptr},
                            writer.epoch);
    TupleTableSlot *row = next_row(*writer.events);
    set(row, event_id, Int64GetDatum(nextval_internal(table_oid(Table::event_ids), false)));
    set(row, event_at, TimestampTzGetDatum(user.changed_at));
    set(row, event_type, PointerGetDatum(type));
    set(row, event_user, PointerGetDatum(user.name));
    set(row, event_session, PointerGetDatum(event.session), !named);
    set(row, event_reason, PointerGetDatum(reason));
    set(row, event_sessions, Int32GetDatum(event.sessions));
    set(row, event_details, PointerGetDatum(event.details), event.details == nullptr);
    if (left_to_others)
        set(row, event_channel, PointerGetDatum(channel));
    set(row, event_room, PointerGetDatum(event.room), event.room == nullptr);
    add_row(*writer.events);
}

void add_event(EventWriter &writer, const StoredUser &user, const Event &event)
{
    const auto *session = static_cast<const StoredSession *>(event.session);
    const auto *shown = static_cast<const StoredSession *>(event.shown);
    Jsonb *details = event.online ? details_of(writer, event.status, shown != nullptr ? shown->metadata : null_datum,
                                               user.told_message)
                                  : nullptr;
    add_event(writer, user,
              {to_text(event.type), is_announced(event.type), event.reason,
               session != nullptr ? session->name : nullptr, event.sessions, details, nullptr});
}

void add_event(EventWriter &writer, const StoredUser &user, const RoomEvent &event)
{
    const auto *shown = static_cast<const StoredMember *>(event.shown);
    Jsonb *details = event.type == RoomEventType::leave
                         ? nullptr
                         : details_of(writer, user.status, shown != nullptr ? shown->metadata : null_datum, nullptr);
    add_event(writer, user,
              {to_text(event.type), notifications_wanted(), event.reason, make_text(event.member->session),
               event.sessions, details, make_text(event.member->room)});
}

void add_events(EventWriter &writer, const StoredUser &user)
{
    const std::span<const Event> events = user.events.items();
    auto room_event = user.room_events.begin();
    for (std::size_t i = 0; i <= events.size(); ++i) {
        for (; room_event != user.room_events.end() && room_event->before == i; ++room_event)
            add_event(writer, user, *room_event);
        if (i < events.size())
            add_event(writer, user, events[i]);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Numbering
// ---------------------------------------------------------------------------------------------------------------------

// A pass looks at what is above the head's last id, and at what was open below it; gives numbers to what its snapshot sees
// as committed; and leaves what is still open to the next pass. Whoever wrote a row is still running or has ended, and the
// row says who it is. Where there is no row yet, its writer is one of those who run.
//
// A user's events get numbers in the order of their ids: who wrote the later one had to wait for the user's row until the
// earlier one was committed, so a snapshot that sees the later one sees the earlier one.
struct Pass {
    Snapshot snapshot;
    KeyScan events;                  // finds rows whether they are committed or not
    std::uint64_t oldest_running;    // transactions below have ended
    std::uint64_t next_transaction;  // none at or above had begun when the pass started
    Growing<OpenIds> open;
    Growing<FeedRange> ranges;
    Growing<RoomChange> rooms;
    std::int64_t next_seq, numbered, last_id, online_users;
    std::int64_t to_announce;
};

// Of rows that are looked for above the head: who may still write them is known when the pass has looked.
constexpr std::uint64_t not_known_yet = PG_UINT64_MAX;

enum class Found { gone, open, committed };

// The row in the slot.
Found found_row(Pass &pass, TransactionId &writer)
{
    TupleTableSlot *slot = pass.events.slot;
    if (table_tuple_satisfies_snapshot(pass.events.table, slot, pass.snapshot))
        return Found::committed;
    bool is_null = false;
    writer = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &is_null));
    return TransactionIdIsCurrentTransactionId(writer) || XidInMVCCSnapshot(writer, pass.snapshot) ? Found::open
                                                                                                   : Found::gone;
}

void keep_open(Pass &pass, const OpenIds &ids)
{
    if (pass.open.count > 0) {
        OpenIds &before = pass.open.items[pass.open.count - 1];
        if (before.last + 1 == ids.first && before.until == ids.until && before.writer == ids.writer) {
            before.last = ids.last;
            return;
        }
    }
    pass.open.add(ids);
}

void keep_missing(Pass &pass, std::int64_t first, std::int64_t last, std::uint64_t until)
{
    if (first > last || until == 0)
        return;
    // Whoever got these ids has ended before the pass looked. A transaction that has not begun is one of another server,
    // from which a dump came.
    if (until != not_known_yet && (until <= pass.oldest_running || until > pass.next_transaction))
        return;
    keep_open(pass, {first, last, until, InvalidTransactionId});
}

void give_number(Pass &pass, std::int64_t id)
{
    FeedRange *range = pass.ranges.count > 0 ? &pass.ranges.items[pass.ranges.count - 1] : nullptr;
    if (range != nullptr && range->last_id() + 1 == id)
        ++range->events;
    else
        pass.ranges.add({pass.next_seq, id, 1});
    ++pass.next_seq;
    ++pass.numbered;
    pass.last_id = std::max(pass.last_id, id);
}

// Gives numbers to those of the ids whose transactions have committed. False: the pass is full, and the rest stays open.
bool look_at(Pass &pass, const OpenIds &ids)
{
    KeyScan &events = pass.events;
    const auto is_full = [&pass] { return pass.numbered == most_in_a_pass; };
    seek(events, ids.first, ids.last);
    std::int64_t expected = ids.first;
    for (bool more = next(events); more;) {
        const std::int64_t id = int8_of(events, event_id);
        Found found = Found::gone;
        TransactionId writer = InvalidTransactionId;
        bool announced = false;
        int change = 0;
        RoomChange room = {};
        // A row that somebody has updated by hand has several versions.
        do {
            const Found version = found_row(pass, writer);
            if (version == Found::committed) {
                announced = !slot_attisnull(events.slot, event_channel);
                change = online_change(events);
                if (!is_full())
                    count_event(text_of(events, event_type), text_of(events, event_reason));
                room = room_change_of(events);
            }
            found = std::max(found, version);
            more = next(events);
        } while (more && int8_of(events, event_id) == id);

        if (found == Found::committed && is_full()) {
            if (ids.until != not_known_yet)
                pass.open.add({expected, ids.last, ids.until, InvalidTransactionId});
            return false;
        }
        keep_missing(pass, expected, id - 1, ids.until);
        expected = id + 1;
        if (found == Found::committed) {
            give_number(pass, id);
            pass.online_users += change;
            if (room.change != 0)
                pass.rooms.add(room);
            pass.to_announce += announced;
        } else if (found == Found::open && ids.until == 0 && id == ids.first) {
            // Of one transaction, as all of a run are.
            keep_open(pass, {ids.first, ids.last, 0, writer});
            return true;
        } else if (found == Found::open) {
            keep_open(pass, {id, id, 0, writer});
        }
    }
    if (ids.until != not_known_yet)
        keep_missing(pass, expected, ids.last, ids.until);
    return true;
}

std::uint64_t full_id(TransactionId id, std::uint64_t next)
{
    const std::uint64_t guess = (next & ~std::uint64_t{0xffffffff}) | id;
    return guess > next ? guess - (std::uint64_t{1} << 32) : guess;
}

std::uint64_t next_transaction() { return U64FromFullTransactionId(ReadNextFullTransactionId()); }

// What is above the last number is looked at again anyway.
void close_open_ids(Pass &pass)
{
    const std::uint64_t next = next_transaction();
    while (pass.open.count > 0 && pass.open.items[pass.open.count - 1].first > pass.last_id)
        --pass.open.count;
    for (OpenIds &ids : pass.open.span())
        if (ids.until == not_known_yet)
            ids.until = next;
}

// True: all there was.
bool look_at_all(Pass &pass, const FeedHead &head)
{
    for (std::size_t i = 0; i < head.open.size(); ++i) {
        CHECK_FOR_INTERRUPTS();
        if (!look_at(pass, head.open[i])) {
            for (++i; i < head.open.size(); ++i)
                pass.open.add(head.open[i]);
            return false;
        }
    }
    const bool all = look_at(pass, {head.last_id + 1, PG_INT64_MAX, not_known_yet, InvalidTransactionId});
    close_open_ids(pass);
    return all;
}

Datum int4_array(Datum *values, std::size_t count)
{
    return PointerGetDatum(
        construct_array(values, static_cast<int>(count), INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

void store_ranges(std::span<const FeedRange> ranges)
{
    if (ranges.empty())
        return;
    auto *seqs = static_cast<Datum *>(palloc(3 * sizeof(Datum) * ranges.size()));
    Datum *ids = seqs + ranges.size(), *counts = ids + ranges.size();
    for (std::size_t i = 0; i < ranges.size(); ++i) {
        seqs[i] = Int64GetDatum(ranges[i].first_seq);
        ids[i] = Int64GetDatum(ranges[i].first_id);
        counts[i] = Int32GetDatum(ranges[i].events);
    }
    Datum values[] = {int8_array(seqs, ranges.size()), int8_array(ids, ranges.size()),
                      int4_array(counts, ranges.size())};
    run(insert_ranges, values);
}

void store_head(const Pass &pass, const FeedRange &last)
{
    const std::size_t count = pass.open.count;
    auto *from = static_cast<Datum *>(palloc(3 * sizeof(Datum) * (count + 1)));
    Datum *to = from + count, *until = to + count;
    for (std::size_t i = 0; i < count; ++i) {
        from[i] = Int64GetDatum(pass.open.items[i].first);
        to[i] = Int64GetDatum(pass.open.items[i].last);
        until[i] = Int64GetDatum(static_cast<std::int64_t>(pass.open.items[i].until));
    }
    const bool none = count == 0;
    Datum values[] = {Int64GetDatum(last.first_seq),    Int64GetDatum(last.first_id),
                      Int32GetDatum(last.events),       Int64GetDatum(pass.online_users),
                      Int64GetDatum(pass.last_id),      none ? 0 : int8_array(from, count),
                      none ? 0 : int8_array(to, count), none ? 0 : int8_array(until, count)};
    const char nulls[] = {' ', ' ', ' ', ' ', ' ', none ? 'n' : ' ', none ? 'n' : ' ', none ? 'n' : ' '};
    run(insert_head, values, nulls);
}

// With the feed's lock held. first: numbering may begin; while a dump is being restored, its head must come first.
struct PassResult {
    bool all;             // there was no more than one pass takes
    bool any;             // there was something to number or to announce
    std::int64_t events;  // that have got a number
};
PassResult number_events(bool first)
{
    CommandCounterIncrement();
    Pass pass = {};
    pass.next_transaction = next_transaction();
    pass.snapshot = RegisterSnapshot(GetLatestSnapshot());
    pass.oldest_running = full_id(pass.snapshot->xmin, pass.next_transaction);
    const FeedHead head = read_head(pass.snapshot);
    bool all = true;
    if (head.exists || first) {
        pass.next_seq = head.last_seq + 1;
        pass.last_id = head.last_id;
        pass.online_users = head.online_users;
        pass.events = begin_key_scan(Table::event, SnapshotAny);
        all = look_at_all(pass, head);
        end_reading(pass.events);
    }
    const std::span<const FeedRange> ranges = pass.ranges.span();
    if (!ranges.empty()) {
        store_ranges(ranges.first(ranges.size() - 1));
        store_head(pass, ranges.back());
        count_in_rooms(pass.rooms.span(), ranges.back().last_seq(), pass.snapshot);
        if (!head.exists)
            run(note_beginning);
        // A number that somebody has seen is never given again, whatever synchronous_commit says.
        ForceSyncCommit();
        PRESENCE_POINT("numbers-given");
    }
    const bool any = !ranges.empty() || (announcements_wait() && find_waiting_announcements());
    if (any)
        announce(ranges, pass.to_announce, pass.snapshot, ensure_epoch());
    UnregisterSnapshot(pass.snapshot);
    PRESENCE_POINT("numbers-announced");
    return {all, any, pass.numbered};
}

LOCKTAG tag_of(FeedTask task)
{
    LOCKTAG tag;
    SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, table_oid(Table::feed_range),
                       static_cast<std::uint16_t>(task));
    return tag;
}

}  // namespace

bool begin_feed_task(FeedTask task)
{
    const LOCKTAG tag = tag_of(task);
    return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void wait_for_feed_task(FeedTask task)
{
    const LOCKTAG tag = tag_of(task);
    (void)LockAcquire(&tag, ExclusiveLock, false, false);
}

void begin_all_feed_tasks()
{
    for (const FeedTask task : {FeedTask::number, FeedTask::drop})
        wait_for_feed_task(task);
}

bool worker_is_expected()
{
    SharedDatabase *database = my_database();
    return database != nullptr && worker_enabled && launcher_exists() && database->worker.problem() == no_problem;
}

void watch_transactions() { RegisterXactCallback(at_transaction_end, nullptr); }

void write_events(std::span<const WantedUser> users)
{
    Time due = 0;
    bool any = false;
    const auto is_told = [](const WantedUser &each) { return each.user != nullptr && !each.user->hidden; };
    for (const WantedUser &each : users) {
        if (!is_told(each))
            continue;
        any |= !each.user->events.items().empty() || !each.user->room_events.empty();
        const auto include = [&due](Time then) { due = due == 0 ? then : std::min(due, then); };
        if (each.user->room_leave_until != 0)
            include(each.user->room_leave_until);
        for (const Session *session : each.user->span())
            if (session->changed && (session->leaving || session->put_off))
                include(session->leaving ? session->leave_until : session->update_due);
    }
    if (!any) {
        if (due != 0)
            note_written(due);
        return;
    }
    const bool by_worker = worker_is_expected();
    EventWriter writer{open_for_writing(Table::event, event_types),
                       by_worker,
                       by_worker || !notifications_wanted() ? nullptr : feed_epoch(),
                       notifications_wanted() ? cstring_to_text(notify_channel) : nullptr,
                       {}};
    begin_command();
    for (const WantedUser &each : users)
        if (is_told(each))
            add_events(writer, *each.user);
    insert_rows(*writer.events);
    end_command();
    close_table(writer.events);
    note_written(due);
}

void note_events_written() { note_written(0); }

void note_departure_at_commit(Time ends_at) { note_written(ends_at); }

void events_may_be_written() { tell_worker(my_known_database(), 1); }

void bring_feed_up_to_date()
{
    // A transaction with a snapshot of its own sees what it has seen at first; a standby sees what the primary has numbered.
    if (RecoveryInProgress() || IsolationUsesXactSnapshot())
        return;
    if (worker_is_expected()) {
        my_database()->worker.wait_until_numbered(reader_wait_ms);
        return;
    }
    if (XactReadOnly || !begin_feed_task(FeedTask::number))
        return;
    bool any = false;
    PassResult pass = {};
    while (!pass.all) {
        pass = number_events(true);
        any |= pass.any;
    }
    // Others need not wait for the end of this transaction, where it has nothing for them to wait for.
    if (!any) {
        const LOCKTAG tag = tag_of(FeedTask::number);
        LockRelease(&tag, ExclusiveLock, false);
    }
}

void begin_feed()
{
    if (begin_feed_task(FeedTask::number))
        (void)ensure_epoch();
}

Numbered number_committed_events(std::int64_t &events)
{
    events = 0;
    if (!begin_feed_task(FeedTask::number))
        return Numbered::locked_by_another;
    const PassResult pass = number_events(my_database()->worker.event_commits() > 0);
    events = pass.events;
    return pass.all ? Numbered::all : Numbered::more_left;
}

bool begin_new_feed()
{
    if (!begin_feed_task(FeedTask::number) || !begin_feed_task(FeedTask::drop))
        return false;
    run(restart);
    PRESENCE_POINT("feed-restarted");
    run(note_beginning);
    renew_epoch();
    ForceSyncCommit();
    return true;
}

}  // namespace presence
