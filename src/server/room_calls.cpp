// The SQL functions that change who is in a room: arguments are checked here, rules decide, storage writes.
#include <algorithm>

#include "access.h"
#include "arguments.h"
#include "cache.h"
#include "calls.h"
#include "extension.h"
#include "rooms.h"
#include "settings.h"
#include "storage.h"
#include "tombstones.h"

extern "C" {
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
}

namespace presence {

namespace {

// Positions of arguments of join_room() and leave_room().
namespace argument {
enum : int { user_id, session_id, room, metadata };
}

// Whether the session is there already and has said the same: nothing is to be locked or written then. Within owner work.
bool is_member(text *user, text *room, text *session, const NullableDatum &metadata)
{
    PushActiveSnapshot(GetLatestSnapshot());
    const IndexScan members =
        begin_reading(Table::room_member, {member_user, member_room, member_session}, false, 3, GetActiveSnapshot());
    ScanKeyData keys[] = {equals(1, F_TEXTEQ, PointerGetDatum(user)), equals(2, F_TEXTEQ, PointerGetDatum(room)),
                          equals(3, F_TEXTEQ, PointerGetDatum(session))};
    index_rescan(members.scan, keys, 3, nullptr, 0);
    const TupleTableSlot *row = members.slot;
    bool found = next(members);
    if (found) {
        slot_getallattrs(members.slot);
        found = row->tts_isnull[member_leave_until - 1] &&
                (metadata.isnull || (!row->tts_isnull[member_metadata - 1] &&
                                     same_bytes(metadata.value, row->tts_values[member_metadata - 1])));
    }
    end_reading(members);
    PopActiveSnapshot();
    return found;
}

// A request of join_rooms(), and how many elements of the arrays ask for it.
struct Asked {
    text *user, *session, *room;
    int times;
};

int compare(const Asked &a, const Asked &b)
{
    int order = text_view(a.user).compare(text_view(b.user));
    if (order == 0)
        order = text_view(a.session).compare(text_view(b.session));
    return order != 0 ? order : text_view(a.room).compare(text_view(b.room));
}

// In order, and none of them twice.
std::span<Asked> asked_for(FunctionCallInfo fcinfo)
{
    const TextArray users = required_array(fcinfo, 0, "user_ids");
    const TextArray sessions = required_array(fcinfo, 1, "session_ids");
    const TextArray rooms = required_array(fcinfo, 2, "rooms");
    if (users.count != sessions.count || users.count != rooms.count)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg("user_ids has %d elements, session_ids has %d, and rooms has %d", users.count,
                               sessions.count, rooms.count),
                        errhint("Pass arrays of one length; where a user has no session id, NULL.")));
    const auto count = static_cast<std::size_t>(users.count);
    auto *asked = static_cast<Asked *>(palloc_extended(sizeof(Asked) * (count + 1), MCXT_ALLOC_HUGE));
    text *const unnamed = make_text("");
    for (int i = 0; i < users.count; ++i)
        asked[i] = {required_element(users, i, "user_ids"),
                    sessions.nulls[i] ? unnamed : DatumGetTextPP(sessions.values[i]),
                    required_element(rooms, i, "rooms"), 1};
    std::sort(asked, asked + count, [](const Asked &a, const Asked &b) { return compare(a, b) < 0; });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (kept > 0 && compare(asked[kept - 1], asked[i]) == 0)
            ++asked[kept - 1].times;
        else
            asked[kept++] = asked[i];
    }
    return {asked, kept};
}

