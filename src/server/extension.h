// Which extension this database has, and the way to its tables: by their oids, which are those of the extension's members
// and not of whatever has their names; and as their owner, with search_path pinned, by plans that are prepared once per
// session. No rule and no SQL text of any one feature lives here.
#pragma once

#include "server.h"

namespace presence {

// The tables that are reached by their oids, and the sequence of presence_event.id.
enum class Table : std::uint8_t {
    user,
    session,
    event,
    feed_range,
    feed_dropped,
    view_pass,
    access,
    event_ids,
    hidden_session,
    room_member,
    room_count,
    policies
};
inline constexpr std::size_t table_count = 12;

struct Extension {
    Oid schema;
    Oid owner;
    Oid tables[table_count];
};

// Looked up once and then again only after a change of the catalogs.
const Extension &extension_of(FunctionCallInfo fcinfo);
// Whether there is one, which then stays until the end of the transaction; for processes in which nobody calls a function.
bool find_extension();
// Of the last extension_of() or find_extension().
Oid table_oid(Table table);
// Whether the role is the owner of the extension, or has its rights.
bool owns_tables(Oid role);
Oid schema_oid();
Oid owner_oid();
inline Oid session_table() { return table_oid(Table::session); }
// The error for tables that are not there, or not as this library expects them.
[[noreturn]] void report_missing_tables();
void watch_catalog();

// Between begin and end: SPI is connected and the role is the owner of the tables. An error in between needs no end.
struct OwnerWork {
    Oid role;
    int security_context;
    int guc_level;
};
OwnerWork begin_owner_work();
// For an entry point, which learns by it of which extension it is.
OwnerWork begin_owner_work(FunctionCallInfo fcinfo);
// The same as another role, with further restrictions.
OwnerWork begin_work_as(Oid role, int restrictions);
void end_owner_work(const OwnerWork &work);

inline constexpr int max_statement_arguments = 14;

// The text with the schema in the place of each "@".
char *with_schema(const char *text);

// "@." in the text stands for the schema.
enum class Access { as_planned, by_index };
struct Statement {
    const char *text;
    int argument_count;
    Oid argument_types[max_statement_arguments];
    // by_index: whatever the planner believes of a table that has grown since it was last analysed.
    Access access = Access::as_planned;
    SPIPlanPtr plan = nullptr;
    char *sql = nullptr;  // the text with the schema in it, as prepared
    std::uint64_t generation = 0;
};

// Runs it with SPI; the rows are in SPI_tuptable. values may be null where there are no arguments.
std::uint64_t run(Statement &statement, Datum *values = nullptr, const char *nulls = nullptr, bool read_only = false);
SPIPlanPtr prepared(Statement &statement);

// Of the first row; or the given value where there is none or it is NULL.
Datum first_value(int column, Datum otherwise = 0);

inline bool may_write() { return !XactReadOnly && !RecoveryInProgress(); }
// An error unless the transaction may write.
void require_writable(const char *function);

}  // namespace presence
