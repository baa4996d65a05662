// How many users are in a room, as far as the feed has numbers: whoever numbers events writes a row for each room that they
// change, and takes the one before away. Nothing is updated, so neither those who join nor those who count wait for each
// other, and the newest row is the first that an index finds, however long an old snapshot keeps the others.
#pragma once

#include "feed_tables.h"

namespace presence {

// What an event does to the number of users in a room.
struct RoomChange {
    text *room;
    int change;
};
// Of the event in the slot, in memory of the caller's context; no room where it changes none.
RoomChange room_change_of(const KeyScan &events);

// By whoever numbers events up to seq, which change these.
void count_in_rooms(std::span<RoomChange> changes, std::int64_t seq, Snapshot snapshot);

// Users in the room after the last event that the snapshot sees, with or without a number. Some of them may be stale.
std::int64_t recorded_room_users(Snapshot snapshot, text *room);

}  // namespace presence
