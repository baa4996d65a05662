package Sizing;

# What so many sessions need, of what one of them was measured to need.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(plain);

my ($heartbeat_every, $days_kept, $visits) = (30, 30, 5);    # s; days; of each session's place a day

sub amount ($number, @units) {
    while (@units > 1 && $number >= 1000) { $number /= 1000; shift @units; }
    return plain($number) . " $units[0]";
}

# Nothing where a group of the benchmark is missing.
sub table ($report) {
    my %median = map { $_->{id} => $_->{median} } @{ $report->{rows} };
    my %of_one = (%{ $report->{facts} // {} }, memory => $median{memory}, cpu => $median{heartbeat_cpu});
    my @needed = qw(memory cpu join_wal goodbye_wal row_bytes event_bytes events join_cpu);
    return '' if grep { !defined $of_one{$_} } @needed;
    my @lines = (
        '| sessions online | shared memory | heartbeats | CPU for them | CPU at most, joins included | WAL a day | tables | events of '
            . "$days_kept days |",
        '| --- ' x 8 . '|'
    );
    for my $sessions (1_000, 10_000, 100_000, 1_000_000) {
        my $beats = $sessions / $heartbeat_every;
        my $joins = $sessions * $visits / 86_400;
        my $cores = $beats * $of_one{cpu} / 1e6;
        push @lines,
            '| '
            . join(' | ',
            plain($sessions),
            amount($sessions * $of_one{memory} / 1000, qw(kB MB GB)),
            plain($beats) . '/s',
            plain($cores * 100) . ' % of a core',
            plain(($cores + 10 * $joins * $of_one{join_cpu}) * 100) . ' % of a core',
            amount($sessions * $visits * ($of_one{join_wal} + $of_one{goodbye_wal}) / 1e6, qw(MB GB TB)),
            amount($sessions * $of_one{row_bytes} / 1e6, qw(MB GB TB)),
            amount($sessions * $visits * $days_kept * $of_one{events} * $of_one{event_bytes} / 1e6, qw(MB GB TB)))
            . ' |';
    }
    return join "\n",
        "Computed by `make bench` (a $report->{machine}{form} run) from what one session needed there: $report->{machine}{cpu}, revision $report->{machine}{presence}. "
        . "Each session has a heartbeat of its own every $heartbeat_every s, and comes and goes $visits times a day by single calls; the busiest minutes have ten times as many joins as the average. Full-page images of the WAL are extra.",
        '', @lines, '';
}

1;
