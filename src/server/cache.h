// The heartbeat cache of this database, with the locking that its shards ask for. Lives here: what a backend may ask of it
// and tell it. An *open* entry takes heartbeats without any look at the table; a *closed* one takes none, and only makes
// sure that the session's silence is noticed. Callers that open or close hold the lock on the user's row. Without
// preloading nothing is ever known, and everything works on the table.
#pragma once

#include "../core/rules.h"
#include "shared.h"

namespace presence {

// How a heartbeat or a stored session looks to the cache. Fingerprints are 0 where a heartbeat does not say, or a session
// has none.
struct SessionDetails {
    std::uint64_t interval_ms = 0;
    Fingerprints fingerprints = {0, 0, 0};
    bool has_status = false;
    Status status = Status::active;
};
std::uint64_t detail_fingerprint(std::string_view bytes);

// A heartbeat that changes nothing. False: it was not taken, the table has to decide.
bool cache_touch(Oid session_table, std::string_view user, std::string_view session, const SessionDetails &given);

// The same for many without details. taken[i]: whether that one was; returns how many were.
struct SessionName {
    std::string_view user, session;
};
int cache_touch_many(Oid session_table, std::span<const SessionName> sessions, bool *taken);

// The effective heartbeat of a session that is recorded as online, and the last moment at which its silence is within the
// timeout; on a standby, where nobody is judged by age, that is `never`.
struct EffectiveTimes {
    Time heartbeat_at;
    Time stale_after;
};
EffectiveTimes effective_times(Oid session_table, std::string_view user, std::string_view session,
                               Time recorded_heartbeat, Time promised_interval);
// The same for many; a thousand or so at a time is fastest. Each is {session, recorded heartbeat, promised interval}.
struct RecordedSession {
    SessionName name;
    Time heartbeat_at, interval;
};
void effective_times(Oid session_table, std::span<const RecordedSession> sessions, EffectiveTimes *times);

// What the table's path has found or written. open: the row is committed and online. False: not taken, for lack of memory or of a cache.
bool cache_put(Oid session_table, std::string_view user, std::string_view session, std::uint64_t row_id,
               const SessionDetails &details, Time heartbeat_at, bool open);
// Before a change of the row: from here on heartbeats wait for its outcome.
void cache_close(Oid session_table, std::string_view user, std::string_view session);
// The row's interval, where a closed entry may have another; under the lock on the user.
void cache_correct_interval(Oid session_table, std::string_view user, std::string_view session,
                            std::uint64_t interval_ms);
// A session that is recorded as online but may not be known here: comes in closed. False: no memory.
bool cache_watch(Oid session_table, std::string_view user, std::string_view session, std::uint64_t row_id,
                 std::uint64_t interval_ms, Time heartbeat_at);
// The same of a database to which nobody need be connected. In a transaction.
bool cache_restore(SharedDatabase &database, const SessionEntry &entry);
// All sessions of a shard, in memory of the caller's context; null: none.
SessionEntry *cache_copy(SharedShard &shard, std::uint32_t &count);
// Gives back the memory of sessions that have gone. In a transaction.
void cache_shrink();
// Of all sessions of this database, when the extension is dropped.
void cache_clear();

struct CacheNumbers {
    std::int64_t sessions;  // open entries
    std::int64_t hits, misses, bytes;
};
CacheNumbers cache_numbers();

// When the next session can be stale at the earliest, by the monotonic clock.
std::uint64_t cache_next_deadline();
bool cache_any_stale();
// Row ids of stale sessions, as many as there is room for; how many were found.
std::size_t cache_collect_stale(std::span<ExpiredSession> found);
// Their rows, as a bigint[] for a statement.
Datum row_ids(std::span<const ExpiredSession> sessions);
// Of a session that is stale and was found not to be online; nothing happens if it was heard since.
void cache_forget_stale(const SessionKey &key);

}  // namespace presence
