-- More updates of a session than presence.max_updates_per_minute are told as one: readers show what was said last at once, and
-- the feed tells it when the minute is over, or the session.
\ir helpers.psql
SELECT plan(19);
SET presence.max_updates_per_minute = 3;

CREATE FUNCTION pg_temp.say(who text, tab text, first integer, last integer) RETURNS void LANGUAGE sql AS $$
    SELECT update_user_heartbeat(who, tab, status => CASE n % 2 WHEN 0 THEN 'busy' ELSE 'idle' END, metadata => to_jsonb(n)) FROM generate_series(first, last) AS n
$$;
CREATE FUNCTION pg_temp.updates(who text) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(CASE event WHEN 'update' THEN session_id || ' ' || coalesce(details ->> 'metadata', '-') || ' ' || (details ->> 'status') ELSE event END ORDER BY id) FROM presence_event WHERE user_id = who
$$;
CREATE FUNCTION pg_temp.minute_over() RETURNS void LANGUAGE sql AS $$
    UPDATE presence_session SET updates_from = updates_from - interval '1 minute', update_due = update_due - interval '1 minute' WHERE updates_from IS NOT NULL
$$;

-- In one transaction, so that nobody else tells anything meanwhile.
BEGIN;
SELECT update_user_heartbeat('ann', 'tab');
SELECT pg_temp.say('ann', 'tab', 1, 10);
SELECT is(pg_temp.updates('ann'), ARRAY['session_start', 'user_online', 'tab 1 idle', 'tab 2 busy', 'tab 3 idle'], 'three are told');
SELECT is((SELECT row(status, metadata)::text FROM presence WHERE user_id = 'ann'), '(busy,10)', 'readers show the last one at once');
SELECT is((SELECT row(status, metadata)::text FROM get_presence(ARRAY['ann'])), '(busy,10)', 'all of them');
SELECT update_user_heartbeat('ann', 'tab', status => 'busy', metadata => '10') FROM generate_series(1, 3);
SELECT update_user_heartbeat('ann', 'tab', user_agent => 'Firefox');
SELECT is(cardinality(pg_temp.updates('ann')), 5, 'what is no update tells none');
SELECT cleanup_stale_presence();
SELECT is(cardinality(pg_temp.updates('ann')), 5, 'nor is it told before its time');
SELECT pg_temp.minute_over();
SELECT cleanup_stale_presence();
SELECT is((pg_temp.updates('ann'))[6:], ARRAY['tab 10 busy'], 'when the minute is over, the cleanup tells the last one');
SELECT cleanup_stale_presence();
SELECT pg_temp.say('ann', 'tab', 11, 15);
SELECT is((pg_temp.updates('ann'))[7:], ARRAY['tab 11 idle', 'tab 12 busy'], 'once, and it counts in the next minute');
SELECT pg_temp.minute_over();
SELECT pg_temp.say('ann', 'tab', 16, 16);
SELECT is((pg_temp.updates('ann'))[9:], ARRAY['tab 16 busy'], 'or the next heartbeat tells it together with its own');
SELECT pg_temp.say('ann', 'tab', 17, 19);
SELECT update_user_heartbeat('ann', 'other');
SELECT pg_temp.minute_over();
SELECT update_user_heartbeat('ann', 'third');
SELECT is((pg_temp.updates('ann'))[10:], ARRAY['tab 17 idle', 'tab 18 busy', 'session_start', 'other - active', 'tab - active', 'session_start'], 'or that of another session of the user');
SAVEPOINT before;
SELECT pg_temp.say('ann', 'tab', 20, 24);
ROLLBACK TO before;
SELECT is((SELECT metadata FROM presence_sessions WHERE session_id = 'tab'), '19', 'what is taken back is not told');
SELECT is((SELECT update_due FROM presence_session WHERE session_id = 'tab'), NULL, 'nor waits for it');
SELECT pg_temp.say('ann', 'tab', 20, 24);
SELECT mark_user_offline('ann', 'tab');
SELECT is((pg_temp.updates('ann'))[18:19], ARRAY['tab 24 active', 'session_end'], 'a session that ends tells its last one before');

SELECT update_user_heartbeat('bob', 'one');
SELECT update_user_heartbeat('bob', 'two');
SELECT pg_temp.say('bob', 'one', 1, 5), pg_temp.say('bob', 'two', 1, 5);
SELECT is((SELECT count(*) FROM presence_event WHERE user_id = 'bob' AND event = 'update'), 6::bigint, 'each session has its own');
SET LOCAL presence.max_updates_per_minute = 0;
SELECT pg_temp.say('bob', 'one', 6, 100);
SELECT is((SELECT count(*) FROM presence_event WHERE user_id = 'bob' AND event = 'update'), 101::bigint, '0 sets no limit');
COMMIT;

SELECT is((SELECT row(status, metadata)::text FROM presence WHERE user_id = 'bob'), '(busy,100)', 'the end shows the last one');

-- One caller cannot fill the database, however often something changes.
RESET presence.max_updates_per_minute;
CREATE FUNCTION pg_temp.size() RETURNS numeric LANGUAGE sql AS $$
    SELECT sum(pg_total_relation_size(objid)) FROM pg_depend JOIN pg_class AS c ON c.oid = objid WHERE classid = 'pg_class'::regclass AND deptype = 'e' AND relkind = 'r'
$$;
CREATE PROCEDURE pg_temp.change(times integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. times LOOP
        PERFORM pg_temp.say('eve', 'tab', n, n);
        COMMIT;
    END LOOP;
END $$;
SELECT update_user_heartbeat('eve', 'tab');
CALL pg_temp.change(100);
SELECT pg_temp.size() AS before \gset
CALL pg_temp.change(20000);
SELECT cmp_ok((SELECT count(*) FROM presence_event WHERE user_id = 'eve' AND event = 'update'), '<', 2000::bigint, 'of twenty thousand changes few are told');
SELECT cmp_ok(pg_temp.size() - :before, '<', 1000000::numeric, 'and the tables stay small');
SELECT is((SELECT metadata FROM presence WHERE user_id = 'eve'), '20000', 'which show the last one');
SELECT is_empty('SELECT * FROM presence_verify()', 'everything agrees');
SELECT * FROM finish();
