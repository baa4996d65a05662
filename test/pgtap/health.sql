-- presence_health: numbers for the DBA, and a sentence for each thing that is wrong.
\ir helpers.psql
SELECT plan(27);
SELECT preloaded AS cached FROM presence_server_state() \gset
-- All sentences but the one about preloading, which holds all the time where it does.
CREATE FUNCTION pg_temp.problems() RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(p) FROM (SELECT unnest(problem) AS p FROM presence_health) AS all_problems WHERE p !~ 'not preloaded' $$;

SELECT is((SELECT count(*) FROM presence_health), 1::bigint, 'one row');
SELECT is((SELECT cardinality(problem) FROM presence_health WHERE problem IS NOT NULL), CASE WHEN :'cached' THEN 0 ELSE 1 END, 'problem is empty when all is well');
SELECT is((SELECT problem[1] ~ 'shared_preload_libraries.*restart' FROM presence_health), CASE WHEN NOT :'cached' THEN true END, 'without preloading it says how to get the fast way');
SELECT ok((SELECT table_bytes > 0 FROM presence_health), 'the tables'' size');

-- Numbers.
SELECT update_user_heartbeats(ARRAY['a', 'a', 'b'], ARRAY['1', '2', NULL]), mark_user_offline('b');
SELECT update_user_heartbeat('a', '1'), update_user_heartbeat('a', '2');
SELECT cache_hits, cache_misses FROM presence_health \gset before_
SELECT count(update_user_heartbeat('a', '1')) FROM generate_series(1, 10);
SELECT is((SELECT row(total_users, online_users, stale_users, sessions)::text FROM presence_health), '(2,1,0,2)', 'users known, online and stale, and sessions');
SELECT is((SELECT cached_sessions FROM presence_health), CASE WHEN :'cached' THEN 2 ELSE 0 END::bigint, 'cached_sessions');
SELECT is((SELECT cache_hits - :before_cache_hits FROM presence_health), CASE WHEN :'cached' THEN 10 ELSE 0 END::bigint, 'cache_hits counts heartbeats that touch no table');
SELECT update_user_heartbeat('a', '1', 'new agent');
SELECT is((SELECT cache_misses - :before_cache_misses FROM presence_health), CASE WHEN :'cached' THEN 1 ELSE 0 END::bigint, 'cache_misses those that do');
BEGIN;
SELECT update_user_heartbeat('c', 's');
SELECT ok((SELECT unpublished_events >= 2 AND oldest_unpublished <= clock_timestamp() FROM presence_health), 'unpublished_events and the time of the oldest');
COMMIT;
SELECT ok(pg_temp.numbered(), 'once they are numbered');
SELECT is((SELECT row(unpublished_events, oldest_unpublished)::text FROM presence_health), '(0,)', 'there are none');
SELECT count(cleanup_stale_presence());
SELECT ok((SELECT last_cleanup_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp() FROM presence_health), 'last_cleanup_at is when the last cleanup ran');
SELECT is(pg_temp.problems(), NULL, 'all is well still');

-- Sentences. Each is made true, read, and made false again.
BEGIN;
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is((SELECT stale_users FROM presence_health), 2::bigint, 'two users are silent');
SELECT is(pg_temp.problems(), CASE WHEN (SELECT worker_pid IS NULL FROM presence_health) THEN ARRAY['2 users are silent for longer than their timeout and not yet ended: run SELECT cleanup_stale_presence(), or schedule it with SELECT presence_schedule_cleanup().'] END,
          'stale users, and what to do');
SELECT is(cleanup_stale_presence(), 2, 'doing it');
SELECT is(pg_temp.problems(), NULL, 'helps');
ROLLBACK;

BEGIN;
UPDATE presence_session SET joined_at = joined_at - interval '11 minutes' WHERE online;
UPDATE presence_cleanup SET last_at = last_at - interval '11 minutes';
SELECT is(pg_temp.problems(), CASE WHEN (SELECT worker_pid IS NULL FROM presence_health) THEN ARRAY['No cleanup has run for ten minutes and there is no worker: run SELECT presence_schedule_cleanup().'] END, 'a cleanup that does not run, and what to do');
SELECT count(scheduled_presence_cleanup());
SELECT is(pg_temp.problems(), NULL, 'what it schedules helps');
ROLLBACK;

BEGIN;
SELECT pg_temp.age_events((SELECT min(seq) FROM presence_events), '32 days');
SELECT ok(pg_temp.problems()::text ~ 'Events are kept longer than presence.event_retention: run SELECT', 'events kept for too long, and what to do');
SELECT count(scheduled_presence_cleanup());
SELECT is(pg_temp.problems(), NULL, 'helps');
ROLLBACK;

BEGIN;
INSERT INTO presence_event (at, event, user_id, sessions) SELECT clock_timestamp(), 'update', 'x', 1 FROM generate_series(1, 100001);
SELECT is(pg_temp.problems(), CASE WHEN (SELECT worker_pid IS NULL FROM presence_health) THEN ARRAY['100001 events are not numbered: nobody reads the feed, so run SELECT presence_schedule_cleanup().'] END, 'events that nobody numbers, and what to do');
SELECT count(scheduled_presence_cleanup());
SELECT is(pg_temp.problems(), NULL, 'helps');
ROLLBACK;

-- Whoever may read the view needs no other right, and whoever may not, sees nothing.
CREATE ROLE health_reader;
GRANT SELECT ON presence_health TO health_reader;
SET ROLE health_reader;
SELECT online_users AS seen, problem IS NOT NULL AS has_problem FROM presence_health \gset
RESET ROLE;
SELECT is(:seen, 2, 'SELECT on the view is enough');
SELECT ok(:'has_problem', 'for the sentences as well');
REVOKE SELECT ON presence_health FROM health_reader;
SET ROLE health_reader;
\set ON_ERROR_STOP off
SELECT 1 FROM presence_health;
\set refused :SQLSTATE
SELECT * FROM presence_server_state();
\set refused_too :SQLSTATE
\set ON_ERROR_STOP on
RESET ROLE;
SELECT is(:'refused'::text, '42501', 'without it nothing is shown');
SELECT is(:'refused_too'::text, '42501', 'not even what shared memory knows');
DROP ROLE health_reader;

SELECT * FROM finish();
