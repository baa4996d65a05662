package Measure::Heartbeats;

# Heartbeats of known sessions against SELECT 1, tables and Redis; what they cost the server; how cost grows.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median interleave ratios plain);

my $one_parameter = '\set n random(1, :sessions)' . "\n";

sub run ($run) {
    my ($server, $report, $sessions) = @$run{qw(server report sessions)};
    my %script = map { $_->[0] => $server->script($_->[0], $one_parameter . $_->[1] . "\n") } (
        ['presence', 'SELECT update_user_heartbeat(:n, :n)'],
        ['logged', 'SELECT peer_logged_heartbeat(:n, :n)'],
        ['unlogged', 'SELECT peer_unlogged_heartbeat(:n, :n)']
    );

# Some of them type, and go on.
    $script{typing} =
        $server->script('typing', "\\set n random(1, 1000)\nSELECT set_typing(:n, :n, :n % 50, '1min')\n");
    my %cpu;
    my $bench = sub ($name) {
        sub {
            my $rate = $server->pgbench(
                'big', $script{$name},
                clients => 8,
                seconds => $run->{seconds},
                define => ["sessions=$sessions"]
            );
            push @{ $cpu{$name} }, $server->{cpu};
            return $rate;
        }
    };
    fill_peers($run);

    $run->{progress}->('heartbeats one by one');
    $server->load('big', 1, $sessions);

# The closest race is run on its own, with more rounds, without what the others leave behind (WAL, vacuum), and on connections
# that last: a new one pays for its first touch of each page of shared memory, whatever it calls.
    my ($close, $close_cpu) = singles(
        $run, $sessions,
        rounds => $run->{quick} ? 2 : $run->{rounds} + 2,
        select1 => 'SELECT $1::int',
        noop => 'SELECT peer_noop($1, $1)',
        presence => 'SELECT update_user_heartbeat($1, $1)'
    );
    my %close = %$close;
    my %close_cpu = %$close_cpu;
    my %rate = interleave(
        $run->{rounds},
        presence => sub { $server->load('big', 1, $sessions); $bench->('presence')->() },
        map({ ($_ => $bench->($_)) } qw(logged unlogged typing)),
        map {
            my $name = $_;
            ($name => sub { $run->{redis}->rate($name, 8, 1, $run->{seconds}) })
        } qw(zadd set)
    );

    $report->group("Heartbeats of a known session ($run->{session_text} sessions, 8 clients, prepared)");
    $report->row(select1 => 'SELECT 1 with one parameter', values => $close{select1}, unit => '/s');
    $report->row(heartbeat => 'update_user_heartbeat()', values => $close{presence}, unit => '/s');
    my $against = sub ($id, $what, $other) {
        $report->row(
            "heartbeat_vs_$id", "update_user_heartbeat() against $what",
            unit => 'times',
            values => [ratios($rate{presence}, $rate{$other})],
            note => plain(median(@{ $rate{presence} })) . '/s against ' . plain(median(@{ $rate{$other} })) . '/s'
        );
    };
    $report->row(
        heartbeat_vs_select1 => 'update_user_heartbeat() against SELECT 1',
        reach => ['>=', 0.95],
        unit => 'times',
        values => [ratios($close{presence}, $close{select1})]
    );
    $report->row(
        heartbeat_cpu_vs_noop => 'CPU of the server per heartbeat against a C function that returns true',
        reach => ['<=', 1.10],
        unit => 'times',
        values => [ratios(@close_cpu{qw(presence noop)})],
        note => join ', ',
        map { plain(median(@{ $close_cpu{$_} })) . " us for $_" } qw(presence noop select1)
    );
    $report->row(
        heartbeat_cpu => 'CPU of the server per heartbeat',
        values => $cpu{presence},
        unit => 'us',
        note => join ', ',
        map { "$_->[1]: " . plain(median(@{ $cpu{ $_->[0] } })) . ' us' } ['logged', 'upsert into a logged table'],
        ['unlogged', 'unlogged']
    );
    $against->('upsert_logged', 'an upsert into a logged table', 'logged');
    $against->('upsert_unlogged', 'an upsert into an unlogged table', 'unlogged');
    $against->('zadd', 'Redis ZADD', 'zadd');
    $against->('set', 'Redis SET ... EX', 'set');
    $report->row(
        typing_vs_heartbeat => 'set_typing() of who types already against update_user_heartbeat()',
        unit => 'times',
        values => [ratios(@rate{qw(typing presence)})],
        note => plain(median(@{ $rate{typing} })) . '/s against ' . plain(median(@{ $rate{presence} })) . '/s'
    );
    $report->bar(heartbeats => @$_)
        for (
        ['presence', median(@{ $close{presence} })],
        ['SELECT 1', median(@{ $close{select1} })],
        ['Redis SET ... EX', median(@{ $rate{set} })],
        ['Redis ZADD', median(@{ $rate{zadd} })],
        ['upsert, unlogged table', median(@{ $rate{unlogged} })],
        ['upsert, logged table', median(@{ $rate{logged} })]
        );

    batches($run);
    side_effects($run, $script{presence});
}

