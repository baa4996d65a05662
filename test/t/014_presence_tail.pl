# presence_tail over restarts and crashes of the server: every event of the feed once, in order, without being started again.
use strict;
use warnings;
use IPC::Run qw(start);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('tail', conf => "presence.notify_level = 'session'\npresence.storm_threshold = 100\n");
create_extension($node);
chomp(my $bindir = `$ENV{PG_CONFIG} --bindir`);

sub sql { return $node->safe_psql('postgres', join '; ', @_); }

my @running;

sub tail_with {
    my %tail = (out => '', err => '');
    $tail{process} = start(["$bindir/presence_tail", @_, $node->connstr('postgres')],
        '<', \undef, '>', \$tail{out}, '2>', \$tail{err});
    push @running, \%tail;
    return \%tail;
}

sub printed {
    my ($tail) = @_;
    $tail->{process}->pump_nb;
    return $tail->{out};
}

# The numbers of the events that it has printed so far.
sub numbers {
    my ($tail) = @_;
    my @lines = map { decode_json($_) } grep {/^\{.*\}$/} split /\n/, printed($tail) =~ s/[^\n]*\z//r;
    return join ' ', map { $_->{seq} } grep { defined $_->{event} && defined $_->{seq} } @lines;
}
sub in_feed { return join ' ', split /\n/, feed_of($node, 'seq'); }

sub told_all {
    my ($tail, $when) = @_;
    my $expected = in_feed();
    wait_until(60, sub { numbers($tail) eq $expected });
    return is(numbers($tail), $expected, $when);
}

sql("SELECT update_user_heartbeat('ann', 's')");
my $tail = tail_with('--json', '--since', '0');
told_all($tail, 'what came before it');
sql("SELECT update_user_heartbeat('bob', 's'), mark_user_offline('ann')");
told_all($tail, 'what comes while it listens');

for my $mode (qw(fast immediate)) {
    sql("SELECT update_user_heartbeat('before $mode', 's')");
    restart_server($node, $mode);
    sql("SELECT update_user_heartbeat('after $mode', 's')");
    told_all($tail, "$mode restart: no gap and no repeat");
}
$node->safe_psql('postgres',
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'presence_tail'");
sql("SELECT mark_user_offline('bob')");
told_all($tail, 'its connection is ended: no gap and no repeat');

my $last = sql('SELECT max(seq) FROM presence_events');
my $later = tail_with('--json', '--since', $last);
my $people = tail_with();
my $count = tail_with('--count');
my $top = tail_with('--top');
my $top_as_json = tail_with('--top', '--json');
ok(wait_until(30, sub { printed($people) =~ /after fast/ }), 'without --since it begins with the list')
    or diag($people->{out}, $people->{err});
ok(wait_until(30, sub { printed($count) =~ /\b4\b/ }), '--count shows how many are online')
    or diag($count->{out}, $count->{err});
sql("SELECT update_user_heartbeat('cid', 's')");
wait_until(30, sub { numbers($later) ne '' });
is(numbers($later), join(' ', $last + 1, $last + 2), '--since: only what came after');
sql("SELECT join_room('cid', 's', 'lobby'), leave_room('cid', 's', 'lobby')");
ok(wait_until(30, sub { printed($people) =~ /cid +room_join lobby .*cid +room_leave lobby: leave/s }),
    'it says in which room')
    or diag($people->{out});
ok(wait_until(30, sub { printed($people) =~ /cid/ }), 'and goes on with what comes')
    or diag($people->{out}, $people->{err});
ok(wait_until(30, sub { printed($count) =~ /\b5\b/ }), '--count follows') or diag($count->{out}, $count->{err});

ok(wait_until(30, sub { printed($top) =~ /5 users online, a second: \d.* heartbeats, \d.* come, \d.* go$/m }),
    '--top shows rates')
    or diag($top->{out}, $top->{err});
ok(
    wait_until(
        30,
        sub {
            printed($top_as_json) =~ /^(\{.*"presence_users_online": 5.*\})$/m
                && decode_json($1)->{'presence_heartbeats_total table'} > 0;
        }
    ),
    'or all there is'
) or diag($top_as_json->{out}, $top_as_json->{err});

# A storm is announced as one, but printed event by event.
sql("SELECT update_user_heartbeats(array_agg('s' || i), array_agg('s'::text)) FROM generate_series(1, 150) AS i");
told_all($tail, 'a storm: no gap and no repeat');

# An extension made anew gives the same numbers to other events, here more than it had printed.
my $printed = split / /, numbers($tail);

# It looks again when that is so.
$tail->{process}->signal('STOP');
sql('DROP EXTENSION presence');
create_extension($node);
sql("SELECT update_user_heartbeats(array_agg('n' || i), array_agg('s'::text)) FROM generate_series(1, $printed) AS i");
feed_of($node, 'seq');
$tail->{process}->signal('CONT');
sql("SELECT update_user_heartbeat('anew', 's')");
ok(wait_until(30, sub { printed($tail) =~ /"anew"/ }), 'an extension made anew: it follows') or diag($tail->{err});
like($tail->{err}, qr/this is not the feed that it was; starting again/, 'from the list, and says so');
is(scalar(() = printed($tail) =~ /"n$printed"/g), 1, 'which has those who came meanwhile');

# A pipe that is full, and that nobody reads.
pipe my $unread, my $full or die $!;
$full->blocking(0);
1 while syswrite $full, 'x';
$full->blocking(1);
my $stuck = do {
    local $ENV{PGAPPNAME} = 'stuck';
    start(["$bindir/presence_tail", '--json', '--since', '0', $node->connstr('postgres')],
        '<', \undef, '>', $full, '2>', \my $ignored);
};
my $has_read =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stuck' AND query LIKE '%presence_changes_since(%' AND state = 'idle'";
ok(wait_until(30, sub { sql($has_read) eq '1' }), 'one whose output is blocked has read the feed');
ok(!$stuck->kill_kill(grace => 10), 'it ends when asked, though nobody reads what it prints');

ok(!$_->{process}->kill_kill, 'and so do all others') for @running;
$node->stop;
done_testing();
