// A shard against a map, through any sequence of operations.
#include "heartbeat_shard.h"

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "fuzz.h"

namespace presence::fuzz {

namespace {

constexpr Timeouts timeouts{.timeout_ms = 1000,
                            .max_timeout_ms = 5000,
                            .floor_ms = 1000,
                            .inactivity = {.idle_after = 700, .away_after = 1500}};

struct Known {
    std::uint64_t beat_ms;
    std::int64_t interval_ms;
    bool open;
    std::uint8_t status;
    std::uint64_t active_ms;

    // The rule of rows, which are not packed.
    [[nodiscard]] bool is_turning(std::uint64_t now) const
    {
        const auto [said, shown] = status_pairs.at(status);
        const auto since = [now](std::uint64_t then) { return now > then ? now - then : 0; };
        return active_ms != 0 && timeouts.inactivity.shown(said, shown, since(active_ms),
                                                           since(std::max(active_ms, timeouts.floor_ms))) != shown;
    }
    [[nodiscard]] std::uint64_t deadline() const
    {
        const std::int64_t timeout = effective_timeout(static_cast<std::int64_t>(timeouts.timeout_ms),
                                                       static_cast<std::int64_t>(timeouts.max_timeout_ms), interval_ms);
        return presence::deadline(beat_ms, timeouts.floor_ms, static_cast<std::uint64_t>(timeout));
    }
};

class World {
public:
    World() { rebuild(HeartbeatShard::min_capacity); }

    void step(Input &input)
    {
        const auto operation = input.take<std::uint8_t>();
        const std::uint64_t number = input.take<std::uint8_t>() % 100;
        // All in one bucket of the index, or spread.
        const SessionKey key{number * 0x0101010101010101U, operation & 0x80U ? number : number << 32U};
        switch (operation % 10) {
        case 0:
            insert(key, input);
            break;
        case 1:
            touch(key);
            break;
        case 2:
            erase(key);
            break;
        case 3:
            now_ += input.take<std::uint16_t>();
            break;
        case 4:
            close(key);
            break;
        case 5:
            erase_if_stale(key);
            break;
        case 6:
            compare_stale();
            break;
        case 7:
            take_activity(key, input);
            break;
        case 8:
            compare_turning();
            break;
        default:
            shrink();
            break;
        }
        require(shard_->count() == known_.size(), "it has as many as it should");
    }

    void compare_all()
    {
        for (const auto &[key, known] : known_) {
            const std::uint32_t slot = shard_->find(key);
            require(slot != HeartbeatShard::no_slot, "who is known is found");
            require(shard_->beat_ms(slot) == known.beat_ms && shard_->interval_ms(slot) == known.interval_ms &&
                        (shard_->state(slot) == SlotState::open) == known.open &&
                        shard_->active_ms(slot) == known.active_ms,
                    "with what is known");
            require(shard_->is_turning(slot, now_, timeouts) == known.is_turning(now_), "and shows what it may");
        }
    }

private:
    struct Less {
        bool operator()(const SessionKey &a, const SessionKey &b) const
        {
            return a.hi != b.hi ? a.hi < b.hi : a.lo < b.lo;
        }
    };

    void rebuild(std::uint32_t capacity)
    {
        std::vector<std::uint64_t> block(HeartbeatShard::bytes_for(capacity) / 8 + 1);
        HeartbeatShard *made = shard_ == nullptr ? HeartbeatShard::create(block.data(), capacity)
                                                 : shard_->rebuild_into(block.data(), capacity);
        if (made == nullptr)
            return;
        block_.swap(block);
        shard_ = made;
    }

    void insert(const SessionKey &key, Input &input)
    {
        const std::int64_t interval = input.take<std::int8_t>() * 20;
        const auto what = input.take<std::uint8_t>();
        const bool open = what % 2 == 0;
        const SessionEntry entry{.key = key,
                                 .row_id = 1,
                                 .beat_ms = now_,
                                 .wall_us = 0,
                                 .interval_ms = interval,
                                 .fingerprints = {},
                                 .state = open ? SlotState::open : SlotState::closed,
                                 .status = static_cast<std::uint8_t>(what / 2 % 7),
                                 .active_ms = what < 128 ? 0 : now_ - what * 4U};
        while (shard_->insert_or_update(entry, timeouts) == HeartbeatShard::Insert::full)
            rebuild(HeartbeatShard::grown_capacity(shard_->capacity()));
        const std::uint32_t slot = shard_->find(key);
        require(slot != HeartbeatShard::no_slot, "who was put in is there");
        known_[key] = {shard_->beat_ms(slot), shard_->interval_ms(slot), shard_->state(slot) == SlotState::open,
                       entry.status, shard_->active_ms(slot)};
        require(known_[key].beat_ms == now_, "a time that is later is taken over");
        require(known_[key].active_ms + activity_word::unit_ms / 2 >= entry.active_ms, "and so is an activity");
    }

