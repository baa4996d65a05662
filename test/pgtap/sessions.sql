-- Several sessions of a user, departures, tombstones, timeouts, the feed and the errors.
BEGIN;
SELECT plan(24);

SELECT ok(update_user_heartbeat('alice', 'one'), 'a first heartbeat begins a session');
SELECT ok(update_user_heartbeat('alice', 'two'), 'and a second tab another');
SELECT is((SELECT sessions FROM get_active_users() WHERE user_id = 'alice'), 2, 'the list shows both');
SELECT ok(NOT mark_user_offline('alice', 'one'), 'closing one of two tabs takes nobody offline');
SELECT ok(EXISTS (SELECT FROM get_active_users() WHERE user_id = 'alice'), 'the user stays in the list');
SELECT ok(NOT update_user_heartbeat('alice', 'one'), 'a late heartbeat of the closed tab is ignored');
SELECT ok(handle_user_disconnect('alice', 'two'), 'the last tab takes the user offline');
SELECT ok(NOT handle_user_disconnect('alice', 'two'), 'a second disconnect is harmless');
SELECT ok(NOT mark_user_offline('nobody'), 'an unknown user is no error');
SELECT is((SELECT array_agg(event || ':' || sessions ORDER BY id) FROM presence_event_queue WHERE user_id = 'alice'),
          ARRAY['session_start:1', 'user_online:1', 'session_start:2', 'session_end:1', 'session_end:0', 'user_offline:0'],
          'the events tell it in order');
SELECT is(update_user_heartbeats(ARRAY[7, 8, 7], ARRAY[NULL, 'x', NULL]), 3, 'a batch counts its elements');
SELECT is(presence_count(), 2::bigint, 'two users are online');
SELECT is(presence_count(), (SELECT count(*) FROM presence WHERE online), 'the view agrees');
SELECT ok(update_user_heartbeat(7, status => 'idle', metadata => '{"mood": "fine"}'), 'details are taken');
SELECT is((SELECT status FROM get_presence(ARRAY[7])), 'idle', 'and shown');
SELECT is((SELECT count(*) FROM presence_events WHERE user_id = '7' AND event = 'update'), 1::bigint, 'by one update event');
SELECT ok(update_user_heartbeat(7, status => 'idle', metadata => '{"mood": "fine"}'), 'the same details again');
SELECT is((SELECT count(*) FROM presence_events WHERE user_id = '7' AND event = 'update'), 1::bigint, 'write no event');
UPDATE presence_session SET heartbeat_at = heartbeat_at - interval '1 day' WHERE user_id = '8';
-- The server's start counts as a heartbeat, so silence needs a timeout shorter than the server's age.
SELECT ok(update_user_heartbeat(7, heartbeat_interval => '1 hour'), 'user 7 promises little');
SET LOCAL presence.timeout = '1ms';
SELECT is(cleanup_stale_presence(), 1, 'cleanup ends whom it has to, and not the one who promised little');
SELECT is((SELECT reason FROM presence_events WHERE user_id = '8' AND event = 'user_offline'), 'timeout', 'timeouts are in the feed');
SELECT throws_ok($$SELECT update_user_heartbeat(NULL)$$, '22004');
SELECT throws_ok($$SELECT update_user_heartbeat('a', status => 'happy')$$, '22023');
SELECT throws_ok($$SELECT update_user_heartbeats(ARRAY['a'], ARRAY['b', 'c'])$$, '2202E');

SELECT * FROM finish();
ROLLBACK;
