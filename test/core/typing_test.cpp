#include "typing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace presence {
namespace {

constexpr std::int64_t wall_base = 1'000'000'000;

TypingClock at(std::uint64_t ms) { return {ms, wall_base + static_cast<std::int64_t>(ms) * 1000}; }

class TypingTest : public testing::Test {
protected:
    static std::uint64_t hash_of(const std::string &name) { return std::hash<std::string>{}(name) | 1U; }

    Typist typist(const std::string &user, const std::string &session, const std::string &room)
    {
        const std::string &kept_user = *texts_.insert(user).first, &kept_session = *texts_.insert(session).first,
                          &kept_room = *texts_.insert(room).first;
        return {key(user, session), hash_of(user), hash_of(room), kept_user, kept_session, kept_room};
    }
    static SessionKey key(const std::string &user, const std::string &session)
    {
        return {hash_of(user + '\n' + session), hash_of(user)};
    }
    TypingShard::Set set(const std::string &user, const std::string &session, const std::string &room,
                         std::uint64_t now, std::uint64_t ttl = 6000, bool from_row = false)
    {
        const Typist who = typist(user, session, room);
        return shard().set(who, now + ttl, at(now), {ends.of(who.session), from_row}, ends, may_grow);
    }
    bool clear(const std::string &user, const std::string &session, const std::string &room, std::uint64_t now)
    {
        return shard().clear(key(user, session), room.empty() ? 0 : hash_of(room), at(now), ends);
    }
    // "+user/session@room" and "-user/session@room", in order.
    std::vector<std::string> changes(std::uint64_t now, std::size_t at_once = 64)
    {
        std::vector<std::string> all;
        std::vector<TypingChange> taken(at_once);
        while (const std::size_t count = shard().take_changes(at(now), ends, taken))
            for (const TypingChange &change : std::span(taken).first(count))
                all.push_back((change.started ? "+" : "-") + std::string(change.names.user()) + "/" +
                              std::string(change.names.session()) + "@" + std::string(change.names.room()));
        return all;
    }
    std::set<std::string> typing(const std::string &room, std::uint64_t now)
    {
        static std::vector<ListedTypist> listed(TypingShard::max_capacity);
        const std::size_t count = shard().list(hash_of(room), at(now), ends, listed);
        std::set<std::string> users;
        for (const ListedTypist &each : std::span(listed).first(count))
            users.emplace(each.names.user());
        return users;
    }
    TypingShard &shard() { return *shard_; }
    void make(std::uint32_t capacity)
    {
        auto block = std::make_unique<std::uint64_t[]>(TypingShard::bytes_for(capacity) / 8 + 1);
        if (shard_ == nullptr)
            shard_ = TypingShard::create(block.get(), capacity);
        else
            shard_->rebuild_into(block.get(), capacity), shard_ = reinterpret_cast<TypingShard *>(block.get());
        block_ = std::move(block);
    }
    void SetUp() override { make(TypingShard::min_capacity); }

    using Changes = std::vector<std::string>;
    using Users = std::set<std::string>;

