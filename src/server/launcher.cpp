#include "launcher.h"

#include <algorithm>

#include "heartbeat_store.h"
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

// A database that has a worker, is to have one, or is being looked at.
struct Child {
    Child *next;
    Oid database;
    BackgroundWorkerHandle *handle;  // null: not started, or by a launcher before this one
    bool probing;                    // only to find out whether the extension is there
    std::uint32_t failures;
    std::uint64_t started_ms, not_before_ms;
};

Child *children = nullptr;
Oid *to_probe = nullptr;
std::size_t to_probe_count = 0;

Child *child_of(Oid database)
{
    for (Child *child = children; child != nullptr; child = child->next)
        if (child->database == database)
            return child;
    return nullptr;
}

Child *add_child(Oid database, bool probing)
{
    auto *child = static_cast<Child *>(MemoryContextAllocZero(TopMemoryContext, sizeof(Child)));
    child->next = children;
    child->database = database;
    child->probing = probing;
    children = child;
    return child;
}

// Forgets what belongs to databases that are gone, and has the others looked at.
void review_databases()
{
    StartTransactionCommand();
    (void)GetTransactionSnapshot();
    Relation databases = table_open(DatabaseRelationId, AccessShareLock);
    TableScanDesc scan = table_beginscan_catalog(databases, 0, nullptr);
    std::size_t room = 64, count = 0;
    auto *connectable = static_cast<Oid *>(MemoryContextAlloc(TopMemoryContext, sizeof(Oid) * room));
    auto *existing = static_cast<Oid *>(palloc(sizeof(Oid) * room));
    std::size_t exist = 0, exist_room = room;
    while (HeapTuple row = heap_getnext(scan, ForwardScanDirection)) {
        const auto *database = reinterpret_cast<Form_pg_database>(GETSTRUCT(row));
        if (exist == exist_room)
            existing = static_cast<Oid *>(repalloc(existing, sizeof(Oid) * (exist_room *= 2)));
        existing[exist++] = database->oid;
        if (!database->datallowconn || database->datconnlimit < -1)
            continue;
        if (count == room)
            connectable = static_cast<Oid *>(repalloc(connectable, sizeof(Oid) * (room *= 2)));
        connectable[count++] = database->oid;
    }
    table_endscan(scan);
    table_close(databases, AccessShareLock);
    for (const SharedDatabase *known : known_databases())
        if (std::find(existing, existing + exist, known->database) == existing + exist)
            drop_shared_database(known->database);
    CommitTransactionCommand();
    if (to_probe != nullptr)
        pfree(to_probe);
    to_probe = connectable;
    to_probe_count = count;
}

bool running(const Child &child)
{
    pid_t pid = 0;
    return child.handle != nullptr && GetBackgroundWorkerPid(child.handle, &pid) != BGWH_STOPPED;
}

void note_end(Child &child, SharedDatabase &database, std::uint64_t now)
{
    if (database.worker.take_exit_on_purpose() || now - child.started_ms >= steady_ms) {
        child.failures = 0;
        child.not_before_ms = now;
        return;
    }
    ++child.failures;
    child.not_before_ms =
        now +
        std::min<std::uint64_t>(longest_retry_ms, child.failures == 1 ? 100 : 500ULL << std::min(child.failures, 8U));
    if (child.failures >= failures_to_report)
        database.worker.set_problem(keeps_failing);
    request_database_review();  // it may be gone
}

// Removes those that have nothing to do any more.
void look_after_children(std::uint64_t now)
{
    for (Child **link = &children; *link != nullptr;) {
        Child &child = **link;
        SharedDatabase *database = shared_database(child.database, false);
        if (running(child)) {
            if (child.probing && database != nullptr && database->worker.pid() != 0)
                child.probing = false;
            link = &child.next;
            continue;
        }
        if (child.handle != nullptr) {
            pfree(child.handle);
            child.handle = nullptr;
            if (database != nullptr && database->worker.is_wanted())
                note_end(child, *database, now);
            else
                child.probing = false;
        }
        const bool wanted = child.probing || (database != nullptr && database->worker.is_wanted());
        if (wanted) {
            link = &child.next;
        } else {
            *link = child.next;
            pfree(&child);
        }
    }
}

