// CRC-32C as its definition has it, for the tests of the core; the extension uses the server's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace presence {

inline std::uint32_t crc32c(std::uint32_t crc, std::span<const std::byte> bytes)
{
    static const auto table = [] {
        std::array<std::uint32_t, 256> made{};
        for (std::uint32_t byte = 0; byte < made.size(); ++byte) {
            made.at(byte) = byte;
            for (int bit = 0; bit < 8; ++bit)
                made.at(byte) = (made.at(byte) >> 1U) ^ ((made.at(byte) & 1U) != 0 ? 0x82f63b78U : 0U);
        }
        return made;
    }();
    crc = ~crc;
    for (const std::byte byte : bytes)
        crc = (crc >> 8U) ^ table[(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xffU];
    return ~crc;
}

}  // namespace presence
