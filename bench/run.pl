# Runs every measurement and reports it; started by scripts/bench.
use v5.28;
use warnings;
use experimental 'signatures';
use File::Temp qw(tempdir);
use Getopt::Long;
use List::Util qw(max);
use POSIX qw(strftime);
use Time::HiRes qw(time);
use Plot;
use Redis;
use Report;
use Sizing;
use Server;
use Stats qw(plain);
use Measure::Against;
use Measure::Expiry;
use Measure::Feed;
use Measure::Heartbeats;
use Measure::Lists;
use Measure::Memory;
use Measure::Restart;
use Measure::Rooms;
use Measure::Storms;

$| = 1;
my $repo = shift @ARGV;
GetOptions(
    'quick' => \my $quick,
    'write-docs' => \my $write_docs,
    'only=s' => \my $only,
    'against=s' => \my $against,
    'most=i' => \(my $most = 1_000_000)
) or exit 2;

my $started = time;
my $dir = tempdir('/tmp/presence-bench.XXXXXX', CLEANUP => 1);
chmod 0755, $dir;
my ($server, $redis, $other);

END {
    local $?;
    $_->stop for grep {defined} $server, $other;
    $redis->stop if $redis;
}
$SIG{INT} = $SIG{TERM} = sub { kill TERM => Server::children($$); exit 130 };

sub progress ($what) {
    my $text = sprintf '[%3d s] %s', time - $started, $what;
    print STDERR -t STDERR ? "\r\e[K$text" : "$text\n";
}

sub machine () {
    my %cpu = map { /^(.*?)\s*:\s*(.*)$/ ? ($1 => $2) : () } split /\n/, `lscpu`;
    my ($kb) = do { open my $in, '<', '/proc/meminfo'; <$in> =~ /(\d+)/ };
    my ($os) = `cat /etc/os-release` =~ /^PRETTY_NAME="(.*)"/m;
    return (
        cpu => $cpu{'Model name'},
        cores => $cpu{'CPU(s)'} + 0,
        memory_gb => int($kb / 1e6 + 0.5),
        system => $os // '',
        kernel => (POSIX::uname())[2] =~ s/-.*//r,
        postgresql => $server->value('postgres', 'SHOW server_version') =~ s/ .*//r,
        redis => $redis->version,
        presence => `git -C $repo describe --always --dirty 2>/dev/null` =~ s/\s//gr,
        date => strftime('%Y-%m-%d', gmtime),
        form => $quick ? 'quick' : 'full'
    );
}

# Where the server may read it.
sub noop () {
    my $file = "$dir/noop.so";
    system('cp', "$repo/build/bench/noop.so", $file) == 0 or die "there is no build/bench/noop.so\n";
    return $file;
}

progress('starting the servers');
my $sessions = $quick ? 10_000 : 100_000;
$redis = Redis->start($dir, $sessions);
$server = Server->start($repo, "$dir/server");
my $report = Report->new(machine());
my %run = (
    quick => $quick,
    repo => $repo,
    server => $server,
    redis => $redis,
    report => $report,
    progress => \&progress,
    seconds => $quick ? 1 : 2,
    rounds => $quick ? 2 : 5,
    sessions => $sessions,
    session_text => plain($sessions),
    noop => noop(),
    most => max($most, 100_000)
);

my $failures = 0;
my %wanted = map { $_ => 1 } split /,/, $only // '';

sub measure ($name, $sub) {
    return if $only && !$wanted{$name};
    return if eval { $sub->(); 1 };
    ++$failures;
    $report->skip("failed_$name", "$name failed", undef, $@ =~ s/\s+/ /gr);
    eval { $server->set('presence.timeout' => undef, autovacuum => undef) };
}

say
    'presence, side by side: medians; spread is the least and the most of the rounds; ratios are of neighbouring rounds';
if ($against) {
    my ($path, $revision) = $against =~ /^(.*)=(.*)$/ or die "--against PATH=REVISION\n";
    my %own = %ENV;
    $other = Server->start($path, "$dir/other");
    $other->{probe} = $server->{probe};
    %ENV = %own;
    measure(against => sub { Measure::Against::run(\%run, $other, $revision) });
    exit($failures || ($report->counts)[1] ? 1 : 0);
}
say join ', ', map {"$_ $report->{machine}{$_}"} qw(cpu cores system postgresql redis form);
$server->create_database('big');
my @sizes = $quick ? (1_000, 10_000) : grep { $_ <= max($most, 100_000) } (1_000, 10_000, 100_000, 1_000_000);

# Growing takes longer than the default timeout.
$server->set('presence.timeout' => '1h');
for my $size (@sizes) {
    measure(growth => sub { Measure::Heartbeats::growth(\%run, $size) });
    next if $size != $sessions;
    $run{loaded} //= 0;
    measure(heartbeats => sub { Measure::Heartbeats::run(\%run) });
    measure(lists => sub { $server->load('big', 1, $sessions); Measure::Lists::run(\%run) });
}
measure(growth => sub { Measure::Heartbeats::growth_report(\%run) });
$run{loaded} ||= $sessions;
measure(expiry => sub { Measure::Expiry::run(\%run) });
measure(restart => sub { Measure::Restart::run(\%run) });
measure(feed => sub { $server->drop_database('big'); Measure::Feed::run(\%run) });
measure(storms => sub { Measure::Storms::run(\%run) });
measure(rooms => sub { Measure::Rooms::run(\%run) });
measure(memory => sub { Measure::Memory::run(\%run) }) if !$quick;

