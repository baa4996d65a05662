// What the SQL functions that change presence have in common. Limits live here; the functions are in the .cpp files.
#pragma once

#include "storage.h"

namespace presence {

// An error where a user has been made beyond presence.max_users.
void require_room_for_users(const Storage &storage);
// An error unless it is short and flat enough.
void check_metadata(Jsonb *metadata);

// Within owner work: heartbeats that say nothing, of each session wanted. Users in the order of their names. Afterwards each
// target is online, unless its heartbeat was ignored; and what the sessions ask for in rooms is done.
void record_heartbeats(const OwnerWork &work, const Storage &storage, std::span<WantedUser> wanted);

}  // namespace presence
