// Policies: limits of some sessions, which the DBA changes in the table presence_policies. A session's row and its entry in
// the cache have the timeout itself, so that whoever judges it needs no table; a change of the table is taken over to them.
#pragma once

#include "storage.h"

namespace presence {

struct SessionPolicy {
    Datum name = 0;
    bool known = false;
    NullableDatum timeout = null_datum;
    int max_sessions = -1;        // 0: any number; below: what the setting says
    bool by_application = false;  // presence_policy_for() has named it
};

// Within owner work, and before users are locked. Until this transaction ends it does not change.
SessionPolicy find_policy(Datum name);
// The same of users for whom the call names none: the one that presence_policy_for() does.
void choose_policies(const OwnerWork &work, std::span<WantedUser> wanted);
// Of a session that begins; an error where there is none of that name.
void take_policy(StoredSession &session, const SessionPolicy &policy);

// Within owner work: sessions whose timeout is not their policy's get it.
struct PolicyRun {
    int sessions = 0;
    bool locked = false;  // some were not reached
};
PolicyRun apply_policies(Lock lock);

// Of an invisible user, what others have seen of a session stays as it is.
#define SESSIONS_WITH_POLICY                                                                                           \
    "(SELECT s.user_id, s.session_id, s.policy, s.timeout FROM @.presence_session AS s JOIN @.presence_user AS u"      \
    " ON u.user_id = s.user_id WHERE s.policy IS NOT NULL AND u.status_choice IS DISTINCT FROM 'invisible'"            \
    " UNION ALL SELECT user_id, session_id, policy, timeout FROM @.presence_hidden_session WHERE policy IS NOT NULL)"

}  // namespace presence
