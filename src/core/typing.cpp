#include "typing.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace presence {

void TypingNames::set(std::string_view user, std::string_view session, std::string_view room) noexcept
{
    user_ = static_cast<std::uint8_t>(std::min(user.size(), max_typing_name));
    session_ = static_cast<std::uint8_t>(std::min(session.size(), max_typing_name));
    room_ = static_cast<std::uint8_t>(std::min(room.size(), max_typing_name));
    char *at = std::copy_n(user.data(), user_, text_);
    at = std::copy_n(session.data(), session_, at);
    std::copy_n(room.data(), room_, at);
}

TypingShard *TypingShard::create(void *block, std::uint32_t capacity) noexcept
{
    return new (block) TypingShard(capacity);
}

void TypingShard::rebuild_into(void *block, std::uint32_t capacity) const noexcept
{
    TypingShard *larger = create(block, capacity);
    larger->count_ = count_;
    std::memcpy(larger->entries(), entries(), sizeof(Entry) * count_);
    std::memcpy(larger->names(), names(), sizeof(TypingNames) * count_);
}

std::uint32_t TypingShard::find(const SessionKey &session, std::uint64_t room) const noexcept
{
    for (std::uint32_t i = 0; i < count_; ++i)
        if (entries()[i].room == room && entries()[i].session == session)
            return i;
    return nobody;
}

std::uint32_t TypingShard::sibling_of(std::uint32_t entry) const noexcept
{
    const Entry &own = entries()[entry];
    for (std::uint32_t i = 0; i < count_; ++i)
        if (i != entry && entries()[i].user == own.user && entries()[i].room == own.room)
            return i;
    return nobody;
}

void TypingShard::remove(std::uint32_t entry) noexcept
{
    --count_;
    if (entry == count_)
        return;
    entries()[entry] = entries()[count_];
    names()[entry] = names()[count_];
}

bool TypingShard::end(std::uint32_t entry, std::uint64_t now_ms) noexcept
{
    Entry &ending = entries()[entry];
    const std::uint32_t sibling = sibling_of(entry);
    if (sibling != nobody) {
        entries()[sibling].announced |= ending.announced;
        remove(entry);
        return true;
    }
    if (!ending.ended) {
        ending.ended = true;
        ending.expires_ms = std::min(ending.expires_ms, now_ms);
    }
    return false;
}

template <typename Which>
TypingShard::OfUser TypingShard::count_of_user(std::uint64_t user, Which which) const noexcept
{
    OfUser found{0, nobody};
    for (std::uint32_t i = 0; i < count_; ++i) {
        const Entry &entry = entries()[i];
        if (entry.user != user || !which(entry))
            continue;
        ++found.count;
        if (found.oldest == nobody || entry.expires_ms < entries()[found.oldest].expires_ms)
            found.oldest = i;
    }
    return found;
}

void TypingShard::make_room_of_user(std::uint64_t user, const TypingClock &clock, const SessionEnds &ends) noexcept
{
    const OfUser typing = count_of_user(user, [&](const Entry &entry) { return is_typing(entry, clock.now_ms, ends); });
    if (typing.count >= most_of_user)
        (void)end(typing.oldest, clock.now_ms);
    const OfUser known = count_of_user(user, [](const Entry &) { return true; });
    if (known.count >= most_entries_of_user)
        remove(known.oldest);
}

std::uint32_t TypingShard::free_place(std::uint64_t now_ms, bool may_grow) noexcept
{
    if (count_ < capacity_)
        return count_++;
    std::uint32_t oldest = 0;
    for (std::uint32_t i = 1; i < count_; ++i)
        if (entries()[i].expires_ms < entries()[oldest].expires_ms)
            oldest = i;
    const bool is_over = entries()[oldest].expires_ms + reusable_after_ms <= now_ms;
    return is_over || !may_grow || capacity_ == max_capacity ? oldest : nobody;
}

