package Plot;

# Plots as SVG, readable on a light and on a dark page, with nothing but text and lines in them.
use v5.28;
use warnings;
use experimental 'signatures';
use List::Util qw(min max);
use Stats qw(plain);

my @colours = ('#2a78d6', '#1a9a5f', '#d9822b', '#b3408f', '#7a5cd0', '#c0392b', '#5f7d8c', '#8a6d1d');

sub escape ($text) { return $text =~ s/&/&amp;/gr =~ s/</&lt;/gr =~ s/>/&gt;/gr }

sub document ($width, $height, $title, @body) {
    return join "\n",
        qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" width="$width" height="$height" role="img" aria-label="@{[escape($title)]}">},
        '<style>text{font:13px sans-serif;fill:#24292f}.t{font-size:16px;font-weight:600}.s{font-size:12px;fill:#57606a}.g{stroke:#d0d7de}.b{fill:#fff}',
        '@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9da7b1}.g{stroke:#3d444d}.b{fill:#0d1117}}</style>',
        qq{<rect class="b" width="$width" height="$height"/>},
        qq{<text class="t" x="16" y="26">@{[escape($title)]}</text>}, @body, '</svg>', '';
}

# One bar for each [name, value].
sub bars ($title, $unit, @bars) {
    my ($left, $step, $room) = (250, 28, 400);
    my $largest = max map { $_->[1] } @bars;
    my @body;
    for my $i (0 .. $#bars) {
        my ($name, $value) = @{ $bars[$i] };
        my $y = 48 + $i * $step;
        my $length = sprintf '%.1f', max(1, $value / $largest * $room);
        my $colour = $name =~ /presence/ ? $colours[0] : $colours[6];
        push @body, sprintf('<text x="%d" y="%d" text-anchor="end">%s</text>', $left - 10, $y + 14, escape($name)),
            qq{<rect x="$left" y="$y" width="$length" height="18" rx="3" fill="$colour"/>},
            sprintf(
            '<text class="s" x="%.1f" y="%d">%s</text>',
            $left + $length + 8,
            $y + 14, plain($value) . ($unit ? " $unit" : '')
            );
    }
    return document(760, 60 + @bars * $step, $title, @body);
}

sub decades ($low, $high) {
    return map { 10**$_ } floor(log10($low) + 1e-9) .. ceil(log10($high) - 1e-9);
}
sub log10 ($x) { return log($x) / log(10) }
sub floor ($x) { return int($x) - ($x < int($x) ? 1 : 0) }
sub ceil ($x) { return -floor(-$x) }

sub steps ($high) {
    my $step = 10**floor(log10($high / 4 || 1));
    $step *= $high / 4 / $step >= 5 ? 5 : $high / 4 / $step >= 2 ? 2 : 1;
    return map { $_ * $step } 0 .. ceil($high / $step - 1e-9);
}

# lines(title, x label, y label, { log_x, log_y, limit }, name => [[x, y], ...], ...)
sub lines ($title, $x_label, $y_label, $options, @series) {
    my ($left, $top, $width, $height) = (80, 44, 440, 280);
    my (@names, %points);
    while (my ($name, $points) = splice @series, 0, 2) {
        push @names, $name;
        $points{$name} = [sort { $a->[0] <=> $b->[0] } @$points];
    }
    my @all = map {@$_} values %points;
    return undef if !@all;
    my @x = map { $_->[0] } @all;
    my @y = grep { !$options->{log_y} || $_ > 0 } map { $_->[1] } @all;
    my @x_ticks = $options->{log_x} ? decades(min(@x), max(@x)) : steps(max(@x));
    my @y_ticks = $options->{log_y} ? decades(min(@y), max(@y)) : steps(max(@y));
    push @x_ticks, $x_ticks[0] * 10 if @x_ticks == 1;
    push @y_ticks, $y_ticks[0] * 10 if @y_ticks == 1;
    my $scale = sub ($value, $log, @ticks) {
        my ($low, $high) = @ticks[0, -1];
        return $log
            ? (log10(max($value, $low)) - log10($low)) / (log10($high) - log10($low))
            : ($value - $low) / ($high - $low);
    };
    my $px = sub ($x) { sprintf '%.1f', $left + $width * $scale->($x, $options->{log_x}, @x_ticks) };
    my $py = sub ($y) { sprintf '%.1f', $top + $height * (1 - $scale->($y, $options->{log_y}, @y_ticks)) };
    my @body;
    for my $y (@y_ticks) {
        push @body, sprintf('<path class="g" d="M%d %sh%d"/>', $left, $py->($y), $width),
            sprintf('<text class="s" x="%d" y="%.1f" text-anchor="end">%s</text>', $left - 8, $py->($y) + 4, plain($y));
    }
    for my $x (@x_ticks) {
        push @body, sprintf('<path class="g" d="M%s %dv%d"/>', $px->($x), $top, $height),
            sprintf(
            '<text class="s" x="%s" y="%d" text-anchor="middle">%s</text>',
            $px->($x), $top + $height + 18,
            plain($x)
            );
    }
    push @body,
        sprintf(
        '<text class="s" x="%d" y="%d" text-anchor="middle">%s</text>',
        $left + $width / 2,
        $top + $height + 40,
        escape($x_label)
        ),
        sprintf(
        '<text class="s" transform="translate(18 %d) rotate(-90)" text-anchor="middle">%s</text>',
        $top + $height / 2,
        escape($y_label)
        );
    for my $i (0 .. $#names) {
        my $colour = $colours[$i % @colours];
        my @at = map { $px->($_->[0]) . ' ' . $py->($_->[1]) } @{ $points{ $names[$i] } };
        push @body, qq{<path d="M@{[join 'L', @at]}" fill="none" stroke="$colour" stroke-width="2"/>};
        push @body, map { my ($x, $y) = split / /; qq{<circle cx="$x" cy="$y" r="3" fill="$colour"/>} } @at
            if @at <= 20;
        my $y = $top + 10 + $i * 22;
        push @body, sprintf('<path d="M%d %dh16" stroke="%s" stroke-width="3"/>', $left + $width + 20, $y, $colour),
            sprintf('<text x="%d" y="%d">%s</text>', $left + $width + 42, $y + 4, escape($names[$i]));
    }
    return document(800, 390, $title, @body);
}

1;
