-- The twin: what a change of presence writes, as plain tables of the same shape without anything behind them. A user, a
-- session and two events for each that begins; the same rows changed and two more events for each that ends; an entry of the log
-- for each that ends by a call of its own.
CREATE TABLE twin_user (
    user_id text COLLATE "C" PRIMARY KEY, online boolean NOT NULL, sessions integer NOT NULL, status text,
    online_since timestamptz, offline_at timestamptz);
CREATE TABLE twin_session (
    user_id text COLLATE "C" NOT NULL, session_id text COLLATE "C" NOT NULL, online boolean NOT NULL, status text NOT NULL,
    online_since timestamptz NOT NULL, joined_at timestamptz NOT NULL, heartbeat_at timestamptz NOT NULL,
    heartbeat_interval interval, ended_at timestamptz, end_reason text, user_agent text, ip_address inet, metadata jsonb,
    PRIMARY KEY (user_id, session_id));
CREATE TABLE twin_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, event text NOT NULL, user_id text NOT NULL,
    session_id text, reason text, sessions integer NOT NULL, details jsonb, channel text);
CREATE TABLE twin_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), action text NOT NULL,
    actor text NOT NULL, details jsonb);

-- One set-based statement.
CREATE FUNCTION twin_joins(users text[], sessions text[]) RETURNS bigint LANGUAGE sql AS $$
    WITH joined AS MATERIALIZED (SELECT u, s, clock_timestamp() AS t FROM unnest(users, sessions) AS given (u, s)),
    of_user AS (INSERT INTO twin_user (user_id, online, sessions, status, online_since) SELECT u, true, 1, 'active', t FROM joined),
    of_session AS (INSERT INTO twin_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at)
                   SELECT u, s, true, 'active', t, t, t FROM joined),
    events AS (INSERT INTO twin_event (at, event, user_id, session_id, reason, sessions, details, channel)
               SELECT t, event, u, s, 'heartbeat', 1, '{"status": "active", "metadata": null}', 'presence'
               FROM joined, unnest(ARRAY['session_start', 'user_online']) AS event)
    SELECT count(*) FROM joined
$$;
CREATE FUNCTION twin_ends(users text[]) RETURNS bigint LANGUAGE sql AS $$
    WITH ended AS (UPDATE twin_user SET online = false, sessions = 0, status = NULL, offline_at = clock_timestamp()
                   WHERE user_id = ANY (users) RETURNING user_id, offline_at),
    of_session AS (UPDATE twin_session AS s SET online = false, ended_at = offline_at, end_reason = 'timeout' FROM ended AS e
                   WHERE s.user_id = e.user_id RETURNING s.user_id, s.session_id, e.offline_at),
    events AS (INSERT INTO twin_event (at, event, user_id, session_id, reason, sessions, channel)
               SELECT offline_at, event, user_id, session_id, 'timeout', 0, 'presence'
               FROM of_session, unnest(ARRAY['session_end', 'user_offline']) AS event)
    SELECT count(*) FROM ended
$$;

-- Single calls: three INSERTs; a goodbye with its entry in the log.
CREATE FUNCTION twin_join(u text, s text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    t timestamptz := clock_timestamp();
BEGIN
    INSERT INTO twin_user (user_id, online, sessions, status, online_since) VALUES (u, true, 1, 'active', t);
    INSERT INTO twin_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at)
    VALUES (u, s, true, 'active', t, t, t);
    INSERT INTO twin_event (at, event, user_id, session_id, reason, sessions, details, channel)
    VALUES (t, 'session_start', u, s, 'heartbeat', 1, '{"status": "active", "metadata": null}', 'presence'),
           (t, 'user_online', u, s, 'heartbeat', 1, '{"status": "active", "metadata": null}', 'presence');
    RETURN true;
END $$;
CREATE FUNCTION twin_end(u text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM twin_ends(ARRAY[u]);
    INSERT INTO twin_log (action, actor, details)
    VALUES ('mark_user_offline', current_user, jsonb_build_object('user_id', u, 'session_id', 's', 'users_offline', 1, 'sessions_ended', 1));
    RETURN true;
END $$;

CREATE SEQUENCE batch;
CREATE SEQUENCE person CACHE 100;
