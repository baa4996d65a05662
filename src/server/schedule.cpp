// presence_schedule_cleanup() and its opposite: this database's job of pg_cron.
#include "schedule.h"

#include "extension.h"
#include "owner_guard.h"

extern "C" {
#include "catalog/pg_authid.h"
}

namespace presence {

namespace {

Statement schedule_job = {"SELECT cron.schedule($1, $2, $3)", 3, {TEXTOID, TEXTOID, TEXTOID}};
Statement unschedule_job = {
    "SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = $1 AND database = current_database()", 1, {TEXTOID}};

Datum job_name()
{
    return PointerGetDatum(cstring_to_text(psprintf("presence cleanup in %s", get_database_name(MyDatabaseId))));
}

void require_pg_cron()
{
    if (!OidIsValid(get_extension_oid("pg_cron", true)))
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("pg_cron is not installed in this database"),
             errhint(
                 "Set cron.database_name to this database, restart the server, and run CREATE EXTENSION pg_cron.")));
}

}  // namespace

void remove_cron_job()
{
    if (!OidIsValid(get_extension_oid("pg_cron", true)))
        return;
    const OwnerWork work = begin_work_as(BOOTSTRAP_SUPERUSERID, SECURITY_RESTRICTED_OPERATION);
    // Not by a prepared statement, which would want to know the extension's schema.
    Oid types[] = {TEXTOID};
    Datum values[] = {job_name()};
    guarded(unschedule_job.text,
            [&] { (void)SPI_execute_with_args(unschedule_job.text, 1, types, values, nullptr, false, 0); });
    end_owner_work(work);
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_schedule_cleanup)
{
    require_writable("presence_schedule_cleanup");
    require_pg_cron();
    const char *schema = quote_identifier(get_namespace_name(extension_of(fcinfo).schema));
    Datum values[] = {job_name(), PG_GETARG_DATUM(0),
                      PointerGetDatum(cstring_to_text(psprintf("SELECT %s.scheduled_presence_cleanup()", schema)))};
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("schedule must not be NULL")));
    const OwnerWork work = begin_owner_work();
    run(schedule_job, values);
    const Datum id = first_value(1);
    end_owner_work(work);
    return id;
}

PRESENCE_FUNCTION(presence_unschedule_cleanup)
{
    require_writable("presence_unschedule_cleanup");
    require_pg_cron();
    extension_of(fcinfo);
    const OwnerWork work = begin_owner_work();
    Datum values[] = {job_name()};
    const bool any = run(unschedule_job, values) > 0;
    end_owner_work(work);
    PG_RETURN_BOOL(any);
}
