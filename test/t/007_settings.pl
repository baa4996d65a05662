# Each setting takes effect when the configuration is read again (SIGHUP), in sessions that are there already, and per
# database by ALTER DATABASE in new ones.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('settings');
create_extension($node);
my $session = $node->background_psql('postgres');
$session->query_safe("SET client_min_messages = warning");
sub ask { return $session->query_safe($_[0]); }

# In the configuration file, and seen by a session that was there before.
sub set {
    my ($name, $value) = @_;
    $node->append_conf('postgresql.conf', "presence.$name = '$value'");
    $node->reload;
    wait_until(
        30,
        sub {
            ask(
                "SELECT setting FROM pg_file_settings WHERE name = 'presence.$name' AND applied ORDER BY seqno DESC LIMIT 1"
                ) eq $value
                && ask("SELECT current_setting('presence.$name')::text = '$value'") eq 't';
        }
    ) or fail("presence.$name becomes $value");
    return;
}
sub online { return ask("SELECT is_user_online('$_[0]')"); }

sub until_offline {
    my ($user) = @_;
    return wait_until(10, sub { online($user) eq 'f' });
}

#---------------------------------------------------------------------- timeout, max_timeout

ask("SELECT update_user_heartbeat('ann', 's')") for 1 .. 3;
ask("SELECT update_user_heartbeat('far', 's', heartbeat_interval => '30 min')") for 1 .. 3;
is(online('ann'), 't', 'timeout: two minutes by default');
set('timeout', '1s');
ok(until_offline('ann'), 'timeout: one second now');
is(online('far'), 't', 'timeout: a session that promised less stays');
set('max_timeout', '1s');
ok(until_offline('far'), 'max_timeout: nobody may promise less than the bound');
ask('SELECT cleanup_stale_presence()');
set('max_timeout', '1h');
set('timeout', '2min');
is(ask("SELECT update_user_heartbeat('ann', 's')"), 't', 'timeout: who timed out comes back');
is(online('ann'), 't', 'timeout: two minutes again');

#---------------------------------------------------------------------- rejoin_guard

ask("SELECT mark_user_offline('ann')");
is(ask("SELECT update_user_heartbeat('ann', 's')"), 'f', 'rejoin_guard: ten seconds by default');
set('rejoin_guard', '1h');
is(ask("SELECT update_user_heartbeat('ann', 's')"), 'f', 'rejoin_guard: an hour');
set('rejoin_guard', '0');
is(ask("SELECT update_user_heartbeat('ann', 's')"), 't', 'rejoin_guard: none');

#---------------------------------------------------------------------- notifications

my $listener = $node->background_psql('postgres');
$listener->query_safe("LISTEN presence; LISTEN other");

sub heard {
    my ($channel, $event, $user) = @_;
    my $got = '';
    wait_until(
        10,
        sub {
            $got .= $listener->query_safe('SELECT 1');
            $got =~ /notification "$channel" with payload.*"event" : "$event", "user_id" : "$user"/;
        }
    ) or return 0;
    return $got;
}
ask("SELECT update_user_heartbeat('user1', 's')");
ok(heard('presence', 'user_online', 'user1'), 'notify_channel: presence by default');
set('notify_channel', 'other');
ask("SELECT update_user_heartbeat('user2', 's')");
my $got = heard('other', 'user_online', 'user2');
ok($got, 'notify_channel: another');
unlike($got, qr/session_start/, 'notify_level: only what others see of users by default');
set('notify_level', 'session');
ask("SELECT update_user_heartbeat('user3', 's')");
ok(heard('other', 'session_start', 'user3'), 'notify_level: sessions too');
set('notify_level', 'none');
ask("SELECT update_user_heartbeat('user4', 's')");
feed_of($node, 'seq');
set('notify_level', 'user');
set('notify_channel', '');
ask("SELECT update_user_heartbeat('user5', 's')");
feed_of($node, 'seq');
set('notify_channel', 'presence');
ask("SELECT update_user_heartbeat('user6', 's')");
$got = heard('presence', 'user_online', 'user6');
ok($got, 'notify_channel: presence again');
unlike($got, qr/user4/, 'notify_level: none sends nothing');
unlike($got, qr/user5/, 'notify_channel: empty sends nothing');
is(feed_of($node, 'user_id') =~ s/\n/ /gr =~ tr/4/4/, 2, 'and the feed has them nevertheless');

#---------------------------------------------------------------------- retention

