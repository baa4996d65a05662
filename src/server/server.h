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
#define PRESENCE_FUNCTION(name)                                                                                        \
    _Pragma("GCC visibility push(default)") extern "C" { PG_FUNCTION_INFO_V1(name); }                                  \
    _Pragma("GCC visibility pop") extern "C" Datum name([[maybe_unused]] PG_FUNCTION_ARGS)

namespace presence {

inline std::string_view text_view(const text *value)
{
    return {VARDATA_ANY(value), static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value))};
}

inline text *make_text(std::string_view value)
{
    return cstring_to_text_with_len(value.data(), static_cast<int>(value.size()));
}

inline Datum text_array(Datum *values, std::size_t count)
{
    return PointerGetDatum(construct_array(values, static_cast<int>(count), TEXTOID, -1, false, TYPALIGN_INT));
}
inline Datum int8_array(Datum *values, std::size_t count)
{
    return PointerGetDatum(
        construct_array(values, static_cast<int>(count), INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE));
}

// The beginning of what was passed, for error messages: whole characters, none of which garbles a log.
inline const char *excerpt(std::string_view value)
{
    constexpr int shown_bytes = 40;
    const int length = pg_mbcliplen(value.data(), static_cast<int>(value.size()), shown_bytes);
    const bool utf8 = GetDatabaseEncoding() == PG_UTF8;
    StringInfoData shown;
    initStringInfo(&shown);
    for (int i = 0; i < length; ++i) {
        const auto byte = static_cast<unsigned char>(value[static_cast<std::size_t>(i)]);
        const bool two_byte_control = utf8 && byte == 0xc2 && i + 1 < length &&
                                      static_cast<unsigned char>(value[static_cast<std::size_t>(i) + 1]) < 0xa0;
        appendStringInfoChar(&shown, byte < 0x20 || byte == 0x7f || two_byte_control ? '?' : static_cast<char>(byte));
        i += two_byte_control;
    }
    if (static_cast<std::size_t>(length) < value.size())
        appendStringInfoString(&shown, "...");
    return shown.data;
}

}  // namespace presence
