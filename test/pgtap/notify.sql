-- Notifications, as a real listener receives them.
\ir helpers.psql
SELECT plan(19);

-- A second psql listens, does what it is told, and prints what it hears; what comes from a worker needs a moment.
CREATE FUNCTION sent() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT worker_pid FROM presence_health) IS NOT NULL THEN
        FOR i IN 1 .. 1000 LOOP EXIT WHEN NOT EXISTS (SELECT FROM presence_event_queue); PERFORM pg_sleep(0.01); END LOOP;
        PERFORM pg_sleep(0.1);
    END IF;
END $$;
CREATE FUNCTION pg_temp.payloads(said text) RETURNS TABLE (number bigint, payload jsonb) LANGUAGE sql AS $$
    SELECT n, line::jsonb FROM regexp_split_to_table(said, '\n') WITH ORDINALITY AS l (line, n) WHERE line <> '' $$;

\set heard `psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeat('a', '1', metadata => '{\"x\": 1}')" -c "SELECT update_user_heartbeat('a', '2', metadata => '{\"x\": 1}')" -c "SELECT update_user_heartbeat('a', '2', status => 'busy')" -c "SELECT update_user_heartbeat('a', '1', status => 'idle')" -c "SELECT mark_user_offline('a', '1')" -c "SELECT handle_user_disconnect('a', '2')" -c 'SELECT sent()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
CREATE TEMP TABLE heard AS SELECT * FROM pg_temp.payloads(:'heard');
SELECT is((SELECT array_agg(payload ->> 'event' ORDER BY number) FROM heard), ARRAY['user_online', 'update', 'user_offline'], 'by default users that come, change and go');
SELECT is((SELECT array_agg(DISTINCT (SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(payload) AS k)) FROM heard),
          ARRAY['at details epoch event reason seq session_id sessions user_id'], 'each with exactly the keys of the contract');
SELECT ok(pg_temp.numbered(), 'the feed');
SELECT set_eq($$SELECT row(payload ->> 'event', (payload ->> 'at')::timestamptz, payload ->> 'user_id', payload ->> 'session_id', payload ->> 'reason', payload ->> 'sessions', nullif(payload -> 'details', 'null'))::text FROM heard$$,
              $$SELECT row(event, at, user_id, session_id, reason, sessions, details)::text FROM presence_changes_since(0) WHERE event !~ 'session'$$, 'says the same');
SELECT ok((SELECT bool_and(payload -> 'seq' = 'null' OR (payload ->> 'seq')::bigint = e.seq) FROM heard JOIN presence_changes_since(0) AS e ON (payload ->> 'at')::timestamptz = e.at AND payload ->> 'event' = e.event),
          'seq is null, or the one of the feed');
SELECT is((SELECT payload -> 'details' FROM heard WHERE payload ->> 'event' = 'user_online'), '{"status": "active", "metadata": {"x": 1}}', 'details are what others see');
SELECT is((SELECT payload -> 'details' FROM heard WHERE payload ->> 'event' = 'user_offline'), 'null', 'of who is gone, nothing');

\set heard `PGOPTIONS='-c presence.notify_level=session' psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeat('b')" -c "SELECT update_user_heartbeat('b', '2')" -c "SELECT update_user_heartbeat('b', '2')" -c "SELECT update_user_heartbeat('b', '2', 'new agent')" -c "SELECT mark_user_offline('b')" -c 'SELECT sent()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is((SELECT array_agg(payload ->> 'event' || ' ' || coalesce(payload ->> 'session_id', '-') || ' ' || (payload ->> 'sessions') ORDER BY number) FROM pg_temp.payloads(:'heard')),
          ARRAY['session_start - 1', 'user_online - 1', 'session_start 2 2', 'session_end - 1', 'session_end 2 0', 'user_offline 2 0'], 'with notify_level session all of them, in order, and none for a heartbeat that changes nothing');
