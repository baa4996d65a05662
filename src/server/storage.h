// One user and the user's sessions as plain values: loaded under the user's row lock, written back where the rules have
// marked a change, together with the events. What a change of a row means for its entry in the cache is decided here; what
// changes is decided by the rules.
#pragma once

#include "../core/rules.h"
#include "cache.h"
#include "datums.h"

namespace presence {

struct StoredSession : Session {
    std::int64_t id;  // 0: not stored yet
    text *name;       // empty: the unnamed one
    NullableDatum interval, user_agent, ip_address, metadata;
    bool uncommitted;  // written by this very transaction
};

struct StoredUser : User {
    text *name;
    Session **list;
    int session_count;

    std::span<Session *const> span() const { return {list, static_cast<std::size_t>(session_count)}; }
};

inline SessionName name_of(const StoredUser &user, const StoredSession &session)
{
    return {text_view(user.name), text_view(session.name)};
}

enum class Lock { create_missing, wait, skip_locked };

// Null where there is no such user, or another transaction holds it and it is to be skipped. Loads the live sessions and
// those named (an empty name is the unnamed one), whether they are live or not. Has room for all of these to be added.
StoredUser *load_user(text *name, std::span<text *const> sessions, Lock lock);
// Null where it has none of that name.
StoredSession *find_session(const StoredUser &user, const text *name);
// For the events of so many heartbeats, or of one departure.
EventList allocate_events(const StoredUser &user, int heartbeats = 1);
StoredSession *add_session(StoredUser &user, text *name);
// A heartbeat that changes nothing: to the cache where that is possible, else to the row.
void refresh(const StoredUser &user, const StoredSession &session);
void store_user(const StoredUser &user, const EventList &events, Time now);

}  // namespace presence
