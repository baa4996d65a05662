# scripts/install-dependencies on machines that have some of what is needed: it asks for what is missing and only for that,
# and says which pg_config to use. The machines are made of stubs; the real apt-get is tried by debootstrap where
# CHECK_DEBOOTSTRAP=1 and we are root.
use strict;
use warnings;
use Test::More;
use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Temp 'tempdir';
use FindBin;

my $script = "$FindBin::Bin/../scripts/install-dependencies";
my %path = map { $_ => find($_) } qw(bash env perl sh basename cat chmod find head ls mkdir mktemp rm sed tac tee);

sub find {
    my $name = shift;
    return (grep {-x} map {"$_/$name"} split /:/, $ENV{PATH})[0] // die "no $name here";
}

# What each package brings; a name with a slash at its end is a package that it depends on.
my %brings = (
    'postgresql-15' => [qw(usr/lib/postgresql/15/bin/postgres postgresql-client-15/)],
    'postgresql-client-15' => [client(15)],
    'postgresql-server-dev-15' => [qw(usr/include/postgresql/15/server/postgres.h postgresql-client-15/ libpq-dev/)],
    'postgresql-15-cron' => [qw(usr/lib/postgresql/15/lib/pg_cron.so postgresql-15/)],
    'postgresql-15-pgtap' => [qw(usr/share/postgresql/15/extension/pgtap.control postgresql-15/)],
    'postgresql-client-17' => [client(17)],
    'g++' => ['usr/bin/g++'],
    'make' => ['usr/bin/make'],
    'cmake' => ['usr/bin/cmake'],
    'util-linux' => ['usr/bin/flock'],
    'procps' => ['usr/bin/pgrep'],
    'perl' => ['usr/bin/prove'],
    'libipc-run-perl' => ['usr/share/perl5/IPC/Run.pm'],
    'libgtest-dev' => ['usr/include/gtest/gtest.h'],
    'libpq-dev' => ['usr/include/postgresql/libpq-fe.h'],
    'libkrb5-dev' => ['usr/include/gssapi/gssapi.h'],
    'libssl-dev' => ['usr/include/openssl/ssl.h'],
    'nodejs' => ['usr/bin/node'],
    'npm' => ['usr/bin/npm', 'nodejs/'],
    'chromium' => ['usr/bin/chromium'],
    'fonts-dejavu-core' => ['usr/share/fonts/dejavu.ttf'],
);
my @server = grep {/postgresql.*15/} sort keys %brings;
my @core = grep { !/17|^(?:nodejs|npm|chromium|fonts.*)$/ } sort keys %brings;

sub client {
    my $version = shift;
    return map {"usr/lib/postgresql/$version/$_"} 'bin/pg_config', 'lib/pgxs/src/makefiles/pgxs.mk';
}

# What a package brings together with those that it depends on.
sub with_dependencies {
    my %all;
    my @todo = @_;
    while (defined(my $package = shift @todo)) {
        next if $all{$package}++;
        push @todo, map {m{^(.*)/$}} @{ $brings{$package} };
    }
    my @all = sort keys %all;
    return @all;
}

sub write_file {
    my ($file, $text) = @_;
    make_path(dirname($file));
    open my $out, '>', $file or die "$file: $!";
    print $out $text;
    close $out;
    chmod 0755, $file;
    return;
}

my $root;

sub add_packages {
    for my $package (@_) {
        for my $file (grep { !m{/$} } @{ $brings{$package} }) {
            my $text = $file =~ /bin\/node$/ ? "#!$path{sh}\n[ \$1 != --version ] || echo v18.0.0\n" : "#!$path{sh}\n";
            write_file("$root/$file", $text);
        }
    }
    return;
}

# A machine with these packages, of which no other program is in PATH.
sub machine {
    my @packages = @_;
    $root = tempdir(CLEANUP => 1);
    make_path("$root/usr/bin");
    symlink $path{$_}, "$root/usr/bin/$_" for grep { $_ ne 'perl' } keys %path;
    write_file("$root/usr/bin/id", "#!$path{sh}\necho 0\n");
    write_file("$root/usr/bin/perl",
        "#!$path{sh}\ncase \$* in *IPC::Run*) [ -f $root/usr/share/perl5/IPC/Run.pm ] ;; *) exec $path{perl} \"\$@\" ;; esac\n"
    );
    write_file("$root/usr/bin/apt-cache", "#!$path{sh}\n[ \"\$1 \$2\" = 'show postgresql-15' ]\n");
    write_file("$root/usr/bin/apt-get",
              "#!$path{sh}\necho \"\$@\" >>$root/apt\n"
            . "case \$1 in install) exec $path{perl} $root/install \"\$@\" ;; esac\n");
    write_file("$root/install", installer());
    add_packages(with_dependencies(@packages));
    return;
}

