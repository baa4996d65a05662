-- Lists, counts and views: that all of them agree, also about who is silent, and that reading writes nothing.
BEGIN;
SELECT plan(40);

-- What each reader says of who is online, as one text; equal where they agree.
CREATE FUNCTION by_list() RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(concat_ws('/', user_id, status, sessions, online_since, heartbeat_at, metadata), ' ' ORDER BY user_id COLLATE "C") FROM get_active_users()$$;
CREATE FUNCTION by_snapshot() RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(concat_ws('/', user_id, status, sessions, online_since, heartbeat_at, metadata), ' ' ORDER BY user_id COLLATE "C") FROM presence_snapshot() WHERE user_id IS NOT NULL$$;
CREATE FUNCTION by_view() RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(concat_ws('/', user_id, status, sessions, online_since, heartbeat_at, metadata), ' ' ORDER BY user_id COLLATE "C") FROM presence WHERE online$$;
CREATE FUNCTION friends_by_call() RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(concat_ws('/', user_id, online, status, last_seen, sessions, metadata), ' ' ORDER BY user_id COLLATE "C")
      FROM get_presence(ARRAY(SELECT user_id FROM presence))$$;
CREATE FUNCTION friends_by_view() RETURNS text LANGUAGE sql AS
    $$SELECT string_agg(concat_ws('/', user_id, online, status, last_seen, sessions, metadata), ' ' ORDER BY user_id COLLATE "C") FROM presence$$;
CREATE FUNCTION counts() RETURNS text LANGUAGE sql AS
    $$SELECT concat_ws(' ', presence_count(), (SELECT count(*) FROM get_active_users()), (SELECT count(*) FROM presence WHERE online),
                       (SELECT online_users FROM presence_health), (SELECT count(*) FROM presence WHERE is_user_online(user_id)),
                       (SELECT count(DISTINCT user_id) FROM presence_sessions WHERE online))$$;
-- Silence is made by moving the recorded heartbeat back, of sessions that are not in the cache.
CREATE FUNCTION add_silent(who text, tab text) RETURNS void LANGUAGE sql AS
    $$INSERT INTO presence_user (user_id, online, sessions, status, online_since) VALUES (who, true, 1, 'active', now() - interval '3 hours');
      INSERT INTO presence_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at)
      VALUES (who, tab, true, 'active', now() - interval '3 hours', now() - interval '3 hours', now() - interval '2 hours')$$;

SELECT is((SELECT count(*) FROM get_active_users()), 0::bigint, 'nobody at first');
SELECT is((SELECT count(*) FROM presence_snapshot() WHERE seq IS NOT NULL AND user_id IS NULL), 1::bigint, 'an empty snapshot is one row with only its position');
SELECT is(counts(), '0 0 0 0 0 0', 'all counts are 0');

SELECT update_user_heartbeat('ann', 'a', status => 'away', metadata => '{"at": "a"}');
SELECT update_user_heartbeat('ann', 'b', status => 'busy', metadata => '{"at": "b"}', user_agent => 'agent b', ip_address => '192.0.2.7');
SELECT update_user_heartbeat('ben');
SELECT update_user_heartbeat('cat', 'c', metadata => jsonb_build_object('long', repeat('x', 4000)));
SELECT update_user_heartbeat('dan', 'd');
SELECT mark_user_offline('dan');
SELECT update_user_heartbeat('ann', 'a');

SELECT is((SELECT string_agg(user_id, ' ') FROM get_active_users()), 'cat ben ann', 'the newest comes first');
SELECT is((SELECT concat_ws(' ', status, sessions, metadata) FROM get_active_users() WHERE user_id = 'ann'), 'busy 2 {"at": "a"}',
          'the most present status, the metadata of the session that beat last');
SELECT is((SELECT length(metadata ->> 'long') FROM get_active_users() WHERE user_id = 'cat'), 4000, 'long metadata comes whole');
SELECT is((SELECT concat_ws(' ', session_id, user_agent, ip_address) FROM presence WHERE user_id = 'ann'), 'a', 'the view shows the details of that session only');
SELECT is(by_snapshot(), by_list(), 'snapshot and list agree');
SELECT is(by_view(), by_list(), 'view and list agree');
SELECT is(friends_by_call(), friends_by_view(), 'friend list and view agree');
SELECT is(counts(), '3 3 3 3 3 3', 'all counts agree');
SELECT is((SELECT concat_ws(' ', online, status, sessions) FROM presence WHERE user_id = 'dan'), 'f 0', 'who left is in the view, offline');
SELECT is((SELECT last_seen FROM presence WHERE user_id = 'dan'), (SELECT ended_at FROM presence_sessions WHERE user_id = 'dan'), 'last seen at the end');
SELECT is((SELECT array_agg(concat_ws(' ', user_id, online, status, sessions) ORDER BY position) FROM get_presence(ARRAY['nobody', 'ann', NULL, 'dan', 'ann'])
           WITH ORDINALITY AS g (user_id, online, status, last_seen, sessions, metadata, position)),
          ARRAY['nobody f', 'ann t busy 2', 'dan f 0'], 'one row for each id asked for, unknown ones offline');
