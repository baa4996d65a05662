-- Where sessions are, and who may know.
\ir helpers.psql
SELECT plan(41);

CREATE FUNCTION pg_temp.regions() RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(concat_ws(' ', region, users, sessions) ORDER BY region) FROM presence_by_region()
$$;
CREATE FUNCTION pg_temp.areas(zoom integer) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(concat_ws(' ', geohash, users, sessions) ORDER BY geohash) FROM presence_by_area(zoom)
$$;

SELECT update_user_heartbeat('ann', 'phone'), update_user_heartbeat('ann', 'tab'), update_user_heartbeat('bob', 'tab'),
       update_user_heartbeat('cat'), update_user_heartbeat('dan', 'tab');
SELECT is(pg_temp.regions(), NULL, 'nobody has said where he is');
SELECT ok(set_session_location('ann', 'phone', 'Berlin', 52.52, 13.405), 'a session says where it is');
SELECT ok(set_session_location('ann', 'tab', 'Berlin'), 'or only in which region');
SELECT ok(set_session_location('bob', 'tab', 'Potsdam', 52.39, 13.065), 'so does another');
SELECT ok(set_session_location('cat', NULL, 'Rome', latitude => 41.9, longitude => 12.5), 'and the unnamed one');
SELECT ok(set_session_location('dan', 'tab', latitude => -33.9, longitude => 151.2), 'and one without a region');
SELECT is(pg_temp.regions(), ARRAY['Berlin 1 2', 'Potsdam 1 1', 'Rome 1 1'], 'users and sessions are counted by region');

-- Degrees: by default nothing is kept of them.
SELECT is((SELECT count(geohash) FROM presence_location), 0::bigint, 'no degrees are kept by default');
SELECT is((SELECT count(*) FROM presence_location WHERE user_id = 'dan'), 0::bigint, 'and nothing of who says nothing else');
SELECT is(pg_temp.areas(3), NULL, 'so there are no areas');
SET presence.location_precision = 5;
SELECT set_session_location('ann', 'phone', 'Berlin', 52.52, 13.405), set_session_location('bob', 'tab', 'Potsdam', 52.39, 13.065),
       set_session_location('cat', NULL, 'Rome', 41.9, 12.5), set_session_location('dan', 'tab', latitude => -33.9, longitude => 151.2);
SELECT is((SELECT array_agg(geohash ORDER BY user_id) FROM presence_location WHERE geohash IS NOT NULL), ARRAY['u33dc', 'u3361', 'sr2yk', 'r3gx0'], 'as much as the setting says is kept');
SELECT is(pg_temp.areas(24), ARRAY['r3gx0 1 1', 'sr2yk 1 1', 'u3361 1 1', 'u33dc 1 1'], 'and shown on the finest map');
SELECT is(pg_temp.areas(6), ARRAY['r3g 1 1', 'sr2 1 1', 'u33 2 2'], 'neighbours are one on a coarser map');
SELECT is(pg_temp.areas(0), ARRAY['r 1 1', 's 1 1', 'u 2 2'], 'down to the whole world');
SELECT is((SELECT ARRAY[latitude, longitude] FROM presence_by_area(0) WHERE geohash = 'u'), ARRAY[67.5, 22.5]::float8[], 'with the middle of the area');
SET presence.location_precision = 2;
SELECT is(pg_temp.areas(24), ARRAY['r3 1 1', 'sr 1 1', 'u3 2 2'], 'a setting that is lowered holds for what was kept before');
SET presence.location_precision = 5;

