// The SQL functions that show who is in a room.
#include <algorithm>

#include "access.h"
#include "arguments.h"
#include "cache.h"
#include "datums.h"
#include "expiry.h"
#include "extension.h"
#include "feed.h"
#include "feed_epoch.h"
#include "feed_functions.h"
#include "feed_tables.h"
#include "lists.h"
#include "readers.h"
#include "room_counts.h"
#include "rooms.h"
#include "rows.h"
#include "settings.h"

extern "C" {
#include "access/tableam.h"
#include "utils/fmgroids.h"
}

namespace presence {

namespace {

// A row of presence_room_member, and what is known of its session.
struct ListedMember {
    text *user, *room, *session;
    Time entered_at, changed_at, leave_until;
    NullableDatum metadata;
    Time heartbeat_at;
    bool live;
};

// A user in a room: members of one user and one room add up to this.
struct Occupant {
    text *user, *room;
    Time entered_at, heartbeat_at, changed_at;
    std::int32_t sessions;
    NullableDatum metadata;
    Status status;
    bool present;
};

IndexScan read_by_user(int keys)
{
    return begin_reading(Table::room_member, {member_user, member_room, member_session}, false, keys,
                         GetActiveSnapshot());
}

IndexScan read_by_time(int keys)
{
    return begin_reading(Table::room_member, {member_room, member_entered_at, member_user}, false, keys,
                         GetActiveSnapshot());
}

// The row in the slot, in memory of the caller's context.
ListedMember member_in(TupleTableSlot *slot)
{
    slot_getallattrs(slot);
    const auto words = [slot](MemberColumn column) { return DatumGetTextPCopy(slot->tts_values[column - 1]); };
    const auto time = [slot](MemberColumn column) {
        return slot->tts_isnull[column - 1] ? 0 : DatumGetTimestampTz(slot->tts_values[column - 1]);
    };
    ListedMember member{words(member_user),
                        words(member_room),
                        words(member_session),
                        time(member_entered_at),
                        time(member_changed_at),
                        time(member_leave_until),
                        null_datum,
                        0,
                        false};
    if (!slot->tts_isnull[member_metadata - 1])
        member.metadata = {PointerGetDatum(PG_DETOAST_DATUM_COPY(slot->tts_values[member_metadata - 1])), false};
    return member;
}

// Members in order of user and then of session.
struct Members {
    std::span<ListedMember> all;
    UserList *users;  // those of them who are online
};

void note_session(const SessionName &name, const SessionSnapshot &session, void *context)
{
    auto &members = *static_cast<Members *>(context);
    for (ListedMember &each : rows_of_session(members.all, name)) {
        each.live = session.state == SessionState::online;
        each.heartbeat_at = session.heartbeat_at;
    }
}

// Looks up the sessions and the users, as the caller sees them. grace: who has been stale for no longer counts.
Members look_up(std::span<ListedMember> found, Time grace, const OwnerWork &work)
{
    Members members{found, nullptr};
    std::sort(found.begin(), found.end(), [](const ListedMember &a, const ListedMember &b) {
        return compare_session(a, {text_view(b.user), text_view(b.session)}) < 0;
    });
    auto *names = static_cast<Datum *>(palloc_extended(sizeof(Datum) * (found.size() + 1), MCXT_ALLOC_HUGE));
    std::size_t count = 0;
    for (std::size_t i = 0; i < found.size(); ++i)
        if (i == 0 || text_view(found[i].user) != text_view(found[i - 1].user))
            names[count++] = PointerGetDatum(found[i].user);
    const SessionVisitor visitor{note_session, &members};
    members.users = list_sessions_of(text_array(names, count), visitor, grace);
    hide_unseen(*members.users, work);
    const Time now = GetCurrentTimestamp() - grace;
    const bool judged = !RecoveryInProgress();
    for (ListedMember &member : found)
        if (member.leave_until != 0)
            member.live = !judged || now <= member.leave_until;
    return members;
}

// Adds a member who is there.
void add_member(Occupant &occupant, const ListedMember &member)
{
    occupant.present = true;
    occupant.sessions += member.leave_until == 0;
    occupant.heartbeat_at = std::max(occupant.heartbeat_at, member.heartbeat_at);
    if (!member.metadata.isnull && (occupant.metadata.isnull || member.changed_at >= occupant.changed_at)) {
        occupant.metadata = member.metadata;
        occupant.changed_at = member.changed_at;
    }
}

// Those who are there, one for each user and room.
Growing<Occupant> occupants_of(const Members &members)
{
    std::sort(members.all.begin(), members.all.end(), [](const ListedMember &a, const ListedMember &b) {
        const int users = text_view(a.user).compare(text_view(b.user));
        return users != 0 ? users < 0 : text_view(a.room) < text_view(b.room);
    });
    Growing<Occupant> occupants;
    for (const ListedMember &member : members.all) {
        Occupant *last = occupants.count > 0 ? &occupants.items[occupants.count - 1] : nullptr;
        if (last == nullptr || text_view(last->user) != text_view(member.user) ||
            text_view(last->room) != text_view(member.room)) {
            if (last != nullptr && !last->present)
                --occupants.count;
            const UserSummary &user = take_user(*members.users, text_view(member.user)).summary;
            occupants.add({member.user, member.room, member.entered_at, 0, 0, 0, null_datum, user.status, false});
            last = &occupants.items[occupants.count - 1];
        }
        const UserSummary &user = take_user(*members.users, text_view(member.user)).summary;
        if (member.live && user.online()) {
            add_member(*last, member);
            if (member.leave_until != 0)
                last->heartbeat_at = user.heartbeat_at;
        }
    }
    if (occupants.count > 0 && !occupants.items[occupants.count - 1].present)
        --occupants.count;
    return occupants;
}

bool newer(const Occupant &a, const Occupant &b)
{
    return a.entered_at != b.entered_at ? a.entered_at > b.entered_at : text_view(a.user) < text_view(b.user);
}

// Whether the page has the user: it lists whoever came earlier, or at the same moment and has a greater user_id.
bool has(const ListPage &page, const Occupant &occupant)
{
    return occupant.entered_at < page.before ||
           (occupant.entered_at == page.before && text_view(occupant.user) > page.user);
}

Growing<ListedMember> all_in(text *room)
{
    Growing<ListedMember> found;
    IndexScan reader = read_by_time(1);
    ScanKeyData key = equals(1, F_TEXTEQ, PointerGetDatum(room));
    index_rescan(reader.scan, &key, 1, nullptr, 0);
    while (next(reader)) {
        CHECK_FOR_INTERRUPTS();
        found.add(member_in(reader.slot));
    }
    end_reading(reader);
    return found;
}

// So many users of the page, if there are as many, and moves it on. Moment by moment from the newest on, and each moment
// by name: the index has only one of the two in this direction.
Growing<ListedMember> some_in(text *room, ListPage &page, std::int64_t most)
{
    Growing<ListedMember> found;
    IndexScan users = read_by_time(3), moments = read_by_time(2);
    std::int64_t count = 0;
    for (;;) {
        ScanKeyData keys[3] = {equals(1, F_TEXTEQ, PointerGetDatum(room)),
                               equals(2, F_TIMESTAMP_EQ, TimestampTzGetDatum(page.before)),
                               {}};
        ScanKeyInit(&keys[2], 3, BTGreaterStrategyNumber, F_TEXT_GT, PointerGetDatum(make_text(page.user)));
        index_rescan(users.scan, keys, 3, nullptr, 0);
        while (next(users)) {
            CHECK_FOR_INTERRUPTS();
            const ListedMember member = member_in(users.slot);
            const bool another =
                found.count == 0 || text_view(found.items[found.count - 1].user) != text_view(member.user);
            if (another && count == most) {
                end_reading(moments);
                end_reading(users);
                return found;
            }
            count += another;
            found.add(member);
            page.user = text_view(member.user);
        }
        ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_TIMESTAMP_LT, TimestampTzGetDatum(page.before));
        index_rescan(moments.scan, keys, 2, nullptr, 0);
        bool is_null = false;
        page.is_last = !next(moments, BackwardScanDirection);
        if (page.is_last)
            break;
        page.before = DatumGetTimestampTz(slot_getattr(moments.slot, member_entered_at, &is_null));
        page.user = {};
    }
    end_reading(moments);
    end_reading(users);
    return found;
}

// Of one user, in that room or in all.
Growing<ListedMember> all_of(text *user, text *room)
{
    Growing<ListedMember> found;
    IndexScan reader = read_by_user(room != nullptr ? 2 : 1);
    ScanKeyData keys[] = {equals(1, F_TEXTEQ, PointerGetDatum(user)), equals(2, F_TEXTEQ, PointerGetDatum(room))};
    index_rescan(reader.scan, keys, room != nullptr ? 2 : 1, nullptr, 0);
    while (next(reader))
        found.add(member_in(reader.slot));
    end_reading(reader);
    return found;
}

ListPage page_after(text *room, std::string_view after, const OwnerWork &work)
{
    if (ListPage page; is_page_with_time(after, page))
        return page;
    text *name = make_text(after);
    Sight sight = begin_sight(work);
    const Growing<ListedMember> members = all_of(name, room);
    if (members.count == 0 || !sees(sight, work, name))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("argument \"after\" names a user who is not in the room: \"%s\"", excerpt(after)),
                 errdetail("It must be the user_id of a row of the list, and that user must not have left since."),
                 errhint("Start again with the first page, or pass the row's user_id, a tab, and its entered_at.")));
    return {members.items[0].entered_at, after};
}

