#include "storage.h"

#include <algorithm>
#include <new>

#include "../core/user_status.h"
#include "cache.h"
#include "feed.h"
#include "injection.h"
#include "rooms.h"
#include "settings.h"
#include "tombstones.h"

extern "C" {
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

enum UserColumn : AttrNumber {
    user_id = 1,
    user_online,
    user_sessions,
    user_status,
    user_online_since,
    user_offline_at,
    user_status_choice,
    user_choice_until,
    user_choice_message,
};
constexpr Oid user_types[] = {TEXTOID,        BOOLOID, INT4OID,        TEXTOID, TIMESTAMPTZOID,
                              TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID, TEXTOID};
constexpr std::string_view invisible = "invisible";

constexpr Oid session_types[] = {TEXTOID,        TEXTOID,        BOOLOID,        TEXTOID,     TIMESTAMPTZOID,
                                 TIMESTAMPTZOID, TIMESTAMPTZOID, INTERVALOID,    INTERVALOID, TIMESTAMPTZOID,
                                 TEXTOID,        TIMESTAMPTZOID, TEXTOID,        INETOID,     JSONBOID,
                                 TEXTOID,        TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID,     TIMESTAMPTZOID,
                                 TEXTOID,        TIMESTAMPTZOID, TEXTOID};
constexpr int session_columns = session_policy;

OpenTable &hidden_sessions(const Storage &storage)
{
    if (storage.hidden_sessions == nullptr) {
        MemoryContext caller = MemoryContextSwitchTo(storage.context);
        storage.hidden_sessions = open_for_writing(Table::hidden_session, session_types);
        MemoryContextSwitchTo(caller);
    }
    return *storage.hidden_sessions;
}

OpenTable &table_of(const Storage &storage, const StoredSession &session)
{
    return session.hidden ? hidden_sessions(storage) : *storage.sessions;
}

std::string_view session_name_of(const Session *session)
{
    return text_view(static_cast<const StoredSession *>(session)->name);
}

StoredUser *new_user(text *name)
{
    return new (palloc0(sizeof(StoredUser)))
        StoredUser{{}, nullptr, name, nullptr, 0, false, EventList({}), 0, nullptr, nullptr, false, {}};
}

// Each session may end, and each heartbeat begin one.
void give_room(StoredUser &user, Session **list, std::size_t sessions, std::size_t heartbeats)
{
    const std::size_t events = enough_events(sessions + heartbeats);
    user.list = list;
    user.events = EventList({static_cast<Event *>(palloc_extended(sizeof(Event) * events, MCXT_ALLOC_HUGE)), events});
}

StoredSession *new_session(text *name)
{
    auto *session = new (palloc0(sizeof(StoredSession))) StoredSession{};
    session->name = name;
    session->interval = session->timeout = session->policy = null_datum;
    session->user_agent = session->ip_address = session->metadata = null_datum;
    session->status_choice = session->choice_until = null_datum;
    return session;
}

// A user of whom nothing is stored yet, with new sessions of the names wanted.
StoredUser *first_seen(const WantedUser &wanted)
{
    StoredUser *user = new_user(wanted.name);
    const std::size_t count = wanted.sessions.size();
    give_room(*user, static_cast<Session **>(palloc_extended(sizeof(Session *) * (count + 1), MCXT_ALLOC_HUGE)), count,
              count);
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i)
        user->list[user->session_count++] = wanted.targets[i] = new_session(wanted.sessions[i]);
    return user;
}

NullableDatum choice_of(const StoredUser &user)
{
    const StatusChoice &choice = user.choice;
    if (!choice.invisible && !choice.status)
        return null_datum;
    return {PointerGetDatum(make_text(choice.invisible ? invisible : to_text(*choice.status))), false};
}

NullableDatum end_of_choice(const StoredUser &user)
{
    return {TimestampTzGetDatum(user.choice.until), user.choice.until == 0};
}