-- What it lasts for.
SELECT is((SELECT xmin::text FROM presence_location WHERE user_id = 'cat'), (SELECT xmin::text FROM presence_location WHERE user_id = 'dan'), 'those were written together');
SELECT ok(set_session_location('cat', NULL, 'Rome', 41.9, 12.5), 'what is said again is taken');
SELECT is((SELECT xmin::text FROM presence_location WHERE user_id = 'cat'), (SELECT xmin::text FROM presence_location WHERE user_id = 'dan'), 'and not written');
SELECT ok(set_session_location('cat', NULL, 'Naples'), 'who moves says so');
SELECT is(pg_temp.regions(), ARRAY['Berlin 1 2', 'Naples 1 1', 'Potsdam 1 1'], 'and is counted there');
SELECT ok(set_session_location('cat'), 'who says NULL takes it back');
SELECT mark_user_offline('bob', 'tab');
SELECT is(pg_temp.regions(), ARRAY['Berlin 1 2'], 'who leaves counts nowhere');
SELECT ok(NOT set_session_location('bob', 'tab', 'Potsdam'), 'who is not here is nowhere');
SELECT ok(NOT set_session_location('nobody', 'tab', 'Potsdam'), 'nor is who never was');
SET presence.rejoin_guard = 0;
SELECT update_user_heartbeat('bob', 'tab');
SELECT is(pg_temp.regions(), ARRAY['Berlin 1 2'], 'a session that begins again has not said where');
SELECT scheduled_presence_cleanup();
SELECT is((SELECT array_agg(user_id ORDER BY user_id, session_id) FROM presence_location), ARRAY['ann', 'ann', 'dan'], 'of ended ones nothing is kept');
BEGIN;
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(pg_temp.regions(), NULL, 'whoever is stale does not count');
ROLLBACK;

-- Who is not seen is nowhere.
SELECT set_user_status('dan', 'invisible');
SELECT is(pg_temp.areas(0), ARRAY['u 1 1'], 'whoever is invisible is not on the map');
SELECT ok(set_session_location('dan', 'tab', 'Sydney'), 'he may move');
SELECT is(pg_temp.regions(), ARRAY['Berlin 1 2'], 'and is seen nowhere');
SELECT set_user_status('dan', NULL);
SELECT is(pg_temp.regions(), ARRAY['Berlin 1 2', 'Sydney 1 1'], 'until he comes into view');

-- Rights are tested with all others (test/sql/access.sql); here, whom a reader sees.
CREATE OR REPLACE FUNCTION presence_can_see(viewer text, user_id text) RETURNS boolean LANGUAGE sql AS $$SELECT user_id <> 'ann'$$;
CREATE ROLE reader_of_locations;
SELECT presence_grant('reader_of_locations', 'read');
SET ROLE reader_of_locations;
SELECT is((SELECT array_agg(region) FROM presence_by_region()), ARRAY['Sydney'], 'a reader counts whom he is shown');
SELECT throws_ok($$SELECT set_session_location('dan', 'tab', 'Rome')$$, '42501', NULL, 'and moves nobody');
RESET ROLE;
DROP OWNED BY reader_of_locations;
DROP ROLE reader_of_locations;

-- What makes no sense.
SELECT throws_ok($$SELECT set_session_location('ann', 'tab', latitude => 1)$$, '22023', 'longitude is missing', 'one of two degrees');
SELECT throws_ok($$SELECT set_session_location('ann', 'tab', latitude => 91, longitude => 0)$$, '22003', 'latitude 91, longitude 0 is not on the earth', 'degrees of another planet');
SELECT throws_ok($$SELECT set_session_location('ann', 'tab', latitude => 'NaN', longitude => 0)$$, '22003', 'latitude NaN, longitude 0 is not on the earth', 'degrees that are none');
SELECT throws_ok($$SELECT * FROM presence_by_area(25)$$, '22023', 'zoom must be between 0 and 24', 'a map that is too fine');
SELECT throws_ok($$SELECT * FROM presence_by_area(NULL)$$, '22004', 'zoom must be between 0 and 24', 'no map');
SELECT throws_ok($$SELECT set_session_location(NULL, 'tab', 'Rome')$$, '22004', NULL, 'nobody');
SELECT is((SELECT array_agg(relation || ' ' || rows ORDER BY 1) FROM presence_forget_user('ann') AS f (relation, rows) WHERE relation = 'presence_location'), ARRAY['presence_location 2'], 'who is forgotten is nowhere');
SELECT * FROM finish();
