// The worker of a database: numbers and sends committed events, ends sessions that have fallen silent or used up their
// grace, each at its time, and sees to it that the cache watches over everybody. Lives here: when what is done. How it is
// done lives in feed.h and expiry.h, who starts it in launcher.h.

#include <algorithm>
#include <new>

#include "announcements.h"
#include "cache.h"
#include "compat.h"
#include "datums.h"
#include "expiry.h"
#include "extension.h"
#include "feed.h"
#include "owner_guard.h"
#include "settings.h"

extern "C" {
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
// Under load, events gather for so long before the next of them are numbered together.
constexpr std::uint64_t numbering_pause_ms = 5;
// Sessions that came in by other ways than the functions, as a restored dump does, are found after so long.
constexpr std::uint64_t review_ms = 600000;
// Without memory for the cache, everybody has to be looked at; at most this part of the time.
constexpr std::uint64_t full_scan_share = 20;

// Where databases take turns, one that always has something to do gives way after so long.
constexpr std::uint64_t turn_ms = 1000;

constexpr long rows_at_once = 10000;

Statement online_sessions = {
    "SELECT id, user_id, session_id, heartbeat_at, heartbeat_interval FROM @.presence_session WHERE online AND leave_until IS NULL",
    0,
    {}};

SharedDatabase *database = nullptr;

void at_exit(int, Datum) { database->worker.end(); }

// Deliberate, so that the launcher does not take it for a failure. wanted: start another one as soon as that is possible.
[[noreturn]] void leave(bool wanted)
{
    if (database != nullptr)
        database->worker.exit_on_purpose(wanted);
    proc_exit(0);
}

// work() in a transaction of its own, as the tables' owner. Not at all where the extension is gone.
template <typename Work>
void in_transaction(const char *what, Work work)
{
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    PushActiveSnapshot(GetTransactionSnapshot());
    pgstat_report_activity(STATE_RUNNING, what);
    const bool exists = find_extension();
    if (exists) {
        const OwnerWork as_owner = begin_owner_work();
        work();
        end_owner_work(as_owner);
    }
    PopActiveSnapshot();
    CommitTransactionCommand();
    pgstat_report_stat(false);
    pgstat_report_activity(STATE_IDLE, nullptr);
    if (!exists)
        leave(false);
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
            const auto id = static_cast<std::uint64_t>(DatumGetInt64(SPI_getbinval(row, shape, 1, &is_null)));
            const std::string_view user = text_view(DatumGetTextPP(SPI_getbinval(row, shape, 2, &is_null)));
            const std::string_view session = text_view(DatumGetTextPP(SPI_getbinval(row, shape, 3, &is_null)));
            const Time heartbeat_at = DatumGetTimestampTz(SPI_getbinval(row, shape, 4, &is_null));
            NullableDatum interval;
            interval.value = SPI_getbinval(row, shape, 5, &interval.isnull);
            all = cache_watch({{user, session}, heartbeat_at, interval_time(interval)}, id);
        }
        SPI_freetuptable(SPI_tuptable);
    }
    SPI_cursor_close(cursor);
    return all;
}

// What the loop keeps from one turn to the next; times are monotonic milliseconds.
struct WorkerState {
    bool more_events = true;      // at the start, nobody knows
    std::uint64_t number_at = 0;  // not before
    std::uint64_t expire_at = 0;
    std::uint64_t scan_at = 0;    // the whole table, where the cache has no memory
    std::uint64_t review_at = 0;  // the whole table, for sessions that the cache does not know
};

void number_events(WorkerState &state)
{
    const std::uint64_t commits = database->worker.event_commits();
    if (!state.more_events && !database->worker.has_unnumbered_commits() && !announcements_wait())
        return;
    if (monotonic_ms() < state.number_at)
        return;
    Numbered done = Numbered::all;
    in_transaction("numbering events", [&done] { done = number_committed_events(); });
    state.more_events = done != Numbered::all;
    const bool waits = done == Numbered::locked_by_another || announcements_wait();
    state.number_at = done == Numbered::more_left ? 0 : monotonic_ms() + (waits ? 100 : numbering_pause_ms);
    if (done == Numbered::all)
        database->worker.note_numbered(commits);
}

// When the next grace ends; 0: at once.
std::uint64_t end_leaves()
{
    std::uint64_t next = database->worker.next_departure();
    if (next == WorkerControl::no_departure)
        return PG_UINT64_MAX;
    const auto now = static_cast<std::uint64_t>(GetCurrentTimestamp());
    if (next < now) {
        // Forgotten before it is looked for, so that what comes meanwhile is kept.
        database->worker.forget_next_departure();
        bool locked = false;
        Time earliest = 0;
        in_transaction("ending departures", [&] {
            locked = end_departures().locked;
            earliest = next_departure();
        });
        if (earliest != 0)
            database->worker.note_departure(earliest);
        if (locked)
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
    in_transaction("reading online sessions", [gaps] {
        if (fill_cache())
            database->worker.note_cache_filled(gaps);
    });
    if (!database->worker.cache_is_complete())
        in_transaction("ending stale sessions", [] { (void)end_stale_sessions(Thoroughness::every_session); });
    const std::uint64_t end = monotonic_ms();
    state.scan_at = end + full_scan_share * (end - begin) + 1000;
    if (review)
        state.review_at = end + review_ms;
}

void end_silent_sessions(WorkerState &state)
{
    look_at_table(state);
    const std::uint64_t now = monotonic_ms();
    if (now >= state.expire_at && now > cache_next_deadline()) {
        Ended ended;
        // The search for them is a matter of shared memory; without any, there is no need of a transaction.
        if (cache_any_stale()) {
            in_transaction("ending stale sessions", [&ended] {
                ended = end_stale_sessions(Thoroughness::watched_sessions);
                // Those that it ended are forgotten when it meets them again.
                if (ended.sessions == 0)
                    cache_shrink();
            });
        }
        state.expire_at = ended.more && !ended.locked ? 0 : monotonic_ms() + expiry_pause_ms;
    }
}

void overrule(const char *name, const char *value) { SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE); }

[[noreturn]] void serve()
{
    auto *state = new (MemoryContextAlloc(TopMemoryContext, sizeof(WorkerState))) WorkerState;
    database->worker.note_departure(1);  // nobody knows
    in_transaction("starting", begin_feed);
    MemoryContext loop = AllocSetContextCreate(TopMemoryContext, "presence worker", ALLOCSET_DEFAULT_SIZES);
    const std::uint64_t turn_ends = monotonic_ms() + turn_ms;
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        MemoryContextSwitchTo(loop);
        MemoryContextReset(loop);
        if (ConfigReloadPending != 0) {
            ConfigReloadPending = 0;
            ProcessConfigFile(PGC_SIGHUP);
        }
        if (!worker_enabled)
            leave(false);
        // Settings of the database are taken over by another process; whether the extension is still there, it sees at once.
        if (database->worker.is_paused() || database->worker.take_restart_request())
            leave(true);

        const std::uint64_t next_leave = end_leaves();
        end_silent_sessions(*state);
        number_events(*state);

        const std::uint64_t now = monotonic_ms();
        std::uint64_t next = std::min(next_leave, std::max(state->expire_at, cache_next_deadline()));
        next = std::min(next, state->review_at);
        if (!database->worker.cache_is_complete())
            next = std::min(next, state->scan_at);
        if (state->more_events || announcements_wait() || database->worker.has_unnumbered_commits())
            next = std::min(next, state->number_at);
        if (database->worker.is_to_yield() && (next > now || now >= turn_ends)) {
            database->worker.set_next_work_ms(next);
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
    overrule("lock_timeout", "0");
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
