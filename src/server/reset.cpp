// presence_reset(): everything as after CREATE EXTENSION.
#include "cache.h"
#include "extension.h"
#include "feed.h"
#include "feed_epoch.h"

extern "C" {
#include "storage/lmgr.h"
}

namespace presence {

namespace {

Statement empty_tables = {
    "WITH users AS (DELETE FROM @.presence_user), sessions AS (DELETE FROM @.presence_session), hidden AS (DELETE FROM @.presence_hidden_session),"
    " members AS (DELETE FROM @.presence_room_member), counts AS (DELETE FROM @.presence_room_count), locations AS (DELETE FROM @.presence_location), events AS (DELETE FROM @.presence_event),"
    " ranges AS (DELETE FROM @.presence_feed_range), dropped AS (DELETE FROM @.presence_feed_dropped), waiting AS (DELETE FROM @.presence_unannounced),"
    " cleanup AS (DELETE FROM @.presence_cleanup),"
    " report_position AS (DELETE FROM @.presence_report_position), report_slots AS (DELETE FROM @.presence_report_slot),"
    " report_days AS (DELETE FROM @.presence_report_day), report_ends AS (DELETE FROM @.presence_report_end),"
    " report_returns AS (DELETE FROM @.presence_report_return), report_sessions AS (DELETE FROM @.presence_report_session),"
    " report_users AS (DELETE FROM @.presence_report_user), epochs AS (DELETE FROM @.presence_feed) DELETE FROM @.presence_admin_log",
    0,
    {}};

}  // namespace

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_reset)
{
    require_writable("presence_reset");
    const OwnerWork work = begin_owner_work(fcinfo);
    // In the order of those who write. Nobody holds a user's row from here on, so nobody enters a session into the cache.
    begin_all_feed_tasks();
    for (const Table table : {Table::user, Table::session, Table::hidden_session, Table::room_member, Table::event,
                              Table::feed_range, Table::feed_dropped, Table::room_count})
        LockRelationOid(table_oid(table), ExclusiveLock);
    run(empty_tables);
    renew_epoch();
    // Should this be rolled back, the worker enters them again.
    cache_clear();
    end_owner_work(work);
    PG_RETURN_VOID();
}
