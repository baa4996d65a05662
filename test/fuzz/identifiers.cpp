// check_id() against the definition: code points, decoded.
#include "identifiers.h"

#include "fuzz.h"

namespace presence::fuzz {

namespace {

// What UTF-8 makes of the bytes at the front: a code point, or -1 for a byte that is no part of one.
std::int32_t code_point(Bytes text, std::size_t &length)
{
    length = 1;
    const std::uint8_t first = text[0];
    if (first < 0x80)
        return first;
    const std::size_t wanted = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || text.size() < wanted)
        return -1;
    auto value = static_cast<std::int32_t>(first & (0x7fU >> wanted));
    for (std::size_t i = 1; i < wanted; ++i) {
        if ((text[i] & 0xc0U) != 0x80)
            return -1;
        value = value << 6 | (text[i] & 0x3f);
    }
    length = wanted;
    return value;
}

bool is_control(std::int32_t point) { return (point >= 0 && point < 0x20) || (point >= 0x7f && point < 0xa0); }

}  // namespace

void identifiers(Bytes bytes)
{
    const std::string_view id(reinterpret_cast<const char *>(bytes.data()), bytes.size());
    bool control_byte = false, control_point = false, valid = true;
    for (const std::uint8_t byte : bytes)
        control_byte |= byte < 0x20 || byte == 0x7f;
    for (std::size_t at = 0, length = 0; at < bytes.size(); at += length) {
        const std::int32_t point = code_point(bytes.subspan(at), length);
        valid &= point >= 0;
        control_point |= is_control(point);
    }
    const IdFault in_utf8 = check_id(id, true), in_others = check_id(id, false);
    if (bytes.empty() || bytes.size() > max_id_bytes) {
        const IdFault expected = bytes.empty() ? IdFault::empty : IdFault::too_long;
        require(in_utf8 == expected && in_others == expected, "the length comes first");
        return;
    }
    require((in_others == IdFault::control_character) == control_byte, "in other encodings, bytes are what counts");
    // The server lets no other text come so far.
    if (valid)
        require((in_utf8 == IdFault::control_character) == control_point, "in UTF-8, code points are");
}

}  // namespace presence::fuzz

PRESENCE_FUZZ_TARGET(identifiers)
