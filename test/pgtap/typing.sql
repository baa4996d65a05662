-- Who is typing, as readers and a real listener see it. Without the library preloaded nobody types; without a worker nobody is told.
\ir helpers.psql
SELECT preloaded AS cached, preloaded AND current_setting('presence.worker')::boolean AS told FROM presence_server_state() \gset
SELECT plan(43);

CREATE FUNCTION pg_temp.typing(place text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN (SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM get_typing(place)); END $$;
CREATE FUNCTION pg_temp.payloads(said text) RETURNS TABLE (number bigint, payload jsonb) LANGUAGE sql AS $$
    SELECT n, line::jsonb FROM regexp_split_to_table(said, '\n') WITH ORDINALITY AS l (line, n) WHERE line ~ '"typing_' $$;
-- What was heard, of whom, in order.
CREATE FUNCTION pg_temp.heard(said text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(substr(payload ->> 'event', 8) || ' ' || (payload ->> 'user_id') || '/' || coalesce(payload ->> 'session_id', '-') || '@' || (payload ->> 'room'), ', ' ORDER BY number)
    FROM pg_temp.payloads(said) $$;
CREATE FUNCTION pg_temp.if_told(expected text) RETURNS text LANGUAGE sql AS $$ SELECT CASE WHEN current_setting('test.told')::boolean THEN expected END $$;
SELECT set_config('test.told', :'told', false);
-- Waits until listeners have been told of what was typed before. The worker numbers events first and then tells, with pauses
-- of 20 ms: when it has numbered the third event in succession, it has told twice.
CREATE PROCEDURE told() LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1 .. CASE WHEN (SELECT worker_pid FROM presence_health) IS NULL THEN 0 ELSE 3 END LOOP
        PERFORM update_user_heartbeat('clock', 'tab', status => CASE WHEN round % 2 = 0 THEN 'busy' ELSE 'idle' END);
        COMMIT;
        FOR i IN 1 .. 3000 LOOP EXIT WHEN NOT EXISTS (SELECT FROM presence_event_queue); PERFORM pg_sleep(0.01); END LOOP;
        PERFORM pg_sleep(0.03);
    END LOOP;
END $$;

-- In one session.
SELECT is(set_typing('ann', 'tab', 'lobby'), false, 'who is not online does not type');
SELECT update_user_heartbeat('ann', 'tab'), update_user_heartbeat('ann', 'phone'), update_user_heartbeat('bob'), update_user_heartbeat('carl', 'tab');
SELECT is(set_typing('ann', 'tab', 'lobby'), :'cached'::boolean, 'who is online does');
SELECT is(set_typing('ann', 'other tab', 'lobby'), false, 'another session of the same user is not meant');
SELECT is(set_typing('bob', NULL, 'lobby', '1min'), :'cached'::boolean, 'the unnamed session may type');
SELECT is(set_typing('carl', 'tab', 'attic'), :'cached'::boolean, 'in another room');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'ann bob' END, 'a room shows those who type in it');
SELECT is(pg_temp.typing('cellar'), NULL, 'and no others');
CREATE ROLE presence_typing_reader;
SELECT presence_grant('presence_typing_reader', 'read');
CREATE OR REPLACE FUNCTION presence_can_see(viewer text, user_id text) RETURNS boolean LANGUAGE sql STABLE AS $$SELECT user_id <> 'bob'$$;
SET ROLE presence_typing_reader;
SELECT coalesce(string_agg(user_id, ' '), '') AS seen FROM get_typing('lobby') \gset
RESET ROLE;
SELECT is(:'seen', CASE WHEN :'cached' THEN 'ann' ELSE '' END, 'a reader is shown only whom it may see');
CREATE OR REPLACE FUNCTION presence_can_see(viewer text, user_id text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT true';
SELECT presence_grant('presence_typing_reader', 'self');
CREATE OR REPLACE FUNCTION presence_can_enter(viewer text, room text) RETURNS boolean LANGUAGE sql STABLE AS $$SELECT room <> 'lobby'$$;
CREATE FUNCTION error_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE;
END $$;
SET ROLE presence_typing_reader;
SELECT concat_ws(' ', error_of($$SELECT get_typing('lobby')$$), error_of($$SELECT set_typing(presence_current_user(), 'tab', 'lobby')$$),
                 error_of($$SELECT get_typing('attic')$$), error_of($$SELECT set_typing(presence_current_user(), 'tab', 'attic')$$)) AS errors \gset
RESET ROLE;
SELECT is(:'errors'::text, '42501 42501 none none', 'who may not enter a room does not type there either, nor sees who does');
CREATE OR REPLACE FUNCTION presence_can_enter(viewer text, room text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT true';
DROP OWNED BY presence_typing_reader;
DROP ROLE presence_typing_reader;
SELECT ok((SELECT bool_and(since BETWEEN now() - '1min'::interval AND clock_timestamp() AND expires_at - since BETWEEN '5s' AND '61s') FROM get_typing('lobby')) IS NOT FALSE, 'since when, and until when');
SELECT since AS since FROM get_typing('lobby') WHERE user_id = 'ann' UNION ALL SELECT now() LIMIT 1 \gset
SELECT set_typing('ann', 'tab', 'lobby', '30s'), set_typing('ann', 'phone', 'lobby', '1s');
SELECT is((SELECT count(*) FROM get_typing('lobby') WHERE user_id = 'ann' AND since = :'since' AND expires_at > clock_timestamp() + '20s'), CASE WHEN :'cached' THEN 1 ELSE 0 END::bigint, 'a user with two sessions is one row, from the first to the last');
SELECT is(clear_typing('ann', 'tab', 'attic'), false, 'clear_typing() where the session does not type');
SELECT is(clear_typing('ann', 'tab', 'lobby'), :'cached'::boolean, 'and where it does');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'ann bob' END, 'the other session of the user goes on');
SELECT is(clear_typing('ann', 'phone'), :'cached'::boolean, 'in all rooms');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'bob' END, 'then the user does not');

-- No row, WAL or transaction id.
SELECT set_typing('ann', 'tab', 'lobby');
CALL told();
BEGIN;
SELECT count(set_typing('ann', 'tab', 'lobby')), count(set_typing('ann', 'tab', 'room ' || n % 20)), count(clear_typing('ann', 'tab', 'room ' || n % 20)) FROM generate_series(1, 1000) AS n;
SELECT is(pg_current_xact_id_if_assigned(), NULL, 'typing needs no transaction id');
ROLLBACK;
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'ann bob' END, 'and is not undone by a rollback');
-- Others may write meanwhile, so the first round in which nobody does shows it.
CREATE FUNCTION pg_temp.writes_nothing() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE before pg_lsn;
BEGIN
    FOR round IN 1 .. 1000 LOOP
        before := pg_current_wal_insert_lsn();
        PERFORM set_typing('ann', 'tab', 'lobby') FROM generate_series(1, 10);
        IF pg_current_wal_insert_lsn() = before THEN RETURN true; END IF;
    END LOOP;
    RETURN false;
