# Many clients that make random calls of all kinds, and somebody who watches what comes of it. Processes may be killed meanwhile:
# new_chaos(node) begins, look() sees whether all is well, and end_chaos() tells what it was.
package PresenceChaos;

use strict;
use warnings;
use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use PresenceNode;

our @EXPORT = qw(chaos_conf start_chaos look ask ask_until_answered one_of children_of kill_child end_chaos);

# Of the server on which they are.
my ($node, $dir, $clients, $epoch, $seq, %is_online, %rooms_of, @wrong, @children);

# Those who beat all the time, and have promised to do so often enough for any crash.
my @steady = map {"steady$_"} 1 .. 3;

# The schema is renamed to the second of these names and back.
my $path = 'SET search_path = app, elsewhere, public';

sub chaos_conf {
    return <<'CONF';
presence.timeout = '1s'
presence.rejoin_guard = '200ms'
presence.leave_grace = '300ms'
presence.save_interval = 1
presence.event_retention = '1min'
presence.session_retention = '5s'
max_prepared_transactions = 50
max_worker_processes = 20
restart_after_crash = on
log_line_prefix = '%m [%p] %b %e '
CONF
}

# ------------------------------------------------------------------------------------------------ what clients do
# Each call that succeeds prints a line that begins with its kind.

sub user { return 'u' . int rand 30; }

sub session {
    return (map {"'s$_'"} 1 .. 4)[rand 4] if rand() < 0.9;
    return 'NULL';
}

sub room { return 'r' . int rand 6; }

sub some_room {
    my ($user, $session, $room) = (user(), session(), room());
    return one_of(
        [5, sub {"SELECT 'join', join_room('$user', $session, '$room', '@{[int rand 3]}');\n"}],
        [3, sub {"SELECT 'part', leave_room('$user', $session, '$room');\n"}],
        [
            1,
            sub {
                "SELECT 'joins', join_rooms(array_fill('$user'::text, ARRAY[6]), array_fill($session\::text, ARRAY[6]), ARRAY(SELECT 'r' || i FROM generate_series(0, 5) AS i));\n";
            }
        ],
        [1, sub {"SELECT 'type', set_typing('$user', $session, '$room', '1s');\n"}],
        [1, sub {"SELECT 'room', count(*) FROM room_snapshot('$room');\n"}],
        [1, sub {"SELECT 'room', room_count('$room'), count(*) FROM get_user_rooms('$user');\n"}]
    );
}

sub some_status {
    my $status = (qw(busy away invisible active))[rand 4];
    my $until = rand() < 0.7 ? "clock_timestamp() + '300ms'" : 'NULL';
    return "SELECT 'status', set_user_status('@{[user()]}', '$status', $until);\n";
}

sub some_heartbeat {
    my ($user, $session) = (user(), session());
    return "SELECT 'heartbeat', update_user_heartbeat('$user', $session);\n" if rand() < 0.7;
    my $status = (qw(active busy idle away))[rand 4];
    my $metadata = int rand 3;
    return "SELECT 'change', update_user_heartbeat('$user', $session, status => '$status', metadata => '$metadata');\n";
}

my @calls = (
    [40, \&some_heartbeat],
    [12, \&some_room],
    [4, \&some_status],
    [
        10,
        sub {
            "SELECT 'batch', update_user_heartbeats(ARRAY(SELECT 'u' || i FROM generate_series(0, 29) AS i), ARRAY(SELECT 's' || 1 + i % 4 FROM generate_series(0, 29) AS i));\n";
        }
    ],
    [5, sub { "SELECT 'leave', mark_user_offline('" . user() . "', " . session() . ");\n" }],
    [5, sub { "SELECT 'disconnect', handle_user_disconnect('" . user() . "', " . session() . ");\n" }],
    [3, sub {"SELECT 'cleanup', cleanup_stale_presence();\n"}],
    [1, sub {"SELECT 'schedule', scheduled_presence_cleanup();\n"}],
    [3, sub {"SELECT 'list', count(*) FROM get_active_users();\n"}],
    [3, sub {"SELECT 'snapshot', count(*) FROM presence_snapshot();\n"}],
    [3, sub {"SELECT 'count', presence_count();\n"}],
    [2, sub {"SELECT 'health', count(*) FROM presence_health;\n"}],
    [2, sub {"SELECT 'friends', count(*) FROM get_presence(ARRAY['u1', 'u2', 'nobody']);\n"}],
    [1, sub {"SELECT 'view', count(*) FROM presence JOIN presence_sessions USING (user_id);\n"}]
);

