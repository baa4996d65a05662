// How long a session may be silent: the one place that says so, for the rows (in microseconds) and for the cache (in
// milliseconds). All arguments of a call are in the same unit, and its times share an epoch.
#pragma once

#include <algorithm>
#include <concepts>

namespace presence {

// The greater of the timeout and twice the session's own interval, within the upper bound. A session whose policy has a timeout
// goes by that alone, whatever it promises: this is what the interval is then, below 0.
template <std::signed_integral Number>
[[nodiscard]] constexpr Number effective_timeout(Number timeout, Number max_timeout, Number heartbeat_interval) noexcept
{
    return std::min(heartbeat_interval < 0 ? -heartbeat_interval : std::max(timeout, 2 * heartbeat_interval),
                    max_timeout);
}

// The last moment at which a session is not stale yet. floor: when the server began to accept heartbeats without knowing
// the earlier ones. Nobody counts as silent for a time in which nobody could be heard.
template <std::integral Number>
[[nodiscard]] constexpr Number deadline(Number heartbeat, Number floor, Number timeout) noexcept
{
    return std::max(heartbeat, floor) + timeout;
}

}  // namespace presence
