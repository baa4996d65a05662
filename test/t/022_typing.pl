# Who is typing, over restarts of server and worker, prepared transactions, and on a standby.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node =
    new_node('typing', conf => "presence.timeout = '10min'\nmax_prepared_transactions = 5\n", allows_streaming => 1);
create_extension($node);

sub sql { return $node->safe_psql('postgres', join '; ', @_); }

sub typing {
    my ($room) = @_;
    return sql("SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM get_typing('" . ($room // 'lobby') . "')");
}
sub worker { return sql('SELECT worker_pid FROM presence_health'); }

# What a listener hears, one "event user" a line, until the pattern is among it.
my $listener = $node->background_psql('postgres', on_error_stop => 0);
$listener->query_safe('LISTEN presence');
my $heard = '';

sub hears {
    my ($pattern, $what) = @_;
    wait_until(60, sub { $heard .= $listener->query('SELECT 1') . "\n"; return $heard =~ /$pattern/s; });
    return like($heard, qr/$pattern/s, $what);
}

sql("SELECT update_user_heartbeat('ann', 'tab'), update_user_heartbeat('bob', 'tab')");
is(sql("SELECT set_typing('ann', 'tab', 'lobby', '1min')"), 't', 'somebody types');
hears('typing_start[^\n]*"ann"', 'which is announced');

#---------------------------------------------------------------------- another worker

my $worker = worker();
sql("SELECT pg_terminate_backend($worker)");
wait_until(60, sub { my $now = worker(); $now ne '' && $now ne $worker });
is(typing(), 'ann', 'it is not the worker that knows it');
sql("SELECT clear_typing('ann', 'tab')");
hears('typing_stop[^\n]*"ann"', 'the next one announces the end');
is(() = $heard =~ /typing_start/g, 1, 'and the beginning not again');

# While there is none, nothing is announced.
$node->append_conf('postgresql.conf', 'presence.worker = off');
$node->reload;
wait_until(60, sub { worker() eq '' });
is(sql("SELECT set_typing('bob', 'tab', 'lobby', '1min')"), 't', 'without a worker somebody types as well');
is(typing(), 'bob', 'and is seen to');
$node->append_conf('postgresql.conf', 'presence.worker = on');
$node->reload;
hears('typing_start[^\n]*"bob"', 'a worker that comes back in time announces it');
$listener->quit;

# With a channel for each room, there.
my $in_room = $node->background_psql('postgres', on_error_stop => 0);
$in_room->query_safe('LISTEN "presence:hall"');
$node->append_conf('postgresql.conf', 'presence.room_channels = on');
$node->reload;
my $told = '';
wait_until(
    60,
    sub {
        sql("SELECT set_typing('bob', 'tab', 'hall')", "SELECT clear_typing('bob', 'tab', 'hall')");
        $told .= $in_room->query('SELECT 1') . "\n";
        return $told =~ /typing_start/;
    }
);
like($told, qr/"presence:hall"[^\n]*typing_start[^\n]*"room" : "hall"/, 'it is announced on the channel of the room');
$in_room->quit;

#---------------------------------------------------------------------- prepared transactions

sql(
    'BEGIN',
    "SELECT update_user_heartbeat('carl', 'tab')",
    "SELECT set_typing('carl', 'tab', 'hall', '1min')",
    "PREPARE TRANSACTION 'begins'"
);
is(typing('hall'), '', 'who comes by a prepared transaction does not type');
sql("COMMIT PREPARED 'begins'");
is(sql("SELECT set_typing('carl', 'tab', 'hall', '1min')"), 't', 'before that is committed');
sql('BEGIN', "SELECT mark_user_offline('carl')", "PREPARE TRANSACTION 'ends'");
is(typing('hall'), '', 'who leaves by one stops');
is(sql("SELECT set_typing('carl', 'tab', 'hall', '1min')"), 't', 'but may go on');
is(typing('hall'), 'carl', 'and is seen to');
sql("COMMIT PREPARED 'ends'");
is(typing('hall'), '', 'until that is committed');
is(sql("SELECT set_typing('carl', 'tab', 'hall')"), 'f', 'and then no longer');

#---------------------------------------------------------------------- extension and server

sql("SELECT set_typing('ann', 'tab', 'lobby', '1min'), set_typing('bob', 'tab', 'lobby', '1min')");
for my $mode (qw(fast immediate)) {
    restart_server($node, $mode);
    is(typing(), '', "$mode restart: nobody types any more");
    is(sql("SELECT set_typing('ann', 'tab', 'lobby', '1min')"),
        't', "$mode restart: who is online may, without a heartbeat");
}
sql('BEGIN', 'DROP EXTENSION presence', 'ROLLBACK');
is(typing(), '', 'a DROP EXTENSION that is rolled back ends it');
is(sql("SELECT set_typing('ann', 'tab', 'lobby', '1min')"), 't', 'for a moment');
sql('DROP EXTENSION presence', 'CREATE EXTENSION presence');
is(typing(), '', 'with the extension it is gone');
is(sql("SELECT set_typing('ann', 'tab', 'lobby')"), 'f', 'like the session');
sql("SELECT update_user_heartbeat('ann', 'tab'), set_typing('ann', 'tab', 'lobby', '1min')");
is(typing(), 'ann', 'in a new one it begins anew');

#---------------------------------------------------------------------- standby

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('typing_standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT count(*) FROM get_typing('lobby')"), '0', 'a standby shows nobody');
for my $call ("set_typing('ann', 'tab', 'lobby')", "clear_typing('ann', 'tab')") {
    my ($code, $out, $err) = $standby->psql('postgres', "\\set VERBOSITY sqlstate\n SELECT $call");
    like($err, qr/25006/, "it refuses $call");
}
$standby->promote;
is($standby->safe_psql('postgres', "SELECT set_typing('ann', 'tab', 'lobby')"), 't', 'promoted, it does not');
$standby->stop;
$node->stop;
done_testing();
