-- A role that owns the database, or may create in it, and is no superuser: it creates the extension and owns what that made.
SET client_min_messages = warning;
CREATE ROLE regress_presence_owner;
CREATE ROLE regress_presence_caller;
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO regress_presence_owner', current_database()); END $$;
SET ROLE regress_presence_owner;
CREATE SCHEMA theirs;
GRANT USAGE ON SCHEMA theirs TO regress_presence_caller;
CREATE EXTENSION presence SCHEMA theirs;
RESET ROLE;
-- Nothing that holds data or runs SQL belongs to anybody else.
SELECT coalesce(c.relname, p.proname) AS of_others
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence'
LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND p.prokind = 'f'
WHERE d.deptype = 'e' AND 'regress_presence_owner'::regrole NOT IN (coalesce(c.relowner, 'regress_presence_owner'::regrole), coalesce(p.proowner, 'regress_presence_owner'::regrole));
SET ROLE regress_presence_owner;
SELECT theirs.update_user_heartbeat('ann', 'tab');
SELECT theirs.update_user_heartbeat('ann', 'tab');
SELECT theirs.cleanup_stale_presence();
SELECT user_id, sessions FROM theirs.get_active_users();
SELECT user_id, online FROM theirs.presence;
SELECT event, user_id FROM theirs.presence_changes_since(0);
-- Reports are written with the owner's rights, wherever the schema has gone.
RESET ROLE;
SET presence.reports = on;
SET ROLE regress_presence_owner;
ALTER SCHEMA theirs RENAME TO moved;
SELECT moved.presence_roll_up() AS events;
SELECT users, arrivals, peak FROM moved.presence_daily_users;
ALTER SCHEMA moved RENAME TO theirs;
-- Rights can be passed on, and are needed.
GRANT EXECUTE ON FUNCTION theirs.update_user_heartbeat, theirs.is_user_online TO regress_presence_caller;
SET ROLE regress_presence_caller;
SELECT theirs.update_user_heartbeat('bob', 'tab');
SELECT theirs.is_user_online('bob');
SELECT theirs.presence_count();
-- What C code is declared to be, and the settings, stay a superuser's affair.
SET ROLE regress_presence_owner;
ALTER FUNCTION theirs.presence_id(text) CALLED ON NULL INPUT;
SET presence.timeout = '1s';
DROP EXTENSION presence;
DROP SCHEMA theirs;
RESET ROLE;
DROP OWNED BY regress_presence_owner;
DROP ROLE regress_presence_owner, regress_presence_caller;
