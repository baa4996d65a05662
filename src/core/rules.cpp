#include "rules.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace presence {

namespace {

constexpr std::array<std::string_view, 4> status_texts{"active", "busy", "idle", "away"};
constexpr std::array<std::string_view, 5> event_texts{"user_online", "user_offline", "session_start", "session_end",
                                                      "update"};
constexpr std::array<std::string_view, 6> reason_texts{"", "heartbeat", "leave", "disconnect", "timeout", "admin"};

// The user, and the session whose metadata the user shows: the one that beat last.
struct Aggregate {
    UserSummary user;
    const Session *latest = nullptr;

    std::uint64_t metadata() const noexcept { return latest != nullptr ? latest->metadata_digest : 0; }
};

Aggregate aggregate(std::span<Session *const> sessions) noexcept
{
    Aggregate sum;
    for (const Session *session : sessions)
        if (session->online && sum.user.add({.state = session->state(),
                                             .status = session->status,
                                             .online_since = session->online_since,
                                             .heartbeat_at = session->heartbeat_at,
                                             .ended_at = session->ended_at}))
            sum.latest = session;
    return sum;
}

// A tab that says nothing neither hides nor reveals what another has said; the events of the sessions themselves tell it.
bool other_metadata_shown(std::uint64_t before, std::uint64_t after) noexcept
{
    return before != 0 && after != 0 && before != after;
}

void add_event(EventType type, Reason reason, const Session &session, const Aggregate &sum, EventList &events) noexcept
{
    events.add({type, reason, &session, sum.latest, sum.user.sessions, sum.user.status, sum.user.online()});
}

// Brings the user in line with the sessions and adds the event of what others see of that. other_metadata: they see other
// metadata. True where the user went offline.
bool update_user(User &user, std::span<Session *const> sessions, Reason reason, const Session &cause, Time now,
                 bool other_metadata, EventList &events) noexcept
{
    const Aggregate sum = aggregate(sessions);
    const bool online = sum.user.online();
    const bool came = online && !user.online;
    const bool went = !online && user.online;
    const bool other_status = online && user.online && sum.user.status != user.status;

    if (came || went || other_status || sum.user.sessions != user.sessions)
        user.changed = true;
    if (came)
        user.online_since = now;
    if (went)
        user.offline_at = now;
    user.online = online;
    user.sessions = sum.user.sessions;
    user.status = sum.user.status;

    if (came)
        add_event(EventType::user_online, reason, cause, sum, events);
    else if (went)
        add_event(EventType::user_offline, reason, cause, sum, events);
    else if (online && (other_status || other_metadata))
        add_event(EventType::update, reason, cause, sum, events);
    return went;
}

void end(Session &session, Reason reason, Time when) noexcept
{
    session.online = false;
    session.leaving = false;
    session.changed = true;
    session.leave_until = 0;
    session.ended_at = when;
    session.end_reason = reason;
}

// A session that is leaving has ended and been reported already: only its user has to notice.
void stop_leaving(Session &session) noexcept
{
    session.online = false;
    session.leaving = false;
    session.changed = true;
    session.leave_until = 0;
}

}  // namespace

std::string_view to_text(Status status) noexcept { return status_texts[static_cast<std::size_t>(status)]; }
std::string_view to_text(EventType type) noexcept { return event_texts[static_cast<std::size_t>(type)]; }
std::string_view to_text(Reason reason) noexcept { return reason_texts[static_cast<std::size_t>(reason)]; }

bool parse(std::string_view text, Status &status) noexcept
{
    const auto *found = std::find(status_texts.begin(), status_texts.end(), text);
    if (found == status_texts.end())
        return false;
    status = static_cast<Status>(found - status_texts.begin());
    return true;
}

bool parse(std::string_view text, Reason &reason) noexcept
{
    const auto *found = std::find(reason_texts.begin(), reason_texts.end(), text);
    if (found == reason_texts.end())
        return false;
    reason = static_cast<Reason>(found - reason_texts.begin());
    return true;
}

void EventList::add(const Event &event) noexcept
{
    assert(size_ < room_.size());
    room_[size_++] = event;
}

bool UserSummary::add(const SessionSnapshot &session) noexcept
{
    // A session of higher precedence takes the place of those before it.
    const bool first = !any || session.state > state;
    const bool latest_so_far =
        first || (session.state == state && (session.heartbeat_at > heartbeat_at ||
                                             (session.heartbeat_at == heartbeat_at && session.id > latest)));
    if (latest_so_far) {
        latest = session.id;
        heartbeat_at = session.heartbeat_at;
    }
    if (first) {
        state = session.state;
        status = session.status;
        online_since = session.online_since;
    } else if (session.state == state) {
        status = std::min(status, session.status);
        online_since = std::min(online_since, session.online_since);
    }
    sessions += session.state == SessionState::online ? 1 : 0;
    const Time over = session.ended_at != 0 ? session.ended_at : session.heartbeat_at;
    ended_at = any ? std::max(ended_at, over) : over;
    any = true;
    return latest_so_far;
}

