// How late something was, counted in buckets as Prometheus reads them. Pure values.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace presence {

struct LagHistogram {
    // Upper bounds in microseconds; one more bucket has no bound.
    static constexpr std::array<std::int64_t, 12> bounds = {
        1'000, 5'000, 10'000, 25'000, 50'000, 100'000, 250'000, 500'000, 1'000'000, 2'500'000, 10'000'000, 60'000'000};
    static constexpr std::size_t buckets = bounds.size() + 1;

    std::array<std::uint64_t, buckets> counts = {};
    std::uint64_t sum = 0;  // in microseconds

    [[nodiscard]] static constexpr std::size_t bucket_of(std::int64_t lag) noexcept
    {
        return static_cast<std::size_t>(std::lower_bound(bounds.begin(), bounds.end(), lag) - bounds.begin());
    }

    // Less than none is none.
    constexpr void add(std::int64_t lag) noexcept
    {
        ++counts[bucket_of(lag)];
        sum += static_cast<std::uint64_t>(std::max<std::int64_t>(lag, 0));
    }
};

}  // namespace presence
