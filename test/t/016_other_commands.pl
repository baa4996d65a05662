# Commands of others that concern the worker: none has an effect before the server has checked its caller's rights, and those
# that are carried out are noticed, whichever process they come from.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('commands', conf => "presence.timeout = '10min'\n");
sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }
sub as_mallory { return ($node->psql($_[0], $_[1], extra_params => ['-U', 'mallory']))[0]; }

sql('postgres', 'CREATE ROLE mallory LOGIN');
sql('postgres', "CREATE DATABASE $_") for qw(victim restored);
create_extension($node, $_) for qw(victim restored);
my $worker = 'SELECT worker_pid FROM presence_health';
ok(wait_until(20, sub { sql('victim', $worker) ne '' && sql('restored', $worker) ne '' }), 'there are workers');
my $pid = sql('victim', $worker);

# A worker that was told to leave has left, or been replaced, once another event has been numbered.
my $round = 0;

sub still_there {
    my ($name) = @_;
    sql('victim', "SELECT update_user_heartbeat('round " . ++$round . "', 's')");
    my $numbered = wait_until(
        20,
        sub {
            sql('victim', "SELECT count(*) FROM presence_events WHERE seq IS NOT NULL AND user_id = 'round $round'") eq
                '2';
        }
    );
    ok($numbered && sql('victim', $worker) eq $pid, $name);
    return;
}

#---------------------------------------------------------------------- refused

isnt(as_mallory('postgres', $_->[0]), 0, "refused: $_->[0]"), still_there("it stops no worker")
    for ['DROP DATABASE victim'], ['DROP DATABASE victim WITH (FORCE)'], ['ALTER DATABASE victim RENAME TO mine'],
    ['CREATE DATABASE mine TEMPLATE victim'], ["ALTER DATABASE victim SET presence.worker = 'off'"],
    ['ALTER DATABASE victim SET TABLESPACE pg_default'];
isnt(as_mallory('victim', 'DROP EXTENSION presence'), 0, 'refused: DROP EXTENSION');
still_there('it stops no worker');

is(as_mallory('victim', 'CREATE EXTENSION IF NOT EXISTS presence'), 0, 'CREATE EXTENSION that does nothing');
still_there('replaces no worker');
is(
    as_mallory('victim', "CREATE TEMPORARY TABLE presence_session (x text);\n\\copy presence_session FROM /dev/null\n"),
    0,
    'COPY into a table of the same name'
);
still_there('replaces no worker');

# Advisory locks are everybody's, whatever number they have.
my $locker = $node->background_psql('restored', extra_params => ['-U', 'mallory']);
$locker->query_safe(
    "SELECT pg_advisory_lock(oid::integer, n) FROM (SELECT 'presence_session'::regclass::oid) AS t, generate_series(0, 9) AS n"
);
sql('restored', "SELECT update_user_heartbeat('ann', 's'), cleanup_stale_presence()");
is(sql('restored', 'SELECT last_cleanup_at IS NOT NULL FROM presence_health'), 't', 'advisory locks hinder no cleanup');
is(sql('restored', 'SELECT count(*) FROM presence_changes_since(0)'), 2, 'and no feed');
$locker->quit;

#---------------------------------------------------------------------- permitted, but waiting for a lock

my $mallory = $node->background_psql('victim', extra_params => ['-U', 'mallory']);
$mallory->query_safe("BEGIN; ALTER ROLE mallory IN DATABASE victim SET work_mem = '1MB'");
for my $command ('DROP DATABASE victim', 'ALTER DATABASE victim RENAME TO renamed') {
    my $waiting = $node->background_psql('postgres', on_error_stop => 0);
    $waiting->query_until(qr/started/, "\\echo started\n$command;\n");
    my $locked = wait_until(
        20,
        sub {
            sql('postgres',
                "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND NOT granted"
            ) eq '1';
        }
    );
    ok($locked, "$command waits for somebody's lock");
    is(sql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"),
        1, 'and the worker is at work meanwhile');
    sql('postgres',
        "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND NOT granted"
    );
    $waiting->quit;
}
$mallory->query_safe('ROLLBACK');
still_there('all the time');
$mallory->quit;

#---------------------------------------------------------------------- a database that is dropped while it is to be copied

