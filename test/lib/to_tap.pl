# Runs a program whose report is not TAP, and reports the same as TAP: to_tap.pl gtest|pg_regress|web COMMAND...
use strict;
use warnings;

# For each format: whether the line in $_ is the result of a test, and then whether it passed, and its name.

# "[       OK ] Suite.Name (0 ms)"
sub gtest { return /^\[ +(OK|FAILED) +\] (\S+?)(?:, where .*)? \(\d+ ms\)$/ ? ($1 eq 'OK', $2) : (); }

# "test name ... ok 12 ms" up to 15, TAP from 16 on
sub pg_regress {
    return ($2 eq 'ok', $1) if /^(?:test)? +(\S+) +\.\.\. (ok|FAILED)\b/;
    return /^(not )?ok \d+ +[-+] (\S+)/ ? (!$1, $2) : ();
}

# "ok what a command checks", Vitest's verbose report, and the tests that Node.js runs within a suite
sub web {
    return (!$1, $2) if /^(not )?ok (?!\d+ - )(.+)/ || /^    (not )?ok \d+ - (.+)/;
    return /^ +(✓|×) ((?:\|\w+\| )?\S+ > .+)/ ? ($1 eq '✓', $2) : ();
}

my ($format, @command) = @ARGV;
my $result = { gtest => \&gtest, pg_regress => \&pg_regress, web => \&web }->{$format}
    or die "unknown format $format\n";

$| = 1;    ## no critic: a report appears as it is made
my ($number, @said) = (0);
open my $in, '-|', @command or die "$command[0]: $!\n";
while (<$in>) {
    chomp;
    if (my ($ok, $name) = $result->()) {
        $number++;
        print $ok ? "ok $number - $name\n" : "not ok $number - $name\n";

# GoogleTest tells why before the result, the others after it.
        print map {"$_\n"} @said if $format eq 'gtest' && !$ok;
        @said = ();
    } elsif ($format eq 'gtest') {
        @said = () if /^\[ RUN /;
        push @said, "# $_";
    } elsif ($format eq 'web') {
        print "# $_\n";
    } elsif (!/^\d+\.\.\d+/) {    # its plan: ours comes at the end
        print "$_\n";
    }
}
close $in;
my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
print map {"$_\n"} @said if $status;
print "1..$number\n";
exit $status;
