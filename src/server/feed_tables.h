// The feed's tables, read by their primary keys without any plan, so that what a reader costs depends on the rows that it
// wants and on nothing else. Lives here: scans, and the head of the feed. Does not live here: who numbers, and when (feed.h).
#pragma once

#include <span>

#include "extension.h"
#include "rows.h"
#include "server.h"

namespace presence {

// Columns of presence_event.
enum EventColumn : AttrNumber {
    event_id = 1,
    event_at,
    event_type,
    event_user,
    event_session,
    event_reason,
    event_sessions,
    event_details,
    event_channel,
    event_room
};

// Rows of one table by its first column, a bigint.
using KeyScan = IndexScan;
KeyScan begin_key_scan(Table table, Snapshot snapshot, LOCKMODE lock = AccessShareLock);
// The next rows are those with keys from first to last.
void seek(KeyScan &scan, std::int64_t first, std::int64_t last);

// Empty where it is NULL. Good until the next row.
std::string_view text_of(const KeyScan &scan, AttrNumber column);
// Events of one room, in the order of their ids.
struct RoomScan : IndexScan {
    text *room;
};
RoomScan begin_room_scan(text *room, Snapshot snapshot);
// The next ones are those with ids from first on.
void seek(RoomScan &scan, std::int64_t first);

std::int64_t int8_of(const KeyScan &scan, AttrNumber column, std::int64_t otherwise = 0);
// +1 for user_online, -1 for user_offline: what the event in the slot does to the number of users online.
int online_change(const KeyScan &events);

// The same for the number of users in a room; 0 for events of other kinds.
int room_change(const KeyScan &events);

// Events first_id, first_id + 1, … have the numbers first_seq, first_seq + 1, …
struct FeedRange {
    std::int64_t first_seq, first_id;
    std::int32_t events;

    std::int64_t last_seq() const { return first_seq + events - 1; }
    std::int64_t last_id() const { return first_id + events - 1; }
};
// Of the row of presence_feed_range in the slot.
FeedRange range_of(const KeyScan &ranges);

// Ids at or below the head's last_id whose transactions had not ended.
struct OpenIds {
    std::int64_t first, last;
    // 0: the rows are there. Otherwise they come from a transaction below this one, or never.
    std::uint64_t until;
    TransactionId writer;  // where it is known
};

struct FeedHead {
    std::int64_t last_seq, last_id, online_users;
    std::span<const OpenIds> open;
    bool exists;
};
FeedHead read_head(Snapshot snapshot);

// Highest number that retention has removed.
std::int64_t dropped_seq(Snapshot snapshot);

// Calls work() with a scan at each event that has no number.
template <typename Work>
void each_unnumbered(Snapshot snapshot, const FeedHead &head, Work work)
{
    KeyScan events = begin_key_scan(Table::event, snapshot);
    for (std::size_t i = 0; i <= head.open.size(); ++i) {
        if (i < head.open.size())
            seek(events, head.open[i].first, head.open[i].last);
        else
            seek(events, head.last_id + 1, PG_INT64_MAX);
        while (next(events))
            work(events);
    }
    end_reading(events);
}

// Ids of the events that other transactions have committed, as the snapshot sees it, and that have no number.
Growing<Datum> unnumbered_events(Snapshot snapshot);
// After the last of these: users online, and how the number of users in all rooms differs from what numbers tell.
struct Recorded {
    std::int64_t online_users, room_changes;
};
Recorded recorded(Snapshot snapshot);

// From the one that holds this number, or the first after it. The ranges are those that a scan with the snapshot then finds.
void seek_range(KeyScan &ranges, std::int64_t seq);

}  // namespace presence
