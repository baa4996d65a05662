-- presence_grant: who may do what, in one call each.
SET client_min_messages = warning;
CREATE EXTENSION presence;
CREATE ROLE regress_presence_reader;
CREATE ROLE regress_presence_person;
CREATE ROLE regress_presence_gateway;
CREATE ROLE regress_presence_admin;
SELECT presence_grant('regress_presence_reader', 'read');
SELECT presence_grant('regress_presence_person', 'self');
-- Nobody was granted write yet: the owner and superusers may do everything all the same.
SELECT update_user_heartbeat('ann', 'tab');
SELECT presence_grant('regress_presence_gateway', 'write');
SELECT presence_grant('regress_presence_admin', 'admin');

-- What PUBLIC may not call, an administrator may, except what is nobody's but the extension's.
SELECT p.oid::regprocedure FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
       JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'presence'
WHERE NOT has_function_privilege('public', p.oid, 'EXECUTE') AND NOT has_function_privilege('regress_presence_admin', p.oid, 'EXECUTE') ORDER BY p.proname;

-- A backend beats for everybody, and sees them.
SET ROLE regress_presence_gateway;
SELECT update_user_heartbeat('ann', 'tab'), update_user_heartbeats(ARRAY['bob', 'carl'], ARRAY['tab', NULL]);
SELECT user_id FROM get_active_users() ORDER BY user_id;
SELECT presence_grant('regress_presence_gateway', 'admin');
SELECT user_id FROM presence;
RESET ROLE;

-- A reader only reads.
SET ROLE regress_presence_reader;
SELECT user_id FROM get_active_users() ORDER BY user_id;
SELECT presence_count(), is_user_online('ann');
SELECT update_user_heartbeat('ann', 'tab');
SELECT ip_address FROM presence;
RESET ROLE;

-- Whoever acts for itself: by the token where somebody else has logged in for it.
SET ROLE regress_presence_person;
SET request.jwt.claims = '{"sub": "dora", "role": "regress_presence_person"}';
SELECT presence_current_user();
SELECT update_user_heartbeat('dora', 'tab', status => 'busy');
SELECT update_user_heartbeat('dora', 'tab');
SELECT update_user_heartbeat('ann', 'tab');
SELECT mark_user_offline('ann');
SELECT handle_user_disconnect('ann', 'tab');
SELECT update_user_heartbeats(ARRAY['dora'], ARRAY['tab']);
SELECT set_typing('dora', 'tab', 'lobby') IS NOT NULL AS may_type, clear_typing('dora', 'tab') IS NOT NULL AS may_stop;
SELECT set_typing('ann', 'tab', 'lobby');
SELECT clear_typing('ann', 'tab');
SELECT * FROM get_typing('lobby');
SELECT presence_count();
SELECT mark_user_offline('dora');
SET request.jwt.claims = '{"role": "anonymous"}';
SELECT presence_current_user() IS NULL AS nobody;
SELECT update_user_heartbeat('dora', 'tab');
RESET ROLE;
-- A role that has logged in itself can write itself any token.
SET SESSION AUTHORIZATION regress_presence_person;
SET request.jwt.claims = '{"sub": "ann"}';
SELECT presence_current_user();
SELECT update_user_heartbeat('ann', 'tab');
SELECT update_user_heartbeat('regress_presence_person', 'tab');
RESET SESSION AUTHORIZATION;
RESET request.jwt.claims;
SELECT user_id, online FROM get_presence(ARRAY['ann', 'dora', 'regress_presence_person']) ORDER BY 1;

-- Rights of several kinds add up, also by membership, and are taken back one by one.
SELECT presence_grant('regress_presence_person', 'write');
SET ROLE regress_presence_person;
SELECT update_user_heartbeat('ann', 'tab');
RESET ROLE;
SELECT presence_revoke('regress_presence_person', 'write');
SET ROLE regress_presence_person;
SELECT update_user_heartbeat('ann', 'tab');
SELECT presence_count();
RESET ROLE;
GRANT regress_presence_gateway TO regress_presence_person;
SET ROLE regress_presence_person;
SELECT update_user_heartbeat('ann', 'tab');
RESET ROLE;
-- What a role has by membership does not become its own because something else is taken back.
SELECT presence_grant('regress_presence_person', 'read'), presence_revoke('regress_presence_person', 'read');
REVOKE regress_presence_gateway FROM regress_presence_person;
SET ROLE regress_presence_person;
SELECT update_user_heartbeat('ann', 'tab');
RESET ROLE;
SELECT presence_revoke('regress_presence_person', 'self');
SET ROLE regress_presence_person;
SELECT update_user_heartbeat('regress_presence_person', 'tab');
RESET ROLE;

