package Measure::Feed;

# Joins that announce against joins that do not, time to the listener, and everybody coming back at once.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median percentile interleave ratios plain);

my $no_worker = 'no worker: worker_pid of presence_health stays NULL';

sub run ($run) {
    joins($run);
    latency($run);
    storm($run);
}

# A database each, so that each has its own feed, tables and worker.
sub joins ($run) {
    my ($server, $report) = @$run{qw(server report)};
    $run->{progress}->('joins');
    $server->create_database('announced');
    $server->create_database('silent', "presence.notify_channel = ''");
    $server->create_database('inline', "presence.notify_channel = ''");
    my $user = '\set u random(1, 1000000000000)' . "\n";
    my %sql = (
        silent => 'SELECT update_user_heartbeat(:u, :u)',
        announced => 'SELECT update_user_heartbeat(:u, :u)',
        inline =>
            q{SELECT update_user_heartbeat(:u, :u), pg_notify('presence', json_build_object('event', 'user_online', 'user_id', :u::text, 'at', now())::text)}
    );
    my $worker = $server->worker_pid('announced');
    my @clients = $run->{quick} ? (32) : (1, 8, 32, 64);
    my @listeners = map { $server->listen($_) } qw(announced inline);
    $report->group('Joins: sessions that begin' . ($worker ? '' : " ($no_worker)"));

    for my $clients (@clients) {
        $run->{progress}->("joins of $clients clients");
        my %rate = interleave(
            $clients == 32 ? $run->{rounds} : $run->{quick} ? 1 : 3,
            map {
                my $name = $_;
                (
                    $name => sub {
                        $server->pgbench(
                            $name, $server->script("join_$name", "$user$sql{$name};\n"),
                            clients => $clients,
                            seconds => $run->{seconds}
                        );
                    }
                )
            } qw(silent announced inline)
        );
        $report->point(joins => 'presence, announced', $clients, median(@{ $rate{announced} }));
        $report->point(joins => 'presence, announcing nothing', $clients, median(@{ $rate{silent} }));
        $report->point(joins => 'the same with pg_notify()', $clients, median(@{ $rate{inline} }));
        my $note = join ', ', map { plain(median(@{ $rate{ $_->[0] } })) . "/s $_->[1]" } ['announced', 'announced'],
            ['silent', 'announcing nothing'], ['inline', 'with pg_notify()'];
        $report->row(
            "joins_$clients",
            "announced joins against joins that announce nothing, $clients client" . ($clients == 1 ? '' : 's'),
            values => [ratios($rate{announced}, $rate{silent})],
            unit => 'times',
            note => $note,
            $clients == 32 ? (reach => ['>=', 0.9]) : ()
        );
        $report->row(
            "joins_inline_$clients",
            "announced joins against joins with pg_notify(), $clients client" . ($clients == 1 ? '' : 's'),
            values => [ratios($rate{announced}, $rate{inline})],
            unit => 'times'
        );
    }
    if ($worker) {
        my $start = Time::HiRes::time();
        my $caught_up = $server->wait_for(60,
            sub { $server->value('announced', 'SELECT count(*) FROM presence_event_queue') == 0 });
        $report->row(
            joins_backlog => 'until the worker had numbered everything, after the last join',
            values => [Time::HiRes::time() - $start],
            unit => 's',
            note => $caught_up ? '' : 'it had not'
        );
    }
    $server->finish_probe($_) for @listeners;
    $server->drop_database($_) for qw(announced silent inline);
}

sub latency ($run) {
    my ($server, $report) = @$run{qw(server report)};
    $run->{progress}->('from a join to its notification');
    $server->create_database('idle');
    my $worker = $server->worker_pid('idle');
    my @lines = map { [split /\t/] } split /\n/,
        $server->probe('idle', 'joins', $run->{quick} ? 100 : 500, 'idle-', 10);
    my @heard = grep { $_->[1] >= 0 } map { [$_->[0] / 1000, $_->[1] / 1000] } @lines;
    my @after_answer = map { $_->[1] > $_->[0] ? $_->[1] - $_->[0] : 0 } @heard;
    my $lost = @lines - @heard;
    $report->group('From a join to its notification, idle server' . ($worker ? '' : " ($no_worker)"));
    $report->row(
        notification_p50 => 'from the answer (committed) to the notification, median',
        values => [percentile(50, @after_answer)],
        unit => 'ms'
    );
    $report->row(
        notification_p99 => '99th percentile',
        reach => ['<=', 5],
        values => [$lost ? 5000 : percentile(99, @after_answer)],
        unit => 'ms',
        note => scalar(@lines) . ' joins' . ($lost ? ", $lost never announced" : '')
    );
    $report->row(
        notification_from_call => 'from the call to the notification, 99th percentile',
        values => [percentile(99, map { $_->[1] } @heard)],
        unit => 'ms',
        note => 'median '
            . plain(percentile(50, map { $_->[1] } @heard))
            . ' ms; the call by itself '
            . plain(percentile(50, map { $_->[0] } @heard)) . ' ms'
    );
    $server->drop_database('idle');
}

