#include "log.h"

namespace presence {

namespace {

Statement log_action = {
    "INSERT INTO @.presence_admin_log (action, actor, details) VALUES ($1, $2, jsonb_strip_nulls(jsonb_build_object('user_id', $3, 'session_id', $4, 'users_offline', $5, 'sessions_ended', $6)))",
    6,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INT4OID}};
Statement log_reconciliation = {
    "INSERT INTO @.presence_admin_log (action, actor, details) VALUES ('review', $1, jsonb_build_object('users', $2, 'cache_entries', $3, 'new_feed', $4))",
    4,
    {TEXTOID, INT4OID, INT4OID, BOOLOID}};

}  // namespace

void log_call(const OwnerWork &work, const char *action, text *user, text *session, int users_offline,
              int sessions_ended)
{
    Datum values[] = {PointerGetDatum(cstring_to_text(action)),
                      PointerGetDatum(cstring_to_text(GetUserNameFromId(work.role, false))),
                      PointerGetDatum(user),
                      PointerGetDatum(session),
                      Int32GetDatum(users_offline),
                      Int32GetDatum(sessions_ended)};
    const char nulls[] = {' ', ' ', user != nullptr ? ' ' : 'n', session != nullptr ? ' ' : 'n', ' ', ' '};
    run(log_action, values, nulls);
}

void log_review(int users, int cache_entries, bool new_feed)
{
    Datum values[] = {CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false)), Int32GetDatum(users),
                      Int32GetDatum(cache_entries), BoolGetDatum(new_feed)};
    run(log_reconciliation, values);
}

}  // namespace presence
