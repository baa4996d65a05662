#include "extension.h"

#include <algorithm>

#include "compat.h"
#include "owner_guard.h"
#include "worker_control.h"

extern "C" {
#include "access/genam.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

constexpr std::string_view table_names[table_count] = {
    "presence_user",           "presence_session",     "presence_event",      "presence_feed_range",
    "presence_feed_dropped",   "presence_view_pass",   "presence_access",     "presence_event_id_seq",
    "presence_hidden_session", "presence_room_member", "presence_room_count", "presence_policies",
};

Extension extension;
bool known = false;
std::uint32_t schema_hash;  // of the schema's row in the catalog cache
// Plans carry the schema's name, so they die with what is known.
std::uint64_t generation = 1;

void forget()
{
    known = false;
    ++generation;
}

void on_relation_change(Datum, Oid relation)
{
    if (known && (relation == InvalidOid || std::find(std::begin(extension.tables), std::end(extension.tables),
                                                      relation) != std::end(extension.tables)))
        forget();
}

void on_schema_change(Datum, compat::SyscacheId, uint32 hash)
{
    if (known && (hash == 0 || hash == schema_hash))
        forget();
}

// Only members count: a table of another's making with the right name is none.
void note_member(Oid oid)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row))
        return;
    const auto *relation = reinterpret_cast<Form_pg_class>(GETSTRUCT(row));
    const auto *name = std::find(std::begin(table_names), std::end(table_names), NameStr(relation->relname));
    if (name != std::end(table_names) &&
        (relation->relkind == RELKIND_RELATION || relation->relkind == RELKIND_SEQUENCE)) {
        extension.tables[name - std::begin(table_names)] = oid;
        extension.schema = relation->relnamespace;
        extension.owner = relation->relowner;
    }
    ReleaseSysCache(row);
}

void note_members(Oid oid)
{
    extension = {};
    Relation depend = table_open(DependRelationId, AccessShareLock);
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
                ObjectIdGetDatum(ExtensionRelationId));
    ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
    SysScanDesc scan = systable_beginscan(depend, DependReferenceIndexId, true, nullptr, 2, keys);
    HeapTuple row = nullptr;
    while (HeapTupleIsValid(row = systable_getnext(scan))) {
        const auto *member = reinterpret_cast<Form_pg_depend>(GETSTRUCT(row));
        if (member->classid == RelationRelationId && member->objsubid == 0 && member->deptype == DEPENDENCY_EXTENSION)
            note_member(member->objid);
    }
    systable_endscan(scan);
    table_close(depend, AccessShareLock);
}

bool look_up(Oid oid)
{
    do {
        // Unless that is taken back while the catalogs are read.
        known = true;
        note_members(oid);
        if (std::find(std::begin(extension.tables), std::end(extension.tables), InvalidOid) !=
            std::end(extension.tables)) {
            known = false;
            return false;
        }
        schema_hash = GetSysCacheHashValue1(NAMESPACEOID, ObjectIdGetDatum(extension.schema));
    } while (!known);
    return true;
}

}  // namespace

void watch_catalog()
{
    CacheRegisterRelcacheCallback(on_relation_change, 0);
    CacheRegisterSyscacheCallback(NAMESPACEOID, on_schema_change, 0);
}

bool find_extension()
{
    const Oid oid = get_extension_oid("presence", true);
    if (!OidIsValid(oid))
        return false;
    // Whoever drops it locks it first, and the tables in an order of its own: that must not meet ours.
    LockDatabaseObject(ExtensionRelationId, oid, 0, AccessShareLock);
    if (get_extension_oid("presence", true) != oid)
        return false;
    return known || look_up(oid);
}

const Extension &extension_of(FunctionCallInfo)
{
    if (likely(known))
        return extension;
    const Oid oid = get_extension_oid("presence", true);
    if (!OidIsValid(oid) || !look_up(oid))
        report_missing_tables();
    request_worker();
    return extension;
}

