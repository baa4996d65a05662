// What listeners are told of events: one JSON object for each, or one for all of a storm. Lives here: what a notification
// looks like, and what happens while the server's notification queue is too full. Does not live here: who is to send (feed.h).
#pragma once

#include "../core/typing.h"
#include "feed_tables.h"

namespace presence {

// An event as it is announced. Null pointers and seq 0 are JSON's null.
struct Announcement {
    std::int64_t seq;
    TimestampTz at;
    const char *event, *user, *session, *reason;
    std::int32_t sessions;
    Jsonb *details;
    const char *room = nullptr;  // only then there is the key
};

// At most what NOTIFY carries: one that would be longer goes without details.
char *payload_of(const Announcement &announcement, const char *epoch);

// Within owner work and with the feed's lock held: announces what was put off, as long as there is room, and then these
// new ranges, or puts them off. events: how many of theirs are to be announced.
void announce(std::span<const FeedRange> ranges, std::int64_t events, Snapshot snapshot, const char *epoch);
// Beginnings and ends of typing: without numbers, and where the queue has no room for them they are lost. Within owner work.
void announce_typing(std::span<const TypingChange> changes, const char *epoch);
// Whether something waited for room when this process last looked; it looks again; within owner work.
bool announcements_wait();
bool find_waiting_announcements();

}  // namespace presence
