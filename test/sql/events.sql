-- The feed: order, alternation, reasons; levels and channel change what is announced, never what is recorded.
SET client_min_messages = warning;
CREATE EXTENSION presence;
-- Where a worker numbers the events, it may take a moment.
CREATE PROCEDURE wait_for_numbers() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        PERFORM presence_changes_since(0);
        IF NOT EXISTS (SELECT FROM presence_event_queue) THEN RETURN; END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE 'the events were not numbered within ten seconds';
END $$;
SELECT update_user_heartbeat('alice', 'one');
SELECT update_user_heartbeat('alice', 'two', status => 'away');
SELECT update_user_heartbeat('alice', 'two', status => 'away');
SELECT update_user_heartbeat('alice', 'one', status => 'idle');
SELECT update_user_heartbeat('alice', 'one', metadata => '{"room": "lobby"}');
SELECT mark_user_offline('alice', 'two');
SELECT handle_user_disconnect('alice', 'one');
SELECT update_user_heartbeat('alice', 'three');
SELECT mark_user_offline('alice');
CALL wait_for_numbers();
SELECT seq, event, user_id, session_id, reason, sessions, details->>'status' AS status FROM presence_changes_since(0);
SELECT seq FROM presence_changes_since(3, 2);
SELECT count(DISTINCT seq) AS seq_columns, bool_and(user_id IS NULL) AS nobody, max(seq) AS position FROM presence_snapshot();
SELECT seq, at IS NOT NULL AS has_time, details FROM presence_changes_since(3, 1);
SELECT count(*) FROM presence_changes_since((SELECT seq FROM presence_feed_position()));
SELECT count(*) FROM presence_changes_since(1000000);
SET presence.notify_level = 'none';
SELECT update_user_heartbeat('bob', 'one');
SET presence.notify_level = 'session';
SELECT update_user_heartbeat('bob', 'two');
SET presence.notify_channel = '';
SELECT mark_user_offline('bob');
RESET presence.notify_level;
RESET presence.notify_channel;
CALL wait_for_numbers();
SELECT event, sessions FROM presence_changes_since(0) WHERE user_id = 'bob';
SELECT user_id, bool_and(event IS DISTINCT FROM before) AS alternate
FROM (SELECT user_id, event, lag(event) OVER (PARTITION BY user_id ORDER BY seq) AS before
      FROM presence_events WHERE event IN ('user_online', 'user_offline')) AS e
GROUP BY 1 ORDER BY 1;
-- What departures leave in the log.
SELECT action, actor = current_user AS by_me, details FROM presence_admin_log ORDER BY id;
-- The queries of the reference work as they stand, and agree.
SELECT update_user_heartbeats(ARRAY[1, 2, 3], ARRAY['a', 'b', NULL]);
SELECT count(*) FROM (SELECT * FROM get_active_users()) AS active;
SELECT cleanup_stale_presence();
SELECT count(*) AS total_online FROM presence WHERE online = true;
SELECT count(*) AS total_users,
       count(*) FILTER (WHERE online = true) AS online_users,
       count(*) FILTER (WHERE online = true AND heartbeat_at < now() - interval '2 minutes') AS stale_users
FROM presence;
SELECT total_users, online_users, stale_users, sessions, presence_count() FROM presence_health;
DROP PROCEDURE wait_for_numbers;
DROP EXTENSION presence;
