#include "heartbeat_store.h"

#include <algorithm>

#include "../core/heartbeat_file.h"
#include "cache.h"
#include "injection.h"

extern "C" {
#include "pgstat.h"
#include <sys/stat.h>
#include <unistd.h>

#include "port/pg_crc32c.h"
#include "storage/fd.h"
}

namespace presence {

namespace {

constexpr const char *file_name = "pg_stat/presence.heartbeats";
constexpr const char *temporary_name = "pg_stat/presence.heartbeats.tmp";
constexpr std::size_t piece_blocks = 1024;

std::uint32_t server_crc32c(std::uint32_t crc, std::span<const std::byte> bytes)
{
    pg_crc32c state = crc ^ 0xffffffffU;
    COMP_CRC32C(state, bytes.data(), bytes.size());
    FIN_CRC32C(state);
    return state;
}

// Collects blocks and writes them in pieces.
struct Output {
    FILE *file;
    bool failed;
    std::size_t count;
    FileBlock blocks[piece_blocks];

    void flush()
    {
        failed = failed || (count > 0 && fwrite(blocks, file_block_bytes, count, file) != count);
        count = 0;
    }
    void put(const FileBlock &block)
    {
        blocks[count++] = block;
        if (count == piece_blocks)
            flush();
    }
};

struct Saving {
    Output out;
    HeartbeatFileWriter writer;
    std::uint64_t now_ms;
};

void save_database(Saving &saving, SharedDatabase &database)
{
    for (SharedShard &shard : database.shards) {
        std::uint32_t count = 0;
        SessionEntry *entries = cache_copy(shard, count);
        if (count > 0)
            saving.out.put(saving.writer.section({database.database, count}));
        for (std::uint32_t i = 0; i < count; ++i) {
            entries[i].beat_ms = saving.now_ms - std::min(saving.now_ms, entries[i].beat_ms);
            if (entries[i].active_ms != 0)
                entries[i].active_ms = saving.now_ms - std::min(saving.now_ms, entries[i].active_ms) + 1;
            saving.out.put(saving.writer.record(entries[i]));
        }
        if (entries != nullptr)
            pfree(entries);
    }
}

void complain(const char *what)
{
    ereport(LOG, (errcode_for_file_access(), errmsg("could not %s file \"%s\": %m", what, temporary_name)));
}

struct Loading {
    std::uint64_t now_ms;
    std::int64_t since_written_ms;
    std::uint64_t sessions;
    SharedDatabase *database;
};

void restore(Loading &loading, const FileSection &section, const FileRecord &record)
{
    if (loading.database == nullptr || loading.database->database != section.database_oid)
        loading.database = shared_database(section.database_oid, true);
    SessionEntry entry = record;
    entry.state = SlotState::closed;
    entry.fingerprints = HeartbeatShard::closed_by(0);
    const auto time_of = [&loading](std::uint64_t age_then) {
        const std::uint64_t age = age_then + static_cast<std::uint64_t>(loading.since_written_ms);
        return loading.now_ms > age ? loading.now_ms - age : 1;
    };
    entry.beat_ms = time_of(record.beat_ms);
    if (record.active_ms != 0)
        entry.active_ms = time_of(record.active_ms - 1);
    loading.sessions += cache_restore(*loading.database, entry) ? 1 : 0;
}

// Everything through the reader; restoring or not.
void read_all(FILE *file, HeartbeatFileReader &reader, Loading *loading)
{
    static std::byte piece[piece_blocks * file_block_bytes];
    std::size_t got = 0;
    while ((got = fread(piece, 1, sizeof piece, file)) > 0) {
        if (loading == nullptr)
            (void)reader.feed({piece, got});
        else
            (void)reader.feed(
                {piece, got}, [](const FileSection &) {},
                [loading](const FileSection &section, const FileRecord &record) {
                    restore(*loading, section, record);
                });
    }
}

}  // namespace

void save_heartbeats()
{
    FILE *file = AllocateFile(temporary_name, PG_BINARY_W);
    if (file == nullptr) {
        complain("create");
        return;
    }
    auto *saving = static_cast<Saving *>(palloc0(sizeof(Saving)));
    saving->out.file = file;
    saving->writer = HeartbeatFileWriter(server_crc32c);
    saving->now_ms = monotonic_ms();
    saving->out.put(saving->writer.header({GetSystemIdentifier(), GetCurrentTimestamp()}));
    for (SharedDatabase *database : known_databases())
        save_database(*saving, *database);
    saving->out.put(saving->writer.footer());
    saving->out.flush();
    const bool failed = saving->out.failed;
    pfree(saving);
    if (failed || ferror(file) != 0) {
        complain("write");
        (void)FreeFile(file);
        (void)unlink(temporary_name);
        return;
    }
    if (FreeFile(file) != 0) {
        complain("close");
        (void)unlink(temporary_name);
        return;
    }
    PRESENCE_POINT("heartbeats-written");
    (void)durable_rename(temporary_name, file_name, LOG);
    PRESENCE_POINT("heartbeats-renamed");
}

void load_heartbeats()
{
    FILE *file = AllocateFile(file_name, PG_BINARY_R);
    if (file == nullptr) {
        if (errno != ENOENT)
            ereport(LOG, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", file_name)));
        return;
    }
    struct stat about;
    if (fstat(fileno(file), &about) != 0) {
        (void)FreeFile(file);
        return;
    }
    HeartbeatFileReader check(server_crc32c, GetSystemIdentifier(), static_cast<std::uint64_t>(about.st_size));
    read_all(file, check, nullptr);
    FileError error = check.finish();
    if (error == FileError::none && ferror(file) == 0 && fseek(file, 0, SEEK_SET) == 0) {
        HeartbeatFileReader reader(server_crc32c, GetSystemIdentifier(), static_cast<std::uint64_t>(about.st_size));
        // A clock that was set back must not make anybody younger than the file.
        const std::int64_t since = std::max<std::int64_t>(0, GetCurrentTimestamp() - check.header().wall_us);
        Loading loading{monotonic_ms(), since / 1000, 0, nullptr};
        PRESENCE_POINT("heartbeats-checked");
        read_all(file, reader, &loading);
        PRESENCE_POINT("heartbeats-restored");
        ereport(LOG, (errmsg("presence remembers the heartbeats of " UINT64_FORMAT " sessions", loading.sessions)));
    } else {
        const std::string_view why = to_text(error);
        ereport(LOG, (errmsg("ignored file \"%s\": %.*s", file_name, static_cast<int>(why.size()), why.data()),
                      errdetail("Each session counts as heard when the server began to accept heartbeats.")));
    }
    (void)FreeFile(file);
}

}  // namespace presence
