-- What PUBLIC may do, what a backend's role needs, and what a hostile schema in the search_path can change.
SET client_min_messages = warning;
CREATE EXTENSION presence;
CREATE ROLE regress_presence_backend;
SELECT proname FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
       JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence'
WHERE has_function_privilege('regress_presence_backend', p.oid, 'EXECUTE') AND proname !~ '^presence_id' ORDER BY 1;
SELECT c.relname FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
       JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence'
WHERE c.relkind IN ('r', 'v') AND (has_table_privilege('regress_presence_backend', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
       OR has_any_column_privilege('regress_presence_backend', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')) ORDER BY 1;
SELECT c.relname FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
       JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence'
WHERE CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('regress_presence_backend', c.oid, 'USAGE, SELECT, UPDATE') END ORDER BY 1;
SELECT update_user_heartbeat('alice', 'tab');
SET ROLE regress_presence_backend;
\set VERBOSITY terse
SELECT update_user_heartbeat('bob');
SELECT mark_user_offline('alice');
SELECT update_user_heartbeats(ARRAY['bob'], ARRAY['tab']);
SELECT handle_user_disconnect('alice');
SELECT set_user_status('alice', 'busy');
SELECT * FROM get_user_status('alice');
SELECT cleanup_stale_presence();
SELECT scheduled_presence_cleanup();
SELECT presence_schedule_cleanup();
SELECT presence_unschedule_cleanup();
SELECT * FROM get_active_users();
SELECT is_user_online('alice');
SELECT presence_count();
SELECT * FROM get_presence(ARRAY['alice']);
SELECT * FROM presence_changes_since(0);
SELECT * FROM presence_snapshot();
SELECT * FROM presence_feed_position();
SELECT * FROM presence;
SELECT * FROM presence_sessions;
SELECT * FROM presence_events;
SELECT * FROM presence_admin_log;
SELECT * FROM presence_health;
SELECT * FROM presence_session;
SELECT * FROM presence_hidden_session;
SELECT * FROM presence_user;
DELETE FROM presence_event;
SELECT presence_is_live('alice', 'tab', now(), NULL, NULL);
SELECT presence_effective_heartbeat('alice', 'tab', now());
SELECT * FROM presence_server_state();
SELECT * FROM presence_totals();
SELECT presence_summary('alice', 'tab', true, 'active', now(), now(), NULL, NULL, NULL, NULL, gen_random_uuid());
SELECT * FROM presence_view_pass;
SET presence.timeout = '1s';
RESET ROLE;
-- EXECUTE is enough.
GRANT EXECUTE ON FUNCTION update_user_heartbeat, update_user_heartbeats, mark_user_offline, handle_user_disconnect, get_active_users,
    is_user_online, get_presence, presence_count, presence_changes_since, presence_snapshot TO regress_presence_backend;
SET ROLE regress_presence_backend;
SELECT update_user_heartbeat('bob', 'tab');
SELECT update_user_heartbeats(ARRAY['bob', 'carol'], ARRAY['tab', NULL]);
SELECT user_id, sessions FROM get_active_users() ORDER BY user_id;
SELECT user_id, online FROM get_presence(ARRAY['alice', 'nobody']) ORDER BY 1;
SELECT handle_user_disconnect('carol');
SELECT count(*) >= 0 AS works FROM presence_changes_since(0);
SELECT count(DISTINCT seq) FROM presence_snapshot();
SELECT * FROM presence_session;
RESET ROLE;
SELECT action, actor FROM presence_admin_log ORDER BY id;
-- A reader of the views needs SELECT on them, and nothing else.
GRANT SELECT ON presence, presence_sessions, presence_health, presence_events, presence_admin_log TO regress_presence_backend;
SET ROLE regress_presence_backend;
SELECT user_id, online FROM presence ORDER BY user_id;
SELECT user_id, session_id, online FROM presence_sessions ORDER BY user_id;
SELECT total_users, online_users, sessions FROM presence_health;
SELECT count(*) > 0 AS some FROM presence_events;
SELECT * FROM presence_user;
INSERT INTO presence_event (at, event, user_id, sessions) VALUES (now(), 'user_online', 'forged', 1);
UPDATE presence SET online = true;
RESET ROLE;

-- A caller whose search_path starts with traps, and who has temporary tables of our names.
CREATE SCHEMA evil;
CREATE FUNCTION evil.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil operator ran as %', current_user; END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.trap);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.trap);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil clock ran as %', current_user; END $$;
CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil notify ran as %', current_user; END $$;
CREATE FUNCTION evil.count(text) RETURNS bigint LANGUAGE sql AS 'SELECT -1';
CREATE TABLE evil.presence_user (user_id text);
CREATE TABLE evil.presence_session (user_id text);
GRANT USAGE ON SCHEMA evil TO regress_presence_backend;
SET ROLE regress_presence_backend;
SET search_path = evil, pg_catalog, public;
CREATE TEMP TABLE presence_user (user_id text);
CREATE TEMP TABLE presence_session (user_id text);
CREATE TEMP TABLE presence (user_id text, online boolean);
CREATE TEMP TABLE presence_events (seq bigint);
SELECT public.update_user_heartbeat('dave', 'tab', status => 'idle');
SELECT public.update_user_heartbeat('dave', 'tab', status => 'busy');
SELECT user_id, status FROM public.get_active_users() WHERE user_id OPERATOR(pg_catalog.=) 'dave';
SELECT user_id, online FROM public.get_presence(ARRAY['dave']);
SELECT public.is_user_online('dave'), public.presence_count();
SELECT public.mark_user_offline('dave', 'tab');
SELECT event FROM public.presence_changes_since(0) WHERE user_id OPERATOR(pg_catalog.=) 'dave' ORDER BY seq;
SHOW search_path;
SELECT current_user;
RESET ROLE;
RESET search_path;
DROP TABLE pg_temp.presence_user, pg_temp.presence_session, pg_temp.presence, pg_temp.presence_events;
DROP SCHEMA evil CASCADE;
DROP EXTENSION presence;
DROP ROLE regress_presence_backend;
