package Measure::Memory;

# Heartbeats by the million and sessions that come and go: nothing may grow.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(plain);

sub run ($run) {
    my ($server, $report) = @$run{qw(server report)};
    $run->{progress}->('ten million heartbeats of one connection');
    $server->create_database('memory');
    my $worker = $server->worker_pid('memory', 2);
    $server->load('memory', 1, 100_000);
    my @memory = map { [split /\t/] } split /\n/, $server->probe('memory', 'memory', 10_000_000, 100_000);
    $report->group('Memory that grows');
    $report->row(
        memory_backend => 'private bytes of a backend, growth',
        reach => ['<=', 65536],
        values => [$memory[-1][1] - $memory[1][1]],
        unit => 'bytes',
        note => 'from '
            . plain($memory[1][0]) . ' to '
            . plain($memory[-1][0])
            . ' heartbeats: '
            . plain($memory[1][1]) . ' to '
            . plain($memory[-1][1])
    );
    $report->point(backend_memory => 'private bytes of a backend', $_->[0], $_->[1] / 1e6) for @memory;

    my ($generations, $size) = (10, $run->{most} / 50);
    my (@shared, @private);
    for my $generation (1 .. $generations) {
        $run->{progress}->("sessions come and go, $generation of $generations");
        $server->load('memory', $generation * $size + 1, $generation * $size + $size);
        $server->set('presence.timeout' => '1s');
        my $gone = $server->wait_for(
            180,
            sub {
                $server->value('memory',
                    'SELECT cleanup_stale_presence(); SELECT count(*) FROM presence_user WHERE online') =~ /\b0$/;
            }
        );
        $server->set('presence.timeout' => undef);
        die "sessions did not end within three minutes\n" if !$gone;
        my ($bytes, $cached) =
            $server->row('memory', 'SELECT cache_bytes, cached_sessions FROM presence_server_state()');
        push @shared, [$bytes, $cached];
        push @private, $worker ? Server->private_bytes($worker) // 0 : 0;
    }
    $report->row(
        memory_entries => 'entries left when everybody has gone',
        reach => ['<=', 0],
        values => [$shared[-1][1]]
    );
    $report->row(
        memory_shared => 'shared bytes, growth',
        reach => ['<=', 0],
        values => [$shared[-1][0] - $shared[1][0]],
        unit => 'bytes',
        note => plain($generations * $size)
            . ' sessions came and went; with none left '
            . plain($shared[-1][0])
            . ' bytes are kept'
    );
    $report->row(
        memory_worker => 'private bytes of the worker, growth',
        reach => ['<=', 1048576],
        values => [$private[-1] - $private[1]],
        unit => 'bytes',
        note => plain($private[1]) . ' to ' . plain($private[-1])
    ) if $worker;
    $server->drop_database('memory');
}

1;
