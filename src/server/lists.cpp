#include "lists.h"

#include <algorithm>

#include "cache.h"
#include "compat.h"
#include "datums.h"
#include "extension.h"
#include "feed_tables.h"
#include "owner_guard.h"
#include "storage.h"

extern "C" {
#include "access/detoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "common/hashfn.h"
#include "tcop/dest.h"
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

// All columns in the order of the table, so that the executor hands on what it reads as it is.
Statement online_sessions = {"SELECT * FROM @.presence_session WHERE online", 0, {}};
Statement online_sessions_of = {
    "SELECT * FROM @.presence_session WHERE user_id = ANY ($1) AND online", 1, {TEXTARRAYOID}};
Statement sessions_of = {"SELECT * FROM @.presence_session WHERE user_id = ANY ($1)", 1, {TEXTARRAYOID}};
Statement hidden_sessions_of = {
    "SELECT * FROM @.presence_hidden_session WHERE user_id = ANY ($1) AND online", 1, {TEXTARRAYOID}};
// In two steps, each by an index.
#define SUSPECTS                                                                                                                 \
    "SELECT user_id FROM @.presence_session WHERE online AND online_since = ANY ($1)"                                            \
    " UNION SELECT user_id FROM @.presence_session WHERE online AND least(leave_until, update_due) < (SELECT clock_timestamp())" \
    " AND (leave_until IS NOT NULL OR update_due IS NOT NULL) AND leave_until < clock_timestamp()"
Statement suspects = {
    "SELECT array_agg(user_id) FROM (" SUSPECTS ") AS found", 1, {TIMESTAMPTZARRAYOID}, Access::by_index};
Statement suspects_or_leaving = {
    "SELECT array_agg(user_id) FROM (" SUSPECTS
    " UNION SELECT user_id FROM @.presence_room_member WHERE leave_until < (SELECT clock_timestamp())) AS found",
    1,
    {TIMESTAMPTZARRAYOID},
    Access::by_index};
constexpr std::size_t room_bytes = 256 * 1024;
// More than so many are found faster by reading everything.
constexpr std::size_t most_suspects = 10000;
// A worker that knows of a session has ended it so long after its time, or is busy with others or waits for a lock.
constexpr Time worker_takes = 5 * USECS_PER_SEC;

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
    static constexpr std::size_t longest_name = 255;
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
                             .seen_at = is_goodbye(row.end_reason) ? row.ended_at : row.heartbeat_at};
    if (!row.online)
        return snapshot;
    snapshot.heartbeat_at = times.heartbeat_at;
    snapshot.seen_at = std::max(snapshot.seen_at, times.heartbeat_at);
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
        if (s.online && !live) {
            list.has_stale = true;
            list.has_overdue |= now - worker_takes > live_until(receiver.times[i].stale_after, s.leave_until);
        }
        if (user.summary.add(snapshot))
            user.metadata = row.metadata;
        if (list.visitor != nullptr)
            list.visitor->visit(s.name, snapshot, list.visitor->context);
    }
    receiver.count = 0;
    receiver.name_used = 0;
}

