-- Arguments at and beyond their limits. The messages are in test/sql/errors.sql; here is what they must be whatever the input.
\ir helpers.psql
SELECT plan(32);

-- Runs a statement that has to fail, and tells how.
CREATE FUNCTION pg_temp.failure(statement text, OUT state text, OUT message text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
END $$;
CREATE FUNCTION pg_temp.valid(message text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RETURN convert_from(convert_to(message, 'UTF8'), 'UTF8') = message;
EXCEPTION WHEN character_not_in_repertoire THEN RETURN false;
END $$;

-- Intervals.
SELECT ok(update_user_heartbeat('a', 's', heartbeat_interval => '1 day'), 'a promise of one day is the longest');
SELECT ok(update_user_heartbeat('a', 's', heartbeat_interval => '1 ms'), 'one of a millisecond is kept as well');
SELECT is((SELECT state FROM pg_temp.failure(format('SELECT update_user_heartbeat(''a'', heartbeat_interval => %L)', i))), '22023', 'interval refused: ' || i)
FROM unnest(ARRAY['0', '-1 us', '1 day 1 us', '-1 day 23 hours', '-178000000 years', '178000000 years', '2147483647 days', '-2147483648 days']) AS i;
SELECT is((SELECT state FROM pg_temp.failure(format('SELECT update_user_heartbeat(''a'', heartbeat_interval => %L)', i))), '22023', 'interval refused: ' || i)
FROM unnest(ARRAY['213503983 days', '427007965 days']) AS i;
SELECT is((SELECT array_agg(heartbeat_interval) FROM presence_sessions), ARRAY['1 ms']::interval[], 'nothing was written by any of them');

-- Texts are cut between characters, in errors as well.
SELECT ok(pg_temp.valid((SELECT message FROM pg_temp.failure($$SELECT update_user_heartbeat('a', status => 'x' || repeat('é', 100))$$))), 'the message about a long status is valid text');
SELECT ok(pg_temp.valid((SELECT message FROM pg_temp.failure($$SELECT update_user_heartbeat('a', metadata => to_jsonb(repeat('é', 3000)))$$))), 'so is the one about long metadata');
SELECT ok(pg_temp.valid((SELECT message FROM pg_temp.failure($$SELECT update_user_heartbeat('x' || repeat('é', 200))$$))), 'and the one about a long id');
SELECT ok((SELECT bool_and(octet_length(message) < 200) FROM unnest(ARRAY[
           $$SELECT update_user_heartbeat('a', status => repeat('x', 1000000))$$, $$SELECT update_user_heartbeat('a', metadata => to_jsonb(repeat('x', 1000000)))$$,
           $$SELECT update_user_heartbeat(repeat('x', 1000000))$$]) AS statement, pg_temp.failure(statement)), 'a megabyte of nonsense is shown cut to a sane length');

-- The longest that is allowed.
SELECT ok(update_user_heartbeat(repeat('u', 255), repeat('s', 255), repeat('a', 100000), 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/64', '1 day', 'active', jsonb_build_object('k', repeat('m', 4087))), 'everything at its longest');
SELECT is((SELECT octet_length(user_agent) FROM presence WHERE user_id = repeat('u', 255)), 1024, 'a user agent over 1 kB is cut, not refused');
SELECT ok(update_user_heartbeat(repeat('u', 255), repeat('s', 255), repeat('a', 1024)), 'the same again, cut already');
SELECT is((SELECT count(*) FROM presence_events WHERE event = 'update'), 0::bigint, 'is no news');
SELECT is((SELECT state FROM pg_temp.failure($$SELECT update_user_heartbeat('a', metadata => jsonb_build_object('k', repeat('m', 4088)))$$)), '54000', 'metadata of 4,097 bytes is refused');
SELECT ok(update_user_heartbeat('a', 's', user_agent => ''), 'an empty user agent is one');
SELECT is((SELECT user_agent FROM presence WHERE user_id = 'a'), '', 'and stored');

-- Batches.
SELECT is(update_user_heartbeats('{}', '{}'), 0, 'an empty batch');
SELECT is(update_user_heartbeats(array_agg(n % 500), array_agg(n % 1000)), 5000, 'a batch of five thousand with repetitions counts each element') FROM generate_series(1, 5000) AS n;
SELECT is((SELECT count(*) FROM presence_sessions WHERE online AND user_id ~ '^\d+$'), 1000::bigint, 'and begins each session once');

-- Users, whether they are counted in shared memory or not.
SELECT count(*) + 2 AS most FROM presence_user \gset
SET presence.max_users = :most;
SELECT ok(update_user_heartbeat('one more', 's'), 'below presence.max_users somebody new is welcome');
SELECT ok(update_user_heartbeat('the last', 's'), 'up to the last');
SELECT is((SELECT state FROM pg_temp.failure($$SELECT update_user_heartbeat('one too many', 's')$$)), '53400', 'nobody beyond');
SELECT is((SELECT state FROM pg_temp.failure($$SELECT update_user_heartbeats('{a,one too many}', '{s,s}')$$)), '53400', 'nor in a batch');
SELECT ok(update_user_heartbeat('the last', 'another'), 'who is known is welcome as before');

SELECT * FROM finish();
