// The operations of a shard that do not fit on one line; see the header for what lives here and for the locking.
#include "heartbeat_shard.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace presence {

namespace {

constexpr unsigned digest_bits = 26;
constexpr std::uint64_t digest_mask = (std::uint64_t{1} << digest_bits) - 1;

std::uint64_t digest_of(const Timeouts &timeouts) noexcept
{
    std::uint64_t mixed = timeouts.timeout_ms;
    mixed = (mixed ^ (mixed >> 29U)) * 0x9e3779b97f4a7c15U + timeouts.max_timeout_ms;
    mixed = (mixed ^ (mixed >> 32U)) * 0xd6e8feb86659fd93U + timeouts.floor_ms;
    mixed = (mixed ^ (mixed >> 32U)) * 0xd6e8feb86659fd93U;
    return mixed >> (64U - digest_bits);
}

std::uint64_t digest_of_turns(const Timeouts &timeouts) noexcept
{
    return digest_of({timeouts.inactivity.idle_after, timeouts.inactivity.away_after, timeouts.floor_ms});
}

std::uint64_t pack_bound(std::uint64_t deadline, std::uint64_t digest) noexcept
{
    return (std::min(deadline, beat_word::max_beat_ms) << digest_bits) | digest;
}

template <typename Number>
void raise_to(std::atomic<Number> &value, Number to) noexcept
{
    Number known = value.load(std::memory_order_relaxed);
    while (known < to && !value.compare_exchange_weak(known, to, std::memory_order_relaxed)) {
    }
}

}  // namespace

std::uint32_t HeartbeatShard::usable_capacity(std::uint32_t capacity) noexcept
{
    return std::clamp(capacity, min_capacity, max_capacity);
}

std::uint32_t HeartbeatShard::index_size_for(std::uint32_t capacity) noexcept
{
    return std::bit_ceil(capacity + capacity / 4 + 1);  // at most four fifths full
}

std::size_t HeartbeatShard::bytes_for(std::uint32_t capacity) noexcept
{
    const std::uint32_t usable = usable_capacity(capacity);
    const std::size_t bytes = sizeof(HeartbeatShard) +
                              std::size_t{usable} * (sizeof(Word) + sizeof(Slot) + sizeof(Activity)) +
                              std::size_t{index_size_for(usable)} * sizeof(std::uint32_t);
    return (bytes + alignof(HeartbeatShard) - 1) / alignof(HeartbeatShard) * alignof(HeartbeatShard);
}

std::uint32_t HeartbeatShard::grown_capacity(std::uint32_t capacity) noexcept
{
    const std::uint32_t usable = usable_capacity(capacity);
    return usable_capacity(usable + std::max(usable / 4, min_capacity));
}

bool HeartbeatShard::should_shrink() const noexcept { return shrunk_capacity() <= capacity_ / 2; }

std::uint32_t HeartbeatShard::shrunk_capacity() const noexcept { return grown_capacity(count_); }

HeartbeatShard::HeartbeatShard(std::uint32_t capacity) noexcept
    : capacity_(capacity), index_mask_(index_size_for(capacity) - 1), bound_(0)
{
    std::memset(index(), 0, (std::size_t{index_mask_} + 1) * sizeof(std::uint32_t));
}

HeartbeatShard *HeartbeatShard::create(void *block, std::uint32_t capacity) noexcept
{
    return new (block) HeartbeatShard(usable_capacity(capacity));
}

