# Sessions that go by a policy: heartbeats stay in memory, the worker ends them in time, and the file of heartbeats brings their
# timeouts over a restart.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('policies', conf => "presence.timeout = '1h'\n");
create_extension($node);

sub query { return $node->safe_psql('postgres', $_[0]); }

sub shows {
    my ($expected, $name) = @_;
    my $shown =
        sub { query(q{SELECT coalesce(string_agg(user_id, ' ' ORDER BY user_id), '') FROM get_active_users()}) };
    return ok(wait_until(60, sub { $shown->() eq $expected }), $name) || diag($shown->());
}

# Ended by the worker, as the log of events tells.
sub ended {
    return query(q{SELECT string_agg(user_id, ' ' ORDER BY id) FROM presence_event WHERE event = 'user_offline'});
}
my $row = q{SELECT xmin, ctid, heartbeat_at FROM presence_session WHERE user_id = 'ann'};
my $beat =
    q{SELECT update_user_heartbeat('ann', 'tab', heartbeat_interval => '30 seconds', policy => 'long') FROM generate_series(1, 10)};

query(q{INSERT INTO presence_policies VALUES ('short', '1 second'), ('long', '30 minutes')});
query(
    q{SELECT update_user_heartbeat('ann', 'tab', policy => 'long'), update_user_heartbeat('bob', 'tab'),
               update_user_heartbeat('cat', 'tab', policy => 'short')}
);
shows('ann bob', 'the worker ends a session by its policy');
query($beat);
my ($before, $misses) = (query($row), query('SELECT cache_misses FROM presence_health'));
query($beat);
is(query($row), $before, 'a heartbeat that names its policy, and promises an interval, writes nothing');
is(query('SELECT cache_misses FROM presence_health'), $misses, 'and takes the way through memory');

restart_server($node, 'fast');
query($beat);
shows('ann bob', 'a clean restart ends nobody');
query(q{UPDATE presence_policies SET timeout = '1 second' WHERE name = 'long'});
shows('bob', 'a change of the policy reaches the worker');

# The worker learns of a timeout from the file or from the table, and ends by it.
query(q{UPDATE presence_policies SET timeout = '3 seconds' WHERE name = 'long'});
for my $mode ('fast', 'immediate') {
    query($beat);
    restart_server($node, $mode);
    shows('bob', "the policy holds over a restart ($mode)");
}
like(ended(), qr/\Acat ann( ann)*\z/, 'each by silence, and nobody else');
check_agreement($node);
$node->stop;
done_testing();
