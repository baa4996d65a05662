// The rules of presence, one by one, and what must hold of any history.
#include "rules.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <ostream>
#include <random>
#include <string_view>
#include <type_traits>
#include <vector>

namespace presence {

// So that a failed comparison can be read.
void PrintTo(EventType type, std::ostream *out) { *out << to_text(type); }
void PrintTo(Reason reason, std::ostream *out) { *out << to_text(reason); }
void PrintTo(Status status, std::ostream *out) { *out << to_text(status); }

namespace {

constexpr Time second = 1'000'000;
constexpr Time timeout = 120 * second;
constexpr Time guard = 10 * second;

// What a test looks at of an event.
struct Seen {
    EventType type;
    Reason reason;
    std::int32_t sessions;

    friend bool operator==(const Seen &, const Seen &) = default;
    friend void PrintTo(const Seen &seen, std::ostream *out)
    {
        *out << to_text(seen.type) << '/' << to_text(seen.reason) << '/' << seen.sessions;
    }
};
using Story = std::vector<Seen>;

Story operator+(Story first, const Story &second_part)
{
    first.insert(first.end(), second_part.begin(), second_part.end());
    return first;
}

// One user with a few sessions, and a clock.
class World {
public:
    static constexpr std::size_t size = 6;

    World()
    {
        for (std::size_t i = 0; i < size; ++i)
            pointers_.at(i) = &sessions_.at(i);
    }
    World(const World &) = delete;
    World &operator=(const World &) = delete;

    User user;
    Time now = 1'000 * second;

    Session &operator[](std::size_t i) { return sessions_.at(i); }
    [[nodiscard]] const std::array<Session, size> &sessions() const { return sessions_; }
    [[nodiscard]] const std::vector<Event> &events() const { return events_; }

    HeartbeatResult beat(std::size_t i, Heartbeat beat = {})
    {
        beat.now = now;
        beat.rejoin_guard = guard;
        return run([&](EventList &list) {
            SessionGroup group(pointers_, policy);
            const HeartbeatResult result = presence::apply_heartbeat(user, group, sessions_.at(i), beat, list);
            if (result != HeartbeatResult::ignored)
                sessions_.at(i).stale_after = std::max(sessions_.at(i).stale_after, now + timeout);
            return result;
        });
    }
    Policy policy;
    HeartbeatResult beat_with(std::size_t i, Status status) { return beat(i, {.status = status}); }

    bool leave(std::size_t i) { return depart_with(&sessions_.at(i), {.now = now, .reason = Reason::leave}); }
    bool leave_all() { return depart_with(nullptr, {.now = now, .reason = Reason::leave}); }
    bool disconnect(std::size_t i, Time grace = 0)
    {
        return depart_with(&sessions_.at(i), {.now = now, .reason = Reason::disconnect, .grace = grace});
    }
    bool disconnect_all(Time grace)
    {
        return depart_with(nullptr, {.now = now, .reason = Reason::disconnect, .grace = grace});
    }
    bool expire()
    {
        return run([&](EventList &list) {
            SessionGroup group(pointers_, policy);
            return presence::expire(user, group, now, list);
        });
    }

    // What has happened since the last call.
    Story news()
    {
        Story story;
        for (; told_ < events_.size(); ++told_)
            story.push_back({events_[told_].type, events_[told_].reason, events_[told_].sessions});
        return story;
    }
    void saved()
    {
        user.changed = false;
        for (Session &session : sessions_)
            session.changed = session.clear_typing = session.put_off = false;
    }

private:
    template <typename Call>
    std::invoke_result_t<Call, EventList &> run(Call call)
    {
        std::array<Event, 64> room{};
        EventList list(room);
        const auto result = call(list);
        events_.insert(events_.end(), list.items().begin(), list.items().end());
        return result;
    }
    bool depart_with(Session *target, const Departure &departure)
    {
        return run([&](EventList &list) {
            SessionGroup group(pointers_, policy);
            return presence::apply_departure(user, group, target, departure, list);
        });
    }

