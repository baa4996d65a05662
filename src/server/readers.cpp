// The SQL functions that read presence, and what the views ask about a session.
#include "readers.h"

#include <algorithm>

#include "access.h"
#include "arguments.h"
#include "cache.h"
#include "datums.h"
#include "expiry.h"
#include "expiry_guard.h"
#include "extension.h"
#include "feed.h"
#include "lists.h"
#include "log.h"
#include "settings.h"
#include "user_status.h"

extern "C" {
#include "access/genam.h"
#include "access/table.h"
}

namespace presence {

namespace {

Statement choice_of_user = {"SELECT status_choice, choice_until, choice_message FROM @.presence_user WHERE user_id = $1"
                            " AND (choice_until IS NULL OR choice_until > clock_timestamp())",
                            1,
                            {TEXTOID}};
Statement online_since_of = {"SELECT online_since FROM @.presence_user WHERE user_id = $1", 1, {TEXTOID}};

bool shows_pass(FunctionCallInfo fcinfo, int argument)
{
    if (PG_ARGISNULL(argument))
        return false;
    Relation passes = table_open(table_oid(Table::view_pass), AccessShareLock);
    SysScanDesc scan = systable_beginscan(passes, InvalidOid, false, nullptr, 0, nullptr);
    HeapTuple row = systable_getnext(scan);
    bool is_null = true;
    const Datum pass = HeapTupleIsValid(row) ? heap_getattr(row, 1, RelationGetDescr(passes), &is_null) : 0;
    const bool same = !is_null && DatumGetBool(DirectFunctionCall2(uuid_eq, pass, PG_GETARG_DATUM(argument)));
    systable_endscan(scan);
    table_close(passes, AccessShareLock);
    return same;
}

// The helpers are open to PUBLIC for the views' sake only. Asked once for each place in a query: nobody who does not know
// the pass gets past the first row.
void require_view(FunctionCallInfo fcinfo, int pass_argument)
{
    if (likely(fcinfo->flinfo->fn_extra != nullptr))
        return;
    (void)extension_of(fcinfo);
    if (!shows_pass(fcinfo, pass_argument) && !owns_tables(GetUserId()))
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied for function %s", get_func_name(fcinfo->flinfo->fn_oid)),
                        errhint("Read the views presence, presence_sessions and presence_health instead.")));
    fcinfo->flinfo->fn_extra = fcinfo->flinfo;
}

// Of the arguments user_id, session_id and heartbeat_at.
RecordedSession recorded_session(FunctionCallInfo fcinfo, Time interval)
{
    return {{text_view(PG_GETARG_TEXT_PP(0)), text_view(PG_GETARG_TEXT_PP(1))}, PG_GETARG_TIMESTAMPTZ(2), interval};
}

Time time_or_zero(FunctionCallInfo fcinfo, int argument)
{
    return PG_ARGISNULL(argument) ? 0 : PG_GETARG_TIMESTAMPTZ(argument);
}

text *status_text(Status status)
{
    static text *texts[4];
    text *&made = texts[static_cast<int>(status)];
    if (unlikely(made == nullptr)) {
        MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
        made = make_text(to_text(status));
        MemoryContextSwitchTo(caller);
    }
    return made;
}

// The list leaves stale sessions out by itself; who is to end them is another matter.
void end_stale_sessions_met(bool overdue, const OwnerWork &work)
{
    if (worker_is_expected()) {
        WorkerControl &worker = my_database()->worker;
        // Nobody has told the cache of them: they were written by hand.
        if (overdue && !cache_any_stale())
            worker.note_cache_gap();
        worker.wake();
        return;
    }
    // Under a snapshot of the transaction's own, ending them could fail for what others have done since.
    if (!may_write() || IsolationUsesXactSnapshot())
        return;
    const Ended ended = end_stale_sessions(Thoroughness::whole_table);
    if (ended.sessions > 0)
        log_call(work, "get_active_users", nullptr, nullptr, ended.users, ended.sessions);
}

