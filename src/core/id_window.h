// Which ids of a growing queue may still turn up, so that a reader who takes rows out of it looks at each only once,
// however many dead rows lie between. Ids are handed out in ascending order to transactions that commit in any order, or
// never. Lives here: the arithmetic. Does not live here: the queue, snapshots and the transactions themselves.
//
// A pass: take all rows with id > above(), those whose id is in holes(), and those up to again_up_to(); in ascending
// order, the lowest first where there are too many; then say with passed() what was found.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace presence {

class IdWindow {
public:
    static constexpr std::size_t most_holes = 4096;

    // Everything up to that id may turn up, as long as transactions run that are older than next_transaction (the first
    // that had not begun when that id had been handed out).
    void restart(std::int64_t last_id, std::uint64_t next_transaction) noexcept;

    std::int64_t above() const noexcept { return above_; }
    std::int64_t again_up_to() const noexcept { return again_up_to_; }  // 0: none
    std::span<const std::int64_t> holes() const noexcept { return {hole_ids_.data(), hole_count_}; }

    // ids: found, ascending. oldest_running: transactions older than it had all ended when the pass looked.
    // next_transaction: the first that had not begun after it had looked. complete: it has found all there were.
    void passed(std::span<const std::int64_t> ids, std::uint64_t oldest_running, std::uint64_t next_transaction,
                bool complete) noexcept;

private:
    void fill(std::int64_t id) noexcept;

    std::int64_t above_ = 0;
    std::int64_t again_up_to_ = 0;
    std::uint64_t again_until_ = 0;
    std::size_t hole_count_ = 0;
    std::array<std::int64_t, most_holes> hole_ids_{};
    std::array<std::uint64_t, most_holes> hole_until_{};
};

}  // namespace presence
