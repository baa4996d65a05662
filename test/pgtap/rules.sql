-- What the functions promise, rule by rule.
\ir helpers.psql
BEGIN;
SELECT plan(54);

-- Many sessions per user.
SELECT update_user_heartbeats(ARRAY['anna', 'anna', 'anna'], ARRAY['1', '2', '3']);
SELECT ok(NOT mark_user_offline('anna', '2') AND pg_temp.online('anna'), 'closing one tab of three leaves the user online');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'anna'), 2, 'with two tabs');
SELECT ok(NOT handle_user_disconnect('anna', '1') AND pg_temp.online('anna'), 'closing the second leaves the user online');
SELECT ok(mark_user_offline('anna', '3') AND NOT pg_temp.online('anna'), 'the last one takes the user offline');
SELECT is((SELECT array_agg(DISTINCT end_reason ORDER BY end_reason) FROM presence_sessions WHERE user_id = 'anna'), ARRAY['disconnect', 'leave'], 'each session keeps why it ended');

SELECT update_user_heartbeat('bert', 'phone'), update_user_heartbeat('bert', 'desk', heartbeat_interval => '1 hour');
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(cleanup_stale_presence(), 0, 'one session that times out does not take the user offline');
SELECT is((SELECT array_agg(session_id || ' ' || online || ' ' || coalesce(end_reason, '-') ORDER BY session_id) FROM presence_sessions WHERE user_id = 'bert'),
          ARRAY['desk true -', 'phone false timeout'], 'one session that times out does not disturb its siblings');
SET LOCAL presence.timeout TO DEFAULT;
SELECT ok(mark_user_offline('bert'), 'with no session named, all sessions of the user end');

-- A disconnect touches its own session only.
SELECT update_user_heartbeat('carl', 'old'), update_user_heartbeat('carl', 'new');
SELECT ok(NOT handle_user_disconnect('carl', 'old'), 'the old connection goes');
SELECT ok(NOT handle_user_disconnect('carl', 'old') AND pg_temp.online('carl'), 'a disconnect that arrives late, from an old connection of the same user, never ends the new one');
SELECT ok(NOT handle_user_disconnect('carl', 'never seen') AND pg_temp.online('carl'), 'nor does one of a connection that nobody knows');
SELECT ok(NOT mark_user_offline('nobody') AND NOT mark_user_offline('nobody', 'nothing') AND NOT handle_user_disconnect('nobody'), 'unknown ids are no error');
SELECT is((SELECT count(*) FROM presence WHERE user_id = 'nobody'), 0::bigint, 'and make no row');

-- Tombstones.
SELECT update_user_heartbeat('dora', 'tab'), mark_user_offline('dora', 'tab');
SELECT ok(NOT update_user_heartbeat('dora', 'tab'), 'a late heartbeat of a session ended on purpose is ignored');
SELECT is(update_user_heartbeats(ARRAY['dora'], ARRAY['tab']), 0, 'in a batch too');
SELECT ok(NOT pg_temp.online('dora'), 'and revives nobody');
SELECT ok(update_user_heartbeat('dora', 'another tab'), 'another session of the same user may begin');
SELECT ok(NOT update_user_heartbeat('dora', 'tab'), 'the ended one stays ignored beside it');
SET LOCAL presence.rejoin_guard = '50ms';
SELECT pg_sleep(0.06);
SELECT ok(update_user_heartbeat('dora', 'tab'), 'but only for presence.rejoin_guard');
SET LOCAL presence.rejoin_guard TO DEFAULT;
SELECT update_user_heartbeat('dora'), mark_user_offline('dora');
SELECT ok(update_user_heartbeat('dora'), 'the unnamed session has no tombstone');
SELECT update_user_heartbeat('emil', 'laptop');
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01), cleanup_stale_presence();
SET LOCAL presence.timeout TO DEFAULT;
SELECT ok(NOT pg_temp.online('emil') AND update_user_heartbeat('emil', 'laptop') AND pg_temp.online('emil'),
          'a session that merely timed out (a laptop that slept) comes back with its next heartbeat');

