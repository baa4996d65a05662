#include "datums.h"

#include <algorithm>

#include "shared.h"

namespace presence {

namespace {

std::string_view bytes_of(Datum value)
{
    return text_view(reinterpret_cast<const text *>(PG_DETOAST_DATUM_PACKED(value)));
}

}  // namespace

Time interval_time(Datum interval)
{
    const Interval &value = *DatumGetIntervalP(interval);
    const Time days = value.day + static_cast<Time>(value.month) * 30;
    Time sum = 0;
    if (__builtin_mul_overflow(days, USECS_PER_DAY, &sum) || __builtin_add_overflow(sum, value.time, &sum))
        sum = days < 0 || (days == 0 && value.time < 0) ? PG_INT64_MIN : PG_INT64_MAX;
    return std::clamp<Time>(sum, PG_INT64_MIN / 2, PG_INT64_MAX / 2);
}

std::uint64_t text_fingerprint(std::string_view value) { return fingerprint(server_secret(), value); }
std::uint64_t datum_fingerprint(Datum value) { return text_fingerprint(bytes_of(value)); }
bool same_bytes(Datum a, Datum b) { return bytes_of(a) == bytes_of(b); }

const char *excerpt(std::string_view value)
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

DocumentSize document_size(Jsonb *document, const DocumentSize &most)
{
    DocumentSize size{0, 0};
    int depth = 0;
    JsonbIterator *iterator = JsonbIteratorInit(&document->root);
    for (;;) {
        JsonbValue value;
        const JsonbIteratorToken token = JsonbIteratorNext(&iterator, &value, false);
        if (token == WJB_DONE || size.bytes > most.bytes || size.depth > most.depth)
            return size;
        if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT) {
            // A scalar is the only element of an array that is not shown.
            if (token == WJB_BEGIN_ARRAY && value.val.array.rawScalar)
                continue;
            size.depth = std::max(size.depth, ++depth);
            size.bytes += 2;
        } else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT) {
            --depth;
        } else if (value.type == jbvString) {
            size.bytes += static_cast<std::size_t>(value.val.string.len) + 2;
        } else if (value.type == jbvNumeric) {
            char *digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));
            size.bytes += strlen(digits);
            pfree(digits);
        } else {
            size.bytes += 4;  // true, null
        }
    }
}

}  // namespace presence
