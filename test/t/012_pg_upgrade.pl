# pg_upgrade takes a database with live presence along. It loads every library without preloading it, and looks at what
# a dump and a restore of the catalogs make of the extension.
use strict;
use warnings;
use Cwd;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $old = new_node('old', conf => "presence.rejoin_guard = '1h'\n");
create_extension($old);
$old->safe_psql('postgres',
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i)) FROM generate_series(1, 100) AS i")
    for 1 .. 2;
$old->safe_psql('postgres',
    "SELECT mark_user_offline('u1'), update_user_heartbeat('u2', 's2', status => 'busy', metadata => '{\"at\": 1}')");
my %facts = (
    users =>
        'SELECT user_id, online, status, sessions, online_since, session_id, metadata FROM presence ORDER BY user_id',
    log => 'SELECT * FROM presence_admin_log ORDER BY id'
);
my $feed = feed_of($old, '*');
my %before = map { $_ => $old->safe_psql('postgres', $facts{$_}) } keys %facts;
$old->stop;

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
$new->append_conf('postgresql.conf',
    "timezone = 'UTC'\npresence.rejoin_guard = '1h'\nshared_preload_libraries = 'presence'\n");
my $bindir = $new->config_data('--bindir');
my $here = getcwd;
chdir PostgreSQL::Test::Utils::tempdir or die $!;    # it writes where it is
command_ok(
    [
        'pg_upgrade', '--no-sync', '--old-datadir', $old->data_dir, '--new-datadir', $new->data_dir,
        '--old-bindir', $bindir, '--new-bindir', $bindir, '--socketdir', $new->host,
        '--old-port', $old->port, '--new-port', $new->port
    ],
    'pg_upgrade'
);
chdir $here or die $!;

$new->start;
is($new->safe_psql('postgres', $facts{$_}), $before{$_}, "$_ are there") for sort keys %facts;
is(feed_of($new, '*'), $feed, 'the feed, number for number');
is(
    $new->safe_psql(
        'postgres',
        "SELECT update_user_heartbeat('u1', 's1'), update_user_heartbeat('u2', 's2'), update_user_heartbeat('new', 's')"
    ),
    'f|t|t',
    'heartbeats go on'
);
is(feed_of($new, 'seq'), join("\n", 1 .. 2 + split /\n/, $feed), 'and so does the feed');
is($new->safe_psql('postgres', 'SELECT cleanup_stale_presence(), problem FROM presence_health'), '0|{}', 'all is well');
$new->stop;
done_testing();
