// The SQL functions that read presence and the feed, and what the views ask about a session.
#include "cache.h"
#include "extension.h"
#include "settings.h"
#include "storage.h"

extern "C" __attribute__((visibility("default"))) Datum cleanup_stale_presence(PG_FUNCTION_ARGS);

namespace presence {

namespace {

Statement active_users = {"SELECT user_id, status, sessions, online_since, heartbeat_at, metadata FROM @.presence WHERE online ORDER BY online_since DESC, user_id", 0, {}};
Statement snapshot = {"SELECT coalesce(f.last_seq, 0), p.user_id, p.status, p.sessions, p.online_since, p.heartbeat_at, p.metadata FROM (SELECT max(last_seq) AS last_seq FROM @.presence_feed) AS f LEFT JOIN @.presence AS p ON p.online ORDER BY p.online_since DESC, p.user_id", 0, {}};
Statement one_online = {"SELECT FROM @.presence_session WHERE user_id = $1 AND online AND @.presence_is_live(user_id, session_id, heartbeat_at, heartbeat_interval, leave_until)", 1, {TEXTOID}};
Statement count_online = {"SELECT count(*) FROM @.presence WHERE online", 0, {}};
Statement first_number = {"INSERT INTO @.presence_feed (last_seq, dropped_seq, online_users) SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT FROM @.presence_feed) ON CONFLICT DO NOTHING", 0, {}};
// In the order of id, which per user is the order of commit. Whoever holds the row is numbering already.
Statement number_events = {
    "WITH f AS (SELECT last_seq FROM @.presence_feed FOR UPDATE SKIP LOCKED), moved AS (DELETE FROM @.presence_event_queue WHERE EXISTS (SELECT FROM f) RETURNING *),"
    " numbered AS (INSERT INTO @.presence_events (seq, at, event, user_id, session_id, reason, sessions, details)"
    " SELECT (SELECT last_seq FROM f) + row_number() OVER (ORDER BY id), at, event, user_id, session_id, reason, sessions, details FROM moved ORDER BY id)"
    " UPDATE @.presence_feed SET last_seq = last_seq + (SELECT count(*) FROM moved) WHERE EXISTS (SELECT FROM moved)", 0, {}};
Statement changes = {"SELECT seq, at, event, user_id, session_id, reason, sessions, details FROM ONLY @.presence_events WHERE seq > $1 ORDER BY seq LIMIT $2", 2, {INT8OID, INT4OID}};
Statement dropped = {"SELECT dropped_seq FROM @.presence_feed", 0, {}};

Datum return_rows(FunctionCallInfo fcinfo)
{
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    for (std::uint64_t i = 0; i < SPI_processed; ++i) {
        Datum values[8];
        bool nulls[8];
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    return 0;
}

// The helpers are open to PUBLIC for the views' sake only.
void require_view_reader(FunctionCallInfo fcinfo)
{
    if (fcinfo->flinfo->fn_extra != nullptr)
        return;
    const Oid schema = extension_of(fcinfo).schema;
    for (const char *view : {"presence", "presence_sessions", "presence_health", "presence_session"}) {
        const Oid oid = get_relname_relid(view, schema);
        if (OidIsValid(oid) && pg_class_aclcheck(oid, GetUserId(), ACL_SELECT) == ACLCHECK_OK) {
            fcinfo->flinfo->fn_extra = fcinfo->flinfo;
            return;
        }
    }
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for presence"), errhint("It needs SELECT on the view \"presence\".")));
}

void number_if_allowed()
{
    if (XactReadOnly || RecoveryInProgress())
        return;
    run(first_number);
    run(number_events);
}

} // namespace

} // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_effective_heartbeat)
{
    require_view_reader(fcinfo);
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_NULL();
    PG_RETURN_TIMESTAMPTZ(session_life(session_table(), text_view(PG_GETARG_TEXT_PP(0)), text_view(PG_GETARG_TEXT_PP(1)), PG_GETARG_TIMESTAMPTZ(2), 0).heartbeat_at);
}

