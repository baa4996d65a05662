#include "rows.h"

#include <algorithm>

#include "compat.h"

extern "C" {
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "executor/nodeModifyTable.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

// A library that is newer or older than the extension's script must not take one column for another.
void check_columns(const Relation relation, std::span<const Oid> types)
{
    const TupleDesc shape = RelationGetDescr(relation);
    bool as_expected = static_cast<std::size_t>(shape->natts) >= types.size();
    for (std::size_t i = 0; as_expected && i < types.size(); ++i)
        as_expected = TupleDescAttr(shape, static_cast<int>(i))->atttypid == types[i];
    if (!as_expected)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("table \"%s\" does not have the columns that the library of extension \"presence\" expects",
                        RelationGetRelationName(relation)),
                 errhint("Run ALTER EXTENSION presence UPDATE, and restart the server if the library is older.")));
}

TupleTableSlot *empty_row(TupleTableSlot *slot)
{
    ExecClearTuple(slot);
    std::fill_n(slot->tts_isnull, slot->tts_tupleDescriptor->natts, true);
    return slot;
}

// conflict: set where another row has a unique key of this one's; null: that is an error.
void insert_index_entries(OpenTable &table, TupleTableSlot *row, compat::ChangedIndexes changed, bool *conflict)
{
    if (table.result->ri_NumIndices != 0)
        list_free(compat::insert_index_entries(table.result, row, table.state, changed, conflict));
}

void prepare_row(OpenTable &table, TupleTableSlot *row)
{
    ResetPerTupleExprContext(table.state);
    row->tts_tableOid = RelationGetRelid(table.relation);
    const TupleDesc shape = RelationGetDescr(table.relation);
    for (int i = 0; i < shape->natts; ++i)
        if (row->tts_isnull[i] && TupleDescAttr(shape, i)->attnotnull)
            ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
                            errmsg("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
                                   NameStr(TupleDescAttr(shape, i)->attname), RelationGetRelationName(table.relation)),
                            errtablecol(table.relation, i + 1)));
}

bool is_index_on(Relation index, std::initializer_list<AttrNumber> columns, bool partial)
{
    const auto *form = index->rd_index;
    return form->indisvalid && index->rd_rel->relam == BTREE_AM_OID &&
           static_cast<std::size_t>(form->indnkeyatts) == columns.size() &&
           std::equal(columns.begin(), columns.end(), form->indkey.values) &&
           !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr) == partial;
}

[[noreturn]] void report_missing_index(Relation table)
{
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("an index of table \"%s\" is missing", RelationGetRelationName(table)),
             errhint("Create it again as the extension's installation script does, or REINDEX it if it is invalid.")));
}

bool has_conflict(OpenTable &table, TupleTableSlot *row)
{
    ItemPointerData where;
    if (compat::check_unique_keys(table.result, row, table.state, &where))
        return false;
    // The snapshot does not show it, or the caller would not ask.
    if (IsolationUsesXactSnapshot())
        report_concurrent_change("update");
    return true;
}

// Others change rows of a user only with the user locked, unless by hand.
void require_written(TM_Result result)
{
    switch (result) {
    case TM_Ok:
        return;
    case TM_Updated:
        report_concurrent_change("update");
    case TM_Deleted:
        report_concurrent_change("delete");
    case TM_SelfModified:
    default:
        elog(ERROR, "a row could not be written because the current command has changed it");
    }
}

Relation open_index(Relation table, std::initializer_list<AttrNumber> columns, bool partial)
{
    List *indexes = RelationGetIndexList(table);
    ListCell *cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        if (is_index_on(index, columns, partial)) {
            list_free(indexes);
            return index;
        }
        index_close(index, AccessShareLock);
    }
    report_missing_index(table);
}

}  // namespace

void report_concurrent_change(const char *what)
{
    ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                    errmsg("could not serialize access due to concurrent %s", what)));
}

