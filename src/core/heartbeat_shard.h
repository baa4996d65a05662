// One shard of the heartbeat cache: which sessions are known, when each was last heard, and which of them have been
// silent for too long. A shard lives in one block of memory that the caller supplies, and holds no pointer, so that
// processes may map the block at different addresses. Locks, memory management and clocks are the caller's affair.
//
// Locking is the caller's: one lock per shard, and each operation below says which mode it needs. SHARED holders run
// side by side and change nothing but the atomics (times, counters, the bound); everything else wants EXCLUSIVE.
// A slot number is good for as long as the lock is held, not longer.
//
// Layout: this header; an open-addressing index of 32-bit entries (linear probing, deletion by shifting back); one
// 64-bit word per session, in an array of their own so that the search for silent sessions reads 8 bytes per session;
// one 32-bit word per session, for the same reason, of what it takes to find those that have become inactive; the slots with
// everything else.
//
//   word  = monotonic ms of the last beat (38 bits) | interval (24 bits) | state (2 bits)
//   interval = promised one of at most a day, in units of 10 ms; what is above: timeout of its policy, in units of 20 ms
//   activity = monotonic time of the last one, in units of 0.5 s (29 bits), 0: never told | code of a StatusPair (3 bits)
//   index = 8 bits of the key (spares most looks at wrong slots) | slot number + 1 (24 bits); 0 is vacant
#pragma once

#include "deadline.h"
#include "outage.h"
#include "siphash.h"
#include "status.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace presence {

// What the deadlines of sessions depend on (deadline.h). A session is stale when now is past its deadline. And when a session
// shows another status (status.h).
struct Timeouts {
    std::uint64_t timeout_ms;
    std::uint64_t max_timeout_ms;
    std::uint64_t floor_ms;
    InactivityLimits<std::uint64_t> inactivity = {};
};

// `open`: heartbeats may be taken without looking at the table. `closed`: known and watched for expiry, the last beat
// counts, but heartbeats must take the table's path.
enum class SlotState : std::uint8_t { free = 0, open = 1, closed = 2 };

// Of the details that the session has given; 0 stands for NULL.
struct Fingerprints {
    std::uint64_t user_agent;
    std::uint64_t ip_address;
    std::uint64_t metadata;

    friend bool operator==(const Fingerprints &, const Fingerprints &) = default;
};

// A session as it goes into a shard and comes out of it.
struct SessionEntry {
    SessionKey key;
    std::uint64_t row_id;  // 60 bits
    std::uint64_t beat_ms;
    std::int64_t wall_us;
    std::int64_t interval_ms;  // 0: none promised; below 0: deadline.h. Kept rounded up to 10 or 20 ms
    Fingerprints fingerprints;
    SlotState state;
    std::uint8_t status;          // 4 bits: the code of a StatusPair, and one that is the caller's
    std::uint64_t active_ms = 0;  // its last activity, kept rounded to 0.5 s; 0: never told
};

struct ExpiredSession {
    SessionKey key;
    std::uint64_t row_id;
};

