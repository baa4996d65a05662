// Rows of the extension's tables, found, locked, inserted and updated the way the executor does it, but by the oids of the
// tables: no SQL, so no name is resolved and nothing is planned. Isolation levels, waits, unique keys, NOT NULL, HOT
// updates, predicate locks and logical decoding are those of the same SQL statements; triggers do not fire. CHECK constraints
// are for those who write by hand: what is written here is right by construction, to parse them costs more than to write
// the row, and presence_verify() applies them to every row. Lives here: access to rows of any table. Does not live here:
// what the columns of one mean.
//
// A table that is open has memory of the context in which it was opened. Errors need no cleanup.
#pragma once

#include <initializer_list>

#include "datums.h"
#include "extension.h"

extern "C" {
#include "access/genam.h"
#include "access/skey.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
}

namespace presence {

[[noreturn]] void report_concurrent_change(const char *what);

struct OpenTable {
    static constexpr int batch_size = 64;

    Relation relation;
    ResultRelInfo *result;  // with all indexes open
    EState *state;
    TupleTableSlot *found;   // what a scan has found
    TupleTableSlot *locked;  // what lock_row() has locked
    TupleTableSlot *written;
    TupleTableSlot *batch[batch_size];
    int batched;
};

// column_types: what the caller takes the first columns for.
OpenTable *open_for_writing(Table which, std::span<const Oid> column_types);
// Keeps the locks until the end of the transaction. Nothing may be left in the batch.
void close_table(OpenTable *table);

// What a statement is to SQL: from here on, rows of earlier commands are visible, and of other transactions what the
// isolation level allows; the active snapshot is that.
void begin_command();
void end_command();

// The valid btree index on exactly these columns, with or without a predicate. An error where there is none.
Relation index_on(const OpenTable &table, std::initializer_list<AttrNumber> columns, bool partial);
// By the active snapshot, if no other is given. Then index_rescan() and index_getnext_slot(), and index_endscan().
IndexScanDesc begin_index_scan(const OpenTable &table, Relation index, int key_count, Snapshot snapshot = nullptr);

// Rows of a table that is only read, by its index on these columns. An error in between closes it; the lock on the table
// stays until the transaction ends.
struct IndexScan {
    Relation table, index;
    IndexScanDesc scan;
    TupleTableSlot *slot;
};
// Then index_rescan(), and next().
IndexScan begin_reading(Table which, std::initializer_list<AttrNumber> columns, bool partial, int key_count,
                        Snapshot snapshot, LOCKMODE lock = AccessShareLock);
// False: no more. The row is in the slot.
inline bool next(const IndexScan &scan, ScanDirection direction = ForwardScanDirection)
{
    return index_getnext_slot(scan.scan, direction, scan.slot);
}
void end_reading(const IndexScan &scan);

enum class RowLock {
    locked,  // and its latest version is in table.locked
    held,    // by another transaction, and was not to be waited for
    gone,    // deleted since the snapshot
};
// FOR NO KEY UPDATE, of the row in table.found. Under an isolation level with one snapshot, 40001 where the row has changed since.
RowLock lock_row(OpenTable &table, LockWaitPolicy policy);

// A row as it was read, in memory of its own.
template <int count>
struct ReadRow {
    HeapTuple tuple;
    Datum values[count];
    bool nulls[count];

    ReadRow(const OpenTable &table, TupleTableSlot *slot) : tuple(ExecCopySlotHeapTuple(slot))
    {
        // More columns may have been added by hand.
        const TupleDesc shape = RelationGetDescr(table.relation);
        for (int i = 0; i < count; ++i)
            values[i] = heap_getattr(tuple, i + 1, shape, &nulls[i]);
    }
    Datum value(AttrNumber column) const { return values[column - 1]; }
    bool is_null(AttrNumber column) const { return nulls[column - 1]; }
    NullableDatum get(AttrNumber column) const { return {value(column), is_null(column)}; }
    Time time(AttrNumber column) const { return is_null(column) ? 0 : DatumGetTimestampTz(value(column)); }
    bool flag(AttrNumber column) const { return !is_null(column) && DatumGetBool(value(column)); }
    std::string_view words(AttrNumber column) const
    {
        return is_null(column) ? std::string_view{} : text_view(DatumGetTextPP(value(column)));
    }
};

inline ScanKeyData equals(AttrNumber index_column, RegProcedure function, Datum value)
{
    ScanKeyData key;
    ScanKeyInit(&key, index_column, BTEqualStrategyNumber, function, value);
    return key;
}

// Rows to be written: fill tts_values and tts_isnull of what the first function returns, every column of which is NULL, or
// as it was; then call the second. The values need to live until then.

inline void set(TupleTableSlot *row, AttrNumber column, Datum value, bool is_null = false)
{
    row->tts_values[column - 1] = value;
    row->tts_isnull[column - 1] = is_null;
}

// 0: NULL.
inline void set_time(TupleTableSlot *row, AttrNumber column, Time time)
{
    set(row, column, TimestampTzGetDatum(time), time == 0);
}

// ON CONFLICT DO NOTHING. False where another row has a unique key of this one's; under an isolation level with one
// snapshot that is 40001. Waits for whoever is inserting such a row.
TupleTableSlot *new_row(OpenTable &table);
bool insert_unless_present(OpenTable &table);
// Whether another row has a unique key of this one's. Waits like it.
bool is_present(OpenTable &table);
// What insert_unless_present() has inserted, as the command after it.
void take_back_inserted(OpenTable &table);

// Many rows; insert_rows() after the last one.
TupleTableSlot *next_row(OpenTable &table);
void add_row(OpenTable &table);
void insert_rows(OpenTable &table);

// Of a row that the caller has locked, or whose user the caller has locked. Then it knows where the new version is.
TupleTableSlot *next_version(OpenTable &table, HeapTuple row);
void update_row(OpenTable &table, HeapTuple old);
void delete_row(OpenTable &table, HeapTuple row);

}  // namespace presence
