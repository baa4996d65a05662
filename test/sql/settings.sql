-- Defaults, who may set them, and values that make no sense.
SET client_min_messages = warning;
CREATE EXTENSION presence;
SELECT presence_count();    -- loads the library where it is not preloaded
SELECT name, boot_val, unit, context, vartype FROM pg_settings WHERE name LIKE 'presence.%' ORDER BY name COLLATE "C";
-- Messages differ between versions; what matters is what is refused.
CREATE PROCEDURE try_setting(name text, value text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config(name, value, true);
    RAISE INFO '% accepts %, shows %', name, left(value, 20), current_setting(name);
EXCEPTION WHEN OTHERS THEN
    RAISE INFO '% refuses %: %', name, left(value, 20), SQLSTATE;
END $$;
CALL try_setting('presence.timeout', '0');
CALL try_setting('presence.timeout', '-1s');
CALL try_setting('presence.timeout', 'soon');
CALL try_setting('presence.timeout', '45');          -- milliseconds where no unit is given
CALL try_setting('presence.timeout', '1500ms');
CALL try_setting('presence.max_timeout', '0');
CALL try_setting('presence.max_timeout', '2h');
CALL try_setting('presence.rejoin_guard', '0');
CALL try_setting('presence.rejoin_guard', '-1');
CALL try_setting('presence.leave_grace', '3s');
CALL try_setting('presence.leave_grace', '-3s');
CALL try_setting('presence.idle_after', '5min');
CALL try_setting('presence.idle_after', '-1');
CALL try_setting('presence.away_after', '1h');
CALL try_setting('presence.away_after', '-1');
CALL try_setting('presence.expiry_guard', '0.5');
CALL try_setting('presence.expiry_guard', '1.1');
CALL try_setting('presence.expiry_guard', 'half');
CALL try_setting('presence.event_retention', '90d');
CALL try_setting('presence.event_retention', '-2s');
CALL try_setting('presence.session_retention', '0');
CALL try_setting('presence.user_retention', '-1');
CALL try_setting('presence.user_retention', '-2s');
CALL try_setting('presence.report_retention', '2y');
CALL try_setting('presence.report_retention', '730d');
CALL try_setting('presence.reports', 'on');
CALL try_setting('presence.reports', 'weekly');
CALL try_setting('presence.save_interval', '0');
CALL try_setting('presence.notify_level', 'session');
CALL try_setting('presence.notify_level', 'everything');
CALL try_setting('presence.notify_channel', '');
CALL try_setting('presence.notify_channel', repeat('c', 63));
CALL try_setting('presence.notify_channel', repeat('c', 64));
CALL try_setting('presence.worker', 'off');
CALL try_setting('presence.nonsense', '1');
SET presence.timeout = '90s';
SHOW presence.timeout;
RESET presence.timeout;
CREATE ROLE regress_presence_user;
SET ROLE regress_presence_user;
CALL try_setting('presence.timeout', '1s');
CALL try_setting('presence.notify_level', 'none');
CALL try_setting('presence.worker', 'off');
SHOW presence.timeout;
RESET ROLE;
DROP ROLE regress_presence_user;
-- Per database, by a superuser.
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET presence.timeout = ''40s''', current_database()); END $$;
\connect -
SELECT presence_count();
SHOW presence.timeout;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET presence.timeout', current_database()); END $$;
DROP PROCEDURE try_setting;
DROP EXTENSION presence;
