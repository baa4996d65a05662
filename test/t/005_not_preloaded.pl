# Without the library preloaded everything works on the tables, and heartbeats stay HOT by the server's own counters.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('plain', preload => 0, conf => "autovacuum = off\n");
create_extension($node);
sub sql { return $node->safe_psql('postgres', $_[0]); }

is(sql("SELECT update_user_heartbeat('ann', 'a'), update_user_heartbeat('ann', 'b'), update_user_heartbeat('bob')"),
    't|t|t', 'sessions begin');
is(sql("SELECT update_user_heartbeats(ARRAY['ann', 'ann', 'bob', 'cid'], ARRAY['a', 'b', NULL, 'x'])"),
    4, 'batches work');
is(
    sql(
        "SELECT presence_count(), is_user_online('ann'), (SELECT string_agg(user_id, ',' ORDER BY user_id) FROM get_active_users())"
    ),
    '3|t|ann,bob,cid',
    'and so do readers'
);
is(
    sql("SELECT mark_user_offline('ann', 'a'), handle_user_disconnect('ann', 'b'), update_user_heartbeat('ann', 'b')"),
    'f|t|f', 'departures and tombstones'
);
is(sql("SET presence.timeout = 1; SELECT pg_sleep(0.01); SELECT cleanup_stale_presence()"), "\n2", 'cleanup');
is(feed_of($node, "user_id || ' ' || event") =~ tr/\n//, 13, 'the feed');
is(sql("SELECT cached_sessions, cache_hits, worker_pid IS NULL FROM presence_health"),
    '0|0|t', 'there is neither cache nor worker');
like(
    sql('SELECT array_to_string(problem, chr(10)) FROM presence_health'),
    qr/not preloaded.*add presence to shared_preload_libraries and restart/,
    'presence_health says how to get the fast one'
);

#---------------------------------------------------------------------- HOT

# Sessions in full pages, beating for a long time through many connections, without any vacuum.
my ($users, $beats) = (1000, 20000);
sql('TRUNCATE presence_session, presence_user, presence_event, presence_feed_range');
my $join =
    "SELECT sum(update_user_heartbeats(ARRAY(SELECT 'u' || i FROM generate_series(1, $users) AS i), array_fill(tab, ARRAY[$users]))) FROM unnest(ARRAY['s1', 's2', 's3']) AS tab";
is(sql($join), 3 * $users, 'everybody joins');

# The counters of a connection come a while after its last answer.
my $joined =
    "SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname IN ('presence_session', 'presence_user') HAVING min(n_tup_ins) >= $users";
ok(wait_until(30, sub { (sql($joined) || 0) >= 4 * $users }), 'and has been counted');
sql("VACUUM presence_session, presence_user; SELECT pg_stat_reset()");
my $size = sql("SELECT pg_relation_size('presence_session')");
$node->pgbench(
    '--no-vacuum --client=4 --jobs=2 --protocol=prepared --transactions=' . $beats / 4,
    0,
    [qr{actually processed: $beats/$beats}],
    [qr{^$}],
    'heartbeats of many clients on the table',
    {
        'heartbeats' =>
            "\\set u random(1, $users)\n\\set s random(1, 3)\nSELECT update_user_heartbeat('u' || :u, 's' || :s);"
    }
);

my $counters =
    "SELECT n_tup_upd, n_tup_hot_upd, n_tup_ins, n_tup_del FROM pg_stat_user_tables WHERE relname = 'presence_session'";
wait_until(30, sub { (split /\|/, sql($counters))[0] >= $beats });
my ($updated, $hot, $inserted, $deleted) = split /\|/, sql($counters);
is($updated, $beats, 'each heartbeat updated its row');
cmp_ok($hot / $updated, '>', 0.99, "by HOT updates ($hot of $updated)");
is("$inserted $deleted", '0 0', 'and nothing else');
is(sql("SELECT n_tup_upd + n_tup_ins + n_tup_del FROM pg_stat_user_tables WHERE relname = 'presence_user'"),
    0, 'no row version of a user');
is(sql('SELECT count(*) FROM presence_events'), 6 * $users - 2 * $users, 'no event');
cmp_ok(sql("SELECT pg_relation_size('presence_session')"),
    '<=', 2 * $size, 'and the table does not grow with the heartbeats');

$node->stop;

#---------------------------------------------------------------------- promotion

# Nobody could beat before, so each has a full timeout from then on, however long the standby has been running.
my $primary = new_node(
    'primary',
    preload => 0,
    allows_streaming => 1,
    conf => "presence.timeout = '2s'\npresence.max_timeout = '2s'\n"
);
create_extension($primary);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
my $reader = $standby->background_psql('postgres');    # has been connected since before
$reader->query_safe("SELECT is_user_online('ann')");
$primary->safe_psql('postgres', "SELECT update_user_heartbeat('ann', 's')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
my $silent = "SELECT heartbeat_at < clock_timestamp() - interval '3 seconds' FROM presence_session";
ok(wait_until(30, sub { $standby->safe_psql('postgres', $silent) eq 't' }), 'a standby older than the timeout');
$primary->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', "SELECT is_user_online('ann'), cleanup_stale_presence()"),
    't|0', 'promoted, it throws nobody out at once');
is($reader->query_safe("SELECT is_user_online('ann')"), 't', 'nor does a connection from before');
ok(wait_until(30, sub { $standby->safe_psql('postgres', 'SELECT cleanup_stale_presence()') eq '1' }),
    'but after a timeout of silence');
$reader->quit;
$standby->stop;
done_testing();
