# What people have chosen lasts: over restarts and crashes, on a standby, in prepared transactions; and ends on time.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node(
    'status',
    allows_streaming => 1,
    conf => "max_prepared_transactions = 5\npresence.timeout = '10min'\npresence.rejoin_guard = 0\n"
);
create_extension($node);

sub query { return $_[0]->safe_psql('postgres', $_[1]); }
my $truth =
    "SELECT string_agg(format('%s: %s', u, s), ', ' ORDER BY u) FROM unnest(ARRAY['ann', 'ben']) AS u, get_user_status(u) AS s";
my $sight =
    "SELECT string_agg(format('%s: %s %s %s', user_id, online, status, last_seen), ', ' ORDER BY user_id) FROM presence";

query($node, "SELECT update_user_heartbeat('ann', 'tab'), update_user_heartbeat('ben', 'tab')") for 1 .. 2;
query($node,
    "SELECT set_user_status('ann', 'invisible', message => 'Shh'), set_user_status('ben', 'busy', message => 'Writing')"
);
query($node, "SELECT update_user_heartbeat('ann', 'tab')");
my $before = query($node, $truth);
is($before, 'ann: (active,invisible,,Shh), ben: (busy,busy,,Writing)', 'two choices');
my $seen = query($node, "SELECT last_seen FROM presence WHERE user_id = 'ann'");

for my $mode (qw(fast immediate)) {
    restart_server($node, $mode);
    is(query($node, $truth), $before, "$mode: they last");
    is(query($node, 'SELECT presence_count()'), 1, "$mode: one of two is online");
    is(query($node, "SELECT last_seen FROM presence WHERE user_id = 'ann'"),
        $seen, "$mode: the other was last seen when it was");
    is(
        query(
            $node,
            "SELECT update_user_heartbeat('ann', 'tab', status => 'active'), update_user_heartbeat('ann', 'tab')"
        ),
        't|t',
        "$mode: and goes on unseen"
    );
    is(query($node, 'SELECT presence_count()'), 1, "$mode: as before");
}
my $hits = query($node, 'SELECT cache_hits FROM presence_health');
query($node, "SELECT update_user_heartbeat('ann', 'tab')") for 1 .. 3;
is(query($node, 'SELECT cache_hits FROM presence_health') - $hits,
    3, 'heartbeats of known hidden sessions touch no table');
ok(wait_until(30, sub { query($node, "SELECT cached_sessions FROM presence_health") >= 1 }) && has_worker($node),
    'there is a worker');

# On a standby.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('status_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', $truth), $before, 'a standby knows of them');
is($standby->safe_psql('postgres', $sight), query($node, $sight), 'and shows what all see');
$standby->promote;
is(query($standby, "SELECT set_user_status('ann', NULL), presence_count()"), 't|1', 'a promoted one goes on');
is(query($standby, 'SELECT presence_count()'), 2, 'with who comes into view');
is(query($standby, 'SELECT count(*) FROM presence_verify()'), 0, 'and everything agrees there');
$standby->stop;

# Ends: at the time, and by the worker alone.
my $last = query($node, 'SELECT seq FROM presence_feed_position()');
query($node,
    "SELECT set_user_status('ann', 'invisible', clock_timestamp() + interval '1 s'), set_user_status('ben', 'away', clock_timestamp() + interval '1 s')"
);
ok(
    wait_until(
        30,
        sub {
            query($node,
                "SELECT count(*) FROM presence_changes_since($last) WHERE reason = 'timeout' OR event = 'user_online'")
                eq '2';
        }
    ),
    'choices end by themselves'
);
is(
    query($node, "SELECT string_agg(user_id || ' ' || event, ', ' ORDER BY seq) FROM presence_changes_since($last)"),
    'ben update, ann session_start, ann user_online, ben update',
    'and the feed tells what others see of it'
);
is(query($node, $truth), 'ann: (active,,,), ben: (active,,,)', 'nothing is left of them');

# One that ends while the server is down.
query($node, "SELECT set_user_status('ann', 'invisible', clock_timestamp() + interval '500 ms')");
$node->stop('fast');
my $over = time + 1;
ok(wait_until(30, sub { time > $over }), 'time passes');
$node->start;
ok(wait_until(30, sub { query($node, "SELECT is_user_online('ann')") eq 't' }), 'ends when the server is back');

# A prepared transaction.
query($node,
    "BEGIN; SELECT set_user_status('ann', 'invisible'), set_user_status('ben', 'busy', clock_timestamp() + interval '1 s'); PREPARE TRANSACTION 'choice'"
);
is(query($node, 'SELECT presence_count()'), 2, 'a prepared choice is none yet');
restart_server($node, 'fast');
query($node, "COMMIT PREPARED 'choice'");
is(query($node, 'SELECT presence_count()'), 1, 'but is when it is committed');
ok(
    wait_until(
        30,
        sub {
            query($node, "SELECT chosen IS NULL FROM get_user_status('ben')") eq 't'
                && query($node, "SELECT count(*) FROM presence_user WHERE status_choice = 'busy'") eq '0';
        }
    ),
    'and ends on time'
);

# By hand: what does not fit together is brought in line.
query($node,
    "UPDATE presence_user SET status_choice = NULL WHERE user_id = 'ann'; UPDATE presence_user SET status_choice = 'busy' WHERE user_id = 'ben'"
);
ok(wait_until(60, sub { query($node, 'SELECT count(*) FROM presence_verify()') eq '0' }),
    'changes by hand are reviewed');
is(query($node, "SELECT status FROM get_presence(ARRAY['ben'])"), 'busy', 'a choice made by hand counts');
is(query($node, 'SELECT count(*) FROM presence_hidden_session'),
    0, 'hidden sessions of somebody who is not invisible are gone');
is(query($node, "SELECT update_user_heartbeat('ann', 'tab'); SELECT is_user_online('ann')"), "t\nt", 'and begin again');
query($node,
    "UPDATE presence_user SET status_choice = 'invisible', online = false, sessions = 0, status = NULL WHERE user_id = 'ann'"
);
ok(wait_until(60, sub { query($node, 'SELECT count(*) FROM presence_verify()') eq '0' }), 'the other way round too');
is(query($node, "SELECT is_user_online('ann')"), 'f', 'so who is made invisible is');

$node->stop;
done_testing();