// In the columns of get_room().
void describe(const Occupant &occupant, Datum *values, bool *nulls)
{
    values[0] = PointerGetDatum(occupant.user);
    values[1] = PointerGetDatum(make_text(to_text(occupant.status)));
    values[2] = Int32GetDatum(occupant.sessions);
    values[3] = TimestampTzGetDatum(occupant.entered_at);
    values[4] = TimestampTzGetDatum(occupant.heartbeat_at);
    values[5] = occupant.metadata.value;
    nulls[5] = occupant.metadata.isnull;
}

text *room_argument(FunctionCallInfo fcinfo) { return required_text(fcinfo, 0, "room"); }

std::int64_t count_members(text *room, const OwnerWork &work)
{
    return static_cast<std::int64_t>(occupants_of(look_up(all_in(room).span(), 0, work)).count);
}

// Of those who may be stale, how many are recorded in the room and not there any more. Reads these only.
std::int64_t count_gone(text *room, Datum suspects, const OwnerWork &work)
{
    Datum *names;
    int count;
    deconstruct_array(DatumGetArrayTypePCopy(suspects), TEXTOID, -1, false, TYPALIGN_INT, &names, nullptr, &count);
    Growing<ListedMember> found;
    std::int64_t recorded = 0;
    for (int i = 0; i < count; ++i) {
        const Growing<ListedMember> members = all_of(DatumGetTextPP(names[i]), room);
        recorded += members.count > 0;
        for (const ListedMember &member : members.span())
            found.add(member);
    }
    if (recorded == 0)
        return 0;
    return recorded - static_cast<std::int64_t>(occupants_of(look_up(found.span(), 0, work)).count);
}

