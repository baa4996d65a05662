// Who is online, computed from the rows of the sessions and the cache: the one place that turns sessions into users for
// every reader. Everything is flat memory of the caller's context, because an error leaves by longjmp. No SQL function
// and no feed lives here.
#pragma once

#include <algorithm>

#include "cache.h"
#include "datums.h"

namespace presence {

// A row of presence_session. 0 stands for NULL.
struct SessionRow {
    SessionName name;
    bool online;  // as recorded
    Status status;
    Time online_since, heartbeat_at, interval, ended_at, leave_until;
    Reason end_reason;
};

// What it counts for now, with what the cache knows of it.
SessionSnapshot snapshot_of(const SessionRow &row);

struct ListedUser {
    UserSummary summary;
    text *name;
    NullableDatum metadata;  // of the session that beat last
    bool returned;           // for the reader's use
};

// Told of each session of which a list is made.
struct SessionVisitor {
    void (*visit)(const SessionName &name, const SessionSnapshot &session, void *context);
    void *context;
};

// Rows with a user and a session: how one compares with a name, and which of those that are in this order have it.
template <typename Row>
int compare_session(const Row &row, const SessionName &name)
{
    const int users = text_view(row.user).compare(name.user);
    return users != 0 ? users : text_view(row.session).compare(name.session);
}
template <typename Row>
std::span<Row> rows_of_session(std::span<Row> sorted, const SessionName &name)
{
    const auto first = std::partition_point(sorted.begin(), sorted.end(),
                                            [&name](const Row &row) { return compare_session(row, name) < 0; });
    const auto last =
        std::find_if(first, sorted.end(), [&name](const Row &row) { return compare_session(row, name) != 0; });
    return {first, last};
}

struct UserList {
    struct Slot {
        std::uint32_t hash;
        std::uint32_t position;  // plus one; 0: none
    };

    // In the order in which they were met; in pieces, so that growing copies nothing.
    static constexpr std::uint32_t piece_size = 1024;
    ListedUser **pieces;
    std::uint32_t count, room_for_pieces;
    Slot *slots;  // hash table by name
    std::uint32_t slot_count;
    std::int64_t online_users, live_sessions;
    bool with_metadata;
    bool has_stale;    // some session recorded as online is not live
    bool has_overdue;  // and a worker would have ended it long ago
    const SessionVisitor *visitor;
    Time grace;  // who has been stale for no longer than this counts as live
    char *room;  // for names and metadata
    std::size_t room_left;
    MemoryContext context;

    ListedUser &user(std::uint32_t position) const { return pieces[position / piece_size][position % piece_size]; }
};

// The next five need owner work (extension.h), and read by the active snapshot.

// Every user who has a session recorded as online, in one scan. Some may have only stale ones.
UserList *list_online(bool with_metadata, Time grace = 0);
// What follows a place in the list: those who came online before that moment, or at it and have a greater id.
struct ListPage {
    Time before;
    std::string_view user;
    bool is_last = false;  // nobody follows

    bool has(const ListedUser &listed) const;
};
inline constexpr ListPage first_page{DT_NOEND, {}};
// By index at least the first so many of them, if there are as many; others may be in the list too. Then the page is what
// follows those.
UserList *list_page(ListPage &page, std::int64_t most);
// The users asked for, by index; who is unknown has no entry. names is an array of text.
UserList *list_named(Datum names, bool with_ended);
// The same of hidden sessions that are online; for whoever may know of them.
UserList *list_hidden(Datum names);
UserList *list_sessions_of(Datum names, const SessionVisitor &visitor, Time grace = 0);
// Users who may be stale as far as the cache and the grace of departures can tell; null: these are too many to tell.
UserList *list_suspects();
// The same, by name, and also those whom a grace no longer keeps in a room.
struct Suspects {
    bool too_many;  // to tell
    Datum names;    // array of text; 0: none
};
Suspects suspects_in_rooms();
// How many users are online. Does not grow with their number where the cache watches over everybody.
std::int64_t count_online();

// The user's entry; a new one, without any session, where there is none.
ListedUser &take_user(UserList &list, std::string_view name);

// Positions of the online users, newest online_since first, then by name; their number is list.online_users.
std::uint32_t *newest_first(const UserList &list);

// A snapshot of its own for everything between, so that several statements see the same.
void begin_consistent_reading();
void end_consistent_reading();

}  // namespace presence
