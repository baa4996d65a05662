// The reader of the heartbeat file: reads nothing outside, does not depend on how the file is cut, and what it believes is
// what a writer would have written.
#include "heartbeat_file.h"

#include <algorithm>
#include <vector>

#include "../core/crc32c.h"
#include "fuzz.h"

namespace presence::fuzz {

namespace {

constexpr std::uint64_t this_system = 42;

struct Read {
    FileError error;
    std::vector<std::byte> written_again;
};

Read read_in_pieces(std::span<const std::byte> file, std::size_t piece)
{
    HeartbeatFileReader reader(crc32c, this_system, file.size());
    HeartbeatFileWriter writer(crc32c);
    std::vector<std::byte> body;
    const auto append = [&body](const FileBlock &block) { body.insert(body.end(), block.begin(), block.end()); };
    // The header comes first, but is only known when it has been read.
    std::vector<FileSection> sections;
    std::vector<FileRecord> records;
    for (std::size_t at = 0; at < file.size(); at += piece)
        reader.feed(
            file.subspan(at, std::min(piece, file.size() - at)),
            [&](const FileSection &section) { sections.push_back(section); },
            [&](const FileSection &, const FileRecord &record) { records.push_back(record); });
    const FileError error = reader.finish();
    if (error != FileError::none)
        return {error, {}};
    append(writer.header(reader.header()));
    std::size_t next = 0;
    for (const FileSection &section : sections) {
        append(writer.section(section));
        for (std::uint64_t i = 0; i < section.records; ++i)
            append(writer.record(records.at(next++)));
    }
    append(writer.footer());
    require(next == records.size(), "each record belongs to a section");
    return {error, body};
}

// Else it would keep nearly everything out. Its place is where a footer has that of a header alone.
void repair_checksum(std::vector<std::byte> &file)
{
    HeartbeatFileWriter writer(crc32c);
    const FileBlock header = writer.header({.system_identifier = this_system, .wall_us = 0}), footer = writer.footer();
    const std::uint32_t of_header = crc32c(0, header);
    const std::size_t body = file.size() - file_block_bytes;
    const std::uint32_t of_body = crc32c(0, std::span(file).first(body));
    for (std::size_t at = 0; at + sizeof of_body <= file_block_bytes; ++at)
        if (std::memcmp(footer.data() + at, &of_header, sizeof of_header) == 0)
            std::memcpy(file.data() + body + at, &of_body, sizeof of_body);
}

}  // namespace

void heartbeat_file(Bytes bytes)
{
    if (bytes.empty())
        return;
    const std::size_t piece = bytes[0] + 1U;
    std::vector<std::byte> file(bytes.size() - 1);
    std::transform(bytes.begin() + 1, bytes.end(), file.begin(), [](std::uint8_t byte) { return std::byte{byte}; });
    if (piece % 2 == 0 && file.size() >= 2 * file_block_bytes && file.size() % file_block_bytes == 0)
        repair_checksum(file);
    const Read whole = read_in_pieces(file, file.size() + 1), cut = read_in_pieces(file, piece);
    require(whole.error == cut.error, "how it is cut does not matter");
    require(!to_text(whole.error).empty() || whole.error == FileError::none, "each error has a text");
    if (whole.error != FileError::none)
        return;
    require(whole.written_again == cut.written_again, "nor for what is in it");
}

}  // namespace presence::fuzz

PRESENCE_FUZZ_TARGET(heartbeat_file)
