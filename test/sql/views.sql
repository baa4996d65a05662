-- Partial access as PostgreSQL users give it: views of one's own, columns, row-level security. No such role may ask for more.
SET client_min_messages = warning;
CREATE EXTENSION presence;
CREATE ROLE regress_presence_web;
SELECT update_user_heartbeat('ann', 'tab', ip_address => '192.0.2.1') AND update_user_heartbeat('bob', 'tab');

-- A filtered view, granted to a role that may read none of ours.
CREATE VIEW shown AS SELECT user_id, online, status FROM presence WHERE user_id <> 'bob';
CREATE VIEW shown_sessions WITH (security_barrier) AS SELECT user_id, session_id, online, heartbeat_at IS NOT NULL AS heard FROM presence_sessions WHERE user_id <> 'bob';
CREATE VIEW shown_health AS SELECT online_users, sessions FROM presence_health;
CREATE VIEW as_invoker WITH (security_invoker) AS SELECT user_id, online FROM presence;
GRANT SELECT ON shown, shown_sessions, shown_health, as_invoker TO regress_presence_web;
SET ROLE regress_presence_web;
SELECT * FROM shown ORDER BY user_id;
SELECT * FROM shown_sessions ORDER BY user_id;
SELECT * FROM shown_health;
SELECT * FROM as_invoker;
SELECT user_id FROM presence;
RESET ROLE;

-- Single columns.
GRANT SELECT (user_id, online) ON presence TO regress_presence_web;
GRANT SELECT (user_id, session_id, online) ON presence_sessions TO regress_presence_web;
SET ROLE regress_presence_web;
SELECT user_id, online FROM presence ORDER BY user_id;
SELECT user_id, session_id, online FROM presence_sessions ORDER BY user_id;
SELECT * FROM as_invoker ORDER BY user_id;
SELECT ip_address FROM presence;
SELECT * FROM presence_sessions;
RESET ROLE;

-- A table of the application's with row-level security, joined in.
CREATE TABLE friend (of_role name, user_id text);
INSERT INTO friend VALUES ('regress_presence_web', 'ann'), ('somebody else', 'bob');
ALTER TABLE friend ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON friend USING (of_role = current_user);
GRANT SELECT ON friend TO regress_presence_web;
SET ROLE regress_presence_web;
SELECT user_id, online FROM friend JOIN presence USING (user_id);
RESET ROLE;

-- A role that may see the health asks the functions behind it about nobody.
REVOKE ALL ON presence, presence_sessions FROM regress_presence_web;
GRANT SELECT ON presence_health TO regress_presence_web;
SET ROLE regress_presence_web;
SELECT online_users FROM presence_health;
SELECT presence_effective_heartbeat('ann', 'tab', now());
SELECT presence_effective_heartbeat('ann', 'tab', now(), gen_random_uuid());
SELECT presence_is_live('ann', 'tab', now(), NULL, NULL);
SELECT sessions FROM presence_totals();
SELECT pass FROM presence_view_pass;
RESET ROLE;
-- The owner of the extension needs no pass.
SELECT presence_is_live('ann', 'tab', now(), NULL, NULL);
DROP VIEW shown, shown_sessions, shown_health, as_invoker;
DROP TABLE friend;
DROP EXTENSION presence;
DROP OWNED BY regress_presence_web;
DROP ROLE regress_presence_web;
