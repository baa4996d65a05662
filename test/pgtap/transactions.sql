-- Rollbacks, savepoints, prepared transactions, isolation levels, read-only transactions: a session is a row like any other,
-- and the cache never knows more than what is committed.
\ir helpers.psql
SELECT plan(42);
SELECT preloaded AS cached FROM presence_server_state() \gset

-- A beginning that is rolled back.
BEGIN;
SELECT update_user_heartbeat('ann', 's'), update_user_heartbeat('ann', 's'), update_user_heartbeats(ARRAY['ann'], ARRAY['s']);
ROLLBACK;
SELECT is((SELECT count(*) FROM presence_sessions), 0::bigint, 'a session whose beginning is rolled back never was');
SELECT is(presence_count(), 0::bigint, 'counts for nobody');
SELECT is((SELECT cached_sessions FROM presence_health), 0::bigint, 'and is in no cache');
SELECT ok(update_user_heartbeat('ann', 's') AND pg_temp.online('ann'), 'its next heartbeat begins it');
SELECT is(pg_temp.told('ann'), ARRAY['session_start heartbeat', 'user_online heartbeat'], 'and tells so');

-- A savepoint.
BEGIN;
SELECT update_user_heartbeat('ben', 'kept');
SAVEPOINT before;
SELECT update_user_heartbeat('ben', 'dropped', status => 'busy'), update_user_heartbeat('ben', 'kept', status => 'away'), mark_user_offline('ann');
ROLLBACK TO before;
SELECT update_user_heartbeat('ben', 'kept');
COMMIT;
SELECT is((SELECT array_agg(session_id || ' ' || status) FROM presence_sessions WHERE user_id = 'ben'), ARRAY['kept active'], 'what a savepoint rolls back is undone');
SELECT ok(pg_temp.online('ann'), 'a departure too');
SELECT is(pg_temp.told('ben'), ARRAY['session_start heartbeat', 'user_online heartbeat'], 'only what stayed is told');
SELECT ok(update_user_heartbeat('ben', 'dropped'), 'the dropped session begins with its next heartbeat');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'ben'), 2, 'as the second one');
-- The same by an exception block, of which applications are full.
DO $$ BEGIN PERFORM update_user_heartbeat('cat', 's'); PERFORM update_user_heartbeat('cat', 's'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END $$;
SELECT is((SELECT count(*) FROM presence_user WHERE user_id = 'cat'), 0::bigint, 'a subtransaction that fails leaves nothing');

-- Changes that are rolled back are not taken for known.
SELECT update_user_heartbeat('dan', 's', 'Firefox', metadata => '{"v": 1}'), update_user_heartbeat('dan', 's');
SELECT update_user_heartbeat('dan', 's');
BEGIN;
SELECT update_user_heartbeat('dan', 's', 'Safari', '192.0.2.1', '1 minute', 'idle', '{"v": 2}'), update_user_heartbeat('dan', 's', 'Safari', '192.0.2.1', '1 minute', 'idle', '{"v": 2}');
ROLLBACK;
SELECT update_user_heartbeat('dan', 's');
SELECT is((SELECT row(user_agent, ip_address, heartbeat_interval, status, metadata)::text FROM presence_sessions WHERE user_id = 'dan'), '(Firefox,,,active,"{""v"": 1}")', 'a change that is rolled back is undone');
SELECT ok(update_user_heartbeat('dan', 's', 'Safari', '192.0.2.1', '1 minute', 'idle', '{"v": 2}'), 'the same change again');
SELECT is((SELECT row(user_agent, ip_address, heartbeat_interval, status, metadata)::text FROM presence_sessions WHERE user_id = 'dan'), '(Safari,192.0.2.1,00:01:00,idle,"{""v"": 2}")', 'is not taken for known');
SELECT is(pg_temp.told('dan'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'update heartbeat'], 'and is told once');

-- A departure that is rolled back.
SELECT update_user_heartbeat('eve', 's');
SELECT update_user_heartbeat('eve', 's');
BEGIN;
SELECT mark_user_offline('eve', 's');
SELECT ok(NOT update_user_heartbeat('eve', 's'), 'within the transaction the session has ended');
ROLLBACK;
SELECT ok(pg_temp.online('eve'), 'a departure that is rolled back did not happen');
SELECT ok(update_user_heartbeat('eve', 's') AND update_user_heartbeat('eve', 's'), 'heartbeats go on');
SELECT is((SELECT count(*) FROM presence_admin_log WHERE details ->> 'user_id' = 'eve'), 0::bigint, 'not even logged');
SELECT ok(mark_user_offline('eve', 's') AND NOT update_user_heartbeat('eve', 's'), 'one that is committed did, also for the cache');

-- A refresh is a fact.
SELECT update_user_heartbeat('fay', 's');
SELECT update_user_heartbeat('fay', 's');
SELECT heartbeat_at AS before FROM presence WHERE user_id = 'fay' \gset
BEGIN;
SELECT pg_sleep(0.01), update_user_heartbeat('fay', 's');
ROLLBACK;
SELECT is((SELECT heartbeat_at > :'before' FROM presence WHERE user_id = 'fay'), :'cached'::boolean, 'a refresh in the cache takes effect at once and is not undone by a rollback; on the tables it is a row like any other');

-- Prepared transactions. They cannot notify, so without a worker that does it for them, say so.
SELECT current_setting('max_prepared_transactions')::integer > 0 AS can_prepare \gset
\if :can_prepare
SET presence.notify_level = 'none';
BEGIN;
SELECT update_user_heartbeat('gus', 's'), update_user_heartbeat('gus', 's');
PREPARE TRANSACTION 'presence_begins';
SELECT is((SELECT count(*) FROM presence WHERE user_id = 'gus'), 0::bigint, 'a session in a prepared transaction is not there yet');
SELECT is((SELECT count(*) FROM presence_snapshot() WHERE user_id = 'gus'), 0::bigint, 'neither in the snapshot');
COMMIT PREPARED 'presence_begins';
SELECT ok(pg_temp.online('gus'), 'but once it is committed');
SELECT is(pg_temp.told('gus'), ARRAY['session_start heartbeat', 'user_online heartbeat'], 'with its events');
SELECT ok(update_user_heartbeat('gus', 's') AND update_user_heartbeat('gus', 's'), 'heartbeats go on');
BEGIN;
SELECT mark_user_offline('gus', 's');
PREPARE TRANSACTION 'presence_ends';
SELECT ok(pg_temp.online('gus'), 'a departure in a prepared transaction has not happened yet');
SET lock_timeout = '100ms';
SELECT throws_ok($$SELECT update_user_heartbeat('gus', 's', status => 'busy')$$, '55P03', NULL, 'it holds the user''s row lock');
-- An error in the middle of the owner's work leaves the caller as it was.
CREATE ROLE caller_in_trouble;
GRANT EXECUTE ON FUNCTION update_user_heartbeat TO caller_in_trouble;
SET ROLE caller_in_trouble;
SET search_path = public, pg_catalog;
DO $$ BEGIN PERFORM update_user_heartbeat('gus', 's', status => 'busy'); EXCEPTION WHEN lock_not_available THEN PERFORM set_config('test.role', current_user || ' ' || current_setting('search_path'), false); END $$;
SELECT current_user || ' ' || current_setting('search_path') AS afterwards \gset
RESET ROLE;
RESET search_path;
SELECT is(ARRAY[current_setting('test.role'), :'afterwards'], array_fill('caller_in_trouble public, pg_catalog'::text, ARRAY[2]), 'an error in the middle of the owner''s work leaves the caller''s role and search_path alone');
REVOKE ALL ON FUNCTION update_user_heartbeat FROM caller_in_trouble;
DROP ROLE caller_in_trouble;
RESET lock_timeout;
SET presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT lives_ok('SELECT cleanup_stale_presence()', 'cleanup does not wait for it');
SELECT is((SELECT array_agg(user_id ORDER BY user_id) FROM presence_session WHERE online), ARRAY['dan', 'gus'], 'and leaves only that user, and one who promised little');
RESET presence.timeout;
ROLLBACK PREPARED 'presence_ends';
SELECT ok(update_user_heartbeat('gus', 's') AND pg_temp.online('gus'), 'rolled back, the session lives on');
BEGIN;
SELECT mark_user_offline('gus', 's');
PREPARE TRANSACTION 'presence_ends';
COMMIT PREPARED 'presence_ends';
SELECT ok(NOT pg_temp.online('gus') AND NOT update_user_heartbeat('gus', 's'), 'committed, it has ended');
RESET presence.notify_level;
\else
SELECT skip('this server allows no prepared transactions', 12);
\endif

-- Isolation levels.
SELECT update_user_heartbeat('hal', 's'), update_user_heartbeat('hal', 't');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT lives_ok($$SELECT update_user_heartbeat('hal', 's', status => 'busy')$$, 'a change in a repeatable-read transaction');
SELECT lives_ok($$SELECT update_user_heartbeat('hal', 'u')$$, 'and a new session');
SELECT is((SELECT array_agg(status || sessions) FROM get_active_users() WHERE user_id = 'hal'), ARRAY['active3'], 'are seen there');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT lives_ok($$SELECT update_user_heartbeat('hal', 's', status => 'away'), mark_user_offline('hal', 't')$$, 'serializable');
COMMIT;
SELECT is((SELECT row(status, sessions)::text FROM presence WHERE user_id = 'hal'), '(active,2)', 'and stay');

-- Read-only transactions change nothing and say so.
BEGIN READ ONLY;
SELECT throws_ok($$SELECT update_user_heartbeat('hal', 's')$$, '25006', NULL, 'a heartbeat in a read-only transaction is refused, known or not');
SELECT throws_ok($$SELECT mark_user_offline('hal', 's')$$, '25006', NULL, 'a departure too');
SELECT throws_ok($$SELECT cleanup_stale_presence()$$, '25006', NULL, 'and a cleanup');
SELECT lives_ok($$SELECT is_user_online('hal'), presence_count(), (SELECT count(*) FROM get_active_users()), (SELECT count(*) FROM get_presence(ARRAY['hal'])),
                         (SELECT count(*) FROM presence_snapshot()), (SELECT count(*) FROM presence_health)$$, 'readers work');
COMMIT;

SELECT * FROM finish();
