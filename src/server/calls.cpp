// The SQL functions that change presence: arguments are checked here, rules decide, storage writes.
#include "calls.h"

#include <algorithm>

#include "access.h"
#include "arguments.h"
#include "cache.h"
#include "expiry.h"
#include "extension.h"
#include "feed.h"
#include "injection.h"
#include "log.h"
#include "metrics.h"
#include "policies.h"
#include "retention.h"
#include "review.h"
#include "settings.h"
#include "storage.h"
#include "tombstones.h"
#include "user_count.h"
#include "user_status.h"

extern "C" {
#include "access/htup_details.h"
#include "storage/bufmgr.h"
}

namespace presence {

namespace {

// Two at once must not wait for each other to make it.
Statement note_cleanup = {
    "INSERT INTO @.presence_cleanup (last_at) SELECT clock_timestamp() WHERE NOT EXISTS (SELECT FROM @.presence_cleanup) ON CONFLICT DO NOTHING",
    0,
    {}};
Statement renew_cleanup = {
    "UPDATE @.presence_cleanup SET last_at = clock_timestamp() WHERE singleton IN (SELECT singleton FROM @.presence_cleanup FOR UPDATE SKIP LOCKED)",
    0,
    {}};
Statement count_users = {"SELECT count(*) FROM @.presence_user", 0, {}};
Statement count_users_up_to = {"SELECT count(*) FROM (SELECT FROM @.presence_user LIMIT $1) AS users", 1, {INT8OID}};
constexpr int max_agent_bytes = 1024;
constexpr std::size_t max_metadata_bytes = 4096;
constexpr int max_metadata_depth = 32;

// Positions of arguments: of update_user_heartbeat(), whose first two are those of every call for one user.
namespace argument {
enum : int { user_id, session_id, user_agent, ip_address, heartbeat_interval, status, metadata, last_activity, policy };
}
// Of update_user_heartbeats().
namespace batch_argument {
enum : int { user_ids, session_ids, last_activity };
}

// What a heartbeat says of its session; NULL, or no status: nothing.
struct Details {
    NullableDatum user_agent = null_datum, ip_address = null_datum, interval = null_datum, metadata = null_datum;
    std::optional<Status> status;
    Time last_activity = 0;
};

// What somebody says of the last activity; 0: nothing. Before the year 2000 nobody was active here.
Time checked_activity(Datum value, bool is_null)
{
    if (is_null)
        return 0;
    const Time given = DatumGetTimestampTz(value);
    if (TIMESTAMP_NOT_FINITE(given))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("last_activity is out of range: %s", timestamptz_to_str(given)),
                        errhint("Pass when somebody was last active there, or NULL to keep what is known.")));
    return std::max<Time>(given, 1);
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
        given.interval_ms = interval_to_ms(interval);
    }
    if (!PG_ARGISNULL(argument::status)) {
        Status status;
        if (!parse(text_view(PG_GETARG_TEXT_PP(argument::status)), status))
            return false;
        given.status = status;
    }
    given.fingerprints.metadata = datum_fingerprint(fcinfo->args[argument::metadata]);
    const NullableDatum &activity = fcinfo->args[argument::last_activity];
    given.last_activity = checked_activity(activity.value, activity.isnull);
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
    const NullableDatum &activity = fcinfo->args[argument::last_activity];
    d.last_activity = checked_activity(activity.value, activity.isnull);
    d.metadata = fcinfo->args[argument::metadata];
    if (!d.metadata.isnull)
        check_metadata(DatumGetJsonbP(d.metadata.value));
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

// Heartbeats of one call.
struct HeartbeatCall {
    const Details *details;
    Heartbeat heartbeat;  // but for its time and session

    explicit HeartbeatCall(const Details &d) : details(&d)
    {
        heartbeat.rejoin_guard = ms_to_time(rejoin_guard_ms);
        heartbeat.status = d.status;
        heartbeat.last_activity = d.last_activity;
        if (!d.metadata.isnull)
            heartbeat.metadata_digest = datum_fingerprint(d.metadata);
    }
};

