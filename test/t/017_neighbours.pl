# One bad neighbour: who holds a lock costs what it locks, and nobody else; the worker waits for nobody without bound, and
# presence_health says for whom.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('neighbours', conf => "presence.timeout = '10min'\npresence.max_timeout = '1h'\n");
create_extension($node);
ok(has_worker($node), 'there is a worker');
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $problem = "SELECT array_to_string(problem, chr(10)) FROM presence_health";
my $worker = sql('SELECT worker_pid FROM presence_health');
my $neighbour = $node->background_psql('postgres');
my $pid = $neighbour->query_safe('SELECT pg_backend_pid()');

#---------------------------------------------------------------------- locked users

# More than a search takes at a time, and all of them before the others in the table and in the cache.
my $locked = 2500;
sql(
    "SELECT update_user_heartbeats(array_agg('locked' || i), array_agg('s'::text)) FROM generate_series(1, $locked) AS i"
);
$neighbour->query_safe(
    "BEGIN; SELECT count(*) FROM (SELECT FROM presence_user WHERE user_id LIKE 'locked%' FOR UPDATE) AS held");
sql("SELECT update_user_heartbeats(array_agg('other' || i), array_agg('s'::text)) FROM generate_series(1, 100) AS i");
sql("ALTER SYSTEM SET presence.timeout = '1s'; SELECT pg_reload_conf()");
ok(wait_until(60, sub { sql("SELECT count(*) FROM presence_user WHERE online AND user_id LIKE 'other%'") eq '0' }),
    'those whom nobody locks are ended, however many others are locked');
is(sql("SELECT count(*) FROM presence_user WHERE online AND user_id LIKE 'locked%'"), $locked, 'while these are');
ok(wait_until(30, sub { sql($problem) =~ /The worker cannot end sessions: process $pid holds locks/ }),
    'presence_health says who holds them');
$neighbour->query_safe('ROLLBACK');
ok(wait_until(60, sub { sql("SELECT count(*) FROM presence_user WHERE online") eq '0' }), 'then they are ended too');
ok(wait_until(30, sub { sql($problem) eq '' }), 'and all is well');

#---------------------------------------------------------------------- locked tables

# Whoever waits for that lock waits for a moment, and holds back no vacuum meanwhile.
for my $lock ('LOCK TABLE presence_session', 'LOCK TABLE presence_user', 'DROP EXTENSION presence') {
    sql("SELECT update_user_heartbeat('ann', 's')");
    $neighbour->query_safe("BEGIN; $lock");

# While the extension is being dropped, its views can't be read.
    my $view = "SELECT worker_problem FROM presence_server_state()";
    ok(wait_until(30, sub { sql($view) =~ /The worker cannot [a-z ]+: process $pid holds locks/ }),
        "$lock: presence_health says for whom the worker waits")
        if $lock !~ /^DROP/;
    ok(
        wait_until(
            30,
            sub {
                sql(
                    "SELECT wait_event_type IS DISTINCT FROM 'Lock' AND backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $worker"
                ) eq 't';
            }
        ),
        "$lock: it does not wait for ever"
    );
    $neighbour->query_safe('ROLLBACK');
    ok(wait_until(30, sub { sql("SELECT count(*) FROM presence_user WHERE online") eq '0' }),
        "$lock: afterwards who fell silent is ended");
}
ok(wait_until(30, sub { sql($problem) eq '' }), 'and all is well');
is(sql('SELECT worker_pid FROM presence_health'), $worker, 'by the same worker all the time');

#---------------------------------------------------------------------- a grace that is longer than the timeout

sql("ALTER DATABASE postgres SET presence.leave_grace = '1h'");
ok(wait_until(30, sub { sql('SELECT worker_pid FROM presence_health') =~ /^(?!$worker$)\d+$/ }), 'a grace of an hour');
sql("SELECT update_user_heartbeat('eve', 's')") for 1 .. 3;
sql("SELECT handle_user_disconnect('eve', 's')");
sql("SELECT update_user_heartbeat('bob', 's')");
ok(wait_until(30, sub { sql("SELECT online FROM presence_user WHERE user_id = 'bob'") eq 'f' }),
    'whoever falls silent meanwhile is ended');

# Nothing is left to search for, so the worker begins no transaction.
is(sql("SELECT is_user_online('eve')"), 't', 'who is leaving is online');
my $activity = "SELECT pid, state, state_change FROM pg_stat_activity WHERE backend_type = 'presence worker'";
my ($before, $after) = ('', '-');
ok(
    wait_until(
        30,
        sub {
            $before = $after;
            sleep 1;    # what is looked at is a time without work
            $after = sql($activity);
            $before eq $after;
        }
    ),
    'the worker does not look at her at each pass'
);
$neighbour->quit;
$node->stop;
done_testing();
