#include "geohash.h"

#include <algorithm>

namespace presence {

namespace {

constexpr std::string_view alphabet = "0123456789bcdefghjkmnpqrstuvwxyz";
constexpr unsigned bits_of_character = 5;

struct Range {
    double low, high;

    [[nodiscard]] double middle() const { return (low + high) / 2; }
    // Keeps one half of it.
    void halve(bool upper) { (upper ? low : high) = middle(); }
};

// The bits of a geohash tell of longitude and latitude in turn.
struct Cell {
    Range longitude = {-180, 180}, latitude = {-90, 90};
    bool is_longitudes_turn = true;

    Range &next()
    {
        is_longitudes_turn = !is_longitudes_turn;
        return is_longitudes_turn ? latitude : longitude;
    }
};

constexpr unsigned longitude_bits(unsigned characters) { return (bits_of_character * characters + 1) / 2; }

}  // namespace

bool is_valid(const Coordinate &coordinate) noexcept
{
    return coordinate.latitude >= -90 && coordinate.latitude <= 90 && coordinate.longitude >= -180 &&
           coordinate.longitude <= 180;
}

Geohash geohash_of(const Coordinate &coordinate, unsigned characters) noexcept
{
    Geohash hash{{}, std::min(characters, max_geohash_characters)};
    Cell cell;
    for (unsigned i = 0; i < hash.count; ++i) {
        unsigned number = 0;
        for (unsigned bit = 0; bit < bits_of_character; ++bit) {
            const double value = cell.is_longitudes_turn ? coordinate.longitude : coordinate.latitude;
            Range &range = cell.next();
            const bool upper = value >= range.middle();
            range.halve(upper);
            number = number * 2 + (upper ? 1U : 0U);
        }
        hash.characters[i] = alphabet[number];
    }
    return hash;
}

bool centre_of(std::string_view geohash, Coordinate &centre) noexcept
{
    Cell cell;
    for (const char character : geohash) {
        const std::size_t number = alphabet.find(character);
        if (number == std::string_view::npos)
            return false;
        for (unsigned bit = bits_of_character; bit-- > 0;)
            cell.next().halve(((number >> bit) & 1U) != 0);
    }
    centre = {cell.latitude.middle(), cell.longitude.middle()};
    return true;
}

unsigned characters_at_zoom(int zoom) noexcept
{
    constexpr int spare_bits = 3;  // 256 pixels are eight bits, and 32 are five
    unsigned characters = 1;
    while (characters < max_geohash_characters && static_cast<int>(longitude_bits(characters + 1)) <= zoom + spare_bits)
        ++characters;
    return characters;
}

}  // namespace presence
