// The shard of the heartbeat cache: each operation by itself, long random histories against a naive model, and
// heartbeats from several threads at once.
#include "heartbeat_shard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace presence {
namespace {

constexpr Timeouts two_minutes{.timeout_ms = 120'000, .max_timeout_ms = 3'600'000, .floor_ms = 0};

// A shard in memory of its own, which grows and shrinks as the server's does.
class OwnedShard {
public:
    explicit OwnedShard(std::uint32_t capacity = HeartbeatShard::min_capacity)
        : block_(block_for(capacity)), shard_(HeartbeatShard::create(block_.get(), capacity))
    {
    }

    HeartbeatShard *operator->() const { return shard_; }

    bool rebuild(std::uint32_t capacity)
    {
        Block larger = block_for(capacity);
        HeartbeatShard *copy = shard_->rebuild_into(larger.get(), capacity);
        if (copy == nullptr)
            return false;
        block_ = std::move(larger);
        shard_ = copy;
        return true;
    }

    HeartbeatShard::Insert put(const SessionEntry &entry, const Timeouts &timeouts = two_minutes)
    {
        HeartbeatShard::Insert result = shard_->insert_or_update(entry, timeouts);
        if (result == HeartbeatShard::Insert::full) {
            EXPECT_TRUE(rebuild(HeartbeatShard::grown_capacity(shard_->capacity())));
            result = shard_->insert_or_update(entry, timeouts);
        }
        return result;
    }

private:
    // Exactly as many bytes as promised, so that the address sanitizer sees one too many.
    using Block = std::unique_ptr<std::uint64_t[]>;
    static Block block_for(std::uint32_t capacity)
    {
        return std::make_unique<std::uint64_t[]>(HeartbeatShard::bytes_for(capacity) / sizeof(std::uint64_t));
    }

    Block block_;
    HeartbeatShard *shard_;
};

SessionEntry session(std::uint64_t number, std::uint64_t beat_ms = 1000)
{
    return {.key = {.hi = number * 0x9e3779b97f4a7c15U, .lo = number * 0xd6e8feb86659fd93U},
            .row_id = number,
            .beat_ms = beat_ms,
            .wall_us = static_cast<std::int64_t>(beat_ms) * 1000,
            .interval_ms = 0,
            .fingerprints = {.user_agent = number + 1, .ip_address = 0, .metadata = number + 2},
            .state = SlotState::open,
            .status = 1};
}

using Rows = std::vector<std::uint64_t>;

std::vector<std::uint64_t> expired_rows(OwnedShard &shard, std::uint64_t now_ms, const Timeouts &timeouts)
{
    std::array<ExpiredSession, 3> chunk{};  // small, so that searches are resumed
    std::vector<std::uint64_t> rows;
    HeartbeatShard::Scan scan{.found = 0, .resume_at = 0};
    do {
        scan = shard->collect_expired(now_ms, timeouts, chunk, scan.resume_at);
        for (std::uint32_t i = 0; i < scan.found; ++i)
            rows.push_back(chunk.at(i).row_id);
    } while (scan.resume_at != HeartbeatShard::no_slot);
    std::sort(rows.begin(), rows.end());
    return rows;
}

TEST(BeatWord, KeepsItsPartsApart)
{
    for (const std::uint64_t beat : {std::uint64_t{0}, std::uint64_t{1}, beat_word::max_beat_ms}) {
        for (const std::int64_t interval : {0, 10, 30'000, 120'000, 86'400'000, -20, -60'000, -86'400'000}) {
            for (const SlotState state : {SlotState::free, SlotState::open, SlotState::closed}) {
                const std::uint64_t word = beat_word::pack(beat, interval, state);
                EXPECT_EQ(beat_word::beat_ms(word), beat);
                EXPECT_EQ(beat_word::interval_ms(word), interval);
                EXPECT_EQ(beat_word::state(word), state);
                EXPECT_EQ(beat_word::with_beat(word, 77), beat_word::pack(77, interval, state));
                EXPECT_EQ(beat_word::with_state(word, SlotState::closed),
                          beat_word::pack(beat, interval, SlotState::closed));
            }
        }
    }
}

TEST(HeartbeatShard, CountsWhoeverHasMissedAHeartbeat)
{
    OwnedShard shard;
    const auto put = [&](std::uint64_t n, std::uint64_t beat_ms, std::int64_t interval_ms, SlotState state) {
        const SessionEntry entry{.key = {n, n},
                                 .row_id = n,
                                 .beat_ms = beat_ms,
                                 .wall_us = 0,
                                 .interval_ms = interval_ms,
                                 .fingerprints = {},
                                 .state = state,
                                 .status = 0};
        ASSERT_EQ(shard->insert_or_update(entry, two_minutes), HeartbeatShard::Insert::inserted);
    };
    put(1, 1'000'000, 0, SlotState::open);
    put(2, 1'010'000, 0, SlotState::closed);
    put(3, 1'000'000, 120'000, SlotState::open);  // has twice as long
    put(4, 1'200'000, 0, SlotState::open);        // from another processor, a moment ahead
    const auto silent = [&](std::uint64_t now_ms, const Timeouts &timeouts) {
        const Silence found = shard->silence(now_ms, timeouts);
        EXPECT_EQ(found.sessions, shard->count());
        return found.silent;
    };
    EXPECT_EQ(silent(1'080'000, two_minutes), 0U);
    EXPECT_EQ(silent(1'080'001, two_minutes), 1U);
    EXPECT_EQ(silent(1'160'001, two_minutes), 3U);
    Timeouts started = two_minutes;
    started.floor_ms = 1'080'001;
    EXPECT_EQ(silent(1'160'001, started), 0U);
    shard->erase(shard->find({1, 1}));
    EXPECT_EQ(silent(1'160'001, two_minutes), 2U);
}

TEST(BeatWord, RoundsAPromiseUpAndSaturates)
{
    EXPECT_EQ(beat_word::interval_ms(beat_word::pack(0, 1, SlotState::open)), 10);
    EXPECT_EQ(beat_word::interval_ms(beat_word::pack(0, 11, SlotState::open)), 20);
    const std::uint64_t word =
        beat_word::pack(~std::uint64_t{0}, std::numeric_limits<std::int64_t>::max(), SlotState::open);
    EXPECT_EQ(beat_word::beat_ms(word), beat_word::max_beat_ms);
    EXPECT_EQ(beat_word::interval_ms(word), 86'400'000);
    EXPECT_EQ(beat_word::interval_ms(beat_word::pack(0, -1, SlotState::open)), -20);
    EXPECT_EQ(beat_word::interval_ms(beat_word::pack(0, -21, SlotState::open)), -40);
    EXPECT_EQ(beat_word::interval_ms(beat_word::pack(0, std::numeric_limits<std::int64_t>::min(), SlotState::open)),
              -162'744'300);
    EXPECT_EQ(beat_word::state(word), SlotState::open);
}

TEST(BeatWord, DeadlineIsTheGreaterOfTimeoutAndTwicethePromiseWithinTheBound)
{
    const auto deadline = [](std::uint64_t beat, std::int64_t interval, const Timeouts &timeouts) {
        return beat_word::deadline(beat_word::pack(beat, interval, SlotState::open), timeouts);
    };
    EXPECT_EQ(deadline(1000, 0, two_minutes), 121'000U);
    EXPECT_EQ(deadline(1000, 30'000, two_minutes), 121'000U);
    EXPECT_EQ(deadline(1000, 60'000, two_minutes), 121'000U);
    EXPECT_EQ(deadline(1000, 120'000, two_minutes), 241'000U);  // a hidden tab: four minutes
    EXPECT_EQ(deadline(1000, 10'000'000, two_minutes), 3'601'000U);
    EXPECT_EQ(deadline(1000, -5'000, two_minutes), 6'000U);  // a policy's, shorter than the timeout
    EXPECT_EQ(deadline(1000, -600'000, two_minutes), 601'000U);
    EXPECT_EQ(deadline(1000, -10'000'000, two_minutes), 3'601'000U);
    const Timeouts narrow{.timeout_ms = 120'000, .max_timeout_ms = 5'000, .floor_ms = 0};
    EXPECT_EQ(deadline(1000, 0, narrow), 6'000U);
    Timeouts after_crash = two_minutes;
    after_crash.floor_ms = 50'000;
    EXPECT_EQ(deadline(1000, 0, after_crash), 170'000U);
    EXPECT_EQ(deadline(60'000, 0, after_crash), 180'000U);
}

TEST(Shard, StartsEmpty)
{
    OwnedShard shard;
    EXPECT_EQ(shard->count(), 0U);
    EXPECT_EQ(shard->capacity(), HeartbeatShard::min_capacity);
    EXPECT_EQ(shard->find(session(1).key), HeartbeatShard::no_slot);
    EXPECT_EQ(shard->earliest_deadline(two_minutes), HeartbeatShard::no_deadline);
    EXPECT_FALSE(shard->scan_due(beat_word::max_beat_ms, two_minutes));
    EXPECT_TRUE(expired_rows(shard, beat_word::max_beat_ms, two_minutes).empty());
}

TEST(Shard, GivesBackWhatWasPutIn)
{
    OwnedShard shard;
    SessionEntry in = session(7, 5000);
    in.row_id = (std::uint64_t{1} << 60U) - 1;
    in.status = 15;
    in.interval_ms = 120'000;
    in.wall_us = -5;
    in.state = SlotState::closed;
    EXPECT_EQ(shard.put(in), HeartbeatShard::Insert::inserted);
    const std::uint32_t slot = shard->find(in.key);
    ASSERT_NE(slot, HeartbeatShard::no_slot);
    const SessionEntry out = shard->entry(slot);
    EXPECT_EQ(out.key, in.key);
    EXPECT_EQ(out.row_id, in.row_id);
    EXPECT_EQ(out.status, in.status);
    EXPECT_EQ(out.beat_ms, in.beat_ms);
    EXPECT_EQ(out.wall_us, in.wall_us);
    EXPECT_EQ(out.interval_ms, in.interval_ms);
    EXPECT_EQ(out.fingerprints, in.fingerprints);
    EXPECT_EQ(out.state, in.state);
    EXPECT_EQ(shard->slot(slot).row_id(), in.row_id);
    EXPECT_EQ(shard->slot(slot).status(), in.status);
    EXPECT_EQ(shard->interval_ms(slot), in.interval_ms);
}

TEST(Shard, AnUpdateNeverMovesTheTimesBack)
{
    OwnedShard shard;
    EXPECT_EQ(shard.put(session(1, 9000)), HeartbeatShard::Insert::inserted);
    SessionEntry later = session(1, 4000);
    later.status = 3;
    EXPECT_EQ(shard.put(later), HeartbeatShard::Insert::updated);
    const SessionEntry out = shard->entry(shard->find(later.key));
    EXPECT_EQ(out.beat_ms, 9000U);
    EXPECT_EQ(out.wall_us, 9'000'000);
    EXPECT_EQ(out.status, 3);
    EXPECT_EQ(shard->count(), 1U);
}

TEST(Shard, AQueuedOlderHeartbeatDoesNotMoveTheTimeBack)
{
    OwnedShard shard;
    shard.put(session(1, 1000));
    const std::uint32_t slot = shard->find(session(1).key);
    EXPECT_TRUE(shard->touch(slot, 5000, 5'000'000, two_minutes));
    EXPECT_TRUE(shard->touch(slot, 2000, 2'000'000, two_minutes));
    EXPECT_EQ(shard->beat_ms(slot), 5000U);
    EXPECT_EQ(shard->wall_us(slot), 5'000'000);
    // The two clocks are independent: a wall clock that was set back keeps its maximum, the monotonic one goes on.
    EXPECT_TRUE(shard->touch(slot, 6000, 1, two_minutes));
    EXPECT_EQ(shard->beat_ms(slot), 6000U);
    EXPECT_EQ(shard->wall_us(slot), 5'000'000);
}

TEST(Shard, AHeartbeatPastTheDeadlineIsRefused)
{
    OwnedShard shard;
    shard.put(session(1, 1000));
    const std::uint32_t slot = shard->find(session(1).key);
    EXPECT_FALSE(shard->is_stale(slot, 121'000, two_minutes));  // silent for exactly the timeout
    EXPECT_TRUE(shard->is_stale(slot, 121'001, two_minutes));
    EXPECT_FALSE(shard->touch(slot, 121'001, 7'000'000, two_minutes));
    EXPECT_EQ(shard->beat_ms(slot), 1000U);
    EXPECT_EQ(shard->wall_us(slot), 1'000'000);
    EXPECT_TRUE(shard->touch(slot, 121'000, 7'000'000, two_minutes));
}

TEST(Shard, AClosedSessionTakesNoHeartbeatButIsWatched)
{
    OwnedShard shard;
    shard.put(session(1, 1000));
    const std::uint32_t slot = shard->find(session(1).key);
    shard->close(slot, 7);
    EXPECT_FALSE(shard->touch(slot, 2000, 2'000'000, two_minutes));
    EXPECT_EQ(shard->beat_ms(slot), 1000U);
    shard->advance(slot, 3000, 3'000'000);
    shard->advance(slot, 2500, 2'500'000);
    EXPECT_EQ(shard->beat_ms(slot), 3000U);
    EXPECT_EQ(shard->wall_us(slot), 3'000'000);
    EXPECT_EQ(shard->state(slot), SlotState::closed);
    EXPECT_EQ(expired_rows(shard, 123'001, two_minutes), std::vector<std::uint64_t>{1});
    shard->open(slot);
    EXPECT_TRUE(shard->touch(slot, 4000, 4'000'000, two_minutes));
}

TEST(Shard, ReportsFullAndGoesOnAfterGrowing)
{
    OwnedShard shard;
    for (std::uint64_t i = 0; i < HeartbeatShard::min_capacity; ++i)
        EXPECT_EQ(shard->insert_or_update(session(i), two_minutes), HeartbeatShard::Insert::inserted);
    EXPECT_EQ(shard->insert_or_update(session(1000), two_minutes), HeartbeatShard::Insert::full);
    EXPECT_EQ(shard->insert_or_update(session(3), two_minutes), HeartbeatShard::Insert::updated);
    EXPECT_EQ(shard->count(), HeartbeatShard::min_capacity);
    EXPECT_EQ(shard->find(session(1000).key), HeartbeatShard::no_slot);
    shard->count_hits(3);
    shard->count_misses();

    ASSERT_TRUE(shard.rebuild(HeartbeatShard::grown_capacity(shard->capacity())));
    EXPECT_EQ(shard->insert_or_update(session(1000), two_minutes), HeartbeatShard::Insert::inserted);
    for (std::uint64_t i = 0; i < HeartbeatShard::min_capacity; ++i)
        EXPECT_EQ(shard->entry(shard->find(session(i).key)).row_id, i);
    EXPECT_EQ(shard->hits(), 3U);
    EXPECT_EQ(shard->misses(), 1U);
}

TEST(Shard, IsNotRebuiltIntoLessThanItHolds)
{
    OwnedShard shard(1000);
    for (std::uint64_t i = 0; i < 500; ++i)
        shard.put(session(i));
    EXPECT_FALSE(shard.rebuild(499));
    EXPECT_EQ(shard->count(), 500U);
    EXPECT_TRUE(shard.rebuild(500));
    EXPECT_EQ(shard->insert_or_update(session(500), two_minutes), HeartbeatShard::Insert::full);
}

TEST(Shard, ShrinksAfterAMassDepartureAndNotBefore)
{
    OwnedShard shard(10'000);
    for (std::uint64_t i = 0; i < 10'000; ++i)
        shard.put(session(i));
    EXPECT_FALSE(shard->should_shrink());
    std::uint64_t gone = 0;
    while (!shard->should_shrink())
        shard->erase(shard->find(session(gone++).key));
    EXPECT_GT(gone, 5'000U);
    EXPECT_LT(gone, 7'000U);
    ASSERT_TRUE(shard.rebuild(shard->shrunk_capacity()));
    EXPECT_FALSE(shard->should_shrink());
    for (std::uint64_t i = gone; i < 10'000; ++i)
        EXPECT_NE(shard->find(session(i).key), HeartbeatShard::no_slot);
    EXPECT_FALSE(OwnedShard()->should_shrink());  // the smallest stays as it is
}

TEST(Shard, CapacitiesStayWithinTheirLimits)
{
    EXPECT_EQ(HeartbeatShard::grown_capacity(0), 128U);
    EXPECT_EQ(HeartbeatShard::grown_capacity(1000), 1250U);
    EXPECT_EQ(HeartbeatShard::grown_capacity(HeartbeatShard::max_capacity), HeartbeatShard::max_capacity);
    EXPECT_EQ(HeartbeatShard::bytes_for(0), HeartbeatShard::bytes_for(HeartbeatShard::min_capacity));
    EXPECT_EQ(HeartbeatShard::bytes_for(0xffffffffU), HeartbeatShard::bytes_for(HeartbeatShard::max_capacity));
}

TEST(Shard, NeedsAtMost98BytesPerSessionRightAfterGrowing)
{
    for (std::uint32_t capacity = 10'000; capacity < HeartbeatShard::max_capacity / 2;
         capacity = HeartbeatShard::grown_capacity(capacity)) {
        const auto bytes = static_cast<double>(HeartbeatShard::bytes_for(HeartbeatShard::grown_capacity(capacity)));
        EXPECT_LE(bytes / capacity, 98.0) << capacity;
        EXPECT_EQ(HeartbeatShard::bytes_for(capacity) % sizeof(std::uint64_t), 0U);
    }
}

TEST(Shard, ClearForgetsEverything)
{
    OwnedShard shard;
    for (std::uint64_t i = 0; i < 50; ++i)
        shard.put(session(i));
    shard->clear();
    EXPECT_EQ(shard->count(), 0U);
    EXPECT_EQ(shard->slots_used(), 0U);
    EXPECT_EQ(shard->earliest_deadline(two_minutes), HeartbeatShard::no_deadline);
    for (std::uint64_t i = 0; i < 50; ++i)
        EXPECT_EQ(shard->find(session(i).key), HeartbeatShard::no_slot);
    shard.put(session(3));
    EXPECT_EQ(shard->count(), 1U);
}

TEST(Shard, ErasesOnlyWhatIsStillStale)
{
    OwnedShard shard;
    shard.put(session(1, 1000));
    EXPECT_EQ(shard->erase_if_still_stale(session(2).key, 500'000, two_minutes), HeartbeatShard::Erase::absent);
    EXPECT_EQ(shard->erase_if_still_stale(session(1).key, 121'000, two_minutes), HeartbeatShard::Erase::alive);
    ASSERT_TRUE(shard->touch(shard->find(session(1).key), 100'000, 1, two_minutes));
    EXPECT_EQ(shard->erase_if_still_stale(session(1).key, 121'001, two_minutes), HeartbeatShard::Erase::alive);
    EXPECT_EQ(shard->erase_if_still_stale(session(1).key, 220'001, two_minutes), HeartbeatShard::Erase::erased);
    EXPECT_EQ(shard->count(), 0U);
}

// Keys that all want the same place of the index, from its last one on, so that the run wraps around its end.
TEST(Shard, FindsEachOfARunOfCollidingKeysWhicheverIsErased)
{
    constexpr std::uint64_t n = 20;
    const auto colliding = [](std::uint64_t number) {
        SessionEntry entry = session(number);
        entry.key = {.hi = number % 2, .lo = (number << 32U) | 0xfffffffeU | (number % 3 == 0 ? 1U : 0U)};
        return entry;
    };
    for (std::uint64_t erased = 0; erased < n; ++erased) {
        OwnedShard shard;
        for (std::uint64_t i = 0; i < n; ++i)
            shard.put(colliding(i));
        shard->erase(shard->find(colliding(erased).key));
        for (std::uint64_t i = 0; i < n; ++i)
            EXPECT_EQ(shard->find(colliding(i).key) == HeartbeatShard::no_slot, i == erased) << i << ' ' << erased;
    }
}

TEST(Shard, TheBoundLetsTheSearchRest)
{
    OwnedShard shard;
    for (std::uint64_t i = 0; i < 50; ++i)
        shard.put(session(i, 1000 + i));
    EXPECT_EQ(shard->earliest_deadline(two_minutes), 121'000U);
    EXPECT_FALSE(shard->scan_due(121'000, two_minutes));
    EXPECT_TRUE(shard->scan_due(121'001, two_minutes));
    for (std::uint64_t i = 0; i < 50; ++i)
        ASSERT_TRUE(shard->touch(shard->find(session(i).key), 60'000 + i, 1, two_minutes));
    EXPECT_EQ(shard->earliest_deadline(two_minutes), 121'000U);  // lazy: heartbeats do not touch it
    std::array<ExpiredSession, 4> out{};
    const HeartbeatShard::Scan scan = shard->collect_expired(121'001, two_minutes, out);
    EXPECT_EQ(scan.found, 0U);
    EXPECT_EQ(scan.resume_at, HeartbeatShard::no_slot);
    EXPECT_EQ(shard->earliest_deadline(two_minutes), 180'000U);  // raised by the search
    // A shorter promise, a new session: lowered at once.
    shard.put(session(99, 30'000));
    EXPECT_EQ(shard->earliest_deadline(two_minutes), 150'000U);
}

TEST(Shard, TheBoundDoesNotOutliveAChangeOfTheTimeouts)
{
    OwnedShard shard;
    shard.put(session(1, 1000));
    Timeouts shorter = two_minutes;
    shorter.timeout_ms = 5'000;
    EXPECT_TRUE(shard->scan_due(6'001, shorter));
    EXPECT_EQ(expired_rows(shard, 6'001, shorter), std::vector<std::uint64_t>{1});
    // Whoever searches next under the old ones searches once more, too.
    EXPECT_TRUE(shard->scan_due(6'001, two_minutes));
    EXPECT_TRUE(expired_rows(shard, 6'001, two_minutes).empty());
    EXPECT_FALSE(shard->scan_due(6'002, two_minutes));
    // A session that comes in under other timeouts leaves no bound that could be too late for either.
    shard.put(session(2, 1000), shorter);
    EXPECT_TRUE(shard->scan_due(6'001, shorter));
    EXPECT_TRUE(shard->scan_due(6'001, two_minutes));
}

TEST(Shard, ASearchThatIsCutShortDoesNotRaiseTheBound)
{
    OwnedShard shard;
    for (std::uint64_t i = 0; i < 20; ++i)
        shard.put(session(i, i < 10 ? 1000 : 90'000));
    std::array<ExpiredSession, 4> out{};
    HeartbeatShard::Scan scan = shard->collect_expired(150'000, two_minutes, out);
    EXPECT_EQ(scan.found, 4U);
    EXPECT_EQ(scan.resume_at, 4U);
    // Meanwhile, with the lock given up, a session dies that the first part has passed already.
    for (std::uint64_t i = 0; i < 4; ++i)
        EXPECT_EQ(shard->erase_if_still_stale(session(i).key, 150'000, two_minutes), HeartbeatShard::Erase::erased);
    shard.put(session(100, 2'000));
    std::size_t found = 0;
    while (scan.resume_at != HeartbeatShard::no_slot) {
        scan = shard->collect_expired(150'000, two_minutes, out, scan.resume_at);
        found += scan.found;
    }
    EXPECT_EQ(found, 6U);
    EXPECT_TRUE(shard->scan_due(150'000, two_minutes));
}

TEST(Shard, FindsWhoIsInactiveForTooLongAndWhoIsNot)
{
    Timeouts limits = two_minutes;
    limits.inactivity = {.idle_after = 10'000, .away_after = 30'000};
    const auto turning = [&limits](OwnedShard &shard, std::uint64_t now_ms) {
        std::array<ExpiredSession, 8> out{};
        const HeartbeatShard::Scan scan = shard->collect_turning(now_ms, limits, out);
        std::vector<std::uint64_t> rows;
        for (std::uint32_t i = 0; i < scan.found; ++i)
            rows.push_back(out.at(i).row_id);
        EXPECT_EQ(scan.resume_at, HeartbeatShard::no_slot);
        return rows;
    };
    const auto with = [](std::uint64_t number, std::uint64_t active_ms, Status said, Status shown) {
        SessionEntry entry = session(number, 100'000);
        entry.active_ms = active_ms;
        entry.status = pair_code(said, shown);
        return entry;
    };
    OwnedShard shard;
    shard.put(with(1, 0, Status::active, Status::active), limits);  // has never told
    EXPECT_EQ(shard->earliest_turn(limits), HeartbeatShard::no_deadline);
    shard.put(with(2, 95'000, Status::active, Status::active), limits);
    shard.put(with(3, 95'000, Status::busy, Status::busy), limits);
    shard.put(with(4, 80'000, Status::active, Status::idle), limits);
    EXPECT_EQ(shard->earliest_turn(limits), 104'999U);
    EXPECT_EQ(turning(shard, 104'999), Rows{});
    EXPECT_EQ(turning(shard, 105'000), Rows{2});
    EXPECT_EQ(turning(shard, 110'000), (Rows{2, 4}));
    // Activity is rounded to half a second, and only ever moves forward.
    const std::uint32_t slot = shard->find(session(2).key);
    shard->note_activity(slot, 100'250);
    shard->note_activity(slot, 90'000);
    EXPECT_EQ(shard->active_ms(slot), 100'500U);
    EXPECT_FALSE(shard->is_turning(slot, 110'000, limits));
    EXPECT_EQ(turning(shard, 109'000), Rows{});
    EXPECT_EQ(shard->earliest_turn(limits), 109'999U);
    // Who shows idle but has been active is found, too.
    shard->note_activity(shard->find(session(4).key), 105'000);
    EXPECT_EQ(turning(shard, 110'000), Rows{4});
    // Under other limits, a search starts anew; without any, it finds who has turned.
    limits.inactivity = {};
    EXPECT_EQ(shard->earliest_turn(limits), 0U);
    EXPECT_EQ(turning(shard, 110'000), Rows{4});
    ASSERT_TRUE(shard.rebuild(100));
    EXPECT_EQ(shard->entry(shard->find(session(2).key)).active_ms, 100'500U);
    shard->erase(shard->find(session(4).key));
    EXPECT_EQ(turning(shard, 110'000), Rows{});
    EXPECT_EQ(shard->earliest_turn(limits), HeartbeatShard::no_deadline);
}

TEST(Shard, NobodyTurnsForTimeBeforeTheFloor)
{
    Timeouts limits = two_minutes;
    limits.inactivity = {.idle_after = 10'000, .away_after = 0};
    limits.floor_ms = 50'000;
    SessionEntry entry = session(1, 55'000);
    entry.active_ms = 1'000;
    entry.status = pair_code(Status::active, Status::active);
    OwnedShard shard;
    shard.put(entry, limits);
    const std::uint32_t slot = shard->find(entry.key);
    EXPECT_FALSE(shard->is_turning(slot, 59'999, limits));
    EXPECT_TRUE(shard->is_turning(slot, 60'000, limits));
    entry.status = pair_code(Status::active, Status::idle);
    shard.put(entry, limits);
    EXPECT_FALSE(shard->is_turning(slot, 50'000, limits));
}

// A naive shard: a map, and everything looked up by going through all of it.
struct Model {
    std::map<std::uint64_t, SessionEntry> sessions;

    [[nodiscard]] static std::uint64_t deadline(const SessionEntry &entry, const Timeouts &timeouts)
    {
        const std::uint64_t wanted =
            entry.interval_ms < 0 ? static_cast<std::uint64_t>(-entry.interval_ms)
                                  : std::max(timeouts.timeout_ms, 2 * static_cast<std::uint64_t>(entry.interval_ms));
        const std::uint64_t timeout = std::min(wanted, timeouts.max_timeout_ms);
        return std::max(entry.beat_ms, timeouts.floor_ms) + timeout;
    }
    [[nodiscard]] std::uint64_t earliest(const Timeouts &timeouts) const
    {
        std::uint64_t result = HeartbeatShard::no_deadline;
        for (const auto &[number, entry] : sessions)
            result = std::min(result, deadline(entry, timeouts));
        return result;
    }
    [[nodiscard]] std::vector<std::uint64_t> expired(std::uint64_t now_ms, const Timeouts &timeouts) const
    {
        std::vector<std::uint64_t> rows;
        for (const auto &[number, entry] : sessions) {
            if (now_ms > deadline(entry, timeouts))
                rows.push_back(entry.row_id);
        }
        std::sort(rows.begin(), rows.end());
        return rows;
    }
};

class ShardHistory {
public:
    explicit ShardHistory(std::uint64_t seed) : random_(seed)
    {
        timeouts_ = random_timeouts();
        population_ = 1 + pick(600);
    }

    void run(int steps)
    {
        for (int step = 0; step < steps && !testing::Test::HasFatalFailure(); ++step) {
            now_ms_ += pick(40) == 0 ? pick(20'000) : pick(60);
            one_step();
            check_one(pick(population_));
            ASSERT_EQ(shard_->count(), model_.sessions.size());
            // Never later than the truth.
            ASSERT_LE(shard_->earliest_deadline(timeouts_), model_.earliest(timeouts_));
            if (step % 500 == 0)
                check_all();
        }
        check_all();
    }

private:
    std::uint64_t pick(std::uint64_t n) { return random_() % n; }

    Timeouts random_timeouts()
    {
        return {
            .timeout_ms = 1 + pick(30'000), .max_timeout_ms = 1 + pick(60'000), .floor_ms = pick(2) * pick(100'000)};
    }

    // Few different keys' places, so that runs in the index grow long.
    [[nodiscard]] static SessionKey key_of(std::uint64_t number)
    {
        return {.hi = number / 16 % 3, .lo = (number << 20U) | (number % 37)};
    }

    SessionEntry random_entry(std::uint64_t number)
    {
        return {.key = key_of(number),
                .row_id = pick(std::uint64_t{1} << 60U),
                .beat_ms = now_ms_ - pick(std::min<std::uint64_t>(now_ms_, 5'000)),
                .wall_us = static_cast<std::int64_t>(pick(1'000'000)),
                .interval_ms = pick(3) == 0 ? 0 : (static_cast<std::int64_t>(pick(2'000)) - 500) * 20,
                .fingerprints = {.user_agent = random_(), .ip_address = random_(), .metadata = random_()},
                .state = pick(4) == 0 ? SlotState::closed : SlotState::open,
                .status = static_cast<std::uint8_t>(pick(16))};
    }

    void one_step()
    {
        const std::uint64_t number = pick(population_);
        const auto known = model_.sessions.find(number);
        const std::uint32_t slot = shard_->find(key_of(number));
        switch (pick(known == model_.sessions.end() ? 4 : 16)) {
        case 0:
        case 1:
        case 2:
            put(number);
            break;
        case 3:
            search();
            break;
        case 4:
            model_.sessions.erase(known);
            shard_->erase(slot);
            break;
        case 5:
            shard_->close(slot, 7);
            EXPECT_TRUE(shard_->is_closed_by(slot, 7));
            EXPECT_FALSE(shard_->is_closed_by(slot, 8));
            known->second.state = SlotState::closed;
            known->second.fingerprints = HeartbeatShard::closed_by(7);
            break;
        case 6:
            shard_->open(slot);
            known->second.state = SlotState::open;
            break;
        case 7:
            erase_if_stale(number);
            break;
        case 8: {
            const auto wall = static_cast<std::int64_t>(pick(1'000'000));
            shard_->advance(slot, now_ms_, wall);
            heard(known->second, now_ms_, wall);
            break;
        }
        case 9:
            if (pick(50) == 0)
                timeouts_ = random_timeouts();
            if (pick(200) == 0) {
                shard_->clear();
                model_.sessions.clear();
            }
            if (pick(20) == 0) {
                const auto slack = static_cast<std::uint32_t>(pick(100));
                ASSERT_TRUE(shard_.rebuild(shard_->count() + slack));
            }
            if (shard_->should_shrink()) {
                ASSERT_TRUE(shard_.rebuild(shard_->shrunk_capacity()));
            }
            break;
        default:
            touch(slot, known->second);
        }
    }

    void put(std::uint64_t number)
    {
        SessionEntry entry = random_entry(number);
        const auto known = model_.sessions.find(number);
        const HeartbeatShard::Insert result = shard_.put(entry, timeouts_);
        if (known == model_.sessions.end()) {
            ASSERT_EQ(result, HeartbeatShard::Insert::inserted);
        } else {
            ASSERT_EQ(result, HeartbeatShard::Insert::updated);
            entry.beat_ms = std::max(entry.beat_ms, known->second.beat_ms);
            entry.wall_us = std::max(entry.wall_us, known->second.wall_us);
        }
        model_.sessions[number] = entry;
    }

    static void heard(SessionEntry &entry, std::uint64_t now_ms, std::int64_t wall_us)
    {
        entry.beat_ms = std::max(entry.beat_ms, now_ms);
        entry.wall_us = std::max(entry.wall_us, wall_us);
    }

    void touch(std::uint32_t slot, SessionEntry &entry)
    {
        const std::uint64_t at = now_ms_ - pick(std::min<std::uint64_t>(now_ms_, 500));
        const auto wall = static_cast<std::int64_t>(pick(1'000'000));
        const bool expected = entry.state == SlotState::open && at <= Model::deadline(entry, timeouts_);
        ASSERT_EQ(shard_->touch(slot, at, wall, timeouts_), expected);
        if (expected)
            heard(entry, at, wall);
    }

    void search()
    {
        const std::vector<std::uint64_t> expected = model_.expired(now_ms_, timeouts_);
        if (!shard_->scan_due(now_ms_, timeouts_)) {
            ASSERT_TRUE(expected.empty());
        }
        ASSERT_EQ(expired_rows(shard_, now_ms_, timeouts_), expected);
        // A search in one piece leaves the bound at the very minimum.
        std::vector<ExpiredSession> room(expected.size());
        const HeartbeatShard::Scan scan = shard_->collect_expired(now_ms_, timeouts_, room);
        ASSERT_EQ(scan.resume_at, HeartbeatShard::no_slot);
        ASSERT_EQ(shard_->earliest_deadline(timeouts_), model_.earliest(timeouts_));
    }

    void erase_if_stale(std::uint64_t number)
    {
        const auto known = model_.sessions.find(number);
        const bool stale = now_ms_ > Model::deadline(known->second, timeouts_);
        ASSERT_EQ(shard_->erase_if_still_stale(key_of(number), now_ms_, timeouts_),
                  stale ? HeartbeatShard::Erase::erased : HeartbeatShard::Erase::alive);
        if (stale)
            model_.sessions.erase(known);
    }

    void check_one(std::uint64_t number)
    {
        const auto known = model_.sessions.find(number);
        const std::uint32_t slot = shard_->find(key_of(number));
        ASSERT_EQ(slot == HeartbeatShard::no_slot, known == model_.sessions.end());
        if (slot == HeartbeatShard::no_slot)
            return;
        const SessionEntry is = shard_->entry(slot);
        const SessionEntry &should_be = known->second;
        ASSERT_EQ(is.key, should_be.key);
        ASSERT_EQ(is.row_id, should_be.row_id);
        ASSERT_EQ(is.beat_ms, should_be.beat_ms);
        ASSERT_EQ(is.wall_us, should_be.wall_us);
        ASSERT_EQ(is.interval_ms, should_be.interval_ms);
        ASSERT_EQ(is.fingerprints, should_be.fingerprints);
        ASSERT_EQ(is.state, should_be.state);
        ASSERT_EQ(is.status, should_be.status);
        ASSERT_EQ(shard_->deadline(slot, timeouts_), Model::deadline(should_be, timeouts_));
    }

    void check_all()
    {
        for (std::uint64_t number = 0; number < population_; ++number)
            check_one(number);
        std::uint32_t visited = 0;
        for (std::uint32_t slot = 0; slot < shard_->slots_used(); ++slot)
            visited += shard_->state(slot) != SlotState::free ? 1U : 0U;
        ASSERT_EQ(visited, model_.sessions.size());
    }

    std::mt19937_64 random_;
    std::uint64_t now_ms_ = 100'000;
    std::uint64_t population_ = 1;
    Timeouts timeouts_{};
    OwnedShard shard_;
    Model model_;
};

TEST(ShardProperty, BehavesLikeTheNaiveModelInRandomHistories)
{
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
        SCOPED_TRACE(seed);
        ShardHistory(seed).run(3'000);
        if (HasFatalFailure())
            return;
    }
}

TEST(ShardConcurrency, SimultaneousHeartbeatsLeaveTheLatest)
{
    constexpr std::uint64_t sessions = 8;
    constexpr std::uint64_t beats = 30'000;
    constexpr std::uint64_t threads = 4;
    OwnedShard shard;
    for (std::uint64_t i = 0; i < sessions; ++i)
        shard.put(session(i, 1));
    const Timeouts generous{.timeout_ms = 1'000'000, .max_timeout_ms = 1'000'000, .floor_ms = 0};

    std::atomic<bool> go = false;
    std::atomic<std::uint64_t> refused = 0;
    std::vector<std::thread> clients;
    for (std::uint64_t t = 0; t < threads; ++t) {
        clients.emplace_back([&, t] {
            while (!go.load()) {
            }
            std::uint64_t last_seen = 0;
            for (std::uint64_t i = 0; i < beats; ++i) {
                const std::uint32_t slot = shard->find(session(i % sessions).key);
                const std::uint64_t now = 1 + i * threads + t;
                if (!shard->touch(slot, now, static_cast<std::int64_t>(now), generous))
                    ++refused;
                shard->count_hits();
                // Seen by one reader, the time of a session only ever grows.
                if (i % sessions == 0) {
                    const std::uint64_t seen = shard->beat_ms(slot);
                    if (seen < last_seen || seen < now)
                        ++refused;
                    last_seen = seen;
                }
            }
        });
    }
    // Meanwhile somebody searches, as the worker does under the same SHARED lock.
    std::thread worker([&] {
        while (!go.load()) {
        }
        std::array<ExpiredSession, 4> out{};
        for (int i = 0; i < 1000; ++i) {
            if (shard->collect_expired(500, generous, out).found != 0)
                ++refused;
        }
    });
    go = true;
    for (std::thread &client : clients)
        client.join();
    worker.join();

    EXPECT_EQ(refused, 0U);
    EXPECT_EQ(shard->hits(), threads * beats);
    for (std::uint64_t i = 0; i < sessions; ++i) {
        const std::uint32_t slot = shard->find(session(i).key);
        const std::uint64_t last = 1 + (beats - sessions + i) * threads + (threads - 1);
        EXPECT_EQ(shard->beat_ms(slot), last);
        EXPECT_EQ(shard->wall_us(slot), static_cast<std::int64_t>(last));
    }
}

}  // namespace
}  // namespace presence
