#include "announcements.h"

#include <algorithm>

#include "datums.h"
#include "extension.h"
#include "metrics.h"
#include "rooms.h"
#include "settings.h"

extern "C" {
#include "commands/async.h"
#include "utils/datetime.h"
#include "utils/json.h"
}

namespace presence {

namespace {

constexpr int longest_payload = 7999;
// Beyond that, notifications wait in a table, so that nobody's NOTIFY fails because of ours.
constexpr double fullest_queue = 0.5;
// What was put off is announced in parts, so that transactions stay short.
constexpr std::int64_t most_at_once = 5000;

Statement put_off = {"INSERT INTO @.presence_unannounced (first_seq, last_seq) VALUES ($1, $2)", 2, {INT8OID, INT8OID}};
Statement any_put_off = {"SELECT FROM @.presence_unannounced LIMIT 1", 0, {}};
Statement take_put_off = {
    "DELETE FROM @.presence_unannounced WHERE first_seq = (SELECT min(first_seq) FROM @.presence_unannounced)"
    " RETURNING first_seq, last_seq",
    0,
    {}};

bool some_put_off = true;  // nobody knows

bool queue_has_room() { return DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, 0)) < fullest_queue; }

void append_text(StringInfo json, const char *key, const char *value)
{
    appendStringInfo(json, ", \"%s\" : ", key);
    if (value == nullptr)
        appendStringInfoString(json, "null");
    else
        escape_json(json, value);
}

// Where none is known, there is no key.
void append_epoch(StringInfo json, const char *epoch)
{
    if (epoch != nullptr)
        append_text(json, "epoch", epoch);
}

void append_event(StringInfo json, const Announcement &a)
{
    char at[MAXDATELEN + 1];
    if (a.seq != 0)
        appendStringInfo(json, "{\"seq\" : " INT64_FORMAT, a.seq);
    else
        appendStringInfoString(json, "{\"seq\" : null");
    append_text(json, "at", JsonEncodeDateTime(at, TimestampTzGetDatum(a.at), TIMESTAMPTZOID, nullptr));
    append_text(json, "event", a.event);
    append_text(json, "user_id", a.user);
    append_text(json, "session_id", a.session);
    append_text(json, "reason", a.reason);
    appendStringInfo(json, ", \"sessions\" : %d", a.sessions);
    if (a.room != nullptr)
        append_text(json, "room", a.room);
}

char *copy_of(std::string_view name) { return pnstrdup(name.data(), name.size()); }

char *payload_of(const TypingChange &change, const char *epoch)
{
    char at[MAXDATELEN + 1];
    const TypingNames &names = change.names;
    StringInfoData json;
    initStringInfo(&json);
    appendStringInfo(&json, "{\"event\" : \"%s\"", change.started ? "typing_start" : "typing_stop");
    append_text(&json, "at", JsonEncodeDateTime(at, TimestampTzGetDatum(change.at_us), TIMESTAMPTZOID, nullptr));
    append_text(&json, "user_id", copy_of(names.user()));
    append_text(&json, "session_id", names.session().empty() ? nullptr : copy_of(names.session()));
    append_text(&json, "room", copy_of(names.room()));
    append_epoch(&json, epoch);
    appendStringInfoChar(&json, '}');
    return json.data;
}

// One channel's part of what is announced together.
struct Channel {
    const char *name;
    std::int64_t online, offline;
    std::int64_t joined, left;  // rooms
};

// The events of the ranges that are to be announced. More than presence.storm_threshold of them are only counted.
struct Gathered {
    struct Message {
        const char *channel, *payload;
        Time at;  // of the event
    };
    Growing<Message> messages;
    Growing<Channel> channels;
    bool storm;
};

Channel &channel_named(Growing<Channel> &channels, std::string_view name)
{
    for (Channel &channel : channels.span())
        if (name == channel.name)
            return channel;
    channels.add({pnstrdup(name.data(), name.size()), 0, 0, 0, 0});
    return channels.items[channels.count - 1];
}

const char *text_of(TupleTableSlot *slot, AttrNumber column)
{
    bool is_null = false;
    const Datum value = slot_getattr(slot, column, &is_null);
    return is_null ? nullptr : TextDatumGetCString(value);
}

