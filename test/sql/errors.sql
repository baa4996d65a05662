-- Each error has its SQLSTATE, names the argument, shows it cut, and writes nothing.
SET client_min_messages = warning;
CREATE EXTENSION presence;
\getenv test_dir PG_ABS_SRCDIR
\set helpers :test_dir /sql/helpers.psql
\set ECHO none
\i :helpers
\set ECHO all
\set VERBOSITY terse
CALL show_error($$SELECT update_user_heartbeat(NULL)$$);
CALL show_error($$SELECT update_user_heartbeat('')$$);
CALL show_error($$SELECT update_user_heartbeat(repeat('x', 256))$$);
CALL show_error($$SELECT update_user_heartbeat('a', '')$$);
CALL show_error($$SELECT update_user_heartbeat('a', repeat('x', 256))$$);
CALL show_error($$SELECT update_user_heartbeat(E'a\tb')$$);
CALL show_error($$SELECT update_user_heartbeat('a', heartbeat_interval => '-1 s')$$);
CALL show_error($$SELECT update_user_heartbeat('a', heartbeat_interval => '0')$$);
CALL show_error($$SELECT update_user_heartbeat('a', heartbeat_interval => '2 days')$$);
CALL show_error($$SELECT update_user_heartbeat('a', heartbeat_interval => '100000000 years')$$);
CALL show_error($$SELECT update_user_heartbeat('a', status => 'happy')$$);
CALL show_error($$SELECT update_user_heartbeat('a', status => repeat('h', 5000))$$);
CALL show_error($$SELECT update_user_heartbeat('a', status => '')$$);
CALL show_error($$SELECT update_user_heartbeat('a', metadata => jsonb_build_object('k', repeat('m', 5000)))$$);
CALL show_error($$SELECT update_user_heartbeat('a', metadata => jsonb_build_object('k', repeat('m', 500000)))$$);
CALL show_error($$SELECT update_user_heartbeat('a', metadata => (SELECT jsonb_agg(1e131071) FROM generate_series(1, 5000)))$$);
CALL show_error($$SELECT update_user_heartbeat('a', metadata => (repeat('[', 33) || repeat(']', 33))::jsonb)$$);
CALL show_error($$SELECT set_typing(NULL, 'b', 'c')$$);
CALL show_error($$SELECT set_typing('a', 'b', NULL)$$);
CALL show_error($$SELECT set_typing('a', 'b', '')$$);
CALL show_error($$SELECT set_typing('a', 'b', repeat('x', 256))$$);
CALL show_error($$SELECT set_typing('a', 'b', 'c', '0.999 s')$$);
CALL show_error($$SELECT set_typing('a', 'b', 'c', '61 s')$$);
CALL show_error($$SELECT set_typing('a', 'b', 'c', '-100000000 years')$$);
CALL show_error($$SELECT clear_typing(NULL, 'b')$$);
CALL show_error($$SELECT get_typing(NULL)$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['a'], ARRAY['b', 'c'])$$);
CALL show_error($$SELECT update_user_heartbeats(NULL, ARRAY['b'])$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['a', NULL], ARRAY['b', 'c'])$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['a', 'b'], NULL)$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['a', ''], ARRAY['b', 'c'])$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['a', repeat('x', 256)], ARRAY['b', 'c'])$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['a', 'b'], ARRAY['b', E'\r'])$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY[]::text[], ARRAY['b'])$$);
CALL show_error($$SELECT mark_user_offline(NULL)$$);
CALL show_error($$SELECT mark_user_offline('a', '')$$);
CALL show_error($$SELECT handle_user_disconnect(NULL)$$);
CALL show_error($$SELECT handle_user_disconnect('', 'a')$$);
CALL show_error($$SELECT * FROM get_presence(ARRAY['a', ''])$$);
CALL show_error($$SELECT is_user_online(NULL)$$);
CALL show_error($$SELECT * FROM presence_changes_since(NULL)$$);
CALL show_error($$SELECT * FROM presence_changes_since(0, 0)$$);
CALL show_error($$SELECT * FROM presence_changes_since(0, -1)$$);
CALL show_error($$SELECT set_user_status(NULL, 'busy')$$);
CALL show_error($$SELECT set_user_status('', 'busy')$$);
CALL show_error($$SELECT set_user_status('a', 'idle')$$);
CALL show_error($$SELECT set_user_status('a', repeat('h', 5000))$$);
CALL show_error($$SELECT set_user_status('a', 'busy', '2020-01-01 00:00+00')$$);
CALL show_error($$SELECT set_user_status('a', NULL, '-infinity')$$);
CALL show_error($$SELECT set_user_status('a', 'busy', message => repeat('m', 1025))$$);
CALL show_error($$SELECT * FROM get_user_status(NULL)$$);
CALL show_error($$SELECT presence_schedule_cleanup(NULL)$$, false);
CALL show_error($$SELECT presence_schedule_cleanup()$$, false);
CALL show_error($$SELECT presence_unschedule_cleanup()$$, false);
-- Nothing was written by any of them, neither users nor events nor log.
SELECT (SELECT count(*) FROM presence) AS users, (SELECT count(*) FROM presence_user) AS recorded, (SELECT count(*) FROM presence_sessions) AS sessions,
       (SELECT count(*) FROM presence_events) AS events, (SELECT count(*) FROM presence_admin_log) AS log;
