// One user and the user's sessions as plain values: loaded under the user's row lock, written back where the rules have
// marked a change, together with the events. The only place that reads or writes those rows. Decides nothing.
#pragma once

#include "../core/rules.h"
#include "server.h"
#include "settings.h"

namespace presence {

struct StoredSession : Session {
    std::int64_t id;  // 0: not stored yet
    text *name;       // empty: the unnamed one
    Datum interval, user_agent, ip_address, metadata;
    bool no_interval, no_user_agent, no_ip_address, no_metadata;
    bool uncommitted;  // written by this very transaction
};

struct StoredUser : User {
    text *name;
    Session **list;
    int session_count;

    std::span<Session *const> span() const { return {list, static_cast<std::size_t>(session_count)}; }
};

enum class Lock { create_missing, wait, skip_locked };

// Null where there is no such user, or another transaction holds it and it is to be skipped. Loads the live sessions and
// those named (an empty name is the unnamed one), whether they are live or not. Has room for all of these to be added.
StoredUser *load_user(text *name, std::span<text *const> sessions, Lock lock);
// Null where it has none of that name.
StoredSession *session_of(const StoredUser &user, const text *name);
// For the events of so many heartbeats, or of one departure.
EventList room_for(const StoredUser &user, int heartbeats = 1);
StoredSession *add_session(StoredUser &user, text *name);
// A heartbeat that changes nothing: to the cache where that is possible, else to the row.
void refresh(const StoredUser &user, const StoredSession &session);
void store_user(const StoredUser &user, const EventList &events, Time now);

Time interval_time(Datum interval);
inline std::uint64_t interval_ms(Datum interval) { return time_to_ms(interval_time(interval)); }
// Of a text, inet or jsonb; what the cache compares instead of the value.
std::uint64_t datum_fingerprint(Datum value);

}  // namespace presence
