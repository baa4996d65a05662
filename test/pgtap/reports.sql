-- Reports: what the feed told, added up, once and exactly.
\ir helpers.psql
SELECT plan(41);
SET client_min_messages = error;
SET timezone = 'Asia/Tokyo';
SET presence.rejoin_guard = 0;
CREATE FUNCTION pg_temp.base() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT date_trunc('day', now(), 'UTC') - interval '3 days' $$;
-- Gives the events that have no time of their own yet these ones, in their order.
CREATE TEMP TABLE timed (id bigint PRIMARY KEY);
CREATE FUNCTION pg_temp.happened(VARIADIC times interval[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE given integer;
BEGIN
    WITH new AS (SELECT id, row_number() OVER (ORDER BY id) AS n FROM presence_event WHERE id NOT IN (SELECT id FROM timed)),
         set AS (UPDATE presence_event AS e SET at = pg_temp.base() + times[n] FROM new WHERE e.id = new.id RETURNING e.id)
    INSERT INTO timed SELECT id FROM set;
    GET DIAGNOSTICS given = ROW_COUNT;
    RETURN given = cardinality(times);
END $$;
CREATE FUNCTION pg_temp.reports() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT row('slot', at, round(seconds), round(person_seconds), peak, peak_at)::text FROM presence_report_slot WHERE seconds > 0
    UNION ALL SELECT row('day', d.*)::text FROM presence_report_day AS d UNION ALL SELECT row('end', e.*)::text FROM presence_report_end AS e
    UNION ALL SELECT row('return', r.*)::text FROM presence_report_return AS r UNION ALL SELECT row('user', u.*)::text FROM presence_report_user AS u
    UNION ALL SELECT row('session', s.*)::text FROM presence_report_session AS s UNION ALL SELECT row('position', p.*)::text FROM presence_report_position AS p $$;

SELECT throws_ok('SELECT presence_roll_up()', '55000', 'presence.reports is off', 'without presence.reports there are none');
SET presence.reports = on;

-- Ann is there for two minutes, and Bob until the next day; read in parts.
SELECT update_user_heartbeat('ann', 'a'), update_user_heartbeat('bob', 'b');
SELECT ok(pg_temp.happened('1 min', '1 min', '2 min', '2 min') AND pg_temp.numbered(), 'two come');
SELECT is(presence_roll_up(pg_temp.base() + interval '2 min 30 s'), 4::bigint, 'and are read');
SELECT is((SELECT array_agg(user_id) FROM presence_report_session), ARRAY['ann', 'bob'], 'their sessions last');
SELECT mark_user_offline('ann', 'a');
SELECT handle_user_disconnect('bob', 'b');
SELECT ok(pg_temp.happened('3 min', '3 min', '1 day 10 min', '1 day 10 min') AND pg_temp.numbered(), 'both go');
SELECT is(presence_roll_up(pg_temp.base() + interval '1 day 20 min'), 4::bigint, 'which is read later');
-- Ann is back for 20 seconds, and Cat flaps.
SELECT update_user_heartbeat('ann', 'c'), mark_user_offline('ann', 'c');
SELECT ok(pg_temp.happened('1 day 1 h', '1 day 1 h', '1 day 1 h 20 s', '1 day 1 h 20 s'), 'one is back');
SELECT update_user_heartbeat('cat', 'c' || n), mark_user_offline('cat', 'c' || n) FROM generate_series(0, 5) AS n;
SELECT ok(pg_temp.happened(VARIADIC (SELECT array_agg('2 days 10 h'::interval + n * interval '1 min' + e * interval '30 s' ORDER BY n, e, o)
                                     FROM generate_series(0, 5) AS n, generate_series(0, 1) AS e, generate_series(1, 2) AS o)) AND pg_temp.numbered(), 'one flaps');
SELECT is(presence_roll_up(pg_temp.base() + interval '2 days 23 h'), 28::bigint, 'and that is read as well');

SELECT results_eq('SELECT at - pg_temp.base(), average, peak, peak_at - pg_temp.base() FROM presence_online_history WHERE peak = 2',
                  $$VALUES (interval '0', 1.25::double precision, 2::bigint, interval '2 min')$$, 'people online: two at most, and on average one and a quarter');
SELECT is((SELECT array_agg(DISTINCT average) FROM presence_online_history WHERE at >= pg_temp.base() + interval '5 min' AND at < pg_temp.base() + interval '1 day 10 min'),
          ARRAY[1]::double precision[], 'one is there all night');
SELECT is((SELECT count(*) FROM presence_online_history WHERE at < pg_temp.base() + interval '2 days'), 576::bigint, 'a row for each five minutes');
SELECT results_eq($$SELECT (day::timestamp AT TIME ZONE 'UTC') - pg_temp.base(), users, users_7d, users_30d, arrivals, peak, flapping FROM presence_daily_users ORDER BY day$$,
                  $$VALUES (interval '0', 2::bigint, 2::bigint, 2::bigint, 2::bigint, 2::bigint, 0::bigint), ('1 day', 2, 2, 2, 1, 1, 0), ('2 days', 1, 3, 3, 6, 1, 1), ('3 days', 0, 3, 3, 0, NULL, 0)$$,
                  'each day has its people, once each, also who was only still there');
SELECT results_eq('SELECT at_least, less_than, sum(sessions)::bigint FROM presence_session_lengths GROUP BY 1, 2 ORDER BY 1',
                  $$VALUES (interval '10 s', interval '30 s', 1::bigint), ('30 s', '1 min', 6), ('2 min', '5 min', 1), ('24 h', NULL, 1)$$, 'sessions have their length');
SELECT results_eq('SELECT reason, sum(sessions)::bigint FROM presence_leave_reasons GROUP BY 1 ORDER BY 1', $$VALUES ('disconnect', 1::bigint), ('leave', 8)$$, 'and their reason');
SELECT results_eq('SELECT user_id, hour - pg_temp.base(), returns FROM presence_flapping', $$VALUES ('cat', interval '2 days 10 h', 5::bigint)$$, 'who flaps is found');

-- Once, whoever reads how often.
CREATE TEMP TABLE before AS SELECT * FROM pg_temp.reports() AS line;
SELECT is(presence_roll_up(pg_temp.base() + interval '2 days 23 h'), 0::bigint, 'nothing is read twice');
SELECT set_eq('SELECT * FROM pg_temp.reports()', 'SELECT line FROM before', 'and nothing changes');
BEGIN;
DELETE FROM presence_report_position; DELETE FROM presence_report_slot; DELETE FROM presence_report_day; DELETE FROM presence_report_end;
DELETE FROM presence_report_return; DELETE FROM presence_report_user; DELETE FROM presence_report_session;
SELECT count(presence_roll_up(pg_temp.base() + interval '2 days 23 h')) \gset
SELECT set_eq('SELECT * FROM pg_temp.reports()', 'SELECT line FROM before', 'read at once, the feed gives the same as in parts');
ROLLBACK;

-- A week and a month later, those who were there before are new again.
UPDATE presence_report_user SET last_day = last_day - CASE user_id WHEN 'ann' THEN 8 ELSE 40 END WHERE user_id IN ('ann', 'bob');
SELECT update_user_heartbeat('ann', 'late'), update_user_heartbeat('bob', 'late'), update_user_heartbeat('cat', 'late');
SELECT ok(pg_temp.happened('2 days 23:10', '2 days 23:10', '2 days 23:11', '2 days 23:11', '2 days 23:12', '2 days 23:12') AND pg_temp.numbered(), 'all are back');
SELECT count(presence_roll_up(pg_temp.base() + interval '2 days 23:30')) \gset
SELECT is((SELECT ARRAY[users, users_7d, users_30d] FROM presence_report_day WHERE day = (pg_temp.base() AT TIME ZONE 'UTC')::date + 2), ARRAY[3, 5, 4]::bigint[], 'each window counts who was not in it');

-- Rights.
CREATE ROLE report_reader;
SELECT presence_grant('report_reader', 'read');
SET ROLE report_reader;
SELECT lives_ok('SELECT FROM presence_online_history, presence_daily_users, presence_session_lengths, presence_leave_reasons', 'numbers are for all who may read');
SELECT throws_ok('SELECT FROM presence_flapping', '42501', NULL, 'names are not');
SELECT throws_ok('SELECT FROM presence_report_user', '42501', NULL, 'nor are the tables');
RESET ROLE;

-- Nothing is left of who is forgotten, but the numbers.
SELECT is((SELECT array_agg(relation || ' ' || rows ORDER BY relation) FROM presence_forget_user('cat') WHERE relation LIKE 'presence_report%'),
          ARRAY['presence_report_return 1', 'presence_report_session 1', 'presence_report_user 1'], 'it says what it removed');
SELECT ok(NOT EXISTS (SELECT FROM pg_temp.reports() AS line WHERE line LIKE '%cat%') AND (SELECT users FROM presence_report_day WHERE day = (pg_temp.base() AT TIME ZONE 'UTC')::date + 2) = 3,
          'she is in no report, and the numbers stay');

-- Events that are in no report are not removed.
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON presence_report_slot EXECUTE FUNCTION pg_temp.refuse();
SELECT update_user_heartbeat('dan', 'd');
SELECT ok(pg_temp.numbered(), 'one more comes');
SET presence.event_retention = 0;
SELECT count(scheduled_presence_cleanup()) \gset
SELECT ok(EXISTS (SELECT FROM presence_event WHERE user_id = 'dan'), 'events wait until they are in the reports');
DROP TRIGGER refuse ON presence_report_slot;
SELECT ok(pg_temp.until($$scheduled_presence_cleanup() = 0 AND NOT EXISTS (SELECT FROM presence_event WHERE user_id = 'dan') AND EXISTS (SELECT FROM presence_report_user WHERE user_id = 'dan')$$), 'and go then');

-- Who stays for days is there on each of them, also where nothing happens; more of them than one step takes.
SELECT update_user_heartbeats(array_agg('many' || n), array_agg('m'::text)) FROM generate_series(1, 6000) AS n;
SELECT ok(pg_temp.numbered(), 'many come');
SELECT count(presence_roll_up()) \gset
UPDATE presence_report_session SET day = day - 2 WHERE user_id LIKE 'many%';
UPDATE presence_report_user SET last_day = last_day - 2 WHERE user_id LIKE 'many%';
DELETE FROM presence_report_day;
SELECT count(presence_roll_up()) \gset
SELECT results_eq($$SELECT day - (now() AT TIME ZONE 'UTC')::date, users, users_7d, users_30d FROM presence_daily_users ORDER BY day$$,
                  $$VALUES (-1, 6000::bigint, 0::bigint, 0::bigint), (0, 6000, 0, 0)$$, 'and are there on each day');

-- Reports have their retention, too.
SET presence.report_retention = '12 h';
SELECT ok(pg_temp.until($$scheduled_presence_cleanup() = 0 AND NOT EXISTS (SELECT FROM presence_report_slot WHERE at < now() - interval '12 h 5 min')
          AND NOT EXISTS (SELECT FROM presence_report_day WHERE day < (now() AT TIME ZONE 'UTC')::date - 1)$$), 'reports go after presence.report_retention');

-- presence_verify() sees what does not belong there.
BEGIN;
DELETE FROM presence_report_session WHERE user_id = 'many1';
INSERT INTO presence_report_session (user_id, session_id, started_at, day) VALUES ('ghost', 'g', now(), (now() AT TIME ZONE 'UTC')::date);
SELECT results_eq('SELECT invariant, user_id FROM presence_verify() ORDER BY 2',
                  $$VALUES ('a session that goes on in the reports is online', 'ghost'), ('a session that is online goes on in the reports', 'many1')$$, 'presence_verify() names a session too many and one too few');
ROLLBACK;
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'else there is none');
SELECT update_user_heartbeat('unread', 'u');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'and who has come since then is not missing');
BEGIN;
UPDATE presence_report_position SET seq = seq + 1000000;
SELECT ok('the reports have read no more than there is' IN (SELECT invariant FROM presence_verify()), 'nor may they be ahead of the feed');
ROLLBACK;

-- A new feed, whose numbers have nothing to do with those that were read.
SELECT sum(arrivals) AS arrivals FROM presence_daily_users \gset
SELECT epoch FROM presence_feed_position() \gset
TRUNCATE presence_feed_range;
SELECT ok(pg_temp.until(format('cleanup_stale_presence() = 0 AND (SELECT epoch FROM presence_feed_position()) <> %L AND NOT EXISTS (SELECT FROM presence_verify())', :'epoch')), 'a new feed begins');
SELECT update_user_heartbeat('new', 'n');
SELECT ok(pg_temp.numbered() AND (SELECT seq FROM presence_feed_position()) < 100, 'with low numbers');
SELECT count(presence_roll_up()) \gset
SELECT is((SELECT sum(arrivals) FROM presence_daily_users) - :arrivals, 1::numeric, 'and is read from its beginning');
SELECT ok(NOT EXISTS (SELECT user_id, session_id FROM presence_session WHERE online EXCEPT SELECT user_id, session_id FROM presence_report_session), 'whose sessions go on is known');

SELECT presence_reset();
SELECT is((SELECT count(*) FROM pg_temp.reports()), 0::bigint, 'presence_reset() forgets them');
SELECT * FROM finish();
