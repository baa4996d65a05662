#include "rooms.h"

#include <algorithm>
#include <new>

#include "compat.h"
#include "datums.h"
#include "feed.h"
#include "rows.h"
#include "settings.h"
#include "storage.h"

extern "C" {
#include "access/table.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "mb/pg_wchar.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
}

namespace presence {

namespace {

constexpr Oid member_types[] = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID};

// In order of room and then of session, which is that of the primary key.
struct MemberList : Growing<Member *, 8> {
    std::span<Member *const> in_room(std::string_view name) const
    {
        const auto *from = std::lower_bound(items, items + count, name,
                                            [](const Member *a, std::string_view b) { return a->room < b; });
        const auto *to = std::upper_bound(items, items + count, name,
                                          [](std::string_view a, const Member *b) { return a < b->room; });
        return {from, to};
    }
    // The others stay in order.
    void insert(Member *member)
    {
        add(member);
        const auto before = [](const Member *a, const Member *b) {
            return a->room != b->room ? a->room < b->room : a->session < b->session;
        };
        std::rotate(std::upper_bound(items, items + count - 1, member, before), items + count - 1, items + count);
    }
};

StoredMember &stored(Member *member) { return *static_cast<StoredMember *>(member); }

StoredMember *new_member()
{
    auto *member = new (palloc0(sizeof(StoredMember))) StoredMember{};
    member->metadata = null_datum;
    return member;
}

StoredMember *read_member(const OpenTable &table)
{
    const ReadRow<member_metadata> row(table, table.found);
    StoredMember *member = new_member();
    member->stored = row.tuple;
    member->room = row.words(member_room);
    member->session = row.words(member_session);
    member->entered_at = row.time(member_entered_at);
    member->changed_at = row.time(member_changed_at);
    member->leave_until = row.time(member_leave_until);
    member->metadata = row.get(member_metadata);
    member->metadata_digest = datum_fingerprint(member->metadata);
    return member;
}

void begin_user(IndexScanDesc scan, const StoredUser &user)
{
    ScanKeyData key = equals(1, F_TEXTEQ, PointerGetDatum(user.name));
    index_rescan(scan, &key, 1, nullptr, 0);
}

// A transaction that joins a room changes nothing in the user's row. So where this one has a snapshot of its own, the lock
// on that row does not tell whether somebody has joined or left since.
void require_same_now(const OpenTable &table, Relation index, const StoredUser &user, const MemberList &members)
{
    Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
    IndexScanDesc scan = begin_index_scan(table, index, 1, latest);
    begin_user(scan, user);
    std::size_t at = 0;
    bool same = true;
    while (same && index_getnext_slot(scan, ForwardScanDirection, table.found)) {
        same =
            at < members.count && ItemPointerEquals(&stored(members.items[at]).stored->t_self, &table.found->tts_tid);
        ++at;
    }
    index_endscan(scan);
    UnregisterSnapshot(latest);
    if (!same || at != members.count)
        report_concurrent_change("update");
}

MemberList load_members(const OpenTable &table, Relation index, IndexScanDesc scan, const WantedUser &wanted)
{
    MemberList members;
    begin_user(scan, *wanted.user);
    while (index_getnext_slot(scan, ForwardScanDirection, table.found)) {
        CHECK_FOR_INTERRUPTS();
        members.add(read_member(table));
    }
    if (IsolationUsesXactSnapshot())
        require_same_now(table, index, *wanted.user, members);
    return members;
}

bool ends_something(const Event &event)
{
    return event.type == EventType::session_end || event.type == EventType::user_offline;
}

bool concerns_rooms(const WantedUser &wanted)
{
    // An invisible user is in no room, and what happens to the sessions is told to nobody.
    if (wanted.user == nullptr || wanted.user->hidden)
        return false;
    const std::span<const Event> events = wanted.user->events.items();
    return !wanted.rooms.empty() || wanted.rooms_may_be_over ||
           std::any_of(events.begin(), events.end(), ends_something);
}

// What keeps the end of a session cheap where nobody uses rooms.
bool any_room_was_used()
{
    Relation members = try_table_open(table_oid(Table::room_member), AccessShareLock);
    if (members == nullptr)
        report_missing_tables();
    const bool any = RelationGetNumberOfBlocks(members) > 0;
    table_close(members, NoLock);
    return any;
}

RoomEnds ends_of(const StoredUser &user)
{
    const std::span<const Event> events = user.events.items();
    RoomEnds ends{.now = user.changed_at, .grace = worker_is_expected() ? ms_to_time(leave_grace_ms) : 0};
    auto *sessions =
        static_cast<SessionEnd *>(palloc_extended(sizeof(SessionEnd) * (events.size() + 1), MCXT_ALLOC_HUGE));
    std::size_t count = 0;
    for (std::size_t i = 0; i < events.size(); ++i) {
        const Event &event = events[i];
        if (event.type == EventType::session_end)
            sessions[count++] = {text_view(static_cast<const StoredSession *>(event.session)->name), event.reason, i};
        else if (event.type == EventType::user_offline && ends.offline == RoomEnds::none)
            ends.offline = i, ends.offline_reason = event.reason;
    }
    std::sort(sessions, sessions + count, [](const SessionEnd &a, const SessionEnd &b) {
        return a.session != b.session ? a.session < b.session : a.event < b.event;
    });
    ends.sessions = {sessions, count};
    return ends;
}

bool is_online(const WantedUser &wanted, std::string_view session)
{
    for (std::size_t i = 0; i < wanted.sessions.size(); ++i)
        if (text_view(wanted.sessions[i]) == session)
            return wanted.targets[i] != nullptr && wanted.targets[i]->state() == SessionState::online;
    return false;
}

void require_room_for_rooms(const MemberList &members, const RoomRequest &request)
{
    if (max_rooms_per_session == 0)
        return;
    const auto rooms = std::count_if(members.items, members.items + members.count, [&request](const Member *member) {
        return !member->gone && member->session == request.session;
    });
    if (rooms > max_rooms_per_session)
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                        errmsg("session_id \"%s\" is in too many rooms", excerpt(request.session)),
                        errdetail("No more than %d are possible at once (presence.max_rooms_per_session).",
                                  max_rooms_per_session),
                        errhint("Leave rooms that are no longer needed with leave_room().")));
}

