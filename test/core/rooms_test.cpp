// The rules of rooms: joining, leaving, the end of sessions, and the events that tell of it.
#include "../../src/core/rooms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace presence {
namespace {

// The rooms of one user.
struct World {
    std::list<Member> members;
    std::vector<RoomEvent> room = std::vector<RoomEvent>(1000);
    RoomEventList events{room};

    std::vector<Member *> all()
    {
        std::vector<Member *> list;
        for (Member &member : members)
            if (!member.gone)
                list.push_back(&member);
        std::sort(list.begin(), list.end(), [](const Member *a, const Member *b) {
            return a->room != b->room ? a->room < b->room : a->session < b->session;
        });
        return list;
    }
    std::vector<Member *> in(std::string_view name)
    {
        std::vector<Member *> list;
        for (Member *member : all())
            if (member->room == name)
                list.push_back(member);
        return list;
    }
    Member *find(std::string_view session, std::string_view name)
    {
        for (Member *member : in(name))
            if (member->session == session)
                return member;
        return nullptr;
    }
    JoinResult join(std::string_view session, std::string_view name, Time now,
                    std::optional<std::uint64_t> digest = std::nullopt)
    {
        const std::vector<Member *> before = in(name);
        Member *target = find(session, name);
        if (target == nullptr) {
            target = &members.emplace_back();
            target->room = name;
            target->session = session;
        }
        return join_room(before, *target, digest, now, 0, events);
    }
    bool leave(std::string_view session, std::string_view name)
    {
        return leave_room(in(name), *find(session, name), Reason::leave, 0, events);
    }
    // What was told since the last call.
    std::vector<std::string> told()
    {
        std::vector<std::string> texts;
        for (const RoomEvent &event : events.items())
            texts.push_back(std::string(to_text(event.type)) + " " + std::string(event.member->session) + "@" +
                            std::string(event.member->room) + " " + std::string(to_text(event.reason)) + " " +
                            std::to_string(event.sessions) + " before " + std::to_string(event.before));
        events = RoomEventList(room);
        return texts;
    }
};

using Texts = std::vector<std::string>;

TEST(Rooms, TellsOfTheFirstWhoComesAndTheLastWhoGoes)
{
    World world;
    EXPECT_EQ(world.join("a", "lobby", 1), JoinResult::joined);
    EXPECT_EQ(world.join("b", "lobby", 2), JoinResult::joined);
    EXPECT_EQ(world.join("b", "lobby", 3), JoinResult::unchanged);
    EXPECT_EQ(world.find("b", "lobby")->entered_at, 1);
    EXPECT_EQ(world.told(), Texts{"room_join a@lobby heartbeat 1 before 0"});
    EXPECT_FALSE(world.leave("a", "lobby"));
    EXPECT_TRUE(world.leave("b", "lobby"));
    EXPECT_EQ(world.told(), Texts{"room_leave b@lobby leave 0 before 0"});
}

TEST(Rooms, ShowsWhatWasSaidLastByWhoeverIsThere)
{
    World world;
    world.join("a", "lobby", 1, 7);
    world.join("b", "lobby", 2);
    EXPECT_EQ(shown_member(world.in("lobby")), world.find("a", "lobby"));
    world.join("b", "lobby", 3, 8);
    EXPECT_EQ(shown_member(world.in("lobby")), world.find("b", "lobby"));
    world.join("a", "lobby", 4, 7);
    EXPECT_EQ(world.told(),
              (Texts{"room_join a@lobby heartbeat 1 before 0", "room_update b@lobby heartbeat 2 before 0"}));
    EXPECT_FALSE(world.leave("b", "lobby"));
    EXPECT_EQ(world.told(), Texts{"room_update b@lobby leave 1 before 0"});
    EXPECT_FALSE(world.join("b", "lobby", 5) == JoinResult::unchanged);
    EXPECT_FALSE(world.leave("b", "lobby"));
    EXPECT_EQ(world.told(), Texts{});
}

TEST(Rooms, AnEndLeavesAllRoomsOfTheSessionAndNoOthers)
{
    World world;
    world.join("a", "attic", 1);
    world.join("a", "lobby", 1);
    world.join("b", "lobby", 1);
    world.told();
    const SessionEnd ends[] = {{"a", Reason::timeout, 3}};
    end_members(world.all(), {.now = 5, .sessions = ends}, world.events);
    EXPECT_EQ(world.told(), Texts{"room_leave a@attic timeout 0 before 3"});
    EXPECT_EQ(world.all().size(), 1U);
}

TEST(Rooms, EndsAreToldInTheOrderOfTheUsersEvents)
{
    World world;
    world.join("a", "z", 1);
    world.join("b", "y", 1);
    world.join("c", "y", 1);
    world.told();
    const SessionEnd ends[] = {{"a", Reason::leave, 0}, {"b", Reason::leave, 2}, {"c", Reason::leave, 1}};
    end_members(world.all(), {.now = 5, .sessions = ends, .offline = 3, .offline_reason = Reason::leave}, world.events);
    EXPECT_EQ(world.told(), (Texts{"room_leave a@z leave 0 before 0", "room_leave b@y leave 0 before 2"}));
}

TEST(Rooms, AGraceKeepsTheLastOneOfADisconnect)
{
    World world;
    world.join("a", "lobby", 1);
    world.join("b", "lobby", 1);
    world.told();
    const SessionEnd first[] = {{"a", Reason::disconnect, 0}};
    end_members(world.all(), {.now = 5, .grace = 10, .sessions = first}, world.events);
    EXPECT_EQ(world.find("a", "lobby"), nullptr);
    const SessionEnd last[] = {{"b", Reason::disconnect, 0}};
    end_members(world.all(), {.now = 6, .grace = 10, .sessions = last}, world.events);
    EXPECT_EQ(world.find("b", "lobby")->leave_until, 16);
    // The page is back: nothing was told, and nothing is left of the one before.
    EXPECT_EQ(world.join("c", "lobby", 8), JoinResult::joined);
    EXPECT_EQ(world.told(), Texts{});
    EXPECT_EQ(world.all().size(), 1U);
    EXPECT_EQ(world.find("c", "lobby")->entered_at, 1);

    const SessionEnd again[] = {{"c", Reason::disconnect, 0}};
    end_members(world.all(), {.now = 20, .grace = 10, .sessions = again}, world.events);
    end_members(world.all(), {.now = 30}, world.events);
    EXPECT_EQ(world.told(), Texts{});
    end_members(world.all(), {.now = 31}, world.events);
    EXPECT_EQ(world.told(), Texts{"room_leave c@lobby disconnect 0 before 0"});
}

TEST(Rooms, WhoGoesOfflineIsInNoRoom)
{
    World world;
    world.join("a", "lobby", 1);
    world.told();
    const SessionEnd end[] = {{"a", Reason::disconnect, 0}};
    end_members(world.all(), {.now = 5, .grace = 10, .sessions = end}, world.events);
    end_members(world.all(), {.now = 6, .grace = 10, .offline = 0, .offline_reason = Reason::leave}, world.events);
    EXPECT_EQ(world.told(), Texts{"room_leave a@lobby leave 0 before 0"});
    EXPECT_TRUE(world.all().empty());
}

// Whatever happens: joins and leaves alternate for each room, and what they add up to is who is there.
TEST(Rooms, RandomHistoriesKeepTheInvariants)
{
    std::mt19937 random(42);
    const std::string_view sessions[] = {"s1", "s2", "s3"}, names[] = {"r1", "r2", "r3"};
    const auto pick = [&random](const std::string_view(&from)[3]) { return from[random() % 3]; };
    World world;
    std::map<std::string_view, bool> told;
    for (Time now = 1; now < 20000; ++now) {
        const std::string_view session = pick(sessions), name = pick(names);
        switch (random() % 5) {
        case 0:
        case 1:
            world.join(session, name, now,
                       random() % 2 == 0 ? std::nullopt : std::optional<std::uint64_t>(random() % 3 + 1));
            break;
        case 2:
            if (world.find(session, name) != nullptr)
                world.leave(session, name);
            break;
        default: {
            const SessionEnd end[] = {{session, random() % 2 == 0 ? Reason::disconnect : Reason::timeout, 0}};
            RoomEnds ends{.now = now, .grace = static_cast<Time>(random() % 4), .sessions = end};
            if (random() % 5 == 0)
                ends.offline = random() % 2, ends.offline_reason = Reason::leave;
            end_members(world.all(), ends, world.events);
            if (ends.offline != RoomEnds::none) {
                EXPECT_TRUE(world.all().empty());
            }
        }
        }
        for (const RoomEvent &event : world.events.items()) {
            bool &is_in = told[event.member->room];
            EXPECT_EQ(is_in, event.type != RoomEventType::join);
            is_in = event.type != RoomEventType::leave;
            EXPECT_GE(event.sessions, 0);
        }
        world.told();
        for (const std::string_view each : names) {
            const std::vector<Member *> there = world.in(each);
            EXPECT_EQ(told[each], !there.empty());
            for (const Member *member : there) {
                EXPECT_EQ(member->entered_at, there.front()->entered_at);
                EXPECT_TRUE(!member->leaving() || there.size() == 1);
            }
        }
        std::erase_if(world.members, [](const Member &member) { return member.gone; });
    }
}

}  // namespace
}  // namespace presence