my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; ALTER ROLE mallory IN DATABASE victim SET work_mem = '1MB'");
my ($dropper, $copier) = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
my $waiting =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND NOT granted";
$dropper->query_until(qr/started/, "\\echo started\nDROP DATABASE victim;\n");
ok(wait_until(20, sub { sql('postgres', $waiting) eq '1' }), 'a DROP DATABASE waits');
$copier->query_until(qr/started/, "\\echo started\nCREATE DATABASE copy TEMPLATE victim;\n");
ok(wait_until(20, sub { sql('postgres', $waiting) eq '2' }), 'and a CREATE DATABASE from the same one behind it');
$holder->query_safe('ROLLBACK');
ok(wait_until(20, sub { sql('postgres', "SELECT count(*) FROM pg_database WHERE datname = 'victim'") eq '0' }),
    'the first is carried out');
$_->quit for $holder, $dropper, $copier;
sql('postgres', 'CREATE DATABASE next');
create_extension($node, 'next');
ok(wait_until(20, sub { sql('next', $worker) =~ /^\d+$/ }), 'a database that comes afterwards has a worker');
is(sql('next', 'SELECT problem FROM presence_health'), '{}', 'and all is well in it');

#---------------------------------------------------------------------- a restored dump

# A process that never called a function of the extension, as those of pg_restore --jobs.
my $file = $node->basedir;
sql('next', "SELECT update_user_heartbeat('ann', 's')");
sql('next', "COPY $_ TO '$file/$_'") for qw(presence_user presence_session);
sql('postgres', "ALTER DATABASE restored SET presence.timeout = '1s'");
ok(wait_until(20, sub { sql('restored', 'SHOW presence.timeout') eq '1s' && sql('restored', $worker) =~ /^\d+$/ }),
    'a database with a short timeout');
sql('restored', "SELECT update_user_heartbeat('here', 's')");
ok(
    wait_until(
        20,
        sub {
            sql('restored', "SELECT count(*) FROM presence_events WHERE user_id = 'here' AND event = 'user_offline'")
                eq '1';
        }
    ),
    'whose worker has begun'
);
sql('restored', "DELETE FROM presence_session; DELETE FROM presence_user");
sql('restored', "COPY $_ FROM '$file/$_'") for qw(presence_user presence_session);
ok(wait_until(30, sub { sql('restored', "SELECT online FROM presence_user WHERE user_id = 'ann'") eq 'f' }),
    'who was restored by COPY alone is ended after the timeout');

#---------------------------------------------------------------------- closed to connections

sql('postgres', 'ALTER DATABASE next ALLOW_CONNECTIONS false');
my $position = log_position($node);
sql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'next'");
sql('postgres', "ALTER DATABASE next SET work_mem = '2MB'") for 1 .. 3;
ok(wait_until(20, sub { sql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'next'") eq '0' }),
    'a closed database has no worker');
sql('postgres', 'CREATE DATABASE another TEMPLATE next');
unlike(log_since($node, $position), qr/not currently accepting connections/, 'and none is tried');
sql('postgres', 'ALTER DATABASE next ALLOW_CONNECTIONS true');
ok(wait_until(20, sub { sql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname = 'next'") eq '1' }),
    'opened again, it has one by itself');

# Settings of a database that would hinder a worker do not.
sql('postgres', "ALTER DATABASE next SET temp_file_limit = 0; ALTER DATABASE next SET work_mem = '64kB'");
sql('postgres', "ALTER DATABASE next SET role = mallory; ALTER DATABASE next SET statement_timeout = 1");
sql('postgres', 'ALTER DATABASE next SET default_transaction_read_only = on');
{
    local $ENV{PGOPTIONS} = '-c statement_timeout=0 -c role=none -c default_transaction_read_only=off';
    sql('next', "SELECT update_user_heartbeat('bob', 's')");
    ok(
        wait_until(
            20,
            sub { sql('next', "SELECT count(*) FROM presence_events WHERE user_id = 'bob' AND seq IS NOT NULL") eq '2' }
        ),
        "settings of the database are not the worker's"
    );
    is(sql('next', 'SELECT problem FROM presence_health'), '{}', 'and all is well');
}
$node->stop;
done_testing();
