#include "tombstones.h"

#include "settings.h"

extern "C" {
#include "access/xact.h"
}

namespace presence {

namespace {

// Of this transaction, in its memory.
struct Goodbye {
    SessionKey key;
    int level;  // of the subtransaction
};
Goodbye *goodbyes = nullptr;
std::size_t goodbye_count = 0, goodbye_room = 0;

void forget_goodbyes()
{
    goodbyes = nullptr;
    goodbye_count = goodbye_room = 0;
}

// Nothing here may fail: memory for the tombstones is there, and mapped.
void at_transaction_end(XactEvent event, void *)
{
    switch (event) {
    case XACT_EVENT_COMMIT:
        for (std::size_t i = 0; i < goodbye_count; ++i)
            cache_add_tombstone(goodbyes[i].key, static_cast<std::uint64_t>(rejoin_guard_ms));
        forget_goodbyes();
        break;
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PREPARE:
        forget_goodbyes();
        break;
    default:
        break;
    }
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId, SubTransactionId, void *)
{
    const int level = GetCurrentTransactionNestLevel();
    if (event == SUBXACT_EVENT_ABORT_SUB) {
        while (goodbye_count > 0 && goodbyes[goodbye_count - 1].level >= level)
            --goodbye_count;
    } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
        for (std::size_t i = goodbye_count; i > 0 && goodbyes[i - 1].level >= level; --i)
            goodbyes[i - 1].level = level - 1;
    }
}

}  // namespace

void watch_goodbyes()
{
    RegisterXactCallback(at_transaction_end, nullptr);
    RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

void leave_tombstone(const SessionName &name)
{
    if (rejoin_guard_ms == 0 || !cache_reserve_tombstones(name))
        return;
    if (goodbye_count == goodbye_room) {
        const std::size_t room = goodbye_room == 0 ? 16 : 2 * goodbye_room;
        auto *more = static_cast<Goodbye *>(MemoryContextAlloc(TopTransactionContext, sizeof(Goodbye) * room));
        if (goodbye_count > 0)
            memcpy(more, goodbyes, sizeof(Goodbye) * goodbye_count);
        goodbyes = more;
        goodbye_room = room;
    }
    goodbyes[goodbye_count++] = {cache_key(name), GetCurrentTransactionNestLevel()};
}

bool has_tombstone(const SessionName &name)
{
    const SessionKey key = cache_key(name);
    for (std::size_t i = 0; i < goodbye_count; ++i)
        if (goodbyes[i].key == key)
            return true;
    return cache_has_tombstone(key);
}

}  // namespace presence