TypingShard::Set TypingShard::set(const Typist &typist, std::uint64_t expires_ms, const TypingClock &clock,
                                  const TypingProof &proof, const SessionEnds &ends, bool may_grow) noexcept
{
    std::uint32_t place = find(typist.session, typist.room);
    const bool known = place != nobody;
    if (!known) {
        make_room_of_user(typist.user, clock, ends);
        place = free_place(clock.now_ms, may_grow);
        if (place == nobody)
            return Set::full;
        entries()[place] = {typist.session, typist.user, typist.room, 0, 0, 0, false, true, false};
        names()[place].set(typist.user_name, typist.session_name, typist.room_name);
    }
    Entry &entry = entries()[place];
    if (!is_typing(entry, clock.now_ms, ends)) {
        // Where the user types on, with this or another session, an end that is not announced yet never was one.
        if (!is_remembered(entry, clock.now_ms)) {
            entry.announced = false;
            entry.since_us = clock.wall_us;
        }
        const std::uint32_t sibling = sibling_of(place);
        if (sibling != nobody) {
            const Entry &other = entries()[sibling];
            if (is_remembered(other, clock.now_ms) || is_typing(other, clock.now_ms, ends)) {
                entry.announced |= other.announced;
                entry.since_us = std::min(entry.since_us, other.since_us);
            }
        }
        entry.ended = false;
    }
    entry.expires_ms = expires_ms;
    entry.ends = proof.ends;
    entry.from_row = proof.from_row;
    return entry.announced ? Set::refreshed : Set::began;
}

bool TypingShard::clear(const SessionKey &session, std::uint64_t room, const TypingClock &clock,
                        const SessionEnds &ends) noexcept
{
    bool any = false;
    for (std::uint32_t i = 0; i < count_;) {
        Entry &entry = entries()[i];
        if (!(entry.session == session) || (room != 0 && entry.room != room) || entry.ended) {
            ++i;
            continue;
        }
        any |= is_typing(entry, clock.now_ms, ends);
        if (!end(i, clock.now_ms))
            ++i;
    }
    return any;
}

void TypingShard::clear_all(const TypingClock &clock) noexcept
{
    for (std::uint32_t i = 0; i < count_;)
        if (!end(i, clock.now_ms))
            ++i;
}

void TypingShard::describe(std::uint32_t entry, bool started, const TypingClock &clock,
                           TypingChange &change) const noexcept
{
    const Entry &of = entries()[entry];
    const std::uint64_t age_ms = clock.now_ms - std::min(of.expires_ms, clock.now_ms);
    change.started = started;
    change.at_us = started ? of.since_us : clock.wall_us - static_cast<std::int64_t>(age_ms * 1000);
    change.names = names()[entry];
}

std::size_t TypingShard::take_changes(const TypingClock &clock, const SessionEnds &ends,
                                      std::span<TypingChange> out) noexcept
{
    std::size_t taken = 0;
    for (std::uint32_t i = 0; i < count_;) {
        Entry &entry = entries()[i];
        if (is_typing(entry, clock.now_ms, ends)) {
            if (!entry.announced) {
                if (taken == out.size())
                    break;
                describe(i, true, clock, out[taken++]);
                for (std::uint32_t j = 0; j < count_; ++j)
                    if (entries()[j].user == entry.user && entries()[j].room == entry.room)
                        entries()[j].announced = true;
            }
            ++i;
            continue;
        }
        // A beginning that ended before it was announced is announced with its end.
        if (sibling_of(i) == nobody && !is_forgotten(entry, clock.now_ms)) {
            if (out.size() - taken < (entry.announced ? 1U : 2U))
                break;
            (void)end(i, clock.now_ms);
            if (!entry.announced)
                describe(i, true, clock, out[taken++]);
            describe(i, false, clock, out[taken++]);
            remove(i);
        } else if (!end(i, clock.now_ms)) {
            remove(i);
        }
    }
    return taken;
}

std::uint64_t TypingShard::next_expiry() const noexcept
{
    std::uint64_t next = never;
    for (std::uint32_t i = 0; i < count_; ++i)
        next = std::min(next, entries()[i].expires_ms);
    return next;
}

std::size_t TypingShard::list(std::uint64_t room, const TypingClock &clock, const SessionEnds &ends,
                              std::span<ListedTypist> out) const noexcept
{
    std::size_t found = 0;
    for (std::uint32_t i = 0; i < count_; ++i) {
        const Entry &entry = entries()[i];
        if (entry.room != room || !is_typing(entry, clock.now_ms, ends))
            continue;
        if (found < out.size())
            out[found] = {entry.session, entry.since_us, entry.expires_ms, names()[i]};
        ++found;
    }
    return found;
}

}  // namespace presence
