// The heartbeat cache of this database. Lives here: what a backend may ask of it and tell it; its locks are explained in
// cache.cpp. An *open* entry takes heartbeats without any look at the table; a *closed* one takes none, and only makes sure
// that the session's silence is noticed. Callers that open or close hold the lock on the user's row. Without preloading
// nothing is ever known, and everything works on the table.
#pragma once

#include <optional>

#include "../core/rules.h"
#include "../core/tombstones.h"
#include "shared.h"

namespace presence {

// Of this database's extension; the unnamed session is empty.
struct SessionName {
    std::string_view user, session;
};

// How a heartbeat or a stored session looks to the cache. 0, or no status: a heartbeat does not say, or a session has none.
struct SessionDetails {
    std::int64_t interval_ms = 0;  // below 0: deadline.h
    Fingerprints fingerprints = {0, 0, 0};
    std::optional<Status> status;
    bool hidden = false;  // of an invisible user; heartbeats say nothing of it, nor of the next
    Status shown = Status::active;
    Time last_activity = 0;
};
std::uint64_t detail_fingerprint(std::string_view bytes);

// A heartbeat that changes nothing. False: it was not taken, the table has to decide.
bool cache_touch(const SessionName &name, const SessionDetails &given);
// The same for many without details. last_activity: of each, or null. taken[i]: whether that one was; returns how many were.
int cache_touch_many(std::span<const SessionName> names, const Time *last_activity, bool *taken);

// The effective heartbeat of a session that is recorded as online, and the last moment at which its silence is within the
// timeout; on a standby, where nobody is judged by age, that is `never`.
struct EffectiveTimes {
    Time heartbeat_at;
    Time stale_after;
    Time last_activity = 0;  // where it was asked for; 0: never told
};
struct RecordedSession {
    SessionName name;
    Time heartbeat_at;
    Time interval;                                     // 0: none promised; below 0: deadline.h
    std::optional<Time> last_activity = std::nullopt;  // none: it is not asked for
};
EffectiveTimes effective_times(const RecordedSession &session);
// The same for many; a thousand or so at a time is fastest.
void effective_times(std::span<const RecordedSession> sessions, EffectiveTimes *times);

// A session whose row was found committed and online: takes heartbeats from here on. False: not taken, for lack of memory or
// of a cache.
bool cache_put_open(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at);
// The same where it must not be opened: that it was heard is a fact, whatever becomes of the transaction.
bool cache_hear(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at);
// Before a change of the row: from here on heartbeats wait for its outcome.
void cache_close(const SessionName &name);
// After it. The commit of this transaction, or of the subtransactions it is in, opens the entry, or removes that of a session
// that has ended; unless somebody has touched it since, who holds the lock on the user's row by then.
void cache_open_at_commit(const SessionName &name, std::uint64_t row_id, const SessionDetails &details,
                          Time heartbeat_at);
void cache_erase_at_commit(const SessionName &name);
// To be called once in each process.
void watch_commits();
// The row's interval and statuses, where a closed entry may have others; under the lock on the user.
void cache_correct(const SessionName &name, const SessionDetails &details);
// A session that is recorded as online but may not be known here: comes in closed. Details are its interval, statuses and
// activity. False: no memory.
bool cache_watch(const SessionName &name, std::uint64_t row_id, const SessionDetails &details, Time heartbeat_at);
// The same of a database to which nobody need be connected. In a transaction.
bool cache_restore(SharedDatabase &database, const SessionEntry &entry);
// All sessions of a shard, in memory of the caller's context; null: none.
SessionEntry *cache_copy(SharedShard &shard, std::uint32_t &count);
// Gives back the memory of sessions that have gone. In a transaction.
void cache_shrink();
// Tombstones of sessions that are not known, see tombstones.h. False: there is no memory for them. Afterwards
// none of the others raises anything.
bool cache_reserve_tombstones(const SessionName &name);
void cache_add_tombstone(const SessionKey &key, std::uint64_t lasting_ms);
void cache_announce_tombstone(const SessionKey &key, std::uint64_t owner, Goodbye goodbye);
void cache_take_back_tombstone(const SessionKey &key, std::uint64_t owner);
Tombstones::Found cache_find_tombstone(const SessionKey &key);
// Of all sessions of this database, when the extension is dropped.
void cache_clear();

struct CacheNumbers {
    std::int64_t sessions;  // open entries
    std::int64_t hits, misses, bytes;
};
CacheNumbers cache_numbers();

// Whether every online session is in the cache, so that it knows of every stale one.
bool cache_watches_everybody();
// When the next session can be stale, or show another status, at the earliest, by the monotonic clock; and whether one is.
std::uint64_t cache_next_deadline();
bool cache_any_due();
bool cache_any_stale();
// How many sessions there are, and how many have been silent for most of their timeout, whether or not ends are held.
Silence cache_silence();
// Stale sessions, as many as there is room for; how many were found. Each search of a process begins where its last one
// ended, so that those who are found in vain keep nobody else waiting.
std::size_t cache_collect_stale(std::span<ExpiredSession> found);
// The same of those that are to show another status, for being inactive.
std::size_t cache_collect_turning(std::span<ExpiredSession> found);
// What the cache calls a session.
SessionKey cache_key(const SessionName &name);
// Of a session that is stale and whose row was not found online; nothing happens if it was heard since.
void cache_forget_stale(const SessionKey &key);

// What the open entries say, to be compared with the table.
struct CacheClaim {
    SessionKey key;
    std::uint64_t details;  // a digest
    bool confirmed;
};
struct CacheClaims {
    std::span<CacheClaim> of_shard[shard_count];  // in the order of keys
};
// In memory of the caller's context.
CacheClaims cache_claims();
// Of a session with these details in the table.
void cache_confirm(const CacheClaims &claims, const SessionName &name, const SessionDetails &details);
// What the cache says of a session, without a look at the table.
enum class CachedState { unknown, online, stale };
CachedState cache_state(const SessionKey &key);
// Whether the cache knows the session, open or closed.
bool cache_knows(const SessionName &name);
// Removes the entry, because the table says otherwise, or said so a moment ago: who is still online is entered again.
void cache_retract(const CacheClaim &claim);

}  // namespace presence
