package Measure::Rooms;

# Rooms: one of many people, many of two, and a session in a hundred.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median ratios plain);
use Time::HiRes qw(time);

# Milliseconds for a thousand elements, in calls of a thousand each.
sub per_thousand ($server, $call, $from, $count) {
    my $begin = time;
    $server->value('rooms',
              "SELECT sum($call) FROM (SELECT array_agg('u' || i) AS users, array_agg('s'::text) AS sessions,"
            . " array_agg('everybody'::text) AS one, array_agg('pair ' || i / 2) AS pairs, array_agg('other pair ' || (i + 1) / 2) AS other_pairs FROM generate_series($from, @{[$from + $count - 1]}) AS i GROUP BY i / 1000) AS a"
    );
    return (time - $begin) * 1000 * 1000 / $count;
}

sub run ($run) {
    my ($server, $report, $people) = @$run{qw(server report sessions)};
    $run->{progress}->('rooms');
    $server->create_database('rooms');
    my (%ms, $from);
    my $part = $people / $run->{rounds};
    for my $round (0 .. $run->{rounds} - 1) {
        $from = $round * $part;
        push @{ $ms{sessions} }, per_thousand($server, 'update_user_heartbeats(users, sessions)', $from, $part);
        push @{ $ms{one} }, per_thousand($server, 'join_rooms(users, sessions, one)', $from, $part);
        push @{ $ms{pairs} }, per_thousand($server, 'join_rooms(users, sessions, pairs)', $from, $part);
        per_thousand($server, 'join_rooms(users, sessions, other_pairs)', $from, $part);
    }
    $server->value('rooms', 'SELECT presence_feed_position()');
    $server->value('rooms', 'ANALYZE');
    my $time = sub ($name, $sql) { $server->milliseconds('rooms', "room_$name", $sql, transactions => 20) };
    for (1 .. $run->{rounds}) {
        push @{ $ms{count} }, $time->(count => q{SELECT room_count('everybody')});
        push @{ $ms{pair_count} }, $time->(pair_count => q{SELECT room_count('pair 7')});
        push @{ $ms{page} }, $time->(page => q{SELECT * FROM get_room('everybody', 100)});
        $server->value('rooms',
            q{SELECT join_rooms(array_agg('busy'::text), array_agg('s' || clock_timestamp()::text), array_agg('room ' || i)) FROM generate_series(1, 100) AS i}
        );
        push @{ $ms{end} },
            $server->value('rooms',
            q{SELECT 1000 * extract(epoch FROM clock_timestamp() - statement_timestamp()) FROM (SELECT mark_user_offline('busy') OFFSET 0) AS ended}
            );
    }
    my $text = plain($people);
    $report->group("Rooms: $text people in one, and in as many rooms of two");
    $report->row(room_join => 'join_rooms(), 1,000 people into one room', values => $ms{one}, unit => 'ms');
    $report->row(
        room_join_vs_session => 'the same against the beginning of their sessions',
        reach => ['<=', 1.5],
        values => [ratios($ms{one}, $ms{sessions})],
        unit => 'times as long'
    );
    $report->row(
        room_join_vs_small => 'the same against rooms of two',
        values => [ratios($ms{one}, $ms{pairs})],
        unit => 'times as long'
    );
    $report->row(room_count => "room_count() of $text", values => $ms{count}, unit => 'ms');
    $report->row(
        room_count_vs_small => 'the same against a room of two',
        values => [ratios($ms{count}, $ms{pair_count})],
        unit => 'times as long'
    );
    $report->row(
        room_page => 'get_room(room, 100), the first page',
        reach => ['<=', 20],
        values => $ms{page},
        unit => 'ms'
    );
    $report->row(room_end => 'the end of a session in 100 rooms', values => $ms{end}, unit => 'ms');
    my $wrong = $server->value('rooms', 'SELECT count(*) FROM presence_verify()');
    die "presence_verify() finds $wrong\n" if $wrong;
    $server->drop_database('rooms');
}

1;