// The arithmetic of the 64-bit words.
namespace beat_word {
inline constexpr unsigned beat_shift = 26;
inline constexpr unsigned interval_shift = 2;
inline constexpr std::uint64_t interval_unit_ms = 10;
inline constexpr std::uint64_t max_beat_ms = (std::uint64_t{1} << 38U) - 1;
inline constexpr std::uint64_t timeout_unit_ms = 20;
inline constexpr std::uint64_t max_interval_units = 24U * 60 * 60 * 1000 / interval_unit_ms;
inline constexpr std::uint64_t max_timeout_units = (std::uint64_t{1} << 24U) - 1 - max_interval_units;

[[nodiscard]] constexpr std::uint64_t units(std::uint64_t ms, std::uint64_t unit, std::uint64_t most) noexcept
{
    return std::min(ms / unit + (ms % unit != 0 ? 1U : 0U), most);
}
[[nodiscard]] constexpr std::uint64_t pack(std::uint64_t beat_ms, std::int64_t interval_ms, SlotState state) noexcept
{
    const std::uint64_t interval =
        interval_ms < 0
            ? max_interval_units + units(-static_cast<std::uint64_t>(interval_ms), timeout_unit_ms, max_timeout_units)
            : units(static_cast<std::uint64_t>(interval_ms), interval_unit_ms, max_interval_units);
    return ((beat_ms < max_beat_ms ? beat_ms : max_beat_ms) << beat_shift) | (interval << interval_shift) |
           static_cast<std::uint64_t>(state);
}
[[nodiscard]] constexpr std::uint64_t beat_ms(std::uint64_t word) noexcept { return word >> beat_shift; }
[[nodiscard]] constexpr std::int64_t interval_ms(std::uint64_t word) noexcept
{
    const std::uint64_t interval = (word >> interval_shift) & ((std::uint64_t{1} << 24U) - 1);
    return interval <= max_interval_units
               ? static_cast<std::int64_t>(interval * interval_unit_ms)
               : -static_cast<std::int64_t>((interval - max_interval_units) * timeout_unit_ms);
}
[[nodiscard]] constexpr SlotState state(std::uint64_t word) noexcept { return static_cast<SlotState>(word & 3U); }
[[nodiscard]] constexpr std::uint64_t with_beat(std::uint64_t word, std::uint64_t beat_ms) noexcept
{
    constexpr std::uint64_t rest = (std::uint64_t{1} << beat_shift) - 1;
    return ((beat_ms < max_beat_ms ? beat_ms : max_beat_ms) << beat_shift) | (word & rest);
}
[[nodiscard]] constexpr std::uint64_t with_state(std::uint64_t word, SlotState state) noexcept
{
    return (word & ~std::uint64_t{3}) | static_cast<std::uint64_t>(state);
}
[[nodiscard]] constexpr std::uint64_t deadline(std::uint64_t word, const Timeouts &timeouts) noexcept
{
    const std::int64_t timeout =
        effective_timeout(static_cast<std::int64_t>(timeouts.timeout_ms),
                          static_cast<std::int64_t>(timeouts.max_timeout_ms), interval_ms(word));
    return presence::deadline(beat_ms(word), timeouts.floor_ms, static_cast<std::uint64_t>(timeout));
}
}  // namespace beat_word

// The arithmetic of the 32-bit words.
namespace activity_word {
inline constexpr unsigned time_shift = 3;
inline constexpr std::uint64_t unit_ms = 500;
inline constexpr std::uint32_t max_units = (std::uint32_t{1} << 29U) - 1;
inline constexpr std::uint32_t code_mask = 7;

[[nodiscard]] constexpr std::uint32_t pack(std::uint64_t active_ms, std::uint8_t status) noexcept
{
    // To the nearest, so that a time that is read and written again stays.
    const std::uint64_t units = active_ms == 0 ? 0 : std::max<std::uint64_t>((active_ms + unit_ms / 2) / unit_ms, 1);
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(units, max_units) << time_shift) | (status & code_mask);
}
[[nodiscard]] constexpr std::uint64_t active_ms(std::uint32_t word) noexcept
{
    return std::uint64_t{word >> time_shift} * unit_ms;
}
// The last moment at which the session may show what it shows.
[[nodiscard]] constexpr std::uint64_t deadline(std::uint32_t word, std::uint64_t now_ms,
                                               const Timeouts &timeouts) noexcept
{
    constexpr std::uint64_t none = ~std::uint64_t{0};
    const StatusPair pair = status_pairs[word & code_mask];
    const std::uint64_t active = active_ms(word);
    if (active == 0)
        return none;
    if (pair.said != pair.shown &&
        now_ms < active + std::min(timeouts.inactivity.from(pair.said, pair.shown), none / 2))
        return 0;
    const std::uint64_t limit = timeouts.inactivity.until(pair.shown);
    return limit == none ? none : std::max(active, timeouts.floor_ms) + limit - 1;
}
}  // namespace activity_word

class HeartbeatShard {
public:
    static constexpr std::uint32_t no_slot = 0xffffffffU;
    static constexpr std::uint64_t no_deadline = ~std::uint64_t{0};
    static constexpr std::uint32_t min_capacity = 64;
    static constexpr std::uint32_t max_capacity = (1U << 24U) - 2U;
    // A monotonic clock may start at 0 with the machine, while beats remembered over a restart may be older than that:
    // add this to its reading (99 days; 8.6 years remain).
    static constexpr std::uint64_t clock_base_ms = std::uint64_t{1} << 33U;

    enum class Insert { inserted, updated, full };
    enum class Erase { absent, alive, erased };

