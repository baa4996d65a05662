// What the launcher, the workers and all other backends tell each other, as functions with names; nobody else touches the
// words in shared memory behind them. docs/design.md has them as a table: who writes, who reads, and what follows from what.
#pragma once

#include "../core/rules.h"
#include "server.h"

extern "C" {
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"
}

namespace presence {

// Why a database that wants a worker has none.
enum WorkerProblem : std::uint32_t { no_problem, switched_off, no_free_process, keeps_failing };

// A running process, and the way to its latch.
class ProcessSlot {
public:
    void initialize();
    std::uint32_t pid();  // 0: nobody
    void wake();
    // By this process. False: somebody else has it.
    bool claim();
    // The same, whoever had it. True: nobody had.
    bool take_over();
    void release();

private:
    pg_atomic_uint64 process_;  // the pid, and below it the number of the PGPROC
};

// Of the server. Everything that others tell the launcher lies in memory that each process has from its start, so that it can
// be told in a transaction's callback, where nothing may fail.
class LauncherControl {
public:
    void initialize();

    ProcessSlot process;

    // Some databases have gone.
    void note_dropped();
    bool take_dropped();
    // This one has come, or its settings may have changed.
    void note_changed(Oid database);
    // One of them; invalid: there is none any more.
    Oid take_changed();
    // Any may have.
    void note_all_changed();
    bool take_all_changed();

    // For presence_health: how many workers run, and how many databases wait for one.
    void set_workers(std::uint32_t running, std::uint32_t waiting);
    std::uint32_t running_workers();
    std::uint32_t waiting_databases();

private:
    pg_atomic_uint32 running_;
    pg_atomic_uint32 waiting_;
    pg_atomic_uint32 dropped_;
    pg_atomic_uint32 all_changed_;
    pg_atomic_uint32 changed_[64];  // 0: free; where there is no room, all count as changed
};

// Of each database.
class WorkerControl {
public:
    void initialize();

    // --- Whether there is to be a worker. Backends ask, the launcher starts, the worker takes its place.

    std::uint32_t pid() { return process_.pid(); }
    void wake() { process_.wake(); }

    // The extension is here, or was when somebody last looked.
    bool is_wanted();
    void want();
    void stop_wanting();
    // A utility command needs the database for itself. Each pause is to be followed by one resume.
    bool is_paused();
    void pause();
    void resume();
    // The extension or its settings may have changed: the worker gives way to a new one.
    void request_restart();
    bool take_restart_request();
    WorkerProblem problem();
    void set_problem(WorkerProblem problem);
    // Other databases wait for a free slot: the worker gives way when it has nothing to do, or has had its turn.
    void request_yield();
    bool is_to_yield();
    // When a database without a worker needs one again, in monotonic milliseconds; 0: at once.
    std::uint64_t next_work_ms();
    void set_next_work_ms(std::uint64_t ms);
    // The worker's process. False: there is one already, or a pause.
    bool begin();
    void end();
    // Just before it ends: this is no failure. wanted: the launcher is to start another one.
    void exit_on_purpose(bool wanted);
    // By the launcher, afterwards.
    bool take_exit_on_purpose();

    // --- Events: writers count their commits, the worker numbers what they wrote, readers of the feed wait for it.

    void note_event_commit();
    std::uint64_t event_commits();
    bool has_unnumbered_commits();
    void note_numbered(std::uint64_t commits);
    // At most so long, and not where there is no worker.
    void wait_until_numbered(long most_ms);

    // --- What the worker can't do at present, for presence_health.

    // In the words of a sentence that begins with "The worker cannot"; as much of it as there is room for.
    void report_trouble(const char *task, const char *reason);
    void report_success(const char *task);
    // In memory of the caller's context; null: nothing.
    const char *trouble();

    // --- Departures: the earliest end of a grace, in wall time; no_departure: none.

    static constexpr std::uint64_t no_departure = PG_UINT64_MAX;
    void note_departure(Time leave_until);
    std::uint64_t next_departure();
    void forget_next_departure();

    // --- Whether the cache has an entry for each online session, so that it knows of each one's silence. Each event that may
    // have left one out counts as a gap; the worker fills all those that there were when it began to read the table.

    bool cache_is_complete();
    // There was no memory for all of them.
    bool cache_is_full();
    void note_cache_gap();
    // The gap is that memory could not be had.
    void note_cache_full();
    std::uint64_t cache_gaps();
    void note_cache_filled(std::uint64_t gaps);
    // Whether there may be prepared transactions that have written sessions: those come to light when they are committed.
    bool sessions_prepared();
    void set_sessions_prepared(bool any);

    // --- Changes of the tables by hand: backends count their commits; the worker, or where there is none the cleanup,
    // reviews the tables. Rows that were only added may be those of a dump, of which more comes: they wait for a pause.

    void note_change_by_hand(bool only_added);
    std::uint64_t changes_by_hand();
    // Of those that were counted before it began.
    void note_reviewed(std::uint64_t changes);
    // When they are to be reviewed, in monotonic milliseconds; PG_UINT64_MAX: there were none.
    std::uint64_t review_due_ms();
    // A prepared transaction has some; whether there has been such a one.
    void note_prepared_change();
    bool has_prepared_change();
    // When the tables are to be reviewed in any case; 0: nobody knows.
    std::uint64_t next_review_ms();
    void set_next_review_ms(std::uint64_t ms);

private:
    ProcessSlot process_;
    pg_atomic_uint32 problem_;
    pg_atomic_uint32 wanted_;
    pg_atomic_uint32 pauses_;
    pg_atomic_uint32 restart_requested_;
    pg_atomic_uint32 exited_on_purpose_;
    pg_atomic_uint32 yield_requested_;
    pg_atomic_uint64 next_work_ms_;

    slock_t trouble_lock_;
    char trouble_task_[64];  // empty: none
    char trouble_reason_[200];

    pg_atomic_uint64 event_commits_;
    pg_atomic_uint64 numbered_commits_;
    ConditionVariable numbered_;

    pg_atomic_uint64 next_departure_;

    pg_atomic_uint64 cache_gaps_;
    pg_atomic_uint64 cache_gaps_filled_;
    pg_atomic_uint32 sessions_prepared_;
    pg_atomic_uint32 cache_full_;

    pg_atomic_uint64 changes_by_hand_;
    pg_atomic_uint64 changes_reviewed_;
    pg_atomic_uint64 review_due_ms_;
    pg_atomic_uint64 next_review_ms_;
    pg_atomic_uint32 prepared_change_;
};

// These do nothing where the library is not preloaded.
void wake_launcher();
bool launcher_exists();
// How many workers may run at the same time.
int allowed_workers();
// The extension is used in this database: there should be a worker.
void request_worker();

// The wait event of a process that has nothing to do.
std::uint32_t idle_event(const char *name);

}  // namespace presence
