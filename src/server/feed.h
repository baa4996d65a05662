// The change feed: events wait in the queue until somebody numbers them, in the order of commit for each user, and sends
// what is to be sent. With a worker that is its task; without, the writer sends and whoever reads numbers. Lives here:
// who does which, and the statements for it. Does not live here: when the worker does it (worker.h).
#pragma once

#include "../core/id_window.h"
#include "../core/rules.h"
#include "server.h"

namespace presence {

struct StoredUser;

// Whether a worker numbers and sends the events of this session's transactions, now or as soon as it is back.
bool worker_is_expected();

// To be called once in each process.
void watch_transactions();
// Within owner work: the user's events become part of this transaction; the worker is told when it has committed.
// leave_until: 0, or when the user's grace ends.
void write_events(const StoredUser &user, const EventList &events, Time now, Time leave_until);
// Another transaction, of which nothing is known, has been committed by this one.
void events_may_be_written();

// Within owner work. Before a reader looks: waits for the worker to have numbered what is committed, or does it.
void bring_feed_up_to_date();

// Numbers and sends what the window says may be there; whether there was more than one pass takes. Within owner work, in
// a transaction that ends at once.
bool number_committed_events(IdWindow &window);
// Whether numbered events waited for room in the notification queue when this process last looked.
bool announcements_wait();
void restart_window(IdWindow &window);

}  // namespace presence
