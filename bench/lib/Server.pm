package Server;

# A private PostgreSQL server with the extension, and the real clients on it.
use v5.28;
use warnings;
use experimental 'signatures';
use Time::HiRes qw(sleep time);

sub start ($class, $repo, $dir, @conf) {
    my $self = bless { repo => $repo, dir => $dir, probe => "$repo/build/bench/probe", programs => {} }, $class;
    mkdir $dir;
    chmod 0755, $dir;

# The server's own defaults for durability; memory and WAL as on a server of this size.
    my @settings = map { ('--conf', $_) } 'shared_buffers = 1GB', 'max_wal_size = 8GB', 'checkpoint_timeout = 30min',
        'log_checkpoints = off', @conf;
    my $env = capture("$repo/scripts/private-server", 'start', $dir, '--durable', @settings);
    while ($env =~ /^export (\w+)=(.*)$/mg) {
        my ($name, $value) = ($1, $2);
        if ($name eq 'PATH') { $value =~ s/:"\$PATH"$/:$ENV{PATH}/ }
        $self->{environment}{$name} = $ENV{$name} = $value;
    }
    return $self;
}

sub capture (@command) {
    open my $pipe, '-|', @command or die "$command[0]: $!\n";
    local $/;
    my $output = <$pipe> // '';
    close $pipe or die "failed: @command\n";
    return $output;
}

sub psql ($self, $database, @arguments) {
    local $ENV{PGDATABASE} = $database;
    local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
    my $output = capture('psql', '-XAtq', '-F', "\t", '-v', 'ON_ERROR_STOP=1', @arguments);
    chomp $output;
    return $output;
}

sub value ($self, $database, $sql) { return $self->psql($database, '-c', $sql) }

sub row ($self, $database, $sql) { return split /\t/, $self->value($database, $sql), -1 }

sub create_database ($self, $database, @settings) {
    $self->value('postgres', "DROP DATABASE IF EXISTS $database");
    $self->value('postgres', "CREATE DATABASE $database");
    $self->value('postgres', "ALTER DATABASE $database SET $_") for @settings;
    $self->value($database, 'CREATE EXTENSION presence');
}

# A session may still be on its way out.
sub drop_database ($self, $database) {
    $self->value('postgres', "DROP DATABASE IF EXISTS $database WITH (FORCE)");
}

sub set ($self, %settings) {
    for my $name (sort keys %settings) {
        $self->value('postgres',
            defined $settings{$name} ? "ALTER SYSTEM SET $name = '$settings{$name}'" : "ALTER SYSTEM RESET $name");
    }
    my $before = $self->value('postgres', 'SELECT pg_conf_load_time()');
    $self->value('postgres', 'SELECT pg_reload_conf()');
    $self->wait_for(5, sub { $self->value('postgres', 'SELECT pg_conf_load_time()') ne $before });
}

# Whether the condition came true in time.
sub wait_for ($self, $seconds, $condition) {
    my $end = time + $seconds;
    until ($condition->()) {
        return 0 if time > $end;
        sleep 0.05;
    }
    return 1;
}

# The worker comes within a moment of CREATE EXTENSION, if it comes at all.
sub worker_pid ($self, $database, $seconds = 3) {
    my $pid = '';
    $self->wait_for($seconds,
        sub { ($pid = $self->value($database, 'SELECT worker_pid FROM presence_server_state()')) ne '' });
    return $pid;
}

sub load ($self, $database, $from, $to) { $self->probe($database, 'load', $from, $to, 4) }

sub probe ($self, $database, @arguments) {
    local $ENV{PGDATABASE} = $database;
    my $output = capture($self->{probe}, @arguments);
    chomp $output;
    return $output;
}

# A probe beside the measurement; its output goes to a file.
sub start_probe ($self, $database, @arguments) {
    my $file = "$self->{dir}/probe." . ++$self->{probes};
    local $ENV{PGDATABASE} = $database;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDOUT, '>', $file or die "$file: $!\n";
        exec $self->{probe}, @arguments or die "$self->{probe}: $!\n";
    }
    $self->{programs}{$pid} = $file;
    return $pid;
}

# What it printed, after its own end or after it was told to end.
sub finish_probe ($self, $pid, $tell = 1) {
    kill TERM => $pid if $tell;
    waitpid $pid, 0;
    open my $in, '<', delete $self->{programs}{$pid} or die $!;
    return map { chomp; $_ } <$in>;
}

sub listen ($self, $database, $channel = 'presence') {
    my $pid = $self->start_probe($database, 'listen', $channel);
    $self->wait_for(10, sub { -s $self->{programs}{$pid} });
    return $pid;
}

