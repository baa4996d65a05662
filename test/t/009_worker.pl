# The background worker: found and started by itself, gone when it should be, in nobody's way, on time, and replaceable.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceNode;

my $node =
    new_node('worker', conf => "restart_after_crash = on\npresence.timeout = '10min'\nmax_worker_processes = 12\n");
my $session = $node->background_psql('postgres');
sub ask { return $session->query_safe($_[0]); }
sub sql { my ($sql, $database) = @_; return $node->safe_psql($database // 'postgres', $sql); }

sub set {
    my ($name, $value) = @_;
    $node->append_conf('postgresql.conf', "presence.$name = '$value'");
    $node->reload;
    return;
}

# Seconds until it is so.
sub seconds_until {
    my ($condition) = @_;
    my $from = time;
    return wait_until(30, $condition) ? time - $from : 1e9;
}

#---------------------------------------------------------------------- it starts by itself

my $workers =
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'presence%' AND datname = current_database()";
is(ask($workers), 0, 'no worker without the extension');
ask('CREATE EXTENSION presence');
cmp_ok(seconds_until(sub { ask('SELECT worker_pid IS NOT NULL FROM presence_health') eq 't' }),
    '<', 20, 'a worker starts by itself after CREATE EXTENSION')
    or BAIL_OUT('there is no worker');
ok(
    wait_until(
        10,
        sub {
            ask(
                "SELECT backend_type LIKE 'presence%', datname FROM pg_stat_activity JOIN presence_health ON pid = worker_pid"
            ) eq 't|postgres';
        }
    ),
    'it shows under a telling name'
);
ok(
    wait_until(
        10,
        sub {
            ask("SELECT wait_event IS NOT NULL FROM pg_stat_activity JOIN presence_health ON pid = worker_pid") eq 't';
        }
    ),
    'and waits for something'
);
is(ask('SELECT problem FROM presence_health'), '{}', 'all is well');

#---------------------------------------------------------------------- idle

my $pid = ask('SELECT worker_pid FROM presence_health');

sub cpu_ticks {
    my @fields = split ' ', slurp_file("/proc/$_[0]/stat") =~ s/^.*\) //r;
    return $fields[11] + $fields[12];
}
SKIP:
{
    skip 'no /proc here', 1 if !-r "/proc/$pid/stat";
    ask("SELECT update_user_heartbeat('idle', 's')") for 1 .. 3;
    wait_until(10, sub { ask('SELECT unpublished_events FROM presence_health') eq '0' });
    my $before = cpu_ticks($pid);
    sleep 3;    # what is measured is a time without work
    cmp_ok(cpu_ticks($pid) - $before, '<=', 2, 'idle, it uses no CPU');
}
is(
    ask(
        "SELECT count(*) FROM pg_stat_activity JOIN presence_health ON pid = worker_pid WHERE backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR state = 'active'"
    ),
    0,
    'idle, it holds back no vacuum horizon'
);

#---------------------------------------------------------------------- numbers and notifications

my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN presence');
my $heard = '';
sub heard { $heard .= $listener->query_safe('SELECT 1'); return $heard; }
ask("SELECT update_user_heartbeat('ann', 's')");
cmp_ok(seconds_until(sub { heard() =~ /"user_online", "user_id" : "ann"/ }), '<', 20, 'a join is announced at once');
like($heard, qr/"seq" : \d+, .*"user_online", "user_id" : "ann"/, 'with its number');
my ($told) = $heard =~ /"seq" : (\d+), [^\n]*"user_online", "user_id" : "ann"/;
is(
    $told,
    sql("SELECT seq FROM ONLY presence_events WHERE user_id = 'ann' AND event = 'user_online'"),
    'which is that of the feed'
);

# A burst from many connections, with rolled back transactions between.
$heard = '';
sql('CREATE SEQUENCE burst');
$node->pgbench(
    '--no-vacuum --client=8 --jobs=2 --transactions=100',
    0,
    [qr{actually processed: 800/800}],
    [qr{^$}],
    'a burst of joins',
    {
        'burst' =>
            "SELECT update_user_heartbeat('b' || :client_id || '_' || nextval('burst'), 's');\nBEGIN;\nSELECT update_user_heartbeat('r' || :client_id, 's');\nROLLBACK;"
    }
);
ok(wait_until(30, sub { (() = heard() =~ /"user_online", "user_id" : "b\d/g) >= 800 }), 'is announced completely');
my @numbers = $heard =~ /"seq" : (\d+)/g;
is(scalar(grep { $numbers[$_] <= $numbers[$_ - 1] } 1 .. $#numbers), 0, 'in order, and nothing twice');
unlike($heard, qr/"user_id" : "r\d/, 'and nothing that was rolled back');
is(
    sql('SELECT count(*) FROM ONLY presence_events WHERE seq IS NULL')
        . sql('SELECT max(seq) - min(seq) + 1 - count(*) FROM ONLY presence_events'),
    '00',
    'the numbers have no gap'
);

# A long transaction elsewhere, with events of its own.
my $dump = $node->background_psql('postgres');
$dump->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM presence_user');
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN; SELECT update_user_heartbeat('slow', 's')");
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM presence_changes_since(0)');
ask("SELECT update_user_heartbeat('quick', 's')");
cmp_ok(seconds_until(sub { heard() =~ /"user_online", "user_id" : "quick"/ }),
    '<', 20, 'long transactions elsewhere, of writers and readers of the feed, delay nothing');
is(ask("SELECT unpublished_events FROM presence_health"), 0, 'nor the numbers');
$writer->query_safe('COMMIT');
cmp_ok(seconds_until(sub { heard() =~ /"user_online", "user_id" : "slow"/ }),
    '<', 20, 'the writer is announced when it has committed');
$_->query_safe('COMMIT') for $dump, $reader;

#---------------------------------------------------------------------- expiry

set('timeout', '2s');
ask("SELECT update_user_heartbeat('away', 's', heartbeat_interval => '10min')");
ask("SELECT update_user_heartbeat('ghost', 's')") for 1 .. 3;
my $silent = time;
my $keeper = "SELECT update_user_heartbeat('ann', 's')";
ok(wait_until(20, sub { ask($keeper); heard() =~ /"user_offline", "user_id" : "ghost"/ }),
    'who falls silent is announced as offline without any cleanup');
my $took = time - $silent;
cmp_ok($took, '>', 1.5, 'not before the timeout');
cmp_ok($took, '<', 20, sprintf 'but soon after it (%.2f s after the last heartbeat, timeout 2 s)', $took);
is(ask("SELECT is_user_online('ann'), is_user_online('away')"), 't|t',
    'who beats, and who promised to be silent, stay');

# Cleanup from elsewhere at the same time doubles nothing.
$node->pgbench(
    '--no-vacuum --client=3 --jobs=1 --time=4',
    0,
    [qr{processed}],
    [qr{^$}],
    'cleanups at the same time',
    {
        'cleanup' =>
            "SELECT cleanup_stale_presence();\nSELECT scheduled_presence_cleanup();\nSELECT count(*) FROM get_active_users();"
    }
);
is(
    sql(
        "SELECT count(*) FROM (SELECT user_id FROM presence_events WHERE event = 'user_offline' AND user_id LIKE 'b%' GROUP BY user_id HAVING count(*) > 1) AS twice"
    ),
    0,
    'who expires while others clean up as well leaves once'
);
ok(wait_until(10, sub { sql("SELECT count(*) FROM presence WHERE online AND user_id LIKE 'b%'") eq '0' }),
    'and all of them do');

# Whom nobody has told the cache of is ended when somebody meets the session, and long before the next look at the table.
sql(<<'SQL');
INSERT INTO presence_user (user_id, online, sessions, status, online_since)
    VALUES ('by hand', true, 1, 'active', now() - interval '2 hours');
INSERT INTO presence_session (user_id, session_id, online, status, online_since, joined_at, heartbeat_at)
    VALUES ('by hand', 's', true, 'active', now() - interval '2 hours', now() - interval '2 hours', now() - interval '1 hour');
SQL
ok(
    wait_until(
        20,
        sub {
            sql("SELECT count(*) FROM get_active_users() WHERE user_id = 'by hand'") eq '0'
                && sql("SELECT online FROM presence_session WHERE user_id = 'by hand'") eq 'f';
        }
    ),
    'the list has the worker end stale sessions that it met'
);
is(sql("SELECT count(*) FROM presence_admin_log WHERE action = 'get_active_users'"), 0, 'and ends none itself');
set('timeout', '10min');

#---------------------------------------------------------------------- leave grace

# The minute of these is over by the end of the next section, or a little later.
sql(
    "SET presence.max_updates_per_minute = 2; SELECT update_user_heartbeat('chatty', 's', metadata => to_jsonb(n)) FROM generate_series(0, 9) AS n"
);
is(sql("SELECT count(*) FROM presence_events WHERE user_id = 'chatty' AND event = 'update'"),
    2, 'of too many updates at once, the first are told');

set('leave_grace', '2s');
ok(wait_until(10, sub { ask("SHOW presence.leave_grace") eq '2s' }), 'a grace of 2 s');
ask(
    "SELECT update_user_heartbeat('reload', 'old'), update_user_heartbeat('gone', 's'), update_user_heartbeat('out', 's')"
);
ok(wait_until(10, sub { heard() =~ /"user_online", "user_id" : "gone"/ }), 'three are there');
is(
    ask(
        "SELECT handle_user_disconnect('reload', 'old'), handle_user_disconnect('gone', 's'), mark_user_offline('out', 's')"
    ),
    'f|f|t',
    'disconnects take nobody offline yet, a departure does'
);
my $left = time;
is(ask("SELECT is_user_online('reload'), is_user_online('gone'), is_user_online('out')"),
    't|t|f', 'during the grace they count as online');
ask("SELECT update_user_heartbeat('reload', 'new')");
ok(
    wait_until(20, sub { heard() =~ /"user_offline", "user_id" : "gone"/ }),
    'who does not return is announced when the grace is over'
);
$took = time - $left;
cmp_ok($took, '>', 1.5, 'not before');
cmp_ok($took, '<', 20, sprintf 'but soon after it (%.2f s)', $took);
is(ask("SELECT is_user_online('reload'), is_user_online('gone')"), 't|f', 'who has returned is online');
is(
    sql(
        "SELECT string_agg(event, ' ' ORDER BY seq) FROM presence_events WHERE user_id = 'reload' AND event LIKE 'user%'"
    ),
    'user_online',
    'without a flicker'
);
set('leave_grace', '0');

# A review has begun a new feed meanwhile, because of the row written by hand.
ok(
    wait_until(
        120,
        sub {
            sql("SELECT details ->> 'metadata' FROM presence_events WHERE user_id = 'chatty' ORDER BY seq DESC LIMIT 1")
                eq '9';
        }
    ),
    'and the worker tells the others as one, when the minute is over'
);

#---------------------------------------------------------------------- off and on

set('worker', 'off');
cmp_ok(seconds_until(sub { ask($workers) eq '0' }), '<', 20, 'presence.worker = off stops it');
is(ask('SELECT worker_pid IS NULL FROM presence_health'), 't', 'presence_health shows none');
$heard = '';
ask("SELECT update_user_heartbeat('inline', 's')");
ok(wait_until(10, sub { heard() =~ /"seq" : null, .*"user_id" : "inline"/ }),
    'then the transaction itself announces, without a number');
is(
    ask("SELECT string_agg(event, ' ' ORDER BY seq) FROM presence_changes_since(0, 100000) WHERE user_id = 'inline'"),
    'session_start user_online',
    'and a reader numbers'
);
set('worker', 'on');
cmp_ok(seconds_until(sub { ask('SELECT worker_pid IS NOT NULL FROM presence_health') eq 't' }),
    '<', 20, 'presence.worker = on starts it');
$heard = '';
ask("SELECT update_user_heartbeat('numbered', 's')");
ok(wait_until(10, sub { heard() =~ /"seq" : \d+, .*"user_online", "user_id" : "numbered"/ }), 'and it announces again');
unlike($heard, qr/"user_id" : "inline"/, 'nothing is announced twice');
sql('CREATE DATABASE other');
create_extension($node, 'other');
ok(has_worker($node, 'other'), 'another database has a worker of its own');
sql("ALTER DATABASE other SET presence.worker = off");
cmp_ok(seconds_until(sub { sql($workers, 'other') eq '0' }), '<', 10, 'which is stopped for that database');
is(ask($workers), 1, 'and not for this one');
sql("ALTER DATABASE other RESET presence.worker");
cmp_ok(seconds_until(sub { sql($workers, 'other') eq '1' }), '<', 10, 'and comes back');

#---------------------------------------------------------------------- killed

sub worker_pid { return ask('SELECT worker_pid FROM presence_health'); }
for my $round (1 .. 2) {
    $pid = worker_pid();
    ask("SELECT pg_terminate_backend($pid)");
    cmp_ok(seconds_until(sub { my $new = worker_pid(); $new ne '' && $new ne $pid }),
        '<', 10, 'a terminated worker is replaced');
}

# While events come in.
$heard = '';
my $burst = IPC::Run::start(
    [
        'pgbench',
        '-n', '-c', 4, '-T', 8, '-f',
        do {
            append_to_file("$ENV{TESTDATADIR}/join.sql",
                "\\set u random(1, 300)\nSELECT update_user_heartbeat('k' || :u, 's' || :client_id);\nSELECT mark_user_offline('k' || :u, 's' || :client_id);\n"
            );
            "$ENV{TESTDATADIR}/join.sql";
        },
        $node->connstr('postgres')
    ],
    '<',
    \undef,
    '>',
    \my $out,
    '2>',
    \my $err
);
my $killed = 0;
my $until = time + 8;
while (time < $until) {
    $killed++
        if ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'presence%' AND datname = current_database()"
        ) eq 't';
    sleep 0.3;
    heard();
}
$burst->finish;
cmp_ok($killed, '>=', 2, "the worker was terminated $killed times in a burst");
unlike($err, qr/ERROR|FATAL/, 'nobody noticed');
is(
    feed_of($node, 'seq - row_number() OVER (ORDER BY seq) - (SELECT min(seq) - 1 FROM ONLY presence_events)') =~
        tr/0-9//cdr =~ tr/1-9//,
    0,
    'the feed has no gap'
);
is(sql(<<'SQL'), 0, 'and no event twice');
SELECT count(*) FROM (SELECT event, lag(event) OVER (PARTITION BY user_id, session_id ORDER BY seq) AS before FROM presence_events WHERE event LIKE 'session%' AND user_id LIKE 'k%') AS e
WHERE event = before OR (before IS NULL AND event <> 'session_start')
SQL
heard();
@numbers = $heard =~ /"seq" : (\d+)/g;
is(scalar(grep { $numbers[$_] <= $numbers[$_ - 1] } 1 .. $#numbers),
    0, 'what was announced was in order, nothing twice');

# kill -9 is a crash for the server: it starts again with all the rest.
$_->quit for $listener, $dump, $writer, $reader;
for my $victim ('worker', 'launcher') {
    my $condition = $victim eq 'worker' ? "datname = 'postgres'" : 'datname IS NULL';
    ok(
        wait_until(
            30,
            sub {
                ($pid = sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'presence%' AND $condition")) =~
                    /^\d+$/;
            }
        ),
        "kill -9 of the $victim: it is there"
    );
SKIP:
    {
        skip "there is no $victim", 3 if $pid !~ /^\d+$/;
        sql("SELECT update_user_heartbeat('ann', 's')");
        kill 'KILL', $pid;
        ok(
            wait_until(
                60,
                sub {
                    my ($code, $stdout) = $node->psql('postgres', 'SELECT worker_pid FROM presence_health');
                    $code == 0 && $stdout =~ /^\d+$/ && $stdout ne $pid;
                }
            ),
            "kill -9 of the $victim: the server comes back with a worker"
        );
        is(sql("SELECT is_user_online('ann'), update_user_heartbeat('ann', 's')"),
            't|t', "kill -9 of the $victim: nobody is thrown out");
        sql("SELECT update_user_heartbeat('after $victim', 's')");
        ok(
            wait_until(
                10, sub { sql("SELECT count(*) FROM ONLY presence_events WHERE user_id = 'after $victim'") eq '2' }
            ),
            "kill -9 of the $victim: events are numbered again"
        );
    }
}
$session = $node->background_psql('postgres');

# A terminated launcher.
$pid = ask("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'presence%' AND datname IS NULL");
SKIP:
{
    skip 'there is no launcher in pg_stat_activity', 2 if $pid !~ /^\d+$/;
    ask("SELECT pg_terminate_backend($pid)");
    ok(
        wait_until(
            30,
            sub {
                my $new =
                    ask("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'presence%' AND datname IS NULL");
                $new =~ /^\d+$/ && $new ne $pid;
            }
        ),
        'a terminated launcher is replaced'
    );
    ok(wait_until(30, sub { ask($workers) eq '1' }), 'and there is one worker still');
}

#---------------------------------------------------------------------- in nobody's way

sub takes { my ($code) = @_; my $from = time; $code->(); return time - $from; }
cmp_ok(takes(sub { sql('CREATE DATABASE copy TEMPLATE other') }),
    '<', 20, 'CREATE DATABASE with one as template is not blocked');
ok(wait_until(10, sub { sql($workers, 'copy') eq '1' && sql($workers, 'other') eq '1' }),
    'both have a worker afterwards');
cmp_ok(takes(sub { sql('ALTER DATABASE copy RENAME TO renamed') }), '<', 20, 'ALTER DATABASE RENAME is not blocked');
ok(wait_until(10, sub { sql($workers, 'renamed') eq '1' }), 'the worker is there under the new name');
cmp_ok(takes(sub { sql('DROP DATABASE renamed') }), '<', 20, 'DROP DATABASE is not blocked');
my ($code, $stdout, $stderr) = $node->psql('postgres', 'CREATE DATABASE copy TEMPLATE other OWNER no_such_role');
isnt($code, 0, 'one that fails');
ok(wait_until(10, sub { sql($workers, 'other') eq '1' }), 'gives the template its worker back');
cmp_ok(takes(sub { sql('DROP EXTENSION presence', 'other') }), '<', 20, 'DROP EXTENSION is not blocked');
cmp_ok(seconds_until(sub { sql($workers, 'other') eq '0' }), '<', 20, 'and takes the worker with it');
sql('BEGIN; CREATE EXTENSION presence; ROLLBACK', 'other');
create_extension($node, 'other');
cmp_ok(seconds_until(sub { sql($workers, 'other') eq '1' }), '<', 20, 'a new extension gets a new one');
sql('BEGIN; DROP EXTENSION presence; ROLLBACK', 'other');
sql("SELECT update_user_heartbeat('still', 's')", 'other');
ok(wait_until(10, sub { sql("SELECT count(*) FROM ONLY presence_events WHERE user_id = 'still'", 'other') eq '2' }),
    'a rolled back DROP EXTENSION leaves it at work');

for my $round (1 .. 10) {
    sql("SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i)) FROM generate_series(1, 50) AS i",
        'other');
    sql('DROP EXTENSION presence', 'other');
    sql('CREATE EXTENSION presence', 'other');
}
unlike(
    slurp_file($node->logfile),
    qr/deadlock detected/,
    'an extension dropped while the worker has something to do: no deadlock'
);
ask('VACUUM presence_session, presence_event');
$session->quit;
cmp_ok(takes(sub { $node->stop('smart') }), '<', 15, 'a smart shutdown is not blocked');
$node->start;
ok(has_worker($node), 'after a restart there is a worker by itself');
cmp_ok(takes(sub { $node->stop('fast') }), '<', 15, 'nor is a fast one');

#---------------------------------------------------------------------- no room for it

for my $room (0, 1) {
    my $full = new_node("full$room", conf => "max_worker_processes = $room\nmax_logical_replication_workers = 0\n");
    create_extension($full);
    is($full->safe_psql('postgres', "SELECT update_user_heartbeat('ann', 's')"),
        't', "max_worker_processes = $room: heartbeats work");
    ok(
        wait_until(
            15, sub { $full->safe_psql('postgres', 'SELECT problem FROM presence_health') =~ /max_worker_processes/ }
        ),
        "max_worker_processes = $room: presence_health says what to do"
    );
    is($full->safe_psql('postgres', "SELECT count(*) FROM presence_changes_since(0)"),
        2, "max_worker_processes = $room: the feed works");
    $full->stop;
}
done_testing();
