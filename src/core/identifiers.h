// What may serve as the id of a user or session.
#pragma once

#include <cstddef>
#include <string_view>

namespace presence {

inline constexpr std::size_t max_id_bytes = 255;

enum class IdFault { none, empty, too_long, control_character };

// Bytes below 0x20, DEL, and in UTF-8 also U+0080 to U+009F.
inline IdFault check_id(std::string_view id, bool utf8) noexcept
{
    if (id.empty())
        return IdFault::empty;
    if (id.size() > max_id_bytes)
        return IdFault::too_long;
    for (std::size_t i = 0; i < id.size(); ++i) {
        const auto byte = static_cast<unsigned char>(id[i]);
        if (byte < 0x20 || byte == 0x7f)
            return IdFault::control_character;
        if (utf8 && byte == 0xc2 && i + 1 < id.size() && static_cast<unsigned char>(id[i + 1]) < 0xa0)
            return IdFault::control_character;
    }
    return IdFault::none;
}

}  // namespace presence
