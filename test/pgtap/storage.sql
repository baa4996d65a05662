-- "An index on the heartbeat column: 379 million updates, 0.8 % of them HOT, thousands of autovacuums."
-- The server's own counters show what a heartbeat of a known session writes. With the cache: nothing. On the tables: HOT updates only.
SELECT plan(12);
\ir helpers.psql

SELECT is((SELECT array_agg(i.indexrelid::regclass::text) FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
           WHERE i.indrelid = 'presence_session'::regclass AND a.attname IN ('heartbeat_at', 'user_agent', 'ip_address', 'metadata', 'status', 'heartbeat_interval')),
          NULL, 'no index has a column that a heartbeat changes');
SELECT preloaded AS cached FROM presence_server_state() \gset

-- A transaction each, as clients send them. First the sessions begin, and their second heartbeat makes them known.
CREATE PROCEDURE beat(rounds integer, agent text) LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1 .. rounds LOOP
        FOR id IN 1 .. 20 LOOP
            PERFORM update_user_heartbeat(id, 'tab', agent || round);
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
CREATE FUNCTION pg_temp.counted(OUT inserted bigint, OUT updated bigint, OUT hot bigint, OUT deleted bigint) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_stat_clear_snapshot();
    SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = 'presence_session' INTO inserted, updated, hot, deleted;
END $$;
CALL beat(1, 'agent ');
CALL beat(1, 'agent ');

SELECT pg_stat_force_next_flush();
-- 50 heartbeats of each session that say nothing new.
CREATE PROCEDURE beat_unchanged(rounds integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1 .. rounds LOOP
        FOR id IN 1 .. 20 LOOP
            PERFORM update_user_heartbeat(id, 'tab');
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
\set work 'CALL beat_unchanged(50)'
\set disturbed true
\ir count_updates.psql
\ir count_updates.psql
\ir count_updates.psql
\ir count_updates.psql
SELECT is(:updated, CASE WHEN :'cached' THEN 0 ELSE 1000 END, 'a heartbeat of a known session writes no row with the cache, and updates one row without');
SELECT is(:hot, :updated, 'every heartbeat on the tables is a HOT update');
SELECT is((SELECT deleted FROM pg_temp.counted()), 0::bigint, 'and deletes nothing');

-- Changed details take the table path, with the cache as well.
\set work 'CALL beat(50, clock_timestamp()::text)'
\set disturbed true
\ir count_updates.psql
\ir count_updates.psql
\ir count_updates.psql
\ir count_updates.psql
SELECT is(:updated, 1000, 'each change of details updates the row once');
SELECT is(:hot, :updated, 'every one of them is a HOT update');
SELECT is((SELECT inserted FROM pg_temp.counted()), 20::bigint, 'nothing was inserted but the sessions');

-- The user's row is as quiet.
SELECT ok((SELECT n_tup_upd <= 20 FROM pg_stat_user_tables WHERE relname = 'presence_user'), 'heartbeats do not touch the users'' rows');

-- Status changes, which are transitions.
CREATE PROCEDURE change_status(rounds integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1 .. rounds LOOP
        FOR id IN 1 .. 20 LOOP
            PERFORM update_user_heartbeat(id, 'tab', status => CASE WHEN round % 2 = 0 THEN 'idle' ELSE 'busy' END);
            COMMIT;
        END LOOP;
    END LOOP;
END $$;
\set work 'CALL change_status(20)'
\set disturbed true
\ir count_updates.psql
\ir count_updates.psql
\ir count_updates.psql
\ir count_updates.psql
SELECT is(:updated, 400, 'a change of status updates the session once');
-- While the worker numbers the events of one, the page of the next can't be pruned.
SELECT ok(:hot >= 0.8 * :updated, 'by a HOT update, but for a few while the worker looks');

-- With the cache, not even a transaction id.
SELECT update_user_heartbeats(array_agg(id), array_agg('tab'::text)) FROM generate_series(1, 20) AS id;     -- makes them known again
BEGIN;
SELECT update_user_heartbeat(1, 'tab');
SELECT is(pg_current_xact_id_if_assigned() IS NULL, :'cached'::boolean, 'a heartbeat in the cache needs no transaction id');
COMMIT;
BEGIN;
SELECT update_user_heartbeats(array_agg(id), array_agg('tab'::text)) FROM generate_series(1, 20) AS id;
SELECT is(pg_current_xact_id_if_assigned() IS NULL, :'cached'::boolean, 'nor does a batch of them');
COMMIT;

SELECT * FROM finish();
