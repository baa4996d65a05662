// Goodbyes of sessions that nobody had heard of, in shared memory: they refuse the session's first heartbeat for as long
// as presence.rejoin_guard. They count when the transaction of the goodbye commits, and in that transaction at once; others
// wait for its outcome. Without preloading there are none. The sessions that are known have theirs in their rows.
//
// Nobody can lock a user who is not there. So whoever says goodbye first leaves the tombstone, and then looks for somebody who
// is making the user; whoever makes the user first inserts the row, and then looks for a tombstone. One of them sees the
// other. Whoever says goodbye waits then; whoever beats does not, and gives way.
#pragma once

#include "../core/tombstones.h"
#include "cache.h"

namespace presence {

// In each process, once.
void watch_goodbyes();
// announced, as long as this transaction may wait for whoever begins the session; then pending.
void leave_tombstone(const SessionName &name, Goodbye goodbye);
// Before the user's row is locked or made: waits for transactions that are saying goodbye.
bool wait_for_tombstone(const SessionName &name);
// With the user's row locked or made, when others may wait for this transaction: a goodbye that has only been said counts.
bool has_tombstone(const SessionName &name);

}  // namespace presence
