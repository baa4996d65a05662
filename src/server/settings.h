// The extension's settings, as the configuration says them. Defined and checked in settings.cpp; read everywhere.
#pragma once

#include "../core/deadline.h"
#include "../core/rules.h"
#include "server.h"

namespace presence {

enum NotifyLevel : int { notify_none, notify_user, notify_session };

extern int timeout_ms;
extern int max_timeout_ms;
extern int rejoin_guard_ms;
extern int leave_grace_ms;
extern int idle_after_ms;
extern int away_after_ms;
extern double expiry_guard;
extern char *notify_channel;
extern int notify_level;
extern int storm_threshold;
extern int feed_horizon_s;
extern int max_sessions_per_user;
extern int max_users;
extern int max_rooms_per_session;
extern bool room_channels;
extern int max_updates_per_minute;
extern int location_precision;  // characters of a geohash
extern int event_retention_s;
extern int session_retention_s;
extern int user_retention_s;
extern bool reports_enabled;
extern int report_retention_s;
extern int save_interval_s;
extern bool worker_enabled;
extern int max_workers;

void define_settings();

// Whether nobody has changed the timeouts for this session alone.
bool timeouts_are_everybodys();

// Rounded up; nothing for what is less than nothing.
inline std::uint64_t time_to_ms(Time time) { return time <= 0 ? 0 : (static_cast<std::uint64_t>(time) + 999) / 1000; }
inline Time ms_to_time(int ms) { return static_cast<Time>(ms) * 1000; }

inline std::int64_t interval_to_ms(Time interval)
{
    const auto ms = static_cast<std::int64_t>(time_to_ms(interval < 0 ? -interval : interval));
    return interval < 0 ? -ms : ms;
}

// How long a session of that interval may be silent; 0: none promised, below 0: deadline.h.
inline Time effective_timeout(Time heartbeat_interval)
{
    return effective_timeout(ms_to_time(timeout_ms), ms_to_time(max_timeout_ms), heartbeat_interval);
}

inline InactivityLimits<Time> inactivity_limits() { return {ms_to_time(idle_after_ms), ms_to_time(away_after_ms)}; }

inline bool notifications_wanted()
{
    return notify_level != notify_none && notify_channel != nullptr && notify_channel[0] != '\0';
}

}  // namespace presence