void fill_user(TupleTableSlot *row, const StoredUser &user)
{
    const User &seen = user.hidden ? user.recorded : user;
    const NullableDatum choice = choice_of(user);
    set(row, user_id, PointerGetDatum(user.name));
    set(row, user_online, BoolGetDatum(seen.online));
    set(row, user_sessions, Int32GetDatum(seen.sessions));
    set(row, user_status, PointerGetDatum(make_text(to_text(seen.status))), !seen.online);
    set_time(row, user_online_since, seen.online_since);
    set_time(row, user_offline_at, seen.offline_at);
    set(row, user_status_choice, choice.value, choice.isnull);
    set_time(row, user_choice_until, user.choice.until);
    set(row, user_choice_message, PointerGetDatum(user.message), user.message == nullptr);
}

void fill_session(TupleTableSlot *row, const StoredUser &user, const StoredSession &session)
{
    const bool ended = session.end_reason != Reason::none;
    set(row, session_user, PointerGetDatum(user.name));
    set(row, session_name, PointerGetDatum(session.name));
    set(row, session_online, BoolGetDatum(session.online));
    set(row, session_status, PointerGetDatum(make_text(to_text(session.status))));
    set(row, session_online_since, TimestampTzGetDatum(session.online_since));
    set(row, session_joined_at, TimestampTzGetDatum(session.joined_at));
    set(row, session_heartbeat_at, TimestampTzGetDatum(session.heartbeat_at));
    set(row, session_heartbeat_interval, session.interval.value, session.interval.isnull);
    set(row, session_timeout, session.timeout.value, session.timeout.isnull);
    set(row, session_ended_at, TimestampTzGetDatum(session.ended_at), !ended);
    set(row, session_end_reason, PointerGetDatum(make_text(to_text(session.end_reason))), !ended);
    set_time(row, session_leave_until, session.leave_until);
    set(row, session_user_agent, session.user_agent.value, session.user_agent.isnull);
    set(row, session_ip_address, session.ip_address.value, session.ip_address.isnull);
    set(row, session_metadata, session.metadata.value, session.metadata.isnull);
    // One that has ended keeps what was true at its end.
    const NullableDatum choice = session.online && !session.hidden ? choice_of(user) : session.status_choice;
    const NullableDatum until = session.online && !session.hidden ? end_of_choice(user) : session.choice_until;
    set(row, session_status_choice, choice.value, choice.isnull);
    set(row, session_choice_until, until.value, until.isnull);
    set_time(row, session_updates_from, session.updates_from);
    set(row, session_updates, Int32GetDatum(session.updates), session.updates == 0);
    set_time(row, session_update_due, session.update_due);
    set(row, session_said, PointerGetDatum(make_text(to_text(session.said))), session.said == session.status);
    set_time(row, session_last_activity, session.last_activity);
    set(row, session_policy, session.policy.value, session.policy.isnull);
}

// The locked row.
StoredUser *read_user(const Storage &storage, text *name)
{
    const ReadRow<user_choice_message> row(*storage.users, storage.users->locked);
    StoredUser *user = new_user(name);
    user->stored = row.tuple;
    user->online = row.flag(user_online);
    user->sessions = DatumGetInt32(row.value(user_sessions));
    parse(row.words(user_status), user->status);
    user->online_since = row.time(user_online_since);
    user->offline_at = row.time(user_offline_at);
    const std::string_view choice = row.words(user_status_choice);
    Status status;
    if (parse(choice, status))
        user->choice.status = status;
    user->hidden = user->choice.invisible = choice == invisible;
    user->choice.until = row.time(user_choice_until);
    if (!row.is_null(user_choice_message)) {
        user->message = user->told_message = DatumGetTextPP(row.value(user_choice_message));
        user->choice.message = text_fingerprint(text_view(user->message));
    }
    user->recorded = *user;
    return user;
}