    std::array<Session, size> sessions_{};
    std::array<Session *, size> pointers_{};
    std::vector<Event> events_;
    std::size_t told_ = 0;
};

const Story comes = {{EventType::session_start, Reason::heartbeat, 1}, {EventType::user_online, Reason::heartbeat, 1}};
Story goes(Reason reason) { return {{EventType::session_end, reason, 0}, {EventType::user_offline, reason, 0}}; }

TEST(Rules, TheFirstHeartbeatBringsTheUserOnline)
{
    World world;
    EXPECT_EQ(world.beat(0), HeartbeatResult::began);
    EXPECT_EQ(world.news(), comes);
    EXPECT_TRUE(world.user.online);
    EXPECT_TRUE(world.user.changed);
    EXPECT_EQ(world.user.sessions, 1);
    EXPECT_EQ(world.user.online_since, world.now);
    EXPECT_TRUE(world[0].changed);
    EXPECT_EQ(world[0].joined_at, world.now);
    EXPECT_EQ(world[0].heartbeat_at, world.now);
    EXPECT_EQ(world[0].online_since, world.now);
}

TEST(Rules, AHeartbeatThatChangesNothingWritesNothing)
{
    World world;
    world.beat_with(0, Status::busy);
    world.news();
    world.saved();
    world.now += 30 * second;
    EXPECT_EQ(world.beat(0), HeartbeatResult::refreshed);
    EXPECT_EQ(world.beat_with(0, Status::busy), HeartbeatResult::refreshed);
    EXPECT_TRUE(world.news().empty());
    EXPECT_FALSE(world.user.changed);
    EXPECT_FALSE(world[0].changed);
    EXPECT_EQ(world[0].heartbeat_at, world.now);
}

TEST(Rules, AQueuedOlderHeartbeatDoesNotMoveTheTimeBack)
{
    World world;
    world.beat(0);
    const Time latest = world.now += 30 * second;
    world.beat(0);
    world.now -= 20 * second;
    EXPECT_EQ(world.beat(0), HeartbeatResult::refreshed);
    EXPECT_EQ(world[0].heartbeat_at, latest);
}

TEST(Rules, ClosingOneTabOfThreeLeavesTheUserOnline)
{
    World world;
    for (std::size_t i = 0; i < 3; ++i)
        world.beat(i);
    world.news();
    EXPECT_FALSE(world.leave(1));
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::leave, 2}}));
    EXPECT_TRUE(world.user.online);
    EXPECT_FALSE(world.disconnect(0));
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::disconnect, 1}}));
    EXPECT_TRUE(world.leave(2));
    EXPECT_EQ(world.news(), goes(Reason::leave));
    EXPECT_FALSE(world.user.online);
    EXPECT_EQ(world.user.offline_at, world.now);
}

TEST(Rules, LeavingTwiceOrUnknownIsHarmless)
{
    World world;
    EXPECT_FALSE(world.leave(0));
    EXPECT_FALSE(world.leave_all());
    world.beat(0);
    EXPECT_TRUE(world.leave(0));
    world.news();
    EXPECT_FALSE(world.leave(0));
    EXPECT_FALSE(world.disconnect(0));
    EXPECT_FALSE(world.leave_all());
    EXPECT_TRUE(world.news().empty());
}

TEST(Rules, ALateDisconnectOfAnOldConnectionDoesNotEndTheNewOne)
{
    World world;
    world.beat(0);
    world.beat(1);
    world.leave(0);
    world.news();
    EXPECT_FALSE(world.disconnect(0));
    EXPECT_TRUE(world.user.online);
    EXPECT_EQ(world[1].state(), SessionState::online);
    EXPECT_TRUE(world.news().empty());
}

TEST(Rules, LeavingWithAllSessionsIsOneDeparture)
{
    World world;
    for (std::size_t i = 0; i < 3; ++i)
        world.beat(i);
    world.news();
    EXPECT_TRUE(world.leave_all());
    EXPECT_EQ(world.news(),
              (Story{{EventType::session_end, Reason::leave, 2}, {EventType::session_end, Reason::leave, 1}}) +
                  goes(Reason::leave));
}

TEST(Rules, OnlyADisconnectClearsTheTypingState)
{
    World world;
    world.beat(0);
    world.beat(1);
    world.disconnect(0);
    EXPECT_TRUE(world[0].clear_typing);
    world.leave(1);
    EXPECT_FALSE(world[1].clear_typing);
}

TEST(Rules, AClockThatWasSetBackDoesNotProlongTheGuard)
{
    World world;
    world.beat(0);
    world.leave(0);
    world.now -= guard;
    EXPECT_EQ(world.beat(0), HeartbeatResult::ignored);
    world.now -= 1;
    EXPECT_EQ(world.beat(0), HeartbeatResult::began);
}

TEST(Rules, ALateHeartbeatDoesNotReviveWhatEndedOnPurpose)
{
    for (const bool beacon : {false, true}) {
        World world;
        world.beat(0);
        beacon ? world.disconnect(0) : world.leave(0);
        world.news();
        world.now += guard - 1;
        EXPECT_EQ(world.beat(0), HeartbeatResult::ignored);
        EXPECT_TRUE(world.news().empty());
        EXPECT_FALSE(world.user.online);
        EXPECT_EQ(world.beat(1), HeartbeatResult::began);  // another session is no business of the tombstone's
        world.leave(1);
        world.now += 1;
        EXPECT_EQ(world.beat(0), HeartbeatResult::began);
        EXPECT_TRUE(world.user.online);
    }
}

TEST(Rules, TheUnnamedSessionHasNoTombstone)
{
    World world;
    world.beat(0, {.named = false});
    world.leave(0);
    world.news();
    EXPECT_EQ(world.beat(0, {.named = false}), HeartbeatResult::began);
    EXPECT_EQ(world.news(), comes);
}

TEST(Rules, SilenceForExactlyTheTimeoutIsNotTooLong)
{
    World world;
    world.beat(0);
    world.news();
    world.now += timeout;
    EXPECT_FALSE(world.expire());
    EXPECT_TRUE(world.news().empty());
    world.now += 1;
    EXPECT_TRUE(world.expire());
    EXPECT_EQ(world.news(), goes(Reason::timeout));
    EXPECT_EQ(world[0].end_reason, Reason::timeout);
    EXPECT_FALSE(world.expire());
}