sub one_of {
    my @choices = @_;
    my $die = 0;
    $die += $_->[0] for @choices;
    $die = rand $die;
    for my $choice (@choices) {
        return $choice->[1]->() if ($die -= $choice->[0]) < 0;
    }
    return '';
}

sub some_calls {
    return map { one_of(@calls) } 1 .. 1 + int rand 4;
}
my $transactions = 0;
sub prepared { return "t$$-" . ++$transactions; }
sub table { return 'presence_' . (qw(user session event feed_range))[rand 4]; }
sub database { return 'd' . int rand 3; }

sub in_two_phases {
    my ($name, $end) = (prepared(), rand() < 0.6 ? 'COMMIT' : 'ROLLBACK');
    return (
        "BEGIN;\n", some_calls(),
        "PREPARE TRANSACTION '$name';\n",
        rand() < 0.3 ? "SELECT pg_sleep(0.2);\n" : '',
        "$end PREPARED '$name';\n",
        "SELECT 'two-phase';\n"
    );
}

sub elsewhere {
    my $database = database();
    return (
        "\\c $database\n",
        (map { "SELECT 'elsewhere', update_user_heartbeat('" . user() . "', 's');\n" } 1 .. 5),
        "\\c postgres\n$path;\n"
    );
}

my @deeds = (
    [50, sub { (some_calls())[0] }],
    [10, sub { ("BEGIN;\n", some_calls(), "COMMIT;\n") }],
    [8, sub { ("BEGIN;\n", some_calls(), "ROLLBACK;\n") }],
    [
        8,
        sub {
            (
                "BEGIN;\nSAVEPOINT a;\n",
                some_calls(), "ROLLBACK TO a;\n",
                some_calls(), "SAVEPOINT b;\n",
                some_calls(),
                "RELEASE b;\nCOMMIT;\n",
                "SELECT 'savepoint';\n"
            )
        }
    ],
    [6, \&in_two_phases],
    [
        4,
        sub {
            (
                "BEGIN ISOLATION LEVEL " . (rand() < 0.5 ? 'REPEATABLE READ' : 'SERIALIZABLE') . ";\n",
                some_calls(), "COMMIT;\n"
            )
        }
    ],
    [
        2,
        sub {
            "SELECT 'cancel' FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'client' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) AS done;\n";
        }
    ],
    [
        1,
        sub {
            "SELECT 'terminate' FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE (application_name = 'client' OR backend_type ~ 'presence') AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) AS done;\n";
        }
    ],
    [
        1,
        sub {
            "ALTER SCHEMA app RENAME TO elsewhere;\nSELECT 'rename';\nSELECT pg_sleep(0.01);\nALTER SCHEMA elsewhere RENAME TO app;\n";
        }
    ],
    [
        0.5,
        sub { my $how = rand() < 0.5 ? ' CONCURRENTLY' : ''; "REINDEX TABLE$how " . table() . ";\nSELECT 'reindex';\n" }
    ],
    [0.5, sub { 'VACUUM ' . ('', 'FULL ', 'FREEZE ')[rand 3] . table() . ";\nSELECT 'vacuum';\n" }],
    [0.3, sub { 'CREATE DATABASE ' . database() . " TEMPLATE mould;\nSELECT 'createdb';\n" }],
    [0.2, sub { 'CREATE DATABASE ' . database() . ' TEMPLATE ' . database() . ";\nSELECT 'copydb';\n" }],
    [
        0.3,
        sub {
            'DROP DATABASE IF EXISTS ' . database() . (rand() < 0.7 ? ' WITH (FORCE)' : '') . ";\nSELECT 'dropdb';\n";
        }
    ],
    [0.2, sub { 'ALTER DATABASE ' . database() . ' RENAME TO ' . database() . ";\n" }],
    [
        0.3,
        sub {
            'ALTER DATABASE '
                . (rand() < 0.5 ? 'postgres' : database())
                . (rand() < 0.5 ? " SET presence.timeout = '1500ms'" : ' RESET ALL')
                . ";\nSELECT 'setting';\n";
        }
    ],
    [1.5, \&elsewhere]
);