sub storm ($run) {
    my ($server, $report) = @$run{qw(server report)};
    my $people = $run->{quick} ? 2_000 : 100_000;
    my $text = plain($people);
    my $title = "A network cut: $text people come back at once (64 clients)";
    $run->{progress}->("$text people go");
    $server->create_database('storm');
    my $worker = $server->worker_pid('storm');
    if (!$worker) {
        $report->group($title);
        $report->skip(storm => 'the storm', undef, $no_worker);
        return $server->drop_database('storm');
    }
    $server->load('storm', 1, $people);
    $server->set('presence.timeout' => '1s');
    my $gone =
        $server->wait_for(180, sub { $server->value('storm', 'SELECT count(*) FROM presence_user WHERE online') == 0 });
    $server->set('presence.timeout' => undef);
    die "$text people did not go offline within three minutes\n" if !$gone;
    $server->wait_for(60, sub { $server->value('storm', 'SELECT count(*) FROM presence_event_queue') == 0 });
    my $seq = $server->value('storm', 'SELECT max(seq) FROM presence_events');

    $run->{progress}->("$text people come back");
    my %beside = (
        'SELECT 1' => { sql => 'SELECT 1', reach => 20 },
        'heartbeats of somebody else' => { sql => "SELECT update_user_heartbeat('bystander', 's')", reach => 50 }
    );
    $server->value('storm', $_->{sql}) for values %beside;
    $_->{idle} = [split /\n/, $server->probe('storm', 'latency', 1, $_->{sql})] for values %beside;
    $_->{sampler} = $server->start_probe('storm', 'latency', 600, $_->{sql}) for values %beside;
    my $watch = $server->start_probe('storm', 'watch', 600,
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)) * 1000, 0) FROM pg_stat_activity WHERE pid = $worker"
    );
    my %storm = map { split /\t/ } split /\n/, $server->probe('storm', 'storm', $people, 64);
    $_->{storm} = [$server->finish_probe($_->{sampler})] for values %beside;
    my @transactions = $server->finish_probe($watch);
    my ($events, $users, $gaps) = $server->row('storm',
        "SELECT count(*), count(DISTINCT user_id), (SELECT max(seq) - $seq - count(*) FROM presence_events WHERE seq > $seq) FROM presence_events WHERE seq > $seq AND event = 'user_online' AND user_id <> 'bystander'"
    );
    $report->group($title);
    $report->row(
        storm_seconds => 'until the last heartbeat was answered',
        values => [$storm{seconds}],
        unit => 's',
        note => plain($people / $storm{seconds}) . ' people a second'
    );
    $report->row(storm_failed => 'heartbeats that failed', reach => ['<=', 0], values => [$storm{failed}]);
    $report->row(
        storm_events => 'people missing from the feed',
        reach => ['<=', 0],
        values => [$people - $users],
        note => "$events events of $users people, numbers missing in the feed: $gaps"
    );
    $report->row(
        storm_notified => 'notifications missing at a listener',
        reach => ['<=', 0],
        values => [$people - $storm{heard}],
        note => "the last one came $storm{last_heard} s after the start"
    );
    $report->row(storm_order => 'notifications out of order', reach => ['<=', 0], values => [$storm{disordered}]);

    for my $what ('SELECT 1', 'heartbeats of somebody else') {
        my %us = %{ $beside{$what} };
        my $ms = sub ($p, $when) { percentile($p, @{ $us{$when} }) / 1000 };
        $report->row(
            'storm_beside_' . ($what =~ s/\W+/_/gr),
            "$what beside it, 99th percentile",
            reach => ['<=', $us{reach}],
            values => [$ms->(99, 'storm')],
            unit => 'ms',
            note => sprintf 'median %s ms, longest %s ms; before the storm: median %s ms, 99th percentile %s ms',
            map { plain($_) } $ms->(50, 'storm'),
            $ms->(100, 'storm'),
            $ms->(50, 'idle'),
            $ms->(99, 'idle')
        );
    }
    $report->row(
        storm_worker => 'transactions of the worker meanwhile, the longest seen',
        values => [percentile(100, @transactions)],
        unit => 'ms',
        note => 'looked at ' . plain(scalar @transactions) . ' times'
    );
    $server->drop_database('storm');
}

1;