char *payload_of_row(TupleTableSlot *slot, std::int64_t seq, const char *epoch)
{
    bool no_details = false, is_null = false;
    const Datum details = slot_getattr(slot, event_details, &no_details);
    const Announcement announcement{seq,
                                    DatumGetTimestampTz(slot_getattr(slot, event_at, &is_null)),
                                    text_of(slot, event_type),
                                    text_of(slot, event_user),
                                    text_of(slot, event_session),
                                    text_of(slot, event_reason),
                                    DatumGetInt32(slot_getattr(slot, event_sessions, &is_null)),
                                    no_details ? nullptr : DatumGetJsonbP(details),
                                    text_of(slot, event_room)};
    return payload_of(announcement, epoch);
}

bool is_storm(std::int64_t events) { return storm_threshold > 0 && events > storm_threshold; }

// events_known: of how many it is known that they are to be announced.
Gathered gather(std::span<const FeedRange> ranges, std::int64_t events_known, Snapshot snapshot, const char *epoch)
{
    Gathered all = {};
    all.storm = is_storm(events_known);
    KeyScan events = begin_key_scan(Table::event, snapshot);
    for (const FeedRange &range : ranges) {
        seek(events, range.first_id, range.last_id());
        while (next(events)) {
            bool is_null = false;
            const Datum name = slot_getattr(events.slot, event_channel, &is_null);
            if (is_null)
                continue;
            Channel &channel = channel_named(all.channels, text_view(DatumGetTextPP(name)));
            const int change = online_change(events);
            channel.online += change > 0;
            channel.offline += change < 0;
            const int room = room_change(events);
            channel.joined += room > 0;
            channel.left += room < 0;
            all.storm = all.storm || is_storm(static_cast<std::int64_t>(all.messages.count) + 1);
            if (all.storm)
                continue;
            const std::int64_t seq = range.first_seq + (int8_of(events, event_id) - range.first_id);
            all.messages.add({channel.name, payload_of_row(events.slot, seq, epoch),
                              DatumGetTimestampTz(slot_getattr(events.slot, event_at, &is_null))});
        }
    }
    end_reading(events);
    return all;
}

void send_storm(std::span<const FeedRange> ranges, const Channel &channel, const char *epoch)
{
    StringInfoData json;
    initStringInfo(&json);
    appendStringInfo(&json,
                     "{\"event\" : \"storm\", \"from\" : " INT64_FORMAT ", \"to\" : " INT64_FORMAT
                     ", \"online\" : " INT64_FORMAT ", \"offline\" : " INT64_FORMAT,
                     ranges.front().first_seq, ranges.back().last_seq(), channel.online, channel.offline);
    if (channel.joined > 0 || channel.left > 0)
        appendStringInfo(&json, ", \"room_joins\" : " INT64_FORMAT ", \"room_leaves\" : " INT64_FORMAT, channel.joined,
                         channel.left);
    append_epoch(&json, epoch);
    appendStringInfoChar(&json, '}');
    Async_Notify(channel.name, json.data);
    count_storm();
}

void send(std::span<const FeedRange> ranges, std::int64_t events_known, Snapshot snapshot, const char *epoch)
{
    if (ranges.empty())
        return;
    MemoryContext memory =
        AllocSetContextCreate(CurrentMemoryContext, "presence announcements", ALLOCSET_DEFAULT_SIZES);
    MemoryContext outer = MemoryContextSwitchTo(memory);
    const Gathered all = gather(ranges, events_known, snapshot, epoch);
    if (all.storm) {
        for (const Channel &channel : all.channels.span())
            send_storm(ranges, channel, epoch);
    } else {
        const Time now = GetCurrentTimestamp();
        for (const Gathered::Message &message : all.messages.span()) {
            Async_Notify(message.channel, message.payload);
            count_notification(now - message.at);
        }
    }
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(memory);
}

