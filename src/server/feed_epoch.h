// The epoch of the feed: a name for the numbers given at one place, so that readers notice when numbers may be given again
// to other events. Lives here: what a place is, and which epoch is in force there.
#pragma once

#include "server.h"

namespace presence {

// Within owner work. The epoch in force, in memory of the caller's context; null where none has been made for this place
// yet, as on a promoted standby before the first numbering. As the active snapshot sees it.
const char *feed_epoch();
// The same, but it is made where it is missing. With the feed's lock held.
const char *ensure_epoch();
// Another one, whatever is in force.
void renew_epoch();

}  // namespace presence
