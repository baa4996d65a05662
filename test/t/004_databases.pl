# Several databases of one server: each has its own presence, whatever is done to the others.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();
use PresenceNode;

my $node = new_node('databases');
sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }
sub seconds { my ($code) = @_; my $from = Time::HiRes::time; $code->(); return Time::HiRes::time - $from; }

sql('postgres', 'CREATE DATABASE one; CREATE DATABASE two');
create_extension($node, $_) for qw(one two);

#---------------------------------------------------------------------- two at once

for my $database (qw(one two)) {
    sql($database, "SELECT update_user_heartbeats(ARRAY['ann', 'bob'], ARRAY['s', 's'])") for 1 .. 3;
}
is(sql('one', 'SELECT cached_sessions FROM presence_health'), 2, 'each database counts its own cache entries');
is(sql('one', "SELECT mark_user_offline('ann')"), 't', 'ann leaves one database');
is(sql('one', "SELECT is_user_online('ann')"), 'f', 'and is offline there');
is(sql('two', "SELECT is_user_online('ann'), update_user_heartbeat('ann', 's')"), 't|t', 'but not in the other');
is(sql('two', "SELECT count(*) FROM presence_changes_since(0)"), 4, 'whose feed tells nothing of it');
is(sql('one', "SET presence.timeout = 1; SELECT cleanup_stale_presence()"),
    1, 'cleanup ends the stale ones of its own database');
is(sql('two', 'SELECT presence_count()'), 2, 'and of no other');

my $listener = $node->background_psql('two');
$listener->query_safe('LISTEN presence');
sql('one', "SELECT update_user_heartbeat('zoe', 's')");
sql('two', "SELECT update_user_heartbeat('yan', 's')");
my $heard = '';
ok(wait_until(10, sub { ($heard .= $listener->query_safe('SELECT 1')) =~ /yan/ }),
    'a listener hears of its own database');
unlike($heard, qr/zoe/, 'and of no other');
$listener->quit;

#---------------------------------------------------------------------- a copy of a database

sql('two', "SELECT update_user_heartbeat('ann', 's', status => 'busy')") for 1 .. 2;
cmp_ok(seconds(sub { sql('postgres', 'CREATE DATABASE copy TEMPLATE two') }),
    '<', 20, 'CREATE DATABASE from one with live presence is not blocked');
is(sql('copy', 'SELECT presence_count()'), 3, 'the copy has everybody');
is(sql('copy', 'SELECT cached_sessions FROM presence_health'), 0, 'and begins with an empty cache');
is(sql('copy', "SELECT mark_user_offline('ann')"), 't', 'who leaves the copy');
is(sql('two', "SELECT is_user_online('ann'), update_user_heartbeat('ann', 's')"), 't|t', 'stays in the original');
is(feed_of($node, 'seq', 'copy'), join("\n", 1 .. 9), 'the feed of the copy goes on');
is(feed_of($node, 'seq', 'two'), join("\n", 1 .. 7), 'and so does the original one');

# From a template that nobody uses.
sql('two', 'CREATE DATABASE mould');
create_extension($node, 'mould');
sql('mould', "SELECT update_user_heartbeat('eve', 's')") for 1 .. 3;
cmp_ok(
    seconds(
        sub {
            sql('postgres', 'ALTER DATABASE mould IS_TEMPLATE true');
            sql('postgres', 'CREATE DATABASE moulded TEMPLATE mould');
        }
    ),
    '<',
    4,
    'a template database with the extension is not blocked'
);
is(sql('moulded', "SELECT is_user_online('eve'), update_user_heartbeat('eve', 's')"),
    't|t', 'and what is made from it works');

#---------------------------------------------------------------------- rename, move, drop

cmp_ok(seconds(sub { sql('postgres', 'ALTER DATABASE two RENAME TO three') }),
    '<', 20, 'ALTER DATABASE RENAME is not blocked');
is(sql('three', "SELECT is_user_online('ann'), update_user_heartbeat('ann', 's')"),
    't|t', 'and presence goes on under the new name');
cmp_ok(seconds(sub { sql('postgres', 'DROP DATABASE three') }), '<', 20, 'DROP DATABASE is not blocked');
sql('postgres', 'CREATE DATABASE two');
create_extension($node, 'two');
is(sql('two', 'SELECT cached_sessions FROM presence_health'), 0, 'a new database of the old name knows nothing');
is(sql('two', "SELECT count(*) FROM presence"), 0, 'of anybody');
is(sql('two', "SELECT update_user_heartbeat('ann', 's')"), 't', 'and works');
is(sql('two', 'SELECT min(seq) FROM presence_changes_since(0)'), 1, 'with a feed of its own');
sql('postgres', 'ALTER DATABASE mould IS_TEMPLATE false');
cmp_ok(seconds(sub { sql('postgres', "DROP DATABASE $_") for qw(copy moulded mould) }),
    '<', 20, 'the others can be dropped too');

# Many databases come and go: shared memory does not fill up.
for my $round (1 .. 5) {
    sql('postgres', "CREATE DATABASE round$round TEMPLATE one");
    sql("round$round",
        "SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, 500) AS i")
        for 1 .. 2;
    sql('postgres', "DROP DATABASE round$round");
}
is(sql('one', "SELECT is_user_online('zoe'), cardinality(problem) FROM presence_health"),
    't|0', 'after many databases have come and gone, all is well in the first');

#---------------------------------------------------------------------- the extension itself

sql('one', "SELECT update_user_heartbeat('ann', 't')") for 1 .. 3;
my $other = $node->background_psql('one');
$other->query_safe("SELECT update_user_heartbeat('ann', 't')");
cmp_ok(seconds(sub { sql('one', 'DROP EXTENSION presence') }), '<', 20, 'DROP EXTENSION is not blocked');
is(sql('one', "SELECT count(*) FROM pg_class WHERE relname LIKE 'presence%'"), 0, 'and leaves no relation');
is(sql('one', "SELECT count(*) FROM pg_proc WHERE proname LIKE '%presence%' OR proname LIKE '%user_heartbeat%'"),
    0, 'no function');
is(sql('one', "SELECT count(*) FROM pg_type WHERE typname LIKE '%presence%'"), 0, 'and no type');
create_extension($node, 'one');
is($other->query_safe("SELECT update_user_heartbeat('ann', 't')"),
    't', 'a connection that knew the old one begins anew');
is($other->query_safe("SELECT count(*) FROM presence_changes_since(0)"), 2, 'with the first events of the new one');
is(sql('one', 'SELECT cached_sessions FROM presence_health'), 1, 'no entry but its own outlives the extension');
$other->quit;

$node->stop;
done_testing();