TEST(Rules, ATimeoutDoesNotDisturbTheSiblings)
{
    World world;
    world.beat(0);
    world.beat(1);
    world.now += timeout;
    world.beat(1);
    world.news();
    world.now += 1;
    EXPECT_FALSE(world.expire());
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::timeout, 1}}));
    EXPECT_EQ(world[1].state(), SessionState::online);
}

TEST(Rules, AfterSleepTheNextHeartbeatComesBackAtOnce)
{
    World world;
    world.beat_with(0, Status::busy);
    world.now += timeout + 1;
    world.expire();
    world.news();
    EXPECT_EQ(world.beat(0), HeartbeatResult::began);
    EXPECT_EQ(world.news(), comes);
    EXPECT_EQ(world.user.status, Status::busy);  // what was not told anew is kept
    EXPECT_EQ(world.user.online_since, world.now);
}

TEST(Rules, ComingBackBeforeTheCleanupStillTellsOfTheGap)
{
    World world;
    world.beat(0);
    world.news();
    world.now += timeout + 1;
    EXPECT_EQ(world.beat(0), HeartbeatResult::began);
    EXPECT_EQ(world.news(), goes(Reason::timeout) + comes);
}

TEST(Rules, AStaleSessionHasLeftBeforeItSaysSo)
{
    World world;
    world.beat(0);
    world.news();
    world.now += timeout + 1;
    EXPECT_FALSE(world.leave(0));  // the user was not online any more
    EXPECT_EQ(world.news(), goes(Reason::timeout));
}

TEST(Rules, SessionsEndInTheOrderInWhichTheyFellSilent)
{
    World world;
    for (const std::size_t i : {2U, 0U, 1U}) {
        world.beat(i);
        world.now += second;
    }
    world.news();
    const std::size_t before = world.events().size();
    world.now += 2 * timeout;
    EXPECT_TRUE(world.expire());
    ASSERT_EQ(world.events().size(), before + 4);
    EXPECT_EQ(world.events()[before].session, &world[2]);
    EXPECT_EQ(world.events()[before + 1].session, &world[0]);
    EXPECT_EQ(world.events()[before + 2].session, &world[1]);
    EXPECT_EQ(world.events()[before + 3].type, EventType::user_offline);
}

TEST(Rules, TheUserShowsTheMostPresentStatusWhoeverBeatLast)
{
    const std::array<Status, 4> by_presence = {Status::active, Status::busy, Status::idle, Status::away};
    for (std::size_t a = 0; a < 4; ++a) {
        for (std::size_t b = 0; b < 4; ++b) {
            World world;
            world.beat_with(0, by_presence.at(a));
            world.beat_with(1, by_presence.at(b));
            EXPECT_EQ(world.user.status, by_presence.at(std::min(a, b)));
            world.news();
            for (int i = 0; i < 3; ++i) {  // two devices with different states: no flapping
                world.now += second;
                world.beat_with(0, by_presence.at(a));
                world.beat_with(1, by_presence.at(b));
            }
            EXPECT_TRUE(world.news().empty());
        }
    }
}

TEST(Rules, AnUpdateIsWrittenOnlyWhenTheAggregateChanges)
{
    World world;
    world.beat_with(0, Status::idle);
    world.beat_with(1, Status::busy);
    EXPECT_EQ(world.news(), comes + Story({{EventType::session_start, Reason::heartbeat, 2},
                                           {EventType::update, Reason::heartbeat, 2}}));
    EXPECT_EQ(world.beat_with(0, Status::away), HeartbeatResult::changed);  // behind the busy one, nobody sees that
    EXPECT_TRUE(world.news().empty());
    EXPECT_EQ(world.beat_with(0, Status::active), HeartbeatResult::changed);
    EXPECT_EQ(world.news(), (Story{{EventType::update, Reason::heartbeat, 2}}));
    world.leave(0);  // the most present one goes
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::leave, 1}, {EventType::update, Reason::leave, 1}}));
    EXPECT_EQ(world.user.status, Status::busy);
}

TEST(Rules, UpdatesBeyondTheirNumberAreToldAsOneWhenTheMinuteIsOver)
{
    World world;
    world.policy.max_updates = 2;
    world.beat(0);
    world.news();
    for (const Status status : {Status::idle, Status::busy, Status::away, Status::idle})
        EXPECT_EQ(world.beat_with(0, status), HeartbeatResult::changed);
    EXPECT_EQ(world.news().size(), 2U);
    EXPECT_EQ(world.user.status, Status::idle);
    EXPECT_EQ(world[0].update_due, world.now + update_window);
    EXPECT_TRUE(world[0].put_off);

    world.saved();
    world.beat_with(0, Status::busy);
    EXPECT_FALSE(world[0].put_off);  // it was before
    world.now += update_window - 1;
    world.expire();
    EXPECT_EQ(world.news(), Story{});
    world.now += 1;
    world.expire();
    EXPECT_EQ(world.news(), (Story{{EventType::update, Reason::heartbeat, 1}}));
    EXPECT_EQ(world.events().back().status, Status::busy);
    EXPECT_EQ(world[0].update_due, 0);
    world.expire();
    EXPECT_EQ(world.news(), Story{});
}

