#include "settings.h"

#include <climits>

#include "../core/geohash.h"

namespace presence {

int timeout_ms;
int max_timeout_ms;
int rejoin_guard_ms;
int leave_grace_ms;
int idle_after_ms;
int away_after_ms;
double expiry_guard;
char *notify_channel;
int notify_level;
int storm_threshold;
int feed_horizon_s;
int max_sessions_per_user;
int max_users;
int max_rooms_per_session;
bool room_channels;
int max_updates_per_minute;
int location_precision;
int event_retention_s;
int session_retention_s;
int user_retention_s;
bool reports_enabled;
int report_retention_s;
int save_interval_s;
bool worker_enabled;
int max_workers;

namespace {

const config_enum_entry notify_levels[] = {
    {"none", notify_none, false},
    {"user", notify_user, false},
    {"session", notify_session, false},
    {nullptr, 0, false},
};

// NOTIFY would refuse it in the middle of somebody's heartbeat.
bool check_channel(char **value, void **, GucSource)
{
    if (*value == nullptr || strlen(*value) < NAMEDATALEN)
        return true;
    GUC_check_errdetail("A channel name is shorter than %d bytes.", NAMEDATALEN);
    return false;
}

void define_milliseconds(const char *name, const char *what, int *value, int initial, int lowest)
{
    DefineCustomIntVariable(name, what, nullptr, value, initial, lowest, INT_MAX, PGC_SUSET, GUC_UNIT_MS, nullptr,
                            nullptr, nullptr);
}

void define_seconds(const char *name, const char *what, const char *more, int *value, int initial, int lowest)
{
    DefineCustomIntVariable(name, what, more, value, initial, lowest, INT_MAX, PGC_SUSET, GUC_UNIT_S, nullptr, nullptr,
                            nullptr);
}

bool is_everybodys(const char *name, int value)
{
    const char *initial = GetConfigOptionResetString(name);
    return initial != nullptr && atoi(initial) == value;
}

}  // namespace

bool timeouts_are_everybodys()
{
    return is_everybodys("presence.timeout", timeout_ms) && is_everybodys("presence.max_timeout", max_timeout_ms);
}

void define_settings()
{
    define_milliseconds("presence.timeout",
                        "A session is stale when silent for longer than this and twice its own heartbeat interval.",
                        &timeout_ms, 2 * 60 * 1000, 1);
    define_milliseconds("presence.max_timeout",
                        "Longest silence that any session may keep, whatever interval it promises.", &max_timeout_ms,
                        60 * 60 * 1000, 1);
    define_milliseconds("presence.rejoin_guard", "How long a session ended on purpose ignores heartbeats.",
                        &rejoin_guard_ms, 10 * 1000, 0);
    define_milliseconds("presence.leave_grace",
                        "How long a user counts as online after a disconnect took the last session away.",
                        &leave_grace_ms, 0, 0);
    define_milliseconds("presence.idle_after",
                        "A session that said active is shown as idle when last active longer ago than this.",
                        &idle_after_ms, 0, 0);
    define_milliseconds("presence.away_after",
                        "A session that said active or idle is shown as away when last active longer ago than this.",
                        &away_after_ms, 0, 0);
    DefineCustomRealVariable(
        "presence.expiry_guard", "When more than this share of all sessions falls silent at once, their ends are held.",
        "0 ends everybody in time.", &expiry_guard, 0, 0, 1, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomStringVariable("presence.notify_channel", "Channel on which changes are announced; empty for none.",
                               nullptr, &notify_channel, "presence", PGC_SUSET, 0, check_channel, nullptr, nullptr);
    DefineCustomEnumVariable("presence.notify_level", "Which changes are announced.", nullptr, &notify_level,
                             notify_user, notify_levels, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("presence.storm_threshold", "More changes than this at once are announced as one.",
                            "0 announces each, however many there are.", &storm_threshold, 1000, 0, INT_MAX, PGC_SUSET,
                            0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("presence.max_sessions_per_user", "How many sessions of one user may be online.",
                            "0 sets no limit.", &max_sessions_per_user, 1000, 0, INT_MAX, PGC_SUSET, 0, nullptr,
                            nullptr, nullptr);
    DefineCustomIntVariable("presence.max_users", "How many users may be known, online or not.", "0 sets no limit.",
                            &max_users, 0, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("presence.max_rooms_per_session", "How many rooms a session may be in.", "0 sets no limit.",
                            &max_rooms_per_session, 1000, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomBoolVariable("presence.room_channels", "Announces what happens in a room on a channel of the room's.",
                             "presence_room_channel() says on which.", &room_channels, false, PGC_SUSET, 0, nullptr,
                             nullptr, nullptr);
    DefineCustomIntVariable(
        "presence.max_updates_per_minute", "More updates of one session than this within a minute are told as one.",
        "0 sets no limit.", &max_updates_per_minute, 60, 0, INT_MAX, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("presence.location_precision",
                            "How many characters of a geohash are kept of where a session is.",
                            "0 keeps the region only.", &location_precision, 0, 0, max_geohash_characters, PGC_SUSET, 0,
                            nullptr, nullptr, nullptr);
    define_seconds("presence.feed_horizon", "How far back a role that has only access \"read\" reads the feed.",
                   nullptr, &feed_horizon_s, 10 * 60, 0);
    define_seconds("presence.event_retention", "How long events and the admin log are kept.", nullptr,
                   &event_retention_s, 30 * 24 * 3600, 0);
    define_seconds("presence.session_retention", "How long ended sessions are kept.", nullptr, &session_retention_s,
                   24 * 3600, 0);
    define_seconds("presence.user_retention", "How long the last session of an offline user is kept.",
                   "-1 keeps it for ever.", &user_retention_s, -1, -1);
    DefineCustomBoolVariable("presence.reports", "Adds the feed up to reports, before retention removes it.", nullptr,
                             &reports_enabled, false, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    define_seconds("presence.report_retention", "How long reports are kept.", nullptr, &report_retention_s,
                   400 * 24 * 3600, 0);
    define_seconds("presence.save_interval",
                   "How often cached heartbeats are written to the file that survives a crash.",
                   "0 writes them only at a clean shutdown.", &save_interval_s, 60, 0);
    DefineCustomBoolVariable("presence.worker", "Runs the background worker of each database that has the extension.",
                             nullptr, &worker_enabled, true, PGC_SUSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "presence.max_workers", "How many background workers may run at the same time.",
        "Where more databases have the extension, they take turns. 0 is half of max_worker_processes.", &max_workers, 0,
        0, 262143, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    MarkGUCPrefixReserved("presence");
}

}  // namespace presence