SELECT is((SELECT count(*) FROM get_presence('{}')), 0::bigint, 'an empty friend list');
SELECT ok(NOT is_user_online('nobody') AND NOT is_user_online('dan') AND is_user_online('ben'), 'one user at a time');

-- The silent: not shown, not counted, by anybody.
SELECT set_config('presence.timeout', '1ms', true), set_config('presence.max_timeout', '1h', true);
SELECT update_user_heartbeats(ARRAY['ann', 'ann', 'ben', 'cat'], ARRAY['a', 'b', NULL, 'c']);
SELECT update_user_heartbeat(u, s, heartbeat_interval => '30min') FROM (VALUES ('ann', 'a'), ('ann', 'b'), ('ben', NULL), ('cat', 'c')) AS v (u, s);
SELECT add_silent('flo', 'f');
INSERT INTO presence_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at)
    VALUES ('ben', 'silent', true, 'active', now(), now(), now() - interval '2 hours');
SELECT is((SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM presence WHERE online), 'ann ben cat', 'who is silent is not online in the view');
SELECT is((SELECT concat_ws(' ', online, sessions) FROM presence WHERE user_id = 'flo'), 'f 0', 'but in it');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'ben'), 1, 'a silent session does not count');
SELECT is((SELECT concat_ws(' ', online_users, stale_users, sessions) FROM presence_health), '3 1 4', 'the health view tells them apart');
SELECT ok(NOT is_user_online('flo'), 'not by name');
SELECT is((SELECT online FROM get_presence(ARRAY['flo'])), false, 'nor as a friend');
SAVEPOINT read_only;
SET TRANSACTION READ ONLY;
SELECT is((SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM get_active_users()), 'ann ben cat', 'a read-only transaction gets the same list');
SELECT is((SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM presence_snapshot()), 'ann ben cat', 'and snapshot');
SELECT is((SELECT count(*) FROM presence_session WHERE online AND user_id = 'flo'), 1::bigint, 'which ends nothing');
ROLLBACK TO read_only;
SET LOCAL presence.worker = off;
SELECT is((SELECT count(*) FROM get_active_users()), 3::bigint, 'otherwise the list leaves them out as well');
SELECT is((SELECT string_agg(user_id || session_id || end_reason, ' ' ORDER BY user_id) FROM presence_sessions WHERE user_id IN ('flo', 'ben') AND NOT online),
          'bensilenttimeout floftimeout', 'and ends them where no worker does');
SELECT is((SELECT string_agg(event || reason, ' ' ORDER BY at, event DESC) FROM presence_events WHERE user_id = 'flo'), 'user_offlinetimeout session_endtimeout', 'with their events');
SELECT is((SELECT details FROM presence_admin_log WHERE action = 'get_active_users'), '{"sessions_ended": 2, "users_offline": 1}', 'and a line in the log');
SELECT is(by_view(), by_list(), 'view and list agree again');
SELECT is(friends_by_call(), friends_by_view(), 'so do friend list and view');
SELECT is((SELECT count(*) FROM presence_admin_log WHERE action = 'get_active_users'), 1::bigint, 'a list that meets nobody silent writes nothing');

-- The queries of the contract.
SELECT is((SELECT count(*) FILTER (WHERE online = true AND heartbeat_at < now() - interval '2 minutes') FROM presence), 0::bigint, 'nobody online is silent');

-- One user is found by index, whatever the number of all.
CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; whole text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP whole := whole || line || E'\n'; END LOOP;
    RETURN whole;
END $$;
SELECT update_user_heartbeats(array_agg('many ' || i)::presence_id[], array_agg('one of ' || i)::presence_id[]) FROM generate_series(1, 2000) AS i;
ANALYZE presence_session;
SET LOCAL presence.timeout = '2min';
SELECT doesnt_match(plan_of($$SELECT * FROM presence WHERE user_id = 'many 7'$$), 'Seq Scan on presence_(user|session)', 'the view reads the rows of the user asked for');
SELECT doesnt_match(plan_of($$SELECT * FROM presence_sessions WHERE user_id = 'many 7'$$), 'Seq Scan on presence_(user|session)', 'so does the view of sessions');
SELECT unalike(plan_of('SELECT count(*) FROM presence WHERE online'), '%latest%', 'a count fetches no details');
SELECT is((SELECT concat_ws(' ', online, sessions, session_id) FROM presence WHERE user_id = 'many 7'), 't 1 one of 7', 'with the right result');
SELECT is((SELECT count(*) FROM get_active_users()), 2003::bigint, 'longer lists come whole');
SELECT is(by_view(), by_list(), 'and the view agrees');
SELECT ok(bool_and(later), 'in order') FROM (SELECT online_since <= lag(online_since, 1, 'infinity') OVER (ORDER BY ordinality) AS later FROM get_active_users() WITH ORDINALITY) AS l;

SELECT * FROM finish();
ROLLBACK;