END $$;
SELECT ok(pg_temp.writes_nothing(), 'nor does it write WAL');

-- Each way in which a session ends.
SELECT set_typing('ann', 'tab', 'lobby'), set_typing('ann', 'phone', 'lobby'), set_typing('carl', 'tab', 'lobby'), set_typing('bob', NULL, 'lobby');
SELECT handle_user_disconnect('carl', 'tab');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'ann bob' END, 'a goodbye ends it');
SELECT mark_user_offline('ann');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'bob' END, 'so does mark_user_offline() for all sessions of the user');
SELECT update_user_heartbeat('dora', 'tab'), set_typing('dora', 'tab', 'lobby', '1min');
SET presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(pg_temp.typing('lobby'), NULL, 'who is silent for too long does not type');
SELECT cleanup_stale_presence();
RESET presence.timeout;
SELECT is(pg_temp.typing('lobby'), NULL, 'nor who was ended for that');
SELECT update_user_heartbeat('gina', 'tab'), set_typing('gina', 'tab', 'lobby', '1min'), set_user_status('gina', 'invisible');
SELECT is(pg_temp.typing('lobby'), NULL, 'who becomes invisible does not type any more');
SELECT is(set_typing('gina', 'tab', 'lobby'), false, 'nor begins to');
SELECT update_user_heartbeat('gina', 'tab');
SELECT is(set_typing('gina', 'tab', 'lobby'), false, 'after another heartbeat either');
SELECT set_user_status('gina', 'active');
SELECT is(set_typing('gina', 'tab', 'lobby'), :'cached'::boolean, 'before coming into view again');
SELECT mark_user_offline('gina');
SELECT update_user_heartbeat('emil', 'tab'), set_typing('emil', 'tab', 'lobby', '1min');
SELECT presence_reset();
SELECT is(pg_temp.typing('lobby'), NULL, 'presence_reset() ends it');
SELECT is(set_typing('emil', 'tab', 'lobby'), false, 'because it has ended the session');

