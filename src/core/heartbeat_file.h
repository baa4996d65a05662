// The file that carries heartbeats over a restart: its layout, how it is written and how it is checked. This code only
// converts between bytes in memory and values; files, flushing, clocks and locks are the caller's affair.
//
// The file is a sequence of 64-byte blocks, little-endian throughout:
//
//   header     magic, version, system identifier, wall time of the writer
//   section    database, number of records that follow; a database may have several sections, so that a writer can
//              copy one shard at a time without knowing the total
//   record     one session
//   footer     magic, numbers of sections and records, CRC-32C of all blocks before it
//
// Nothing in it can be trusted before the footer has been checked, so read the file twice: first only to check it.
#pragma once

#include "heartbeat_shard.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace presence {

inline constexpr std::size_t file_block_bytes = 64;
using FileBlock = std::array<std::byte, file_block_bytes>;

// CRC-32C (Castagnoli); the server has a fast one. Start with 0; for a message in pieces, pass on the result of the piece
// before.
using Checksum = std::uint32_t (*)(std::uint32_t crc, std::span<const std::byte> bytes);

struct FileHeader {
    std::uint64_t system_identifier;
    std::int64_t wall_us;  // when it was written
};

struct FileSection {
    std::uint32_t database_oid;
    std::uint64_t records;
};

// In a file, the beat_ms of an entry is its age: how long before the writing the session was last heard, by the
// monotonic clock, whose readings mean nothing to another boot of the machine. The active_ms is one more than the age of
// the last activity. Fingerprints are not carried over: who reads the file makes closed entries, which need none.
using FileRecord = SessionEntry;

enum class FileError : std::uint8_t { none, truncated, not_ours, wrong_version, foreign_system, absurd_count, damaged };
[[nodiscard]] std::string_view to_text(FileError error) noexcept;

// Call header() once, then section() followed by its records, any number of times, then footer(); write what they return.
class HeartbeatFileWriter {
public:
    explicit HeartbeatFileWriter(Checksum checksum) noexcept : checksum_(checksum) {}

    [[nodiscard]] FileBlock header(const FileHeader &header) noexcept;
    [[nodiscard]] FileBlock section(const FileSection &section) noexcept;
    [[nodiscard]] FileBlock record(const FileRecord &record) noexcept;
    [[nodiscard]] FileBlock footer() const noexcept;

private:
    Checksum checksum_;
    std::uint32_t crc_ = 0;
    std::uint64_t sections_ = 0;
    std::uint64_t records_ = 0;
};

// Takes the file in pieces of any length. What it has reported is valid only if finish() returns `none`.
class HeartbeatFileReader {
public:
    HeartbeatFileReader(Checksum checksum, std::uint64_t system_identifier, std::uint64_t file_bytes) noexcept
        : checksum_(checksum), system_identifier_(system_identifier), blocks_left_(file_bytes / file_block_bytes),
          whole_(file_bytes % file_block_bytes == 0)
    {
    }

    // on_section(const FileSection &), on_record(const FileSection &, const FileRecord &). After an error the rest is ignored.
    template <typename OnSection, typename OnRecord>
    FileError feed(std::span<const std::byte> bytes, OnSection &&on_section, OnRecord &&on_record) noexcept
    {
        while (!bytes.empty() && error_ == FileError::none) {
            const std::size_t wanted = file_block_bytes - partial_bytes_;
            const std::size_t taken = wanted < bytes.size() ? wanted : bytes.size();
            std::memcpy(partial_.data() + partial_bytes_, bytes.data(), taken);
            partial_bytes_ += taken;
            bytes = bytes.subspan(taken);
            if (partial_bytes_ < file_block_bytes)
                break;
            partial_bytes_ = 0;
            switch (take_block()) {
            case Block::section:
                on_section(static_cast<const FileSection &>(section_));
                break;
            case Block::record:
                on_record(static_cast<const FileSection &>(section_), static_cast<const FileRecord &>(record_));
                break;
            case Block::other:
                break;
            }
        }
        return error_;
    }

    // The same without reporting anything, for the first pass.
    FileError feed(std::span<const std::byte> bytes) noexcept
    {
        return feed(
            bytes, [](const FileSection &) {}, [](const FileSection &, const FileRecord &) {});
    }

    // Call it at the end of the file.
    [[nodiscard]] FileError finish() const noexcept
    {
        if (error_ != FileError::none)
            return error_;
        return state_ == State::ended && partial_bytes_ == 0 ? FileError::none : FileError::truncated;
    }

    // Known after the first block.
    [[nodiscard]] const FileHeader &header() const noexcept { return header_; }

private:
    enum class State : std::uint8_t { at_header, at_section, at_record, ended };
    enum class Block : std::uint8_t { section, record, other };

    Block take_block() noexcept;
    Block take_header() noexcept;
    Block take_section_or_footer() noexcept;
    Block take_record() noexcept;
    Block fail(FileError error) noexcept;

    Checksum checksum_;
    std::uint64_t system_identifier_;
    std::uint64_t blocks_left_;  // according to the length of the file
    bool whole_;                 // that length is a multiple of the block size
    State state_ = State::at_header;
    FileError error_ = FileError::none;
    std::uint32_t crc_ = 0;
    std::size_t partial_bytes_ = 0;
    std::uint64_t records_to_come_ = 0;  // of this section
    std::uint64_t sections_ = 0;
    std::uint64_t records_ = 0;
    FileHeader header_{};
    FileSection section_{};
    FileRecord record_{};
    FileBlock partial_{};
};

static_assert(sizeof(FileBlock) == file_block_bytes);

}  // namespace presence
