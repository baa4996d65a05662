-- Pages of the list: that they add up to the whole, whatever happens between one and the next, and what one page costs.
BEGIN;
SELECT plan(29);

-- As many users with several sessions each, who all came online at the same moment, in no order that an index has.
CREATE FUNCTION add_users(prefix text, count integer, since timestamptz, sessions integer DEFAULT 1) RETURNS void LANGUAGE sql AS $$
    INSERT INTO presence_user (user_id, online, sessions, status, online_since)
        SELECT prefix || n, true, add_users.sessions, 'active', since FROM generate_series(1, count) AS n;
    INSERT INTO presence_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at, heartbeat_interval)
        SELECT prefix || n, 'tab ' || tab, true, 'active', since, since, now(), '30 minutes'
        FROM generate_series(1, count) AS n, generate_series(1, add_users.sessions) AS tab
        ORDER BY md5(n::text || tab)
$$;
CREATE FUNCTION page(max_rows integer, after text) RETURNS text[] LANGUAGE sql AS
    $$SELECT array_agg(user_id ORDER BY place) FROM get_active_users(max_rows, after) WITH ORDINALITY AS a (user_id, s, n, o, h, m, place)$$;
-- The users on all pages. exactly: by id and online_since.
CREATE FUNCTION pages(size integer, exactly boolean) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    found text[] := '{}';
    place text;
    row record;
    rows integer;
BEGIN
    LOOP
        rows := 0;
        FOR row IN SELECT * FROM get_active_users(size, place) LOOP
            found := found || row.user_id;
            place := row.user_id || CASE WHEN exactly THEN E'\t' || row.online_since ELSE '' END;
            rows := rows + 1;
        END LOOP;
        EXIT WHEN rows < size;
    END LOOP;
    RETURN found;
END $$;

-- Who has not promised otherwise is stale at once.
SET LOCAL presence.timeout = '1ms';
SELECT is(page(10, NULL), NULL, 'no page where nobody is online');
SELECT add_users('old ', 3, now() - interval '3 hours');
SELECT add_users('tie ', 40, now() - interval '2 hours', 3);
SELECT add_users('new ', 5, now() - interval '1 hour', 2);
SELECT update_user_heartbeat('last of all', 'tab', heartbeat_interval => '30 minutes');
SELECT array_agg(user_id ORDER BY place) AS everybody FROM get_active_users() WITH ORDINALITY AS a (user_id, s, n, o, h, m, place) \gset
SELECT is(:'everybody'::text[], (SELECT array_agg(user_id ORDER BY online_since DESC, user_id COLLATE "C") FROM presence WHERE online),
          'the newest come first, and those who came at the same time by their ids');
SELECT is(pages(size, exactly), :'everybody'::text[], format('pages of %s add up to the list, %s', size, CASE WHEN exactly THEN 'by id and time' ELSE 'by id' END))
FROM unnest(ARRAY[1, 7, 49, 1000]) AS size, unnest(ARRAY[false, true]) AS exactly;
SELECT is((SELECT string_agg(DISTINCT sessions::text, ' ' ORDER BY sessions::text) FROM get_active_users(45)), '1 2 3', 'users on a page have all of their sessions');
SELECT results_eq('SELECT * FROM get_active_users(49)', 'SELECT * FROM get_active_users()', 'a page has the columns of the list');
SELECT is(page(NULL, 'old 1'), ARRAY['old 2', 'old 3'], 'without max_rows, everybody after that user');
SELECT is(page(3, 'old 3'), NULL, 'nobody after the last one');

-- What happens between two pages.
SELECT is(page(2, 'tie 20'), ARRAY['tie 21', 'tie 22'], 'a page');
SELECT mark_user_offline('tie 20'), mark_user_offline('tie 21');
SELECT is(page(2, 'tie 20'), ARRAY['tie 22', 'tie 23'], 'whoever left keeps the place, for those who ask for the next page');
SELECT update_user_heartbeat('tie 20', 'other', heartbeat_interval => '30 minutes');
SELECT is(page(1, 'tie 20'), ARRAY['last of all'], 'whoever came back has another place');
SELECT is(page(2, E'tie 20\t' || (SELECT online_since FROM get_active_users() WHERE user_id = 'tie 22')), ARRAY['tie 22', 'tie 23'],
          'which does not matter to those who ask by time as well');
SELECT is(page(2, E'nobody any more\t' || (now() - interval '150 minutes')), ARRAY['old 1', 'old 2'], 'nor that the user is forgotten');

-- Stale sessions.
UPDATE presence_session SET heartbeat_interval = NULL WHERE user_id < 'tie 3' AND user_id LIKE 'tie%' AND session_id <> 'other';
SELECT is(page(3, 'new 5'), ARRAY['tie 3', 'tie 30', 'tie 31'], 'a page is full of users who are online, whoever else it meets');
SELECT is((SELECT array_agg(user_id) FROM get_active_users() WHERE user_id LIKE 'tie 2%'), ARRAY['tie 20'], 'as in the whole list');
UPDATE presence_session SET heartbeat_interval = NULL WHERE user_id = 'tie 3' AND session_id <> 'tab 2';
SELECT is((SELECT sessions FROM get_active_users(1, 'new 5')), 1, 'and it counts no stale session');

-- Users whom the caller does not see.
CREATE ROLE reader_of_pages;
SELECT presence_grant('reader_of_pages', 'read');
GRANT CREATE, USAGE ON SCHEMA public TO reader_of_pages;
CREATE OR REPLACE FUNCTION presence_can_see(viewer text, user_id text) RETURNS boolean LANGUAGE sql STABLE AS $$SELECT user_id ~ '3$'$$;
SET ROLE reader_of_pages;
SELECT is(page(3, NULL), ARRAY['new 3', 'tie 3', 'tie 33'], 'a page is full of users whom the caller sees');
SELECT is(page(3, 'tie 33'), ARRAY['old 3'], 'so is the last one, as far as there are any');
SELECT throws_ok($$SELECT * FROM get_active_users(3, 'old 1')$$, '22023', NULL, 'and does not tell when others came online');
RESET ROLE;

-- Arguments.
SELECT throws_ok('SELECT * FROM get_active_users(0)', '22023', 'max_rows must be greater than zero: 0', 'no page without rows');
SELECT throws_ok($$SELECT * FROM get_active_users(10, 'who?')$$, '22023', 'argument "after" names a user who is not known: "who?"', 'no page after somebody unknown');

-- What a page costs: the rows on it, and not how many there are before, after, or at the same moment.
SELECT add_users('many ', 3000, now() - interval '4 hours');
SELECT add_users('more ' || n, 1, now() - n * interval '5 hours') FROM generate_series(1, 3000) AS n;
CREATE FUNCTION rows_read(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_stat_get_xact_tuples_returned('presence_session'::regclass) + pg_stat_get_xact_tuples_fetched('presence_session'::regclass);
BEGIN
    EXECUTE query;
    RETURN pg_stat_get_xact_tuples_returned('presence_session'::regclass) + pg_stat_get_xact_tuples_fetched('presence_session'::regclass) - before;
END $$;
SELECT cmp_ok(rows_read($$SELECT count(*) FROM get_active_users(10, 'many 1500')$$), '<', 200::bigint, 'of many who came at once, a page reads its own');
SELECT cmp_ok(rows_read($$SELECT count(*) FROM get_active_users(10, 'more 20001')$$), '<', 200::bigint, 'and of many who came one after the other');

SELECT * FROM finish();
ROLLBACK;
