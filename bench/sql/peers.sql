-- What people write without the extension: a table with a btree index on the heartbeat, and an upsert in PL/pgSQL.
CREATE TABLE peer_logged (
    user_id      text NOT NULL,
    session_id   text NOT NULL,
    status       text NOT NULL DEFAULT 'active',
    online       boolean NOT NULL DEFAULT true,
    heartbeat_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, session_id)
);
CREATE INDEX ON peer_logged (heartbeat_at);
CREATE UNLOGGED TABLE peer_unlogged (LIKE peer_logged INCLUDING ALL);

CREATE FUNCTION peer_logged_heartbeat(u text, s text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO peer_logged (user_id, session_id, heartbeat_at) VALUES (u, s, clock_timestamp())
    ON CONFLICT (user_id, session_id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at, online = true;
    RETURN true;
END $$;

CREATE FUNCTION peer_unlogged_heartbeat(u text, s text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO peer_unlogged (user_id, session_id, heartbeat_at) VALUES (u, s, clock_timestamp())
    ON CONFLICT (user_id, session_id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at, online = true;
    RETURN true;
END $$;

CREATE FUNCTION peer_logged_heartbeats(users text[], sessions text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    written bigint;
BEGIN
    INSERT INTO peer_logged (user_id, session_id, heartbeat_at)
    SELECT u, s, clock_timestamp() FROM unnest(users, sessions) AS beat (u, s) ORDER BY u, s
    ON CONFLICT (user_id, session_id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at, online = true;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;

CREATE FUNCTION peer_unlogged_heartbeats(users text[], sessions text[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    written bigint;
BEGIN
    INSERT INTO peer_unlogged (user_id, session_id, heartbeat_at)
    SELECT u, s, clock_timestamp() FROM unnest(users, sessions) AS beat (u, s) ORDER BY u, s
    ON CONFLICT (user_id, session_id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at, online = true;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END $$;