ask("SELECT mark_user_offline('user1')");
ask("SELECT mark_user_offline('user2')");
ask("SELECT update_user_heartbeat('user2', 's')");
ask('SELECT scheduled_presence_cleanup()');
cmp_ok(feed_of($node, 'seq') =~ tr/\n//, '>', 10, 'event_retention: nothing of today is dropped by default');
set('event_retention', '0');
ask('SELECT scheduled_presence_cleanup()');
is(ask('SELECT count(*) FROM ONLY presence_events'), 0, 'event_retention: everything is dropped');
my ($code, $out, $err) = $node->psql('postgres', 'SELECT * FROM presence_changes_since(1)');
like(
    $err,
    qr/no longer has the events after seq 1.*presence_snapshot/s,
    'event_retention: and a reader who is behind is told so'
);
set('event_retention', '30d');

ask("SELECT update_user_heartbeat('user7', 'a'), update_user_heartbeat('user7', 'b')");
ask("SELECT mark_user_offline('user7', 'a')");
ask('SELECT scheduled_presence_cleanup()');
is(ask("SELECT count(*) FROM presence_sessions WHERE user_id = 'user7'"),
    2, 'session_retention: an ended session is kept for a day by default');
set('session_retention', '0');
ask('SELECT scheduled_presence_cleanup()');
is(ask("SELECT count(*) FROM presence_sessions WHERE user_id = 'user7'"), 1, 'session_retention: not at all');
is(ask("SELECT count(*) FROM presence WHERE user_id = 'user1'"),
    1, 'user_retention: the last row of a user stays for ever by default');
set('user_retention', '0');
ask('SELECT scheduled_presence_cleanup()');
is(ask("SELECT count(*) FROM presence WHERE user_id = 'user1'"), 0, 'user_retention: not at all');
is(ask("SELECT count(*) FROM presence_user WHERE user_id = 'user1'"),
    0, 'user_retention: and nothing stays of the user');
is(online('user7'), 't', 'user_retention: who is online stays');

#---------------------------------------------------------------------- reports

is(ask("SELECT count(*) FROM presence_report_position"), 0, 'reports: none by default');
set('reports', 'on');
cmp_ok(ask('SELECT presence_roll_up()'), '>', 0, 'reports: on, and with what had happened before');
my $known = "SELECT count(*) FROM presence_report_session WHERE user_id = 'between'";
set('reports', 'off');
ask("SELECT update_user_heartbeat('between', 's')");
is(ask($known), 0, 'reports: off, and nothing is read');
set('reports', 'on');
ask('SELECT presence_roll_up()');
is(ask($known), 1, 'reports: on again, and nothing is missing');
my $slots = 'SELECT count(*) FROM presence_report_slot';
cmp_ok(ask($slots), '>', 0, 'report_retention: 400 days by default');
ask("UPDATE presence_report_slot SET at = at - interval '1 day'");
set('report_retention', '1h');
ok(
    wait_until(
        60, sub { ask('SELECT scheduled_presence_cleanup()'); ask("$slots WHERE at < now() - interval '2 h'") eq '0' }
    ),
    'report_retention: an hour'
);

#---------------------------------------------------------------------- per database, and who may

$node->safe_psql('postgres', "ALTER DATABASE postgres SET presence.timeout = '50ms'");
ok(wait_until(10, sub { $node->safe_psql('postgres', "SELECT is_user_online('user7')") eq 'f' }),
    'ALTER DATABASE sets the timeout of new sessions');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET presence.timeout; CREATE ROLE nobody_special LOGIN');
for my $name (
    split /\n/,
    $node->safe_psql(
        'postgres', "SELECT name FROM pg_settings WHERE name LIKE 'presence.%' AND context = 'superuser' ORDER BY 1"
    )
) {
    ($code, $out, $err) = $node->psql('postgres', "SET ROLE nobody_special; SET $name = DEFAULT");
    like($err, qr/permission denied to set parameter "$name"/, "$name is for superusers");
}
for my $wrong (
    "presence.timeout = '-1'",
    "presence.timeout = 'soon'",
    "presence.notify_level = 'loud'",
    "presence.nonsense = 1",
    "presence.notify_channel = '" . ('x' x 64) . "'"
) {
    ($code, $out, $err) = $node->psql('postgres', "SET $wrong");
    isnt($code, 0, "refused: SET $wrong");
}

# A wrong value in the file is refused with a log line, and the old one stays.
my $from = log_position($node);
$node->append_conf('postgresql.conf', "presence.timeout = 'soon'");
$node->reload;
ok(wait_until(30, sub { log_since($node, $from) =~ /invalid value for parameter "presence.timeout"/ }),
    'a wrong value in the file is logged');
is(ask('SHOW presence.timeout'), '2min', 'and has no effect');

$_->quit for $session, $listener;
$node->stop;
done_testing();
