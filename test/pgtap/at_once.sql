-- Very many sessions of one user that end and begin in one call: each has its events, and the last of them is the user's.
\ir helpers.psql
SELECT plan(11);
CREATE FUNCTION pg_temp.beat(first integer, last integer) RETURNS integer LANGUAGE sql VOLATILE AS $$
    SELECT update_user_heartbeats(array_agg('ann'::text), array_agg('s' || n)) FROM generate_series(first, last) AS n
$$;
CREATE FUNCTION pg_temp.events(of_event text, of_reason text) RETURNS integer LANGUAGE sql VOLATILE AS $$
    SELECT count(*)::integer FROM presence_events WHERE event = of_event AND reason = of_reason
$$;

SET presence.max_sessions_per_user = 0;
SELECT is(pg_temp.beat(1, 800), 800, 'many sessions begin in one call');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'ann'), 800, 'and all count');
BEGIN;
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.02);
SELECT is(pg_temp.beat(401, 1600), 1200, 'a call in which all of them are silent, half begin again, and as many are new');
RESET presence.timeout;
SELECT is((SELECT sessions FROM presence WHERE user_id = 'ann'), 1200, 'those of the call are online');
COMMIT;
SELECT is(pg_temp.events('session_end', 'timeout'), 800, 'each that was silent has ended');
SELECT is(pg_temp.events('session_start', 'heartbeat'), 2000, 'each that began has begun');
SELECT is(ARRAY[pg_temp.events('user_offline', 'timeout'), pg_temp.events('user_online', 'heartbeat')], ARRAY[1, 2], 'the user has gone once, and come back');
SELECT is((SELECT max(sessions) FROM presence_events WHERE event = 'session_start'), 1200, 'events say how many there are');
SELECT ok(mark_user_offline('ann'), 'all of them leave in one call');
SELECT is(pg_temp.events('session_end', 'leave'), 1200, 'each with its event');
SELECT is((SELECT count(*)::integer FROM presence_verify()), 0, 'and everything agrees');
SELECT * FROM finish();
