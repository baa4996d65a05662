#include "feed_tables.h"

#include "../core/rooms.h"
#include "datums.h"
#include "rows.h"

extern "C" {
#include "access/relscan.h"
#include "access/tableam.h"
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

enum RangeColumn : AttrNumber {
    range_first_seq = 1,
    range_first_id,
    range_events,
    range_online_users,
    range_last_id,
    range_open_from,
    range_open_to,
    range_open_until
};

// NULL is an empty array.
std::span<const Datum> int8s_of(const KeyScan &scan, AttrNumber column)
{
    bool is_null = false;
    const Datum value = slot_getattr(scan.slot, column, &is_null);
    if (is_null)
        return {};
    Datum *values;
    int count;
    deconstruct_array(DatumGetArrayTypePCopy(value), INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE, &values, nullptr,
                      &count);
    return {values, static_cast<std::size_t>(count)};
}

std::span<const OpenIds> open_ids_of(const KeyScan &ranges)
{
    const std::span<const Datum> from = int8s_of(ranges, range_open_from);
    const std::span<const Datum> to = int8s_of(ranges, range_open_to);
    const std::span<const Datum> until = int8s_of(ranges, range_open_until);
    if (from.size() != to.size() || from.size() != until.size())
        elog(ERROR, "the head of the presence feed is damaged");
    Growing<OpenIds> open;
    for (std::size_t i = 0; i < from.size(); ++i)
        open.add({DatumGetInt64(from[i]), DatumGetInt64(to[i]), static_cast<std::uint64_t>(DatumGetInt64(until[i])),
                  InvalidTransactionId});
    return open.span();
}

}  // namespace

KeyScan begin_key_scan(Table table, Snapshot snapshot, LOCKMODE lock)
{
    return begin_reading(table, {1}, false, 2, snapshot, lock);
}

void seek(KeyScan &scan, std::int64_t first, std::int64_t last)
{
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(first));
    ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(last));
    index_rescan(scan.scan, keys, 2, nullptr, 0);
}

RoomScan begin_room_scan(text *room, Snapshot snapshot)
{
    return {begin_reading(Table::event, {event_room, event_id}, true, 2, snapshot), room};
}

void seek(RoomScan &scan, std::int64_t first)
{
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(scan.room));
    ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(first));
    index_rescan(scan.scan, keys, 2, nullptr, 0);
}

std::int64_t int8_of(const KeyScan &scan, AttrNumber column, std::int64_t otherwise)
{
    bool is_null = false;
    const Datum value = slot_getattr(scan.slot, column, &is_null);
    return is_null ? otherwise : DatumGetInt64(value);
}

std::string_view text_of(const KeyScan &scan, AttrNumber column)
{
    bool is_null = false;
    const Datum value = slot_getattr(scan.slot, column, &is_null);
    return is_null ? std::string_view{} : text_view(DatumGetTextPP(value));
}

int online_change(const KeyScan &events)
{
    const std::string_view type = text_of(events, event_type);
    return type == "user_online" ? 1 : type == "user_offline" ? -1 : 0;
}

int room_change(const KeyScan &events)
{
    if (slot_attisnull(events.slot, event_room))
        return 0;
    bool is_null = false;
    const std::string_view type = text_view(DatumGetTextPP(slot_getattr(events.slot, event_type, &is_null)));
    return (type == to_text(RoomEventType::join)) - (type == to_text(RoomEventType::leave));
}

FeedRange range_of(const KeyScan &ranges)
{
    bool is_null = false;
    return {int8_of(ranges, range_first_seq), int8_of(ranges, range_first_id),
            DatumGetInt32(slot_getattr(ranges.slot, range_events, &is_null))};
}

FeedHead read_head(Snapshot snapshot)
{
    FeedHead head = {};
    KeyScan ranges = begin_key_scan(Table::feed_range, snapshot);
    seek(ranges, PG_INT64_MIN, PG_INT64_MAX);
    if (next(ranges, BackwardScanDirection)) {
        const FeedRange last = range_of(ranges);
        head.exists = true;
        head.last_seq = last.last_seq();
        head.last_id = int8_of(ranges, range_last_id, last.last_id());
        head.online_users = int8_of(ranges, range_online_users);
        head.open = open_ids_of(ranges);
    }
    end_reading(ranges);
    return head;
}

std::int64_t dropped_seq(Snapshot snapshot)
{
    KeyScan rows = begin_key_scan(Table::feed_dropped, snapshot);
    seek(rows, PG_INT64_MIN, PG_INT64_MAX);
    const std::int64_t seq = next(rows, BackwardScanDirection) ? int8_of(rows, 1) : 0;
    end_reading(rows);
    return seq;
}

Growing<Datum> unnumbered_events(Snapshot snapshot)
{
    Growing<Datum> ids;
    each_unnumbered(snapshot, read_head(snapshot), [&ids](const KeyScan &events) {
        bool is_null = false;
        const Datum writer = slot_getsysattr(events.slot, MinTransactionIdAttributeNumber, &is_null);
        if (!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(writer)))
            ids.add(Int64GetDatum(int8_of(events, event_id)));
    });
    return ids;
}

Recorded recorded(Snapshot snapshot)
{
    const FeedHead head = read_head(snapshot);
    Recorded total{head.online_users, 0};
    each_unnumbered(snapshot, head, [&total](const KeyScan &events) {
        total.online_users += online_change(events);
        total.room_changes += room_change(events);
    });
    return total;
}

void seek_range(KeyScan &ranges, std::int64_t seq)
{
    seek(ranges, PG_INT64_MIN, seq);
    const std::int64_t first = next(ranges, BackwardScanDirection) ? range_of(ranges).first_seq : PG_INT64_MIN;
    seek(ranges, first, PG_INT64_MAX);
}

}  // namespace presence
