-- What users of such systems reported elsewhere. Concurrent first heartbeats are in clients.sql, HOT updates in storage.sql.
\ir helpers.psql
BEGIN;
SELECT plan(39);
CREATE FUNCTION pg_temp.listed(id text) RETURNS boolean LANGUAGE sql AS $$ SELECT EXISTS (SELECT FROM get_active_users() WHERE user_id = id) $$;

-- Closing one of two tabs removed the user from everybody's list.
SELECT update_user_heartbeat('ann', 'tab 1'), update_user_heartbeat('ann', 'tab 2');
SELECT handle_user_disconnect('ann', 'tab 1');
SELECT ok(pg_temp.listed('ann'), 'closing one of two tabs leaves the user in everybody''s list');
SELECT is((SELECT count(*) FROM presence_events WHERE user_id = 'ann' AND event = 'user_offline'), 0::bigint, 'and tells nobody that the user went');

-- Closing a duplicated tab left the other as a ghost.
SELECT update_user_heartbeat('ben', 'same'), update_user_heartbeat('ben', 'same');
SELECT is((SELECT sessions FROM presence WHERE user_id = 'ben'), 1, 'a duplicated tab, with the session id of the first, is one session');
SELECT ok(handle_user_disconnect('ben', 'same'), 'closing one of them');
SELECT ok(NOT pg_temp.listed('ben'), 'leaves no ghost');
SET LOCAL presence.rejoin_guard = '10ms';
SELECT pg_sleep(0.02);
SELECT ok(update_user_heartbeat('ben', 'same'), 'the other one comes back with its next heartbeat after the guard');
SELECT ok(pg_temp.listed('ben'), 'and is in the list');
SELECT ok(handle_user_disconnect('ben', 'same'), 'closing it too');
SELECT ok(NOT pg_temp.listed('ben'), 'leaves nobody');
SET LOCAL presence.rejoin_guard TO DEFAULT;

-- Two devices with different states made the user flap between them many times a second.
SELECT update_user_heartbeat('cem', 'phone', status => 'away', metadata => '{"device": "phone"}'), update_user_heartbeat('cem', 'desk', status => 'busy', metadata => '{"device": "desk"}');
SELECT count(*) AS events FROM presence_events \gset
SELECT count(update_user_heartbeat('cem', 'phone', status => 'away', metadata => '{"device": "phone"}')
             OR update_user_heartbeat('cem', 'desk', status => 'busy', metadata => '{"device": "desk"}')) FROM generate_series(1, 100);
SELECT is((SELECT count(*) FROM presence_events), :events::bigint, 'two devices with different states do not make the user flap: no event in 200 heartbeats');
SELECT is((SELECT status FROM presence WHERE user_id = 'cem'), 'busy', 'the more present state is shown');

-- A queued, older heartbeat that arrived after a newer one moved the time back.
SELECT update_user_heartbeat('dan', 'tab');
UPDATE presence_session SET heartbeat_at = heartbeat_at + interval '1 hour' WHERE user_id = 'dan';
SELECT heartbeat_at AS newest FROM presence_session WHERE user_id = 'dan' \gset
SELECT update_user_heartbeat('dan', 'tab');
SELECT ok((SELECT heartbeat_at >= :'newest' FROM presence WHERE user_id = 'dan'), 'an older heartbeat that arrives after a newer one does not move the time back');
SELECT update_user_heartbeat('dan', 'tab', 'changed agent');
SELECT ok((SELECT heartbeat_at >= :'newest' FROM presence WHERE user_id = 'dan'), 'nor does one that changes something');
SELECT update_user_heartbeats(ARRAY['dan'], ARRAY['tab']);
SELECT ok((SELECT heartbeat_at >= :'newest' FROM presence WHERE user_id = 'dan'), 'nor one in a batch');
SELECT mark_user_offline('dan', 'tab');
SELECT ended_at AS ended FROM presence_sessions WHERE user_id = 'dan' \gset
SELECT ok(NOT update_user_heartbeat('dan', 'tab'), 'a queued heartbeat of a session that has left');
SELECT is((SELECT ended_at FROM presence_sessions WHERE user_id = 'dan'), :'ended', 'moves nothing');

-- A cleanup that took a batch ended sessions of others that were alive.
SELECT update_user_heartbeat(format('batch %s', n), 'tab', heartbeat_interval => CASE WHEN n % 2 = 0 THEN interval '1 hour' END) IS NULL AS failed FROM generate_series(1, 600) AS n GROUP BY 1;
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT is(cleanup_stale_presence(), 300 + (SELECT count(*)::integer FROM (VALUES ('ann'), ('cem')) AS silent), 'a cleanup of many takes all that are silent');
SELECT is((SELECT count(*) FROM presence_sessions WHERE user_id LIKE 'batch%' AND online), 300::bigint, 'and leaves all that are alive');
SELECT is((SELECT count(*) FROM presence_sessions WHERE user_id LIKE 'batch%' AND online = (heartbeat_interval IS NULL)), 0::bigint, 'each of them the right one');
SELECT is(cleanup_stale_presence(), 0, 'a second cleanup finds nothing');
SET LOCAL presence.timeout TO DEFAULT;