void require_room_for_sessions(const StoredUser &user, const SessionPolicy *policy)
{
    const bool by_policy = policy != nullptr && policy->max_sessions >= 0;
    const int most = by_policy ? policy->max_sessions : max_sessions_per_user;
    if (likely(most == 0 || user.sessions <= most))
        return;
    count_refusal();
    ereport(ERROR,
            (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
             errmsg("user_id \"%s\" has too many sessions", excerpt(text_view(user.name))),
             by_policy ? errdetail("No more than %d may be online at once (policy \"%s\").", most,
                                   excerpt(text_view(DatumGetTextPP(policy->name))))
                       : errdetail("No more than %d may be online at once (presence.max_sessions_per_user).", most),
             errhint("A client that comes back should use its session id again.")));
}

// In the memory that all share. While others count, and without preloading, what this transaction sees, but no more than one
// too many.
std::int64_t users_in_all(const Storage &storage)
{
    // With one snapshot, what was committed since cannot be counted.
    if (known_users() < 0 && !IsolationUsesXactSnapshot() && is_to_count_users()) {
        const std::uint64_t committed = committed_users();
        run(count_users);
        note_counted_users(DatumGetInt64(first_value(1)), committed);
    }
    if (const std::int64_t users = known_users(); users >= 0)
        return users;
    // Few pages cannot hold too many.
    const std::int64_t room =
        static_cast<std::int64_t>(RelationGetNumberOfBlocks(storage.users->relation)) * MaxHeapTuplesPerPage;
    if (room <= max_users)
        return room;
    Datum most = Int64GetDatum(static_cast<std::int64_t>(max_users) + 1);
    run(count_users_up_to, &most);
    return DatumGetInt64(first_value(1));
}

}  // namespace

void require_room_for_users(const Storage &storage)
{
    if (likely(max_users == 0) || users_in_all(storage) <= max_users)
        return;
    count_refusal();
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED), errmsg("there are too many users"),
                    errdetail("No more than %d may be known, online or not (presence.max_users).", max_users),
                    errhint("Set presence.user_retention, so that users who have long been gone are forgotten.")));
}

namespace {

// A goodbye may have come before the session, and before this call had the user.
bool is_over(const WantedUser &wanted, std::size_t i)
{
    const StoredSession &target = *wanted.targets[i];
    const std::string_view name = text_view(target.name);
    return target.stored == nullptr && !name.empty() && has_tombstone({text_view(wanted.name), name});
}

bool heartbeats_stand(const WantedUser &wanted)
{
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i)
        if (wanted.targets[i]->online && is_over(wanted, i))
            return false;
    return true;
}

// Of each session wanted of a user.
void apply_heartbeats(const WantedUser &wanted, void *context)
{
    const auto &call = *static_cast<const HeartbeatCall *>(context);
    const Details &d = *call.details;
    StoredUser &user = *wanted.user;
    Heartbeat heartbeat = call.heartbeat;
    user.changed_at = heartbeat.now = GetCurrentTimestamp();
    SessionGroup group(user.span(), policy_for(user));
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i) {
        CHECK_FOR_INTERRUPTS();
        StoredSession &target = *wanted.targets[i];
        if (is_over(wanted, i)) {
            count_ignored_heartbeat();
            continue;
        }
        heartbeat.named = !text_view(target.name).empty();
        if (wanted.last_activity != nullptr)
            heartbeat.last_activity = wanted.last_activity[i];
        heartbeat.details_changed = is_other(d.user_agent, target.user_agent) ||
                                    is_other(d.ip_address, target.ip_address) ||
                                    is_other_interval(d.interval, target.interval);
        const HeartbeatResult result = apply_heartbeat(user, group, target, heartbeat, user.events);
        if (result == HeartbeatResult::ignored)
            count_ignored_heartbeat();
        if (result != HeartbeatResult::began && result != HeartbeatResult::changed)
            continue;
        const bool began = result == HeartbeatResult::began;
        if (began && wanted.policy != nullptr)
            take_policy(target, *wanted.policy);
        require_room_for_sessions(user, began ? wanted.policy : nullptr);
        replace_if_given(target.user_agent, d.user_agent);
        replace_if_given(target.ip_address, d.ip_address);
        replace_if_given(target.interval, d.interval);
        replace_if_given(target.metadata, d.metadata);
        // The next of this call must not find it silent.
        target.stale_after = heartbeat.now + effective_timeout(interval_of(target));
    }
}

