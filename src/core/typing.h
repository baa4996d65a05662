// Who is typing, and where: the sessions of some users, in a block of memory that the caller supplies. All sessions of a
// user are in one shard, so that a shard alone decides when a user begins and stops typing in a room, whatever number of
// sessions he does it with. Lives here: the table, and which beginnings and ends are still to be announced. Does not live
// here: locks, clocks, memory management, and whether a session is online.
//
// Each operation needs the shard's lock: those that are const in SHARED mode, all others in EXCLUSIVE mode.
//
// Layout: this header; an array of entries, without gaps; an array with their names.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "siphash.h"

namespace presence {

// Counts ends of sessions. Who reads the count, then finds a session online, and finds the count unchanged after that, knows
// that the session did not end meanwhile. Sessions share counts; that of another one costs a second look, no more.
class SessionEnds {
public:
    void note(const SessionKey &session) noexcept { count_of(session).fetch_add(1, std::memory_order_seq_cst); }
    void note_all() noexcept
    {
        for (std::atomic<std::uint32_t> &count : counts_)
            count.fetch_add(1, std::memory_order_seq_cst);
    }
    [[nodiscard]] std::uint32_t of(const SessionKey &session) const noexcept
    {
        return counts_[session.hi % counts].load(std::memory_order_seq_cst);
    }

private:
    static constexpr std::size_t counts = 256;

    [[nodiscard]] std::atomic<std::uint32_t> &count_of(const SessionKey &session) noexcept
    {
        return counts_[session.hi % counts];
    }

    std::array<std::atomic<std::uint32_t>, counts> counts_;
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

inline constexpr std::size_t max_typing_name = 255;

// The ids of an entry, at most max_typing_name bytes each.
class TypingNames {
public:
    void set(std::string_view user, std::string_view session, std::string_view room) noexcept;
    [[nodiscard]] std::string_view user() const noexcept { return {text_, user_}; }
    [[nodiscard]] std::string_view session() const noexcept { return {text_ + user_, session_}; }
    [[nodiscard]] std::string_view room() const noexcept { return {text_ + user_ + session_, room_}; }

private:
    std::uint8_t user_, session_, room_;
    char text_[3 * max_typing_name];
};

// A session in a room. `user` and `room` are hashes of the names.
struct Typist {
    SessionKey session;
    std::uint64_t user, room;
    std::string_view user_name, session_name, room_name;
};

struct TypingClock {
    std::uint64_t now_ms;  // monotonic
    std::int64_t wall_us;
};

// How the caller knows that the session is online. From its row: then the entry counts only as long as no end has been noted
// since, because an end that is being committed is seen in the row last.
struct TypingProof {
    std::uint32_t ends;  // before the caller looked
    bool from_row;
};

struct TypingChange {
    bool started;
    std::int64_t at_us;
    TypingNames names;
};

struct ListedTypist {
    SessionKey session;
    std::int64_t since_us;
    std::uint64_t expires_ms;
    TypingNames names;
};

class TypingShard {
public:
    static constexpr std::uint32_t min_capacity = 32;
    static constexpr std::uint32_t max_capacity = 512;
    // So many sessions and rooms at once; of more, the one that would expire first gives way.
    static constexpr std::uint32_t most_of_user = 32;
    // What has ended for so long is not announced any more, and nobody remembers that it began.
    static constexpr std::uint64_t forget_after_ms = 60000;
    static constexpr std::uint64_t never = ~std::uint64_t{0};

    enum class Set { refreshed, began, full };

    TypingShard(const TypingShard &) = delete;
    TypingShard &operator=(const TypingShard &) = delete;

    // The block must be aligned to 8 bytes.
    [[nodiscard]] static constexpr std::size_t bytes_for(std::uint32_t capacity) noexcept;
    static TypingShard *create(void *block, std::uint32_t capacity) noexcept;
    // EXCLUSIVE. Makes the block a shard of a larger capacity that holds the same.
    void rebuild_into(void *block, std::uint32_t capacity) const noexcept;
    [[nodiscard]] std::uint32_t capacity() const noexcept { return capacity_; }
    [[nodiscard]] std::uint32_t count() const noexcept { return count_; }

    // The session types in the room until then, by the monotonic clock. `began`: that is to be announced. `full`: nothing
    // done, because there is no room; without may_grow, whatever expires first gives way instead.
    [[nodiscard]] Set set(const Typist &typist, std::uint64_t expires_ms, const TypingClock &clock,
                          const TypingProof &proof, const SessionEnds &ends, bool may_grow) noexcept;
    // It does no longer, in that room or, with 0, in any. Whether it did.
    bool clear(const SessionKey &session, std::uint64_t room, const TypingClock &clock,
               const SessionEnds &ends) noexcept;
    // Nobody does.
    void clear_all(const TypingClock &clock) noexcept;

