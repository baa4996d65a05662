# The server's notification queue is full because a listener sits in a transaction: no heartbeat fails or waits, the feed
# is complete, presence_health says so, and what the worker could not send it sends afterwards.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my ($version) = `pg_config --version` =~ /(\d+)/;
plan skip_all => 'the queue is 8 GB before PostgreSQL 17' if $version < 17;

my $node = new_node('queue', conf => "max_notify_queue_pages = 64\npresence.timeout = '10min'\n");
create_extension($node);
my $worker = has_worker($node);
my $session = $node->background_psql('postgres');
sub ask { return $session->query_safe($_[0]); }
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN presence');
my $heard = '';

sub heard {
    $heard .= $listener->query_safe('SELECT 1');
    return () = $heard =~ /"user_online", "user_id" : "$_[0]\d+"/g;
}

ask("SELECT update_user_heartbeat('before' || i, 's') FROM generate_series(1, 10) AS i");
ok(wait_until(10, sub { heard('before') == 10 }), 'notifications arrive');

my $stuck = $node->background_psql('postgres');
$stuck->query_safe('LISTEN something');
$stuck->query_safe('BEGIN');
my $sent = 0;
for (1 .. 200) {
    my ($code, $out, $err) = $node->psql('postgres', "SELECT pg_notify('filler', repeat('x', 7900))");
    if ($code != 0) { like($err, qr/too many notifications/, "the queue is full after $sent notifications"); last; }
    $sent++;
}
cmp_ok(ask('SELECT pg_notification_queue_usage()'), '>', 0.9, 'nothing goes into it any more');

is(
    ask(
        "SELECT count(*) FROM (SELECT update_user_heartbeat('full' || i, 's') AS online FROM generate_series(1, 200) AS i OFFSET 0) AS beat WHERE online"
    ),
    200,
    'people can join'
);
is(
    ask(
        "SELECT count(*) FROM (SELECT mark_user_offline('full' || i) AS went FROM generate_series(1, 20) AS i OFFSET 0) AS gone WHERE went"
    ),
    20,
    'and leave'
);
is(
    feed_of($node, 'event') =~ s/\n/ /gr =~ s/\w+_(\w+)/$1/gr,
    join(' ', ('start online') x 210, ('end offline') x 20),
    'the feed is complete'
);
like(ask('SELECT problem FROM presence_health'), qr/notification queue/, 'presence_health says what is wrong');
is(heard('full'), 0, 'nothing of it has been sent');

$stuck->query_safe('COMMIT');
SKIP:
{
    skip 'without a worker nobody sends later', 3 if !$worker;
    ok(wait_until(30, sub { heard('full') == 200 }), 'when the listener has gone on, everything is sent');
    my @numbers = $heard =~ /"seq" : (\d+)/g;
    is(scalar(grep { $numbers[$_] <= $numbers[$_ - 1] } 1 .. $#numbers), 0, 'in order, and nothing twice');
    is(() = $heard =~ /"user_offline", "user_id" : "full\d+"/g, 20, 'departures too');
}
ask("SELECT update_user_heartbeat('after' || i, 's') FROM generate_series(1, 10) AS i");
ok(wait_until(10, sub { heard('after') == 10 }), 'and new notifications arrive');
ok(wait_until(10, sub { ask('SELECT problem FROM presence_health') eq '{}' }), 'all is well');

$_->quit for $session, $listener, $stuck;
$node->stop;
done_testing();
