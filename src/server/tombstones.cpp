#include "tombstones.h"

#include <algorithm>

#include "compat.h"
#include "settings.h"

extern "C" {
#include "access/xact.h"
}

namespace presence {

namespace {

// Of this transaction, in its memory.
struct OwnGoodbye {
    SessionKey key;
    int level;  // of the subtransaction
};
OwnGoodbye *goodbyes = nullptr;
std::size_t goodbye_count = 0, goodbye_room = 0;
std::uint64_t owner = 0;  // this transaction; when it is over, the server no longer says so

bool said_goodbye(const SessionKey &key)
{
    return std::any_of(goodbyes, goodbyes + goodbye_count, [&key](const OwnGoodbye &each) { return each.key == key; });
}

void forget_goodbyes()
{
    for (std::size_t i = 0; i < goodbye_count; ++i)
        cache_take_back_tombstone(goodbyes[i].key, owner);
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
        while (goodbye_count > 0 && goodbyes[goodbye_count - 1].level >= level) {
            const SessionKey key = goodbyes[--goodbye_count].key;
            if (!said_goodbye(key))
                cache_take_back_tombstone(key, owner);
        }
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

void leave_tombstone(const SessionName &name, Goodbye goodbye)
{
    if (rejoin_guard_ms == 0 || !cache_reserve_tombstones(name))
        return;
    const SessionKey key = cache_key(name);
    owner = compat::own_transaction();
    if (goodbye_count == goodbye_room) {
        const std::size_t room = goodbye_room == 0 ? 16 : 2 * goodbye_room;
        auto *more = static_cast<OwnGoodbye *>(MemoryContextAlloc(TopTransactionContext, sizeof(OwnGoodbye) * room));
        if (goodbye_count > 0)
            memcpy(more, goodbyes, sizeof(OwnGoodbye) * goodbye_count);
        goodbyes = more;
        goodbye_room = room;
    }
    goodbyes[goodbye_count++] = {key, GetCurrentTransactionNestLevel()};
    cache_announce_tombstone(key, owner, goodbye);
}

bool has_tombstone(const SessionName &name) { return cache_find_tombstone(cache_key(name)).goodbye != Goodbye::none; }

bool wait_for_tombstone(const SessionName &name)
{
    const SessionKey key = cache_key(name);
    std::uint64_t waited_for = 0;
    for (;;) {
        const Tombstones::Found found = cache_find_tombstone(key);
        if (found.goodbye == Goodbye::committed || said_goodbye(key))
            return true;
        if (found.goodbye != Goodbye::pending || found.owner == waited_for)
            return false;
        waited_for = found.owner;
        compat::wait_for_transaction(found.owner);
    }
}

}  // namespace presence
