# Memory stays what it is, however many heartbeats come and however many sessions come and go. PRESENCE_MEMORY_ENDS=1000000 is
# the long form of what the worker ends.
use strict;
use warnings;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('memory',
    conf => "presence.timeout = '10min'\npresence.notify_channel = ''\nshared_buffers = 16MB\njit = off\n");
create_extension($node);
my $session = $node->background_psql('postgres');
$session->set_query_timer_restart;
sub ask { return $session->query_safe($_[0]); }
my $pid = ask('SELECT pg_backend_pid()');

# Private memory of a process in kB; shared memory is counted elsewhere.
sub private_of { return slurp_file("/proc/$_[0]/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : undef; }
sub private { return private_of($pid); }
sub shared { return $node->safe_psql('postgres', 'SELECT cache_bytes FROM presence_server_state()'); }
plan skip_all => 'no /proc that tells of private memory' if !defined private();

my $n = 1000;
ask(
    "CREATE TABLE who AS SELECT array_agg('u' || i) AS users, array_agg('s' || i) AS sessions FROM generate_series(1, $n) AS i"
);
ask('SELECT update_user_heartbeats(users, sessions) FROM who') for 1 .. 3;
my %heartbeats = (
    'a million heartbeats in batches' =>
        "DO \$\$ BEGIN FOR i IN 1 .. 1000 LOOP PERFORM update_user_heartbeats(users, sessions) FROM who; END LOOP; END \$\$",
    'a hundred thousand single ones' =>
        "SELECT count(*) FROM (SELECT update_user_heartbeat('u' || 1 + i % $n, 's' || 1 + i % $n) FROM generate_series(1, 100000) AS i OFFSET 0) AS beat",
    'a thousand statements' => undef,
    'ten thousand questions' =>
        "SELECT count(*) FROM (SELECT is_user_online('u' || i % $n) FROM generate_series(1, 10000) AS i OFFSET 0) AS asked",
    'a hundred lists' =>
        "DO \$\$ BEGIN FOR i IN 1 .. 100 LOOP PERFORM count(*) FROM get_active_users(); PERFORM count(*) FROM presence_snapshot(); END LOOP; END \$\$"
);

for my $what (sort keys %heartbeats) {
    my $do = sub {
        if (defined $heartbeats{$what}) { ask($heartbeats{$what}); }
        else { ask(join ';', ("SELECT update_user_heartbeat('u1', 's1')") x 100) for 1 .. 10; }
    };
    $do->() for 1 .. 3;    # until the allocator has taken what it needs
    my ($private, $shared) = (private(), shared());
    $do->();
    cmp_ok(private() - $private, '<', 1024, "$what: no private memory is lost (" . (private() - $private) . ' kB)');
    is(shared() - $shared, 0, "$what: and no shared memory");
}
is(ask('SELECT cached_sessions, cardinality(problem) FROM presence_health'), "$n|0", 'all sessions are cached still');

# Sessions that nobody will see again: new ids in each round, each begun, heard, and ended in one of the ways.
my $round = 0;

sub come_and_go {
    my ($how) = @_;
    $round++;
    ask(
        "SELECT count(*) FROM (SELECT update_user_heartbeat('u' || i, 'r$round' || i) FROM generate_series(1, 300) AS i OFFSET 0) AS beat"
    ) for 1 .. 2;
    ask($how);

# What is left in the cache goes when it would be silent for too long, as do all others here.
    ask('SET presence.timeout = 1; SELECT scheduled_presence_cleanup(); RESET presence.timeout');
    return;
}
ask(
    "SET presence.session_retention = 0; SET presence.user_retention = 0; SET presence.event_retention = 0; SET presence.rejoin_guard = 0"
);
my %ends = (
    'ended on purpose' =>
        "SELECT count(*) FROM (SELECT mark_user_offline(user_id, session_id) FROM presence_sessions WHERE online AND session_id LIKE 'r%' OFFSET 0) AS ended",
    'silent for too long' => 'SELECT 1'
);
for my $how (sort keys %ends) {
    come_and_go($ends{$how}) for 1 .. 5;
    my ($private, $shared) = (private(), shared());
    come_and_go($ends{$how}) for 1 .. 10;
    cmp_ok(private() - $private,
        '<', 1024, "sessions $how: no private memory is lost (" . (private() - $private) . ' kB)');
    cmp_ok(shared(), '<=', $shared, "sessions $how: the cache does not grow");

# Who was heard within the last millisecond is not silent yet.
    wait_until(
        30,
        sub {
            ask('SET presence.timeout = 1; SELECT scheduled_presence_cleanup(); RESET presence.timeout');
            ask('SELECT count(*) FROM presence_user') eq '0';
        }
    );
    is(ask("SELECT count(*) FROM presence_session WHERE session_id LIKE 'r%'"), 0, "sessions $how: no row stays");
    is(ask('SELECT count(*) FROM presence_user'), 0, "sessions $how: of nobody");
}

# Begun and rolled back, again and again.
my $rolled_back = sub {
    for (1 .. 10) {
        $round++;
        ask(
            "BEGIN; SELECT count(*) FROM (SELECT update_user_heartbeat('x' || i, 'r$round' || i) FROM generate_series(1, 300) AS i OFFSET 0) AS beat; ROLLBACK"
        );
        ask('SET presence.timeout = 1; SELECT cleanup_stale_presence(); RESET presence.timeout');
    }
};
$rolled_back->();
my ($private, $shared) = (private(), shared());
$rolled_back->();
cmp_ok(private() - $private, '<', 1024, 'rolled back: no private memory is lost (' . (private() - $private) . ' kB)');
cmp_ok(shared(), '<=', $shared, 'rolled back: the cache does not grow');
is(ask('SELECT presence_count(), cached_sessions FROM presence_health'), '0|0', 'and nobody is left');

# Begun in batches, and ended by the worker; rows and events go again meanwhile.
my $rounds = ($ENV{PRESENCE_MEMORY_ENDS} // 20000) / $n / 2;
$node->safe_psql('postgres', 'CREATE DATABASE ends');
$node->safe_psql('postgres', "ALTER DATABASE ends SET $_")
    for "presence.timeout = '20ms'", map {"presence.${_}_retention = 0"} qw(session user event);
create_extension($node, 'ends');
ok(has_worker($node, 'ends'), 'a worker ends sessions');
my $gateway = $node->background_psql('ends');
$gateway->set_query_timer_restart;
my %process = (
    'the worker' => $node->safe_psql('ends', 'SELECT worker_pid FROM presence_health'),
    'the backend' => $gateway->query_safe('SELECT pg_backend_pid()')
);
my ($ended, $batch) = (1, 0);

sub begin_and_end {
    for (1 .. $rounds) {
        $batch++;
        $gateway->query_safe(
            "SELECT update_user_heartbeats(array_agg('u$batch-' || i), array_agg('s' || i)) FROM generate_series(1, $n) AS i"
        );
        $ended &&=
            wait_until(60, sub { $gateway->query_safe('SELECT count(*) FROM presence_session WHERE online') eq '0' });
    }
    return;
}

# The worker plans each of its statements when it needs it first, some only after a minute; memory that is lost is lost in
# every one of the windows.
my %growth = map { $_ => 1024 } keys %process;

for my $window (0 .. 6) {
    my %before = map { $_ => private_of($process{$_}) } keys %process;
    $shared = $node->safe_psql('ends', 'SELECT cache_bytes FROM presence_server_state()');
    begin_and_end();
    next if $window == 0;
    $growth{$_} = min($growth{$_}, private_of($process{$_}) - $before{$_}) for keys %process;
    last if max(values %growth) < 1024;
}
ok($ended, 'all sessions end');
cmp_ok($growth{$_}, '<', 1024, "no private memory of $_ is lost in " . $rounds * $n . " ends ($growth{$_} kB)")
    for sort keys %process;
cmp_ok($node->safe_psql('ends', 'SELECT cache_bytes FROM presence_server_state()'),
    '<=', $shared, 'and no shared memory');
is($node->safe_psql('ends', 'SELECT worker_pid FROM presence_health'),
    $process{'the worker'}, 'it was one worker all the time');

$_->quit for $session, $gateway;
$node->stop;
done_testing();
