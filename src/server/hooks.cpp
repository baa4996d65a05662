#include "hooks.h"

#include "cache.h"
#include "catalog.h"
#include "compat.h"
#include "extension.h"
#include "feed.h"
#include "injection.h"
#include "schedule.h"
#include "shared.h"
#include "typing.h"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
}

namespace presence {

namespace {

constexpr std::uint64_t worker_leaves_ms = 5000;
constexpr uint16 prepared_commit_lock = 1;  // a part of the database that nobody else locks

ProcessUtility_hook_type previous_utility_hook = nullptr;
object_access_hook_type previous_access_hook = nullptr;

// ---------------------------------------------------------------------------------------------------------------------
// Commands that need a database for themselves. The server lets nobody else be connected to it, so the worker leaves for as
// long as the command runs. It does so only once the caller is known to have the right to the command and holds its lock on
// the database: then nobody can stop a worker by a command that is refused, or by one that waits for a lock.
// ---------------------------------------------------------------------------------------------------------------------

SharedDatabase *paused = nullptr;
bool dropped = false;  // the paused one, should this transaction commit

void resume_worker()
{
    if (paused == nullptr)
        return;
    PRESENCE_POINT("worker-resuming");
    paused->worker.resume();
    paused = nullptr;
    wake_launcher();
}

void at_exit(int, Datum) { resume_worker(); }

void pause_and_wait(Oid database)
{
    static bool registered = false;
    if (!registered) {
        before_shmem_exit(at_exit, 0);
        registered = true;
    }
    paused = pause_worker(database);
    PRESENCE_POINT("worker-paused");
    const std::uint64_t until = monotonic_ms() + worker_leaves_ms;
    while (paused != nullptr && paused->worker.pid() != 0 && monotonic_ms() < until) {
        CHECK_FOR_INTERRUPTS();
        pg_usleep(1000);
    }
}

const char *option(List *options, const char *name)
{
    ListCell *cell = nullptr;
    foreach (cell, options) {
        auto *element = static_cast<DefElem *>(lfirst(cell));
        if (strcmp(element->defname, name) == 0)
            return element->arg != nullptr ? defGetString(element) : nullptr;
    }
    return nullptr;
}

// The database that the command wants for itself, or null.
const char *wanted_database(Node *command)
{
    switch (nodeTag(command)) {
    case T_DropdbStmt:
        return reinterpret_cast<DropdbStmt *>(command)->dbname;
    case T_RenameStmt: {
        auto *rename = reinterpret_cast<RenameStmt *>(command);
        return rename->renameType == OBJECT_DATABASE ? rename->subname : nullptr;
    }
    case T_AlterDatabaseStmt: {
        auto *alter = reinterpret_cast<AlterDatabaseStmt *>(command);
        return option(alter->options, "tablespace") != nullptr ? alter->dbname : nullptr;
    }
    case T_CreatedbStmt: {
        const char *from = option(reinterpret_cast<CreatedbStmt *>(command)->options, "template");
        return from != nullptr ? from : "template1";
    }
    default:
        return nullptr;
    }
}

bool owns(Oid database) { return compat::owns_database(database, GetUserId()); }

bool may_create_databases()
{
    return superuser() || catalog_field(AUTHOID, GetUserId(), &FormData_pg_authid::rolcreatedb);
}

bool is_template(Oid database) { return catalog_field(DATABASEOID, database, &FormData_pg_database::datistemplate); }

// The server's own rule, which it applies only later.
bool is_permitted(Node *command, Oid database)
{
    switch (nodeTag(command)) {
    case T_RenameStmt:
        return owns(database) && may_create_databases();
    case T_CreatedbStmt:
        return may_create_databases() && (is_template(database) || owns(database));
    default:
        return owns(database);
    }
}

// The database whose worker is to leave for this command, locked as the command will lock it; or invalid.
Oid lock_wanted_database(Node *command)
{
    const char *name = wanted_database(command);
    if (name == nullptr || !shared_memory_exists() || !IsTransactionState() || XactReadOnly || RecoveryInProgress())
        return InvalidOid;
    const Oid database = get_database_oid(name, true);
    if (!OidIsValid(database) || !is_permitted(command, database))
        return InvalidOid;
    LockSharedObject(DatabaseRelationId, database, 0, IsA(command, CreatedbStmt) ? ShareLock : AccessExclusiveLock);
    // Another one may have the name by now; then the command waits for its worker in vain, and says so.
    return get_database_oid(name, true) == database ? database : InvalidOid;
}

struct Command {
    PlannedStmt *statement;
    const char *text;
    bool read_only_tree;
    ProcessUtilityContext context;
    ParamListInfo parameters;
    QueryEnvironment *environment;
    DestReceiver *receiver;
    QueryCompletion *completion;

