# Copies of a cluster other than a standby that follows: recovery to a point in time, a former primary that is rewound, and a
# cluster whose transaction ids are nearly used up.
use strict;
use warnings;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $conf =
    "presence.timeout = '10min'\npresence.rejoin_guard = '1h'\nwal_log_hints = on\nwal_keep_size = '1GB'\nmax_prepared_transactions = 5\n";
my $beat_all =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, 50) AS i";

# Who is online, in which rooms, what their sessions are, and what is known of those who are not.
my %facts = (
    users =>
        'SELECT user_id, online, status, sessions, online_since, session_id, metadata FROM presence ORDER BY user_id',
    sessions =>
        'SELECT user_id, session_id, online, status, joined_at, ended_at, end_reason, metadata FROM presence_sessions ORDER BY user_id, session_id',
    room => "SELECT user_id, entered_at FROM get_room('hall') ORDER BY user_id"
);

sub facts_of {
    my ($node) = @_;
    return { map { $_ => $node->safe_psql('postgres', $facts{$_}) } keys %facts };
}

sub ids {
    my ($node, $condition) = @_;
    return $node->safe_psql('postgres',
        "SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM presence WHERE online AND user_id $condition");
}
sub epoch { return $_[0]->safe_psql('postgres', 'SELECT epoch FROM presence_feed_position()'); }
sub last_seq { return $_[0]->safe_psql('postgres', 'SELECT seq FROM presence_feed_position()'); }

# What holds of each copy, however it came to be: it is a server of its own that goes on.
sub goes_on {
    my ($node, $what) = @_;
    is(
        $node->safe_psql('postgres', "SELECT update_user_heartbeat('fresh', 's'), update_user_heartbeat('fresh', 's')"),
        't|t',
        "$what: people come"
    );
    is($node->safe_psql('postgres', "SELECT mark_user_offline('fresh'), update_user_heartbeat('fresh', 's')"),
        't|f', "$what: and go");
    is(
        $node->safe_psql(
            'postgres', "SELECT count(*) FROM presence_events WHERE event = 'user_offline' AND reason = 'timeout'"
        ),
        0,
        "$what: nobody was thrown out"
    );
    ok(wait_until(60, sub { $node->safe_psql('postgres', 'SELECT problem FROM presence_health') eq '{}' }),
        "$what: all is well");
    check_gapless($node, $what);
    return;
}

#---------------------------------------------------------------------- recovery to a point in time

my $primary = new_node('primary', has_archiving => 1, allows_streaming => 1, conf => $conf);
create_extension($primary);
sub on_primary { return $primary->safe_psql('postgres', join '; ', @_); }
on_primary($beat_all) for 1 .. 2;
on_primary("SELECT join_room('u3', 's', 'hall'), join_room('u4', 's', 'hall')");
$primary->backup('backup');
on_primary(
    "SELECT update_user_heartbeat('early', 's'), mark_user_offline('u1'), leave_room('u3', 's', 'hall'), set_user_status('u5', 'busy')"
);
on_primary('BEGIN', "SELECT update_user_heartbeat('prepared', 's')", "PREPARE TRANSACTION 'copied'");
my $known = facts_of($primary);
my $seq = last_seq($primary);
on_primary("SELECT pg_create_restore_point('then')");
on_primary("COMMIT PREPARED 'copied'",
    "SELECT update_user_heartbeat('late', 's'), mark_user_offline('u2'), join_room('u6', 's', 'hall')");
on_primary($beat_all);
my $later = last_seq($primary);
cmp_ok($later, '>', $seq, 'there is more than is recovered');
my $segment = on_primary('SELECT pg_walfile_name(pg_current_wal_lsn())');
on_primary('SELECT pg_switch_wal()');
ok($primary->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver"),
    'it is archived');

my $recovered = PresenceNode::Server->new('recovered');
$recovered->init_from_backup($primary, 'backup', has_restoring => 1);
$recovered->append_conf('postgresql.conf',
    "recovery_target_name = 'then'\nrecovery_target_action = 'promote'\narchive_mode = off\n");
$recovered->start;
ok($recovered->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'recovered: up to the point');
is_deeply(facts_of($recovered), $known, 'recovered: what was known then');
is(ids($recovered, "!~ '^u'"), 'early', 'recovered: who came later is not there');
isnt(epoch($recovered), epoch($primary), 'recovered: a feed of its own');
my ($code, $out, $err) = $recovered->psql('postgres', "SELECT presence_changes_since($later)");
isnt($code, 0, 'recovered: a reader of the numbers that are gone is told so');
is($recovered->safe_psql('postgres', "COMMIT PREPARED 'copied'"), '', 'recovered: what was prepared can be decided');
is($recovered->safe_psql('postgres', "SELECT is_user_online('prepared'), update_user_heartbeat('prepared', 's')"),
    't|t', 'recovered: and that one is online');
is($recovered->safe_psql('postgres', $beat_all), '49', 'recovered: heartbeats of all but of who had left');
goes_on($recovered, 'recovered');
$recovered->stop;