-- After sleep, the same session's heartbeats were ignored for ever.
SELECT update_user_heartbeat('eve', 'laptop');
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT ok(NOT pg_temp.online('eve'), 'a laptop that sleeps is offline before any cleanup');
SELECT is(cleanup_stale_presence(), 1, 'and is cleaned up');
SET LOCAL presence.timeout TO DEFAULT;
SELECT ok(update_user_heartbeat('eve', 'laptop'), 'after sleep, the same session''s heartbeat is accepted');
SELECT ok(update_user_heartbeat('eve', 'laptop') AND pg_temp.online('eve'), 'and the next');
SELECT is(pg_temp.told('eve'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_end timeout', 'user_offline timeout', 'session_start heartbeat', 'user_online heartbeat'],
          'the feed tells both times');
SELECT update_user_heartbeat('eva', 'laptop');
SET LOCAL presence.timeout = '100ms';
SELECT pg_sleep(0.11);
SELECT ok(update_user_heartbeat('eva', 'laptop'), 'the same where no cleanup came between');
SET LOCAL presence.timeout TO DEFAULT;
SELECT is(pg_temp.told('eva'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_end timeout', 'user_offline timeout', 'session_start heartbeat', 'user_online heartbeat'],
          'the silence is told then');

-- A metadata change appeared as leave and join instead of as an update.
SELECT update_user_heartbeat('fay', 'tab', metadata => '{"room": "lobby"}');
SELECT online_since AS online_since, joined_at AS joined_at FROM presence JOIN presence_sessions USING (user_id) WHERE user_id = 'fay' \gset
SELECT update_user_heartbeat('fay', 'tab', metadata => '{"room": "kitchen"}');
SELECT is(pg_temp.told('fay'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'update heartbeat'], 'a metadata change appears as an update, not as leave and join');
SELECT is((SELECT details -> 'metadata' FROM presence_events WHERE user_id = 'fay' AND event = 'update'), '{"room": "kitchen"}', 'which carries the new metadata');
SELECT is((SELECT row(online_since, joined_at)::text FROM presence JOIN presence_sessions USING (user_id) WHERE user_id = 'fay'),
          row(:'online_since'::timestamptz, :'joined_at'::timestamptz)::text, 'and nobody joined anew');

-- Users that timed out never appeared in the change feed.
SELECT update_user_heartbeat('gus', 'a'), update_user_heartbeat('gus', 'b');
SET LOCAL presence.timeout = '1ms';
SELECT pg_sleep(0.01);
SELECT cleanup_stale_presence();
SET LOCAL presence.timeout TO DEFAULT;
SELECT is(pg_temp.told('gus'), ARRAY['session_start heartbeat', 'user_online heartbeat', 'session_start heartbeat', 'session_end timeout', 'session_end timeout', 'user_offline timeout'],
          'users that timed out have their events');

-- A notification of 8,000 bytes or more rolled back the user's own write.
SELECT ok(octet_length(presence_event_payload(1, now(), 'update', repeat('"', 255), repeat('\', 255), 'heartbeat', 1, jsonb_build_object('status', 'busy', 'metadata', repeat('m', 7000)))) <= 7999,
          'no notification has 8,000 bytes or more');
SELECT is(presence_event_payload(1, now(), 'update', 'u', 's', 'heartbeat', 1, to_jsonb(repeat('m', 9000)))::jsonb - 'at',
          '{"seq": 1, "event": "update", "user_id": "u", "session_id": "s", "reason": "heartbeat", "sessions": 1, "truncated": true}', 'one too long drops its details and says so');
SELECT is((SELECT array_agg(octet_length(payload) || ' ' || coalesce(payload::jsonb ->> 'truncated', 'whole') ORDER BY n)
           FROM (SELECT n, presence_event_payload(1, '2026-01-01', 'update', 'u', 's', 'heartbeat', 1, to_jsonb(repeat('m', n))) AS payload
                 FROM (SELECT 7999 - octet_length(presence_event_payload(1, '2026-01-01', 'update', 'u', 's', 'heartbeat', 1, '""'::jsonb)) AS fits) AS s, generate_series(fits, fits + 1) AS n) AS p)::text,
          format('{"7999 whole","%s true"}', octet_length(presence_event_payload(1, '2026-01-01', 'update', 'u', 's', 'heartbeat', 1, to_jsonb(repeat('m', 9000))))), 'exactly from the byte on from which it must');
SET LOCAL presence.notify_level = 'session';
SELECT ok(update_user_heartbeat(repeat('"', 255), repeat('\', 255), metadata => jsonb_build_object('k', repeat('"', 2040))), 'the longest call that is allowed');
SELECT ok(update_user_heartbeat(repeat('é', 127), repeat('"', 255), metadata => to_jsonb(array_agg(n))), 'in any form') FROM generate_series(1000, 1680) AS n;
COMMIT;     -- the notifications are queued here
SELECT ok(EXISTS (SELECT FROM presence WHERE user_id = repeat('"', 255) AND online), 'is not rolled back by its notification');
SELECT ok(pg_temp.numbered(), 'then all is numbered');
SELECT is((SELECT array_agg(event || ' ' || reason ORDER BY seq) FROM presence_changes_since(0, 100000) WHERE user_id = 'gus' AND reason = 'timeout'),
          ARRAY['session_end timeout', 'session_end timeout', 'user_offline timeout'], 'users that timed out appear in the change feed');

SELECT * FROM finish();