// The row that a scan has found.
StoredSession *read_session(const OpenTable &table)
{
    const ReadRow<session_columns> row(table, table.found);
    StoredSession *session = new_session(DatumGetTextPP(row.value(session_name)));
    session->stored = row.tuple;
    session->online = row.flag(session_online);
    parse(row.words(session_status), session->status);
    session->online_since = row.time(session_online_since);
    session->joined_at = row.time(session_joined_at);
    session->heartbeat_at = row.time(session_heartbeat_at);
    session->ended_at = row.time(session_ended_at);
    parse(row.words(session_end_reason), session->end_reason);
    session->leave_until = row.time(session_leave_until);
    session->leaving = session->online && session->leave_until != 0;
    session->interval = row.get(session_heartbeat_interval);
    session->timeout = row.get(session_timeout);
    session->user_agent = row.get(session_user_agent);
    session->ip_address = row.get(session_ip_address);
    session->metadata = row.get(session_metadata);
    session->metadata_digest = datum_fingerprint(session->metadata);
    session->status_choice = row.get(session_status_choice);
    session->choice_until = row.get(session_choice_until);
    session->updates_from = row.time(session_updates_from);
    session->updates = row.is_null(session_updates) ? 0 : DatumGetInt32(row.value(session_updates));
    session->update_due = row.time(session_update_due);
    session->said = session->status;
    parse(row.words(session_said), session->said);
    session->last_activity = row.time(session_last_activity);
    session->policy = row.get(session_policy);
    session->uncommitted = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(row.tuple->t_data));
    return session;
}

// Scans that stay open while many users are looked up.
struct Lookup {
    const Storage &storage;
    IndexScanDesc by_user = nullptr;

    void begin()
    {
        begin_command();
        by_user = begin_index_scan(*storage.users, index_on(*storage.users, {user_id}, false), 1);
    }
    void end()
    {
        index_endscan(by_user);
        end_command();
    }
    bool find(text *name)
    {
        ScanKeyData key = equals(1, F_TEXTEQ, PointerGetDatum(name));
        index_rescan(by_user, &key, 1, nullptr, 0);
        return index_getnext_slot(by_user, ForwardScanDirection, storage.users->found);
    }
};

bool create_user(const Storage &storage, WantedUser &wanted, const NewUserRule &rule)
{
    wanted.user = first_seen(wanted);
    rule.apply(wanted, rule.context);
    wanted.user->created = true;
    if (!wanted.user->online && !wanted.user->choice.any())
        return true;
    fill_user(new_row(*storage.users), *wanted.user);
    if (!insert_unless_present(*storage.users))
        return false;
    if (rule.stand(wanted))
        return true;
    take_back_inserted(*storage.users);
    return false;
}

void lock_user(Lookup &lookup, WantedUser &wanted, Lock lock, const NewUserRule *rule)
{
    const Storage &storage = lookup.storage;
    constexpr int most_attempts = 10;
    for (int attempt = 0; attempt < most_attempts; ++attempt) {
        CHECK_FOR_INTERRUPTS();
        wanted.user = nullptr;
        if (lookup.find(wanted.name)) {
            switch (lock_row(*storage.users, lock == Lock::skip_locked ? LockWaitSkip : LockWaitBlock)) {
            case RowLock::locked:
                wanted.user = read_user(storage, wanted.name);
                return;
            case RowLock::held:
                return;
            case RowLock::gone:
                break;
            }
        } else if (lock != Lock::create_missing || create_user(storage, wanted, *rule)) {
            return;
        }
        // Deleted or inserted by another transaction since the snapshot.
        lookup.end();
        lookup.begin();
    }
    wanted.user = nullptr;
    if (lock == Lock::create_missing)
        ereport(ERROR,
                (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                 errmsg("could not lock the user because of a concurrent change"), errhint("Repeat the transaction.")));
}

using SessionList = Growing<Session *, 4>;  // most users have few

// By the index on live sessions: all of a user's have the user's online_since.
void read_live_sessions(const Storage &storage, IndexScanDesc scan, const StoredUser &user, SessionList &list)
{
    ScanKeyData keys[] = {equals(1, F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(user.online_since)),
                          equals(2, F_TEXTEQ, PointerGetDatum(user.name))};
    index_rescan(scan, keys, 2, nullptr, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, storage.sessions->found)) {
        CHECK_FOR_INTERRUPTS();
        list.add(read_session(*storage.sessions));
    }
    std::sort(list.items, list.items + list.count,
              [](const Session *a, const Session *b) { return session_name_of(a) < session_name_of(b); });
}

