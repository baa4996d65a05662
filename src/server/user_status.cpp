// set_user_status(), and the end of what was chosen.
#include "user_status.h"

#include "../core/user_status.h"
#include "access.h"
#include "arguments.h"
#include "calls.h"
#include "datums.h"
#include "extension.h"
#include "feed.h"
#include "lists.h"
#include "user_count.h"

namespace presence {

namespace {

constexpr std::size_t max_message_bytes = 1024;
// The year 10000, from which on a choice lasts; the constraint of the column says so too.
constexpr Time ever_after = 8000LL / 400 * 146097 * USECS_PER_DAY;
// The cleanup may be asked to end many at once; a part at a time bounds the memory.
constexpr int most_at_once = 1000;

Statement over = {
    // In two steps, so that no other index than that of choice_until seems to do.
    "WITH past AS MATERIALIZED (SELECT user_id FROM @.presence_user WHERE choice_until <= (SELECT clock_timestamp()))"
    " SELECT user_id FROM past WHERE user_id > $1 ORDER BY user_id LIMIT $2",
    2,
    {TEXTOID, INT4OID},
    Access::by_index};
Statement any_over = {
    "SELECT FROM @.presence_user WHERE choice_until <= (SELECT clock_timestamp()) LIMIT 1", 0, {}, Access::by_index};
Statement first_end = {
    "SELECT min(choice_until) FROM @.presence_user WHERE choice_until IS NOT NULL", 0, {}, Access::by_index};

namespace argument {
enum : int { user_id, status, until, message };
}

struct ChoiceCall {
    StatusChoice choice;
    text *message;  // null: none
};

ChoiceCall checked_choice(FunctionCallInfo fcinfo)
{
    ChoiceCall call{{}, nullptr};
    if (!PG_ARGISNULL(argument::status)) {
        const std::string_view given = text_view(PG_GETARG_TEXT_PP(argument::status));
        Status status = Status::idle;
        call.choice.invisible = given == "invisible";
        if (!call.choice.invisible && (!parse(given, status) || status == Status::idle))
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("status \"%s\" cannot be chosen", excerpt(given)),
                     errhint("Use busy, away or invisible; active or NULL ends the choice.")));
        if (!call.choice.invisible && status != Status::active)
            call.choice.status = status;
    }
    if (!PG_ARGISNULL(argument::message)) {
        text *message = PG_GETARG_TEXT_PP(argument::message);
        const std::string_view given = text_view(message);
        if (given.size() > max_message_bytes)
            ereport(ERROR,
                    (errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
                     errmsg("message is too long: \"%s\"", excerpt(given)),
                     errdetail("It has %zu bytes; a message has at most %zu.", given.size(), max_message_bytes)));
        if (!given.empty()) {
            call.message = message;
            call.choice.message = text_fingerprint(given);
        }
    }
    if (!PG_ARGISNULL(argument::until)) {
        const Time until = PG_GETARG_TIMESTAMPTZ(argument::until);
        if (until <= GetCurrentTimestamp())
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("until is over: %s", timestamptz_to_str(until)),
                     errhint("Pass a time to come, or NULL for a choice that lasts.")));
        if (call.choice.any() && until < ever_after)
            call.choice.until = until;
    }
    return call;
}

void choose_as_new_user(const WantedUser &wanted, void *context)
{
    const auto &call = *static_cast<const ChoiceCall *>(context);
    wanted.user->choice = call.choice;
    wanted.user->message = call.message;
}

// True: it is another choice than before.
bool choose_as_known_user(const Storage &storage, const WantedUser &wanted, const ChoiceCall &call)
{
    StoredUser &user = *wanted.user;
    const Time now = user.changed_at = GetCurrentTimestamp();
    // Before its sessions are judged, so that the events tell in what order things happened.
    settle_choices(storage, {&wanted, 1});
    if (call.choice == user.choice)
        return false;
    user.message = call.message;
    if (user.hidden && call.choice.invisible) {
        user.choice = call.choice;
        return true;
    }
    // Nobody is told what somebody says who disappears.
    if (call.choice.invisible) {
        hide(user, call.choice, now);
        return true;
    }
    user.told_message = call.message;
    if (user.hidden) {
        come_into_view(storage, wanted, call.choice, now);
        return true;
    }
    SessionGroup group(user.span(), policy_for(user));
    expire(user, group, now, user.events);
    return choose(user, group, call.choice, Reason::heartbeat, now, user.events);
}

}  // namespace