// Users in the order of their names. Afterwards each target is online, unless its heartbeat was ignored.
void record_heartbeats(const OwnerWork &work, const Storage &storage, std::span<WantedUser> wanted,
                       const Details &details)
{
    choose_policies(work, wanted);
    HeartbeatCall call(details);
    const NewUserRule rule{apply_heartbeats, heartbeats_stand, &call};
    load_users(storage, wanted, Lock::create_missing, &rule);
    PRESENCE_POINT("heartbeat-locked");
    settle_choices(storage, wanted);
    int made = 0;
    for (const WantedUser &each : wanted) {
        if (!each.user->created)
            apply_heartbeats(each, &call);
        made += each.user->created && each.user->online;
    }
    if (made > 0) {
        note_new_users(made);
        require_room_for_users(storage);
    }
    store_users(storage, wanted);
    for (const WantedUser &each : wanted)
        for (std::size_t i = 0; i < each.sessions.size(); ++i)
            if (each.targets[i]->state() == SessionState::online && !each.targets[i]->changed)
                refresh(storage, *each.user, *each.targets[i]);
}

// Heartbeats of sessions in order, one of each; repeats[i]: for how many that one stands. How many are online now.
int record_batch(const OwnerWork &work, std::span<const NamedSession> sessions, const int *repeats,
                 const Time *last_activity)
{
    int online = 0;
    const Storage storage = open_storage();
    MemoryContext set = AllocSetContextCreate(CurrentMemoryContext, "presence heartbeats", ALLOCSET_DEFAULT_SIZES);
    for (std::size_t from = 0, to = 0; from < sessions.size(); from = to) {
        to = end_of_set(sessions, from);
        MemoryContext outer = MemoryContextSwitchTo(set);
        const std::span<WantedUser> wanted = wanted_users(sessions.subspan(from, to - from));
        const Time *next_activity = last_activity + from;
        for (WantedUser &each : wanted) {
            each.last_activity = next_activity;
            next_activity += each.sessions.size();
        }
        record_heartbeats(work, storage, wanted, Details{});
        const int *repeat = repeats + from;
        for (const WantedUser &each : wanted)
            for (std::size_t i = 0; i < each.sessions.size(); ++i, ++repeat)
                online += each.targets[i]->state() == SessionState::online ? *repeat : 0;
        MemoryContextSwitchTo(outer);
        MemoryContextReset(set);
    }
    MemoryContextDelete(set);
    close_storage(storage);
    return online;
}

// What a batch says of the last activities; null: nothing.
const Time *activities(FunctionCallInfo fcinfo, int count)
{
    if (PG_ARGISNULL(batch_argument::last_activity))
        return nullptr;
    Datum *values;
    bool *nulls;
    int given;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(batch_argument::last_activity), TIMESTAMPTZOID, sizeof(TimestampTz), true,
                      TYPALIGN_DOUBLE, &values, &nulls, &given);
    if (given != count)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg("user_ids has %d elements, but last_activity has %d", count, given),
                        errhint("Pass arrays of one length; where nothing is known of the last activity, NULL.")));
    auto *all = static_cast<Time *>(palloc(sizeof(Time) * (static_cast<std::size_t>(count) + 1)));
    for (int i = 0; i < count; ++i)
        all[i] = checked_activity(values[i], nulls[i]);
    return all;
}