    SessionEnds ends{};
    bool may_grow = true;

private:
    std::set<std::string> texts_;
    std::unique_ptr<std::uint64_t[]> block_;
    TypingShard *shard_ = nullptr;
};

TEST_F(TypingTest, TypesUntilItsTimeIsOver)
{
    EXPECT_EQ(set("ann", "1", "lobby", 100), TypingShard::Set::began);
    EXPECT_EQ(typing("lobby", 100), Users{"ann"});
    EXPECT_EQ(typing("other", 100), Users{});
    EXPECT_EQ(typing("lobby", 6099), Users{"ann"});
    EXPECT_EQ(typing("lobby", 6100), Users{});
    EXPECT_EQ(shard().next_expiry(), 6100U);
}

TEST_F(TypingTest, ARepeatedCallMovesTheExpiryAndAnnouncesNothing)
{
    set("ann", "1", "lobby", 100);
    EXPECT_EQ(changes(100), Changes{"+ann/1@lobby"});
    EXPECT_EQ(set("ann", "1", "lobby", 3000), TypingShard::Set::refreshed);
    EXPECT_EQ(shard().count(), 1U);
    EXPECT_EQ(changes(6100), Changes{});
    EXPECT_EQ(typing("lobby", 8999), Users{"ann"});
    EXPECT_EQ(set("ann", "1", "lobby", 4000, 1000), TypingShard::Set::refreshed);
    EXPECT_EQ(shard().next_expiry(), 5000U);
}

TEST_F(TypingTest, AnEndIsAnnouncedOnceWhateverEndsIt)
{
    set("ann", "1", "lobby", 100);
    set("bob", "1", "lobby", 100);
    set("carl", "1", "lobby", 100);
    EXPECT_EQ(changes(100).size(), 3U);
    EXPECT_TRUE(clear("ann", "1", "lobby", 200));
    EXPECT_FALSE(clear("ann", "1", "lobby", 201));
    EXPECT_TRUE(clear("bob", "1", "", 200));
    EXPECT_EQ(changes(300), (Changes{"-ann/1@lobby", "-bob/1@lobby"}));
    EXPECT_EQ(changes(300), Changes{});
    EXPECT_EQ(changes(6100), Changes{"-carl/1@lobby"});
    EXPECT_EQ(changes(6100), Changes{});
    EXPECT_EQ(shard().count(), 0U);
    EXPECT_EQ(shard().next_expiry(), TypingShard::never);
}

TEST_F(TypingTest, WhatEndsBeforeItIsAnnouncedIsAnnouncedWithItsEnd)
{
    set("ann", "1", "lobby", 100);
    clear("ann", "1", "", 101);
    EXPECT_EQ(changes(102), (Changes{"+ann/1@lobby", "-ann/1@lobby"}));
}

TEST_F(TypingTest, WhoGoesOnBeforeTheEndIsAnnouncedHasNotStopped)
{
    set("ann", "1", "lobby", 100);
    EXPECT_EQ(changes(100), Changes{"+ann/1@lobby"});
    clear("ann", "1", "lobby", 200);
    EXPECT_EQ(set("ann", "1", "lobby", 201), TypingShard::Set::refreshed);
    EXPECT_EQ(changes(202), Changes{});
    clear("ann", "1", "lobby", 300);
    EXPECT_EQ(set("ann", "2", "lobby", 301), TypingShard::Set::refreshed);
    EXPECT_EQ(changes(302), Changes{});
    EXPECT_EQ(shard().count(), 1U);
}

TEST_F(TypingTest, SeveralSessionsOfAUserAreOneTypist)
{
    set("ann", "1", "lobby", 100);
    set("ann", "2", "lobby", 101);
    EXPECT_EQ(changes(102), Changes{"+ann/1@lobby"});
    EXPECT_EQ(set("ann", "3", "lobby", 103), TypingShard::Set::refreshed);
    clear("ann", "1", "lobby", 104);
    clear("ann", "3", "lobby", 104);
    EXPECT_EQ(changes(105), Changes{});
    EXPECT_EQ(typing("lobby", 105), Users{"ann"});
    EXPECT_EQ(changes(6101), Changes{"-ann/2@lobby"});
    // Two that expire at the same time stop once.
    set("ann", "1", "lobby", 7000);
    set("ann", "2", "lobby", 7000);
    EXPECT_EQ(changes(7000).size(), 1U);
    EXPECT_EQ(changes(20000).size(), 1U);
}

TEST_F(TypingTest, ASessionThatEndsStopsInAllItsRooms)
{
    set("ann", "1", "lobby", 100);
    set("ann", "1", "attic", 100);
    set("ann", "2", "attic", 100);
    (void)changes(100);
    EXPECT_TRUE(clear("ann", "1", "", 101));
    EXPECT_EQ(typing("lobby", 101), Users{});
    EXPECT_EQ(typing("attic", 101), Users{"ann"});
    EXPECT_EQ(changes(101), Changes{"-ann/1@lobby"});
}

TEST_F(TypingTest, WhatWasSeenInTheRowCountsUntilAnEndIsNoted)
{
    set("ann", "1", "lobby", 100, 6000, true);
    set("ann", "2", "attic", 100, 6000, false);
    (void)changes(100);
    ends.note(key("ann", "1"));
    ends.note(key("ann", "2"));
    EXPECT_EQ(typing("lobby", 101), Users{});
    EXPECT_EQ(typing("attic", 101), Users{"ann"});
    EXPECT_EQ(changes(101), Changes{"-ann/1@lobby"});
    set("ann", "1", "lobby", 200, 6000, true);
    set("ann", "1", "lobby", 201, 6000, false);
    ends.note_all();
    EXPECT_EQ(typing("lobby", 202), Users{"ann"});
}

TEST_F(TypingTest, WhatNobodyHasAnnouncedForLongIsForgotten)
{
    set("ann", "1", "lobby", 100);
    EXPECT_EQ(changes(6100 + TypingShard::forget_after_ms + 1), Changes{});
    EXPECT_EQ(shard().count(), 0U);
    // The listeners have forgotten it as well: it begins anew.
    set("bob", "1", "lobby", 100000);
    EXPECT_EQ(changes(100000), Changes{"+bob/1@lobby"});
    EXPECT_EQ(set("bob", "1", "lobby", 200000), TypingShard::Set::began);
    EXPECT_EQ(changes(200000), Changes{"+bob/1@lobby"});
}

TEST_F(TypingTest, AUserTypesInSoManyPlacesOnly)
{
    make(4 * TypingShard::most_of_user);
    for (std::uint32_t i = 0; i < TypingShard::most_of_user + 5; ++i)
        EXPECT_EQ(set("ann", "1", "room " + std::to_string(i), 100 + i), TypingShard::Set::began) << i;
    EXPECT_EQ(typing("room 0", 200), Users{});
    EXPECT_EQ(typing("room 5", 200), Users{"ann"});
    const Changes told = changes(200);
    EXPECT_EQ(std::count(told.begin(), told.end(), "-ann/1@room 0"), 1);
    EXPECT_EQ(shard().count(), TypingShard::most_of_user);
    // Where nobody announces it, what has ended takes no more room either.
    for (std::uint32_t i = 0; i < 1000; ++i)
        set("bob", "1", "room " + std::to_string(i), 300 + i);
    EXPECT_EQ(shard().count(), 3 * TypingShard::most_of_user);
    EXPECT_EQ(typing("room 999", 1300), Users{"bob"});
    EXPECT_EQ(typing("room 968", 1300), Users{"bob"});
    EXPECT_EQ(typing("room 967", 1300), Users{});
}

TEST_F(TypingTest, GrowsAndThenTheOldestGivesWay)
{
    for (std::uint32_t i = 0; i < TypingShard::min_capacity; ++i)
        set("user " + std::to_string(i), "", "lobby", 100 + i);
    EXPECT_EQ(set("one more", "", "lobby", 200), TypingShard::Set::full);
    make(2 * TypingShard::min_capacity);
    EXPECT_EQ(set("one more", "", "lobby", 200), TypingShard::Set::began);
    EXPECT_EQ(typing("lobby", 200).size(), TypingShard::min_capacity + 1);
    for (std::uint32_t i = shard().count(); i < shard().capacity(); ++i)
        set("other " + std::to_string(i), "", "lobby", 300);
    may_grow = false;
    EXPECT_EQ(set("and another", "", "lobby", 400), TypingShard::Set::began);
    EXPECT_EQ(typing("lobby", 400).count("user 0"), 0U);
    EXPECT_EQ(typing("lobby", 400).count("user 1"), 1U);
    // What is over is used again before more memory is asked for.
    may_grow = true;
    EXPECT_EQ(set("much later", "", "lobby", 100000), TypingShard::Set::began);
}

TEST_F(TypingTest, AnnouncesInPartsWhereThereIsLittleRoom)
{
    for (int i = 0; i < 10; ++i)
        set("user " + std::to_string(i), "", "lobby", 100);
    clear("user 0", "", "", 101);
    const Changes told = changes(102, 2);
    EXPECT_EQ(told.size(), 11U);
    EXPECT_EQ(std::set<std::string>(told.begin(), told.end()).size(), 11U);
}

TEST_F(TypingTest, KeepsTheLongestNames)
{
    const std::string user(255, 'u'), session(255, 's'), room(255, 'r');
    set(user, session, room, 100);
    std::vector<TypingChange> out(2);
    ASSERT_EQ(shard().take_changes(at(100), ends, out), 1U);
    EXPECT_EQ(out[0].names.user(), user);
    EXPECT_EQ(out[0].names.session(), session);
    EXPECT_EQ(out[0].names.room(), room);
    EXPECT_EQ(out[0].at_us, at(100).wall_us);
}

// Whatever happens, beginnings and ends alternate for each user in each room, and when everything is told, those who are
// said to type are those who do.
TEST_F(TypingTest, AnnouncementsOfRandomHistoriesAlternateAndAreTrue)
{
    make(TypingShard::max_capacity);
    std::mt19937 random(7);
    std::map<std::string, bool> told;
    std::uint64_t now = 1000;
    const auto pick = [&random](std::uint32_t below) { return random() % below; };
    for (int step = 0; step < 50000; ++step) {
        now += pick(200);
        const std::string user = "u" + std::to_string(pick(4)), session = std::to_string(pick(3)),
                          room = "r" + std::to_string(pick(3));
        switch (pick(8)) {
        case 0:
            clear(user, session, room, now);
            break;
        case 1:
            ends.note(key(user, session));
            clear(user, session, "", now);
            break;
        case 2:
            ends.note(key(user, session));
            break;
        case 3:
        case 4:
            for (const std::string &change : changes(now, 2 + pick(3))) {
                const std::string place = change.substr(1, change.find('/') - 1) + change.substr(change.find('@'));
                ASSERT_NE(told[place], change[0] == '+') << change << " at step " << step;
                told[place] = change[0] == '+';
            }
            for (const char *each : {"r0", "r1", "r2"})
                for (const char *who : {"u0", "u1", "u2", "u3"})
                    ASSERT_EQ(told[std::string(who) + "@" + each], typing(each, now).count(who) == 1) << step;
            break;
        default:
            set(user, session, room, now, 1000 + pick(5000), pick(2) == 0);
        }
    }
}

}  // namespace
}  // namespace presence
