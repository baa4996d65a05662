#include "expiry.h"

#include <algorithm>

#include "cache.h"
#include "extension.h"
#include "injection.h"
#include "metrics.h"
#include "storage.h"
#include "user_status.h"

namespace presence {

namespace {

Statement stale_by_table = {
    "SELECT user_id, session_id FROM @.presence_session WHERE online AND (update_due < clock_timestamp() OR NOT @.presence_is_live(user_id, session_id, heartbeat_at, coalesce(-timeout, heartbeat_interval), leave_until)"
    " OR (ended_at IS NULL AND @.presence_is_turning(user_id, session_id, status, said, last_activity)))"
    " UNION ALL SELECT user_id, session_id FROM @.presence_hidden_session WHERE online AND (NOT @.presence_is_live(user_id, session_id, heartbeat_at, coalesce(-timeout, heartbeat_interval), leave_until)"
    " OR @.presence_is_turning(user_id, session_id, status, said, last_activity))"
    " UNION SELECT user_id, session_id FROM @.presence_room_member WHERE leave_until < clock_timestamp() ORDER BY user_id, session_id",
    0,
    {}};
Statement departed = {
    "SELECT user_id, session_id FROM @.presence_session WHERE (leave_until IS NOT NULL OR update_due IS NOT NULL) AND least(leave_until, update_due) < (SELECT clock_timestamp())"
    " UNION SELECT user_id, session_id FROM @.presence_room_member WHERE leave_until < (SELECT clock_timestamp()) ORDER BY user_id, session_id",
    0,
    {},
    Access::by_index};
Statement first_departure = {
    "SELECT least((SELECT min(least(leave_until, update_due)) FROM @.presence_session WHERE leave_until IS NOT NULL OR update_due IS NOT NULL),"
    " (SELECT min(leave_until) FROM @.presence_room_member WHERE leave_until IS NOT NULL))",
    0,
    {},
    Access::by_index};

// The server may be asked to end a million sessions at once; a part at a time bounds the memory.
constexpr std::size_t most_at_once = 100000;
// The worker's transactions are short, so that listeners hear of the first before the last has been dealt with.
constexpr std::size_t most_in_background = 2000;
// Of so many it takes those whose users came one after the other: their rows lie together, while the cache has them in the order
// of their hashes.
constexpr std::size_t choice_in_background = 10 * most_in_background;

// Goes round, so that those whose users are locked are not taken again before the others were.
std::span<ExpiredSession> neighbours(std::span<ExpiredSession> found)
{
    static std::uint64_t next = 0;
    if (found.size() <= most_in_background)
        return found;
    const auto last = found.begin() + (most_in_background - 1);
    std::nth_element(found.begin(), last, found.end(), [](const ExpiredSession &a, const ExpiredSession &b) {
        return a.row_id - next < b.row_id - next;
    });
    next = last->row_id + 1;
    return found.first(most_in_background);
}

// In order.
std::span<const NamedSession> sessions_of(Statement &statement)
{
    const auto count = static_cast<std::size_t>(run(statement));
    auto *sessions = static_cast<NamedSession *>(palloc_extended(sizeof(NamedSession) * (count + 1), MCXT_ALLOC_HUGE));
    bool is_null = false;
    for (std::size_t i = 0; i < count; ++i)
        sessions[i] = {DatumGetTextPCopy(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null)),
                       DatumGetTextPCopy(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &is_null))};
    SPI_freetuptable(SPI_tuptable);
    return {sessions, count};
}

// Those whose rows are gone or no longer online leave the cache, and so do those whose grace says when they end.
std::span<const NamedSession> stale_by_cache(const Storage &storage, std::span<ExpiredSession> stale)
{
    if (stale.empty())
        return {};
    const FoundSessions found = find_stale_sessions(storage, stale);
    // Where this transaction has written, it may be what took them away, and may be rolled back.
    if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
        for (const ExpiredSession &session : stale.first(found.gone))
            cache_forget_stale(session.key);
    return found.sessions;
}

