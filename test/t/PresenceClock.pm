# Servers whose wall clock a test sets. A small library, loaded before the C library, adds to the wall clock what a file says;
# the monotonic clock is left alone.
package PresenceClock;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(start_with_clock set_clock);

my $dir;

# By so many seconds ahead of the true time.
sub set_clock {
    my ($seconds) = @_;
    open my $file, (-e "$dir/offset" ? '+<' : '>'), "$dir/offset" or die $!;    # in place: it is mapped
    binmode $file;
    syswrite $file, pack('q', $seconds);
    close $file;
    return;
}

sub build {
    $dir = PostgreSQL::Test::Utils::tempdir;
    append_to_file("$dir/clock.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *seconds;

static long long offset(void)
{
	if (seconds == NULL)
	{
		int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
		seconds = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
	}
	return *seconds;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	static int (*real)(struct timeval *, void *);
	if (real == NULL)
		real = (int (*)(struct timeval *, void *)) dlsym(RTLD_NEXT, "gettimeofday");
	int result = real(now, zone);
	now->tv_sec += offset();
	return result;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	static int (*real)(clockid_t, struct timespec *);
	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(clock, now);
	if (clock == CLOCK_REALTIME)
		now->tv_sec += offset();
	return result;
}

time_t time(time_t *result)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (result != NULL)
		*result = now.tv_sec;
	return now.tv_sec;
}
C
    system('cc', '-shared', '-fPIC', '-O1', '-o', "$dir/clock.so", "$dir/clock.c", '-ldl') == 0
        or die 'the library of the clock is not built';
    set_clock(0);
    return;
}

# Like the method "start".
sub start_with_clock {
    my ($node, @how) = @_;
    build() if !defined $dir;
    local %ENV = (%ENV, LD_PRELOAD => "$dir/clock.so", CLOCK_OFFSET_FILE => "$dir/offset");
    return $node->start(@how);
}

1;