// How many of these are in their rooms now.
int join_set(const OwnerWork &work, const Storage &storage, std::span<const Asked> asked)
{
    auto *sessions = static_cast<NamedSession *>(palloc_extended(sizeof(NamedSession) * asked.size(), MCXT_ALLOC_HUGE));
    auto *requests = static_cast<RoomRequest *>(palloc_extended(sizeof(RoomRequest) * asked.size(), MCXT_ALLOC_HUGE));
    std::size_t session_count = 0;
    for (std::size_t i = 0; i < asked.size(); ++i) {
        const Asked &each = asked[i];
        requests[i] = {RoomRequest::Kind::join, text_view(each.session), text_view(each.room), null_datum, false};
        const NamedSession *last = session_count > 0 ? &sessions[session_count - 1] : nullptr;
        if (last == nullptr || text_view(last->user) != text_view(each.user) ||
            text_view(last->session) != text_view(each.session))
            sessions[session_count++] = {each.user, each.session};
    }
    const std::span<WantedUser> wanted = wanted_users({sessions, session_count});
    std::size_t from = 0;
    for (WantedUser &each : wanted) {
        std::size_t to = from;
        while (to < asked.size() && text_view(asked[to].user) == text_view(each.name))
            ++to;
        each.rooms = {requests + from, to - from};
        from = to;
    }
    record_heartbeats(work, storage, wanted);
    int joined = 0;
    for (std::size_t i = 0; i < asked.size(); ++i)
        joined += requests[i].done ? asked[i].times : 0;
    return joined;
}

}  // namespace

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(join_room)
{
    text *user = required_text(fcinfo, argument::user_id, "user_id");
    text *session = session_argument(fcinfo, argument::session_id);
    text *room = required_text(fcinfo, argument::room, "room");
    const NullableDatum metadata = fcinfo->args[argument::metadata];
    require_writable("join_room");
    extension_of(fcinfo);
    require_may_act_for(user);
    if (!metadata.isnull)
        check_metadata(DatumGetJsonbP(metadata.value));
    const SessionName name{text_view(user), text_view(session)};
    const OwnerWork work = begin_owner_work();
    require_may_join(work, room);
    // In this order: a session that is heard now has not ended before the membership is looked up.
    if (!IsolationUsesXactSnapshot() && cache_touch(name, {}) && is_member(user, room, session, metadata)) {
        end_owner_work(work);
        PG_RETURN_BOOL(true);
    }
    if (!name.session.empty() && has_tombstone(name)) {
        end_owner_work(work);
        PG_RETURN_BOOL(false);
    }
    const Storage storage = open_storage();
    StoredSession *target = nullptr;
    RoomRequest request{RoomRequest::Kind::join, name.session, text_view(room), metadata, false};
    WantedUser wanted{user, {&session, 1}, &target, nullptr, {&request, 1}};
    record_heartbeats(work, storage, {&wanted, 1});
    close_storage(storage);
    end_owner_work(work);
    PG_RETURN_BOOL(request.done);
}

PRESENCE_FUNCTION(leave_room)
{
    text *user = required_text(fcinfo, argument::user_id, "user_id");
    text *session = session_argument(fcinfo, argument::session_id);
    text *room = required_text(fcinfo, argument::room, "room");
    require_writable("leave_room");
    extension_of(fcinfo);
    require_may_act_for(user);
    const OwnerWork work = begin_owner_work();
    const Storage storage = open_storage();
    StoredSession *target = nullptr;
    RoomRequest request{RoomRequest::Kind::leave, text_view(session), text_view(room), null_datum, false};
    WantedUser wanted{user, {&session, 1}, &target, nullptr, {&request, 1}};
    load_users(storage, {&wanted, 1}, Lock::wait);
    if (wanted.user != nullptr) {
        wanted.user->changed_at = GetCurrentTimestamp();
        store_users(storage, {&wanted, 1});
    }
    close_storage(storage);
    end_owner_work(work);
    PG_RETURN_BOOL(request.done);
}

PRESENCE_FUNCTION(join_rooms)
{
    const std::span<Asked> asked = asked_for(fcinfo);
    require_writable("join_rooms");
    extension_of(fcinfo);
    for (const Asked &each : asked)
        require_may_act_for(each.user);
    const OwnerWork work = begin_owner_work();
    for (const Asked &each : asked)
        require_may_join(work, each.room);
    // As with heartbeats: whoever has said goodbye does not come back by a call that it overtook.
    const std::size_t count = static_cast<std::size_t>(
        std::remove_if(asked.begin(), asked.end(),
                       [](const Asked &each) {
                           return !text_view(each.session).empty() &&
                                  has_tombstone({text_view(each.user), text_view(each.session)});
                       }) -
        asked.begin());
    int joined = 0;
    const Storage storage = open_storage();
    MemoryContext set = AllocSetContextCreate(CurrentMemoryContext, "presence rooms", ALLOCSET_DEFAULT_SIZES);
    for (std::size_t from = 0, to = 0; from < count; from = to) {
        to = end_of_set(asked.first(count), from);
        MemoryContext outer = MemoryContextSwitchTo(set);
        joined += join_set(work, storage, asked.subspan(from, to - from));
        MemoryContextSwitchTo(outer);
        MemoryContextReset(set);
    }
    MemoryContextDelete(set);
    close_storage(storage);
    end_owner_work(work);
    PG_RETURN_INT32(joined);
}
