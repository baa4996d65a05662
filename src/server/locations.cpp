// Where sessions are: a region that the application names, and, as finely as presence.location_precision allows, an area of the
// map. Nothing finer than that is kept. A location lasts as long as its session: it is read together with the session's row, and
// what has outlived it is removed with ended sessions (retention.cpp).
#include <algorithm>

#include "../core/geohash.h"
#include "access.h"
#include "arguments.h"
#include "datums.h"
#include "extension.h"
#include "lists.h"
#include "readers.h"
#include "settings.h"

extern "C" {
#include "utils/float.h"
}

namespace presence {

namespace {

constexpr int highest_zoom = 24;

#define SESSION_THAT_LASTS                                                                                             \
    "WITH session AS (SELECT user_id, session_id, joined_at FROM @.presence_session"                                   \
    " WHERE user_id = $1 AND session_id = $2 AND online AND ended_at IS NULL"                                          \
    " UNION ALL SELECT user_id, session_id, joined_at FROM @.presence_hidden_session"                                  \
    " WHERE user_id = $1 AND session_id = $2 AND online AND ended_at IS NULL),"

// How many sessions there are: one or none.
Statement put_location = {
    SESSION_THAT_LASTS
    " put AS (INSERT INTO @.presence_location AS l (user_id, session_id, joined_at, region, geohash)"
    " SELECT user_id, session_id, joined_at, $3, $4 FROM session"
    " ON CONFLICT (user_id, session_id) DO UPDATE SET joined_at = excluded.joined_at, region = excluded.region, geohash = excluded.geohash"
    " WHERE (l.joined_at, l.region, l.geohash) IS DISTINCT FROM (excluded.joined_at, excluded.region, excluded.geohash))"
    " SELECT count(*) FROM session",
    4,
    {TEXTOID, TEXTOID, TEXTOID, TEXTOID},
    Access::by_index};
Statement remove_location = {
    SESSION_THAT_LASTS
    " gone AS (DELETE FROM @.presence_location WHERE user_id = $1 AND session_id = $2) SELECT count(*) FROM session",
    2,
    {TEXTOID, TEXTOID},
    Access::by_index};

#define LOCATED                                                                                                        \
    " FROM @.presence_location AS l JOIN @.presence_session AS s"                                                      \
    " ON s.user_id = l.user_id AND s.session_id = l.session_id AND s.joined_at = l.joined_at"                          \
    " WHERE s.online AND s.ended_at IS NULL"

// In the order of those who look them up.
Statement sessions_with_region = {
    "SELECT l.user_id, l.session_id, l.region" LOCATED " AND l.region IS NOT NULL ORDER BY 1, 2", 0, {}};
Statement sessions_with_area = {"SELECT l.user_id, l.session_id, left(l.geohash, $1)" LOCATED
                                " AND l.geohash IS NOT NULL ORDER BY 1, 2",
                                1,
                                {INT4OID}};

namespace argument {
enum : int { user_id, session_id, region, latitude, longitude };
}

// The area in which somebody is said to be; null: nothing is said, or it is not to be kept.
text *area_argument(FunctionCallInfo fcinfo)
{
    if (PG_ARGISNULL(argument::latitude) != PG_ARGISNULL(argument::longitude))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s is missing", PG_ARGISNULL(argument::latitude) ? "latitude" : "longitude"),
                        errhint("Pass both of them, or neither.")));
    if (PG_ARGISNULL(argument::latitude))
        return nullptr;
    const Coordinate at{PG_GETARG_FLOAT8(argument::latitude), PG_GETARG_FLOAT8(argument::longitude)};
    if (!is_valid(at))
        ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                        errmsg("latitude %s, longitude %s is not on the earth", float8out_internal(at.latitude),
                               float8out_internal(at.longitude)),
                        errhint("Pass degrees: a latitude from -90 to 90, and a longitude from -180 to 180.")));
    const Geohash area = geohash_of(at, static_cast<unsigned>(location_precision));
    return area.count > 0 ? make_text(area.view()) : nullptr;
}

struct LocatedSession {
    text *user, *session, *place;
    bool live;
};

void note_session(const SessionName &name, const SessionSnapshot &session, void *context)
{
    const auto &all = *static_cast<std::span<LocatedSession> *>(context);
    for (LocatedSession &each : rows_of_session(all, name))
        each.live = session.state == SessionState::online;
}

