// Sessions that said goodbye before anybody had heard of them, so that a first heartbeat which comes late does not begin
// them: a table of fixed size in a block of memory that the caller supplies. Where it is full, the goodbye that is over
// first gives way. A goodbye whose transaction has not ended is there too, with the name of the transaction, so that a first
// heartbeat can wait for its outcome. Lives here: the table. Does not live here: locks, clocks, transactions, and whether a
// session is known otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "siphash.h"

namespace presence {

// announced: its transaction may be waiting for whoever begins the session, so it is not to be waited for. pending: it may be.
enum class Goodbye : std::uint8_t { none, announced, pending, committed };

// All zero: empty.
class Tombstones {
public:
    struct Found {
        Goodbye goodbye;
        std::uint64_t owner;  // the transaction; 0: committed
    };

    static constexpr std::size_t buckets = 64;
    static constexpr std::size_t ways = 4;

    void add(const SessionKey &key, std::uint64_t now_ms, std::uint64_t until_ms) noexcept
    {
        put(key, now_ms, until_ms, 0, Goodbye::committed);
    }

    // Until the transaction ends.
    void announce(const SessionKey &key, std::uint64_t now_ms, std::uint64_t owner, Goodbye goodbye) noexcept
    {
        put(key, now_ms, for_ever, owner, goodbye);
    }
    void take_back(const SessionKey &key, std::uint64_t owner) noexcept
    {
        for (Tombstone &each : bucket_of(key))
            if (each.key == key && each.owner == owner)
                each = {};
    }

    // What has got furthest, of those that there are.
    [[nodiscard]] Found find(const SessionKey &key, std::uint64_t now_ms) const noexcept
    {
        Found found{Goodbye::none, 0};
        for (const Tombstone &each : bucket_of(key))
            if (each.until_ms > now_ms && each.key == key && each.goodbye > found.goodbye)
                found = {each.goodbye, each.owner};
        return found;
    }

    void clear() noexcept { table_ = {}; }

private:
    static constexpr std::uint64_t for_ever = ~std::uint64_t{0};

    struct Tombstone {
        SessionKey key;
        std::uint64_t until_ms;
        std::uint64_t owner;
        Goodbye goodbye;
    };
    using Bucket = std::array<Tombstone, ways>;

    void put(const SessionKey &key, std::uint64_t now_ms, std::uint64_t until_ms, std::uint64_t owner,
             Goodbye goodbye) noexcept
    {
        Bucket &bucket = bucket_of(key);
        Tombstone *place = bucket.data();
        for (Tombstone &each : bucket) {
            if (each.until_ms > now_ms && each.key == key && each.owner == owner) {
                each.until_ms = std::max(each.until_ms, until_ms);
                each.goodbye = goodbye;
                return;
            }
            if (each.until_ms < place->until_ms)
                place = &each;
        }
        *place = {key, until_ms, owner, goodbye};
    }

    [[nodiscard]] Bucket &bucket_of(const SessionKey &key) noexcept { return table_[key.lo % buckets]; }
    [[nodiscard]] const Bucket &bucket_of(const SessionKey &key) const noexcept { return table_[key.lo % buckets]; }

    std::array<Bucket, buckets> table_;
};

}  // namespace presence
