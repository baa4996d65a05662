// Users and their sessions as plain values: loaded under the lock on each user's row, written back where the rules have
// marked a change, together with the events; many users at a time. The only place that reads or writes those rows for a
// change. Decides nothing.
#pragma once

#include <algorithm>

#include "../core/rooms.h"
#include "../core/rules.h"
#include "cache.h"
#include "datums.h"
#include "rows.h"

namespace presence {

// Of presence_session.
enum SessionColumn : AttrNumber {
    session_user = 1,
    session_name,
    session_online,
    session_status,
    session_online_since,
    session_joined_at,
    session_heartbeat_at,
    session_heartbeat_interval,
    session_timeout,
    session_ended_at,
    session_end_reason,
    session_leave_until,
    session_user_agent,
    session_ip_address,
    session_metadata,
    session_status_choice,
    session_choice_until,
    session_updates_from,
    session_updates,
    session_update_due,
    session_said,
    session_last_activity,
    session_policy,
};

struct StoredSession : Session {
    HeapTuple stored;  // null: not stored yet
    text *name;        // empty: the unnamed one
    NullableDatum interval, timeout, policy, user_agent, ip_address, metadata;
    NullableDatum status_choice, choice_until;  // the user's when the row was last written online
    bool uncommitted;                           // written by this very transaction
    bool hidden;                                // its row is, or comes, where those of invisible users are
};

struct StoredUser : User {
    HeapTuple stored;
    text *name;
    Session **list;
    int session_count;
    bool created;      // by this call, with what the rules made of the first heartbeats
    EventList events;  // has room for one departure, or a heartbeat of each session wanted
    Time changed_at;
    text *message;       // of the choice; null: none
    text *told_message;  // the one in the events
    // Loaded as invisible: what the rules see are the hidden sessions, and what they say is told to nobody.
    bool hidden;
    User recorded;  // as the row was loaded

    bool has_other_choice() const { return !(choice == recorded.choice); }
    std::span<const RoomEvent> room_events{};
    Time room_leave_until = 0;  // when the first grace in a room ends that begins here; 0: none does

    std::span<Session *> span() const { return {list, static_cast<std::size_t>(session_count)}; }
};

// What its deadline depends on (deadline.h): the timeout of its policy, or else the interval that it has promised.
inline Time interval_of(const NullableDatum &timeout, const NullableDatum &interval)
{
    return timeout.isnull ? interval_time(interval) : -interval_time(timeout);
}
inline Time interval_of(const StoredSession &session) { return interval_of(session.timeout, session.interval); }

inline SessionName name_of(const StoredUser &user, const StoredSession &session)
{
    return {text_view(user.name), text_view(session.name)};
}

// What the rules are to go by. What is told to nobody is not put off either.
Policy policy_for(const StoredUser &user);
// How a stored session looks to the cache.
SessionDetails cached_details(const StoredSession &session);

struct RoomRequest;

// A user with those sessions that are needed in any case; the others only if they are online. Names of sessions are in
// order, none of them twice.
struct SessionPolicy;  // policies.h
struct WantedUser {
    text *name;
    std::span<text *const> sessions;
    StoredSession **targets;  // filled in: one for each of these names; null where there is none and none is to be made
    StoredUser *user;  // filled in: null where there is none, or another transaction holds it and it is to be skipped
    std::span<RoomRequest> rooms{};         // what the sessions ask for
    bool rooms_may_be_over = false;         // the grace of one, of whose session nothing is to be written
    const Time *last_activity = nullptr;    // what each session tells of it; 0 nothing; null: none does
    const SessionPolicy *policy = nullptr;  // for those that begin; null: the one each has had
};

enum class Lock { create_missing, wait, skip_locked };

// The tables. Good until close_storage(), which is to be called unless there was an error.
struct Storage {
    OpenTable *users;
    OpenTable *sessions;
    MemoryContext context;
    mutable OpenTable *hidden_sessions;  // opened when somebody is invisible
};
Storage open_storage();
void close_storage(const Storage &storage);

// What a user is after the first heartbeats, before the row is written: it is written once, if anything comes of them. Whether
// they stand is asked again when it has been written.
struct NewUserRule {
    void (*apply)(const WantedUser &wanted, void *context);
    bool (*stand)(const WantedUser &wanted);
    void *context;
};

// Locks the users in the order given, which everybody keeps to: that of their names. Then loads sessions. Interruptible.
void load_users(const Storage &storage, std::span<WantedUser> wanted, Lock lock, const NewUserRule *new_user = nullptr);
// Of one who was not found: whether somebody else has made that user since. Waits for whoever is doing so.
bool wait_for_new_user(const Storage &storage, text *name);
// A heartbeat that changes nothing: to the cache where that is possible, else to the row.
void refresh(const Storage &storage, const StoredUser &user, const StoredSession &session);
// The visible user goes offline, and the sessions go on unseen. choice: invisible.
void hide(StoredUser &user, const StatusChoice &choice, Time now);
// The hidden sessions take the place of what others have seen of them.
void come_into_view(const Storage &storage, const WantedUser &wanted, const StatusChoice &choice, Time now);
// What is marked as changed, what that means for rooms, and the events.
void store_users(const Storage &storage, std::span<const WantedUser> wanted);

// A session by its names, in memory of the caller's context.
struct NamedSession {
    text *user, *session;
};
// Of sessions in order of users and then of names, none twice: the users with these sessions.
std::span<WantedUser> wanted_users(std::span<const NamedSession> sessions);
// Of elements in the order of their users: up to which one to take so many, and all of the last one's user, into one set.
template <typename OfUser>
std::size_t end_of_set(std::span<OfUser> all, std::size_t from)
{
    constexpr std::size_t most = 1000;
    std::size_t to = std::min(from + most, all.size());
    while (to < all.size() && text_view(all[to].user) == text_view(all[to - 1].user))
        ++to;
    return to;
}

// The sessions that the cache calls stale, in order, as far as there is a row that is online and not leaving. Afterwards
// those come first, so many as `gone` says, of which there is none, not even an uncommitted one.
struct FoundSessions {
    std::span<NamedSession> sessions;
    std::size_t gone;
};
FoundSessions find_stale_sessions(const Storage &storage, std::span<ExpiredSession> stale);

}  // namespace presence