StoredSession *read_named_session(const Storage &storage, IndexScanDesc scan, const StoredUser &user, text *name)
{
    ScanKeyData keys[] = {equals(1, F_TEXTEQ, PointerGetDatum(user.name)), equals(2, F_TEXTEQ, PointerGetDatum(name))};
    index_rescan(scan, keys, 2, nullptr, 0);
    return index_getnext_slot(scan, ForwardScanDirection, storage.sessions->found) ? read_session(*storage.sessions)
                                                                                   : nullptr;
}

// Of an invisible user, by name: those that are online, and those that have ended since the user is invisible.
template <typename Visit>
void for_each_hidden(const Storage &storage, const StoredUser &user, Visit visit)
{
    OpenTable &table = hidden_sessions(storage);
    IndexScanDesc scan = begin_index_scan(table, index_on(table, {session_user, session_name}, false), 1);
    ScanKeyData key = equals(1, F_TEXTEQ, PointerGetDatum(user.name));
    index_rescan(scan, &key, 1, nullptr, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, table.found)) {
        CHECK_FOR_INTERRUPTS();
        visit(read_session(table));
    }
    index_endscan(scan);
}

// A session that is not there yet is what others see of it, which has ended, and gets a row of its own.
StoredSession *unseen_since(StoredSession *seen)
{
    if (seen == nullptr)
        return nullptr;
    seen->stored = nullptr;
    seen->online = seen->leaving = seen->uncommitted = false;
    return seen;
}

void load_hidden_sessions(const Storage &storage, IndexScanDesc named, WantedUser &wanted, Lock lock)
{
    StoredUser &user = *wanted.user;
    SessionList all;
    for_each_hidden(storage, user, [&all](StoredSession *session) { all.add(session); });
    SessionList list;
    std::fill_n(wanted.targets, wanted.sessions.size(), nullptr);
    std::size_t next = 0;
    for (std::size_t i = 0; i < all.count; ++i) {
        auto *session = static_cast<StoredSession *>(all.items[i]);
        while (next < wanted.sessions.size() && text_view(wanted.sessions[next]) < text_view(session->name))
            ++next;
        const bool is_wanted =
            next < wanted.sessions.size() && text_view(wanted.sessions[next]) == text_view(session->name);
        if (is_wanted)
            wanted.targets[next] = session;
        if (is_wanted || session->online)
            list.add(session);
    }
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i) {
        CHECK_FOR_INTERRUPTS();
        StoredSession *&target = wanted.targets[i];
        if (target != nullptr)
            continue;
        target = unseen_since(read_named_session(storage, named, user, wanted.sessions[i]));
        if (target == nullptr && lock == Lock::create_missing)
            target = new_session(wanted.sessions[i]);
        if (target != nullptr)
            list.add(target);
    }
    give_room(user, list.items, list.count, wanted.sessions.size());
    user.session_count = static_cast<int>(list.count);
    for (Session *session : user.span())
        static_cast<StoredSession *>(session)->hidden = true;
    sum_up(user, user.span());
}

void load_sessions(const Storage &storage, IndexScanDesc live, IndexScanDesc named, WantedUser &wanted, Lock lock)
{
    StoredUser &user = *wanted.user;
    SessionList list;
    if (user.online)
        read_live_sessions(storage, live, user, list);
    const std::size_t live_count = list.count;
    std::size_t at = 0;
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i) {
        CHECK_FOR_INTERRUPTS();
        text *name = wanted.sessions[i];
        while (at < live_count && session_name_of(list.items[at]) < text_view(name))
            ++at;
        const bool is_live = at < live_count && session_name_of(list.items[at]) == text_view(name);
        StoredSession *&target = wanted.targets[i];
        target =
            is_live ? static_cast<StoredSession *>(list.items[at]) : read_named_session(storage, named, user, name);
        if (target == nullptr && lock == Lock::create_missing)
            target = new_session(name);
        if (target != nullptr && !is_live)
            list.add(target);
    }
    give_room(user, list.items, list.count, wanted.sessions.size());
    user.session_count = static_cast<int>(list.count);
}