# The program that stands for apt-get install: makes the files of the packages that it is told.
sub installer {
    my $files = join ",\n", map {
        my $package = $_;
        my @files = map {
            grep { !m{/$} }
                @{ $brings{$_} }
        } with_dependencies($package);
        "'$package' => [qw(@files)]"
    } sort keys %brings;
    return <<"END";
use File::Path 'make_path';
my %files = (
$files
);
for my \$package (grep { \$files{\$_} } \@ARGV) {
    for my \$file (\@{ \$files{\$package} }) {
        next if -e "$root/\$file";
        make_path("$root/\$file" =~ s{/[^/]*\$}{}r);
        open my \$out, '>', "$root/\$file" or die;
        print \$out "#!$path{sh}\\n";
        chmod 0755, "$root/\$file";
    }
}
END
}

# Runs the script on that machine: its standard output, its messages, and what was asked of apt-get.
sub run {
    my (@groups) = @_;
    unlink "$root/apt";
    local %ENV =
        (PATH => "$root/usr/bin", PRESENCE_SYSROOT => $root, map { $_ => $ENV{$_} } grep {/^TMPDIR$/} keys %ENV);
    $ENV{PG_CONFIG} = shift @groups if @groups && $groups[0] =~ m{/};
    my $output = qx($path{bash} $script @groups 2>$root/messages);
    my $status = $?;
    open my $in, '<', "$root/messages" or die;
    my $messages = do { local $/; <$in> }
        // '';
    my $asked = '';

    if (open my $apt, '<', "$root/apt") {
        $asked = join ' ', map { /^install .*Timeout=300 (.*)/ ? sort split / /, $1 : () } <$apt>;
    }
    chomp $output;
    return { output => $output, messages => $messages, asked => $asked, ok => $status == 0, touched => -e "$root/apt" };
}

# Whether a machine without these packages gets them, and nothing else, and needs nothing afterwards.
sub completes {
    my (@missing) = @_;
    my %missing = map { $_ => 1 } @missing;
    my @there = grep { !$missing{$_} } @core;

# A package cannot be there without what it depends on.
    return if grep { $missing{$_} } with_dependencies(@there);
    machine(@there);
    my $first = run('core');
    my $wanted = join ' ', sort @missing;
    my $second = run('core');
    my $pg_config = "$root/usr/lib/postgresql/15/bin/pg_config";
    return "it failed: $first->{messages}" unless $first->{ok};
    return "it asked for '$first->{asked}'" unless $first->{asked} eq $wanted;
    return "it printed $first->{output}" unless $first->{output} eq $pg_config;
    return "a second run does something: $second->{messages}"
        unless $second->{ok} && !$second->{touched} && $second->{output} eq $pg_config;
    return '';
}

#---------------------------------------------------------------------- each subset

my (@wrong, $tried);
for my $subset (0 .. 2**@server - 1) {
    my @missing = map { $server[$_] } grep { $subset & 1 << $_ } 0 .. $#server;
    my $wrong = completes(@missing) // next;
    $tried++;
    push @wrong, "without (@missing): $wrong" if $wrong ne '';
}
is_deeply(\@wrong, [], 'each subset of the packages of the server');
cmp_ok($tried, '>=', 10, '... of which there are several') or diag $tried;

@wrong = ();
for my $package (grep { !/postgresql/ } @core) {
    my @missing = ($package, $package eq 'libpq-dev' ? 'postgresql-server-dev-15' : ());
    my $wrong = completes(@missing) // 'this machine cannot be';
    push @wrong, "without @missing: $wrong" if $wrong ne '';
}
is_deeply(\@wrong, [], 'each other package');
is(completes(@core), '', 'nothing there at all');

#---------------------------------------------------------------------- clients of other versions

machine('postgresql-client-15');
is(
    run('core')->{asked},
    join(' ', grep { $_ ne 'postgresql-client-15' } @core),
    'psql and the PGXS that comes with it are no server and no headers'
);

machine(@core, 'postgresql-client-17');
my $newer = run('core');
is($newer->{output}, "$root/usr/lib/postgresql/15/bin/pg_config",
    'a newer client: the pg_config of the server is used');
ok(!$newer->{touched}, 'and nothing is installed');