#---------------------------------------------------------------------- a former primary, rewound

$primary->backup('again');
my $standby = PresenceNode::Server->new('standby');
$standby->init_from_backup($primary, 'again', has_streaming => 1);
$standby->append_conf('postgresql.conf', "archive_mode = off\n");
$standby->start;
on_primary($beat_all);
$primary->wait_for_catchup($standby);
$standby->promote;
ok($standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'a failover');

# The primary that is no more does not know, and its file of heartbeats has what the new one never heard.
on_primary("SELECT update_user_heartbeat('lost', 's'), mark_user_offline('u7'), join_room('u8', 's', 'hall')");
on_primary($beat_all) for 1 .. 2;
$standby->safe_psql('postgres',
    "SELECT update_user_heartbeat('kept', 's'), mark_user_offline('u9'), join_room('u10', 's', 'hall')");
$standby->safe_psql('postgres', $beat_all) for 1 .. 2;
$standby->safe_psql('postgres', 'CHECKPOINT');
$primary->stop;

my $own_conf = $primary->data_dir . '/postgresql.conf';
my $kept_conf = PostgreSQL::Test::Utils::tempdir . '/postgresql.conf';
copy($own_conf, $kept_conf) or die $!;
command_ok(
    ['pg_rewind', '--no-sync', '--target-pgdata', $primary->data_dir, '--source-server', $standby->connstr('postgres')],
    'pg_rewind'
);
copy($kept_conf, $own_conf) or die $!;    # it takes the other's over
$primary->append_conf('postgresql.conf',
    "archive_mode = off\nprimary_conninfo = 'host=" . $standby->host . ' port=' . $standby->port . "'\n");
$primary->set_standby_mode;
$primary->start;
$standby->wait_for_catchup($primary);
is_deeply(facts_of($primary), facts_of($standby), 'rewound: it shows what the new primary shows');
is(ids($primary, "!~ '^u'"), ids($standby, "!~ '^u'"), 'rewound: nothing of its own is left');
unlike(ids($primary, "!~ '^u'"), qr/lost/, 'rewound: nor who came there alone');
is(epoch($primary), epoch($standby), 'rewound: the feed is the same');
is(last_seq($primary), last_seq($standby), 'rewound: up to the same number');

$known = facts_of($standby);
$seq = last_seq($standby);
$standby->stop;
$primary->promote;
ok($primary->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), 'and back');
is_deeply(facts_of($primary), $known, 'promoted again: nobody is missing, and nobody too many');
is(on_primary('SELECT cleanup_stale_presence()'), 0, 'promoted again: nor is anybody to be ended');
is(on_primary($beat_all), '47', 'promoted again: heartbeats of all but of those who had left');
goes_on($primary, 'promoted again');
cmp_ok(last_seq($primary), '>', $seq, 'promoted again: numbers go on');
$primary->stop;

#---------------------------------------------------------------------- transaction ids nearly used up

# Without the autovacuum that such an age starts by itself, and that would make the databases young before anybody looks.
my $old = new_node('old', conf => "${conf}autovacuum_freeze_max_age = 2000000000\n");
create_extension($old);
$old->safe_psql('postgres', 'CREATE DATABASE idle');
create_extension($old, 'idle');
$old->safe_psql('idle', "SELECT update_user_heartbeat('idler', 's')");
$old->safe_psql('postgres', $beat_all) for 1 .. 2;
$old->stop;
my $next = 1800 * 32768 * 32;    # the first id of a segment of pg_xact, which the server finds zeroed
command_ok(['pg_resetwal', '--next-transaction-id', $next, $old->data_dir], 'transaction ids go by');
append_to_file($old->data_dir . sprintf('/pg_xact/%04X', 1800), "\0" x (32 * 8192));
$old->start;
my $ages = "SELECT string_agg(datname, ' ') FROM pg_database WHERE age(datfrozenxid) > 1000000000";
like($old->safe_psql('postgres', $ages), qr/idle/, 'old: databases are of an age at which the server worries');
is($old->safe_psql('postgres', $beat_all), '50', 'old: heartbeats go on');
is($old->safe_psql('idle', "SELECT update_user_heartbeat('idler', 's'), presence_count()"),
    't|1', 'old: in each database');
SKIP: {
    skip 'needs the background worker', 1 unless has_worker($old, 'idle');
    ok(
        $old->poll_query_until(
            'postgres',
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'presence%' AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"
        ),
        'old: no process of the extension holds a snapshot'
    );
}
for my $database (qw(postgres idle template1)) { $old->safe_psql($database, 'VACUUM FREEZE'); }
is($old->safe_psql('postgres', "$ages AND datname <> 'template0'"), '', 'old: and nothing keeps vacuum from it');
is($old->safe_psql('postgres', 'SELECT presence_count()'), 50, 'old: everybody is online');
goes_on($old, 'old');
$old->stop;
done_testing();
