// The table presence_admin_log, written here and nowhere else.
#pragma once

#include "extension.h"

namespace presence {

// user and session may be null. Within that owner work, whose caller is the actor.
void log_call(const OwnerWork &work, const char *action, text *user, text *session, int users_offline,
              int sessions_ended);
// What a review has brought in line; the actor is the session's user.
void log_review(int users, int cache_entries, bool new_feed);

}  // namespace presence