StoredMember *member_of(std::span<Member *const> in_room, std::string_view session)
{
    for (Member *member : in_room)
        if (!member->gone && member->session == session)
            return &stored(member);
    return nullptr;
}

void do_as_asked(const WantedUser &wanted, MemberList &members, RoomEventList &events)
{
    StoredUser &user = *wanted.user;
    const std::size_t next = user.events.items().size();
    for (RoomRequest &request : wanted.rooms) {
        CHECK_FOR_INTERRUPTS();
        const std::span<Member *const> in_room = members.in_room(request.room);
        StoredMember *target = member_of(in_room, request.session);
        if (request.kind == RoomRequest::Kind::leave) {
            request.done = target != nullptr && leave_room(in_room, *target, Reason::leave, next, events);
            continue;
        }
        request.done = is_online(wanted, request.session);
        if (!request.done)
            continue;
        const bool is_new = target == nullptr;
        if (is_new) {
            target = new_member();
            target->room = request.room;
            target->session = request.session;
        }
        std::optional<std::uint64_t> digest;
        if (!request.metadata.isnull)
            digest = datum_fingerprint(request.metadata);
        if (join_room(in_room, *target, digest, user.changed_at, next, events) != JoinResult::unchanged &&
            !request.metadata.isnull)
            target->metadata = request.metadata;
        if (is_new) {
            members.insert(target);
            require_room_for_rooms(members, request);
        }
    }
}

void fill_member(TupleTableSlot *row, const StoredUser &user, const StoredMember &member)
{
    set(row, member_user, PointerGetDatum(user.name));
    set(row, member_room, PointerGetDatum(make_text(member.room)));
    set(row, member_session, PointerGetDatum(make_text(member.session)));
    set(row, member_entered_at, TimestampTzGetDatum(member.entered_at));
    set(row, member_changed_at, TimestampTzGetDatum(member.changed_at));
    set_time(row, member_leave_until, member.leave_until);
    set(row, member_metadata, member.metadata.value, member.metadata.isnull);
}