HeartbeatShard *HeartbeatShard::rebuild_into(void *block, std::uint32_t capacity) const noexcept
{
    if (count_ > usable_capacity(capacity))
        return nullptr;
    HeartbeatShard *copy = create(block, capacity);
    for (std::uint32_t from = 0; from < used_; ++from) {
        if (state(from) == SlotState::free)
            continue;
        const Slot &old = slots()[from];
        const std::uint32_t to = copy->used_++;
        new (&copy->words()[to]) Word(word(from));
        new (&copy->activities()[to]) Activity(activity(from));
        new (&copy->slots()[to]) Slot{.key = old.key,
                                      .row_and_status = old.row_and_status,
                                      .wall_us = old.wall_us.load(std::memory_order_relaxed),
                                      .fingerprints = old.fingerprints};
        copy->index_slot(old.key, to);
    }
    copy->count_ = copy->used_;
    copy->bound_.store(bound_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    copy->turn_bound_.store(turn_bound_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    copy->hits_.store(hits(), std::memory_order_relaxed);
    copy->misses_.store(misses(), std::memory_order_relaxed);
    return copy;
}

std::uint32_t HeartbeatShard::find(const SessionKey &key) const noexcept
{
    const std::uint32_t tag = tag_of(key);
    for (std::uint32_t at = home_of(key); index()[at] != 0; at = (at + 1) & index_mask_) {
        const std::uint32_t entry = index()[at];
        const std::uint32_t slot = (entry & 0xffffffU) - 1;
        if ((entry & 0xff000000U) == tag && slots()[slot].key == key)
            return slot;
    }
    return no_slot;
}

void HeartbeatShard::prefetch_find(const SessionKey &key) const noexcept { __builtin_prefetch(&index()[home_of(key)]); }

void HeartbeatShard::prefetch_slot(std::uint32_t slot) const noexcept
{
    __builtin_prefetch(&words()[slot], 1);
    // A slot may lie on two cache lines.
    __builtin_prefetch(&slots()[slot], 1);
    __builtin_prefetch(&slots()[slot].fingerprints.metadata);
}

bool HeartbeatShard::touch(std::uint32_t slot, std::uint64_t now_ms, std::int64_t wall_us,
                           const Timeouts &timeouts) noexcept
{
    Word &word = words()[slot];
    std::uint64_t known = word.load(std::memory_order_relaxed);
    do {
        if (beat_word::state(known) != SlotState::open || now_ms > beat_word::deadline(known, timeouts))
            return false;
        if (now_ms <= beat_word::beat_ms(known))
            break;
    } while (!word.compare_exchange_weak(known, beat_word::with_beat(known, now_ms), std::memory_order_relaxed));
    raise_to(slots()[slot].wall_us, wall_us);
    return true;
}

void HeartbeatShard::note_activity(std::uint32_t slot, std::uint64_t active_ms) noexcept
{
    Activity &word = activities()[slot];
    std::uint32_t known = word.load(std::memory_order_relaxed);
    for (;;) {
        const std::uint32_t now =
            activity_word::pack(active_ms, static_cast<std::uint8_t>(known & activity_word::code_mask));
        if (now <= known || word.compare_exchange_weak(known, now, std::memory_order_relaxed))
            return;
    }
}

void HeartbeatShard::advance(std::uint32_t slot, std::uint64_t now_ms, std::int64_t wall_us) noexcept
{
    Word &word = words()[slot];
    std::uint64_t known = word.load(std::memory_order_relaxed);
    while (now_ms > beat_word::beat_ms(known) &&
           !word.compare_exchange_weak(known, beat_word::with_beat(known, now_ms), std::memory_order_relaxed)) {
    }
    raise_to(slots()[slot].wall_us, wall_us);
}

SessionEntry HeartbeatShard::entry(std::uint32_t slot) const noexcept
{
    const Slot &from = slots()[slot];
    const std::uint64_t packed = word(slot);
    return {.key = from.key,
            .row_id = from.row_id(),
            .beat_ms = beat_word::beat_ms(packed),
            .wall_us = from.wall_us.load(std::memory_order_relaxed),
            .interval_ms = beat_word::interval_ms(packed),
            .fingerprints = from.fingerprints,
            .state = beat_word::state(packed),
            .status = from.status(),
            .active_ms = active_ms(slot)};
}

std::uint64_t HeartbeatShard::earliest_deadline(const Timeouts &timeouts) const noexcept
{
    if (count_ == 0)
        return no_deadline;
    const std::uint64_t bound = bound_.load(std::memory_order_relaxed);
    return (bound & digest_mask) == digest_of(timeouts) ? bound >> digest_bits : 0;
}

std::uint64_t HeartbeatShard::earliest_turn(const Timeouts &timeouts) const noexcept
{
    if (count_ == 0)
        return no_deadline;
    const std::uint64_t bound = turn_bound_.load(std::memory_order_relaxed);
    if ((bound & digest_mask) != digest_of_turns(timeouts))
        return 0;
    return bound >> digest_bits == beat_word::max_beat_ms ? no_deadline : bound >> digest_bits;
}

HeartbeatShard::Scan HeartbeatShard::collect_turning(std::uint64_t now_ms, const Timeouts &timeouts,
                                                     std::span<ExpiredSession> out, std::uint32_t from) noexcept
{
    const Timeouts limits = timeouts;
    std::uint64_t earliest = no_deadline;
    std::uint32_t found = 0;
    for (std::uint32_t i = from; i < used_; ++i) {
        const std::uint64_t deadline = activity_word::deadline(activity(i), now_ms, limits);
        earliest = std::min(earliest, deadline);
        if (now_ms <= deadline)
            continue;
        if (found == out.size())
            return {.found = found, .resume_at = i};
        out[found++] = {.key = slots()[i].key, .row_id = slots()[i].row_id()};
    }
    if (from == 0)
        turn_bound_.store(pack_bound(earliest, digest_of_turns(limits)), std::memory_order_relaxed);
    return {.found = found, .resume_at = no_slot};
}

void HeartbeatShard::lower_bound_to(std::uint64_t deadline, const Timeouts &timeouts) noexcept
{
    const std::uint64_t digest = digest_of(timeouts);
    const std::uint64_t bound = bound_.load(std::memory_order_relaxed);
    // A bound for other timeouts says nothing about these: 0 makes the next search start anew.
    const std::uint64_t known = (bound & digest_mask) == digest ? bound >> digest_bits : 0;
    bound_.store(pack_bound(std::min(known, deadline), digest), std::memory_order_relaxed);
}

HeartbeatShard::Scan HeartbeatShard::collect_expired(std::uint64_t now_ms, const Timeouts &timeouts,
                                                     std::span<ExpiredSession> out, std::uint32_t from) noexcept
{
    constexpr std::uint32_t stride = 256;
    const Timeouts limits = timeouts;  // a copy of our own can stay in registers
    const Word *const all = words();
    std::uint64_t earliest = no_deadline;
    std::uint32_t found = 0;

    for (std::uint32_t begin = from; begin < used_;) {
        const std::uint32_t end = used_ - begin < stride ? used_ : begin + stride;
        // Nearly all strides hold no stale session: find that out without a branch per word.
        std::uint64_t earliest_here = no_deadline;
        for (std::uint32_t i = begin; i < end; ++i) {
            const std::uint64_t packed = all[i].load(std::memory_order_relaxed);
            // All bits set for a free slot, none for another.
            const std::uint64_t never = beat_word::state(packed) == SlotState::free ? no_deadline : 0;
            const std::uint64_t deadline = beat_word::deadline(packed, limits) | never;
            earliest_here = deadline < earliest_here ? deadline : earliest_here;
        }
        earliest = std::min(earliest, earliest_here);
        if (now_ms > earliest_here) {
            for (std::uint32_t i = begin; i < end; ++i) {
                if (state(i) == SlotState::free || !is_stale(i, now_ms, limits))
                    continue;
                if (found == out.size())
                    return {.found = found, .resume_at = i};
                out[found++] = {.key = slots()[i].key, .row_id = slots()[i].row_id()};
            }
        }
        begin = end;
    }
    if (from == 0)
        bound_.store(pack_bound(earliest, digest_of(timeouts)), std::memory_order_relaxed);
    return {.found = found, .resume_at = no_slot};
}

Silence HeartbeatShard::silence(std::uint64_t now_ms, const Timeouts &timeouts) const noexcept
{
    Silence found = {.sessions = count_, .silent = 0};
    for (std::uint32_t i = 0; i < used_; ++i) {
        const std::uint64_t packed = word(i);
        if (beat_word::state(packed) == SlotState::free)
            continue;
        const std::uint64_t heard = std::max(beat_word::beat_ms(packed), timeouts.floor_ms);
        found.silent += now_ms > heard && is_silent(now_ms - heard, beat_word::deadline(packed, timeouts) - heard);
    }
    return found;
}

HeartbeatShard::Insert HeartbeatShard::insert_or_update(const SessionEntry &entry, const Timeouts &timeouts) noexcept
{
    const std::uint64_t row_and_status = (entry.row_id << 4U) | (entry.status & 15U);
    std::uint32_t slot = find(entry.key);
    Insert result = Insert::updated;

    if (slot != no_slot) {
        Slot &known = slots()[slot];
        known.row_and_status = row_and_status;
        known.fingerprints = entry.fingerprints;
        raise_to(known.wall_us, entry.wall_us);
        const std::uint64_t beat = std::max(entry.beat_ms, beat_ms(slot));
        words()[slot].store(beat_word::pack(beat, entry.interval_ms, entry.state), std::memory_order_relaxed);
        activities()[slot].store(activity_word::pack(std::max(entry.active_ms, active_ms(slot)), entry.status),
                                 std::memory_order_relaxed);
    } else {
        if (first_free_ != no_slot) {
            slot = first_free_;
            first_free_ = static_cast<std::uint32_t>(slots()[slot].row_and_status);
        } else if (used_ < capacity_) {
            slot = used_++;
        } else {
            return Insert::full;
        }
        new (&words()[slot]) Word(beat_word::pack(entry.beat_ms, entry.interval_ms, entry.state));
        new (&activities()[slot]) Activity(activity_word::pack(entry.active_ms, entry.status));
        new (&slots()[slot]) Slot{.key = entry.key,
                                  .row_and_status = row_and_status,
                                  .wall_us = entry.wall_us,
                                  .fingerprints = entry.fingerprints};
        index_slot(entry.key, slot);
        result = Insert::inserted;
        // The bound of an empty shard is as high as can be, whatever the timeouts.
        if (count_++ == 0) {
            bound_.store(pack_bound(no_deadline, digest_of(timeouts)), std::memory_order_relaxed);
            turn_bound_.store(pack_bound(no_deadline, digest_of_turns(timeouts)), std::memory_order_relaxed);
        }
    }
    lower_bound_to(deadline(slot, timeouts), timeouts);
    lower_turn_bound(slot, entry.beat_ms, timeouts);
    return result;
}

void HeartbeatShard::lower_turn_bound(std::uint32_t slot, std::uint64_t now_ms, const Timeouts &timeouts) noexcept
{
    if (active_ms(slot) == 0)
        return;
    const std::uint64_t deadline = activity_word::deadline(activity(slot), now_ms, timeouts);
    const std::uint64_t known = earliest_turn(timeouts);
    if (deadline < known || known == 0)
        turn_bound_.store(pack_bound(std::min(deadline, known), digest_of_turns(timeouts)), std::memory_order_relaxed);
}

void HeartbeatShard::index_slot(const SessionKey &key, std::uint32_t slot) noexcept
{
    std::uint32_t at = home_of(key);
    while (index()[at] != 0)
        at = (at + 1) & index_mask_;
    index()[at] = tag_of(key) | (slot + 1);
}

void HeartbeatShard::unindex_slot(std::uint32_t slot) noexcept
{
    const std::uint32_t entry = tag_of(slots()[slot].key) | (slot + 1);
    std::uint32_t hole = home_of(slots()[slot].key);
    while (index()[hole] != entry)
        hole = (hole + 1) & index_mask_;

    // Pull back whatever was pushed past the hole, so that no search ends at it too early.
    for (std::uint32_t at = (hole + 1) & index_mask_; index()[at] != 0; at = (at + 1) & index_mask_) {
        const std::uint32_t home = home_of(slots()[(index()[at] & 0xffffffU) - 1].key);
        const std::uint32_t distance_from_home = (at - home) & index_mask_;
        const std::uint32_t distance_from_hole = (at - hole) & index_mask_;
        if (distance_from_home >= distance_from_hole) {
            index()[hole] = index()[at];
            hole = at;
        }
    }
    index()[hole] = 0;
}

void HeartbeatShard::set_state(std::uint32_t slot, SlotState state) noexcept
{
    words()[slot].store(beat_word::with_state(word(slot), state), std::memory_order_relaxed);
}

void HeartbeatShard::erase(std::uint32_t slot) noexcept
{
    unindex_slot(slot);
    words()[slot].store(0, std::memory_order_relaxed);
    activities()[slot].store(0, std::memory_order_relaxed);
    slots()[slot].row_and_status = first_free_;
    first_free_ = slot;
    if (--count_ == 0)
        forget_slots();
}

HeartbeatShard::Erase HeartbeatShard::erase_if_still_stale(const SessionKey &key, std::uint64_t now_ms,
                                                           const Timeouts &timeouts) noexcept
{
    const std::uint32_t slot = find(key);
    if (slot == no_slot)
        return Erase::absent;
    if (!is_stale(slot, now_ms, timeouts))
        return Erase::alive;
    erase(slot);
    return Erase::erased;
}

void HeartbeatShard::clear() noexcept
{
    std::memset(index(), 0, (std::size_t{index_mask_} + 1) * sizeof(std::uint32_t));
    count_ = 0;
    forget_slots();
}

void HeartbeatShard::forget_slots() noexcept
{
    used_ = 0;
    first_free_ = no_slot;
}

}  // namespace presence