$report->{machine}{seconds} = int(time - $started);
my $json = "$repo/bench/results/" . ($quick ? 'quick' : 'full') . '.json';
if ($only && !$quick && -e $json) {
    open my $in, '<:utf8', $json or die "$json: $!\n";
    $report->complete_from(do { local $/; <$in> }, $only);
}
mkdir "$repo/bench/results";
my @plots;

sub plot ($name, $title, $svg) {
    return if !defined $svg;
    push @plots, "![$title](images/bench-$name.svg)";
    write_file(($write_docs ? "$repo/docs/images" : "$repo/bench/results") . "/bench-$name.svg", $svg);
}

sub write_file ($file, $text) {
    open my $out, '>', $file or die "$file: $!\n";
    binmode $out, ':utf8';
    print $out $text;
    close $out;
}
write_file($json, $report->json);

mkdir "$repo/docs/images" if $write_docs;
my %bars = (
    heartbeats => ['Heartbeats per second, one by one, 8 clients', ''],
    batches => ['Heartbeats per second in batches of 1,000, 8 clients', ''],
    lists => ['The list of who is online, ms', 'ms']
);
for my $name (sort keys %bars) {
    plot($name, $bars{$name}[0], Plot::bars(@{ $bars{$name} }, @{ $report->{bars}{$name} })) if $report->{bars}{$name};
}
my %lines = (
    growth => ['What a call costs as presence grows', 'sessions online', 'microseconds', { log_x => 1, log_y => 1 }],
    memory => ['Shared memory per session', 'sessions online', 'bytes', { log_x => 1 }],
    joins => ['Joins per second', 'clients', 'joins per second', {}],
    expiry => [
        'From the timeout to user_offline at a listener',
        'milliseconds after the timeout',
        'percent of the sessions', {}
    ],
    backend_memory => ['Private memory of a backend', 'heartbeats', 'MB', {}]
);
for my $name (sort keys %lines) {
    my $series = $report->{series}{$name} or next;
    plot(
        $name,
        $lines{$name}[0],
        Plot::lines(
            @{ $lines{$name} },
            map { ($_ => $series->{$_}) } sort { $series->{$b}[-1][1] <=> $series->{$a}[-1][1] } keys %$series
        )
    );
}
remember() if $write_docs && !$quick && !$only;
plot_history() if $write_docs;

# Ratios to peers of the same run, over all full runs.
sub plot_history () {
    open my $in, '<', "$repo/docs/benchmarks.csv" or return;
    chomp(my @lines = <$in>);
    my @names = split /,/, shift @lines;
    my %series;
    for my $run (0 .. $#lines) {
        my %run;
        @run{@names} = split /,/, $lines[$run], -1;
        for my $id (grep { /^(?:heartbeat_|storm_(?:joins|ends|singles)|wal_)/ && length $run{$_} } @names) {
            push @{ $series{$id} }, [$run + 1, $run{$id}];
        }
    }
    plot(
        'history',
        'Ratios to the peers, run by run',
        Plot::lines(
            'Ratios to the peers, run by run',
            'full run', 'times', {}, map { ($_ => $series{$_}) } sort keys %series
        )
    ) if @lines > 1;
}

if ($write_docs) {
    my %m = %{ $report->{machine} };
    my $table =
        "$m{date}, revision $m{presence}, $m{form} run of $m{seconds} s: $m{cpu}, $m{cores} cores, $m{memory_gb} GB, $m{system}, Linux $m{kernel}, PostgreSQL $m{postgresql}, Redis $m{redis}.\n"
        . join('', map {"Measured again later: $_.\n"} @{ $m{again} // [] })
        . $report->markdown
        . join("\n", '', @plots, '');
    put('benchmarks', results => $table);
    my $sizing = Sizing::table($report);
    put('operations', sizing => $sizing) if $sizing;
}

# Between two comments of a page.
sub put ($page, $place, $new) {
    my $file = "$repo/docs/$page.md";
    open my $in, '<:utf8', $file or die "$file: $!\n";
    my $text = do { local $/; <$in> };
    $text =~ s/(<!-- $place -->\n).*(<!-- end of $place -->)/$1$new$2/s or die "$file has no place for $place\n";
    write_file($file, $text);
}

# A line for each full run; the page plots them.
sub remember () {
    my $file = "$repo/docs/benchmarks.csv";
    my @ids =
        qw(heartbeat_vs_select1 heartbeat_cpu_vs_noop batch storm_joins storm_ends storm_singles storm_numbering wal_joins wal_ends list_vs_select expiry_p99 notification_p99 worker_cpu_busy);
    my %median = map { $_->{id} => $_->{median} } @{ $report->{rows} };
    my $new = !-e $file;
    open my $out, '>>', $file or die "$file: $!\n";
    say $out join ',', 'date', 'revision', @ids if $new;
    say $out join ',', $report->{machine}{date}, $report->{machine}{presence},
        map { defined $median{$_} ? sprintf '%.4g', $median{$_} : '' } @ids;
    close $out;
}

my ($reached, $missed, $skipped) = $report->counts;
printf STDERR "\r\e[K" if -t STDERR;
printf "\n%d reached, %d not reached, %d skipped, in %d s; details in %s\n", $reached, $missed, $skipped,
    time - $started, $json =~ s{^\Q$repo\E/}{}r;
exit($failures ? 1 : 0);