# A process of its own that goes on until there is that file, or the test has died. It must leave without the test's clean-up.
sub in_background {
    my ($until, $work) = @_;
    my $parent = $$;
    my $pid = fork // die "fork: $!";
    if ($pid) {
        push @children, $pid;
        return;
    }
    $ENV{PGAPPNAME} = 'client';
    eval { $work->() until -e "$dir/$until" || getppid != $parent };
    print {*STDERR} $@ if $@;
    POSIX::_exit($@ ? 1 : 0);
}

sub run_script {
    my ($name, @script) = @_;
    my $file = "$dir/$name.sql";
    unlink $file;
    append_to_file($file, join '', "SET client_min_messages = error;\nSET lock_timeout = '2s';\n$path;\n", @script);
    my $url = $node->connstr('postgres');
    system "psql -XAtq -d \"$url\" -f $file >>$dir/$name.out 2>>$dir/$name.err";
    sleep 0.02;
    return;
}

sub live {
    my ($name, $life) = @_;
    run_script(
        $name,
        "SELECT 'joined', '$name-$life' WHERE update_user_heartbeat('$name-$life', 's');\n",
        map { one_of(@deeds) } 1 .. 5 + int rand 30
    );
    return;
}

# start_chaos(node, clients, seed): the node has chaos_conf().
sub start_chaos {
    ($node, $clients, my $seed) = @_;
    ($dir, $seq) = (PostgreSQL::Test::Utils::tempdir, 0);
    $node->safe_psql('postgres', 'CREATE SCHEMA app; CREATE EXTENSION presence SCHEMA app; CREATE DATABASE mould');
    $node->safe_psql('mould',
        "CREATE EXTENSION presence; SELECT update_user_heartbeat('u' || i, 's') FROM generate_series(1, 5) AS i");
    $node->safe_psql('postgres', "$path; SELECT update_user_heartbeat('$_', 's', heartbeat_interval => '15s')")
        for @steady;
    $epoch = $node->safe_psql('postgres', "$path; SELECT epoch FROM presence_feed_position()");
    for my $number (1 .. $clients) {
        my $life = 0;
        in_background(
            'stop',
            sub {
                srand $seed + 1000 * $number if $life == 0;
                live("client$number", ++$life);
            }
        );
    }
    my $names = join ', ', map {"'$_'"} @steady;
    in_background(
        'end',
        sub {
            run_script('steady',
                "SELECT 'steady', update_user_heartbeats(ARRAY[$names], array_fill('s'::text, ARRAY[@{[scalar @steady]}]));\n"
            );
            sleep 0.3;
        }
    );
    return;
}

# ------------------------------------------------------------------------------------------------ what is looked at

# Undef where the server is not there, or somebody holds what it takes.
sub ask {
    my ($sql) = @_;

# That of the modules dies where psql ends before it has read everything.
    my ($code, $out) = eval { $node->psql('postgres', "SET lock_timeout = '2s'; $path; $sql") };
    return defined $code && $code == 0 ? $out : undef;
}

