# Tries what the documents say: every sql, sh and js block of each runs on the server that PG... names, in order, and "--> value"
# must be the result. Each document finds the extension as just created. Names, columns and defaults in the tables of
# docs/reference.md are compared with the extension.
#
# A comment before a block may say: <!-- test: needs pg_cron -->, <!-- test: last -->, or why it cannot be tried: <!-- test: no ... -->
use strict;
use warnings;
use Test::More;
use File::Temp 'tempdir';
use FindBin;

my $root = "$FindBin::Bin/..";
binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output todo_output);
my $folder = tempdir(CLEANUP => 1);

# docs/front-end.md has a test of its own in client/test, and what docs/design.md and CONTRIBUTING.md show are not statements to try.
my @tried_documents =
    grep { -f "$root/$_" } qw(README.md docs/guide.md docs/reference.md docs/operations.md docs/security.md);

sub content {
    my ($document) = @_;
    open my $in, '<:encoding(UTF-8)', "$root/$document" or die "$document: $!";
    local $/;
    return scalar <$in>;
}

# Runs a program with a file as its input; its output, and whether it went well.
sub run {
    my ($input, @command) = @_;
    open my $out, '>:encoding(UTF-8)', "$folder/input" or die $!;
    print $out $input;
    close $out;
    my $output = qx(@command <$folder/input 2>&1);
    chomp $output;
    return ($output, $? == 0);
}

sub sql {
    my ($output, $fine) = run(shift, 'psql -XAtq -v ON_ERROR_STOP=1');
    die "$output\n" unless $fine;
    return $output;
}

my @cron = run(
    q{SELECT 1 FROM pg_available_extensions WHERE name = 'pg_cron' AND current_setting('cron.database_name', true) = current_database()},
    'psql -XAtq'
);