// Does not grow with their number where the cache watches over everybody, and the caller sees everybody.
std::int64_t count_room(text *room, const OwnerWork &work)
{
    if (!begin_sight(work).everybody)
        return count_members(room, work);
    if (RecoveryInProgress())
        return recorded_room_users(GetActiveSnapshot(), room);
    if (!cache_watches_everybody())
        return count_members(room, work);
    const Suspects suspects = suspects_in_rooms();
    if (suspects.too_many)
        return count_members(room, work);
    const std::int64_t recorded = recorded_room_users(GetActiveSnapshot(), room);
    return suspects.names == 0 ? recorded : recorded - count_gone(room, suspects.names, work);
}

// Who was in the room before the events that have no number, in the columns of get_room(); those who were not have no
// entered_at.
Statement occupants_before = {
    "WITH queue AS MATERIALIZED (SELECT id, event, user_id COLLATE \"C\" AS user_id FROM @.presence_event WHERE id = ANY ($1) AND room = $2),"
    " first AS (SELECT DISTINCT ON (user_id) user_id, id, event FROM queue ORDER BY user_id, id)"
    " SELECT f.user_id, coalesce(told.details ->> 'status', 'active'), coalesce(told.sessions, 1),"
    " CASE WHEN f.event <> 'room_join' THEN coalesce(joined.at, now()) END, coalesce(s.heartbeat_at, now()), nullif(told.details -> 'metadata', 'null')"
    " FROM first AS f"
    " LEFT JOIN LATERAL (SELECT details, sessions FROM @.presence_event AS e WHERE e.room = $2 AND e.user_id COLLATE \"C\" = f.user_id AND e.id < f.id ORDER BY id DESC LIMIT 1) AS told ON true"
    " LEFT JOIN LATERAL (SELECT at FROM @.presence_event AS e WHERE e.room = $2 AND e.user_id COLLATE \"C\" = f.user_id AND e.id < f.id AND event = 'room_join' ORDER BY id DESC LIMIT 1) AS joined ON true"
    " LEFT JOIN LATERAL (SELECT max(heartbeat_at) AS heartbeat_at FROM @.presence_session AS s WHERE s.user_id = f.user_id) AS s ON true",
    2,
    {INT8ARRAYOID, TEXTOID}};

// As take_back_unnumbered() of the snapshot of all: the list is to be that of the last number.
void take_back_unnumbered(Growing<Occupant> &occupants, text *room, const OwnerWork &work)
{
    const Growing<Datum> ids = unnumbered_events(GetActiveSnapshot());
    if (ids.count == 0)
        return;
    Datum arguments[] = {int8_array(ids.items, ids.count), PointerGetDatum(room)};
    const std::uint64_t count = run(occupants_before, arguments, nullptr, true);
    Sight sight = begin_sight(work);
    for (std::uint64_t i = 0; i < count; ++i) {
        Datum values[6];
        bool nulls[6];
        heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
        text *user = DatumGetTextPCopy(values[0]);
        auto *const end = occupants.items + occupants.count;
        auto *const at = std::find_if(occupants.items, end, [user](const Occupant &occupant) {
            return text_view(occupant.user) == text_view(user);
        });
        if (at != end) {
            std::move(at + 1, end, at);
            --occupants.count;
        }
        if (nulls[3] || !sees(sight, work, user))
            continue;
        Occupant before{user,
                        room,
                        DatumGetTimestampTz(values[3]),
                        DatumGetTimestampTz(values[4]),
                        0,
                        DatumGetInt32(values[2]),
                        {values[5], nulls[5]},
                        Status::active,
                        true};
        parse(text_view(DatumGetTextPP(values[1])), before.status);
        occupants.add(before);
    }
}