# Statements that take turns: of each, by its name, calls per second and the CPU of the server per call, turn by turn.
sub singles ($run, $sessions, %with) {
    my $rounds = delete $with{rounds};
    my @names = sort keys %with;
    my (%rate, %cpu);
    for (split /\n/, $run->{server}->probe('big', 'singles', 8, $run->{seconds}, $rounds, $sessions, @with{@names})) {
        my ($number, $calls, $us) = split /\t/;
        push @{ $rate{ $names[$number] } }, $calls;
        push @{ $cpu{ $names[$number] } }, $us;
    }
    return (\%rate, \%cpu);
}

sub fill_peers ($run) {
    my ($server, $sessions) = @$run{qw(server sessions)};
    $server->psql('big', '-f', "$run->{repo}/bench/sql/peers.sql");
    $server->value('big',
        "CREATE FUNCTION peer_noop(presence_id, presence_id) RETURNS boolean AS '$run->{noop}', 'presence_noop' LANGUAGE C"
    );
    $server->value('big', "INSERT INTO $_ SELECT i, i, 'active', true, now() FROM generate_series(1, $sessions) AS i")
        for qw(peer_logged peer_unlogged);
    $server->value('big', "VACUUM ANALYZE $_") for qw(peer_logged peer_unlogged);
}

sub batches ($run) {
    my ($server, $report, $sessions) = @$run{qw(server report sessions)};
    $run->{progress}->('heartbeats in batches of 1,000');
    my $seconds = $run->{quick} ? 0.5 : $run->{seconds};
    my $probe = sub ($function, $format = 'binary') {
        sub { $server->probe('big', 'batches', 8, $seconds, 1000, $sessions, $format, $function) }
    };
    $server->load('big', 1, $sessions);
    my %rate = interleave(
        $run->{rounds},
        presence => $probe->('update_user_heartbeats'),
        text => $probe->('update_user_heartbeats', 'text'),
        logged => $probe->('peer_logged_heartbeats'),
        unlogged => $probe->('peer_unlogged_heartbeats'),
        map {
            my $name = $_;
            ($name => sub { $run->{redis}->rate($name, 8, 1000, $seconds) })
        } qw(zadd set)
    );
    $report->group("Heartbeats in batches of 1,000 ($run->{session_text} sessions, 8 clients)");
    $report->row(
        batch => 'update_user_heartbeats(), arrays in binary',
        values => $rate{presence},
        unit => '/s',
        reach => ['>=', 5_000_000],
        note => 'for the server and its clients together, on all cores'
    );
    $report->row(batch_text => 'update_user_heartbeats(), arrays as text', values => $rate{text}, unit => '/s');
    my $against = sub ($id, $what, $limit) {
        $report->row(
            "batch_vs_$id", "update_user_heartbeats() against $what",
            reach => ['>=', $limit],
            unit => 'times',
            values => [ratios($rate{presence}, $rate{$id})],
            note => plain(median(@{ $rate{$id} })) . '/s'
        );
    };
    $against->('zadd', 'Redis ZADD, pipelined by 1,000', 10);
    $against->('set', 'Redis SET ... EX, pipelined by 1,000', 10);
    $against->('logged', 'batched upserts into a logged table', 10);
    $against->('unlogged', 'batched upserts into an unlogged table', 10);
    $report->bar(batches => @$_)
        for (
        ['presence, binary arrays', median(@{ $rate{presence} })],
        ['presence, text arrays', median(@{ $rate{text} })],
        ['Redis SET ... EX', median(@{ $rate{set} })],
        ['Redis ZADD', median(@{ $rate{zadd} })],
        ['upsert, unlogged table', median(@{ $rate{unlogged} })],
        ['upsert, logged table', median(@{ $rate{logged} })]
        );
}