// Two sessions, of which the first tells when somebody was active, with limits of one and three minutes.
class Inactive : public testing::Test {
protected:
    Inactive()
    {
        world.policy.inactivity = {.idle_after = 60 * second, .away_after = 180 * second};
        world[0].stale_after = never;
        world.beat(0, {.last_activity = world.now});
        world.news();
        began = world.now;
    }
    Story at(Time after, std::optional<Time> active = std::nullopt)
    {
        world.saved();
        world.now = began + after * second;
        world.beat(0, {.last_activity = active ? began + *active * second : 0});
        world.expire();
        return world.news();
    }
    static Story turned(Reason reason, std::int32_t sessions = 1) { return {{EventType::update, reason, sessions}}; }

    World world;
    Time began = 0;
};

TEST_F(Inactive, TurnsIdleAndThenAwayAndBackWithTheHeartbeatThatTellsOfActivity)
{
    EXPECT_EQ(at(59), Story{});
    EXPECT_FALSE(world[0].changed);
    world.now = began + 60 * second;
    world.expire();
    EXPECT_EQ(world.news(), turned(Reason::timeout));
    EXPECT_EQ(world.user.status, Status::idle);
    EXPECT_EQ(world[0].said, Status::active);
    EXPECT_TRUE(world[0].changed);
    EXPECT_EQ(at(179), Story{});
    EXPECT_FALSE(world[0].changed);
    world.now = began + 180 * second;
    world.expire();
    EXPECT_EQ(world.news(), turned(Reason::timeout));
    EXPECT_EQ(world.user.status, Status::away);
    // Activity of long ago changes nothing that is shown.
    EXPECT_EQ(at(181, 1), Story{});
    EXPECT_FALSE(world[0].changed);
    EXPECT_EQ(at(200, 195), turned(Reason::heartbeat));
    EXPECT_EQ(world.user.status, Status::active);
}

TEST_F(Inactive, WhoNeverToldOfActivityNeverTurns)
{
    World silent;
    silent.policy = world.policy;
    silent.beat(0);
    silent.news();
    silent[0].stale_after = never;
    silent.now += 3600 * second;
    silent.expire();
    EXPECT_EQ(silent.news(), Story{});
    EXPECT_EQ(silent.user.status, Status::active);
}

TEST_F(Inactive, BusyAndAwayStayAndIdleTurnsAway)
{
    world.beat(0, {.status = Status::busy});
    world.news();
    EXPECT_EQ(at(1000), Story{});
    EXPECT_EQ(world.user.status, Status::busy);
    // What it says anew is shown as what its inactivity makes of it.
    world.beat(0, {.status = Status::idle});
    EXPECT_EQ(world.user.status, Status::away);
    EXPECT_EQ(world[0].said, Status::idle);
    EXPECT_EQ(at(1001, 1001),
              (Story{{EventType::update, Reason::heartbeat, 1}, {EventType::update, Reason::heartbeat, 1}}));
    EXPECT_EQ(world.user.status, Status::idle);
}

TEST_F(Inactive, AChoiceStandsAboveIt)
{
    world.user.choice.status = Status::busy;
    world.user.status = Status::busy;
    EXPECT_EQ(at(60), Story{});
    EXPECT_EQ(world[0].status, Status::idle);
    EXPECT_EQ(world.user.status, Status::busy);
}

TEST_F(Inactive, SessionsThatTurnAtOnceAreOneUpdate)
{
    world.beat(1, {.last_activity = world.now});
    world.beat(2, {.last_activity = world.now});
    world.news();
    for (std::size_t i = 0; i < 3; ++i)
        world[i].stale_after = never;
    world.now += 60 * second;
    world.expire();
    EXPECT_EQ(world.news(), turned(Reason::timeout, 3));
    world.now += 600 * second;
    world.expire();
    EXPECT_EQ(world.news(), turned(Reason::timeout, 3));
    EXPECT_EQ(world.user.status, Status::away);
}

TEST_F(Inactive, TimeBeforeTheFloorTurnsNobodyAndTurnsNobodyBack)
{
    world.policy.floor = began + 50 * second;
    EXPECT_EQ(at(109), Story{});
    EXPECT_EQ(at(110), turned(Reason::timeout));
    world.policy.floor = began + 200 * second;
    EXPECT_EQ(at(210), Story{});
    EXPECT_EQ(world.user.status, Status::idle);
}

TEST_F(Inactive, ActivityInTheFutureIsNow)
{
    at(10, 5000);
    EXPECT_EQ(world[0].last_activity, began + 10 * second);
    EXPECT_EQ(at(70), turned(Reason::timeout));
}

TEST_F(Inactive, WithoutLimitsItShowsWhatItSaidAtTheNextOccasion)
{
    EXPECT_EQ(at(60), turned(Reason::timeout));
    world.policy.inactivity = {};
    EXPECT_EQ(at(61), turned(Reason::heartbeat));
    EXPECT_EQ(world.user.status, Status::active);
}

TEST_F(Inactive, ItsUpdatesAreCountedLikeOthers)
{
    world.policy.max_updates = 1;
    EXPECT_EQ(at(60), turned(Reason::timeout));
    EXPECT_EQ(at(61, 61), Story{});
    EXPECT_EQ(world.user.status, Status::active);
    EXPECT_EQ(world[0].update_due, began + 60 * second + update_window);
}

