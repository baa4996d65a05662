# What is past its retention goes by itself where there is a worker, and each part of it alone: what hinders one is reported
# and hinders no other.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('retention', allows_streaming => 'logical', conf => "presence.rejoin_guard = 0\n");
create_extension($node);
ok(has_worker($node), 'there is a worker');
sub sql { return $node->safe_psql('postgres', $_[0]); }

# A publication of all tables refuses DELETE from one without replica identity. This one is always empty.
sql('CREATE PUBLICATION everything FOR ALL TABLES');
is(
    sql(
        "SELECT string_agg(c.relname, ' ') FROM pg_class AS c JOIN pg_depend AS d ON d.objid = c.oid AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass"
            . " WHERE c.relkind = 'r' AND c.relreplident = 'd' AND c.relname <> 'presence_access' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)"
    ),
    '',
    'each table from which rows are removed has a replica identity'
);

sub fill {
    sql("SELECT update_user_heartbeat('ann', 's' || i) FROM generate_series(1, 3) AS i");
    sql("SELECT mark_user_offline('ann')");
    return;
}
my $left =
    "SELECT (SELECT count(*) FROM presence_sessions), (SELECT count(*) FROM presence_events), (SELECT count(*) FROM presence_admin_log)";

#---------------------------------------------------------------------- by the worker

fill();
is(sql($left), '3|8|1', 'sessions, events, and an entry of the log');
sql(
    "ALTER SYSTEM SET presence.session_retention = 0; ALTER SYSTEM SET presence.event_retention = 0; ALTER SYSTEM SET presence.user_retention = 0; SELECT pg_reload_conf()"
);
ok(wait_until(60, sub { sql($left) eq '0|0|0' }), 'all go by themselves') or diag sql($left);
is(sql("SELECT count(*) FROM presence_user"), 0, 'and the user too');
is(sql("SELECT problem FROM presence_health"), '{}', 'all is well');

#---------------------------------------------------------------------- a part that can't be done

sql(
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE EXCEPTION 'no deletion here'; END \$\$"
);
sql("CREATE TRIGGER refuse BEFORE DELETE ON presence_admin_log EXECUTE FUNCTION refuse()");
fill();
ok(
    wait_until(
        60,
        sub {
            sql("SELECT count(*) FROM presence_sessions") eq '0' && sql("SELECT count(*) FROM presence_events") eq '0';
        }
    ),
    'the others happen'
);

sub is_told {
    return sql("SELECT array_to_string(problem, chr(10)) FROM presence_health") =~
        /The worker cannot remove old entries of the admin log: .*no deletion here/;
}
ok(wait_until(60, \&is_told), 'presence_health says what does not, and why');
ok(!wait_until(3, sub { !is_told() }), 'and goes on to say so until it is tried again');
my ($code, $out, $err) = $node->psql('postgres', 'SELECT scheduled_presence_cleanup()');
is("$code $out", '0 0', 'nor does it hinder the scheduled run');
like($err, qr/WARNING:\s+could not remove old entries of the admin log: no deletion here/, 'which warns of it');
is(sql('SELECT count(*) > 1 FROM presence_admin_log'), 't', 'and is in the log');
my $worker = sql('SELECT worker_pid FROM presence_health');
sql('DROP TRIGGER refuse ON presence_admin_log');
ok(wait_until(60, sub { sql('SELECT count(*) FROM presence_admin_log') eq '0' }), 'when it can be done, it is');
ok(wait_until(60, sub { sql('SELECT problem FROM presence_health') eq '{}' }), 'and all is well');
is(sql('SELECT worker_pid FROM presence_health'), $worker, 'with the same worker all the time');

#---------------------------------------------------------------------- reports first

sql('ALTER SYSTEM SET presence.reports = on; SELECT pg_reload_conf()');
fill();
ok(wait_until(60, sub { sql('SELECT count(*) FROM presence_events') eq '0' }), 'with reports, events go as well');
my $reports =
    'SELECT (SELECT sum(arrivals) FROM presence_daily_users), (SELECT sum(sessions) FROM presence_leave_reasons)';
is(sql($reports), '1|3', 'once they are in the reports');
$node->stop('immediate');
$node->start;
fill();
ok(wait_until(60, sub { sql('SELECT count(*) FROM presence_events') eq '0' }), 'after a crash, too');
is(sql($reports), '2|6', 'which counts nothing twice');

my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE presence_event IN SHARE MODE');
($code, $out, $err) = $node->psql(
    'postgres',
    "SET statement_timeout = '1s'; SELECT scheduled_presence_cleanup(); SELECT 'goes on'; ROLLBACK; SELECT 'and on'",
    on_error_stop => 0
);
like($err, qr/canceling statement due to statement timeout/, 'a run that waits can be cancelled');
is($out, "goes on\nand on", 'and its connection goes on');
$holder->quit;
$node->stop;
done_testing();
