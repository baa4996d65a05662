# Publications of all tables hinder no call; slots are sent changes and no heartbeats; and a server without the extension follows
# the tables.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $publisher = new_node(
    'publisher',
    allows_streaming => 'logical',
    conf => "presence.timeout = '10min'\npresence.rejoin_guard = 0\n"
);
create_extension($publisher);
sub sql { return $publisher->safe_psql('postgres', join '; ', @_); }
sql('CREATE PUBLICATION everything FOR ALL TABLES');

#---------------------------------------------------------------------- a slot

sql("SELECT FROM pg_create_logical_replication_slot('slot', 'test_decoding')");
my $changes =
    "SELECT count(*) FROM pg_logical_slot_get_changes('slot', NULL, NULL) WHERE data LIKE 'table public.presence_%'";
my $beat_all =
    "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, 50) AS i";
is(sql($beat_all), 50, 'people come');
sql($beat_all);
feed_of($publisher, 'seq');
cmp_ok(sql($changes), '>=', 200, 'the slot is sent users, sessions and events');
sql($beat_all) for 1 .. 10;
sql("SELECT update_user_heartbeat('u' || i, 's') FROM generate_series(1, 50) AS i");
is(sql($changes), 0, 'and of heartbeats nothing');

#---------------------------------------------------------------------- a subscriber

my $subscriber = new_node('subscriber', preload => 0);
my @tables = qw(presence_user presence_session presence_event);
for my $table (@tables) {
    my $columns = sql(
        "SELECT string_agg(format('%I %s', attname, format_type(CASE WHEN typtype = 'd' THEN typbasetype ELSE atttypid END, NULL)), ', ' ORDER BY attnum) FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped"
    );
    my $key = sql(
        "SELECT string_agg(quote_ident(attname), ', ') FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey) WHERE indrelid = '$table'::regclass AND indisprimary"
    );
    $subscriber->safe_psql('postgres', "CREATE TABLE $table ($columns, PRIMARY KEY ($key))");
}
sql('CREATE PUBLICATION followed FOR TABLE ' . join ', ', @tables);
my $address = 'host=' . $publisher->host . ' port=' . $publisher->port . ' dbname=postgres';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION follower CONNECTION '$address' PUBLICATION followed");
$subscriber->wait_for_subscription_sync($publisher, 'follower');

sub follows {
    my ($when) = @_;
    feed_of($publisher, 'seq');
    $publisher->wait_for_catchup('follower');
    for my $table (@tables) {
        my $all = "SELECT count(*), md5(string_agg(t::text, E'\n' ORDER BY t::text COLLATE \"C\")) FROM $table AS t";
        is($subscriber->safe_psql('postgres', $all), sql($all), "$when: $table is the same");
    }
    return;
}
follows('at the beginning');

# Whatever changes rows.
my %calls = (
    join => "update_user_heartbeat('new', 's', metadata => '{\"name\": \"N\"}')",
    details => "update_user_heartbeat('u1', 's', status => 'busy')",
    'second session' => "update_user_heartbeat('u2', 't')",
    'end of one' => "mark_user_offline('u2', 't')",
    'end of a user' => "handle_user_disconnect('u3', NULL)",
    room => "join_room('u4', 's', 'hall')",
    'room left' => "leave_room('u4', 's', 'hall')",
    choice => "set_user_status('u5', 'invisible')",
    'choice undone' => "set_user_status('u5', NULL)",
    erasure => "presence_forget_user('u6')",
    cleanup => 'cleanup_stale_presence()',
    schedule => 'scheduled_presence_cleanup()'
);
for my $what (sort keys %calls) {
    my ($code, undef, $error) = $publisher->psql('postgres', "SELECT $calls{$what}");
    is("$code $error", '0 ', "published, nothing hinders: $what");
}
for my $statement (
    "INSERT INTO presence_policies (name, timeout) VALUES ('short', '5min')",
    "UPDATE presence_policies SET timeout = '4min'",
    'DELETE FROM presence_policies',
    q{SET presence.timeout = '1ms'; SELECT cleanup_stale_presence() > 0},
    "SET presence.event_retention = 0; SET presence.session_retention = 0; SET presence.user_retention = 0; SELECT scheduled_presence_cleanup()"
) {
    my ($code, undef, $error) = $publisher->psql('postgres', $statement);
    is("$code $error", '0 ', "published, nothing hinders: $statement");
}
follows('after all kinds of calls');

is(sql($beat_all), 50, 'all come back');
follows('later');
$publisher->restart;
is(sql($beat_all), 50, 'restarted: all go on');
follows('restarted');
my ($code, undef, $error) = $publisher->psql('postgres', 'SELECT presence_reset()');
is("$code $error", '0 ', 'published, nothing hinders: a reset');
is(sql($beat_all), 50, 'after a reset all come');
follows('after a reset');

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION follower');
sql("SELECT pg_drop_replication_slot('slot')");
$subscriber->stop('fast');
$publisher->stop;
done_testing();