PRESENCE_FUNCTION(presence_is_live)
{
    require_view_reader(fcinfo);
    if (RecoveryInProgress())
        PG_RETURN_BOOL(true);
    if (!PG_ARGISNULL(4))
        PG_RETURN_BOOL(GetCurrentTimestamp() <= PG_GETARG_TIMESTAMPTZ(4));
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_BOOL(false);
    const Time promised = PG_ARGISNULL(3) ? 0 : interval_time(PG_GETARG_DATUM(3));
    const Life life = session_life(session_table(), text_view(PG_GETARG_TEXT_PP(0)), text_view(PG_GETARG_TEXT_PP(1)), PG_GETARG_TIMESTAMPTZ(2), promised);
    PG_RETURN_BOOL(GetCurrentTimestamp() <= life.stale_after);
}

PRESENCE_FUNCTION(presence_server_state)
{
    require_view_reader(fcinfo);
    TupleDesc shape;
    if (get_call_result_type(fcinfo, nullptr, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    const CacheNumbers cache = cache_numbers();
    SharedDatabase *database = my_database();
    const std::uint32_t worker = database != nullptr ? pg_atomic_read_u32(&database->worker_pid) : 0;
    const bool full = database != nullptr && pg_atomic_read_u32(&database->cache_full) != 0;
    Datum values[11] = {BoolGetDatum(database != nullptr), BoolGetDatum(RecoveryInProgress()), BoolGetDatum(worker_enabled), Int32GetDatum(static_cast<int32>(worker)), 0,
                        Int64GetDatum(cache.sessions), Int64GetDatum(cache.hits), Int64GetDatum(cache.misses), Int64GetDatum(cache.bytes), BoolGetDatum(full), 0};
    values[10] = BoolGetDatum(DatumGetFloat8(DirectFunctionCall1(pg_notification_queue_usage, 0)) > 0.5);
    bool nulls[11] = {false, false, false, worker == 0, true, false, false, false, false, false, false};
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls));
}

PRESENCE_FUNCTION(get_active_users)
{
    extension_of(fcinfo);
    InitMaterializedSRF(fcinfo, 0);
    if (!XactReadOnly && !RecoveryInProgress()) {
        FmgrInfo *self = fcinfo->flinfo;
        LOCAL_FCINFO(cleanup, 0);
        InitFunctionCallInfoData(*cleanup, self, 0, InvalidOid, nullptr, nullptr);
        cleanup_stale_presence(cleanup);
    }
    const OwnerWork work = begin_owner_work();
    run(active_users);
    return_rows(fcinfo);
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(presence_snapshot)
{
    extension_of(fcinfo);
    InitMaterializedSRF(fcinfo, 0);
    const OwnerWork work = begin_owner_work();
    number_if_allowed();
    run(snapshot);
    return_rows(fcinfo);
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(is_user_online)
{
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("user_id must not be NULL")));
    extension_of(fcinfo);
    const OwnerWork work = begin_owner_work();
    Datum user[] = {PG_GETARG_DATUM(0)};
    const bool online = run(one_online, user, nullptr, true) > 0;
    end_owner_work(work);
    PG_RETURN_BOOL(online);
}

PRESENCE_FUNCTION(presence_count)
{
    extension_of(fcinfo);
    const OwnerWork work = begin_owner_work();
    run(count_online, nullptr, nullptr, true);
    const Datum count = first_value(1);
    end_owner_work(work);
    return count;
}

PRESENCE_FUNCTION(presence_changes_since)
{
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("seq must not be NULL"), errhint("Pass 0 to read from the beginning.")));
    const int64 seq = PG_GETARG_INT64(0);
    const int32 limit = PG_ARGISNULL(1) ? 1000 : PG_GETARG_INT32(1);
    if (limit <= 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_rows must be greater than zero: %d", limit)));
    extension_of(fcinfo);
    InitMaterializedSRF(fcinfo, 0);
    const OwnerWork work = begin_owner_work();
    number_if_allowed();
    run(dropped);
    const int64 low = DatumGetInt64(first_value(1));
    if (seq < low)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the feed no longer has the events after seq " INT64_FORMAT, seq),
                        errdetail("Retention has removed events up to " INT64_FORMAT ".", low), errhint("Start again from presence_snapshot().")));
    Datum values[] = {Int64GetDatum(seq), Int32GetDatum(limit)};
    run(changes, values);
    return_rows(fcinfo);
    end_owner_work(work);
    return 0;
}
