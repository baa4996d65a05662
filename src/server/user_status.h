// What people choose to be shown as, where it meets the tables: the end of choices that are over. The SQL functions are in
// user_status.cpp, the rules in core/user_status.h.
#pragma once

#include "storage.h"

namespace presence {

// Whoever changes users calls it when they are loaded: choices that are over end, and who was invisible comes into view.
void settle_choices(const Storage &storage, std::span<const WantedUser> wanted);

// The same for everybody whose choice is over. Never waits for a lock; true: some users were held by others.
bool end_choices(const Storage &storage);
// By a reader, before it looks: the same where no worker does it.
void end_choices_without_worker();
// When the first one will be; 0: none.
Time next_end_of_choice();

}  // namespace presence
