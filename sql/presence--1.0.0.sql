\echo Use "CREATE EXTENSION presence" to load this file. \quit

-- ---------------------------------------------------------------------------------------------------------------------
-- Ids
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TYPE @extschema@.presence_id;

CREATE FUNCTION @extschema@.presence_id_in(cstring) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id_in(cstring) IS 'Text input of presence_id; refuses empty ids (22023), control characters (22023) and ids over 255 bytes (22001).';

CREATE FUNCTION @extschema@.presence_id_out(@extschema@.presence_id) RETURNS cstring
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id_out(@extschema@.presence_id) IS 'Text output of presence_id.';

CREATE FUNCTION @extschema@.presence_id_recv(internal) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id_recv(internal) IS 'Binary input of presence_id, with the checks of the text input.';

CREATE FUNCTION @extschema@.presence_id_send(@extschema@.presence_id) RETURNS bytea
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id_send(@extschema@.presence_id) IS 'Binary output of presence_id.';

CREATE TYPE @extschema@.presence_id (
    INPUT = @extschema@.presence_id_in,
    OUTPUT = @extschema@.presence_id_out,
    RECEIVE = @extschema@.presence_id_recv,
    SEND = @extschema@.presence_id_send,
    LIKE = pg_catalog.text
);
COMMENT ON TYPE @extschema@.presence_id IS 'Id of a user or session: text of 1 to 255 bytes without control characters; integers, uuid and text types become one by themselves.';

CREATE FUNCTION @extschema@.presence_id(text) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(text) IS 'Makes an id of a text, with the checks of presence_id_in.';

CREATE FUNCTION @extschema@.presence_id(character) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_bpchar' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(character) IS 'Makes an id of a char(n), without its padding.';

CREATE FUNCTION @extschema@.presence_id(name) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_name' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(name) IS 'Makes an id of a name.';

CREATE FUNCTION @extschema@.presence_id(uuid) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_uuid' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(uuid) IS 'Makes an id of a uuid, in its usual text form.';

CREATE FUNCTION @extschema@.presence_id(smallint) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_int2' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(smallint) IS 'Makes an id of an integer, in decimal.';

CREATE FUNCTION @extschema@.presence_id(integer) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_int4' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(integer) IS 'Makes an id of an integer, in decimal.';

CREATE FUNCTION @extschema@.presence_id(bigint) RETURNS @extschema@.presence_id
    AS 'MODULE_PATHNAME', 'presence_id_from_int8' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_id(bigint) IS 'Makes an id of an integer, in decimal.';

