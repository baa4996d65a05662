#include "outage.h"

#include <gtest/gtest.h>

using namespace presence;

TEST(Outage, WhoeverHasMissedAHeartbeatIsSilent)
{
    EXPECT_FALSE(is_silent(0, 120));
    EXPECT_FALSE(is_silent(80, 120));
    EXPECT_TRUE(is_silent(81, 120));
    EXPECT_FALSE(is_silent(1, 1));
    EXPECT_TRUE(is_silent(2, 1));
}

TEST(Outage, IsMoreThanTheShare)
{
    EXPECT_FALSE(is_outage({.sessions = 0, .silent = 0}, 0.5));
    EXPECT_FALSE(is_outage({.sessions = 10, .silent = 5}, 0.5));
    EXPECT_TRUE(is_outage({.sessions = 10, .silent = 6}, 0.5));
    EXPECT_FALSE(is_outage({.sessions = 10, .silent = 10}, 1.0));
}

TEST(Outage, HoldsUntilItIsOverOrHasLastedTooLong)
{
    using enum GuardState;
    EXPECT_EQ(next_guard_state(watching, false, 0, 100), watching);
    // How long it had held in an outage before says nothing.
    EXPECT_EQ(next_guard_state(watching, true, 1000, 100), holding);
    EXPECT_EQ(next_guard_state(holding, true, 100, 100), holding);
    EXPECT_EQ(next_guard_state(holding, false, 50, 100), watching);
    EXPECT_EQ(next_guard_state(holding, true, 101, 100), given_up);
    // Not again in the same outage.
    EXPECT_EQ(next_guard_state(given_up, true, 1000, 100), given_up);
    EXPECT_EQ(next_guard_state(given_up, false, 1000, 100), watching);
}
