#include "worker.h"

#include <algorithm>
#include <new>

#include "cache.h"
#include "expiry.h"
#include "extension.h"
#include "feed.h"
#include "settings.h"
#include "storage.h"

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

constexpr long rows_at_once = 10000;

Statement unwatched = {
    "SELECT id, user_id, session_id, heartbeat_at, heartbeat_interval FROM @.presence_session WHERE online AND leave_until IS NULL",
    0,
    {}};

SharedDatabase *database = nullptr;

void at_exit(int, Datum)
{
    pg_atomic_write_u32(&database->worker_pid, 0);
    ConditionVariableBroadcast(&database->numbered);
    wake_launcher();
}

// Deliberate, so that the launcher does not take it for a failure. wanted: start another one as soon as that is possible.
[[noreturn]] void leave(bool wanted)
{
    if (database != nullptr) {
        pg_atomic_write_u32(&database->left_on_purpose, 1);
        if (!wanted) {
            pg_atomic_write_u32(&database->wants_worker, 0);
            // Also for sessions that still have another setting of it.
            pg_atomic_write_u32(&database->worker_problem, worker_enabled ? no_problem : switched_off);
        }
    }
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
bool watch_everybody()
{
    bool all = true;
    Portal cursor = SPI_cursor_open(nullptr, prepared(unwatched), nullptr, nullptr, true);
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
            const Datum interval = SPI_getbinval(row, shape, 5, &is_null);
            all = cache_watch(session_table(), user, session, id, is_null ? 0 : interval_ms(interval), heartbeat_at);
        }
        SPI_freetuptable(SPI_tuptable);
    }
    SPI_cursor_close(cursor);
    return all;
}

// What the loop remembers from one turn to the next, in monotonic milliseconds.
struct Diary {
    IdWindow window;
    bool more_events = true;      // at the start, nobody knows
    std::uint64_t number_at = 0;  // not before
    std::uint64_t expire_at = 0;
    std::uint64_t scan_at = 0;    // the whole table, where the cache has no memory
    std::uint64_t review_at = 0;  // the whole table, for sessions that the cache does not know
};

void number_events(Diary &diary)
{
    const std::uint64_t written = pg_atomic_read_u64(&database->written_batches);
    if (!diary.more_events && written == pg_atomic_read_u64(&database->numbered_batches) && !announcements_wait())
        return;
    if (monotonic_ms() < diary.number_at)
        return;
    in_transaction("numbering events", [&diary] { diary.more_events = number_committed_events(diary.window); });
    diary.number_at = diary.more_events ? 0 : monotonic_ms() + (announcements_wait() ? 100 : numbering_pause_ms);
    if (diary.more_events)
        return;
    pg_atomic_write_u64(&database->numbered_batches, written);
    pg_atomic_write_u32(&database->worker_problem, no_problem);
    ConditionVariableBroadcast(&database->numbered);
}

// When the next grace ends; 0: at once.
std::uint64_t end_leaves()
{
    std::uint64_t next = pg_atomic_read_u64(&database->next_leave);
    if (next == PG_UINT64_MAX)
        return PG_UINT64_MAX;
    const auto now = static_cast<std::uint64_t>(GetCurrentTimestamp());
    if (next < now) {
        // Forgotten before it is looked for, so that what comes meanwhile is kept.
        pg_atomic_write_u64(&database->next_leave, PG_UINT64_MAX);
        bool locked = false;
        Time earliest = 0;
        in_transaction("ending departures", [&] {
            locked = end_departures().locked;
            earliest = next_departure();
        });
        if (earliest != 0)
            note_leave(*database, earliest);
        if (locked)
            return monotonic_ms() + expiry_pause_ms;
        next = pg_atomic_read_u64(&database->next_leave);
        if (next == PG_UINT64_MAX)
            return next;
    }
    return next <= now ? 0 : monotonic_ms() + (next - now) / 1000 + 1;
}