// What the cache knows of the live sessions, many at a time.
void look_up_times(std::span<const WantedUser> wanted)
{
    std::size_t count = 0;
    for (const WantedUser &each : wanted)
        count += each.user != nullptr ? static_cast<std::size_t>(each.user->session_count) : 0;
    auto *recorded =
        static_cast<RecordedSession *>(palloc_extended(sizeof(RecordedSession) * (count + 1), MCXT_ALLOC_HUGE));
    auto *times = static_cast<EffectiveTimes *>(palloc_extended(sizeof(EffectiveTimes) * (count + 1), MCXT_ALLOC_HUGE));
    auto **sessions =
        static_cast<StoredSession **>(palloc_extended(sizeof(StoredSession *) * (count + 1), MCXT_ALLOC_HUGE));
    count = 0;
    for (const WantedUser &each : wanted) {
        if (each.user == nullptr || each.user->created)
            continue;
        for (Session *session : each.user->span()) {
            if (!session->online)
                continue;
            auto *stored = static_cast<StoredSession *>(session);
            recorded[count] = {{text_view(each.user->name), text_view(stored->name)},
                               stored->heartbeat_at,
                               interval_of(*stored),
                               stored->last_activity};
            sessions[count++] = stored;
        }
    }
    effective_times({recorded, count}, times);
    for (std::size_t i = 0; i < count; ++i) {
        sessions[i]->heartbeat_at = times[i].heartbeat_at;
        sessions[i]->stale_after = times[i].stale_after;
        sessions[i]->last_activity = times[i].last_activity;
    }
}

// What a page that closes leaves behind of the metadata.
void clear_typing(StoredSession &session)
{
    if (session.metadata.isnull)
        return;
    Jsonb *metadata = DatumGetJsonbP(session.metadata.value);
    if (!JB_ROOT_IS_OBJECT(metadata))
        return;
    session.metadata.value =
        DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(metadata), PointerGetDatum(cstring_to_text("typing")));
}

// What the cache keeps of a session's row, to find it again: all live sessions of a user have the user's online_since.
std::uint64_t row_id(const StoredSession &session) { return static_cast<std::uint64_t>(session.online_since); }

template <typename Visit>
void for_each_changed(std::span<const WantedUser> wanted, Visit visit)
{
    for (const WantedUser &each : wanted) {
        if (each.user == nullptr)
            continue;
        for (Session *session : each.user->span())
            if (session->changed)
                visit(*each.user, *static_cast<StoredSession *>(session));
    }
}

bool key_before(const SessionKey &a, const SessionKey &b) { return a.hi != b.hi ? a.hi < b.hi : a.lo < b.lo; }

// Sessions of one online_since, in the order of their keys.
struct StaleGroup {
    std::span<const ExpiredSession> sessions;
    bool *found;  // one for each

    bool all_found() const
    {
        return std::all_of(found, found + sessions.size(), [](bool each) { return each; });
    }
};

// found: null, or where the names go.
void match_rows(const OpenTable &table, IndexScanDesc scan, const StaleGroup &group, FoundSessions *found)
{
    ScanKeyData key = equals(1, F_TIMESTAMPTZ_EQ, TimestampTzGetDatum(static_cast<Time>(group.sessions[0].row_id)));
    index_rescan(scan, &key, 1, nullptr, 0);
    TupleTableSlot *slot = table.found;
    while (index_getnext_slot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        slot_getsomeattrs(slot, session_leave_until);
        if (!slot->tts_isnull[session_leave_until - 1])
            continue;
        const Datum user = slot->tts_values[session_user - 1];
        const Datum session = slot->tts_values[session_name - 1];
        const SessionKey row_key = cache_key({text_view(DatumGetTextPP(user)), text_view(DatumGetTextPP(session))});
        const auto *at =
            std::lower_bound(group.sessions.data(), group.sessions.data() + group.sessions.size(), row_key,
                             [](const ExpiredSession &a, const SessionKey &b) { return key_before(a.key, b); });
        const auto position = static_cast<std::size_t>(at - group.sessions.data());
        if (position == group.sessions.size() || !(at->key == row_key) || group.found[position])
            continue;
        group.found[position] = true;
        if (found != nullptr) {
            const std::size_t count = found->sessions.size();
            found->sessions.data()[count] = {DatumGetTextPCopy(user), DatumGetTextPCopy(session)};
            found->sessions = {found->sessions.data(), count + 1};
        }
    }
}

}  // namespace

