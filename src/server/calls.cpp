// The SQL functions that change presence: arguments are checked here, rules decide, storage writes.
#include <algorithm>

#include "access.h"
#include "cache.h"
#include "expiry.h"
#include "extension.h"
#include "feed.h"
#include "log.h"
#include "retention.h"
#include "settings.h"
#include "storage.h"

namespace presence {

namespace {

// Two at once must not wait for each other to make it.
Statement note_cleanup = {
    "INSERT INTO @.presence_cleanup (last_at) SELECT clock_timestamp() WHERE NOT EXISTS (SELECT FROM @.presence_cleanup)"
    " AND pg_try_advisory_xact_lock($1::int4, 2) ON CONFLICT DO NOTHING",
    1,
    {OIDOID}};
Statement renew_cleanup = {
    "UPDATE @.presence_cleanup SET last_at = clock_timestamp() WHERE singleton IN (SELECT singleton FROM @.presence_cleanup FOR UPDATE SKIP LOCKED)",
    0,
    {}};
constexpr int max_agent_bytes = 1024;

// Positions of arguments: of update_user_heartbeat(), whose first two are those of every call for one user.
namespace argument {
enum : int { user_id, session_id, user_agent, ip_address, heartbeat_interval, status, metadata };
}

// What a heartbeat says of its session; NULL, or no status: nothing.
struct Details {
    NullableDatum user_agent = null_datum, ip_address = null_datum, interval = null_datum, metadata = null_datum;
    std::optional<Status> status;
};

text *required_user(FunctionCallInfo fcinfo)
{
    if (PG_ARGISNULL(argument::user_id))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("user_id must not be NULL")));
    return PG_GETARG_TEXT_PP(argument::user_id);
}

text *optional_session(FunctionCallInfo fcinfo)
{
    return PG_ARGISNULL(argument::session_id) ? nullptr : PG_GETARG_TEXT_PP(argument::session_id);
}

std::string_view cut_agent(std::string_view agent)
{
    return agent.size() <= max_agent_bytes
               ? agent
               : agent.substr(0, static_cast<std::size_t>(
                                     pg_mbcliplen(agent.data(), static_cast<int>(agent.size()), max_agent_bytes)));
}

// Whether the arguments may be what is known already; then given is what to compare. Others go the way that checks them.
bool may_be_known(FunctionCallInfo fcinfo, SessionDetails &given)
{
    if (!PG_ARGISNULL(argument::user_agent))
        given.fingerprints.user_agent = text_fingerprint(cut_agent(text_view(PG_GETARG_TEXT_PP(argument::user_agent))));
    given.fingerprints.ip_address = datum_fingerprint(fcinfo->args[argument::ip_address]);
    if (!PG_ARGISNULL(argument::heartbeat_interval)) {
        const Time interval = interval_time(PG_GETARG_DATUM(argument::heartbeat_interval));
        if (interval <= 0)
            return false;
        given.interval_ms = time_to_ms(interval);
    }
    if (!PG_ARGISNULL(argument::status)) {
        Status status;
        if (!parse(text_view(PG_GETARG_TEXT_PP(argument::status)), status))
            return false;
        given.status = status;
    }
    given.fingerprints.metadata = datum_fingerprint(fcinfo->args[argument::metadata]);
    return true;
}

Details checked_details(FunctionCallInfo fcinfo)
{
    Details d;
    if (!PG_ARGISNULL(argument::user_agent)) {
        text *agent = PG_GETARG_TEXT_PP(argument::user_agent);
        const std::string_view cut = cut_agent(text_view(agent));
        d.user_agent = {PointerGetDatum(cut.size() == text_view(agent).size() ? agent : make_text(cut)), false};
    }
    d.ip_address = fcinfo->args[argument::ip_address];
    d.interval = fcinfo->args[argument::heartbeat_interval];
    if (!d.interval.isnull) {
        const Time length = interval_time(d.interval);
        if (length <= 0 || length > USECS_PER_DAY)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("heartbeat_interval is out of range: %s",
                                   DatumGetCString(DirectFunctionCall1(interval_out, d.interval.value))),
                            errhint("Pass how often the client beats: more than zero, at most one day.")));
    }
    if (!PG_ARGISNULL(argument::status)) {
        const std::string_view given = text_view(PG_GETARG_TEXT_PP(argument::status));
        Status status;
        if (!parse(given, status))
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("status \"%s\" is not known", excerpt(given)),
                     errhint("Use active, busy, idle or away.")));
        d.status = status;
    }
    d.metadata = fcinfo->args[argument::metadata];
    if (!d.metadata.isnull) {
        Jsonb *json = DatumGetJsonbP(d.metadata.value);
        const char *shown = JsonbToCString(nullptr, &json->root, VARSIZE(json));
        if (strlen(shown) > 4096)
            ereport(ERROR,
                    (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("metadata is too long: \"%s\"", excerpt(shown)),
                     errdetail("It has %zu bytes; metadata has at most 4096.", strlen(shown))));
    }
    return d;
}

