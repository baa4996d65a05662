// What happened in this database since the server's start, counted for presence_metrics(). Lives here: the counters. What an
// event means and who writes it lives elsewhere. Without preloading nothing is counted.
#pragma once

#include "../core/lag_histogram.h"
#include "../core/rooms.h"
#include "../core/rules.h"
#include "server.h"

extern "C" {
#include "port/atomics.h"
}

namespace presence {

inline constexpr std::size_t user_event_kinds = 5;                // of EventType
inline constexpr std::size_t event_kinds = user_event_kinds + 3;  // and of RoomEventType
inline constexpr std::size_t reasons = 6;                         // of Reason

// In shared memory.
struct SharedHistogram {
    pg_atomic_uint64 counts[LagHistogram::buckets];
    pg_atomic_uint64 sum;
};
struct SharedMetrics {
    pg_atomic_uint64 events[event_kinds][reasons];
    pg_atomic_uint64 notifications;
    pg_atomic_uint64 storms;
    pg_atomic_uint64 ignored;
    pg_atomic_uint64 refused;
    SharedHistogram end_lag;
    SharedHistogram announce_lag;
};
void initialize_metrics(SharedMetrics &metrics);

// Counted when the transaction commits.
void count_event(std::string_view event, std::string_view reason);
void count_notification(Time lag);
void count_storm();
// A session that is ended so long after its silence was over the timeout.
void count_end(Time lag);

// At once.
void count_ignored_heartbeat();
void count_refusal();

void watch_metrics();

}  // namespace presence
