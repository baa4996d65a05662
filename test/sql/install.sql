-- The extension goes into the schema asked for, whatever the caller's search_path says; it describes itself; it leaves nothing.
SET client_min_messages = warning;
CREATE SCHEMA other;
CREATE SCHEMA tracker;
-- Both schemas are full of traps for an install script that does not say what it means.
DO $$
DECLARE hostile text;
BEGIN
    FOREACH hostile IN ARRAY ARRAY['other', 'tracker'] LOOP
        EXECUTE format('CREATE FUNCTION %1$I.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RAISE ''''trap''''; END'';
            CREATE OPERATOR %1$I.= (LEFTARG = text, RIGHTARG = text, FUNCTION = %1$I.trap);
            CREATE OPERATOR %1$I.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = %1$I.trap);
            CREATE FUNCTION %1$I.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS ''BEGIN RAISE ''''trap''''; END'';
            CREATE FUNCTION %1$I.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS ''BEGIN RAISE ''''trap''''; END'';
            CREATE FUNCTION %1$I.current_setting(text) RETURNS text LANGUAGE plpgsql AS ''BEGIN RAISE ''''trap''''; END'';
            CREATE FUNCTION %1$I.count(text) RETURNS bigint LANGUAGE plpgsql AS ''BEGIN RAISE ''''trap''''; END''', hostile);
    END LOOP;
END $$;
CREATE TABLE other.presence_user (user_id text);
CREATE TABLE other.presence_session (user_id text);
CREATE TABLE other.presence_events (seq text);
CREATE TYPE other.presence_id AS (x integer);
SET search_path = other, pg_catalog, public;
CREATE EXTENSION presence SCHEMA tracker;
SELECT DISTINCT n.nspname, d.classid::regclass AS kind
FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass AND e.extname::text OPERATOR(pg_catalog.=) 'presence'
     LEFT JOIN pg_class AS c ON d.objid = c.oid AND d.classid = 'pg_class'::regclass
     LEFT JOIN pg_proc AS p ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
     LEFT JOIN pg_type AS t ON d.objid = t.oid AND d.classid = 'pg_type'::regclass
     JOIN pg_namespace AS n ON n.oid IN (c.relnamespace, p.pronamespace, t.typnamespace)
WHERE d.deptype = 'e' ORDER BY 2;
-- Everything made by the script belongs to the extension, and only the traps do not.
SELECT p.proname FROM pg_proc AS p WHERE pronamespace = 'tracker'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e') ORDER BY 1;
SELECT c.relname FROM pg_class AS c WHERE relnamespace = 'tracker'::regnamespace AND relkind IN ('r', 'v', 'S', 'm', 'f')
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e') ORDER BY 1;
SELECT tracker.update_user_heartbeat('alice', 'tab');
SELECT tracker.update_user_heartbeat('alice', 'tab', status => 'away');
SELECT tracker.update_user_heartbeats(ARRAY['alice', 'bob'], ARRAY['tab', NULL]);
SELECT tracker.mark_user_offline('bob');
SELECT user_id, online, status, sessions FROM tracker.presence ORDER BY user_id COLLATE "C";
SELECT user_id, session_id, online, end_reason FROM tracker.presence_sessions ORDER BY user_id COLLATE "C";
SELECT user_id, status, sessions FROM tracker.get_active_users();
SELECT user_id, online FROM tracker.get_presence(ARRAY['alice', 'bob']) ORDER BY user_id COLLATE "C";
SELECT tracker.is_user_online('alice') AS online, tracker.presence_count() AS users, tracker.cleanup_stale_presence() AS ended;
SELECT total_users, online_users FROM tracker.presence_health;
SELECT count(*) FROM tracker.presence_snapshot();
SELECT tracker.scheduled_presence_cleanup();
RESET search_path;

-- Nothing without a description.
SELECT d.classid::regclass, pg_describe_object(d.classid, d.objid, 0) AS lacks_comment
FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'presence' AND d.deptype = 'e' AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
  AND obj_description(d.objid, d.classid::regclass::text::name) IS NULL
  AND NOT EXISTS (SELECT FROM pg_class WHERE oid = d.objid AND d.classid = 'pg_class'::regclass AND relkind NOT IN ('r', 'v', 'S'))
ORDER BY pg_describe_object(d.classid, d.objid, 0) COLLATE "C";
SELECT a.attrelid::regclass AS relation, a.attname AS column_without_comment
FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
     JOIN pg_class AS c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
     JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE e.extname = 'presence' AND d.deptype = 'e' AND c.relkind IN ('r', 'v') AND col_description(a.attrelid, a.attnum) IS NULL