sub script ($self, $name, $text) {
    my $file = "$self->{dir}/$name.sql";
    open my $out, '>', $file or die "$file: $!\n";
    print $out $text;
    close $out;
    return $file;
}

# CPU seconds of all backends that have ended; those that run a pgbench script have ended with it.
sub backends_cpu ($self) {
    open my $in, '<', '/proc/' . $self->postmaster . '/stat' or die $!;
    my @fields = split ' ', (<$in> =~ s/^.*\) //r);
    return ($fields[13] + $fields[14]) / 100;
}

# Transactions per second and mean latency in ms of a pgbench script; CPU microseconds per transaction in {cpu}.
sub pgbench ($self, $database, $script, %with) {
    my $file = "$self->{dir}/pgbench.out";
    my $clients = $with{clients} // 1;
    my @command = (
        'pgbench', '-n', '-M', 'prepared', '-c', $clients, '-j', $clients < 2 ? 1 : 2,
        '-f', $script,
        $with{transactions} ? ('-t', $with{transactions}) : ('-T', $with{seconds}),
        map { ('-D', $_) } @{ $with{define} // [] }
    );
    local $ENV{PGDATABASE} = $database;
    local $ENV{PGOPTIONS} = $with{options} // '';
    my $postmaster = $self->postmaster;
    my %others = map { $_ => 1 } children($postmaster);
    my $cpu = $self->backends_cpu;
    system("@{[map { quotemeta } @command]} >\Q$file\E 2>&1") == 0
        or do { system 'cat', $file; die "pgbench failed\n" };
    open my $in, '<', $file or die $!;
    my $output = do { local $/; <$in> };
    my ($tps) = $output =~ /^tps = ([\d.]+)/m or die "pgbench: $output\n";
    my ($transactions) = $output =~ /^number of transactions actually processed: (\d+)/m;

    my $ours_ended = sub {
        !grep { !$others{$_} } children($postmaster);
    };
    $self->wait_for(10, $ours_ended);    # the CPU of a process is its parent's when it has ended
    $self->{cpu} = 1e6 * ($self->backends_cpu - $cpu) / $transactions;
    my ($latency) = $output =~ /^latency average = ([\d.]+)/m;
    return wantarray ? ($tps, $latency) : $tps;
}

# Mean milliseconds of one statement.
sub milliseconds ($self, $database, $name, $sql, %with) {
    my (undef, $latency) = $self->pgbench($database, $self->script($name, "$sql\n"), %with);
    return $latency;
}

sub postmaster ($self) {
    open my $in, '<', "$self->{dir}/data/postmaster.pid" or return undef;
    my $pid = <$in>;
    chomp $pid;
    return $pid;
}

# CPU seconds of a process so far.
sub cpu ($class, $pid) {
    open my $in, '<', "/proc/$pid/stat" or return undef;
    my @fields = split ' ', (<$in> =~ s/^.*\) //r);
    return ($fields[11] + $fields[12]) / 100;
}

sub private_bytes ($class, $pid) {
    open my $in, '<', "/proc/$pid/status" or return undef;
    while (<$in>) { return $1 * 1024 if /^RssAnon:\s+(\d+) kB/ }
    return undef;
}

sub restart ($self) { capture("$self->{repo}/scripts/private-server", 'restart', $self->{dir}, '-m', 'fast') }

# Every process of the server at once, and the start after it.
sub kill9 ($self) {
    my $postmaster = $self->postmaster;
    kill KILL => $postmaster, children($postmaster);
    $self->wait_for(10, sub { !kill(0, $postmaster) || zombie($postmaster) });
    capture("$self->{repo}/scripts/private-server", 'restart', $self->{dir});    # it finds nothing to stop
}

sub children ($parent) {
    my @children;
    for my $file (glob '/proc/[0-9]*/stat') {
        open my $in, '<', $file or next;
        my ($pid, $rest) = (<$in> // '') =~ /^(\d+) \(.*\) \S (.*)$/ or next;
        push @children, $pid if $rest =~ /^$parent /;
    }
    return @children;
}

sub zombie ($pid) {
    open my $in, '<', "/proc/$pid/status" or return 1;
    return grep {/^State:\s+Z/} <$in>;
}

sub stop ($self) {
    for my $pid (keys %{ $self->{programs} }) { kill TERM => $pid; waitpid $pid, 0 }
    $self->{programs} = {};
    system "$self->{repo}/scripts/private-server", 'stop', $self->{dir}, '-m', 'immediate';
}

1;
