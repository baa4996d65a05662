#include "feed_epoch.h"

#include <sys/stat.h>

#include "datums.h"
#include "extension.h"
#include "feed_tables.h"
#include "injection.h"

extern "C" {
#include "common/relpath.h"
}

namespace presence {

namespace {

// A standby has that of its primary, whose place it does not know.
Statement epoch_in_force = {
    "SELECT epoch FROM @.presence_feed WHERE place = $1 OR $2 ORDER BY made_at DESC LIMIT 1", 2, {TEXTOID, BOOLOID}};
Statement make_epoch = {
    "INSERT INTO @.presence_feed (epoch, place, made_at)"
    " SELECT gen_random_uuid()::text, $1, greatest(clock_timestamp(), max(made_at) + '1 microsecond') FROM @.presence_feed"
    " RETURNING epoch",
    1,
    {TEXTOID}};

// When the database's directory came to be where it is: a file that the server never writes again has another time in
// each copy, also in one that is restored without a new timeline.
std::int64_t directory_time()
{
    char *file = psprintf("%s/PG_VERSION", GetDatabasePath(MyDatabaseId, MyDatabaseTableSpace));
    struct stat status;
    const bool found = stat(file, &status) == 0;
    pfree(file);
    return found ? static_cast<std::int64_t>(status.st_ctim.tv_sec) * 1000000 + status.st_ctim.tv_nsec / 1000 : 0;
}

text *place_of(Oid events)
{
    const unsigned timeline = RecoveryInProgress() ? 0 : GetWALInsertionTimeLine();
    return cstring_to_text(psprintf(UINT64_FORMAT "/%u/%u/%u/" INT64_FORMAT, GetSystemIdentifier(), MyDatabaseId,
                                    events, timeline, directory_time()));
}

const char *kept_epoch()
{
    const Datum epoch = first_value(1);
    return epoch == 0 ? nullptr : TextDatumGetCString(epoch);
}

}  // namespace

const char *feed_epoch()
{
    Datum values[] = {PointerGetDatum(place_of(table_oid(Table::event))), BoolGetDatum(RecoveryInProgress())};
    run(epoch_in_force, values, nullptr, true);
    return kept_epoch();
}

const char *ensure_epoch()
{
    Datum values[] = {PointerGetDatum(place_of(table_oid(Table::event))), BoolGetDatum(false)};
    if (run(epoch_in_force, values) == 0) {
        run(make_epoch, values);
        PRESENCE_POINT("epoch-made");
    }
    return kept_epoch();
}

void renew_epoch()
{
    Datum place = PointerGetDatum(place_of(table_oid(Table::event)));
    run(make_epoch, &place);
}

}  // namespace presence

PRESENCE_FUNCTION(presence_feed_place) { PG_RETURN_TEXT_P(presence::place_of(PG_GETARG_OID(0))); }
