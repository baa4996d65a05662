# What scripts/check shows of a run of prove: a line for each suite when it has finished, and for each failure at once what
# failed and why. Everything that a test printed is in its log.
package TestReport;

use strict;
use warnings;
use parent 'TAP::Formatter::Base';
use Time::HiRes 'time';

my %suite;    # name => { files left, passed, failed, began }
my (@failures, @failed_tests);

sub suite_of { return $_[0] =~ m{^([^/]+)} ? $1 : $_[0]; }

sub prepare {
    my ($self, @tests) = @_;
    $suite{ suite_of($_) }{left}++ for @tests;
    $| = 1;    ## no critic: each line appears when it is known
    return;
}

sub open_test {
    my ($self, $name, $parser) = @_;
    $suite{ suite_of($name) }{began} //= time;
    return TestReport::Session->new($name, $parser);
}

sub finished {
    my ($name, $passed, @failed) = @_;
    my $suite = $suite{ suite_of($name) };
    $suite->{passed} += $passed;
    $suite->{failed} += @failed;
    push @failures, map {"$name: $_->{what}"} @failed;
    push @failed_tests, $name if @failed;
    return if --$suite->{left};
    printf "%-10s %5d passed %5d failed %5d s\n", suite_of($name), $suite->{passed}, $suite->{failed},
        time - $suite->{began};
    return;
}

sub summary {
    my ($passed, $failed) = (0, 0);
    $passed += $_->{passed} // 0 for values %suite;
    $failed += $_->{failed} // 0 for values %suite;
    print "failed:\n", map {"    $_\n"} @failures if @failures > 1;
    print "$passed passed, $failed failed\n";
    open my $list, '>', "$ENV{CHECK_OUT}/failed" or die $!;
    print {$list} map {"$_\n"} @failed_tests;
    close $list;
    return;
}

package TestReport::Session;

my $most_lines = 15;    # of the reason for a failure

sub new {
    my ($class, $name, $parser) = @_;
    my $log = "$ENV{CHECK_OUT}/$name.log";
    open my $out, '>', $log or die "$log: $!";
    return bless { name => $name, parser => $parser, log => $log, out => $out, failed => [], nested => [], last => [] },
        $class;
}

sub result {
    my ($self, $result) = @_;
    my $line = $result->raw;
    print { $self->{out} } "$line\n";
    if ($result->is_test) {

# A failure within a subtest comes before that of the subtest.
        if ($result->is_ok) {
            $self->{current} = undef;
        } else {
            my $what = $result->description =~ s/^- //r || 'test ' . $result->number;
            push @{ $self->{failed} }, $self->{current} = { what => $what, why => $self->{nested} };
        }
        $self->{nested} = [];
    } elsif ($line =~ /^\s+not ok / || (@{ $self->{nested} } && $line =~ /^\s+#/)) {
        push @{ $self->{nested} }, $line unless $line =~ /# TODO/;
    } elsif ($self->{current} && $line =~ /^\s*#/) {
        push @{ $self->{current}{why} }, $line;
    }
    push @{ $self->{last} }, $line;
    shift @{ $self->{last} } if @{ $self->{last} } > $most_lines;
    return;
}

sub close_test {
    my ($self) = @_;
    my $parser = $self->{parser};
    my @failed = @{ $self->{failed} };
    if ($parser->has_problems && (!@failed || $parser->exit > $#failed + 1)) {
        my $exit = $parser->exit;
        my $what = $exit ? "ended with status $exit" : join ', ', $parser->parse_errors;
        push @failed, { what => $what, why => $self->{last} };
    }
    close $self->{out};
    for my $failure (@failed) {
        my @why = map {s/^\s*# ?//r} @{ $failure->{why} };
        splice @why, $most_lines, @why, '...' if @why > $most_lines;
        print "FAILED $self->{name}: $failure->{what}\n", map {"    $_\n"} @why;
    }
    print "    log: $self->{log}\n" if @failed;
    TestReport::finished($self->{name}, scalar($parser->passed), @failed);
    $self->{parser} = undef;
    return;
}

1;
