# The real pg_cron runs the cleanup. Works on the server that the environment names, whose database "postgres" is pg_cron's.
use strict;
use warnings;
use Test::More;
use Time::HiRes qw(time);
use FindBin;
use lib "$FindBin::Bin/lib";
use Waiting;

# psql's output for one command string, errors included.
sub sql_in {
    my ($database, $sql, @options) = @_;
    open my $psql, '-|', 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', @options, '-d', $database, '-c', $sql or die $!;
    my $output = do { local $/; <$psql> };
    close $psql;
    chomp($output //= '');
    return $output;
}

# The same with the messages of errors.
sub error_in {
    my ($database, $sql) = @_;
    $sql =~ s/'/'\\''/g;
    return scalar `psql -XAtq -v VERBOSITY=verbose -d $database -c '$sql' 2>&1`;
}
sub sql { return sql_in('postgres', @_); }

# Tables, cache, counts and feed.
sub all_agrees {
    my ($schema, $database) = @_;
    return is(error_in($database // 'postgres', "SELECT * FROM $schema.presence_verify()"), '', 'everything agrees');
}

sub runs { return sql("SELECT count(*) FROM presence_admin_log WHERE action = 'scheduled_presence_cleanup'"); }

sql('CREATE EXTENSION presence');
like(
    error_in('postgres', 'SELECT presence_schedule_cleanup()'),
    qr/55000: pg_cron is not installed.*HINT: .*CREATE EXTENSION pg_cron/s,
    'without pg_cron: an error that says what to do'
);
like(
    error_in('postgres', 'SELECT presence_unschedule_cleanup()'),
    qr/55000: pg_cron is not installed.*HINT: /s,
    'and the same for unscheduling'
);
sql('CREATE EXTENSION pg_cron');
my ($major, $minor) = split /\./, sql("SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'");
my $knows_seconds = $major > 1 || $minor >= 5;

#---------------------------------------------------------------------- schedule, replace, unschedule

is(sql('SELECT presence_unschedule_cleanup()'), 'f', 'there is nothing to unschedule yet');
my $id = sql('SELECT presence_schedule_cleanup()');
like($id, qr/^\d+$/, 'schedule: the id of a job');
is(
    sql("SELECT schedule, database, active FROM cron.job WHERE jobid = $id"),
    '* * * * *|postgres|t',
    'schedule: every minute, in this database'
);
my $again = sql("SELECT presence_schedule_cleanup('*/5 * * * *')");
is(
    sql("SELECT count(*), min(schedule) FROM cron.job WHERE command LIKE '%scheduled_presence_cleanup%'"),
    '1|*/5 * * * *',
    'schedule: a second call replaces the job'
);
is(sql("SELECT count(*) FROM cron.job WHERE jobid = $again"), 1, 'schedule: and returns its id');
isnt(error_in('postgres', "SELECT presence_schedule_cleanup('whenever')"), '', 'schedule: nonsense is refused');
like(
    error_in('postgres', "SELECT presence_schedule_cleanup('whenever')"),
    qr/ERROR: .*whenever/s,
    'schedule: with an error that shows it'
);
like(error_in('postgres', 'SELECT presence_schedule_cleanup(NULL)'), qr/ERROR: .*schedule/s, 'schedule: NULL too');
is(sql("SELECT schedule FROM cron.job WHERE jobid = $again"), '*/5 * * * *', 'schedule: and the old one stays');
sql(
    'CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING MESSAGE = $m$not now$m$; END $$'
);
sql('CREATE EVENT TRIGGER refuse ON sql_drop EXECUTE FUNCTION refuse()');
sql('DO $$ BEGIN DROP EXTENSION presence; EXCEPTION WHEN raise_exception THEN NULL; END $$');
is(sql("SELECT count(*) FROM cron.job WHERE jobid = $again"), 1, 'a DROP EXTENSION that fails leaves the job');
sql('DROP EVENT TRIGGER refuse');
sql('DROP FUNCTION refuse');
is(sql('SELECT presence_unschedule_cleanup()'), 't', 'unschedule: it is gone');
is(sql('SELECT presence_unschedule_cleanup()'), 'f', 'unschedule: a second call finds nothing');
is(sql('SELECT count(*) FROM cron.job'), 0, 'unschedule: nothing stays');
sql("SELECT cron.schedule('of somebody else', '0 3 * * *', 'VACUUM')");
sql('SELECT presence_schedule_cleanup(), presence_unschedule_cleanup()');
is(sql('SELECT jobname FROM cron.job'), 'of somebody else', 'other jobs are left alone');

#---------------------------------------------------------------------- who may

sql('CREATE ROLE keeper LOGIN; GRANT USAGE ON SCHEMA public TO keeper');
like(
    error_in('postgres', 'SET ROLE keeper; SELECT presence_schedule_cleanup()'),
    qr/42501: permission denied/,
    'a role without the right may not schedule'
);
sql('GRANT EXECUTE ON FUNCTION presence_schedule_cleanup(text), presence_unschedule_cleanup() TO keeper');
like(sql('SET ROLE keeper; SELECT presence_schedule_cleanup()'),
    qr/^\d+$/, 'a role with the right may, without any right to pg_cron');
is(
    sql("SELECT username FROM cron.job WHERE command LIKE '%scheduled_presence_cleanup%'"),
    sql("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'presence_session'"),
    'the job belongs to the owner of the extension'
);
is(sql('SET ROLE keeper; SELECT presence_unschedule_cleanup()'), 't', 'and it may unschedule');

#---------------------------------------------------------------------- databases that pg_cron does not live in

sql('CREATE DATABASE other');
sql_in('other', 'CREATE EXTENSION presence');
like(
    error_in('other', 'SELECT presence_schedule_cleanup()'),
    qr/ERROR: +\w{5}: .*pg_cron.*HINT: /s,
    'another database: an error with a hint'
);

#---------------------------------------------------------------------- the real run

# One user who will be silent, one who promised to be.
sql("ALTER DATABASE postgres SET presence.timeout = '1s'");
sql("SELECT update_user_heartbeat('ghost', 's'), update_user_heartbeat('quiet', 's', heartbeat_interval => '10 min')");
my $started = time;
sql($knows_seconds ? "SELECT presence_schedule_cleanup('1 second')" : 'SELECT presence_schedule_cleanup()');
ok(wait_until(75, sub { runs() > 0 }), 'pg_cron runs the cleanup') or diag sql('TABLE cron.job_run_details');
note sprintf 'the first run came after %.1f s', time - $started;
is(
    sql(
        "SELECT string_agg(DISTINCT status, ',') FROM cron.job_run_details WHERE command LIKE '%scheduled_presence_cleanup%' AND end_time IS NOT NULL"
    ),
    'succeeded',
    'pg_cron says that it succeeded'
);
is(sql("SELECT actor FROM presence_admin_log WHERE action = 'scheduled_presence_cleanup' ORDER BY id LIMIT 1"),
    'postgres', 'the log says who ran it');
ok(wait_until(75, sub { sql("SELECT online FROM presence WHERE user_id = 'ghost'") eq 'f' }),
    'who was silent is offline');
is(
    sql(
        "SELECT string_agg(event || ' ' || reason, ', ' ORDER BY seq) FROM presence_changes_since(0) WHERE user_id = 'ghost' AND reason = 'timeout'"
    ),
    'session_end timeout, user_offline timeout',
    'with the events of a timeout, once'
);
is(sql("SELECT is_user_online('quiet')"), 't', 'who promised to be quiet is online');
ok(sql("SELECT last_cleanup_at > now() - interval '2 min' FROM presence_health") eq 't',
    'presence_health knows of the run');

#---------------------------------------------------------------------- and the end

all_agrees('public', 'other');
all_agrees('public');
sql('SET client_min_messages = warning; DROP EXTENSION presence');
is(sql("SELECT count(*) FROM cron.job WHERE command LIKE '%scheduled_presence_cleanup%'"),
    0, 'DROP EXTENSION presence takes the job away');
is(sql("SELECT count(*) FROM cron.job WHERE jobname = 'of somebody else'"), 1, 'and no other');

# An owner who is no superuser, with rights to pg_cron.
sql('SELECT cron.unschedule(jobid) FROM cron.job');
sql('DROP EXTENSION IF EXISTS presence');
sql(
    'CREATE ROLE installer SUPERUSER; CREATE ROLE owner LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO owner; GRANT USAGE ON SCHEMA cron TO owner'
);
sql('SET ROLE installer; CREATE EXTENSION presence');
is(error_in('postgres', 'REASSIGN OWNED BY installer TO owner'),
    '', 'the extension is handed to an owner who is no superuser');
is(sql("SELECT update_user_heartbeat('ann', 's')"), 't', 'heartbeats work for that owner');
like(sql('SELECT presence_schedule_cleanup()'), qr/^\d+$/, 'and the owner can schedule');
is(sql("SELECT username FROM cron.job"), 'owner', 'a job of its own');
is(sql('SELECT presence_unschedule_cleanup()'), 't', 'which can be taken away again');

all_agrees('public');
sql('DROP EXTENSION presence');

#---------------------------------------------------------------------- a schema that somebody else owns

# What pg_cron would do, without the wait for the next minute.
sub run_job {
    my ($user, $command) = split /\|/, sql('SELECT username, command FROM cron.job'), 2;
    return error_in('postgres', "SET SESSION AUTHORIZATION $user; $command");
}

sql('CREATE ROLE tenant LOGIN; GRANT CREATE ON DATABASE postgres TO tenant; CREATE SCHEMA app AUTHORIZATION tenant');
sql('CREATE EXTENSION presence SCHEMA app');
my $job = sql('SELECT app.presence_schedule_cleanup()');
is(sql("SELECT username FROM cron.job WHERE jobid = $job"),
    'tenant', 'the job has no more rights than whoever could replace what it calls');
is(run_job(), '', 'and works');
sql('SET ROLE tenant; ALTER SCHEMA app RENAME TO app_before; CREATE SCHEMA app');
sql(      "SET ROLE tenant; CREATE FUNCTION app.scheduled_presence_cleanup() RETURNS integer LANGUAGE plpgsql"
        . " AS \$\$ BEGIN RAISE EXCEPTION 'hijacked as %', current_user; END \$\$");
my $before = sql("SELECT count(*) FROM app_before.presence_admin_log WHERE action = 'scheduled_presence_cleanup'");
is(run_job(), '', 'in a renamed schema it works too');
is(
    sql("SELECT count(*) FROM app_before.presence_admin_log WHERE action = 'scheduled_presence_cleanup'"),
    $before + 1,
    'and runs the function of the extension, not the one in the old place'
);
is(sql("SELECT app_before.presence_schedule_cleanup('*/7 * * * *')"), $job, 'scheduled again, it is the same job');
is(sql('SELECT count(*), min(schedule) FROM cron.job'), '1|*/7 * * * *', 'and no second one');
sql("UPDATE cron.job SET database = 'before_it_was_renamed'");
sql("ALTER SYSTEM SET presence.worker = off");
sql('SELECT pg_reload_conf()');
ok(wait_until(20, sub { sql('SELECT worker_pid IS NULL FROM app_before.presence_health') eq 't' }), 'without a worker');
sql('ALTER SYSTEM RESET presence.worker');
sql('SELECT pg_reload_conf()');
ok(
    wait_until(20, sub { sql('SELECT database FROM cron.job') eq 'postgres' }),
    'a worker that starts gives the job the new name of its database'
);
sql("UPDATE cron.job SET database = 'before_it_was_renamed'");
is(sql('SELECT app_before.presence_unschedule_cleanup()'), 't',
    'the job of a database with another name is still ours');
is(sql('SELECT count(*) FROM cron.job'), 0, 'and is removed');
sql('ALTER ROLE tenant NOLOGIN');
like(
    error_in('postgres', 'SELECT app_before.presence_schedule_cleanup()'),
    qr/55000: .*"tenant", which cannot log in.*HINT: /s,
    'a role that cannot log in: an error that says so'
);
sql('ALTER ROLE tenant LOGIN; GRANT USAGE ON SCHEMA cron TO tenant; SELECT app_before.presence_schedule_cleanup()');
all_agrees('app_before');
sql('DROP EXTENSION presence');
is(sql('SELECT count(*) FROM cron.job'), 0, 'it does not outlive the extension');

done_testing();
