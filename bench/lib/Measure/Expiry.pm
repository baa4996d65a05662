package Measure::Expiry;

# From silence to the notification that the user is offline, while many others are online; what that costs the worker.
use v5.28;
use warnings;
use experimental 'signatures';
use JSON::PP;
use Stats qw(percentile plain);
use Time::HiRes qw(sleep);

sub run ($run) {
    my ($server, $report) = @$run{qw(server report)};
    first_page($run);
    my $online = plain($run->{loaded});
    my $title = "Expiry with $online sessions online, each beating";
    my $worker = $server->worker_pid('big');
    if (!$worker) {
        $report->group($title);
        my $why = 'no worker: worker_pid of presence_health stays NULL';
        $report->skip(expiry_p99 => 'from the timeout to the notification, 99th percentile', ['<=', 500], $why);
        $report->skip(worker_cpu => 'CPU of the worker', ['<=', 5], $why);
        return;
    }
    $run->{progress}->("worker with $online sessions");

# Events of those who joined come first.
    $server->wait_for(300, sub { $server->value('big', 'SELECT count(*) FROM presence_event_queue') == 0 });
    my $window = $run->{quick} ? 2 : 40;
    $server->load('big', 1, $run->{loaded});
    my $keeper = $server->start_probe('big', 'keep', $run->{loaded}, 30);
    $server->set('presence.timeout' => undef);
    sleep 2;
    my $cpu = Server->cpu($worker);
    my $start = Time::HiRes::time();
    sleep $window;
    my $load = 100 * (Server->cpu($worker) - $cpu) / (Time::HiRes::time() - $start);

    my ($count, $pause, $timeout) = $run->{quick} ? (200, 5, 3) : (2000, 10, 15);
    $run->{progress}->("$count sessions fall silent");
    $server->finish_probe($keeper);
    $server->load('big', 1, $run->{loaded});
    $keeper = $server->start_probe('big', 'keep', $run->{loaded}, $timeout / 3);
    sleep $timeout / 3 + 1;
    $server->set('presence.timeout' => "${timeout}s");
    $cpu = Server->cpu($worker);
    $start = Time::HiRes::time();
    my $listener = $server->listen('big');
    my %beat = map { my ($i, $at) = split /\t/; ("silent-$i" => $at) } split /\n/,
        $server->probe('big', 'beats', $count, 'silent-', $pause);
    sleep $timeout + 2;
    my @late;
    my ($others, $before_timeout) = (0, 0);

    for my $line ($server->finish_probe($listener)) {
        my ($at, $payload) = split /\t/, $line, 2;
        next if !defined $payload;
        my $event = decode_json($payload);
        next if $event->{event} ne 'user_offline';
        my $beat = delete $beat{ $event->{user_id} };
        if (!defined $beat) { ++$others; next }
        my $ms = ($at - $beat) / 1000 - $timeout * 1000;
        ++$before_timeout if $ms < 0;
        push @late, $ms;
    }
    my $busy = 100 * (Server->cpu($worker) - $cpu) / (Time::HiRes::time() - $start);
    $server->set('presence.timeout' => undef);
    $server->finish_probe($keeper);
    my $missing = keys %beat;
    $report->group($title);
    if (@late) {
        $report->row(
            expiry_p50 => 'from the timeout to user_offline at a listener, median',
            values => [percentile(50, @late)],
            unit => 'ms'
        );
        $report->row(
            expiry_p99 => '99th percentile',
            reach => ['<=', 500],
            values => [$missing ? 1e6 : percentile(99, @late)],
            unit => 'ms',
            note => scalar(@late)
                . " sessions, one every $pause ms"
                . ($missing ? ", $missing not heard of within 2 s" : '')
        );
        $report->row(expiry_max => 'longest', values => [percentile(100, @late)], unit => 'ms');
    } else {
        $report->row(
            expiry_p99 => 'from the timeout to user_offline at a listener',
            reach => ['<=', 500],
            values => [1e6],
            unit => 'ms',
            note => 'nobody was reported within 2 s'
        );
    }
    $report->row(expiry_early => 'ended before the timeout', reach => ['<=', 0], values => [$before_timeout]);
    $report->row(expiry_others => 'others thrown out meanwhile', reach => ['<=', 0], values => [$others]);
    $report->row(
        worker_cpu => 'CPU of the worker, of one core',
        reach => ['<=', 5],
        values => [$load],
        unit => '%',
        note => "$window s, every session beating each 30 s, timeout of 120 s"
    );
    $report->row(
        worker_cpu_busy => 'the same while those fell silent',
        reach => ['<=', 5],
        values => [$busy],
        unit => '%',
        note => "a timeout of $timeout s: every session is looked at that often; "
            . plain(1000 / $pause)
            . ' end each second'
    );
    $report->point(expiry => 'sessions', percentile($_, @late), $_) for @late ? (map { $_ * 2 } 1 .. 50) : ();
}

# The first page, while everybody is there.
sub first_page ($run) {
    my ($server, $report) = @$run{qw(server report)};
    $server->load('big', 1, $run->{loaded});
    $server->value('big', 'VACUUM ANALYZE');
    $report->group('The first page of ' . plain($run->{loaded}) . ' users online');
    $report->row(
        first_page => 'get_active_users(100)',
        reach => ['<=', 50],
        unit => 'ms',
        values => [
            map {
                scalar $server->milliseconds(
                    'big', 'first_page',
                    'SELECT * FROM get_active_users(100)',
                    transactions => 10
                )
            } 1 .. 3
        ]
    );
}

1;
