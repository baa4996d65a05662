#include "id_window.h"

#include <algorithm>

namespace presence {

void IdWindow::restart(std::int64_t last_id, std::uint64_t next_transaction) noexcept
{
    above_ = last_id;
    again_up_to_ = last_id;
    again_until_ = next_transaction;
    hole_count_ = 0;
}

void IdWindow::fill(std::int64_t id) noexcept
{
    const auto end = hole_ids_.begin() + static_cast<std::ptrdiff_t>(hole_count_);
    const auto found = std::lower_bound(hole_ids_.begin(), end, id);
    if (found == end || *found != id)
        return;
    const auto until = hole_until_.begin() + (found - hole_ids_.begin());
    std::copy(found + 1, end, found);
    std::copy(until + 1, hole_until_.begin() + static_cast<std::ptrdiff_t>(hole_count_), until);
    --hole_count_;
}

void IdWindow::passed(std::span<const std::int64_t> ids, std::uint64_t oldest_running, std::uint64_t next_transaction,
                      bool complete) noexcept
{
    if (complete) {
        // Whoever got these ids has ended before the pass looked: what was not there then never will be.
        if (again_up_to_ != 0 && again_until_ <= oldest_running)
            again_up_to_ = 0;
        std::size_t kept = 0;
        for (std::size_t i = 0; i < hole_count_; ++i) {
            if (hole_until_[i] <= oldest_running)
                continue;
            hole_ids_[kept] = hole_ids_[i];
            hole_until_[kept++] = hole_until_[i];
        }
        hole_count_ = kept;
    }
    for (const std::int64_t id : ids) {
        if (id <= above_) {
            fill(id);
            continue;
        }
        const auto missing = static_cast<std::uint64_t>(id - above_ - 1);
        if (missing > most_holes - hole_count_) {
            restart(id, next_transaction);
            continue;
        }
        for (std::int64_t hole = above_ + 1; hole < id; ++hole) {
            hole_ids_[hole_count_] = hole;
            hole_until_[hole_count_++] = next_transaction;
        }
        above_ = id;
    }
}

}  // namespace presence
