#include "lag_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>

using namespace presence;

TEST(LagHistogram, PutsEachLagBelowItsBound)
{
    EXPECT_TRUE(std::is_sorted(LagHistogram::bounds.begin(), LagHistogram::bounds.end()));
    EXPECT_EQ(LagHistogram::bucket_of(0), 0U);
    EXPECT_EQ(LagHistogram::bucket_of(LagHistogram::bounds[0]), 0U);
    EXPECT_EQ(LagHistogram::bucket_of(LagHistogram::bounds[0] + 1), 1U);
    EXPECT_EQ(LagHistogram::bucket_of(LagHistogram::bounds.back()), LagHistogram::bounds.size() - 1);
    EXPECT_EQ(LagHistogram::bucket_of(LagHistogram::bounds.back() + 1), LagHistogram::bounds.size());
}

TEST(LagHistogram, CountsWhatIsEarlyAsNotLate)
{
    LagHistogram histogram;
    histogram.add(-5);
    histogram.add(7'000);
    EXPECT_EQ(histogram.counts[0], 1U);
    EXPECT_EQ(histogram.counts[2], 1U);
    EXPECT_EQ(histogram.sum, 7'000U);
}
