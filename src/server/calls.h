// What the SQL functions that change presence have in common. Limits live here; the functions are in the .cpp files.
#pragma once

#include "storage.h"

namespace presence {

// An error where a user has been made beyond presence.max_users.
void require_room_for_users(const Storage &storage);

}  // namespace presence
