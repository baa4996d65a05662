// The fuzz targets (test/fuzz) over their corpora, and over each file of them with bytes changed.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "../fuzz/fuzz.h"

#include "../fuzz/heartbeat_file.cpp"
#include "../fuzz/heartbeat_shard.cpp"
#include "../fuzz/identifiers.cpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

std::vector<Bytes> corpus(const std::string &target)
{
    std::vector<Bytes> files;
    for (const auto &entry : std::filesystem::directory_iterator(std::filesystem::path(PRESENCE_CORPUS) / target)) {
        std::ifstream in(entry.path(), std::ios::binary);
        files.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    return files;
}

void replay(const std::string &name, void (*target)(presence::fuzz::Bytes))
{
    std::mt19937 random(1);
    const std::vector<Bytes> files = corpus(name);
    ASSERT_FALSE(files.empty());
    for (const Bytes &file : files) {
        target(file);
        for (int variant = 0; variant < 200; ++variant) {
            Bytes changed = file;
            for (int change = 0; change < 4 && !changed.empty(); ++change)
                changed[random() % changed.size()] = static_cast<std::uint8_t>(random());
            changed.resize(random() % (changed.size() + 16));
            target(changed);
        }
    }
}

TEST(Corpus, Identifiers) { replay("identifiers", presence::fuzz::identifiers); }
TEST(Corpus, HeartbeatFile) { replay("heartbeat_file", presence::fuzz::heartbeat_file); }
TEST(Corpus, HeartbeatShard) { replay("heartbeat_shard", presence::fuzz::heartbeat_shard); }

}  // namespace
