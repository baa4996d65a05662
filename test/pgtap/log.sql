-- presence_admin_log: each cleanup that ended something, each scheduled run, and each departure on purpose. And reading in parallel.
\ir helpers.psql
SELECT plan(15);
CREATE FUNCTION pg_temp.logged() RETURNS text[] LANGUAGE sql AS $$ SELECT array_agg(action || ' ' || details::text ORDER BY id) FROM presence_admin_log $$;

SELECT update_user_heartbeat(1, 'a'), update_user_heartbeat(1, 'b'), update_user_heartbeat(2, 'a');
SELECT is(cleanup_stale_presence(), 0, 'a cleanup that ended nothing');
SELECT count(*) FROM get_active_users();
SELECT is(pg_temp.logged(), NULL, 'is not logged, nor is what reads');
BEGIN;
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(cleanup_stale_presence(), 2, 'one that ended something');
SELECT is(pg_temp.logged(), ARRAY['cleanup_stale_presence {"users_offline": 2, "sessions_ended": 3}'], 'is logged, with how many users and sessions');
SELECT ok((SELECT at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp() AND actor = current_user FROM presence_admin_log), 'with when and who');
ROLLBACK;
SELECT is(pg_temp.logged(), NULL, 'unless it was rolled back');
SELECT is(scheduled_presence_cleanup(), 0, 'a scheduled run');
SELECT is(pg_temp.logged(), ARRAY['scheduled_presence_cleanup {"users_offline": 0, "sessions_ended": 0}'], 'is always logged');
DELETE FROM presence_admin_log;
SELECT mark_user_offline('nobody', 'x'), mark_user_offline(1), handle_user_disconnect(2, 'a'), handle_user_disconnect(2, 'a');
SELECT is(pg_temp.logged(), ARRAY[
                                  'mark_user_offline {"user_id": "1", "users_offline": 1, "sessions_ended": 2}',
                                  'handle_user_disconnect {"user_id": "2", "session_id": "a", "users_offline": 1, "sessions_ended": 1}',
                                  'handle_user_disconnect {"user_id": "2", "session_id": "a", "users_offline": 0, "sessions_ended": 0}'], 'each departure of somebody known is logged, whether it ended something or not');

-- Parallel queries see the same, the cached heartbeats included.
SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 3000) AS n;
SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 3000) AS n;
SELECT update_user_heartbeat(7, 's', 'changed in between');
ANALYZE presence_session, presence_user;
CREATE TEMP TABLE alone AS SELECT user_id, online, heartbeat_at FROM presence;
SELECT set_config(name, value, false) FROM (VALUES ('force_parallel_mode', 'on'), ('debug_parallel_query', 'on'), ('parallel_setup_cost', '0'), ('parallel_tuple_cost', '0'), ('min_parallel_table_scan_size', '0')) AS wanted (name, value)
WHERE name IN (SELECT s.name FROM pg_settings AS s);
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ' || query; END $$;
SELECT ok(EXISTS (SELECT FROM pg_temp.plan_of('SELECT count(*) FROM presence WHERE online') AS line WHERE line ~ 'Gather'), 'a count of the view can run in parallel workers');
SELECT is((SELECT count(*) FROM presence WHERE online), 3000::bigint, 'and sees everybody');
SELECT is((SELECT count(*) FROM presence AS p JOIN alone AS a USING (user_id, online, heartbeat_at)), 3000::bigint, 'with the same heartbeats');
SELECT is((SELECT count(*) FROM presence_sessions WHERE online), 3000::bigint, 'so do the sessions');
SELECT is((SELECT online_users FROM presence_health), 3000::bigint, 'and the numbers of presence_health');
SELECT is(presence_count(), 3000::bigint, 'as those who do not');

SELECT * FROM finish();
