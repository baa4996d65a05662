// The rules of presence: what a heartbeat, a departure and the passing of time do to one user and the user's sessions,
// and which events tell of it. Pure values in, pure values out: no clock, no storage, no allocation, nothing of the
// server. The caller holds whatever lock makes "one user at a time" true, and writes down what is marked as changed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "status.h"

namespace presence {

// Microseconds; any epoch, as long as it is the same everywhere.
using Time = std::int64_t;
inline constexpr Time never = std::numeric_limits<Time>::max();

enum class EventType : std::uint8_t { user_online, user_offline, session_start, session_end, update };
enum class Reason : std::uint8_t { none, heartbeat, leave, disconnect, timeout, admin };

std::string_view to_text(Status status) noexcept;
std::string_view to_text(EventType type) noexcept;
std::string_view to_text(Reason reason) noexcept;

// False where the text is none of the known ones.
bool parse(std::string_view text, Status &status) noexcept;
bool parse(std::string_view text, Reason &reason) noexcept;

// Whether the session ended by a sign of life.
constexpr bool is_goodbye(Reason reason) noexcept { return reason == Reason::leave || reason == Reason::disconnect; }

// What a session is to its user, in the order of precedence. `leaving`: it has ended, but until its grace is over the user
// counts as online.
enum class SessionState : std::uint8_t { offline, leaving, online };

// The last moment at which a session recorded as online counts for its user: the end of its grace (0: none), or else its
// deadline. Where nobody is judged by age (a deadline of `never`), that is not over either.
constexpr Time live_until(Time stale_after, Time leave_until) noexcept
{
    return leave_until != 0 && stale_after != never ? leave_until : stale_after;
}

// A session at some moment, as far as it counts for its user.
struct SessionSnapshot {
    SessionState state = SessionState::offline;
    Status status = Status::active;
    std::int64_t id = 0;  // of two that beat at the same time, the one with the higher id counts as the later
    Time online_since = 0;
    Time heartbeat_at = 0;
    Time seen_at = 0;  // its last sign of life: a heartbeat, or a goodbye
};

// A user as the sum of the user's sessions. All zero: a user without any.
struct UserSummary {
    bool any = false;  // has a session
    SessionState state = SessionState::offline;
    Status status = Status::active;  // the most present one of the sessions that count
    std::int32_t sessions = 0;       // how many are online
    std::int64_t latest = 0;         // id of the session that beat last, of those that count or, offline, of all
    Time online_since = 0;
    Time heartbeat_at = 0;  // of that session
    Time seen_at = 0;       // the last sign of life of any

    bool online() const noexcept { return state != SessionState::offline; }

    // Adds a session. True where it is the one that beat last so far.
    bool add(const SessionSnapshot &session) noexcept;
};

// For how long updates of a session are counted, and how long one is put off at most.
inline constexpr Time update_window = 60 * 1000000;

// What the settings say.
struct Policy {
    InactivityLimits<Time> inactivity = {};
    Time floor = 0;                // before it, nobody could be seen to be active
    std::int32_t max_updates = 0;  // of a session within update_window; 0: any number
};

struct Session {
    bool online = false;             // counts for its user
    bool leaving = false;            // has ended, but its user counts as online until leave_until
    bool changed = false;            // to be written
    bool clear_typing = false;       // to be written without the typing state in its metadata
    Status status = Status::active;  // that it shows
    Status said = Status::active;
    Reason end_reason = Reason::none;
    std::uint64_t metadata_digest = 0;  // 0: none
    Time online_since = 0;              // of the user
    Time joined_at = 0;
    Time heartbeat_at = 0;   // the effective one
    Time last_activity = 0;  // 0: it has never said
    Time stale_after = 0;    // the last moment at which silence is still within the timeout
    Time ended_at = 0;
    Time leave_until = 0;
    Time updates_from = 0;               // when the first of these was told
    std::int32_t updates = 0;            // told of this session within update_window
    Time update_due = 0;                 // one has been put off until then; 0: none
    bool put_off = false;                // it has just been
    const Session *successor = nullptr;  // of SessionGroup

    SessionState state() const noexcept
    {
        return !online ? SessionState::offline : leaving ? SessionState::leaving : SessionState::online;
    }
};

// What a person has chosen for all sessions; see user_status.h.
struct StatusChoice {
    std::optional<Status> status = std::nullopt;  // shown instead of what the sessions say
    bool invisible = false;                       // shown as offline
    Time until = 0;                               // from then on it is over; 0: it lasts
    std::uint64_t message = 0;                    // digest of what goes with it; 0: nothing

    bool any() const noexcept { return status.has_value() || invisible || message != 0; }
    bool is_over(Time now) const noexcept { return until != 0 && now >= until; }
    friend bool operator==(const StatusChoice &, const StatusChoice &) = default;
};

struct User {
    bool online = false;
    bool changed = false;  // to be written
    std::int32_t sessions = 0;
    Status status = Status::active;  // as others see it
    Time online_since = 0;
    Time offline_at = 0;
    StatusChoice choice = {};
};

// The sessions of a user and what they add up to, kept up to date by the functions below, so that a change costs the same
// however many sessions there are. Meanwhile nothing else changes the sessions, but for a stale_after that grows after a
// heartbeat.
class SessionGroup {
public:
    explicit SessionGroup(std::span<Session *> sessions, const Policy &policy = {}) noexcept;