// Those which are online, of users whom the caller is shown; in the order of places, and each place in that of users.
std::span<const LocatedSession> located(Statement &statement, Datum *values, const OwnerWork &work)
{
    const auto count = static_cast<std::size_t>(run(statement, values, nullptr, true));
    auto *found = static_cast<LocatedSession *>(palloc_extended(sizeof(LocatedSession) * (count + 1), MCXT_ALLOC_HUGE));
    auto *names = static_cast<Datum *>(palloc_extended(sizeof(Datum) * (count + 1), MCXT_ALLOC_HUGE));
    std::size_t users = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto word = [i](int column) {
            bool is_null = false;
            return DatumGetTextPCopy(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column, &is_null));
        };
        found[i] = {word(1), word(2), word(3), false};
        if (i == 0 || text_view(found[i].user) != text_view(found[i - 1].user))
            names[users++] = PointerGetDatum(found[i].user);
    }
    SPI_freetuptable(SPI_tuptable);
    std::span<LocatedSession> all(found, count);
    const SessionVisitor visitor{note_session, &all};
    UserList *list = list_sessions_of(text_array(names, users), visitor);
    hide_unseen(*list, work);
    const auto last = std::remove_if(all.begin(), all.end(), [list](const LocatedSession &each) {
        return !each.live || !take_user(*list, text_view(each.user)).summary.online();
    });
    all = all.first(static_cast<std::size_t>(last - all.begin()));
    std::sort(all.begin(), all.end(), [](const LocatedSession &a, const LocatedSession &b) {
        const int places = text_view(a.place).compare(text_view(b.place));
        return places != 0 ? places < 0 : text_view(a.user) < text_view(b.user);
    });
    return all;
}

struct Place {
    text *name;
    std::int64_t users, sessions;
};

// give(place) for each.
template <typename Give>
void add_up(std::span<const LocatedSession> sessions, Give give)
{
    for (std::size_t i = 0; i < sessions.size();) {
        Place place{sessions[i].place, 0, 0};
        for (const text *user = nullptr; i < sessions.size() && text_view(sessions[i].place) == text_view(place.name);
             ++i) {
            place.users += user == nullptr || text_view(user) != text_view(sessions[i].user);
            ++place.sessions;
            user = sessions[i].user;
        }
        give(place);
    }
}

}  // namespace

}  // namespace presence

using namespace presence;

PRESENCE_FUNCTION(set_session_location)
{
    text *user = required_text(fcinfo, argument::user_id, "user_id");
    text *session = session_argument(fcinfo, argument::session_id);
    text *region = PG_ARGISNULL(argument::region) ? nullptr : PG_GETARG_TEXT_PP(argument::region);
    text *area = area_argument(fcinfo);
    require_writable("set_session_location");
    extension_of(fcinfo);
    require_may_act_for(user);
    const OwnerWork work = begin_owner_work();
    Datum values[] = {PointerGetDatum(user), PointerGetDatum(session), PointerGetDatum(region), PointerGetDatum(area)};
    const char nulls[] = {' ', ' ', region == nullptr ? 'n' : ' ', area == nullptr ? 'n' : ' '};
    if (region != nullptr || area != nullptr)
        run(put_location, values, nulls);
    else
        run(remove_location, values);
    const bool known = DatumGetInt64(first_value(1)) > 0;
    end_owner_work(work);
    PG_RETURN_BOOL(known);
}

PRESENCE_FUNCTION(presence_by_region)
{
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    begin_consistent_reading();
    add_up(located(sessions_with_region, nullptr, work), [result](const Place &place) {
        Datum values[] = {PointerGetDatum(place.name), Int64GetDatum(place.users), Int64GetDatum(place.sessions)};
        bool nulls[3] = {};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    });
    end_consistent_reading();
    end_owner_work(work);
    return 0;
}

PRESENCE_FUNCTION(presence_by_area)
{
    const int zoom = PG_ARGISNULL(0) ? -1 : PG_GETARG_INT32(0);
    if (zoom < 0 || zoom > highest_zoom)
        ereport(
            ERROR,
            (errcode(PG_ARGISNULL(0) ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("zoom must be between 0 and %d", highest_zoom),
             errhint(
                 "It is the zoom level of web maps: at 0 the world is 256 pixels wide, and at each next one twice as wide.")));
    ReturnSetInfo *result = begin_list(fcinfo);
    const OwnerWork work = begin_owner_work(fcinfo);
    begin_consistent_reading();
    // Also of those that were kept under a higher precision.
    Datum characters[] = {Int32GetDatum(std::min(static_cast<int>(characters_at_zoom(zoom)), location_precision))};
    const auto sessions =
        location_precision > 0 ? located(sessions_with_area, characters, work) : std::span<const LocatedSession>();
    add_up(sessions, [result](const Place &place) {
        Coordinate centre{};
        if (!centre_of(text_view(place.name), centre))
            return;
        Datum values[] = {PointerGetDatum(place.name), Float8GetDatum(centre.latitude),
                          Float8GetDatum(centre.longitude), Int64GetDatum(place.users), Int64GetDatum(place.sessions)};
        bool nulls[5] = {};
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    });
    end_consistent_reading();
    end_owner_work(work);
    return 0;
}