sub side_effects ($run, $script) {
    my ($server, $report, $sessions) = @$run{qw(server report sessions)};
    $run->{progress}->('what heartbeats leave behind');
    $server->set(autovacuum => 'off');
    $server->load('big', 1, $sessions);
    $server->value('big', $_) for 'DROP TABLE peer_logged, peer_unlogged CASCADE', 'VACUUM', 'CHECKPOINT';

# The feed and the statistics of what came before settle first.
    my $lsn = '';
    $server->wait_for(
        20,
        sub {
            sleep 1;
            my $now = $server->value('postgres', 'SELECT pg_current_wal_insert_lsn()');
            my $still = $now eq $lsn;
            $lsn = $now;
            $still;
        }
    );
    my $facts =
        q{SELECT pg_current_wal_insert_lsn() - '0/0', (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables), pg_snapshot_xmax(pg_current_snapshot()), (SELECT cache_hits FROM presence_server_state())};
    my ($wal, $rows, $ids, $beats);
    for (1 .. 3) {    # the server itself writes a few bytes now and then, whatever its clients do
        my @before = $server->row('big', $facts);
        $server->pgbench('big', $script, clients => 8, seconds => $run->{seconds}, define => ["sessions=$sessions"]);
        $server->probe('big', 'batches', 8, $run->{quick} ? 0.5 : $run->{seconds},
            1000, $sessions, 'binary', 'update_user_heartbeats');
        sleep 1;
        my @after = $server->row('big', $facts);
        ($wal, $rows, $ids, $beats) = map { $after[$_] - $before[$_] } 0 .. 3;
        last if !$wal && !$rows && !$ids;
    }
    $server->set(autovacuum => undef);
    $report->group('What a heartbeat of a known session costs the server');
    my $of = 'in ' . plain($beats) . ' heartbeats';
    $report->row(
        wal_bytes => 'bytes of WAL per heartbeat',
        reach => ['<=', 0],
        values => [$wal / $beats],
        note => plain($wal) . " bytes $of"
    );
    $report->row(
        dead_rows => 'rows written per heartbeat',
        reach => ['<=', 0],
        values => [$rows / $beats],
        note => plain($rows) . " rows $of"
    );
    $report->row(
        transaction_ids => 'transaction ids per heartbeat',
        reach => ['<=', 0],
        values => [$ids / $beats],
        note => plain($ids) . " ids $of"
    );
}