bool is_other(const NullableDatum &given, const NullableDatum &known)
{
    return !given.isnull && (known.isnull || !same_bytes(given.value, known.value));
}

bool is_other_interval(const NullableDatum &given, const NullableDatum &known)
{
    return !given.isnull && (known.isnull || interval_time(given) != interval_time(known));
}

void replace_if_given(NullableDatum &known, const NullableDatum &given)
{
    if (!given.isnull)
        known = given;
}

// Heartbeats of some of a user's sessions; an empty name is the unnamed one. How many of them are online now.
int record_heartbeats(text *user_name, std::span<text *const> session_names, const Details &d)
{
    const auto count = static_cast<int>(session_names.size());
    StoredUser *user = load_user(user_name, session_names, Lock::create_missing);
    if (user == nullptr)
        ereport(ERROR,
                (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                 errmsg("could not lock the user because of a concurrent change"), errhint("Repeat the transaction.")));
    EventList events = allocate_events(*user, count);
    Heartbeat heartbeat;
    heartbeat.now = GetCurrentTimestamp();
    heartbeat.rejoin_guard = ms_to_time(rejoin_guard_ms);
    heartbeat.status = d.status;
    if (!d.metadata.isnull)
        heartbeat.metadata_digest = datum_fingerprint(d.metadata);

    int online = 0;
    auto **refreshed = static_cast<StoredSession **>(palloc(sizeof(StoredSession *) * session_names.size()));
    int refreshed_count = 0;
    for (text *session_name : session_names) {
        StoredSession *target = find_session(*user, session_name);
        if (target == nullptr)
            target = add_session(*user, session_name);
        heartbeat.named = !text_view(session_name).empty();
        heartbeat.details_changed = is_other(d.user_agent, target->user_agent) ||
                                    is_other(d.ip_address, target->ip_address) ||
                                    is_other_interval(d.interval, target->interval);
        const HeartbeatResult result = apply_heartbeat(*user, user->span(), *target, heartbeat, events);
        online += result != HeartbeatResult::ignored;
        if (result == HeartbeatResult::refreshed && !target->changed)
            refreshed[refreshed_count++] = target;
        if (result != HeartbeatResult::began && result != HeartbeatResult::changed)
            continue;
        replace_if_given(target->user_agent, d.user_agent);
        replace_if_given(target->ip_address, d.ip_address);
        replace_if_given(target->interval, d.interval);
        replace_if_given(target->metadata, d.metadata);
        // The next of this call must not find it silent.
        target->stale_after = heartbeat.now + effective_timeout(interval_time(target->interval));
    }
    store_user(*user, events, heartbeat.now);
    for (int i = 0; i < refreshed_count; ++i)
        refresh(*user, *refreshed[i]);
    return online;
}

Datum end_on_purpose(FunctionCallInfo fcinfo, const char *function, Reason reason)
{
    text *name = required_user(fcinfo);
    text *session_name = optional_session(fcinfo);
    require_writable(function);
    extension_of(fcinfo);
    require_may_act_for(name);
    const OwnerWork work = begin_owner_work();
    bool went = false;
    int ended = 0;
    StoredUser *user = load_user(name, {&session_name, session_name != nullptr ? 1U : 0U}, Lock::wait);
    if (user != nullptr) {
        StoredSession *target = session_name != nullptr ? find_session(*user, session_name) : nullptr;
        EventList events = allocate_events(*user);
        // Without a worker, nobody would end it in time.
        const Time grace = reason == Reason::disconnect && worker_is_expected() ? ms_to_time(leave_grace_ms) : 0;
        const Departure departure{GetCurrentTimestamp(), reason, grace};
        if (session_name == nullptr || target != nullptr)
            went = apply_departure(*user, user->span(), target, departure, events);
        store_user(*user, events, departure.now);
        for (const Event &event : events.items())
            ended += event.type == EventType::session_end && event.reason == reason;
    }
    log_call(work, function, name, session_name, went, ended);
    end_owner_work(work);
    PG_RETURN_BOOL(went);
}

