// The SQL functions that read the feed, and the snapshot that goes with it.
#include "feed_functions.h"

#include <algorithm>

#include "access.h"
#include "arguments.h"
#include "datums.h"
#include "expiry.h"
#include "extension.h"
#include "feed.h"
#include "feed_epoch.h"
#include "feed_tables.h"
#include "lists.h"
#include "readers.h"
#include "settings.h"
#include "user_status.h"

namespace presence {

namespace {

// How the users of these events were before them: user, and the columns of a list. The first of a user's events tells what
// was: before somebody's user_offline, the user was online.
Statement users_before = {
    "WITH queue AS MATERIALIZED (SELECT id, event, user_id COLLATE \"C\" AS user_id, coalesce(session_id, '') COLLATE \"C\" AS session_id"
    " FROM @.presence_event WHERE id = ANY ($1)),"
    " of_user AS (SELECT DISTINCT ON (user_id) user_id, event FROM queue WHERE event IN ('user_online', 'user_offline') ORDER BY user_id, id),"
    " of_session AS (SELECT DISTINCT ON (user_id, session_id) user_id, session_id, event FROM queue"
    " WHERE event IN ('session_start', 'session_end') ORDER BY user_id, session_id, id),"
    " sessions AS (SELECT s.*, coalesce(f.event = 'session_end', s.online AND s.ended_at IS NULL) AS live"
    " FROM @.presence_session AS s LEFT JOIN of_session AS f USING (user_id, session_id) WHERE s.user_id IN (SELECT user_id FROM queue))"
    " SELECT s.user_id, coalesce(min(o.event) = 'user_offline', bool_or(s.online)),"
    " (array_agg(coalesce(s.status_choice, s.status) ORDER BY s.live DESC, array_position(ARRAY['active', 'busy', 'idle', 'away'], s.status)))[1],"
    " (count(*) FILTER (WHERE s.live))::int4, coalesce(min(s.online_since) FILTER (WHERE s.live), max(s.online_since)),"
    " coalesce(max(s.heartbeat_at) FILTER (WHERE s.live), max(s.heartbeat_at)),"
    " (array_agg(s.metadata ORDER BY s.live DESC, s.heartbeat_at DESC))[1]"
    " FROM sessions AS s LEFT JOIN of_user AS o USING (user_id) GROUP BY s.user_id",
    1,
    {INT8ARRAYOID}};

// The list is to be that of the last number, so events without one are taken back. They come when the reader can neither
// number them nor wait for it: on a standby, in a transaction with a snapshot of its own, while somebody else numbers. What
// the reader's own transaction has done stays.
void take_back_unnumbered(UserList &list)
{
    const Growing<Datum> ids = unnumbered_events(GetActiveSnapshot());
    if (ids.count == 0)
        return;
    Datum argument[] = {int8_array(ids.items, ids.count)};
    run(users_before, argument, nullptr, true);
    for (std::uint64_t i = 0; i < SPI_processed; ++i) {
        Datum values[7];
        bool nulls[7];
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
        ListedUser &user = take_user(list, text_view(DatumGetTextPP(values[0])));
        const bool online = DatumGetBool(values[1]);
        list.online_users += static_cast<int>(online) - static_cast<int>(user.summary.online());
        user.summary = {};
        user.summary.any = true;
        user.summary.state = online ? SessionState::online : SessionState::offline;
        parse(text_view(DatumGetTextPP(values[2])), user.summary.status);
        user.summary.sessions = DatumGetInt32(values[3]);
        user.summary.online_since = DatumGetTimestampTz(values[4]);
        user.summary.heartbeat_at = DatumGetTimestampTz(values[5]);
        user.metadata = {values[6], nulls[6]};
    }
}

struct Snapped {
    const UserList *list;
    std::int64_t seq;
    const char *epoch;
};

Snapped take_snapshot(const OwnerWork &work)
{
    begin_consistent_reading();
    UserList *list = list_online(true, worker_delay());
    take_back_unnumbered(*list);
    hide_unseen(*list, work);
    const Snapped taken{list, read_head(GetActiveSnapshot()).last_seq, feed_epoch()};
    end_consistent_reading();
    return taken;
}

// Of what happened before, a caller who is not shown everybody sees the state that it has led to, not the way.
void require_within_horizon(std::int64_t seq, Time first_event)
{
    if (first_event < GetCurrentTimestamp() - static_cast<Time>(feed_horizon_s) * USECS_PER_SEC)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("the feed after seq " INT64_FORMAT " begins too long ago for this role", seq),
                 errdetail("A role with access \"read\" reads events of the last %d seconds (presence.feed_horizon).",
                           feed_horizon_s),
                 errhint("Start again from presence_snapshot().")));
}

