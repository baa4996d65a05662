# The feed over crashes, copies, promotions, storms, publications, and beside a snapshot that stays open for long.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

# Nothing but what asks for it gets to disk before a crash: no page is written to make room for another one, as the modules'
# setting for standbys has it.
my $node = new_node('feed', allows_streaming => 1, conf => <<'CONF');
synchronous_commit = off
wal_writer_delay = 10s
wal_buffers = 16MB
shared_buffers = 64MB
bgwriter_lru_maxpages = 0
CONF
create_extension($node);

sub sql { return $node->safe_psql('postgres', join '; ', @_); }
sub epoch_of { return $_[0]->safe_psql('postgres', 'SELECT epoch FROM presence_feed_position()'); }

# --- A number that somebody has seen is never given again.

sql(q{SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, 50) AS i});
my $epoch = epoch_of($node);
for my $round (1 .. 3) {
    sql("SELECT update_user_heartbeat('before $round', 's'), mark_user_offline('u$round')");
    my $seen = feed_of($node, 'seq, event, user_id');
    kill_server($node);
    $node->start;
    is(sql('SELECT seq, event, user_id FROM presence_events ORDER BY seq'),
        $seen, "kill -9, synchronous_commit off: the feed that was seen ($round)");
    sql("SELECT update_user_heartbeat('after $round', 's')");
    my $after = feed_of($node, 'seq, event, user_id');
    is(substr($after, 0, length $seen), $seen, 'numbers go on behind it');
}
is(epoch_of($node), $epoch, 'a crash is no new epoch');

# --- A copy of the files is another feed from there on, and so is a promoted standby.

$node->backup('base');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'base');
$copy->start;
isnt(epoch_of($copy), $epoch, 'a copy that is started has another epoch');
is(epoch_of($copy), epoch_of($copy), 'one');
is(
    $copy->safe_psql('postgres', 'SELECT seq FROM presence_feed_position()'),
    sql('SELECT seq FROM presence_feed_position()'),
    'its numbers go on'
);
$copy->stop;

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(epoch_of($standby), $epoch, 'a standby has the epoch of its primary');
is($standby->safe_psql('postgres', 'SELECT DISTINCT epoch FROM presence_snapshot()'), $epoch,
    'in its snapshot as well');
my ($result, $out, $err) =
    $standby->psql('postgres', 'SELECT * FROM presence_changes_since((SELECT seq + 1 FROM presence_feed_position()))');
like($err, qr/the feed ends before seq/, 'and its end');
$standby->promote;
isnt(epoch_of($standby), $epoch, 'promoted: another one');
$standby->stop;
is(epoch_of($node), $epoch, 'the primary keeps its own');

# --- A storm is announced as one, and is whole in the feed.

sub heard {
    my @statements = @_;
    my $said = $node->safe_psql(
        'postgres', join ";\n", 'LISTEN presence', @statements,
        'DO $$ BEGIN WHILE EXISTS (SELECT FROM presence_event_queue) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$',

# Whatever was sent before comes before this one.
        q{SELECT pg_notify('presence', '{"event": "end"}')}
    );
    my @told = map { decode_json($_) } $said =~ /with payload "(.*)" received/g;
    is((pop @told)->{event}, 'end', 'the listener has heard it all');
    return @told;
}
my $join =
    q{SELECT update_user_heartbeats(array_agg('%s' || i), array_agg('s'::text)) FROM generate_series(1, %d) AS i};
my $before = sql('SELECT seq FROM presence_feed_position()');
my @told = heard(sprintf $join, 'few', 900);
is(scalar(grep { $_->{event} eq 'user_online' } @told), 900, 'below presence.storm_threshold each is told');
is(scalar(grep { $_->{epoch} eq $epoch } @told), 900, 'with the epoch');
my $from = sql('SELECT seq FROM presence_feed_position()') + 1;
@told = heard(sprintf $join, 'many', 1100);
my $to = sql('SELECT seq FROM presence_feed_position()');
is_deeply(
    \@told,
    [{ event => 'storm', from => $from, to => $to, online => 1100, offline => 0, epoch => $epoch }],
    'above it, one tells of all'
);
is(
    sql(
        "SELECT count(*), count(DISTINCT seq) FROM presence_changes_since($from - 1, 10000) WHERE event = 'user_online' AND user_id LIKE 'many%'"
    ),
    '1100|1100',
    'who are in the feed, one by one'
);
$node->safe_psql('postgres', 'ALTER SYSTEM SET presence.storm_threshold = 0; SELECT pg_reload_conf()');
my $worker = sql('SELECT worker_pid FROM presence_health');
@told = heard(sprintf $join, 'more', 1100);
is(scalar(grep { $_->{event} eq 'user_online' } @told),
    1100, 'with a threshold of 0 each is told, however many there are');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET presence.storm_threshold; SELECT pg_reload_conf()');

# --- Retention works where each table must say what identifies its rows.

sql('CREATE PUBLICATION everything FOR ALL TABLES');
sql('SET presence.event_retention = 0', 'SELECT scheduled_presence_cleanup()');
is(sql('SELECT count(*) FROM presence_event'), 0, 'retention under a publication of all tables');
is(
    sql('SELECT seq FROM presence_feed_position()'),
    sql('SELECT max(seq) FROM presence_feed_dropped'),
    'the feed ends where it did'
);
sql("SELECT update_user_heartbeat('still', 's')");
my ($rest) = split /\|/, feed_of($node, 'seq, user_id');
is($rest, sql('SELECT max(seq) FROM presence_feed_dropped') + 1, 'and goes on from there');
sql('DROP PUBLICATION everything');

# --- Beside a snapshot that stays open, nothing reads more than without.

# The second time in one session, which has then looked up what it needs from the catalogs.
sub pages_of {
    my ($query) = @_;
    my @plans = split /^(?=\[)/m, sql(("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $query") x 2);
    my $plan = decode_json($plans[-1])->[0]{Plan};
    return $plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'};
}
my $come_and_go = <<'SQL';
CREATE PROCEDURE come_and_go(rounds integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1 .. rounds LOOP
        PERFORM join_room('guest', round::text, 'hall');
        COMMIT;
        PERFORM mark_user_offline('guest');
        COMMIT;
        PERFORM presence_feed_position();
    END LOOP;
END $$
SQL
sql($come_and_go, 'CALL come_and_go(20)');
feed_of($node, 'seq');
sql('ANALYZE');
my %pages = map { $_ => pages_of($_) } 'SELECT presence_count()', "SELECT room_count('hall')",
    'SELECT * FROM presence_feed_position()',
    'SELECT * FROM presence_changes_since((SELECT seq FROM presence_feed_position()))';
my $dump = $node->background_psql('postgres');
$dump->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM presence_user');
sql('CALL come_and_go(500)');
feed_of($node, 'seq');

for my $query (sort keys %pages) {
    cmp_ok(pages_of($query), '<=', $pages{$query} + 4, "as many pages as without it: $query");
}
$dump->query_safe('COMMIT');
$dump->quit;

$node->stop;
done_testing();
