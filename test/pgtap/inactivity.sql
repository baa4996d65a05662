-- Sessions that tell when somebody was last active there, and what they show after presence.idle_after and
-- presence.away_after.
\ir helpers.psql
SELECT plan(29);

CREATE FUNCTION pg_temp.shown(who text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(session_id || ' ' || status, ', ' ORDER BY session_id) FROM presence_sessions WHERE user_id = who
$$;
CREATE FUNCTION pg_temp.updates(who text) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg((details ->> 'status') || ' ' || reason ORDER BY id) FROM presence_event WHERE user_id = who AND event = 'update'
$$;
CREATE FUNCTION pg_temp.cleaned_up() RETURNS boolean LANGUAGE sql AS $$ SELECT cleanup_stale_presence() IS NOT NULL $$;

-- In one transaction, because the worker goes by the settings of the database.
BEGIN;
SET LOCAL presence.idle_after = '1s';
SELECT ok(update_user_heartbeat('ann', 'tab', last_activity => clock_timestamp()), 'a heartbeat that tells of activity');
SELECT pg_temp.cleaned_up();
SELECT is(pg_temp.shown('ann'), 'tab active', 'whoever was just active is active');
SELECT ok(pg_temp.until($$pg_temp.cleaned_up() AND pg_temp.shown('ann') = 'tab idle'$$), 'the cleanup turns the session idle in time');
SELECT is(pg_temp.updates('ann'), ARRAY['idle timeout'], 'which is one update');
SELECT is((SELECT row(p.status, a.status, g.status)::text FROM presence AS p, get_active_users() AS a, get_presence(ARRAY['ann']) AS g
           WHERE p.user_id = 'ann' AND a.user_id = 'ann'), '(idle,idle,idle)', 'all readers show it');
SELECT update_user_heartbeat('ann', 'tab'), update_user_heartbeat('ann', 'tab', status => 'active'),
       update_user_heartbeat('ann', 'tab', last_activity => clock_timestamp() - interval '1 minute');
SELECT is(pg_temp.shown('ann'), 'tab idle', 'a heartbeat without activity, or with older activity, leaves it idle');
SELECT update_user_heartbeat('ann', 'tab', last_activity => clock_timestamp());
SELECT is(pg_temp.shown('ann'), 'tab active', 'activity turns it back with the same heartbeat');
SELECT is(pg_temp.updates('ann'), ARRAY['idle timeout', 'active heartbeat'], 'which is one update, too');

SELECT update_user_heartbeat('bob', 'tab', last_activity => clock_timestamp() - interval '1 day');
SELECT is(pg_temp.shown('bob'), 'tab idle', 'a session may begin idle');
SET LOCAL presence.away_after = '2s';
SELECT ok(pg_temp.until($$pg_temp.cleaned_up() AND pg_temp.shown('bob') = 'tab away'$$), 'and turns away');
SET LOCAL presence.away_after = '1ms';
SELECT update_user_heartbeat('bob', 'tab', last_activity => clock_timestamp());
SELECT is(pg_temp.shown('bob'), 'tab active', 'away comes no sooner than idle');
SET LOCAL presence.away_after = 0;
SELECT update_user_heartbeat('cay', 'tab', status => 'busy', last_activity => clock_timestamp() - interval '1 day');
SELECT update_user_heartbeat('dan', 'tab', status => 'idle', last_activity => clock_timestamp() - interval '1 day');
SELECT update_user_heartbeat('eve', 'tab');
SELECT pg_temp.cleaned_up();
SELECT is(pg_temp.shown('cay') || pg_temp.shown('dan') || pg_temp.shown('eve'), 'tab busytab idletab active',
          'who is busy stays so, who said idle too, and who never told of activity is active');

SELECT set_user_status('fay', 'busy');
SELECT update_user_heartbeats(ARRAY['fay', 'fay', 'fay'], ARRAY['one', 'two', 'two'], ARRAY[clock_timestamp() - interval '1 day', NULL, clock_timestamp()]);
SELECT is(pg_temp.shown('fay'), 'one idle, two active', 'a batch tells of activity, too; the last one of a session counts');
SELECT ok(pg_temp.until($$pg_temp.cleaned_up() AND pg_temp.shown('fay') = 'one idle, two idle'$$), 'sessions turn behind a chosen status');
SELECT is(pg_temp.updates('fay'), NULL, 'which nobody sees');
SELECT set_user_status('fay', NULL);
SELECT is(pg_temp.updates('fay'), ARRAY['idle heartbeat'], 'until the choice ends');
SELECT set_user_status('fay', 'invisible');
SELECT update_user_heartbeats(ARRAY['fay', 'fay'], ARRAY['one', 'two'], ARRAY[clock_timestamp(), NULL]);
SELECT set_user_status('fay', NULL);
SELECT is(pg_temp.shown('fay'), 'one active, two idle', 'what invisible sessions tell is shown when they come into view');

SELECT update_user_heartbeat('gil', 'tab', last_activity => clock_timestamp() + interval '1 day');
SELECT ok((SELECT last_activity BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp() FROM presence_sessions WHERE user_id = 'gil'), 'activity in the future is now');
SELECT update_user_heartbeat('hal', 'tab', last_activity => '0044-03-15 BC');
SELECT is(pg_temp.shown('hal'), 'tab idle', 'long ago is long ago');
SELECT update_user_heartbeat('hal', 'tab', last_activity => clock_timestamp() - interval '10 seconds');
SELECT ok((SELECT abs(extract(epoch FROM clock_timestamp() - last_activity) - 10) < 5 FROM presence_sessions WHERE user_id = 'hal'), 'the view shows the last one told');
SELECT update_user_heartbeat('hal', 'tab', last_activity => clock_timestamp() - interval '1 day');
SELECT ok((SELECT last_activity > clock_timestamp() - interval '1 hour' FROM presence_sessions WHERE user_id = 'hal'), 'an earlier one changes nothing');

SELECT throws_ok($$SELECT update_user_heartbeat('ann', 'tab', last_activity => 'infinity')$$, '22023', 'last_activity is out of range: infinity', 'infinity is no time');
SELECT throws_ok($$SELECT update_user_heartbeats(ARRAY['ann'], ARRAY['tab'], ARRAY['-infinity'::timestamptz])$$, '22023', 'last_activity is out of range: -infinity', 'nor is it in a batch');
SELECT throws_ok($$SELECT update_user_heartbeats(ARRAY['ann'], ARRAY['tab'], '{}')$$, '2202E', 'user_ids has 1 elements, but last_activity has 0', 'arrays are of one length');

SET LOCAL presence.max_updates_per_minute = 1;
SELECT update_user_heartbeat('ian', 'tab', last_activity => clock_timestamp());
SELECT ok(pg_temp.until($$pg_temp.cleaned_up() AND pg_temp.shown('ian') = 'tab idle'$$), 'its updates are counted');
SELECT update_user_heartbeat('ian', 'tab', last_activity => clock_timestamp());
SELECT is(pg_temp.shown('ian') || pg_temp.updates('ian')::text, 'tab active{"idle timeout"}', 'and those that may not be told are put off');

SET LOCAL presence.idle_after = 0;
SELECT update_user_heartbeat('ann', 'tab');
SELECT is(pg_temp.shown('ann'), 'tab active', 'without the setting, the next heartbeat shows what the session said');
SELECT pg_temp.cleaned_up();
SELECT is(pg_temp.shown('fay'), 'one active, two active', 'or the cleanup does');
COMMIT;
SELECT is_empty('SELECT * FROM presence_verify()', 'everything agrees');
SELECT * FROM finish();
