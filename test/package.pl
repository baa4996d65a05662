# What is packaged: META.json by the PGXN Meta Spec, one version everywhere, all scripts installed, no stray symbol exported.
use strict;
use warnings;
use Test::More;
use JSON::PP;
use File::Temp 'tempdir';
use FindBin;

chdir "$FindBin::Bin/.." or die;
my $pg_config = $ENV{PG_CONFIG} || 'pg_config';

sub slurp { my $file = shift; open my $in, '<', $file or die "$file: $!"; local $/; return scalar <$in>; }
sub ask { my $answer = `@_`; die "@_ failed" if $?; chomp $answer; return $answer; }

# ----------------------------------------------------------------------------------------------------- META.json
my $meta = eval { JSON::PP->new->utf8->decode(slurp('META.json')) };
ok($meta, 'META.json is JSON') or diag $@;

my $semver = qr/\A(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-?[A-Za-z][-0-9A-Za-z]*)?\z/;
my %known = map { $_ => 1 }
    qw(abstract maintainer license provides name version meta-spec description generated_by tags no_index prereqs
    release_status resources);
is_deeply([grep { !$known{$_} && !/^[xX]_/ } sort keys %$meta], [], 'META.json has only keys that the spec knows');
for my $key (qw(abstract license name version maintainer)) {
    ok(ref $meta->{$key} || length($meta->{$key} // ''), "META.json says $key");
}
like(
    $meta->{name},
    qr/\A[^\s\/\\\x00-\x1f]{2,}\z/,
    'name is two characters or more, without slashes or control characters'
);
like($meta->{version}, $semver, 'version is a semantic version');
is($meta->{license}, 'postgresql', 'license is one of the names in the spec');
like($meta->{release_status}, qr/\A(?:stable|testing|unstable)\z/, 'release_status is one that the spec knows');
is($meta->{'meta-spec'}{version}, '1.0.0', 'meta-spec.version');
like($meta->{'meta-spec'}{url}, qr{\Ahttps?://pgxn\.org/(?:meta/spec|spec/1\.0\.0)}, 'meta-spec.url');
ok(@{ $meta->{tags} } > 0 && !grep({ !length || length > 255 || m{[/\\\x00-\x1f]} } @{ $meta->{tags} }),
    'tags are short plain strings');

for my $name (sort keys %{ $meta->{provides} }) {
    my $provided = $meta->{provides}{$name};
    is_deeply([grep { !/^(?:file|version|abstract|docfile|x_.*)$/i } keys %$provided],
        [], "provides.$name has only keys that the spec knows");
    like($provided->{version}, $semver, "provides.$name.version is a semantic version");
    ok(-f $provided->{file}, "provides.$name.file is there");
    ok(-f $provided->{docfile}, "provides.$name.docfile is there");
}
for my $phase (sort keys %{ $meta->{prereqs} }) {
    like($phase, qr/\A(?:configure|build|test|runtime|develop)\z/, "prereqs.$phase is a phase");
    for my $relation (sort keys %{ $meta->{prereqs}{$phase} }) {
        like(
            $relation,
            qr/\A(?:requires|recommends|suggests|conflicts)\z/,
            "prereqs.$phase.$relation is a relationship"
        );
        my $wanted = $meta->{prereqs}{$phase}{$relation};
        is_deeply([grep { $wanted->{$_} ne '0' && $wanted->{$_} !~ $semver } keys %$wanted],
            [], "prereqs.$phase.$relation has versions");
    }
}

# ----------------------------------------------------------------------------------------------------- one version
my ($default) = slurp('presence.control') =~ /^default_version\s*=\s*'([^']+)'/m;
is($meta->{version}, $default, 'META.json and presence.control agree on the version');
is($meta->{provides}{presence}{version}, $default, 'so does provides');
is($meta->{provides}{presence}{file}, "sql/presence--$default.sql", 'and the file is that of the version');
like(slurp('CHANGELOG.md'), qr/^## (?:Unreleased|\Q$default\E)\b/m, 'the changelog has a section for it');

# ----------------------------------------------------------------------------------------------------- what is installed
my $root = tempdir(CLEANUP => 1);
ask("make -s install DESTDIR=$root PG_CONFIG=$pg_config 2>&1");
my $extensions = $root . ask("$pg_config --sharedir") . '/extension';
my $library = $root . ask("$pg_config --pkglibdir") . '/presence.so';
is_deeply(
    [sort map {s{.*/}{}r} glob "$extensions/*"],
    [sort('presence.control', map {s{.*/}{}r} glob 'sql/presence--*.sql')],
    'make install brings the control file and every script, upgrades included'
);
ok(-f $library, 'and the library');
ok(-x $root . ask("$pg_config --bindir") . '/presence_tail', 'and presence_tail');

# ----------------------------------------------------------------------------------------------------- symbols
# What every script ever released names, the module's own entry points, and the mains of background workers.
my %wanted = (Pg_magic_func => 1, _PG_init => 1);
for my $script (glob 'sql/presence--*.sql') {
    my $sql = slurp($script);
    while ($sql =~
        /CREATE (?:OR REPLACE )?FUNCTION \@extschema\@\.(\w+)\s*\([^;]*?AS 'MODULE_PATHNAME'(?:, '(\w+)')? LANGUAGE C/gs
    ) {
        my $symbol = $2 // $1;
        @wanted{ $symbol, "pg_finfo_$symbol" } = (1, 1);
    }
}
my %exported = map { (split)[2] => 1 } grep {/^\S+ [A-Z] /} split /\n/, ask("nm -D --defined-only $library");
is_deeply([grep { !$exported{$_} } sort keys %wanted], [], 'the library exports what the scripts call');
is_deeply([grep { !$wanted{$_} && !/^presence_\w+_main$/ } sort keys %exported], [], 'and nothing else');

# ----------------------------------------------------------------------------------------------------- injection points
unlike(slurp($library), qr/presence_points/, 'the library has no injection points');
my %points = map { $_ => 1 } map { slurp($_) =~ /PRESENCE_POINT\("([\w-]+)"\)/g } glob 'src/server/*.cpp';
my %tried = map { $_ => 1 } slurp('test/t/020_injection.pl') =~ /^ {4}'([\w-]+)' => (?:undef|\\&\w+)/mg;
is_deeply([sort keys %tried], [sort keys %points], 'a test kills a process at each of those that the code has');

# ----------------------------------------------------------------------------------------------------- mutations
SKIP: {
    skip 'no git here', 1 unless grep { -x "$_/git" } split /:/, $ENV{PATH};
    my $said = `scripts/prove-tests --list 2>&1`;
    is($?, 0, 'each of test/mutations applies, and names tests that exist') or diag $said;
}

done_testing;
