# The wall clock is set forward and back under a running server: nobody is thrown out by it, and nobody stays because of it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceClock;
use PresenceNode;

plan skip_all => 'no C compiler' if system('cc --version >/dev/null 2>&1') != 0;
my $timeout = 4;
my $node = new_node('clock', conf => "presence.timeout = '10min'\n");
create_extension($node);
$node->stop;
start_with_clock($node);
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub skew { return int(sql('SELECT extract(epoch FROM clock_timestamp())') - time + 1e6 + 0.5) - 1e6; }
set_clock(3600);
is(skew(), 3600, 'the server\'s clock can be set');
set_clock(0);
is(skew(), 0, 'and back');

# "cached" beats often, "new" has begun a moment ago and is not heard again for now.
my $beat = "SELECT update_user_heartbeat('cached', 's')";
sql($beat) for 1 .. 3;
sql("SELECT update_user_heartbeat('new', 's')");
my $departures = "SELECT count(*) FROM presence_events WHERE event = 'user_offline'";

for my $step (86400, -86400, 30 * 86400) {
    set_clock($step);
    is(skew(), $step, "the clock is set by $step s");
    is(sql('SELECT cleanup_stale_presence()'), 0, "$step s: there is nobody to clean up");
    is(sql("SELECT is_user_online('cached'), is_user_online('new')"), 't|t', "$step s: everybody is online");
    is(sql('SELECT presence_count(), count(*) FROM get_active_users()'), '2|2', "$step s: in the lists too");
    is(sql($beat), 't', "$step s: heartbeats are taken");
    is(sql($departures), 0, "$step s: and nobody has left");
}

# Whoever falls silent now leaves in time, although the clock goes back a day meanwhile.
set_clock(0);
$node->append_conf('postgresql.conf', "presence.timeout = '${timeout}s'");
$node->reload;
sql("SELECT update_user_heartbeat('silent', 's')") for 1 .. 3;
my $silent = time;
set_clock(-86400);
my $left;

while (time < $silent + 3 * $timeout) {
    sql($beat);
    sql('SELECT cleanup_stale_presence()');
    if (sql("SELECT is_user_online('silent')") eq 'f') { $left = time; last; }
    sleep 0.1;
}
cmp_ok($left // 0, '>', $silent + $timeout - 1, 'a silent one is not ended before the timeout');
cmp_ok($left // time, '<', $silent + 3 * $timeout, 'but soon after it, although the clock was set back');
is(sql("SELECT is_user_online('cached')"), 't', 'who beats stays');
sql('SELECT cleanup_stale_presence()');    # it may have fallen silent between the last cleanup and the last look
is(
    sql(
        "SELECT string_agg(event || ' ' || reason, ', ' ORDER BY seq) FROM presence_changes_since(0) WHERE user_id = 'silent' AND reason = 'timeout'"
    ),
    'session_end timeout, user_offline timeout',
    'and the feed tells it'
);

# A tombstone must not last a day because the clock was set back after a departure.
set_clock(0);
is(sql("SELECT mark_user_offline('cached')"), 't', 'somebody leaves');
is(sql($beat), 'f', 'and is ignored at once');
set_clock(-86400);
{
    $node->append_conf('postgresql.conf', "presence.rejoin_guard = '1s'");
    $node->reload;
    my $back = wait_until(3, sub { sql($beat) eq 't' });
    ok($back, 'but not for longer than the guard, although the clock was set back');
}
set_clock(0);
$node->stop;
done_testing();
