#include "access.h"

#include "compat.h"
#include "datums.h"

extern "C" {
#include "catalog/pg_collation.h"
#include "catalog/pg_language.h"
#include "utils/acl.h"
}

namespace presence {

namespace {

enum Level : std::uint8_t { read_level, self_level, write_level, admin_level, level_count };

// In the order of the columns of presence_access.
constexpr std::string_view level_names[level_count] = {"read", "self", "write", "admin"};

constexpr const char *read_functions =
    "@.get_active_users(integer, text), @.get_presence(@.presence_id[]), @.is_user_online(@.presence_id),"
    " @.presence_count(), @.presence_changes_since(bigint, integer, @.presence_id), @.presence_snapshot(), @.presence_feed_position(),"
    " @.get_room(@.presence_id, integer, text), @.room_count(@.presence_id), @.get_user_rooms(@.presence_id), @.room_snapshot(@.presence_id),"
    " @.presence_room_channel(@.presence_id), @.get_typing(@.presence_id), @.get_user_status(@.presence_id),"
    " @.presence_by_region(), @.presence_by_area(integer)";
constexpr const char *self_functions =
    "@.update_user_heartbeat(@.presence_id, @.presence_id, text, inet, interval, text, jsonb, timestamptz, text),"
    " @.mark_user_offline(@.presence_id, @.presence_id), @.handle_user_disconnect(@.presence_id, @.presence_id),"
    " @.join_room(@.presence_id, @.presence_id, @.presence_id, jsonb), @.leave_room(@.presence_id, @.presence_id, @.presence_id),"
    " @.set_typing(@.presence_id, @.presence_id, @.presence_id, interval), @.clear_typing(@.presence_id, @.presence_id, @.presence_id),"
    " @.set_user_status(@.presence_id, text, timestamptz, text), @.get_user_status(@.presence_id),"
    " @.set_session_location(@.presence_id, @.presence_id, @.presence_id, double precision, double precision)";
constexpr const char *write_functions =
    "@.update_user_heartbeats(@.presence_id[], @.presence_id[], timestamptz[]), @.join_rooms(@.presence_id[], @.presence_id[], @.presence_id[])";
constexpr const char *admin_functions =
    "@.cleanup_stale_presence(), @.scheduled_presence_cleanup(), @.presence_schedule_cleanup(text),"
    " @.presence_unschedule_cleanup(), @.presence_metrics(), @.presence_verify(), @.presence_reset(), @.presence_forget_user(@.presence_id), @.presence_roll_up(timestamptz), @.presence_grant(regrole, text), @.presence_revoke(regrole, text)";
constexpr const char *admin_relations =
    "@.presence, @.presence_sessions, @.presence_events, @.presence_admin_log, @.presence_health, @.presence_problem, @.presence_flapping";
// Numbers without names.
constexpr const char *report_relations =
    "@.presence_online_history, @.presence_daily_users, @.presence_session_lengths, @.presence_leave_reasons";

struct LevelRights {
    const char *functions[4];
    const char *relations[2];
    const char *writable;
};
constexpr LevelRights rights[level_count] = {
    {{read_functions}, {report_relations}, nullptr},
    {{self_functions}, {}, nullptr},
    {{read_functions, self_functions, write_functions}, {report_relations}, nullptr},
    {{read_functions, self_functions, write_functions, admin_functions},
     {report_relations, admin_relations},
     "@.presence_policies"},
};

CallerAccess access;
Oid access_role = InvalidOid;  // whose it is; InvalidOid: not known

void forget_access(Datum, compat::SyscacheId, uint32) { access_role = InvalidOid; }
void forget_access_of_table(Datum, Oid relation)
{
    if (relation == InvalidOid || relation == table_oid(Table::access))
        access_role = InvalidOid;
}

bool has_level(Oid role, Level level)
{
    const Oid table = table_oid(Table::access);
    // The table first: without any grant on a column the server does not ask whether the role owns it or is a superuser.
    return pg_class_aclcheck(table, role, ACL_SELECT) == ACLCHECK_OK ||
           pg_attribute_aclcheck(table, static_cast<AttrNumber>(level + 1), role, ACL_SELECT) == ACLCHECK_OK;
}

Oid application_function(const char *name, std::span<const Oid> arguments)
{
    oidvector *types = buildoidvector(arguments.data(), static_cast<int>(arguments.size()));
    const Oid function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
                                         PointerGetDatum(types), ObjectIdGetDatum(schema_oid()));
    if (!OidIsValid(function))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("function %s() is missing", name),
                        errhint("Create it again: CREATE OR REPLACE FUNCTION keeps what depends on it.")));
    return function;
}

// Whether it is as the extension brings it.
bool is_as_brought(Oid function, std::string_view written)
{
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(row))
        return false;
    bool is_null = false;
    const Datum body = SysCacheGetAttr(PROCOID, row, Anum_pg_proc_prosrc, &is_null);
    const bool result = !is_null && reinterpret_cast<Form_pg_proc>(GETSTRUCT(row))->prolang == SQLlanguageId &&
                        text_view(DatumGetTextPP(body)) == written;
    ReleaseSysCache(row);
    return result;
}