# What each call costs at each size; later sizes build on earlier ones.
sub growth ($run, $sessions) {
    my ($server, $report) = @$run{qw(server report)};
    my $before = $run->{loaded} // 0;
    my $text = plain($sessions);
    $run->{progress}->("growing to $text sessions");
    my $start = Time::HiRes::time();
    $server->load('big', $before + 1, $sessions);
    my $took = Time::HiRes::time() - $start;
    $report->point(growth_joins => 'sessions begun', $sessions, ($sessions - $before) / $took);
    $run->{loaded} = $sessions;
    $server->value('big', 'VACUUM ANALYZE');
    $server->load('big', 1, $sessions);
    $run->{progress}->("costs with $text sessions");
    my $define = ["sessions=$sessions"];
    my (undef, $heartbeat) =
        singles($run, $sessions, rounds => $run->{quick} ? 1 : 3, heartbeat => 'SELECT update_user_heartbeat($1, $1)');
    my $batches = $server->probe('big', 'batches', 8, $run->{quick} ? 0.3 : 1,
        1000, $sessions, 'binary', 'update_user_heartbeats');

# Sizes are minutes apart: the CPU that a call takes compares, its time does not.
    my $cpu = median(@{ $heartbeat->{heartbeat} });
    $report->point(growth => 'heartbeat', $sessions, $cpu);
    $report->point(growth => 'heartbeat in a batch', $sessions, 1e6 / $batches);
    my %calls = (
        'is_user_online()' => ["${one_parameter}SELECT is_user_online(:n)", transactions => 3000],
        'presence_count()' => ['SELECT presence_count()', transactions => 500],
        'cleanup, nobody stale' => ['SELECT cleanup_stale_presence()', transactions => $sessions >= 1e6 ? 2 : 5],
        'get_active_users()' => ['SELECT * FROM get_active_users()', transactions => $sessions >= 1e6 ? 2 : 5],
        'count(*) of the view' => [
            'SELECT count(*) AS total_online FROM presence WHERE online = true',
            transactions => $sessions >= 1e6 ? 1 : 3
        ],
        'presence_health' => ['SELECT * FROM presence_health', transactions => $sessions >= 1e6 ? 1 : 3],
    );

    for my $name (sort keys %calls) {
        my ($sql, %with) = @{ $calls{$name} };
        my $ms = $server->milliseconds('big', 'growth', $sql, %with, define => $define);
        my $cost = $with{transactions} >= 500 ? $server->{cpu} : $ms * 1000;
        $report->point(growth => $name, $sessions, $cost);
        $run->{cost}{$name}{$sessions} = $cost;
    }
    $run->{cost}{'heartbeat'}{$sessions} = $cpu;
    $run->{cost}{'heartbeat in a batch'}{$sessions} = 1e6 / $batches;
    my ($bytes, $cached) = $server->row('big', 'SELECT cache_bytes, cached_sessions FROM presence_server_state()');
    $run->{memory}{$sessions} = $bytes / $cached;
    $report->point(memory => 'bytes per session', $sessions, $bytes / $cached);
}

sub growth_report ($run) {
    my $report = $run->{report};
    my @sizes = sort { $a <=> $b } keys %{ $run->{memory} };
    my ($low, $high) = @sizes[0, -1];
    $report->group('From ' . plain($low) . ' to ' . plain($high) . ' sessions');
    my %limit = ('heartbeat' => 1.3, 'is_user_online()' => 2, 'presence_count()' => 2);
    for my $name ('heartbeat', 'is_user_online()', 'presence_count()') {
        my $cost = $run->{cost}{$name};
        $report->row(
            "growth_$name" =~ s/\W+/_/gr, "$name: CPU of the server with " . plain($high) . ' against ' . plain($low),
            values => [$cost->{$high} / $cost->{$low}],
            unit => 'times',
            reach => ['<=', $limit{$name}],
            note => join ', ',
            map { plain($_) . ': ' . plain($cost->{$_}) . ' us' } @sizes
        );
    }
    my $batch = $run->{cost}{'heartbeat in a batch'};
    $report->row(
        growth_batch => 'heartbeat in a batch with ' . plain($high) . ' against ' . plain($low),
        values => [$batch->{$high} / $batch->{$low}],
        unit => 'times',
        note => join ', ',
        map { plain($_) . ': ' . plain($batch->{$_}) . ' us' } @sizes
    );
    for my $name ('cleanup, nobody stale', 'get_active_users()', 'count(*) of the view', 'presence_health') {
        my $cost = $run->{cost}{$name};
        $report->row(
            "growth_$name" =~ s/\W+/_/gr, "$name with " . plain($high) . ' online',
            values => [$cost->{$high} / 1000],
            unit => 'ms',
            note => join ', ',
            map { plain($_) . ': ' . plain($cost->{$_} / 1000) . ' ms' } @sizes
        );
    }
    $report->row(
        memory => 'shared memory per cached session',
        reach => ['<=', 100],
        values => [$run->{memory}{$high}],
        unit => 'bytes',
        note => join ', ',
        map { plain($_) . ': ' . plain($run->{memory}{$_}) } @sizes
    );
}

1;
