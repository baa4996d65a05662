// The tables of users and sessions as arrays of plain values: loads the users of one call under their row locks, and
// writes back what the rules have marked as changed, together with the events. The only place that reads or writes
// presence_user, presence_session and presence_event_queue rows one by one. Decides nothing.
#pragma once

#include "../core/rules.h"
#include "server.h"

namespace presence {

struct StoredSession : Session {
    std::int64_t id;         // 0: not stored yet
    int user;                // index in Batch::users
    std::string_view name;   // empty: the unnamed one
    bool committed;          // the row as loaded is committed, and this transaction sees it as it is now
    Time recorded_at;        // heartbeat_at of the row
    Interval *interval;
    text *user_agent;
    inet *ip_address;
    Jsonb *metadata;
};

struct StoredUser : User {
    std::string_view name;
    Session **sessions;  // pointers into the batch, all of them StoredSession
    int session_count;

    std::span<Session *const> session_span() const { return {sessions, static_cast<std::size_t>(session_count)}; }
};

struct Batch {
    StoredUser *users;  // locked, in the order of their names
    int user_count;
    StoredSession **sessions;
    int session_count;

    StoredUser *find_user(std::string_view name) const;
    StoredSession *find_session(const StoredUser &user, std::string_view name) const;
};

enum class Lock { create_missing, wait, skip_locked };

// Names need not be sorted or distinct. Sessions loaded: all that are online, and those named (pairs by position).
Batch load_batch(std::span<const std::string_view> users, std::span<const std::string_view> sessions, Lock lock);
StoredSession *add_session(Batch &batch, StoredUser &user, std::string_view name);

struct PendingEvent {
    Event event;
    const StoredUser *user;
    Time at;
};
// Writes users, sessions and events; announces the events where no worker does.
void store_batch(Batch &batch, std::span<const PendingEvent> events, Time now);

bool same_text(const text *a, const text *b);
bool same_bytes(const void *a, const void *b);  // two varlenas, detoasted
std::int64_t interval_microseconds(const Interval &interval);
Time patience_of(const Interval *interval);

} // namespace presence
