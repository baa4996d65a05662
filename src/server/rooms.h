// The rooms of users as they are stored: loaded under the lock on the user's row, judged by the rules, and written back
// together with the events. The only place that reads or writes these rows for a change. Does not live here: who is shown
// in a room (room_readers.cpp), and how many there are (room_counts.h).
#pragma once

#include "../core/rooms.h"
#include "server.h"

namespace presence {

struct WantedUser;

// Of presence_room_member.
enum MemberColumn : AttrNumber {
    member_user = 1,
    member_room,
    member_session,
    member_entered_at,
    member_changed_at,
    member_leave_until,
    member_metadata,
};

struct StoredMember : Member {
    HeapTuple stored;  // null: not stored yet
    NullableDatum metadata;
};

// What a session asks for. The room's name lives as long as the request.
struct RoomRequest {
    enum class Kind : std::uint8_t { join, leave };

    Kind kind;
    std::string_view session, room;
    NullableDatum metadata;
    bool done;  // filled in: the session is in the room now; or the user has left it by this
};

// Ends the memberships of sessions that have ended, as the users' events tell, and then does what is asked for. The events
// go to the users.
void settle_rooms(std::span<const WantedUser> wanted);

// Where what happens in the room is announced.
const char *room_channel(std::string_view room);

}  // namespace presence
