-- What a person chooses for all sessions: a status, a message, or to be shown as offline to everybody who lacks access admin.
\ir helpers.psql
SELECT plan(100);
SET client_min_messages = warning;
-- As others see it: the status, and what was chosen.
CREATE FUNCTION pg_temp.shown(who text) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s %s', (SELECT status FROM get_active_users() WHERE user_id = who), (SELECT status FROM presence WHERE user_id = who), (SELECT status FROM get_presence(ARRAY[who])))
$$;
CREATE FUNCTION pg_temp.last_event(who text) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s %s', event, reason, details) FROM presence_event WHERE user_id = who ORDER BY id DESC LIMIT 1
$$;

-- A status for all sessions.
SELECT update_user_heartbeat('ann', 'one'), update_user_heartbeat('ann', 'two', status => 'idle');
SELECT is(pg_temp.shown('ann'), 'active active active', 'at first a user is shown as the sessions are');
SELECT ok(set_user_status('ann', 'busy'), 'a choice');
SELECT is(pg_temp.shown('ann'), 'busy busy busy', 'is shown instead');
SELECT is(pg_temp.last_event('ann'), 'update heartbeat {"status": "busy", "metadata": null}', 'and told');
SELECT ok(NOT set_user_status('ann', 'busy'), 'the same again changes nothing');
SELECT ok(update_user_heartbeat('ann', 'one') AND update_user_heartbeat('ann', 'one', status => 'away') AND update_user_heartbeat('ann', 'one', status => 'active'), 'heartbeats go on, also with a status of their own');
SELECT is(pg_temp.shown('ann'), 'busy busy busy', 'which does not undo the choice');
SELECT is(pg_temp.told('ann'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_start heartbeat', 'update heartbeat'], 'and is no event');
SELECT is((SELECT array_agg(status ORDER BY session_id) FROM presence_sessions WHERE user_id = 'ann'), ARRAY['active', 'idle'], 'a session shows its own');
SELECT update_user_heartbeat('ann', 'three', status => 'away');
SELECT is(pg_temp.shown('ann'), 'busy busy busy', 'a session that begins is under it too');
SELECT is((SELECT status FROM presence_snapshot() WHERE user_id = 'ann'), 'busy', 'the snapshot agrees');
SELECT ok(set_user_status('ann', 'away', message => 'At lunch'), 'another choice, with a message');
SELECT is(pg_temp.last_event('ann'), 'update heartbeat {"status": "away", "message": "At lunch", "metadata": null}', 'which the event tells');
SELECT is((SELECT s::text FROM get_user_status('ann') AS s), '(away,away,,"At lunch")', 'and get_user_status()');
SELECT ok(set_user_status('ann', 'away', message => 'Back soon'), 'another message');
SELECT is(pg_temp.last_event('ann'), 'update heartbeat {"status": "away", "message": "Back soon", "metadata": null}', 'is told as well');
SELECT update_user_heartbeat('ann', 'four');
SELECT is(pg_temp.last_event('ann'), 'session_start heartbeat {"status": "away", "message": "Back soon", "metadata": null}', 'also by what happens later');
SELECT ok(mark_user_offline('ann'), 'the choice lasts');
SELECT is((SELECT s::text FROM get_user_status('ann') AS s), '(,away,,"Back soon")', 'while its user is offline');
SELECT update_user_heartbeat('ann', 'five');
SELECT is(pg_temp.shown('ann'), 'away away away', 'and when the user comes back');
SELECT ok(set_user_status('ann', NULL), 'NULL');
SELECT is(pg_temp.shown('ann'), 'active active active', 'ends it: the sessions count again');
SELECT is(pg_temp.last_event('ann'), 'update heartbeat {"status": "active", "metadata": null}', 'which is told');
SELECT ok(set_user_status('ann', 'busy') AND set_user_status('ann', 'active') AND NOT set_user_status('ann', 'active'), 'active does the same');
SELECT ok(set_user_status('ann', NULL, message => 'Hello'), 'a message needs no status');
SELECT is((SELECT s::text FROM get_user_status('ann') AS s), '(active,,,Hello)', 'then what the sessions say is shown with it');
SELECT ok(set_user_status('ann', NULL, message => ''), 'an empty one is none');
SELECT is((SELECT s::text FROM get_user_status('ann') AS s), '(active,,,)', 'so there is nothing left');
SELECT set_user_status('ann', 'busy', 'infinity');
SELECT is((SELECT s::text FROM get_user_status('ann') AS s), '(busy,busy,,)', 'until infinity is as long as it lasts');
SELECT set_user_status('ann', NULL);

-- Somebody who has never been here.
SELECT ok(NOT set_user_status('nobody', NULL) AND NOT EXISTS (SELECT FROM presence_user WHERE user_id = 'nobody'), 'to choose nothing makes no user');
SELECT ok(set_user_status('ben', 'busy', message => 'x'), 'who has never been seen can choose');
SELECT is((SELECT count(*) FROM presence WHERE user_id = 'ben'), 0::bigint, 'is not seen for it');
SELECT is(pg_temp.told('ben'), NULL, 'nor told of');
SELECT is((SELECT row(online, status, last_seen)::text FROM get_presence(ARRAY['ben'])), '(f,,)', 'nor known to friends');
SELECT ok(update_user_heartbeat('ben', 'one'), 'and comes');
SELECT is(pg_temp.shown('ben'), 'busy busy busy', 'as chosen');
SELECT is((SELECT array_agg(details ->> 'status' ORDER BY id) FROM presence_event WHERE user_id = 'ben'), ARRAY['busy', 'busy'], 'from the first event on');

-- An end.
SELECT ok(set_user_status('ben', 'away', clock_timestamp() + interval '250 ms', 'Soon'), 'a choice with an end');
SELECT ok(pg_temp.until($$NOT EXISTS (SELECT FROM get_active_users() WHERE user_id = 'ben' AND status = 'away')$$), 'ends by itself');
SELECT is(pg_temp.shown('ben'), 'active active active', 'for every reader');
SELECT is((SELECT s::text FROM get_user_status('ben') AS s), '(active,,,)', 'with its message');
SELECT ok(pg_temp.until($$(SELECT cleanup_stale_presence() IS NOT NULL AND EXISTS (SELECT FROM presence_changes_since(0) WHERE user_id = 'ben' AND event = 'update' AND reason = 'timeout'))$$), 'and is told, by the worker or else by the cleanup');
SELECT is(pg_temp.last_event('ben'), 'update timeout {"status": "active", "metadata": null}', 'as what it is');
SELECT is((SELECT array_agg(invariant) FROM presence_verify()), NULL, 'everything agrees');

-- Invisible: before, the truth.
CREATE ROLE status_admin;
CREATE ROLE status_backend;
CREATE ROLE status_page;
CREATE ROLE cat;
CREATE ROLE status_report;
SELECT presence_grant('status_admin', 'admin'), presence_grant('status_backend', 'write'), presence_grant('status_page', 'read'), presence_grant('cat', 'self');
GRANT SELECT ON presence, presence_sessions, presence_events, presence_admin_log TO status_report;
SELECT format('GRANT CREATE, USAGE ON SCHEMA %s TO status_admin, status_backend, status_page, status_report, cat', pg_my_temp_schema()::regnamespace) \gexec
SELECT update_user_heartbeat('cat', 'one', 'agent', '192.0.2.1', metadata => '{"x": 1}'), update_user_heartbeat('cat', 'two');
SELECT set_user_status('cat', 'busy', message => 'In a call');
SELECT set_typing('cat', 'one', 'room');
SELECT presence_count() AS online \gset
SELECT ok(pg_temp.numbered(), 'all of this is numbered');
SELECT seq FROM presence_feed_position() \gset
SELECT clock_timestamp() AS before \gset
SELECT ok(set_user_status('cat', 'invisible', message => 'Secret'), 'a user becomes invisible');
SELECT clock_timestamp() AS after \gset
SELECT ok(NOT pg_temp.online('cat'), 'is offline');
SELECT is(presence_count(), :online - 1::bigint, 'is not counted');
SELECT is((SELECT count(*) FROM get_active_users() WHERE user_id = 'cat') + (SELECT count(*) FROM presence_snapshot() WHERE user_id = 'cat'), 0::bigint, 'is in no list');
SELECT is((SELECT row(online, status, sessions)::text FROM presence WHERE user_id = 'cat'), '(f,,0)', 'is offline in the view');
SELECT ok((SELECT last_seen BETWEEN :'before' AND :'after' FROM presence WHERE user_id = 'cat'), 'last seen at that moment');
SELECT is((SELECT last_seen FROM get_presence(ARRAY['cat'])), (SELECT last_seen FROM presence WHERE user_id = 'cat'), 'for friends as well');
SELECT is((SELECT array_agg(row(session_id, online, end_reason)::text ORDER BY session_id) FROM presence_sessions WHERE user_id = 'cat'), ARRAY['(one,f,leave)', '(two,f,leave)'], 'the sessions have ended');
SELECT is((SELECT count(*) FROM get_typing('room')), 0::bigint, 'who typed types no longer');
SELECT ok(NOT set_typing('cat', 'one', 'room') AND NOT EXISTS (SELECT FROM get_typing('room')), 'and cannot begin to');
SELECT ok(pg_temp.numbered(), 'which is numbered');
SELECT is((SELECT array_agg(format('%s %s %s', event, session_id, reason) ORDER BY seq) FROM presence_changes_since(:seq)), ARRAY['session_end one leave', 'session_end two leave', 'user_offline two leave'], 'and told as a departure');
SELECT ok(NOT EXISTS (SELECT FROM presence_event WHERE details::text LIKE '%Secret%'), 'without what the user says with it');
-- From here on nothing of this changes.
CREATE TEMP TABLE sight AS SELECT (SELECT p::text FROM presence AS p WHERE user_id = 'cat') AS person, (SELECT array_agg(s::text ORDER BY session_id) FROM presence_sessions AS s WHERE user_id = 'cat') AS sessions,
    (SELECT g::text FROM get_presence(ARRAY['cat']) AS g) AS friend, presence_count() AS count, (SELECT max(id) FROM presence_event) AS event;
CREATE FUNCTION pg_temp.same_sight() RETURNS boolean LANGUAGE sql AS $$
    SELECT sight::text = row((SELECT p::text FROM presence AS p WHERE user_id = 'cat'), (SELECT array_agg(s::text ORDER BY session_id) FROM presence_sessions AS s WHERE user_id = 'cat'),
        (SELECT g::text FROM get_presence(ARRAY['cat']) AS g), presence_count(), (SELECT max(id) FROM presence_event))::text AND NOT is_user_online('cat') FROM sight
$$;
SELECT h.cache_hits AS hits, s.preloaded AS cached FROM presence_health AS h, presence_server_state() AS s \gset
SELECT ok(update_user_heartbeat('cat', 'one'), 'heartbeats are accepted');
SELECT ok(update_user_heartbeat('cat', 'two', status => 'away', metadata => '{"x": 2}'), 'with what they have to say');
SELECT ok(update_user_heartbeat('cat', 'three'), 'and sessions begin');
SELECT is(update_user_heartbeats(ARRAY['cat', 'cat', 'ann'], ARRAY['three', 'four', 'five']), 3, 'also in batches');
SELECT ok(pg_temp.same_sight(), 'of which others see nothing');
SELECT ok(NOT :'cached'::boolean OR (SELECT cache_hits > :hits FROM presence_health), 'known sessions are known to the cache, where there is one');
SELECT ok(NOT mark_user_offline('cat', 'three') AND NOT handle_user_disconnect('cat', 'four'), 'sessions end, and nobody goes offline by it');
SELECT ok(NOT update_user_heartbeat('cat', 'three'), 'a late heartbeat is ignored as always');
SET presence.timeout = '1ms';
SET presence.leave_grace = '1h';
SELECT update_user_heartbeat('cat', 'grace'), handle_user_disconnect('cat', 'grace');
SELECT pg_sleep(0.005);
SELECT is(cleanup_stale_presence() - cleanup_stale_presence(), 2, 'silence ends sessions of others, who are counted');
RESET presence.timeout;
RESET presence.leave_grace;
SELECT ok(NOT EXISTS (SELECT FROM presence_hidden_session WHERE user_id = 'cat' AND online), 'and the hidden ones, which are not');
SELECT is((SELECT person FROM sight), (SELECT p::text FROM presence AS p WHERE user_id = 'cat'), 'last_seen does not move');
SELECT is((SELECT friend FROM sight), (SELECT p::text FROM get_presence(ARRAY['cat']) AS p), 'nor for friends');
SELECT is((SELECT event FROM sight), (SELECT max(id) FROM presence_event WHERE user_id = 'cat'), 'and nothing is told');
SELECT ok(update_user_heartbeat('cat', 'one') AND update_user_heartbeat('cat', 'one', status => 'idle'), 'the user comes back unseen');
SELECT is((SELECT array_agg(invariant) FROM presence_verify()), NULL, 'everything agrees');

-- Who is told.
SET ROLE status_admin;
SELECT is((SELECT s::text FROM get_user_status('cat') AS s), '(idle,invisible,,Secret)', 'an administrator is told the truth');
SELECT is((SELECT count(*) FROM get_active_users() WHERE user_id = 'cat'), 0::bigint, 'and sees the lists that all see');
SET ROLE status_backend;
SELECT is((SELECT s::text FROM get_user_status('cat') AS s), '(,,,)', 'a backend without access admin is not');
SELECT is((SELECT row(online, sessions)::text FROM get_presence(ARRAY['cat'])) || is_user_online('cat') || (SELECT count(*) FROM presence_snapshot() WHERE user_id = 'cat'), '(f,0)false0', 'by no other way either');
SELECT is((SELECT count(*) FROM presence_changes_since(:seq) WHERE user_id = 'cat'), 3::bigint, 'nor by the feed');
SET ROLE status_page;
SELECT is((SELECT s::text FROM get_user_status('cat') AS s), '(,,,)', 'nor is a page');
SELECT throws_ok($$SELECT set_user_status('cat', NULL)$$, '42501', NULL, 'which may not choose either');
SET ROLE status_report;
SELECT is((SELECT row(online, sessions)::text FROM presence WHERE user_id = 'cat') || (SELECT count(*) FROM presence_sessions WHERE user_id = 'cat' AND online), '(f,0)0', 'nor are the views');
SELECT is((SELECT count(*) FROM presence_admin_log WHERE (details ->> 'sessions_ended')::integer > 0 AND details ->> 'user_id' = 'cat'), 0::bigint, 'nor the log');
SELECT throws_ok('SELECT * FROM presence_hidden_session', '42501', NULL, 'and the sessions are closed to everybody');
SET SESSION AUTHORIZATION cat;
SELECT is((SELECT s::text FROM get_user_status('cat') AS s), '(idle,invisible,,Secret)', 'a role that acts for one user is told of this one');
SELECT throws_ok($$SELECT * FROM get_user_status('ben')$$, '42501', NULL, 'of nobody else');
SELECT throws_ok($$SELECT set_user_status('ben', 'busy')$$, '42501', NULL, 'for whom it may not choose');
SELECT ok(set_user_status('cat', 'invisible'), 'and chooses for this one');
RESET SESSION AUTHORIZATION;
RESET ROLE;

-- And back.
SELECT max(id) AS id FROM presence_event \gset
SELECT ok(set_user_status('cat', 'away', message => 'Back'), 'with another choice the user comes into view');
SELECT is((SELECT array_agg(format('%s %s %s', event, session_id, details) ORDER BY id) FROM presence_event WHERE id > :id),
          ARRAY['session_start one {"status": "away", "message": "Back", "metadata": {"x": 1}}', 'user_online one {"status": "away", "message": "Back", "metadata": {"x": 1}}'], 'as if coming online');
SELECT is(pg_temp.shown('cat'), 'away away away', 'with that choice');
SELECT is((SELECT row(sessions, user_agent, metadata)::text FROM presence WHERE user_id = 'cat'), '(1,agent,"{""x"": 1}")', 'and the details of the session');
SELECT is((SELECT count(*) FROM presence_hidden_session), 0::bigint, 'nothing is left');
SELECT is((SELECT array_agg(row(session_id, end_reason)::text) FROM presence_sessions WHERE user_id = 'cat' AND NOT online), ARRAY['(two,leave)'], 'nor told of what has ended meanwhile');
SELECT ok(set_user_status('cat', 'invisible', clock_timestamp() + interval '250 ms'), 'invisible for a while');
SELECT ok(pg_temp.until($$(SELECT count(*) = 1 FROM get_active_users() WHERE user_id = 'cat')$$), 'ends by itself, in whoever comes first: the worker, or a list');
SELECT ok(mark_user_offline('cat') AND set_user_status('cat', 'invisible') AND set_user_status('cat', NULL) AND NOT pg_temp.online('cat'), 'who is offline becomes invisible, and visible again, without a trace');
SELECT is(pg_temp.last_event('cat'), 'user_offline leave ', 'in the feed too');

-- Retention.
SELECT set_user_status('cat', 'busy');
UPDATE presence_session SET ended_at = ended_at - interval '2 days', joined_at = joined_at - interval '2 days', heartbeat_at = heartbeat_at - interval '2 days' WHERE user_id = 'cat';
UPDATE presence_user SET offline_at = offline_at - interval '2 days', online_since = online_since - interval '2 days' WHERE user_id = 'cat';
SET presence.user_retention = '1d';
SELECT count(scheduled_presence_cleanup()) \gset
SELECT ok(EXISTS (SELECT FROM presence_user WHERE user_id = 'cat'), 'who has chosen something is not forgotten');
SELECT set_user_status('cat', NULL);
SELECT count(scheduled_presence_cleanup()) \gset
SELECT ok(NOT EXISTS (SELECT FROM presence_user WHERE user_id = 'cat'), 'until the choice has ended');
RESET presence.user_retention;
SELECT is((SELECT array_agg(v::text) FROM presence_verify() AS v), NULL, 'at the end, everything agrees');
DROP OWNED BY status_admin, status_backend, status_page, status_report, cat;
DROP ROLE status_admin, status_backend, status_page, status_report, cat;

SELECT * FROM finish();
