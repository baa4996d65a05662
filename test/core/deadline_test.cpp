// How long a session may be silent: one rule, in any unit.
#include "deadline.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace presence {
namespace {

constexpr std::int64_t second = 1'000'000;

TEST(EffectiveTimeout, IsTheGreaterOfTimeoutAndTwiceThePromiseWithinTheBound)
{
    constexpr std::int64_t timeout = 120 * second;
    EXPECT_EQ(effective_timeout(timeout, 3'600 * second, std::int64_t{0}), timeout);
    EXPECT_EQ(effective_timeout(timeout, 3'600 * second, 30 * second), timeout);
    EXPECT_EQ(effective_timeout(timeout, 3'600 * second, 120 * second), 240 * second);  // a hidden tab: four minutes
    EXPECT_EQ(effective_timeout(timeout, 3'600 * second, 86'400 * second), 3'600 * second);
    EXPECT_EQ(effective_timeout(timeout, 60 * second, std::int64_t{0}), 60 * second);
}

TEST(EffectiveTimeout, IsThatOfThePolicyWithinTheBound)
{
    EXPECT_EQ(effective_timeout(120 * second, 3'600 * second, -5 * second), 5 * second);
    EXPECT_EQ(effective_timeout(120 * second, 3'600 * second, -600 * second), 600 * second);
    EXPECT_EQ(effective_timeout(120 * second, 3'600 * second, -86'400 * second), 3'600 * second);
}

TEST(Deadline, CountsFromTheHeartbeatButNotFromBeforeTheFloor)
{
    EXPECT_EQ(deadline(1'000, 0, 120), 1'120);
    EXPECT_EQ(deadline(1'000, 900, 120), 1'120);
    EXPECT_EQ(deadline(1'000, 5'000, 120), 5'120);
}

TEST(Deadline, IsTheSameInMicrosecondsAndInMilliseconds)
{
    for (const std::int64_t interval : {0, 30, 60, 90, 4'000, -5, -600, -4'000}) {
        const auto of = [interval](auto unit) {
            using Number = decltype(unit);
            const auto in_unit = [unit](auto n) { return static_cast<Number>(n) * unit; };
            return deadline(in_unit(100), in_unit(40),
                            effective_timeout(in_unit(120), in_unit(3'600), in_unit(interval)));
        };
        EXPECT_EQ(of(std::int64_t{1'000'000}), of(std::int64_t{1'000}) * 1'000);
    }
}

}  // namespace
}  // namespace presence
