#include "hooks.h"

#include "cache.h"
#include "extension.h"
#include "feed.h"
#include "schedule.h"
#include "shared.h"

extern "C" {
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
}

namespace presence {

namespace {

constexpr std::uint64_t worker_leaves_ms = 5000;

ProcessUtility_hook_type previous_utility_hook = nullptr;
object_access_hook_type previous_access_hook = nullptr;

SharedDatabase *paused = nullptr;
bool dropped = false;  // the paused one, should this transaction commit

// To be told when this transaction has committed.
Oid changed_database = InvalidOid;
bool any_may_have_changed = false;
bool databases_changed = false;
// By the command that is being executed.
bool extension_dropped = false;

void resume_worker()
{
    if (paused == nullptr)
        return;
    paused->worker.resume();
    paused = nullptr;
    wake_launcher();
}

void at_exit(int, Datum) { resume_worker(); }

void pause_worker(SharedDatabase *database)
{
    static bool registered = false;
    if (!registered) {
        before_shmem_exit(at_exit, 0);
        registered = true;
    }
    paused = database;
    database->worker.pause();
    const std::uint64_t until = monotonic_ms() + worker_leaves_ms;
    while (database->worker.pid() != 0 && monotonic_ms() < until) {
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

void note_changes(Node *command)
{
    switch (nodeTag(command)) {
    case T_DropdbStmt:
    case T_CreatedbStmt:
        databases_changed = true;
        break;
    case T_AlterDatabaseSetStmt:
        (void)shared_area();  // now, because nothing may fail later
        changed_database = get_database_oid(reinterpret_cast<AlterDatabaseSetStmt *>(command)->dbname, true);
        databases_changed = true;
        break;
    case T_AlterRoleSetStmt:
        if (reinterpret_cast<AlterRoleSetStmt *>(command)->role ==
            nullptr) {  // of all roles, so of the worker's as well
            (void)shared_area();
            any_may_have_changed = true;
            databases_changed = true;
        }
        break;
    case T_CreateExtensionStmt:
        if (strcmp(reinterpret_cast<CreateExtensionStmt *>(command)->extname, "presence") == 0) {
            (void)my_database();
            changed_database = MyDatabaseId;
        }
        break;
    case T_CopyStmt: {
        // A dump is being restored: its sessions are to be watched, and nobody has called a function.
        const auto *copy = reinterpret_cast<CopyStmt *>(command);
        if (copy->is_from && copy->relation != nullptr && strcmp(copy->relation->relname, "presence_session") == 0)
            changed_database = MyDatabaseId;
        break;
    }
    case T_TransactionStmt:
        if (reinterpret_cast<TransactionStmt *>(command)->kind == TRANS_STMT_COMMIT_PREPARED)
            events_may_be_written();
        break;
    default:
        break;
    }
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

pg_noinline void execute_without_worker(const Command &command, SharedDatabase *database)
{
    PG_TRY();
    {
        pause_worker(database);
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
        dropped = true;
    else
        resume_worker();
}

void on_utility(PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context,
                ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver,
                QueryCompletion *completion)
{
    const Command whole{statement, text, read_only_tree, context, parameters, environment, receiver, completion};
    Node *command = statement->utilityStmt;
    const char *name = wanted_database(command);
    const Oid wanted = name != nullptr && IsTransactionState() ? get_database_oid(name, true) : InvalidOid;
    SharedDatabase *database = OidIsValid(wanted) ? shared_database(wanted, false) : nullptr;
    if (database == nullptr)
        whole.execute();
    else
        execute_without_worker(whole, database);
    note_changes(command);
    if (extension_dropped) {
        extension_dropped = false;
        remove_cron_job();
    }
}

void on_access(ObjectAccessType access, Oid catalog, Oid object, int part, void *argument)
{
    if (previous_access_hook != nullptr)
        previous_access_hook(access, catalog, object, part, argument);
    if (access != OAT_DROP || catalog != ExtensionRelationId || object != get_extension_oid("presence", true))
        return;
    cache_clear();
    changed_database = MyDatabaseId;
    extension_dropped = true;
}

// Nothing here may fail.
void at_transaction_end(XactEvent event, void *)
{
    if (event == XACT_EVENT_COMMIT) {
        if (any_may_have_changed)
            request_worker_restart(InvalidOid);
        else if (OidIsValid(changed_database))
            request_worker_restart(changed_database);
        if (dropped)
            paused = nullptr;  // the launcher forgets it
        if (databases_changed)
            request_database_review();
    } else if (event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE) {
        return;
    } else if (dropped) {
        resume_worker();
    }
    dropped = false;
    any_may_have_changed = databases_changed = extension_dropped = false;
    changed_database = InvalidOid;
}

}  // namespace

void install_hooks()
{
    previous_utility_hook = ProcessUtility_hook;
    ProcessUtility_hook = on_utility;
    previous_access_hook = object_access_hook;
    object_access_hook = on_access;
    RegisterXactCallback(at_transaction_end, nullptr);
}

}  // namespace presence