void expire_user(StoredUser &user, Ended &ended)
{
    user.changed_at = GetCurrentTimestamp();
    SessionGroup group(user.span(), policy_for(user));
    const bool went = expire(user, group, user.changed_at, user.events);
    for (const Session *each : user.span()) {
        const auto &session = *static_cast<const StoredSession *>(each);
        if (session.state() == SessionState::online && !session.changed && !session.uncommitted)
            cache_correct(name_of(user, session), cached_details(session));
    }
    // Nobody sees an invisible user go.
    if (user.hidden)
        return;
    ended.users += went;
    for (const Event &event : user.events.items()) {
        if (event.type != EventType::session_end)
            continue;
        ++ended.sessions;
        if (event.reason == Reason::timeout)
            count_end(user.changed_at - event.session->stale_after);
    }
}

// The users of these sessions are judged, with all that they have.
void end_for(const Storage &storage, std::span<const NamedSession> sessions, Ended &ended, bool by_grace = false)
{
    MemoryContext set = AllocSetContextCreate(CurrentMemoryContext, "presence expiry", ALLOCSET_DEFAULT_SIZES);
    for (std::size_t from = 0, to = 0; from < sessions.size(); from = to) {
        to = end_of_set(sessions, from);
        MemoryContext outer = MemoryContextSwitchTo(set);
        const std::span<WantedUser> wanted = wanted_users(sessions.subspan(from, to - from));
        load_users(storage, wanted, Lock::skip_locked);
        PRESENCE_POINT("expiry-locked");
        settle_choices(storage, wanted);
        for (WantedUser &each : wanted) {
            if (each.user == nullptr)
                ended.locked = true;
            else
                expire_user(*each.user, ended);
            each.rooms_may_be_over = by_grace;
        }
        store_users(storage, wanted);
        MemoryContextSwitchTo(outer);
        MemoryContextReset(set);
    }
    MemoryContextDelete(set);
}

}  // namespace

Ended end_stale_sessions(Thoroughness thoroughness)
{
    const bool in_background = thoroughness == Thoroughness::watched_sessions;
    const std::size_t most = in_background ? choice_in_background : most_at_once;
    auto *room = static_cast<ExpiredSession *>(palloc(sizeof(ExpiredSession) * most));
    const std::span<ExpiredSession> all(room, most);
    // Those who turn have their share, however many are silent and can't be ended because others hold them.
    const std::size_t most_stale = most / 10 * 9;
    const std::size_t stale_ones = cache_collect_stale(all.first(most_stale));
    std::span<ExpiredSession> found = all.first(stale_ones + cache_collect_turning(all.subspan(stale_ones)));
    Ended ended;
    ended.more = stale_ones == most_stale || found.size() >= (in_background ? most_in_background : most);
    if (in_background)
        found = neighbours(found);
    const Storage storage = open_storage();
    const std::span<const NamedSession> stale = stale_by_cache(storage, found);
    if (thoroughness == Thoroughness::whole_table ||
        (thoroughness == Thoroughness::every_session && !cache_watches_everybody())) {
        end_for(storage, sessions_of(stale_by_table), ended, true);
    } else {
        end_for(storage, stale, ended);
        if (thoroughness == Thoroughness::every_session)
            end_for(storage, sessions_of(departed), ended, true);
    }
    if (thoroughness != Thoroughness::watched_sessions)
        ended.locked |= end_choices(storage);
    close_storage(storage);
    return ended;
}

Ended end_departures()
{
    Ended ended;
    const Storage storage = open_storage();
    end_for(storage, sessions_of(departed), ended, true);
    ended.locked |= end_choices(storage);
    close_storage(storage);
    return ended;
}

Time next_departure()
{
    run(first_departure);
    const Time departure = DatumGetTimestampTz(first_value(1));
    const Time choice = next_end_of_choice();
    return departure == 0 || (choice != 0 && choice < departure) ? choice : departure;
}

}  // namespace presence
