-- What other queries meet when they use the extension's objects: collations, and what the planner knows of functions.

-- So many at once that the planner knows nothing of them. Without the cache the count and the cleanup read every session.
SELECT preloaded AS cached FROM presence_server_state() \gset
SELECT update_user_heartbeats(array_agg('young' || i), array_agg('s'::text)), update_user_heartbeats(array_agg('young' || i), array_agg('s'::text))
FROM generate_series(1, 20000) AS i;

BEGIN;
SELECT plan(12);

SELECT CASE WHEN :'cached' THEN presence_count() + cleanup_stale_presence() END, (SELECT count(*) FROM get_active_users(10)), set_user_status('young1', 'busy', now() + interval '1 day');
SELECT is((SELECT string_agg(relname, ' ') FROM pg_stat_xact_user_tables WHERE seq_scan > 0 AND relname IN ('presence_user', 'presence_session', 'presence_room_member')),
          NULL, 'nothing that concerns a few reads a whole table, however young that is');

SELECT is((SELECT string_agg(format('%s.%s', c.relname, a.attname), ', ')
           FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid JOIN pg_attribute AS a ON a.attrelid = c.oid
           WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND c.relkind = 'v'
             AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'presence')
             AND a.attcollation NOT IN (0, (SELECT oid FROM pg_collation WHERE collname = 'default'))),
          NULL, 'the columns of the views have the default collation');

CREATE COLLATION strange (provider = libc, locale = 'POSIX');
CREATE TABLE account (name text COLLATE strange);
INSERT INTO account VALUES ('ann'), ('bob');
SELECT update_user_heartbeat('ann', 's');
SELECT is((SELECT string_agg(name, ' ') FROM account JOIN presence ON user_id = name WHERE online), 'ann', 'presence can be joined with any collation');
SELECT is((SELECT string_agg(name, ' ') FROM account JOIN presence_sessions ON user_id = name AND session_id <> name), 'ann', 'so can presence_sessions');
SELECT is((SELECT DISTINCT name FROM account JOIN presence_events ON user_id = name), 'ann', 'and presence_events');
SELECT is((SELECT string_agg(name, ' ') FROM account JOIN get_active_users() ON user_id = name), 'ann', 'and the lists');

-- Evaluated last of several conditions, and never twice where once is enough.
SELECT is((SELECT string_agg(p.proname, ', ') FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.objid
           WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
             AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'presence')
             AND p.provolatile <> 'i' AND p.prokind = 'f' AND p.procost = 1 AND p.prosrc <> 'presence_summary_finalfn'),
          NULL, 'functions that look something up say what that costs');

CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; whole text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP whole := whole || line || E'\n'; END LOOP;
    RETURN whole;
END $$;
SELECT matches(plan_of($$SELECT * FROM account WHERE is_user_online(name) AND name <> 'ann'$$), 'Filter: \(\(name <> .*\) AND is_user_online',
               'whether a user is online is asked last');
SELECT matches(plan_of($$SELECT * FROM get_presence(ARRAY['ann', 'bob', 'cid']::presence_id[])$$), 'rows=3 ', 'a friend list has as many rows as ids');
SELECT matches(plan_of('SELECT * FROM get_active_users()'), 'rows=1000 ', 'a list is expected to be long');

SELECT ok((SELECT procost FROM pg_proc WHERE proname = 'is_user_online') > (SELECT procost FROM pg_proc WHERE proname = 'presence_is_live'),
          'a query costs more than a look at shared memory');

-- From 18 on a library has a name and a version. Before, the function that shows them does not exist.
SELECT CASE WHEN current_setting('server_version_num')::int < 180000 THEN pass('libraries have no versions here')
            ELSE is((xpath('//version/text()', query_to_xml($$SELECT version FROM pg_get_loaded_modules() WHERE module_name = 'presence'$$, true, false, '')))[1]::text,
                    (SELECT extversion FROM pg_extension WHERE extname = 'presence'), 'the library says its version') END;

SELECT * FROM finish();
ROLLBACK;
