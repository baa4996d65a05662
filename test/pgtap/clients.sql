-- Many real connections at once.
\ir helpers.psql
SELECT plan(11);

-- "First heartbeats of the same user from many connections at once never fail with a duplicate key or a deadlock, and give exactly one user_online."
-- All clients go through the same 25 users in the same order.
\set outcome `printf '\\set n :n + 1\nSELECT update_user_heartbeat(%s || :n, %s || :client_id);\n' "'crowd '" "'tab '" | pgbench -n -c 16 -j 2 -t 25 -D n=0 -f - 2>&1 >/dev/null | grep -E 'ERROR|aborted|fatal' | head -n 3`
SELECT is(:'outcome'::text, '', 'first heartbeats of the same user from many connections at once never fail');
SELECT is(presence_count(), 25::bigint, 'all users are online');
SELECT is((SELECT array_agg(DISTINCT sessions) FROM get_active_users()), ARRAY[16], 'with every session');
SELECT is((SELECT count(*) || ' of ' || count(DISTINCT user_id) FROM presence_events WHERE event = 'user_online'), '25 of 25', 'and give exactly one user_online');
SELECT is((SELECT count(*) || ' of ' || count(DISTINCT (user_id, session_id)) FROM presence_events WHERE event = 'session_start'), '400 of 400', 'and one session_start each');

-- Batches that overlap in opposite order, with departures between them.
SET presence.rejoin_guard = 0;
\set outcome `printf 'SELECT update_user_heartbeats(CASE WHEN :client_id %% 2 = 0 THEN a ELSE d END, array_fill(%s::text, ARRAY[25])) FROM (SELECT array_agg(%s || n ORDER BY n) AS a, array_agg(%s || n ORDER BY n DESC) AS d FROM generate_series(1, 25) AS n) AS b;\nSELECT handle_user_disconnect(%s || (1 + :client_id), %s);\n' "'shared'" "'crowd '" "'crowd '" "'crowd '" "'shared'" | PGOPTIONS='-c presence.rejoin_guard=0' pgbench -n -c 8 -j 2 -t 20 -f - 2>&1 >/dev/null | grep -E 'ERROR|aborted|fatal' | head -n 3`
SELECT is(:'outcome'::text, '', 'batches that overlap in any order never deadlock, nor with departures');
SELECT is((SELECT count(*) FROM presence_admin_log WHERE action = 'handle_user_disconnect'), 160::bigint, 'and all of them ran');

-- Cleanup beside heartbeats of the same sessions.
\set outcome `printf 'SELECT update_user_heartbeat(%s || (1 + :client_id), %s, heartbeat_interval => %s);\nSELECT cleanup_stale_presence();\n' "'crowd '" "'shared'" "'1 hour'" | PGOPTIONS='-c presence.timeout=1ms -c presence.rejoin_guard=0' pgbench -n -c 8 -j 2 -t 20 -f - 2>&1 >/dev/null | grep -E 'ERROR|aborted|fatal' | head -n 3`
SELECT is(:'outcome'::text, '', 'cleanup never deadlocks with a heartbeat');

-- Whatever happened meanwhile, the feed tells a possible story.
SELECT ok(pg_temp.numbered(), 'all events have their number');
SELECT is((SELECT count(*) FROM (SELECT user_id, event, lag(event) OVER (PARTITION BY user_id ORDER BY seq) AS before FROM presence_events WHERE event IN ('user_online', 'user_offline')) AS e
           WHERE event IS NOT DISTINCT FROM before OR (before IS NULL AND event <> 'user_online')), 0::bigint, 'user_online and user_offline strictly alternate per user');
SELECT is((SELECT sum(CASE event WHEN 'user_online' THEN 1 WHEN 'user_offline' THEN -1 ELSE 0 END) FROM presence_events), presence_count(), 'and sum up to who is online');

SELECT * FROM finish();
