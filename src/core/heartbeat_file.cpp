// Encoding and checking of the heartbeat file; see the header for the layout.
#include "heartbeat_file.h"

#include <algorithm>
#include <concepts>
#include <type_traits>

namespace presence {

namespace {

constexpr std::uint64_t header_magic = 0xa31424853455250U;   // "PRESHB1\n"
constexpr std::uint64_t section_magic = 0xa43455353455250U;  // "PRESSEC\n"
constexpr std::uint64_t footer_magic = 0xa444e4553455250U;   // "PRESEND\n"
constexpr std::uint64_t version = 2;

// The offset of each field. All other bytes are zero, which the reader checks.
namespace header_at {
constexpr std::size_t magic = 0, version = 8, system_identifier = 16, wall_us = 24, end = 32;
}
namespace section_at {
constexpr std::size_t magic = 0, database = 8, records = 16, end = 24;
}
namespace record_at {
constexpr std::size_t key_hi = 0, key_lo = 8, row_and_status = 16, wall_us = 24, age_word = 32, inactivity = 40,
                      end = 48;
}
namespace footer_at {
constexpr std::size_t magic = 0, sections = 8, records = 16, crc = 24, end = 28;
}
static_assert(record_at::end <= file_block_bytes);

template <std::integral Number>
void put(FileBlock &block, std::size_t at, Number value) noexcept
{
    auto rest = static_cast<std::make_unsigned_t<Number>>(value);
    for (std::size_t i = 0; i < sizeof(Number); ++i) {
        block[at + i] = static_cast<std::byte>(rest & 0xffU);
        rest = static_cast<std::make_unsigned_t<Number>>(rest >> 8U);
    }
}

template <std::integral Number>
Number get(const FileBlock &block, std::size_t at) noexcept
{
    std::uint64_t value = 0;
    for (std::size_t i = sizeof(Number); i-- > 0;)
        value = (value << 8U) | std::to_integer<std::uint64_t>(block[at + i]);
    return static_cast<Number>(value);
}

constexpr std::array<std::string_view, 7> error_texts{"it is valid",
                                                      "it is incomplete",
                                                      "it is not a heartbeat file",
                                                      "it was written by another version",
                                                      "it belongs to another database cluster",
                                                      "it claims to hold more than fits into it",
                                                      "it is damaged"};

bool zero_from(const FileBlock &block, std::size_t at) noexcept
{
    return std::all_of(block.begin() + static_cast<std::ptrdiff_t>(at), block.end(),
                       [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

std::string_view to_text(FileError error) noexcept { return error_texts[static_cast<std::size_t>(error)]; }

FileBlock HeartbeatFileWriter::header(const FileHeader &header) noexcept
{
    FileBlock block{};
    put(block, header_at::magic, header_magic);
    put(block, header_at::version, version);
    put(block, header_at::system_identifier, header.system_identifier);
    put(block, header_at::wall_us, header.wall_us);
    *this = HeartbeatFileWriter(checksum_);
    crc_ = checksum_(crc_, block);
    return block;
}

FileBlock HeartbeatFileWriter::section(const FileSection &section) noexcept
{
    FileBlock block{};
    put(block, section_at::magic, section_magic);
    put(block, section_at::database, section.database_oid);
    put(block, section_at::records, section.records);
    ++sections_;
    crc_ = checksum_(crc_, block);
    return block;
}

FileBlock HeartbeatFileWriter::record(const FileRecord &record) noexcept
{
    FileBlock block{};
    put(block, record_at::key_hi, record.key.hi);
    put(block, record_at::key_lo, record.key.lo);
    put(block, record_at::row_and_status, (record.row_id << 4U) | (record.status & 15U));
    put(block, record_at::wall_us, record.wall_us);
    put(block, record_at::age_word, beat_word::pack(record.beat_ms, record.interval_ms, record.state));
    put(block, record_at::inactivity, record.active_ms);
    ++records_;
    crc_ = checksum_(crc_, block);
    return block;
}

FileBlock HeartbeatFileWriter::footer() const noexcept
{
    FileBlock block{};
    put(block, footer_at::magic, footer_magic);
    put(block, footer_at::sections, sections_);
    put(block, footer_at::records, records_);
    put(block, footer_at::crc, crc_);
    return block;
}

HeartbeatFileReader::Block HeartbeatFileReader::fail(FileError error) noexcept
{
    error_ = error;
    return Block::other;
}

HeartbeatFileReader::Block HeartbeatFileReader::take_block() noexcept
{
    if (state_ == State::ended)
        return fail(FileError::damaged);
    if (blocks_left_ == 0)
        return fail(FileError::damaged);  // longer than it was said to be
    --blocks_left_;

    Block taken = Block::other;
    if (state_ == State::at_header)
        taken = take_header();
    else if (state_ == State::at_record)
        taken = take_record();
    else
        taken = take_section_or_footer();
    // The footer does not count itself.
    if (state_ != State::ended)
        crc_ = checksum_(crc_, partial_);
    return taken;
}

HeartbeatFileReader::Block HeartbeatFileReader::take_header() noexcept
{
    if (get<std::uint64_t>(partial_, header_at::magic) != header_magic)
        return fail(FileError::not_ours);
    if (get<std::uint64_t>(partial_, header_at::version) != version)
        return fail(FileError::wrong_version);
    header_.system_identifier = get<std::uint64_t>(partial_, header_at::system_identifier);
    if (header_.system_identifier != system_identifier_)
        return fail(FileError::foreign_system);
    if (!zero_from(partial_, header_at::end))
        return fail(FileError::damaged);
    if (!whole_)
        return fail(FileError::truncated);
    header_.wall_us = get<std::int64_t>(partial_, header_at::wall_us);
    state_ = State::at_section;
    return Block::other;
}

HeartbeatFileReader::Block HeartbeatFileReader::take_section_or_footer() noexcept
{
    const auto magic = get<std::uint64_t>(partial_, 0);
    if (magic == footer_magic) {
        if (get<std::uint64_t>(partial_, footer_at::sections) != sections_ ||
            get<std::uint64_t>(partial_, footer_at::records) != records_ ||
            get<std::uint32_t>(partial_, footer_at::crc) != crc_ || !zero_from(partial_, footer_at::end) ||
            blocks_left_ != 0)
            return fail(FileError::damaged);
        state_ = State::ended;
        return Block::other;
    }
    if (magic != section_magic || !zero_from(partial_, section_at::end))
        return fail(FileError::damaged);
    section_ = {.database_oid = get<std::uint32_t>(partial_, section_at::database),
                .records = get<std::uint64_t>(partial_, section_at::records)};
    // The footer needs a block, too.
    if (blocks_left_ == 0)
        return fail(FileError::truncated);
    if (section_.records > blocks_left_ - 1)
        return fail(FileError::absurd_count);
    ++sections_;
    records_to_come_ = section_.records;
    state_ = records_to_come_ == 0 ? State::at_section : State::at_record;
    return Block::section;
}

HeartbeatFileReader::Block HeartbeatFileReader::take_record() noexcept
{
    const auto row_and_status = get<std::uint64_t>(partial_, record_at::row_and_status);
    const auto word = get<std::uint64_t>(partial_, record_at::age_word);
    const SlotState state = beat_word::state(word);
    if ((state != SlotState::open && state != SlotState::closed) || !zero_from(partial_, record_at::end))
        return fail(FileError::damaged);
    record_ = {.key = {.hi = get<std::uint64_t>(partial_, record_at::key_hi),
                       .lo = get<std::uint64_t>(partial_, record_at::key_lo)},
               .row_id = row_and_status >> 4U,
               .beat_ms = beat_word::beat_ms(word),
               .wall_us = get<std::int64_t>(partial_, record_at::wall_us),
               .interval_ms = beat_word::interval_ms(word),
               .fingerprints = {0, 0, 0},
               .state = state,
               .status = static_cast<std::uint8_t>(row_and_status & 15U),
               .active_ms = get<std::uint64_t>(partial_, record_at::inactivity)};
    ++records_;
    if (--records_to_come_ == 0)
        state_ = State::at_section;
    return Block::record;
}

}  // namespace presence
