// Keyed hashing of ids and session details: SipHash (Aumasson and Bernstein), fed in pieces, so that texts need not be
// copied into one buffer. Two values are derived from it: the 128-bit key of a session, and the 64-bit fingerprint of a
// detail. The hash key is a secret of the server: who does not know it cannot construct two sessions with the same key.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace presence {

// The server's secret, 16 random bytes, read as two little-endian numbers.
struct HashKey {
    std::uint64_t k0;
    std::uint64_t k1;
};

// Identifies a session outside of its table: the 16 bytes of the hash, `lo` being the first eight.
struct SessionKey {
    std::uint64_t hi;
    std::uint64_t lo;

    friend bool operator==(const SessionKey &, const SessionKey &) = default;
};

// SipHash-c-d, fed in pieces. The result depends only on the bytes, not on how they were cut into pieces. The round
// numbers are parameters so that the published vectors of SipHash-2-4 test the very code that runs as SipHash-1-3.
template <int compression_rounds, int finalization_rounds>
class SipHash {
public:
    enum class Output { bits64, bits128 };

    SipHash(const HashKey &key, Output output) noexcept
        : v0_(key.k0 ^ 0x736f6d6570736575U),
          v1_(key.k1 ^ 0x646f72616e646f6dU ^ (output == Output::bits128 ? 0xeeU : 0U)),
          v2_(key.k0 ^ 0x6c7967656e657261U), v3_(key.k1 ^ 0x7465646279746573U)
    {
    }

    void add(std::string_view bytes) noexcept
    {
        const char *at = bytes.data();
        std::size_t left = bytes.size();
        const unsigned pending_bits = 8U * static_cast<unsigned>(length_ % 8U);
        length_ += left;

        // A word of the message may straddle two pieces: its low bytes wait in pending_.
        if (pending_bits == 0) {
            for (; left >= 8; at += 8, left -= 8)
                compress(load(at));
        } else {
            for (; left >= 8; at += 8, left -= 8) {
                const std::uint64_t word = load(at);
                compress(pending_ | (word << pending_bits));
                pending_ = word >> (64U - pending_bits);
            }
        }

        unsigned filled_bits = pending_bits;
        for (; left > 0; ++at, --left) {
            pending_ |= static_cast<std::uint64_t>(static_cast<unsigned char>(*at)) << filled_bits;
            filled_bits += 8;
            if (filled_bits == 64) {
                compress(pending_);
                pending_ = 0;
                filled_bits = 0;
            }
        }
    }

    // The eight bytes of a number, lowest first.
    void add_u64(std::uint64_t number) noexcept
    {
        const unsigned pending_bits = 8U * static_cast<unsigned>(length_ % 8U);
        length_ += 8;
        if (pending_bits == 0) {
            compress(number);
        } else {
            compress(pending_ | (number << pending_bits));
            pending_ = number >> (64U - pending_bits);
        }
    }

    [[nodiscard]] std::uint64_t finish64() noexcept
    {
        absorb_length();
        v2_ ^= 0xffU;
        return finalize();
    }

    [[nodiscard]] SessionKey finish128() noexcept
    {
        absorb_length();
        v2_ ^= 0xeeU;
        const std::uint64_t lo = finalize();
        v1_ ^= 0xddU;
        const std::uint64_t hi = finalize();
        return {.hi = hi, .lo = lo};
    }

private:
    static std::uint64_t load(const char *at) noexcept
    {
        static_assert(std::endian::native == std::endian::little || std::endian::native == std::endian::big);
        std::uint64_t word = 0;
        std::memcpy(&word, at, sizeof word);
        if constexpr (std::endian::native == std::endian::big)
            word = __builtin_bswap64(word);
        return word;
    }

    void round() noexcept
    {
        v0_ += v1_;
        v1_ = std::rotl(v1_, 13) ^ v0_;
        v0_ = std::rotl(v0_, 32);
        v2_ += v3_;
        v3_ = std::rotl(v3_, 16) ^ v2_;
        v0_ += v3_;
        v3_ = std::rotl(v3_, 21) ^ v0_;
        v2_ += v1_;
        v1_ = std::rotl(v1_, 17) ^ v2_;
        v2_ = std::rotl(v2_, 32);
    }

    void compress(std::uint64_t word) noexcept
    {
        v3_ ^= word;
        for (int i = 0; i < compression_rounds; ++i)
            round();
        v0_ ^= word;
    }

    void absorb_length() noexcept { compress(pending_ | (length_ << 56U)); }

    std::uint64_t finalize() noexcept
    {
        for (int i = 0; i < finalization_rounds; ++i)
            round();
        return v0_ ^ v1_ ^ v2_ ^ v3_;
    }

    std::uint64_t v0_;
    std::uint64_t v1_;
    std::uint64_t v2_;
    std::uint64_t v3_;
    std::uint64_t pending_ = 0;  // the bytes of an unfinished word, lowest first
    std::uint64_t length_ = 0;   // bytes seen; SipHash uses it modulo 256
};

using SipHash13 = SipHash<1, 3>;

// The key of a session. The unnamed session has an empty `session_id`, which no named one can have. The length of the
// user's id goes first, so that no two different pairs of ids give one message.
[[nodiscard]] inline SessionKey session_key(const HashKey &key, std::uint32_t table_oid, std::string_view user_id,
                                            std::string_view session_id) noexcept
{
    SipHash13 hash(key, SipHash13::Output::bits128);
    hash.add_u64((static_cast<std::uint64_t>(user_id.size()) << 32U) | table_oid);
    hash.add(user_id);
    hash.add(session_id);
    return hash.finish128();
}

// Stands for a session's detail (agent, address, metadata) where only "is it still the same?" is asked. Never 0, which
// stands for NULL.
[[nodiscard]] inline std::uint64_t fingerprint(const HashKey &key, std::string_view bytes) noexcept
{
    SipHash13 hash(key, SipHash13::Output::bits64);
    hash.add(bytes);
    const std::uint64_t result = hash.finish64();
    return result == 0 ? 1 : result;
}

}  // namespace presence
