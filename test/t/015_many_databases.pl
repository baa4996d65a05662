# Many databases: workers are bounded and take turns, only what has changed is looked at, and a closed database is left alone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node =
    new_node('many', conf => "max_worker_processes = 12\npresence.max_workers = 3\npresence.timeout = '10min'\n");
sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }

# How many workers run, and how many have been started since the server began.
my $running = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'presence worker'";

sub numbered {
    my ($database) = @_;
    return sql($database, 'SELECT count(*) FROM presence_events WHERE seq IS NOT NULL');
}

my @databases = map {"d$_"} 1 .. 8;
sql('template1', 'CREATE EXTENSION presence');
sql('postgres', "CREATE DATABASE $_") for @databases;

#---------------------------------------------------------------------- turns

sql($_, "SELECT update_user_heartbeat('ann', 's')") for @databases;
ok(
    wait_until(
        60,
        sub {
            !grep { numbered($_) ne '2' } @databases;
        }
    ),
    'eight databases and three workers: each has its events numbered'
);
ok(wait_until(10, sub { sql('postgres', $running) <= 3 }), 'by no more than three');
like(
    sql('d1', 'SELECT array_to_string(problem, chr(10)) FROM presence_health'),
    qr/9 databases take turns with 3 workers.*raise presence\.max_workers/,
    'presence_health says how many share how many'
);
sql($_, "SELECT update_user_heartbeat('bob', 's')") for reverse @databases;
ok(
    wait_until(
        60,
        sub {
            !grep { numbered($_) ne '4' } @databases;
        }
    ),
    'and again, in another order'
);
cmp_ok(sql('postgres', $running), '<=', 3, 'still by no more than three');

# Silence is noticed by a worker that comes back in time.
sql('postgres', "ALTER DATABASE $_ SET presence.timeout = '2s'") for @databases;
ok(
    wait_until(
        60,
        sub {
            !grep { numbered($_) ne '8' } @databases;
        }
    ),
    'and everybody who falls silent is ended in time'
);

#---------------------------------------------------------------------- only what has changed

ok(wait_until(30, sub { sql('postgres', $running) eq '3' }), 'three workers stay');
my $position = log_position($node);
my $workers =
    "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type = 'presence worker'";
sql('postgres', "ALTER SYSTEM SET log_min_messages = 'debug1'; SELECT pg_reload_conf()");
ok(wait_until(10, sub { sql('postgres', 'SHOW log_min_messages') eq 'debug1' }), 'the configuration is reloaded');
my $before = sql('postgres', $workers);
sql('postgres', 'SELECT pg_reload_conf()') for 1 .. 5;
sql('postgres', "ALTER SYSTEM SET presence.leave_grace = '1s'; SELECT pg_reload_conf()");
ok(wait_until(10, sub { sql('postgres', 'SHOW presence.leave_grace') eq '1s' }), 'and again');
sql('d1', "SELECT update_user_heartbeat('cid', 's')");
ok(wait_until(10, sub { sql('d1', "SELECT count(*) FROM presence_events WHERE user_id = 'cid'") >= 2 }),
    'the launcher is at work');
my $log = log_since($node, $position);
my $started = () = $log =~ /starting background worker process "presence worker/g;
cmp_ok($started, '<=', 2, 'reloads start no worker');
$node->stop;
done_testing();
