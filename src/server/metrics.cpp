#include "metrics.h"

#include "cache.h"
#include "datums.h"
#include "extension.h"
#include "lists.h"
#include "readers.h"
#include "shared.h"

namespace presence {

namespace {

// Of the transaction, until it commits.
struct Pending {
    bool any;
    std::uint64_t events[event_kinds][reasons];
    std::uint64_t notifications, storms;
    LagHistogram end_lag, announce_lag;
};
Pending pending = {};

void add(pg_atomic_uint64 &counter, std::uint64_t count)
{
    if (count > 0)
        pg_atomic_fetch_add_u64(&counter, static_cast<std::int64_t>(count));
}

void add(SharedHistogram &to, const LagHistogram &from)
{
    for (std::size_t i = 0; i < LagHistogram::buckets; ++i)
        add(to.counts[i], from.counts[i]);
    add(to.sum, from.sum);
}

void publish(SharedMetrics &metrics)
{
    for (std::size_t type = 0; type < event_kinds; ++type)
        for (std::size_t reason = 0; reason < reasons; ++reason)
            add(metrics.events[type][reason], pending.events[type][reason]);
    add(metrics.notifications, pending.notifications);
    add(metrics.storms, pending.storms);
    add(metrics.end_lag, pending.end_lag);
    add(metrics.announce_lag, pending.announce_lag);
}

// Nothing here may fail.
void at_transaction_end(XactEvent event, void *)
{
    if (!pending.any || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
        return;
    SharedDatabase *database = my_known_database();
    if (event == XACT_EVENT_COMMIT && database != nullptr)
        publish(database->metrics);
    pending = {};
}

// Those of users and sessions, and then those of rooms.
std::string_view event_name(std::size_t kind)
{
    return kind < user_event_kinds ? to_text(static_cast<EventType>(kind))
                                   : to_text(static_cast<RoomEventType>(kind - user_event_kinds));
}

std::size_t event_kind(std::string_view name)
{
    std::size_t kind = 0;
    while (kind < event_kinds && name != event_name(kind))
        ++kind;
    return kind;
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------------------------------------------------

struct Rows {
    ReturnSetInfo *result;

    // labels: a document, or null for none.
    void add(const char *name, const char *labels, double value) const
    {
        Datum values[] = {CStringGetTextDatum(name),
                          DirectFunctionCall1(jsonb_in, CStringGetDatum(labels != nullptr ? labels : "{}")),
                          Float8GetDatum(value)};
        bool nulls[3] = {};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    void add(const char *name, const char *labels, pg_atomic_uint64 &value) const
    {
        add(name, labels, static_cast<double>(pg_atomic_read_u64(&value)));
    }
};

void add_histogram(const Rows &rows, const char *name, SharedHistogram &histogram)
{
    double count = 0;
    for (std::size_t i = 0; i < LagHistogram::buckets; ++i) {
        count += static_cast<double>(pg_atomic_read_u64(&histogram.counts[i]));
        const char *bound = i < LagHistogram::bounds.size()
                                ? psprintf("%g", static_cast<double>(LagHistogram::bounds[i]) / 1e6)
                                : "+Inf";
        rows.add(psprintf("%s_bucket", name), psprintf("{\"le\": \"%s\"}", bound), count);
    }
    rows.add(psprintf("%s_sum", name), nullptr, static_cast<double>(pg_atomic_read_u64(&histogram.sum)) / 1e6);
    rows.add(psprintf("%s_count", name), nullptr, count);
}

void add_counters(const Rows &rows, SharedMetrics &metrics)
{
    const CacheNumbers cache = cache_numbers();
    rows.add("presence_heartbeats_total", R"({"path": "memory"})", static_cast<double>(cache.hits));
    rows.add("presence_heartbeats_total", R"({"path": "table"})", static_cast<double>(cache.misses));
    rows.add("presence_heartbeats_ignored_total", nullptr, metrics.ignored);
    rows.add("presence_heartbeats_refused_total", nullptr, metrics.refused);
    for (std::size_t type = 0; type < event_kinds; ++type)
        for (std::size_t reason = 0; reason < reasons; ++reason)
            if (pg_atomic_read_u64(&metrics.events[type][reason]) > 0)
                rows.add("presence_events_total",
                         psprintf(R"({"event": "%s", "reason": "%s"})", event_name(type).data(),
                                  to_text(static_cast<Reason>(reason)).data()),
                         metrics.events[type][reason]);
    rows.add("presence_notifications_total", nullptr, metrics.notifications);
    rows.add("presence_storms_total", nullptr, metrics.storms);
    add_histogram(rows, "presence_end_lag_seconds", metrics.end_lag);
    add_histogram(rows, "presence_announce_lag_seconds", metrics.announce_lag);
    rows.add("presence_cached_sessions", nullptr, static_cast<double>(cache.sessions));
    rows.add("presence_cache_bytes", nullptr, static_cast<double>(cache.bytes));
}

Statement queue = {
    "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0)::float8 FROM @.presence_event_queue",
    0,
    {}};

}  // namespace

void initialize_metrics(SharedMetrics &metrics)
{
    // They are words of shared memory and nothing else; on machines that we support, zeros are initialised ones.
    static_assert(sizeof(SharedMetrics) % sizeof(pg_atomic_uint64) == 0);
    auto *counters = reinterpret_cast<pg_atomic_uint64 *>(&metrics);
    for (std::size_t i = 0; i < sizeof(SharedMetrics) / sizeof(pg_atomic_uint64); ++i)
        pg_atomic_init_u64(&counters[i], 0);
}

void count_event(std::string_view event, std::string_view reason)
{
    const std::size_t type = event_kind(event);
    Reason why{};
    // Written by hand.
    if (type == event_kinds || !parse(reason, why))
        return;
    pending.any = true;
    ++pending.events[type][static_cast<std::size_t>(why)];
}

void count_notification(Time lag)
{
    pending.any = true;
    ++pending.notifications;
    pending.announce_lag.add(lag);
}

void count_storm()
{
    pending.any = true;
    ++pending.storms;
}

void count_end(Time lag)
{
    pending.any = true;
    pending.end_lag.add(lag);
}

void count_ignored_heartbeat()
{
    if (SharedDatabase *database = my_known_database())
        pg_atomic_fetch_add_u64(&database->metrics.ignored, 1);
}

void count_refusal()
{
    if (SharedDatabase *database = my_known_database())
        pg_atomic_fetch_add_u64(&database->metrics.refused, 1);
}

void watch_metrics() { RegisterXactCallback(at_transaction_end, nullptr); }

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_metrics)
{
    extension_of(fcinfo);
    InitMaterializedSRF(fcinfo, 0);
    const Rows rows{reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo)};
    const OwnerWork work = begin_owner_work();
    rows.add("presence_users_online", nullptr, static_cast<double>(count_online()));
    run(queue, nullptr, nullptr, true);
    rows.add("presence_events_unnumbered", nullptr, static_cast<double>(DatumGetInt64(first_value(1))));
    rows.add("presence_events_unnumbered_age_seconds", nullptr, DatumGetFloat8(first_value(2)));
    SharedDatabase *database = my_database();
    rows.add("presence_worker_up", nullptr, database != nullptr && database->worker.pid() != 0 ? 1 : 0);
    if (database != nullptr)
        add_counters(rows, database->metrics);
    end_owner_work(work);
    return 0;
}
