package Measure::Storms;

# What changes presence, against the twin: plain tables of the same shape that get the same rows (bench/sql/twin.sql).
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median interleave ratios plain);
use Time::HiRes qw(sleep time);

my $batch = 1000;

sub run ($run) {
    my ($server, $report) = @$run{qw(server report)};
    my $people = $run->{quick} ? 5_000 : 100_000;
    my (%measured, %wal);
    $server->set('presence.timeout' => '1h', 'presence.storm_threshold' => undef);
    my $rounds = $run->{quick} ? 1 : 3;
    for my $round (1 .. $rounds) {
        $run->{progress}->("storms, round $round");
        $server->create_database('storms');
        my $worker = $server->worker_pid('storms', 30) or die "there is no worker\n";
        $server->psql('storms', '-f', "$run->{repo}/bench/sql/twin.sql");
        batches($run, $people, \%measured);
        sizes($run, $people) if $round == 1;
        silence($run, $people, $worker, \%measured);
        numbering($run, $people, $worker, \%measured);
        retention($run, $worker, \%measured);
        singles($run, $people, \%measured);
        wal($run, \%wal) if $round == 1;
        $server->drop_database('storms');
    }
    $server->set('presence.timeout' => undef);
    report($run, $people, \%measured, \%wal);
}

# Seconds that a script takes, so many times by so many clients; {cpu} is then what the server needed for all of them.
sub seconds ($server, $name, $sql, $times, $clients = 1) {
    my $start = time;
    $server->pgbench(
        'storms', $server->script($name, "$sql\n"),
        clients => $clients,
        transactions => $times / $clients
    );
    my $took = time - $start;
    $server->{cpu} *= $times / 1e6;
    return $took;
}

# What a session that came leaves on disk.
sub sizes ($run, $people) {
    my ($rows, $events, $bytes) = $run->{server}->row('storms',
        "SELECT pg_total_relation_size('presence_user') + pg_total_relation_size('presence_session'), (SELECT count(*) FROM presence_event), pg_total_relation_size('presence_event') + pg_total_relation_size('presence_feed_range')"
    );
    $run->{report}->fact(row_bytes => $rows / $people);
    $run->{report}->fact(event_bytes => $bytes / $events);
    $run->{report}->fact(events => 2 * $events / $people);    # as many again when it goes
}

sub names ($type) {
    return
        "SELECT array_agg(('u' || n * $batch + i)::$type) AS a FROM generate_series(1, $batch) AS i, (SELECT nextval('batch') AS n) AS next";
}

sub batches ($run, $people, $measured) {
    my $server = $run->{server};
    my $times = $people / $batch;
    my $beats = 'SELECT update_user_heartbeats(a, a) FROM (' . names('presence_id') . ') AS named';
    my $restart = sub { $server->value('storms', 'ALTER SEQUENCE batch RESTART') };
    push @{ $measured->{joins} }, seconds($server, 'storm_joins', $beats, $times);
    push @{ $measured->{joins_cpu} }, $server->{cpu};
    settle($run, $people);
    $restart->();
    push @{ $measured->{second} }, seconds($server, 'storm_second', $beats, $times);
    $restart->();
    push @{ $measured->{third} }, seconds($server, 'storm_third', $beats, $times);
    $restart->();
    push @{ $measured->{twin} },
        seconds($server, 'storm_twin', 'SELECT twin_joins(a, a) FROM (' . names('text') . ') AS named', $times);
    push @{ $measured->{twin_cpu} }, $server->{cpu};
}

# Until the worker has numbered what there is.
sub settle ($run, $people) {
    my $server = $run->{server};
    $server->wait_for(300, sub { $server->value('storms', 'SELECT unpublished_events FROM presence_health') == 0 })
        or die "the events of $people sessions were not numbered in five minutes\n";
}

sub last_seq ($server) {
    return $server->value('storms', 'SELECT coalesce(max(first_seq + events - 1), 0) FROM presence_feed_range');
}

