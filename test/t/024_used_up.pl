# What is used up: disk for the log and for tables, shared memory, connections, locks. Whoever is online stays so, what fails says
# why and has written nothing, and once there is room again everything is as it should be.
#
# Small file systems are mounted where only this test sees them, in a namespace of its own.
use strict;
use warnings;

# Before the modules have put the output elsewhere.
my ($is_inside, @namespace);

BEGIN {
    @namespace = qw(unshare --user --mount --map-current-user --keep-caps);
    $is_inside = delete $ENV{PRESENCE_NAMESPACE};
    if (!$is_inside && system("@namespace mount -t tmpfs tmpfs /dev/shm 2>/dev/null") == 0) {
        local $ENV{PRESENCE_NAMESPACE} = 1;
        exec @namespace, $^X, $0 or die "unshare: $!";
    }
}
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

plan skip_all => 'this system lets nobody mount anything in a namespace' if !$is_inside;
my $dir = PostgreSQL::Test::Utils::tempdir_short;

sub mount_small {
    my ($where, $size) = @_;
    mkdir $where;
    system('mount', '-t', 'tmpfs', '-o', "size=$size", 'tmpfs', $where) == 0 or BAIL_OUT("mount $where");
    return;
}

# Takes what is left of it.
sub fill {
    my ($where) = @_;
    open my $file, '>', "$where/ballast" or die $!;
    $file->autoflush;
    my $page = 'x' x 4096;
    1 while syswrite $file, $page;
    close $file;
    return;
}

# Joins people one by one until that fails: how many have, and why no more.
sub join_until_refused {
    my ($node, $database, $most) = @_;
    my ($script, $told, $why) = map {"$dir/$database.$_"} qw(sql out err);
    append_to_file(
        $script, join '',
        "\\set VERBOSITY verbose\n",
        map {"SELECT update_user_heartbeat('guest$_', 's');\n"} 1 .. $most
    );
    my $url = $node->connstr($database);
    system "psql -XAtq -v ON_ERROR_STOP=1 -d \"$url\" -f $script >$told 2>$why";
    return (scalar(() = slurp_file($told) =~ /^t$/mg), slurp_file($why));
}

# Says the same as often as is needed for a session to be in the cache. Who is steady has time, however busy the machine is.
sub make_known {
    my ($node, $database, @users) = @_;
    for my $user (@users) {
        my $interval = $user eq 'steady' ? "'1h'" : 'NULL';
        $node->safe_psql($database, "SELECT update_user_heartbeat('$user', 's', heartbeat_interval => $interval)")
            for 1 .. 3;
    }
    return;
}

# Those who have left by silence and those who are online.
sub ends_well {
    my ($node, $database, $silent, $online, $when) = @_;
    ok(
        wait_until(
            60,
            sub {
                $node->safe_psql($database, "SELECT update_user_heartbeat('$online', 's')");
                $node->safe_psql($database,
                    "SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND user_id = '$silent'") eq '1';
            }
        ),
        "$when: the silent one is told to have left"
    );
    is(
        $node->safe_psql(
            $database, "SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND user_id = '$online'"
        ),
        0,
        "$when: the one who beats never was"
    );
    ok(wait_until(60, sub { $node->safe_psql($database, 'SELECT problem FROM presence_health') eq '{}' }),
        "$when: all is well");
    is($node->safe_psql($database, 'SELECT * FROM presence_verify()'), '', "$when: everything agrees");
    check_gapless($node, $when, $database);
    return;
}

#---------------------------------------------------------------------- disk for the write-ahead log

my $wal = "$dir/wal";
mount_small($wal, '24m');
my $node = new_node(
    'wal',
    extra => ["--waldir=$wal/log", '--wal-segsize=1'],
    conf => "min_wal_size = 2MB\nmax_wal_size = 4MB\nwal_keep_size = 1GB\npresence.timeout = '1min'\n"
);
create_extension($node);
make_known($node, 'postgres', 'steady');
fill($wal);
my ($joined, $why) = join_until_refused($node, 'postgres', 20_000);
cmp_ok($joined, '<', 20_000, "the log is full after $joined have joined");
ok(wait_until(60, sub { !-e $node->data_dir . '/postmaster.pid' }), 'which stops the server');
unlink "$wal/ballast";
delete $node->{_pid};
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) >= $joined FROM presence_user WHERE user_id ~ '^guest'"),
    't', 'nobody is lost of whom a client was told');
is($node->safe_psql('postgres', "SELECT update_user_heartbeat('steady', 's'), count(*) FROM presence_verify()"),
    't|0', 'who was online still is, and everything agrees');
check_gapless($node, 'with room again', 'postgres');
$node->stop;

#---------------------------------------------------------------------- disk for tables and for temporary files

$node = new_node('disk', conf => "presence.timeout = '10min'\nwork_mem = '64kB'\n");
my $disk = "$dir/disk";
mount_small($disk, '40m');
mkdir "$disk/space";
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$disk/space'");
$node->safe_psql('postgres', 'CREATE DATABASE small TABLESPACE small');
create_extension($node, 'small');
make_known($node, 'small', 'steady', 'silent');
$node->safe_psql('small', "SELECT update_user_heartbeat('many' || i, 's') FROM generate_series(1, 2000) AS i");
check_gapless($node, 'before', 'small');
fill($disk);
($joined, $why) = join_until_refused($node, 'small', 5000);
like($why, qr/ERROR:  53100: could not extend file/, "the disk is full after $joined have joined: 53100");
is($node->safe_psql('small', "SELECT count(*) FROM presence_user WHERE user_id ~ '^guest'"),
    $joined, 'who was refused has left nothing behind');