void settle_choices(const Storage &storage, std::span<const WantedUser> wanted)
{
    for (const WantedUser &each : wanted) {
        StoredUser *user = each.user;
        if (user == nullptr || likely(user->choice.until == 0))
            continue;
        const Time now = GetCurrentTimestamp();
        if (!user->choice.is_over(now))
            continue;
        user->changed_at = now;
        user->message = user->told_message = nullptr;
        if (user->hidden) {
            come_into_view(storage, each, {}, now);
            continue;
        }
        SessionGroup group(user->span(), policy_for(*user));
        expire(*user, group, now, user->events);
        (void)choose(*user, group, {}, Reason::timeout, now, user->events);
    }
}

bool end_choices(const Storage &storage)
{
    bool locked = false;
    MemoryContext set = AllocSetContextCreate(CurrentMemoryContext, "presence choices", ALLOCSET_DEFAULT_SIZES);
    text *last = make_text("");
    for (int count = most_at_once; count == most_at_once;) {
        CHECK_FOR_INTERRUPTS();
        Datum arguments[] = {PointerGetDatum(last), Int32GetDatum(most_at_once)};
        count = static_cast<int>(run(over, arguments));
        if (count == 0)
            break;
        MemoryContext outer = MemoryContextSwitchTo(set);
        auto *users = static_cast<WantedUser *>(palloc(sizeof(WantedUser) * static_cast<std::size_t>(count)));
        bool is_null = false;
        for (int i = 0; i < count; ++i)
            users[i] = {DatumGetTextPCopy(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null)),
                        {},
                        nullptr,
                        nullptr};
        SPI_freetuptable(SPI_tuptable);
        const std::span<WantedUser> wanted(users, static_cast<std::size_t>(count));
        load_users(storage, wanted, Lock::skip_locked);
        settle_choices(storage, wanted);
        store_users(storage, wanted);
        for (const WantedUser &each : wanted)
            locked |= each.user == nullptr;
        MemoryContextSwitchTo(outer);
        last = DatumGetTextPCopy(PointerGetDatum(users[count - 1].name));
        MemoryContextReset(set);
    }
    MemoryContextDelete(set);
    return locked;
}

void end_choices_without_worker()
{
    // Under a snapshot of the transaction's own, that could fail for what others have done since.
    if (worker_is_expected() || !may_write() || IsolationUsesXactSnapshot() || run(any_over) == 0)
        return;
    const Storage storage = open_storage();
    (void)end_choices(storage);
    close_storage(storage);
}

Time next_end_of_choice()
{
    run(first_end);
    return DatumGetTimestampTz(first_value(1));
}

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(set_user_status)
{
    text *name = required_text(fcinfo, argument::user_id, "user_id");
    ChoiceCall call = checked_choice(fcinfo);
    require_writable("set_user_status");
    extension_of(fcinfo);
    require_may_act_for(name);
    const OwnerWork work = begin_owner_work();
    const Storage storage = open_storage();
    const NewUserRule rule{choose_as_new_user, [](const WantedUser &) { return true; }, &call};
    WantedUser wanted{name, {}, nullptr, nullptr};
    // Nobody need be made who has nothing to say.
    load_users(storage, {&wanted, 1}, call.choice.any() ? Lock::create_missing : Lock::wait, &rule);
    bool changed = false;
    if (wanted.user != nullptr) {
        changed = wanted.user->created || choose_as_known_user(storage, wanted, call);
        if (wanted.user->created) {
            note_new_users(1);
            require_room_for_users(storage);
        }
        store_users(storage, {&wanted, 1});
    }
    close_storage(storage);
    end_owner_work(work);
    PG_RETURN_BOOL(changed);
}