// What one call of presence_changes_since() goes by.
struct FeedReader {
    const OwnerWork &work;
    std::int64_t after;
    std::int64_t left;
    ReturnSetInfo *result;
    Sight sight, entry;
    bool within_horizon;
};

// The event in the slot, unless the caller is not to see it.
void return_event(FeedReader &reader, TupleTableSlot *slot, const FeedRange &range)
{
    slot_getallattrs(slot);
    const auto value = [slot](EventColumn column) { return slot->tts_values[column - 1]; };
    if (!reader.within_horizon)
        require_within_horizon(reader.after, DatumGetTimestampTz(value(event_at)));
    reader.within_horizon = true;
    const bool in_room = !slot->tts_isnull[event_room - 1];
    if (!sees(reader.sight, reader.work, DatumGetTextPP(value(event_user))) ||
        (in_room && !sees(reader.entry, reader.work, DatumGetTextPP(value(event_room)))))
        return;
    --reader.left;
    Datum values[9];
    bool nulls[9];
    // The columns of the view are those of the table, but for the first, and the channel.
    std::copy_n(slot->tts_values, 8, values);
    std::copy_n(slot->tts_isnull, 8, nulls);
    values[0] = Int64GetDatum(range.first_seq + (DatumGetInt64(value(event_id)) - range.first_id));
    values[8] = value(event_room);
    nulls[8] = !in_room;
    tuplestore_putvalues(reader.result->setResult, reader.result->setDesc, values, nulls);
}

// The ids of a range that come after the number from which the caller reads on.
std::int64_t first_id_after(const FeedReader &reader, const FeedRange &range)
{
    return range.first_id + std::max<std::int64_t>(reader.after + 1 - range.first_seq, 0);
}

void read_feed(FeedReader &reader, Snapshot snapshot)
{
    KeyScan ranges = begin_key_scan(Table::feed_range, snapshot);
    KeyScan events = begin_key_scan(Table::event, snapshot);
    seek_range(ranges, reader.after + 1);
    while (reader.left > 0 && next(ranges)) {
        const FeedRange range = range_of(ranges);
        seek(events, first_id_after(reader, range), range.last_id());
        while (reader.left > 0 && next(events))
            return_event(reader, events.slot, range);
    }
    end_reading(events);
    end_reading(ranges);
}

// Range by range too, because numbers are in the order of commit and ids are not. A search says which id comes next in the
// room, so that ranges without one of the room's are passed over.
void read_room(FeedReader &reader, text *room, Snapshot snapshot)
{
    KeyScan ranges = begin_key_scan(Table::feed_range, snapshot);
    RoomScan events = begin_room_scan(room, snapshot);
    seek_range(ranges, reader.after + 1);
    std::int64_t none_from = 0, none_before = 0;  // no event of the room has an id in between
    while (reader.left > 0 && next(ranges)) {
        CHECK_FOR_INTERRUPTS();
        const FeedRange range = range_of(ranges);
        const std::int64_t first = first_id_after(reader, range);
        if (first >= none_from && range.last_id() < none_before)
            continue;
        seek(events, first);
        std::int64_t last_seen = first;
        bool more = false;
        while (reader.left > 0 && (more = next(events)) && int8_of(events, event_id) <= range.last_id()) {
            last_seen = int8_of(events, event_id) + 1;
            return_event(reader, events.slot, range);
        }
        none_from = last_seen;
        none_before = more ? int8_of(events, event_id) : PG_INT64_MAX;
    }
    end_reading(events);
    end_reading(ranges);
}

}  // namespace