struct SnappedRoom {
    Growing<Occupant> occupants;
    std::int64_t seq;
    const char *epoch;
    bool any_stale;
};

SnappedRoom snap(text *room, const OwnerWork &work)
{
    begin_consistent_reading();
    const Members members = look_up(all_in(room).span(), worker_delay(), work);
    SnappedRoom taken{occupants_of(members), 0, nullptr, members.users->has_stale};
    take_back_unnumbered(taken.occupants, room, work);
    taken.seq = read_head(GetActiveSnapshot()).last_seq;
    taken.epoch = feed_epoch();
    end_consistent_reading();
    return taken;
}

}  // namespace

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(get_room)
{
    text *room = room_argument(fcinfo);
    const bool all = PG_ARGISNULL(1);
    std::int64_t left = max_rows_argument(fcinfo, 1, PG_INT64_MAX);
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    require_may_look_into(work, room);
    begin_consistent_reading();
    ListPage page = PG_ARGISNULL(2) ? first_page : page_after(room, text_view(PG_GETARG_TEXT_PP(2)), work);
    bool stale = false;
    // Once, unless there are users who are stale or whom the caller does not see.
    while (left > 0 && !page.is_last) {
        const ListPage previous = page;
        Growing<ListedMember> found = all ? all_in(room) : some_in(room, page, left);
        page.is_last |= all;
        const Members members = look_up(found.span(), 0, work);
        stale |= members.users->has_stale;
        Growing<Occupant> occupants = occupants_of(members);
        std::sort(occupants.items, occupants.items + occupants.count, newer);
        for (const Occupant &occupant : occupants.span()) {
            if (left == 0 || !has(previous, occupant))
                continue;
            Datum values[6];
            bool nulls[6] = {};
            describe(occupant, values, nulls);
            tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
            --left;
        }
    }
    end_consistent_reading();
    if (stale && worker_is_expected())
        my_database()->worker.wake();
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(room_count)
{
    text *room = room_argument(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    require_may_look_into(work, room);
    begin_consistent_reading();
    const std::int64_t count = count_room(room, work);
    end_consistent_reading();
    end_owner_work(work);
    PG_RETURN_INT64(count);
}

PRESENCE_FUNCTION(get_user_rooms)
{
    text *user = required_text(fcinfo, 0, "user_id");
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    begin_consistent_reading();
    const Growing<Occupant> rooms = occupants_of(look_up(all_of(user, nullptr).span(), 0, work));
    Sight entry = begin_entry(work);
    for (const Occupant &occupant : rooms.span()) {
        if (!sees(entry, work, occupant.room))
            continue;
        Datum values[] = {PointerGetDatum(occupant.room), TimestampTzGetDatum(occupant.entered_at),
                          Int32GetDatum(occupant.sessions), occupant.metadata.value};
        bool nulls[] = {false, false, false, occupant.metadata.isnull};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    end_consistent_reading();
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(room_snapshot)
{
    text *room = room_argument(fcinfo);
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    require_may_look_into(work, room);
    bring_epoch_up_to_date();
    bring_feed_up_to_date();
    SnappedRoom taken = snap(room, work);
    if (taken.any_stale && !worker_is_expected() && may_write() && !IsolationUsesXactSnapshot()) {
        (void)end_stale_sessions(Thoroughness::whole_table);
        bring_feed_up_to_date();
        taken = snap(room, work);
    }
    Growing<Occupant> &occupants = taken.occupants;
    std::sort(occupants.items, occupants.items + occupants.count, newer);
    Datum values[8] = {Int64GetDatum(taken.seq)};
    values[7] = taken.epoch != nullptr ? CStringGetTextDatum(taken.epoch) : 0;
    const bool no_epoch = taken.epoch == nullptr;
    for (const Occupant &occupant : occupants.span()) {
        bool nulls[8] = {};
        describe(occupant, values + 1, nulls + 1);
        nulls[7] = no_epoch;
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    if (occupants.count == 0) {
        bool nulls[8] = {false, true, true, true, true, true, true, no_epoch};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    end_owner_work(work);
    return 0;
}
