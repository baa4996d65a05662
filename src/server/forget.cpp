// presence_forget_user(): a person is removed from everything that the extension keeps.
#include "arguments.h"
#include "cache.h"
#include "extension.h"
#include "feed.h"
#include "feed_epoch.h"
#include "reports.h"
#include "storage.h"

namespace presence {

namespace {

Statement forget_sessions = {
    "WITH hidden AS (DELETE FROM @.presence_hidden_session WHERE user_id = $1) DELETE FROM @.presence_session WHERE user_id = $1",
    1,
    {TEXTOID}};
Statement forget_locations = {"DELETE FROM @.presence_location WHERE user_id = $1", 1, {TEXTOID}};
Statement forget_user = {"DELETE FROM @.presence_user WHERE user_id = $1", 1, {TEXTOID}};
Statement forget_log = {"DELETE FROM @.presence_admin_log WHERE details ->> 'user_id' = $1", 1, {TEXTOID}};
// Numbers keep their events, so that the feed goes on without gaps; under a name that says nothing and is used once.
Statement disguise_events = {
    "WITH name AS (SELECT 'forgotten-' || gen_random_uuid() AS user_id)"
    " UPDATE @.presence_event AS e SET user_id = name.user_id, session_id = NULL, details = NULL FROM name WHERE e.user_id = $1",
    1,
    {TEXTOID}};
Statement forget_reported_user = {"DELETE FROM @.presence_report_user WHERE user_id = $1", 1, {TEXTOID}};
Statement forget_reported_sessions = {"DELETE FROM @.presence_report_session WHERE user_id = $1", 1, {TEXTOID}};
Statement forget_returns = {"DELETE FROM @.presence_report_return WHERE user_id = $1", 1, {TEXTOID}};
Statement log_forgetting = {
    "INSERT INTO @.presence_admin_log (action, actor, details) VALUES ('presence_forget_user', $1, $2)",
    2,
    {TEXTOID, JSONBOID}};

constexpr Time most_report_time = USECS_PER_SEC;

// Whoever is online leaves like everybody else, so that the counts go on.
void end_all_sessions(text *name)
{
    const Storage storage = open_storage();
    WantedUser wanted{name, {}, nullptr, nullptr};
    load_users(storage, {&wanted, 1}, Lock::wait);
    if (wanted.user != nullptr) {
        StoredUser &user = *wanted.user;
        user.changed_at = GetCurrentTimestamp();
        SessionGroup group(user.span(), policy_for(user));
        (void)apply_departure(user, group, nullptr, {user.changed_at, Reason::admin, 0}, user.events);
        store_users(storage, {&wanted, 1});
    }
    close_storage(storage);
}

}  // namespace

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_forget_user)
{
    text *name = required_text(fcinfo, 0, "user_id");
    require_writable("presence_forget_user");
    InitMaterializedSRF(fcinfo, 0);
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    end_all_sessions(name);
    begin_all_feed_tasks();
    // What is added up later would be that of another, nameless user. But nobody is to wait long for their numbers.
    write_reports_now(most_report_time);
    struct Part {
        const char *relation;
        Statement *statement;
    };
    const Part parts[] = {{"presence_session", &forget_sessions},
                          {"presence_location", &forget_locations},
                          {"presence_user", &forget_user},
                          {"presence_event", &disguise_events},
                          {"presence_admin_log", &forget_log},
                          {"presence_report_user", &forget_reported_user},
                          {"presence_report_session", &forget_reported_sessions},
                          {"presence_report_return", &forget_returns}};
    Datum who[] = {PointerGetDatum(name)};
    StringInfoData summary;
    initStringInfo(&summary);
    for (const Part &part : parts) {
        const auto rows = static_cast<std::int64_t>(run(*part.statement, who));
        // Readers that have the user in their lists would wait for events of that name: they begin again.
        if (part.statement == &disguise_events && rows > 0)
            renew_epoch();
        Datum values[] = {CStringGetTextDatum(part.relation), Int64GetDatum(rows)};
        bool nulls[2] = {};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
        appendStringInfo(&summary, "%s\"%s\": " INT64_FORMAT, summary.len == 0 ? "{" : ", ", part.relation, rows);
    }
    appendStringInfoChar(&summary, '}');
    Datum entry[] = {CStringGetTextDatum(GetUserNameFromId(work.role, false)),
                     DirectFunctionCall1(jsonb_in, CStringGetDatum(summary.data))};
    run(log_forgetting, entry);
    end_owner_work(work);
    return 0;
}