Time worker_delay()
{
    constexpr Time most = USECS_PER_SEC;
    return worker_is_expected() && timeouts_are_everybodys() ? most : 0;
}

void bring_epoch_up_to_date()
{
    if (may_write() && !IsolationUsesXactSnapshot() && feed_epoch() == nullptr)
        begin_feed();
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_snapshot)
{
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    bring_epoch_up_to_date();
    end_choices_without_worker();
    bring_feed_up_to_date();
    Snapped taken = take_snapshot(work);
    if (taken.list->has_stale && !worker_is_expected() && may_write() && !IsolationUsesXactSnapshot()) {
        (void)end_stale_sessions(Thoroughness::whole_table);
        bring_feed_up_to_date();
        taken = take_snapshot(work);
    }
    Datum values[8] = {Int64GetDatum(taken.seq)};
    values[7] = taken.epoch != nullptr ? CStringGetTextDatum(taken.epoch) : 0;
    const bool no_epoch = taken.epoch == nullptr;
    const std::uint32_t *order = newest_first(*taken.list);
    for (std::int64_t i = 0; i < taken.list->online_users; ++i) {
        bool nulls[8] = {};
        describe(taken.list->user(order[i]), values + 1, nulls + 1);
        nulls[7] = no_epoch;
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    if (taken.list->online_users == 0) {
        bool nulls[8] = {false, true, true, true, true, true, true, no_epoch};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(presence_feed_position)
{
    TupleDesc shape = row_type(fcinfo);
    MemoryContext caller = CurrentMemoryContext;
    const OwnerWork work = begin_owner_work(fcinfo);
    bring_epoch_up_to_date();
    bring_feed_up_to_date();
    begin_consistent_reading();
    const char *epoch = feed_epoch();
    Datum values[] = {0, Int64GetDatum(read_head(GetActiveSnapshot()).last_seq)};
    end_consistent_reading();
    bool nulls[] = {epoch == nullptr, false};
    MemoryContext inner = MemoryContextSwitchTo(caller);
    if (epoch != nullptr)
        values[0] = CStringGetTextDatum(epoch);
    MemoryContextSwitchTo(inner);
    end_owner_work(work);
    return HeapTupleGetDatum(heap_form_tuple(shape, values, nulls));
}

PRESENCE_FUNCTION(presence_changes_since)
{
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("seq must not be NULL"),
                        errhint("Pass 0 to read from the beginning.")));
    const int64 seq = std::max<int64>(PG_GETARG_INT64(0), 0);
    text *room = PG_ARGISNULL(2) ? nullptr : PG_GETARG_TEXT_PP(2);
    const std::int64_t limit = max_rows_argument(fcinfo, 1, 1000);
    InitMaterializedSRF(fcinfo, 0);
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    bring_feed_up_to_date();
    // Retention moves the low end and removes events in one transaction: both are to be seen, or neither.
    begin_consistent_reading();
    Snapshot snapshot = GetActiveSnapshot();
    const std::int64_t low = dropped_seq(snapshot), high = std::max(read_head(snapshot).last_seq, low);
    if (seq < low)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the feed no longer has the events after seq " INT64_FORMAT, seq),
                        errdetail("Retention has removed events up to " INT64_FORMAT ".", low),
                        errhint("Start again from presence_snapshot().")));
    if (seq > high)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the feed ends before seq " INT64_FORMAT, seq),
                        errdetail("Its last number is " INT64_FORMAT
                                  ": this is another feed, or one that was restored from a backup.",
                                  high),
                        errhint("Start again from presence_snapshot().")));
    if (room != nullptr)
        require_may_look_into(work, room);
    FeedReader reader{work, seq, limit, result, begin_sight(work), begin_entry(work), !is_filtered(work)};
    if (room != nullptr)
        read_room(reader, room, snapshot);
    else
        read_feed(reader, snapshot);
    end_consistent_reading();
    end_owner_work(work);
    return 0;
}
