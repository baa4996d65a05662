package Measure::Restart;

# What a restart forgets, and how long a heartbeat has to wait for it.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(plain);
use Time::HiRes qw(sleep time);

sub run ($run) {
    clean($run, $run->{loaded});
    crash($run);
}

sub clean ($run, $sessions) {
    my ($server, $report) = @$run{qw(server report)};
    my $text = plain($sessions);
    $run->{progress}->("restart with $text sessions");
    $server->set('presence.timeout' => '15min');
    $server->load('big', 1, $sessions);
    $server->value('big', 'DROP TABLE IF EXISTS beats_before');
    $server->value('big',
        'CREATE UNLOGGED TABLE beats_before AS SELECT user_id, session_id, heartbeat_at FROM presence_sessions WHERE online'
    );
    my $outage = $server->start_probe('big', 'outage');
    $server->wait_for(10, sub { -s $server->{programs}{$outage} });
    my $start = time;
    $server->restart;
    my $took = time - $start;
    my (undef, $line) = $server->finish_probe($outage, 0);
    my ($last, $answered, $beat) = split /\t/, $line;
    my $look = sub {
        $server->row(
            'big', q{
        SELECT count(*) FILTER (WHERE now.online IS NOT TRUE), count(*) FILTER (WHERE now.heartbeat_at < before.heartbeat_at - interval '1 second')
        FROM beats_before AS before LEFT JOIN presence_sessions AS now USING (user_id, session_id)}
        );
    };

# Reading the file goes on beside the first heartbeats; nobody may be offline meanwhile.
    my ($gone, $forgotten, $until) = (0);
    $server->wait_for(
        60,
        sub {
            $until = time - $answered / 1e6;
            (my $offline, $forgotten) = $look->();
            $gone = $offline if $offline > $gone;
            $forgotten == 0;
        }
    );
    $server->value('big', 'DROP TABLE beats_before');
    $server->set('presence.timeout' => undef);
    $report->group("Restarts ($text sessions: pg_ctl restart -m fast)");
    $report->row(restart_offline => 'sessions offline at any moment after it', reach => ['<=', 0], values => [$gone]);
    $report->row(
        restart_forgotten => 'sessions whose last heartbeat is forgotten',
        reach => ['<=', 0],
        values => [$forgotten],
        note => 'by a second and more; looked at ' . plain($until) . ' s after the first answer'
    );
    $report->row(
        restart_first_beat => 'first heartbeat after the first answer to SELECT 1',
        reach => ['<=', 100],
        values => [($beat - $answered) / 1000],
        unit => 'ms'
    );
    $report->row(
        restart_gap => 'from the last heartbeat before it to the first after it',
        values => [($beat - $last) / 1e6],
        unit => 's',
        note => 'the whole restart took ' . plain($took) . ' s'
    );
}

sub crash ($run) {
    my ($server, $report) = @$run{qw(server report)};
    my ($sessions, $timeout) = $run->{quick} ? (2_000, 2) : (100_000, 30);
    my $text = plain($sessions);
    my $half = $sessions / 2;
    $run->{progress}->("kill -9 with $text sessions");
    $server->create_database('crash');
    $server->worker_pid('crash', 1);
    $server->load('crash', 1, $sessions);
    $server->set('presence.timeout' => "${timeout}s");
    $server->load('crash', 1, $sessions);
    my $start = time;
    $server->kill9;
    my $up = time;

# Half of them beat again at once, as clients do, and then regularly; the others are gone.
    $server->load('crash', 1, $half);
    my $back = time - $up;
    my ($false_offline, $looked) = (0, 0);
    my $keeper = $server->start_probe('crash', 'keep', $half, $timeout / 3);
    my $ghosts_gone;
    while (time < $up + 2 * $timeout + 2) {
        my ($beating, $ghosts) = $server->row('crash',
            "SELECT count(*) FILTER (WHERE user_id::bigint <= $half), count(*) FILTER (WHERE user_id::bigint > $half) FROM presence WHERE online"
        );
        ++$looked;
        $false_offline = $half - $beating if $half - $beating > $false_offline;
        if ($ghosts == 0) { $ghosts_gone = time - $up; last }
        sleep 0.3;
    }
    sleep 1;
    my $left = $server->value('crash', "SELECT count(*) FROM presence WHERE online AND user_id::bigint <= $half");
    $false_offline = $half - $left if $half - $left > $false_offline;
    $server->finish_probe($keeper);
    $server->set('presence.timeout' => undef);
    $report->group("Crash ($text sessions, timeout of $timeout s: kill -9 of every process of the server)");
    $report->row(
        crash_false_offline => 'sessions falsely offline among those who beat again',
        reach => ['<=', 0],
        values => [$false_offline],
        note => "half of them, who needed " . plain($back) . " s for it; looked at $looked times"
    );
    $report->row(
        crash_ghosts => 'until nobody is online who fell silent',
        reach => ['<=', 2 * $timeout],
        values => [$ghosts_gone // 1e6],
        unit => 's',
        note => 'after the server answered; it was down for ' . plain($up - $start) . ' s'
    );
    $server->drop_database('crash');
}

1;
