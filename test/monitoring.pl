# Monitoring: the files in ops/ with the real exporter and Prometheus' own checks, on the server that the environment names.
use strict;
use warnings;
use File::Temp qw(tempdir);
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/lib";
use Waiting;

my $work = tempdir(CLEANUP => 1);

sub run {
    my ($command, $input) = @_;
    my $output = '';
    IPC::Run::run($command, '<', \($input // ''), '>&', \$output);
    chomp $output;
    return wantarray ? ($output, $? >> 8) : $output;
}
sub sql { return run(['psql', '-XAtq', '-d', 'postgres', '-c', $_[0]]); }

sub read_file {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!";
    local $/;
    return <$file>;
}

sub write_file {
    my ($path, $text) = @_;
    open my $file, '>', $path or die "$path: $!";
    print $file $text;
    close $file or die "$path: $!";
    return $path;
}

sub sorted_unique {
    my %seen;
    my @sorted = sort grep { !$seen{$_}++ } @_;
    return @sorted;
}

#---------------------------------------------------------------------- what is said in several places

my $script = read_file('sql/presence--1.0.0.sql');
my @codes = sorted_unique($script =~ /^\s+\('([a-z_]+)', CASE WHEN/mg,
    read_file('src/server/readers.cpp') =~ /return \{\s*"([a-z_]+)",/g);
cmp_ok(scalar @codes, '>=', 15, 'presence_problem has codes');
my $alerts = read_file('ops/prometheus-alerts.yaml');
is_deeply([sorted_unique($alerts =~ /code="([a-z_]+)"/g)], \@codes, 'each has an alert');
my $operations = read_file('docs/operations.md');
is_deeply([sorted_unique($operations =~ /^\| `([a-z_]+)` \|/mg)], \@codes, 'and a line in docs/operations.md');
my ($critical) = read_file('ops/check_presence') =~ /^critical='([a-z_|]+)'/m;
is_deeply(
    [sorted_unique(split /\|/, $critical)],
    [sorted_unique($alerts =~ /code="([a-z_]+)"\} == 1\s+for: \w+\s+labels: \{severity: critical\}/g)],
    'check_presence finds the same ones critical'
);

#---------------------------------------------------------------------- the exporter

sql('CREATE SCHEMA presence; CREATE EXTENSION presence SCHEMA presence');
sql(
    'CREATE ROLE exporter LOGIN IN ROLE pg_monitor; ALTER ROLE exporter SET search_path = presence, pg_catalog; GRANT USAGE ON SCHEMA presence TO exporter'
);
sql('SELECT presence.update_user_heartbeat(n, n) FROM generate_series(1, 7) AS n');
sql('SELECT presence.update_user_heartbeat(n, n) FROM generate_series(1, 7) AS n');
sql(q{SELECT presence.mark_user_offline('1')});
sql(q{SELECT presence.update_user_heartbeat('1', '1')});
sql(q{SELECT presence.join_room('3', '3', 'lobby')});
sql(q{SET presence.max_sessions_per_user = 1; SELECT presence.update_user_heartbeat('2', 'another')});
ok(wait_until(30, sub { sql('SELECT count(*) FROM presence.presence_event_queue') eq '0' }),
    'all events have a number');

my %metric = map { my ($name, $labels, $value) = split /\|/; ("$name$labels" => $value) }
    split /\n/, sql('SELECT name, labels, value FROM presence.presence_metrics()');
is($metric{'presence_users_online{}'}, 6, 'presence_metrics() knows how many users are online');
is($metric{'presence_events_total{"event": "user_online", "reason": "heartbeat"}'}, 7, 'who came');
is($metric{'presence_events_total{"event": "user_offline", "reason": "leave"}'}, 1, 'who left');
is($metric{'presence_events_total{"event": "room_join", "reason": "heartbeat"}'}, 1, 'who entered a room');
is($metric{'presence_heartbeats_total{"path": "memory"}'}, 8, 'the heartbeats that went to memory');
is($metric{'presence_heartbeats_ignored_total{}'}, 1, 'the one that was ignored');
is($metric{'presence_heartbeats_refused_total{}'}, 1, 'and the one that was refused');
is($metric{'presence_notifications_total{}'}, 9, 'notifications');
is($metric{'presence_announce_lag_seconds_count{}'}, 9, 'how late each was');
is($metric{'presence_announce_lag_seconds_bucket{"le": "+Inf"}'}, 9, 'in buckets that add up');
is(
    sql(
        q{SELECT string_agg(kind || ' ' || broken, ', ') FROM (SELECT regexp_replace(name, '_bucket$', '') AS kind, value < lag(value) OVER (PARTITION BY name ORDER BY ordinality) AS broken FROM presence.presence_metrics() WITH ORDINALITY WHERE name LIKE '%_bucket') AS b WHERE broken}
    ),
    '',
    'none of which is smaller than the one before'
);
is(
    run(['psql', '-XAtq', '-U', 'exporter', '-d', 'postgres', '-c', 'SELECT count(*) FROM presence_sessions']) =~
        /permission denied/,
    1,
    'a role that watches the server sees no names'
);

my $listen = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
my $port = $listen->sockport;
close $listen;
my $exporter = fork // die $!;
if ($exporter == 0) {
    open STDOUT, '>', "$work/exporter.log";
    open STDERR, '>&', \*STDOUT;
    local $ENV{DATA_SOURCE_NAME} = "host=$ENV{PGHOST} port=$ENV{PGPORT} user=exporter dbname=postgres sslmode=disable";
    exec 'prometheus-postgres-exporter', '--disable-default-metrics', '--disable-settings-metrics',
        '--no-collector.database', '--no-collector.bgwriter',
        '--extend.query-path=ops/postgres_exporter.yaml', "--web.listen-address=127.0.0.1:$port";
    exit 1;
}

END {
    local $?;
    kill 'TERM', $exporter if $exporter;
}

sub scrape {
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or return '';
    print $socket "GET /metrics HTTP/1.0\r\n\r\n";
    local $/;
    my $answer = <$socket> // '';
    return $answer =~ s/\A.*?\r\n\r\n//sr;
}
my $scraped = '';
ok(wait_until(60, sub { ($scraped = scrape()) =~ /^presence_users_online/m }), 'the exporter reads them')
    or diag(read_file("$work/exporter.log"));
like($scraped, qr/^presence_users_online\{.*\} 6$/m, 'with their values');
like($scraped, qr/^presence_events_total\{event="user_offline",reason="leave",.*\} 1$/m, 'and labels');
like($scraped, qr/^presence_announce_lag_seconds_bucket\{.*le="\+Inf"\} 9$/m, 'and histograms');
like($scraped, qr/^presence_worker_up\{.*\} 1$/m, 'the worker runs');
unlike($scraped, qr/^presence_problem_active/m, 'there is no problem');
like($scraped, qr/^pg_exporter_last_scrape_error 0$/m, 'no query has failed');
my %exported = map { ($_ => 1) } $scraped =~ /^([a-z_]+)(?:\{| )/mg;
$exported{presence_problem_active} = 1;

#---------------------------------------------------------------------- rules and dashboard

my ($report, $status) = run(['promtool', 'check', 'rules', 'ops/prometheus-alerts.yaml']);
is($status, 0, 'promtool accepts the alerts') or diag($report);
my @expressions = $alerts =~ /expr: (.*)/g;
my $dashboard = JSON::PP->new->decode(read_file('ops/grafana-dashboard.json'));
my @panels = @{ $dashboard->{panels} };
push @expressions, map { $_->{expr} } map { @{ $_->{targets} } } @panels;
is_deeply([grep { !$exported{$_} } sorted_unique(map {/\b(presence_[a-z_]+)/g} @expressions)],
    [], 'alerts and dashboard ask only for what the exporter has');
my $rules = "groups:\n- name: dashboard\n  rules:\n";

for my $n (0 .. $#expressions) {
    my $expression = $expressions[$n] =~ s/\$__rate_interval/5m/gr =~ s/\$instance/.*/gr;
    $rules .= "  - record: panel:$n\n    expr: '$expression'\n";
}
($report, $status) = run(['promtool', 'check', 'rules', write_file("$work/dashboard.yaml", $rules)]);
is($status, 0, 'promtool accepts what the dashboard asks for') or diag($report);
is_deeply([map { $_->{title} } grep { $_->{gridPos}{x} + $_->{gridPos}{w} > 24 || !@{ $_->{targets} } } @panels],
    [], 'each panel has a place and a query');
my %place;
for my $panel (@panels) {
    my $at = $panel->{gridPos};
    for my $x ($at->{x} .. $at->{x} + $at->{w} - 1) {
        $place{"$x $_"}++ for $at->{y} .. $at->{y} + $at->{h} - 1;
    }
}
is_deeply([grep { $place{$_} > 1 } keys %place], [], 'no panel covers another');

# Each alert fires on its problem, and on nothing else.
my $cwd = run(['pwd']);
my $tests = "rule_files: ['$cwd/ops/prometheus-alerts.yaml']\nevaluation_interval: 1m\ntests:\n";
my %alert_of = reverse $alerts =~ /alert: (\w+)\s+expr: presence_problem_active\{code="([a-z_]+)"/g;
for my $code (@codes) {
    my ($severity, $summary) =
        $alerts =~ /code="$code"\} == 1\s+for: \w+\s+labels: \{severity: (\w+)\}\s+annotations: \{summary: "([^"]*)"/;
    $tests .= <<"YAML";
- interval: 1m
  input_series: [{series: 'presence_problem_active{code="$code"}', values: '1x120'}]
  alert_rule_test:
YAML
    for my $other (@codes) {
        $tests .= "  - {eval_time: 90m, alertname: $alert_of{$other}, exp_alerts: [";
        $tests .=
            "{exp_labels: {severity: $severity, code: $code}, exp_annotations: {summary: '$summary', runbook: 'docs/operations.md#what-to-do-when'}}"
            if $other eq $code;
        $tests .= "]}\n";
    }
}
($report, $status) = run(['promtool', 'test', 'rules', write_file("$work/test.yaml", $tests)]);
is($status, 0, 'each alert fires on its problem, and on no other') or diag($report);

#---------------------------------------------------------------------- check_presence

($report, $status) = run(['ops/check_presence', '-s', 'presence', '-U', 'exporter', '-d', 'postgres']);
is($status, 0, 'check_presence finds all well') or diag($report);
like(
    $report,
    qr/^PRESENCE OK - 6 users online \| users=6 sessions=6 unnumbered=0 bytes=\d+B$/,
    'and says how many are online'
);
sql('UPDATE presence.presence_user SET sessions = 5 WHERE user_id = $$2$$');
ok(wait_until(60, sub { sql('SELECT code FROM presence.presence_problem') eq 'changed_by_hand' }),
    'somebody changes a table by hand');
($report, $status) = run(['ops/check_presence', '-s', 'presence', '-U', 'exporter', '-d', 'postgres']);
is($status, 1, 'check_presence warns');
like($report, qr/^PRESENCE WARNING - changed_by_hand \|.*\nTables of the extension were changed by hand/,
    'and says why');
ok(wait_until(60, sub { scrape() =~ /^presence_problem_active\{code="changed_by_hand",.*\} 1$/m }),
    'the exporter has it too');
sql('ALTER SYSTEM SET presence.expiry_guard = 0.1');
sql('ALTER SYSTEM SET presence.timeout = $$3s$$');
sql('SELECT pg_reload_conf()');
ok(wait_until(60, sub { sql(q{SELECT count(*) FROM presence.presence_problem WHERE code = 'ends_held'}) eq '1' }),
    'everybody falls silent');
($report, $status) = run(['ops/check_presence', '-s', 'presence', '-U', 'exporter', '-d', 'postgres']);
is($status, 2, 'which is critical');
sql('ALTER SYSTEM RESET presence.expiry_guard');
sql('SELECT pg_reload_conf()');
ok(wait_until(60, sub { sql('SELECT presence.presence_count()') eq '0' }), 'without the guard they end');
sub metric { return sql("SELECT value FROM presence.presence_metrics() WHERE $_[0]"); }
ok(wait_until(60, sub { metric(q{labels = '{"event": "user_offline", "reason": "timeout"}'}) eq '6' }),
    'which is counted, with the reason');
is(metric(q{name = 'presence_end_lag_seconds_count'}), 6, 'and how late each was');
sql('ALTER SYSTEM RESET presence.timeout');
sql('SELECT pg_reload_conf()');
($report, $status) = run(['ops/check_presence', '-d', 'nowhere']);
is($status, 3, 'without the database, check_presence cannot tell');
like($report, qr/^PRESENCE UNKNOWN - .*nowhere/, 'and says so');
ok(wait_until(60, sub { sql('SELECT count(*) FROM presence.presence_verify()') eq '0' }), 'everything agrees');
done_testing();