    struct Slot {
        SessionKey key;
        std::uint64_t row_and_status;  // of a free slot: the number of the next free one
        std::atomic<std::int64_t> wall_us;
        Fingerprints fingerprints;

        [[nodiscard]] std::uint64_t row_id() const noexcept { return row_and_status >> 4U; }
        [[nodiscard]] std::uint8_t status() const noexcept { return static_cast<std::uint8_t>(row_and_status & 15U); }
    };

    struct Scan {
        std::uint32_t found;      // how many of the output's elements are filled
        std::uint32_t resume_at;  // no_slot: the shard has been searched to its end
    };

    HeartbeatShard(const HeartbeatShard &) = delete;
    HeartbeatShard &operator=(const HeartbeatShard &) = delete;

    // --- Memory -----------------------------------------------------------------------------------------------------

    // How large a block a shard of that capacity needs; the block must be aligned to 8 bytes.
    [[nodiscard]] static std::size_t bytes_for(std::uint32_t capacity) noexcept;

    // Makes an empty shard of the block. Afterwards any process reaches the shard by casting its address of the block.
    static HeartbeatShard *create(void *block, std::uint32_t capacity) noexcept;

    // EXCLUSIVE. Makes the block a shard that holds the same sessions and counters. nullptr, and nothing done, if they
    // do not fit. The old shard stays as it was, to be thrown away.
    HeartbeatShard *rebuild_into(void *block, std::uint32_t capacity) const noexcept;

    // The capacity to rebuild to when full: a quarter more, which bounds the slack; the same where no more is possible.
    [[nodiscard]] static std::uint32_t grown_capacity(std::uint32_t capacity) noexcept;

    // Whether so many sessions have gone that rebuilding to shrunk_capacity() is worth it.
    [[nodiscard]] bool should_shrink() const noexcept;
    [[nodiscard]] std::uint32_t shrunk_capacity() const noexcept;

    // --- With the lock held in SHARED mode (or EXCLUSIVE) -------------------------------------------------------------

    // The slot of a session, or no_slot.
    [[nodiscard]] std::uint32_t find(const SessionKey &key) const noexcept;

    // For batches: ask for the memory that find() of that key, or work on that slot, will want.
    void prefetch_find(const SessionKey &key) const noexcept;
    void prefetch_slot(std::uint32_t slot) const noexcept;

    // A heartbeat. The times only ever move forward. False, and nothing done, where the session is not open or already
    // past its deadline: the table's path must decide then.
    [[nodiscard]] bool touch(std::uint32_t slot, std::uint64_t now_ms, std::int64_t wall_us,
                             const Timeouts &timeouts) noexcept;

    // What a heartbeat says of it. Only ever moves forward, too.
    void note_activity(std::uint32_t slot, std::uint64_t active_ms) noexcept;

    // A heartbeat that the table's path has taken: that it was received is a fact, whatever the state.
    void advance(std::uint32_t slot, std::uint64_t now_ms, std::int64_t wall_us) noexcept;

