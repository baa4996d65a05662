#include "worker_control.h"

#include <algorithm>

#include "compat.h"
#include "settings.h"
#include "shared.h"

extern "C" {
#include "storage/latch.h"
#include "storage/proc.h"
}

namespace presence {

namespace {

std::uint64_t this_process() { return static_cast<std::uint64_t>(MyProcPid) << 32 | compat::my_proc_number(); }

// True once, for who first comes after it was set.
bool take(pg_atomic_uint32 &flag) { return pg_atomic_exchange_u32(&flag, 0) != 0; }

}  // namespace

void ProcessSlot::initialize() { pg_atomic_init_u64(&process_, 0); }

std::uint32_t ProcessSlot::pid() { return static_cast<std::uint32_t>(pg_atomic_read_u64(&process_) >> 32); }

void ProcessSlot::wake()
{
    const std::uint64_t process = pg_atomic_read_u64(&process_);
    if (process != 0)
        SetLatch(&ProcGlobal->allProcs[static_cast<std::uint32_t>(process)].procLatch);
}

bool ProcessSlot::claim()
{
    std::uint64_t nobody = 0;
    return pg_atomic_compare_exchange_u64(&process_, &nobody, this_process());
}

bool ProcessSlot::take_over() { return pg_atomic_exchange_u64(&process_, this_process()) == 0; }

void ProcessSlot::release() { pg_atomic_write_u64(&process_, 0); }

void LauncherControl::initialize()
{
    process.initialize();
    pg_atomic_init_u32(&dropped_, 0);
    pg_atomic_init_u32(&all_changed_, 0);
    pg_atomic_init_u32(&running_, 0);
    pg_atomic_init_u32(&waiting_, 0);
    for (pg_atomic_uint32 &changed : changed_)
        pg_atomic_init_u32(&changed, InvalidOid);
}

void LauncherControl::note_dropped()
{
    pg_atomic_write_u32(&dropped_, 1);
    process.wake();
}

bool LauncherControl::take_dropped() { return take(dropped_); }

void LauncherControl::note_all_changed()
{
    pg_atomic_write_u32(&all_changed_, 1);
    process.wake();
}

bool LauncherControl::take_all_changed() { return take(all_changed_); }

void LauncherControl::note_changed(Oid database)
{
    for (pg_atomic_uint32 &changed : changed_) {
        std::uint32_t free = InvalidOid;
        if (pg_atomic_compare_exchange_u32(&changed, &free, database) || free == database) {
            process.wake();
            return;
        }
    }
    note_all_changed();
}

Oid LauncherControl::take_changed()
{
    for (pg_atomic_uint32 &changed : changed_)
        if (const Oid database = pg_atomic_exchange_u32(&changed, InvalidOid); OidIsValid(database))
            return database;
    return InvalidOid;
}

void LauncherControl::set_workers(std::uint32_t running, std::uint32_t waiting)
{
    pg_atomic_write_u32(&running_, running);
    pg_atomic_write_u32(&waiting_, waiting);
}

std::uint32_t LauncherControl::running_workers() { return pg_atomic_read_u32(&running_); }

std::uint32_t LauncherControl::waiting_databases() { return pg_atomic_read_u32(&waiting_); }

void WorkerControl::initialize()
{
    process_.initialize();
    for (pg_atomic_uint32 *flag : {&wanted_, &pauses_, &restart_requested_, &exited_on_purpose_, &yield_requested_,
                                   &cache_full_, &prepared_change_})
        pg_atomic_init_u32(flag, 0);
    for (pg_atomic_uint64 *number : {&next_work_ms_, &event_commits_, &numbered_commits_, &cache_gaps_filled_,
                                     &changes_by_hand_, &changes_reviewed_, &review_due_ms_, &next_review_ms_})
        pg_atomic_init_u64(number, 0);
    pg_atomic_init_u32(&problem_, no_problem);
    pg_atomic_init_u64(&next_departure_, no_departure);
    // Nobody knows yet: the first worker looks.
    pg_atomic_init_u64(&cache_gaps_, 1);
    pg_atomic_init_u32(&sessions_prepared_, 1);
    trouble_task_[0] = '\0';
    SpinLockInit(&trouble_lock_);
    ConditionVariableInit(&numbered_);
}

bool WorkerControl::is_wanted() { return pg_atomic_read_u32(&wanted_) != 0; }

void WorkerControl::want() { pg_atomic_write_u32(&wanted_, 1); }

void WorkerControl::stop_wanting() { pg_atomic_write_u32(&wanted_, 0); }

bool WorkerControl::is_paused() { return pg_atomic_read_u32(&pauses_) != 0; }

void WorkerControl::pause()
{
    pg_atomic_fetch_add_u32(&pauses_, 1);
    wake();
}

void WorkerControl::resume() { pg_atomic_fetch_sub_u32(&pauses_, 1); }

void WorkerControl::request_restart()
{
    pg_atomic_write_u32(&restart_requested_, 1);
    set_next_work_ms(0);
    want();
    wake();
}

bool WorkerControl::take_restart_request() { return take(restart_requested_); }

WorkerProblem WorkerControl::problem() { return static_cast<WorkerProblem>(pg_atomic_read_u32(&problem_)); }

void WorkerControl::set_problem(WorkerProblem problem) { pg_atomic_write_u32(&problem_, problem); }

void WorkerControl::request_yield()
{
    pg_atomic_write_u32(&yield_requested_, 1);
    wake();
}

bool WorkerControl::is_to_yield() { return pg_atomic_read_u32(&yield_requested_) != 0; }

std::uint64_t WorkerControl::next_work_ms()
{
    return has_unnumbered_commits() ? 0 : pg_atomic_read_u64(&next_work_ms_);
}

void WorkerControl::set_next_work_ms(std::uint64_t ms) { pg_atomic_write_u64(&next_work_ms_, ms); }

bool WorkerControl::begin()
{
    want();
    if (is_paused() || !process_.claim())
        return false;
    pg_atomic_write_u32(&yield_requested_, 0);
    if (problem() != keeps_failing)
        set_problem(no_problem);
    // Should it fail, there is to be another one soon.
    set_next_work_ms(0);
    return true;
}

void WorkerControl::end()
{
    SpinLockAcquire(&trouble_lock_);
    trouble_task_[0] = '\0';
    SpinLockRelease(&trouble_lock_);
    process_.release();
    ConditionVariableBroadcast(&numbered_);
    wake_launcher();
}

void WorkerControl::exit_on_purpose(bool wanted)
{
    pg_atomic_write_u32(&exited_on_purpose_, 1);
    if (wanted)
        return;
    stop_wanting();
    // Also for sessions that still have another setting of it.
    set_problem(worker_enabled ? no_problem : switched_off);
}

bool WorkerControl::take_exit_on_purpose() { return take(exited_on_purpose_); }

void WorkerControl::note_event_commit()
{
    pg_atomic_fetch_add_u64(&event_commits_, 1);
    if (pid() != 0)
        wake();
    else if (is_wanted())
        wake_launcher();
}

std::uint64_t WorkerControl::event_commits() { return pg_atomic_read_u64(&event_commits_); }

bool WorkerControl::has_unnumbered_commits() { return event_commits() != pg_atomic_read_u64(&numbered_commits_); }

void WorkerControl::note_numbered(std::uint64_t commits)
{
    pg_atomic_write_u64(&numbered_commits_, commits);
    set_problem(no_problem);
    ConditionVariableBroadcast(&numbered_);
}

void WorkerControl::wait_until_numbered(long most_ms)
{
    const std::uint64_t wanted = event_commits();
    const std::uint64_t give_up = monotonic_ms() + static_cast<std::uint64_t>(most_ms);
    ConditionVariablePrepareToSleep(&numbered_);
    while (pg_atomic_read_u64(&numbered_commits_) < wanted && problem() == no_problem) {
        const std::uint64_t now = monotonic_ms();
        if (now >= give_up)
            break;
        // One that is not there yet says nothing when it stays away.
        (void)ConditionVariableTimedSleep(&numbered_, std::min<long>(100, static_cast<long>(give_up - now)),
                                          PG_WAIT_EXTENSION);
    }
    ConditionVariableCancelSleep();
}

void WorkerControl::report_trouble(const char *task, const char *reason)
{
    // Whole characters: it is shown to clients.
    const int length = pg_mbcliplen(reason, static_cast<int>(strlen(reason)), sizeof trouble_reason_ - 1);
    SpinLockAcquire(&trouble_lock_);
    strlcpy(trouble_task_, task, sizeof trouble_task_);
    memcpy(trouble_reason_, reason, static_cast<std::size_t>(length));
    trouble_reason_[length] = '\0';
    SpinLockRelease(&trouble_lock_);
}

void WorkerControl::report_success(const char *task)
{
    SpinLockAcquire(&trouble_lock_);
    if (strcmp(trouble_task_, task) == 0)
        trouble_task_[0] = '\0';
    SpinLockRelease(&trouble_lock_);
}

const char *WorkerControl::trouble()
{
    char task[sizeof trouble_task_], reason[sizeof trouble_reason_];
    SpinLockAcquire(&trouble_lock_);
    memcpy(task, trouble_task_, sizeof task);
    memcpy(reason, trouble_reason_, sizeof reason);
    SpinLockRelease(&trouble_lock_);
    return task[0] != '\0' ? psprintf("The worker cannot %s: %s", task, reason) : nullptr;
}

void WorkerControl::note_departure(Time leave_until)
{
    const auto time = static_cast<std::uint64_t>(leave_until);
    std::uint64_t known = pg_atomic_read_u64(&next_departure_);
    while (time < known && !pg_atomic_compare_exchange_u64(&next_departure_, &known, time)) {
    }
}

std::uint64_t WorkerControl::next_departure() { return pg_atomic_read_u64(&next_departure_); }

void WorkerControl::forget_next_departure() { pg_atomic_write_u64(&next_departure_, no_departure); }

void WorkerControl::note_cache_gap()
{
    pg_atomic_fetch_add_u64(&cache_gaps_, 1);
    set_next_work_ms(0);
}

void WorkerControl::note_cache_full()
{
    note_cache_gap();
    pg_atomic_write_u32(&cache_full_, 1);
}

std::uint64_t WorkerControl::cache_gaps() { return pg_atomic_read_u64(&cache_gaps_); }

void WorkerControl::note_cache_filled(std::uint64_t gaps)
{
    pg_atomic_write_u64(&cache_gaps_filled_, gaps);
    if (cache_is_complete())
        pg_atomic_write_u32(&cache_full_, 0);
}

bool WorkerControl::cache_is_complete() { return cache_gaps() == pg_atomic_read_u64(&cache_gaps_filled_); }

void WorkerControl::set_sessions_prepared(bool any) { pg_atomic_write_u32(&sessions_prepared_, any ? 1 : 0); }

bool WorkerControl::sessions_prepared() { return pg_atomic_read_u32(&sessions_prepared_) != 0; }

bool WorkerControl::cache_is_full() { return pg_atomic_read_u32(&cache_full_) != 0; }

void WorkerControl::note_change_by_hand(bool only_added)
{
    constexpr std::uint64_t pause_ms = 20000;
    pg_atomic_write_u64(&review_due_ms_, only_added ? monotonic_ms() + pause_ms : 0);
    pg_atomic_fetch_add_u64(&changes_by_hand_, 1);
    set_next_work_ms(0);
}

std::uint64_t WorkerControl::changes_by_hand() { return pg_atomic_read_u64(&changes_by_hand_); }

void WorkerControl::note_reviewed(std::uint64_t changes) { pg_atomic_write_u64(&changes_reviewed_, changes); }

std::uint64_t WorkerControl::review_due_ms()
{
    return changes_by_hand() == pg_atomic_read_u64(&changes_reviewed_) ? PG_UINT64_MAX
                                                                       : pg_atomic_read_u64(&review_due_ms_);
}

void WorkerControl::note_prepared_change() { pg_atomic_write_u32(&prepared_change_, 1); }

bool WorkerControl::has_prepared_change() { return pg_atomic_read_u32(&prepared_change_) != 0; }

std::uint64_t WorkerControl::next_review_ms() { return pg_atomic_read_u64(&next_review_ms_); }

void WorkerControl::set_next_review_ms(std::uint64_t ms) { pg_atomic_write_u64(&next_review_ms_, ms); }

void wake_launcher()
{
    if (LauncherControl *launcher = launcher_control())
        launcher->process.wake();
}

bool launcher_exists()
{
    LauncherControl *launcher = launcher_control();
    return launcher != nullptr && launcher->process.pid() != 0;
}

int allowed_workers() { return max_workers > 0 ? max_workers : std::max(1, max_worker_processes / 2); }

void request_worker()
{
    if (!shared_memory_exists() || !worker_enabled || RecoveryInProgress())
        return;
    SharedDatabase *database = my_database();
    if (database == nullptr || database->worker.is_wanted())
        return;
    database->worker.want();
    wake_launcher();
}

std::uint32_t idle_event(const char *name)
{
    static std::uint32_t event = 0;
    if (event == 0)
        event = compat::new_wait_event(name);
    return event;
}

}  // namespace presence