int clean_up(const OwnerWork &work, const char *action, bool scheduled)
{
    const Ended ended = end_stale_sessions(scheduled ? Thoroughness::whole_table : Thoroughness::every_session);
    Datum table[] = {ObjectIdGetDatum(session_table())};
    if (run(renew_cleanup) == 0)
        run(note_cleanup, table);
    if (ended.sessions > 0 || scheduled)
        log_call(work, action, nullptr, nullptr, ended.users, ended.sessions);
    if (!worker_is_expected())
        bring_feed_up_to_date();
    return ended.users;
}

}  // namespace

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(update_user_heartbeat)
{
    text *user = required_user(fcinfo);
    text *session = optional_session(fcinfo);
    require_writable("update_user_heartbeat");
    extension_of(fcinfo);
    require_may_act_for(user);
    SessionDetails given;
    if (likely(may_be_known(fcinfo, given)) &&
        cache_touch({text_view(user), session != nullptr ? text_view(session) : std::string_view{}}, given))
        PG_RETURN_BOOL(true);

    const Details details = checked_details(fcinfo);
    const OwnerWork work = begin_owner_work();
    text *const named = session != nullptr ? session : make_text("");
    const bool online = record_heartbeats(user, {&named, 1}, details) > 0;
    end_owner_work(work);
    PG_RETURN_BOOL(online);
}

PRESENCE_FUNCTION(update_user_heartbeats)
{
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("user_ids and session_ids must not be NULL"),
                        errhint("A single session may be NULL inside session_ids.")));
    Datum *users, *sessions;
    bool *user_nulls, *session_nulls;
    int user_count, session_count;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &users, &user_nulls, &user_count);
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &sessions, &session_nulls,
                      &session_count);
    if (user_count != session_count)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg("user_ids has %d elements, but session_ids has %d", user_count, session_count),
                        errhint("Pass arrays of one length; where a user has no session id, NULL.")));
    auto *names = static_cast<SessionName *>(palloc(sizeof(SessionName) * (static_cast<std::size_t>(user_count) + 1)));
    for (int i = 0; i < user_count; ++i) {
        if (user_nulls[i])
            ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                            errmsg("user_ids must not contain NULL: element %d", i + 1)));
        names[i] = {text_view(DatumGetTextPP(users[i])),
                    session_nulls[i] ? std::string_view{} : text_view(DatumGetTextPP(sessions[i]))};
    }
    require_writable("update_user_heartbeats");
    extension_of(fcinfo);
    for (int i = 0; caller_access().own_only && i < user_count; ++i)
        require_may_act_for(DatumGetTextPP(users[i]));
    auto *taken = static_cast<bool *>(palloc(static_cast<std::size_t>(user_count) + 1));
    int online = cache_touch_many({names, static_cast<std::size_t>(user_count)}, taken);
    if (online == user_count)
        PG_RETURN_INT32(online);

    auto *order = static_cast<int *>(palloc(sizeof(int) * static_cast<std::size_t>(user_count)));
    int left = 0;
    for (int i = 0; i < user_count; ++i)
        if (!taken[i])
            order[left++] = i;
    // Everybody locks users in one order, so that overlapping calls cannot deadlock.
    std::sort(order, order + left, [names](int a, int b) { return names[a].user < names[b].user; });
    auto **of_user = static_cast<text **>(palloc(sizeof(text *) * static_cast<std::size_t>(left)));
    text *const unnamed = make_text("");
    const OwnerWork work = begin_owner_work();
    for (int from = 0, to = 0; from < left; from = to) {
        CHECK_FOR_INTERRUPTS();
        for (to = from; to < left && names[order[to]].user == names[order[from]].user; ++to)
            of_user[to - from] = session_nulls[order[to]] ? unnamed : DatumGetTextPP(sessions[order[to]]);
        online += record_heartbeats(DatumGetTextPP(users[order[from]]), {of_user, static_cast<std::size_t>(to - from)},
                                    Details{});
    }
    end_owner_work(work);
    PG_RETURN_INT32(online);
}

PRESENCE_FUNCTION(mark_user_offline) { return end_on_purpose(fcinfo, "mark_user_offline", Reason::leave); }
PRESENCE_FUNCTION(handle_user_disconnect)
{
    return end_on_purpose(fcinfo, "handle_user_disconnect", Reason::disconnect);
}

PRESENCE_FUNCTION(cleanup_stale_presence)
{
    require_writable("cleanup_stale_presence");
    extension_of(fcinfo);
    const OwnerWork work = begin_owner_work();
    const int users = clean_up(work, "cleanup_stale_presence", false);
    end_owner_work(work);
    PG_RETURN_INT32(users);
}

PRESENCE_FUNCTION(scheduled_presence_cleanup)
{
    require_writable("scheduled_presence_cleanup");
    extension_of(fcinfo);
    const OwnerWork work = begin_owner_work();
    const int users = clean_up(work, "scheduled_presence_cleanup", true);
    forget_old();
    end_owner_work(work);
    PG_RETURN_INT32(users);
}
