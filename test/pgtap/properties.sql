-- Random histories of few users and sessions. After every step the same invariants hold, whatever happened.
\ir helpers.psql
SELECT plan(40);

CREATE TEMP TABLE broken (invariant text, step integer, operation text, detail text);
-- What a reader of the feed knows, from one snapshot and then events only.
CREATE TEMP TABLE model (user_id text PRIMARY KEY, status text, sessions integer, metadata jsonb, message text);
-- What others could see of somebody who has just become invisible.
CREATE TEMP TABLE last_sight (user_id text PRIMARY KEY, seen text);
CREATE FUNCTION pg_temp.sight(who text) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s %s %s %s', (SELECT p FROM presence AS p WHERE user_id = who), (SELECT array_agg(s ORDER BY session_id) FROM presence_sessions AS s WHERE user_id = who),
                  (SELECT g FROM get_presence(ARRAY[who]) AS g), is_user_online(who), (SELECT count(*) FROM presence_events WHERE user_id = who)) $$;
CREATE TEMP TABLE room_model (room text, user_id text, PRIMARY KEY (room, user_id));
CREATE TEMP TABLE model_position AS SELECT 0::bigint AS seq;

CREATE FUNCTION pg_temp.pick(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT choices[1 + floor(random() * cardinality(choices))::integer] $$;

-- One random call. What it says is compared with what others see before and after.
CREATE FUNCTION pg_temp.operate(step integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    who text := pg_temp.pick('u1', 'u2', 'u3', 'u4');
    tab text := pg_temp.pick('s1', 's2', 's3', NULL);
    place text := pg_temp.pick('r1', 'r2', 'r3');
    before text[] := (SELECT array_agg(user_id ORDER BY user_id) FROM presence WHERE online);
    was boolean := is_user_online(who);
    said boolean;
    number integer;
    operation text := pg_temp.pick('join', 'join', 'join', 'quit', 'beat', 'beat', 'beat', 'change', 'change', 'batch', 'leave', 'disconnect', 'leave all', 'silence', 'list', 'undone', 'status', 'status');
BEGIN
    IF operation = 'undone' THEN
        BEGIN
            PERFORM pg_temp.operate(-1), pg_temp.operate(-1);
            RAISE SQLSTATE 'UNDO1';
        EXCEPTION WHEN SQLSTATE 'UNDO1' THEN RETURN operation;
        END;
    END IF;
    PERFORM set_config('presence.rejoin_guard', pg_temp.pick('0', '0', '10s'), true), set_config('presence.leave_grace', pg_temp.pick('0', '1h'), true);
    CASE operation
        WHEN 'join' THEN said := join_room(who, tab, place, pg_temp.pick('{"x": 1}', '{"x": 2}', NULL)::jsonb);
        WHEN 'quit' THEN said := leave_room(who, tab, place);
        WHEN 'beat' THEN said := update_user_heartbeat(who, tab);
        WHEN 'change' THEN
            said := update_user_heartbeat(who, tab, pg_temp.pick('Firefox', 'Safari', NULL), pg_temp.pick('192.0.2.1', '2001:db8::1', NULL)::inet,
                                          pg_temp.pick('1 hour', '1 ms', NULL)::interval, pg_temp.pick('active', 'busy', 'idle', 'away', NULL),
                                          pg_temp.pick('{"x": 1}', '{"x": 2}', 'null', NULL)::jsonb);
        WHEN 'batch' THEN number := update_user_heartbeats(ARRAY[who, 'u1', 'u4', who], ARRAY[tab, 's1', NULL, 's2']);
        WHEN 'leave' THEN said := mark_user_offline(who, tab);
        WHEN 'disconnect' THEN said := handle_user_disconnect(who, tab);
        WHEN 'leave all' THEN said := mark_user_offline(who);
        -- Of u4 alone, because nobody else can tell what becomes of the sessions.
        WHEN 'status' THEN
            said := set_user_status(who, CASE WHEN who = 'u4' THEN pg_temp.pick('invisible', 'invisible', 'busy', 'active', NULL) ELSE pg_temp.pick('busy', 'away', 'active', NULL) END,
                                    clock_timestamp() + pg_temp.pick('1 hour', NULL)::interval, pg_temp.pick('x', 'y', NULL));
            DELETE FROM last_sight WHERE user_id = who AND NOT EXISTS (SELECT FROM presence_user AS u WHERE u.user_id = who AND status_choice = 'invisible');
        WHEN 'list' THEN number := count(*) FROM get_active_users();
        WHEN 'silence' THEN
            PERFORM set_config('presence.timeout', '1ms', true), pg_sleep(0.004);
            before := (SELECT array_agg(user_id ORDER BY user_id) FROM presence_session WHERE online);
            number := cleanup_stale_presence();
            PERFORM set_config('presence.timeout', '2min', true);
    END CASE;
    IF operation IN ('beat', 'change', 'join') AND said AND NOT is_user_online(who) AND NOT EXISTS (SELECT FROM presence_user WHERE user_id = who AND status_choice = 'invisible') THEN
        INSERT INTO broken VALUES ('results', step, operation, 'true, but not online'); END IF;
    -- Nothing but a tombstone knows of a session whose goodbye came first.
    IF operation IN ('beat', 'change') AND NOT said AND who <> 'u4' AND (tab IS NULL OR EXISTS (SELECT FROM presence_sessions WHERE user_id = who AND session_id = tab AND (online OR end_reason = 'timeout'))) THEN
        INSERT INTO broken VALUES ('results', step, operation, 'ignored, but did not end on purpose'); END IF;
    IF operation IN ('leave', 'disconnect', 'leave all') AND said IS DISTINCT FROM (was AND NOT is_user_online(who)) THEN
        INSERT INTO broken VALUES ('results', step, operation, format('%s said %s', who, said)); END IF;
    IF operation = 'silence' AND number <> (SELECT count(*) FROM (SELECT DISTINCT unnest(before) AS id) AS b WHERE NOT is_user_online(id)) THEN
        INSERT INTO broken VALUES ('results', step, operation, 'cleanup counted ' || number); END IF;
    IF operation = 'list' AND number <> presence_count() THEN
        INSERT INTO broken VALUES ('results', step, operation, 'listed ' || number); END IF;
    RETURN operation;
END $$;

CREATE FUNCTION pg_temp.expect(what text, step integer, operation text, offenders text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO broken SELECT what, step, operation, offenders WHERE offenders IS NOT NULL $$;

CREATE FUNCTION pg_temp.check_all(step integer, operation text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE e record;
BEGIN
    -- All readers agree.
    PERFORM pg_temp.expect('readers agree', step, operation, (SELECT string_agg(p::text || ' / ' || coalesce(a::text, '-') || ' / ' || coalesce(g::text, '-'), '; ')
        FROM presence AS p LEFT JOIN get_active_users() AS a USING (user_id) LEFT JOIN get_presence((SELECT array_agg(user_id) FROM presence)) AS g USING (user_id)
        WHERE p.online <> (a.user_id IS NOT NULL) OR g.online IS DISTINCT FROM p.online OR is_user_online(p.user_id) <> p.online
           OR a.status IS DISTINCT FROM p.status OR g.status IS DISTINCT FROM p.status OR g.last_seen IS DISTINCT FROM p.last_seen OR g.sessions IS DISTINCT FROM p.sessions
           OR (p.online AND (a.sessions <> p.sessions OR a.online_since <> p.online_since OR a.heartbeat_at <> p.heartbeat_at OR a.metadata IS DISTINCT FROM p.metadata OR g.metadata IS DISTINCT FROM p.metadata))
           OR p.sessions <> (SELECT count(*) FROM presence_sessions AS s WHERE s.user_id = p.user_id AND s.online)));
    PERFORM pg_temp.expect('counts agree', step, operation, (SELECT format('%s, %s, %s, %s', presence_count(), online, h.online_users, h.sessions)
        FROM presence_health AS h, (SELECT count(*) FILTER (WHERE p.online) AS online, sum(p.sessions) AS sessions FROM presence AS p) AS v
        WHERE presence_count() <> v.online OR h.online_users <> v.online OR h.sessions <> coalesce(v.sessions, 0)));
    -- What is recorded agrees with what is shown, as nobody is stale.
    PERFORM pg_temp.expect('records agree', step, operation, (SELECT string_agg(u::text || ' / ' || p::text, '; ') FROM (SELECT * FROM presence_user AS u WHERE online OR EXISTS (SELECT FROM presence_session AS s WHERE s.user_id = u.user_id)) AS u
        FULL JOIN presence AS p USING (user_id)
        WHERE u.online IS DISTINCT FROM p.online OR u.sessions IS DISTINCT FROM p.sessions OR u.status IS DISTINCT FROM p.status
           OR (p.online AND u.online_since IS DISTINCT FROM p.online_since)));
    PERFORM pg_temp.expect('times are in order', step, operation, (SELECT string_agg(s::text, '; ') FROM presence_sessions AS s
        WHERE s.joined_at > s.heartbeat_at OR s.heartbeat_at > clock_timestamp() OR s.ended_at < s.joined_at OR s.online <> (s.ended_at IS NULL) OR (s.end_reason IS NULL) <> s.online));
    -- The feed.
    IF NOT pg_temp.numbered() THEN RAISE 'not numbered'; END IF;
    FOR e IN SELECT * FROM presence_changes_since((SELECT seq FROM model_position), 1000000) LOOP
        PERFORM pg_temp.expect('no gaps', step, operation, (SELECT e::text FROM model_position WHERE e.seq <> seq + 1));
        UPDATE model_position SET seq = e.seq;
        IF e.room IS NOT NULL THEN
            PERFORM pg_temp.expect('room_join and room_leave alternate', step, operation, CASE
                WHEN (e.event = 'room_join') = EXISTS (SELECT FROM room_model WHERE room = e.room AND user_id = e.user_id) THEN e::text END);
            IF e.event = 'room_join' THEN INSERT INTO room_model VALUES (e.room, e.user_id); END IF;
            IF e.event = 'room_leave' THEN DELETE FROM room_model WHERE room = e.room AND user_id = e.user_id; END IF;
            CONTINUE;
        END IF;
        PERFORM pg_temp.expect('online and offline alternate', step, operation, CASE
            WHEN (e.event = 'user_online') = EXISTS (SELECT FROM model WHERE user_id = e.user_id) AND e.event IN ('user_online', 'user_offline') THEN e::text END);
        CASE e.event
            WHEN 'user_online' THEN INSERT INTO model VALUES (e.user_id, e.details ->> 'status', e.sessions) ON CONFLICT DO NOTHING;
            WHEN 'user_offline' THEN DELETE FROM model WHERE user_id = e.user_id;
            WHEN 'update' THEN UPDATE model SET status = e.details ->> 'status', sessions = e.sessions WHERE user_id = e.user_id;
            ELSE UPDATE model SET sessions = e.sessions WHERE user_id = e.user_id;
        END CASE;
        -- "Status and metadata as others see them."
        UPDATE model SET metadata = nullif(e.details -> 'metadata', 'null'), message = e.details ->> 'message' WHERE user_id = e.user_id AND e.details IS NOT NULL;
    END LOOP;
    PERFORM pg_temp.expect('rooms and feed agree', step, operation, (SELECT string_agg(coalesce(m::text, '-') || ' / ' || coalesce(g::text, '-'), '; ')
        FROM room_model AS m FULL JOIN (SELECT room, g.user_id FROM unnest(ARRAY['r1', 'r2', 'r3']) AS room, get_room(room) AS g
                                        UNION SELECT room, s.user_id FROM unnest(ARRAY['r1', 'r2', 'r3']) AS room, room_snapshot(room) AS s WHERE s.user_id IS NOT NULL) AS g USING (room, user_id)
        WHERE m.user_id IS NULL OR g.user_id IS NULL));
    PERFORM pg_temp.expect('rooms are counted', step, operation, (SELECT string_agg(format('%s: %s', room, room_count(room)), '; ') FROM unnest(ARRAY['r1', 'r2', 'r3']) AS r (room)
        WHERE room_count(room) <> (SELECT count(*) FROM room_model AS m WHERE m.room = r.room)));
    PERFORM pg_temp.expect('who is in a room is online', step, operation, (SELECT string_agg(m::text, '; ') FROM room_model AS m WHERE NOT is_user_online(user_id)));
    PERFORM pg_temp.expect('snapshot and feed agree', step, operation, (SELECT string_agg(coalesce(m::text, '-') || ' / ' || coalesce(s::text, '-'), '; ')
        FROM model AS m FULL JOIN (SELECT * FROM presence_snapshot() AS s WHERE s.user_id IS NOT NULL) AS s USING (user_id)
        WHERE m.user_id IS NULL OR s.user_id IS NULL OR m.status IS DISTINCT FROM s.status OR m.sessions IS DISTINCT FROM s.sessions));
    PERFORM pg_temp.expect('messages agree', step, operation, (SELECT string_agg(m::text || ' / ' || s::text, '; ')
        FROM model AS m, get_user_status(m.user_id) AS s WHERE m.status IS DISTINCT FROM s.status OR m.message IS DISTINCT FROM s.message));
    INSERT INTO last_sight SELECT user_id, pg_temp.sight(user_id) FROM presence_user WHERE status_choice = 'invisible' ON CONFLICT DO NOTHING;
    PERFORM pg_temp.expect('nothing shows of who is invisible', step, operation, (SELECT string_agg(format('%s / %s', seen, pg_temp.sight(user_id)), '; ')
        FROM last_sight WHERE seen <> pg_temp.sight(user_id)));
    PERFORM pg_temp.expect('presence_verify() finds nothing', step, operation, (SELECT string_agg(v::text, '; ') FROM presence_verify() AS v));
    -- With several sessions it is a matter of which one beat last, which is no event.
    PERFORM pg_temp.expect('metadata agree', step, operation, (SELECT string_agg(m::text || ' / ' || s::text, '; ')
        FROM model AS m JOIN presence_snapshot() AS s USING (user_id) WHERE s.sessions = 1 AND nullif(s.metadata, 'null') IS DISTINCT FROM m.metadata));
    PERFORM pg_temp.expect('the snapshot is at the end of the feed', step, operation, (SELECT string_agg(DISTINCT s.seq::text, ' ') FROM presence_snapshot() AS s WHERE s.seq <> (SELECT seq FROM model_position)));
    PERFORM pg_temp.expect('events sum up to who is online', step, operation, (SELECT total::text FROM (SELECT coalesce(sum(CASE event WHEN 'user_online' THEN 1 WHEN 'user_offline' THEN -1 END), 0) AS total
        FROM presence_events) AS t WHERE total <> presence_count()));
    PERFORM pg_temp.expect('session events sum up to the sessions', step, operation, (SELECT total::text FROM (SELECT coalesce(sum(CASE event WHEN 'session_start' THEN 1 WHEN 'session_end' THEN -1 END), 0) AS total
        FROM presence_events) AS t WHERE total <> (SELECT count(*) FROM presence_sessions WHERE online)));
END $$;

-- Each step is committed, as applications do, so that the cache takes part.
CREATE PROCEDURE live(seed double precision, steps integer) LANGUAGE plpgsql AS $$
DECLARE operation text;
BEGIN
    PERFORM setseed(seed);
    FOR step IN 1 .. steps LOOP
        operation := pg_temp.operate(step);
        COMMIT;
        PERFORM pg_temp.check_all(step, operation);
        COMMIT;
    END LOOP;
END $$;

CREATE FUNCTION pg_temp.verdict(named text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE what text;
BEGIN
    FOREACH what IN ARRAY ARRAY['results', 'readers agree', 'counts agree', 'records agree', 'times are in order', 'no gaps', 'online and offline alternate',
                                'snapshot and feed agree', 'the snapshot is at the end of the feed', 'events sum up to who is online', 'session events sum up to the sessions', 'metadata agree',
                                'room_join and room_leave alternate', 'rooms and feed agree', 'rooms are counted', 'who is in a room is online',
                                'messages agree', 'nothing shows of who is invisible', 'presence_verify() finds nothing'] LOOP
        RETURN NEXT is((SELECT format('step %s, %s: %s', step, operation, left(detail, 500)) FROM broken WHERE invariant = what ORDER BY step LIMIT 1), NULL, format('%s: %s', named, what));
    END LOOP;
    DELETE FROM broken;
END $$;

CALL live(0.42, 120);
SELECT pg_temp.verdict('seed 0.42');
-- And one that nobody has seen before; its number is in the tests' names.
SELECT round((extract(epoch FROM clock_timestamp()) % 1)::numeric, 4) AS seed \gset
CALL live(:seed, 120);
SELECT pg_temp.verdict('seed ' || :'seed');
SELECT is((SELECT array_agg(DISTINCT event) || array_agg(DISTINCT reason) FROM presence_events),
          ARRAY['room_join', 'room_leave', 'room_update', 'session_end', 'session_start', 'update', 'user_offline', 'user_online', 'disconnect', 'heartbeat', 'leave', 'timeout'], 'every event and every reason happened on the way');
SELECT is((SELECT cache_hits > 0 FROM presence_health), (SELECT preloaded FROM presence_server_state()), 'and the cache took part, where there is one');

SELECT * FROM finish();