// What follows the user of that id in the list. The list can change meanwhile: whoever has left still has a place, and
// whoever has come back has another one, unless the caller says, after a tab, which online_since the list showed.
ListPage page_after(std::string_view after, const OwnerWork &work)
{
    if (ListPage page; is_page_with_time(after, page))
        return page;
    text *name = make_text(after);
    Datum user[] = {PointerGetDatum(name)};
    run(online_since_of, user, nullptr, true);
    const Time before = DatumGetTimestampTz(first_value(1));
    Sight sight = begin_sight(work);
    // Nobody learns from it when somebody unseen came online.
    if (before == 0 || !(sight.everybody || sees(sight, work, name)))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("argument \"after\" names a user who is not known: \"%s\"", excerpt(after)),
                 errdetail("It must be the user_id of a row of the list, and not be removed by retention since."),
                 errhint("Start again with the first page.")));
    return {before, after};
}

// For presence_problem. No code: there is none.
struct NamedProblem {
    const char *code, *text;
};

NamedProblem worker_problem(SharedDatabase *database)
{
    if (database == nullptr || !worker_enabled || RecoveryInProgress())
        return {};
    if (!launcher_exists())
        return {
            "no_launcher",
            "The launcher of presence does not run, so departures wait for a cleanup: raise max_worker_processes and restart the server."};
    if (database->worker.problem() == no_free_process)
        return {
            "no_worker_slot",
            "The worker could not be started because all max_worker_processes are in use, so departures wait for a cleanup: raise max_worker_processes and restart the server."};
    if (database->worker.problem() == keeps_failing)
        return {
            "worker_fails",
            "The worker fails each time it is started, so departures wait for a cleanup: see the server log for the error."};
    if (const char *trouble = database->worker.trouble())
        return {"worker_in_trouble", trouble};
    if (const std::uint32_t waiting = launcher_control()->waiting_databases(); waiting > 0)
        return {
            "workers_take_turns",
            psprintf(
                "%u databases take turns with %d workers, so departures and notifications may come late: raise presence.max_workers, and max_worker_processes with it.",
                launcher_control()->running_workers() + waiting, allowed_workers())};
    return {};
}

}  // namespace

