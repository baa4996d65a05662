// The status of a session: what it has said, and what is shown instead while nobody touches keyboard or mouse there. The one
// place that says so, for the rows (in microseconds) and for the cache (in milliseconds).
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <limits>

namespace presence {

// In the order of precedence: a user shows the most present status of all sessions.
enum class Status : std::uint8_t { active, busy, idle, away };

// How long a session may be inactive, 0: for ever. Only who has said active turns idle, and only who has said active or idle
// turns away.
template <std::integral Number>
struct InactivityLimits {
    static constexpr Number no_limit = std::numeric_limits<Number>::max();

    Number idle_after = 0;
    Number away_after = 0;  // no sooner than idle

    // From which inactivity on another status is shown than this one.
    [[nodiscard]] constexpr Number until(Status shown) const noexcept
    {
        const Number away = away_after == 0 ? no_limit : std::max(away_after, idle_after);
        if (shown == Status::active)
            return idle_after != 0 ? idle_after : away;
        return shown == Status::idle ? away : no_limit;
    }
    // From which inactivity on it is shown of a session that has said the other one.
    [[nodiscard]] constexpr Number from(Status said, Status shown) const noexcept
    {
        if (said == shown)
            return 0;
        return until(shown == Status::idle ? Status::active : Status::idle);
    }
    [[nodiscard]] constexpr Status shown(Status said, Number inactivity) const noexcept
    {
        if (inactivity < until(said))
            return said;
        return inactivity >= until(Status::idle) ? Status::away : Status::idle;
    }
    // The same of a session that has shown a status so far. observed: as much of the inactivity as the server was there to
    // see. It takes that much to turn, but less than the whole to turn back.
    [[nodiscard]] constexpr Status shown(Status said, Status so_far, Number inactivity, Number observed) const noexcept
    {
        return std::clamp(so_far, shown(said, std::min(observed, inactivity)), shown(said, inactivity));
    }
    friend bool operator==(const InactivityLimits &, const InactivityLimits &) = default;
};

// What a session has said and what it shows, as a number of three bits.
struct StatusPair {
    Status said, shown;
};
inline constexpr std::array<StatusPair, 8> status_pairs{{{Status::active, Status::active},
                                                         {Status::busy, Status::busy},
                                                         {Status::idle, Status::idle},
                                                         {Status::away, Status::away},
                                                         {Status::active, Status::idle},
                                                         {Status::active, Status::away},
                                                         {Status::idle, Status::away},
                                                         {Status::active, Status::active}}};  // not used
[[nodiscard]] constexpr std::uint8_t pair_code(Status said, Status shown) noexcept
{
    if (said == shown)
        return static_cast<std::uint8_t>(said);
    if (said == Status::idle)
        return 6;
    return shown == Status::idle ? 4 : 5;
}

}  // namespace presence
