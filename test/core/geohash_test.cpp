#include "geohash.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace presence;

namespace {

std::string_view hash(const Geohash &geohash) { return geohash.view(); }

// Places whose geohashes are published.
TEST(Geohash, ofKnownPlaces)
{
    EXPECT_EQ(hash(geohash_of({57.64911, 10.40744}, 8)), "u4pruydq");  // the example of its inventor
    EXPECT_EQ(hash(geohash_of({42.605, -5.603}, 5)), "ezs42");
    EXPECT_EQ(hash(geohash_of({-25.382708, -49.265506}, 8)), "6gkzwgjz");
    EXPECT_EQ(hash(geohash_of({0, 0}, 1)), "s");
}

TEST(Geohash, atTheEdges)
{
    EXPECT_EQ(hash(geohash_of({-90, -180}, 3)), "000");
    EXPECT_EQ(hash(geohash_of({90, 180}, 3)), "zzz");
    EXPECT_EQ(hash(geohash_of({1, 1}, 0)), "");
    EXPECT_EQ(geohash_of({1, 1}, 100).count, max_geohash_characters);
}

TEST(Geohash, shorterOnesAreBeginnings)
{
    const Coordinate here{52.52, 13.405};
    const Geohash whole = geohash_of(here, max_geohash_characters);
    for (unsigned characters = 0; characters <= max_geohash_characters; ++characters)
        EXPECT_EQ(hash(geohash_of(here, characters)), whole.view().substr(0, characters));
}

TEST(Geohash, centreIsInTheCell)
{
    for (double latitude = -90; latitude <= 90; latitude += 7.3)
        for (double longitude = -180; longitude <= 180; longitude += 11.7)
            for (unsigned characters = 0; characters <= max_geohash_characters; ++characters) {
                const Geohash cell = geohash_of({latitude, longitude}, characters);
                Coordinate centre{};
                ASSERT_TRUE(centre_of(cell.view(), centre));
                EXPECT_EQ(hash(geohash_of(centre, characters)), cell.view());
                EXPECT_LE(std::abs(centre.longitude - longitude), 180 / std::pow(2, (5 * characters + 1) / 2));
                EXPECT_LE(std::abs(centre.latitude - latitude), 90 / std::pow(2, 5 * characters / 2));
            }
}

TEST(Geohash, whatIsNone)
{
    Coordinate centre{};
    EXPECT_FALSE(centre_of("a", centre));
    EXPECT_FALSE(centre_of("u4I", centre));
    EXPECT_FALSE(centre_of(std::string_view("\0", 1), centre));
}

TEST(Geohash, validCoordinates)
{
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    constexpr double far = std::numeric_limits<double>::infinity();
    EXPECT_TRUE(is_valid({90, -180}));
    for (const Coordinate &wrong : {Coordinate{90.0001, 0}, {0, -180.0001}, {none, 0}, {0, none}, {far, 0}, {0, -far}})
        EXPECT_FALSE(is_valid(wrong));
}

// Of any map, a cell is 32 pixels wide or more, and the next shorter one too wide, unless there is none longer or shorter.
TEST(Geohash, charactersAtZoom)
{
    const auto pixels = [](unsigned characters, int zoom) {
        return 256 * std::pow(2, zoom) / std::pow(2, (5 * characters + 1) / 2);
    };
    for (int zoom = 0; zoom <= 24; ++zoom) {
        const unsigned characters = characters_at_zoom(zoom);
        EXPECT_GE(pixels(characters, zoom), 32) << zoom;
        if (characters < max_geohash_characters) {
            EXPECT_LT(pixels(characters + 1, zoom), 32) << zoom;
        }
    }
    EXPECT_EQ(characters_at_zoom(-5), 1U);
    EXPECT_EQ(characters_at_zoom(std::numeric_limits<int>::min()), 1U);
    EXPECT_EQ(characters_at_zoom(1000), max_geohash_characters);
}

}  // namespace
