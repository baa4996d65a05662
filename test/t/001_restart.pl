# Restarts: nobody is thrown out by one, and nobody stays for ever because of one.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceNode;

my $users = 1000;
my $timeout = 4;
my $node =
    new_node('restart', conf => "restart_after_crash = on\npresence.timeout = '10min'\npresence.save_interval = 0\n");
create_extension($node);

my $all =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i % 3)) FROM generate_series(1, $users) AS i";
sub beat_all { return $node->safe_psql('postgres', $all); }
sub online { return $node->safe_psql('postgres', 'SELECT presence_count()'); }

sub departures {
    return $node->safe_psql('postgres',
        "SELECT count(*) FROM presence_events WHERE event IN ('session_end', 'user_offline')");
}
sub heard { return $node->safe_psql('postgres', 'SELECT extract(epoch FROM min(heartbeat_at)) FROM presence'); }

is(beat_all(), $users, 'everybody joins');
beat_all();

# Heartbeats that are in no table: two seconds later than what the table knows.
sub beat_later {
    my $before = $node->safe_psql('postgres', 'SELECT extract(epoch FROM max(heartbeat_at)) FROM presence_session');
    wait_until(30,
        sub { $node->safe_psql('postgres', "SELECT extract(epoch FROM clock_timestamp()) > $before + 2") eq 't' });
    beat_all();
    return heard();
}
beat_later();
is(
    $node->safe_psql(
        'postgres',
        "SELECT bool_and(p.heartbeat_at > s.heartbeat_at + interval '1.5 s') FROM presence p JOIN presence_session s USING (user_id)"
    ),
    't',
    'their last heartbeats are in the cache only'
);

#---------------------------------------------------------------------- clean restarts, and one that is not

for my $mode (qw(fast smart immediate)) {
    my $heard = beat_later();
    $node->stop($mode);
    ok(-e save_file($node), "$mode: heartbeats are in a file") if $mode ne 'immediate';
    $node->start;
    is(online(), $users, "$mode: everybody is still online");
    is($node->safe_psql('postgres', 'SELECT cleanup_stale_presence()'), 0, "$mode: there is nobody to clean up");
    is($node->safe_psql('postgres', 'SELECT count(*) FROM get_active_users()'), $users, "$mode: the list is complete");
    is(departures(), 0, "$mode: nobody has left");
    cmp_ok(abs(heard() - $heard), '<', 1, "$mode: the last heartbeats are remembered to the second")
        if $mode ne 'immediate';
    is(beat_all(), $users, "$mode: and the next ones are taken");
}

#---------------------------------------------------------------------- a backend is killed: shared memory is made anew

my $bystander = $node->background_psql('postgres', on_error_stop => 0);
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
my $victim = $bystander->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $victim if $victim =~ /^\d+$/;
my $again = wait_until(60,
    sub { $node->psql('postgres', 'SELECT 1') == 0 && log_since($node, 0) =~ /reinitializing.*ready to accept/s });
ok($again, 'kill -9 of a backend: the server begins anew');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'),
    $started, 'kill -9 of a backend: with the same postmaster');
is(online(), $users, 'kill -9 of a backend: everybody is still online');
is($node->safe_psql('postgres', 'SELECT cleanup_stale_presence()'),
    0, 'kill -9 of a backend: there is nobody to clean up');
is(beat_all(), $users, 'kill -9 of a backend: heartbeats are taken');
beat_all();
cmp_ok($node->safe_psql('postgres', 'SELECT cached_sessions FROM presence_health'),
    '==', $users, 'kill -9 of a backend: and cached again');
is(departures(), 0, 'kill -9 of a backend: nobody has left');
eval { $bystander->{run}->kill_kill };

#---------------------------------------------------------------------- files that are not to be trusted

beat_later();
$node->stop('fast');
ok(-e save_file($node), 'there is a file');
{
    my $good = slurp_file(save_file($node));
    my $write = sub {
        my ($bytes) = @_;
        unlink save_file($node);
        open my $file, '>:raw', save_file($node) or die $!;
        print $file $bytes;
        close $file;
    };
    my $flipped = $good;
    substr($flipped, length($good) / 2, 1) ^= "\x01";
    my $newer = $good;
    substr($newer, 8, 1) = chr(ord(substr($newer, 8, 1)) + 1);    # the version comes after 8 bytes of magic
    my $stranger = new_node('stranger');
    create_extension($stranger);
    $stranger->safe_psql('postgres', "SELECT update_user_heartbeat('u' || i, 's') FROM generate_series(1, 10) AS i")
        for 1 .. 3;
    $stranger->stop('fast');
    my %files = (
        'empty' => '',
        'truncated' => substr($good, 0, length($good) - 64),
        'truncated in a block' => substr($good, 0, length($good) - 7),
        'too long' => $good . ("\0" x 64),
        'with a flipped bit' => $flipped,
        'of a newer version' => $newer,
        'of noise' => join('', map { chr int rand 256 } 1 .. 4096),
        'of another server' => slurp_file(save_file($stranger))
    );

    for my $what (sort keys %files) {
        $write->($files{$what});
        my $from = log_position($node);
        $node->start;
        is(online(), $users, "a file $what: the server starts and everybody is online");
        like(log_since($node, $from), qr/LOG: .*heartbeat/i, "a file $what: the log says that it is ignored");
        unlike(log_since($node, $from), qr/(WARNING|ERROR|FATAL|PANIC): /, "a file $what: which is no error");
        is(departures(), 0, "a file $what: nobody has left");
        $node->stop('fast');
    }

# Something that is no file, and one that cannot be read.
    unlink save_file($node);
    mkdir save_file($node);
    $node->start;
    is(online(), $users, 'a directory in its place: the server starts and everybody is online');
    $node->stop('fast');
    rmdir save_file($node);
    $write->($good);
    chmod 0000, save_file($node);
    $node->start;
    is(online(), $users, 'an unreadable file: the server starts and everybody is online');
    $node->stop('fast');
    unlink save_file($node);
}