// Returns the name of the user, which is the list's own.
std::string_view add_row(Receiver &receiver, TupleTableSlot *slot)
{
    UserList &list = *receiver.list;
    slot_getsomeattrs(slot, session_choice_until);
    const auto value = [slot](SessionColumn column) { return slot->tts_values[column - 1]; };
    const auto is_null = [slot](SessionColumn column) { return slot->tts_isnull[column - 1]; };
    const auto time = [&](SessionColumn column) { return is_null(column) ? 0 : DatumGetTimestampTz(value(column)); };
    Receiver::Row &row = receiver.rows[receiver.count];
    SessionRow &s = row.session;
    row.user = kept_text(list, text_view(DatumGetTextPP(value(session_user))));
    s.name.user = text_view(row.user);
    row.hash = hash_of(s.name.user);
    const std::string_view session = text_view(DatumGetTextPP(value(session_name)));
    // Only rows written by hand have longer ones.
    const bool fits = session.size() <= Receiver::longest_name;
    char *name = fits ? receiver.names + receiver.name_used : reserve(list, session.size());
    memcpy(name, session.data(), session.size());
    receiver.name_used += fits ? session.size() : 0;
    s.name.session = {name, session.size()};
    s.online = DatumGetBool(value(session_online));
    s.status = Status::active;
    const bool chosen = !is_null(session_status_choice) &&
                        (is_null(session_choice_until) || time(session_choice_until) > GetCurrentTimestamp());
    parse(text_view(DatumGetTextPP(value(chosen ? session_status_choice : session_status))), s.status);
    s.online_since = time(session_online_since);
    s.heartbeat_at = time(session_heartbeat_at);
    s.interval = interval_of({value(session_timeout), is_null(session_timeout)},
                             {value(session_heartbeat_interval), is_null(session_heartbeat_interval)});
    s.ended_at = time(session_ended_at);
    s.leave_until = time(session_leave_until);
    s.end_reason = Reason::none;
    if (!is_null(session_end_reason))
        parse(text_view(DatumGetTextPP(value(session_end_reason))), s.end_reason);
    row.metadata = is_null(session_metadata) || !list.with_metadata
                       ? null_datum
                       : NullableDatum{kept(list, value(session_metadata)), false};
    receiver.recorded[receiver.count] = {s.name, s.heartbeat_at, s.interval};
    if (++receiver.count == Receiver::batch || receiver.name_used > Receiver::name_room - Receiver::longest_name)
        add_batch(receiver);
    return s.name.user;
}

bool receive(TupleTableSlot *slot, DestReceiver *self)
{
    (void)add_row(*reinterpret_cast<Receiver *>(self), slot);
    return true;
}

void start_nothing(DestReceiver *, int, TupleDesc) {}
void stop_nothing(DestReceiver *) {}

Receiver receiver_for(UserList *list)
{
    Receiver receiver{
        {receive, start_nothing, stop_nothing, stop_nothing, DestNone}, list, 0, 0, nullptr, nullptr, nullptr, nullptr};
    receiver.rows = static_cast<Receiver::Row *>(palloc(sizeof(Receiver::Row) * Receiver::batch));
    receiver.recorded = static_cast<RecordedSession *>(palloc(sizeof(RecordedSession) * Receiver::batch));
    receiver.times = static_cast<EffectiveTimes *>(palloc(sizeof(EffectiveTimes) * Receiver::batch));
    receiver.names = static_cast<char *>(palloc(Receiver::name_room));
    return receiver;
}

UserList *collect(Statement &statement, Datum argument, bool with_metadata, Time grace = 0,
                  const SessionVisitor *visitor = nullptr)
{
    UserList *list = new_list(with_metadata, grace);
    list->visitor = visitor;
    Receiver receiver = receiver_for(list);
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

// By the statement, who of those that the cache calls stale.
Suspects find_suspects(Statement &statement)
{
    auto *stale = static_cast<ExpiredSession *>(palloc(sizeof(ExpiredSession) * most_suspects));
    const std::size_t count = cache_collect_stale({stale, most_suspects});
    if (count == most_suspects)
        return {true, 0};
    auto *since = static_cast<Datum *>(palloc(sizeof(Datum) * (count + 1)));
    for (std::size_t i = 0; i < count; ++i)
        since[i] = TimestampTzGetDatum(static_cast<Time>(stale[i].row_id));
    Datum values[] = {PointerGetDatum(
        construct_array(since, static_cast<int>(count), TIMESTAMPTZOID, sizeof(TimestampTz), true, TYPALIGN_DOUBLE))};
    run(statement, values, nullptr, true);
    return {false, first_value(1)};
}

// The index of online sessions by online_since and user_id, in which the sessions of a user are neighbours; null where it
// cannot be used.
Relation open_online_index(Relation table)
{
    Relation found = nullptr;
    List *indexes = RelationGetIndexList(table);
    ListCell *cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        const FormData_pg_index &form = *index->rd_index;
        // As the planner sees it: rows may be missing in a new index that older snapshots can see.
        const bool usable =
            form.indisvalid &&
            (!form.indcheckxmin ||
             TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data), TransactionXmin));
        if (usable && index->rd_rel->relam == BTREE_AM_OID && form.indnkeyatts == 2 &&
            form.indkey.values[0] == session_online_since && form.indkey.values[1] == session_user &&
            RelationGetIndexPredicate(index) != NIL) {
            found = index;
            break;
        }
        index_close(index, AccessShareLock);
    }
    list_free(indexes);
    return found;
}

