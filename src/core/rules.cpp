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

// False: none of the texts.
template <typename Enum, std::size_t count>
bool parse(const std::array<std::string_view, count> &texts, std::string_view text, Enum &value) noexcept
{
    const auto found = std::find(texts.begin(), texts.end(), text);
    if (found == texts.end())
        return false;
    value = static_cast<Enum>(found - texts.begin());
    return true;
}

// A tab that says nothing neither hides nor reveals what another has said; the events of the sessions themselves tell it.
bool other_metadata_shown(std::uint64_t before, std::uint64_t after) noexcept
{
    return before != 0 && after != 0 && before != after;
}

Status shown_status(const User &user, const SessionGroup &group) noexcept
{
    return user.choice.status.value_or(group.status());
}

// Whether an update of the session may be told. Where it may not, it is put off: one that is told later shows what is true by
// then.
bool may_tell(Session &session, Time now, std::int32_t max_updates) noexcept
{
    if (now < session.updates_from || now - session.updates_from >= update_window) {
        session.updates_from = now;
        session.updates = 0;
    }
    if (max_updates == 0 || session.updates < max_updates) {
        ++session.updates;
        session.update_due = 0;
        return true;
    }
    session.put_off |= session.update_due == 0;
    session.update_due = session.updates_from + update_window;
    return false;
}

void tell_put_off(const User &user, Session &session, SessionGroup &group, Time now, EventList &events) noexcept
{
    if (session.update_due == 0)
        return;
    session.update_due = 0;
    session.updates_from = now;
    session.updates = 1;
    session.changed = true;
    add_event(EventType::update, Reason::heartbeat, user, &session, group, events);
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

bool parse(std::string_view text, Status &status) noexcept { return parse(status_texts, text, status); }
bool parse(std::string_view text, Reason &reason) noexcept { return parse(reason_texts, text, reason); }

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
    seen_at = any ? std::max(seen_at, session.seen_at) : session.seen_at;
    any = true;
    return latest_so_far;
}

SessionGroup::SessionGroup(std::span<Session *> sessions, const Policy &policy) noexcept
    : sessions_(sessions), policy_(policy)
{
    for (const Session *session : sessions_) {
        if (!session->online)
            continue;
        add(*session);
        // The settings may have changed since it last turned.
        if (session->last_activity != 0 || session->said != session->status)
            next_turn_ = 0;
    }
}

SessionState SessionGroup::state() const noexcept
{
    if (online_.count > 0)
        return SessionState::online;
    return leaving_.count > 0 ? SessionState::leaving : SessionState::offline;
}

Status SessionGroup::status() const noexcept
{
    const Part &part = online_.count > 0 ? online_ : leaving_;
    for (std::size_t i = 0; i < part.by_status.size(); ++i)
        if (part.by_status[i] > 0)
            return static_cast<Status>(i);
    return Status::active;
}

const Session *SessionGroup::latest() noexcept
{
    Part &part = online_.count > 0 ? online_ : leaving_;
    if (part.count > 0 && part.latest == nullptr)
        for (const Session *session : sessions_)
            if (session->online && &part_of(*session) == &part &&
                (part.latest == nullptr || session->heartbeat_at > part.latest->heartbeat_at))
                part.latest = session;
    return part.latest;
}

std::uint64_t SessionGroup::metadata() noexcept
{
    const Session *shown = latest();
    return shown != nullptr ? shown->metadata_digest : 0;
}

void SessionGroup::add(const Session &session) noexcept
{
    Part &part = part_of(session);
    if (part.count == 0 || (part.latest != nullptr && session.heartbeat_at > part.latest->heartbeat_at))
        part.latest = &session;
    ++part.count;
    ++part.by_status[static_cast<std::size_t>(session.status)];
    none_over_until_ = std::min(none_over_until_, live_until(session.stale_after, session.leave_until));
    if (session.update_due != 0)
        next_update_ = std::min(next_update_, session.update_due);
    next_turn_ = std::min(next_turn_, turn_of(session));
}

