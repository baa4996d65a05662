// The worker of a database: numbers and sends committed events, ends sessions that have fallen silent or used up their
// grace, each at its time, and sees to it that the cache watches over everybody. Lives here: when what is done. How it is
// done lives in feed.h and expiry.h, who starts it in launcher.h.

#include <algorithm>
#include <iterator>
#include <new>

#include "announcements.h"
#include "cache.h"
#include "compat.h"
#include "datums.h"
#include "expiry.h"
#include "expiry_guard.h"
#include "extension.h"
#include "feed.h"
#include "feed_epoch.h"
#include "injection.h"
#include "owner_guard.h"
#include "retention.h"
#include "review.h"
#include "schedule.h"
#include "settings.h"
#include "typing.h"

extern "C" {
#include "catalog/pg_authid.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
}

#pragma GCC visibility push(default)
extern "C" void presence_worker_main(Datum);
#pragma GCC visibility pop

namespace presence {

namespace {

// How late may an end be: the search costs little, a transaction more.
constexpr std::uint64_t expiry_pause_ms = 250;
// Under load, events gather before the next of them are numbered together: for longer, the more there were, because each
// pass is a commit that has to reach the disk beside those of the others.
constexpr std::uint64_t numbering_pause_ms = 5;
constexpr std::uint64_t longest_numbering_pause_ms = 50;
constexpr std::uint64_t events_per_ms = 4;
// The same for what is typed; always as long.
constexpr std::uint64_t typing_pause_ms = 20;
// Sessions that came in by other ways than the functions, as a restored dump does, are found after so long.
constexpr std::uint64_t review_ms = 600000;
// Changes by hand that no trigger has told of: counts are compared so often, which costs at most this part of the time.
constexpr std::uint64_t count_ms = 60000;
constexpr std::uint64_t count_share = 100;
// While a dump is being read, or somebody holds a user, it is tried again after so long.
constexpr std::uint64_t review_retry_ms = 2000;
// Without memory for the cache, everybody has to be looked at; at most this part of the time.
constexpr std::uint64_t full_scan_share = 20;

// What is past its retention goes in parts of about so long; while there is more, the worker is free for as long between them.
constexpr Time forget_budget = 100000;
constexpr std::uint64_t forget_pause_ms = 100;
constexpr std::uint64_t first_forget_ms = 60000;
// Where databases take turns, one that always has something to do gives way after so long.
constexpr std::uint64_t turn_ms = 1000;

constexpr long rows_at_once = 10000;

Statement online_sessions = {
    "SELECT online_since, user_id, session_id, heartbeat_at, coalesce(-timeout, heartbeat_interval), status, coalesce(said, status), last_activity, false"
    " FROM @.presence_session WHERE online AND leave_until IS NULL UNION ALL"
    " SELECT online_since, user_id, session_id, heartbeat_at, coalesce(-timeout, heartbeat_interval), status, coalesce(said, status), last_activity, true"
    " FROM @.presence_hidden_session WHERE online",
    0,
    {}};

SharedDatabase *database = nullptr;

void at_exit(int, Datum) { database->worker.end(); }

// Deliberate, so that the launcher does not take it for a failure. wanted: start another one as soon as that is possible.
[[noreturn]] void leave(bool wanted)
{
    PRESENCE_POINT("worker-leaving");
    if (database != nullptr)
        database->worker.exit_on_purpose(wanted);
    proc_exit(0);
}

// The worker waits for nobody's lock for longer than that, and tries again after a pause that grows.
constexpr const char *lock_patience = "500ms";
constexpr std::uint64_t retry_ms = 500;
constexpr std::uint64_t longest_lock_retry_ms = 5000;
constexpr std::uint64_t longest_retry_ms = 60000;
// After so many failures in succession, others number and send their events themselves.
constexpr std::uint32_t failures_to_report = 3;
// Of users whose rows others hold, it says so after so long.
constexpr std::uint64_t report_locked_ms = 2000;

// A part of the work. Each stands alone: one that fails is reported in presence_health and tried again after a pause that
// grows, while the others go on.
struct Task {
    const char *name;            // in the words of presence_health: "The worker cannot ..."
    std::uint64_t retry_at = 0;  // after a failure, in monotonic milliseconds
    std::uint32_t failures = 0;  // in succession
};

// Whoever holds a lock that keeps others from the extension or one of its relations.
constexpr const char *lock_holder =
    "SELECT l.pid FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_extension AS e ON e.extname = 'presence'"
    " WHERE l.granted AND l.pid <> pg_catalog.pg_backend_pid()"
    " AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    " AND (l.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND l.objid = e.oid OR l.locktype = 'relation'"
    " AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass"
    " AND d.objid = l.relation AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid)) LIMIT 1";

// Whoever holds the row of a user.
Statement row_holder = {
    "SELECT l.pid FROM pg_catalog.pg_locks AS l JOIN @.presence_user AS u ON l.transactionid = u.xmax"
    " WHERE l.locktype = 'transactionid' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND u.online LIMIT 1",
    0,
    {}};

void report_wait(const Task &task, int pid)
{
    database->worker.report_trouble(
        task.name,
        pid != 0
            ? psprintf(
                  "process %d holds locks that it needs, so end that transaction, or run SELECT pg_terminate_backend(%d).",
                  pid, pid)
            : "another transaction holds locks that it needs.");
}

// Not as the tables' owner, for whom the extension itself would have to be locked.
int find_lock_holder()
{
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    const OwnerWork work = begin_work_as(BOOTSTRAP_SUPERUSERID, SECURITY_RESTRICTED_OPERATION);
    (void)SPI_execute(lock_holder, true, 1);
    const int pid = DatumGetInt32(first_value(1));
    end_owner_work(work);
    PopActiveSnapshot();
    CommitTransactionCommand();
    return pid;
}

// After an error of the task: it is over, and what it did undone.
void recover(Task &task, MemoryContext context)
{
    HOLD_INTERRUPTS();
    MemoryContextSwitchTo(context);
    const ErrorData *error = CopyErrorData();
    const bool locked = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
    if (!locked)
        EmitErrorReport();
    AbortOutOfAnyTransaction();
    MemoryContextSwitchTo(context);
    FlushErrorState();
    RESUME_INTERRUPTS();
    pgstat_report_activity(STATE_IDLE, nullptr);
    ++task.failures;
    const std::uint64_t longest = locked ? longest_lock_retry_ms : longest_retry_ms;
    task.retry_at = monotonic_ms() + std::min(longest, retry_ms << std::min(task.failures - 1, 10U));
    if (locked)
        report_wait(task, find_lock_holder());
    else
        database->worker.report_trouble(task.name, psprintf("%s (see the server log).", error->message));
}

// work() in a transaction of its own, as the tables' owner. False: it has failed, or has lately and is not tried yet. Where
// the extension is gone, so is this process.
template <typename Work>
pg_noinline bool in_transaction(Task &task, Work work)
{
    if (monotonic_ms() < task.retry_at)
        return false;
    MemoryContext context = CurrentMemoryContext;
    volatile bool done = false;
    volatile bool exists = true;
    PG_TRY();
    {
        SetCurrentStatementStartTimestamp();
        StartTransactionCommand();
        pgstat_report_activity(STATE_RUNNING, task.name);
        // Without a snapshot, so that waiting for the extension holds back no vacuum.
        exists = find_extension();
        if (exists) {
            PushActiveSnapshot(GetTransactionSnapshot());
            const OwnerWork as_owner = begin_owner_work();
            work();
            end_owner_work(as_owner);
            PopActiveSnapshot();
        }
        CommitTransactionCommand();
        pgstat_report_stat(false);
        pgstat_report_activity(STATE_IDLE, nullptr);
        done = true;
    }
    PG_CATCH();
    {
        recover(task, context);
    }
    PG_END_TRY();
    MemoryContextSwitchTo(context);
    if (!exists)
        leave(false);
    if (done && task.failures > 0) {
        task.failures = 0;
        task.retry_at = 0;
        database->worker.report_success(task.name);
    }
    return done;
}

// The same, but its commit is not waited for: what a crash takes away costs nobody anything.
template <typename Work>
bool in_unflushed_transaction(Task &task, Work work)
{
    const int durability = synchronous_commit;
    synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
    const bool done = in_transaction(task, work);
    synchronous_commit = durability;
    return done;
}

// Sessions from before the cache was there. False: no memory for all of them.
bool fill_cache()
{
    bool all = true;
    SPIPlanPtr plan = prepared(online_sessions);
    Portal cursor = nullptr;
    guarded(online_sessions.sql, [&] { cursor = SPI_cursor_open(nullptr, plan, nullptr, nullptr, true); });
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        SPI_cursor_fetch(cursor, true, rows_at_once);
        if (SPI_processed == 0)
            break;
        for (std::uint64_t i = 0; all && i < SPI_processed; ++i) {
            HeapTuple row = SPI_tuptable->vals[i];
            TupleDesc shape = SPI_tuptable->tupdesc;
            bool is_null = false;
            const Time online_since = DatumGetTimestampTz(SPI_getbinval(row, shape, 1, &is_null));
            const std::string_view user = text_view(DatumGetTextPP(SPI_getbinval(row, shape, 2, &is_null)));
            const std::string_view session = text_view(DatumGetTextPP(SPI_getbinval(row, shape, 3, &is_null)));
            const Time heartbeat_at = DatumGetTimestampTz(SPI_getbinval(row, shape, 4, &is_null));
            NullableDatum interval;
            interval.value = SPI_getbinval(row, shape, 5, &interval.isnull);
            SessionDetails details;
            details.interval_ms = interval_to_ms(interval_time(interval));
            parse(text_view(DatumGetTextPP(SPI_getbinval(row, shape, 6, &is_null))), details.shown);
            Status said = details.shown;
            parse(text_view(DatumGetTextPP(SPI_getbinval(row, shape, 7, &is_null))), said);
            details.status = said;
            const Datum last_activity = SPI_getbinval(row, shape, 8, &is_null);
            details.last_activity = is_null ? 0 : DatumGetTimestampTz(last_activity);
            details.hidden = DatumGetBool(SPI_getbinval(row, shape, 9, &is_null));
            all = cache_watch({user, session}, static_cast<std::uint64_t>(online_since), details, heartbeat_at);
        }
        SPI_freetuptable(SPI_tuptable);
    }
    SPI_cursor_close(cursor);
    return all;
}

Statement any_prepared = {
    "SELECT FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() LIMIT 1", 0, {}};

// What the loop keeps from one turn to the next; times are monotonic milliseconds.
struct WorkerState {
    Task start = {"read the state of the feed"};
    Task number = {"number events"};
    Task depart = {"end departures and choices"};
    Task expire = {"end silent sessions"};
    Task fill = {"read online sessions"};
    Task search = {"search the table for silent sessions"};
    Task name_holder = {"end sessions"};
    Task repair_job = {"look after the job of pg_cron"};
    Task forget[std::size(all_retention)] = {{task_name(Retention::sessions)},
                                             {task_name(Retention::users)},
                                             {task_name(Retention::log)},
                                             {task_name(Retention::reports)},
                                             {task_name(Retention::events)}};
    Task compare = {"compare counts"};
    Task review = {"review the tables"};
    Task type = {"announce who is typing"};
    // Those that are done when there is need of them; the parts of retention come round again by themselves.
    Task *const by_need[11] = {&start,       &number,     &depart,  &expire, &fill, &search,
                               &name_holder, &repair_job, &compare, &review, &type};

