package Measure::Lists;

# The list of who is online, against a table that has it ready.
use v5.28;
use warnings;
use experimental 'signatures';
use Stats qw(median interleave ratios plain);

sub run ($run) {
    my ($server, $report, $sessions) = @$run{qw(server report sessions)};
    $run->{progress}->('lists');
    $server->load('big', 1, $sessions);
    $server->value('big', 'CREATE TABLE peer_list AS SELECT * FROM get_active_users()');
    $server->value('big', 'VACUUM ANALYZE peer_list');
    my $transactions = $run->{quick} ? 3 : 5;
    my $time = sub ($name, $sql) {
        ($name => sub { $server->milliseconds('big', "list_$name", $sql, transactions => $transactions) })
    };
    my %ms = interleave(
        $run->{rounds},
        $time->(presence => 'SELECT * FROM get_active_users()'),
        $time->(page => 'SELECT * FROM get_active_users(100)'),
        $time->(plain => 'SELECT user_id, status, sessions, online_since, heartbeat_at, metadata FROM peer_list'),
        $time->(
            ordered =>
                'SELECT user_id, status, sessions, online_since, heartbeat_at, metadata FROM peer_list ORDER BY online_since DESC'
        )
    );
    $report->group("The list of who is online ($run->{session_text} users, one client)");
    $report->row(list => 'get_active_users()', values => $ms{presence}, unit => 'ms');
    $report->row(
        list_vs_select => 'get_active_users() against SELECT from a table',
        reach => ['<=', 1.5],
        values => [ratios($ms{presence}, $ms{plain})],
        unit => 'times as long',
        note => plain(median(@{ $ms{plain} })) . ' ms'
    );
    $report->row(
        list_vs_ordered => 'get_active_users() against SELECT ... ORDER BY online_since DESC',
        values => [ratios($ms{presence}, $ms{ordered})],
        unit => 'times as long',
        note => plain(median(@{ $ms{ordered} })) . ' ms'
    );
    $report->row(
        list_page => 'get_active_users(100), the first page',
        values => $ms{page},
        unit => 'ms'
    );
    $report->bar(lists => @$_)
        for (
        ['presence: get_active_users()', median(@{ $ms{presence} })],
        ['SELECT from a table', median(@{ $ms{plain} })],
        ['the same, ORDER BY', median(@{ $ms{ordered} })]
        );
    $server->value('big', 'DROP TABLE peer_list');
}

1;