CREATE CAST (text AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(text) AS IMPLICIT;
CREATE CAST (varchar AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(text) AS IMPLICIT;
CREATE CAST (character AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(character) AS IMPLICIT;
CREATE CAST (name AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(name) AS IMPLICIT;
CREATE CAST (uuid AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(uuid) AS IMPLICIT;
CREATE CAST (smallint AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(smallint) AS IMPLICIT;
CREATE CAST (integer AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(integer) AS IMPLICIT;
CREATE CAST (bigint AS @extschema@.presence_id) WITH FUNCTION @extschema@.presence_id(bigint) AS IMPLICIT;
CREATE CAST (@extschema@.presence_id AS text) WITHOUT FUNCTION AS ASSIGNMENT;

CREATE FUNCTION @extschema@.presence_is_id(text) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_is_id(text) IS 'Whether a text can be a presence_id; for the constraints of the tables.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Tables: closed to everybody; the functions below work on them as their owner. Their constraints say what the library
-- takes for granted of each row. The library itself, which writes the rows of users, sessions and events without SQL, does
-- not evaluate them: presence_verify() does.
-- ---------------------------------------------------------------------------------------------------------------------

-- One row per user. Its row lock is the one lock that every change of a user's presence takes.
CREATE TABLE @extschema@.presence_user (
    user_id        text COLLATE "C" PRIMARY KEY,
    online         boolean NOT NULL DEFAULT false,
    sessions       integer NOT NULL DEFAULT 0,
    status         text,
    online_since   timestamptz,
    offline_at     timestamptz,
    status_choice  text,
    choice_until   timestamptz,
    choice_message text,
    CONSTRAINT presence_user_id CHECK (@extschema@.presence_is_id(user_id)),
    CONSTRAINT presence_user_sessions CHECK (sessions >= 0),
    CONSTRAINT presence_user_status CHECK (status IN ('active', 'busy', 'idle', 'away')),
    CONSTRAINT presence_user_online CHECK (CASE WHEN online THEN status IS NOT NULL AND online_since IS NOT NULL ELSE status IS NULL AND sessions = 0 END),
    CONSTRAINT presence_user_times CHECK (least(online_since, offline_at, choice_until) > '1900-01-01 00:00+00' AND greatest(online_since, offline_at, choice_until) < '10000-01-01 00:00+00'),
    CONSTRAINT presence_user_choice CHECK (status_choice IN ('busy', 'away', 'invisible')),
    CONSTRAINT presence_user_invisible CHECK (NOT (online AND status_choice = 'invisible')),
    CONSTRAINT presence_user_message CHECK (pg_catalog.octet_length(choice_message) BETWEEN 1 AND 1024)
) WITH (fillfactor = 80);
CREATE INDEX presence_user_choice_until ON @extschema@.presence_user (choice_until) WHERE choice_until IS NOT NULL;
-- The views show ids with the default collation, for which the primary key is of no use. A hash does not depend on its rules.
CREATE INDEX presence_user_default_collation ON @extschema@.presence_user USING hash (user_id COLLATE pg_catalog."default");
COMMENT ON TABLE @extschema@.presence_user IS 'One row per user; its row lock orders everything that changes the user''s presence.';
COMMENT ON COLUMN @extschema@.presence_user.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_user.online IS 'Online as recorded.';
COMMENT ON COLUMN @extschema@.presence_user.sessions IS 'Number of sessions recorded as online.';
COMMENT ON COLUMN @extschema@.presence_user.status IS 'The chosen status, else the most present one of the user''s sessions; NULL when offline.';
COMMENT ON COLUMN @extschema@.presence_user.online_since IS 'When the user last came online.';
COMMENT ON COLUMN @extschema@.presence_user.offline_at IS 'When the user last went offline.';
COMMENT ON COLUMN @extschema@.presence_user.status_choice IS 'What the user has chosen to be shown as: busy, away or invisible; NULL: what the sessions say. Of an invisible user, the other columns are those of one who is offline.';
COMMENT ON COLUMN @extschema@.presence_user.choice_until IS 'When that choice and the message are over; NULL: they last.';
COMMENT ON COLUMN @extschema@.presence_user.choice_message IS 'What the user says with it, at most 1 kB.';

-- heartbeat_at is in no index, and pages keep room, so that a heartbeat's row version stays on its page (HOT).
CREATE TABLE @extschema@.presence_session (
    user_id            text COLLATE "C" NOT NULL,
    session_id         text COLLATE "C" NOT NULL,
    online             boolean NOT NULL,
    status             text NOT NULL,
    online_since       timestamptz NOT NULL,
    joined_at          timestamptz NOT NULL,
    heartbeat_at       timestamptz NOT NULL,
    heartbeat_interval interval,
    timeout            interval,
    ended_at           timestamptz,
    end_reason         text,
    leave_until        timestamptz,
    user_agent         text,
    ip_address         inet,
    metadata           jsonb,
    status_choice      text,
    choice_until       timestamptz,
    updates_from       timestamptz,
    updates            integer,
    update_due         timestamptz,
    said               text,
    last_activity      timestamptz,
    policy             text COLLATE "C",
    PRIMARY KEY (user_id, session_id),
    CONSTRAINT presence_session_user_id CHECK (@extschema@.presence_is_id(user_id)),
    CONSTRAINT presence_session_id CHECK (session_id = '' OR @extschema@.presence_is_id(session_id)),
    CONSTRAINT presence_session_status CHECK (status IN ('active', 'busy', 'idle', 'away')),
    CONSTRAINT presence_session_online CHECK (CASE WHEN online THEN (ended_at IS NULL) = (leave_until IS NULL) ELSE ended_at IS NOT NULL AND leave_until IS NULL END),
    CONSTRAINT presence_session_end CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    CONSTRAINT presence_session_end_reason CHECK (end_reason IN ('leave', 'disconnect', 'timeout', 'admin')),
    CONSTRAINT presence_session_interval CHECK (heartbeat_interval > '0' AND heartbeat_interval <= '1 day'),
    CONSTRAINT presence_session_timeout CHECK (timeout IS NULL OR (timeout BETWEEN '1 second' AND '1 day' AND policy IS NOT NULL)),
    CONSTRAINT presence_session_policy CHECK (@extschema@.presence_is_id(policy)),
    CONSTRAINT presence_session_times CHECK (least(online_since, joined_at, heartbeat_at, ended_at, leave_until, choice_until, updates_from, update_due, last_activity) > '1900-01-01 00:00+00'
                                             AND greatest(online_since, joined_at, heartbeat_at, ended_at, leave_until, choice_until, updates_from, update_due, last_activity) < '10000-01-01 00:00+00'),
    CONSTRAINT presence_session_choice CHECK (status_choice IN ('busy', 'away')),
    CONSTRAINT presence_session_updates CHECK (updates > 0 AND (updates IS NULL) = (updates_from IS NULL)),
    CONSTRAINT presence_session_update_due CHECK (update_due IS NULL OR (online AND ended_at IS NULL AND updates IS NOT NULL)),
    CONSTRAINT presence_session_said CHECK (said IS NULL OR (last_activity IS NOT NULL AND (said, status) IN (('active', 'idle'), ('active', 'away'), ('idle', 'away')))),
    CONSTRAINT presence_session_user_agent CHECK (pg_catalog.octet_length(user_agent) <= 1024),
    CONSTRAINT presence_session_metadata CHECK (pg_catalog.octet_length(metadata::pg_catalog.text) <= 4096)
) WITH (fillfactor = 60);
-- For lists, for a user's live sessions (they have the user's online_since) and for the cache, which keeps online_since.
CREATE INDEX presence_session_online ON @extschema@.presence_session (online_since, user_id) WHERE online;
CREATE INDEX presence_session_due ON @extschema@.presence_session (least(leave_until, update_due)) WHERE leave_until IS NOT NULL OR update_due IS NOT NULL;
COMMENT ON TABLE @extschema@.presence_session IS 'One row per session still retained: what is recorded at transitions; later heartbeats may be in shared memory.';
COMMENT ON COLUMN @extschema@.presence_session.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_session.session_id IS 'Id of the session; empty for the user''s unnamed session.';
COMMENT ON COLUMN @extschema@.presence_session.online IS 'Counts for its user: not ended, or ended within presence.leave_grace.';
COMMENT ON COLUMN @extschema@.presence_session.status IS 'active, busy, idle or away, as shown.';
COMMENT ON COLUMN @extschema@.presence_session.online_since IS 'When the user came online, repeated here so that lists read one table.';
COMMENT ON COLUMN @extschema@.presence_session.joined_at IS 'When the session began.';
COMMENT ON COLUMN @extschema@.presence_session.heartbeat_at IS 'Last recorded heartbeat.';
COMMENT ON COLUMN @extschema@.presence_session.heartbeat_interval IS 'How often the client promised to beat; NULL: not said.';
COMMENT ON COLUMN @extschema@.presence_session.timeout IS 'That of its policy; NULL: presence.timeout and heartbeat_interval say for how long it may be silent.';
COMMENT ON COLUMN @extschema@.presence_session.ended_at IS 'When the session ended; NULL while it lasts.';
COMMENT ON COLUMN @extschema@.presence_session.end_reason IS 'leave, disconnect, timeout or admin.';
COMMENT ON COLUMN @extschema@.presence_session.leave_until IS 'Until when the user counts as online although this last session has ended.';
COMMENT ON COLUMN @extschema@.presence_session.user_agent IS 'Client software, at most 1 kB.';
COMMENT ON COLUMN @extschema@.presence_session.ip_address IS 'Client address.';
COMMENT ON COLUMN @extschema@.presence_session.metadata IS 'What the application wants others to see, at most 4 kB.';
COMMENT ON COLUMN @extschema@.presence_session.updates_from IS 'When the first of updates was told.';
COMMENT ON COLUMN @extschema@.presence_session.updates IS 'How many updates of it were told within the minute from then on.';
COMMENT ON COLUMN @extschema@.presence_session.update_due IS 'By when the changes beyond presence.max_updates_per_minute are told as one; NULL: there are none.';
COMMENT ON COLUMN @extschema@.presence_session.said IS 'The status that it has said, where inactivity has it show another; else NULL.';
COMMENT ON COLUMN @extschema@.presence_session.last_activity IS 'When somebody was last active there, as far as recorded; NULL: never told. Later times may be in shared memory.';
COMMENT ON COLUMN @extschema@.presence_session.policy IS 'Name in presence_policies of what it goes by; NULL: the settings.';
COMMENT ON COLUMN @extschema@.presence_session.status_choice IS 'That of the user, repeated here so that lists read one table.';
COMMENT ON COLUMN @extschema@.presence_session.choice_until IS 'The same of its end.';

-- Sessions of users who have chosen to be invisible. What others may see of these users is in presence_session, where nothing
-- changes as long as the choice lasts; so no reader has anything to leave out.
CREATE TABLE @extschema@.presence_hidden_session (
    LIKE @extschema@.presence_session INCLUDING CONSTRAINTS,
    PRIMARY KEY (user_id, session_id)
) WITH (fillfactor = 60);
CREATE INDEX presence_hidden_session_online ON @extschema@.presence_hidden_session (online_since, user_id) WHERE online;
COMMENT ON TABLE @extschema@.presence_hidden_session IS 'Sessions of users who are invisible, as in presence_session; they move there when the user comes into view.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.user_id IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.session_id IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.online IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.status IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.online_since IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.joined_at IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.heartbeat_at IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.heartbeat_interval IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.timeout IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.ended_at IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.end_reason IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.leave_until IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.user_agent IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.ip_address IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.metadata IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.status_choice IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.choice_until IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.updates_from IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.updates IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.update_due IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.said IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.policy IS 'As in presence_session.';
COMMENT ON COLUMN @extschema@.presence_hidden_session.last_activity IS 'As in presence_session.';

-- Sessions in rooms. Rows are there for as long as they are; all changes are made under the lock on the user's row.
CREATE TABLE @extschema@.presence_room_member (
    user_id     text COLLATE "C" NOT NULL,
    room        text COLLATE "C" NOT NULL,
    session_id  text COLLATE "C" NOT NULL,
    entered_at  timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    leave_until timestamptz,
    metadata    jsonb,
    PRIMARY KEY (user_id, room, session_id),
    CONSTRAINT presence_room_member_user_id CHECK (@extschema@.presence_is_id(user_id)),
    CONSTRAINT presence_room_member_room CHECK (@extschema@.presence_is_id(room)),
    CONSTRAINT presence_room_member_session_id CHECK (session_id = '' OR @extschema@.presence_is_id(session_id)),
    CONSTRAINT presence_room_member_times CHECK (least(entered_at, changed_at, leave_until) > '1900-01-01 00:00+00'
                                                 AND greatest(entered_at, changed_at, leave_until) < '10000-01-01 00:00+00'),
    CONSTRAINT presence_room_member_metadata CHECK (pg_catalog.octet_length(metadata::pg_catalog.text) <= 4096)
);
CREATE INDEX presence_room_member_newest ON @extschema@.presence_room_member (room, entered_at, user_id);
CREATE INDEX presence_room_member_leaving ON @extschema@.presence_room_member (leave_until) WHERE leave_until IS NOT NULL;
COMMENT ON TABLE @extschema@.presence_room_member IS 'One row per session and room that it is in; a user is in a room as long as there is one.';
COMMENT ON COLUMN @extschema@.presence_room_member.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_room_member.room IS 'Id of the room.';
COMMENT ON COLUMN @extschema@.presence_room_member.session_id IS 'Id of the session; empty for the user''s unnamed session.';
COMMENT ON COLUMN @extschema@.presence_room_member.entered_at IS 'When the user entered the room, the same in all rows of the user''s in it.';
COMMENT ON COLUMN @extschema@.presence_room_member.changed_at IS 'When the session joined the room, or last changed its metadata there.';
COMMENT ON COLUMN @extschema@.presence_room_member.leave_until IS 'The session has ended, but until then the user counts as in the room.';
COMMENT ON COLUMN @extschema@.presence_room_member.metadata IS 'What the application wants others in the room to see, at most 4 kB.';

-- Where sessions are. What is left of ended ones counts for nobody: of a session that begins again, joined_at is another.
CREATE TABLE @extschema@.presence_location (
    user_id    text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    joined_at  timestamptz NOT NULL,
    region     text COLLATE "C",
    geohash    text COLLATE "C",
    PRIMARY KEY (user_id, session_id),
    CONSTRAINT presence_location_user_id CHECK (@extschema@.presence_is_id(user_id)),
    CONSTRAINT presence_location_session_id CHECK (session_id = '' OR @extschema@.presence_is_id(session_id)),
    CONSTRAINT presence_location_region CHECK (@extschema@.presence_is_id(region)),
    CONSTRAINT presence_location_geohash CHECK (geohash OPERATOR(pg_catalog.~) '^[0-9b-hjkmnp-z]{1,8}$'),
    CONSTRAINT presence_location_any CHECK (region IS NOT NULL OR geohash IS NOT NULL)
);
COMMENT ON TABLE @extschema@.presence_location IS 'One row per session of which it was told where it is; removed with what retention removes once the session has ended.';
COMMENT ON COLUMN @extschema@.presence_location.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_location.session_id IS 'Id of the session; empty for the user''s unnamed session.';
COMMENT ON COLUMN @extschema@.presence_location.joined_at IS 'When that session began: it may have ended since, and another of that name have begun.';
COMMENT ON COLUMN @extschema@.presence_location.region IS 'What the application calls the place: a country, a data centre, a shop.';
COMMENT ON COLUMN @extschema@.presence_location.geohash IS 'An area of the map, of at most presence.location_precision characters.';

-- Events, written once by the transaction that changes presence, and removed by retention only.
CREATE SEQUENCE @extschema@.presence_event_id_seq AS bigint;
COMMENT ON SEQUENCE @extschema@.presence_event_id_seq IS 'Numbers presence_event.id.';

CREATE TABLE @extschema@.presence_event (
    id         bigint NOT NULL DEFAULT pg_catalog.nextval('@extschema@.presence_event_id_seq'::pg_catalog.regclass) PRIMARY KEY,
    at         timestamptz NOT NULL,
    event      text NOT NULL,
    user_id    text NOT NULL,
    session_id text,
    reason     text,
    sessions   integer NOT NULL,
    details    jsonb,
    channel    text,
    room       text COLLATE "C",
    CONSTRAINT presence_event_id CHECK (id > 0),
    CONSTRAINT presence_event_at CHECK (at > '1900-01-01 00:00+00' AND at < '10000-01-01 00:00+00'),
    CONSTRAINT presence_event_event CHECK (event IN ('user_online', 'user_offline', 'session_start', 'session_end', 'update', 'room_join', 'room_leave', 'room_update')),
    CONSTRAINT presence_event_user_id CHECK (@extschema@.presence_is_id(user_id)),
    CONSTRAINT presence_event_session_id CHECK (@extschema@.presence_is_id(session_id)),
    CONSTRAINT presence_event_reason CHECK (reason IN ('heartbeat', 'leave', 'disconnect', 'timeout', 'admin')),
    CONSTRAINT presence_event_sessions CHECK (sessions >= 0),
    CONSTRAINT presence_event_channel CHECK (pg_catalog.octet_length(channel) BETWEEN 1 AND 63),
    CONSTRAINT presence_event_room CHECK (@extschema@.presence_is_id(room)),
    CONSTRAINT presence_event_of_room CHECK ((room IS NOT NULL) = (event IN ('room_join', 'room_leave', 'room_update')))
);
CREATE INDEX presence_event_room ON @extschema@.presence_event (room, id) WHERE room IS NOT NULL;
ALTER SEQUENCE @extschema@.presence_event_id_seq OWNED BY @extschema@.presence_event.id;
COMMENT ON TABLE @extschema@.presence_event IS 'Everything that changed somebody''s presence, in the order of writing; presence_feed_range gives the numbers.';
COMMENT ON COLUMN @extschema@.presence_event.id IS 'Order of writing; per user also the order of commit, because the user''s row is locked.';
COMMENT ON COLUMN @extschema@.presence_event.at IS 'When it happened.';
COMMENT ON COLUMN @extschema@.presence_event.event IS 'user_online, user_offline, session_start, session_end, update; room_join, room_leave or room_update.';
COMMENT ON COLUMN @extschema@.presence_event.user_id IS 'Whose presence changed.';
COMMENT ON COLUMN @extschema@.presence_event.session_id IS 'The session by which it changed; NULL for the unnamed one.';
COMMENT ON COLUMN @extschema@.presence_event.reason IS 'heartbeat, leave, disconnect, timeout or admin.';
COMMENT ON COLUMN @extschema@.presence_event.sessions IS 'How many sessions the user has after it, in the room if it is about one.';
COMMENT ON COLUMN @extschema@.presence_event.details IS 'Status and metadata as others see them, in the room if it is about one, and a message where there is one.';
COMMENT ON COLUMN @extschema@.presence_event.channel IS 'Where whoever numbers it is to announce it; NULL: nowhere, or the transaction that wrote it has announced it itself.';
COMMENT ON COLUMN @extschema@.presence_event.room IS 'The room that it is about; NULL: none.';

-- Runs of ids that have numbers: event first_id + n is number first_seq + n. Insert-only, so that a long snapshot keeps no
-- dead row from being skipped cheaply. The row with the highest first_seq is the head of the feed: it has the last five columns,
-- which say what has been looked at, so that whoever looks next reads only what is new. A feed that began with users online has
-- a number 0 without an event, which stands for them. online_users may be anything: numbering goes on where events were changed
-- by hand, and a review finds that out.
CREATE TABLE @extschema@.presence_feed_range (
    first_seq    bigint PRIMARY KEY CHECK (first_seq >= 0),
    first_id     bigint NOT NULL CHECK (first_id >= 0),
    events       integer NOT NULL CHECK (events > 0),
    online_users bigint,
    last_id      bigint,
    open_from    bigint[],
    open_to      bigint[],
    open_until   bigint[],
    CONSTRAINT presence_feed_range_last CHECK (first_seq <= 9223372036854775807 - events AND first_id <= 9223372036854775807 - events),
    CONSTRAINT presence_feed_range_open CHECK (coalesce(pg_catalog.cardinality(open_from), 0) = coalesce(pg_catalog.cardinality(open_to), 0)
                                               AND coalesce(pg_catalog.cardinality(open_from), 0) = coalesce(pg_catalog.cardinality(open_until), 0))
);
COMMENT ON TABLE @extschema@.presence_feed_range IS 'Numbers of events: each row gives consecutive numbers to events with consecutive ids.';
COMMENT ON COLUMN @extschema@.presence_feed_range.first_seq IS 'Number of the first of them.';
COMMENT ON COLUMN @extschema@.presence_feed_range.first_id IS 'Id of the first of them.';
COMMENT ON COLUMN @extschema@.presence_feed_range.events IS 'How many they are.';
COMMENT ON COLUMN @extschema@.presence_feed_range.online_users IS 'Users online after the last of them.';
COMMENT ON COLUMN @extschema@.presence_feed_range.last_id IS 'Highest id that has a number.';
COMMENT ON COLUMN @extschema@.presence_feed_range.open_from IS 'Lower ids of transactions that had not ended: first id of each run.';
COMMENT ON COLUMN @extschema@.presence_feed_range.open_to IS 'Last id of each run.';
COMMENT ON COLUMN @extschema@.presence_feed_range.open_until IS 'Where the rows were not there yet: they come from a transaction below this one, or never; else 0.';

-- Insert and delete only: neither those who join nor those who count wait for each other.
CREATE TABLE @extschema@.presence_room_count (
    room  text COLLATE "C" NOT NULL,
    seq   bigint NOT NULL,
    users bigint NOT NULL,
    PRIMARY KEY (room, seq),
    CONSTRAINT presence_room_count_room CHECK (@extschema@.presence_is_id(room)),
    CONSTRAINT presence_room_count_seq CHECK (seq >= 0),
    CONSTRAINT presence_room_count_users CHECK (users >= 0)
);
CREATE INDEX presence_room_count_empty ON @extschema@.presence_room_count (seq) WHERE users = 0;
COMMENT ON TABLE @extschema@.presence_room_count IS 'Users recorded in each room, as far as events have numbers; the row with the highest seq counts.';
COMMENT ON COLUMN @extschema@.presence_room_count.room IS 'Id of the room.';
COMMENT ON COLUMN @extschema@.presence_room_count.seq IS 'After which event of the feed.';
COMMENT ON COLUMN @extschema@.presence_room_count.users IS 'How many there are.';

-- Without a key, so that a restored dump adds its rows to that of CREATE EXTENSION.
CREATE TABLE @extschema@.presence_feed (
    epoch   text NOT NULL CHECK (pg_catalog.octet_length(epoch) BETWEEN 1 AND 255),
    place   text NOT NULL,
    made_at timestamptz NOT NULL
);
ALTER TABLE @extschema@.presence_feed REPLICA IDENTITY FULL;
COMMENT ON TABLE @extschema@.presence_feed IS 'Epochs of the feed: the latest that was made for this place is in force; for a new place, a new one is made.';
COMMENT ON COLUMN @extschema@.presence_feed.epoch IS 'What readers compare: numbers of different epochs have nothing to do with each other.';
COMMENT ON COLUMN @extschema@.presence_feed.place IS 'Server, database, table, timeline and files for which it was made.';
COMMENT ON COLUMN @extschema@.presence_feed.made_at IS 'When it was made.';

-- Insert and delete only, the highest row counts.
CREATE TABLE @extschema@.presence_feed_dropped (
    seq bigint PRIMARY KEY CHECK (seq >= 0)
);
COMMENT ON TABLE @extschema@.presence_feed_dropped IS 'Up to where retention has removed events.';
COMMENT ON COLUMN @extschema@.presence_feed_dropped.seq IS 'Highest number that has been removed; 0: numbering has begun.';

-- Numbered while the notification queue was too full; announced in the order of seq once it has room. Not dumped.
CREATE TABLE @extschema@.presence_unannounced (
    first_seq bigint PRIMARY KEY CHECK (first_seq > 0),
    last_seq  bigint NOT NULL CHECK (last_seq >= first_seq)
);
COMMENT ON TABLE @extschema@.presence_unannounced IS 'Events that are numbered but wait for room in the server''s notification queue.';
COMMENT ON COLUMN @extschema@.presence_unannounced.first_seq IS 'Number of the first of them.';
COMMENT ON COLUMN @extschema@.presence_unannounced.last_seq IS 'Number of the last of them.';

-- The join looks up what is above the head, and what is open below it, by index.
CREATE VIEW @extschema@.presence_event_queue AS
SELECT e.id, e.at, e.event, e.user_id, e.session_id, e.reason, e.sessions, e.details, e.channel,
       e.room COLLATE pg_catalog."default" AS room
FROM (SELECT coalesce(pg_catalog.max(first_seq), 0) AS first_seq FROM @extschema@.presence_feed_range) AS newest
LEFT JOIN @extschema@.presence_feed_range AS head USING (first_seq)
CROSS JOIN LATERAL ROWS FROM (
    pg_catalog.unnest(pg_catalog.array_append(head.open_from, coalesce(head.last_id, 0) + 1)),
    pg_catalog.unnest(pg_catalog.array_append(head.open_to, 9223372036854775807))) AS open (first_id, last_id)
JOIN @extschema@.presence_event AS e ON e.id BETWEEN open.first_id AND open.last_id;
COMMENT ON VIEW @extschema@.presence_event_queue IS 'Events that are not numbered yet.';
COMMENT ON COLUMN @extschema@.presence_event_queue.id IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.at IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.event IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.user_id IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.session_id IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.reason IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.sessions IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.details IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.channel IS 'As in presence_event.';
COMMENT ON COLUMN @extschema@.presence_event_queue.room IS 'As in presence_event.';

CREATE VIEW @extschema@.presence_events AS
SELECT r.first_seq + (e.id - r.first_id) AS seq, e.at, e.event, e.user_id, e.session_id, e.reason, e.sessions, e.details,
       e.room COLLATE pg_catalog."default" AS room
FROM @extschema@.presence_feed_range AS r
JOIN @extschema@.presence_event AS e ON e.id BETWEEN r.first_id AND r.first_id + r.events - 1
UNION ALL
SELECT NULL, at, event, user_id, session_id, reason, sessions, details, room
FROM @extschema@.presence_event_queue;
COMMENT ON VIEW @extschema@.presence_events IS 'The change feed. Events not yet numbered have seq NULL; read it with presence_changes_since().';
COMMENT ON COLUMN @extschema@.presence_events.seq IS 'Position in the feed, without gaps; NULL until numbered.';
COMMENT ON COLUMN @extschema@.presence_events.at IS 'When it happened.';
COMMENT ON COLUMN @extschema@.presence_events.event IS 'user_online, user_offline, session_start, session_end, update; room_join, room_leave or room_update.';
COMMENT ON COLUMN @extschema@.presence_events.user_id IS 'Whose presence changed.';
COMMENT ON COLUMN @extschema@.presence_events.session_id IS 'The session by which it changed; NULL for the unnamed one.';
COMMENT ON COLUMN @extschema@.presence_events.reason IS 'heartbeat, leave, disconnect, timeout or admin.';
COMMENT ON COLUMN @extschema@.presence_events.sessions IS 'How many sessions the user has after it, in the room if it is about one.';
COMMENT ON COLUMN @extschema@.presence_events.details IS 'Status and metadata as others see them, in the room if it is about one, and a message where there is one.';
COMMENT ON COLUMN @extschema@.presence_events.room IS 'The room that it is about; NULL: none.';

CREATE FUNCTION @extschema@.presence_event_payload(seq bigint, at timestamptz, event text, user_id text, session_id text,
                                                   reason text, sessions integer, details jsonb, epoch text DEFAULT NULL,
                                                   room text DEFAULT NULL)
RETURNS text AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 20;
COMMENT ON FUNCTION @extschema@.presence_event_payload(bigint, timestamptz, text, text, text, text, integer, jsonb, text, text) IS
    'An event as the JSON text that is sent with NOTIFY: at most 7,999 bytes, without details and with "truncated": true where it would be longer.';

-- What an epoch is made for. A copy of the server's files is another place, and so is a new timeline.
CREATE FUNCTION @extschema@.presence_feed_place(events regclass)
RETURNS text AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT COST 100;
COMMENT ON FUNCTION @extschema@.presence_feed_place(regclass) IS 'Server, database, table, timeline and files of the feed, as one text.';

INSERT INTO @extschema@.presence_feed (epoch, place, made_at)
VALUES (pg_catalog.gen_random_uuid()::pg_catalog.text, @extschema@.presence_feed_place('@extschema@.presence_event'::pg_catalog.regclass),
        pg_catalog.clock_timestamp());

CREATE TABLE @extschema@.presence_change (
    at         timestamptz NOT NULL,
    only_added boolean NOT NULL
);
ALTER TABLE @extschema@.presence_change REPLICA IDENTITY FULL;
COMMENT ON TABLE @extschema@.presence_change IS 'Changes of the tables by hand that the next cleanup reviews; used where the library is not preloaded. Not dumped.';
COMMENT ON COLUMN @extschema@.presence_change.at IS 'When it was.';
COMMENT ON COLUMN @extschema@.presence_change.only_added IS 'Rows were only added, as when a dump is read: more may come.';

-- Changes of these tables that the extension did not make itself are reviewed soon after. Also those of a session with
-- session_replication_role = replica.
CREATE FUNCTION @extschema@.presence_note_change() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.presence_note_change() IS 'Has a table of the extension reviewed after it was changed by hand.';

CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_user
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_user ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_user IS 'Notices changes by hand.';
CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_session
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_session ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_session IS 'Notices changes by hand.';
CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_hidden_session
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_hidden_session ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_hidden_session IS 'Notices changes by hand.';
CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_event
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_event ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_event IS 'Notices changes by hand.';
CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_feed_range
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_feed_range ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_feed_range IS 'Notices changes by hand.';
CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_room_member
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_room_member ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_room_member IS 'Notices changes by hand.';
CREATE TRIGGER presence_note_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_room_count
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_note_change();
ALTER TABLE @extschema@.presence_room_count ENABLE ALWAYS TRIGGER presence_note_change;
COMMENT ON TRIGGER presence_note_change ON @extschema@.presence_room_count IS 'Notices changes by hand.';

CREATE TABLE @extschema@.presence_policies (
    name         text COLLATE "C" PRIMARY KEY,
    timeout      interval,
    max_sessions integer,
    CONSTRAINT presence_policies_name CHECK (@extschema@.presence_is_id(name)),
    CONSTRAINT presence_policies_timeout CHECK (timeout BETWEEN '1 second' AND '1 day'),
    CONSTRAINT presence_policies_max_sessions CHECK (max_sessions >= 0)
);
COMMENT ON TABLE @extschema@.presence_policies IS 'Limits of sessions that begin with one of these names as policy of update_user_heartbeat(); a change counts at once.';
COMMENT ON COLUMN @extschema@.presence_policies.name IS 'What update_user_heartbeat() is passed as policy.';
COMMENT ON COLUMN @extschema@.presence_policies.timeout IS 'For how long such a session may be silent, instead of presence.timeout and whatever interval it promises; presence.max_timeout still bounds it. NULL: as without a policy.';
COMMENT ON COLUMN @extschema@.presence_policies.max_sessions IS 'How many sessions the user may have when such a one begins, instead of presence.max_sessions_per_user; 0: any number. NULL: as without a policy.';

CREATE FUNCTION @extschema@.presence_policies_changed() RETURNS trigger AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.presence_policies_changed() IS 'Sessions get the timeout that their policy now has.';

CREATE TRIGGER presence_policies_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.presence_policies
    FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.presence_policies_changed();
ALTER TABLE @extschema@.presence_policies ENABLE ALWAYS TRIGGER presence_policies_changed;
COMMENT ON TRIGGER presence_policies_changed ON @extschema@.presence_policies IS 'Takes changes over to the sessions.';

CREATE TABLE @extschema@.presence_cleanup (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    last_at   timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE @extschema@.presence_cleanup IS 'When the last cleanup ran.';
COMMENT ON COLUMN @extschema@.presence_cleanup.singleton IS 'True: there is one row.';
COMMENT ON COLUMN @extschema@.presence_cleanup.last_at IS 'When the last cleanup ran.';

CREATE SEQUENCE @extschema@.presence_admin_log_id_seq AS bigint;
COMMENT ON SEQUENCE @extschema@.presence_admin_log_id_seq IS 'Numbers presence_admin_log.id.';

CREATE TABLE @extschema@.presence_admin_log (
    id      bigint NOT NULL DEFAULT pg_catalog.nextval('@extschema@.presence_admin_log_id_seq'::pg_catalog.regclass) PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    action  text NOT NULL,
    actor   text NOT NULL,
    details jsonb
);
ALTER SEQUENCE @extschema@.presence_admin_log_id_seq OWNED BY @extschema@.presence_admin_log.id;
CREATE INDEX presence_admin_log_review ON @extschema@.presence_admin_log (at) WHERE action = 'review';
COMMENT ON TABLE @extschema@.presence_admin_log IS 'Cleanups that ended something, scheduled runs, departures on purpose, and reviews that found rows changed by hand.';
COMMENT ON COLUMN @extschema@.presence_admin_log.id IS 'Number of the entry.';
COMMENT ON COLUMN @extschema@.presence_admin_log.at IS 'When it happened.';
COMMENT ON COLUMN @extschema@.presence_admin_log.action IS 'Name of the function that was called; or review.';
COMMENT ON COLUMN @extschema@.presence_admin_log.actor IS 'Role that called it.';
COMMENT ON COLUMN @extschema@.presence_admin_log.details IS 'Arguments and results.';

-- Reports: what the feed told, added up by the worker or the scheduled run where presence.reports is on. All days are those of UTC.
-- The tables of single people are needed to go on with adding up, and to find those who flap.
CREATE TABLE @extschema@.presence_report_position (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    seq       bigint NOT NULL,
    at        timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE @extschema@.presence_report_position IS 'Up to where the feed is in the reports; moved by the transaction that adds to them.';
COMMENT ON COLUMN @extschema@.presence_report_position.singleton IS 'True: there is one row.';
COMMENT ON COLUMN @extschema@.presence_report_position.seq IS 'Number of the last event that is in the reports.';
COMMENT ON COLUMN @extschema@.presence_report_position.at IS 'The time up to which they are complete.';

CREATE TABLE @extschema@.presence_report_slot (
    at             timestamptz PRIMARY KEY,
    seconds        double precision NOT NULL,
    person_seconds double precision NOT NULL,
    peak           bigint NOT NULL,
    peak_at        timestamptz NOT NULL
);
COMMENT ON TABLE @extschema@.presence_report_slot IS 'How many people were online in each five minutes; shown by presence_online_history.';
COMMENT ON COLUMN @extschema@.presence_report_slot.at IS 'When the five minutes began.';
COMMENT ON COLUMN @extschema@.presence_report_slot.seconds IS 'How much of them is counted.';
COMMENT ON COLUMN @extschema@.presence_report_slot.person_seconds IS 'How long people were online in this time, added up over all of them.';
COMMENT ON COLUMN @extschema@.presence_report_slot.peak IS 'How many were online at most.';
COMMENT ON COLUMN @extschema@.presence_report_slot.peak_at IS 'When they first were.';

CREATE TABLE @extschema@.presence_report_day (
    day       date PRIMARY KEY,
    users     bigint NOT NULL,
    users_7d  bigint NOT NULL,
    users_30d bigint NOT NULL,
    arrivals  bigint NOT NULL
);
COMMENT ON TABLE @extschema@.presence_report_day IS 'Numbers of each day, and of days to come: who was there counts in the windows that end on them; shown by presence_daily_users.';
COMMENT ON COLUMN @extschema@.presence_report_day.day IS 'The day in UTC.';
COMMENT ON COLUMN @extschema@.presence_report_day.users IS 'How many different people were online on it.';
COMMENT ON COLUMN @extschema@.presence_report_day.users_7d IS 'How many in the seven days that end with it.';
COMMENT ON COLUMN @extschema@.presence_report_day.users_30d IS 'How many in the thirty days that end with it.';
COMMENT ON COLUMN @extschema@.presence_report_day.arrivals IS 'How often somebody came online.';

-- Without a primary key, because what is not known is NULL.
CREATE TABLE @extschema@.presence_report_end (
    day       date NOT NULL,
    reason    text,
    at_least  interval,
    less_than interval,
    sessions  bigint NOT NULL,
    CONSTRAINT presence_report_end_key UNIQUE NULLS NOT DISTINCT (day, reason, at_least)
);
ALTER TABLE @extschema@.presence_report_end REPLICA IDENTITY FULL;
COMMENT ON TABLE @extschema@.presence_report_end IS 'How many sessions ended on each day, by reason and length; shown by presence_session_lengths and presence_leave_reasons.';
COMMENT ON COLUMN @extschema@.presence_report_end.day IS 'The day in UTC.';
COMMENT ON COLUMN @extschema@.presence_report_end.reason IS 'leave, disconnect, timeout or admin.';
COMMENT ON COLUMN @extschema@.presence_report_end.at_least IS 'They lasted at least so long; NULL: nobody knows when they began.';
COMMENT ON COLUMN @extschema@.presence_report_end.less_than IS 'And less long than this; NULL: or longer.';
COMMENT ON COLUMN @extschema@.presence_report_end.sessions IS 'How many they were.';

CREATE TABLE @extschema@.presence_report_return (
    hour    timestamptz NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    returns bigint NOT NULL,
    PRIMARY KEY (hour, user_id)
);
COMMENT ON TABLE @extschema@.presence_report_return IS 'Who came back within a minute after going offline; presence_flapping shows those who did so again and again.';
COMMENT ON COLUMN @extschema@.presence_report_return.hour IS 'When the hour began.';
COMMENT ON COLUMN @extschema@.presence_report_return.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_report_return.returns IS 'How often in this hour.';

CREATE TABLE @extschema@.presence_report_session (
    user_id    text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    day        date NOT NULL,
    PRIMARY KEY (user_id, session_id)
);
CREATE INDEX presence_report_session_day ON @extschema@.presence_report_session (day);
COMMENT ON TABLE @extschema@.presence_report_session IS 'Sessions that have not ended yet, as far as events are in the reports.';
COMMENT ON COLUMN @extschema@.presence_report_session.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_report_session.session_id IS 'Id of the session; empty for the unnamed one.';
COMMENT ON COLUMN @extschema@.presence_report_session.started_at IS 'When it began.';
COMMENT ON COLUMN @extschema@.presence_report_session.day IS 'The last day in UTC that is counted for it.';

-- Of each departure a row version, which is in no index and so HOT; once a day another one.
CREATE TABLE @extschema@.presence_report_user (
    user_id    text COLLATE "C" PRIMARY KEY,
    last_day   date NOT NULL,
    offline_at timestamptz
) WITH (fillfactor = 80);
CREATE INDEX presence_report_user_last_day ON @extschema@.presence_report_user (last_day);
COMMENT ON TABLE @extschema@.presence_report_user IS 'Who was online in the last month, so that nobody counts twice.';
COMMENT ON COLUMN @extschema@.presence_report_user.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_report_user.last_day IS 'The last day in UTC on which the user was online.';
COMMENT ON COLUMN @extschema@.presence_report_user.offline_at IS 'When the user last went offline; NULL while online.';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_user', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_session', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_hidden_session', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_room_member', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_room_count', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_location', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_event', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_feed_range', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_feed', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_feed_dropped', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_policies', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_cleanup', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_admin_log', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_admin_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_position', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_slot', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_day', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_end', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_return', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_session', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.presence_report_user', '');

-- ---------------------------------------------------------------------------------------------------------------------
-- What backends call
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @extschema@.update_user_heartbeat(
    user_id            @extschema@.presence_id,
    session_id         @extschema@.presence_id DEFAULT NULL,
    user_agent         text DEFAULT NULL,
    ip_address         inet DEFAULT NULL,
    heartbeat_interval interval DEFAULT NULL,
    status             text DEFAULT NULL,
    metadata           jsonb DEFAULT NULL,
    last_activity      timestamptz DEFAULT NULL,
    policy             text DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100;
COMMENT ON FUNCTION @extschema@.update_user_heartbeat(@extschema@.presence_id, @extschema@.presence_id, text, inet, interval, text, jsonb, timestamptz, text) IS
    'The session is alive: begins, revives or refreshes it; NULL arguments keep what is known. True: online now. False: ignored, ended on purpose less than presence.rejoin_guard ago.';

CREATE FUNCTION @extschema@.update_user_heartbeats(user_ids @extschema@.presence_id[], session_ids @extschema@.presence_id[],
                                                   last_activity timestamptz[] DEFAULT NULL)
RETURNS integer AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.update_user_heartbeats(@extschema@.presence_id[], @extschema@.presence_id[], timestamptz[]) IS
    'Heartbeats of many sessions in one call, arrays of one length; how many of them are online now.';

CREATE FUNCTION @extschema@.mark_user_offline(user_id @extschema@.presence_id, session_id @extschema@.presence_id DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.mark_user_offline(@extschema@.presence_id, @extschema@.presence_id) IS
    'Ends a session on purpose, or with NULL all sessions of the user. True where the user went offline by this call.';

CREATE FUNCTION @extschema@.handle_user_disconnect(user_id @extschema@.presence_id, session_id @extschema@.presence_id DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.handle_user_disconnect(@extschema@.presence_id, @extschema@.presence_id) IS
    'What a closing page calls: ends the session with reason disconnect, drops its typing state, grants presence.leave_grace. True where the user went offline by this call.';

CREATE FUNCTION @extschema@.set_user_status(user_id @extschema@.presence_id, status text, until timestamptz DEFAULT NULL,
                                            message text DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.set_user_status(@extschema@.presence_id, text, timestamptz, text) IS
    'What a person chooses for all sessions, until a time or until changed: busy, away or invisible, or with active or NULL what the sessions say; and a message. True: this changed something.';

CREATE FUNCTION @extschema@.get_user_status(user_id @extschema@.presence_id, OUT status text, OUT chosen text,
                                            OUT until timestamptz, OUT message text)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION @extschema@.get_user_status(@extschema@.presence_id) IS
    'How the user is shown, and what of it was chosen by set_user_status(); all NULL when offline. Roles with access admin, and a role that acts for that user only, are told in any case, and status is then that of the sessions of an invisible user.';

CREATE FUNCTION @extschema@.set_session_location(user_id @extschema@.presence_id, session_id @extschema@.presence_id DEFAULT NULL,
    region @extschema@.presence_id DEFAULT NULL, latitude double precision DEFAULT NULL, longitude double precision DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.set_session_location(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id, double precision, double precision) IS
    'Says where the session is, until it ends: a region, and degrees, of which presence.location_precision is kept; NULLs take back what was said. False: that session is not online. Error 22003 for degrees that are not on the earth.';

CREATE FUNCTION @extschema@.join_room(user_id @extschema@.presence_id, session_id @extschema@.presence_id, room @extschema@.presence_id, metadata jsonb DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.join_room(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id, jsonb) IS
    'The session is alive, like with a heartbeat, and is in the room from now on, until leave_room() or its end; joining again changes the metadata, unless that is NULL. True: in the room now. False: ignored, as a heartbeat would be, or the user is invisible.';

CREATE FUNCTION @extschema@.leave_room(user_id @extschema@.presence_id, session_id @extschema@.presence_id, room @extschema@.presence_id)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.leave_room(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id) IS
    'The session is no longer in the room. True where the user left it by this call.';

CREATE FUNCTION @extschema@.join_rooms(user_ids @extschema@.presence_id[], session_ids @extschema@.presence_id[], rooms @extschema@.presence_id[])
RETURNS integer AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.join_rooms(@extschema@.presence_id[], @extschema@.presence_id[], @extschema@.presence_id[]) IS
    'join_room() for many at once, arrays of one length; how many of them are in their room now.';

CREATE FUNCTION @extschema@.cleanup_stale_presence()
RETURNS integer AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.cleanup_stale_presence() IS
    'Ends every session that was silent for longer than its timeout; how many users went offline. Skips locked rows, never waits.';

CREATE FUNCTION @extschema@.scheduled_presence_cleanup()
RETURNS integer AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.scheduled_presence_cleanup() IS
    'What the schedule runs: cleanup, retention of events, log and ended sessions, and a row in presence_admin_log; how many users went offline.';

CREATE FUNCTION @extschema@.presence_schedule_cleanup(schedule text DEFAULT '* * * * *')
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.presence_schedule_cleanup(text) IS
    'Creates or replaces this database''s pg_cron job that runs scheduled_presence_cleanup(), every minute by default; the job''s id.';

CREATE FUNCTION @extschema@.presence_unschedule_cleanup()
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.presence_unschedule_cleanup() IS 'Removes this database''s pg_cron job; whether there was one.';

CREATE FUNCTION @extschema@.get_active_users(max_rows integer DEFAULT NULL, after text DEFAULT NULL)
RETURNS TABLE (user_id text, status text, sessions integer, online_since timestamptz, heartbeat_at timestamptz, metadata jsonb)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000 ROWS 1000;
COMMENT ON FUNCTION @extschema@.get_active_users(integer, text) IS
    'One row per online user, newest online_since first, then by user_id; all of them, or a page: the first max_rows, or those after the user whose id is given. Stale sessions are left out, and ended by the worker; without one, by this call unless the transaction is read-only.';

CREATE FUNCTION @extschema@.get_presence(user_ids @extschema@.presence_id[])
RETURNS TABLE (user_id text, online boolean, status text, last_seen timestamptz, sessions integer, metadata jsonb)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000 ROWS 100 SUPPORT pg_catalog.array_unnest_support;
COMMENT ON FUNCTION @extschema@.get_presence(@extschema@.presence_id[]) IS 'One row per distinct id asked for; unknown ids are offline with NULLs.';

CREATE FUNCTION @extschema@.is_user_online(user_id @extschema@.presence_id)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION @extschema@.is_user_online(@extschema@.presence_id) IS 'Whether the user has a session that is neither ended nor stale.';

CREATE FUNCTION @extschema@.presence_count()
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION @extschema@.presence_count() IS 'How many users are online.';

CREATE FUNCTION @extschema@.presence_by_region()
RETURNS TABLE (region text, users bigint, sessions bigint)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 100;
COMMENT ON FUNCTION @extschema@.presence_by_region() IS 'How many users are online in each region of which somebody is told, and with how many sessions.';

CREATE FUNCTION @extschema@.presence_by_area(zoom integer)
RETURNS TABLE (geohash text, latitude double precision, longitude double precision, users bigint, sessions bigint)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 100;
COMMENT ON FUNCTION @extschema@.presence_by_area(integer) IS
    'How many users are online in each area of a map at that zoom level (0 to 24), and with how many sessions; the degrees are the middle of the area. Empty while presence.location_precision is 0. Error 22023 for another level.';

CREATE FUNCTION @extschema@.get_room(room @extschema@.presence_id, max_rows integer DEFAULT NULL, after text DEFAULT NULL)
RETURNS TABLE (user_id text, status text, sessions integer, entered_at timestamptz, heartbeat_at timestamptz, metadata jsonb)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 100;
COMMENT ON FUNCTION @extschema@.get_room(@extschema@.presence_id, integer, text) IS
    'One row per user in the room, newest entered_at first, then by user_id; all of them, or a page: the first max_rows, or those after the user whose id is given. Stale sessions are left out.';

CREATE FUNCTION @extschema@.room_count(room @extschema@.presence_id)
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION @extschema@.room_count(@extschema@.presence_id) IS 'How many users are in the room.';

CREATE FUNCTION @extschema@.get_user_rooms(user_id @extschema@.presence_id)
RETURNS TABLE (room text, entered_at timestamptz, sessions integer, metadata jsonb)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000 ROWS 10;
COMMENT ON FUNCTION @extschema@.get_user_rooms(@extschema@.presence_id) IS 'The rooms in which the user is.';

CREATE FUNCTION @extschema@.room_snapshot(room @extschema@.presence_id)
RETURNS TABLE (seq bigint, user_id text, status text, sessions integer, entered_at timestamptz, heartbeat_at timestamptz, metadata jsonb, epoch text)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000 ROWS 100;
COMMENT ON FUNCTION @extschema@.room_snapshot(@extschema@.presence_id) IS
    'Who is in the room after event seq of the feed, in the columns of get_room(); one row with only seq and epoch where nobody is.';

CREATE FUNCTION @extschema@.presence_room_channel(room @extschema@.presence_id)
RETURNS text AS 'MODULE_PATHNAME' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION @extschema@.presence_room_channel(@extschema@.presence_id) IS
    'On which channel presence.room_channels announces what happens in the room: presence.notify_channel, a colon, and the room, or, where that is longer than 63 bytes, the first half of its SHA-256 in hexadecimal digits; NULL: nothing is announced.';

CREATE FUNCTION @extschema@.presence_changes_since(seq bigint, max_rows integer DEFAULT 1000, room @extschema@.presence_id DEFAULT NULL)
RETURNS SETOF @extschema@.presence_events AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000 ROWS 100;
COMMENT ON FUNCTION @extschema@.presence_changes_since(bigint, integer, @extschema@.presence_id) IS
    'The change feed after a position, in order; with a room, what happened in that one. Error 22023 where retention has dropped that position, or the feed ends before it: start again from presence_snapshot() or room_snapshot().';

CREATE FUNCTION @extschema@.presence_snapshot()
RETURNS TABLE (seq bigint, user_id text, status text, sessions integer, online_since timestamptz, heartbeat_at timestamptz, metadata jsonb, epoch text)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000 ROWS 1000;
COMMENT ON FUNCTION @extschema@.presence_snapshot() IS
    'Who is online after event seq of the feed, in the columns of get_active_users(); one row with only seq and epoch where nobody is.';

CREATE FUNCTION @extschema@.set_typing(user_id @extschema@.presence_id, session_id @extschema@.presence_id, room @extschema@.presence_id,
                                      ttl interval DEFAULT '6s')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100;
COMMENT ON FUNCTION @extschema@.set_typing(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id, interval) IS
    'The user types in that room until ttl is over, the session ends, or clear_typing() is called; takes effect at once, and writes nothing. False: nothing done, because the session is not online, or the library is not preloaded.';

CREATE FUNCTION @extschema@.clear_typing(user_id @extschema@.presence_id, session_id @extschema@.presence_id, room @extschema@.presence_id DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100;
COMMENT ON FUNCTION @extschema@.clear_typing(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id) IS
    'The session types no longer in that room, or with NULL in any; whether it did.';

CREATE FUNCTION @extschema@.get_typing(room @extschema@.presence_id)
RETURNS TABLE (user_id text, since timestamptz, expires_at timestamptz)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000 ROWS 10;
COMMENT ON FUNCTION @extschema@.get_typing(@extschema@.presence_id) IS
    'One row per user who is typing in that room, first who has typed longest; none on a standby.';

CREATE FUNCTION @extschema@.presence_feed_position(OUT epoch text, OUT seq bigint)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000;
COMMENT ON FUNCTION @extschema@.presence_feed_position() IS
    'Where the feed ends, and its epoch: with another epoch than before, start again from presence_snapshot().';

CREATE FUNCTION @extschema@.presence_reset()
RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100000;
COMMENT ON FUNCTION @extschema@.presence_reset() IS
    'Forgets everything: users, sessions, events, the admin log, cached heartbeats; the feed begins anew, with another epoch. For test suites.';

CREATE FUNCTION @extschema@.presence_verify()
RETURNS TABLE (invariant text, user_id text, details text)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100000 ROWS 1;
COMMENT ON FUNCTION @extschema@.presence_verify() IS
    'A row for each way in which tables, cache, counts and feed disagree; none in a sound database. Whoever changes presence waits meanwhile, and it waits for their transactions; known heartbeats and readers do not.';

CREATE FUNCTION @extschema@.presence_roll_up(until timestamptz DEFAULT NULL)
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100000;
COMMENT ON FUNCTION @extschema@.presence_roll_up(timestamptz) IS
    'Brings the reports up to that time, or up to date, without waiting for the worker or the schedule; how many events it added. Error 55000 where presence.reports is off.';

CREATE FUNCTION @extschema@.presence_forget_user(user_id @extschema@.presence_id)
RETURNS TABLE (relation text, "rows" bigint)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 100000 ROWS 4;
COMMENT ON FUNCTION @extschema@.presence_forget_user(@extschema@.presence_id) IS
    'Removes a person: sessions, user and log rows are deleted, events keep their numbers under another name and without details. One row for each table, with how many rows that were. The feed gets a new epoch if it had events of the user.';

CREATE FUNCTION @extschema@.presence_metrics()
RETURNS TABLE (name text, labels jsonb, value double precision)
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 1000 ROWS 60;
COMMENT ON FUNCTION @extschema@.presence_metrics() IS
    'Counters since the server''s start, gauges, and histograms, with the names and labels that Prometheus knows them by; cheap however many are online. Without preloading only what the tables know. For roles with access admin, and for pg_monitor.';

-- ---------------------------------------------------------------------------------------------------------------------
-- What the views need to know of shared memory. A view reads its tables as its owner, but runs its functions as the
-- caller, so PUBLIC may execute these. They answer to whoever shows the pass, which only the owner of the views can read,
-- so that a view of presence, whoever made it and for whom, is the only way to them.
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE @extschema@.presence_view_pass (pass uuid NOT NULL PRIMARY KEY);
COMMENT ON TABLE @extschema@.presence_view_pass IS 'What the views show to the functions that they call; another one in each database, and not dumped.';
COMMENT ON COLUMN @extschema@.presence_view_pass.pass IS 'A random number.';
INSERT INTO @extschema@.presence_view_pass VALUES (pg_catalog.gen_random_uuid());

CREATE FUNCTION @extschema@.presence_effective_heartbeat(user_id text, session_id text, heartbeat_at timestamptz, pass uuid DEFAULT NULL)
RETURNS timestamptz AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 20;
COMMENT ON FUNCTION @extschema@.presence_effective_heartbeat(text, text, timestamptz, uuid) IS
    'The later of a session''s recorded and its cached heartbeat. For the views, and for the owner of the extension.';

CREATE FUNCTION @extschema@.presence_is_live(user_id text, session_id text, heartbeat_at timestamptz,
                                             heartbeat_interval interval, leave_until timestamptz, pass uuid DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 20;
COMMENT ON FUNCTION @extschema@.presence_is_live(text, text, timestamptz, interval, timestamptz, uuid) IS
    'Whether a session recorded as online is not stale. For the views, and for the owner of the extension.';

CREATE FUNCTION @extschema@.presence_last_activity(user_id text, session_id text, last_activity timestamptz, pass uuid DEFAULT NULL)
RETURNS timestamptz AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 20;
COMMENT ON FUNCTION @extschema@.presence_last_activity(text, text, timestamptz, uuid) IS
    'The later of a session''s recorded and its cached last activity. For the views, and for the owner of the extension.';

CREATE FUNCTION @extschema@.presence_is_turning(user_id text, session_id text, status text, said text, last_activity timestamptz, pass uuid DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 20;
COMMENT ON FUNCTION @extschema@.presence_is_turning(text, text, text, text, timestamptz, uuid) IS
    'Whether a session is to show another status than recorded, for being inactive. For the owner of the extension.';

CREATE FUNCTION @extschema@.presence_server_state(
    pass uuid DEFAULT NULL,
    OUT preloaded boolean, OUT in_recovery boolean, OUT worker_enabled boolean, OUT worker_pid integer, OUT worker_problem_code text, OUT worker_problem text,
    OUT cached_sessions bigint, OUT cache_hits bigint, OUT cache_misses bigint, OUT cache_bytes bigint, OUT cache_full boolean,
    OUT notify_queue_full boolean, OUT ends_held_since timestamptz, OUT silent_sessions bigint)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 100;
COMMENT ON FUNCTION @extschema@.presence_server_state(uuid) IS
    'What shared memory knows of this database: cache, worker, notification queue. For presence_health, and for the owner of the extension.';

CREATE FUNCTION @extschema@.presence_totals(pass uuid DEFAULT NULL, OUT online_users bigint, OUT stale_users bigint, OUT sessions bigint)
AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000;
COMMENT ON FUNCTION @extschema@.presence_totals(uuid) IS
    'How many users are online, how many have only stale sessions, and how many sessions are live. For presence_health, and for the owner of the extension.';

CREATE TYPE @extschema@.presence_user_summary AS (
    online boolean, status text, sessions integer, online_since timestamptz, last_seen timestamptz, heartbeat_at timestamptz, session_id text
);
COMMENT ON TYPE @extschema@.presence_user_summary IS 'What the sessions of a user add up to.';
COMMENT ON COLUMN @extschema@.presence_user_summary.online IS 'Has a session that is neither ended nor stale.';
COMMENT ON COLUMN @extschema@.presence_user_summary.status IS 'Most present status of the live sessions; NULL when offline.';
COMMENT ON COLUMN @extschema@.presence_user_summary.sessions IS 'Number of live sessions.';
COMMENT ON COLUMN @extschema@.presence_user_summary.online_since IS 'When the user came online; NULL when offline.';
COMMENT ON COLUMN @extschema@.presence_user_summary.last_seen IS 'heartbeat_at of an online user; the last heartbeat or goodbye of an offline one.';
COMMENT ON COLUMN @extschema@.presence_user_summary.heartbeat_at IS 'Last heartbeat, of the live sessions where there are any.';
COMMENT ON COLUMN @extschema@.presence_user_summary.session_id IS 'The session that beat last; empty for the unnamed one.';

CREATE FUNCTION @extschema@.presence_summary_transfn(internal, user_id text, session_id text, online boolean, status text,
                                                 online_since timestamptz, heartbeat_at timestamptz, heartbeat_interval interval,
                                                 ended_at timestamptz, end_reason text, leave_until timestamptz, pass uuid)
RETURNS internal AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE COST 20;
COMMENT ON FUNCTION @extschema@.presence_summary_transfn(internal, text, text, boolean, text, timestamptz, timestamptz, interval, timestamptz, text, timestamptz, uuid) IS
    'Adds a session to presence_summary.';

CREATE FUNCTION @extschema@.presence_summary_finalfn(internal)
RETURNS @extschema@.presence_user_summary AS 'MODULE_PATHNAME' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.presence_summary_finalfn(internal) IS 'Result of presence_summary.';

CREATE AGGREGATE @extschema@.presence_summary(text, text, boolean, text, timestamptz, timestamptz, interval, timestamptz, text, timestamptz, uuid) (
    SFUNC = @extschema@.presence_summary_transfn, STYPE = internal, SSPACE = 160, FINALFUNC = @extschema@.presence_summary_finalfn, PARALLEL = SAFE
);
COMMENT ON AGGREGATE @extschema@.presence_summary(text, text, boolean, text, timestamptz, timestamptz, interval, timestamptz, text, timestamptz, uuid) IS
    'Adds up the rows of a user''s sessions by what is recorded and cached of each. For the view presence, and for the owner of the extension.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW @extschema@.presence_sessions AS
SELECT u.user_id COLLATE pg_catalog."default" AS user_id,
       CASE WHEN s.session_id <> '' THEN s.session_id END COLLATE pg_catalog."default" AS session_id,
       s.online AND s.ended_at IS NULL
           AND @extschema@.presence_is_live(s.user_id, s.session_id, s.heartbeat_at, coalesce(-s.timeout, s.heartbeat_interval), s.leave_until,
                                            (SELECT pass FROM @extschema@.presence_view_pass)) AS online,
       s.status,
       s.joined_at,
       CASE WHEN s.online AND s.ended_at IS NULL
            THEN @extschema@.presence_effective_heartbeat(s.user_id, s.session_id, s.heartbeat_at, (SELECT pass FROM @extschema@.presence_view_pass))
            ELSE s.heartbeat_at END AS heartbeat_at,
       s.ended_at,
       s.end_reason,
       s.user_agent,
       s.ip_address,
       s.heartbeat_interval,
       s.metadata,
       CASE WHEN s.online AND s.ended_at IS NULL
            THEN @extschema@.presence_last_activity(s.user_id, s.session_id, s.last_activity, (SELECT pass FROM @extschema@.presence_view_pass))
            ELSE s.last_activity END AS last_activity,
       s.policy COLLATE pg_catalog."default" AS policy
FROM @extschema@.presence_session AS s
LEFT JOIN @extschema@.presence_user AS u ON u.user_id = s.user_id;
COMMENT ON VIEW @extschema@.presence_sessions IS 'One row per session still retained.';
COMMENT ON COLUMN @extschema@.presence_sessions.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_sessions.session_id IS 'Id of the session; NULL for the unnamed one.';
COMMENT ON COLUMN @extschema@.presence_sessions.online IS 'Neither ended nor stale.';
COMMENT ON COLUMN @extschema@.presence_sessions.status IS 'active, busy, idle or away; the last one where the session has ended.';
COMMENT ON COLUMN @extschema@.presence_sessions.joined_at IS 'When it began.';
COMMENT ON COLUMN @extschema@.presence_sessions.heartbeat_at IS 'Last heartbeat, cached ones included.';
COMMENT ON COLUMN @extschema@.presence_sessions.ended_at IS 'When it ended; NULL while it lasts.';
COMMENT ON COLUMN @extschema@.presence_sessions.end_reason IS 'leave, disconnect, timeout or admin.';
COMMENT ON COLUMN @extschema@.presence_sessions.user_agent IS 'Client software.';
COMMENT ON COLUMN @extschema@.presence_sessions.ip_address IS 'Client address.';
COMMENT ON COLUMN @extschema@.presence_sessions.heartbeat_interval IS 'How often the client promised to beat.';
COMMENT ON COLUMN @extschema@.presence_sessions.metadata IS 'What the application wants others to see.';
COMMENT ON COLUMN @extschema@.presence_sessions.last_activity IS 'When somebody was last active there, cached times included; NULL: never told.';
COMMENT ON COLUMN @extschema@.presence_sessions.policy IS 'Name of the policy that it goes by; NULL: the settings.';

-- The join only fetches the details of the session that beat last; where they are not asked for, it is not done.
CREATE VIEW @extschema@.presence AS
SELECT u.user_id COLLATE pg_catalog."default" AS user_id,
       (u.summary).online,
       (u.summary).status,
       (u.summary).sessions,
       (u.summary).online_since,
       (u.summary).last_seen,
       (u.summary).heartbeat_at,
       CASE WHEN (u.summary).session_id <> '' THEN (u.summary).session_id END AS session_id,
       latest.user_agent,
       latest.ip_address,
       latest.metadata
FROM (SELECT u.user_id,
             @extschema@.presence_summary(s.user_id, s.session_id, s.online,
                                          CASE WHEN s.status_choice IS NULL OR s.choice_until <= pg_catalog.clock_timestamp() THEN s.status ELSE s.status_choice END,
                                          s.online_since, s.heartbeat_at, coalesce(-s.timeout, s.heartbeat_interval), s.ended_at, s.end_reason, s.leave_until, (SELECT pass FROM @extschema@.presence_view_pass)) AS summary
      FROM @extschema@.presence_session AS s
      JOIN @extschema@.presence_user AS u ON u.user_id = s.user_id
      GROUP BY u.user_id) AS u
LEFT JOIN @extschema@.presence_session AS latest ON latest.user_id = u.user_id AND latest.session_id = (u.summary).session_id;
COMMENT ON VIEW @extschema@.presence IS 'One row per user still retained.';
COMMENT ON COLUMN @extschema@.presence.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence.online IS 'Has a session that is neither ended nor stale.';
COMMENT ON COLUMN @extschema@.presence.status IS 'The chosen status, else the most present one of the live sessions: active, busy, idle, away; NULL when offline.';
COMMENT ON COLUMN @extschema@.presence.sessions IS 'Number of live sessions.';
COMMENT ON COLUMN @extschema@.presence.online_since IS 'When the user came online; NULL when offline.';
COMMENT ON COLUMN @extschema@.presence.last_seen IS 'heartbeat_at of an online user; the last heartbeat or goodbye of an offline one.';
COMMENT ON COLUMN @extschema@.presence.heartbeat_at IS 'Last heartbeat of any live session, cached ones included.';
COMMENT ON COLUMN @extschema@.presence.session_id IS 'The session that beat last; NULL for the unnamed one.';
COMMENT ON COLUMN @extschema@.presence.user_agent IS 'Its client software.';
COMMENT ON COLUMN @extschema@.presence.ip_address IS 'Its client address.';
COMMENT ON COLUMN @extschema@.presence.metadata IS 'Its metadata.';

CREATE VIEW @extschema@.presence_diagnosis AS
WITH server AS MATERIALIZED (
    SELECT * FROM @extschema@.presence_server_state((SELECT pass FROM @extschema@.presence_view_pass))
), live AS MATERIALIZED (
    SELECT * FROM @extschema@.presence_totals((SELECT pass FROM @extschema@.presence_view_pass))
), waiting AS MATERIALIZED (
    SELECT pg_catalog.count(*) AS events, pg_catalog.min(at) AS oldest FROM @extschema@.presence_event_queue
), cleanup AS MATERIALIZED (
    SELECT pg_catalog.max(last_at) AS last_at FROM @extschema@.presence_cleanup
), facts AS MATERIALIZED (
    SELECT (SELECT pg_catalog.count(*) FROM @extschema@.presence_user) AS total_users,
           (SELECT at FROM @extschema@.presence_event ORDER BY id LIMIT 1) AS oldest_event,
           (SELECT pg_catalog.max(at) FROM @extschema@.presence_admin_log WHERE action = 'review') AS reviewed_at,
           pg_catalog.pg_total_relation_size('@extschema@.presence_user'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_session'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_hidden_session'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_room_member'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_room_count'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_event'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_feed_range'::pg_catalog.regclass)
           + pg_catalog.pg_total_relation_size('@extschema@.presence_admin_log'::pg_catalog.regclass) AS table_bytes
)
SELECT facts.total_users,
       live.online_users,
       live.stale_users,
       live.sessions,
       server.cached_sessions,
       server.cache_hits,
       server.cache_misses,
       server.worker_pid,
       cleanup.last_at AS last_cleanup_at,
       waiting.events AS unpublished_events,
       waiting.oldest AS oldest_unpublished,
       facts.table_bytes,
       found.codes,
       found.problem
FROM server, live, waiting, cleanup, facts,
LATERAL (
    SELECT coalesce(pg_catalog.array_agg(listed.code), '{}') AS codes, coalesce(pg_catalog.array_agg(listed.problem), '{}') AS problem
    FROM (VALUES
        ('not_preloaded', CASE WHEN NOT server.preloaded THEN
                'The library is not preloaded, so each heartbeat writes to the table: add presence to shared_preload_libraries and restart the server.' END),
        ('cache_full', CASE WHEN server.cache_full THEN
                'Shared memory for heartbeats is used up, so some heartbeats write to the table: give the server more shared memory (/dev/shm).' END),
        (server.worker_problem_code, server.worker_problem),
        ('ends_held', CASE WHEN server.ends_held_since IS NOT NULL THEN
                pg_catalog.format('%s sessions are silent, and presence.expiry_guard has held their ends since %s: see whether the application servers reach the database. If heartbeats do not come back, the sessions end at %s (presence.max_timeout), or at once if you set presence.expiry_guard to 0 and reload.',
                                  server.silent_sessions, server.ends_held_since, server.ends_held_since + pg_catalog.current_setting('presence.max_timeout')::pg_catalog.interval) END),
        ('stale_users', CASE WHEN NOT server.in_recovery AND live.stale_users > 0 AND server.worker_pid IS NULL THEN
                pg_catalog.format('%s users are silent for longer than their timeout and not yet ended: run SELECT cleanup_stale_presence(), or schedule it with SELECT presence_schedule_cleanup().', live.stale_users) END),
        ('events_waiting', CASE WHEN NOT server.in_recovery AND waiting.oldest < pg_catalog.clock_timestamp() - '1 minute'::pg_catalog.interval
                      AND server.worker_pid IS NOT NULL THEN
                pg_catalog.format('%s events have waited to be published since %s: see the server log for what stops the worker.', waiting.events, waiting.oldest) END),
        ('events_unnumbered', CASE WHEN NOT server.in_recovery AND waiting.events > 100000 AND server.worker_pid IS NULL THEN
                pg_catalog.format('%s events are not numbered: nobody reads the feed, so run SELECT presence_schedule_cleanup().', waiting.events) END),
        ('notify_queue_full', CASE WHEN server.notify_queue_full THEN
                'The notification queue of the server is more than half full: find the listener that stays in a transaction (pg_stat_activity, state idle in transaction) and end it.' END),
        ('no_cleanup', CASE WHEN NOT server.in_recovery AND server.worker_pid IS NULL AND live.sessions > 0
                      AND coalesce(cleanup.last_at, '-infinity') < pg_catalog.clock_timestamp() - '10 minutes'::pg_catalog.interval
                      AND EXISTS (SELECT FROM @extschema@.presence_session WHERE joined_at < pg_catalog.clock_timestamp() - '10 minutes'::pg_catalog.interval) THEN
                'No cleanup has run for ten minutes and there is no worker: run SELECT presence_schedule_cleanup().' END),
        ('events_kept_too_long', CASE WHEN NOT server.in_recovery
                      AND facts.oldest_event < pg_catalog.clock_timestamp()
                          - pg_catalog.current_setting('presence.event_retention')::pg_catalog.interval
                          - '1 day'::pg_catalog.interval THEN
                'Events are kept longer than presence.event_retention: run SELECT presence_schedule_cleanup(), or SELECT scheduled_presence_cleanup() by hand.' END),
        ('changed_by_hand', CASE WHEN facts.reviewed_at > pg_catalog.clock_timestamp() - '1 hour'::pg_catalog.interval THEN
                pg_catalog.format('Tables of the extension were changed by hand; a review brought everything in line again at %s: see the rows with action review in presence_admin_log, and use the functions instead.', facts.reviewed_at) END)
    ) AS listed (code, problem)
    WHERE listed.problem IS NOT NULL
) AS found;
COMMENT ON VIEW @extschema@.presence_diagnosis IS 'What presence_health and presence_problem show parts of.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.total_users IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.online_users IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.stale_users IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.sessions IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.cached_sessions IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.cache_hits IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.cache_misses IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.worker_pid IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.last_cleanup_at IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.unpublished_events IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.oldest_unpublished IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.table_bytes IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.problem IS 'See presence_health.';
COMMENT ON COLUMN @extschema@.presence_diagnosis.codes IS 'A short name for each element of problem.';

CREATE VIEW @extschema@.presence_health AS
SELECT total_users, online_users, stale_users, sessions, cached_sessions, cache_hits, cache_misses, worker_pid, last_cleanup_at,
       unpublished_events, oldest_unpublished, table_bytes, problem
FROM @extschema@.presence_diagnosis;
COMMENT ON VIEW @extschema@.presence_health IS 'One row for the DBA: numbers, and in problem what is wrong and what to do.';
COMMENT ON COLUMN @extschema@.presence_health.total_users IS 'Users still retained, online or not.';
COMMENT ON COLUMN @extschema@.presence_health.online_users IS 'Users online.';
COMMENT ON COLUMN @extschema@.presence_health.stale_users IS 'Users whose last session is stale but not yet ended.';
COMMENT ON COLUMN @extschema@.presence_health.sessions IS 'Live sessions.';
COMMENT ON COLUMN @extschema@.presence_health.cached_sessions IS 'Sessions in the shared-memory cache; 0 without it.';
COMMENT ON COLUMN @extschema@.presence_health.cache_hits IS 'Heartbeats since server start that touched no table.';
COMMENT ON COLUMN @extschema@.presence_health.cache_misses IS 'Heartbeats since server start that took the table path.';
COMMENT ON COLUMN @extschema@.presence_health.worker_pid IS 'Process of this database''s worker; NULL where there is none.';
COMMENT ON COLUMN @extschema@.presence_health.last_cleanup_at IS 'When cleanup last ran by a call or by schedule.';
COMMENT ON COLUMN @extschema@.presence_health.unpublished_events IS 'Events that are not numbered yet.';
COMMENT ON COLUMN @extschema@.presence_health.oldest_unpublished IS 'When the oldest of them happened.';
COMMENT ON COLUMN @extschema@.presence_health.table_bytes IS 'Disk space of tables and indexes.';
COMMENT ON COLUMN @extschema@.presence_health.problem IS 'What is wrong and what to do, a sentence each; empty when all is well.';

CREATE VIEW @extschema@.presence_problem AS
SELECT found.code, found.problem
FROM @extschema@.presence_diagnosis AS d, ROWS FROM (pg_catalog.unnest(d.codes), pg_catalog.unnest(d.problem)) AS found (code, problem);
COMMENT ON VIEW @extschema@.presence_problem IS 'One row for each element of presence_health.problem, for monitoring; none when all is well.';
COMMENT ON COLUMN @extschema@.presence_problem.code IS 'A short name that stays the same, for alerts.';
COMMENT ON COLUMN @extschema@.presence_problem.problem IS 'What is wrong and what to do.';

CREATE VIEW @extschema@.presence_online_history AS
SELECT at, person_seconds / nullif(seconds, 0) AS average, peak, peak_at
FROM @extschema@.presence_report_slot;
COMMENT ON VIEW @extschema@.presence_online_history IS 'How many people were online, for each five minutes.';
COMMENT ON COLUMN @extschema@.presence_online_history.at IS 'When the five minutes began.';
COMMENT ON COLUMN @extschema@.presence_online_history.average IS 'How many were online on average.';
COMMENT ON COLUMN @extschema@.presence_online_history.peak IS 'How many at most.';
COMMENT ON COLUMN @extschema@.presence_online_history.peak_at IS 'When they first were.';

CREATE VIEW @extschema@.presence_flapping AS
SELECT hour, user_id COLLATE pg_catalog."default" AS user_id, returns
FROM @extschema@.presence_report_return
WHERE returns >= 5;
COMMENT ON VIEW @extschema@.presence_flapping IS 'Who flaps: people who within an hour came back five times or more within a minute after going offline.';
COMMENT ON COLUMN @extschema@.presence_flapping.hour IS 'When the hour began.';
COMMENT ON COLUMN @extschema@.presence_flapping.user_id IS 'Id of the user.';
COMMENT ON COLUMN @extschema@.presence_flapping.returns IS 'How often the user came back within a minute in this hour.';

CREATE VIEW @extschema@.presence_daily_users AS
SELECT d.day, d.users, d.users_7d, d.users_30d, d.arrivals, online.average, online.peak, online.peak_at, flapping.users AS flapping
FROM @extschema@.presence_report_day AS d
CROSS JOIN LATERAL (
    SELECT pg_catalog.sum(person_seconds) / nullif(pg_catalog.sum(seconds), 0) AS average, pg_catalog.max(peak) AS peak,
           (pg_catalog.array_agg(peak_at ORDER BY peak DESC, at))[1] AS peak_at
    FROM @extschema@.presence_report_slot WHERE at >= d.day::timestamp AT TIME ZONE 'UTC' AND at < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
) AS online
CROSS JOIN LATERAL (
    SELECT pg_catalog.count(DISTINCT user_id) AS users
    FROM @extschema@.presence_flapping WHERE hour >= d.day::timestamp AT TIME ZONE 'UTC' AND hour < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
) AS flapping
WHERE d.day <= (pg_catalog.clock_timestamp() AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW @extschema@.presence_daily_users IS 'People, arrivals and peaks of each day in UTC; the last day is not over yet.';
COMMENT ON COLUMN @extschema@.presence_daily_users.day IS 'The day in UTC.';
COMMENT ON COLUMN @extschema@.presence_daily_users.users IS 'How many different people were online on it.';
COMMENT ON COLUMN @extschema@.presence_daily_users.users_7d IS 'How many in the seven days that end with it.';
COMMENT ON COLUMN @extschema@.presence_daily_users.users_30d IS 'How many in the thirty days that end with it.';
COMMENT ON COLUMN @extschema@.presence_daily_users.arrivals IS 'How often somebody came online.';
COMMENT ON COLUMN @extschema@.presence_daily_users.average IS 'How many were online on average.';
COMMENT ON COLUMN @extschema@.presence_daily_users.peak IS 'How many at most.';
COMMENT ON COLUMN @extschema@.presence_daily_users.peak_at IS 'When they first were.';
COMMENT ON COLUMN @extschema@.presence_daily_users.flapping IS 'How many people flapped, see presence_flapping.';

CREATE VIEW @extschema@.presence_session_lengths AS
SELECT day, at_least, less_than, pg_catalog.sum(sessions)::bigint AS sessions
FROM @extschema@.presence_report_end GROUP BY day, at_least, less_than;
COMMENT ON VIEW @extschema@.presence_session_lengths IS 'How long the sessions were that ended on each day.';
COMMENT ON COLUMN @extschema@.presence_session_lengths.day IS 'The day in UTC.';
COMMENT ON COLUMN @extschema@.presence_session_lengths.at_least IS 'They lasted at least so long; NULL: nobody knows when they began.';
COMMENT ON COLUMN @extschema@.presence_session_lengths.less_than IS 'And less long than this; NULL: or longer.';
COMMENT ON COLUMN @extschema@.presence_session_lengths.sessions IS 'How many they were.';

CREATE VIEW @extschema@.presence_leave_reasons AS
SELECT day, reason, pg_catalog.sum(sessions)::bigint AS sessions
FROM @extschema@.presence_report_end GROUP BY day, reason;
COMMENT ON VIEW @extschema@.presence_leave_reasons IS 'Why the sessions ended that did so on each day.';
COMMENT ON COLUMN @extschema@.presence_leave_reasons.day IS 'The day in UTC.';
COMMENT ON COLUMN @extschema@.presence_leave_reasons.reason IS 'leave, disconnect, timeout or admin.';
COMMENT ON COLUMN @extschema@.presence_leave_reasons.sessions IS 'How many they were.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Rights: what changes or reveals presence is closed until it is granted.
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE @extschema@.presence_access (read boolean, self boolean, write boolean, admin boolean);
COMMENT ON TABLE @extschema@.presence_access IS 'Always empty: SELECT on a column is what presence_grant() has granted; \dp shows to whom.';
COMMENT ON COLUMN @extschema@.presence_access.read IS 'May see who is online, as far as presence_can_see() and presence_can_enter() let it, without addresses and agents.';
COMMENT ON COLUMN @extschema@.presence_access.self IS 'May beat, leave, join rooms and choose a status as presence_current_user() only.';
COMMENT ON COLUMN @extschema@.presence_access.write IS 'May beat, leave, join rooms and choose a status for everybody, and sees everybody.';
COMMENT ON COLUMN @extschema@.presence_access.admin IS 'May do everything that is no superuser''s affair.';

CREATE FUNCTION @extschema@.presence_grant(role regrole, access text)
RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.presence_grant(regrole, text) IS
    'Lets a role use presence: read, self, write or admin, see presence_access. Error 22023 for any other access.';

CREATE FUNCTION @extschema@.presence_revoke(role regrole, access text)
RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE COST 10000;
COMMENT ON FUNCTION @extschema@.presence_revoke(regrole, text) IS
    'Takes back what presence_grant() gave; what the role has by another access stays.';

-- Where somebody else logged in for the caller, as PostgREST and Supabase do, the token says who the caller is. A role that
-- has logged in itself could write any token.
CREATE FUNCTION @extschema@.presence_current_user() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$SELECT CASE WHEN current_user <> session_user AND current_setting('request.jwt.claims', true) <> ''
            THEN current_setting('request.jwt.claims', true)::json ->> 'sub' ELSE session_user::text END$$;
COMMENT ON FUNCTION @extschema@.presence_current_user() IS
    'Whom a role with access self acts for: the subject in request.jwt.claims, else the session''s user; NULL: nobody. Replace it where identities come from elsewhere.';

CREATE FUNCTION @extschema@.presence_can_see(viewer text, user_id text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT true';
COMMENT ON FUNCTION @extschema@.presence_can_see(text, text) IS
    'Whether somebody who has only access read is shown that user; viewer is presence_current_user(). Replace it to hide people from each other.';

CREATE FUNCTION @extschema@.presence_can_enter(viewer text, room text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT true';
COMMENT ON FUNCTION @extschema@.presence_can_enter(text, text) IS
    'Whether somebody who has only access read or self may look into that room, or join it; viewer is presence_current_user(). Replace it to close rooms.';

CREATE FUNCTION @extschema@.presence_policy_for(user_id text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT NULL::text';
COMMENT ON FUNCTION @extschema@.presence_policy_for(text) IS
    'Name in presence_policies of what that user''s sessions go by which begin without naming a policy; NULL: none. Replace it to give people limits by who they are.';

REVOKE ALL ON FUNCTION
    @extschema@.update_user_heartbeat(@extschema@.presence_id, @extschema@.presence_id, text, inet, interval, text, jsonb, timestamptz, text),
    @extschema@.update_user_heartbeats(@extschema@.presence_id[], @extschema@.presence_id[], timestamptz[]),
    @extschema@.mark_user_offline(@extschema@.presence_id, @extschema@.presence_id),
    @extschema@.handle_user_disconnect(@extschema@.presence_id, @extschema@.presence_id),
    @extschema@.set_user_status(@extschema@.presence_id, text, timestamptz, text),
    @extschema@.get_user_status(@extschema@.presence_id),
    @extschema@.set_session_location(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id, double precision, double precision),
    @extschema@.presence_by_region(),
    @extschema@.presence_by_area(integer),
    @extschema@.cleanup_stale_presence(),
    @extschema@.scheduled_presence_cleanup(),
    @extschema@.presence_schedule_cleanup(text),
    @extschema@.presence_unschedule_cleanup(),
    @extschema@.presence_grant(regrole, text),
    @extschema@.presence_revoke(regrole, text),
    @extschema@.get_active_users(integer, text),
    @extschema@.is_user_online(@extschema@.presence_id),
    @extschema@.get_presence(@extschema@.presence_id[]),
    @extschema@.presence_count(),
    @extschema@.presence_changes_since(bigint, integer, @extschema@.presence_id),
    @extschema@.join_room(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id, jsonb),
    @extschema@.leave_room(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id),
    @extschema@.join_rooms(@extschema@.presence_id[], @extschema@.presence_id[], @extschema@.presence_id[]),
    @extschema@.get_room(@extschema@.presence_id, integer, text),
    @extschema@.room_count(@extschema@.presence_id),
    @extschema@.get_user_rooms(@extschema@.presence_id),
    @extschema@.room_snapshot(@extschema@.presence_id),
    @extschema@.presence_room_channel(@extschema@.presence_id),
    @extschema@.presence_snapshot(),
    @extschema@.presence_feed_position(),
    @extschema@.presence_metrics(),
    @extschema@.set_typing(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id, interval),
    @extschema@.clear_typing(@extschema@.presence_id, @extschema@.presence_id, @extschema@.presence_id),
    @extschema@.get_typing(@extschema@.presence_id),
    @extschema@.presence_verify(),
    @extschema@.presence_reset(),
    @extschema@.presence_forget_user(@extschema@.presence_id),
    @extschema@.presence_roll_up(timestamptz),
    @extschema@.presence_note_change(),
    @extschema@.presence_policies_changed(),
    @extschema@.presence_feed_place(regclass),
    @extschema@.presence_event_payload(bigint, timestamptz, text, text, text, text, integer, jsonb, text, text)
FROM PUBLIC;

-- Numbers without names, for whoever watches the server.
GRANT EXECUTE ON FUNCTION @extschema@.presence_metrics() TO pg_monitor;
GRANT SELECT ON @extschema@.presence_health, @extschema@.presence_problem TO pg_monitor;

-- The script of a trusted extension runs as a superuser. What it made belongs to whoever asked for it, except functions in
-- C, whose owner could declare them to be something that they are not; the right to execute those can be passed on.
DO $do$
DECLARE
    owner CONSTANT pg_catalog.regrole := $owner$@extowner@$owner$;
    member pg_catalog.record;
BEGIN
    FOR member IN
        SELECT d.classid, d.objid, c.relkind, t.typtype, p.prokind, l.lanname
        FROM pg_catalog.pg_depend AS d
        JOIN pg_catalog.pg_extension AS e ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
             AND e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'presence'
        LEFT JOIN pg_catalog.pg_class AS c ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid OPERATOR(pg_catalog.=) d.objid
        LEFT JOIN pg_catalog.pg_type AS t ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid OPERATOR(pg_catalog.=) d.objid
        LEFT JOIN pg_catalog.pg_proc AS p ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid OPERATOR(pg_catalog.=) d.objid
        LEFT JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang
        WHERE d.deptype OPERATOR(pg_catalog.=) 'e'
    LOOP
        CASE
            WHEN member.relkind IN ('r', 'v', 'c') THEN  -- sequences follow their tables
                EXECUTE pg_catalog.format(CASE member.relkind WHEN 'c' THEN 'ALTER TYPE %s OWNER TO %s' ELSE 'ALTER TABLE %s OWNER TO %s' END,
                                          member.objid::pg_catalog.regclass, owner);
            WHEN member.prokind OPERATOR(pg_catalog.=) 'a' OR member.lanname OPERATOR(pg_catalog.=) 'sql' THEN
                EXECUTE pg_catalog.format('ALTER ROUTINE %s OWNER TO %s', member.objid::pg_catalog.regprocedure, owner);
            WHEN member.prokind OPERATOR(pg_catalog.=) 'f' THEN
                EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s WITH GRANT OPTION', member.objid::pg_catalog.regprocedure, owner);
            ELSE NULL;
        END CASE;
    END LOOP;
END
$do$;
