// Ending what has been silent for too long: finds it, by the cache where that watches over everybody, else by the table, and
// lets the rules decide under each user's lock. For the cleanup functions and the worker; the rules live in core/rules.h.
#pragma once

#include "../core/heartbeat_shard.h"
#include "../core/rules.h"
#include "server.h"

namespace presence {

enum class Thoroughness {
    watched_sessions,  // those that the cache knows; costs next to nothing where nobody is stale
    every_session,     // also those that it does not; reads all online sessions where the cache may have gaps
    whole_table,       // reads all online sessions in any case: somebody may have written to the table by hand
};

struct Ended {
    int users = 0;        // went offline
    int sessions = 0;     // ended
    bool locked = false;  // some were held by others, and are left for another time
    bool more = false;    // there may be more than one call takes
};

// In one transaction, within owner work. Never waits for a lock.
Ended end_stale_sessions(Thoroughness thoroughness);

// Those who have used up their grace; and choices of a status that are over.
Ended end_departures();
// When the next one is; 0: there is none.
Time next_departure();

}  // namespace presence
