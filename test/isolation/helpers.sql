-- What the specs share. scripts/check loads it into their database, because isolationtester cannot include files.
CREATE SCHEMA helpers;
SELECT format('ALTER DATABASE %I SET search_path = public, helpers', current_database()) \gexec

-- The feed once everything committed is numbered, by whomever.
CREATE FUNCTION helpers.feed(after bigint DEFAULT 0)
RETURNS TABLE (seq bigint, event text, user_id text, session_id text, reason text, sessions integer)
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        PERFORM presence_changes_since(after);
        EXIT WHEN NOT EXISTS (SELECT FROM presence_event_queue);
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN QUERY SELECT e.seq, e.event, e.user_id, e.session_id, e.reason, e.sessions FROM presence_changes_since(after) AS e;
END $$;

-- Waits until all sessions are stale for the caller.
CREATE FUNCTION helpers.all_stale() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM presence_sessions WHERE online) LOOP PERFORM pg_sleep(0.002); END LOOP;
END $$;

-- At the end of each spec: fails where presence_verify() finds anything.
CREATE PROCEDURE helpers.verify() LANGUAGE plpgsql AS $$
DECLARE wrong text;
BEGIN
    EXECUTE format('SELECT string_agg(v::text, %L) FROM %s.presence_verify() AS v', E'\n', (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'presence'))
    INTO wrong;
    IF wrong IS NOT NULL THEN RAISE EXCEPTION 'presence_verify() finds: %', wrong; END IF;
END $$;
