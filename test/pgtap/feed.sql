-- The change feed, the snapshot, and what retention removes.
\ir helpers.psql
SELECT plan(43);

-- Committed, as others would read it.
SELECT is((SELECT array_agg(row(seq, user_id)::text) FROM presence_snapshot()), ARRAY['(0,)'], 'where nobody was ever online, the snapshot is one row with only seq set');
SELECT update_user_heartbeat('a', 's');
SELECT update_user_heartbeat('b', 's', status => 'busy', metadata => '{"x": 1}');
SELECT ok(pg_temp.numbered(), 'what is committed is numbered when the feed is read');
SELECT is((SELECT array_agg(seq || ' ' || event || ' ' || user_id ORDER BY seq) FROM presence_changes_since(0)),
          ARRAY['1 session_start a', '2 user_online a', '3 session_start b', '4 user_online b'], 'in order, without gaps, from 1');
SELECT is((SELECT details FROM presence_changes_since(3)), '{"status": "busy", "metadata": {"x": 1}}', 'user_online says what others see');
SELECT is((SELECT count(*) FROM presence_changes_since(4)), 0::bigint, 'nothing after the last');
SELECT is((SELECT array_agg(seq) FROM presence_changes_since(1, 2)), ARRAY[2, 3]::bigint[], 'max_rows bounds a page');
SELECT throws_ok('SELECT * FROM presence_changes_since(5)', '22023', 'the feed ends before seq 5', 'a position beyond the end is an error: it is of another feed');
SELECT is((SELECT array_agg(row(seq, user_id, status, sessions, metadata)::text ORDER BY user_id) FROM presence_snapshot()),
          ARRAY['(4,a,active,1,)', '(4,b,busy,1,"{""x"": 1}")'], 'the snapshot says to which position it corresponds');
SELECT is((SELECT seq FROM presence_feed_position()), 4::bigint, 'which can be asked for alone');

-- Epochs.
SELECT epoch AS epoch FROM presence_feed_position() \gset
SELECT ok(length(:'epoch') > 10, 'a feed has an epoch');
SELECT is((SELECT array_agg(DISTINCT epoch) FROM presence_snapshot()), ARRAY[:'epoch'], 'of which the snapshot is');
SELECT is((SELECT array_agg(DISTINCT epoch) FROM presence_feed), ARRAY[:'epoch'], 'and it stays');
BEGIN;
UPDATE presence_feed SET place = 'elsewhere';
SELECT isnt((SELECT epoch FROM presence_feed_position()), :'epoch', 'a feed that comes from elsewhere gets another one');
SELECT is((SELECT count(*) FROM presence_feed WHERE epoch = :'epoch'), 1::bigint, 'beside the old one');
ROLLBACK;

-- Rolled back: neither told nor counted.
BEGIN;
SELECT update_user_heartbeat('ghost', 's');
SELECT count(*) FROM presence_changes_since(0);
ROLLBACK;
SELECT is((SELECT max(seq) FROM presence_changes_since(0)), 4::bigint, 'events that are rolled back leave no trace');
SELECT update_user_heartbeat('c', 's');
SELECT ok(pg_temp.numbered(), 'the next');
SELECT is((SELECT array_agg(seq) FROM presence_changes_since(4)), ARRAY[5, 6]::bigint[], 'takes the next number');

-- Whoever may not write reads what is numbered.
SELECT update_user_heartbeat('d', 's');
BEGIN READ ONLY;
SELECT lives_ok('SELECT * FROM presence_changes_since(0)', 'the feed can be read in a read-only transaction');
SELECT lives_ok('SELECT * FROM presence_snapshot()', 'the snapshot as well');
COMMIT;
SELECT ok(pg_temp.numbered(), 'and nothing is lost');
SELECT is((SELECT array_agg(user_id) FROM presence_changes_since(7)), ARRAY['d'], 'afterwards');

-- The settings of notifications are not the feed's.
SET presence.notify_level = 'none';
SELECT update_user_heartbeat('e', 's');
SET presence.notify_channel = '';
SELECT update_user_heartbeat('e', 's', status => 'away');
RESET presence.notify_level;
RESET presence.notify_channel;
SELECT is(pg_temp.told('e'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'update heartbeat'], 'what is not announced is recorded all the same');

-- Snapshot and feed agree: an old snapshot with the feed after it is the new one.
CREATE TEMP TABLE seen AS SELECT * FROM presence_snapshot();
SELECT update_user_heartbeat('f', 's'), update_user_heartbeat('f', 't', status => 'busy'), update_user_heartbeat('b', 's', status => 'idle', metadata => '{"x": 2}'),
       mark_user_offline('a'), handle_user_disconnect('e', 's'), update_user_heartbeat('g', NULL), update_user_heartbeat('e', 'u');