bool is_page_with_time(std::string_view after, ListPage &page)
{
    const std::size_t tab = after.find('\t');
    if (tab == std::string_view::npos)
        return false;
    char *since = text_to_cstring(make_text(after.substr(tab + 1)));
    const Datum before =
        DirectFunctionCall3(timestamptz_in, CStringGetDatum(since), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
    page = {DatumGetTimestampTz(before), after.substr(0, tab)};
    return true;
}

TupleDesc row_type(FunctionCallInfo fcinfo)
{
    TupleDesc type;
    if (get_call_result_type(fcinfo, nullptr, &type) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    return BlessTupleDesc(type);
}

ReturnSetInfo *begin_list(FunctionCallInfo fcinfo)
{
    constexpr int kilobytes = 64 * 1024;
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    InitMaterializedSRF(fcinfo, 0);
    if (work_mem < kilobytes) {
        tuplestore_end(result->setResult);
        MemoryContext caller = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
        result->setResult =
            tuplestore_begin_heap((result->allowedModes & SFRM_Materialize_Random) != 0, false, kilobytes);
        MemoryContextSwitchTo(caller);
    }
    return result;
}

void hide_unseen(UserList &list, const OwnerWork &work)
{
    Sight sight = begin_sight(work);
    for (std::uint32_t i = 0; !sight.everybody && i < list.count; ++i) {
        ListedUser &user = list.user(i);
        if (sees(sight, work, user.name))
            continue;
        list.online_users -= user.summary.online() ? 1 : 0;
        user.summary = {};
        user.metadata = null_datum;
    }
}

void describe(const ListedUser &user, Datum *values, bool *nulls)
{
    values[0] = PointerGetDatum(user.name);
    values[1] = PointerGetDatum(status_text(user.summary.status));
    values[2] = Int32GetDatum(user.summary.sessions);
    values[3] = TimestampTzGetDatum(user.summary.online_since);
    values[4] = TimestampTzGetDatum(user.summary.heartbeat_at);
    values[5] = user.metadata.value;
    nulls[5] = user.metadata.isnull;
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_effective_heartbeat)
{
    require_view(fcinfo, 3);
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(effective_times(recorded_session(fcinfo, 0)).heartbeat_at);
}

PRESENCE_FUNCTION(presence_last_activity)
{
    require_view(fcinfo, 3);
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    const SessionName name{text_view(PG_GETARG_TEXT_PP(0)), text_view(PG_GETARG_TEXT_PP(1))};
    const Time found = effective_times(RecordedSession{name, 0, 0, time_or_zero(fcinfo, 2)}).last_activity;
    if (found == 0)
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(found);
}

PRESENCE_FUNCTION(presence_is_turning)
{
    require_view(fcinfo, 5);
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_BOOL(false);
    Session session;
    parse(text_view(PG_GETARG_TEXT_PP(2)), session.status);
    session.said = session.status;
    if (!PG_ARGISNULL(3))
        parse(text_view(PG_GETARG_TEXT_PP(3)), session.said);
    const SessionName name{text_view(PG_GETARG_TEXT_PP(0)), text_view(PG_GETARG_TEXT_PP(1))};
    session.last_activity = effective_times(RecordedSession{name, 0, 0, time_or_zero(fcinfo, 4)}).last_activity;
    const Policy policy{inactivity_limits(), heartbeat_floor().wall, 0};
    PG_RETURN_BOOL(status_now(session, session.status, GetCurrentTimestamp(), policy) != session.status);
}

PRESENCE_FUNCTION(presence_is_live)
{
    require_view(fcinfo, 5);
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_BOOL(false);
    const EffectiveTimes times = effective_times(recorded_session(fcinfo, interval_time(fcinfo->args[3])));
    PG_RETURN_BOOL(GetCurrentTimestamp() <= live_until(times.stale_after, time_or_zero(fcinfo, 4)));
}

PRESENCE_FUNCTION(presence_server_state)
{
    require_view(fcinfo, 0);
    TupleDesc shape = row_type(fcinfo);
    const CacheNumbers cache = cache_numbers();
    SharedDatabase *database = my_database();
    const std::uint32_t worker = database != nullptr ? database->worker.pid() : 0;
    const NamedProblem problem = worker_problem(database);
    // Where there is no memory for what belongs to this database, there is none for its sessions.
    const bool full = shared_memory_exists() && (database == nullptr || database->worker.cache_is_full());
    const HeldEnds held = held_ends();
    Datum values[14] = {BoolGetDatum(shared_memory_exists()),
                        BoolGetDatum(RecoveryInProgress()),
                        BoolGetDatum(worker_enabled),
                        Int32GetDatum(static_cast<int32>(worker)),
                        0,
                        0,
                        Int64GetDatum(cache.sessions),
                        Int64GetDatum(cache.hits),
                        Int64GetDatum(cache.misses),
                        Int64GetDatum(cache.bytes),
                        BoolGetDatum(full),
                        0,
                        TimestampTzGetDatum(held.since),
                        Int64GetDatum(static_cast<std::int64_t>(held.silent))};
    if (problem.code != nullptr) {
        values[4] = CStringGetTextDatum(problem.code);
        values[5] = CStringGetTextDatum(problem.text);
    }
    values[11] = BoolGetDatum(DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, 0)) > 0.5);
    bool nulls[14] = {};
    nulls[3] = worker == 0;
    nulls[4] = nulls[5] = problem.code == nullptr;
    nulls[12] = nulls[13] = held.since == 0;
    return HeapTupleGetDatum(heap_form_tuple(shape, values, nulls));
}

PRESENCE_FUNCTION(presence_totals)
{
    require_view(fcinfo, 0);
    TupleDesc shape = row_type(fcinfo);
    const OwnerWork work = begin_owner_work();
    const UserList *list = list_online(false);
    Datum values[3] = {Int64GetDatum(list->online_users), Int64GetDatum(list->count - list->online_users),
                       Int64GetDatum(list->live_sessions)};
    end_owner_work(work);
    bool nulls[3] = {};
    return HeapTupleGetDatum(heap_form_tuple(shape, values, nulls));
}

namespace presence {
namespace {

// State of the aggregate presence_summary. All zero: no session yet.
struct SummaryState {
    UserSummary user;
    char *session;  // that beat last
    std::size_t length, room;
};

}  // namespace
}  // namespace presence