-- An administrator.
SET ROLE regress_presence_admin;
SELECT cleanup_stale_presence();
SELECT count(*) > 0 AS some FROM presence;
SELECT presence_grant('regress_presence_reader', 'self');
SELECT presence_revoke('regress_presence_reader', 'self');
SELECT * FROM presence_session;
RESET ROLE;

-- What makes no sense is refused.
SELECT presence_grant('regress_presence_reader', 'everything');
SELECT presence_grant(NULL, 'read');
SELECT presence_grant('regress_presence_reader', NULL);
SELECT presence_revoke('regress_presence_reader', 'nothing');

-- People are hidden from each other by one function.
CREATE OR REPLACE FUNCTION presence_can_see(viewer text, user_id text) RETURNS boolean
LANGUAGE sql STABLE AS $$SELECT user_id <> 'carl' OR viewer = 'bob'$$;
SELECT presence_count();
SET ROLE regress_presence_reader;
SELECT user_id FROM get_active_users() ORDER BY user_id;
SELECT user_id, online, last_seen IS NOT NULL AS seen FROM get_presence(ARRAY['ann', 'carl']) ORDER BY user_id;
SELECT presence_count(), is_user_online('carl'), is_user_online('ann');
SELECT DISTINCT user_id FROM presence_changes_since(0) ORDER BY 1;
SELECT DISTINCT user_id FROM presence_snapshot() ORDER BY 1;
SET request.jwt.claims = '{"sub": "bob"}';
SELECT presence_count(), is_user_online('carl');
RESET request.jwt.claims;
-- A backend sees everybody.
SET ROLE regress_presence_gateway;
SELECT presence_count(), is_user_online('carl');
RESET ROLE;

-- Rooms are closed by another one, to those who only read or act for themselves.
SELECT join_room('ann', 'tab', 'lobby'), join_room('ann', 'tab', 'office');
CREATE OR REPLACE FUNCTION presence_can_enter(viewer text, room text) RETURNS boolean
LANGUAGE sql STABLE AS $$SELECT room <> 'office' OR viewer = 'bob'$$;
SET ROLE regress_presence_reader;
SELECT room_count('lobby');
SELECT room_count('office');
SELECT user_id FROM get_room('office');
SELECT seq IS NOT NULL FROM room_snapshot('office');
SELECT * FROM presence_changes_since(0, 10, 'office');
SELECT room FROM get_user_rooms('ann');
SELECT DISTINCT room FROM presence_changes_since(0) WHERE room IS NOT NULL;
SELECT join_room('regress_presence_reader', 'tab', 'lobby');
SET request.jwt.claims = '{"sub": "bob"}';
SELECT room_count('office');
RESET request.jwt.claims;
RESET ROLE;
SELECT presence_grant('regress_presence_person', 'self');
SET ROLE regress_presence_person;
SET request.jwt.claims = '{"sub": "dora"}';
SELECT join_room(presence_current_user(), 'desk', 'lobby');
SELECT join_room(presence_current_user(), 'desk', 'office');
SELECT join_room('ann', 'tab', 'lobby');
SELECT leave_room('ann', 'tab', 'lobby');
SELECT leave_room(presence_current_user(), 'desk', 'lobby');
SELECT join_rooms('{ann}', '{tab}', '{lobby}');
RESET request.jwt.claims;
RESET ROLE;
SET ROLE regress_presence_gateway;
SELECT room_count('office');
SELECT join_rooms('{ann}', '{tab}', '{office}');
RESET ROLE;

-- A web user gets no month of history.
SET presence.feed_horizon = '0';
SET ROLE regress_presence_reader;
SELECT count(*) FROM presence_changes_since(0);
SELECT count(*) FROM presence_changes_since((SELECT seq FROM presence_feed_position()));
SET ROLE regress_presence_gateway;
SELECT count(*) > 0 AS all_of_it FROM presence_changes_since(0);
RESET ROLE;
DROP EXTENSION presence;
DROP OWNED BY regress_presence_reader, regress_presence_person, regress_presence_gateway, regress_presence_admin;
DROP ROLE regress_presence_reader, regress_presence_person, regress_presence_gateway, regress_presence_admin;
