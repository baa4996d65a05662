// The one way by which this project includes the server's headers: standard headers first, because the server redefines
// printf and friends, and everything as C. Nothing else lives here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

extern "C" {
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inet.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"
#include "utils/wait_event.h"
}

// Entry points are the only symbols that others see; 15 does not export them by itself.
#define PRESENCE_FUNCTION(name)                                                    \
    _Pragma("GCC visibility push(default)") extern "C" {                           \
    PG_FUNCTION_INFO_V1(name);                                                     \
    }                                                                              \
    _Pragma("GCC visibility pop") extern "C" Datum name([[maybe_unused]] PG_FUNCTION_ARGS)

namespace presence {

inline std::string_view text_view(const text *value)
{
    return {VARDATA_ANY(value), static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value))};
}

inline text *make_text(std::string_view value) { return cstring_to_text_with_len(value.data(), static_cast<int>(value.size())); }

} // namespace presence