Datum end_on_purpose(FunctionCallInfo fcinfo, const char *function, Reason reason)
{
    text *name = required_text(fcinfo, argument::user_id, "user_id");
    text *session_name = optional_session(fcinfo);
    require_writable(function);
    extension_of(fcinfo);
    require_may_act_for(name);
    const OwnerWork work = begin_owner_work();
    bool went = false;
    int ended = 0;
    const Storage storage = open_storage();
    StoredSession *target = nullptr;
    WantedUser wanted{name, {&session_name, session_name != nullptr ? 1U : 0U}, &target, nullptr};
    load_users(storage, {&wanted, 1}, Lock::wait);
    if (wanted.user == nullptr) {
        if (session_name != nullptr)
            leave_tombstone({text_view(name), text_view(session_name)}, Goodbye::announced);
        if (wait_for_new_user(storage, name))
            load_users(storage, {&wanted, 1}, Lock::wait);
    }
    const bool known = wanted.user != nullptr && (session_name == nullptr || target != nullptr);
    if (!known && session_name != nullptr)
        leave_tombstone({text_view(name), text_view(session_name)}, Goodbye::pending);
    PRESENCE_POINT("departure-locked");
    if (wanted.user != nullptr) {
        settle_choices(storage, {&wanted, 1});
        StoredUser &user = *wanted.user;
        // Without a worker, nobody would end it in time; and who is invisible has gone already.
        const bool has_grace = reason == Reason::disconnect && worker_is_expected() && !user.hidden;
        const Time grace = has_grace ? ms_to_time(leave_grace_ms) : 0;
        user.changed_at = GetCurrentTimestamp();
        const Departure departure{user.changed_at, reason, grace};
        SessionGroup group(user.span(), policy_for(user));
        if (session_name == nullptr || target != nullptr)
            went = apply_departure(user, group, target, departure, user.events);
        store_users(storage, {&wanted, 1});
        // Nobody sees an invisible user go.
        went = went && !user.hidden;
        for (const Event &event : user.events.items())
            ended += !user.hidden && event.type == EventType::session_end && event.reason == reason;
    }
    close_storage(storage);
    if (known)
        log_call(work, function, name, session_name, went, ended);
    end_owner_work(work);
    PG_RETURN_BOOL(went);
}

int clean_up(const OwnerWork &work, const char *action, bool scheduled)
{
    const Ended ended = end_stale_sessions(scheduled ? Thoroughness::whole_table : Thoroughness::every_session);
    if (run(renew_cleanup) == 0 && begin_feed_task(FeedTask::first_cleanup))
        run(note_cleanup);
    if (ended.sessions > 0 || scheduled)
        log_call(work, action, nullptr, nullptr, ended.users, ended.sessions);
    if (!worker_is_expected()) {
        review_without_worker(scheduled);
        bring_feed_up_to_date();
    }
    return ended.users;
}

}  // namespace

void check_metadata(Jsonb *metadata)
{
    // Measured before it is made a text, which may be much longer than the document.
    constexpr DocumentSize shown_at_most{65536, max_metadata_depth};
    const DocumentSize size = document_size(metadata, shown_at_most);
    if (size.depth > max_metadata_depth)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("metadata is nested too deeply"),
                        errdetail("Its arrays and objects are nested more than %d levels deep.", max_metadata_depth)));
    if (size.bytes > shown_at_most.bytes)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("metadata is too long"),
                        errdetail("It has more than %zu bytes; metadata has at most %zu.", shown_at_most.bytes,
                                  max_metadata_bytes)));
    const char *shown = JsonbToCString(nullptr, &metadata->root, VARSIZE(metadata));
    if (strlen(shown) > max_metadata_bytes)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("metadata is too long: \"%s\"", excerpt(shown)),
                        errdetail("It has %zu bytes; metadata has at most %zu.", strlen(shown), max_metadata_bytes)));
}

