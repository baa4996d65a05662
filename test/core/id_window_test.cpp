// The window of ids against a queue whose transactions commit in any order or never.
#include "id_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace presence {
namespace {

std::vector<std::int64_t> holes_of(const IdWindow &window) { return {window.holes().begin(), window.holes().end()}; }

TEST(IdWindow, RemembersWhatWasPassedOverUntilItTurnsUp)
{
    IdWindow window;
    window.passed(std::vector<std::int64_t>{1, 2, 5}, 10, 20, true);
    EXPECT_EQ(window.above(), 5);
    EXPECT_EQ(holes_of(window), (std::vector<std::int64_t>{3, 4}));
    window.passed(std::vector<std::int64_t>{4, 6}, 12, 22, true);
    EXPECT_EQ(holes_of(window), (std::vector<std::int64_t>{3}));
    EXPECT_EQ(window.above(), 6);
}

TEST(IdWindow, ForgetsWhatCanNoLongerTurnUp)
{
    IdWindow window;
    window.passed(std::vector<std::int64_t>{2}, 10, 20, true);
    window.passed({}, 19, 30, true);
    EXPECT_EQ(holes_of(window), (std::vector<std::int64_t>{1}));
    window.passed({}, 20, 30, false);  // it has not looked at everything
    EXPECT_EQ(holes_of(window), (std::vector<std::int64_t>{1}));
    window.passed({}, 20, 30, true);
    EXPECT_TRUE(window.holes().empty());
}

TEST(IdWindow, SearchesEverythingAfterARestartUntilTheOldestHasEnded)
{
    IdWindow window;
    window.restart(100, 50);
    EXPECT_EQ(window.again_up_to(), 100);
    EXPECT_EQ(window.above(), 100);
    window.passed(std::vector<std::int64_t>{7, 101}, 49, 60, true);
    EXPECT_EQ(window.again_up_to(), 100);
    window.passed({}, 50, 60, true);
    EXPECT_EQ(window.again_up_to(), 0);
}

TEST(IdWindow, StartsAgainWhereThereAreTooManyHoles)
{
    const auto window = std::make_unique<IdWindow>();
    const auto far = static_cast<std::int64_t>(IdWindow::most_holes) + 5;
    window->passed(std::vector<std::int64_t>{1, far, far + 1}, 10, 20, true);
    EXPECT_EQ(window->again_up_to(), far);
    EXPECT_EQ(window->above(), far + 1);
    EXPECT_TRUE(window->holes().empty());
}

// Transactions take ids and commit or roll back in random order; passes of random size must take each committed row once.
TEST(IdWindowProperty, TakesEachCommittedRowExactlyOnce)
{
    struct Transaction {
        std::uint64_t number;
        std::vector<std::int64_t> ids;
    };
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        const auto pick = [&](std::uint64_t n) { return random() % n; };
        std::int64_t last_id = 0;
        std::uint64_t next_transaction = 3;
        std::vector<Transaction> running;
        std::set<std::int64_t> visible;
        std::set<std::int64_t> committed;
        std::set<std::int64_t> taken;
        const auto window = std::make_unique<IdWindow>();
        const auto pass = [&](std::size_t limit) {
            const std::set<std::int64_t> holes(window->holes().begin(), window->holes().end());
            std::vector<std::int64_t> found;
            std::uint64_t oldest = next_transaction;
            for (const Transaction &t : running)
                oldest = std::min(oldest, t.number);
            for (const std::int64_t id : visible)
                if (found.size() < limit && (id > window->above() || id <= window->again_up_to() || holes.contains(id)))
                    found.push_back(id);
            for (const std::int64_t id : found) {
                visible.erase(id);
                EXPECT_TRUE(taken.insert(id).second);
            }
            // Meanwhile others have begun.
            window->passed(found, oldest, next_transaction + pick(2), found.size() < limit);
        };
        for (int step = 0; step < 400; ++step) {
            switch (pick(5)) {
            case 0:
                running.push_back({next_transaction++, {}});
                break;
            case 1:
                if (!running.empty())
                    for (std::uint64_t n = pick(pick(40) == 0 ? 6000 : 4); n > 0; --n)
                        running[pick(running.size())].ids.push_back(++last_id);
                break;
            case 2:
                if (!running.empty()) {
                    const std::size_t which = pick(running.size());
                    if (pick(4) != 0)
                        for (const std::int64_t id : running[which].ids)
                            visible.insert(id), committed.insert(id);
                    running.erase(running.begin() + static_cast<std::ptrdiff_t>(which));
                }
                break;
            case 3:
                if (pick(60) == 0)
                    window->restart(last_id, next_transaction);
                break;
            default:
                pass(1 + pick(50));
            }
        }
        for (const Transaction &t : running)
            for (const std::int64_t id : t.ids)
                visible.insert(id), committed.insert(id);
        running.clear();
        while (!visible.empty()) {
            const std::size_t before = taken.size();
            pass(1000);
            ASSERT_GT(taken.size(), before);
        }
        ASSERT_EQ(taken, committed);
        pass(1000);
        next_transaction += 2;
        pass(1000);
        ASSERT_EQ(window->again_up_to(), 0);
        ASSERT_TRUE(window->holes().empty());
    }
}

}  // namespace
}  // namespace presence
