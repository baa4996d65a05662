# Many clients that join, beat, leave and roll back, while their backends are killed at random and readers follow the feed.
# Afterwards the feed has no gap and no number twice, each user's events alternate, and applying them gives what the
# tables say.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceNode;

my $clients = $ENV{PRESENCE_LOAD_CLIENTS} // 200;
my $seconds = $ENV{PRESENCE_LOAD_SECONDS} // 10;
my $users = 60;
my $node = new_node('load', conf => <<"CONF");
max_connections = @{[ $clients + 40 ]}
presence.timeout = '10min'
presence.rejoin_guard = '20ms'
log_min_messages = panic
CONF
create_extension($node);
sub sql { return $node->safe_psql('postgres', $_[0]); }

my %scripts = (
    join => "SELECT update_user_heartbeat('u' || :u, 's' || :s)",
    leave => "SELECT handle_user_disconnect('u' || :u, 's' || :s)",
    everywhere => "SELECT mark_user_offline('u' || :u)",
    status =>
        "SELECT update_user_heartbeat('u' || :u, 's' || :s, status => (ARRAY['active', 'busy', 'idle', 'away'])[:s + 1])",
    batch =>
        "SELECT update_user_heartbeats(ARRAY(SELECT 'u' || (:u + i * 7) % $users FROM generate_series(0, 9) AS i), array_fill('s' || :s, ARRAY[10]))",
    list => 'SELECT count(*) FROM get_active_users()',
    rollback =>
        "BEGIN;\nSELECT update_user_heartbeat('u' || :u, 's' || :s);\nSELECT mark_user_offline('u' || :u);\nROLLBACK",
    savepoint =>
        "BEGIN;\nSELECT update_user_heartbeat('u' || :u, 's' || :s);\nSAVEPOINT sp;\nSELECT mark_user_offline('u' || :u, 's' || :s);\nROLLBACK TO sp;\nEND",
    swap =>
        "BEGIN;\nSELECT handle_user_disconnect('u' || :u, 's' || :s);\nSELECT update_user_heartbeat('u' || :u, 'n' || :s);\nEND"
);
my %weights = (
    join => 30,
    leave => 15,
    everywhere => 3,
    status => 8,
    batch => 5,
    list => 1,
    rollback => 5,
    savepoint => 5,
    swap => 5
);
my $dir = PostgreSQL::Test::Utils::tempdir;
my @files;

for my $name (sort keys %scripts) {
    append_to_file("$dir/$name", "\\set u random(0, " . ($users - 1) . ")\n\\set s random(0, 3)\n$scripts{$name};\n");
    push @files, '--file', "$dir/$name\@$weights{$name}";
}

# Readers, each of which remembers how far it is; and somebody who kills.
my @readers = map { { seen => 0, session => $node->background_psql('postgres'), problem => '' } } 1 .. 3;
my $killer = $node->background_psql('postgres');
my $dump = $node->background_psql('postgres');
$dump->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM presence_user');

# Several programs, so that one whose connection is killed does not end all of them.
my $programs = 8;
local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGAPPNAME => 'load');
my @loads = map {
    my %load = (out => '', err => '');
    $load{run} = IPC::Run::start(
        [
            'pgbench', '--no-vacuum', '--client', int $clients / $programs,
            '--jobs', 1, '--time', $seconds,
            @files, 'postgres'
        ],
        '<',
        \undef,
        '>',
        \$load{out},
        '2>',
        \$load{err}
    );
    \%load;
} 1 .. $programs;

my ($killed, $reads) = (0, 0);

sub read_on {
    my ($reader) = @_;
    my $rows =
        $reader->{session}->query_safe(
        "SELECT count(*) || ' ' || coalesce(min(seq), 0) || ' ' || coalesce(max(seq), 0) FROM presence_changes_since($reader->{seen}, 100000)"
        );
    my ($count, $first, $last) = split / /, $rows;
    return 0 if $count == 0;
    $reader->{problem} ||= "after $reader->{seen}: $count events from $first to $last"
        if $first != $reader->{seen} + 1 || $last != $reader->{seen} + $count;
    $reader->{seen} = $last;
    $reads++;
    return $count;
}
my $end = time + $seconds;
while (time < $end) {
    read_on($_) for @readers;
    $killed += $killer->query_safe(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE application_name = 'load' ORDER BY random() LIMIT 2) AS victim"
    );
    $_->{run}->pump_nb for @loads;
    sleep 0.2;
}
for my $load (@loads) {
    eval { $load->{run}->finish };
}
my $done = 0;
$done += $_ for map { $_->{out} =~ /actually processed: (\d+)/ ? $1 : 0 } @loads;
my @complaints = grep { /(ERROR|FATAL|PANIC):/ && !/terminating connection due to administrator command/ }
    map { split /\n/, $_->{err} } @loads;
note "$done transactions by $clients clients, $killed of them killed, $reads reads";
cmp_ok($done, '>', 1000, 'the clients did something');
cmp_ok($killed, '>', 10, 'and some of them were killed');
is("@complaints", '', 'nobody else failed: no duplicate key, no deadlock, no serialization failure');

#---------------------------------------------------------------------- the feed

ok(wait_until(60, sub { read_on($_) for @readers; sql('SELECT count(*) FROM presence_event_queue') eq '0' }),
    'everything is numbered, whatever transaction is open');
