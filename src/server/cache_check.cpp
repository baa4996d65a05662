#include "cache_check.h"

#include "datums.h"
#include "extension.h"
#include "owner_guard.h"

namespace presence {

namespace {

constexpr long rows_at_once = 10000;

Statement online_details = {
    "SELECT user_id, session_id, status, coalesce(-timeout, heartbeat_interval), user_agent, ip_address, metadata, leave_until IS NULL, false, coalesce(said, status)"
    " FROM @.presence_session WHERE online UNION ALL"
    " SELECT user_id, session_id, status, coalesce(-timeout, heartbeat_interval), user_agent, ip_address, metadata, true, true, coalesce(said, status)"
    " FROM @.presence_hidden_session WHERE online",
    0,
    {}};

struct Row {
    SessionName name;
    SessionDetails details;
    bool lasts;  // else it has ended, and its user's grace runs
};

Row row_at(std::uint64_t position)
{
    HeapTuple tuple = SPI_tuptable->vals[position];
    TupleDesc shape = SPI_tuptable->tupdesc;
    const auto column = [&](int number) {
        NullableDatum found;
        found.value = SPI_getbinval(tuple, shape, number, &found.isnull);
        return found;
    };
    Status shown = Status::active, said = Status::active;
    parse(text_view(DatumGetTextPP(column(3).value)), shown);
    parse(text_view(DatumGetTextPP(column(10).value)), said);
    return {{text_view(DatumGetTextPP(column(1).value)), text_view(DatumGetTextPP(column(2).value))},
            {.interval_ms = interval_to_ms(interval_time(column(4))),
             .fingerprints = {.user_agent = datum_fingerprint(column(5)),
                              .ip_address = datum_fingerprint(column(6)),
                              .metadata = datum_fingerprint(column(7))},
             .status = said,
             .hidden = DatumGetBool(column(9).value),
             .shown = shown},
            DatumGetBool(column(8).value)};
}

}  // namespace

void compare_cache(bool read_only, void (*found)(const CacheDifference &difference, void *context), void *context)
{
    if (my_database() == nullptr)
        return;
    const bool complete = cache_watches_everybody();
    // Before the table is read: an entry that is open by then has a row that is committed.
    const CacheClaims claims = cache_claims();
    SPIPlanPtr plan = prepared(online_details);
    Portal cursor = nullptr;
    guarded(online_details.sql, [&] { cursor = SPI_cursor_open(nullptr, plan, nullptr, nullptr, read_only); });
    MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "presence cache check", ALLOCSET_DEFAULT_SIZES);
    for (;;) {
        CHECK_FOR_INTERRUPTS();
        SPI_cursor_fetch(cursor, true, rows_at_once);
        if (SPI_processed == 0)
            break;
        MemoryContext outer = MemoryContextSwitchTo(batch);
        for (std::uint64_t i = 0; i < SPI_processed; ++i) {
            const Row row = row_at(i);
            if (!row.lasts)
                continue;
            cache_confirm(claims, row.name, row.details);
            if (complete && !cache_knows(row.name))
                found({nullptr, row.name}, context);
        }
        MemoryContextSwitchTo(outer);
        MemoryContextReset(batch);
        SPI_freetuptable(SPI_tuptable);
    }
    SPI_cursor_close(cursor);
    MemoryContextDelete(batch);
    for (const std::span<CacheClaim> of_shard : claims.of_shard)
        for (const CacheClaim &claim : of_shard)
            if (!claim.confirmed)
                found({&claim, {}}, context);
}

}  // namespace presence
