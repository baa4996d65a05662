package Measure::Against;

# This revision and another one, in one run: what a heartbeat of a known session costs the server, and what it costs to begin
# and to end one.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median interleave ratios plain);
use Time::HiRes qw(sleep);

my $batch = 1000;

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
    changes($run, \%server, $revision);
}

# CPU microseconds for each session, of the backends, or of the worker where that does the work.
sub changes ($run, $server, $revision) {
    my $people = $run->{quick} ? 5_000 : 50_000;
    my %cost = (this => {}, other => {});
    for my $round (1 .. $run->{rounds}) {
        $run->{progress}->("joins and ends against $revision, round $round");
        for my $name ($round % 2 ? qw(this other) : qw(other this)) {
            my %round = on($server->{$name}, sub ($server) { one_round($server, $people) });
            push @{ $cost{$name}{$_} }, $round{$_} for keys %round;
        }
    }
    my %what = (
        joins => "joins in batches of $batch",
        ends => 'ends of all who fell silent at once, with their numbers',
        join => 'joins by calls of their own',
        goodbye => 'goodbyes by calls of their own'
    );
    my $report = $run->{report};
    $report->group("What changes presence, against revision $revision (@{[plain($people)]} sessions)");
    for my $id (qw(joins ends join goodbye)) {
        my ($this, $other) = map { $cost{$_}{$id} } qw(this other);
        $report->row(
            "against_$id" => "CPU of $what{$id}",
            reach => ['<=', 1.1],
            unit => 'times',
            values => [ratios($this, $other)],
            note => plain(median(@$this)) . ' us against ' . plain(median(@$other)) . ' us'
        );
    }
}

sub one_round ($server, $people) {
    my $settle = sub ($done) {
        $server->wait_for(120, sub { $server->value('changes', "SELECT $done FROM presence_health") eq 't' })
            or die "$people sessions are not done with after two minutes\n";
    };
    my $backends = sub ($id, $sql, $each, $clients) {
        $server->pgbench(
            'changes', $server->script("against_$id", "$sql\n"),
            clients => $clients,
            transactions => $people / $each / $clients
        );
        $settle->('unpublished_events = 0');
        return $server->{cpu} / $each;
    };
    $server->set('presence.timeout' => '1h');
    $server->create_database('changes');
    $server->value('changes', "CREATE SEQUENCE $_") for qw(batch person leaver);
    my $worker = $server->worker_pid('changes', 30) or die "there is no worker\n";
    my %cost;
    $cost{joins} = $backends->(
        joins =>
            "SELECT update_user_heartbeats(a, a) FROM (SELECT array_agg(('u' || n * $batch + i)::presence_id) AS a FROM generate_series(1, $batch) AS i, (SELECT nextval('batch') AS n) AS next) AS named",
        $batch, 1
    );
    sleep 1.2;    # all of them are silent for longer than the timeout when it is set
    my $before = Server->cpu($worker);
    $server->set('presence.timeout' => '1s');
    $settle->('online_users = 0 AND unpublished_events = 0 AND (SELECT count(*) FROM presence_user WHERE online) = 0');
    $cost{ends} = 1e6 * (Server->cpu($worker) - $before) / $people;
    $server->set('presence.timeout' => '1h');
    $cost{join} = $backends->(join => "SELECT update_user_heartbeat('w' || nextval('person'), 's')", 1, 8);
    $cost{goodbye} = $backends->(goodbye => "SELECT mark_user_offline('w' || nextval('leaver'), 's')", 1, 8);
    $server->drop_database('changes');
    return %cost;
}

# With the environment of that server.
sub on ($server, $work) {
    local %ENV = (%ENV, %{ $server->{environment} });
    return $work->($server);
}

1;
