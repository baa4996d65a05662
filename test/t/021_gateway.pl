# A gateway that holds many sessions is killed with SIGKILL while as many others join through another one: those of the
# first end by their timeouts, and the feed tells one legal history. PRESENCE_STORM_SESSIONS=100000 is the long form.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $n = $ENV{PRESENCE_STORM_SESSIONS} // 2000;
my $parts = 20;
my $part = int($n / $parts);
$n = $part * $parts;
my $patience = 60 + $n / 200;
my $node = new_node('gateway', conf => "presence.timeout = '10min'\nfsync = off\n");
create_extension($node);
ok(has_worker($node), 'there is a worker');
sub sql { return $node->safe_psql('postgres', $_[0]); }

# Each client sends the heartbeats of one part of the people after the other, for as long as the gateway lives.
my %gateway;

sub start_gateway {
    my ($name) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir . "/$name";
    sql("CREATE SEQUENCE part_of_$name MAXVALUE $parts CYCLE");
    append_to_file($script,
        "SELECT update_user_heartbeats(who, who) FROM (SELECT array_agg(('$name-' || i)::presence_id) AS who FROM (SELECT nextval('part_of_$name') AS p) AS next, generate_series((p - 1) * $part + 1, p * $part) AS i) AS part;\n"
    );
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $ENV{PGHOST} = $node->host;
        $ENV{PGPORT} = $node->port;
        open STDOUT, '>', "$script.out" or die $!;
        open STDERR, '>', "$script.err" or die $!;
        exec 'pgbench', '--no-vacuum', '--client', 8, '--time', 3600, '--file', $script, 'postgres' or die $!;
    }
    $gateway{$name} = { pid => $pid, errors => "$script.err" };
    return;
}

sub kill_gateway {
    my ($name) = @_;
    my $pid = delete $gateway{$name}{pid} or return;
    kill KILL => $pid;
    waitpid $pid, 0;
    return;
}
END { local $?; kill_gateway($_) for keys %gateway; }

# A listener as applications have one. It reads whenever the test looks for something.
my $listener = $node->background_psql('postgres');
$listener->set_query_timer_restart;
$listener->query_safe('LISTEN presence');
my @heard;

sub listen_on {
    push @heard, map { decode_json($_) } $listener->query('SELECT') =~ /with payload "(.*)" received from/g;
    return;
}

sub comes_true {
    my ($condition, $what) = @_;
    return ok(wait_until($patience, sub { listen_on(); sql("SELECT $condition") eq 't' }), $what);
}
my $online = 'SELECT count(*) FROM presence_user WHERE online AND user_id LIKE';

#---------------------------------------------------------------------- the storm

start_gateway('lost');
comes_true("($online 'lost-%') = $n", 'everybody of the first gateway is online');

# Somebody's row is held, so that one part of the others cannot join before the gateway is killed.
my $last = "other-$n";
sql("SELECT update_user_heartbeat('$last', 'before'), mark_user_offline('$last')");
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT FROM presence_user WHERE user_id = '$last' FOR UPDATE");
start_gateway('other');
comes_true("($online 'other-%') > 0", 'others join through the second one');
kill_gateway('lost');
$holder->query_safe('COMMIT');
comes_true("($online 'other-%') = $n", 'all of them do, while the first one is gone');
sql("ALTER SYSTEM SET presence.timeout = '5s'; SELECT pg_reload_conf()");
comes_true("($online 'lost-%') = 0", 'its people go offline by their timeouts');
sql("ALTER SYSTEM RESET presence.timeout; SELECT pg_reload_conf()");
comes_true("($online 'other-%') = $n", 'and the others are there');
is(slurp_file($gateway{other}{errors}) =~ s/^(?!.*error).*\n//gmir, '', 'no call of the second gateway failed');
kill_gateway('other');
comes_true("NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')",
    'whose calls come to an end');
sql('SELECT FROM presence_feed_position()');
comes_true('count(*) = 0 FROM presence_event_queue', 'everything committed is numbered');

#---------------------------------------------------------------------- the history

sql('ANALYZE; CREATE TABLE history AS SELECT * FROM ONLY presence_events');
is(sql('SELECT min(seq) = 1 AND max(seq) = count(*) AND count(*) = count(DISTINCT seq) FROM history'),
    't', 'numbers are from 1 without a gap');
my $alternates = sub {
    my ($whose, $on, $off) = @_;
    return sql(
        "SELECT count(*) FROM (SELECT event, lag(event, 1, '$off') OVER (PARTITION BY $whose ORDER BY seq) AS before FROM history WHERE event IN ('$on', '$off')) AS e WHERE event = before"
    );
};
is($alternates->('user_id', 'user_online', 'user_offline'), 0, 'each user comes online and goes offline in turn');
is($alternates->('user_id, session_id', 'session_start', 'session_end'), 0, 'so does each session');
is(
    sql(
        "SELECT string_agg(concat_ws(' ', who, event, reason, n), ', ' ORDER BY who) FROM (SELECT who, event, reason, count(*) AS n FROM (SELECT DISTINCT ON (user_id) split_part(user_id, '-', 1) AS who, event, reason FROM history WHERE event LIKE 'user%' ORDER BY user_id, seq DESC) AS last GROUP BY who, event, reason) AS counted"
    ),
    "lost user_offline timeout $n, other user_online heartbeat $n",
    'it ends with the people of the lost gateway offline, and all others online'
);
is(
    sql(
        "SELECT presence_count(), (SELECT count(*) FROM get_active_users()), (SELECT sum(sessions) FROM presence), (SELECT count(*) FILTER (WHERE event = 'user_online') - count(*) FILTER (WHERE event = 'user_offline') FROM history)"
    ),
    "$n|$n|$n|$n",
    'all counts agree'
);

#---------------------------------------------------------------------- what was announced

my $last_seq = sql("SELECT max(seq) FROM history WHERE event LIKE 'user%'");
my $to = sub { return $_[0]{event} eq 'storm' ? $_[0]{to} : $_[0]{seq} };
ok(wait_until($patience, sub { listen_on(); @heard && $to->($heard[-1]) >= $last_seq }),
    'the listener hears of the last event');
my ($before, $disordered, %announced) = (0, 0);
for my $event (@heard) {
    my $from = $event->{event} eq 'storm' ? $event->{from} : $event->{seq};
    $disordered++ if $from <= $before;
    $before = $to->($event);
    $announced{$_}++ for $from .. $before;
}
is($disordered, 0, 'notifications come in the order of the numbers, and none twice');
is((grep { !$announced{$_} } split /\n/, sql("SELECT seq FROM history WHERE event LIKE 'user%'")),
    0, 'and each change of a user is in one of them');
note scalar(@heard) . ' notifications, ' . (grep { $_->{event} eq 'storm' } @heard) . ' of them of a storm';
is(sql("SELECT cardinality(problem) FROM presence_health"), 0, 'all is well');
$_->quit for $listener, $holder;
$node->stop;
done_testing();
