-- DROP EXTENSION leaves nothing behind, and what was dropped is not remembered.
SELECT plan(26);
SET client_min_messages = warning;

-- How many entries each catalog has; temporary objects, of which pgTAP makes some, do not count.
CREATE FUNCTION pg_temp.everything() RETURNS TABLE (catalog text, entries bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR catalog, entries IN
        SELECT 'pg_class', count(*) FROM pg_class WHERE relnamespace::regnamespace::text !~ 'temp'
        UNION ALL SELECT 'pg_type', count(*) FROM pg_type WHERE typnamespace::regnamespace::text !~ 'temp'
        UNION ALL SELECT 'pg_proc', count(*) FROM pg_proc WHERE pronamespace::regnamespace::text !~ 'temp' LOOP
        RETURN NEXT;
    END LOOP;
    FOREACH catalog IN ARRAY ARRAY['pg_cast', 'pg_description', 'pg_init_privs', 'pg_rewrite', 'pg_inherits', 'pg_extension', 'pg_operator', 'pg_trigger',
                                   'pg_event_trigger', 'pg_shdescription', 'pg_db_role_setting', 'pg_authid', 'pg_default_acl'] LOOP
        EXECUTE format('SELECT count(*) FROM %s', catalog) INTO entries;
        RETURN NEXT;
    END LOOP;
END $$;
CREATE TEMP TABLE before AS SELECT * FROM pg_temp.everything();

CREATE EXTENSION presence;
\ir helpers.psql
SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 100) AS n;
SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 100) AS n;
SELECT preloaded AS cached FROM presence_server_state() \gset
SELECT is((SELECT cached_sessions FROM presence_health), CASE WHEN :'cached' THEN 100 ELSE 0 END::bigint, 'sessions are in the cache, where there is one');
SELECT ok(mark_user_offline(1), 'one has left');
SELECT count(*) FROM presence_snapshot();
SELECT count(scheduled_presence_cleanup());

-- Kept after all.
BEGIN;
DROP EXTENSION presence;
ROLLBACK;
SELECT is((SELECT count(*) FROM presence WHERE online), 99::bigint, 'a DROP EXTENSION that is rolled back loses nobody');
SELECT is(update_user_heartbeats(array_agg(n), array_agg('s'::text)), 99, 'all go on') FROM generate_series(2, 100) AS n;
SELECT is(presence_count(), 99::bigint, 'and are counted once');
SET presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(cleanup_stale_presence(), 99, 'whoever is silent afterwards is found');
RESET presence.timeout;
SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 100) AS n;
SELECT update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(1, 100) AS n;

SELECT epoch FROM presence_feed_position() \gset
DROP EXTENSION presence;
SELECT set_eq('SELECT * FROM pg_temp.everything()', 'SELECT * FROM before', 'DROP EXTENSION leaves no relation, function, type, cast, comment or right behind');
SELECT is((SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND NOT EXISTS (SELECT FROM pg_extension WHERE oid = refobjid)), 0::bigint, 'and nothing that depends on what is gone');

CREATE EXTENSION presence;
SELECT is((SELECT cached_sessions FROM presence_health), 0::bigint, 'created again, cached_sessions is 0');
SELECT is(presence_count(), 0::bigint, 'nobody is online');
SELECT is((SELECT count(*) FROM presence), 0::bigint, 'nobody is known');
SELECT is((SELECT count(*) FROM get_active_users()), 0::bigint, 'the list is empty');
SELECT is((SELECT array_agg(row(seq, user_id)::text) FROM presence_snapshot()), ARRAY['(0,)'], 'the feed begins anew');
SELECT isnt((SELECT epoch FROM presence_feed_position()), :'epoch', 'with an epoch of its own');
SELECT is((SELECT count(*) FROM presence_changes_since(0)), 0::bigint, 'with nothing in it');
SELECT ok(update_user_heartbeat(1, 's'), 'a session of the same ids as before begins');
SELECT is((SELECT count(*) FROM presence_sessions WHERE online), 1::bigint, 'as a row');
SELECT is((SELECT array_agg(event::text ORDER BY event) FROM presence_events), ARRAY['session_start', 'user_online'], 'with its events');
SELECT ok(update_user_heartbeat(1, 's') AND update_user_heartbeat(1, 's'), 'and goes on');

-- Other connections.
\set answer `psql -XAtqc "SELECT update_user_heartbeat(1, 's'), presence_count()"`
SELECT is(:'answer'::text, 't|1', 'other connections see the same');

-- CASCADE takes what an application built upon it.
CREATE VIEW who AS SELECT * FROM presence;
SELECT throws_ok('DROP EXTENSION presence', '2BP01', NULL, 'what an application built upon it is not dropped unasked');
SELECT lives_ok('DROP EXTENSION presence CASCADE', 'but with CASCADE');
SELECT is((SELECT count(*) FROM pg_class WHERE relname ~ '^presence|^who$'), 0::bigint, 'then nothing is left');

-- Often, and at once after changes, while the worker is at them.
CREATE PROCEDURE come_and_go(rounds integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1 .. rounds LOOP
        EXECUTE 'CREATE EXTENSION presence';
        EXECUTE 'SELECT update_user_heartbeats(array_agg(n), array_agg(n)) FROM generate_series(1, 50) AS n';
        COMMIT;
        EXECUTE 'SELECT presence_count()';
        COMMIT;
        EXECUTE 'DROP EXTENSION presence';
        COMMIT;
    END LOOP;
END $$;
CALL come_and_go(30);
SELECT is((SELECT count(*) FROM pg_class WHERE relname ~ '^presence'), 0::bigint, 'creating and dropping it thirty times in a row works beside the worker');
CREATE EXTENSION presence;
SELECT is(presence_count(), 0::bigint, 'and leaves nobody online');
SELECT is(update_user_heartbeats(ARRAY[1, 2], ARRAY[NULL, NULL]::text[]), 2, 'but a working extension');
DROP EXTENSION presence;

SELECT * FROM finish();
