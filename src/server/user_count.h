// How many users are known, for presence.max_users: in shared memory, so that it costs a heartbeat nothing. Never less than
// there are, but for those that were made by hand, or by COMMIT PREPARED, since they were last counted; more by those that were
// forgotten since then, and by those whose transactions have not ended. Without preloading nobody knows.
#pragma once

#include <cstdint>

#include "server.h"

extern "C" {
#include "port/atomics.h"
}

namespace presence {

struct SharedUserCount {
    pg_atomic_uint64 counted;    // rows, less what `committed` was before they were counted
    pg_atomic_uint64 committed;  // made by transactions that have committed
    pg_atomic_uint64 in_flight;  // by those that have not ended
    pg_atomic_uint32 state;
};
void initialize_user_count(SharedUserCount &count);

// In each process, once.
void watch_new_users();
// This transaction has made so many.
void note_new_users(int users);
// With those that this transaction has made; -1: nobody knows.
std::int64_t known_users();

// Whoever counts the rows asks for the first before the snapshot, and for the second with what it saw.
std::uint64_t committed_users();
void note_counted_users(std::int64_t rows, std::uint64_t committed_before);
// Nobody has counted them yet, and the caller is the one to do so.
bool is_to_count_users();
// They are to be counted again: the extension is dropped, or all are gone.
void forget_user_count();

}  // namespace presence