\set heard `PGOPTIONS='-c presence.notify_level=none' psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeat('c')" -c "SELECT mark_user_offline('c')" -c 'SELECT sent()' -c 'SELECT 1' | grep Asynchronous`
SELECT is(:'heard'::text, '', 'with none, none');
\set heard `PGOPTIONS='-c presence.notify_channel=' psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeat('d')" -c "SELECT mark_user_offline('d')" -c 'SELECT sent()' -c 'SELECT 1' | grep Asynchronous`
SELECT is(:'heard'::text, '', 'nor with an empty channel');
SELECT is((SELECT count(*) FROM presence_events WHERE user_id IN ('c', 'd')), 8::bigint, 'but all are recorded');

-- Timeouts, batches, and one transaction of many.
\set heard `psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeats(ARRAY['e','f','g'], ARRAY['s','s','s'])" -c "SET presence.timeout = '1ms'" -c 'SELECT pg_sleep(0.01)' -c 'SELECT cleanup_stale_presence()' -c 'SELECT sent()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is((SELECT count(*) FROM pg_temp.payloads(:'heard') WHERE payload ->> 'event' = 'user_online'), 3::bigint, 'a batch announces each who came');
SELECT is((SELECT count(*) FROM pg_temp.payloads(:'heard') WHERE payload ->> 'event' = 'user_offline' AND payload ->> 'reason' = 'timeout'), 3::bigint, 'a cleanup each who timed out');
\set heard `psql -XAtq -c 'LISTEN presence' -c "BEGIN" -c "SELECT update_user_heartbeat('h', 's')" -c "SELECT mark_user_offline('h', 's')" -c ROLLBACK -c "SELECT 1" -c 'SELECT sent()' -c 'SELECT 1' | grep Asynchronous`
SELECT is(:'heard'::text, '', 'what is rolled back is not announced');
\set heard `psql -XAtq -c 'LISTEN presence' -c "BEGIN; SELECT update_user_heartbeat('i', 's'), mark_user_offline('i', 's'), update_user_heartbeat('i', 't'), mark_user_offline('i', 't'); COMMIT" -c 'SELECT sent()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is((SELECT array_agg(payload ->> 'event' ORDER BY number) FROM pg_temp.payloads(:'heard')), ARRAY['user_online', 'user_offline', 'user_online', 'user_offline'], 'what one transaction does is announced in order');

-- The payload at its limits: ids that JSON has to escape, and the longest metadata.
\set heard `PGOPTIONS='-c presence.notify_level=session' psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeat(repeat(chr(34), 255), repeat(chr(92), 255), metadata => jsonb_build_object('k', repeat(chr(34), 2043)))" -c 'SELECT sent()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is((SELECT array_agg(payload ->> 'event') FROM pg_temp.payloads(:'heard')), ARRAY['session_start', 'user_online'], 'the longest call is announced');
SELECT is((SELECT array_agg(DISTINCT length(payload ->> 'user_id') || ' ' || length(payload ->> 'session_id') || ' ' || length(payload #>> '{details,metadata,k}')) FROM pg_temp.payloads(:'heard')), ARRAY['255 255 2043'], 'whole');

-- Any channel that NOTIFY takes.
\set heard `PGOPTIONS='-c presence.notify_channel=Odd\ channel' psql -XAtq -c 'LISTEN "Odd channel"' -c "SELECT update_user_heartbeat('j')" -c 'SELECT sent()' -c 'SELECT 1' | grep -c 'notification "Odd channel"'`
SELECT is(:'heard'::text, '1', 'another channel, whatever its name');
\set sent `psql -XAtq -c "SELECT update_user_heartbeat('k')" -c 'SELECT sent()' -c 'LISTEN presence' -c 'SELECT sent()' -c 'SELECT 1' | grep Asynchronous`
SELECT is(:'sent'::text, '', 'who listens later has missed it, and reads the feed');

SELECT * FROM finish();
