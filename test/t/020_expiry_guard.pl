# presence.expiry_guard: an application that loses the database throws nobody out, and people who leave still leave.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('main', conf => "presence.timeout = 2s\npresence.max_timeout = 10s\npresence.expiry_guard = 0.5\n");
create_extension($node);
plan skip_all => 'needs the background worker' unless has_worker($node);

my $session = $node->background_psql('postgres');    # heartbeats must not wait for the start of a psql
sub value { return $session->query_safe($_[0]); }

sub beat {
    return value(
        "SELECT update_user_heartbeats(ids, ids) FROM (SELECT array_agg(n) AS ids FROM generate_series($_[0], $_[1]) AS n) AS of"
    );
}
sub offline_events { return value("SELECT count(*) FROM presence_event WHERE event = 'user_offline'"); }
sub is_held { return value('SELECT problem::text FROM presence_health') =~ /presence\.expiry_guard/; }

# Until the condition holds, these beat.
sub beating_until {
    my ($from, $to, $condition) = @_;
    return wait_until(30, sub { beat($from, $to); return $condition->(); });
}

is(beat(1, 10), '10', 'ten people come');
ok(beating_until(5, 10, sub { offline_events() == 4 }), 'four of them leave, which is less than half');
is(value('SELECT string_agg(user_id, $$,$$ ORDER BY user_id::int) FROM get_active_users()'),
    '5,6,7,8,9,10', 'the others are online');
ok(!is_held(), 'nothing was held');

my $log = log_position($node);
is(beat(1, 10), '10', 'all are back, then nobody beats any more');
ok(wait_until(30, \&is_held), 'presence_health says that ends are held');
ok(
    wait_until(
        30,
        sub { value(q{SELECT max(clock_timestamp() - heartbeat_at) > '5s' FROM presence_sessions WHERE online}) eq 't' }
    ),
    'two timeouts later'
);
is(value('SELECT presence_count()'), '10', 'all count as online');
is(value('SELECT count(*) FROM get_active_users()'), '10', 'and are in the list');
is(value('SELECT cleanup_stale_presence()'), '0', 'a cleanup ends nobody either');
is(value('SELECT count(*) FROM presence WHERE online'), '10', 'the view agrees');
is(offline_events(), '4', 'no departure was announced');
like(
    value('SELECT problem::text FROM presence_health'),
    qr/10 sessions are silent, and presence\.expiry_guard has held their ends since/,
    'presence_health says how many'
);
like(log_since($node, $log), qr/10 of 10 sessions are silent, their ends are held/, 'so does the server log');

my $events = value('SELECT count(*) FROM presence_event');
is(beat(3, 10), '8', 'heartbeats come back');
is(value('SELECT count(*) FROM presence_event'), $events, 'and find their sessions alive');
ok(beating_until(3, 10, sub { offline_events() == 6 }), 'those who have left meanwhile are ended after a timeout');
is(value('SELECT count(*) FROM get_active_users()'), '8', 'the others never left');
ok(!is_held(), 'nothing is held any more');

ok(wait_until(30, \&is_held), 'silence again');
ok(wait_until(40, sub { offline_events() == 14 }), 'which lasts for longer than presence.max_timeout, and ends all');
ok(wait_until(10, sub { !is_held() }), 'after which nothing is held');
like(log_since($node, $log), qr/silent sessions end again, although heartbeats have not come back/, 'the log says why');

is(beat(1, 10), '10', 'everybody comes back');
ok(wait_until(30, \&is_held), 'and falls silent');
$node->append_conf('postgresql.conf', 'presence.expiry_guard = 0');
$node->reload;
ok(wait_until(30, sub { offline_events() == 24 }), 'without the guard they end at once');

$session->quit;
$node->stop;
done_testing();
