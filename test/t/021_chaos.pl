# Random calls by many clients while processes are killed, transactions prepared, schemas renamed, indexes rebuilt, and databases
# come and go: after each crash all is well, and nobody is lost.
#
# CHAOS_SECONDS and CHAOS_KILLS say how long and how often, CHAOS_SEED which calls; what happens depends on timing as well.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceChaos;
use PresenceNode;

my $seconds = $ENV{CHAOS_SECONDS} // 10;
my $wanted = $ENV{CHAOS_KILLS} // 10;
my $seed = $ENV{CHAOS_SEED} // int(time) % 1_000_000;
note "CHAOS_SECONDS=$seconds CHAOS_KILLS=$wanted CHAOS_SEED=$seed";
srand $seed;

my $node = new_node('chaos', conf => chaos_conf());
start_chaos($node, 8, $seed);

my %killed = (backend => 0, worker => 0, launcher => 0, postmaster => 0);
my %title = (backend => qr/\[local\]/, worker => qr/presence worker/, launcher => qr/presence launcher/);
sub kills { my $sum = 0; $sum += $_ for values %killed; return $sum; }

sub kill_somebody {
    my $kind = one_of([4, sub {'backend'}], [3, sub {'worker'}], [1.5, sub {'launcher'}], [1.5, sub {'postmaster'}]);
    if ($kind ne 'postmaster') {
        $killed{$kind}++ if kill_child($title{$kind});
        return;
    }
    kill_server($node);

# One of its children that has not been seen may still have to end.
    wait_until(60, sub { $node->start(fail_ok => 1) }) or BAIL_OUT('the server does not start');
    $killed{$kind}++;
    return;
}

my $end = time + $seconds;
while (look('after ' . kills() . ' kills') && (time < $end || kills() < $wanted)) {
    my $left = $wanted - kills();
    my $pause = time >= $end ? rand 0.5 : $left > 0 ? ($end - time) / $left * rand 4 : 2;
    sleep($pause < 2 ? $pause : 2);
    next if $left <= 0 || $pause > 2;
    kill_somebody() for 1 .. 1 + int rand 3;
}
end_chaos();
cmp_ok(kills(), '>=', $wanted, 'processes were killed: ' . join ', ', map {"$_ $killed{$_}"} sort keys %killed);
$node->stop;
done_testing();
