#include "policies.h"

#include "access.h"
#include "extension.h"
#include "settings.h"
#include "user_status.h"

extern "C" {
#include "commands/trigger.h"
#include "storage/lmgr.h"
#include "utils/datum.h"
}

namespace presence {

namespace {

Statement policy_row = {"SELECT timeout, max_sessions FROM @.presence_policies WHERE name = $1", 1, {TEXTOID}};
Statement outdated = {
    "SELECT s.user_id, s.session_id, p.timeout FROM " SESSIONS_WITH_POLICY
    " AS s LEFT JOIN @.presence_policies AS p ON p.name = s.policy WHERE s.timeout IS DISTINCT FROM p.timeout ORDER BY 1, 2",
    0,
    {}};

// A copy in the caller's memory.
NullableDatum copied(HeapTuple row, int column, int length)
{
    NullableDatum value;
    value.value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &value.isnull);
    if (!value.isnull)
        value.value = datumCopy(value.value, false, length);
    return value;
}

// By the latest committed state and what this transaction has changed, whatever its own snapshot is.
std::size_t find_outdated()
{
    CommandCounterIncrement();
    PushActiveSnapshot(GetLatestSnapshot());
    const auto count = static_cast<std::size_t>(run(outdated, nullptr, nullptr, true));
    PopActiveSnapshot();
    return count;
}

// Whoever changes policies waits for those that begin sessions by them, and they for it.
void keep_policies() { LockRelationOid(table_oid(Table::policies), RowShareLock); }

// What is over by the timeout so far ends first.
void apply_to_user(const WantedUser &wanted, const NullableDatum *timeouts, PolicyRun &done)
{
    StoredUser &user = *wanted.user;
    user.changed_at = GetCurrentTimestamp();
    SessionGroup group(user.span(), policy_for(user));
    expire(user, group, user.changed_at, user.events);
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i) {
        StoredSession *session = wanted.targets[i];
        if (session == nullptr || session->stored == nullptr) {
            done.locked = true;
            continue;
        }
        session->timeout = timeouts[i];
        session->changed = true;
        ++done.sessions;
    }
}

}  // namespace

SessionPolicy find_policy(Datum name)
{
    keep_policies();
    PushActiveSnapshot(GetLatestSnapshot());
    SessionPolicy policy;
    policy.name = name;
    policy.known = run(policy_row, &name, nullptr, true) > 0;
    if (policy.known) {
        HeapTuple row = SPI_tuptable->vals[0];
        policy.timeout = copied(row, 1, sizeof(Interval));
        bool by_setting = true;
        const Datum most = SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &by_setting);
        policy.max_sessions = by_setting ? -1 : DatumGetInt32(most);
    }
    PopActiveSnapshot();
    return policy;
}

void choose_policies(const OwnerWork &work, std::span<WantedUser> wanted)
{
    PolicyChoice choice = begin_policy_choice();
    if (likely(!choice.is_made))
        return;
    // Also where none is named: the next users of a batch may have one, when the first are locked.
    keep_policies();
    struct Found {
        SessionPolicy policy;
        Found *next;
    };
    Found *all = nullptr;
    for (WantedUser &each : wanted) {
        const text *name = each.policy == nullptr ? chosen_policy(choice, work, each.name) : nullptr;
        if (name == nullptr)
            continue;
        Found *found = all;
        while (found != nullptr && text_view(DatumGetTextPP(found->policy.name)) != text_view(name))
            found = found->next;
        if (found == nullptr) {
            found = static_cast<Found *>(palloc(sizeof(Found)));
            *found = {find_policy(PointerGetDatum(name)), all};
            found->policy.by_application = true;
            all = found;
        }
        each.policy = &found->policy;
    }
}

void take_policy(StoredSession &session, const SessionPolicy &policy)
{
    if (!policy.known)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("policy \"%s\" does not exist", excerpt(text_view(DatumGetTextPP(policy.name)))),
                        policy.by_application
                            ? errhint("Insert it into presence_policies, or have presence_policy_for() return another.")
                            : errhint("Insert it into presence_policies, or pass NULL for the settings.")));
    session.policy = {policy.name, false};
    session.timeout = policy.timeout;
}

PolicyRun apply_policies(Lock lock)
{
    PolicyRun done;
    // Meanwhile no session begins by one.
    if (lock == Lock::wait) {
        LockRelationOid(table_oid(Table::policies), ExclusiveLock);
    } else if (find_outdated() == 0) {
        return done;
    } else if (!ConditionalLockRelationOid(table_oid(Table::policies), ExclusiveLock)) {
        done.locked = true;
        return done;
    }
    const std::size_t count = find_outdated();
    auto *sessions = static_cast<NamedSession *>(palloc_extended(sizeof(NamedSession) * (count + 1), MCXT_ALLOC_HUGE));
    auto *timeouts =
        static_cast<NullableDatum *>(palloc_extended(sizeof(NullableDatum) * (count + 1), MCXT_ALLOC_HUGE));
    for (std::size_t i = 0; i < count; ++i) {
        HeapTuple row = SPI_tuptable->vals[i];
        bool is_null = false;
        sessions[i] = {DatumGetTextPCopy(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &is_null)),
                       DatumGetTextPCopy(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &is_null))};
        timeouts[i] = copied(row, 3, sizeof(Interval));
    }
    SPI_freetuptable(SPI_tuptable);
    if (count == 0)
        return done;

    const Storage storage = open_storage();
    MemoryContext set = AllocSetContextCreate(CurrentMemoryContext, "presence policies", ALLOCSET_DEFAULT_SIZES);
    for (std::size_t from = 0, to = 0; from < count; from = to) {
        to = end_of_set(std::span(sessions, count), from);
        MemoryContext outer = MemoryContextSwitchTo(set);
        const std::span<WantedUser> wanted = wanted_users(std::span<const NamedSession>(sessions + from, to - from));
        load_users(storage, wanted, lock);
        settle_choices(storage, wanted);
        const NullableDatum *next = timeouts + from;
        for (const WantedUser &each : wanted) {
            if (each.user != nullptr)
                apply_to_user(each, next, done);
            else
                done.locked = true;
            next += each.sessions.size();
        }
        store_users(storage, wanted);
        MemoryContextSwitchTo(outer);
        MemoryContextReset(set);
    }
    MemoryContextDelete(set);
    close_storage(storage);
    return done;
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_policies_changed)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
                        errmsg("presence_policies_changed() is a trigger")));
    const OwnerWork work = begin_owner_work(fcinfo);
    const PolicyRun done = apply_policies(Lock::wait);
    // Those that its snapshot doesn't show; for others, whoever is not reached is no longer there.
    if (done.locked && IsolationUsesXactSnapshot())
        ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                        errmsg("could not change policies because of sessions that have begun meanwhile"),
                        errhint("Repeat the transaction.")));
    end_owner_work(work);
    return 0;
}