$dump->query_safe('COMMIT');
read_on($_) for @readers;
is($_->{problem}, '', 'a reader saw neither a gap nor a number twice') for @readers;
my ($count, $first, $last, $distinct) = split /\|/,
    sql('SELECT count(*), min(seq), max(seq), count(DISTINCT seq) FROM ONLY presence_events');
is("$first $last $distinct", "1 $count $count", "the $count events are numbered from 1 without a gap");
is($_->{seen}, $last, 'a reader has seen them all') for @readers;

my $wrong = sql(<<'SQL');
SELECT count(*) FROM (
    SELECT event, lag(event) OVER (PARTITION BY user_id ORDER BY seq) AS before FROM presence_events WHERE event IN ('user_online', 'user_offline')
) AS e WHERE event = before OR (before IS NULL AND event <> 'user_online')
SQL
is($wrong, 0, 'user_online and user_offline alternate, beginning with user_online');
$wrong = sql(<<'SQL');
SELECT count(*) FROM (
    SELECT event, lag(event) OVER (PARTITION BY user_id, session_id ORDER BY seq) AS before FROM presence_events WHERE event LIKE 'session%'
) AS e WHERE event = before OR (before IS NULL AND event <> 'session_start')
SQL
is($wrong, 0, 'so do session_start and session_end of each session');
$wrong = sql(<<'SQL');
SELECT count(*) FROM (
    SELECT sessions, sum(CASE event WHEN 'session_start' THEN 1 WHEN 'session_end' THEN -1 ELSE 0 END) OVER (PARTITION BY user_id ORDER BY seq) AS counted
    FROM presence_events
) AS e WHERE sessions <> counted
SQL
is($wrong, 0, 'each event tells how many sessions the user has then');
is(
    sql(
        'SELECT count(*) FROM (SELECT at, lag(at) OVER (PARTITION BY user_id ORDER BY seq) AS before FROM presence_events) AS e WHERE at < before'
    ),
    0,
    'times of one user do not go back'
);

#---------------------------------------------------------------------- the tables

$wrong = sql(<<'SQL');
SELECT count(*) FROM presence_user AS u
LEFT JOIN (SELECT user_id, count(*) FILTER (WHERE online) AS online FROM presence_session GROUP BY user_id) AS s USING (user_id)
WHERE u.sessions <> coalesce(s.online, 0) OR u.online <> (coalesce(s.online, 0) > 0)
SQL
is($wrong, 0, 'presence_user counts the sessions that are online');
is(
    sql(
        'SELECT count(*) FROM presence_session AS s LEFT JOIN presence_user AS u USING (user_id) WHERE u.user_id IS NULL'
    ),
    0,
    'no session without its user'
);
is(
    sql(
        'SELECT count(*) FROM presence_session AS s JOIN presence_user AS u USING (user_id) WHERE s.online AND s.online_since <> u.online_since'
    ),
    0,
    'sessions repeat since when their user is online'
);
$wrong = sql(<<'SQL');
SELECT count(*) FROM presence_user AS u
JOIN (SELECT user_id, min(array_position(ARRAY['active', 'busy', 'idle', 'away'], status)) AS rank FROM presence_session WHERE online GROUP BY user_id) AS s USING (user_id)
WHERE u.status <> (ARRAY['active', 'busy', 'idle', 'away'])[rank]
SQL
is($wrong, 0, 'and the user shows the most present status');
my $applied =
    "SELECT user_id FROM (SELECT DISTINCT ON (user_id) user_id, event FROM presence_events WHERE event IN ('user_online', 'user_offline') ORDER BY user_id, seq DESC) AS e WHERE event = 'user_online' ORDER BY 1";
is(sql($applied), sql('SELECT user_id FROM presence WHERE online ORDER BY 1'), 'the feed applied is who is online');
$applied =
    "SELECT user_id, session_id FROM (SELECT DISTINCT ON (user_id, session_id) user_id, session_id, event FROM presence_events WHERE event LIKE 'session%' ORDER BY user_id, session_id, seq DESC) AS e WHERE event = 'session_start' ORDER BY 1, 2";
is(
    sql($applied),
    sql('SELECT user_id, session_id FROM presence_sessions WHERE online ORDER BY 1, 2'),
    'and by which sessions'
);
$applied =
    "SELECT DISTINCT ON (user_id) user_id, details ->> 'status' FROM presence_events WHERE details IS NOT NULL AND user_id IN (SELECT user_id FROM presence WHERE online) ORDER BY user_id, seq DESC";
is(sql($applied), sql('SELECT user_id, status FROM presence WHERE online ORDER BY 1'), 'and with which status');
is(sql('SELECT presence_count() = (SELECT count(*) FROM presence_user WHERE online), problem FROM presence_health'),
    't|{}', 'all is well');

# Nobody holds on to anything: everybody can be ended, and whoever beats is there again.
is(
    sql(
        "SELECT sum(n) FROM (SELECT update_user_heartbeats(array_agg(user_id), array_agg(session_id)) AS n FROM presence_sessions WHERE online) AS beat"
    ),
    sql('SELECT coalesce(sum(sessions), 0) FROM presence_user'),
    'everybody who is online can beat'
);
sql("SELECT mark_user_offline(user_id) FROM presence_user");
is(sql('SELECT presence_count()'), 0, 'and leave');

$_->{session}->quit for @readers;
$_->quit for $killer, $dump;
$node->stop;
done_testing();
