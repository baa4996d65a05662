#include "expiry_guard.h"

#include <algorithm>

#include "cache.h"
#include "settings.h"

namespace presence {

namespace {

// A part of the timeout, so that an outage is noticed before the first session is stale.
constexpr std::uint64_t looks_per_timeout = 16;
constexpr std::uint64_t shortest_pause_ms = 50;

TimestampTz wall_of(std::uint64_t ms)
{
    return GetCurrentTimestamp() - static_cast<TimestampTz>(monotonic_ms() - ms) * 1000;
}

void report(GuardState state, const Silence &silence, std::uint64_t since)
{
    if (state == GuardState::watching)
        ereport(LOG, (errmsg("presence: heartbeats have come back, silent sessions end again")));
    else if (state == GuardState::holding)
        ereport(LOG, (errmsg("presence: %llu of %llu sessions are silent, their ends are held",
                             static_cast<unsigned long long>(silence.silent),
                             static_cast<unsigned long long>(silence.sessions)),
                      errdetail("More than presence.expiry_guard allows have sent no heartbeat."),
                      errhint("See whether the application servers reach the database.")));
    else
        ereport(LOG, (errmsg("presence: silent sessions end again, although heartbeats have not come back"),
                      errdetail("Their ends were held since %s, for longer than presence.max_timeout.",
                                timestamptz_to_str(wall_of(since)))));
}

}  // namespace

std::uint64_t guard_expiry()
{
    SharedDatabase *database = my_database();
    if (database == nullptr)
        return PG_UINT64_MAX;
    HeldExpiry &held = database->held_expiry;
    const auto before = static_cast<GuardState>(pg_atomic_read_u32(&held.state));
    if (expiry_guard <= 0 && before == GuardState::watching)
        return PG_UINT64_MAX;
    const Silence silence = expiry_guard > 0 ? cache_silence() : Silence{};
    const std::uint64_t now = monotonic_ms();
    const std::uint64_t since = pg_atomic_read_u64(&held.since_ms);
    const GuardState state = next_guard_state(before, is_outage(silence, expiry_guard), now - since,
                                              static_cast<std::uint64_t>(max_timeout_ms));
    pg_atomic_write_u64(&held.silent, silence.silent);
    // When it was an outage no longer, the floor stays where it is: everybody has a full timeout from there on.
    if (state == GuardState::holding)
        pg_atomic_write_u64(&held.floor_ms, now);
    else if (state == GuardState::given_up || expiry_guard <= 0)
        pg_atomic_write_u64(&held.floor_ms, 0);
    if (state != before) {
        if (state == GuardState::holding)
            pg_atomic_write_u64(&held.since_ms, now);
        pg_atomic_write_u32(&held.state, static_cast<std::uint32_t>(state));
        report(state, silence, since);
    }
    if (expiry_guard <= 0)
        return PG_UINT64_MAX;
    return std::max(shortest_pause_ms, static_cast<std::uint64_t>(timeout_ms) / looks_per_timeout);
}

HeldEnds held_ends()
{
    SharedDatabase *database = my_database();
    if (database == nullptr ||
        pg_atomic_read_u32(&database->held_expiry.state) != static_cast<std::uint32_t>(GuardState::holding))
        return {};
    return {wall_of(pg_atomic_read_u64(&database->held_expiry.since_ms)),
            pg_atomic_read_u64(&database->held_expiry.silent)};
}

}  // namespace presence