-- Status.
CREATE FUNCTION pg_temp.updates(id text) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM presence_events WHERE user_id = id AND event = 'update' $$;
CREATE FUNCTION pg_temp.shown(id text) RETURNS text LANGUAGE sql AS $$ SELECT status FROM presence WHERE user_id = id $$;
SELECT update_user_heartbeat('fred', 'a', status => 'away');
SELECT is(pg_temp.shown('fred'), 'away', 'one session: its status');
SELECT update_user_heartbeat('fred', 'i', status => 'idle');
SELECT is(pg_temp.shown('fred'), 'idle', 'idle comes before away');
SELECT update_user_heartbeat('fred', 'b', status => 'busy');
SELECT is(pg_temp.shown('fred'), 'busy', 'busy before idle');
SELECT update_user_heartbeat('fred', 'v', status => 'active');
SELECT is(pg_temp.shown('fred'), 'active', 'active before busy');
SELECT pg_temp.updates('fred') AS updates \gset
SELECT update_user_heartbeat('fred', session, status => status) FROM (VALUES ('a', 'away'), ('v', 'active'), ('i', 'idle'), ('b', 'busy'), ('a', 'away')) AS beat (session, status);
SELECT is(pg_temp.shown('fred'), 'active', 'the order does not depend on which session beat last');
SELECT update_user_heartbeat('fred', 'i', status => 'away');
SELECT is(pg_temp.updates('fred'), :updates::bigint, 'an event is written only when the user''s aggregate changes');
SELECT update_user_heartbeat('fred', 'v', status => 'idle');
SELECT is(pg_temp.updates('fred'), :updates + 1::bigint, 'and then one');
SELECT is((SELECT details ->> 'status' FROM presence_events WHERE user_id = 'fred' AND event = 'update' ORDER BY at DESC LIMIT 1), 'busy', 'which says the new status');
SELECT mark_user_offline('fred', 'b');
SELECT is(pg_temp.shown('fred'), 'idle', 'a session that ends takes its status with it');
SELECT is((SELECT count(*) FROM presence_sessions WHERE user_id = 'fred' AND online AND status = 'idle'), 1::bigint, 'each session shows its own');
SELECT throws_ok($$SELECT update_user_heartbeat('fred', 'a', status => 'Active')$$, '22023', NULL, 'other texts are refused');
DO $$ DECLARE allowed text; BEGIN PERFORM update_user_heartbeat('fred', 'a', status => 'sleepy');
      EXCEPTION WHEN invalid_parameter_value THEN GET STACKED DIAGNOSTICS allowed = PG_EXCEPTION_HINT; PERFORM set_config('test.allowed', allowed, true); END $$;
SELECT ok(current_setting('test.allowed') ~ 'active.*busy.*idle.*away', 'with the list of what is allowed');
SELECT update_user_heartbeat('fred', 'v');
SELECT is(pg_temp.shown('fred'), 'idle', 'a heartbeat without a status keeps it');

-- What equals what is known.
SELECT update_user_heartbeat('gina', 'tab', 'Firefox', '2001:db8::1', '30 s', 'busy', '{"room": 1, "x": [1, 2]}');
SELECT count(*) AS events FROM presence_events \gset
SELECT ok(bool_and(update_user_heartbeat('gina', 'tab', 'Firefox', '2001:db8::1', '30 s', 'busy', '{"x": [1, 2], "room": 1}')), 'arguments that equal what is known') FROM generate_series(1, 3);
SELECT ok(update_user_heartbeat('gina', 'tab'), 'or are left NULL');
SELECT is((SELECT count(*) FROM presence_events), :events::bigint, 'a heartbeat whose arguments equal what is known writes no event');
SELECT is((SELECT row(user_agent, ip_address, heartbeat_interval, status, metadata)::text FROM presence_sessions WHERE user_id = 'gina'),
          row('Firefox'::text, '2001:db8::1'::inet, '30 s'::interval, 'busy'::text, '{"room": 1, "x": [1, 2]}'::jsonb)::text, 'an argument left NULL keeps what is known');
SELECT update_user_heartbeat('gina', 'tab', 'Chromium');
SELECT is((SELECT count(*) FROM presence_events), :events::bigint, 'another user agent is stored without an event');
SELECT is((SELECT user_agent FROM presence WHERE user_id = 'gina'), 'Chromium', 'and shown');

