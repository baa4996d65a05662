-- presence_forget_user() removes a person everywhere, and the feed stays whole for everybody else.
\ir helpers.psql
SELECT plan(23);
SET client_min_messages = warning;

-- Where a text still occurs in any table of the extension.
CREATE FUNCTION pg_temp.places(needle text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    place text;
    found bigint;
    places text[] := '{}';
BEGIN
    FOR place IN SELECT c.relname FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
                 JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence' WHERE c.relkind IN ('r', 'v') ORDER BY 1 LOOP
        EXECUTE format('SELECT count(*) FROM %I AS t WHERE to_jsonb(t)::text LIKE ''%%'' || $1 || ''%%''', place) INTO found USING needle;
        IF found > 0 THEN places := places || place; END IF;
    END LOOP;
    RETURN places;
END $$;

SELECT update_user_heartbeat('secret-ada', 'secret-tab', user_agent => 'secret-agent', ip_address => '203.0.113.77', metadata => '{"name": "secret-name"}');
SELECT update_user_heartbeat('secret-ada', 'secret-phone');
SELECT mark_user_offline('secret-ada', 'secret-phone');
SELECT update_user_heartbeat('bob', 'b');
SELECT update_user_heartbeat('secret-ada', 'secret-tab');
SELECT ok(pg_temp.numbered(), 'all events have numbers');
SELECT epoch, seq FROM presence_feed_position() \gset
SELECT ok(cardinality(pg_temp.places('secret')) >= 5, 'she is in many places');
SELECT count(*) AS events FROM presence_event WHERE user_id = 'secret-ada' \gset

-- Those who are online are ended like everybody else.
SELECT is((SELECT array_agg(relation || ' ' || CASE relation WHEN 'presence_event' THEN (rows > :events)::text ELSE rows::text END ORDER BY relation) FROM presence_forget_user('secret-ada')),
          ARRAY['presence_admin_log 1', 'presence_event true', 'presence_location 0', 'presence_report_return 0', 'presence_report_session 0', 'presence_report_user 0', 'presence_session 2', 'presence_user 1'], 'it says what it removed');
SELECT is(pg_temp.places('secret'), '{}', 'she is nowhere');
SELECT is(pg_temp.places('203.0.113.77'), '{}', 'nor is her address');
SELECT is(presence_count(), 1::bigint, 'one is online');
SELECT is((SELECT array_agg(user_id) FROM get_active_users()), ARRAY['bob'], 'the other one');
SELECT ok(NOT is_user_online('secret-ada'), 'she is not');
SELECT ok(pg_temp.numbered(), 'all events have numbers');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees');
SELECT isnt((SELECT epoch FROM presence_feed_position()), :'epoch', 'readers of the feed begin again');
SELECT ok((SELECT seq FROM presence_feed_position()) > :seq, 'with the numbers going on');
SELECT is((SELECT array_agg(n) FROM generate_series(1, (SELECT seq FROM presence_feed_position())) AS n WHERE n NOT IN (SELECT seq FROM presence_events)), NULL, 'without a gap');
SELECT is((SELECT count(DISTINCT user_id) FROM presence_events WHERE user_id LIKE 'forgotten-%'), 1::bigint, 'all her events are those of one nameless user');
SELECT is((SELECT details FROM presence_admin_log WHERE action = 'presence_forget_user') - 'presence_event', '{"presence_session": 2, "presence_location": 0, "presence_user": 1, "presence_admin_log": 1, "presence_report_return": 0, "presence_report_session": 0, "presence_report_user": 0}', 'the log says that somebody was forgotten, and not who');

-- A new heartbeat is that of somebody new.
SELECT ok(update_user_heartbeat('secret-ada', 'secret-phone'), 'she may come back');
SELECT is((SELECT array_agg(event ORDER BY id) FROM presence_event WHERE user_id = 'secret-ada'), ARRAY['session_start', 'user_online'], 'as somebody who was never there');

SELECT epoch FROM presence_feed_position() \gset
SELECT is((SELECT sum(rows) FROM presence_forget_user('nobody')), 0::numeric, 'of somebody unknown there is nothing to remove');
SELECT is((SELECT epoch FROM presence_feed_position()), :'epoch', 'and readers go on');
BEGIN;
SELECT presence_forget_user('secret-ada');
ROLLBACK;
SELECT ok(is_user_online('secret-ada'), 'rolled back, nothing was forgotten');

-- Nor does anything stay of somebody who was not seen.
SELECT update_user_heartbeat('hidden-eve', 'hidden-tab'), set_user_status('hidden-eve', 'invisible', message => 'hidden-message'), update_user_heartbeat('hidden-eve', 'hidden-phone');
SELECT ok('presence_hidden_session' = ANY (pg_temp.places('hidden-eve')), 'somebody is invisible');
SELECT count(*) FROM presence_forget_user('hidden-eve') \gset
SELECT is(pg_temp.places('hidden-eve') || pg_temp.places('hidden-message'), '{}', 'and is nowhere');
SELECT is((SELECT count(*) FROM presence_verify()), 0::bigint, 'everything agrees');

SELECT * FROM finish();
