-- A goodbye that overtakes the first heartbeat of its session: a tombstone in shared memory refuses what comes late.
\ir helpers.psql
SELECT preloaded AS cached FROM presence_server_state() \gset
SELECT plan(13);

SELECT is(handle_user_disconnect('ann', 'tab'), false, 'a goodbye of somebody unknown');
SELECT is(update_user_heartbeat('ann', 'tab'), NOT :'cached', 'its first heartbeat comes too late');
SELECT is(is_user_online('ann'), NOT :'cached', 'and leaves no ghost');
SELECT is(update_user_heartbeat('ann', 'other tab'), true, 'another session of the user is not meant');
SELECT is(update_user_heartbeat('ann'), true, 'nor is the unnamed one');
SELECT mark_user_offline('bob', 'tab');
SELECT is(update_user_heartbeats(ARRAY['bob', 'bob'], ARRAY['tab', 'other tab']), CASE WHEN :'cached' THEN 1 ELSE 2 END, 'the same in a batch');
SELECT is((SELECT count(*) FROM presence_admin_log WHERE details ->> 'session_id' = 'tab' AND details ->> 'users_offline' = '0')::int, 0, 'unknown ids leave no row in the log');

BEGIN;
SELECT handle_user_disconnect('carl', 'tab');
SELECT is(update_user_heartbeat('carl', 'tab'), NOT :'cached', 'its own transaction knows of it at once');
SAVEPOINT inner_work;
SELECT handle_user_disconnect('dora', 'tab');
ROLLBACK TO inner_work;
SELECT is(update_user_heartbeat('dora', 'tab'), true, 'unless that was taken back');
ROLLBACK;
SELECT is(update_user_heartbeat('carl', 'tab'), true, 'a goodbye that was rolled back is none');

SET presence.rejoin_guard = '0';
SELECT handle_user_disconnect('emil', 'tab');
SELECT is(update_user_heartbeat('emil', 'tab'), true, 'without presence.rejoin_guard there is no tombstone');
RESET presence.rejoin_guard;

-- Bounded: the first of very many gives way, in memory that does not grow with them.
SELECT count(handle_user_disconnect('many ' || n, 'tab')) FROM generate_series(1, 40000) AS n;
SELECT ok((SELECT count(*) FROM generate_series(1, 2000) AS n WHERE update_user_heartbeat('many ' || n, 'tab')) BETWEEN 1 AND 2000, 'many goodbyes push old ones out');
SELECT is((SELECT count(*) FROM presence_user WHERE user_id = 'many 40000')::int, 0, 'and write no row');
SELECT * FROM finish();
