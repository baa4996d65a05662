#include "lists.h"

#include <algorithm>

#include "cache.h"
#include "datums.h"
#include "expiry.h"
#include "extension.h"
#include "feed_tables.h"
#include "owner_guard.h"

extern "C" {
#include "access/detoast.h"
#include "common/hashfn.h"
#include "tcop/dest.h"
}

namespace presence {

namespace {

#define LISTED_COLUMNS                                                                                                 \
    "user_id, session_id, online, status, online_since, heartbeat_at, heartbeat_interval, ended_at, leave_until, metadata"
Statement online_sessions = {"SELECT " LISTED_COLUMNS " FROM @.presence_session WHERE online", 0, {}};
Statement online_sessions_of = {
    "SELECT " LISTED_COLUMNS " FROM @.presence_session WHERE user_id = ANY ($1) AND online", 1, {TEXTARRAYOID}};
Statement sessions_of = {
    "SELECT " LISTED_COLUMNS " FROM @.presence_session WHERE user_id = ANY ($1)", 1, {TEXTARRAYOID}};
// In two steps, each by an index whatever the planner believes of the table.
Statement suspects = {
    "SELECT array_agg(user_id) FROM (SELECT user_id FROM @.presence_session WHERE online AND online_since = ANY ($1)"
    " UNION SELECT user_id FROM @.presence_session WHERE online AND leave_until < clock_timestamp()) AS found",
    1,
    {TIMESTAMPTZARRAYOID}};
constexpr std::size_t room_bytes = 256 * 1024;
// More than so many are found faster by reading everything.
constexpr std::size_t most_suspects = 10000;

char *reserve(UserList &list, std::size_t bytes)
{
    bytes = MAXALIGN(bytes);
    if (unlikely(list.room_left < bytes)) {
        list.room_left = std::max(bytes, room_bytes);
        list.room = static_cast<char *>(MemoryContextAlloc(list.context, list.room_left));
    }
    char *taken = list.room;
    list.room += bytes;
    list.room_left -= bytes;
    return taken;
}

UserList *new_list(bool with_metadata, Time grace = 0)
{
    auto *list = static_cast<UserList *>(palloc0(sizeof(UserList)));
    list->with_metadata = with_metadata;
    list->grace = grace;
    list->context = CurrentMemoryContext;
    list->room_for_pieces = 64;
    list->pieces = static_cast<ListedUser **>(palloc(sizeof(ListedUser *) * list->room_for_pieces));
    list->slot_count = 256;
    list->slots = static_cast<UserList::Slot *>(palloc0(sizeof(UserList::Slot) * list->slot_count));
    return list;
}

// Where the name is, or where it would go.
UserList::Slot &slot_of(const UserList &list, std::string_view name, std::uint32_t hash)
{
    for (std::uint32_t at = hash & (list.slot_count - 1);; at = (at + 1) & (list.slot_count - 1)) {
        UserList::Slot &slot = list.slots[at];
        if (slot.position == 0 || (slot.hash == hash && text_view(list.user(slot.position - 1).name) == name))
            return slot;
    }
}

std::uint32_t hash_of(std::string_view name)
{
    return hash_bytes(reinterpret_cast<const unsigned char *>(name.data()), static_cast<int>(name.size()));
}

void grow_slots(UserList &list)
{
    if (list.slot_count > PG_INT32_MAX / 4)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("too many users for one list")));
    UserList::Slot *old = list.slots;
    const std::uint32_t old_count = list.slot_count;
    list.slot_count *= 4;
    list.slots = static_cast<UserList::Slot *>(MemoryContextAllocExtended(
        list.context, sizeof(UserList::Slot) * list.slot_count, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    for (std::uint32_t i = 0; i < old_count; ++i) {
        if (old[i].position == 0)
            continue;
        std::uint32_t at = old[i].hash & (list.slot_count - 1);
        while (list.slots[at].position != 0)
            at = (at + 1) & (list.slot_count - 1);
        list.slots[at] = old[i];
    }
    pfree(old);
}

text *kept_text(UserList &list, std::string_view value)
{
    auto *copy = reinterpret_cast<text *>(reserve(list, VARHDRSZ + value.size()));
    SET_VARSIZE(copy, VARHDRSZ + value.size());
    memcpy(VARDATA(copy), value.data(), value.size());
    return copy;
}

// The name must be the list's own already, if it has one.
ListedUser &take(UserList &list, std::string_view name, std::uint32_t hash, text *own_name)
{
    if (list.count >= list.slot_count / 2)
        grow_slots(list);
    UserList::Slot &slot = slot_of(list, name, hash);
    if (slot.position != 0)
        return list.user(slot.position - 1);
    if (list.count % UserList::piece_size == 0) {
        const std::uint32_t piece = list.count / UserList::piece_size;
        if (piece == list.room_for_pieces) {
            list.room_for_pieces *= 2;
            list.pieces =
                static_cast<ListedUser **>(repalloc(list.pieces, sizeof(ListedUser *) * list.room_for_pieces));
        }
        list.pieces[piece] =
            static_cast<ListedUser *>(MemoryContextAlloc(list.context, sizeof(ListedUser) * UserList::piece_size));
    }
    slot = {hash, ++list.count};
    ListedUser &user = list.user(list.count - 1);
    user = {};
    user.metadata = null_datum;
    user.name = own_name != nullptr ? own_name : kept_text(list, name);
    return user;
}

// What the result keeps must outlive the row's version.
Datum kept(UserList &list, Datum value)
{
    auto *bytes = reinterpret_cast<struct varlena *>(DatumGetPointer(value));
    if (VARATT_IS_EXTERNAL(bytes))
        bytes = detoast_external_attr(bytes);
    const std::size_t size = VARSIZE_ANY(bytes);
    char *copy = reserve(list, size);
    memcpy(copy, bytes, size);
    return PointerGetDatum(copy);
}

// Takes the rows as the executor makes them, and looks them up in the cache many at a time.
struct Receiver {
    static constexpr std::uint32_t batch = 1024;
    static constexpr std::size_t name_room = 64 * 1024;
    struct Row {
        SessionRow session;
        text *user;
        NullableDatum metadata;
        std::uint32_t hash;
    };

    DestReceiver base;
    UserList *list;
    std::uint32_t count;
    std::size_t name_used;
    Row *rows;
    RecordedSession *recorded;
    EffectiveTimes *times;
    char *names;  // of the sessions
};

// Of two sessions that beat at the same time, always the same one is the later.
std::int64_t tie_breaker(std::string_view session)
{
    return static_cast<std::int64_t>(hash_bytes_extended(reinterpret_cast<const unsigned char *>(session.data()),
                                                         static_cast<int>(session.size()), 0));
}

// times: of a session that is recorded as online.
SessionSnapshot snapshot_at(const SessionRow &row, const EffectiveTimes &times, Time now)
{
    SessionSnapshot snapshot{.status = row.status,
                             .id = tie_breaker(row.name.session),
                             .online_since = row.online_since,
                             .heartbeat_at = row.heartbeat_at,
                             .ended_at = row.ended_at};
    if (!row.online)
        return snapshot;
    snapshot.heartbeat_at = times.heartbeat_at;
    if (now <= live_until(times.stale_after, row.leave_until))
        snapshot.state = row.ended_at != 0 ? SessionState::leaving : SessionState::online;
    return snapshot;
}

void add_batch(Receiver &receiver)
{
    UserList &list = *receiver.list;
    effective_times({receiver.recorded, receiver.count}, receiver.times);
    const Time now = GetCurrentTimestamp() - list.grace;
    for (std::uint32_t i = 0; i < receiver.count; ++i)
        __builtin_prefetch(&list.slots[receiver.rows[i].hash & (list.slot_count - 1)], 1);
    for (std::uint32_t i = 0; i < receiver.count; ++i) {
        const Receiver::Row &row = receiver.rows[i];
        const SessionRow &s = row.session;
        const SessionSnapshot snapshot = snapshot_at(s, receiver.times[i], now);
        const bool live = snapshot.state != SessionState::offline;
        ListedUser &user = take(list, s.name.user, row.hash, row.user);
        list.online_users += live && !user.summary.online();
        list.live_sessions += snapshot.state == SessionState::online;
        list.has_stale |= s.online && !live;
        if (user.summary.add(snapshot))
            user.metadata = row.metadata;
    }
    receiver.count = 0;
    receiver.name_used = 0;
}

bool receive(TupleTableSlot *slot, DestReceiver *self)
{
    auto &receiver = *reinterpret_cast<Receiver *>(self);
    UserList &list = *receiver.list;
    slot_getallattrs(slot);
    const Datum *values = slot->tts_values;
    const bool *nulls = slot->tts_isnull;
    Receiver::Row &row = receiver.rows[receiver.count];
    SessionRow &s = row.session;
    row.user = kept_text(list, text_view(DatumGetTextPP(values[0])));
    s.name.user = text_view(row.user);
    row.hash = hash_of(s.name.user);
    const std::string_view session = text_view(DatumGetTextPP(values[1]));
    char *name = receiver.names + receiver.name_used;
    memcpy(name, session.data(), session.size());
    receiver.name_used += session.size();
    s.name.session = {name, session.size()};
    s.online = DatumGetBool(values[2]);
    s.status = Status::active;
    parse(text_view(DatumGetTextPP(values[3])), s.status);
    s.online_since = DatumGetTimestampTz(values[4]);
    s.heartbeat_at = DatumGetTimestampTz(values[5]);
    s.interval = interval_time(NullableDatum{values[6], nulls[6]});
    s.ended_at = nulls[7] ? 0 : DatumGetTimestampTz(values[7]);
    s.leave_until = nulls[8] ? 0 : DatumGetTimestampTz(values[8]);
    row.metadata = nulls[9] || !list.with_metadata ? null_datum : NullableDatum{kept(list, values[9]), false};
    receiver.recorded[receiver.count] = {s.name, s.heartbeat_at, s.interval};
    if (++receiver.count == Receiver::batch || receiver.name_used > Receiver::name_room - 256)
        add_batch(receiver);
    return true;
}

void start_nothing(DestReceiver *, int, TupleDesc) {}
void stop_nothing(DestReceiver *) {}

UserList *collect(Statement &statement, Datum argument, bool with_metadata, Time grace = 0)
{
    UserList *list = new_list(with_metadata, grace);
    Receiver receiver{
        {receive, start_nothing, stop_nothing, stop_nothing, DestNone}, list, 0, 0, nullptr, nullptr, nullptr, nullptr};
    receiver.rows = static_cast<Receiver::Row *>(palloc(sizeof(Receiver::Row) * Receiver::batch));
    receiver.recorded = static_cast<RecordedSession *>(palloc(sizeof(RecordedSession) * Receiver::batch));
    receiver.times = static_cast<EffectiveTimes *>(palloc(sizeof(EffectiveTimes) * Receiver::batch));
    receiver.names = static_cast<char *>(palloc(Receiver::name_room));
    SPIExecuteOptions options = {};
    options.read_only = true;
    options.dest = &receiver.base;
    SPIPlanPtr plan = prepared(statement);
    if (statement.argument_count == 1) {
        options.params = makeParamList(1);
        options.params->params[0] = {argument, false, PARAM_FLAG_CONST, statement.argument_types[0]};
    }
    int result = 0;
    guarded(statement.sql, [&] { result = SPI_execute_plan_extended(plan, &options); });
    if (result < 0)
        elog(ERROR, "a statement failed: %s", SPI_result_code_string(result));
    add_batch(receiver);
    return list;
}

}  // namespace

ListedUser &take_user(UserList &list, std::string_view name) { return take(list, name, hash_of(name), nullptr); }

SessionSnapshot snapshot_of(const SessionRow &row)
{
    EffectiveTimes times{};
    if (row.online)
        times = effective_times({row.name, row.heartbeat_at, row.interval});
    return snapshot_at(row, times, GetCurrentTimestamp());
}

UserList *list_online(bool with_metadata, Time grace) { return collect(online_sessions, 0, with_metadata, grace); }
UserList *list_named(Datum names, bool with_ended)
{
    return collect(with_ended ? sessions_of : online_sessions_of, names, with_ended);
}

UserList *list_suspects()
{
    auto *stale = static_cast<ExpiredSession *>(palloc(sizeof(ExpiredSession) * most_suspects));
    const std::size_t count = cache_collect_stale({stale, most_suspects});
    if (count == most_suspects)
        return nullptr;
    auto *since = static_cast<Datum *>(palloc(sizeof(Datum) * (count + 1)));
    for (std::size_t i = 0; i < count; ++i)
        since[i] = TimestampTzGetDatum(static_cast<Time>(stale[i].row_id));
    Datum values[] = {PointerGetDatum(
        construct_array(since, static_cast<int>(count), TIMESTAMPTZOID, sizeof(TimestampTz), true, TYPALIGN_DOUBLE))};
    run(suspects, values, nullptr, true);
    const Datum names = first_value(1);
    return names == 0 ? new_list(false) : list_named(names, false);
}

std::int64_t count_online()
{
    UserList *unsure = nullptr;
    if (!RecoveryInProgress()) {
        if (cache_watches_everybody())
            unsure = list_suspects();
        if (unsure == nullptr)
            return list_online(false)->online_users;
    }
    const std::int64_t recorded = recorded_online_users(GetActiveSnapshot());
    return unsure == nullptr ? recorded : recorded - (unsure->count - unsure->online_users);
}

std::uint32_t *newest_first(const UserList &list)
{
    // The beginning of the name decides nearly every tie without a look at the name itself.
    struct Key {
        Time online_since;
        std::uint64_t name_start;
        std::uint32_t position;
    };
    const auto online = static_cast<std::size_t>(list.online_users);
    auto *keys = static_cast<Key *>(MemoryContextAllocHuge(list.context, sizeof(Key) * (online + 1)));
    std::size_t count = 0;
    for (std::uint32_t i = 0; i < list.count; ++i) {
        const ListedUser &user = list.user(i);
        if (!user.summary.online())
            continue;
        const std::string_view name = text_view(user.name);
        std::uint64_t start = 0;
        for (std::size_t byte = 0; byte < sizeof start; ++byte)
            start = start << 8U | (byte < name.size() ? static_cast<unsigned char>(name[byte]) : 0U);
        keys[count++] = {user.summary.online_since, start, i};
    }
    std::sort(keys, keys + count, [&list](const Key &a, const Key &b) {
        if (a.online_since != b.online_since)
            return a.online_since > b.online_since;
        if (a.name_start != b.name_start)
            return a.name_start < b.name_start;
        return text_view(list.user(a.position).name) < text_view(list.user(b.position).name);
    });
    auto *order =
        static_cast<std::uint32_t *>(MemoryContextAllocHuge(list.context, sizeof(std::uint32_t) * (online + 1)));
    for (std::size_t i = 0; i < count; ++i)
        order[i] = keys[i].position;
    return order;
}

void begin_consistent_reading()
{
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
}

void end_consistent_reading() { PopActiveSnapshot(); }

}  // namespace presence