// presence_current_user(), as the caller.
Datum current_identity(bool &is_null)
{
    FmgrInfo function;
    fmgr_info(application_function("presence_current_user", {}), &function);
    LOCAL_FCINFO(call, 0);
    InitFunctionCallInfoData(*call, &function, 0, DEFAULT_COLLATION_OID, nullptr, nullptr);
    const Datum identity = FunctionCallInvoke(call);
    is_null = call->isnull;
    return identity;
}

// Runs work() with the rights of whoever called, in the middle of owner work.
template <typename Work>
auto as_caller(const OwnerWork &owner_work, Work work)
{
    Oid role = InvalidOid;
    int context = 0;
    GetUserIdAndSecContext(&role, &context);
    SetUserIdAndSecContext(owner_work.role, owner_work.security_context);
    const auto result = work();
    SetUserIdAndSecContext(role, context);
    return result;
}

Level parse_level(FunctionCallInfo fcinfo)
{
    const std::string_view name = text_view(PG_GETARG_TEXT_PP(1));
    for (std::uint8_t level = 0; level < level_count; ++level)
        if (name == level_names[level])
            return static_cast<Level>(level);
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("access \"%s\" is not known", excerpt(name)),
                    errhint("Use read, self, write or admin.")));
    pg_unreachable();
}

enum class Change : std::uint8_t { grant, revoke };

// "GRANT … TO role" or "REVOKE … FROM role".
void execute(Change change, const char *what, const char *role)
{
    const char *const statement =
        change == Change::grant ? psprintf("GRANT %s TO %s", what, role) : psprintf("REVOKE %s FROM %s", what, role);
    const char *const sql = with_schema(statement);
    if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
        elog(ERROR, "could not change privileges: %s", sql);
}

void change_level(Change change, Level level, const char *role)
{
    execute(change, psprintf("SELECT (%s) ON @.presence_access", quote_identifier(level_names[level].data())), role);
    for (const char *functions : rights[level].functions)
        if (functions != nullptr)
            execute(change, psprintf("EXECUTE ON FUNCTION %s", functions), role);
    for (const char *relations : rights[level].relations)
        if (relations != nullptr)
            execute(change, psprintf("SELECT ON %s", relations), role);
    if (rights[level].writable != nullptr)
        execute(change, psprintf("SELECT, INSERT, UPDATE, DELETE ON %s", rights[level].writable), role);
}

// To the role itself, not to one that it is a member of, nor by being the owner or a superuser.
bool is_granted(Level level, Oid role)
{
    HeapTuple row = SearchSysCache2(ATTNUM, ObjectIdGetDatum(table_oid(Table::access)), Int16GetDatum(level + 1));
    if (!HeapTupleIsValid(row))
        return false;
    bool is_null = true;
    const Datum value = SysCacheGetAttr(ATTNUM, row, Anum_pg_attribute_attacl, &is_null);
    bool granted = false;
    if (!is_null) {
        const Acl *acl = DatumGetAclP(value);
        const std::span<const AclItem> items(ACL_DAT(acl), static_cast<std::size_t>(ACL_NUM(acl)));
        for (const AclItem &item : items)
            granted |= item.ai_grantee == role && (item.ai_privs & ACL_SELECT) != 0;
    }
    ReleaseSysCache(row);
    return granted;
}

struct Grantee {
    Oid oid;
    const char *name;  // quoted
    Level level;
};

Grantee checked_grantee(FunctionCallInfo fcinfo)
{
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("%s must not be NULL", PG_ARGISNULL(0) ? "role" : "access")));
    const Level level = parse_level(fcinfo);
    const Oid role = PG_GETARG_OID(0);
    return {role, quote_identifier(GetUserNameFromId(role, false)), level};
}

Sight everything()
{
    Sight sight{};
    sight.everybody = true;
    return sight;
}

// The application's function of that name decides.
Sight ask(const OwnerWork &work, const char *name)
{
    Sight sight{};
    const Oid arguments[] = {TEXTOID, TEXTOID};
    const Oid function = application_function(name, arguments);
    sight.everybody = is_as_brought(function, "SELECT true");
    if (sight.everybody)
        return sight;
    fmgr_info(function, &sight.function);
    sight.viewer = as_caller(work, [&sight] { return current_identity(sight.no_viewer); });
    return sight;
}

void require_entry(Sight &entry, const OwnerWork &work, const text *room)
{
    if (!sees(entry, work, room))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied for room \"%s\"", excerpt(text_view(room))),
                        errdetail("presence_can_enter() does not let the caller in.")));
}

}  // namespace

void watch_roles()
{
    CacheRegisterSyscacheCallback(AUTHOID, forget_access, 0);
    CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, forget_access, 0);
    CacheRegisterRelcacheCallback(forget_access_of_table, 0);
}

const CallerAccess &caller_access()
{
    const Oid role = GetUserId();
    if (likely(access_role == role))
        return access;
    // A superuser counts as a member of each role, and so has the levels that any role has.
    access.admin = owns_tables(role) || has_level(role, admin_level);
    const bool everything = access.admin || has_level(role, write_level);
    access.own_only = !everything && has_level(role, self_level);
    access.filtered = !everything && has_level(role, read_level);
    access_role = role;
    return access;
}