    bool job_repaired = false;
    bool feed_begun = false;
    bool more_events = true;      // at the start, nobody knows
    std::uint64_t number_at = 0;  // not before
    std::uint64_t guard_at = 0;   // whether too many are silent
    std::uint64_t expire_at = 0;
    std::uint64_t scan_at = 0;    // the whole table, where the cache has no memory
    std::uint64_t review_at = 0;  // the whole table, for sessions that the cache does not know
    // Users were skipped because others hold their rows.
    bool departures_locked = false, silent_locked = false;
    std::uint64_t report_at = 0;                         // who holds them; 0: nobody does
    std::uint64_t forget_at = 0;                         // the next part of what is past its retention
    std::size_t forget_next = 0;                         // which part
    bool more_to_forget[std::size(all_retention)] = {};  // else the part waits for the next round of all
    std::uint64_t forget_all_at = 0;
    bool forget_all = false;
    std::uint64_t count_at = 0;  // whether all counts agree
    std::uint64_t retry_at = 0;  // a review, not before
    std::uint64_t type_at = 0;   // not before
};

void number_events(WorkerState &state)
{
    const std::uint64_t commits = database->worker.event_commits();
    if (!state.more_events && !database->worker.has_unnumbered_commits() && !announcements_wait())
        return;
    if (monotonic_ms() < state.number_at)
        return;
    if (!state.feed_begun)
        state.feed_begun = in_transaction(state.start, begin_feed);
    if (!state.feed_begun) {
        state.number_at = state.start.retry_at;
        return;
    }
    PRESENCE_POINT("numbering-begins");
    Numbered done = Numbered::all;
    std::int64_t events = 0;
    if (!in_transaction(state.number, [&done, &events] { done = number_committed_events(events); })) {
        // What it takes for numbered may have been rolled back.
        state.feed_begun = false;
        state.more_events = true;
        state.number_at = state.number.retry_at;
        if (state.number.failures >= failures_to_report)
            database->worker.set_problem(keeps_failing);
        return;
    }
    PRESENCE_POINT("numbering-committed");
    state.more_events = done != Numbered::all;
    const bool waits = done == Numbered::locked_by_another || announcements_wait();
    const std::uint64_t pause = waits ? 100
                                      : std::clamp(static_cast<std::uint64_t>(events) / events_per_ms,
                                                   numbering_pause_ms, longest_numbering_pause_ms);
    state.number_at = done == Numbered::more_left ? 0 : monotonic_ms() + pause;
    if (done == Numbered::all)
        database->worker.note_numbered(commits);
}

// Users who could not be ended because others hold their rows: presence_health says who holds one.
void report_locked(WorkerState &state)
{
    const std::uint64_t now = monotonic_ms();
    if (!state.departures_locked && !state.silent_locked) {
        if (state.report_at != 0)
            database->worker.report_success(state.name_holder.name);
        state.report_at = 0;
        return;
    }
    if (state.report_at == 0)
        state.report_at = now + report_locked_ms;
    if (now < state.report_at)
        return;
    state.report_at = now + longest_lock_retry_ms;
    (void)in_transaction(state.name_holder, [&state] {
        run(row_holder);
        if (const int pid = DatumGetInt32(first_value(1)); pid != 0)
            report_wait(state.name_holder, pid);
    });
}

// When the next grace ends; 0: at once.
std::uint64_t end_leaves(WorkerState &state)
{
    std::uint64_t next = database->worker.next_departure();
    if (next == WorkerControl::no_departure)
        return PG_UINT64_MAX;
    const auto now = static_cast<std::uint64_t>(GetCurrentTimestamp());
    if (next < now) {
        // Forgotten before it is looked for, so that what comes meanwhile is kept.
        database->worker.forget_next_departure();
        Time earliest = 0;
        const bool done = in_transaction(state.depart, [&] {
            state.departures_locked = end_departures().locked;
            earliest = next_departure();
        });
        if (!done) {
            database->worker.note_departure(static_cast<Time>(next));
            return state.depart.retry_at;
        }
        if (earliest != 0)
            database->worker.note_departure(earliest);
        if (state.departures_locked)
            return monotonic_ms() + expiry_pause_ms;
        next = database->worker.next_departure();
        if (next == WorkerControl::no_departure)
            return next;
    }
    return next <= now ? 0 : monotonic_ms() + (next - now) / 1000 + 1;
}

// Where the cache may lack somebody, it is filled from the table; where that fails for lack of memory, the table is searched.
void look_at_table(WorkerState &state)
{
    const std::uint64_t begin = monotonic_ms();
    const bool review = begin >= state.review_at;
    if (!review && (database->worker.cache_is_complete() || begin < state.scan_at))
        return;
    // Counted before the snapshot is taken: who comes later may not be in it.
    const std::uint64_t gaps = database->worker.cache_gaps();
    const bool read = in_transaction(state.fill, [gaps] {
        // Forgotten before it is looked for, so that what comes meanwhile is kept.
        database->worker.set_sessions_prepared(false);
        PRESENCE_POINT("cache-filling");
        if (run(any_prepared) > 0)
            database->worker.set_sessions_prepared(true);
        // Whoever has committed a prepared transaction until now may not have known that there was anything to tell.
        PushActiveSnapshot(GetLatestSnapshot());
        if (fill_cache())
            database->worker.note_cache_filled(gaps);
        PopActiveSnapshot();
    });
    if (!database->worker.cache_is_complete())
        (void)in_transaction(state.search, [] { (void)end_stale_sessions(Thoroughness::every_session); });
    const std::uint64_t end = monotonic_ms();
    state.scan_at = end + full_scan_share * (end - begin) + 1000;
    if (review)
        state.review_at = read ? end + review_ms : state.fill.retry_at;
}

// When the tables are to be reviewed next, or their counts compared.
std::uint64_t next_review(const WorkerState &state)
{
    return std::max(std::min({state.count_at, database->worker.review_due_ms(), database->worker.next_review_ms()}),
                    state.retry_at);
}

void review_tables(WorkerState &state)
{
    const std::uint64_t begin = monotonic_ms();
    if (begin < next_review(state))
        return;
    state.retry_at = begin + review_retry_ms;
    if (restore_is_running())
        return;
    // Counted before the tables are read: who comes later may not be seen.
    const std::uint64_t changes = database->worker.changes_by_hand();
    bool suspicious = begin >= database->worker.review_due_ms();
    const bool due = begin >= database->worker.next_review_ms();
    bool read = suspicious || in_transaction(state.compare, [&suspicious] { suspicious = !counts_agree(); });
    Reviewed done;
    while (read && (suspicious || due)) {
        read = in_transaction(
            state.review, [&done, suspicious] { done = review(suspicious ? ReviewDepth::feed : ReviewDepth::tables); });
        state.more_events |= done.found_something();
        if (!done.more || done.locked)
            break;
    }
    const std::uint64_t end = monotonic_ms();
    if (!read || done.locked) {
        state.retry_at = end + std::max(review_retry_ms, full_scan_share * (end - begin));
        return;
    }
    state.retry_at = 0;
    state.count_at = end + std::max(count_ms, count_share * (end - begin));
    if (suspicious)
        database->worker.note_reviewed(changes);
    if (suspicious || due)
        database->worker.set_next_review_ms(end + review_ms);
}

void guard_ends(WorkerState &state)
{
    const std::uint64_t now = monotonic_ms();
    if (now < state.guard_at)
        return;
    const std::uint64_t pause = guard_expiry();
    state.guard_at = pause == PG_UINT64_MAX ? pause : now + pause;
}

void end_silent_sessions(WorkerState &state)
{
    look_at_table(state);
    guard_ends(state);
    const std::uint64_t now = monotonic_ms();
    if (now < state.expire_at || now <= cache_next_deadline())
        return;
    Ended ended;
    bool done = true;
    // The search for them is a matter of shared memory; without any, there is no need of a transaction.
    if (cache_any_due()) {
        // Nobody hears of an end before its event has a number, and the commit that gives it one is flushed. Ends that a crash
        // takes away are made again.
        done = in_unflushed_transaction(state.expire, [&ended] {
            ended = end_stale_sessions(Thoroughness::watched_sessions);
            // Those that it ended are forgotten when it meets them again.
            if (ended.sessions == 0)
                cache_shrink();
        });
    }
    state.silent_locked = ended.locked;
    if (!done)
        state.expire_at = state.expire.retry_at;
    else
        state.expire_at = ended.more && !ended.locked ? 0 : monotonic_ms() + expiry_pause_ms;
}

// Nothing is kept for later: who cannot be told now will ask, or never know.
void announce_typists(WorkerState &state)
{
    const std::uint64_t now = monotonic_ms();
    if (now < state.type_at || now < next_typing_change())
        return;
    state.type_at = now + typing_pause_ms;
    const std::span<TypingChange> changes = take_typing_changes();
    if (changes.empty() || !notifications_wanted())
        return;
    // NOTIFY holds up all others of the server until the commit.
    (void)in_unflushed_transaction(state.type, [changes] { announce_typing(changes, feed_epoch()); });
}

std::uint64_t next_round() { return monotonic_ms() + static_cast<std::uint64_t>(retention_interval_s()) * 1000; }

// One part after the other, and a short while for each, so that nobody's end waits for long.
void forget_old_rows(WorkerState &state)
{
    if (monotonic_ms() < state.forget_at)
        return;
    if (state.forget_next == 0)
        state.forget_all = monotonic_ms() >= state.forget_all_at;
    bool &more = state.more_to_forget[state.forget_next];
    if (more || state.forget_all) {
        more = false;
        const Retention part = all_retention[state.forget_next];
        // A scheduled run may have said that it cannot be done, whatever this worker knows of it.
        if (in_transaction(state.forget[state.forget_next], [&more, part] { more = forget_old(part, forget_budget); }))
            database->worker.report_success(task_name(part));
    }
    if (++state.forget_next < std::size(all_retention))
        return;
    state.forget_next = 0;
    const bool any_more = std::find(std::begin(state.more_to_forget), std::end(state.more_to_forget), true) !=
                          std::end(state.more_to_forget);
    if (state.forget_all)
        state.forget_all_at = next_round();
    state.forget_at = any_more ? monotonic_ms() + forget_pause_ms : state.forget_all_at;
}

// One that failed, may be tried again, and has not been: there is no need of it any more. When the first may be tried again.
std::uint64_t forget_failures(WorkerState &state, std::uint64_t turn_began)
{
    std::uint64_t next = PG_UINT64_MAX;
    for (Task *task : state.by_need) {
        if (task->failures == 0)
            continue;
        if (task->retry_at > turn_began) {
            next = std::min(next, task->retry_at);
            continue;
        }
        task->failures = 0;
        database->worker.report_success(task->name);
    }
    return next;
}

void overrule(const char *name, const char *value) { SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE); }

[[noreturn]] void serve()
{
    auto *state = new (MemoryContextAlloc(TopMemoryContext, sizeof(WorkerState))) WorkerState;
    database->worker.note_departure(1);  // nobody knows
    expect_typing_changes();
    state->forget_at = state->forget_all_at = std::min(next_round(), monotonic_ms() + first_forget_ms);
    state->count_at = monotonic_ms() + count_ms;
    if (database->worker.next_review_ms() == 0)
        database->worker.set_next_review_ms(state->count_at);
    MemoryContext loop = AllocSetContextCreate(TopMemoryContext, "presence worker", ALLOCSET_DEFAULT_SIZES);
    const std::uint64_t slot_ends = monotonic_ms() + turn_ms;
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        MemoryContextSwitchTo(loop);
        MemoryContextReset(loop);
        if (ConfigReloadPending != 0) {
            ConfigReloadPending = 0;
            ProcessConfigFile(PGC_SIGHUP);
            state->forget_all_at = std::min(state->forget_all_at, next_round());
            state->forget_at = std::min(state->forget_at, state->forget_all_at);
            state->guard_at = 0;
        }
        if (!worker_enabled)
            leave(false);
        // Settings of the database are taken over by another process; whether the extension is still there, it sees at once.
        if (database->worker.is_paused() || database->worker.take_restart_request())
            leave(true);

        if (!state->job_repaired)
            state->job_repaired = in_transaction(state->repair_job, repair_cron_job);

        const std::uint64_t turn_began = monotonic_ms();
        const std::uint64_t next_leave = end_leaves(*state);
        end_silent_sessions(*state);
        report_locked(*state);
        review_tables(*state);
        number_events(*state);
        announce_typists(*state);
        forget_old_rows(*state);

        const std::uint64_t now = monotonic_ms();
        std::uint64_t next = std::min(next_leave, std::max(state->expire_at, cache_next_deadline()));
        next =
            std::min({next, state->guard_at, state->review_at, state->forget_at, forget_failures(*state, turn_began)});
        next = std::min(next, std::max(state->type_at, next_typing_change()));
        if (!database->worker.cache_is_complete())
            next = std::min(next, state->scan_at);
        if (state->more_events || announcements_wait() || database->worker.has_unnumbered_commits())
            next = std::min(next, state->number_at);
        // Databases that take turns need not do so for the sake of counts.
        const std::uint64_t next_slot =
            std::min({next, database->worker.review_due_ms(), database->worker.next_review_ms()});
        next = std::min(next, next_review(*state));
        if (database->worker.is_to_yield() && (next > now || now >= slot_ends)) {
            database->worker.set_next_work_ms(next_slot);
            leave(true);
        }
        if (next > now)
            (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, static_cast<long>(next - now),
                            idle_event("PresenceWorkerMain"));
        ResetLatch(MyLatch);
    }
}

}  // namespace

}  // namespace presence

extern "C" void presence_worker_main(Datum argument)
{
    using namespace presence;
    const Oid oid = DatumGetObjectId(argument);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
    // Whatever the database's settings say to its users.
    overrule("default_transaction_isolation", "read committed");
    overrule("default_transaction_read_only", "off");
    overrule("default_transaction_deferrable", "off");
    overrule("statement_timeout", "0");
    overrule("lock_timeout", lock_patience);
    overrule("temp_file_limit", "-1");
    overrule("role", "none");
    // Others pay for parallel workers with fewer of their own.
    overrule("max_parallel_workers_per_gather", "0");
    if constexpr (compat::has_transaction_timeout)
        overrule("transaction_timeout", "0");

    StartTransactionCommand();
    const bool wanted = worker_enabled && find_extension();
    database = my_database(wanted);
    CommitTransactionCommand();
    if (database == nullptr || !wanted)
        leave(false);
    if (!database->worker.begin())
        leave(true);
    before_shmem_exit(at_exit, 0);
    wake_launcher();
    serve();
}
