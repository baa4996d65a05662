# plot_soak.pl FOLDER: draws what scripts/soak has measured, and says how much memory has grown since the first fifth of it.
use v5.28;
use warnings;
use experimental 'signatures';
use Plot;
use Stats qw(median plain);

my ($folder) = @ARGV;
open my $in, '<', "$folder/soak.csv" or die "$folder/soak.csv: $!\n";
chomp(my @lines = <$in>);
my @names = split /,/, shift @lines;
die "$folder/soak.csv: nothing was measured\n" if !@lines;
my %of;
for (@lines) {
    my @values = split /,/;
    push @{ $of{ $names[$_] } }, $values[$_] for 0 .. $#names;
}

# At most so many points: each is the median of those around it.
sub points ($name, $scale = 1) {
    my $width = int(@{ $of{seconds} } / 300) + 1;
    my @points;
    for (my $i = 0; $i < @{ $of{seconds} }; $i += $width) {
        my $last = $i + $width - 1 < $#{ $of{seconds} } ? $i + $width - 1 : $#{ $of{seconds} };
        push @points, [$of{seconds}[$i] / 60, median(@{ $of{$name} }[$i .. $last]) / $scale];
    }
    return \@points;
}

sub draw ($name, $title, $unit, @series) {
    open my $out, '>', "$folder/$name.svg" or die "$folder/$name.svg: $!\n";
    binmode $out, ':utf8';
    print $out Plot::lines($title, 'minutes', $unit, {}, @series);
    close $out;
}
draw(
    'memory', 'Memory while clients come, go, and crash',
    'MB',
    'shared' => points('shared_bytes', 1e6),
    'workers' => points('worker_bytes', 1e6),
    'launcher' => points('launcher_bytes', 1e6)
);
draw('heartbeat', 'A heartbeat meanwhile', 'us', 'one by one, in one query' => points('heartbeat_us'));
draw('sessions', 'What there is', 'number', sessions => points('sessions'), 'events kept' => points('events'));

my $fifth = int(@{ $of{seconds} } / 5);
for my $name (qw(shared_bytes worker_bytes launcher_bytes heartbeat_us)) {
    my @all = @{ $of{$name} };
    printf "%-15s median of the first fifth %s, of the last %s\n", $name, plain(median(@all[0 .. $fifth])),
        plain(median(@all[$#all - $fifth .. $#all]));
}
