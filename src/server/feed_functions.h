// What snapshots have in common: that of everybody, and that of a room.
#pragma once

#include "../core/rules.h"
#include "server.h"

namespace presence {

// To the feed, a stale user is online until a worker has ended the sessions, which it does within less than this. Who is
// stale only by settings of the caller's own is left out.
Time worker_delay();

// A new epoch is made by whoever first meets a new place, and may write. Within owner work.
void bring_epoch_up_to_date();

}  // namespace presence
