-- presence_id: what may be an id, and what becomes one by itself.
SET client_min_messages = warning;
CREATE EXTENSION presence;
SELECT update_user_heartbeat('7f1ad2a4-0000-4000-8000-000000000001'::uuid), update_user_heartbeat(1::smallint),
       update_user_heartbeat(2147483648), update_user_heartbeat(-5), update_user_heartbeat('a text'::text),
       update_user_heartbeat('varchar'::varchar(20)), update_user_heartbeat('padded'::char(20)), update_user_heartbeat('a_name'::name);
SELECT user_id FROM presence ORDER BY user_id COLLATE "C";
SELECT is_user_online(1), is_user_online('1'), is_user_online(1::bigint), is_user_online('padded');
SELECT presence_id(42)::text AS id, pg_typeof(presence_id(42)) AS type;
-- Every type that may be an id becomes one by itself, and presence_id needs saying so to become text.
SELECT castsource::regtype, casttarget::regtype, castcontext AS context
FROM pg_cast WHERE 'presence_id'::regtype IN (castsource, casttarget) ORDER BY castsource::regtype::text COLLATE "C";
-- Arrays of each kind, too.
SELECT update_user_heartbeats(ARRAY[10, 11], ARRAY[1, 2]), update_user_heartbeats(ARRAY['7f1ad2a4-0000-4000-8000-000000000002']::uuid[], ARRAY['s']),
       update_user_heartbeats(ARRAY[12]::bigint[], ARRAY[NULL]::uuid[]), update_user_heartbeats('{x,y}', '{1,NULL}');
SELECT user_id, session_id FROM presence_sessions WHERE user_id IN ('10', '11', '12', '7f1ad2a4-0000-4000-8000-000000000002', 'x', 'y') ORDER BY user_id COLLATE "C";
SELECT user_id FROM get_presence(ARRAY[10, 11]) ORDER BY user_id COLLATE "C";
-- A prepared statement without types, as drivers send it.
PREPARE beat AS SELECT update_user_heartbeat($1, $2);
EXECUTE beat('7f1ad2a4-0000-4000-8000-000000000003', '1');
DEALLOCATE beat;
SELECT length(repeat('x', 255)::presence_id::text) AS longest;
SELECT encode(presence_id_send('ab'), 'escape');
SELECT length(repeat('é', 127)::presence_id::text) AS longest_in_letters;
-- Errors with their SQLSTATE, but without source lines.
\getenv test_dir PG_ABS_SRCDIR
\set helpers :test_dir /sql/helpers.psql
\set ECHO none
\i :helpers
\set ECHO all
\set VERBOSITY terse
CALL show_error($$SELECT ''::presence_id$$);
CALL show_error($$SELECT ''::text::presence_id$$);
CALL show_error($$SELECT ''::char(5)::presence_id$$);
CALL show_error($$SELECT repeat('x', 256)::presence_id$$);
CALL show_error($$SELECT repeat('x', 100000)::presence_id$$);
CALL show_error($$SELECT repeat('é', 128)::presence_id$$);
CALL show_error($$SELECT E'a\nb'::presence_id$$);
CALL show_error($$SELECT E'a\x7f'::presence_id$$);
CALL show_error($$SELECT U&'a\0085b'::presence_id$$);
-- It is a type like others.
CREATE TABLE checked_ids (id presence_id);
INSERT INTO checked_ids VALUES ('fine'), (7::text);
TABLE checked_ids;
CALL show_error($$INSERT INTO checked_ids VALUES ('')$$);
DROP TABLE checked_ids;
DROP PROCEDURE show_error;
DROP EXTENSION presence;