void require_may_act_for_others(const text *user)
{
    bool is_null = true;
    const Datum identity = current_identity(is_null);
    if (!is_null && text_view(DatumGetTextPP(identity)) == text_view(user))
        return;
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("permission denied for user_id \"%s\"", excerpt(text_view(user))),
                    is_null ? errdetail("The caller is nobody in particular: presence_current_user() is NULL.")
                            : errdetail("The caller is \"%s\", and may act for itself only.",
                                        excerpt(text_view(DatumGetTextPP(identity)))),
                    errhint("A role that acts for others needs presence_grant(role, 'write').")));
}

void require_may_name_policies()
{
    if (caller_access().own_only)
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied to name a policy"),
                        errdetail("The caller may act for itself only."),
                        errhint("Pass policy from a role that has presence_grant(role, 'write').")));
}

bool is_admin(const OwnerWork &work)
{
    return as_caller(work, [] { return caller_access().admin; });
}

bool acts_as_itself(const OwnerWork &work, const text *user)
{
    return as_caller(work, [user] {
        bool is_null = true;
        const Datum identity = caller_access().own_only ? current_identity(is_null) : 0;
        return !is_null && text_view(DatumGetTextPP(identity)) == text_view(user);
    });
}

void require_may_see_others(const OwnerWork &work, const text *user)
{
    (void)as_caller(work, [user] {
        const CallerAccess &caller = caller_access();
        if (caller.own_only && !caller.filtered)
            require_may_act_for_others(user);
        return true;
    });
}

bool is_filtered(const OwnerWork &work)
{
    return as_caller(work, [] { return caller_access().filtered; });
}

Sight begin_sight(const OwnerWork &work) { return is_filtered(work) ? ask(work, "presence_can_see") : everything(); }

Sight begin_entry(const OwnerWork &work) { return is_filtered(work) ? ask(work, "presence_can_enter") : everything(); }

bool sees(Sight &sight, const OwnerWork &work, const text *user_or_room)
{
    if (likely(sight.everybody))
        return true;
    CHECK_FOR_INTERRUPTS();
    return as_caller(work, [&] {
        LOCAL_FCINFO(call, 2);
        InitFunctionCallInfoData(*call, &sight.function, 2, DEFAULT_COLLATION_OID, nullptr, nullptr);
        call->args[0] = {sight.viewer, sight.no_viewer};
        call->args[1] = {PointerGetDatum(user_or_room), false};
        if (sight.function.fn_strict && sight.no_viewer)
            return false;
        const Datum result = FunctionCallInvoke(call);
        return !call->isnull && DatumGetBool(result);
    });
}

PolicyChoice begin_policy_choice()
{
    PolicyChoice choice{};
    const Oid arguments[] = {TEXTOID};
    const Oid function = application_function("presence_policy_for", arguments);
    choice.is_made = !is_as_brought(function, "SELECT NULL::text");
    if (choice.is_made)
        fmgr_info(function, &choice.function);
    return choice;
}

text *chosen_policy(PolicyChoice &choice, const OwnerWork &work, text *user)
{
    CHECK_FOR_INTERRUPTS();
    return as_caller(work, [&]() -> text * {
        LOCAL_FCINFO(call, 1);
        InitFunctionCallInfoData(*call, &choice.function, 1, DEFAULT_COLLATION_OID, nullptr, nullptr);
        call->args[0] = {PointerGetDatum(user), false};
        const Datum name = FunctionCallInvoke(call);
        return call->isnull ? nullptr : DatumGetTextPP(name);
    });
}

void require_may_join(const OwnerWork &work, const text *room)
{
    if (likely(!as_caller(work, [] { return caller_access().own_only; })))
        return;
    Sight entry = ask(work, "presence_can_enter");
    require_entry(entry, work, room);
}

void require_may_look_into(const OwnerWork &work, const text *room)
{
    Sight entry = begin_entry(work);
    require_entry(entry, work, room);
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_grant)
{
    (void)extension_of(fcinfo);
    const Grantee grantee = checked_grantee(fcinfo);
    const bool may_enter = compat::may_use_schema(schema_oid(), grantee.oid);
    const OwnerWork work = begin_owner_work();
    if (!may_enter)
        execute(Change::grant, psprintf("USAGE ON SCHEMA %s", quote_identifier(get_namespace_name(schema_oid()))),
                grantee.name);
    change_level(Change::grant, grantee.level, grantee.name);
    end_owner_work(work);
    PG_RETURN_VOID();
}

PRESENCE_FUNCTION(presence_revoke)
{
    const Grantee grantee = checked_grantee(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    change_level(Change::revoke, grantee.level, grantee.name);
    // What another level gives stays.
    CommandCounterIncrement();
    for (std::uint8_t level = 0; level < level_count; ++level)
        if (level != grantee.level && is_granted(static_cast<Level>(level), grantee.oid))
            change_level(Change::grant, static_cast<Level>(level), grantee.name);
    end_owner_work(work);
    PG_RETURN_VOID();
}