void store_members(OpenTable &table, StoredUser &user, const MemberList &members)
{
    for (Member *each : members.span()) {
        StoredMember &member = stored(each);
        if (!member.gone && member.changed && member.leaving() &&
            (user.room_leave_until == 0 || member.leave_until < user.room_leave_until))
            user.room_leave_until = member.leave_until;
        if (member.gone) {
            if (member.stored != nullptr)
                delete_row(table, member.stored);
        } else if (member.changed && member.stored != nullptr) {
            fill_member(next_version(table, member.stored), user, member);
            update_row(table, member.stored);
        } else if (member.changed) {
            fill_member(next_row(table), user, member);
            add_row(table);
        }
    }
}

void settle(OpenTable &table, const WantedUser &wanted, MemberList &members)
{
    StoredUser &user = *wanted.user;
    const std::size_t enough = members.count + wanted.rooms.size();
    RoomEventList events(
        {static_cast<RoomEvent *>(palloc_extended(sizeof(RoomEvent) * (enough + 1), MCXT_ALLOC_HUGE)), enough});
    if (members.count > 0)
        end_members(members.span(), ends_of(user), events);
    do_as_asked(wanted, members, events);
    user.room_events = events.items();
    store_members(table, user, members);
}

}  // namespace

void settle_rooms(std::span<const WantedUser> wanted)
{
    if (std::none_of(wanted.begin(), wanted.end(), concerns_rooms))
        return;
    const auto asks = [](const WantedUser &each) { return concerns_rooms(each) && !each.rooms.empty(); };
    if (std::none_of(wanted.begin(), wanted.end(), asks) && !any_room_was_used())
        return;

    OpenTable *table = open_for_writing(Table::room_member, member_types);
    auto *members = static_cast<MemberList *>(
        palloc_extended(sizeof(MemberList) * wanted.size(), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    begin_command();
    const Relation index = index_on(*table, {member_user, member_room, member_session}, false);
    IndexScanDesc scan = begin_index_scan(*table, index, 1);
    for (std::size_t i = 0; i < wanted.size(); ++i)
        if (concerns_rooms(wanted[i]))
            members[i] = load_members(*table, index, scan, wanted[i]);
    index_endscan(scan);
    for (std::size_t i = 0; i < wanted.size(); ++i)
        if (concerns_rooms(wanted[i]))
            settle(*table, wanted[i], members[i]);
    insert_rows(*table);
    end_command();
    close_table(table);
}

const char *room_channel(std::string_view room)
{
    constexpr int longest = NAMEDATALEN - 1;
    const auto prefix = static_cast<int>(strlen(notify_channel));
    if (prefix + 1 + static_cast<int>(room.size()) <= longest)
        return psprintf("%s:%.*s", notify_channel, static_cast<int>(room.size()), room.data());
    // The first half of SHA-256, in hexadecimal digits.
    constexpr int half = PG_SHA256_DIGEST_LENGTH / 2;
    std::uint8_t digest[PG_SHA256_DIGEST_LENGTH];
    pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
    if (pg_cryptohash_init(hash) < 0 ||
        pg_cryptohash_update(hash, reinterpret_cast<const std::uint8_t *>(room.data()), room.size()) < 0 ||
        pg_cryptohash_final(hash, digest, sizeof digest) < 0)
        elog(ERROR, "could not compute a hash: %s", pg_cryptohash_error(hash));
    pg_cryptohash_free(hash);
    StringInfoData name;
    initStringInfo(&name);
    const int kept = pg_mbcliplen(notify_channel, prefix, longest - 1 - 2 * half);
    appendBinaryStringInfo(&name, notify_channel, kept);
    appendStringInfoChar(&name, ':');
    for (int i = 0; i < half; ++i)
        appendStringInfo(&name, "%02x", digest[i]);
    return name.data;
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(presence_room_channel)
{
    if (!notifications_wanted())
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(room_channel(text_view(PG_GETARG_TEXT_PP(0)))));
}