void record_heartbeats(const OwnerWork &work, const Storage &storage, std::span<WantedUser> wanted)
{
    record_heartbeats(work, storage, wanted, Details{});
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(update_user_heartbeat)
{
    text *user = required_text(fcinfo, argument::user_id, "user_id");
    text *session = optional_session(fcinfo);
    require_writable("update_user_heartbeat");
    extension_of(fcinfo);
    require_may_act_for(user);
    if (!PG_ARGISNULL(argument::policy))
        require_may_name_policies();
    SessionDetails given;
    if (likely(may_be_known(fcinfo, given)) &&
        cache_touch({text_view(user), session != nullptr ? text_view(session) : std::string_view{}}, given))
        PG_RETURN_BOOL(true);

    const Details details = checked_details(fcinfo);
    if (session != nullptr && wait_for_tombstone({text_view(user), text_view(session)})) {
        count_ignored_heartbeat();
        PG_RETURN_BOOL(false);
    }
    const OwnerWork work = begin_owner_work();
    const bool names_policy = !PG_ARGISNULL(argument::policy);
    const SessionPolicy policy =
        names_policy ? find_policy(PointerGetDatum(PG_GETARG_TEXT_PP(argument::policy))) : SessionPolicy{};
    const Storage storage = open_storage();
    text *const named = session != nullptr ? session : make_text("");
    StoredSession *target = nullptr;
    WantedUser wanted{user, {&named, 1}, &target, nullptr};
    if (names_policy)
        wanted.policy = &policy;
    record_heartbeats(work, storage, {&wanted, 1}, details);
    const bool online = target->state() == SessionState::online;
    close_storage(storage);
    end_owner_work(work);
    PG_RETURN_BOOL(online);
}

PRESENCE_FUNCTION(update_user_heartbeats)
{
    if (PG_ARGISNULL(batch_argument::user_ids) || PG_ARGISNULL(batch_argument::session_ids))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("user_ids and session_ids must not be NULL"),
                        errhint("A single session may be NULL inside session_ids.")));
    const TextArray users = text_array_argument(fcinfo, batch_argument::user_ids),
                    sessions = text_array_argument(fcinfo, batch_argument::session_ids);
    const int user_count = users.count;
    if (user_count != sessions.count)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg("user_ids has %d elements, but session_ids has %d", user_count, sessions.count),
                        errhint("Pass arrays of one length; where a user has no session id, NULL.")));
    auto *names = static_cast<SessionName *>(palloc(sizeof(SessionName) * (static_cast<std::size_t>(user_count) + 1)));
    for (int i = 0; i < user_count; ++i)
        names[i] = {text_view(required_element(users, i, "user_ids")),
                    sessions.nulls[i] ? std::string_view{} : text_view(DatumGetTextPP(sessions.values[i]))};
    require_writable("update_user_heartbeats");
    extension_of(fcinfo);
    for (int i = 0; caller_access().own_only && i < user_count; ++i)
        require_may_act_for(DatumGetTextPP(users.values[i]));
    const Time *told = activities(fcinfo, user_count);
    auto *taken = static_cast<bool *>(palloc(static_cast<std::size_t>(user_count) + 1));
    int online = cache_touch_many({names, static_cast<std::size_t>(user_count)}, told, taken);
    if (online == user_count)
        PG_RETURN_INT32(online);

    auto *order = static_cast<int *>(palloc(sizeof(int) * static_cast<std::size_t>(user_count)));
    int left = 0;
    for (int i = 0; i < user_count; ++i)
        if (!taken[i] && (sessions.nulls[i] || !wait_for_tombstone(names[i])))
            order[left++] = i;
    // Everybody locks users in one order, so that overlapping calls cannot deadlock.
    std::sort(order, order + left, [names](int a, int b) {
        return names[a].user != names[b].user ? names[a].user < names[b].user : names[a].session < names[b].session;
    });
    const auto room = static_cast<std::size_t>(left);
    auto *slow = static_cast<NamedSession *>(palloc_extended(sizeof(NamedSession) * room, MCXT_ALLOC_HUGE));
    auto *repeats = static_cast<int *>(palloc_extended(sizeof(int) * room, MCXT_ALLOC_HUGE));
    auto *last_activity = static_cast<Time *>(palloc_extended(sizeof(Time) * room, MCXT_ALLOC_HUGE));
    text *const unnamed = make_text("");
    std::size_t count = 0;
    for (int i = 0; i < left; ++i) {
        const int at = order[i];
        if (i > 0 && names[at].user == names[order[i - 1]].user && names[at].session == names[order[i - 1]].session) {
            ++repeats[count - 1];
            last_activity[count - 1] = std::max(last_activity[count - 1], told != nullptr ? told[at] : 0);
            continue;
        }
        repeats[count] = 1;
        last_activity[count] = told != nullptr ? told[at] : 0;
        slow[count++] = {DatumGetTextPP(users.values[at]),
                         sessions.nulls[at] ? unnamed : DatumGetTextPP(sessions.values[at])};
    }
    const OwnerWork work = begin_owner_work();
    online += record_batch(work, {slow, count}, repeats, last_activity);
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
    const OwnerWork work = begin_owner_work(fcinfo);
    const int users = clean_up(work, "cleanup_stale_presence", false);
    end_owner_work(work);
    PG_RETURN_INT32(users);
}

PRESENCE_FUNCTION(scheduled_presence_cleanup)
{
    require_writable("scheduled_presence_cleanup");
    const OwnerWork work = begin_owner_work(fcinfo);
    const int users = clean_up(work, "scheduled_presence_cleanup", true);
    forget_old();
    end_owner_work(work);
    PG_RETURN_INT32(users);
}
