// presence_schedule_cleanup() and its opposite. The job runs as a role that could replace what it calls anyway, so that
// whoever owns the schema gains nothing by doing so.
#include "schedule.h"

#include "catalog.h"
#include "extension.h"
#include "owner_guard.h"

extern "C" {
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
}

namespace presence {

namespace {

#define JOB_NAME "'presence cleanup'"

// Finds the schema when it runs, so that a renamed one makes no difference, and removes itself where the extension is
// gone.
constexpr const char *job_command =
    "DO $presence$\n"
    "DECLARE\n"
    "    place pg_catalog.name := (SELECT n.nspname FROM pg_catalog.pg_extension AS e\n"
    "                              JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace\n"
    "                              WHERE e.extname OPERATOR(pg_catalog.=) 'presence');\n"
    "BEGIN\n"
    "    IF place IS NOT NULL THEN\n"
    "        EXECUTE pg_catalog.format('SELECT %I.scheduled_presence_cleanup()', place);\n"
    "    ELSIF pg_catalog.has_schema_privilege('cron', 'USAGE') THEN\n"
    "        PERFORM cron.unschedule(" JOB_NAME "::pg_catalog.text);\n"
    "    END IF;\n"
    "END $presence$";

constexpr const char *find_job = "SELECT jobid, database FROM cron.job WHERE jobname = " JOB_NAME " ORDER BY jobid";
constexpr const char *make_job =
    "SELECT cron.schedule_in_database(" JOB_NAME "::text, $1, $2, current_database()::text, $3, true)";
constexpr const char *alter_job = "SELECT cron.alter_job($1, $2, $3, current_database()::text, $4, true)";
constexpr const char *move_job = "SELECT cron.alter_job($1, NULL, NULL, current_database()::text, NULL, NULL)";
constexpr const char *remove_job = "SELECT cron.unschedule($1)";

bool pg_cron_is_here() { return OidIsValid(get_extension_oid("pg_cron", true)); }

void require_pg_cron()
{
    if (!pg_cron_is_here())
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("pg_cron is not installed in this database"),
             errhint(
                 "Set cron.database_name to this database, restart the server, and run CREATE EXTENSION pg_cron.")));
}

// A job of another role is a matter for superusers.
OwnerWork begin_cron_work() { return begin_work_as(BOOTSTRAP_SUPERUSERID, SECURITY_RESTRICTED_OPERATION); }

// Not by a prepared statement, which would want to know the extension's schema.
std::uint64_t execute(const char *sql, std::span<const Oid> types, Datum *values)
{
    int result = 0;
    guarded(sql, [&] {
        result = SPI_execute_with_args(sql, static_cast<int>(types.size()), const_cast<Oid *>(types.data()), values,
                                       nullptr, false, 0);
    });
    if (result < 0)
        elog(ERROR, "a statement failed: %s", SPI_result_code_string(result));
    return SPI_processed;
}

// How many of that name there were.
std::uint64_t remove_jobs()
{
    const std::uint64_t count = execute(find_job, {}, nullptr);
    SPITupleTable *jobs = SPI_tuptable;
    for (std::uint64_t i = 0; i < count; ++i) {
        bool is_null = false;
        Datum values[] = {SPI_getbinval(jobs->vals[i], jobs->tupdesc, 1, &is_null)};
        const Oid types[] = {INT8OID};
        execute(remove_job, types, values);
    }
    return count;
}

Oid schema_owner(Oid schema)
{
    const Oid owner = catalog_field(NAMESPACEOID, schema, &FormData_pg_namespace::nspowner);
    return owner == ROLE_PG_DATABASE_OWNER ? catalog_field(DATABASEOID, MyDatabaseId, &FormData_pg_database::datdba)
                                           : owner;
}

// The owner of the extension, unless somebody with fewer rights could put a function of his own in the place of ours.
Oid job_role(const Extension &extension)
{
    const Oid owner = schema_owner(extension.schema);
    return superuser_arg(owner) ? extension.owner : owner;
}

void require_usable_role(const Extension &extension, Oid role)
{
    const char *const name = GetUserNameFromId(role, false);
    if (!catalog_field(AUTHOID, role, &FormData_pg_authid::rolcanlogin))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("the job would run as role \"%s\", which cannot log in", name),
                        errdetail("The job runs as the owner of the schema of the extension."),
                        errhint("Give the role LOGIN, or the schema another owner.")));
    if (!superuser_arg(extension.owner) && !compat::may_use_schema(get_namespace_oid("cron", false), extension.owner))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("role \"%s\", which owns the extension, may not use pg_cron",
                               GetUserNameFromId(extension.owner, false)),
                        errhint("As a superuser: GRANT USAGE ON SCHEMA cron TO %s.",
                                quote_identifier(GetUserNameFromId(extension.owner, false)))));
}

// Whoever owns the schema need not be able to call everything in it.
void let_run(const Extension &extension, Oid role)
{
    const char *const sql = psprintf("GRANT EXECUTE ON FUNCTION %s.scheduled_presence_cleanup() TO %s",
                                     quote_identifier(get_namespace_name(extension.schema)),
                                     quote_identifier(GetUserNameFromId(role, false)));
    if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
        elog(ERROR, "could not grant the right to run the cleanup");
}

}  // namespace

void remove_cron_job()
{
    if (!pg_cron_is_here())
        return;
    const OwnerWork work = begin_cron_work();
    remove_jobs();
    end_owner_work(work);
}

void repair_cron_job()
{
    if (!pg_cron_is_here())
        return;
    const OwnerWork work = begin_cron_work();
    if (execute(find_job, {}, nullptr) > 0) {
        Datum values[] = {first_value(1)};
        const Oid types[] = {INT8OID};
        if (strcmp(TextDatumGetCString(first_value(2)), get_database_name(MyDatabaseId)) != 0)
            execute(move_job, types, values);
    }
    end_owner_work(work);
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_schedule_cleanup)
{
    require_writable("presence_schedule_cleanup");
    require_pg_cron();
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("schedule must not be NULL")));
    const Extension &extension = extension_of(fcinfo);
    const Oid role = job_role(extension);
    require_usable_role(extension, role);
    const OwnerWork work = begin_cron_work();
    const Datum schedule = PG_GETARG_DATUM(0);
    const Datum command = PointerGetDatum(cstring_to_text(job_command));
    const Datum user = PointerGetDatum(cstring_to_text(GetUserNameFromId(role, false)));
    if (role != extension.owner)
        let_run(extension, role);
    Datum id = 0;
    if (execute(find_job, {}, nullptr) > 0) {
        id = first_value(1);
        Datum values[] = {id, schedule, command, user};
        const Oid types[] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
        execute(alter_job, types, values);
    } else {
        Datum values[] = {schedule, command, user};
        const Oid types[] = {TEXTOID, TEXTOID, TEXTOID};
        execute(make_job, types, values);
        id = first_value(1);
    }
    end_owner_work(work);
    return id;
}

PRESENCE_FUNCTION(presence_unschedule_cleanup)
{
    require_writable("presence_unschedule_cleanup");
    require_pg_cron();
    extension_of(fcinfo);
    const OwnerWork work = begin_cron_work();
    const bool any = remove_jobs() > 0;
    end_owner_work(work);
    PG_RETURN_BOOL(any);
}
