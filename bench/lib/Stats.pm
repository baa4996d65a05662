package Stats;

# Medians, and rounds in which every contender has its turn.
use v5.28;
use warnings;
use experimental 'signatures';
use Exporter 'import';
use List::Util qw(min max);
our @EXPORT_OK = qw(median percentile interleave ratios spread plain);

sub median (@values) { return percentile(50, @values) }

# Nearest rank below the middle is averaged with the one above only for the median of an even number of values.
sub percentile ($p, @values) {
    my @sorted = sort { $a <=> $b } @values;
    return undef if !@sorted;
    return ($sorted[$#sorted / 2] + $sorted[($#sorted + 1) / 2]) / 2 if $p == 50;
    my $rank = int($p / 100 * @sorted + 0.999999) - 1;
    return $sorted[max(0, min($#sorted, $rank))];
}

# A B C, C B A, A B C, ...: so that a slow drift of the machine hits all alike. Pairs of name and sub; lists by name.
sub interleave ($rounds, @contenders) {
    my (%sub, @names, %result);
    while (my ($name, $sub) = splice @contenders, 0, 2) { push @names, $name; $sub{$name} = $sub }
    for my $round (1 .. $rounds) {
        push @{ $result{$_} }, scalar $sub{$_}->() for $round % 2 ? @names : reverse @names;
    }
    return %result;
}

# Round by round, because only neighbours in time compare.
sub ratios ($above, $below) {
    return map { $above->[$_] / $below->[$_] } 0 .. $#$above;
}

sub spread (@values) { return (min(@values), max(@values)) }

# A number as people read it.
sub plain ($number) {
    return 'none' if !defined $number;
    my $size = abs $number;
    my $text =
          $size == 0 ? '0'
        : $size >= 100 ? sprintf('%.0f', $number)
        : $size >= 10 ? sprintf('%.1f', $number)
        : $size >= 0.1 ? sprintf('%.2f', $number)
        : sprintf('%.2g', $number);
    1 while $text =~ s/^(-?\d+)(\d{3})/$1,$2/;
    return $text;
}

1;
