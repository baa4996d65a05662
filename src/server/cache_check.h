// Whether the heartbeat cache and the table of sessions agree.
#pragma once

#include "cache.h"

namespace presence {

struct CacheDifference {
    const CacheClaim *claim;  // of an open entry that the table does not confirm; or null:
    SessionName name;         // of a session that is online and not in the cache, although that knows of everybody
};

// Calls found() for each, within owner work. What others change meanwhile may look like a difference, unless they are kept
// from it and read_only (SPI's) is set, so that the active snapshot counts.
void compare_cache(bool read_only, void (*found)(const CacheDifference &difference, void *context), void *context);

}  // namespace presence
