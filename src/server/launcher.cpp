#include "launcher.h"

#include <algorithm>

#include "compat.h"
#include "heartbeat_store.h"
#include "injection.h"
#include "settings.h"
#include "shared.h"

extern "C" {
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
}

#pragma GCC visibility push(default)
extern "C" void presence_launcher_main(Datum);
#pragma GCC visibility pop

namespace presence {

namespace {

constexpr std::uint64_t steady_ms = 10000;  // a worker that ran for so long did not fail at its start
constexpr std::uint64_t no_process_retry_ms = 5000;
constexpr std::uint64_t longest_retry_ms = 30000;
constexpr std::uint32_t failures_to_report = 3;
constexpr std::uint64_t leave_others_ms = 2000;  // to end before the last heartbeats are saved

// What the launcher knows of each database of the server.
struct Database {
    Database *next;
    Oid oid;
    bool exists;
    bool open;     // neither closed to connections, nor left invalid by a DROP DATABASE that was interrupted
    bool unknown;  // a worker is to find out whether the extension is there
    bool probing;  // the one that runs is to
    BackgroundWorkerHandle *handle;  // null: not started, or by a launcher before this one
    std::uint32_t failures;
    std::uint64_t started_ms, not_before_ms;
    bool asked_to_yield;

    SharedDatabase *shared() const { return shared_database(oid, false); }
};

Database *all_databases = nullptr;
bool dropped_remain = false;            // some could not be freed yet
std::uint64_t no_process_until_ms = 0;  // all max_worker_processes are in use

Database &database_of(Oid oid)
{
    for (Database *database = all_databases; database != nullptr; database = database->next)
        if (database->oid == oid)
            return *database;
    auto *added = static_cast<Database *>(MemoryContextAllocZero(TopMemoryContext, sizeof(Database)));
    added->next = all_databases;
    added->oid = oid;
    added->unknown = true;
    all_databases = added;
    return *added;
}

// Reads pg_database, and frees the shared state of databases that are gone.
void review_databases()
{
    StartTransactionCommand();
    // Known before the snapshot is taken: what becomes known later may belong to a database that is not in it.
    const std::span<SharedDatabase *> known = known_databases();
    PRESENCE_POINT("states-listed");
    for (Database *database = all_databases; database != nullptr; database = database->next)
        database->exists = false;
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    Relation table = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = compat::begin_table_scan(table, snapshot);
    while (HeapTuple row = heap_getnext(scan, ForwardScanDirection)) {
        const auto *found = reinterpret_cast<Form_pg_database>(GETSTRUCT(row));
        Database &database = database_of(found->oid);
        database.exists = true;
        database.open = found->datallowconn && found->datconnlimit >= -1;
    }
    table_endscan(scan);
    table_close(table, AccessShareLock);
    UnregisterSnapshot(snapshot);
    PRESENCE_POINT("databases-read");
    dropped_remain = false;
    // One whose worker is paused goes when the pause ends, which wakes the launcher.
    for (SharedDatabase *database : known)
        if (!database_of(database->database).exists && !free_dropped_database(database))
            dropped_remain = true;
    CommitTransactionCommand();

    for (Database **link = &all_databases; *link != nullptr;) {
        Database *database = *link;
        if (database->exists || database->handle != nullptr) {
            link = &database->next;
        } else {
            *link = database->next;
            pfree(database);
        }
    }
}

// Its settings may have changed, or it has come, or nobody knows.
void look_at(Database &database)
{
    if (SharedDatabase *shared = database.shared())
        shared->worker.request_restart();
    else
        database.unknown = true;
}

// What others have told; only what has changed is looked at.
void take_changes(LauncherControl &control)
{
    const bool all = control.take_all_changed();
    const bool dropped = control.take_dropped() || dropped_remain;
    Oid changed = control.take_changed();
    if (!all && !dropped && !OidIsValid(changed))
        return;
    review_databases();
    for (; OidIsValid(changed); changed = control.take_changed())
        if (Database &database = database_of(changed); database.exists)
            look_at(database);
    for (Database *database = all_databases; all && database != nullptr; database = database->next)
        look_at(*database);
}

bool is_running(const Database &database)
{
    pid_t pid = 0;
    return database.handle != nullptr && GetBackgroundWorkerPid(database.handle, &pid) != BGWH_STOPPED;
}

void note_failure(Database &database, SharedDatabase &shared, std::uint64_t now)
{
    ++database.failures;
    const std::uint64_t pause = database.failures == 1 ? 100 : 500ULL << std::min(database.failures, 8U);
    database.not_before_ms = now + std::min(longest_retry_ms, pause);
    if (database.failures >= failures_to_report)
        shared.worker.set_problem(keeps_failing);
    launcher_control()->note_dropped();  // it may be gone, or closed
}

// How many run.
int look_after_workers(std::uint64_t now)
{
    int running = 0;
    for (Database *database = all_databases; database != nullptr; database = database->next) {
        SharedDatabase *shared = database->shared();
        const bool serves = shared != nullptr && shared->worker.pid() != 0;
        running += serves || is_running(*database);
        if (serves) {
            // The extension is there. Perhaps something has changed since it looked.
            if (database->probing && database->unknown)
                shared->worker.request_restart();
            database->probing = database->unknown = false;
        }
        if (database->handle == nullptr || is_running(*database))
            continue;
        pfree(database->handle);
        database->handle = nullptr;
        database->probing = database->asked_to_yield = false;
        if (shared == nullptr)
            continue;
        if (shared->worker.take_exit_on_purpose() || now - database->started_ms >= steady_ms) {
            database->failures = 0;
            database->not_before_ms = now;
        } else if (shared->worker.is_wanted()) {
            note_failure(*database, *shared, now);
        }
    }
    return running;
}

// In the order in which free slots are given.
enum class Need { none, some, unknown, due };

Need need_of(const Database &database, bool probing, std::uint64_t now)
{
    if (database.handle != nullptr || !database.exists || !database.open)
        return Need::none;
    SharedDatabase *shared = database.shared();
    if (shared != nullptr && (shared->worker.pid() != 0 || shared->worker.is_paused()))
        return Need::none;
    if (shared != nullptr && shared->worker.is_wanted())
        return shared->worker.next_work_ms() <= now ? Need::due : Need::some;
    return database.unknown && !probing ? Need::unknown : Need::none;
}

bool start(Database &database, std::uint64_t now)
{
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_notify_pid = MyProcPid;
    worker.bgw_main_arg = ObjectIdGetDatum(database.oid);
    strlcpy(worker.bgw_library_name, "presence", sizeof worker.bgw_library_name);
    strlcpy(worker.bgw_function_name, "presence_worker_main", sizeof worker.bgw_function_name);
    snprintf(worker.bgw_name, sizeof worker.bgw_name, "presence worker for database %u", database.oid);
    strlcpy(worker.bgw_type, "presence worker", sizeof worker.bgw_type);

    SharedDatabase *shared = database.shared();
    // What changes from here on, this one may not see any more.
    if (shared != nullptr)
        (void)shared->worker.take_restart_request();
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    const bool started = RegisterDynamicBackgroundWorker(&worker, &database.handle);
    MemoryContextSwitchTo(caller);
    PRESENCE_POINT("worker-registered");
    if (started) {
        database.started_ms = now;
        database.probing = database.unknown;
        database.unknown = false;
        return true;
    }
    database.handle = nullptr;
    no_process_until_ms = now + no_process_retry_ms;
    return false;
}

// All who wait then do the worker's work themselves.
void note_no_free_process(const Database &database)
{
    SharedDatabase *shared = database.shared();
    if (shared == nullptr || shared->worker.problem() == no_free_process)
        return;
    shared->worker.set_problem(no_free_process);
    ereport(LOG, (errmsg("could not start the presence worker of database %u", database.oid),
                  errdetail("All max_worker_processes are in use."), errhint("Raise max_worker_processes.")));
}

// Of those that run, the one that has had the longest turn: it gives way when it has nothing to do, or has had its turn.
void ask_one_to_yield()
{
    Database *longest = nullptr;
    for (Database *database = all_databases; database != nullptr; database = database->next) {
        if (database->asked_to_yield)
            return;  // one at a time
        SharedDatabase *shared = database->handle != nullptr ? database->shared() : nullptr;
        if (shared != nullptr && shared->worker.pid() != 0 &&
            (longest == nullptr || database->started_ms < longest->started_ms))
            longest = database;
    }
    if (longest == nullptr)
        return;  // all are about to begin, which wakes the launcher
    longest->asked_to_yield = true;
    longest->shared()->worker.request_yield();
}

// Gives the free slots to those who need them most, and where there is none, sees to it that there will be one. When it is
// to be called again, whatever happens.
std::uint64_t start_workers(int running, std::uint64_t now)
{
    std::uint64_t next = PG_UINT64_MAX;
    std::uint32_t waiting = 0;
    for (;;) {
        bool probing = false;
        for (const Database *database = all_databases; database != nullptr; database = database->next)
            probing |= database->probing;
        Database *neediest = nullptr;
        Need need = Need::none;
        waiting = 0;
        next = PG_UINT64_MAX;
        for (Database *database = all_databases; database != nullptr; database = database->next) {
            const Need its = need_of(*database, probing, now);
            if (its == Need::none)
                continue;
            waiting += its != Need::unknown;
            if (now < no_process_until_ms)
                note_no_free_process(*database);
            if (now < database->not_before_ms) {
                next = std::min(next, database->not_before_ms);
                continue;
            }
            if (its == Need::some)
                next = std::min(next, database->shared()->worker.next_work_ms());
            // Among equals, who has waited longest.
            if (its > need || (its == need && database->started_ms < neediest->started_ms)) {
                neediest = database;
                need = its;
            }
        }
        if (neediest == nullptr)
            break;
        if (running < allowed_workers() && now >= no_process_until_ms) {
            running += start(*neediest, now);
            continue;
        }
        if (now < no_process_until_ms)
            next = std::min(next, no_process_until_ms);
        if (need > Need::some)
            ask_one_to_yield();
        break;
    }
    launcher_control()->set_workers(static_cast<std::uint32_t>(running), waiting);
    return next;
}

// Whoever can still beat is connected to a database.
void wait_for_others()
{
    const std::uint64_t until = monotonic_ms() + leave_others_ms;
    for (;;) {
        int connected = 0;
        for (const SharedDatabase *database : known_databases())
            connected += CountDBBackends(database->database);
        if (connected == 0 || monotonic_ms() >= until)
            return;
        pg_usleep(5000);
    }
}

[[noreturn]] void serve()
{
    LauncherControl &control = *launcher_control();
    StartTransactionCommand();
    if (control.process.take_over())
        load_heartbeats();
    CommitTransactionCommand();
    control.note_all_changed();

    MemoryContext loop = AllocSetContextCreate(TopMemoryContext, "presence launcher", ALLOCSET_DEFAULT_SIZES);
    std::uint64_t saved_ms = monotonic_ms();
    while (ShutdownRequestPending == 0) {
        MemoryContextSwitchTo(loop);
        MemoryContextReset(loop);
        if (ConfigReloadPending != 0) {
            ConfigReloadPending = 0;
            const bool was_enabled = worker_enabled;
            ProcessConfigFile(PGC_SIGHUP);
            // Those that run read it by themselves; others may have one now.
            if (worker_enabled && !was_enabled)
                control.note_all_changed();
        }
        std::uint64_t now = monotonic_ms();
        const std::uint64_t save_every = static_cast<std::uint64_t>(save_interval_s) * 1000;
        if (save_every > 0 && now >= saved_ms + save_every) {
            save_heartbeats();
            now = saved_ms = monotonic_ms();
        }
        take_changes(control);
        MemoryContextSwitchTo(loop);
        std::uint64_t next = start_workers(look_after_workers(now), now);
        if (save_every > 0)
            next = std::min(next, saved_ms + save_every);
        // Those without a process that are not to be started now are waited for by the latch.
        const bool timed = next != PG_UINT64_MAX;
        const long wait_ms = !timed       ? -1
                             : next > now ? static_cast<long>(std::min<std::uint64_t>(next - now, 3600000))
                                          : 100;
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timed ? WL_TIMEOUT : 0), wait_ms,
                        idle_event("PresenceLauncherMain"));
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
    wait_for_others();
    save_heartbeats();
    // Not 0, which would mean never again.
    proc_exit(1);
}

}  // namespace

void register_launcher()
{
    if (IsBinaryUpgrade)
        return;
    BackgroundWorker launcher{};
    launcher.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    launcher.bgw_start_time = BgWorkerStart_RecoveryFinished;
    launcher.bgw_restart_time = 1;
    strlcpy(launcher.bgw_library_name, "presence", sizeof launcher.bgw_library_name);
    strlcpy(launcher.bgw_function_name, "presence_launcher_main", sizeof launcher.bgw_function_name);
    strlcpy(launcher.bgw_name, "presence launcher", sizeof launcher.bgw_name);
    strlcpy(launcher.bgw_type, "presence launcher", sizeof launcher.bgw_type);
    RegisterBackgroundWorker(&launcher);
}

}  // namespace presence

extern "C" void presence_launcher_main(Datum)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
    // From now on silence counts.
    (void)presence::heartbeat_floor();
    presence::serve();
}
