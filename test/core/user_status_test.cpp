// What a person chooses for all sessions.
#include "user_status.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

namespace presence {
namespace {

constexpr Time second = 1'000'000;
constexpr Time start = 1'000 * second;

// A user with two sessions, and what was told.
struct World {
    std::array<Session, 2> sessions;
    std::array<Session *, 2> pointers{sessions.data(), sessions.data() + 1};
    User user;
    std::array<Event, 64> room{};
    EventList events{room};

    HeartbeatResult beat(std::size_t i, Status status, Time now = start)
    {
        SessionGroup group(pointers);
        const HeartbeatResult result =
            apply_heartbeat(user, group, sessions.at(i), {.now = now, .status = status}, events);
        sessions.at(i).stale_after = now + 120 * second;
        return result;
    }
    bool choose(const StatusChoice &choice, Time now = start)
    {
        SessionGroup group(pointers);
        return presence::choose(user, group, choice, Reason::heartbeat, now, events);
    }
    void saved()
    {
        user.changed = false;
        for (Session &session : sessions)
            session.changed = false;
    }
    [[nodiscard]] std::vector<EventType> told() const
    {
        std::vector<EventType> types;
        for (const Event &event : events.items())
            types.push_back(event.type);
        return types;
    }
};

using Types = std::vector<EventType>;

TEST(UserStatus, AChoiceIsShownInsteadOfWhatTheSessionsSay)
{
    World world;
    world.beat(0, Status::active);
    world.beat(1, Status::idle);
    world.saved();
    EXPECT_TRUE(world.choose({.status = Status::busy}));
    EXPECT_EQ(world.user.status, Status::busy);
    EXPECT_TRUE(world.user.changed && world.sessions[0].changed && world.sessions[1].changed);
    const Event &told = world.events.items().back();
    EXPECT_EQ(told.type, EventType::update);
    EXPECT_EQ(told.status, Status::busy);
    EXPECT_EQ(told.session, nullptr);
    // Sessions go on saying what they like.
    const std::size_t before = world.events.items().size();
    world.beat(0, Status::away, start + second);
    EXPECT_EQ(world.user.status, Status::busy);
    EXPECT_EQ(world.events.items().size(), before);
    // What they say counts when the choice ends.
    EXPECT_TRUE(world.choose({}));
    EXPECT_EQ(world.user.status, Status::idle);
    EXPECT_EQ(world.events.items().back().status, Status::idle);
}

TEST(UserStatus, TheSameChoiceAgainIsNoChange)
{
    World world;
    world.beat(0, Status::active);
    EXPECT_TRUE(world.choose({.status = Status::away, .until = start + second, .message = 7}));
    world.saved();
    const std::size_t before = world.events.items().size();
    EXPECT_FALSE(world.choose({.status = Status::away, .until = start + second, .message = 7}));
    EXPECT_FALSE(world.user.changed || world.sessions[0].changed);
    EXPECT_EQ(world.events.items().size(), before);
    // Another end is to be written, but shows nothing new.
    EXPECT_TRUE(world.choose({.status = Status::away, .until = start + 2 * second, .message = 7}));
    EXPECT_TRUE(world.user.changed && world.sessions[0].changed);
    EXPECT_EQ(world.events.items().size(), before);
    // Another message shows, but is kept with the user alone.
    world.saved();
    EXPECT_TRUE(world.choose({.status = Status::away, .until = start + 2 * second, .message = 8}));
    EXPECT_TRUE(world.user.changed && !world.sessions[0].changed);
    EXPECT_EQ(world.events.items().size(), before + 1);
}

TEST(UserStatus, WhoIsOfflineChoosesInSilence)
{
    World world;
    EXPECT_TRUE(world.choose({.status = Status::busy, .message = 7}));
    EXPECT_TRUE(world.events.items().empty());
    world.beat(0, Status::active);
    EXPECT_EQ(world.told(), (Types{EventType::session_start, EventType::user_online}));
    EXPECT_EQ(world.events.items()[0].status, Status::busy);
    EXPECT_EQ(world.user.status, Status::busy);
}

TEST(UserStatus, AChoiceIsOverFromItsEndOn)
{
    EXPECT_FALSE((StatusChoice{.status = Status::busy}).is_over(start));
    EXPECT_FALSE((StatusChoice{.status = Status::busy, .until = start + 1}).is_over(start));
    EXPECT_TRUE((StatusChoice{.status = Status::busy, .until = start}).is_over(start));
    EXPECT_FALSE(StatusChoice{}.any());
    EXPECT_TRUE((StatusChoice{.message = 7}).any() && (StatusChoice{.invisible = true}).any());
}

TEST(UserStatus, WhoComesIntoViewBeginsAnew)
{
    World world;
    world.beat(0, Status::idle);
    world.beat(1, Status::active, start + second);
    User seen;
    seen.offline_at = start;
    EventList events(world.room);
    reveal(seen, world.pointers, {.status = Status::away}, start + 5 * second, events);
    ASSERT_EQ(events.items().size(), 3U);
    EXPECT_EQ(events.items()[0].type, EventType::session_start);
    // The one that beat last first, so that no other metadata is shown in between.
    EXPECT_EQ(events.items()[0].session, &world.sessions[1]);
    EXPECT_EQ(events.items()[1].type, EventType::user_online);
    EXPECT_EQ(events.items()[1].status, Status::away);
    EXPECT_EQ(events.items()[2].type, EventType::session_start);
    EXPECT_EQ(events.items()[2].sessions, 2);
    EXPECT_TRUE(seen.online);
    EXPECT_EQ(seen.online_since, start + 5 * second);
    for (const Session &session : world.sessions) {
        EXPECT_TRUE(session.changed);
        EXPECT_EQ(session.online_since, start + 5 * second);
        EXPECT_EQ(session.joined_at, session.heartbeat_at);
    }
}

TEST(UserStatus, SessionsThatHaveEndedUnseenAreNotTold)
{
    World world;
    world.beat(0, Status::idle);
    world.beat(1, Status::active);
    {
        SessionGroup group(world.pointers);
        apply_departure(world.user, group, nullptr, {.now = start + second}, world.events);
    }
    User seen;
    EventList events(world.room);
    reveal(seen, world.pointers, {}, start + 2 * second, events);
    EXPECT_TRUE(events.items().empty());
    EXPECT_FALSE(seen.online);
    EXPECT_TRUE(seen.changed);
    EXPECT_FALSE(world.sessions[0].changed || world.sessions[1].changed);
}

TEST(UserStatus, HiddenSessionsAddUp)
{
    World world;
    world.beat(0, Status::idle);
    world.beat(1, Status::away, start + second);
    User unseen;
    sum_up(unseen, world.pointers);
    EXPECT_TRUE(unseen.online);
    EXPECT_EQ(unseen.sessions, 2);
    EXPECT_EQ(unseen.status, Status::idle);
    EXPECT_EQ(unseen.online_since, start);
    EXPECT_FALSE(unseen.changed);
    for (Session &session : world.sessions)
        session.online = false;
    sum_up(unseen, world.pointers);
    EXPECT_FALSE(unseen.online);
    EXPECT_EQ(unseen.sessions, 0);
}

}  // namespace
}  // namespace presence