SessionDetails cached_details(const StoredSession &session)
{
    return {.interval_ms = interval_to_ms(interval_of(session)),
            .fingerprints = {.user_agent = datum_fingerprint(session.user_agent),
                             .ip_address = datum_fingerprint(session.ip_address),
                             .metadata = datum_fingerprint(session.metadata)},
            .status = session.said,
            .hidden = session.hidden,
            .shown = session.status,
            .last_activity = session.last_activity};
}

Policy policy_for(const StoredUser &user)
{
    return {inactivity_limits(), heartbeat_floor().wall, user.hidden ? 0 : max_updates_per_minute};
}

FoundSessions find_stale_sessions(const Storage &storage, std::span<ExpiredSession> stale)
{
    // Rows are found by online_since, which many sessions may have in common: each value is looked for once.
    std::sort(stale.begin(), stale.end(), [](const ExpiredSession &a, const ExpiredSession &b) {
        return a.row_id != b.row_id ? a.row_id < b.row_id : key_before(a.key, b.key);
    });
    // One may be both silent and about to turn.
    const auto once = std::unique(stale.begin(), stale.end(),
                                  [](const ExpiredSession &a, const ExpiredSession &b) { return a.key == b.key; });
    stale = stale.first(static_cast<std::size_t>(once - stale.begin()));
    FoundSessions result{
        {static_cast<NamedSession *>(palloc_extended(sizeof(NamedSession) * (stale.size() + 1), MCXT_ALLOC_HUGE)), 0},
        0};
    auto *found = static_cast<bool *>(palloc0(stale.size() + 1));
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    begin_command();
    const Relation index = index_on(*storage.sessions, {session_online_since, session_user}, true);
    IndexScanDesc visible = begin_index_scan(*storage.sessions, index, 1);
    IndexScanDesc uncommitted = begin_index_scan(*storage.sessions, index, 1, &dirty);
    IndexScanDesc hidden = nullptr, hidden_uncommitted = nullptr;
    for (std::size_t from = 0, to = 0; from < stale.size(); from = to) {
        for (to = from; to < stale.size() && stale[to].row_id == stale[from].row_id; ++to) {
        }
        const StaleGroup group{stale.subspan(from, to - from), found + from};
        match_rows(*storage.sessions, visible, group, &result);
        if (group.all_found())
            continue;
        if (hidden == nullptr) {
            OpenTable &table = hidden_sessions(storage);
            const Relation hidden_index = index_on(table, {session_online_since, session_user}, true);
            hidden = begin_index_scan(table, hidden_index, 1);
            hidden_uncommitted = begin_index_scan(table, hidden_index, 1, &dirty);
        }
        match_rows(hidden_sessions(storage), hidden, group, &result);
        // A session whose beginning commits later than its timeout must not be forgotten meanwhile.
        if (!group.all_found())
            match_rows(*storage.sessions, uncommitted, group, nullptr);
        if (!group.all_found())
            match_rows(hidden_sessions(storage), hidden_uncommitted, group, nullptr);
    }
    if (hidden != nullptr) {
        index_endscan(hidden_uncommitted);
        index_endscan(hidden);
    }
    index_endscan(uncommitted);
    index_endscan(visible);
    end_command();

    for (std::size_t i = 0; i < stale.size(); ++i)
        if (!found[i])
            std::swap(stale[i], stale[result.gone++]);
    std::sort(result.sessions.begin(), result.sessions.end(), [](const NamedSession &a, const NamedSession &b) {
        const int users = text_view(a.user).compare(text_view(b.user));
        return users != 0 ? users < 0 : text_view(a.session) < text_view(b.session);
    });
    return result;
}