SELECT ok(pg_temp.numbered(), 'meanwhile much happened');
CREATE FUNCTION pg_temp.apply_feed() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE e presence_events; position bigint := (SELECT max(seq) FROM seen);
BEGIN
    CREATE TEMP TABLE applied AS SELECT user_id, status, sessions, metadata FROM seen WHERE user_id IS NOT NULL;
    FOR e IN SELECT * FROM presence_changes_since(position, 1000000) LOOP
        IF e.event = 'user_offline' THEN DELETE FROM applied WHERE user_id = e.user_id;
        ELSIF e.event = 'user_online' THEN INSERT INTO applied VALUES (e.user_id, e.details ->> 'status', e.sessions, nullif(e.details -> 'metadata', 'null'));
        ELSIF e.event = 'update' THEN UPDATE applied SET status = e.details ->> 'status', sessions = e.sessions, metadata = nullif(e.details -> 'metadata', 'null') WHERE user_id = e.user_id;
        ELSE UPDATE applied SET sessions = e.sessions WHERE user_id = e.user_id; END IF;
    END LOOP;
    RETURN QUERY SELECT row(a.user_id, a.status, a.sessions, a.metadata)::text FROM applied AS a;
    DROP TABLE applied;
END $$;
SELECT set_eq('SELECT * FROM pg_temp.apply_feed()', 'SELECT row(user_id, status, sessions, metadata)::text FROM presence_snapshot()', 'applying the feed to an older snapshot gives the newer one');
SELECT is((SELECT array_agg(user_id ORDER BY user_id) FROM presence_snapshot()), ARRAY['b', 'c', 'd', 'e', 'f', 'g'], 'which is not empty');
SELECT is((SELECT max(seq) FROM presence_snapshot()), (SELECT max(seq) FROM presence_changes_since(0)), 'and at the end of the feed');

-- Retention. Only what is older goes, and whoever has not read it is told.
SELECT pg_temp.age_events(5, '31 days');
INSERT INTO presence_admin_log (at, action, actor) VALUES (clock_timestamp() - interval '31 days', 'old', 'somebody'), (clock_timestamp() - interval '29 days', 'young', 'somebody');
SELECT is(scheduled_presence_cleanup(), 0, 'the scheduled cleanup ends nobody here');
SELECT is((SELECT min(seq) FROM presence_changes_since(5)), 6::bigint, 'events older than presence.event_retention are gone, younger ones stay');
SELECT throws_ok('SELECT * FROM presence_changes_since(4)', '22023', NULL, 'a position that retention has dropped is an error, not a gap');
SELECT is((SELECT array_agg(action) FROM presence_admin_log WHERE actor = 'somebody'), ARRAY['young'], 'the log is kept as long');
SELECT is((SELECT action || ' ' || details::text FROM presence_admin_log ORDER BY id DESC LIMIT 1), 'scheduled_presence_cleanup {"users_offline": 0, "sessions_ended": 0}', 'each scheduled run has its row there');
SET presence.event_retention = 0;
SELECT max(seq) AS last FROM presence_changes_since(5) \gset
SELECT count(scheduled_presence_cleanup()) \gset
RESET presence.event_retention;
SELECT is((SELECT count(*) FROM presence_changes_since(:last)), 0::bigint, 'with everything dropped');
SELECT update_user_heartbeat('h', 's');
SELECT ok(pg_temp.numbered(), 'numbers');
SELECT is((SELECT array_agg(seq) FROM presence_changes_since(:last)), ARRAY[:last + 1, :last + 2]::bigint[], 'go on where they were');

-- Ended sessions, and users.
SELECT update_user_heartbeat('i', 'first'), mark_user_offline('i', 'first'), update_user_heartbeat('i', 'second'), mark_user_offline('i', 'second'), update_user_heartbeat('f', 'x'), mark_user_offline('f', 'x');
UPDATE presence_session SET ended_at = ended_at - interval '2 days', joined_at = joined_at - interval '2 days', heartbeat_at = heartbeat_at - interval '2 days' WHERE user_id = 'i' OR session_id = 'x';
UPDATE presence_user SET offline_at = offline_at - interval '2 days', online_since = online_since - interval '2 days' WHERE user_id = 'i';
SELECT count(scheduled_presence_cleanup()) \gset
SELECT is((SELECT array_agg(session_id) FROM presence_sessions WHERE user_id = 'i'), ARRAY['second'], 'ended sessions go after presence.session_retention, but a user''s last row stays');
SELECT ok(EXISTS (SELECT FROM presence WHERE user_id = 'i' AND NOT online), 'so the user is still known');
SELECT is((SELECT array_agg(session_id ORDER BY session_id) FROM presence_sessions WHERE user_id = 'f'), ARRAY['s', 't'], 'an online user''s ended sessions go as well');
SELECT ok(EXISTS (SELECT FROM presence_sessions WHERE user_id = 'a' AND NOT online), 'younger ones stay');
SET presence.user_retention = '3d';
SELECT count(scheduled_presence_cleanup()) \gset
SELECT ok(EXISTS (SELECT FROM presence WHERE user_id = 'i'), 'a user stays for presence.user_retention');
SET presence.user_retention = '1d';
SELECT count(scheduled_presence_cleanup()) \gset
SELECT is((SELECT count(*) FROM presence WHERE user_id = 'i'), 0::bigint, 'and goes then');
SELECT is((SELECT count(*) FROM presence_user WHERE user_id = 'i'), 0::bigint, 'without a trace');
SELECT ok((SELECT bool_and(online) FROM presence WHERE user_id IN ('b', 'f', 'h')) AND EXISTS (SELECT FROM presence WHERE user_id = 'a'), 'others stay');
RESET presence.user_retention;
SELECT update_user_heartbeat('i', 'third');
SELECT ok(pg_temp.online('i'), 'who comes back is a user like any other');

SELECT * FROM finish();