void end_silent_sessions(Diary &diary)
{
    std::uint64_t now = monotonic_ms();
    const bool gaps = pg_atomic_read_u32(&database->watch_all) != 0 && now >= diary.scan_at;
    if (gaps || now >= diary.review_at) {
        in_transaction("reading online sessions", [] {
            if (watch_everybody())
                pg_atomic_write_u32(&database->watch_all, 0);
        });
        diary.scan_at = monotonic_ms() + full_scan_share * (monotonic_ms() - now) + 1000;
        diary.review_at = monotonic_ms() + review_ms;
    }
    now = monotonic_ms();
    if (!cache_watches_everybody() && now >= diary.scan_at) {
        in_transaction("ending stale sessions", [] { (void)end_stale_sessions(Thoroughness::every_session); });
        diary.scan_at = monotonic_ms() + full_scan_share * (monotonic_ms() - now) + 1000;
        // Memory may have come back.
        if (pg_atomic_exchange_u32(&database->cache_full, 0) != 0)
            pg_atomic_write_u32(&database->watch_all, 1);
    }
    now = monotonic_ms();
    if (now >= diary.expire_at && now > cache_next_deadline()) {
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
        diary.expire_at = ended.more && !ended.locked ? 0 : monotonic_ms() + expiry_pause_ms;
    }
}

void overrule(const char *name, const char *value) { SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE); }

[[noreturn]] void serve()
{
    auto *diary = new (MemoryContextAlloc(TopMemoryContext, sizeof(Diary))) Diary;
    note_leave(*database, 1);  // nobody knows
    in_transaction("starting", [diary] { restart_window(diary->window); });
    MemoryContext loop = AllocSetContextCreate(TopMemoryContext, "presence worker", ALLOCSET_DEFAULT_SIZES);
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
        if (pg_atomic_read_u32(&database->pauses) != 0 || pg_atomic_exchange_u32(&database->look_again, 0) != 0)
            leave(true);

        const std::uint64_t next_leave = end_leaves();
        end_silent_sessions(*diary);
        number_events(*diary);

        const std::uint64_t now = monotonic_ms();
        std::uint64_t next = std::min(next_leave, std::max(diary->expire_at, cache_next_deadline()));
        next = std::min(next, diary->review_at);
        if (!cache_watches_everybody())
            next = std::min(next, diary->scan_at);
        if (diary->more_events || announcements_wait() ||
            pg_atomic_read_u64(&database->written_batches) != pg_atomic_read_u64(&database->numbered_batches))
            next = std::min(next, diary->number_at);
        if (next > now)
            (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, static_cast<long>(next - now),
                            idle_event("PresenceWorkerMain"));
        ResetLatch(MyLatch);
    }
}

}  // namespace

std::uint32_t idle_event([[maybe_unused]] const char *name)
{
#if PG_VERSION_NUM >= 170000
    static std::uint32_t event = 0;
    if (event == 0)
        event = WaitEventExtensionNew(name);
    return event;
#else
    return PG_WAIT_EXTENSION;
#endif
}

}  // namespace presence

extern "C" void presence_worker_main(Datum argument)
{
    using namespace presence;
    const Oid oid = DatumGetObjectId(argument);
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    // What changes from here on, this one may not see any more.
    if (SharedDatabase *known = shared_database(oid, false))
        pg_atomic_write_u32(&known->look_again, 0);
    BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
    // Whatever the database's settings say to its users.
    overrule("default_transaction_isolation", "read committed");
    overrule("default_transaction_read_only", "off");
    overrule("default_transaction_deferrable", "off");
    overrule("statement_timeout", "0");
    overrule("lock_timeout", "0");
#if PG_VERSION_NUM >= 170000
    overrule("transaction_timeout", "0");
#endif

    StartTransactionCommand();
    const bool wanted = worker_enabled && find_extension();
    if (wanted)
        (void)my_database();
    CommitTransactionCommand();
    database = shared_database(oid, false);
    if (database == nullptr || !wanted)
        leave(false);
    pg_atomic_write_u32(&database->wants_worker, 1);
    std::uint32_t none = 0;
    if (pg_atomic_read_u32(&database->pauses) != 0 ||
        !pg_atomic_compare_exchange_u32(&database->worker_pid, &none, static_cast<std::uint32_t>(MyProcPid)))
        leave(true);
    pg_atomic_write_u32(&database->worker_procno, my_procno());
    before_shmem_exit(at_exit, 0);
    wake_launcher();
    serve();
}
