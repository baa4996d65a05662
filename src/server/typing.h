// Who is typing in which room: in shared memory alone, without row, WAL or transaction id. Lives here: what other files tell
// it of sessions that end, and what the worker takes from it. The table is in core/typing.h; locks, and why nobody types
// longer than his session lasts, are explained in typing.cpp. Without preloading nobody ever types.
#pragma once

#include "../core/typing.h"
#include "cache.h"

namespace presence {

// In each process, once.
void watch_typing();

// A session is to end in this transaction, or was found to have ended. Its entry in the cache is closed, or gone, by now.
void end_typing(const SessionName &name);
void end_typing(const SessionKey &session);
// All sessions of this database.
void end_all_typing();
// Its end has been committed, or its beginning was taken back. Raises nothing.
void note_session_end(SharedDatabase &database, const SessionKey &session);
// The same for whatever a prepared transaction did.
void doubt_all_typing();

// For the worker. When there may be something to announce, by the monotonic clock; at once from the start on.
std::uint64_t next_typing_change();
void expect_typing_changes();
// In memory of the caller's context. Those for which there is no room are left for the next time.
std::span<TypingChange> take_typing_changes();

}  // namespace presence
