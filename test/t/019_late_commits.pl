# A session whose first heartbeat is committed later than its timeout is ended soon, however the commit came about.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('late', conf => "max_prepared_transactions = 5\npresence.timeout = '1s'\n");
create_extension($node);
ok(has_worker($node), 'there is a worker');
sub sql { return $node->safe_psql('postgres', $_[0]); }

# Once the worker has ended a session that began later, it has also met the one that nobody else can see, and forgotten it. A
# moment later it has read the table, in vain: two more sessions begin and end meanwhile.
my $round = 0;

sub wait_for_search {
    for (1 .. 3) {
        my $user = 'probe' . ++$round;
        sql("SELECT update_user_heartbeat('$user', 's')");
        ok(wait_until(30, sub { sql("SELECT online FROM presence_user WHERE user_id = '$user'") eq 'f' }),
            'the worker has searched meanwhile');
    }
    return;
}

sub is_ended {
    my ($user, $name) = @_;
    ok(wait_until(30, sub { sql("SELECT online FROM presence_user WHERE user_id = '$user'") eq 'f' }), $name);
    return;
}

my $session = $node->background_psql('postgres');

# What the cache keeps of a session is not true when the transaction that has changed it comes to nothing.
sub begin_anew {
    my ($user) = @_;
    $session->query_safe("SELECT update_user_heartbeat('$user', NULL)") for 1 .. 3;
    $session->query_safe("BEGIN; SELECT mark_user_offline('$user'); SELECT update_user_heartbeat('$user', NULL)");
    return;
}

$session->query_safe("BEGIN; SELECT update_user_heartbeat('long', 's')");
wait_for_search();
$session->query_safe('COMMIT');
is_ended('long', 'in a long transaction');

$session->query_safe("BEGIN; SELECT update_user_heartbeat('prepared', 's')");
$session->query_safe("PREPARE TRANSACTION 'one'");
wait_for_search();
sql("COMMIT PREPARED 'one'");
is_ended('prepared', 'in a prepared transaction');

begin_anew('undone');
$session->query_safe('ROLLBACK');
is_ended('undone', 'that has begun anew in a transaction that is rolled back');

begin_anew('decided');
$session->query_safe("PREPARE TRANSACTION 'one'");
sql("ROLLBACK PREPARED 'one'");
is_ended('decided', 'in a prepared one that is rolled back');

$session->query_safe("BEGIN; SELECT update_user_heartbeat('restarted', 's')");
$session->query_safe("PREPARE TRANSACTION 'two'");
$session->quit;
$node->restart;
ok(has_worker($node), 'a restart');
wait_for_search();
sql("COMMIT PREPARED 'two'");
is_ended('restarted', 'in one that was prepared before a restart');
$node->stop;
done_testing();