my %tried = (sql => 0, sh => 0, js => 0);
for my $document (@tried_documents) {
    my $text = content($document);
    my (@blocks, @last);
    while ($text =~
        /^(?:<!-- test: (?<note>[^\n]*) -->\n)?(?<indent> *)```(?<language>\w+)\n(?<text>.*?)^\g{indent}```$/gms) {
        my $block = [$+{note} // '', $+{language}, $+{text}];
        push @{ $block->[0] eq 'last' ? \@last : \@blocks }, $block;
    }
    note $document;
    sql('SET client_min_messages = warning; DROP EXTENSION IF EXISTS presence');
    sql('CREATE EXTENSION presence') unless $text =~ /^CREATE EXTENSION presence\b/m;
    try_block($document, @$_) for @blocks, @last;
}
cmp_ok($tried{$_}, '>', 0, "there are $_ blocks") for sort keys %tried;

sql('CREATE EXTENSION IF NOT EXISTS presence');
compare_tables(content('docs/reference.md'));

sub try_block {
    my ($document, $note, $language, $text) = @_;
    if ($note =~ /^no /) { pass("$document: not tried: $note"); return; }
    $tried{$language}++;
    if ($language eq 'sql') {
    SKIP: {
            skip 'pg_cron is not there', 1 if $note eq 'needs pg_cron' && $cron[0] ne '1';
            for my $statement ($text =~ /(.*?;[^\n]*\n)/gs) {
                my ($expected) = $statement =~ /--> (.*?)\s*$/m;
                my ($title) = $statement =~ /^\s*((?:[^-\s]|-(?!-)).*?)\s*$/m;
                my ($output, $fine) = run($statement, 'psql -XAtq -v ON_ERROR_STOP=1');
                ok($fine, "$document: $title") or diag $output;
                is($output, $expected, "... is $expected") if defined $expected;
            }
        }
    } elsif ($language eq 'sh') {
        my ($output, $fine) = run($text, 'bash -e -o pipefail');
        ok($fine, "$document: sh: " . ($text =~ /(.*)/)[0]) or diag $output;
    } elsif ($language eq 'js') {
    SKIP: {
            skip 'no Node.js here', 1 unless grep { -x "$_/node" } split /:/, $ENV{PATH};
            skip 'client/node_modules is not there: npm ci in client/', 1 unless -d "$root/client/node_modules/pg";
            symlink "$root/client/node_modules", "$folder/node_modules";
            open my $out, '>:encoding(UTF-8)', "$folder/snippet.mjs" or die $!;
            print $out $text;
            close $out;
            my ($output, $fine) = run('', "timeout 30 node $folder/snippet.mjs");
            ok($fine, "$document: js: runs") or diag $output;
            is($output, join("\n", $text =~ m{console\.log\(.*\); // (.*)}g), "$document: js: prints what it says");
        }
    } elsif ($language eq 'ini') {
        like(sql('SHOW shared_preload_libraries'),
            qr/\bpresence\b/, 'ini: the server that tries this is configured like that');
    } elsif ($language !~ /^(?:text|json)$/) {
        fail("$document: a $language block, which nothing here can try");
    }

# The roles can do what they were granted, and nothing else.
    if ($text =~ /^CREATE ROLE chat_backend/m) {
        ok(eval { sql($_); 1 }, $_)
            or diag $@
            for (
            q{SET ROLE chat_backend; SELECT update_user_heartbeat('eve', 'tab'), update_user_heartbeats('{eve}', '{tab}'), is_user_online('eve'), presence_count()},
            q{SET ROLE chat_backend; SELECT * FROM get_active_users(), get_presence('{eve}'), presence_snapshot(), presence_changes_since(0)},
            q{SET ROLE chat_backend; SELECT handle_user_disconnect('eve', 'tab'), mark_user_offline('eve')},
            q{SET ROLE chat_reports; SELECT * FROM presence, presence_sessions},
            q{SET ROLE chat_admin; SELECT cleanup_stale_presence(), scheduled_presence_cleanup(); SELECT * FROM presence_health, presence_admin_log, presence_events}
            );
        ok(!eval { sql($_); 1 }, "refused: $_")
            for (
            q{SET ROLE chat_reports; SELECT update_user_heartbeat('eve')},
            q{SET ROLE chat_backend; SELECT * FROM presence},
            q{SET ROLE chat_admin; DELETE FROM presence_session}
            );
    }
}

# One paragraph, one line: a line of text does not follow another one, except in what a program writes.
for my $document (map {s{^\Q$root\E/}{}r} glob "$root/*.md $root/docs/*.md $root/client/*.md $root/test/*.md") {
    my $text = content($document) =~ s/^<!-- results -->.*//msr =~ s/^( *)```.*?^\1```$//gmsr;
    my @wrapped = $text =~ /^(?![ \t]*$|[#|<])[^\n]+\n((?![ \t]*(?:$|[-*|<#]|\d+\.))[^\n]+)$/gm;
    is_deeply(\@wrapped, [], "$document has no paragraph of several lines");
}

# Links within the repository lead somewhere, for all documents.
for my $document (map {s{^\Q$root\E/}{}r} glob "$root/*.md $root/docs/*.md $root/client/*.md") {
    my $text = content($document);
    my ($folder_of) = $document =~ m{^(.*/)?[^/]*$};
    my @dead;
    while ($text =~ /\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)/g) {
        my ($target, $anchor) = ($1 eq '' ? $document : ($folder_of // '') . $1, $2);
        if (!-e "$root/$target") { push @dead, $target; next; }
        next unless defined $anchor;
        open my $in, '<:encoding(UTF-8)', "$root/$target" or die $!;
        my %anchors = map { my $slug = lc; $slug =~ s/[^\w\s-]//g; $slug =~ s/ /-/g; ($slug => 1) }
            map { /^#+ (.*)/ ? $1 : () } <$in>;
        push @dead, "$target#$anchor" unless $anchors{$anchor};
    }
    is_deeply(\@dead, [], "$document has no dead link");
}

sub compare_tables {
    my ($reference) = @_;
    for my $line (
        split /\n/,
        sql(
            q{
        SELECT p.proname || E'\t' || coalesce(string_agg(a.name, ', ' ORDER BY a.position) FILTER (WHERE a.mode = 't'), '')
        FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
        LEFT JOIN LATERAL unnest(p.proargnames, p.proargmodes) WITH ORDINALITY AS a(name, mode, position) ON true
        WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'presence') AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
          AND NOT has_function_privilege('public', p.oid, 'EXECUTE') AND p.prorettype <> 'trigger'::regtype
          AND p.proname NOT IN ('presence_event_payload', 'presence_feed_place')
        GROUP BY p.oid, p.proname ORDER BY 1}
        )
    ) {
        my ($name, $columns) = split /\t/, $line, -1;
        my ($row) = $reference =~ /^\| `\Q$name\E\((.*)$/m;
        ok($row, "the reference has the function $name") or next;
        next if $name =~ /^presence_(?:snapshot|changes_since)$/;    # described by others
        like($row, qr/\Q`$columns`\E/, "... and its columns") if $columns;
    }
    for my $line (
        split /\n/,
        sql(
            q{
        SELECT c.relname || E'\t' || string_agg(a.attname, ', ' ORDER BY a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relname IN ('presence', 'presence_sessions', 'presence_health', 'presence_events', 'presence_admin_log') GROUP BY c.oid, c.relname}
        )
    ) {
        my ($name, $columns) = split /\t/, $line;
        like($reference, qr/^\| `\Q$name\E`[^|]*\| `\Q$columns\E`/m, "the reference has $name with its columns");
    }
    for my $line (
        split /\n/,
        sql(
            q{SELECT name || E'\t' || current_setting(name) FROM pg_settings WHERE name LIKE 'presence.%' AND source = 'default'}
        )
    ) {
        my ($name, $default) = split /\t/, $line;
        like(
            $reference,
            qr/^\| `\Q$name\E` \| `\Q$default\E` \|/m,
            "the reference has the setting $name with its default"
        );
    }
    is(
        scalar(() = $reference =~ /^\| `presence\.\w+` \|/gm),
        sql(q{SELECT count(*) FROM pg_settings WHERE name LIKE 'presence.%'}),
        'and no setting that is not there'
    );
}

done_testing;
