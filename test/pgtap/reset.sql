-- presence_reset() forgets everything in one call, or nothing.
\ir helpers.psql
SELECT plan(16);
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.join() RETURNS integer LANGUAGE sql AS $$
    SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 100) AS n $$;
CREATE FUNCTION pg_temp.rows() RETURNS bigint LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM presence_user) + (SELECT count(*) FROM presence_session) + (SELECT count(*) FROM presence_event)
         + (SELECT count(*) FROM presence_feed_range) + (SELECT count(*) FROM presence_admin_log) + (SELECT count(*) FROM presence_cleanup) $$;

SELECT pg_temp.join(), pg_temp.join();
SELECT pg_temp.join();
SELECT ok(mark_user_offline(1), 'one leaves');
SELECT count(scheduled_presence_cleanup());
SELECT epoch FROM presence_feed_position() \gset

BEGIN;
SELECT presence_reset();
SELECT is(pg_temp.rows(), 0::bigint, 'nothing is left');
ROLLBACK;
SELECT is(presence_count(), 99::bigint, 'rolled back, it has lost nobody');
SELECT is((SELECT epoch FROM presence_feed_position()), :'epoch', 'nor the epoch');
SELECT is(pg_temp.join(), 99, 'all go on, and who has left stays away');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees');

SELECT presence_reset();
SELECT is(pg_temp.rows(), 0::bigint, 'nothing is left');
SELECT is(presence_count(), 0::bigint, 'nobody is online');
SELECT is((SELECT cached_sessions FROM presence_health), 0::bigint, 'nor in the cache');
SELECT is((SELECT seq FROM presence_feed_position()), 0::bigint, 'the feed begins anew');
SELECT isnt((SELECT epoch FROM presence_feed_position()), :'epoch', 'in another epoch');
SELECT is(pg_temp.join(), 100, 'everybody begins, also who had left on purpose');
SELECT ok(pg_temp.numbered(), 'with events');
SELECT is((SELECT max(seq) FROM presence_events), 200::bigint, 'that have the first numbers');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees');
SELECT throws_ok('SET LOCAL ROLE pg_monitor; SELECT presence_reset()', '42501', NULL, 'not everybody may do so');

SELECT * FROM finish();