-- A long user agent is cut, not refused, and not in the middle of a character.
SELECT update_user_heartbeat('agent', user_agent => 'x' || repeat('é', 2000));
SELECT octet_length(user_agent) FROM presence WHERE user_id = 'agent';
-- A known session is no excuse: the way through the cache and the way through the table refuse the same.
SELECT update_user_heartbeat('agent');
CALL show_error($$SELECT update_user_heartbeat('agent', status => 'happy')$$);
CALL show_error($$SELECT update_user_heartbeat('agent', heartbeat_interval => '-1 s')$$);
CALL show_error($$SELECT update_user_heartbeat('agent', metadata => jsonb_build_object('k', repeat('m', 5000)))$$);
SELECT update_user_heartbeat('agent', metadata => jsonb_build_object('k', repeat('m', 4087)));   -- 4,096 bytes as text
BEGIN READ ONLY;
CALL show_error($$SELECT update_user_heartbeat('agent')$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['agent'], ARRAY[NULL])$$);
CALL show_error($$SELECT mark_user_offline('agent')$$);
CALL show_error($$SELECT handle_user_disconnect('agent')$$);
CALL show_error($$SELECT set_user_status('agent', 'busy')$$);
CALL show_error($$SELECT cleanup_stale_presence()$$);
CALL show_error($$SELECT scheduled_presence_cleanup()$$);
CALL show_error($$SELECT set_typing('a', 'b', 'c')$$);
CALL show_error($$SELECT clear_typing('a', 'b')$$);
CALL show_error($$SELECT presence_schedule_cleanup()$$);
CALL show_error($$SELECT presence_unschedule_cleanup()$$);
-- Readers work there.
SELECT user_id FROM get_active_users();
SELECT is_user_online('agent'), presence_count();
SELECT user_id, online FROM get_presence(ARRAY['agent']);
SELECT count(*) FROM get_typing('c');
SELECT * FROM get_user_status('agent');
SELECT count(*) FROM presence_snapshot();
SELECT count(*) >= 0 AS works FROM presence_changes_since(0);
ROLLBACK;
-- Limits of what one caller can fill.
SET presence.max_sessions_per_user = 2;
SELECT update_user_heartbeats(ARRAY['limited', 'limited'], ARRAY['1', '2']);
CALL show_error($$SELECT update_user_heartbeat('limited', '3')$$);
CALL show_error($$SELECT update_user_heartbeats(ARRAY['other', 'limited'], ARRAY['1', '3'])$$);
SELECT update_user_heartbeat('limited', '2', status => 'busy');
SELECT user_id, sessions FROM get_active_users() WHERE user_id IN ('limited', 'other');
RESET presence.max_sessions_per_user;
-- Rooms.
CALL show_error($$SELECT join_room(NULL, 'tab', 'room')$$);
CALL show_error($$SELECT join_room('ann', 'tab', NULL)$$);
CALL show_error($$SELECT join_room('ann', 'tab', '')$$);
CALL show_error($$SELECT join_room('ann', 'tab', repeat('x', 256))$$);
CALL show_error($$SELECT join_room('ann', 'tab', 'room', to_jsonb(repeat('x', 4096)))$$);
CALL show_error($$SELECT leave_room('ann', 'tab', NULL)$$);
CALL show_error($$SELECT join_rooms('{ann}', '{tab}', '{}')$$);
CALL show_error($$SELECT join_rooms('{ann,NULL}', '{tab,tab}', '{room,room}')$$);
CALL show_error($$SELECT join_rooms('{ann}', '{tab}', '{NULL}')$$);
CALL show_error($$SELECT join_rooms(NULL, '{tab}', '{room}')$$);
CALL show_error($$SELECT * FROM get_room(NULL)$$);
CALL show_error($$SELECT * FROM get_room('room', 0)$$);
CALL show_error($$SELECT * FROM get_room('room', 10, 'nobody')$$);
CALL show_error($$SELECT room_count(NULL)$$);
CALL show_error($$SELECT * FROM get_user_rooms(NULL)$$);
CALL show_error($$SELECT * FROM room_snapshot(NULL)$$);
SET presence.max_rooms_per_session = 1;
SELECT join_room('ann', 'tab', 'room');
CALL show_error($$SELECT join_room('ann', 'tab', 'other')$$);
CALL show_error($$SELECT join_rooms('{ann}', '{tab}', '{other}')$$);
RESET presence.max_rooms_per_session;
BEGIN READ ONLY;
CALL show_error($$SELECT join_room('ann', 'tab', 'room')$$);
CALL show_error($$SELECT leave_room('ann', 'tab', 'room')$$);
CALL show_error($$SELECT join_rooms('{ann}', '{tab}', '{room}')$$);
COMMIT;
SELECT room, count(*) FROM presence_room_member GROUP BY room;
DROP PROCEDURE show_error;
DROP EXTENSION presence;
