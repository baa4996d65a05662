#include "rules.h"

#include <algorithm>
#include <array>

namespace presence {

namespace {

constexpr std::array<std::string_view, 4> status_texts{"active", "busy", "idle", "away"};
constexpr std::array<std::string_view, 5> event_texts{"user_online", "user_offline", "session_start", "session_end",
                                                      "update"};
constexpr std::array<std::string_view, 6> reason_texts{"", "heartbeat", "leave", "disconnect", "timeout", "admin"};

struct Aggregate {
    bool online = false;
    std::int32_t sessions = 0;
    Status status = Status::away;
    const Session *latest = nullptr;

    std::uint64_t metadata() const noexcept { return latest != nullptr ? latest->metadata_digest : 0; }
};

// While the last session is leaving, the user keeps showing its status.
Aggregate aggregate(std::span<Session *const> sessions) noexcept
{
    Aggregate attending;
    Aggregate leaving;
    for (const Session *session : sessions) {
        if (!session->online)
            continue;
        Aggregate &group = session->leaving ? leaving : attending;
        group.status = group.online ? std::min(group.status, session->status) : session->status;
        group.online = true;
        ++group.sessions;
        if (group.latest == nullptr || session->heartbeat_at > group.latest->heartbeat_at)
            group.latest = session;
    }
    if (attending.online)
        return attending;
    leaving.sessions = 0;
    return leaving;
}

// A tab that says nothing neither hides nor reveals what another has said; the events of the sessions themselves tell it.
bool shows_other(std::uint64_t before, std::uint64_t after) noexcept
{
    return before != 0 && after != 0 && before != after;
}

void report(EventType type, Reason reason, const Session &session, const Aggregate &state, EventList &events) noexcept
{
    events.add({type, reason, &session, state.latest, state.sessions, state.status, state.online});
}

// Brings the user in line with the sessions and reports what others see of that. True where the user went offline.
bool settle(User &user, std::span<Session *const> sessions, Reason reason, const Session &cause, Time now,
            bool tell_update, EventList &events) noexcept
{
    const Aggregate state = aggregate(sessions);
    const bool came = state.online && !user.online;
    const bool went = !state.online && user.online;
    const bool other_status = state.online && user.online && state.status != user.status;

    if (came || went || other_status || state.sessions != user.sessions)
        user.changed = true;
    if (came)
        user.online_since = now;
    if (went)
        user.offline_at = now;
    user.online = state.online;
    user.sessions = state.sessions;
    user.status = state.status;

    if (came)
        report(EventType::user_online, reason, cause, state, events);
    else if (went)
        report(EventType::user_offline, reason, cause, state, events);
    else if (state.online && (other_status || tell_update))
        report(EventType::update, reason, cause, state, events);
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
    if (size_ < room_.size())
        room_[size_++] = event;
}

Time patience(Time timeout, Time max_timeout, Time heartbeat_interval) noexcept
{
    return std::min(std::max(timeout, 2 * heartbeat_interval), max_timeout);
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
            const Time end_time = session->leaving ? session->leave_until : session->stale_after;
            if (now > end_time && (first == nullptr || end_time < first_end)) {
                first = session;
                first_end = end_time;
            }
        }
        if (first == nullptr)
            return went_offline;
        if (first->leaving) {
            stop_leaving(*first);
            went_offline |= settle(user, sessions, first->end_reason, *first, now, false, events);
        } else {
            const std::uint64_t shown = aggregate(sessions).metadata();
            end(*first, Reason::timeout, first_end);
            const Aggregate left = aggregate(sessions);
            report(EventType::session_end, Reason::timeout, *first, left, events);
            went_offline |=
                settle(user, sessions, Reason::timeout, *first, now, shows_other(shown, left.metadata()), events);
        }
    }
}

Heard hear(User &user, std::span<Session *const> sessions, Session &target, const Heartbeat &beat,
           EventList &events) noexcept
{
    expire(user, sessions, beat.now, events);

    if (target.attending()) {
        target.heartbeat_at = std::max(target.heartbeat_at, beat.now);
        const bool other_status = beat.status_given && beat.status != target.status;
        const bool other_metadata = beat.metadata_given && beat.metadata_digest != target.metadata_digest;
        if (!other_status && !other_metadata && !beat.details_changed)
            return Heard::refreshed;
        if (other_metadata)
            target.metadata_digest = beat.metadata_digest;
        if (other_status)
            target.status = beat.status;
        target.changed = true;
        settle(user, sessions, Reason::heartbeat, target, beat.now, other_metadata, events);
        return Heard::changed;
    }

    const bool on_purpose = target.end_reason == Reason::leave || target.end_reason == Reason::disconnect ||
                            target.end_reason == Reason::admin;
    // An end in the future says that the clock was set back, not that the guard lasts until then.
    const bool guarded =
        beat.now >= target.ended_at - beat.rejoin_guard && beat.now < target.ended_at + beat.rejoin_guard;
    if (beat.named && on_purpose && guarded)
        return Heard::ignored;

    const std::uint64_t shown = aggregate(sessions).metadata();
    // Whoever was leaving has come back.
    for (Session *session : sessions)
        if (session->leaving)
            stop_leaving(*session);

    target.online = true;
    target.leaving = false;
    target.changed = true;
    target.joined_at = beat.now;
    target.heartbeat_at = beat.now;
    target.ended_at = 0;
    target.end_reason = Reason::none;
    if (beat.status_given)
        target.status = beat.status;
    if (beat.metadata_given)
        target.metadata_digest = beat.metadata_digest;
    target.online_since = user.online ? user.online_since : beat.now;

    report(EventType::session_start, Reason::heartbeat, target, aggregate(sessions), events);
    settle(user, sessions, Reason::heartbeat, target, beat.now, shows_other(shown, aggregate(sessions).metadata()),
           events);
    return Heard::began;
}

bool depart(User &user, std::span<Session *const> sessions, Session *target, const Departure &departure,
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
            went_offline |= settle(user, sessions, departure.reason, *session, departure.now, false, events);
            continue;
        }

        const Aggregate before = aggregate(sessions);
        const bool last = before.sessions == 1;
        end(*session, departure.reason, departure.now);
        session->clear_typing = departure.reason == Reason::disconnect;
        if (last && departure.grace > 0) {
            session->online = true;
            session->leaving = true;
            session->leave_until = departure.now + departure.grace;
        }
        const Aggregate left = aggregate(sessions);
        report(EventType::session_end, departure.reason, *session, left, events);
        went_offline |= settle(user, sessions, departure.reason, *session, departure.now,
                               shows_other(before.metadata(), left.metadata()), events);
    }
    return went_offline;
}

}  // namespace presence
