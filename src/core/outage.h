// Whether silence is that of people who have gone, or that of an application that cannot reach the database. Pure rules: how
// the sessions are counted is the cache's affair, what is done about it that of expiry_guard.h.
#pragma once

#include <cstdint>

namespace presence {

// Of all sessions, those that have been silent for most of their timeout.
struct Silence {
    std::uint64_t sessions = 0;
    std::uint64_t silent = 0;
};

// Clients beat at least twice in a timeout, so whoever has been silent for two thirds of it has missed a heartbeat. Told
// before the first of them is stale.
[[nodiscard]] constexpr bool is_silent(std::uint64_t silence, std::uint64_t timeout) noexcept
{
    return silence > timeout - timeout / 3;
}

[[nodiscard]] constexpr bool is_outage(const Silence &silence, double greatest_share) noexcept
{
    return static_cast<double>(silence.silent) > greatest_share * static_cast<double>(silence.sessions);
}

// watching: ends happen in their time. holding: nobody is ended. given_up: the outage has lasted for too long, so ends happen
// although it goes on.
enum class GuardState : std::uint32_t { watching, holding, given_up };

[[nodiscard]] constexpr GuardState next_guard_state(GuardState state, bool outage, std::uint64_t held,
                                                    std::uint64_t longest) noexcept
{
    if (!outage)
        return GuardState::watching;
    if (state == GuardState::watching)
        return GuardState::holding;
    return held > longest ? GuardState::given_up : state;
}

}  // namespace presence
