# A streaming standby shows what the primary has recorded; promoted, it throws nobody out and keeps no ghosts.
use strict;
use warnings;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceNode;

my $timeout = 3;
my $primary = new_node(
    'primary',
    allows_streaming => 1,
    conf => "presence.timeout = '10min'\npresence.rejoin_guard = '1h'\npresence.idle_after = '1ms'\n"
);
create_extension($primary);
my $users = 200;
my $all =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i % 3)) FROM generate_series(1, $users) AS i";
$primary->safe_psql('postgres', $all) for 1 .. 3;
$primary->safe_psql('postgres',
    "SELECT mark_user_offline('u1'), update_user_heartbeat('u2', 's2', status => 'busy', metadata => '{\"at\": 1}')");
$primary->safe_psql('postgres',
    "SELECT join_room('u3', 's0', 'hall', '{\"x\": 1}'), join_room('u2', 's2', 'hall'), join_room('u3', 's0', 'attic'), join_room('u150', 's0', 'hall')"
);
$primary->safe_psql('postgres', "SELECT update_user_heartbeat('u5', 's2', last_activity => '2001-01-01')");
$primary->safe_psql('postgres', "SELECT count(*) FROM presence_changes_since(0)");

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);

# On the standby everybody would be stale by its own settings.
$standby->append_conf('postgresql.conf', "presence.timeout = '1ms'\npresence.max_timeout = '1ms'");
$standby->start;
sub caught_up { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')); return; }
caught_up();
sub on_standby { return $standby->safe_psql('postgres', $_[0]); }

#---------------------------------------------------------------------- reading

my %readers = (
    'presence_count' => 'SELECT presence_count()',
    'is_user_online' => "SELECT is_user_online('u1'), is_user_online('u2'), is_user_online('nobody')",
    'get_active_users' =>
        'SELECT user_id, status, sessions, online_since, metadata FROM get_active_users() ORDER BY user_id',
    'a page' => "SELECT user_id, sessions, online_since FROM get_active_users(50, 'u57')",
    'get_presence' =>
        "SELECT user_id, online, status, sessions, metadata FROM get_presence(ARRAY['u1', 'u2', 'nobody']) ORDER BY user_id",
    'presence' => 'SELECT user_id, online, status, sessions, online_since, session_id FROM presence ORDER BY user_id',
    'presence_sessions' =>
        'SELECT user_id, session_id, online, status, joined_at, ended_at, end_reason FROM presence_sessions ORDER BY user_id, session_id',
    'presence_changes_since' => 'SELECT * FROM presence_changes_since(5)',
    'room_count' => "SELECT room_count('hall'), room_count('attic'), room_count('nowhere')",
    'get_room' => "SELECT user_id, status, sessions, entered_at, metadata FROM get_room('hall') ORDER BY user_id",
    'get_user_rooms' => "SELECT room, sessions FROM get_user_rooms('u3') ORDER BY room",
    'room_snapshot' => "SELECT seq, user_id, status, sessions FROM room_snapshot('hall') ORDER BY user_id",
    'the feed of a room' => "SELECT * FROM presence_changes_since(5, room => 'hall')",
    'presence_snapshot' => 'SELECT seq, user_id, status, sessions FROM presence_snapshot() ORDER BY user_id'
);

for my $reader (sort keys %readers) {
    is(
        on_standby($readers{$reader}),
        $primary->safe_psql('postgres', $readers{$reader}),
        "$reader shows what the primary shows"
    );
}
is(
    on_standby("SELECT status, last_activity FROM presence_sessions WHERE user_id = 'u5'"),
    'idle|2001-01-01 00:00:00+00',
    'who was idle is idle, since the recorded activity'
);
is(
    on_standby('SELECT online_users, stale_users FROM presence_health'),
    ($users - 1) . '|0',
    'presence_health filters nothing by age'
);
is(
    on_standby(
        "SELECT count(*) FROM presence WHERE heartbeat_at = (SELECT heartbeat_at FROM presence_session AS s WHERE s.user_id = presence.user_id)"
    ),
    $users,
    'heartbeats are shown as recorded'
);
for my $call (
    "update_user_heartbeat('u2', 's2')",
    "update_user_heartbeat('new')",
    "update_user_heartbeats(ARRAY['u2'], ARRAY['s2'])",
    "mark_user_offline('u2')",
    "handle_user_disconnect('u2')",
    "join_room('u2', 's2', 'hall')",
    "leave_room('u2', 's2', 'hall')",
    "join_rooms(ARRAY['u2'], ARRAY['s2'], ARRAY['hall'])",
    "set_user_status('u2', 'busy')",
    'cleanup_stale_presence()',
    'scheduled_presence_cleanup()'
) {
    my ($code, $out, $err) = $standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT $call");
    like(
        $err,
        qr/25006: cannot execute \w+\(\) during recovery.*HINT:\s+Connect to the primary/s,
        "$call is refused with a hint"
    );
}

# What happens on the primary is seen.
$primary->safe_psql('postgres', "SELECT mark_user_offline('u2')");
caught_up();
is(on_standby("SELECT is_user_online('u2')"), 'f', 'a departure on the primary is seen on the standby');
$primary->safe_psql('postgres', "SELECT update_user_heartbeat('u2', 'again')");
$primary->safe_psql('postgres', "SELECT count(*) FROM presence_changes_since(0)");
caught_up();
is(
    on_standby("SELECT is_user_online('u2'), count(*) FROM presence_changes_since(0)"),
    't|' . (2 * $users + 13),
    'and so is a return'
);

# A restart of the standby changes nothing of that.
$standby->append_conf('postgresql.conf', "presence.timeout = '${timeout}s'\npresence.max_timeout = '1h'");
$standby->restart;
is(on_standby('SELECT presence_count()'), $users - 1, 'a restarted standby shows the same');

#---------------------------------------------------------------------- promotion

# Heartbeats that only the primary knows, and some transitions up to the end.
$primary->safe_psql('postgres', $all);
$primary->safe_psql('postgres', "SELECT update_user_heartbeat('last', 's')");
my $last_seq = $primary->safe_psql('postgres', 'SELECT max(seq) FROM presence_changes_since(0, 100000)');
caught_up();
kill_server($primary);
sleep $timeout + 0.5;    # the failover takes longer than a timeout, which is no fault of the users
$standby->promote;
my $accepted = time;
is(on_standby('SELECT presence_count()'), $users, 'promoted: everybody is online');
is(on_standby('SELECT cleanup_stale_presence()'), 0, 'promoted: nobody to clean up');
is(on_standby("SELECT status FROM presence_sessions WHERE user_id = 'u5'"), 'idle', 'promoted: who was idle still is');

my $half = $users / 2;
my $living =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i % 3)) FROM generate_series(3, $half) AS i";
my ($first_departure, $last_departure);
my $ghosts = $users - ($half - 2);
my ($before, $longest_silence) = (time, 0);
while (time < $accepted + 3 * $timeout) {
    my $beat = time;
    on_standby($living);
    $longest_silence = max($longest_silence, time - $before);
    $before = $beat;
    on_standby('SELECT cleanup_stale_presence()');
    my $left = on_standby("SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND reason = 'timeout'");
    $first_departure //= time if $left > 0;
    if ($left >= $ghosts) { $last_departure = time; last; }
    sleep 0.1;
}
cmp_ok(
    $first_departure // time,
    '>',
    $accepted + $timeout - 1,
    'promoted: nobody is thrown out before a timeout has passed'
);
cmp_ok($last_departure // time, '<=', $accepted + 2 * $timeout, 'promoted: no ghost lives beyond two timeouts');
is(on_standby('SELECT presence_count()'), $half - 2, 'promoted: who beats is online');
is(on_standby("SELECT room_count('hall'), string_agg(user_id, ' ') FROM get_room('hall')"),
    '1|u3', 'promoted: and stays in a room that ghosts have left');
SKIP: {
    skip "the machine stalled: $longest_silence s between two heartbeats", 1 if $longest_silence >= $timeout;
    is(
        on_standby(
            "SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND reason = 'timeout' AND user_id ~ '^u' AND substr(user_id, 2)::int BETWEEN 3 AND $half"
        ),
        0,
        'promoted: and never was anything else'
    );
}

# It works as a primary.
is(on_standby("SELECT update_user_heartbeat('fresh', 's'), update_user_heartbeat('u1', 's1')"),
    't|f', 'promoted: joins, and tombstones from before');
is(on_standby("SELECT mark_user_offline('fresh')"), 't', 'promoted: departures');
cmp_ok(check_gapless($standby, 'promoted'), '>', $last_seq, 'promoted: behind what the primary had given');
is(
    on_standby("SELECT string_agg(event, ' ' ORDER BY seq) FROM presence_events WHERE user_id = 'fresh'"),
    'session_start user_online session_end user_offline',
    'promoted: the feed is right'
);
if (on_standby('SELECT cached_sessions > 0 FROM presence_health') ne 't') { on_standby($living) for 1 .. 2; }
cmp_ok(on_standby('SELECT cached_sessions FROM presence_health'), '>=', $half - 2, 'promoted: heartbeats are cached');
my $health = on_standby('SELECT problem FROM presence_health');
is($health, '{}', 'promoted: all is well');

$standby->stop;
done_testing();
