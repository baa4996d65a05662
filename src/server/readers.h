// What functions that return lists of users have in common.
#pragma once

#include "lists.h"
#include "server.h"

namespace presence {

// Like InitMaterializedSRF(), but a list that is in memory anyway is not written to a file because it is larger than work_mem.
ReturnSetInfo *begin_list(FunctionCallInfo fcinfo);
// The columns of get_active_users().
void describe(const ListedUser &user, Datum *values, bool *nulls);

inline bool may_write() { return !XactReadOnly && !RecoveryInProgress(); }

}  // namespace presence