    const Policy &policy() const noexcept { return policy_; }
    std::span<Session *> sessions() const noexcept { return sessions_; }
    SessionState state() const noexcept;
    Status status() const noexcept;  // the most present one of the sessions that count
    std::int32_t online_count() const noexcept { return online_.count; }
    std::int32_t leaving_count() const noexcept { return leaving_.count; }
    // The one that beat last, of those that count, whose metadata the user shows; null: none counts.
    const Session *latest() noexcept;
    std::uint64_t metadata() noexcept;

    void add(const Session &session) noexcept;
    // To be called before the session changes. next_in_order: the next of those that find_successors() has seen.
    void remove(const Session &session, bool next_in_order = false) noexcept;
    // The session was heard, and goes on.
    void renew(const Session &session) noexcept;
    // Of a session that is online.
    void show(Session &session, Status status) noexcept;

    // When the first update that has been put off is due.
    Time next_update() const noexcept { return next_update_; }
    void find_next_update() noexcept;
    // When the first session is to show another status, for being inactive; not before that.
    Time next_turn() const noexcept { return next_turn_; }
    void find_next_turn() noexcept;

    // Those that are over, in the order in which they fell silent: find_successors() has seen them.
    std::span<Session *> take_over(Time now) noexcept;
    // These come first in the list and are to be removed in this order: then that takes linear time.
    void find_successors(std::span<Session *> in_order) noexcept;

private:
    struct Part {
        std::int32_t count = 0;
        std::array<std::int32_t, 4> by_status{};
        const Session *latest = nullptr;  // null: not known, unless there is none
    };
    Part &part_of(const Session &session) noexcept { return session.leaving ? leaving_ : online_; }
    Time turn_of(const Session &session) const noexcept;

    std::span<Session *> sessions_;
    Policy policy_;
    Part online_, leaving_;
    Time none_over_until_ = never;
    Time next_update_ = never;
    Time next_turn_ = never;
};

struct Event {
    EventType type;
    Reason reason;
    const Session *session;  // by which it changed; null: none in particular
    const Session *shown;    // whose metadata the user shows after it: the one that beat last; null: none is left
    std::int32_t sessions;   // how many the user has after it
    Status status;           // of the user after it
    bool online;             // whether status means anything
};

// A caller-owned list of fixed capacity. enough_events() says how much one call can need.
class EventList {
public:
    explicit EventList(std::span<Event> room) noexcept : room_(room) {}
    void add(const Event &event) noexcept;
    std::span<const Event> items() const noexcept { return room_.first(size_); }

private:
    std::span<Event> room_;
    std::size_t size_ = 0;
};

// Of each session an update may be told that was put off, and one for being inactive; it may end, and show with it what the
// user shows next, or go offline. One may begin, and the user come online.
constexpr std::size_t enough_events(std::size_t sessions) noexcept { return 4 * sessions + 4; }

struct Heartbeat {
    Time now = 0;
    Time rejoin_guard = 0;
    bool named = true;  // the unnamed session has no tombstone
    std::optional<Status> status = std::nullopt;
    std::optional<std::uint64_t> metadata_digest = std::nullopt;
    Time last_activity = 0;        // 0: it does not say; one in the future is now
    bool details_changed = false;  // something else is to be written: agent, address, interval
};

enum class HeartbeatResult { refreshed, began, changed, ignored };

struct Departure {
    Time now = 0;
    Reason reason = Reason::leave;
    Time grace = 0;  // how long the user still counts as online
};

// What the session shows now that has shown that status so far.
Status status_now(const Session &session, Status so_far, Time now, const Policy &policy) noexcept;

// For the rules in other files. The first adds an event of what is now; the second brings the user in line with the sessions
// and adds the event of what others see of that. other_details: they see other metadata, or another message; tell: an
// update is told. True where the user went offline.
void add_event(EventType type, Reason reason, const User &user, const Session *session, SessionGroup &group,
               EventList &events) noexcept;
bool update_user(User &user, SessionGroup &group, Reason reason, const Session *cause, Time now, bool other_details,
                 EventList &events, bool tell = true) noexcept;

// Tells updates that are due; ends what has been silent for too long and what has used up its grace; lets what has been
// inactive for too long show that. True where the user went offline by it.
bool expire(User &user, SessionGroup &group, Time now, EventList &events) noexcept;

// target is one of the sessions; a session never seen before is one that is not online and was never ended.
HeartbeatResult apply_heartbeat(User &user, SessionGroup &group, Session &target, const Heartbeat &heartbeat,
                                EventList &events) noexcept;

// Ends target, or with null all sessions. True where the user went offline by it.
bool apply_departure(User &user, SessionGroup &group, Session *target, const Departure &departure,
                     EventList &events) noexcept;

}  // namespace presence