# Everybody's timeout is over at the moment at which it is set.
sub silence ($run, $people, $worker, $measured) {
    my $server = $run->{server};
    my $seq = last_seq($server);
    sleep 1.2;
    my $start = time;
    $server->set('presence.timeout' => '1s');
    my $all = $server->wait_for(300, sub { last_seq($server) >= $seq + 2 * $people });
    push @{ $measured->{ends} }, time - $start;
    $server->set('presence.timeout' => '1h');
    die "$people sessions did not end in five minutes\n" if !$all;
    $start = time;
    $server->value('storms', 'SELECT twin_ends(array_agg(user_id)) FROM twin_user');
    push @{ $measured->{twin_ends} }, time - $start;
}

# Events that are committed while the worker stands still; a listener is there, and each is announced.
sub numbering ($run, $people, $worker, $measured) {
    my $server = $run->{server};
    $server->set('presence.storm_threshold' => 0);
    my $listener = $server->listen('storms');
    my $seq = last_seq($server);
    kill STOP => $worker;
    $server->value('storms', 'ALTER SEQUENCE batch RESTART 1000');
    my $joins = 'SELECT update_user_heartbeats(a, a) FROM (' . names('presence_id') . ') AS named';
    my $lived = eval { seconds($server, 'storm_numbering', $joins, $people / $batch); 1 };
    my $start = time;
    kill CONT => $worker;
    die $@ if !$lived;
    $server->wait_for(300, sub { last_seq($server) >= $seq + 2 * $people }) or die "events were not numbered\n";
    push @{ $measured->{number} }, 2 * $people / (time - $start);
    $server->finish_probe($listener);
    $server->set('presence.storm_threshold' => undef);
}

# What the worker does with events that are older than they are kept; the twin's stay.
sub retention ($run, $worker, $measured) {
    my $server = $run->{server};
    my $dropped = sub { $server->value('storms', 'SELECT coalesce(max(seq), 0) FROM presence_feed_dropped') };
    my $events = $server->value('storms', 'SELECT count(*) FROM presence_event');
    my $last = last_seq($server);
    my $cpu = Server->cpu($worker);
    $server->set('presence.event_retention' => 0);
    $server->wait_for(60, sub { $dropped->() > 0 }) or die "no event was removed within a minute\n";
    my $start = time;
    $server->wait_for(300, sub { $dropped->() >= $last }) or die "old events were not removed\n";
    push @{ $measured->{removal} }, 1e6 * (Server->cpu($worker) - $cpu) / $events;
    push @{ $measured->{removal_time} }, 1e6 * (time - $start) / $events;
    $server->set('presence.event_retention' => undef);
}

# People who were here before and are gone, one by one, of 64 clients.
sub singles ($run, $people, $measured) {
    my $server = $run->{server};
    my $clients = 64;
    my $times = int($people / $clients) * $clients;
    my $returns = "SELECT update_user_heartbeat('u' || nextval('person') + $batch, 'u')";
    push @{ $measured->{singles} }, seconds($server, 'storm_singles', $returns, $times, $clients);
    push @{ $measured->{singles_cpu} }, $server->{cpu};
    $server->value('storms', 'TRUNCATE twin_user, twin_session');
    $server->value('storms', 'ALTER SEQUENCE person RESTART');
    push @{ $measured->{twin_singles} },
        seconds($server, 'storm_twin_singles', "SELECT twin_join('u' || nextval('person'), 'u')", $times, $clients);
    push @{ $measured->{twin_singles_cpu} }, $server->{cpu};
}