// What retention has removed meanwhile is not announced any more.
std::span<const FeedRange> ranges_between(std::int64_t first, std::int64_t last, Snapshot snapshot)
{
    Growing<FeedRange> found;
    KeyScan ranges = begin_key_scan(Table::feed_range, snapshot);
    seek_range(ranges, first);
    while (next(ranges)) {
        FeedRange range = range_of(ranges);
        if (range.first_seq > last)
            break;
        if (range.last_seq() < first)
            continue;
        const std::int64_t before = std::max<std::int64_t>(first - range.first_seq, 0);
        const std::int64_t after = std::max<std::int64_t>(range.last_seq() - last, 0);
        found.add({range.first_seq + before, range.first_id + before,
                   range.events - static_cast<std::int32_t>(before + after)});
    }
    end_reading(ranges);
    return found.span();
}

void send_put_off(Snapshot snapshot, const char *epoch)
{
    std::int64_t sent = 0;
    while (sent < most_at_once && queue_has_room()) {
        if (run(take_put_off) == 0) {
            some_put_off = false;
            return;
        }
        const std::int64_t first = DatumGetInt64(first_value(1)), last = DatumGetInt64(first_value(2));
        send(ranges_between(first, last, snapshot), 0, snapshot, epoch);
        sent += last - first + 1;
    }
    (void)find_waiting_announcements();
}

}  // namespace

char *payload_of(const Announcement &announcement, const char *epoch)
{
    StringInfoData json;
    initStringInfo(&json);
    append_event(&json, announcement);
    const int without_details = json.len;
    appendStringInfoString(&json, ", \"details\" : ");
    if (announcement.details == nullptr)
        appendStringInfoString(&json, "null");
    else
        (void)JsonbToCString(&json, &announcement.details->root, VARSIZE(announcement.details));
    append_epoch(&json, epoch);
    appendStringInfoChar(&json, '}');
    if (json.len <= longest_payload)
        return json.data;
    json.len = without_details;
    json.data[json.len] = '\0';
    append_epoch(&json, epoch);
    appendStringInfoString(&json, ", \"truncated\" : true}");
    return json.data;
}

void announce(std::span<const FeedRange> ranges, std::int64_t events, Snapshot snapshot, const char *epoch)
{
    // What was put off goes first, so that listeners get everything in order.
    if (find_waiting_announcements())
        send_put_off(snapshot, epoch);
    if (events == 0)
        return;
    if (!some_put_off && queue_has_room()) {
        send(ranges, events, snapshot, epoch);
        return;
    }
    Datum values[] = {Int64GetDatum(ranges.front().first_seq), Int64GetDatum(ranges.back().last_seq())};
    run(put_off, values);
    some_put_off = true;
}

void announce_typing(std::span<const TypingChange> changes, const char *epoch)
{
    if (!notifications_wanted() || !queue_has_room())
        return;
    MemoryContext memory =
        AllocSetContextCreate(CurrentMemoryContext, "presence announcements", ALLOCSET_DEFAULT_SIZES);
    MemoryContext outer = MemoryContextSwitchTo(memory);
    for (const TypingChange &change : changes)
        Async_Notify(room_channels ? room_channel(change.names.room()) : notify_channel, payload_of(change, epoch));
    MemoryContextSwitchTo(outer);
    MemoryContextDelete(memory);
}

bool announcements_wait() { return some_put_off; }

bool find_waiting_announcements()
{
    some_put_off = run(any_put_off) > 0;
    return some_put_off;
}

}  // namespace presence

using namespace presence;

namespace {

const char *text_argument(FunctionCallInfo fcinfo, int argument)
{
    return PG_ARGISNULL(argument) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

}  // namespace

PRESENCE_FUNCTION(presence_event_payload)
{
    const Announcement announcement{PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0),
                                    PG_ARGISNULL(1) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(1),
                                    text_argument(fcinfo, 2),
                                    text_argument(fcinfo, 3),
                                    text_argument(fcinfo, 4),
                                    text_argument(fcinfo, 5),
                                    PG_ARGISNULL(6) ? 0 : PG_GETARG_INT32(6),
                                    PG_ARGISNULL(7) ? nullptr : PG_GETARG_JSONB_P(7),
                                    text_argument(fcinfo, 9)};
    PG_RETURN_TEXT_P(cstring_to_text(payload_of(announcement, text_argument(fcinfo, 8))));
}
