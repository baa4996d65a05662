#include "user_status.h"

#include <algorithm>

namespace presence {

bool choose(User &user, SessionGroup &group, const StatusChoice &choice, Reason reason, Time now,
            EventList &events) noexcept
{
    if (choice == user.choice)
        return false;
    const bool repeated = choice.status != user.choice.status || choice.until != user.choice.until;
    for (Session *session : group.sessions())
        if (repeated && session->online)
            session->changed = true;
    const bool other_message = choice.message != user.choice.message;
    user.choice = choice;
    user.changed = true;
    update_user(user, group, reason, nullptr, now, other_message, events);
    return true;
}

void reveal(User &user, std::span<Session *> sessions, const StatusChoice &choice, Time now, EventList &events) noexcept
{
    user.choice = choice;
    user.changed = true;
    // The one that beat last comes first, so that what the others bring is not shown instead.
    std::sort(sessions.begin(), sessions.end(), [](const Session *a, const Session *b) {
        return a->online != b->online ? a->online : a->heartbeat_at > b->heartbeat_at;
    });
    const auto gone = std::find_if(sessions.begin(), sessions.end(), [](const Session *s) { return !s->online; });
    SessionGroup group(std::span<Session *>{});
    for (auto at = sessions.begin(); at != gone; ++at) {
        Session &session = **at;
        session.changed = true;
        // What was before is nobody's affair; and nobody joins after having been heard.
        session.joined_at = session.heartbeat_at;
        session.online_since = user.online ? user.online_since : now;
        group.add(session);
        add_event(EventType::session_start, Reason::heartbeat, user, &session, group, events);
        update_user(user, group, Reason::heartbeat, &session, now, false, events);
    }
    for (auto at = gone; at != sessions.end(); ++at)
        (*at)->changed = false;
}

void sum_up(User &user, std::span<Session *> sessions) noexcept
{
    SessionGroup group(sessions);
    user.online = group.state() != SessionState::offline;
    user.sessions = group.online_count();
    user.status = group.status();
    const auto first = std::find_if(sessions.begin(), sessions.end(), [](const Session *s) { return s->online; });
    user.online_since = first != sessions.end() ? (*first)->online_since : 0;
}

}  // namespace presence
