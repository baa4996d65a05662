-- What is written by hand must be what the library takes for granted: constraints of the tables refuse the rest.
\ir helpers.psql
SELECT plan(36);

SELECT update_user_heartbeat('ann', 'tab', 'Firefox', '192.0.2.1', '30 s', 'busy', '{"room": 1}');
SELECT update_user_heartbeat('bob', 'tab');
SELECT handle_user_disconnect('bob', 'tab');

CREATE FUNCTION pg_temp.refused(statement text, what text) RETURNS text LANGUAGE sql AS $$SELECT throws_ok(statement, '23514', NULL, what)$$;
-- A session, or a user, as such a row should be, but for one column.
CREATE FUNCTION pg_temp.session(col text, value text) RETURNS text LANGUAGE sql AS $$
    SELECT format('INSERT INTO presence_session SELECT (jsonb_populate_record(s, jsonb_build_object(''session_id'', ''new'', %L, %s))).* FROM presence_session AS s WHERE user_id = ''ann''', col, value)
$$;

SELECT lives_ok(pg_temp.session('status', '''idle'''), 'a session as it should be');
DELETE FROM presence_session WHERE session_id = 'new';
SELECT pg_temp.refused(pg_temp.session('session_id', 'repeat(''x'', 200000)'), 'a session_id of 200 kB');
SELECT pg_temp.refused(pg_temp.session('session_id', 'repeat(''x'', 256)'), 'a session_id of 256 bytes');
SELECT pg_temp.refused(pg_temp.session('session_id', 'repeat(''é'', 128)'), 'or of fewer letters, but as many bytes');
SELECT pg_temp.refused(pg_temp.session('session_id', '''a'' || chr(10)'), 'a control character in a session_id');
SELECT pg_temp.refused(pg_temp.session('session_id', '''a'' || chr(133)'), 'one above ASCII');
SELECT pg_temp.refused(pg_temp.session('user_id', 'repeat(''x'', 256)'), 'a user_id of 256 bytes');
SELECT pg_temp.refused(pg_temp.session('user_id', ''''''), 'an empty user_id');
SELECT pg_temp.refused(pg_temp.session('status', '''asleep'''), 'an unknown status');
SELECT pg_temp.refused(pg_temp.session('ended_at', 'now()::text'), 'an end without a reason');
SELECT pg_temp.refused(pg_temp.session('end_reason', '''leave'''), 'a reason without an end');
SELECT pg_temp.refused(pg_temp.session('leave_until', 'now()::text'), 'a grace without an end');
SELECT pg_temp.refused(pg_temp.session('online', '''false'''), 'an offline session that has not ended');
SELECT pg_temp.refused($$UPDATE presence_session SET end_reason = 'boredom' WHERE user_id = 'bob'$$, 'an unknown reason');
SELECT pg_temp.refused($$UPDATE presence_session SET online = true WHERE user_id = 'bob'$$, 'a session that has ended and is online');
SELECT pg_temp.refused(pg_temp.session('heartbeat_interval', '''0'''), 'an interval of nothing');
SELECT pg_temp.refused(pg_temp.session('heartbeat_interval', '''2 days'''), 'an interval of two days');
SELECT pg_temp.refused(pg_temp.session('heartbeat_at', '''infinity'''), 'a heartbeat at infinity');
SELECT pg_temp.refused(pg_temp.session('online_since', '''-infinity'''), 'online since ever');
SELECT pg_temp.refused(pg_temp.session('joined_at', '''200000-01-01'''), 'a time for which there is no arithmetic');
SELECT pg_temp.refused(pg_temp.session('user_agent', 'repeat(''é'', 513)'), 'a user agent of more than 1 kB');
SELECT pg_temp.refused(pg_temp.session('metadata', 'repeat(''x'', 4095)'), 'metadata of more than 4 kB');

SELECT pg_temp.refused($$INSERT INTO presence_user (user_id) VALUES (repeat('x', 256))$$, 'a user with a long id');
SELECT pg_temp.refused($$INSERT INTO presence_user (user_id, sessions) VALUES ('new', -1)$$, 'fewer than no sessions');
SELECT pg_temp.refused($$INSERT INTO presence_user (user_id, online) VALUES ('new', true)$$, 'an online user without status and time');
SELECT pg_temp.refused($$UPDATE presence_user SET status = 'away' WHERE user_id = 'bob'$$, 'an offline user with a status');
SELECT pg_temp.refused($$UPDATE presence_user SET offline_at = 'infinity' WHERE user_id = 'bob'$$, 'an end at infinity');

SELECT pg_temp.refused($$UPDATE presence_event SET event = 'party'$$, 'an unknown event');
SELECT pg_temp.refused($$UPDATE presence_event SET reason = 'boredom'$$, 'an event with an unknown reason');
SELECT pg_temp.refused($$UPDATE presence_event SET sessions = -1$$, 'an event with fewer than no sessions');
SELECT pg_temp.refused($$UPDATE presence_event SET session_id = ''$$, 'an event with an empty session_id');
SELECT pg_temp.refused($$UPDATE presence_event SET user_id = E'\t'$$, 'an event with a control character');
SELECT pg_temp.refused($$UPDATE presence_event SET channel = repeat('c', 64)$$, 'a channel that NOTIFY refuses');
SELECT pg_temp.refused($$INSERT INTO presence_feed_range (first_seq, first_id, events) VALUES (9223372036854775807, 1000, 1)$$, 'numbers beyond those that there are');

-- The library's own writes do not evaluate the constraints.
SELECT is_empty('SELECT * FROM presence_verify()', 'presence_verify() finds the library''s own rows sound');
ALTER TABLE presence_session ADD CONSTRAINT nobody_is_busy CHECK (status <> 'busy') NOT VALID;
SELECT results_eq('SELECT invariant, details LIKE ''%violates nobody_is_busy'' FROM presence_verify()', $$VALUES ('a row meets the constraints of its table', true)$$, 'because it looks at each');
ALTER TABLE presence_session DROP CONSTRAINT nobody_is_busy;
SELECT * FROM finish();