OpenTable *open_for_writing(Table which, std::span<const Oid> column_types)
{
    Relation relation = try_table_open(table_oid(which), RowExclusiveLock);
    if (relation == nullptr)
        report_missing_tables();
    check_columns(relation, column_types);
    CheckCmdReplicaIdentity(relation, CMD_UPDATE);

    auto *table = static_cast<OpenTable *>(palloc0(sizeof(OpenTable)));
    table->relation = relation;
    table->state = CreateExecutorState();
    table->result = makeNode(ResultRelInfo);
    InitResultRelInfo(table->result, relation, 0, nullptr, 0);
    ExecOpenIndices(table->result, true);
    // Only the primary key's entry is the same after an update that needs new entries; nobody else can tell here.
    for (int i = 0; i < table->result->ri_NumIndices; ++i) {
        IndexInfo *info = table->result->ri_IndexRelationInfo[i];
        info->ii_CheckedUnchanged = true;
        info->ii_IndexUnchanged = table->result->ri_IndexRelationDescs[i]->rd_index->indisprimary;
    }
    table->found = table_slot_create(relation, nullptr);
    table->locked = table_slot_create(relation, nullptr);
    table->written = table_slot_create(relation, nullptr);
    return table;
}

void close_table(OpenTable *table)
{
    Assert(table->batched == 0);
    ExecDropSingleTupleTableSlot(table->found);
    ExecDropSingleTupleTableSlot(table->locked);
    ExecDropSingleTupleTableSlot(table->written);
    for (TupleTableSlot *slot : table->batch)
        if (slot != nullptr)
            ExecDropSingleTupleTableSlot(slot);
    ExecCloseIndices(table->result);
    FreeExecutorState(table->state);
    table_close(table->relation, NoLock);
    pfree(table);
}

void begin_command()
{
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
}

void end_command() { PopActiveSnapshot(); }

Relation index_on(const OpenTable &table, std::initializer_list<AttrNumber> columns, bool partial)
{
    for (int i = 0; i < table.result->ri_NumIndices; ++i)
        if (is_index_on(table.result->ri_IndexRelationDescs[i], columns, partial))
            return table.result->ri_IndexRelationDescs[i];
    report_missing_index(table.relation);
}

IndexScan begin_reading(Table which, std::initializer_list<AttrNumber> columns, bool partial, int key_count,
                        Snapshot snapshot, LOCKMODE lock)
{
    Relation table = table_open(table_oid(which), lock);
    Relation index = open_index(table, columns, partial);
    return {table, index, compat::begin_index_scan(table, index, snapshot, key_count),
            table_slot_create(table, nullptr)};
}

void end_reading(const IndexScan &scan)
{
    index_endscan(scan.scan);
    ExecDropSingleTupleTableSlot(scan.slot);
    index_close(scan.index, AccessShareLock);
    table_close(scan.table, NoLock);
}

IndexScanDesc begin_index_scan(const OpenTable &table, Relation index, int key_count, Snapshot snapshot)
{
    return compat::begin_index_scan(table.relation, index, snapshot != nullptr ? snapshot : GetActiveSnapshot(),
                                    key_count);
}

RowLock lock_row(OpenTable &table, LockWaitPolicy policy)
{
    const bool one_snapshot = IsolationUsesXactSnapshot();
    ItemPointerData at = table.found->tts_tid;
    TM_FailureData failure;
    const int flags = TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS | (one_snapshot ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION);
    switch (table_tuple_lock(table.relation, &at, GetActiveSnapshot(), table.locked, GetCurrentCommandId(true),
                             LockTupleNoKeyExclusive, policy, static_cast<uint8>(flags), &failure)) {
    case TM_Ok:
        return RowLock::locked;
    case TM_WouldBlock:
        return RowLock::held;
    case TM_Updated:
        if (one_snapshot)
            report_concurrent_change("update");
        elog(ERROR, "a row could not be locked in its latest version");
    case TM_Deleted:
        if (one_snapshot)
            report_concurrent_change("delete");
        return RowLock::gone;
    // By this transaction, in a command that has not ended: a trigger or function of somebody's runs within ours.
    case TM_SelfModified:
    default:
        elog(ERROR, "a row could not be locked because the current command has changed it");
    }
    pg_unreachable();
}

