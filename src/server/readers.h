// What functions that return rows and lists of users have in common.
#pragma once

#include "extension.h"
#include "lists.h"
#include "server.h"

namespace presence {

// Of what the function returns.
TupleDesc row_type(FunctionCallInfo fcinfo);
// Like InitMaterializedSRF(), but a list that is in memory anyway is not written to a file because it is larger than work_mem.
ReturnSetInfo *begin_list(FunctionCallInfo fcinfo);
// Whether the caller says, after the id of the last row and a tab, which time the list showed in it; then what follows is the page.
bool is_page_with_time(std::string_view after, ListPage &page);
// Takes out whom the caller is not shown, as if they had never been there. Within owner work.
void hide_unseen(UserList &list, const OwnerWork &work);
// The columns of get_active_users().
void describe(const ListedUser &user, Datum *values, bool *nulls);

}  // namespace presence
