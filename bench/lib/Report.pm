package Report;

# What was measured: a table for people, JSON for programs, a page for the docs.
use v5.28;
use warnings;
use experimental 'signatures';
use JSON::PP;
use Stats qw(median spread plain);

sub new ($class, %machine) { return bless { machine => \%machine, rows => [], series => {}, bars => {} }, $class }

# row(id, what, reach => ['>=', 0.9], values => [...], unit => 'x', note => '...'); without reach it only informs.
sub row ($self, $id, $what, %row) {
    my ($low, $high) = spread(@{ $row{values} });
    my $median = median(@{ $row{values} });
    my $verdict = '';
    if (my $reach = $row{reach}) {
        my ($how, $limit) = @$reach;
        $verdict = ($how eq '>=' ? $median >= $limit : $median <= $limit) ? 'reached' : 'NOT REACHED';
    }
    $self->add(
        {
            id => $id,
            what => $what,
            reach => $row{reach},
            median => $median,
            low => $low,
            high => $high,
            values => $row{values},
            unit => $row{unit} // '',
            verdict => $verdict,
            note => $row{note} // ''
        }
    );
}

# What could not be measured, and why.
sub skip ($self, $id, $what, $reach, $why) {
    $self->add({ id => $id, what => $what, reach => $reach, verdict => 'skipped', note => $why, unit => '' });
}

sub add ($self, $row) {
    $row->{group} = $self->{group};
    push @{ $self->{rows} }, $row;
    printf STDERR "\r\e[K" if -t STDERR;
    say line($row);
}

sub group ($self, $name) { $self->{group} = $name; say "\n$name" }

# A number that other tables are computed from.
sub fact ($self, $name, $value) { $self->{facts}{$name} = $value + 0 }

sub point ($self, $plot, $name, $x, $y) { push @{ $self->{series}{$plot}{$name} }, [$x + 0, $y + 0] }
sub bar ($self, $plot, $name, $y) { push @{ $self->{bars}{$plot} }, [$name, $y + 0] }

sub reach_text ($row) {
    my $reach = $row->{reach} // return '';
    return ($reach->[0] eq '>=' ? 'at least ' : 'at most ') . plain($reach->[1]);
}

sub measured_text ($row) {
    return defined $row->{median} ? join ' ', plain($row->{median}), grep {length} $row->{unit} : '';
}

sub spread_text ($row) {
    return '' if !defined $row->{median} || @{ $row->{values} } < 2;
    return plain($row->{low}) . ' to ' . plain($row->{high});
}

sub line ($row) {
    my $line = sprintf '  %-62s %-14s %14s  %-20s %-11s', $row->{what}, reach_text($row), measured_text($row),
        spread_text($row), $row->{verdict};
    $line =~ s/\s+$//;
    return $line . (length $row->{note} ? "\n      $row->{note}" : '');
}

sub counts ($self) {
    my %count;
    ++$count{ $_->{verdict} } for @{ $self->{rows} };
    return map { $count{$_} // 0 } 'reached', 'NOT REACHED', 'skipped';
}

# Some groups were measured again: the others stay as the last whole run had them.
sub complete_from ($self, $json, $again) {
    my $old = JSON::PP->new->decode($json);
    my %new = map { $_->{id} => $_ } @{ $self->{rows} };
    my %known = map { $_->{id} => 1 } @{ $old->{rows} };
    my $machine = $old->{machine};
    push @{ $machine->{again} }, "$again (revision $self->{machine}{presence}, $self->{machine}{date})";
    my @rows = map { $new{ $_->{id} } // $_ } @{ $old->{rows} };
    for my $row (grep { !$known{ $_->{id} } } @{ $self->{rows} }) {
        my ($last) = grep { $rows[$_]{group} eq $row->{group} } reverse 0 .. $#rows;
        splice @rows, defined $last ? $last + 1 : scalar @rows, 0, $row;
    }
    $self->{rows} = \@rows;
    $self->{series} = { %{ $old->{series} }, %{ $self->{series} } };
    $self->{facts} = { %{ $old->{facts} // {} }, %{ $self->{facts} // {} } };
    $self->{bars} = { %{ $old->{bars} }, %{ $self->{bars} } };
    $self->{machine} = $machine;
}

sub json ($self) {
    return JSON::PP->new->canonical->pretty->encode({ map { $_ => $self->{$_} } qw(machine rows series bars facts) });
}

sub markdown ($self) {
    my $group = '';
    my @lines;
    for my $row (@{ $self->{rows} }) {
        if ($row->{group} ne $group) {
            $group = $row->{group};
            push @lines, '', "### $group", '', '| what | reach | median | spread | |',
                '| --- | --- | --- | --- | --- |';
        }
        my $note = length $row->{note} ? "<br><sub>$row->{note}</sub>" : '';
        push @lines,
            '| '
            . join(' | ',
            "$row->{what}$note", reach_text($row), measured_text($row), spread_text($row),
            $row->{verdict} eq 'NOT REACHED' ? '**not reached**' : $row->{verdict})
            . ' |';
    }
    return join "\n", @lines, '';
}

1;