# Those whose clients are gone hold locks for ever.
sub decide_prepared {
    my $left = ask(
        "SELECT gid FROM pg_prepared_xacts WHERE database = 'postgres' AND prepared < clock_timestamp() - interval '1 s'"
    ) // return;
    ask((rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_'") for split /\n/, $left;
    return;
}

sub ask_until_answered {
    my ($sql) = @_;
    my $answer;
    wait_until(120, sub { return 1 if defined($answer = ask($sql)); decide_prepared(); return 0; })
        or BAIL_OUT("no answer to $sql");
    return $answer;
}

sub note_event {
    my ($number, $event, $user, $room) = @_;
    push @wrong, "after event $seq comes $number" if $number != $seq + 1;
    $seq = $number;
    my $rooms = $rooms_of{$user} //= {};
    if ($event eq 'room_join') {
        push @wrong, "$number: $user joins $room again" if $rooms->{$room}++;
    } elsif ($event eq 'room_leave') {
        push @wrong, "$number: $user leaves $room without being there" if !delete $rooms->{$room};
    }
    return if $event !~ /^user_/;
    my $online = $event eq 'user_online' ? 1 : 0;
    push @wrong, "$number: $event of $user again" if $online == ($is_online{$user} // 0);
    push @wrong, "$number: $user goes offline in rooms @{[keys %$rooms]}" if !$online && %$rooms;
    push @wrong, "$number: $user, who beats all the time, went offline" if $user =~ /^steady/ && !$online;
    $is_online{$user} = $online;
    return;
}

# Goes on where it was, as any reader of the feed does.
sub read_feed {
    my @rows;
    do {
        @rows = split /\n/, ask_until_answered("SELECT seq, event, user_id, room FROM presence_changes_since($seq)");
        note_event(split /\|/) for @rows;
    } while @rows == 1000;
    my $now = ask_until_answered('SELECT epoch FROM presence_feed_position()');
    push @wrong, "the epoch changed at $seq" if $now ne $epoch;
    return;
}

# False: something is wrong.
sub look {
    my ($when) = @_;
    my $found = ask_until_answered('SELECT * FROM presence_verify()');
    push @wrong, "$when: $found" if $found ne '';
    read_feed();
    return !@wrong;
}

# The server's processes whose title is like that.
sub children_of {
    my ($title) = @_;
    my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
    my @found;
    for my $pid (split ' ', `pgrep -P $postmaster`) {
        open my $file, '<', "/proc/$pid/cmdline" or next;
        push @found, $pid if (join '', <$file>) =~ $title;
    }
    return @found;
}

# kill -9 of one of them. False: there is none.
sub kill_child {
    my @found = children_of(@_);
    return @found && kill('KILL', $found[rand @found]);
}

# ------------------------------------------------------------------------------------------------ afterwards

# Nobody is lost of whom a client was told, nobody stays, and clients have done something.
sub check_outcome {
    my (%done, @joined);
    for my $file (glob "$dir/*.out") {
        for (split /\n/, slurp_file($file)) {
            my ($kind, $what) = split /\|/;
            ++$done{$kind};
            push @joined, $what if $kind eq 'joined';
        }
    }
    note join ', ', map {"$_ $done{$_}"} sort keys %done;
    is(
        (
            join ' ',
            grep { !$done{$_} }
                qw(joined heartbeat change batch leave disconnect cleanup list snapshot count join part status savepoint two-phase steady)
        ),
        '',
        'clients have made calls of each kind'
    );
    cmp_ok($done{heartbeat} // 0, '>=', 20 * $clients, 'and many of them');
    my $names = join ', ', map {"'$_'"} @joined;
    is(
        ask_until_answered("SELECT count(*) FROM presence_user WHERE user_id = ANY (ARRAY[$names])"),
        scalar @joined,
        'nobody is lost of whom a client was told'
    );
    my $steady = join ', ', map {"'$_'"} @steady;
    ok(
        wait_until(
            30,
            sub {
                ask_until_answered(
                    "SELECT count(*) FROM presence_user WHERE online AND user_id <> ALL (ARRAY[$steady])") eq '0';
            }
        ),
        'whoever is silent is offline'
    );
    is(
        ask_until_answered('SELECT count(*) FROM presence WHERE online'),
        scalar @steady,
        'whoever beat to the end is online'
    );
    return;
}

# Of the server itself.
sub check_log {
    my $log = slurp_file($node->logfile);
    my @crashes = grep { !/signal 9/ } $log =~ /^.*(?:was terminated by signal|PANIC: |TRAP: ).*$/mg;
    is((join "\n", @crashes), '', 'no process has crashed by itself');
    my %internal;
    while ($log =~ /XX\d\d\d (?:ERROR|FATAL): +(.*)/g) {
        my $message = $1 =~ s/\d+/N/gr;

# Commands of the server's own that meet others.
        $internal{$message}++ unless $message =~ /^tuple concurrently (?:updated|deleted)$/;
    }
    is((join "\n", map {"$internal{$_} times: $_"} sort keys %internal), '', 'and none has met an internal error');
    return;
}

sub end_chaos {
    append_to_file("$dir/stop", '');
    my @failed = grep { waitpid($_, 0) != $_ || $? } @children[0 .. $clients - 1];
    is("@failed", '', 'the clients went on until the end');
    look('afterwards');
    check_outcome();
    look('at the end');
    append_to_file("$dir/end", '');
    waitpid $children[-1], 0;
    is((join "\n", @wrong), '', 'presence_verify() was empty each time, and the feed is one legal history');
    is(
        (join ' ', sort grep { $is_online{$_} } keys %is_online),
        (join ' ', sort @steady),
        'whose reader knows who is online'
    );
    is(ask_until_answered("SELECT at, details FROM presence_admin_log WHERE action = 'review'"),
        '', 'no review has had to repair anything');
    check_log();
    return;
}

1;