TupleTableSlot *new_row(OpenTable &table) { return empty_row(table.written); }

TupleTableSlot *next_row(OpenTable &table)
{
    TupleTableSlot *&slot = table.batch[table.batched];
    if (slot == nullptr) {
        MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(&table));
        slot = table_slot_create(table.relation, nullptr);
        MemoryContextSwitchTo(caller);
    }
    return empty_row(slot);
}

TupleTableSlot *next_version(OpenTable &table, HeapTuple row)
{
    ExecClearTuple(table.written);
    heap_deform_tuple(row, RelationGetDescr(table.relation), table.written->tts_values, table.written->tts_isnull);
    return table.written;
}

bool insert_unless_present(OpenTable &table)
{
    TupleTableSlot *row = ExecStoreVirtualTuple(table.written);
    prepare_row(table, row);
    // Hardly ever does another transaction insert the same row just now: the index says so when it gets the entry, and only
    // then is it worthwhile to look first, and to wait.
    for (bool look_first = false;; look_first = true) {
        CHECK_FOR_INTERRUPTS();
        if (look_first && has_conflict(table, row))
            return false;
        const uint32 token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
        table_tuple_insert_speculative(table.relation, row, GetCurrentCommandId(true), 0, nullptr, token);
        bool conflict = false;
        insert_index_entries(table, row, compat::no_indexes, &conflict);
        table_tuple_complete_speculative(table.relation, row, token, !conflict);
        SpeculativeInsertionLockRelease(GetCurrentTransactionId());
        if (!conflict)
            return true;
    }
}

bool is_present(OpenTable &table) { return has_conflict(table, ExecStoreVirtualTuple(table.written)); }

void take_back_inserted(OpenTable &table)
{
    CommandCounterIncrement();
    TM_FailureData failure;
    require_written(compat::delete_row(table.relation, &table.written->tts_tid, GetActiveSnapshot(), true, &failure));
}

void add_row(OpenTable &table)
{
    TupleTableSlot *row = ExecStoreVirtualTuple(table.batch[table.batched]);
    prepare_row(table, row);
    // The values must live until they are inserted, whatever becomes of the caller's.
    ExecMaterializeSlot(row);
    if (++table.batched == OpenTable::batch_size)
        insert_rows(table);
}

void insert_rows(OpenTable &table)
{
    const int count = table.batched;
    table.batched = 0;
    if (count == 0)
        return;
    CHECK_FOR_INTERRUPTS();
    // Compresses and moves out what is large in memory that is reset per row.
    MemoryContext caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(table.state));
    table_multi_insert(table.relation, table.batch, count, GetCurrentCommandId(true), 0, nullptr);
    MemoryContextSwitchTo(caller);
    for (int i = 0; i < count; ++i) {
        ResetPerTupleExprContext(table.state);
        insert_index_entries(table, table.batch[i], compat::no_indexes, nullptr);
        ExecClearTuple(table.batch[i]);
    }
}

void update_row(OpenTable &table, HeapTuple old)
{
    TupleTableSlot *row = ExecStoreVirtualTuple(table.written);
    prepare_row(table, row);
    TM_FailureData failure;
    LockTupleMode mode = LockTupleExclusive;
    compat::ChangedIndexes changed = compat::no_indexes;
    require_written(
        compat::update_row(table.relation, &old->t_self, row, GetActiveSnapshot(), &failure, &mode, &changed));
    if (changed != compat::no_indexes)
        insert_index_entries(table, row, changed, nullptr);
    old->t_self = row->tts_tid;
}

void delete_row(OpenTable &table, HeapTuple row)
{
    TM_FailureData failure;
    require_written(compat::delete_row(table.relation, &row->t_self, GetActiveSnapshot(), true, &failure));
}

}  // namespace presence