PRESENCE_FUNCTION(presence_summary_transfn)
{
    require_view(fcinfo, 11);
    MemoryContext context;
    if (AggCheckCallContext(fcinfo, &context) == 0)
        elog(ERROR, "called outside of an aggregate");
    for (int i = 1; i <= 6; ++i)
        if (PG_ARGISNULL(i))
            ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                            errmsg("argument %d of presence_summary must not be NULL", i)));
    auto *sum = PG_ARGISNULL(0) ? static_cast<SummaryState *>(MemoryContextAllocZero(context, sizeof(SummaryState)))
                                : reinterpret_cast<SummaryState *>(PG_GETARG_POINTER(0));
    SessionRow s;
    s.name = {text_view(PG_GETARG_TEXT_PP(1)), text_view(PG_GETARG_TEXT_PP(2))};
    s.online = PG_GETARG_BOOL(3);
    s.status = Status::active;
    parse(text_view(PG_GETARG_TEXT_PP(4)), s.status);
    s.online_since = PG_GETARG_TIMESTAMPTZ(5);
    s.heartbeat_at = PG_GETARG_TIMESTAMPTZ(6);
    s.interval = interval_time(fcinfo->args[7]);
    s.ended_at = time_or_zero(fcinfo, 8);
    s.end_reason = Reason::none;
    if (!PG_ARGISNULL(9))
        parse(text_view(PG_GETARG_TEXT_PP(9)), s.end_reason);
    s.leave_until = time_or_zero(fcinfo, 10);
    if (sum->user.add(snapshot_of(s))) {
        if (sum->room < s.name.session.size()) {
            sum->room = std::max<std::size_t>(s.name.session.size(), 40);
            sum->session = static_cast<char *>(MemoryContextAlloc(context, sum->room));
        }
        sum->length = s.name.session.size();
        if (!s.name.session.empty())
            memcpy(sum->session, s.name.session.data(), sum->length);
    }
    PG_RETURN_POINTER(sum);
}

PRESENCE_FUNCTION(presence_summary_finalfn)
{
    if (PG_ARGISNULL(0))
        PG_RETURN_NULL();
    const auto *sum = reinterpret_cast<const SummaryState *>(PG_GETARG_POINTER(0));
    const UserSummary &s = sum->user;
    if (fcinfo->flinfo->fn_extra == nullptr) {
        MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
        fcinfo->flinfo->fn_extra = row_type(fcinfo);
        MemoryContextSwitchTo(caller);
    }
    Datum values[] = {BoolGetDatum(s.online()),
                      PointerGetDatum(status_text(s.status)),
                      Int32GetDatum(s.sessions),
                      TimestampTzGetDatum(s.online_since),
                      TimestampTzGetDatum(s.online() ? s.heartbeat_at : s.seen_at),
                      TimestampTzGetDatum(s.heartbeat_at),
                      PointerGetDatum(make_text({sum->session, sum->length}))};
    bool nulls[] = {false, !s.online(), false, !s.online(), false, false, false};
    return HeapTupleGetDatum(heap_form_tuple(static_cast<TupleDesc>(fcinfo->flinfo->fn_extra), values, nulls));
}