-- A transaction that begins a session, or ends it.
BEGIN;
SELECT is(update_user_heartbeat('finn', 'tab') AND set_typing('finn', 'tab', 'lobby'), :'cached'::boolean, 'a session that this transaction has begun may type');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'finn' END, 'which takes effect at once');
ROLLBACK;
SELECT is(pg_temp.typing('lobby'), NULL, 'and ends with the session, if that is rolled back');
BEGIN;
SAVEPOINT inner_work;
SELECT update_user_heartbeat('finn', 'tab'), set_typing('finn', 'tab', 'lobby');
ROLLBACK TO inner_work;
SELECT is(pg_temp.typing('lobby'), NULL, 'the same in a subtransaction');
COMMIT;
SELECT update_user_heartbeat('finn', 'tab'), set_typing('finn', 'tab', 'lobby', '1min');
SELECT is(pg_temp.typing('lobby'), CASE WHEN :'cached' THEN 'finn' END, 'one that is committed goes on');
DELETE FROM presence_session WHERE user_id = 'finn';
SELECT cleanup_stale_presence();
DO $$ BEGIN FOR i IN 1 .. 1000 LOOP EXIT WHEN pg_temp.typing('lobby') IS NULL; PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT is(pg_temp.typing('lobby'), NULL, 'a session whose row is deleted by hand does not type');

-- What a listener hears. What was typed until here has been told before.
CALL told();
\set heard `psql -XAtq -c 'LISTEN presence' -c "SELECT update_user_heartbeat('a', '1'), update_user_heartbeat('a', '2')" -c "SELECT set_typing('a', '1', 'hall'), set_typing('a', '2', 'hall'), set_typing('a', '1', 'hall')" -c 'CALL told()' -c "SELECT set_typing('a', '1', 'hall')" -c "SELECT clear_typing('a', '1', 'hall')" -c 'CALL told()' -c "SELECT clear_typing('a', '2')" -c 'CALL told()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is(pg_temp.heard(:'heard'), pg_temp.if_told('start a/1@hall, stop a/2@hall'), 'two sessions of a user start once and stop once');
SELECT is((SELECT array_agg(DISTINCT (SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(payload) AS k)) FROM pg_temp.payloads(:'heard')),
          CASE WHEN :'told' THEN ARRAY['at epoch event room session_id user_id'] END, 'each with exactly these keys');
\set heard `psql -XAtq -c 'LISTEN presence' -c "SELECT set_typing('a', '1', 'hall', '1s')" -c 'SELECT pg_sleep(1.3)' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is(pg_temp.heard(:'heard'), pg_temp.if_told('start a/1@hall, stop a/1@hall'), 'who just stops is told when the time is over');
\set heard `psql -XAtq -c 'LISTEN presence' -c "SELECT set_typing('a', '1', 'hall'), set_typing('a', '1', 'attic')" -c 'CALL told()' -c "SELECT handle_user_disconnect('a', '1')" -c 'CALL told()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is((SELECT string_agg(part, ', ' ORDER BY part) FROM string_to_table(pg_temp.heard(:'heard'), ', ') AS part), pg_temp.if_told('start a/1@attic, start a/1@hall, stop a/1@attic, stop a/1@hall'), 'with the session, in all its rooms');
\set heard `psql -XAtq -c 'LISTEN presence' -c "SELECT set_typing('a', '2', 'hall')" -c "SELECT clear_typing('a', '2', 'hall')" -c 'CALL told()' -c 'SELECT 1' | sed -n 's/^Asynchronous notification "presence" with payload "\(.*\)" received from .*/\1/p'`
SELECT is(pg_temp.heard(:'heard'), pg_temp.if_told('start a/2@hall, stop a/2@hall'), 'what is over at once is told as well');
SELECT ok(pg_temp.numbered() AND NOT EXISTS (SELECT FROM presence_events WHERE event ~ 'typing'), 'nothing of it is in the feed');

-- Bounded, and never an error.
SELECT is((SELECT bool_and(set_typing('a', '2', 'many ' || n)) FROM generate_series(1, 1000) AS n), :'cached'::boolean, 'a session in very many rooms');
SELECT is((SELECT count(*) FROM generate_series(1, 1000) AS n WHERE EXISTS (SELECT FROM get_typing('many ' || n))), CASE WHEN :'cached' THEN 32 ELSE 0 END::bigint, 'types in the last of them');

SELECT * FROM finish();