    void touch(const SessionKey &key)
    {
        const std::uint32_t slot = shard_->find(key);
        const auto found = known_.find(key);
        require((slot != HeartbeatShard::no_slot) == (found != known_.end()), "nobody else is");
        if (found == known_.end())
            return;
        const bool taken = shard_->touch(slot, now_, 0, timeouts);
        require(taken == (found->second.open && now_ <= found->second.deadline()), "open ones take heartbeats in time");
        if (taken)
            found->second.beat_ms = now_;
    }

    void take_activity(const SessionKey &key, Input &input)
    {
        const std::uint64_t active = now_ - input.take<std::uint8_t>() * 4U;
        const std::uint32_t slot = shard_->find(key);
        if (slot == HeartbeatShard::no_slot)
            return;
        std::uint64_t &known = known_.at(key).active_ms;
        shard_->take_activity(slot, active, now_, timeouts);
        require(shard_->active_ms(slot) >= known, "the last activity only moves forward");
        known = shard_->active_ms(slot);
        require(known + activity_word::unit_ms / 2 >= active, "to the latest");
    }

    void close(const SessionKey &key)
    {
        if (const std::uint32_t slot = shard_->find(key); slot != HeartbeatShard::no_slot) {
            shard_->close(slot, 7);
            require(shard_->is_closed_by(slot, 7) && !shard_->is_closed_by(slot, 8), "who closed it is known");
            known_.at(key).open = false;
        }
    }

    void erase(const SessionKey &key)
    {
        if (const std::uint32_t slot = shard_->find(key); slot != HeartbeatShard::no_slot)
            shard_->erase(slot);
        known_.erase(key);
        require(shard_->find(key) == HeartbeatShard::no_slot, "who was taken out is gone");
    }

    void erase_if_stale(const SessionKey &key)
    {
        const auto found = known_.find(key);
        const auto expected = found == known_.end()             ? HeartbeatShard::Erase::absent
                              : now_ > found->second.deadline() ? HeartbeatShard::Erase::erased
                                                                : HeartbeatShard::Erase::alive;
        require(shard_->erase_if_still_stale(key, now_, timeouts) == expected, "only stale ones are taken out");
        if (expected == HeartbeatShard::Erase::erased)
            known_.erase(found);
    }

    void compare_stale()
    {
        std::uint32_t stale = 0;
        for (const auto &[key, known] : known_)
            stale += now_ > known.deadline();
        require(stale == 0 || shard_->scan_due(now_, timeouts), "the bound is one");
        std::vector<ExpiredSession> room(known_.size() + 1);
        require(shard_->collect_expired(now_, timeouts, room).found == stale, "all stale ones are found");
        compare_all();
    }

    void compare_turning()
    {
        std::uint32_t turning = 0;
        for (const auto &[key, known] : known_)
            turning += known.is_turning(now_);
        require(turning == 0 || now_ > shard_->earliest_turn(timeouts), "the bound is one");
        std::vector<ExpiredSession> room(known_.size() + 1);
        require(shard_->collect_turning(now_, timeouts, room).found == turning, "all that turn are found");
    }

    void shrink()
    {
        if (shard_->should_shrink())
            rebuild(shard_->shrunk_capacity());
    }

    std::vector<std::uint64_t> block_;
    HeartbeatShard *shard_ = nullptr;
    std::map<SessionKey, Known, Less> known_;
    std::uint64_t now_ = 2000;
};

}  // namespace

void heartbeat_shard(Bytes bytes)
{
    World world;
    for (Input input(bytes); !input.empty();)
        world.step(input);
    world.compare_all();
}

}  // namespace presence::fuzz

PRESENCE_FUZZ_TARGET(heartbeat_shard)
