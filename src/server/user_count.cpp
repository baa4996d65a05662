#include "user_count.h"

#include "shared.h"

extern "C" {
#include "access/xact.h"
}

namespace presence {

namespace {

enum State : std::uint32_t { unknown, being_counted, known };

// Of this transaction, in its memory, by level of the subtransaction.
struct NewUsers {
    int level;
    std::uint64_t users;
};
NewUsers *made = nullptr;
std::size_t made_count = 0, made_room = 0;

std::uint64_t made_in_all()
{
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < made_count; ++i)
        sum += made[i].users;
    return sum;
}

SharedUserCount *shared_count()
{
    SharedDatabase *database = my_known_database();
    return database != nullptr ? &database->users : nullptr;
}

void give_back(std::uint64_t users)
{
    if (users > 0)
        pg_atomic_fetch_sub_u64(&shared_count()->in_flight, static_cast<int64>(users));
}

void at_transaction_end(XactEvent event, void *)
{
    if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    if (const std::uint64_t users = made_in_all(); users > 0) {
        // A prepared transaction is taken for committed. First what counts, so that nobody sees less in between.
        if (event != XACT_EVENT_ABORT)
            pg_atomic_fetch_add_u64(&shared_count()->committed, static_cast<int64>(users));
        give_back(users);
    }
    made = nullptr;  // with the transaction's memory
    made_count = made_room = 0;
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
    const int level = GetCurrentTransactionNestLevel();
    if (event == SUBXACT_EVENT_ABORT_SUB) {
        while (made_count > 0 && made[made_count - 1].level >= level)
            give_back(made[--made_count].users);
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        for (std::size_t i = made_count; i > 0 && made[i - 1].level >= level; --i)
            made[i - 1].level = level - 1;
    }
}

}  // namespace

void initialize_user_count(SharedUserCount &count)
{
    pg_atomic_init_u64(&count.counted, 0);
    pg_atomic_init_u64(&count.committed, 0);
    pg_atomic_init_u64(&count.in_flight, 0);
    pg_atomic_init_u32(&count.state, unknown);
}

void watch_new_users()
{
    RegisterXactCallback(at_transaction_end, nullptr);
    RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

void note_new_users(int users)
{
    if (users == 0 || my_database() == nullptr)
        return;
    const int level = GetCurrentTransactionNestLevel();
    if (made_count == 0 || made[made_count - 1].level != level) {
        if (made_count == made_room) {
            made_room = made_room == 0 ? 16 : 2 * made_room;
            auto *more =
                static_cast<NewUsers *>(MemoryContextAlloc(TopTransactionContext, sizeof(NewUsers) * made_room));
            if (made_count > 0)
                memcpy(more, made, sizeof(NewUsers) * made_count);
            made = more;
        }
        made[made_count++] = {level, 0};
    }
    made[made_count - 1].users += static_cast<std::uint64_t>(users);
    pg_atomic_fetch_add_u64(&shared_count()->in_flight, users);
}

std::int64_t known_users()
{
    SharedUserCount *count = shared_count();
    if (count == nullptr || pg_atomic_read_u32(&count->state) != known)
        return -1;
    // In the order against that of a commit, so that nobody is missed.
    std::uint64_t users = pg_atomic_read_u64(&count->in_flight);
    pg_read_barrier();
    users += pg_atomic_read_u64(&count->committed) + pg_atomic_read_u64(&count->counted);
    return static_cast<std::int64_t>(users);
}

std::uint64_t committed_users()
{
    SharedUserCount *count = shared_count();
    return count != nullptr ? pg_atomic_read_u64(&count->committed) : 0;
}

void note_counted_users(std::int64_t rows, std::uint64_t committed_before)
{
    SharedUserCount *count = shared_count();
    if (count == nullptr)
        return;
    // Whoever counts sees what the own transaction has made.
    pg_atomic_write_u64(&count->counted, static_cast<std::uint64_t>(rows) - made_in_all() - committed_before);
    pg_write_barrier();
    pg_atomic_write_u32(&count->state, known);
}

bool is_to_count_users()
{
    SharedUserCount *count = shared_count();
    std::uint32_t expected = unknown;
    return count != nullptr && pg_atomic_compare_exchange_u32(&count->state, &expected, being_counted);
}

void forget_user_count()
{
    if (SharedUserCount *count = shared_count())
        pg_atomic_write_u32(&count->state, unknown);
}

}  // namespace presence