TEST(InactivityLimits, SaySameThingInEachForm)
{
    using Limits = InactivityLimits<std::uint64_t>;
    for (const Limits limits : {Limits{0, 0}, Limits{5, 0}, Limits{0, 5}, Limits{5, 9}, Limits{9, 5}, Limits{5, 5}})
        for (const StatusPair pair : status_pairs)
            for (std::uint64_t inactivity = 0; inactivity < 12; ++inactivity)
                for (std::uint64_t observed = 0; observed <= inactivity; ++observed) {
                    const Status now = limits.shown(pair.said, pair.shown, inactivity, observed);
                    const bool fits =
                        inactivity >= limits.from(pair.said, pair.shown) && observed < limits.until(pair.shown);
                    ASSERT_EQ(now == pair.shown, fits);
                    ASSERT_EQ(status_pairs[pair_code(pair.said, now)].shown, now);
                    ASSERT_EQ(status_pairs[pair_code(pair.said, now)].said, pair.said);
                    ASSERT_EQ(limits.shown(pair.said, now, inactivity, observed), now);
                }
}

TEST(Rules, ASessionThatEndsTellsItsLastUpdateBefore)
{
    World world;
    world.policy.max_updates = 1;
    world.beat(0);
    world.beat_with(1, Status::away);
    world.beat_with(0, Status::busy);
    world.news();
    world.beat_with(0, Status::idle);
    EXPECT_EQ(world.news(), Story{});
    world.leave(0);
    EXPECT_EQ(world.news(), (Story{{EventType::update, Reason::heartbeat, 2},
                                   {EventType::session_end, Reason::leave, 1},
                                   {EventType::update, Reason::leave, 1}}));
}

TEST(Rules, AChangeOfMetadataIsAnUpdateAndNotALeaveAndJoin)
{
    World world;
    world.beat(0);
    world.news();
    EXPECT_EQ(world.beat(0, {.metadata_digest = 7}), HeartbeatResult::changed);
    EXPECT_EQ(world.news(), (Story{{EventType::update, Reason::heartbeat, 1}}));
    world.saved();
    EXPECT_EQ(world.beat(0, {.details_changed = true}),
              HeartbeatResult::changed);  // to be written, but nothing that others see
    EXPECT_TRUE(world.news().empty());
    EXPECT_TRUE(world[0].changed);
}

TEST(Rules, MetadataThatComesToLightByAnothersEndIsAnUpdate)
{
    World world;
    world.beat(0, {.metadata_digest = 1});
    world.now += second;
    world.beat(1, {.metadata_digest = 2});
    world.now += second;
    world.beat(2, {.metadata_digest = 2});
    world.news();
    world.leave(2);  // the one below shows the same
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::leave, 2}}));
    world.leave(1);
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::leave, 1}, {EventType::update, Reason::leave, 1}}));
    EXPECT_EQ(world.events().back().shown, &world[0]);
    world.now += timeout + 1;
    world.expire();
    EXPECT_EQ(world.events().back().shown, nullptr);
}

TEST(Rules, ANewSessionThatShowsOtherMetadataIsAnUpdate)
{
    World world;
    world.beat(0, {.metadata_digest = 1});
    world.news();
    world.now += second;
    world.beat(1, {.metadata_digest = 1});
    EXPECT_EQ(world.news(), (Story{{EventType::session_start, Reason::heartbeat, 2}}));
    world.now += second;
    world.beat(2);  // it says nothing
    EXPECT_EQ(world.news(), (Story{{EventType::session_start, Reason::heartbeat, 3}}));
    EXPECT_EQ(world.events().back().shown, &world[2]);
    world.now += second;
    world.beat(3, {.metadata_digest = 5});
    world.now += second;
    world.beat(4, {.metadata_digest = 6});
    EXPECT_EQ(world.news(), (Story{{EventType::session_start, Reason::heartbeat, 4},
                                   {EventType::session_start, Reason::heartbeat, 5},
                                   {EventType::update, Reason::heartbeat, 5}}));
}

TEST(Rules, AReloadWithinTheGraceDoesNotFlicker)
{
    World world;
    world.beat(0);
    const Time since = world.now;
    world.news();
    EXPECT_FALSE(world.disconnect(0, 5 * second));
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::disconnect, 0}}));
    EXPECT_TRUE(world.user.online);
    EXPECT_EQ(world.user.sessions, 0);
    EXPECT_NE(world[0].state(), SessionState::online);
    world.now += 5 * second;
    EXPECT_FALSE(world.expire());
    EXPECT_EQ(world.beat(1), HeartbeatResult::began);
    EXPECT_EQ(world.news(), (Story{{EventType::session_start, Reason::heartbeat, 1}}));
    EXPECT_EQ(world.user.online_since, since);
    world.now += 60 * second;
    EXPECT_FALSE(world.expire());
    EXPECT_TRUE(world.news().empty());
}

TEST(Rules, WhenTheGraceHasPassedTheUserIsOffline)
{
    World world;
    world.beat(0);
    world.disconnect(0, 5 * second);
    world.news();
    world.now += 5 * second + 1;
    EXPECT_TRUE(world.expire());
    EXPECT_EQ(world.news(), (Story{{EventType::user_offline, Reason::disconnect, 0}}));
    EXPECT_FALSE(world[0].online);
    EXPECT_FALSE(world.user.online);
}