-- Hidden tabs.
SELECT is((SELECT setting || unit FROM pg_settings WHERE name = 'presence.timeout'), '120000ms', 'the timeout is two minutes by default');
-- Nobody wants to wait for minutes, so the same in milliseconds.
SELECT update_user_heartbeat('hidden', 'tab', heartbeat_interval => '400 ms'), update_user_heartbeat('visible', 'tab', heartbeat_interval => '1 ms');
SET LOCAL presence.timeout = '200 ms';
SELECT heartbeat_at AS beat FROM presence_sessions WHERE user_id = 'hidden' \gset
SELECT pg_sleep(0.25);
SELECT NOT pg_temp.online('visible') AND pg_temp.online('hidden') OR clock_timestamp() > :'beat'::timestamptz + '0.8 s' AS hidden_lives \gset
SELECT ok(:'hidden_lives', 'a session that promises a heartbeat every 2 minutes is not stale after 2 minutes');
SELECT pg_sleep(0.65);
SELECT ok(NOT pg_temp.online('hidden'), 'but after 4');
SET LOCAL presence.timeout = '1 ms';
SELECT update_user_heartbeat('promiser', 'tab', heartbeat_interval => '1 day');
SELECT ok(pg_temp.online('promiser'), 'a promise of a day');
SET LOCAL presence.max_timeout = '20 ms';
SELECT pg_sleep(0.03);
SELECT ok(NOT pg_temp.online('promiser'), 'is bounded by presence.max_timeout');
SET LOCAL presence.timeout TO DEFAULT;
SET LOCAL presence.max_timeout TO DEFAULT;

-- Time.
SELECT pg_sleep(0.02), update_user_heartbeat('ivan', 'tab');
SELECT ok((SELECT heartbeat_at > now() + '20 ms' AND joined_at > now() + '20 ms' FROM presence_sessions WHERE user_id = 'ivan'),
          'time is the server''s; the caller''s transaction start is not the time of a heartbeat');
SELECT heartbeat_at AS first_beat FROM presence_sessions WHERE user_id = 'ivan' \gset
SELECT pg_sleep(0.02), update_user_heartbeat('ivan', 'tab');
SELECT ok((SELECT heartbeat_at >= :'first_beat'::timestamptz + '20 ms' FROM presence_sessions WHERE user_id = 'ivan'), 'neither of a later one in the same transaction');

-- Rights.
CREATE ROLE backend_of_rules;
GRANT EXECUTE ON FUNCTION update_user_heartbeat, handle_user_disconnect TO backend_of_rules;
SET LOCAL ROLE backend_of_rules;
SELECT update_user_heartbeat('jane', 'tab') AND handle_user_disconnect('jane', 'tab') AS allowed \gset
RESET ROLE;
SELECT ok(:'allowed', 'a backend''s role needs nothing but EXECUTE on the functions that it calls');
SELECT is((SELECT actor FROM presence_admin_log ORDER BY id DESC LIMIT 1), 'backend_of_rules', 'the log says who called, not who owns the extension');
SELECT ok(NOT has_function_privilege('backend_of_rules', 'mark_user_offline(presence_id, presence_id)', 'EXECUTE')
          AND NOT has_function_privilege('backend_of_rules', 'get_active_users(integer, text)', 'EXECUTE'), 'what changes or reveals presence is closed to PUBLIC');
SELECT ok(NOT has_table_privilege('backend_of_rules', 'presence_session', 'SELECT'), 'the tables are closed');

-- handle_user_disconnect.
SELECT update_user_heartbeat('kate', 'tab', metadata => '{"typing": "#general", "mood": "fine"}');
SELECT handle_user_disconnect('kate', 'tab');
SELECT is((SELECT metadata FROM presence_sessions WHERE user_id = 'kate'), '{"mood": "fine"}', 'a disconnect clears the session''s typing state');
SELECT is((SELECT array_agg(event || ' ' || reason ORDER BY id) FROM presence_event_queue WHERE user_id = 'kate' AND event ~ 'end|offline'),
          ARRAY['session_end disconnect', 'user_offline disconnect'], 'with reason disconnect');
SELECT is((SELECT action || ' ' || details::text FROM presence_admin_log ORDER BY id DESC LIMIT 1),
          'handle_user_disconnect ' || '{"user_id": "kate", "session_id": "tab", "users_offline": 1, "sessions_ended": 1}', 'and logged');

SELECT * FROM finish();
ROLLBACK;