PRESENCE_FUNCTION(get_active_users)
{
    const bool all = PG_ARGISNULL(0);
    std::int64_t left = max_rows_argument(fcinfo, 0, PG_INT64_MAX);
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    end_choices_without_worker();
    begin_consistent_reading();
    ListPage page = PG_ARGISNULL(1) ? first_page : page_after(text_view(PG_GETARG_TEXT_PP(1)), work);
    bool stale = false, overdue = false;
    // Once, unless there are users whom the caller does not see.
    while (left > 0 && !page.is_last) {
        const ListPage previous = page;
        UserList *list = all ? list_online(true) : list_page(page, left);
        page.is_last |= all;
        stale |= list->has_stale;
        overdue |= list->has_overdue;
        hide_unseen(*list, work);
        const std::uint32_t *order = newest_first(*list);
        for (std::int64_t i = 0; i < list->online_users && left > 0; ++i) {
            const ListedUser &user = list->user(order[i]);
            if (!previous.has(user))
                continue;
            Datum values[6];
            bool nulls[6] = {};
            describe(user, values, nulls);
            tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
            --left;
        }
    }
    end_consistent_reading();
    if (stale)
        end_stale_sessions_met(overdue, work);
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(is_user_online)
{
    Datum user[] = {PointerGetDatum(required_text(fcinfo, 0, "user_id"))};
    const OwnerWork work = begin_owner_work(fcinfo);
    UserList *list = list_named(text_array(user, 1), false);
    hide_unseen(*list, work);
    const bool online = list->online_users > 0;
    end_owner_work(work);
    PG_RETURN_BOOL(online);
}

PRESENCE_FUNCTION(get_presence)
{
    InitMaterializedSRF(fcinfo, 0);
    if (PG_ARGISNULL(0))
        return 0;
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    Datum *names;
    bool *name_nulls;
    int count;
    ArrayType *asked = PG_GETARG_ARRAYTYPE_P(0);
    deconstruct_array(asked, ARR_ELEMTYPE(asked), -1, false, TYPALIGN_INT, &names, &name_nulls, &count);
    int known = 0;
    for (int i = 0; i < count; ++i)
        if (!name_nulls[i])
            names[known++] = names[i];

    const OwnerWork work = begin_owner_work(fcinfo);
    // Inside, ids are text.
    UserList *list = list_named(text_array(names, static_cast<std::size_t>(known)), true);
    hide_unseen(*list, work);
    for (int i = 0; i < known; ++i) {
        ListedUser &user = take_user(*list, text_view(DatumGetTextPP(names[i])));
        if (user.returned)
            continue;
        user.returned = true;
        const UserSummary &sum = user.summary;
        Datum values[] = {PointerGetDatum(user.name),
                          BoolGetDatum(sum.online()),
                          PointerGetDatum(status_text(sum.status)),
                          TimestampTzGetDatum(sum.online() ? sum.heartbeat_at : sum.seen_at),
                          Int32GetDatum(sum.sessions),
                          user.metadata.value};
        bool nulls[] = {false, false, !sum.online(), !sum.any, !sum.any, user.metadata.isnull};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(get_user_status)
{
    text *user = required_text(fcinfo, 0, "user_id");
    TupleDesc shape = row_type(fcinfo);
    MemoryContext caller = CurrentMemoryContext;
    const OwnerWork work = begin_owner_work(fcinfo);
    Datum name[] = {PointerGetDatum(user)};
    const bool told_all = is_admin(work) || acts_as_itself(work, user);
    if (!told_all)
        require_may_see_others(work, user);
    const Datum names = text_array(name, 1);
    UserList *list = list_named(names, false);
    run(choice_of_user, name, nullptr, true);
    NullableDatum chosen[3] = {null_datum, null_datum, null_datum};
    for (int i = 0; SPI_processed > 0 && i < 3; ++i)
        chosen[i].value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &chosen[i].isnull);
    if (told_all && list->online_users == 0)
        list = list_hidden(names);
    if (!told_all)
        hide_unseen(*list, work);
    const bool online = list->online_users > 0;
    Datum values[4] = {};
    bool nulls[4] = {true, true, true, true};
    MemoryContext inner = MemoryContextSwitchTo(caller);
    if (online) {
        nulls[0] = false;
        values[0] = PointerGetDatum(make_text(to_text(list->user(0).summary.status)));
    }
    // Of somebody who is offline, others do not learn whether that was chosen.
    for (int i = 0; i < 3; ++i) {
        nulls[i + 1] = chosen[i].isnull || !(told_all || online);
        if (!nulls[i + 1])
            values[i + 1] = i == 1 ? chosen[i].value : PointerGetDatum(DatumGetTextPCopy(chosen[i].value));
    }
    const Datum result = HeapTupleGetDatum(heap_form_tuple(shape, values, nulls));
    MemoryContextSwitchTo(inner);
    end_owner_work(work);
    return result;
}

PRESENCE_FUNCTION(presence_count)
{
    const OwnerWork work = begin_owner_work(fcinfo);
    std::int64_t count = 0;
    if (unlikely(!begin_sight(work).everybody)) {
        UserList *list = list_online(false);
        hide_unseen(*list, work);
        count = list->online_users;
    } else {
        count = count_online();
    }
    end_owner_work(work);
    PG_RETURN_INT64(count);
}