TEST(Rules, WithinTheGraceTheEndedSessionItselfStaysEnded)
{
    World world;
    world.beat(0);
    world.disconnect(0, 5 * second);
    world.news();
    world.now += second;
    EXPECT_EQ(world.beat(0), HeartbeatResult::ignored);
    EXPECT_FALSE(world.disconnect(0, 5 * second));  // nor does a second beacon prolong it
    EXPECT_TRUE(world.news().empty());
    world.now += 4 * second + 1;
    EXPECT_TRUE(world.expire());
}

TEST(Rules, LeavingOnPurposeIsImmediateEvenWithinTheGrace)
{
    World world;
    world.beat(0);
    world.disconnect(0, 5 * second);
    world.news();
    EXPECT_TRUE(world.leave_all());
    EXPECT_EQ(world.news(), (Story{{EventType::user_offline, Reason::leave, 0}}));
}

TEST(Rules, OnlyTheLastOfAllSessionsGetsAGrace)
{
    World world;
    world.beat(0);
    world.beat(1);
    world.news();
    EXPECT_FALSE(world.disconnect_all(5 * second));
    EXPECT_EQ(world.news(), (Story{{EventType::session_end, Reason::disconnect, 1},
                                   {EventType::session_end, Reason::disconnect, 0}}));
    EXPECT_TRUE(world.user.online);
    EXPECT_EQ(world[0].online + world[1].online, 1);
}

TEST(Rules, TextsAreThoseOfTheContractAndNoOthersAreTaken)
{
    Status status = Status::idle;
    for (const std::string_view text : {"active", "busy", "idle", "away"}) {
        EXPECT_TRUE(parse(text, status));
        EXPECT_EQ(to_text(status), text);
    }
    for (const std::string_view text : {"", "Active", "offline", "active "})
        EXPECT_FALSE(parse(text, status));
    EXPECT_EQ(to_text(EventType::user_online), "user_online");
    EXPECT_EQ(to_text(EventType::user_offline), "user_offline");
    EXPECT_EQ(to_text(EventType::session_start), "session_start");
    EXPECT_EQ(to_text(EventType::session_end), "session_end");
    EXPECT_EQ(to_text(EventType::update), "update");
    Reason reason = Reason::none;
    for (const std::string_view text : {"heartbeat", "leave", "disconnect", "timeout", "admin"}) {
        EXPECT_TRUE(parse(text, reason));
        EXPECT_EQ(to_text(reason), text);
    }
}

TEST(LiveUntil, IsTheEndOfTheGraceOfASessionThatHasEndedAndElseTheDeadline)
{
    EXPECT_EQ(live_until(50, 0), 50);
    EXPECT_EQ(live_until(50, 40), 40);
    EXPECT_EQ(live_until(50, 60), 60);
    // On a standby.
    EXPECT_EQ(live_until(never, 0), never);
    EXPECT_EQ(live_until(never, 40), never);
}

UserSummary sum_of(const std::vector<SessionSnapshot> &sessions)
{
    UserSummary sum;
    for (const SessionSnapshot &session : sessions)
        sum.add(session);
    return sum;
}

TEST(UserSummary, OfNobodyIsOffline)
{
    const UserSummary sum;
    EXPECT_FALSE(sum.any);
    EXPECT_FALSE(sum.online());
}

TEST(UserSummary, SaysWhichSessionBeatLast)
{
    UserSummary sum;
    EXPECT_TRUE(sum.add({.state = SessionState::online, .id = 1, .heartbeat_at = 10}));
    EXPECT_FALSE(sum.add({.state = SessionState::online, .id = 2, .heartbeat_at = 9}));
    EXPECT_TRUE(sum.add({.state = SessionState::online, .id = 3, .heartbeat_at = 11}));
    EXPECT_FALSE(sum.add({.state = SessionState::online, .id = 2, .heartbeat_at = 11}));
    EXPECT_TRUE(sum.add({.state = SessionState::online, .id = 4, .heartbeat_at = 11}));
    EXPECT_FALSE(sum.add({.state = SessionState::offline, .id = 5, .heartbeat_at = 12}));
    EXPECT_EQ(sum.latest, 4);
    EXPECT_EQ(sum.heartbeat_at, 11);
}

TEST(UserSummary, OfAnOfflineUserSaysWhenThereWasTheLastSignOfLife)
{
    const UserSummary sum =
        sum_of({{.id = 1, .heartbeat_at = 10, .seen_at = 30}, {.id = 2, .heartbeat_at = 20, .seen_at = 20}});
    EXPECT_TRUE(sum.any);
    EXPECT_FALSE(sum.online());
    EXPECT_EQ(sum.sessions, 0);
    EXPECT_EQ(sum.latest, 2);
    EXPECT_EQ(sum.heartbeat_at, 20);
    EXPECT_EQ(sum.seen_at, 30);
}

