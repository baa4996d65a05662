// The rules of rooms: what joining, leaving and the end of sessions do to the rooms of one user, and which events tell of
// it. As in rules.h, pure values: the caller holds the user's lock, and writes down what is marked.
#pragma once

#include "rules.h"

namespace presence {

// One session of a user in one room. A user is in a room as long as a member is. One that is leaving is always the only one
// of its user in its room: as long as others are there, none is needed for the sake of the user.
struct Member {
    std::string_view room, session;
    Time entered_at = 0;   // of the user, the same for all of the user's in the room
    Time changed_at = 0;   // when the session joined the room, or last changed its metadata there
    Time leave_until = 0;  // the session has ended, but until then the user counts as in the room; 0: it lasts
    std::uint64_t metadata_digest = 0;  // 0: none
    bool changed = false;               // to be written
    bool gone = false;                  // to be removed

    // Of end_members(): by which of the user's events the member ends, and why.
    std::size_t end_event = 0;
    Reason end_reason = Reason::none;
    bool may_return = false;

    bool leaving() const noexcept { return leave_until != 0; }
};

enum class RoomEventType : std::uint8_t { join, leave, update };
// As events show it: "room_join" and so on.
std::string_view to_text(RoomEventType type) noexcept;

struct RoomEvent {
    RoomEventType type;
    Reason reason;
    const Member *member;   // by which
    const Member *shown;    // whose metadata the user shows in the room after it; null: there is none
    std::int32_t sessions;  // how many the user has in the room after it
    std::size_t before;     // which of the user's events of other kinds follows
    std::size_t order = 0;  // among those before the same one
};

// A caller-owned list of fixed capacity: one event for each member and one for each request are enough.
class RoomEventList {
public:
    explicit RoomEventList(std::span<RoomEvent> room) noexcept : room_(room) {}
    void add(RoomEvent event) noexcept;
    std::span<const RoomEvent> items() const noexcept { return room_.first(size_); }
    // In the order in which they are to be written.
    void sort() noexcept;

private:
    std::span<RoomEvent> room_;
    std::size_t size_ = 0;
};

// A session that ends, by the user's event of that number.
struct SessionEnd {
    std::string_view session;
    Reason reason;
    std::size_t event;
};

struct RoomEnds {
    static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

    Time now = 0;
    Time grace = 0;                          // of a disconnect
    std::span<const SessionEnd> sessions{};  // by name, of each the first end
    std::size_t offline = none;              // the first event by which the user goes offline, and why
    Reason offline_reason = Reason::none;
};

// What these ends mean for the members, which are in order of room and then of session; and ends what has used up its grace.
void end_members(std::span<Member *const> members, const RoomEnds &ends, RoomEventList &events) noexcept;

enum class JoinResult : std::uint8_t { unchanged, changed, joined };

// A session that is online joins a room, or says something else there. in_room: the user's members there, the target among
// them unless it is new; no digest: nothing is said. next: how many events of other kinds there are.
JoinResult join_room(std::span<Member *const> in_room, Member &target, std::optional<std::uint64_t> metadata_digest,
                     Time now, std::size_t next, RoomEventList &events) noexcept;

// The session leaves the room. True where the user left by it.
bool leave_room(std::span<Member *const> in_room, Member &target, Reason reason, std::size_t next,
                RoomEventList &events) noexcept;

// What a user shows in a room: what was said last there by one who is still there; null: nobody said anything.
const Member *shown_member(std::span<Member *const> in_room) noexcept;

}  // namespace presence
