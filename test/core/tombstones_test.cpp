#include "tombstones.h"

#include <gtest/gtest.h>

#include <memory>

namespace presence {
namespace {

SessionKey key(std::uint64_t lo, std::uint64_t hi = 1)
{
    SessionKey made{};
    made.lo = lo;
    made.hi = hi;
    return made;
}

class TombstonesTest : public testing::Test {
protected:
    std::unique_ptr<Tombstones> table = std::make_unique<Tombstones>();

    [[nodiscard]] bool contains(const SessionKey &wanted, std::uint64_t now_ms) const
    {
        return table->find(wanted, now_ms).goodbye == Goodbye::committed;
    }
};

TEST_F(TombstonesTest, HoldsAKeyUntilItsTimeIsOver)
{
    EXPECT_FALSE(contains(key(7), 100));
    table->add(key(7), 100, 200);
    EXPECT_TRUE(contains(key(7), 199));
    EXPECT_FALSE(contains(key(7), 200));
    EXPECT_FALSE(contains(key(7, 2), 150));
}

TEST_F(TombstonesTest, ASecondGoodbyeLengthensTheFirst)
{
    table->add(key(7), 100, 200);
    table->add(key(7), 150, 250);
    table->add(key(7), 160, 170);
    EXPECT_TRUE(contains(key(7), 249));
    EXPECT_FALSE(contains(key(7), 250));
}

TEST_F(TombstonesTest, WhereItIsFullTheOneThatIsOverFirstGivesWay)
{
    for (std::uint64_t way = 0; way < Tombstones::ways; ++way)
        table->add(key(way * Tombstones::buckets), 100, 200 + way);
    table->add(key(Tombstones::ways * Tombstones::buckets), 100, 300);
    EXPECT_FALSE(contains(key(0), 150));
    for (std::uint64_t way = 1; way <= Tombstones::ways; ++way)
        EXPECT_TRUE(contains(key(way * Tombstones::buckets), 150)) << way;
}

TEST_F(TombstonesTest, AnAnnouncedGoodbyeNamesItsTransaction)
{
    table->announce(key(7), 100, 41, Goodbye::announced);
    table->announce(key(7), 100, 42, Goodbye::announced);
    EXPECT_EQ(table->find(key(7), 1000000).goodbye, Goodbye::announced);
    table->announce(key(7), 100, 42, Goodbye::pending);
    EXPECT_EQ(table->find(key(7), 1000000).goodbye, Goodbye::pending);
    EXPECT_EQ(table->find(key(7), 1000000).owner, 42U);
    table->take_back(key(7), 42);
    EXPECT_EQ(table->find(key(7), 1000000).owner, 41U);
    table->take_back(key(7), 41);
    EXPECT_EQ(table->find(key(7), 1000000).goodbye, Goodbye::none);
}

TEST_F(TombstonesTest, ACommittedGoodbyeCountsBeforeOthers)
{
    table->announce(key(7), 100, 42, Goodbye::pending);
    table->add(key(7), 100, 200);
    EXPECT_TRUE(contains(key(7), 150));
    table->take_back(key(7), 42);
    EXPECT_TRUE(contains(key(7), 150));
    EXPECT_EQ(table->find(key(7), 200).goodbye, Goodbye::none);
}

TEST_F(TombstonesTest, ClearForgetsAll)
{
    table->add(key(7), 100, 200);
    table->clear();
    EXPECT_FALSE(contains(key(7), 150));
}

}  // namespace
}  // namespace presence
