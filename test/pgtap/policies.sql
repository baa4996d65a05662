-- Sessions that go by a policy, and changes of policies while they live.
\ir helpers.psql
SELECT plan(54);

CREATE FUNCTION pg_temp.cleaned_up() RETURNS boolean LANGUAGE sql AS $$ SELECT cleanup_stale_presence() IS NOT NULL $$;
CREATE FUNCTION pg_temp.online() RETURNS text[] LANGUAGE sql AS $$ SELECT array_agg(user_id ORDER BY user_id) FROM get_active_users() $$;

INSERT INTO presence_policies VALUES ('kiosk', '1 second', NULL), ('phone', '1 hour', 1), ('free', NULL, 0);
SELECT ok(update_user_heartbeat('ann', 'tab', policy => 'kiosk'), 'a session begins with a policy');
SELECT is((SELECT policy FROM presence_sessions WHERE user_id = 'ann'), 'kiosk', 'which the view shows');
SELECT update_user_heartbeat('bob', 'tab'), update_user_heartbeat('cat', 'app', heartbeat_interval => '5 minutes', policy => 'kiosk'),
       update_user_heartbeat('dan', 'tab', policy => 'phone');
SELECT ok(pg_temp.until($$pg_temp.cleaned_up() AND pg_temp.online() = ARRAY['bob', 'dan']$$), 'the timeout is that of the policy, whatever the session promises');
SELECT is(pg_temp.told('ann'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_end timeout', 'user_offline timeout'], 'it ends like every other');

-- All who judge agree; the worker goes by the settings of the database, and ends nobody meanwhile.
UPDATE presence_policies SET timeout = '1 hour' WHERE name = 'kiosk';
SELECT update_user_heartbeat('ann', 'tab', policy => 'kiosk');
SELECT update_user_heartbeat('ann', 'tab');
BEGIN;
SET LOCAL presence.timeout = '1ms';
SET LOCAL presence.max_timeout = '1h';
SELECT pg_sleep(0.01);
SELECT is(pg_temp.online(), ARRAY['ann', 'dan'], 'the list goes by the policy and not by presence.timeout');
SELECT is((SELECT array_agg(user_id ORDER BY user_id) FROM presence WHERE online), ARRAY['ann', 'dan'], 'so does the view of users');
SELECT is((SELECT array_agg(user_id ORDER BY user_id) FROM presence_sessions WHERE online), ARRAY['ann', 'dan'], 'and that of sessions');
SELECT is((SELECT array_agg(user_id ORDER BY user_id) FROM get_presence(ARRAY['ann', 'bob', 'dan']) WHERE online), ARRAY['ann', 'dan'], 'and the friend list');
SELECT is(ARRAY[is_user_online('ann'), is_user_online('bob')], ARRAY[true, false], 'and the question after one');
SELECT is(presence_count(), 2::bigint, 'and the count');
SET LOCAL presence.max_timeout = '1ms';
SELECT is(presence_count(), 0::bigint, 'presence.max_timeout bounds a policy');
ROLLBACK;

-- What is passed for a session that lives on changes nothing, and is not even looked up.
SELECT ok(update_user_heartbeat('bob', 'tab', policy => 'kiosk'), 'a session that has begun without a policy');
SELECT is((SELECT policy FROM presence_sessions WHERE user_id = 'bob'), NULL, 'goes on without it');
SELECT throws_ok($$SELECT update_user_heartbeat('eve', 'tab', policy => 'none')$$, '42704', 'policy "none" does not exist', 'an unknown policy is refused');
SELECT is((SELECT count(*) FROM presence WHERE user_id = 'eve'), 0::bigint, 'and nobody begins by it');

-- A session that is begun again keeps its policy, or gets another one.
SET presence.rejoin_guard = 0;
SELECT mark_user_offline('ann');
SELECT update_user_heartbeat('ann', 'tab');
SELECT is((SELECT policy FROM presence_sessions WHERE user_id = 'ann'), 'kiosk', 'one that comes back has the policy that it had');
SELECT mark_user_offline('ann');
SELECT update_user_heartbeat('ann', 'tab', policy => 'free');
SELECT is((SELECT policy || coalesce(timeout::text, '') FROM presence_session WHERE user_id = 'ann'), 'free', 'or the one that it asks for');
SELECT mark_user_offline('ann');
SELECT update_user_heartbeat('ann', 'tab', policy => 'kiosk');

-- How many sessions.
SELECT throws_ok($$SELECT update_user_heartbeat('dan', 'second', policy => 'phone')$$, '53400', 'user_id "dan" has too many sessions', 'a policy says how many sessions there may be');
SELECT ok(update_user_heartbeat('dan', 'second'), 'when one begins by it');
SET presence.max_sessions_per_user = 1;
SELECT throws_ok($$SELECT update_user_heartbeat('dan', 'third')$$, '53400', 'user_id "dan" has too many sessions', 'the setting holds for the others');
SELECT ok(update_user_heartbeat('dan', 'third', policy => 'free'), 'and not for one whose policy allows any number');
RESET presence.max_sessions_per_user;

-- Changes reach the sessions that live, the hidden ones, and those that may come back.
SELECT set_user_status('dan', 'invisible');
SELECT mark_user_offline('cat');
UPDATE presence_policies SET timeout = timeout + interval '1 minute';
SELECT is((SELECT array_agg(DISTINCT timeout::text) FROM presence_session WHERE policy = 'kiosk'), ARRAY['01:01:00'], 'a changed timeout is in the rows');
SELECT is((SELECT array_agg(DISTINCT timeout::text) FROM presence_hidden_session WHERE policy = 'phone'), ARRAY['01:01:00'], 'and in those of invisible users');
SELECT is_empty('SELECT * FROM presence_verify()', 'everything agrees');
SELECT set_user_status('dan', NULL);
SELECT is((SELECT timeout FROM presence_session WHERE user_id = 'dan' AND session_id = 'tab'), interval '61 minutes', 'it goes with them when they come into view');
UPDATE presence_policies SET timeout = '1 second' WHERE name = 'kiosk';
SELECT ok(pg_temp.until($$pg_temp.cleaned_up() AND NOT pg_temp.online('ann')$$), 'a session that lives ends by a shorter one');
SELECT update_user_heartbeat('ann', 'tab');
DELETE FROM presence_policies WHERE name = 'kiosk';
SELECT is((SELECT count(*) FROM presence_session WHERE policy = 'kiosk' AND timeout IS NOT NULL), 0::bigint, 'without their policy, sessions go by the settings');
SELECT ok(update_user_heartbeat('ann', 'tab', policy => 'kiosk'), 'and are not refused as long as they live');
INSERT INTO presence_policies VALUES ('kiosk', '30 minutes');
SELECT is((SELECT count(*) FROM presence_session WHERE policy = 'kiosk' AND timeout = '30 minutes'), 2::bigint, 'until there is one of its name again');
TRUNCATE presence_policies;
SELECT is((SELECT count(*) FROM presence_session WHERE timeout IS NOT NULL), 0::bigint, 'also where all go at once');

-- Changes of the table that no trigger sees.
INSERT INTO presence_policies VALUES ('kiosk', '40 minutes');
BEGIN;
ALTER TABLE presence_policies DISABLE TRIGGER presence_policies_changed;
UPDATE presence_policies SET timeout = '50 minutes';
ALTER TABLE presence_policies ENABLE ALWAYS TRIGGER presence_policies_changed;
COMMIT;
SELECT is((SELECT count(*) FROM presence_verify() WHERE invariant ~ 'policy'), 2::bigint, 'are found, as those who have it');
SELECT scheduled_presence_cleanup();
UPDATE presence_session SET metadata = metadata WHERE user_id = 'ann';
SELECT ok(pg_temp.sound(), 'and a review takes them over');
SELECT presence_forget_user('ann');
SELECT is((SELECT count(*) FROM presence_session WHERE user_id = 'ann'), 0::bigint, 'a forgotten person has no policy');

-- The application says which policy people have, where a call names none.
TRUNCATE presence_policies;
INSERT INTO presence_policies VALUES ('gold', '2 hours', NULL), ('guest', '30 seconds', 1);
CREATE TABLE account (user_id text PRIMARY KEY, tier text);
INSERT INTO account VALUES ('gil', 'gold'), ('guy', 'guest'), ('gus', NULL), ('gem', 'lead');
CREATE OR REPLACE FUNCTION presence_policy_for(user_id text) RETURNS text LANGUAGE sql STABLE AS $$SELECT tier FROM public.account AS a WHERE a.user_id = $1$$;
CREATE FUNCTION pg_temp.policies(variadic text[]) RETURNS text[] LANGUAGE sql AS
    $$SELECT array_agg(coalesce(s.policy, '-') || coalesce(' ' || s.timeout::text, '') ORDER BY s.user_id, s.session_id) FROM presence_session AS s WHERE s.user_id = ANY ($1)$$;
SELECT update_user_heartbeat(who, 'tab') FROM unnest(ARRAY['gil', 'guy', 'gus', 'gay']) AS who;
SELECT is(pg_temp.policies('gil', 'guy', 'gus', 'gay'), ARRAY['-', 'gold 02:00:00', '-', 'guest 00:00:30'], 'presence_policy_for() names a policy, or none, also for people whom it does not know');
SELECT throws_ok($$SELECT update_user_heartbeat('guy', 'second')$$, '53400', 'user_id "guy" has too many sessions', 'with what it says of sessions');
SELECT ok(update_user_heartbeat('guy', 'tab'), 'who lives goes on');
SELECT ok(update_user_heartbeat('guy', 'second', policy => 'gold'), 'what the call names goes before it');
SELECT throws_ok($$SELECT update_user_heartbeat('gem', 'tab')$$, '42704', 'policy "lead" does not exist', 'one that does not exist is refused');
SELECT is((SELECT count(*) FROM presence WHERE user_id = 'gem'), 0::bigint, 'and nobody begins by it');
INSERT INTO presence_policies VALUES ('lead', '3 hours'), ('kiosk', '40 minutes');
SELECT is(update_user_heartbeats(ARRAY['gil', 'gem', 'gus', 'gil'], ARRAY['b', 'b', 'b', 'tab']), 4, 'batches begin');
SELECT is(pg_temp.policies('gil', 'gem', 'gus'), ARRAY['lead 03:00:00', 'gold 02:00:00', 'gold 02:00:00', '-', '-'], 'by the policy of each');
SELECT is(ARRAY[join_room('gil', 'c', 'lobby')::int, join_rooms(ARRAY['gem', 'guy'], ARRAY['c', 'tab'], ARRAY['lobby', 'lobby'])], ARRAY[1, 2], 'rooms begin sessions');
SELECT is(pg_temp.policies('gil', 'gem', 'guy'), ARRAY['lead 03:00:00', 'lead 03:00:00', 'gold 02:00:00', 'gold 02:00:00', 'gold 02:00:00', 'gold 02:00:00', 'guest 00:00:30'], 'by it, too');
UPDATE account SET tier = 'gold' WHERE user_id = 'guy';
SELECT mark_user_offline('guy', 'tab');
SELECT update_user_heartbeat('guy', 'tab');
SELECT is(pg_temp.policies('guy'), ARRAY['gold 02:00:00', 'gold 02:00:00'], 'a session that comes back has the one that its user has now');
CREATE OR REPLACE FUNCTION presence_policy_for(user_id text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'no answer for %', user_id; END$$;
SELECT throws_ok($$SELECT update_user_heartbeat('gwen', 'tab')$$, 'P0001', 'no answer for gwen', 'what it raises reaches the caller');
CREATE OR REPLACE FUNCTION presence_policy_for(user_id text) RETURNS text LANGUAGE sql AS $$SELECT CASE WHEN public.update_user_heartbeat('nested', 'tab', policy => 'gold') THEN 'guest' END$$;
SELECT ok(update_user_heartbeat('gwen', 'tab'), 'it may use presence itself, where that names a policy');
CREATE OR REPLACE FUNCTION presence_policy_for(user_id text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$SELECT 'gold'$$;

-- Who may do what.
CREATE ROLE policy_admin;
CREATE ROLE policy_backend;
CREATE ROLE eve;
SELECT presence_grant('policy_admin', 'admin'), presence_grant('policy_backend', 'write'), presence_grant('eve', 'self');
SELECT format('GRANT CREATE, USAGE ON SCHEMA %s TO policy_admin, policy_backend, eve', pg_my_temp_schema()::regnamespace) \gexec
SET SESSION AUTHORIZATION eve;
SELECT ok(update_user_heartbeat('eve', 'tab'), 'who acts for itself beats without a policy');
RESET SESSION AUTHORIZATION;
SELECT is(pg_temp.policies('eve'), ARRAY['gold 02:00:00'], 'and has the one that the application gives it');
SET SESSION AUTHORIZATION eve;
SELECT throws_ok($$SELECT update_user_heartbeat('eve', 'tab', policy => 'kiosk')$$, '42501', 'permission denied to name a policy', 'and may not name one, not even of a session that is known');
SET SESSION AUTHORIZATION policy_backend;
SELECT ok(update_user_heartbeat('fay', 'tab', policy => 'kiosk'), 'a backend may');
SELECT throws_ok('SELECT * FROM presence_policies', '42501', 'permission denied for table presence_policies', 'but has no look at the policies');
SET SESSION AUTHORIZATION policy_admin;
SELECT lives_ok($$UPDATE presence_policies SET timeout = '45 minutes'$$, 'an admin changes them');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT timeout FROM presence_session WHERE user_id = 'fay'), interval '45 minutes', 'for the sessions, too');
SELECT presence_revoke('policy_admin', 'admin'), presence_revoke('policy_backend', 'write'), presence_revoke('eve', 'self');
SELECT ok(NOT has_table_privilege('policy_admin', 'presence_policies', 'SELECT, INSERT, UPDATE, DELETE'), 'until that is revoked');
SELECT format('REVOKE ALL ON SCHEMA %s FROM policy_admin, policy_backend, eve', pg_my_temp_schema()::regnamespace) \gexec
DROP ROLE policy_admin, policy_backend, eve;
SELECT finish();