// Asked between two users only, because the sessions of one belong together.
bool is_full(Receiver &receiver, std::int64_t most)
{
    constexpr std::int64_t few = 32;
    if (receiver.count >= std::max(most - receiver.list->online_users, few))
        add_batch(receiver);
    return receiver.list->online_users >= most;
}

// Moment by moment from the newest on, and each moment by name: the index has only one of the two in this direction.
void read_page(ListPage &page, std::int64_t most, IndexScanDesc moments, IndexScanDesc users, TupleTableSlot *slot,
               Receiver &receiver)
{
    bool is_null = false;
    std::string_view last;
    for (;;) {
        ScanKeyData keys[2];
        ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TIMESTAMP_EQ, TimestampTzGetDatum(page.before));
        ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_TEXT_GT, PointerGetDatum(make_text(page.user)));
        index_rescan(users, keys, 2, nullptr, 0);
        while (index_getnext_slot(users, ForwardScanDirection, slot)) {
            CHECK_FOR_INTERRUPTS();
            if (text_view(DatumGetTextPP(slot_getattr(slot, session_user, &is_null))) != last &&
                is_full(receiver, most))
                return;
            last = page.user = add_row(receiver, slot);
        }
        ScanKeyInit(&keys[0], 1, BTLessStrategyNumber, F_TIMESTAMP_LT, TimestampTzGetDatum(page.before));
        index_rescan(moments, keys, 1, nullptr, 0);
        page.is_last = !index_getnext_slot(moments, BackwardScanDirection, slot);
        if (page.is_last)
            return;
        page.before = DatumGetTimestampTz(slot_getattr(slot, session_online_since, &is_null));
        page.user = {};
    }
}

}  // namespace

bool ListPage::has(const ListedUser &listed) const
{
    const Time since = listed.summary.online_since;
    return since < before || (since == before && text_view(listed.name) > user);
}

UserList *list_page(ListPage &page, std::int64_t most)
{
    Relation table = table_open(session_table(), AccessShareLock);
    Relation index = open_online_index(table);
    UserList *list;
    if (index == nullptr) {
        list = list_online(true);
        page.is_last = true;
    } else {
        list = new_list(true);
        Receiver receiver = receiver_for(list);
        TupleTableSlot *slot = table_slot_create(table, nullptr);
        IndexScanDesc moments = compat::begin_index_scan(table, index, GetActiveSnapshot(), 1);
        IndexScanDesc users = compat::begin_index_scan(table, index, GetActiveSnapshot(), 2);
        read_page(page, most, moments, users, slot, receiver);
        add_batch(receiver);
        index_endscan(users);
        index_endscan(moments);
        ExecDropSingleTupleTableSlot(slot);
        index_close(index, AccessShareLock);
    }
    table_close(table, AccessShareLock);
    return list;
}

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
UserList *list_hidden(Datum names) { return collect(hidden_sessions_of, names, false); }

UserList *list_sessions_of(Datum names, const SessionVisitor &visitor, Time grace)
{
    return collect(online_sessions_of, names, false, grace, &visitor);
}

UserList *list_suspects()
{
    const Suspects found = find_suspects(suspects);
    if (found.too_many)
        return nullptr;
    return found.names == 0 ? new_list(false) : list_named(found.names, false);
}

Suspects suspects_in_rooms() { return find_suspects(suspects_or_leaving); }

std::int64_t count_online()
{
    UserList *unsure = nullptr;
    if (!RecoveryInProgress()) {
        if (cache_watches_everybody())
            unsure = list_suspects();
        if (unsure == nullptr)
            return list_online(false)->online_users;
    }
    const std::int64_t told = recorded(GetActiveSnapshot()).online_users;
    return unsure == nullptr ? told : told - (unsure->count - unsure->online_users);
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