ORDER BY a.attrelid::regclass::text COLLATE "C", 2;

-- The names, arguments, results and labels that others rely on.
\pset format unaligned
SELECT p.proname, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
       p.provolatile AS volatility, p.proparallel AS parallel, p.proisstrict AS strict
FROM pg_proc AS p
WHERE p.pronamespace = 'tracker'::regnamespace
  AND p.proname IN ('update_user_heartbeat', 'update_user_heartbeats', 'mark_user_offline', 'handle_user_disconnect',
                    'cleanup_stale_presence', 'get_active_users', 'scheduled_presence_cleanup', 'presence_schedule_cleanup',
                    'presence_unschedule_cleanup', 'is_user_online', 'get_presence', 'presence_count', 'presence_changes_since',
                    'presence_snapshot', 'presence_feed_position')
ORDER BY p.proname;
SELECT attrelid::regclass AS relation, string_agg(attname || ' ' || format_type(atttypid, NULL), ', ' ORDER BY attnum) AS columns
FROM pg_attribute
WHERE attrelid IN ('tracker.presence'::regclass, 'tracker.presence_sessions'::regclass, 'tracker.presence_events'::regclass,
                   'tracker.presence_admin_log'::regclass, 'tracker.presence_health'::regclass)
  AND attnum > 0
GROUP BY attrelid ORDER BY attrelid::regclass::text COLLATE "C";
\pset format aligned
-- Whatever runs as its owner, or is written in SQL, pins search_path, temporary tables last.
SELECT p.proname AS unpinned
FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
     JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence'
WHERE (p.prosecdef OR l.lanname <> 'c') AND p.prokind <> 'a' AND p.proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp'];
-- What writes may not be run by parallel workers, nor be taken for stable.
SELECT p.proname AS mislabelled
FROM pg_proc AS p
WHERE p.pronamespace = 'tracker'::regnamespace AND p.proname ~ '^(update_|mark_|handle_|cleanup_|scheduled_|presence_(un)?schedule)'
  AND (p.provolatile <> 'v' OR p.proparallel = 's');
-- The extension needs no other one.
SELECT relocatable, requires, trusted FROM pg_available_extension_versions WHERE name = 'presence' AND installed;

DROP EXTENSION presence;
SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'tracker'::regnamespace) AS relations,
       (SELECT count(*) FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace AND proname ~ 'presence|user') AS functions,
       (SELECT count(*) FROM pg_type WHERE typnamespace = 'tracker'::regnamespace) AS types,
       (SELECT count(*) FROM pg_cast WHERE castsource >= 16384 OR casttarget >= 16384) AS casts;
DROP SCHEMA tracker CASCADE;
DROP SCHEMA other CASCADE;
-- And again in the same session, elsewhere: nothing remembered from the first one may be used.
SET search_path = public;
CREATE EXTENSION presence;
SELECT update_user_heartbeat('alice', 'tab');
SELECT user_id FROM get_active_users();
-- A schema's name may need quotes, and may change.
DROP EXTENSION presence;
CREATE SCHEMA "Odd-name With Spaces";
CREATE EXTENSION presence SCHEMA "Odd-name With Spaces";
SELECT "Odd-name With Spaces".update_user_heartbeat('alice', 'tab');
SELECT user_id FROM "Odd-name With Spaces".get_active_users();
SELECT user_id, online FROM "Odd-name With Spaces".get_presence(ARRAY['alice']);
ALTER SCHEMA "Odd-name With Spaces" RENAME TO plain_name;
SELECT plain_name.update_user_heartbeat('alice', 'other tab');
SELECT user_id, sessions FROM plain_name.get_active_users();
SELECT plain_name.mark_user_offline('alice');
-- A table in the place of one of the extension's is not taken for it.
ALTER TABLE plain_name.presence_session RENAME TO presence_session_elsewhere;
CREATE TABLE plain_name.presence_session (LIKE plain_name.presence_session_elsewhere INCLUDING ALL);
SELECT plain_name.update_user_heartbeat('bob', 'tab');
SELECT user_id FROM plain_name.presence_session;
DROP TABLE plain_name.presence_session;
ALTER TABLE plain_name.presence_session_elsewhere RENAME TO presence_session;
SELECT plain_name.update_user_heartbeat('bob', 'tab');
DROP EXTENSION presence;
DROP SCHEMA plain_name;