    // What is to be announced, as much as there is room for (two at least); it then counts as announced. 0: all is.
    [[nodiscard]] std::size_t take_changes(const TypingClock &clock, const SessionEnds &ends,
                                           std::span<TypingChange> out) noexcept;
    // When the next one expires.
    [[nodiscard]] std::uint64_t next_expiry() const noexcept;
    // How many sessions type in the room, and as many of them as there is room for.
    [[nodiscard]] std::size_t list(std::uint64_t room, const TypingClock &clock, const SessionEnds &ends,
                                   std::span<ListedTypist> out) const noexcept;

private:
    static constexpr std::uint32_t nobody = ~std::uint32_t{0};
    // Beyond those that type: ends that wait to be announced.
    static constexpr std::uint32_t most_entries_of_user = 2 * most_of_user;
    // What nobody has announced for so long is not waited for.
    static constexpr std::uint64_t reusable_after_ms = 1000;

    struct Entry {
        SessionKey session;
        std::uint64_t user, room;
        std::uint64_t expires_ms;  // of one that has ended: when it did
        std::int64_t since_us;     // of the user, with whatever session
        std::uint32_t ends;
        bool from_row;
        bool ended;
        bool announced;  // that the user has begun
    };

    explicit TypingShard(std::uint32_t capacity) noexcept : capacity_(capacity) {}

    [[nodiscard]] static bool is_typing(const Entry &entry, std::uint64_t now_ms, const SessionEnds &ends) noexcept
    {
        return !entry.ended && entry.expires_ms > now_ms && (!entry.from_row || ends.of(entry.session) == entry.ends);
    }
    // Of one that does not type any more: nothing of it is announced.
    [[nodiscard]] static bool is_forgotten(const Entry &entry, std::uint64_t now_ms) noexcept
    {
        return entry.expires_ms + forget_after_ms < now_ms;
    }
    // Listeners believe that the user types.
    [[nodiscard]] static bool is_remembered(const Entry &entry, std::uint64_t now_ms) noexcept
    {
        return entry.announced && !is_forgotten(entry, now_ms);
    }
    [[nodiscard]] std::uint32_t find(const SessionKey &session, std::uint64_t room) const noexcept;
    // Another entry of the user in that room.
    [[nodiscard]] std::uint32_t sibling_of(std::uint32_t entry) const noexcept;
    // Removes the entry, or keeps it so that its end is announced. False: it is kept.
    bool end(std::uint32_t entry, std::uint64_t now_ms) noexcept;
    void remove(std::uint32_t entry) noexcept;
    struct OfUser {
        std::uint32_t count, oldest;
    };
    template <typename Which>
    [[nodiscard]] OfUser count_of_user(std::uint64_t user, Which which) const noexcept;
    void make_room_of_user(std::uint64_t user, const TypingClock &clock, const SessionEnds &ends) noexcept;
    // For a new entry; nobody: there is none.
    [[nodiscard]] std::uint32_t free_place(std::uint64_t now_ms, bool may_grow) noexcept;
    void describe(std::uint32_t entry, bool started, const TypingClock &clock, TypingChange &change) const noexcept;

    [[nodiscard]] std::byte *behind() noexcept { return reinterpret_cast<std::byte *>(this) + sizeof(*this); }
    [[nodiscard]] const std::byte *behind() const noexcept
    {
        return reinterpret_cast<const std::byte *>(this) + sizeof(*this);
    }
    [[nodiscard]] Entry *entries() noexcept { return reinterpret_cast<Entry *>(behind()); }
    [[nodiscard]] const Entry *entries() const noexcept { return reinterpret_cast<const Entry *>(behind()); }
    [[nodiscard]] std::size_t names_offset() const noexcept { return std::size_t{capacity_} * sizeof(Entry); }
    [[nodiscard]] TypingNames *names() noexcept { return reinterpret_cast<TypingNames *>(behind() + names_offset()); }
    [[nodiscard]] const TypingNames *names() const noexcept
    {
        return reinterpret_cast<const TypingNames *>(behind() + names_offset());
    }

    std::uint32_t capacity_;
    std::uint32_t count_ = 0;
};

constexpr std::size_t TypingShard::bytes_for(std::uint32_t capacity) noexcept
{
    return sizeof(TypingShard) + std::size_t{capacity} * (sizeof(Entry) + sizeof(TypingNames));
}

static_assert(sizeof(TypingShard) % 8 == 0 && sizeof(TypingNames) == 768);
static_assert(std::is_trivially_copyable_v<TypingNames> && std::is_trivially_destructible_v<TypingShard>);

}  // namespace presence