    void execute() const
    {
        (previous_utility_hook != nullptr ? previous_utility_hook : standard_ProcessUtility)(
            statement, text, read_only_tree, context, parameters, environment, receiver, completion);
    }
};

pg_noinline void execute_without_worker(const Command &command, Oid database)
{
    PG_TRY();
    {
        pause_and_wait(database);
        command.execute();
    }
    PG_CATCH();
    {
        resume_worker();
        PG_RE_THROW();
    }
    PG_END_TRY();
    // A database that is gone once this commits gets no worker any more.
    if (IsA(command.statement->utilityStmt, DropdbStmt))
        dropped = paused != nullptr;
    else
        resume_worker();
}

// ---------------------------------------------------------------------------------------------------------------------
// What launcher and worker are told when this transaction has committed. It is noted after the command, so that the server
// has checked the caller's rights by then.
// ---------------------------------------------------------------------------------------------------------------------

struct {
    List *databases;  // have come, or have other settings; in the transaction's memory
    bool all;         // any may have
    bool dropped;     // one has gone
    bool extension;   // of this database, has come or gone
    bool sessions;    // of this database, may not be in the cache
    bool added;       // to this database's tables by hand
    bool rewritten;   // the same, and not only added to
} changed;

// By the command that is being executed.
bool extension_dropped = false;

void note_changed(Oid database)
{
    if (!OidIsValid(database))
        return;
    MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
    changed.databases = list_append_unique_oid(changed.databases, database);
    MemoryContextSwitchTo(caller);
}

// Of another transaction, which this command has committed; which one that was, nobody knows by now.
void tell_of_prepared_change()
{
    SharedDatabase *database = my_known_database();
    if (database == nullptr || !database->worker.has_prepared_change())
        return;
    database->worker.note_change_by_hand(false);
    database->worker.note_cache_gap();
    database->worker.wake();
}

void note_changes(Node *command)
{
    switch (nodeTag(command)) {
    case T_DropdbStmt:
        changed.dropped = true;
        break;
    case T_AlterDatabaseStmt:
        note_changed(get_database_oid(reinterpret_cast<AlterDatabaseStmt *>(command)->dbname, true));
        break;
    case T_AlterDatabaseSetStmt:
        note_changed(get_database_oid(reinterpret_cast<AlterDatabaseSetStmt *>(command)->dbname, true));
        break;
    case T_AlterRoleSetStmt: {
        // Of all roles, so of the worker's as well.
        const auto *alter = reinterpret_cast<AlterRoleSetStmt *>(command);
        if (alter->role == nullptr && alter->database != nullptr)
            note_changed(get_database_oid(alter->database, true));
        else if (alter->role == nullptr)
            changed.all = true;
        break;
    }
    case T_TransactionStmt:
        if (reinterpret_cast<TransactionStmt *>(command)->kind == TRANS_STMT_COMMIT_PREPARED) {
            PRESENCE_POINT("prepared-committed");
            // Its worker may have come, and looked at the tables, since the command began.
            (void)my_database(false);
            events_may_be_written();
            SharedDatabase *database = my_known_database();
            changed.sessions |= database != nullptr && database->worker.sessions_prepared();
            doubt_all_typing();
            tell_of_prepared_change();
        }
        break;
    default:
        break;
    }
}

// Others see the commit before this process can tell of it. Held until it has.
void begin_prepared_commit() { LockSharedObject(DatabaseRelationId, MyDatabaseId, prepared_commit_lock, RowShareLock); }

Oid extension_before(Node *command)
{
    if (IsA(command, CreateExtensionStmt))
        return get_extension_oid("presence", true);
    // It is to be known before the commit that it is told of.
    if (IsA(command, TransactionStmt) &&
        reinterpret_cast<TransactionStmt *>(command)->kind == TRANS_STMT_COMMIT_PREPARED)
        if (SharedDatabase *database = my_database(false); database != nullptr && database->worker.sessions_prepared())
            begin_prepared_commit();
    return InvalidOid;
}

void on_utility(PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context,
                ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver,
                QueryCompletion *completion)
{
    const Command whole{statement, text, read_only_tree, context, parameters, environment, receiver, completion};
    Node *command = statement->utilityStmt;
    const Oid before = extension_before(command);
    const Oid wanted = lock_wanted_database(command);
    if (OidIsValid(wanted))
        execute_without_worker(whole, wanted);
    else
        whole.execute();
    note_changes(command);
    if (IsA(command, CreateExtensionStmt) && get_extension_oid("presence", true) != before)
        changed.extension = my_database() != nullptr;
    if (extension_dropped) {
        extension_dropped = false;
        remove_cron_job();
    }
}

void on_access(ObjectAccessType access, Oid catalog, Oid object, int part, void *argument)
{
    if (previous_access_hook != nullptr)
        previous_access_hook(access, catalog, object, part, argument);
    if (access == OAT_POST_CREATE && catalog == DatabaseRelationId)
        note_changed(object);
    if (access != OAT_DROP || catalog != ExtensionRelationId || object != get_extension_oid("presence", true))
        return;
    cache_clear();
    changed.extension = my_known_database() != nullptr;
    extension_dropped = true;
}

// In the callback of a commit, so nothing here may fail.
void tell_processes()
{
    if (SharedDatabase *database = my_known_database()) {
        const bool by_hand = changed.added || changed.rewritten;
        if (by_hand)
            database->worker.note_change_by_hand(!changed.rewritten);
        if (changed.sessions || by_hand)
            database->worker.note_cache_gap();
        if (changed.sessions || by_hand || changed.extension) {
            changed.extension ? database->worker.request_restart() : database->worker.want();
            database->worker.wake();
            wake_launcher();
        }
    }
    LauncherControl *launcher = launcher_control();
    if (launcher == nullptr)
        return;
    ListCell *cell = nullptr;
    foreach (cell, changed.databases)
        launcher->note_changed(lfirst_oid(cell));
    if (changed.all)
        launcher->note_all_changed();
    if (changed.dropped)
        launcher->note_dropped();
}

// Nothing here may fail.
void at_transaction_end(XactEvent event, void *)
{
    if (event == XACT_EVENT_COMMIT) {
        if (dropped)
            paused->worker.stop_wanting();
        tell_processes();
    } else if (event == XACT_EVENT_PREPARE) {
        if (SharedDatabase *database = my_known_database(); database != nullptr && (changed.added || changed.rewritten))
            database->worker.note_prepared_change();
    } else if (event != XACT_EVENT_ABORT) {
        return;
    }
    if (dropped)
        resume_worker();
    dropped = false;
    extension_dropped = false;
    changed = {};
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
    if (event == SUBXACT_EVENT_ABORT_SUB)
        extension_dropped = false;
}

}  // namespace

void await_prepared_commits()
{
    LockSharedObject(DatabaseRelationId, MyDatabaseId, prepared_commit_lock, ExclusiveLock);
    UnlockSharedObject(DatabaseRelationId, MyDatabaseId, prepared_commit_lock, ExclusiveLock);
}

void note_cache_gap_at_commit() { changed.sessions = true; }

void note_change_by_hand_at_commit(bool only_added)
{
    // Made now, because nothing may fail at commit.
    if (my_database() != nullptr)
        (only_added ? changed.added : changed.rewritten) = true;
}

void install_hooks()
{
    previous_utility_hook = ProcessUtility_hook;
    ProcessUtility_hook = on_utility;
    previous_access_hook = object_access_hook;
    object_access_hook = on_access;
    RegisterXactCallback(at_transaction_end, nullptr);
    RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

}  // namespace presence
