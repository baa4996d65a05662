// The file that carries heartbeats over a restart: what goes in comes out, and nothing that is not whole is believed.
#include "heartbeat_file.h"

#include "crc32c.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace presence {
namespace {

constexpr std::uint64_t this_system = 7'000'000'000'000'000'001U;
constexpr FileHeader file_header{.system_identifier = this_system, .wall_us = -12'345};

using Bytes = std::vector<std::byte>;

FileRecord record(std::uint64_t number)
{
    return {.key = {.hi = number * 3, .lo = ~number},
            .row_id = (number << 40U) + number,
            .beat_ms = number * 7,
            .wall_us = 1'700'000'000'000'000 - static_cast<std::int64_t>(number),
            .interval_ms = static_cast<std::int64_t>(number) * (number % 3 == 0 ? -20 : 10),
            .fingerprints = {.user_agent = 0, .ip_address = 0, .metadata = 0},
            .state = number % 2 == 0 ? SlotState::open : SlotState::closed,
            .status = static_cast<std::uint8_t>(number % 16),
            .active_ms = number * 5};
}

void append(Bytes &file, const FileBlock &block) { file.insert(file.end(), block.begin(), block.end()); }

Bytes file_with_sections_of(std::span<const std::uint64_t> counts)
{
    HeartbeatFileWriter writer(crc32c);
    Bytes file;
    append(file, writer.header(file_header));
    std::uint64_t number = 0;
    std::uint32_t oid = 5;
    for (const std::uint64_t count : counts) {
        append(file, writer.section({.database_oid = oid, .records = count}));
        ++oid;
        for (std::uint64_t i = 0; i < count; ++i)
            append(file, writer.record(record(number++)));
    }
    append(file, writer.footer());
    return file;
}

Bytes small_file()
{
    constexpr std::uint64_t counts[] = {2, 0, 3};
    return file_with_sections_of(counts);
}

FileError check(std::span<const std::byte> file, std::uint64_t system = this_system)
{
    HeartbeatFileReader reader(crc32c, system, file.size());
    reader.feed(file);
    return reader.finish();
}

std::uint32_t crc_of(std::string_view text) { return crc32c(0, std::as_bytes(std::span(text))); }

TEST(Crc32c, MatchesTheKnownValues)
{
    EXPECT_EQ(crc_of(""), 0U);
    EXPECT_EQ(crc_of("123456789"), 0xe3069283U);
    EXPECT_EQ(crc32c(0, Bytes(32, std::byte{0})), 0x8a9136aaU);     // RFC 3720, B.4
    EXPECT_EQ(crc32c(0, Bytes(32, std::byte{0xff})), 0x62a8ab43U);  // RFC 3720, B.4
}

TEST(Crc32c, GoesOverAMessageInPieces)
{
    const std::string_view text = "the quick brown fox jumps over the lazy dog";
    for (std::size_t cut = 0; cut <= text.size(); ++cut) {
        const auto bytes = std::as_bytes(std::span(text));
        EXPECT_EQ(crc32c(crc32c(0, bytes.first(cut)), bytes.subspan(cut)), crc_of(text)) << cut;
    }
}

TEST(HeartbeatFile, GivesBackWhatWasWrittenInPiecesOfAnyLength)
{
    const Bytes file = small_file();
    for (const std::size_t piece :
         {std::size_t{1}, std::size_t{7}, std::size_t{63}, std::size_t{64}, std::size_t{65}, file.size()}) {
        HeartbeatFileReader reader(crc32c, this_system, file.size());
        std::vector<FileSection> sections;
        std::uint64_t records = 0;
        for (std::size_t at = 0; at < file.size(); at += piece) {
            const auto chunk = std::span(file).subspan(at, std::min(piece, file.size() - at));
            const FileError error = reader.feed(
                chunk, [&](const FileSection &section) { sections.push_back(section); },
                [&](const FileSection &section, const FileRecord &is) {
                    const FileRecord should_be = record(records++);
                    EXPECT_EQ(section.database_oid, sections.back().database_oid);
                    EXPECT_EQ(is.key, should_be.key);
                    EXPECT_EQ(is.row_id, should_be.row_id);
                    EXPECT_EQ(is.beat_ms, should_be.beat_ms);
                    EXPECT_EQ(is.wall_us, should_be.wall_us);
                    EXPECT_EQ(is.interval_ms, should_be.interval_ms);
                    EXPECT_EQ(is.fingerprints, should_be.fingerprints);
                    EXPECT_EQ(is.state, should_be.state);
                    EXPECT_EQ(is.status, should_be.status);
                    EXPECT_EQ(is.active_ms, should_be.active_ms);
                });
            ASSERT_EQ(error, FileError::none);
        }
        EXPECT_EQ(reader.finish(), FileError::none);
        EXPECT_EQ(records, 5U);
        ASSERT_EQ(sections.size(), 3U);
        EXPECT_EQ(sections[0].records, 2U);
        EXPECT_EQ(sections[1].records, 0U);
        EXPECT_EQ(sections[2].database_oid, 7U);
        EXPECT_EQ(reader.header().wall_us, file_header.wall_us);
        EXPECT_EQ(reader.header().system_identifier, this_system);
    }
}

TEST(HeartbeatFile, MayHoldNothing)
{
    EXPECT_EQ(check(file_with_sections_of({})), FileError::none);
    EXPECT_EQ(check({}), FileError::truncated);
}

TEST(HeartbeatFile, HasAFixedLayout)
{
    const Bytes file = small_file();
    ASSERT_EQ(file.size(), (1U + 3U + 5U + 1U) * 64U);
    const std::string_view text(reinterpret_cast<const char *>(file.data()), file.size());
    EXPECT_EQ(text.substr(0, 8), "PRESHB1\n");
    EXPECT_EQ(text.substr(8, 8), std::string_view("\2\0\0\0\0\0\0\0", 8));
    EXPECT_EQ(text.substr(64, 16), std::string_view("PRESSEC\n\5\0\0\0\0\0\0\0", 16));
    EXPECT_EQ(text.substr(file.size() - 64, 8), "PRESEND\n");
}

TEST(HeartbeatFile, IsNotBelievedWhenAnyByteHasChanged)
{
    const Bytes good = small_file();
    ASSERT_EQ(check(good), FileError::none);
    for (std::size_t at = 0; at < good.size(); ++at) {
        for (unsigned change = 1; change < 256; ++change) {
            Bytes bad = good;
            bad[at] ^= static_cast<std::byte>(change);
            ASSERT_NE(check(bad), FileError::none) << at << ' ' << change;
        }
    }
}

TEST(HeartbeatFile, IsNotBelievedWhenCutOrContinued)
{
    const Bytes good = small_file();
    for (std::size_t length = 0; length < good.size(); ++length) {
        const auto cut = std::span(good).first(length);
        ASSERT_NE(check(cut), FileError::none) << length;
        // Nor where the length was taken before the file was cut.
        HeartbeatFileReader reader(crc32c, this_system, good.size());
        reader.feed(cut);
        ASSERT_EQ(reader.finish(), FileError::truncated) << length;
    }
    Bytes longer = good;
    for (std::size_t more = 1; more <= 130; ++more) {
        longer.push_back(std::byte{0});
        ASSERT_NE(check(longer), FileError::none) << more;
    }
    // Nor where it grew after its length was taken.
    HeartbeatFileReader reader(crc32c, this_system, good.size());
    reader.feed(longer);
    EXPECT_EQ(reader.finish(), FileError::damaged);
}

TEST(HeartbeatFile, SaysWhatIsWrong)
{
    const Bytes good = small_file();
    EXPECT_EQ(check(good, this_system + 1), FileError::foreign_system);

    Bytes bad = good;
    bad[0] = std::byte{'X'};
    EXPECT_EQ(check(bad), FileError::not_ours);

    bad = good;
    bad[8] = std::byte{1};  // of a version before
    EXPECT_EQ(check(bad), FileError::wrong_version);

    bad = good;
    bad[64 + 16 + 7] = std::byte{0xff};  // the high byte of the first section's count
    EXPECT_EQ(check(bad), FileError::absurd_count);

    bad = good;
    bad[150] ^= std::byte{1};
    EXPECT_EQ(check(bad), FileError::damaged);

    EXPECT_EQ(check(std::span(good).first(good.size() - 64)), FileError::absurd_count);
    EXPECT_EQ(check(std::span(good).first(good.size() - 1)), FileError::truncated);

    for (const FileError error : {FileError::truncated, FileError::not_ours, FileError::wrong_version,
                                  FileError::foreign_system, FileError::absurd_count, FileError::damaged}) {
        EXPECT_FALSE(to_text(error).empty());
        EXPECT_NE(to_text(error), to_text(FileError::none));
    }
}

TEST(HeartbeatFile, SurvivesNonsense)
{
    std::mt19937_64 random(1);
    for (int round = 0; round < 2'000; ++round) {
        Bytes nonsense(random() % 600);
        for (std::byte &byte : nonsense)
            byte = static_cast<std::byte>(random() & 0xffU);
        ASSERT_NE(check(nonsense), FileError::none);
        // And nonsense behind a good beginning.
        Bytes mixed = small_file();
        mixed.resize(64 + random() % 500);
        mixed.insert(mixed.end(), nonsense.begin(), nonsense.end());
        ASSERT_NE(check(mixed), FileError::none);
    }
}

}  // namespace
}  // namespace presence