# Without full-page images, whose number depends on when the last checkpoint was. Many at once, as one statement of the
# twin's does it; and one by one, where a goodbye is also an entry of the log.
sub wal ($run, $wal) {
    my $server = $run->{server};
    my $people = $run->{quick} ? 1_000 : 10_000;
    $server->set(full_page_writes => 'off', autovacuum => 'off');
    my $measure = sub ($name, $do) {
        settle($run, $people);
        $server->value('storms', 'ALTER SEQUENCE person RESTART');
        my $before = $server->value('storms', 'SELECT pg_current_wal_insert_lsn()');
        $do->();
        settle($run, $people);
        $wal->{$name} = $server->value('storms', "SELECT pg_current_wal_insert_lsn() - '$before'::pg_lsn") / $people;
    };
    my $single = sub ($name, $sql) {
        $measure->($name, sub { seconds($server, "wal_$name", $sql, $people) });
    };
    my $all = "FROM (SELECT array_agg(('v' || i)::%s) AS a FROM generate_series(1, $people) AS i) AS named";
    my $set = sub ($name, $function, $type) {
        $measure->($name, sub { $server->value('storms', sprintf "SELECT $function $all", $type) });
    };

# Whoever is left of what came before is ended first.
    my $silence = sub {
        $server->set('presence.timeout' => '1s');
        $server->wait_for(300, sub { $server->value('storms', 'SELECT count(*) FROM presence_user WHERE online') == 0 })
            or die "sessions did not end in five minutes\n";
        $server->set('presence.timeout' => '1h');
    };
    $silence->();
    $set->('twin_joins', 'twin_joins(a, a)', 'text');
    $set->('twin_ends', 'twin_ends(a)', 'text');
    $set->('joins', 'update_user_heartbeats(a, a)', 'presence_id');
    sleep 1.2;
    $measure->('ends', $silence);
    $single->('twin_join', "SELECT twin_join('w' || nextval('person'), 's')");
    $single->('twin_end', "SELECT twin_end('w' || nextval('person'))");
    $single->('join', "SELECT update_user_heartbeat('w' || nextval('person'), 's')");
    $single->('goodbye', "SELECT mark_user_offline('w' || nextval('person'), 's')");
    $server->set(full_page_writes => undef, autovacuum => undef);
}

sub report ($run, $people, $measured, $wal) {
    my $report = $run->{report};
    $report->fact("${_}_wal" => $wal->{$_}) for qw(join goodbye);
    $report->fact(join_cpu => median(@{ $measured->{singles_cpu} }) / $people);
    my $text = plain($people);
    $report->group("What changes presence, against the twin ($text sessions)");
    my $seconds = sub (@names) {
        join ' s against ', map { plain(median(@{ $measured->{$_} })) } @names;
    };
    my $against = sub ($id, $what, $mine, $peer, $limit, $peer_name = 'the twin') {
        my @cpu = map {"${_}_cpu"} $mine, $peer;
        $report->row(
            $id, $what,
            reach => ['<=', $limit],
            unit => 'times as long',
            values => [ratios(@$measured{ $mine, $peer })],
            note => $seconds->($mine, $peer)
                . " s of $peer_name"
                . ($measured->{ $cpu[0] } ? '; CPU of the backends: ' . $seconds->(@cpu) . ' s' : '')
        );
    };
    $against->(storm_joins => "joins in batches of $batch", 'joins', 'twin', 1.5);
    $against->(storm_second => 'second heartbeats in batches against third', 'second', 'third', 1.2, 'the third');
    $against->(storm_ends => 'all silent at once: until the last event has its number', 'ends', 'twin_ends', 2);
    $report->row(
        storm_ends_seconds => 'all silent at once',
        reach => ['<=', 6],
        unit => 's',
        values => $measured->{ends}
    );
    $report->row(
        storm_numbering => 'events numbered and announced one by one',
        reach => ['>=', 60_000],
        unit => '/s',
        values => $measured->{number}
    );
    $against->(
        storm_singles => 'single returns of 64 clients',
        'singles', 'twin_singles', 1.3,
        'single calls of three INSERTs'
    );
    $report->row(
        storm_removal => 'a million events past their retention: CPU of the worker to remove them',
        reach => ['<=', 1],
        values => $measured->{removal},
        unit => 's',
        note => plain(median(@{ $measured->{removal_time} }))
            . ' s until they are gone: a part at a time, so that nothing else waits'
    );

    for (
        ['joins', 'a join, of many at once', 'twin_joins'],
        ['ends', 'an end, of many who fell silent at once', 'twin_ends'],
        ['join', 'a join by a call of its own', 'twin_join'],
        ['goodbye', 'a goodbye by a call of its own, with its entry in the log', 'twin_end']
    ) {
        my ($name, $what, $peer) = @$_;
        $report->row(
            "wal_$name",
            "WAL of $what",
            reach => ['<=', 1.3],
            values => [$wal->{$name} / $wal->{$peer}],
            unit => "times the twin's",
            note => plain($wal->{$name})
                . ' bytes against '
                . plain($wal->{$peer})
                . ', numbering included, without full-page images'
        );
    }
}

1;
