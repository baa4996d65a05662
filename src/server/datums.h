// Values between SQL and C++: texts, intervals, arrays, lists, fingerprints, and how a value looks in an error message.
#pragma once

#include "../core/rules.h"
#include "server.h"
#include "settings.h"

namespace presence {

inline constexpr NullableDatum null_datum{0, true};

inline std::string_view text_view(const text *value)
{
    return {VARDATA_ANY(value), static_cast<std::size_t>(VARSIZE_ANY_EXHDR(value))};
}
inline text *make_text(std::string_view value)
{
    // The empty view may point nowhere, from where not even nothing may be copied.
    return cstring_to_text_with_len(value.empty() ? "" : value.data(), static_cast<int>(value.size()));
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

// Palloc'd, grows, dies with its memory context.
template <typename Item, std::size_t first_room = 64>
struct Growing {
    Item *items = nullptr;
    std::size_t count = 0, room = 0;

    void add(const Item &item)
    {
        if (count == room) {
            room = room == 0 ? first_room : 2 * room;
            items = static_cast<Item *>(items == nullptr ? palloc(sizeof(Item) * room)
                                                         : repalloc_huge(items, sizeof(Item) * room));
        }
        items[count++] = item;
    }
    std::span<Item> span() const { return {items, count}; }
};

// A month has 30 days, as in interval comparisons. What is out of range is cut to it, with room to be doubled.
Time interval_time(Datum interval);
// 0: NULL.
inline Time interval_time(const NullableDatum &interval) { return interval.isnull ? 0 : interval_time(interval.value); }

// What the cache compares instead of the values. 0 stands for NULL.
std::uint64_t text_fingerprint(std::string_view value);
// Of a text, inet or jsonb.
std::uint64_t datum_fingerprint(Datum value);
inline std::uint64_t datum_fingerprint(const NullableDatum &value)
{
    return value.isnull ? 0 : datum_fingerprint(value.value);
}
// Of a text, inet or jsonb.
bool same_bytes(Datum a, Datum b);

// How long the text of a document is at least, and how deep its arrays and objects are nested; no further than one of them
// exceeds what is given. Costs no more than that, whatever the document is like.
struct DocumentSize {
    std::size_t bytes;
    int depth;
};
DocumentSize document_size(Jsonb *document, const DocumentSize &most);

// The beginning of what was passed, for error messages: whole characters, none of which garbles a log.
const char *excerpt(std::string_view value);

}  // namespace presence
