#include "storage.h"

#include "cache.h"
#include "extension.h"
#include "feed.h"
#include "settings.h"

namespace presence {

namespace {

Statement lock_user = {
    "SELECT online, sessions, status, online_since, offline_at FROM @.presence_user WHERE user_id = $1 FOR NO KEY UPDATE",
    1,
    {TEXTOID}};
Statement try_lock_user = {
    "SELECT online, sessions, status, online_since, offline_at FROM @.presence_user WHERE user_id = $1 FOR NO KEY UPDATE SKIP LOCKED",
    1,
    {TEXTOID}};
Statement create_user = {"INSERT INTO @.presence_user (user_id) VALUES ($1) ON CONFLICT DO NOTHING", 1, {TEXTOID}};
#define SESSION_COLUMNS                                                                                                \
    "id, session_id, online, status, online_since, joined_at, heartbeat_at, heartbeat_interval, ended_at, end_reason," \
    " leave_until, user_agent, ip_address, metadata, xmin"
Statement load_sessions = {"SELECT " SESSION_COLUMNS " FROM @.presence_session WHERE user_id = $1 AND online"
                           " UNION ALL SELECT " SESSION_COLUMNS
                           " FROM @.presence_session WHERE user_id = $1 AND session_id = ANY ($2) AND NOT online",
                           2,
                           {TEXTOID, TEXTARRAYOID}};
Statement insert_session = {
    "INSERT INTO @.presence_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at, heartbeat_interval, ended_at, end_reason,"
    " leave_until, user_agent, ip_address, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id",
    14,
    {TEXTOID, TEXTOID, BOOLOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID,
     TEXTOID, TIMESTAMPTZOID, TEXTOID, INETOID, JSONBOID}};
Statement update_session = {
    "UPDATE @.presence_session SET online = $3, status = $4, online_since = $5, joined_at = $6, heartbeat_at = $7, heartbeat_interval = $8, ended_at = $9,"
    " end_reason = $10, leave_until = $11, user_agent = $12, ip_address = $13, metadata = $14 WHERE user_id = $1 AND session_id = $2",
    14,
    {TEXTOID, TEXTOID, BOOLOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID,
     TEXTOID, TIMESTAMPTZOID, TEXTOID, INETOID, JSONBOID}};
Statement refresh_session = {
    "UPDATE @.presence_session SET heartbeat_at = greatest(heartbeat_at, $3) WHERE user_id = $1 AND session_id = $2",
    3,
    {TEXTOID, TEXTOID, TIMESTAMPTZOID}};
Statement clear_typing = {
    "UPDATE @.presence_session SET metadata = metadata - 'typing' WHERE user_id = $1 AND session_id = $2 AND jsonb_typeof(metadata) = 'object'",
    2,
    {TEXTOID, TEXTOID}};
Statement update_user = {
    "UPDATE @.presence_user SET online = $2, sessions = $3, status = $4, online_since = $5, offline_at = $6 WHERE user_id = $1",
    6,
    {TEXTOID, BOOLOID, INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
struct Row {
    HeapTuple tuple;
    TupleDesc shape;

    NullableDatum get(int column) const
    {
        NullableDatum found;
        found.value = SPI_getbinval(tuple, shape, column, &found.isnull);
        return found;
    }
    Time time(int column) const
    {
        const NullableDatum found = get(column);
        return found.isnull ? 0 : DatumGetTimestampTz(found.value);
    }
    bool flag(int column) const
    {
        const NullableDatum found = get(column);
        return !found.isnull && DatumGetBool(found.value);
    }
    std::string_view words(int column) const
    {
        const NullableDatum found = get(column);
        return found.isnull ? std::string_view{} : text_view(DatumGetTextPP(found.value));
    }
};

char null_if(bool is_null) { return is_null ? 'n' : ' '; }

}  // namespace

SessionDetails cached_details(const StoredSession &session)
{
    return {.interval_ms = time_to_ms(interval_time(session.interval)),
            .fingerprints = {.user_agent = datum_fingerprint(session.user_agent),
                             .ip_address = datum_fingerprint(session.ip_address),
                             .metadata = datum_fingerprint(session.metadata)},
            .status = session.status};
}

StoredUser *load_user(text *name, std::span<text *const> sessions, Lock lock)
{
    auto *named = static_cast<Datum *>(palloc(sizeof(Datum) * (sessions.size() + 1)));
    for (std::size_t i = 0; i < sessions.size(); ++i)
        named[i] = PointerGetDatum(sessions[i]);
    Datum key[] = {PointerGetDatum(name), text_array(named, sessions.size())};
    Statement &lock_statement = lock == Lock::skip_locked ? try_lock_user : lock_user;
    // One who is there when it is to be created, and gone when it is to be locked, was deleted by retention in between.
    for (int attempt = 0; run(lock_statement, key) == 0; ++attempt) {
        if (lock != Lock::create_missing || attempt == 10)
            return nullptr;
        run(create_user, key);
    }
    auto *user = static_cast<StoredUser *>(palloc0(sizeof(StoredUser)));
    const Row user_row{SPI_tuptable->vals[0], SPI_tuptable->tupdesc};
    user->name = name;
    user->online = user_row.flag(1);
    user->sessions = DatumGetInt32(user_row.get(2).value);
    parse(user_row.words(3), user->status);
    user->online_since = user_row.time(4);
    user->offline_at = user_row.time(5);

    const auto count = static_cast<int>(run(load_sessions, key));
    user->list =
        static_cast<Session **>(palloc(sizeof(Session *) * (static_cast<std::size_t>(count) + sessions.size() + 1)));
    for (int i = 0; i < count; ++i) {
        const Row row{SPI_tuptable->vals[i], SPI_tuptable->tupdesc};
        auto *loaded = static_cast<StoredSession *>(palloc0(sizeof(StoredSession)));
        loaded->id = DatumGetInt64(row.get(1).value);
        loaded->name = DatumGetTextPP(row.get(2).value);
        loaded->online = row.flag(3);
        parse(row.words(4), loaded->status);
        loaded->online_since = row.time(5);
        loaded->joined_at = row.time(6);
        loaded->heartbeat_at = row.time(7);
        loaded->interval = row.get(8);
        loaded->ended_at = row.time(9);
        parse(row.words(10), loaded->end_reason);
        loaded->leave_until = row.time(11);
        loaded->leaving = loaded->online && loaded->leave_until != 0;
        loaded->user_agent = row.get(12);
        loaded->ip_address = row.get(13);
        loaded->metadata = row.get(14);
        loaded->metadata_digest = datum_fingerprint(loaded->metadata);
        loaded->uncommitted = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(row.get(15).value));
        if (loaded->online) {
            const EffectiveTimes times =
                effective_times({name_of(*user, *loaded), loaded->heartbeat_at, interval_time(loaded->interval)});
            loaded->heartbeat_at = times.heartbeat_at;
            loaded->stale_after = times.stale_after;
        }
        user->list[user->session_count++] = loaded;
    }
    return user;
}

StoredSession *find_session(const StoredUser &user, const text *name)
{
    for (Session *session : user.span()) {
        auto *stored = static_cast<StoredSession *>(session);
        if (text_view(stored->name) == text_view(name))
            return stored;
    }
    return nullptr;
}

void refresh(const StoredUser &user, const StoredSession &session)
{
    // A transaction with a snapshot of its own may see details that are no longer true.
    const bool open = !session.uncommitted && !IsolationUsesXactSnapshot();
    if (cache_put(name_of(user, session), static_cast<std::uint64_t>(session.id), cached_details(session),
                  session.heartbeat_at, open))
        return;
    Datum values[] = {PointerGetDatum(user.name), PointerGetDatum(session.name),
                      TimestampTzGetDatum(session.heartbeat_at)};
    run(refresh_session, values);
}

EventList allocate_events(const StoredUser &user, int heartbeats)
{
    const std::size_t count =
        enough_events(static_cast<std::size_t>(user.session_count) + static_cast<std::size_t>(heartbeats));
    return EventList({static_cast<Event *>(palloc(sizeof(Event) * count)), count});
}

StoredSession *add_session(StoredUser &user, text *name)
{
    auto *session = static_cast<StoredSession *>(palloc0(sizeof(StoredSession)));
    session->name = name;
    session->interval = session->user_agent = session->ip_address = session->metadata = null_datum;
    user.list[user.session_count++] = session;
    return session;
}

void store_user(const StoredUser &user, const EventList &events, Time now)
{
    const Datum name = PointerGetDatum(user.name);
    Time leave_until = 0;
    for (int i = 0; i < user.session_count; ++i) {
        auto &s = *static_cast<StoredSession *>(user.list[i]);
        if (!s.changed)
            continue;
        cache_close(name_of(user, s));
        Datum values[] = {name,
                          PointerGetDatum(s.name),
                          BoolGetDatum(s.online),
                          PointerGetDatum(make_text(to_text(s.status))),
                          TimestampTzGetDatum(s.online_since),
                          TimestampTzGetDatum(s.joined_at),
                          TimestampTzGetDatum(s.heartbeat_at),
                          s.interval.value,
                          TimestampTzGetDatum(s.ended_at),
                          PointerGetDatum(make_text(to_text(s.end_reason))),
                          TimestampTzGetDatum(s.leave_until),
                          s.user_agent.value,
                          s.ip_address.value,
                          s.metadata.value};
        const bool ended = s.end_reason != Reason::none;
        const char nulls[] = {' ',
                              ' ',
                              ' ',
                              ' ',
                              ' ',
                              ' ',
                              ' ',
                              null_if(s.interval.isnull),
                              null_if(!ended),
                              null_if(!ended),
                              null_if(s.leave_until == 0),
                              null_if(s.user_agent.isnull),
                              null_if(s.ip_address.isnull),
                              null_if(s.metadata.isnull)};
        run(s.id == 0 ? insert_session : update_session, values, nulls);
        if (s.id == 0)
            s.id = DatumGetInt64(first_value(1));
        if (s.state() == SessionState::online)
            cache_put(name_of(user, s), static_cast<std::uint64_t>(s.id), cached_details(s), s.heartbeat_at, false);
        if (s.clear_typing)
            run(clear_typing, values);
        if (s.leaving)
            leave_until = s.leave_until;
    }
    if (user.changed) {
        Datum values[] = {name,
                          BoolGetDatum(user.online),
                          Int32GetDatum(user.sessions),
                          PointerGetDatum(make_text(to_text(user.status))),
                          TimestampTzGetDatum(user.online_since),
                          TimestampTzGetDatum(user.offline_at)};
        const char nulls[] = {
            ' ', ' ', ' ', null_if(!user.online), null_if(user.online_since == 0), null_if(user.offline_at == 0)};
        run(update_user, values, nulls);
    }
    write_events(user, events, now, leave_until);
}

}  // namespace presence
