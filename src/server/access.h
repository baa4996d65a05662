// Who may do what, beyond EXECUTE: whether the caller acts for everybody or only for itself, and whether it sees everybody
// or only whom the application shows it. What presence_grant() has granted is kept as privileges on the columns of the
// empty table presence_access, so that the server's own rules for roles, dumps and dropped roles hold. No reader and no
// change of presence lives here.
#pragma once

#include "extension.h"
#include "server.h"

namespace presence {

// In each process, once.
void watch_roles();

// Of the current user.
struct CallerAccess {
    bool own_only;  // may beat and leave as presence_current_user() only
    bool admin;     // has access admin, or owns the extension
    bool filtered;  // sees whom presence_can_see() shows, and the feed from presence.feed_horizon on
};
const CallerAccess &caller_access();

// An error (42501) where the caller may act for itself only, and that user is somebody else. Outside of owner work.
void require_may_act_for_others(const text *user);
inline void require_may_act_for(const text *user)
{
    if (unlikely(caller_access().own_only))
        require_may_act_for_others(user);
}

// An error (42501) where the caller may act for itself only: which limits it has is not for it to say.
void require_may_name_policies();

// The same within owner work, of whoever called: whether it is an admin; whether it acts for itself only, and is this user.
bool is_admin(const OwnerWork &work);
bool acts_as_itself(const OwnerWork &work, const text *user);
// An error (42501) where the caller may act for itself and sees nobody, and that user is somebody else.
void require_may_see_others(const OwnerWork &work, const text *user);

// Whom a filtered caller sees, or which rooms it may enter. Within owner work; the functions of the application run as the caller.
struct Sight {
    bool everybody;
    Datum viewer;  // NULL: nobody in particular
    bool no_viewer;
    FmgrInfo function;
};
// The caller_access() of whoever called.
bool is_filtered(const OwnerWork &work);
Sight begin_sight(const OwnerWork &work);
Sight begin_entry(const OwnerWork &work);
bool sees(Sight &sight, const OwnerWork &work, const text *user_or_room);

// Which policy presence_policy_for() names for a user; null: none. Within owner work, as above.
struct PolicyChoice {
    bool is_made;  // the application has replaced the function
    FmgrInfo function;
};
PolicyChoice begin_policy_choice();
text *chosen_policy(PolicyChoice &choice, const OwnerWork &work, text *user);

// An error (42501) where presence_can_enter() keeps a caller out who acts for itself only, or is filtered. Within owner work.
void require_may_join(const OwnerWork &work, const text *room);
void require_may_look_into(const OwnerWork &work, const text *room);

}  // namespace presence
