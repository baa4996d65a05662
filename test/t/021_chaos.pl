# Random calls by many clients while processes are killed, the server is restarted, the clock is set, transactions are prepared,
# schemas renamed, indexes rebuilt, and databases come and go: after each of these all is well, and nobody is lost.
#
# CHAOS_SECONDS and CHAOS_KILLS say how long and how often, CHAOS_SEED which calls; what happens depends on timing as well.
# chaos.csv, beside the servers' logs, tells what memory and a heartbeat's time were meanwhile.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep clock_gettime CLOCK_MONOTONIC);
use PresenceChaos;
use PresenceClock;
use PresenceNode;

my $seconds = $ENV{CHAOS_SECONDS} // 10;
my $wanted = $ENV{CHAOS_KILLS} // 10;
my $seed = $ENV{CHAOS_SEED} // time % 1_000_000;
note "CHAOS_SECONDS=$seconds CHAOS_KILLS=$wanted CHAOS_SEED=$seed";
srand $seed;

# The tests' own clock is not set.
sub now { return clock_gettime(CLOCK_MONOTONIC); }

my $has_clock = system('cc --version >/dev/null 2>&1') == 0;
my $node = new_node('chaos', conf => chaos_conf());
sub start { return $has_clock ? start_with_clock($node, @_) : $node->start(@_); }
if ($has_clock) {
    $node->stop;
    start();
}
start_chaos($node, 8, $seed);

# ---------------------------------------------------------------------------------------------------- what is done to it

my %done = (backend => 0, worker => 0, launcher => 0, postmaster => 0);
my %title = (backend => qr/\[local\]/, worker => qr/presence worker/, launcher => qr/presence launcher/);
sub kills { my $sum = 0; $sum += $done{$_} for qw(backend worker launcher postmaster); return $sum; }

# One of its children that has not been seen may still have to end.
sub come_back {
    wait_until(60, sub { start(fail_ok => 1) }) or BAIL_OUT('the server does not start');
    return;
}

sub kill_somebody {
    my $kind = one_of([4, sub {'backend'}], [3, sub {'worker'}], [1.5, sub {'launcher'}], [1.5, sub {'postmaster'}]);
    if ($kind ne 'postmaster') {
        $done{$kind}++ if kill_child($title{$kind});
        return;
    }
    kill_server($node);
    come_back();
    $done{$kind}++;
    return;
}

# Less than what retention keeps, so that whoever reads the feed misses nothing.
sub do_something_else {
    if (rand() < 0.5) {
        $node->stop('fast', fail_ok => 1);
        come_back();
        $done{restart}++;
    } elsif ($has_clock) {
        set_clock(int(rand 40) - 20);
        $done{'set clock'}++;
    }
    return;
}

# ---------------------------------------------------------------------------------------------------- what is measured

my @columns = qw(seconds heartbeat_us shared_bytes worker_bytes launcher_bytes sessions events);
my $csv = "$PostgreSQL::Test::Utils::log_path/chaos.csv";
append_to_file($csv, join(',', @columns) . "\n");
my ($begun, $sampled) = (now(), 0);

# What no other process shares with them.
sub private_bytes {
    my $sum = 0;
    for my $pid (children_of($_[0])) {
        open my $file, '<', "/proc/$pid/smaps_rollup" or next;
        while (<$file>) { $sum += 1024 * $1 if /^Private_\w+: +(\d+)/; }
    }
    return $sum;
}

sub sample {
    return if now() < $sampled + 1;
    $sampled = now();
    my $measured = ask(<<'SQL') // return;
WITH start AS MATERIALIZED (SELECT clock_timestamp() AS at),
     beats AS MATERIALIZED (SELECT count(update_user_heartbeat('steady1', 's')) AS many FROM start, generate_series(1, 1000)),
     took AS MATERIALIZED (SELECT clock_timestamp() - at AS time FROM start, beats)
SELECT extract(epoch FROM time) * 1e6 / many, cache_bytes, cached_sessions, (SELECT count(*) FROM presence_event)
FROM beats, took, presence_server_state()
SQL
    my ($us, $shared, $sessions, $events) = split /\|/, $measured;
    return if $us <= 0 || $us > 1e6;    # the clock was set meanwhile
    append_to_file(
        $csv,
        join(',',
            int($sampled - $begun),
            $us, $shared,
            private_bytes($title{worker}),
            private_bytes($title{launcher}),
            $sessions, $events)
            . "\n"
    );
    return;
}

# --------------------------------------------------------------------------------------------------------------------

my $end = now() + $seconds;
while (look('after ' . kills() . ' kills') && (now() < $end || kills() < $wanted)) {
    sample();
    my $left = $wanted - kills();
    my $pause = now() >= $end ? rand 0.5 : $left > 0 ? ($end - now()) / $left * rand 4 : 2;
    sleep($pause < 2 ? $pause : 2);
    do_something_else() if rand() < 0.1;
    next if $left <= 0 || $pause > 2;
    kill_somebody() for 1 .. 1 + int rand 3;
}
sample();
end_chaos();
cmp_ok(kills(), '>=', $wanted, 'processes were killed: ' . join ', ', map {"$_ $done{$_}"} sort keys %done);
cmp_ok(scalar(split /\n/, slurp_file($csv)), '>', 1, 'and it was measured meanwhile');
$node->stop;
done_testing();