void report_missing_tables()
{
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("the tables of extension \"presence\" are missing"),
                    errhint("Create the extension again with CREATE EXTENSION presence.")));
}

Oid table_oid(Table table) { return extension.tables[static_cast<std::size_t>(table)]; }

Oid schema_oid() { return extension.schema; }
Oid owner_oid() { return extension.owner; }
bool owns_tables(Oid role) { return has_privs_of_role(role, extension.owner); }

OwnerWork begin_owner_work() { return begin_work_as(extension.owner, 0); }

OwnerWork begin_owner_work(FunctionCallInfo fcinfo)
{
    (void)extension_of(fcinfo);
    return begin_owner_work();
}

OwnerWork begin_work_as(Oid role, int restrictions)
{
    OwnerWork work;
    GetUserIdAndSecContext(&work.role, &work.security_context);
    SetUserIdAndSecContext(role, work.security_context | SECURITY_LOCAL_USERID_CHANGE | restrictions);
    work.guc_level = NewGUCNestLevel();
    set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
                      false);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "could not connect to SPI");
    return work;
}

void end_owner_work(const OwnerWork &work)
{
    SPI_finish();
    AtEOXact_GUC(false, work.guc_level);
    SetUserIdAndSecContext(work.role, work.security_context);
}

char *with_schema(const char *text)
{
    const char *const schema = quote_identifier(get_namespace_name(extension.schema));
    StringInfoData sql;
    initStringInfo(&sql);
    for (const char *c = text; *c != '\0'; ++c) {
        if (c[0] == '@' && c[1] == '.') {
            appendStringInfo(&sql, "%s.", schema);
            ++c;
        } else {
            appendStringInfoCharMacro(&sql, *c);
        }
    }
    return sql.data;
}

SPIPlanPtr prepared(Statement &statement)
{
    if (likely(statement.plan != nullptr && statement.generation == generation))
        return statement.plan;
    if (statement.plan != nullptr) {
        SPIPlanPtr old = statement.plan;
        statement.plan = nullptr;
        SPI_freeplan(old);
    }

    char *const sql = with_schema(statement.text);
    SPIPlanPtr plan = nullptr;
    guarded(sql, [&] { plan = SPI_prepare(sql, statement.argument_count, statement.argument_types); });
    if (plan == nullptr || SPI_keepplan(plan) != 0)
        elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
    if (statement.sql != nullptr)
        pfree(statement.sql);
    statement.sql = MemoryContextStrdup(TopMemoryContext, sql);
    statement.plan = plan;
    statement.generation = generation;
    return plan;
}

std::uint64_t run(Statement &statement, Datum *values, const char *nulls, bool read_only)
{
    SPIPlanPtr plan = prepared(statement);
    int result = 0;
    const bool by_index = statement.access == Access::by_index;
    const int guc_level = by_index ? NewGUCNestLevel() : 0;
    if (by_index)
        set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    // A plan that has become invalid is analysed again.
    guarded(statement.sql, [&] { result = SPI_execute_plan(plan, values, nulls, read_only, 0); });
    if (by_index)
        AtEOXact_GUC(false, guc_level);
    if (result < 0)
        elog(ERROR, "a statement failed: %s", SPI_result_code_string(result));
    return SPI_processed;
}

Datum first_value(int column, Datum otherwise)
{
    if (SPI_processed == 0)
        return otherwise;
    bool is_null = false;
    const Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &is_null);
    return is_null ? otherwise : value;
}

void require_writable(const char *function)
{
    if (RecoveryInProgress())
        ereport(ERROR,
                (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("cannot execute %s() during recovery", function),
                 errdetail("This server is a standby: it shows what the primary has recorded, and accepts no change."),
                 errhint("Connect to the primary.")));
    if (XactReadOnly)
        ereport(
            ERROR,
            (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
             errmsg("cannot execute %s() in a read-only transaction", function),
             errhint("Use a read-write transaction; some gateways run GET requests read-only, so call it by POST.")));
}

}  // namespace presence
