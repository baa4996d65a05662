// Geohashes (Gustavo Niemeyer's): the earth in cells that are divided again with each character, so that whoever is in a
// cell is in the cells of all its beginnings. What cannot be told from a short one is kept by nobody. Nothing of sessions
// lives here.
#pragma once

#include <string_view>

namespace presence {

inline constexpr unsigned max_geohash_characters = 8;

// Degrees.
struct Coordinate {
    double latitude;   // -90 to 90
    double longitude;  // -180 to 180
};
// Neither infinite nor NaN, and on the earth.
[[nodiscard]] bool is_valid(const Coordinate &coordinate) noexcept;

struct Geohash {
    char characters[max_geohash_characters];
    unsigned count;

    [[nodiscard]] std::string_view view() const noexcept { return {characters, count}; }
};
[[nodiscard]] Geohash geohash_of(const Coordinate &coordinate, unsigned characters) noexcept;

// The middle of the cell. False: that is no geohash.
[[nodiscard]] bool centre_of(std::string_view geohash, Coordinate &centre) noexcept;

// How many characters the cells of a map have at a zoom level (the world is 256 pixels wide at level 0, and twice as wide at each
// next one): as many as leave a cell 32 pixels wide.
[[nodiscard]] unsigned characters_at_zoom(int zoom) noexcept;

}  // namespace presence
