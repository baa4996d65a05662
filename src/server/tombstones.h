// Goodbyes of sessions that nobody had heard of, in shared memory: they refuse the session's first heartbeat for as long
// as presence.rejoin_guard. They count when the transaction of the goodbye commits, and in that transaction at once.
// Without preloading there are none. The sessions that are known have theirs in their rows.
#pragma once

#include "cache.h"

namespace presence {

// In each process, once.
void watch_goodbyes();
void leave_tombstone(const SessionName &name);
bool has_tombstone(const SessionName &name);

}  // namespace presence
