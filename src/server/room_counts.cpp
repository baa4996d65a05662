#include "room_counts.h"

#include <algorithm>

#include "compat.h"
#include "datums.h"
#include "rows.h"

extern "C" {
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

enum CountColumn : AttrNumber { count_room = 1, count_seq, count_users };
constexpr Oid count_types[] = {TEXTOID, INT8OID, INT8OID};

// The newest row of the room is in the slot.
bool find_newest(IndexScanDesc scan, TupleTableSlot *slot, text *room)
{
    ScanKeyData key = equals(1, F_TEXTEQ, PointerGetDatum(room));
    index_rescan(scan, &key, 1, nullptr, 0);
    return index_getnext_slot(scan, BackwardScanDirection, slot);
}

std::int64_t users_in(TupleTableSlot *slot)
{
    bool is_null = false;
    return DatumGetInt64(slot_getattr(slot, count_users, &is_null));
}

std::int64_t numbered_users(Snapshot snapshot, text *room)
{
    const IndexScan counts = begin_reading(Table::room_count, {count_room, count_seq}, false, 1, snapshot);
    const std::int64_t users = find_newest(counts.scan, counts.slot, room) ? users_in(counts.slot) : 0;
    end_reading(counts);
    return users;
}

}  // namespace

RoomChange room_change_of(const KeyScan &events)
{
    const int change = room_change(events);
    bool is_null = false;
    return {change == 0 ? nullptr : DatumGetTextPCopy(slot_getattr(events.slot, event_room, &is_null)), change};
}

void count_in_rooms(std::span<RoomChange> changes, std::int64_t seq, Snapshot snapshot)
{
    if (changes.empty())
        return;
    std::sort(changes.begin(), changes.end(),
              [](const RoomChange &a, const RoomChange &b) { return text_view(a.room) < text_view(b.room); });
    OpenTable *table = open_for_writing(Table::room_count, count_types);
    begin_command();
    IndexScanDesc scan = begin_index_scan(*table, index_on(*table, {count_room, count_seq}, false), 1, snapshot);
    for (std::size_t from = 0, to = 0; from < changes.size(); from = to) {
        std::int64_t users = 0;
        for (to = from; to < changes.size() && text_view(changes[to].room) == text_view(changes[from].room); ++to)
            users += changes[to].change;
        if (users == 0)
            continue;
        if (find_newest(scan, table->found, changes[from].room)) {
            users += users_in(table->found);
            // Retention may have taken a room that was empty away.
            TM_FailureData failure;
            (void)compat::delete_row(table->relation, &table->found->tts_tid, GetActiveSnapshot(), true, &failure);
        }
        TupleTableSlot *row = next_row(*table);
        set(row, count_room, PointerGetDatum(changes[from].room));
        set(row, count_seq, Int64GetDatum(seq));
        set(row, count_users, Int64GetDatum(users));
        add_row(*table);
    }
    index_endscan(scan);
    insert_rows(*table);
    end_command();
    close_table(table);
}

std::int64_t recorded_room_users(Snapshot snapshot, text *room)
{
    std::int64_t users = numbered_users(snapshot, room);
    each_unnumbered(snapshot, read_head(snapshot), [&users, room](const KeyScan &events) {
        bool is_null = false;
        const int change = room_change(events);
        if (change != 0 &&
            text_view(DatumGetTextPP(slot_getattr(events.slot, event_room, &is_null))) == text_view(room))
            users += change;
    });
    return users;
}

}  // namespace presence
