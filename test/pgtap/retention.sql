-- What is forgotten, and when; and that nobody is forgotten who is there.
\ir helpers.psql
SELECT plan(23);
SELECT update_user_heartbeat('here', 'old'), mark_user_offline('here', 'old'), update_user_heartbeat('here', 'new'),
       update_user_heartbeat('gone', 'one'), update_user_heartbeat('gone', 'two'), mark_user_offline('gone'),
       update_user_heartbeat('just', 'gone'), mark_user_offline('just'), update_user_heartbeat('bare', 'x'), mark_user_offline('bare');
-- Of long ago: sessions that ended then, and users who left then.
CREATE FUNCTION pg_temp.age(who text, by interval) RETURNS void LANGUAGE sql AS
    $$UPDATE presence_session SET ended_at = ended_at - by, joined_at = joined_at - by, heartbeat_at = heartbeat_at - by WHERE user_id = who AND NOT online;
      UPDATE presence_user SET offline_at = offline_at - by WHERE user_id = who$$;
CREATE FUNCTION pg_temp.rows_of(who text) RETURNS text LANGUAGE sql AS
    $$SELECT concat_ws(' ', (SELECT count(*) FROM presence_session WHERE user_id = who), (SELECT count(*) FROM presence_user WHERE user_id = who))$$;
CREATE FUNCTION pg_temp.run() RETURNS text LANGUAGE sql AS
    $$SELECT scheduled_presence_cleanup()::text$$;

SELECT pg_temp.age('here', '2 days'), pg_temp.age('gone', '2 days'), pg_temp.age('bare', '2 days');
DELETE FROM presence_session WHERE user_id = 'bare';
SET presence.session_retention = '3d';
SELECT is(pg_temp.run(), '0', 'a run ends nobody here');
SELECT is(pg_temp.rows_of('here') || ',' || pg_temp.rows_of('gone'), '2 1,2 1', 'younger sessions stay');
SET presence.session_retention = '1d';
SELECT is(pg_temp.run(), '0', 'a second run');
SELECT is(pg_temp.rows_of('here'), '1 1', 'an ended session goes');
SELECT ok(is_user_online('here') AND update_user_heartbeat('here', 'new'), 'and the one that lasts stays');
SELECT is(pg_temp.rows_of('gone'), '1 1', 'the last row of a user stays');
SELECT is(pg_temp.rows_of('just'), '1 1', 'a young one anyway');
SELECT is(pg_temp.rows_of('bare'), '0 1', 'without presence.user_retention no user goes');
SET presence.user_retention = '3d';
SELECT is(pg_temp.run(), '0', 'a third run');
SELECT is(pg_temp.rows_of('gone') || ',' || pg_temp.rows_of('bare'), '1 1,0 1', 'a user stays until presence.user_retention is over');
SET presence.user_retention = '1d';
SELECT is(pg_temp.run(), '0', 'a fourth run');
SELECT is(pg_temp.rows_of('gone'), '0 0', 'then nothing is left of the user');
SELECT is(pg_temp.rows_of('bare'), '0 0', 'nor of one without a session');
SELECT is(pg_temp.rows_of('here') || ',' || pg_temp.rows_of('just'), '1 1,1 1', 'others stay');
SELECT is((SELECT concat_ws(' ', online, status, sessions) FROM get_presence(ARRAY['gone'])), 'f', 'who is forgotten is unknown');
SELECT ok(update_user_heartbeat('gone', 'again') AND pg_temp.online('gone'), 'and may come back');

-- Users may be kept for less long than sessions are.
SET presence.session_retention = '30d';
SELECT pg_temp.age('just', '2 days');
SELECT is(pg_temp.run(), '0', 'a fifth run');
SELECT is(pg_temp.rows_of('just'), '0 0', 'a user who goes takes the sessions along');

-- Nothing is forgotten that still refuses late heartbeats.
SET presence.session_retention = 0;
SET presence.user_retention = 0;
SELECT update_user_heartbeat('quick', 'q'), mark_user_offline('quick', 'q');
SELECT is(pg_temp.run(), '0', 'a sixth run');
SELECT ok(NOT update_user_heartbeat('quick', 'q'), 'a session ended on purpose stays so for presence.rejoin_guard');
SET presence.rejoin_guard = 0;
SELECT is(pg_temp.run(), '0', 'a seventh run');
SELECT is(pg_temp.rows_of('quick'), '0 0', 'and not longer');
SELECT is((SELECT count(*) FROM get_active_users()), 2::bigint, 'those who are online still are');
SELECT * FROM finish();
