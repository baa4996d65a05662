// Which ids are taken.
#include "identifiers.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace presence {
namespace {

TEST(Identifier, IsOneTo255Bytes)
{
    EXPECT_EQ(check_id("", true), IdFault::empty);
    EXPECT_EQ(check_id("a", true), IdFault::none);
    EXPECT_EQ(check_id(" ", true), IdFault::none);
    EXPECT_EQ(check_id(std::string(255, 'x'), true), IdFault::none);
    EXPECT_EQ(check_id(std::string(256, 'x'), true), IdFault::too_long);
}

TEST(Identifier, HasNoControlCharacterAnywhere)
{
    for (int byte = 0; byte < 128; ++byte) {
        const bool control = byte < 0x20 || byte == 0x7f;
        const char c = static_cast<char>(byte);
        for (const std::string &id : {std::string(1, c), std::string("a") + c, c + std::string("a")})
            EXPECT_EQ(check_id(id, true), control ? IdFault::control_character : IdFault::none) << byte;
    }
}

TEST(Identifier, KnowsTheControlCharactersOfUnicodeOnlyInUtf8)
{
    EXPECT_EQ(check_id("a\xc2\x80", true), IdFault::control_character);
    EXPECT_EQ(check_id("a\xc2\x9f", true), IdFault::control_character);
    EXPECT_EQ(check_id("a\xc2\x9f", false), IdFault::none);
    EXPECT_EQ(check_id("a\xc2\xa0", true), IdFault::none);      // no-break space
    EXPECT_EQ(check_id("J\xc3\x9crgen", true), IdFault::none);  // a continuation byte below a0 after another lead byte
    EXPECT_EQ(check_id("a\xc2", false), IdFault::none);
}

}  // namespace
}  // namespace presence
