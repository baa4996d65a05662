-- Rows that were changed by hand: everything agrees again soon after, and the feed tells of it.
\ir helpers.psql
SELECT plan(36);
SET client_min_messages = warning;

CREATE FUNCTION pg_temp.broken() RETURNS text[] LANGUAGE sql AS $$ SELECT array_agg(DISTINCT invariant ORDER BY invariant) FROM presence_verify() $$;
CREATE PROCEDURE pg_temp.join(first integer, last integer) LANGUAGE plpgsql AS $$
BEGIN
    -- Twice, so that they are in the cache.
    FOR i IN 1 .. 2 LOOP
        PERFORM update_user_heartbeats(array_agg(n), array_agg('s'::text)) FROM generate_series(first, last) AS n;
        COMMIT;
    END LOOP;
    PERFORM presence_feed_position();
END $$;

CALL pg_temp.join(1, 50);
SELECT ok(update_user_heartbeat(1, 'second'), 'one has two sessions');
SELECT ok(update_user_heartbeat(2, 's', 'agent', metadata => '"old"'), 'one has metadata');
SELECT ok(update_user_heartbeat(2, 's', 'agent'), 'known to the cache');
SELECT ok(pg_temp.numbered(), 'all of this is numbered');
SELECT is(pg_temp.broken(), NULL, 'where nobody has changed anything by hand, everything agrees');
SELECT epoch, seq FROM presence_feed_position() \gset

-- What is wrong is named, before and after. Nobody else sees it meanwhile.
BEGIN;
DELETE FROM presence_session WHERE user_id = '1' AND session_id = 's';
DELETE FROM presence_session WHERE user_id = '3';
DELETE FROM presence_user WHERE user_id = '4';
UPDATE presence_session SET metadata = '"new"' WHERE user_id = '2';
DELETE FROM presence_session WHERE user_id = '5';
DELETE FROM presence_user WHERE user_id = '5';
UPDATE presence_user SET status = 'away' WHERE user_id = '6';
UPDATE presence_session SET status = 'busy' WHERE user_id = '7';
INSERT INTO presence_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at)
    VALUES ('8', 'more', true, 'idle', now(), now(), now()), ('by hand', 's', true, 'active', now(), now(), now());
SELECT ok(pg_temp.broken() @> ARRAY[
    'a session has a user', 'a user and the sessions have one online_since', 'a user has as many sessions as are online', 'a user has the most present status of the sessions',
    'a user is online as long as a session is', 'a user''s last event agrees with the user', 'the feed counts who is online'], 'presence_verify() names what is wrong');
COMMIT;
SELECT ok(pg_temp.sound(), 'after rows were changed by hand, everything agrees again');
SELECT is(count(*), 48::bigint + 1, 'who has a session is online, and nobody else') FROM presence WHERE online;
SELECT is(presence_count(), 49::bigint, 'as presence_count() says');
SELECT is((SELECT count(*) FROM presence_user WHERE user_id = '5'), 0::bigint, 'a user who was deleted stays deleted');
SELECT is((SELECT row(online, sessions)::text FROM presence_user WHERE user_id = '4'), '(t,1)', 'a user whose session was left is there again');
SELECT is((SELECT count(DISTINCT online_since) FROM presence_session WHERE user_id = '8'), 1::bigint, 'all of a user''s sessions know since when the user is online');
SELECT is(array_agg(event || ' ' || user_id || coalesce(' ' || session_id, '') || ' ' || reason || ' ' || sessions ORDER BY user_id, seq),
    ARRAY['session_end 1 s admin 1', 'session_end 3 s admin 0', 'user_offline 3 admin 0', 'session_end 5 s admin 0', 'user_offline 5 admin 0', 'update 7 admin 1',
          'session_start 8 more admin 2', 'session_start by hand s admin 1', 'user_online by hand admin 1'],
    'the feed tells of it, with reason admin')
FROM (SELECT * FROM presence_changes_since(:seq) WHERE pg_temp.numbered() AND event <> 'update' OR user_id = '7') AS e WHERE reason = 'admin';
SELECT is((SELECT epoch FROM presence_feed_position()), :'epoch', 'and goes on in the same epoch');
SELECT ok(update_user_heartbeat(3, 's'), 'a session that was deleted begins anew');
SELECT ok(pg_temp.online('3'), 'and is online');
SELECT ok(update_user_heartbeat(2, 's', metadata => '"old"'), 'metadata that was overwritten is given again');
SELECT is((SELECT metadata FROM presence WHERE user_id = '2'), '"old"'::jsonb, 'and taken for what it is');
SELECT ok((SELECT array_to_string(problem, ' ') FROM presence_health) ~ format('by hand; a review .* %s-\d\d-\d\d ', extract(year FROM now())), 'presence_health says when that was');
SELECT ok((SELECT count(*) FROM presence_admin_log WHERE action = 'review') > 0, 'presence_admin_log says what was done');

-- Without the triggers, the counts tell.
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM presence_session WHERE user_id = '10';
DELETE FROM presence_user WHERE user_id = '10';
COMMIT;
SELECT ok(pg_temp.sound(), 'also after changes by a session with session_replication_role = replica');

-- A prepared transaction is one of another session by the time that it is committed.
SELECT current_setting('max_prepared_transactions')::int > 0 AS prepares \gset
\if :prepares
BEGIN;
DELETE FROM presence_session WHERE user_id = '11';
PREPARE TRANSACTION 'by hand';
COMMIT PREPARED 'by hand';
\else
DELETE FROM presence_session WHERE user_id = '11';
\endif
SELECT ok(pg_temp.sound(), 'also after a transaction that was prepared');
BEGIN;
DELETE FROM presence_session;
ROLLBACK;
SELECT is(pg_temp.broken(), NULL, 'what is rolled back breaks nothing');

-- The feed itself.
SELECT epoch FROM presence_feed_position() \gset
DELETE FROM presence_event WHERE id = (SELECT max(id) - 3 FROM presence_event);
SELECT ok(pg_temp.sound(), 'after events were deleted, everything agrees again');
SELECT epoch AS next FROM presence_feed_position() \gset
SELECT isnt(:'next'::text, :'epoch'::text, 'in another epoch, because numbers are given again');
SELECT is((SELECT count(*) FROM presence_snapshot()), presence_count(), 'with a list to begin with');
TRUNCATE presence_feed_range;
SELECT ok(pg_temp.sound(), 'after numbers were lost');
SELECT isnt((SELECT epoch FROM presence_feed_position()), :'next', 'there is another epoch');
TRUNCATE presence_user, presence_session, presence_event, presence_feed_range;
SELECT ok(pg_temp.sound(), 'after all tables were truncated');
SELECT is(presence_count(), 0::bigint, 'nobody is online');
CALL pg_temp.join(1, 10);
SELECT is(presence_count(), 10::bigint, 'and all goes on');
SELECT is(pg_temp.broken(), NULL, 'soundly');
DELETE FROM presence_user;
SELECT ok(pg_temp.sound(), 'after users were deleted, but not their sessions');
SELECT is((SELECT count(*) FROM get_active_users()), 10::bigint, 'all of them are online');
TRUNCATE presence_session;
SELECT ok(pg_temp.sound(), 'after sessions were truncated, but not their users');
SELECT is(presence_count(), 0::bigint, 'nobody is online');

SELECT * FROM finish();
