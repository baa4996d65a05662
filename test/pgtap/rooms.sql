-- Rooms: who is in one, from joining to the end of the session, and what the feed tells of it.
\ir helpers.psql
SELECT plan(99);
-- What happened in a room, numbered already or not.
CREATE FUNCTION pg_temp.told_in(which text) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(concat_ws(' ', event, user_id, session_id, reason, sessions, details -> 'metadata') ORDER BY seq, id)
    FROM (SELECT seq, NULL AS id, event, user_id, session_id, reason, sessions, details FROM presence_events WHERE room = which AND seq IS NOT NULL
          UNION ALL SELECT NULL, id, event, user_id, session_id, reason, sessions, details FROM presence_event_queue WHERE room = which) AS e
$$;
CREATE FUNCTION pg_temp.in_room(which text) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN RETURN (SELECT array_agg(concat_ws(' ', user_id, status, sessions, metadata)) FROM get_room(which)); END $$;
CREATE FUNCTION pg_temp.counted(which text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN room_count(which); END $$;
CREATE FUNCTION pg_temp.counts_kept() RETURNS text[] LANGUAGE sql AS
    $$SELECT array_agg(concat_ws(' ', room, users) ORDER BY room) FROM presence_room_count WHERE room IN ('kept', 'empty')$$;
SELECT preloaded AS has_worker FROM presence_server_state() \gset
SELECT ok(pg_temp.until(CASE WHEN :'has_worker' THEN '(SELECT worker_pid IS NOT NULL FROM presence_health)' ELSE 'true' END), 'where the library is preloaded, the worker is there');

-- Joining and leaving.
SELECT ok(join_room('ann', 'tab', 'lobby', '{"x": 1}'), 'joining is a sign of life');
SELECT ok(pg_temp.online('ann'), 'by which the session begins');
SELECT is(pg_temp.in_room('lobby'), ARRAY['ann active 1 {"x": 1}'], 'the user is in the room');
SELECT ok(join_room('ann', 'tab', 'lobby', '{"x": 1}') AND join_room('ann', 'tab', 'lobby'), 'joining again changes nothing');
SELECT is(pg_temp.told_in('lobby'), ARRAY['room_join ann tab heartbeat 1 {"x": 1}'], 'and is not told');
SELECT ok(join_room('ann', 'tab', 'lobby', '{"x": 2}'), 'saying something else');
SELECT is((pg_temp.told_in('lobby'))[2], 'room_update ann tab heartbeat 1 {"x": 2}', 'is a room_update');
SELECT ok(join_room('ann', 'tab two', 'lobby'), 'another session of the same user');
SELECT is(pg_temp.in_room('lobby'), ARRAY['ann active 2 {"x": 2}'], 'does not hide what the first has said');
SELECT is(cardinality(pg_temp.told_in('lobby')), 2, 'and is not told, because nobody came');
SELECT ok(NOT leave_room('ann', 'tab', 'lobby'), 'nobody leaves as long as a session stays');
SELECT is((pg_temp.told_in('lobby'))[3], 'room_update ann tab leave 1 null', 'but what only the other one has said is no longer shown');
SELECT ok(leave_room('ann', 'tab two', 'lobby'), 'the last session takes the user out');
SELECT is((pg_temp.told_in('lobby'))[4], 'room_leave ann tab two leave 0', 'which is told');
SELECT ok(pg_temp.online('ann') AND pg_temp.in_room('lobby') IS NULL, 'the user stays online');
SELECT ok(NOT leave_room('ann', 'tab', 'lobby') AND NOT leave_room('nobody', 'tab', 'lobby') AND NOT leave_room('ann', 'tab', 'nowhere'), 'leaving where one is not is no error');
SELECT ok(join_room('ann', NULL, 'lobby') AND leave_room('ann', NULL, 'lobby'), 'the unnamed session is a session');

-- The end of sessions.
SELECT join_room('ben', 'a', 'lobby'), join_room('ben', 'a', 'attic'), join_room('ben', 'b', 'attic');
SELECT is((SELECT array_agg(concat_ws(' ', room, sessions)) FROM get_user_rooms('ben')), ARRAY['attic 2', 'lobby 1'], 'the rooms of a user');
SELECT ok(NOT mark_user_offline('ben', 'a'), 'a session that ends');
SELECT is((SELECT array_agg(concat_ws(' ', room, sessions)) FROM get_user_rooms('ben')), ARRAY['attic 1'], 'leaves its rooms');
SELECT ok(mark_user_offline('ben'), 'all of them');
SELECT is(pg_temp.told('ben'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'room_join heartbeat', 'room_join heartbeat', 'session_start heartbeat',
          'room_leave leave', 'session_end leave', 'room_leave leave', 'session_end leave', 'user_offline leave'], 'are told to leave before the session ends');
SELECT is((SELECT count(*) FROM presence_room_member), 0::bigint, 'nothing is left of it');
SELECT ok(NOT join_room('ben', 'a', 'lobby'), 'who has said goodbye does not join by a call that it overtook');
SELECT is(pg_temp.counted('lobby'), 0::bigint, 'and is in no room');
SELECT join_room('cat', 'a', 'lobby');
SET presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(pg_temp.in_room('lobby'), NULL, 'a stale session is never shown');
SELECT is(pg_temp.counted('lobby'), 0::bigint, 'nor counted');
SELECT is((SELECT count(*) FROM get_user_rooms('cat')), 0::bigint, 'in none of its rooms');
SELECT cleanup_stale_presence();
RESET presence.timeout;
SELECT is(pg_temp.told('cat'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'room_join heartbeat', 'room_leave timeout', 'session_end timeout', 'user_offline timeout'], 'silence ends it with its reason');
SELECT join_room('dan', 'a', 'lobby');
SELECT handle_user_disconnect('dan', 'a');
SELECT is(pg_temp.told('dan'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'room_join heartbeat', 'room_leave disconnect', 'session_end disconnect', 'user_offline disconnect'], 'so does a page that closes');
SET presence.rejoin_guard = 0;
SET presence.timeout = '1ms';
SELECT join_room('eve', 'a', 'lobby');
SELECT pg_sleep(0.01);
SELECT join_room('eve', 'a', 'attic');
RESET presence.timeout;
SELECT is((SELECT array_agg(room) FROM get_user_rooms('eve')), ARRAY['attic'], 'a session that was silent for too long begins again, without its rooms');
SELECT mark_user_offline('eve');
RESET presence.rejoin_guard;

-- Many at once.
SELECT is(join_rooms(ARRAY['fay', 'gus', 'fay', 'fay'], ARRAY['1', NULL, '1', '2'], ARRAY['x', 'x', 'y', 'x']), 4, 'a gateway joins many rooms at once');
SELECT is(pg_temp.in_room('x'), ARRAY['gus active 1', 'fay active 2'], 'for many users');
SELECT is(join_rooms(ARRAY['fay', 'fay', 'ben'], ARRAY['1', '1', 'a'], ARRAY['x', 'x', 'x']), 2, 'it counts elements, and whose goodbye came first is not in');
SELECT is(join_rooms('{}', '{}', '{}'), 0, 'none is no error');
SELECT is((SELECT array_agg(user_id || ' ' || sessions) FROM get_room('x', 1)), ARRAY['gus 1'], 'a page of a room');
SELECT is((SELECT array_agg(user_id || ' ' || sessions) FROM get_room('x', 10, 'gus')), ARRAY['fay 2'], 'and the next');
SELECT is((SELECT array_agg(g.user_id) FROM get_room('x', 1) AS p, get_room('x', 10, p.user_id || E'\t' || p.entered_at) AS g), ARRAY['fay'], 'also by a place in the list');
SELECT is((SELECT count(*) FROM get_room('x', 10, 'fay')), 0::bigint, 'until there is none');
SELECT throws_ok($$SELECT * FROM get_room('x', 10, 'nobody')$$, '22023', NULL, 'a page after somebody who is not there is refused');
SELECT is(pg_temp.counted('x'), 2::bigint, 'and counted');
SELECT update_user_heartbeat('fay', '2', status => 'busy'), update_user_heartbeat('fay', '1', status => 'away');
SELECT is((pg_temp.in_room('x'))[2], 'fay busy 2', 'a room shows the status of the user');

-- A hundred rooms.
SELECT is(join_rooms(array_agg('hal'::text), array_agg('1'::text), array_agg('r' || i)), 100, 'a session in a hundred rooms') FROM generate_series(1, 100) AS i;
SELECT is((SELECT count(*) FROM get_user_rooms('hal')), 100::bigint, 'is in all of them');
SELECT mark_user_offline('hal', '1');
SELECT is((SELECT count(*) FROM presence_event WHERE user_id = 'hal' AND event = 'room_leave'), 100::bigint, 'and leaves them by its end');
SET presence.max_rooms_per_session = 2;
SELECT join_room('ida', '1', 'x'), join_room('ida', '1', 'y'), join_room('ida', '2', 'z');
SELECT throws_ok($$SELECT join_room('ida', '1', 'z')$$, '53400', NULL, 'the rooms of a session are limited');
SELECT ok(join_room('ida', '1', 'x', '{}'), 'which does not matter to those in which it is');
RESET presence.max_rooms_per_session;

-- The feed.
SELECT ok(pg_temp.numbered(), 'everything has a number');
SELECT is((SELECT array_agg(concat_ws(' ', event, user_id) ORDER BY seq) FROM presence_changes_since(0, 1000, 'attic')), ARRAY['room_join ben', 'room_leave ben', 'room_join eve', 'room_leave eve'], 'the feed of one room');
SELECT is((SELECT array_agg(c::text ORDER BY seq) FROM presence_changes_since(0, 1000, 'attic') AS c), (SELECT array_agg(c::text ORDER BY seq) FROM presence_changes_since(0, 100000) AS c WHERE room = 'attic'), 'is that part of the whole');
SELECT is((SELECT count(*) FROM presence_changes_since((SELECT seq FROM presence_changes_since(0, 2, 'attic') OFFSET 1), 1000, 'attic')), 2::bigint, 'from a number on');
SELECT throws_ok($$SELECT * FROM presence_changes_since(1000000, 10, 'attic')$$, '22023', NULL, 'with the same errors');
SELECT is((SELECT array_agg(concat_ws(' ', user_id, sessions)) FROM room_snapshot('x')), (SELECT array_agg(concat_ws(' ', user_id, sessions)) FROM get_room('x')), 'the snapshot of a room has who is there');
SELECT is((SELECT array_agg(DISTINCT row(s.seq, s.epoch)::text) FROM room_snapshot('x') AS s), (SELECT ARRAY[row(p.seq, p.epoch)::text] FROM presence_feed_position() AS p), 'and where in the feed');
SELECT is((SELECT array_agg(row(user_id, seq IS NOT NULL, epoch IS NOT NULL)::text) FROM room_snapshot('nowhere')), ARRAY['(,t,t)'], 'of an empty one, that only');
SELECT is(presence_event_payload(1, '2026-01-01Z', 'room_join', 'ann', NULL, 'heartbeat', 1, NULL, NULL, 'lobby')::jsonb ->> 'room', 'lobby', 'a notification of a room says which');
SELECT ok(NOT presence_event_payload(1, '2026-01-01Z', 'update', 'ann', NULL, 'heartbeat', 1, NULL)::jsonb ? 'room', 'others do not');
SELECT is(presence_room_channel('lobby'), 'presence:lobby', 'the channel of a room');
SELECT is(presence_room_channel(repeat('x', 60)), 'presence:' || left(encode(sha256(repeat('x', 60)::bytea), 'hex'), 32), 'hashed where the name would be too long');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees');
-- Counts without a row, and of rooms that become empty.
SELECT is((SELECT array_agg(room ORDER BY room) FROM (SELECT room, count(DISTINCT user_id) AS users FROM presence_room_member GROUP BY room) AS m WHERE users <> pg_temp.counted(room)), NULL, 'all counts are right');

-- Who is invisible is in no room.
SELECT join_room('jan', '1', 'cellar'), join_room('jan', '1', 'roof');
SELECT set_user_status('jan', 'invisible');
SELECT ok(pg_temp.in_room('cellar') IS NULL AND pg_temp.counted('cellar') = 0 AND pg_temp.counted('roof') = 0, 'who becomes invisible leaves all rooms');
SELECT ok(NOT join_room('jan', '1', 'cellar') AND pg_temp.counted('cellar') = 0, 'and joins none');
SELECT set_user_status('jan', 'busy');
SELECT ok(join_room('jan', '1', 'cellar'), 'until the choice is another');
SELECT is(pg_temp.in_room('cellar'), ARRAY['jan busy 1'], 'which rooms show');
SELECT is((SELECT array_agg(split_part(t, ' ', 1)) FROM unnest(pg_temp.told_in('cellar')) AS t), ARRAY['room_join', 'room_leave', 'room_join'], 'the feed tells nothing else');

-- Changes by hand are found, and brought in line.
SET client_min_messages = warning;
BEGIN;
DELETE FROM presence_session WHERE user_id = 'gus';
UPDATE presence_room_member SET entered_at = entered_at - '1 hour'::interval WHERE user_id = 'fay' AND session_id = '2';
INSERT INTO presence_room_member (user_id, room, session_id, entered_at, changed_at) VALUES ('ghost', 'x', 'none', now(), now()), ('fay', 'z', '1', now(), now());
DELETE FROM presence_room_member WHERE user_id = 'fay' AND room = 'y';
SELECT is((SELECT array_agg(DISTINCT invariant ORDER BY invariant) FROM presence_verify() WHERE invariant ~ 'room'), ARRAY['a session in a room is online, or is leaving', 'a user in a room is online',
          'a user who is in a room came there', 'a user''s last event in a room agrees with the room', 'the feed counts who is in a room', 'the sessions of a user have one entered_at in a room'],
          'what disagrees is named');
COMMIT;
SELECT ok(pg_temp.sound(), 'soon after, everything agrees');
SELECT is(pg_temp.in_room('x'), ARRAY['ida active 1 {}', 'fay busy 2'], 'whose session is gone has left');
SELECT set_eq($$SELECT concat_ws(' ', event, user_id, reason, room) FROM presence_event WHERE reason = 'admin' AND room IS NOT NULL$$,
          ARRAY['room_join fay admin z', 'room_leave fay admin y', 'room_leave gus admin x'], 'of which the feed tells');
UPDATE presence_room_count SET users = users + 1 WHERE room = 'x';
SELECT ok(pg_temp.sound(), 'a wrong count');
SELECT is(pg_temp.counted('x'), 2::bigint, 'is corrected');

-- presence_reset().
SELECT presence_reset();
SELECT is((SELECT count(*) FROM presence_room_member) + (SELECT count(*) FROM presence_room_count), 0::bigint, 'a reset leaves nothing');
SELECT ok(join_room('ann', 'new', 'lobby') AND pg_temp.counted('lobby') = 1, 'and everything begins again');

-- A page reload, with a grace.
\if :has_worker
SET presence.leave_grace = '1h';
SELECT handle_user_disconnect('ann', 'new');
SELECT is(pg_temp.in_room('lobby'), ARRAY['ann active 0'], 'within the grace nobody leaves the room');
SELECT is(pg_temp.counted('lobby'), 1::bigint, 'nor is counted out');
SELECT ok(join_room('ann', 'newer', 'lobby'), 'the page is back');
SELECT is(pg_temp.told_in('lobby'), ARRAY['room_join ann new heartbeat 1 null'], 'nobody is told');
SELECT is((SELECT count(*) FROM presence_room_member), 1::bigint, 'and nothing is left of the one before');
SET presence.leave_grace = '300ms';
SELECT update_user_heartbeat('ann', 'elsewhere');
SELECT handle_user_disconnect('ann', 'newer');
SELECT is(pg_temp.in_room('lobby'), ARRAY['ann active 0'], 'also where another session goes on');
SELECT ok(pg_temp.until($$room_count('lobby') = 0$$), 'who does not come back');
SELECT ok(pg_temp.until($$EXISTS (SELECT FROM presence_event WHERE event = 'room_leave' AND user_id = 'ann')$$), 'is told to have left, by the worker');
SELECT is((pg_temp.told_in('lobby'))[2], 'room_leave ann newer disconnect 0', 'by the disconnect');
SELECT ok(pg_temp.online('ann'), 'and is still online');
SELECT join_room('ann', 'elsewhere', 'lobby'), join_room('ann', 'third', 'lobby');
SET presence.leave_grace = '1h';
SELECT handle_user_disconnect('ann', 'third');
SELECT is(pg_temp.in_room('lobby'), ARRAY['ann active 1'], 'where another session is in the room, no grace is needed');
SELECT handle_user_disconnect('ann', 'elsewhere');
SELECT ok(leave_room('ann', 'elsewhere', 'lobby'), 'leaving on purpose ends a grace');
SELECT join_room('ben', '1', 'lobby');
SELECT handle_user_disconnect('ben', '1'), mark_user_offline('ben');
SELECT is(pg_temp.told('ben'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'room_join heartbeat', 'session_end disconnect', 'room_leave leave', 'user_offline leave'], 'so does logging out');
RESET presence.leave_grace;
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees');
\else
SET presence.leave_grace = '1h';
SELECT handle_user_disconnect('ann', 'new');
SELECT is(pg_temp.counted('lobby'), 0::bigint, 'without a worker there is no grace');
SELECT skip('without a worker there is no grace', 13);
\endif

-- Retention: a room in which nobody is keeps its count until its events go.
SELECT join_room('zoe', 'z', 'kept'), join_room('zoe', 'z', 'empty');
SELECT ok(pg_temp.numbered(), 'a join is numbered');
SELECT leave_room('zoe', 'z', 'empty');
SELECT ok(pg_temp.numbered(), 'and then a leave');
SELECT is(pg_temp.counts_kept(), ARRAY['empty 0', 'kept 1'], 'a room that is empty has a row');
SELECT count(scheduled_presence_cleanup()) \gset
SELECT is(pg_temp.counts_kept(), ARRAY['empty 0', 'kept 1'], 'as long as its events are kept');
SET presence.event_retention = 0;
SELECT count(scheduled_presence_cleanup()) \gset
RESET presence.event_retention;
SELECT is(pg_temp.counts_kept(), ARRAY['kept 1'], 'and not longer; others keep theirs');
SELECT is(pg_temp.counted('empty') || ',' || pg_temp.counted('kept'), '0,1', 'the counts are what they were');
SELECT join_room('zoe', 'z', 'empty'), leave_room('zoe', 'z', 'kept');
SELECT ok(pg_temp.numbered(), 'what comes afterwards is numbered');
SELECT is(pg_temp.counted('empty') || ',' || pg_temp.counted('kept'), '1,0', 'and go on from there');
SELECT is((SELECT array_agg(user_id) FROM room_snapshot('empty')), ARRAY['zoe'], 'so does a snapshot of the room');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees after retention');

SELECT * FROM finish();
