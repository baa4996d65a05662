#include "rooms.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace presence {

namespace {

constexpr std::array<std::string_view, 3> event_texts{"room_join", "room_leave", "room_update"};

std::int32_t count_staying(std::span<Member *const> in_room) noexcept
{
    return static_cast<std::int32_t>(std::count_if(
        in_room.begin(), in_room.end(), [](const Member *member) { return !member->gone && !member->leaving(); }));
}

std::uint64_t digest_of(const Member *member) noexcept { return member != nullptr ? member->metadata_digest : 0; }

void find_end(Member &member, const RoomEnds &ends) noexcept
{
    member.end_event = RoomEnds::none;
    member.may_return = false;
    if (member.leaving()) {
        // As the session did: nothing but a disconnect is granted a grace.
        if (ends.now > member.leave_until) {
            member.end_event = 0;
            member.end_reason = Reason::disconnect;
        }
    } else {
        const auto at = std::lower_bound(ends.sessions.begin(), ends.sessions.end(), member.session,
                                         [](const SessionEnd &a, std::string_view name) { return a.session < name; });
        if (at != ends.sessions.end() && at->session == member.session) {
            member.end_event = at->event;
            member.end_reason = at->reason;
            member.may_return = at->reason == Reason::disconnect && ends.grace > 0;
        }
    }
    if (ends.offline < member.end_event) {
        member.end_event = ends.offline;
        member.end_reason = ends.offline_reason;
        member.may_return = false;
    }
}

// One is removed after the other, so that the events tell what is left after each.
void end_in_room(std::span<Member *const> in_room, const RoomEnds &ends, RoomEventList &events) noexcept
{
    for (Member *member : in_room)
        find_end(*member, ends);
    for (;;) {
        Member *next = nullptr;
        for (Member *member : in_room)
            if (!member->gone && member->end_event < (next != nullptr ? next->end_event : RoomEnds::none))
                next = member;
        if (next == nullptr)
            return;
        if (next->may_return && count_staying(in_room) == 1) {
            next->leave_until = ends.now + ends.grace;
            next->changed = true;
            next->end_event = ends.offline;
            next->end_reason = ends.offline_reason;
            next->may_return = false;
            continue;
        }
        (void)leave_room(in_room, *next, next->end_reason, next->end_event, events);
    }
}

}  // namespace

std::string_view to_text(RoomEventType type) noexcept { return event_texts[static_cast<std::size_t>(type)]; }

void RoomEventList::add(RoomEvent event) noexcept
{
    assert(size_ < room_.size());
    event.order = size_;
    room_[size_++] = event;
}

void RoomEventList::sort() noexcept
{
    std::sort(room_.begin(), room_.begin() + static_cast<std::ptrdiff_t>(size_),
              [](const RoomEvent &a, const RoomEvent &b) {
                  return a.before != b.before ? a.before < b.before : a.order < b.order;
              });
}

const Member *shown_member(std::span<Member *const> in_room) noexcept
{
    const Member *shown = nullptr;
    for (const Member *member : in_room)
        if (!member->gone && member->metadata_digest != 0 &&
            (shown == nullptr || member->changed_at >= shown->changed_at))
            shown = member;
    return shown;
}

void end_members(std::span<Member *const> members, const RoomEnds &ends, RoomEventList &events) noexcept
{
    for (std::size_t from = 0, to = 0; from < members.size(); from = to) {
        for (to = from; to < members.size() && members[to]->room == members[from]->room; ++to) {
        }
        end_in_room(members.subspan(from, to - from), ends, events);
    }
    events.sort();
}

JoinResult join_room(std::span<Member *const> in_room, Member &target, std::optional<std::uint64_t> metadata_digest,
                     Time now, std::size_t next, RoomEventList &events) noexcept
{
    const bool is_new = std::find(in_room.begin(), in_room.end(), &target) == in_room.end();
    const bool other_metadata = metadata_digest && *metadata_digest != target.metadata_digest;
    if (!is_new && !target.leaving() && !other_metadata)
        return JoinResult::unchanged;

    const std::uint64_t shown_before = digest_of(shown_member(in_room));
    bool was_there = false;
    for (Member *member : in_room) {
        if (member->gone)
            continue;
        was_there = true;
        target.entered_at = member->entered_at;
        // Whoever was leaving has come back.
        member->gone = member != &target && member->leaving();
    }
    const bool joins = is_new || target.leaving();
    if (!was_there)
        target.entered_at = now;
    target.leave_until = 0;
    target.changed_at = now;
    if (metadata_digest)
        target.metadata_digest = *metadata_digest;
    target.changed = true;

    const Member *shown = shown_member(in_room);
    if (is_new && target.metadata_digest != 0)
        shown = &target;
    const std::int32_t sessions = count_staying(in_room) + (is_new ? 1 : 0);
    if (!was_there)
        events.add({RoomEventType::join, Reason::heartbeat, &target, shown, sessions, next});
    else if (digest_of(shown) != shown_before)
        events.add({RoomEventType::update, Reason::heartbeat, &target, shown, sessions, next});
    return joins ? JoinResult::joined : JoinResult::changed;
}

bool leave_room(std::span<Member *const> in_room, Member &target, Reason reason, std::size_t next,
                RoomEventList &events) noexcept
{
    const std::uint64_t before = digest_of(shown_member(in_room));
    target.gone = true;
    const bool any_left =
        std::any_of(in_room.begin(), in_room.end(), [](const Member *member) { return !member->gone; });
    const Member *shown = shown_member(in_room);
    if (!any_left)
        events.add({RoomEventType::leave, reason, &target, nullptr, 0, next});
    else if (digest_of(shown) != before)
        events.add({RoomEventType::update, reason, &target, shown, count_staying(in_room), next});
    return !any_left;
}

}  // namespace presence
