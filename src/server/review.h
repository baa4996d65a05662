// Brings everything in line again after rows were changed by hand, or restored: users with their sessions, the cache with
// the sessions, the feed with the users. Lives here: what disagrees and what is done about it. Does not live here: when it
// is done (the worker, the cleanup), and the check that changes nothing (verify.h).
#pragma once

#include "server.h"

namespace presence {

// Within owner work, and cheap: whether users, sessions and feed count the same.
bool counts_agree();

// A dump is being read into this database, as far as can be told: what is missing may be about to come.
bool restore_is_running();

enum class ReviewDepth {
    tables,  // users against sessions, and those against the cache
    feed,    // and against what the feed tells, for which all of it is read
};
struct Reviewed {
    int users = 0;  // that were brought in line
    int cache_entries = 0;
    bool new_feed = false;
    bool locked = false;  // some were held by others, and are left for another time
    bool more = false;    // there may be more than one call takes

    bool found_something() const { return users > 0 || cache_entries > 0 || new_feed; }
};
// In one transaction, within owner work. Waits for no transaction that holds a user.
Reviewed review(ReviewDepth depth);

// By a cleanup where there is no worker, within owner work. scheduled: also where nothing is known to have been changed.
void review_without_worker(bool scheduled);

}  // namespace presence