void SessionGroup::show(Session &session, Status status) noexcept
{
    Part &part = part_of(session);
    --part.by_status[static_cast<std::size_t>(session.status)];
    session.status = status;
    ++part.by_status[static_cast<std::size_t>(session.status)];
    next_turn_ = std::min(next_turn_, turn_of(session));
}

Time SessionGroup::turn_of(const Session &session) const noexcept
{
    const Time limit = policy_.inactivity.until(session.status);
    if (session.state() != SessionState::online || session.last_activity == 0 || limit == policy_.inactivity.no_limit)
        return never;
    return std::max(session.last_activity, policy_.floor) + limit;
}

void SessionGroup::find_next_turn() noexcept
{
    next_turn_ = never;
    for (const Session *session : sessions_)
        next_turn_ = std::min(next_turn_, turn_of(*session));
}

void SessionGroup::find_next_update() noexcept
{
    next_update_ = never;
    for (const Session *session : sessions_)
        if (session->update_due != 0)
            next_update_ = std::min(next_update_, session->update_due);
}

void SessionGroup::remove(const Session &session, bool next_in_order) noexcept
{
    Part &part = part_of(session);
    --part.count;
    --part.by_status[static_cast<std::size_t>(session.status)];
    if (part.latest == &session || part.count == 0)
        part.latest = next_in_order && part.count > 0 ? session.successor : nullptr;
}

void SessionGroup::renew(const Session &session) noexcept
{
    Part &part = part_of(session);
    if (part.latest != nullptr && session.heartbeat_at > part.latest->heartbeat_at)
        part.latest = &session;
    next_turn_ = std::min(next_turn_, turn_of(session));
}

std::span<Session *> SessionGroup::take_over(Time now) noexcept
{
    if (now <= none_over_until_)
        return {};
    const auto end_of = [](const Session *session) { return live_until(session->stale_after, session->leave_until); };
    const auto rest = std::partition(sessions_.begin(), sessions_.end(),
                                     [&](const Session *session) { return session->online && now > end_of(session); });
    // The last one to end is the one that takes the user offline.
    std::sort(sessions_.begin(), rest, [&](const Session *a, const Session *b) { return end_of(a) < end_of(b); });
    none_over_until_ = never;
    for (auto session = rest; session != sessions_.end(); ++session)
        if ((*session)->online)
            none_over_until_ = std::min(none_over_until_, end_of(*session));
    const std::span<Session *> over = sessions_.first(static_cast<std::size_t>(rest - sessions_.begin()));
    find_successors(over);
    return over;
}

void SessionGroup::find_successors(std::span<Session *> in_order) noexcept
{
    constexpr auto counts = [](const Session *session) { return session->state() == SessionState::online; };
    // Those that stay: the rest of the list, or none of it.
    const Session *best = nullptr;
    for (const Session *session : sessions_.subspan(in_order.size()))
        if (counts(session) && (best == nullptr || session->heartbeat_at > best->heartbeat_at))
            best = session;
    for (std::size_t i = in_order.size(); i-- > 0;) {
        in_order[i]->successor = best;
        if (counts(in_order[i]) && (best == nullptr || in_order[i]->heartbeat_at >= best->heartbeat_at))
            best = in_order[i];
    }
}

Status status_now(const Session &session, Status so_far, Time now, const Policy &policy) noexcept
{
    if (session.last_activity == 0)
        return session.said;
    const Time since = std::max(session.last_activity, policy.floor);
    return policy.inactivity.shown(session.said, so_far, now - session.last_activity, now - since);
}

void add_event(EventType type, Reason reason, const User &user, const Session *session, SessionGroup &group,
               EventList &events) noexcept
{
    events.add({type, reason, session, group.latest(), group.online_count(), shown_status(user, group),
                group.state() != SessionState::offline});
}

