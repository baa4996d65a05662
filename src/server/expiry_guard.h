// presence.expiry_guard: when more than that share of all sessions falls silent at once, the application has probably lost the
// database, not the people their tabs. Their ends are held by moving the moment from which silence counts (heartbeat_floor())
// along with the clock: so everybody stays online for every reader, and has a full timeout to be heard once it stops.
#pragma once

#include "shared.h"

namespace presence {

// Looks at all sessions of this database, and holds the ends or lets them happen. In how many milliseconds to look again;
// PG_UINT64_MAX: not before the setting changes.
std::uint64_t guard_expiry();

// For presence_health. since: 0 where nothing is held.
struct HeldEnds {
    TimestampTz since;
    std::uint64_t silent;
};
HeldEnds held_ends();

}  // namespace presence
