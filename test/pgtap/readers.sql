-- Views and functions that read: each shows what it should, and all show the same.
\ir helpers.psql
SELECT plan(44);

SELECT is((SELECT count(*) FROM get_active_users()), 0::bigint, 'nobody is online at first');
SELECT is(presence_count(), 0::bigint, 'nobody is counted');
SELECT is((SELECT row(total_users, online_users, stale_users, sessions)::text FROM presence_health), '(0,0,0,0)', 'health counts nobody');

BEGIN;
SELECT update_user_heartbeat('ida', 'old tab', 'Firefox', '192.0.2.1', NULL, 'away', '{"n": 1}');
SELECT pg_sleep(0.002), update_user_heartbeat('ida', 'new tab', 'Safari', '2001:db8::5', '1 minute', 'idle', '{"n": 2}');
SELECT is((SELECT row(online, status, sessions, session_id, user_agent, ip_address, metadata)::text FROM presence WHERE user_id = 'ida'),
          row(true, 'idle'::text, 2, 'new tab'::text, 'Safari'::text, '2001:db8::5'::inet, '{"n": 2}'::jsonb)::text, 'presence: session_id, user_agent, ip_address and metadata are those of the session that beat last');
SELECT pg_sleep(0.002), update_user_heartbeat('ida', 'old tab');
SELECT is((SELECT row(status, session_id, user_agent, metadata)::text FROM presence WHERE user_id = 'ida'),
          row('idle'::text, 'old tab'::text, 'Firefox'::text, '{"n": 1}'::jsonb)::text, 'whichever that is');
SELECT is((SELECT metadata FROM get_active_users()), '{"n": 1}', 'in the list too');
SELECT is((SELECT metadata FROM get_presence(ARRAY['ida'])), '{"n": 1}', 'and in get_presence');
SELECT ok((SELECT p.last_seen = p.heartbeat_at AND p.heartbeat_at = (SELECT max(heartbeat_at) FROM presence_sessions) AND a.heartbeat_at = p.heartbeat_at
           FROM presence AS p JOIN get_active_users() AS a USING (user_id)), 'last_seen of an online user is the last heartbeat of any session');
SELECT is((SELECT online_since FROM presence WHERE user_id = 'ida'), (SELECT min(joined_at) FROM presence_sessions WHERE user_id = 'ida'), 'online_since is when the first session began');
SELECT ok((SELECT bool_and(heartbeat_at >= joined_at AND ended_at IS NULL AND end_reason IS NULL) FROM presence_sessions), 'a living session has no end');
SELECT mark_user_offline('ida', 'old tab');
SELECT is((SELECT row(sessions, session_id, metadata)::text FROM presence WHERE user_id = 'ida'), row(1, 'new tab'::text, '{"n": 2}'::jsonb)::text, 'a session that has ended is not the one that beat last');
SELECT pg_sleep(0.002), mark_user_offline('ida');
SELECT is((SELECT row(online, status, sessions, online_since)::text FROM presence WHERE user_id = 'ida'), row(false, NULL::text, 0, NULL::timestamptz)::text, 'offline: no status, no sessions, no online_since');
SELECT is((SELECT last_seen FROM presence WHERE user_id = 'ida'), (SELECT max(ended_at) FROM presence_sessions WHERE user_id = 'ida'), 'last_seen of a user who said goodbye is when that was');
SELECT is((SELECT last_seen FROM get_presence(ARRAY['ida'])), (SELECT last_seen FROM presence WHERE user_id = 'ida'), 'get_presence says the same');
SELECT ok((SELECT bool_and(ended_at IS NOT NULL AND end_reason = 'leave' AND NOT online) FROM presence_sessions WHERE user_id = 'ida'), 'the sessions keep their end and its reason');
SELECT update_user_heartbeat('jon');
SELECT is((SELECT row(count(*), count(session_id))::text FROM presence_sessions WHERE user_id = 'jon'), '(1,0)', 'the unnamed session has a NULL session_id');
SELECT is((SELECT session_id FROM presence_events WHERE user_id = 'jon' AND event = 'session_start'), NULL, 'in the events as well');
SELECT is((SELECT session_id FROM presence WHERE user_id = 'jon'), NULL, 'and in presence');
SELECT update_user_heartbeat('jon', 'named');
SELECT is((SELECT count(*) FROM presence_sessions WHERE user_id = 'jon' AND online), 2::bigint, 'a named session is another one');

-- get_presence.
SELECT is((SELECT array_agg(row(user_id, online, status, last_seen, sessions, metadata)::text) FROM get_presence(ARRAY['who?'])), ARRAY['(who?,f,,,,)'], 'unknown ids are offline with NULLs');
SELECT is((SELECT array_agg(user_id || ' ' || online ORDER BY user_id) FROM get_presence(ARRAY['jon', 'ida', 'jon', 'who?', 'jon'])), ARRAY['ida false', 'jon true', 'who? false'], 'one row per distinct id asked for');
SELECT is((SELECT count(*) FROM get_presence('{}')), 0::bigint, 'no ids, no rows');
SELECT is((SELECT array_agg(sessions) FROM get_presence(ARRAY['jon'])), ARRAY[2], 'with the number of sessions');