bool update_user(User &user, SessionGroup &group, Reason reason, const Session *cause, Time now, bool other_details,
                 EventList &events, bool tell) noexcept
{
    const bool online = group.state() != SessionState::offline;
    const bool came = online && !user.online;
    const bool went = !online && user.online;
    const Status status = shown_status(user, group);
    const bool other_status = online && user.online && status != user.status;

    if (came || went || other_status || group.online_count() != user.sessions)
        user.changed = true;
    if (came)
        user.online_since = now;
    if (went)
        user.offline_at = now;
    user.online = online;
    user.sessions = group.online_count();
    user.status = status;

    if (came)
        add_event(EventType::user_online, reason, user, cause, group, events);
    else if (went)
        add_event(EventType::user_offline, reason, user, cause, group, events);
    else if (tell && online && (other_status || other_details))
        add_event(EventType::update, reason, user, cause, group, events);
    return went;
}

namespace {

// What is due of the sessions but for that one.
void tell_due_updates(const User &user, SessionGroup &group, Time now, const Session *except,
                      EventList &events) noexcept
{
    if (now < group.next_update())
        return;
    for (Session *session : group.sessions())
        if (session != except && now >= session->update_due)
            tell_put_off(user, *session, group, now, events);
    group.find_next_update();
}

bool end_those_over(User &user, SessionGroup &group, Time now, EventList &events) noexcept
{
    bool went_offline = false;
    for (Session *session : group.take_over(now)) {
        tell_put_off(user, *session, group, now, events);
        const std::uint64_t shown = group.metadata();
        group.remove(*session, !session->leaving);
        if (session->leaving) {
            stop_leaving(*session);
            went_offline |= update_user(user, group, session->end_reason, session, now, false, events);
            continue;
        }
        end(*session, Reason::timeout, session->stale_after);
        add_event(EventType::session_end, Reason::timeout, user, session, group, events);
        went_offline |= update_user(user, group, Reason::timeout, session, now,
                                    other_metadata_shown(shown, group.metadata()), events);
    }
    return went_offline;
}

// The sessions but for that one.
void turn_inactive(User &user, SessionGroup &group, Time now, const Session *except, EventList &events) noexcept
{
    if (now < group.next_turn())
        return;
    for (Session *session : group.sessions()) {
        if (session == except || session->state() != SessionState::online)
            continue;
        const Status status = status_now(*session, session->status, now, group.policy());
        if (status == session->status)
            continue;
        const Reason reason = status > session->status ? Reason::timeout : Reason::heartbeat;
        group.show(*session, status);
        session->changed = true;
        const bool news = shown_status(user, group) != user.status;
        update_user(user, group, reason, session, now, false, events,
                    !news || may_tell(*session, now, group.policy().max_updates));
    }
    group.find_next_turn();
}

}  // namespace

bool expire(User &user, SessionGroup &group, Time now, EventList &events) noexcept
{
    tell_due_updates(user, group, now, nullptr, events);
    const bool went_offline = end_those_over(user, group, now, events);
    turn_inactive(user, group, now, nullptr, events);
    return went_offline;
}

