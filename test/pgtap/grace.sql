-- presence.leave_grace: a page reload does not flicker. It needs the worker; without one a user goes at once.
\ir helpers.psql
SELECT plan(22);
SELECT preloaded AS has_worker FROM presence_server_state() \gset
SELECT ok(pg_temp.until(CASE WHEN :'has_worker' THEN '(SELECT worker_pid IS NOT NULL FROM presence_health)' ELSE 'true' END), 'where the library is preloaded, the worker is there');

\if :has_worker
SET presence.leave_grace = '1h';
SELECT update_user_heartbeat('ann', 'page', metadata => '{"x": 1}');
SELECT ok(NOT handle_user_disconnect('ann', 'page'), 'a disconnect of the last session takes nobody offline at once');
SELECT ok(pg_temp.online('ann'), 'the user counts as online');
SELECT is((SELECT row(online, sessions, status)::text FROM presence WHERE user_id = 'ann'), '(t,0,active)', 'with no session');
SELECT is((SELECT array_agg(row(user_id, sessions)::text) FROM get_active_users()), ARRAY['(ann,0)'], 'in the list too');
SELECT is((SELECT row(online, sessions)::text FROM get_presence(ARRAY['ann'])), '(t,0)', 'and for friends');
SELECT is((SELECT row(online, end_reason)::text FROM presence_sessions WHERE user_id = 'ann'), '(f,disconnect)', 'while the session has ended');
SELECT ok(NOT update_user_heartbeat('ann', 'page'), 'its late heartbeats are ignored');
SELECT ok(update_user_heartbeat('ann', 'reloaded page'), 'the reloaded page');
SELECT is(pg_temp.told('ann'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_end disconnect', 'session_start heartbeat'], 'comes back without a flicker');
SELECT ok(NOT handle_user_disconnect('ann', 'page'), 'a second disconnect of the old page is harmless');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'ann'), 1, 'to the new one');
SELECT ok(mark_user_offline('ann'), 'leaving on purpose has no grace');
SELECT ok(NOT pg_temp.online('ann'), 'it is at once');
SELECT update_user_heartbeat('ben', 'page');
SELECT ok(NOT handle_user_disconnect('ben', 'page') AND mark_user_offline('ben'), 'who logs out during the grace goes at once');

SET presence.leave_grace = '200ms';
SELECT update_user_heartbeat('cat', 'page');
SELECT handle_user_disconnect('cat', 'page');
SELECT ok(pg_temp.until($$NOT is_user_online('cat')$$), 'who does not come back');
SELECT ok(pg_temp.until($$EXISTS (SELECT FROM presence_changes_since(0) WHERE user_id = 'cat' AND event = 'user_offline')$$), 'is told to have left, by nobody but the worker');
SELECT is(pg_temp.told('cat'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_end disconnect', 'user_offline disconnect'], 'by the disconnect');
SELECT ok((SELECT max(at) FILTER (WHERE event = 'user_offline') - max(at) FILTER (WHERE event = 'session_end') BETWEEN '200 ms' AND '5 s' FROM presence_events WHERE user_id = 'cat'), 'after the grace');
SELECT update_user_heartbeat('dan', 'one'), update_user_heartbeat('dan', 'two');
SELECT handle_user_disconnect('dan', 'one');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'dan'), 1, 'a session that is not the last has no grace');
RESET presence.leave_grace;
SELECT ok(handle_user_disconnect('dan', 'two'), 'nor has anybody by default');
SELECT is(presence_count(), 0::bigint, 'all have left');
\else
SET presence.leave_grace = '1h';
SELECT update_user_heartbeat('ann', 'page');
SELECT ok(handle_user_disconnect('ann', 'page'), 'without a worker a disconnect takes effect at once');
SELECT skip('without a worker there is no grace', 20);
\endif

SELECT * FROM finish();