std::span<WantedUser> wanted_users(std::span<const NamedSession> sessions)
{
    const std::size_t count = sessions.size();
    auto *wanted = static_cast<WantedUser *>(palloc_extended(sizeof(WantedUser) * (count + 1), MCXT_ALLOC_HUGE));
    auto **names = static_cast<text **>(palloc_extended(sizeof(text *) * (count + 1), MCXT_ALLOC_HUGE));
    auto **targets =
        static_cast<StoredSession **>(palloc_extended(sizeof(StoredSession *) * (count + 1), MCXT_ALLOC_HUGE));
    std::size_t users = 0;
    for (std::size_t i = 0; i < count; ++i) {
        names[i] = sessions[i].session;
        if (i == 0 || text_view(sessions[i].user) != text_view(sessions[i - 1].user))
            wanted[users++] = {sessions[i].user, {names + i, 0}, targets + i, nullptr};
        wanted[users - 1].sessions = {wanted[users - 1].sessions.data(), wanted[users - 1].sessions.size() + 1};
    }
    return {wanted, users};
}

Storage open_storage()
{
    return {open_for_writing(Table::user, user_types), open_for_writing(Table::session, session_types),
            CurrentMemoryContext, nullptr};
}

void close_storage(const Storage &storage)
{
    if (storage.hidden_sessions != nullptr)
        close_table(storage.hidden_sessions);
    close_table(storage.sessions);
    close_table(storage.users);
}

void load_users(const Storage &storage, std::span<WantedUser> wanted, Lock lock, const NewUserRule *new_user_rule)
{
    Lookup lookup{storage};
    lookup.begin();
    for (WantedUser &each : wanted)
        lock_user(lookup, each, lock, new_user_rule);
    lookup.end();

    // Sees what was committed before the locks were had.
    begin_command();
    IndexScanDesc live =
        begin_index_scan(*storage.sessions, index_on(*storage.sessions, {session_online_since, session_user}, true), 2);
    IndexScanDesc named =
        begin_index_scan(*storage.sessions, index_on(*storage.sessions, {session_user, session_name}, false), 2);
    for (WantedUser &each : wanted)
        if (each.user != nullptr && !each.user->created)
            (unlikely(each.user->hidden) ? load_hidden_sessions(storage, named, each, lock)
                                         : load_sessions(storage, live, named, each, lock));
    index_endscan(named);
    index_endscan(live);
    end_command();
    look_up_times(wanted);
}

bool wait_for_new_user(const Storage &storage, text *name)
{
    begin_command();
    set(new_row(*storage.users), user_id, PointerGetDatum(name));
    const bool made = is_present(*storage.users);
    end_command();
    return made;
}

void refresh(const Storage &storage, const StoredUser &user, const StoredSession &session)
{
    // One that this transaction has written enters the cache when it commits; and a transaction with a snapshot of its own may
    // see details that are no longer true.
    const bool may_open = !session.uncommitted && !IsolationUsesXactSnapshot();
    if ((may_open ? cache_put_open : cache_hear)(name_of(user, session), row_id(session), cached_details(session),
                                                 session.heartbeat_at))
        return;
    begin_command();
    OpenTable &table = table_of(storage, session);
    TupleTableSlot *row = next_version(table, session.stored);
    fill_session(row, user, session);
    update_row(table, session.stored);
    end_command();
}

void hide(StoredUser &user, const StatusChoice &choice, Time now)
{
    auto **list = static_cast<Session **>(
        palloc_extended(sizeof(Session *) * (2 * static_cast<std::size_t>(user.session_count) + 1), MCXT_ALLOC_HUGE));
    SessionGroup group(user.span(), policy_for(user));
    expire(user, group, now, user.events);
    int count = 0;
    // The row that ends comes before the one that goes on, of which the cache is told last.
    for (Session *each : user.span()) {
        auto &session = *static_cast<StoredSession *>(each);
        list[count++] = &session;
        if (session.state() != SessionState::online)
            continue;
        auto *unseen = new (palloc(sizeof(StoredSession))) StoredSession(session);
        unseen->stored = nullptr;
        unseen->status_choice = unseen->choice_until = null_datum;
        unseen->updates_from = unseen->update_due = 0;
        unseen->updates = 0;
        unseen->hidden = unseen->changed = true;
        list[count++] = unseen;
    }
    apply_departure(user, group, nullptr, {now, Reason::leave, 0}, user.events);
    user.list = list;
    user.session_count = count;
    user.choice = choice;
    user.changed = true;
}

