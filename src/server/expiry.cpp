#include "expiry.h"

#include <algorithm>

#include "cache.h"
#include "extension.h"
#include "storage.h"

namespace presence {

namespace {

Statement stale_by_table = {
    "SELECT DISTINCT user_id FROM @.presence_session WHERE online AND NOT @.presence_is_live(user_id, session_id, heartbeat_at, heartbeat_interval, leave_until) ORDER BY user_id",
    0,
    {}};
Statement departed = {
    "SELECT DISTINCT user_id FROM @.presence_session WHERE leave_until < clock_timestamp() ORDER BY user_id", 0, {}};
Statement first_departure = {"SELECT min(leave_until) FROM @.presence_session WHERE leave_until IS NOT NULL", 0, {}};
Statement users_of_rows = {
    "SELECT id, user_id FROM @.presence_session WHERE online AND leave_until IS NULL AND id = ANY ($1) ORDER BY user_id",
    1,
    {INT8ARRAYOID}};

// The server may be asked to end a million sessions at once; a part at a time bounds the memory.
constexpr std::size_t most_at_once = 100000;
// The worker's transactions are short, so that listeners hear of the first before the last has been dealt with.
constexpr std::size_t most_in_background = 2000;

struct Users {
    text **names;
    int count;
};

text *copied(Datum value) { return DatumGetTextPCopy(value); }

Users users_of(Statement &statement)
{
    const auto count = static_cast<int>(run(statement));
    Users users{static_cast<text **>(palloc(sizeof(text *) * static_cast<std::size_t>(count + 1))), count};
    bool is_null = false;
    for (int i = 0; i < count; ++i)
        users.names[i] = copied(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
    SPI_freetuptable(SPI_tuptable);
    return users;
}

// Those whose rows are gone or no longer online leave the cache, and so do those whose grace says when they end. A row that nobody else can see yet has a fresh entry.
Users by_cache(std::span<const ExpiredSession> stale)
{
    Users users{static_cast<text **>(palloc(sizeof(text *) * (stale.size() + 1))), 0};
    if (stale.empty())
        return users;
    Datum values[] = {row_ids(stale)};
    const auto count = static_cast<int>(run(users_of_rows, values));
    auto *found = static_cast<std::uint64_t *>(palloc(sizeof(std::uint64_t) * static_cast<std::size_t>(count + 1)));
    bool is_null = false;
    for (int i = 0; i < count; ++i) {
        found[i] = static_cast<std::uint64_t>(
            DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null)));
        text *name = copied(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &is_null));
        if (users.count == 0 || text_view(users.names[users.count - 1]) != text_view(name))
            users.names[users.count++] = name;
    }
    SPI_freetuptable(SPI_tuptable);
    std::sort(found, found + count);
    for (const ExpiredSession &session : stale)
        if (!std::binary_search(found, found + count, session.row_id))
            cache_forget_stale(session.key);
    return users;
}

}  // namespace

Datum row_ids(std::span<const ExpiredSession> sessions)
{
    auto *ids = static_cast<Datum *>(palloc(sizeof(Datum) * (sessions.size() + 1)));
    for (std::size_t i = 0; i < sessions.size(); ++i)
        ids[i] = Int64GetDatum(static_cast<int64>(sessions[i].row_id));
    return int8_array(ids, sessions.size());
}

namespace {

void end_for(const Users &users, Ended &ended)
{
    MemoryContext each = AllocSetContextCreate(CurrentMemoryContext, "presence expiry", ALLOCSET_DEFAULT_SIZES);
    for (int i = 0; i < users.count; ++i) {
        CHECK_FOR_INTERRUPTS();
        MemoryContext outer = MemoryContextSwitchTo(each);
        StoredUser *user = load_user(users.names[i], {}, Lock::skip_locked);
        if (user == nullptr) {
            ended.locked = true;
        } else {
            EventList events = allocate_events(*user);
            const Time now = GetCurrentTimestamp();
            ended.users += expire(*user, user->span(), now, events);
            for (int at = 0; at < user->session_count; ++at) {
                const auto &session = *static_cast<const StoredSession *>(user->list[at]);
                if (session.state() == SessionState::online && !session.changed)
                    cache_correct_interval(name_of(*user, session), time_to_ms(interval_time(session.interval)));
            }
            store_user(*user, events, now);
            for (const Event &event : events.items())
                ended.sessions += event.type == EventType::session_end;
        }
        MemoryContextSwitchTo(outer);
        MemoryContextReset(each);
    }
    MemoryContextDelete(each);
}

}  // namespace

Ended end_stale_sessions(Thoroughness thoroughness)
{
    const std::size_t most = thoroughness == Thoroughness::watched_sessions ? most_in_background : most_at_once;
    auto *room = static_cast<ExpiredSession *>(palloc(sizeof(ExpiredSession) * most));
    const std::span<ExpiredSession> all(room, most);
    const std::size_t found = cache_collect_stale(all);
    Ended ended;
    ended.more = found == most;
    const Users users = by_cache(all.first(found));
    if (thoroughness == Thoroughness::whole_table ||
        (thoroughness == Thoroughness::every_session && !cache_watches_everybody())) {
        end_for(users_of(stale_by_table), ended);
    } else {
        end_for(users, ended);
        if (thoroughness == Thoroughness::every_session)
            end_for(users_of(departed), ended);
    }
    return ended;
}

Ended end_departures()
{
    Ended ended;
    end_for(users_of(departed), ended);
    return ended;
}

Time next_departure()
{
    run(first_departure);
    return DatumGetTimestampTz(first_value(1));
}

}  // namespace presence
