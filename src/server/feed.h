// The change feed: events are written once, by the transaction that changes presence, and get numbers when they are
// committed, in the order of commit for each user. With a worker, numbering and announcing is its task; without, the writer
// announces and whoever reads numbers. Lives here: writing, and the pass that numbers. Does not live here: when the worker
// does it (worker.h), what a notification looks like (announcements.h), the SQL functions (feed_functions.cpp).
#pragma once

#include "../core/rules.h"
#include "server.h"

namespace presence {

struct WantedUser;

// Whether a worker numbers and announces the events of this session's transactions, now or as soon as it is back.
bool worker_is_expected();

// To be called once in each process.
void watch_transactions();
// Within owner work: the events of these users become part of this transaction; the worker is told when it has committed.
void write_events(std::span<const WantedUser> users);
// The same for events that were written otherwise.
void note_events_written();
// The worker is told, when this transaction has committed, that something ends then.
void note_departure_at_commit(Time ends_at);
// Another transaction, of which nothing is known, has been committed by this one.
void events_may_be_written();

// Within owner work. Before a reader looks: waits for the worker to have numbered what is committed, or does it. Where
// neither is possible, the reader finds events that have no number.
void bring_feed_up_to_date();

enum class Numbered { all, more_left, locked_by_another };
// By the worker, within owner work, in a transaction that ends at once. events: how many there were.
Numbered number_committed_events(std::int64_t &events);
// The same before there is anything to number.
void begin_feed();

// What two transactions must not do at once, by a lock that no SQL command takes. False: another one does it. Ends with the
// transaction.
enum class FeedTask : std::uint16_t { number = 1, drop = 2, first_cleanup = 3 };
bool begin_feed_task(FeedTask task);
void wait_for_feed_task(FeedTask task);
// The same, but waits until nobody else does either.
void begin_all_feed_tasks();

// Within owner work: with nothing in it but who is online. Readers begin again, because of the new epoch. False: somebody
// else is at work on the feed.
bool begin_new_feed();

}  // namespace presence
