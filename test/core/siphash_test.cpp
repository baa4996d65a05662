// SipHash against published and independently computed results, and what presence makes of it.
#include "siphash.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>

namespace presence {
namespace {

// The inputs of the published vectors: the key 00 01 .. 0f, and messages 00 01 02 .. of growing length.
constexpr HashKey vector_key{.k0 = 0x0706050403020100U, .k1 = 0x0f0e0d0c0b0a0908U};

std::string vector_message(std::size_t length)
{
    std::string message;
    for (std::size_t i = 0; i < length; ++i)
        message.push_back(static_cast<char>(i));
    return message;
}

struct Vector {
    std::size_t length;
    std::string_view hex;
};

// From the reference implementation's vectors.h.
constexpr Vector sip24_64[] = {
    {0, "310e0edd47db6f72"},  {1, "fd67dc93c539f874"},  {2, "5a4fa9d909806c0d"},  {3, "2d7efbd796666785"},
    {4, "b7877127e09427cf"},  {5, "8da699cd64557618"},  {6, "cee3fe586e46c9cb"},  {7, "37d1018bf50002ab"},
    {8, "6224939a79f5f593"},  {9, "b0e4a90bdf82009e"},  {15, "e545be4961ca29a1"}, {16, "db9bc2577fcc2a3f"},
    {31, "42c341d8fa92d832"}, {32, "ce7cf2722f512771"}, {48, "51a9cb9ecba312e6"}, {63, "724506eb4c328a95"},
};
constexpr Vector sip24_128[] = {
    {0, "a3817f04ba25a8e66df67214c7550293"},  {1, "da87c1d86b99af44347659119b22fc45"},
    {2, "8177228da4a45dc7fca38bdef60affe4"},  {3, "9c70b60c5267a94e5f33b6b02985ed51"},
    {4, "f88164c12d9c8faf7d0f6e7c7bcd5579"},  {5, "1368875980776f8854527a07690e9627"},
    {6, "14eeca338b208613485ea0308fd7a15e"},  {7, "a1f1ebbed8dbc153c0b84aa61ff08239"},
    {8, "3b62a9ba6258f5610f83e264f31497b4"},  {9, "264499060ad9baabc47f8b02bb6d71ed"},
    {15, "5493e99933b0a8117e08ec0f97cfc3d9"}, {16, "6ee2a4ca67b054bbfd3315bf85230577"},
    {31, "2939b0183223fafc1723de4f52c43d35"}, {32, "7c3956ca5eeafc3e363e9d556546eb68"},
    {48, "f7e5aef549f782cf379055a608269b16"}, {63, "5150d1772f50834a503e069a973fbd7c"},
};

// From OpenSSL, an implementation of its own: `openssl mac -macopt c-rounds:1 -macopt d-rounds:3 ... SIPHASH`.
constexpr Vector sip13_64[] = {
    {0, "dcc40f055801acab"},  {1, "93ca577df39bf4c9"},  {2, "4dd4c74d029bcb82"},  {3, "fbf7dde7b80af88b"},
    {4, "2883d388605775cf"},  {5, "673b53492fd5f9de"},  {6, "a7229fc5502b0dc5"},  {7, "4011b19b987d92d3"},
    {8, "8e9a298d11959036"},  {9, "e43d066cb38ea425"},  {15, "5699512a6dd820d3"}, {16, "668b907d1add4fcc"},
    {31, "bcd1218c1fdd7023"}, {32, "0db6a7166c7b1581"}, {48, "464c07dff843319f"}, {63, "a8b3bbb76290199d"},
};
constexpr Vector sip13_128[] = {
    {0, "e77ebcb22788a5befd62db6add303001"},  {1, "fc6f370460d3eda85e0573cc2b2ff063"},
    {2, "75787f090569839b855bc9548c6aea95"},  {3, "6bc5ccfa1edcf79f4823187712ebd743"},
    {4, "0c784e71ac2b285a9f8e92e78fbf2c25"},  {5, "f328db89345b620c795229a42695843e"},
    {6, "dcd03d29f743e7100951b0e83985a6f8"},  {7, "1084b923f2aae0c3a62f2ec80848ab77"},
    {8, "aa12fee1d5e3dab4724f16ab35f9c799"},  {9, "81ddb8042cf33994f4720e0094137c42"},
    {15, "c17e5505b2bd526c2921cdec1e7e0109"}, {16, "d0a8d95715518eebb513b0f83d9e1793"},
    {31, "42ea961c5b3c858b17c3e550dfa79010"}, {32, "406c44dee67857b2943160f30c7417d3"},
    {48, "d505f1b75e1a84a603c43583b2ed0308"}, {63, "4c5800e34efe426f079f6b0aa75260ad"},
};

std::string hex(std::uint64_t number)
{  // its bytes, lowest first
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (int i = 0; i < 8; ++i, number >>= 8U) {
        text.push_back(digits[(number >> 4U) & 15U]);
        text.push_back(digits[number & 15U]);
    }
    return text;
}

template <typename Hash>
std::string hash64(std::string_view message)
{
    Hash hash(vector_key, Hash::Output::bits64);
    hash.add(message);
    return hex(hash.finish64());
}

template <typename Hash>
std::string hash128(std::string_view message)
{
    Hash hash(vector_key, Hash::Output::bits128);
    hash.add(message);
    const SessionKey key = hash.finish128();
    return hex(key.lo) + hex(key.hi);
}

TEST(SipHash, MatchesThePublishedVectorsOfSipHash24)
{
    for (const Vector &vector : sip24_64)
        EXPECT_EQ((hash64<SipHash<2, 4>>(vector_message(vector.length))), vector.hex) << vector.length;
    for (const Vector &vector : sip24_128)
        EXPECT_EQ((hash128<SipHash<2, 4>>(vector_message(vector.length))), vector.hex) << vector.length;
}

TEST(SipHash, MatchesAnotherImplementationOfSipHash13)
{
    for (const Vector &vector : sip13_64)
        EXPECT_EQ(hash64<SipHash13>(vector_message(vector.length)), vector.hex) << vector.length;
    for (const Vector &vector : sip13_128)
        EXPECT_EQ(hash128<SipHash13>(vector_message(vector.length)), vector.hex) << vector.length;
}

TEST(SipHash, DoesNotDependOnHowTheMessageIsCut)
{
    for (std::size_t length = 0; length <= 40; ++length) {
        const std::string message = vector_message(length);
        const std::string whole = hash128<SipHash13>(message);
        for (std::size_t first = 0; first <= length; ++first) {
            for (std::size_t second = first; second <= length; ++second) {
                SipHash13 hash(vector_key, SipHash13::Output::bits128);
                hash.add(std::string_view(message).substr(0, first));
                hash.add(std::string_view(message).substr(first, second - first));
                hash.add(std::string_view(message).substr(second));
                const SessionKey key = hash.finish128();
                ASSERT_EQ(hex(key.lo) + hex(key.hi), whole) << length << ' ' << first << ' ' << second;
            }
        }
    }
}

TEST(SipHash, TakesANumberAsItsEightBytes)
{
    constexpr std::uint64_t number = 0x8877665544332211U;
    constexpr std::string_view bytes = "\x11\x22\x33\x44\x55\x66\x77\x88";
    for (std::size_t offset = 0; offset < 9; ++offset) {
        SipHash13 with_number(vector_key, SipHash13::Output::bits64);
        SipHash13 with_bytes(vector_key, SipHash13::Output::bits64);
        for (SipHash13 *hash : {&with_number, &with_bytes}) {
            hash->add(vector_message(offset));
            if (hash == &with_number)
                hash->add_u64(number);
            else
                hash->add(bytes);
            hash->add("tail");
        }
        EXPECT_EQ(with_number.finish64(), with_bytes.finish64()) << offset;
    }
}

struct SessionKeyHash {
    std::size_t operator()(const SessionKey &key) const { return key.lo; }
};

TEST(SessionKey, TellsApartWhatConcatenationWouldConfuse)
{
    const std::array<std::array<std::string_view, 2>, 6> pairs = {
        {{"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"c", "ab"}, {"bc", "a"}, {"a", ""}}};
    std::unordered_set<SessionKey, SessionKeyHash> keys;
    for (const std::uint32_t table : {0U, 1U, 16384U, 0xffffffffU}) {
        for (const auto &[user, session] : pairs)
            EXPECT_TRUE(keys.insert(session_key(vector_key, table, user, session)).second) << user << '/' << session;
    }
}

TEST(SessionKey, NeedsTheSecret)
{
    const SessionKey one = session_key(vector_key, 1, "user", "session");
    EXPECT_EQ(one, session_key(vector_key, 1, "user", "session"));
    EXPECT_NE(one, session_key({.k0 = vector_key.k0 ^ 1U, .k1 = vector_key.k1}, 1, "user", "session"));
    EXPECT_NE(one, session_key({.k0 = vector_key.k0, .k1 = vector_key.k1 ^ 1U}, 1, "user", "session"));
}

TEST(Fingerprint, DiffersWithTheTextAndIsNeverNull)
{
    std::unordered_set<std::uint64_t> seen;
    for (int i = 0; i < 10000; ++i) {
        const std::uint64_t print = fingerprint(vector_key, "Mozilla/5.0 " + std::to_string(i));
        EXPECT_NE(print, 0U);
        EXPECT_TRUE(seen.insert(print).second);
    }
    EXPECT_NE(fingerprint(vector_key, ""), 0U);  // empty is not NULL
    EXPECT_EQ(fingerprint(vector_key, "same"), fingerprint(vector_key, "same"));
}

}  // namespace
}  // namespace presence
