package Measure::Against;

# This revision and another one, in one run: what a heartbeat of a known session costs the server.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median interleave ratios plain);

sub run ($run, $other, $revision) {
    my $report = $run->{report};
    my %server = (this => $run->{server}, other => $other);
    my (%script, %cpu);
    for my $name (qw(this other)) {
        $run->{progress}->("sessions of $name revision");
        on(
            $server{$name},
            sub ($server) {
                $server->create_database('heartbeats');
                $server->load('heartbeats', 1, $run->{sessions});
                $server->load('heartbeats', 1, $run->{sessions});
                $script{$name} =
                    $server->script('against', "\\set n random(1, :sessions)\nSELECT update_user_heartbeat(:n, :n);\n");
            }
        );
    }
    my $beat = sub ($name) {
        return $name => sub {
            return on(
                $server{$name},
                sub ($server) {
                    my $rate = $server->pgbench(
                        'heartbeats', $script{$name},
                        clients => 8,
                        seconds => $run->{seconds},
                        define => ["sessions=$run->{sessions}"]
                    );
                    push @{ $cpu{$name} }, $server->{cpu};
                    return $rate;
                }
            );
        };
    };
    $run->{progress}->("heartbeats against $revision");
    my %rate = interleave(2 * $run->{rounds} + 1, $beat->('this'), $beat->('other'));
    $report->group(
        "A heartbeat of a known session, against revision $revision ($run->{session_text} sessions, 8 clients)");
    $report->row(
        against_cpu => 'CPU of the server',
        reach => ['<=', 1.05],
        unit => 'times',
        values => [ratios($cpu{this}, $cpu{other})],
        note => plain(median(@{ $cpu{this} })) . ' us against ' . plain(median(@{ $cpu{other} })) . ' us'
    );
    $report->row(
        against_rate => 'heartbeats per second',
        unit => 'times',
        values => [ratios($rate{this}, $rate{other})]
    );
}

# With the environment of that server.
sub on ($server, $work) {
    local %ENV = (%ENV, %{ $server->{environment} });
    return $work->($server);
}

1;