#---------------------------------------------------------------------- kill -9

$node->append_conf('postgresql.conf', "presence.timeout = '${timeout}s'\npresence.save_interval = 1\n");
$node->start;
is(beat_all(), $users, 'everybody beats again');
is(departures(), 0, 'within the timeout');
beat_all();
my $last = heard();

# Where the file is written every second, it knows that.
my $saved = wait_until(3, sub { my @file = stat save_file($node); @file && $file[9] > $last });
kill_server($node);
$node->start;
my $accepted = time;
is(online(), $users, 'kill -9: everybody is online at first');
ok($saved, 'kill -9: the file is written every presence.save_interval');
cmp_ok(heard(), '>', $last - 2, 'kill -9: and everybody was last seen when it says');

# Half of the users beat on; the others are gone, and nobody has told.
my $half = $users / 2;
my $living =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i % 3)) FROM generate_series(1, $half) AS i";
my ($first_departure, $last_departure);
while (time < $accepted + 3 * $timeout) {
    $node->safe_psql('postgres', $living);
    $node->safe_psql('postgres', 'SELECT cleanup_stale_presence()');
    my $left = $node->safe_psql('postgres', "SELECT count(*) FROM presence_events WHERE event = 'user_offline'");
    $first_departure //= time if $left > 0;
    if ($left >= $half) { $last_departure = time; last; }
    sleep 0.1;
}
cmp_ok(
    $first_departure // time,
    '>',
    $accepted + $timeout - 1,
    'kill -9: nobody is thrown out before a timeout has passed'
);
cmp_ok($last_departure // time, '<=', $accepted + 2 * $timeout, 'kill -9: no ghost lives beyond two timeouts');
is(online(), $half, 'kill -9: the others are online');
is(
    $node->safe_psql(
        'postgres',
        "SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND substr(user_id, 2)::int <= $half"
    ),
    0,
    'kill -9: and nobody of them ever left'
);

#---------------------------------------------------------------------- a crash in the middle of transitions

$node->append_conf('postgresql.conf', "presence.timeout = '10min'\n");
$node->reload;
my @writers = map { $node->background_psql('postgres') } 1 .. 3;
for my $number (1 .. 3) {
    $writers[$number - 1]->query_safe('BEGIN');
    $writers[$number - 1]->query_safe("SELECT update_user_heartbeat('open$number', 's')");
    $writers[$number - 1]->query_safe("SELECT mark_user_offline('u$number')");
}
kill_server($node);
$_->{run}->kill_kill for @writers;
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) FROM presence WHERE user_id LIKE 'open%'"),
    0, 'what was not committed at a crash never was');
is($node->safe_psql('postgres', "SELECT count(*) FROM presence WHERE online AND user_id IN ('u1', 'u2', 'u3')"),
    3, 'and who had not left yet is there');
is($node->safe_psql('postgres', $living), $half, 'and heard');
my $gaps = feed_of($node, 'seq - row_number() OVER (ORDER BY seq)');
is((join ' ', grep { $_ ne '0' } split /\n/, $gaps), '', 'the feed has no gap over all restarts');

$node->stop;

#---------------------------------------------------------------------- a promise that the file does not know of

# The file remembers a longer interval than the row has.
my $promise =
    new_node('promise', conf => "presence.save_interval = 0\npresence.timeout = '1s'\npresence.max_timeout = '1h'\n");
create_extension($promise);
$promise->safe_psql('postgres', "SELECT update_user_heartbeat('ann', 's', heartbeat_interval => '10min')") for 1 .. 3;
$promise->restart;
$promise->safe_psql('postgres', "SELECT update_user_heartbeat('ann', 's', heartbeat_interval => '100ms')");
kill_server($promise);
$promise->start;
ok(wait_until(30, sub { $promise->safe_psql('postgres', "SELECT online FROM presence_user") eq 'f' }),
    'a session whose interval became shorter before a crash is ended by that one');

# The file remembers another beginning of the session than the row has.
$promise->append_conf('postgresql.conf', "presence.rejoin_guard = 0\n");
$promise->reload;
$promise->safe_psql('postgres', "SELECT update_user_heartbeat('bob', 's', heartbeat_interval => '10min')") for 1 .. 3;
$promise->restart;
$promise->safe_psql('postgres',
    "SELECT mark_user_offline('bob', 's'); SELECT update_user_heartbeat('bob', 's', heartbeat_interval => '100ms')");
kill_server($promise);
$promise->start;
ok(wait_until(30, sub { $promise->safe_psql('postgres', "SELECT bool_or(online) FROM presence_user") eq 'f' }),
    'a session that began anew before a crash is ended, too');
$promise->stop;
done_testing();
