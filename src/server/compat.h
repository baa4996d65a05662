// What differs between the supported versions of PostgreSQL. No other file asks for PG_VERSION_NUM.
#pragma once

#include "server.h"

extern "C" {
#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "executor/executor.h"
#include "nodes/nodes.h"
#include "parser/analyze.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
}

// Name and version of the library, which pg_get_loaded_modules() shows from 18 on.
#ifdef PG_MODULE_MAGIC_EXT
#define PRESENCE_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "presence", .version = CppAsString2(PRESENCE_VERSION))
#else
#define PRESENCE_MODULE_MAGIC PG_MODULE_MAGIC
#endif

namespace presence::compat {

// What callbacks of the system caches and of the parser's end get.
#if PG_VERSION_NUM >= 190000
using SyscacheId = SysCacheIdentifier;
using AnalysedJumbleState = const JumbleState;
#else
using SyscacheId = int;
using AnalysedJumbleState = JumbleState;
#endif

inline constexpr bool has_transaction_timeout = PG_VERSION_NUM >= 170000;

// The number of this process among those that have a PGPROC.
inline std::uint32_t my_proc_number()
{
#if PG_VERSION_NUM >= 170000
    return static_cast<std::uint32_t>(MyProcNumber);
#else
    return static_cast<std::uint32_t>(MyProc->pgprocno);
#endif
}

// What a process waits for, as pg_stat_activity shows it: by name from 17 on.
inline std::uint32_t new_wait_event([[maybe_unused]] const char *name)
{
#if PG_VERSION_NUM >= 170000
    return WaitEventExtensionNew(name);
#else
    return PG_WAIT_EXTENSION;
#endif
}

// What expression_tree_walker() and its like call; up to 15 they declare it without its arguments.
inline auto tree_walker(bool (*walker)(Node *, void *))
{
#if PG_VERSION_NUM >= 160000
    return walker;
#else
    return reinterpret_cast<bool (*)()>(reinterpret_cast<void *>(walker));
#endif
}

inline bool owns_database(Oid database, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(DatabaseRelationId, database, role);
#else
    return pg_database_ownercheck(database, role);
#endif
}

inline TableScanDesc begin_table_scan(Relation table, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 190000
    return table_beginscan(table, snapshot, 0, nullptr, SO_NONE);
#else
    return table_beginscan(table, snapshot, 0, nullptr);
#endif
}

inline IndexScanDesc begin_index_scan(Relation table, Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 190000
    return index_beginscan(table, index, snapshot, nullptr, keys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
    return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

inline bool may_use_schema(Oid schema, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK;
#else
    return pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK;
#endif
}

inline TM_Result delete_row(Relation table, ItemPointer row, Snapshot snapshot, bool wait, TM_FailureData *failure)
{
    const CommandId command = GetCurrentCommandId(true);
#if PG_VERSION_NUM >= 190000
    return table_tuple_delete(table, row, command, 0, snapshot, InvalidSnapshot, wait, failure);
#else
    return table_tuple_delete(table, row, command, snapshot, InvalidSnapshot, wait, failure, false);
#endif
}

// Which indexes need an entry for a row's new version.
#if PG_VERSION_NUM >= 160000
using ChangedIndexes = TU_UpdateIndexes;
inline constexpr ChangedIndexes no_indexes = TU_None;
#else
using ChangedIndexes = bool;
inline constexpr ChangedIndexes no_indexes = false;
#endif

inline TM_Result update_row(Relation table, ItemPointer old, TupleTableSlot *row, Snapshot snapshot,
                            TM_FailureData *failure, LockTupleMode *mode, ChangedIndexes *changed)
{
    const CommandId command = GetCurrentCommandId(true);
#if PG_VERSION_NUM >= 190000
    return table_tuple_update(table, old, row, command, 0, snapshot, InvalidSnapshot, true, failure, mode, changed);
#else
    return table_tuple_update(table, old, row, command, snapshot, InvalidSnapshot, true, failure, mode, changed);
#endif
}

// changed: none where the row is a new one, not a new version. conflict: set where another row has a unique key of this one's;
// null: that is an error.
inline List *insert_index_entries(ResultRelInfo *result, TupleTableSlot *row, EState *state, ChangedIndexes changed,
                                  bool *conflict)
{
    const bool update = changed != no_indexes;
#if PG_VERSION_NUM >= 190000
    const uint32 flags = (update ? EIIT_IS_UPDATE : 0) | (conflict != nullptr ? EIIT_NO_DUPE_ERROR : 0) |
                         (changed == TU_Summarizing ? EIIT_ONLY_SUMMARIZING : 0);
    return ExecInsertIndexTuples(result, state, flags, row, NIL, conflict);
#elif PG_VERSION_NUM >= 160000
    return ExecInsertIndexTuples(result, row, state, update, conflict != nullptr, conflict, NIL,
                                 changed == TU_Summarizing);
#else
    return ExecInsertIndexTuples(result, row, state, update, conflict != nullptr, conflict, NIL);
#endif
}

// False: another row has a unique key of this one's, and found is where.
inline bool check_unique_keys(ResultRelInfo *result, TupleTableSlot *row, EState *state, ItemPointer found)
{
#if PG_VERSION_NUM >= 180000
    ItemPointerData not_there_yet;
    ItemPointerSetInvalid(&not_there_yet);
    return ExecCheckIndexConstraints(result, row, state, found, &not_there_yet, NIL);
#else
    return ExecCheckIndexConstraints(result, row, state, found, NIL);
#endif
}

// A value of jsonb in the making.
class JsonbBuilder {
public:
    void push(JsonbIteratorToken token, JsonbValue *value = nullptr)
    {
#if PG_VERSION_NUM >= 190000
        pushJsonbValue(&state_, token, value);
        value_ = state_.result;
#else
        value_ = pushJsonbValue(&state_, token, value);
#endif
    }
    Jsonb *finish() { return JsonbValueToJsonb(value_); }

private:
#if PG_VERSION_NUM >= 190000
    JsonbInState state_ = {};
#else
    JsonbParseState *state_ = nullptr;
#endif
    JsonbValue *value_ = nullptr;
};

// What the server's statistics say of a process; numbers begin with 1.
inline const PgBackendStatus *backend_status(int number)
{
#if PG_VERSION_NUM >= 160000
    const LocalPgBackendStatus *status = pgstat_get_local_beentry_by_index(number);
#else
    const LocalPgBackendStatus *status = pgstat_fetch_stat_local_beentry(number);
#endif
    return status != nullptr ? &status->backendStatus : nullptr;
}

// The transaction of this process in one number, never 0.
inline std::uint64_t own_transaction()
{
    VirtualTransactionId own;
    GET_VXID_FROM_PGPROC(own, *MyProc);
#if PG_VERSION_NUM >= 170000
    const auto process = static_cast<std::uint32_t>(own.procNumber);
#else
    const auto process = static_cast<std::uint32_t>(own.backendId);
#endif
    return (static_cast<std::uint64_t>(own.localTransactionId) << 32U) | process;
}

// Until it has ended.
inline void wait_for_transaction(std::uint64_t number)
{
    VirtualTransactionId other;
    other.localTransactionId = static_cast<LocalTransactionId>(number >> 32U);
#if PG_VERSION_NUM >= 170000
    other.procNumber = static_cast<ProcNumber>(number & 0xffffffffU);
#else
    other.backendId = static_cast<BackendId>(number & 0xffffffffU);
#endif
    (void)VirtualXactLock(other, true);
}

}  // namespace presence::compat