HeartbeatResult apply_heartbeat(User &user, SessionGroup &group, Session &target, const Heartbeat &heartbeat,
                                EventList &events) noexcept
{
    // Of the target, one update tells what was put off and what is new.
    tell_due_updates(user, group, heartbeat.now, &target, events);
    end_those_over(user, group, heartbeat.now, events);
    turn_inactive(user, group, heartbeat.now, &target, events);

    const Time last_activity = std::max(target.last_activity, std::min(heartbeat.last_activity, heartbeat.now));
    const bool says_other = heartbeat.status && *heartbeat.status != target.said;
    if (target.state() == SessionState::online) {
        const bool due = target.update_due != 0 && heartbeat.now >= target.update_due;
        target.heartbeat_at = std::max(target.heartbeat_at, heartbeat.now);
        target.last_activity = last_activity;
        if (says_other)
            target.said = *heartbeat.status;
        group.renew(target);
        const Status status =
            status_now(target, says_other ? target.said : target.status, heartbeat.now, group.policy());
        const bool other_metadata = heartbeat.metadata_digest && *heartbeat.metadata_digest != target.metadata_digest;
        if (!says_other && status == target.status && !other_metadata && !heartbeat.details_changed && !due)
            return HeartbeatResult::refreshed;
        if (other_metadata)
            target.metadata_digest = *heartbeat.metadata_digest;
        const bool turns = !says_other && !other_metadata && status > target.status;
        group.show(target, status);
        target.changed = true;
        const bool news = shown_status(user, group) != user.status || other_metadata;
        update_user(user, group, turns ? Reason::timeout : Reason::heartbeat, &target, heartbeat.now, other_metadata,
                    events, !news || may_tell(target, heartbeat.now, group.policy().max_updates));
        if (due)
            tell_put_off(user, target, group, heartbeat.now, events);
        return HeartbeatResult::changed;
    }

    const bool on_purpose = target.end_reason == Reason::leave || target.end_reason == Reason::disconnect ||
                            target.end_reason == Reason::admin;
    // An end in the future says that the clock was set back, not that the guard lasts until then.
    const bool guarded = heartbeat.now >= target.ended_at - heartbeat.rejoin_guard &&
                         heartbeat.now < target.ended_at + heartbeat.rejoin_guard;
    if (heartbeat.named && on_purpose && guarded)
        return HeartbeatResult::ignored;

    const std::uint64_t shown = group.metadata();
    // Whoever was leaving has come back.
    if (group.leaving_count() > 0) {
        for (Session *session : group.sessions()) {
            if (!session->leaving)
                continue;
            group.remove(*session);
            stop_leaving(*session);
        }
    }

    target.online = true;
    target.leaving = false;
    target.changed = true;
    target.joined_at = heartbeat.now;
    target.heartbeat_at = heartbeat.now;
    target.stale_after = std::max(target.stale_after, heartbeat.now);
    target.ended_at = 0;
    target.end_reason = Reason::none;
    target.last_activity = last_activity;
    if (says_other)
        target.said = *heartbeat.status;
    target.status = status_now(target, target.said, heartbeat.now, group.policy());
    if (heartbeat.metadata_digest)
        target.metadata_digest = *heartbeat.metadata_digest;
    target.online_since = user.online ? user.online_since : heartbeat.now;
    group.add(target);

    add_event(EventType::session_start, Reason::heartbeat, user, &target, group, events);
    update_user(user, group, Reason::heartbeat, &target, heartbeat.now, other_metadata_shown(shown, group.metadata()),
                events);
    return HeartbeatResult::began;
}

bool apply_departure(User &user, SessionGroup &group, Session *target, const Departure &departure,
                     EventList &events) noexcept
{
    expire(user, group, departure.now, events);

    if (target == nullptr)
        group.find_successors(group.sessions());
    const std::span<Session *> ending = target != nullptr ? std::span<Session *>(&target, 1) : group.sessions();
    bool went_offline = false;
    for (Session *session : ending) {
        if (!session->online || (session->leaving && departure.grace > 0))
            continue;
        tell_put_off(user, *session, group, departure.now, events);
        const std::uint64_t shown = group.metadata();
        const bool last = group.online_count() == 1;
        group.remove(*session, target == nullptr && !session->leaving);
        if (session->leaving) {
            stop_leaving(*session);
            went_offline |= update_user(user, group, departure.reason, session, departure.now, false, events);
            continue;
        }
        end(*session, departure.reason, departure.now);
        session->clear_typing = departure.reason == Reason::disconnect;
        if (last && departure.grace > 0) {
            session->online = true;
            session->leaving = true;
            session->leave_until = departure.now + departure.grace;
            group.add(*session);
        }
        add_event(EventType::session_end, departure.reason, user, session, group, events);
        went_offline |= update_user(user, group, departure.reason, session, departure.now,
                                    other_metadata_shown(shown, group.metadata()), events);
    }
    return went_offline;
}

}  // namespace presence
