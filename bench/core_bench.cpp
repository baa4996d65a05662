// What the operations of the heartbeat cache cost by themselves, without a server around them.
// Usage: core_bench [sessions, default 1000000]
#include "heartbeat_file.h"
#include "heartbeat_shard.h"
#include "siphash.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace presence;

constexpr HashKey secret{.k0 = 0x243f6a8885a308d3U, .k1 = 0x13198a2e03707344U};
constexpr Timeouts timeouts{.timeout_ms = 120'000, .max_timeout_ms = 3'600'000, .floor_ms = 0};
constexpr int rounds = 5;

// The best of a few rounds: what the machine can do when nothing else disturbs.
template <typename Work>
double seconds(Work work)
{
    double best = 1e9;
    for (int round = 0; round < rounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        work();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

SessionEntry entry_of(const SessionKey &key, std::uint64_t row)
{
    return {.key = key,
            .row_id = row,
            .beat_ms = 1'000'000 + row % 30'000,
            .wall_us = 0,
            .interval_ms = 30'000,
            .fingerprints = {},
            .state = SlotState::open,
            .status = 0};
}

}  // namespace

int main(int argc, char **argv)
{
    const auto sessions = static_cast<std::uint32_t>(argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1'000'000UL);
    const double n = sessions;
    std::vector<std::string> users;
    std::vector<SessionKey> keys;
    std::vector<SessionKey> strangers;
    const std::string session = "9b2f1c9e-5d0f-4f3a-8a37-0c6d2b1e7f55";
    for (std::uint32_t i = 0; i < sessions; ++i) {
        users.push_back("00000000-0000-4000-8000-" + std::to_string(100'000'000'000U + i));
        keys.push_back(session_key(secret, 1, users.back(), session));
        strangers.push_back(session_key(secret, 2, users.back(), session));
    }

    // Grown as the server grows it, so that the slack is the real one.
    std::uint32_t capacity = HeartbeatShard::min_capacity;
    const auto block_of = [](std::uint32_t size) {
        return std::make_unique<std::uint64_t[]>(HeartbeatShard::bytes_for(size) / 8);
    };
    auto block = block_of(capacity);
    HeartbeatShard *shard = HeartbeatShard::create(block.get(), capacity);
    for (std::uint32_t i = 0; i < sessions; ++i) {
        while (shard->insert_or_update(entry_of(keys[i], i), timeouts) == HeartbeatShard::Insert::full) {
            capacity = HeartbeatShard::grown_capacity(capacity);
            auto larger = block_of(capacity);
            shard = shard->rebuild_into(larger.get(), capacity);
            block = std::move(larger);
        }
    }

    std::vector<std::uint32_t> order(sessions);
    for (std::uint32_t i = 0; i < sessions; ++i)
        order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(1));

    std::uint64_t now = 1'040'000;
    std::uint64_t sum = 0;
    const double hashing = seconds([&] {
        for (std::uint32_t i = 0; i < sessions; ++i)
            sum += session_key(secret, 1, users[i], session).lo;
    });
    const double beating = seconds([&] {
        ++now;
        for (const std::uint32_t i : order)
            sum += shard->touch(shard->find(session_key(secret, 1, users[i], session)), now, 0, timeouts) ? 1U : 0U;
    });
    const double touching = seconds([&] {
        ++now;
        for (const std::uint32_t i : order)
            sum += shard->touch(shard->find(keys[i]), now, 0, timeouts) ? 1U : 0U;
    });
    const double batching = seconds([&] {
        constexpr std::uint32_t batch = 64;
        std::array<std::uint32_t, batch> slots{};
        ++now;
        for (std::uint32_t begin = 0; begin + batch <= sessions; begin += batch) {
            for (std::uint32_t i = 0; i < batch; ++i)
                shard->prefetch_find(keys[order[begin + i]]);
            for (std::uint32_t i = 0; i < batch; ++i) {
                slots[i] = shard->find(keys[order[begin + i]]);
                shard->prefetch_slot(slots[i]);
            }
            for (const std::uint32_t slot : slots)
                sum += shard->touch(slot, now, 0, timeouts) ? 1U : 0U;
        }
    });
    const double missing = seconds([&] {
        for (const std::uint32_t i : order)
            sum += shard->find(strangers[i]) == HeartbeatShard::no_slot ? 1U : 0U;
    });
    std::array<ExpiredSession, 16> expired{};
    const double scanning = seconds([&] { sum += shard->collect_expired(now, timeouts, expired).found; });
    // Without the checksum, which is the server's.
    HeartbeatFileWriter writer([](std::uint32_t crc, std::span<const std::byte>) { return crc; });
    const double writing = seconds([&] {
        for (std::uint32_t slot = 0; slot < shard->slots_used(); ++slot)
            sum += static_cast<std::uint64_t>(writer.record(shard->entry(slot))[0]);
    });

    std::printf("%-48s %10u\n", "sessions", sessions);
    std::printf("%-48s %10.1f\n", "ns per session key (two uuids)", hashing / n * 1e9);
    std::printf("%-48s %10.1f\n", "ns per heartbeat: key, lookup, touch; random", beating / n * 1e9);
    std::printf("%-48s %10.1f\n", "ns per lookup and touch, random", touching / n * 1e9);
    std::printf("%-48s %10.1f\n", "ns per lookup and touch, in batches of 64", batching / n * 1e9);
    std::printf("%-48s %10.1f\n", "ns per lookup of an unknown session, random", missing / n * 1e9);
    std::printf("%-48s %10.3f\n", "ms per search of all for the silent", scanning * 1e3);
    std::printf("%-48s %10.1f\n", "ns per session written to the file, unchecked", writing / n * 1e9);
    std::printf("%-48s %10.1f\n", "bytes per session", static_cast<double>(HeartbeatShard::bytes_for(capacity)) / n);
    return sum == 0 ? 1U : 0U;
}