TEST(UserSummary, ALeavingSessionCountsOnlyWhereNoneIsOnline)
{
    const SessionSnapshot leaving{
        .state = SessionState::leaving, .status = Status::active, .id = 1, .heartbeat_at = 20, .seen_at = 25};
    UserSummary sum = sum_of({leaving});
    EXPECT_TRUE(sum.online());
    EXPECT_EQ(sum.sessions, 0);
    EXPECT_EQ(sum.status, Status::active);
    EXPECT_TRUE(sum.add({.state = SessionState::online, .status = Status::away, .id = 2, .heartbeat_at = 10}));
    EXPECT_EQ(sum.sessions, 1);
    EXPECT_EQ(sum.status, Status::away);
    EXPECT_EQ(sum.latest, 2);
}

TEST(UserSummary, DoesNotDependOnTheOrderOfTheSessions)
{
    std::mt19937_64 random(1);
    for (int round = 0; round < 2'000; ++round) {
        std::vector<SessionSnapshot> sessions(1 + random() % 5);
        std::int64_t id = 0;
        for (SessionSnapshot &session : sessions) {
            session = {.state = static_cast<SessionState>(random() % 3),
                       .status = static_cast<Status>(random() % 4),
                       .id = ++id,
                       .online_since = static_cast<Time>(random() % 4),
                       .heartbeat_at = static_cast<Time>(10 + random() % 4)};
            if (session.state != SessionState::online)
                session.seen_at = static_cast<Time>(20 + random() % 4);
        }
        const UserSummary sum = sum_of(sessions);
        std::shuffle(sessions.begin(), sessions.end(), random);
        const UserSummary other = sum_of(sessions);
        ASSERT_EQ(sum.state, other.state);
        ASSERT_EQ(sum.sessions, other.sessions);
        ASSERT_EQ(sum.status, other.status);
        ASSERT_EQ(sum.latest, other.latest);
        ASSERT_EQ(sum.online_since, other.online_since);
        ASSERT_EQ(sum.heartbeat_at, other.heartbeat_at);
        ASSERT_EQ(sum.seen_at, other.seen_at);
    }
}

TEST(EventListDeathTest, HasNoRoomForMoreThanItWasGiven)
{
    std::array<Event, 1> room{};
    EventList events(room);
    events.add({});
    EXPECT_DEATH(events.add({}), "");
}

// Sessions of every status fall silent one after the other, each time showing a less present user, and then one comes back.
TEST(Rules, EnoughEventsIsEnoughForTheRichestCall)
{
    std::array<Session, 6> sessions{};
    std::array<Session *, 6> pointers{};
    User user;
    std::array<Event, 64> room{};
    for (std::size_t i = 0; i < sessions.size(); ++i)
        pointers.at(i) = &sessions.at(i);
    for (std::size_t i = 0; i < sessions.size(); ++i) {
        EventList events(room);
        SessionGroup group(pointers);
        apply_heartbeat(user, group, sessions.at(i),
                        {.now = 0, .status = static_cast<Status>(std::min<std::size_t>(i, 3))}, events);
        sessions.at(i).stale_after = static_cast<Time>(i + 1) * second;
    }
    EventList events(room);
    SessionGroup group(pointers);
    apply_heartbeat(user, group, sessions[0], {.now = 100 * second}, events);
    EXPECT_EQ(events.items().back().type, EventType::user_online);
    EXPECT_LE(events.items().size(), enough_events(sessions.size()));
}

// All of a batch are judged by one group, which must never disagree with one made anew.
TEST(Rules, AGroupIsKeptUpToDate)
{
    std::mt19937 random(3);
    for (int round = 0; round < 300; ++round) {
        std::array<Session, 8> sessions{};
        std::array<Session *, 8> pointers{};
        for (std::size_t i = 0; i < sessions.size(); ++i)
            pointers.at(i) = &sessions.at(i);
        User user;
        std::array<Event, 256> room{};
        Time now = second;
        for (int batch = 0; batch < 6; ++batch) {
            SessionGroup group(pointers);
            EventList events(room);
            for (int step = 0; step < 8; ++step) {
                Session &target = sessions.at(random() % sessions.size());
                now += static_cast<Time>(random() % 3) * second;
                if (random() % 8 == 0) {
                    apply_departure(user, group, random() % 4 == 0 ? nullptr : &target,
                                    {.now = now, .grace = static_cast<Time>(random() % 2) * second}, events);
                } else {
                    Heartbeat heartbeat{.now = now, .status = static_cast<Status>(random() % 4)};
                    if (random() % 2 == 0)
                        heartbeat.metadata_digest = random() % 3;
                    const HeartbeatResult result = apply_heartbeat(user, group, target, heartbeat, events);
                    if (result != HeartbeatResult::ignored)
                        target.stale_after =
                            std::max(target.stale_after, now + static_cast<Time>(random() % 9) * second);
                }
                SessionGroup anew(pointers);
                ASSERT_EQ(group.state(), anew.state());
                ASSERT_EQ(group.online_count(), anew.online_count());
                ASSERT_EQ(group.leaving_count(), anew.leaving_count());
                ASSERT_EQ(group.status(), anew.status());
                ASSERT_EQ(group.latest() == nullptr, anew.latest() == nullptr);
                if (group.latest() != nullptr) {
                    ASSERT_EQ(group.latest()->heartbeat_at, anew.latest()->heartbeat_at);
                }
            }
        }
    }
}

