// Sessions that said goodbye before anybody had heard of them, so that a first heartbeat which comes late does not begin
// them: a table of fixed size in a block of memory that the caller supplies. Where it is full, the goodbye that is over
// first gives way. Lives here: the table. Does not live here: locks, clocks, and whether a session is known otherwise.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "siphash.h"

namespace presence {

// All zero: empty.
class Tombstones {
public:
    static constexpr std::size_t buckets = 64;
    static constexpr std::size_t ways = 4;

    void add(const SessionKey &key, std::uint64_t now_ms, std::uint64_t until_ms) noexcept
    {
        Bucket &bucket = bucket_of(key);
        Tombstone *place = bucket.data();
        for (Tombstone &each : bucket) {
            if (each.until_ms > now_ms && each.key == key) {
                each.until_ms = std::max(each.until_ms, until_ms);
                return;
            }
            if (each.until_ms < place->until_ms)
                place = &each;
        }
        *place = {key, until_ms};
    }

    [[nodiscard]] bool contains(const SessionKey &key, std::uint64_t now_ms) const noexcept
    {
        const Bucket &bucket = bucket_of(key);
        return std::any_of(bucket.begin(), bucket.end(),
                           [&key, now_ms](const Tombstone &each) { return each.until_ms > now_ms && each.key == key; });
    }

    void clear() noexcept { table_ = {}; }

private:
    struct Tombstone {
        SessionKey key;
        std::uint64_t until_ms;
    };
    using Bucket = std::array<Tombstone, ways>;

    [[nodiscard]] Bucket &bucket_of(const SessionKey &key) noexcept { return table_[key.lo % buckets]; }
    [[nodiscard]] const Bucket &bucket_of(const SessionKey &key) const noexcept { return table_[key.lo % buckets]; }

    std::array<Bucket, buckets> table_;
};

}  // namespace presence
