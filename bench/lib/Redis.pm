package Redis;

# A private Redis without persistence, which is how it is fastest, and the real redis-benchmark on it. Like PostgreSQL's
# clients here, Redis's use a Unix socket.
use v5.28;
use warnings;
use experimental 'signatures';
use Time::HiRes qw(sleep);

our %command = (
    zadd => ['ZADD', 'online', '__rand_int__', 'user:__rand_int__'],
    set => ['SET', 'user:__rand_int__', '1', 'EX', '120'],
);

sub start ($class, $dir, $sessions) {
    my $self = bless { socket => "$dir/redis.sock", sessions => $sessions, rate => {} }, $class;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDOUT, '>', "$dir/redis.log";
        exec 'redis-server', '--port', 0, '--unixsocket', $self->{socket}, '--save', '', '--appendonly', 'no'
            or die "redis-server: $!\n";
    }
    $self->{pid} = $pid;
    for (1 .. 100) {
        last if -S $self->{socket};
        sleep 0.05;
    }
    return $self;
}

sub version ($self) { return `redis-server --version` =~ /v=([\d.]+)/ ? $1 : '?' }

# Requests per second. redis-benchmark counts requests, so the first run only finds out how many fill the time.
sub rate ($self, $name, $clients, $pipeline, $seconds) {
    my $key = "$name/$clients/$pipeline";
    $self->{rate}{$key} //= $self->run($name, $clients, $pipeline, $self->{sessions} * ($pipeline > 1 ? 4 : 1));
    return $self->{rate}{$key} = $self->run($name, $clients, $pipeline, int($self->{rate}{$key} * $seconds) + 1);
}

sub run ($self, $name, $clients, $pipeline, $requests) {
    open my $pipe, '-|', 'redis-benchmark', '-s', $self->{socket}, '-c', $clients, '-P', $pipeline, '-n', $requests,
        '-r', $self->{sessions}, '--csv', @{ $command{$name} }
        or die "redis-benchmark: $!\n";
    my @lines = <$pipe>;
    close $pipe or die "redis-benchmark failed\n";
    return $lines[-1] =~ /","([\d.]+)"/ ? $1 : die "redis-benchmark: @lines\n";
}

sub stop ($self) {
    kill TERM => $self->{pid};
    waitpid $self->{pid}, 0;
}

1;
