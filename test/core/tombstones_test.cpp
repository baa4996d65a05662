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
};

TEST_F(TombstonesTest, HoldsAKeyUntilItsTimeIsOver)
{
    EXPECT_FALSE(table->contains(key(7), 100));
    table->add(key(7), 100, 200);
    EXPECT_TRUE(table->contains(key(7), 199));
    EXPECT_FALSE(table->contains(key(7), 200));
    EXPECT_FALSE(table->contains(key(7, 2), 150));
}

TEST_F(TombstonesTest, ASecondGoodbyeLengthensTheFirst)
{
    table->add(key(7), 100, 200);
    table->add(key(7), 150, 250);
    table->add(key(7), 160, 170);
    EXPECT_TRUE(table->contains(key(7), 249));
    EXPECT_FALSE(table->contains(key(7), 250));
}

TEST_F(TombstonesTest, WhereItIsFullTheOneThatIsOverFirstGivesWay)
{
    for (std::uint64_t way = 0; way < Tombstones::ways; ++way)
        table->add(key(way * Tombstones::buckets), 100, 200 + way);
    table->add(key(Tombstones::ways * Tombstones::buckets), 100, 300);
    EXPECT_FALSE(table->contains(key(0), 150));
    for (std::uint64_t way = 1; way <= Tombstones::ways; ++way)
        EXPECT_TRUE(table->contains(key(way * Tombstones::buckets), 150)) << way;
}

TEST_F(TombstonesTest, ClearForgetsAll)
{
    table->add(key(7), 100, 200);
    table->clear();
    EXPECT_FALSE(table->contains(key(7), 150));
}

}  // namespace
}  // namespace presence