-- The list is in order, newest first.
SELECT update_user_heartbeat(format('order %s', n), 's') FROM generate_series(1, 5) AS n;
SELECT update_user_heartbeat('order 2', 's', status => 'busy');
SELECT results_eq('SELECT user_id FROM get_active_users() WHERE user_id LIKE ''order%''', $$SELECT 'order ' || n FROM generate_series(5, 1, -1) AS n$$, 'newest online_since first, whoever beat last');
SELECT ok((SELECT array_agg(online_since) = array_agg(online_since ORDER BY online_since DESC) FROM get_active_users()), 'in the whole list');
COMMIT;

-- Who is silent is shown by nobody, and ended only by those who may.
SELECT update_user_heartbeat('lives', 's', heartbeat_interval => '1 hour');
SELECT pg_temp.numbered();
BEGIN;
SELECT update_user_heartbeat('silent', 's'), update_user_heartbeat('silent', 't');
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(pg_temp.online('silent'), false, 'is_user_online is never stale');
SELECT is(presence_count(), 1::bigint, 'nor is presence_count');
SELECT is((SELECT array_agg(user_id) FROM presence WHERE online), ARRAY['lives'], 'nor the view');
SELECT is((SELECT row(online, status, sessions)::text FROM get_presence(ARRAY['silent'])), row(false, NULL::text, 0)::text, 'nor get_presence');
SELECT is((SELECT count(*) FROM presence_sessions WHERE online), 1::bigint, 'nor presence_sessions');
SELECT is((SELECT row(online_users, sessions)::text FROM presence_health), '(1,1)', 'nor the numbers of presence_health');
SELECT ok((SELECT stale_users >= 1 FROM presence_health), 'which counts those who wait for a cleanup');
SET LOCAL transaction_read_only = on;
SELECT is((SELECT array_agg(user_id) FROM get_active_users()), ARRAY['lives'], 'get_active_users leaves stale sessions out where the transaction is read-only');
SELECT is((SELECT array_agg(user_id) FROM presence_snapshot()), ARRAY['lives'], 'so does the snapshot');
SELECT is((SELECT count(*) FROM presence_session WHERE user_id = 'silent' AND online), 2::bigint, 'but they do not end them');
ROLLBACK;
BEGIN;
SELECT update_user_heartbeat('silent', 's'), update_user_heartbeat('silent', 't');
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT last_seen FROM presence WHERE user_id = 'silent' \gset
SET LOCAL presence.worker = off;
SELECT is((SELECT array_agg(user_id) FROM get_active_users()), ARRAY['lives'], 'elsewhere');
SELECT is((SELECT count(*) FROM presence_session WHERE user_id = 'silent' AND online), 0::bigint, 'it ends those that it meets, without a worker');
SELECT is((SELECT last_seen FROM presence WHERE user_id = 'silent'), :'last_seen'::timestamptz, 'after which last_seen is still the last heartbeat');
SELECT is((SELECT last_seen FROM get_presence(ARRAY['silent'])), :'last_seen'::timestamptz, 'in get_presence too');
SELECT ok((SELECT bool_and(ended_at > :'last_seen') FROM presence_sessions WHERE user_id = 'silent'), 'and not the end, which is the timeout later');
SELECT is((SELECT array_agg(event || ' ' || reason ORDER BY id) FROM presence_event_queue WHERE user_id = 'silent' AND reason = 'timeout'),
          ARRAY['session_end timeout', 'session_end timeout', 'user_offline timeout'], 'with their events');
ROLLBACK;

-- The queries that must work as they stand, and agree.
SELECT count(*) AS active FROM get_active_users() \gset
SELECT cleanup_stale_presence() AS cleaned \gset
SELECT count(*) AS total_online FROM presence WHERE online = true \gset
SELECT count(*) AS total_users,
       count(*) FILTER (WHERE online = true) AS online_users,
       count(*) FILTER (WHERE online = true AND heartbeat_at < now() - interval '2 minutes') AS stale_users
FROM presence \gset
SELECT is(ARRAY[:active, :total_online, :online_users], array_fill(presence_count()::integer, ARRAY[3]), 'the queries of the reference agree on who is online');
SELECT is(ARRAY[:cleaned, :stale_users], ARRAY[0, 0], 'and that nobody is stale');
SELECT is((SELECT row(total_users, online_users, stale_users)::text FROM presence_health), row(:total_users, :online_users, :stale_users)::text, 'as does presence_health');

SELECT * FROM finish();
