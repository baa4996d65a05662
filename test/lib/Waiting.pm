# Waiting for a condition instead of for time, for the tests that run on a server which is there.
package Waiting;

use strict;
use warnings;
use Exporter 'import';
use Time::HiRes qw(sleep time);

our @EXPORT = qw(wait_until);

# wait_until(seconds, code): whether it became true in time
sub wait_until {
    my ($seconds, $condition) = @_;
    my $deadline = time + $seconds;
    while (!$condition->()) {
        return 0 if time > $deadline;
        sleep 0.1;
    }
    return 1;
}

1;