bool expire(User &user, std::span<Session *const> sessions, Time now, EventList &events) noexcept
{
    bool went_offline = false;
    for (;;) {
        // In the order in which they fell silent, so that the last one to end is the one that takes the user offline.
        Session *first = nullptr;
        Time first_end = 0;
        for (Session *session : sessions) {
            if (!session->online)
                continue;
            const Time end_time = live_until(session->stale_after, session->leave_until);
            if (now > end_time && (first == nullptr || end_time < first_end)) {
                first = session;
                first_end = end_time;
            }
        }
        if (first == nullptr)
            return went_offline;
        if (first->leaving) {
            stop_leaving(*first);
            went_offline |= update_user(user, sessions, first->end_reason, *first, now, false, events);
        } else {
            const std::uint64_t shown = aggregate(sessions).metadata();
            end(*first, Reason::timeout, first_end);
            const Aggregate left = aggregate(sessions);
            add_event(EventType::session_end, Reason::timeout, *first, left, events);
            went_offline |= update_user(user, sessions, Reason::timeout, *first, now,
                                        other_metadata_shown(shown, left.metadata()), events);
        }
    }
}

HeartbeatResult apply_heartbeat(User &user, std::span<Session *const> sessions, Session &target,
                                const Heartbeat &heartbeat, EventList &events) noexcept
{
    expire(user, sessions, heartbeat.now, events);

    if (target.state() == SessionState::online) {
        target.heartbeat_at = std::max(target.heartbeat_at, heartbeat.now);
        const bool other_status = heartbeat.status && *heartbeat.status != target.status;
        const bool other_metadata = heartbeat.metadata_digest && *heartbeat.metadata_digest != target.metadata_digest;
        if (!other_status && !other_metadata && !heartbeat.details_changed)
            return HeartbeatResult::refreshed;
        if (other_metadata)
            target.metadata_digest = *heartbeat.metadata_digest;
        if (other_status)
            target.status = *heartbeat.status;
        target.changed = true;
        update_user(user, sessions, Reason::heartbeat, target, heartbeat.now, other_metadata, events);
        return HeartbeatResult::changed;
    }

    const bool on_purpose = target.end_reason == Reason::leave || target.end_reason == Reason::disconnect ||
                            target.end_reason == Reason::admin;
    // An end in the future says that the clock was set back, not that the guard lasts until then.
    const bool guarded = heartbeat.now >= target.ended_at - heartbeat.rejoin_guard &&
                         heartbeat.now < target.ended_at + heartbeat.rejoin_guard;
    if (heartbeat.named && on_purpose && guarded)
        return HeartbeatResult::ignored;

    const std::uint64_t shown = aggregate(sessions).metadata();
    // Whoever was leaving has come back.
    for (Session *session : sessions)
        if (session->leaving)
            stop_leaving(*session);

    target.online = true;
    target.leaving = false;
    target.changed = true;
    target.joined_at = heartbeat.now;
    target.heartbeat_at = heartbeat.now;
    target.ended_at = 0;
    target.end_reason = Reason::none;
    target.status = heartbeat.status.value_or(target.status);
    target.metadata_digest = heartbeat.metadata_digest.value_or(target.metadata_digest);
    target.online_since = user.online ? user.online_since : heartbeat.now;

    add_event(EventType::session_start, Reason::heartbeat, target, aggregate(sessions), events);
    update_user(user, sessions, Reason::heartbeat, target, heartbeat.now,
                other_metadata_shown(shown, aggregate(sessions).metadata()), events);
    return HeartbeatResult::began;
}

bool apply_departure(User &user, std::span<Session *const> sessions, Session *target, const Departure &departure,
                     EventList &events) noexcept
{
    expire(user, sessions, departure.now, events);

    bool went_offline = false;
    for (Session *session : sessions) {
        if (!session->online || (target != nullptr && session != target))
            continue;
        if (session->leaving) {
            if (departure.grace > 0)
                continue;
            stop_leaving(*session);
            went_offline |= update_user(user, sessions, departure.reason, *session, departure.now, false, events);
            continue;
        }

        const Aggregate before = aggregate(sessions);
        const bool last = before.user.sessions == 1;
        end(*session, departure.reason, departure.now);
        session->clear_typing = departure.reason == Reason::disconnect;
        if (last && departure.grace > 0) {
            session->online = true;
            session->leaving = true;
            session->leave_until = departure.now + departure.grace;
        }
        const Aggregate left = aggregate(sessions);
        add_event(EventType::session_end, departure.reason, *session, left, events);
        went_offline |= update_user(user, sessions, departure.reason, *session, departure.now,
                                    other_metadata_shown(before.metadata(), left.metadata()), events);
    }
    return went_offline;
}

}  // namespace presence