// What must hold after any step of any history.
void check(const World &world, std::size_t first_event, bool said_went_offline, bool asked)
{
    std::int32_t attending = 0;
    bool online = false;
    Status status = Status::away;
    for (const Session &session : world.sessions()) {
        attending += session.state() == SessionState::online ? 1 : 0;
        online |= session.online;
        ASSERT_FALSE(session.leaving && !session.online);
    }
    for (const Session &session : world.sessions()) {
        if (session.state() == SessionState::online || (attending == 0 && session.leaving))
            status = std::min(status, session.status);
        ASSERT_FALSE(session.leaving && attending > 0);
    }
    ASSERT_EQ(world.user.online, online);
    ASSERT_EQ(world.user.sessions, attending);
    if (online) {
        ASSERT_EQ(world.user.status, status);
    }

    // The events alone, replayed from the beginning, must tell the same.
    bool told_online = false;
    std::int32_t told_sessions = 0;
    Status told_status = Status::active;
    std::map<const Session *, bool> told_attending;
    for (const Event &event : world.events()) {
        switch (event.type) {
        case EventType::user_online:
        case EventType::user_offline:
            ASSERT_NE(told_online, event.type == EventType::user_online);  // strictly alternate
            told_online = !told_online;
            break;
        case EventType::session_start:
        case EventType::session_end:
            ASSERT_NE(told_attending[event.session], event.type == EventType::session_start);
            told_attending[event.session] = event.type == EventType::session_start;
            told_sessions += event.type == EventType::session_start ? 1 : -1;
            break;
        case EventType::update:
            ASSERT_TRUE(told_online);
            break;
        }
        ASSERT_EQ(event.sessions, told_sessions);
        told_status = event.status;
        ASSERT_NE(event.reason, Reason::none);
    }
    ASSERT_EQ(told_online, world.user.online);
    ASSERT_EQ(told_sessions, world.user.sessions);
    // What is not told yet, some session owes.
    bool owed = false;
    for (const Session &session : world.sessions()) {
        owed |= session.update_due != 0;
        ASSERT_FALSE(session.update_due != 0 && session.state() != SessionState::online);
    }
    ASSERT_TRUE(!online || owed || told_status == world.user.status);

    const auto fresh = world.events().begin() + static_cast<std::ptrdiff_t>(first_event);
    const bool told_offline = std::any_of(fresh, world.events().end(),
                                          [](const Event &event) { return event.type == EventType::user_offline; });
    if (asked && said_went_offline) {
        ASSERT_TRUE(told_offline);
    }
    if (fresh != world.events().end()) {
        ASSERT_TRUE(world.user.changed || std::any_of(world.sessions().begin(), world.sessions().end(),
                                                      [](const Session &s) { return s.changed; }));
    }
}

TEST(RulesProperty, EventsAndStateTellTheSameInRandomHistories)
{
    for (std::uint64_t seed = 1; seed <= 200; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        const auto pick = [&](std::uint64_t n) { return random() % n; };
        World world;
        world.policy.max_updates = static_cast<std::int32_t>(seed % 3);
        world.policy.inactivity = {static_cast<Time>(pick(3)) * 10 * second, static_cast<Time>(pick(3)) * 15 * second};
        for (int step = 0; step < 250; ++step) {
            const std::size_t before = world.events().size();
            const std::size_t who = pick(World::size);
            world.now += static_cast<Time>(pick(pick(10) == 0 ? 130 : 12)) * second;
            world.saved();
            bool went = false;
            bool asked = true;
            switch (pick(10)) {
            case 0:
                went = world.leave(who);
                break;
            case 1:
                went = world.disconnect(who, static_cast<Time>(pick(3)) * 5 * second);
                break;
            case 2:
                went = pick(4) == 0 ? world.leave_all() : world.disconnect_all(static_cast<Time>(pick(2)) * 5 * second);
                break;
            case 3:
                went = world.expire();
                for (const Session &session : world.sessions()) {
                    ASSERT_FALSE(session.online && world.now > live_until(session.stale_after, session.leave_until));
                    if (session.state() == SessionState::online) {
                        ASSERT_EQ(session.status,
                                  session.last_activity == 0
                                      ? session.said
                                      : world.policy.inactivity.shown(session.said, world.now - session.last_activity));
                    }
                }
                break;
            default: {
                asked = false;
                const HeartbeatResult result = world.beat(
                    who, {.named = who != 0,
                          .status = pick(2) == 0 ? std::optional(static_cast<Status>(pick(4))) : std::nullopt,
                          .metadata_digest = pick(5) == 0 ? std::optional(pick(3)) : std::nullopt,
                          .last_activity = pick(3) == 0 ? world.now - static_cast<Time>(pick(40)) * second : 0,
                          .details_changed = pick(5) == 0});
                ASSERT_EQ(result == HeartbeatResult::ignored, world[who].state() != SessionState::online);
                if (result == HeartbeatResult::refreshed && before == world.events().size()) {
                    ASSERT_FALSE(world[who].changed);
                }
            }
            }
            check(world, before, went, asked);
            if (HasFatalFailure())
                return;
        }
    }
}

}  // namespace
}  // namespace presence