machine();
write_file("$root/mine/pg_config", <<"END");
#!$path{sh}
case \$1 in --pgxs) echo $root/mine/pgxs.mk ;; --includedir-server) echo $root/mine ;; esac
END
write_file("$root/mine/pgxs.mk", '');
my $mine = run("$root/mine/pg_config", 'core');
ok(!$mine->{ok}, 'PG_CONFIG of a server without headers is refused');
like($mine->{messages}, qr/no postgres\.h/, 'and it says why');
write_file("$root/mine/postgres.h", '');
$mine = run("$root/mine/pg_config", 'core');
is($mine->{output}, "$root/mine/pg_config", 'PG_CONFIG with headers is used');
unlike($mine->{asked}, qr/postgresql|libpq/, 'and no other server installed');

#---------------------------------------------------------------------- Node.js

my @web = qw(nodejs npm chromium fonts-dejavu-core);
machine(qw(chromium));
is(run('web')->{asked}, 'fonts-dejavu-core nodejs npm', 'no Node.js: that of the distribution');

sub own_node {
    my ($version, $status, @others) = @_;
    machine(@others);
    unlink "$root/usr/bin/node";
    write_file("$root/usr/bin/node",
        "#!$path{sh}\n[ \$1 != --version ] || echo v$version\n[ \$1 = --version ] || exit $status\n");
    return run('web');
}
my $node = own_node('24.1.0', 0, @web);
ok($node->{ok} && !$node->{touched}, 'a newer Node.js is used as it is');
$node = own_node('12.22.0', 1, @web);
ok(!$node->{ok} && !$node->{touched}, 'one that is too old is not covered by another');
like($node->{messages}, qr/v12\.22\.0; Node\.js 18 or later is needed/, 'and it says what is needed');

#---------------------------------------------------------------------- with the real apt-get

SKIP: {
    skip 'needs CHECK_DEBOOTSTRAP=1 and root', 1 unless $ENV{CHECK_DEBOOTSTRAP} && $> == 0;
    subtest 'in a machine made by debootstrap' => \&in_debootstrap;
}

sub in_debootstrap {
    my $suite = $ENV{CHECK_DEBOOTSTRAP} =~ /^[a-z]+$/ ? $ENV{CHECK_DEBOOTSTRAP} : 'bookworm';
    my $folder = tempdir(CLEANUP => 1);
    my $chroot = "$folder/root";
    chmod 0755, $folder;
    is(system("debootstrap --variant=minbase $suite $chroot >$folder/log 2>&1"), 0, "debootstrap $suite") or return;
    system("cp -L /etc/resolv.conf $chroot/etc/ 2>/dev/null");
    make_path("$chroot/presence");
    system("tar -C $FindBin::Bin/.. --exclude=./.git --exclude=./build --exclude=node_modules --exclude='*.o' -cf - . |"
            . " tar -C $chroot/presence --no-same-owner -xf -");
    my $in = "chroot $chroot env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive sh -ec";
    my $dependencies = '/presence/scripts/install-dependencies core';

# Each step begins where the one before it has ended.
    my @steps = (
        ['a bare system', 'true'],
        ['without the headers', 'apt-get purge -y postgresql-server-dev-all "postgresql-server-dev-*"'],
        ['without the server', 'apt-get purge -y "postgresql-[0-9]*"'],
        ['without all but the client', 'apt-get purge -y "postgresql-[0-9]*" "postgresql-server-dev-*" libpq-dev'],
        ['without pg_cron and pgTAP', 'apt-get purge -y "postgresql-*-cron" "postgresql-*-pgtap"'],
        ['without the build tools', 'apt-get purge -y make cmake libgtest-dev libipc-run-perl libkrb5-dev procps'],
    );

    for my $step (@steps) {
        my ($name, $preparation) = @$step;
        my $log = "$folder/log";
        is(system("$in '$preparation' >$log 2>&1"), 0, "$name: prepared") or diag `tail -n 20 $log`;
        is(
            system(
                "$in 'PG_CONFIG=\$($dependencies); make -C /presence -j2 -s PG_CONFIG=\$PG_CONFIG; test -x \$(dirname \$PG_CONFIG)/postgres' >$log 2>&1"
            ),
            0,
            "$name: installed, and it builds"
        ) or diag `tail -n 20 $log`;
        is(system("$in '$dependencies' >$log 2>&1") || `wc -l <$log` + 0, 1, "$name: nothing more to install")
            or diag `cat $log`;
    }
    return;
}

done_testing;