    [[nodiscard]] const Slot &slot(std::uint32_t slot) const noexcept { return slots()[slot]; }
    [[nodiscard]] SlotState state(std::uint32_t slot) const noexcept { return beat_word::state(word(slot)); }
    [[nodiscard]] std::uint64_t beat_ms(std::uint32_t slot) const noexcept { return beat_word::beat_ms(word(slot)); }
    [[nodiscard]] std::int64_t interval_ms(std::uint32_t slot) const noexcept
    {
        return beat_word::interval_ms(word(slot));
    }
    [[nodiscard]] std::int64_t wall_us(std::uint32_t slot) const noexcept
    {
        return slots()[slot].wall_us.load(std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint64_t deadline(std::uint32_t slot, const Timeouts &timeouts) const noexcept
    {
        return beat_word::deadline(word(slot), timeouts);
    }
    [[nodiscard]] bool is_stale(std::uint32_t slot, std::uint64_t now_ms, const Timeouts &timeouts) const noexcept
    {
        return now_ms > deadline(slot, timeouts);
    }

    [[nodiscard]] std::uint64_t active_ms(std::uint32_t slot) const noexcept
    {
        return activity_word::active_ms(activity(slot));
    }
    // Whether the session may go on to show what it shows.
    [[nodiscard]] bool is_turning(std::uint32_t slot, std::uint64_t now_ms, const Timeouts &timeouts) const noexcept
    {
        return now_ms > activity_word::deadline(activity(slot), now_ms, timeouts);
    }

    // To visit all sessions: for each slot below slots_used() whose state is not free.
    [[nodiscard]] std::uint32_t slots_used() const noexcept { return used_; }
    [[nodiscard]] SessionEntry entry(std::uint32_t slot) const noexcept;

    [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint32_t capacity() const noexcept { return capacity_; }

    // A bound below which no deadline lies; no_deadline where there is no session. It is lazy: heartbeats push deadlines
    // later without it, a complete search raises it. Under timeouts other than the last search's it is 0.
    [[nodiscard]] std::uint64_t earliest_deadline(const Timeouts &timeouts) const noexcept;
    // Whether a search can find anything.
    [[nodiscard]] bool scan_due(std::uint64_t now_ms, const Timeouts &timeouts) const noexcept
    {
        return now_ms > earliest_deadline(timeouts);
    }

    // Searches from that slot on for sessions past their deadline, until the output is full or the end is reached. Only
    // a search of the whole shard in one call (from 0 to the end) raises the bound: between two calls the lock may have
    // been given up, and what was seen then may be past. Sessions found stay, to be found again until they are erased.
    Scan collect_expired(std::uint64_t now_ms, const Timeouts &timeouts, std::span<ExpiredSession> out,
                         std::uint32_t from = 0) noexcept;

    // The same of sessions that are to show another status.
    [[nodiscard]] std::uint64_t earliest_turn(const Timeouts &timeouts) const noexcept;
    Scan collect_turning(std::uint64_t now_ms, const Timeouts &timeouts, std::span<ExpiredSession> out,
                         std::uint32_t from = 0) noexcept;

    // How many sessions there are, and how many of them have been silent for most of their timeout.
    [[nodiscard]] Silence silence(std::uint64_t now_ms, const Timeouts &timeouts) const noexcept;

    // Counters, for the health view.
    void count_hits(std::uint64_t n = 1) noexcept { hits_.fetch_add(n, std::memory_order_relaxed); }
    void count_misses(std::uint64_t n = 1) noexcept { misses_.fetch_add(n, std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t hits() const noexcept { return hits_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t misses() const noexcept { return misses_.load(std::memory_order_relaxed); }

    // --- With the lock held in EXCLUSIVE mode -------------------------------------------------------------------------

    // Makes the session known, or brings what is known up to date; a time older than the known one is not taken over.
    // `full`: nothing done, rebuild into a larger block first.
    [[nodiscard]] Insert insert_or_update(const SessionEntry &entry, const Timeouts &timeouts) noexcept;

    // What the table's path has been told of the last activity, whatever becomes of its transaction.
    void take_activity(std::uint32_t slot, std::uint64_t active_ms, std::uint64_t now_ms,
                       const Timeouts &timeouts) noexcept
    {
        note_activity(slot, active_ms);
        lower_turn_bound(slot, now_ms, timeouts);
    }

    // Whether heartbeats may be taken from now on without looking at the table. A closed session needs no fingerprints, so the
    // token of whoever closed it is in their place; it shows whether anybody has touched the session since.
    void open(std::uint32_t slot) noexcept { set_state(slot, SlotState::open); }
    void close(std::uint32_t slot, std::uint64_t token) noexcept
    {
        slots()[slot].fingerprints = closed_by(token);
        set_state(slot, SlotState::closed);
    }
    [[nodiscard]] bool is_closed_by(std::uint32_t slot, std::uint64_t token) const noexcept
    {
        return state(slot) == SlotState::closed && slots()[slot].fingerprints == closed_by(token);
    }
    [[nodiscard]] static constexpr Fingerprints closed_by(std::uint64_t token) noexcept { return {0, 0, token}; }

    // Forgets a session, which is always safe: its next heartbeat takes the table's path.
    void erase(std::uint32_t slot) noexcept;
    [[nodiscard]] Erase erase_if_still_stale(const SessionKey &key, std::uint64_t now_ms,
                                             const Timeouts &timeouts) noexcept;
    void clear() noexcept;

private:
    using Word = std::atomic<std::uint64_t>;
    using Activity = std::atomic<std::uint32_t>;

    explicit HeartbeatShard(std::uint32_t capacity) noexcept;

    [[nodiscard]] static std::uint32_t index_size_for(std::uint32_t capacity) noexcept;
    [[nodiscard]] static std::uint32_t usable_capacity(std::uint32_t capacity) noexcept;
    [[nodiscard]] static std::uint32_t tag_of(const SessionKey &key) noexcept
    {
        return static_cast<std::uint32_t>(key.hi & 0xffU) << 24U;
    }
    [[nodiscard]] std::uint32_t home_of(const SessionKey &key) const noexcept
    {
        return static_cast<std::uint32_t>(key.lo) & index_mask_;
    }
    void index_slot(const SessionKey &key, std::uint32_t slot) noexcept;
    void unindex_slot(std::uint32_t slot) noexcept;
    void forget_slots() noexcept;
    void set_state(std::uint32_t slot, SlotState state) noexcept;
    void lower_bound_to(std::uint64_t deadline, const Timeouts &timeouts) noexcept;
    void lower_turn_bound(std::uint32_t slot, std::uint64_t now_ms, const Timeouts &timeouts) noexcept;
    [[nodiscard]] std::uint64_t word(std::uint32_t slot) const noexcept
    {
        return words()[slot].load(std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint32_t activity(std::uint32_t slot) const noexcept
    {
        return activities()[slot].load(std::memory_order_relaxed);
    }

    // The arrays behind the header. The words come first because they need the larger alignment.
    [[nodiscard]] std::byte *behind() noexcept { return reinterpret_cast<std::byte *>(this) + sizeof(*this); }
    [[nodiscard]] const std::byte *behind() const noexcept
    {
        return reinterpret_cast<const std::byte *>(this) + sizeof(*this);
    }
    [[nodiscard]] std::size_t slots_offset() const noexcept { return std::size_t{capacity_} * sizeof(Word); }
    [[nodiscard]] std::size_t activities_offset() const noexcept
    {
        return std::size_t{capacity_} * (sizeof(Word) + sizeof(Slot));
    }
    [[nodiscard]] std::size_t index_offset() const noexcept
    {
        return activities_offset() + std::size_t{capacity_} * sizeof(Activity);
    }
    [[nodiscard]] Word *words() noexcept { return reinterpret_cast<Word *>(behind()); }
    [[nodiscard]] const Word *words() const noexcept { return reinterpret_cast<const Word *>(behind()); }
    [[nodiscard]] Slot *slots() noexcept { return reinterpret_cast<Slot *>(behind() + slots_offset()); }
    [[nodiscard]] const Slot *slots() const noexcept
    {
        return reinterpret_cast<const Slot *>(behind() + slots_offset());
    }
    [[nodiscard]] Activity *activities() noexcept
    {
        return reinterpret_cast<Activity *>(behind() + activities_offset());
    }
    [[nodiscard]] const Activity *activities() const noexcept
    {
        return reinterpret_cast<const Activity *>(behind() + activities_offset());
    }
    [[nodiscard]] std::uint32_t *index() noexcept
    {
        return reinterpret_cast<std::uint32_t *>(behind() + index_offset());
    }
    [[nodiscard]] const std::uint32_t *index() const noexcept
    {
        return reinterpret_cast<const std::uint32_t *>(behind() + index_offset());
    }

    std::uint32_t capacity_;
    std::uint32_t index_mask_;
    std::uint32_t count_ = 0;
    std::uint32_t used_ = 0;  // slots from here on have never been used
    std::uint32_t first_free_ = no_slot;
    [[maybe_unused]] std::uint32_t unused_ = 0;
    // The bound (38 bits) and a digest of the timeouts for which it holds (26 bits), together so that they change together.
    std::atomic<std::uint64_t> bound_;
    // The same of when sessions turn.
    std::atomic<std::uint64_t> turn_bound_ = 0;
    // Written by every heartbeat, so kept off the cache line of what every heartbeat reads.
    [[maybe_unused]] std::byte padding_[64] = {};
    std::atomic<std::uint64_t> hits_ = 0;
    std::atomic<std::uint64_t> misses_ = 0;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::int64_t>::is_always_lock_free);
static_assert(sizeof(HeartbeatShard::Slot) == 56 && alignof(HeartbeatShard::Slot) == 8);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free && sizeof(std::atomic<std::uint32_t>) == 4);
static_assert(sizeof(HeartbeatShard) % 8 == 0 && alignof(HeartbeatShard) == 8);
static_assert(std::is_trivially_destructible_v<HeartbeatShard> && std::is_standard_layout_v<HeartbeatShard>);

}  // namespace presence