void come_into_view(const Storage &storage, const WantedUser &wanted, const StatusChoice &choice, Time now)
{
    StoredUser &user = *wanted.user;
    SessionGroup group(user.span(), policy_for(user));
    expire(user, group, now, user.events);
    static_cast<User &>(user) = user.recorded;
    user.hidden = false;
    const auto count = static_cast<std::size_t>(user.session_count);
    give_room(user, user.list, 2 * count, wanted.sessions.size());

    begin_command();
    const Time guard = ms_to_time(rejoin_guard_ms);
    for_each_hidden(storage, user, [&](const StoredSession *session) {
        // Of those that have ended, others learn nothing; but a late heartbeat is still refused.
        if (session->ended_at > now - guard && is_goodbye(session->end_reason) && !text_view(session->name).empty())
            leave_tombstone(name_of(user, *session), Goodbye::pending);
        delete_row(hidden_sessions(storage), session->stored);
    });
    IndexScanDesc named =
        begin_index_scan(*storage.sessions, index_on(*storage.sessions, {session_user, session_name}, false), 2);
    for (Session *each : user.span()) {
        auto &session = *static_cast<StoredSession *>(each);
        const StoredSession *seen = read_named_session(storage, named, user, session.name);
        session.hidden = session.uncommitted = false;
        session.stored = seen != nullptr ? seen->stored : nullptr;
        if (session.changed && !session.online) {
            cache_close(name_of(user, session));
            cache_erase_at_commit(name_of(user, session));
        }
    }
    index_endscan(named);
    end_command();
    reveal(user, user.span(), choice, now, user.events);
}

void store_users(const Storage &storage, std::span<const WantedUser> wanted)
{
    for_each_changed(wanted, [](StoredUser &user, StoredSession &session) {
        if (session.stored != nullptr || session.hidden)
            cache_close(name_of(user, session));
        if (session.clear_typing)
            clear_typing(session);
    });
    PRESENCE_POINT("entries-closed");

    begin_command();
    for_each_changed(wanted, [&storage](StoredUser &user, StoredSession &session) {
        OpenTable &table = table_of(storage, session);
        if (session.stored == nullptr) {
            fill_session(next_row(table), user, session);
            add_row(table);
            return;
        }
        CHECK_FOR_INTERRUPTS();
        fill_session(next_version(table, session.stored), user, session);
        update_row(table, session.stored);
    });
    insert_rows(*storage.sessions);
    if (storage.hidden_sessions != nullptr)
        insert_rows(*storage.hidden_sessions);
    for (const WantedUser &each : wanted) {
        if (each.user == nullptr || each.user->created)
            continue;
        // Of an invisible user, nothing has changed but the choice itself.
        if (each.user->hidden ? !each.user->has_other_choice() : !each.user->changed)
            continue;
        fill_user(next_version(*storage.users, each.user->stored), *each.user);
        update_row(*storage.users, each.user->stored);
    }
    end_command();
    PRESENCE_POINT("rows-written");

    for_each_changed(wanted, [](StoredUser &user, StoredSession &session) {
        if (session.state() == SessionState::online)
            cache_open_at_commit(name_of(user, session), row_id(session), cached_details(session),
                                 session.heartbeat_at);
        else
            cache_erase_at_commit(name_of(user, session));
    });
    PRESENCE_POINT("entries-made");
    for (const WantedUser &each : wanted)
        if (each.user != nullptr && each.user->has_other_choice() && each.user->choice.until != 0)
            note_departure_at_commit(each.user->choice.until);
    settle_rooms(wanted);
    write_events(wanted);
    PRESENCE_POINT("events-written");
}

}  // namespace presence
