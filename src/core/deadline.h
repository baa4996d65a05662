// How long a session may be silent. Said here and nowhere else, for the microseconds of the rows as for the milliseconds of
// the cache: all arguments of a call are in one unit, and all its times of one epoch.
#pragma once

#include <algorithm>
#include <concepts>

namespace presence {

// The greater of the timeout and twice the interval that the session promised, within the upper bound.
template <std::integral Number>
[[nodiscard]] constexpr Number effective_timeout(Number timeout, Number max_timeout, Number heartbeat_interval) noexcept
{
    return std::min(std::max(timeout, 2 * heartbeat_interval), max_timeout);
}

// The last moment at which silence is still within that. floor: when the server began to accept heartbeats without knowing
// the earlier ones, so that nobody is called silent for a time in which nobody could be heard.
template <std::integral Number>
[[nodiscard]] constexpr Number deadline(Number heartbeat, Number floor, Number timeout) noexcept
{
    return std::max(heartbeat, floor) + timeout;
}

}  // namespace presence