bool start(Child &child)
{
    BackgroundWorker worker{};
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = BGW_NEVER_RESTART;
    worker.bgw_notify_pid = MyProcPid;
    worker.bgw_main_arg = ObjectIdGetDatum(child.database);
    strlcpy(worker.bgw_library_name, "presence", sizeof worker.bgw_library_name);
    strlcpy(worker.bgw_function_name, "presence_worker_main", sizeof worker.bgw_function_name);
    snprintf(worker.bgw_name, sizeof worker.bgw_name, "presence worker for database %u", child.database);
    strlcpy(worker.bgw_type, "presence worker", sizeof worker.bgw_type);
    MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
    const bool started = RegisterDynamicBackgroundWorker(&worker, &child.handle);
    MemoryContextSwitchTo(caller);
    return started;
}

void start_children(std::uint64_t now)
{
    for (SharedDatabase *database : known_databases())
        if (database->worker.is_wanted() && child_of(database->database) == nullptr)
            add_child(database->database, false);
    // One look at a time, so that it never takes up the processes that others want.
    bool looking = false;
    for (Child *child = children; child != nullptr; child = child->next)
        looking |= child->probing;
    while (!looking && to_probe_count > 0) {
        const Oid database = to_probe[--to_probe_count];
        if (child_of(database) != nullptr)
            continue;
        add_child(database, true);
        looking = true;
    }
    for (Child *child = children; child != nullptr; child = child->next) {
        SharedDatabase *database = shared_database(child->database, false);
        if (child->handle != nullptr || now < child->not_before_ms)
            continue;
        if (database != nullptr && (database->worker.pid() != 0 || database->worker.is_paused()))
            continue;
        child->started_ms = now;
        if (start(*child))
            continue;
        child->handle = nullptr;
        child->not_before_ms = now + no_process_retry_ms;
        if (database != nullptr && database->worker.problem() != no_free_process) {
            database->worker.set_problem(no_free_process);
            ereport(LOG, (errmsg("could not start the presence worker of database %u", child->database),
                          errdetail("All max_worker_processes are in use."), errhint("Raise max_worker_processes.")));
        }
    }
}

std::uint64_t next_start()
{
    std::uint64_t next = PG_UINT64_MAX;
    for (const Child *child = children; child != nullptr; child = child->next)
        if (child->handle == nullptr)
            next = std::min(next, child->not_before_ms);
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
    StartTransactionCommand();
    if (this_is_the_launcher())
        load_heartbeats();
    CommitTransactionCommand();
    request_database_review();

    MemoryContext loop = AllocSetContextCreate(TopMemoryContext, "presence launcher", ALLOCSET_DEFAULT_SIZES);
    std::uint64_t saved_ms = monotonic_ms();
    while (ShutdownRequestPending == 0) {
        MemoryContextSwitchTo(loop);
        MemoryContextReset(loop);
        if (ConfigReloadPending != 0) {
            ConfigReloadPending = 0;
            ProcessConfigFile(PGC_SIGHUP);
            request_database_review();  // the worker may be switched on again
        }
        std::uint64_t now = monotonic_ms();
        const std::uint64_t save_every = static_cast<std::uint64_t>(save_interval_s) * 1000;
        if (save_every > 0 && now >= saved_ms + save_every) {
            save_heartbeats();
            now = saved_ms = monotonic_ms();
        }
        if (take_database_review_request()) {
            review_databases();
            MemoryContextSwitchTo(loop);
        }
        look_after_children(now);
        start_children(now);

        std::uint64_t next = next_start();
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