is($node->safe_psql('small', "SELECT update_user_heartbeat('steady', 's')"), 't', 'who is online goes on beating');
is(
    $node->safe_psql('small', 'SELECT count(*) FROM get_active_users()'),
    2002 + $joined,
    'and the list needs no room on the disk'
);
is(
    $node->safe_psql('small', "SET temp_tablespaces = 'small'; SELECT count(*) FROM presence_snapshot()"),
    2002 + $joined,
    'nor does the snapshot'
);
my ($code, $out, $err) =
    $node->psql('small',
    "\\set VERBOSITY verbose\nSET temp_tablespaces = 'small'; SELECT * FROM presence_changes_since(0, 100000)");
like($err, qr/ERROR:  53100/, 'what does need room is refused with 53100');

# Now some of them fall silent, and the worker has no room to say so.
$node->append_conf('postgresql.conf', "presence.timeout = '2s'");
$node->reload;
ok(
    wait_until(
        30,
        sub {
            $node->safe_psql('small', "SELECT update_user_heartbeat('steady', 's')");
            $node->safe_psql('small', "SELECT is_user_online('silent')") eq 'f';
        }
    ),
    'nobody is shown who is silent'
);
unlink "$disk/ballast";
ends_well($node, 'small', 'silent', 'steady', 'with room on the disk again');
$node->stop;

#---------------------------------------------------------------------- shared memory

mount_small('/dev/shm', '2m');
$node = new_node('memory', conf => "presence.timeout = '10min'\ndynamic_shared_memory_type = posix\n");
create_extension($node);
make_known($node, 'postgres', 'steady');
my $people = 15_000;
my $all =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, $people) AS i";
is($node->safe_psql('postgres', $all), $people, 'more people join than there is memory for');
is($node->safe_psql('postgres', $all), $people, 'and all of them beat');
my $cached = $node->safe_psql('postgres', 'SELECT cached_sessions FROM presence_health');
cmp_ok($cached, '<', $people, "only $cached of them are in memory");
like($node->safe_psql('postgres', 'SELECT code, problem FROM presence_problem'),
    qr/^cache_full\|.*\/dev\/shm/, 'presence_problem says so, and what to do');
is(
    $node->safe_psql('postgres', 'SELECT presence_count(), count(*) FROM get_active_users()'),
    ($people + 1) . '|' . ($people + 1),
    'all of them are online'
);
is($node->safe_psql('postgres', 'SELECT * FROM presence_verify()'), '', 'and everything agrees');
system('mount', '-o', 'remount,size=64m', '/dev/shm') == 0 or BAIL_OUT('remount');
ok(
    wait_until(
        60,
        sub {
            $node->safe_psql('postgres', $all);
            $node->safe_psql('postgres', 'SELECT cached_sessions FROM presence_health') eq $people + 1;
        }
    ),
    'once there is memory, all of them are in it'
);
ok(wait_until(60, sub { $node->safe_psql('postgres', 'SELECT problem FROM presence_health') eq '{}' }),
    'and all is well');
$node->stop;

#---------------------------------------------------------------------- connections, and locks

$node = new_node('few', conf => <<'CONF');
presence.timeout = '2s'
max_connections = 10
superuser_reserved_connections = 1
max_locks_per_transaction = 10
max_wal_senders = 0
CONF
create_extension($node);
make_known($node, 'postgres', 'steady', 'silent');
my @connections;
while (@connections < 10) {
    my $next = eval { $node->background_psql('postgres', on_error_stop => 0) } or last;
    push @connections, $next;
}
($code, $out, $err) = $node->psql('postgres', 'SELECT 1');
like($err, qr/too many clients/, 'no connection is left');
my $keep = $connections[0];
ok(
    wait_until(
        30,
        sub {
            $keep->query("SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND user_id = 'silent'") eq
                '1';
        }
    ),
    'the worker needs none to say who has left'
);
$_->quit for splice @connections, 1;

make_known($node, 'postgres', 'quiet');
my $greedy = $node->background_psql('postgres', on_error_stop => 0);
$greedy->query('BEGIN');

$greedy->query(<<'SQL');
DO $$
BEGIN
    FOR i IN 1 .. 100000 LOOP
        BEGIN
            PERFORM pg_advisory_xact_lock(i);
        EXCEPTION WHEN out_of_memory THEN
            RETURN;
        END;
    END LOOP;
END $$
SQL
$keep->query('\set VERBOSITY verbose');
is($keep->query("SELECT update_user_heartbeat('steady', 's')"),
    't', 'without a lock to be had, who is online goes on beating');
$keep->query("SELECT update_user_heartbeat('guest', 's')");
like($keep->{stderr}, qr/53200: out of shared memory/, 'who comes is refused with 53200');
$greedy->query('ROLLBACK');
$greedy->quit;
$keep->quit;
is($node->safe_psql('postgres', "SELECT count(*) FROM presence_user WHERE user_id = 'guest'"),
    0, 'and has left nothing behind');
ends_well($node, 'postgres', 'quiet', 'steady', 'with locks again');
$node->stop;

done_testing();
