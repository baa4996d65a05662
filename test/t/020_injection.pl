# Processes that are held or killed at the bad moments that the library names (src/server/injection.h).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use PresenceChaos;
use PresenceNode;

# ------------------------------------------------------------------------------------------------ points

sub points { return $_[0]->data_dir . '/presence_points'; }

# The first process to come to the point is to "wait", "kill" itself or "fail".
sub set_point {
    my ($on, $point, $action) = @_;
    mkdir points($on);
    append_to_file(points($on) . '/new', $action);
    rename points($on) . '/new', points($on) . "/$point" or die "rename: $!";
    return;
}

sub taken {
    my ($on, $point) = @_;
    my @files = glob points($on) . "/$point.*";
    return @files;
}

sub wait_for_point {
    my ($on, $point) = @_;
    wait_until(60, sub { taken($on, $point) }) or BAIL_OUT("no process comes to point $point");
    return;
}

sub release { unlink taken(@_); return; }

# ------------------------------------------------------------------------------------------------ between commit and callback

my $node = new_node('held', conf => <<'CONF');
presence.timeout = '1h'
presence.rejoin_guard = '1h'
max_worker_processes = 40
max_prepared_transactions = 5
CONF
create_extension($node);
ok(has_worker($node), 'there is a worker');
sub sql { my ($sql, $database) = @_; return $node->safe_psql($database // 'postgres', $sql); }

# A transaction of one is seen to be committed, and held before it has told the cache; meanwhile others do something.
sub while_held {
    my ($call, $meanwhile) = @_;
    my $session = $node->background_psql('postgres');
    set_point($node, 'session-committed', 'wait');
    $session->query_until(qr/begun/, "\\echo begun\nSELECT $call;\n");
    wait_for_point($node, 'session-committed');
    $meanwhile->();
    release($node, 'session-committed');
    $session->query('SELECT 1');
    $session->quit;
    is(sql('SELECT * FROM presence_verify()'), '', '... and everything agrees');
    return;
}

sub beat { my ($more) = @_; return sql('SELECT ' . ($more =~ /\(/ ? $more : "update_user_heartbeat($more)")); }

while_held("update_user_heartbeat('ann', 's')",
    sub { is(beat("'ann', 's'"), 't', 'a join is held: a heartbeat is taken') });
is(beat("'ann', 's'"), 't', '... and so is the next');

while_held("update_user_heartbeat('bob', 's')",
    sub { is(beat("mark_user_offline('bob')"), 't', 'a join is held: the user leaves meanwhile') });
is(beat("'bob', 's'"), 'f', '... and a late heartbeat does not bring him back');

while_held(
    "update_user_heartbeat('cid', 's')",
    sub {
        is(sql("SET presence.timeout = 1; SELECT cleanup_stale_presence() > 0"),
            't', 'a join is held: it is cleaned up');
    }
);
is(beat("'cid', 's'"), 't', '... and the next heartbeat begins it again');
is(
    sql("SELECT string_agg(event, ' ' ORDER BY id) FROM presence_event WHERE user_id = 'cid' AND event LIKE 'user%'"),
    'user_online user_offline user_online',
    '... as the feed tells'
);

while_held("update_user_heartbeat('dan', 's')",
    sub { is(beat("'dan', 's', status => 'busy'"), 't', 'a join is held: the status changes meanwhile') });
is(beat("'dan', 's', status => 'active'"), 't', '... and may change back');
is(sql("SELECT status FROM presence WHERE user_id = 'dan'"), 'active', '... which is not taken for known');

beat("'eve', 's'") for 1 .. 3;
while_held("update_user_heartbeat('eve', 's', status => 'busy')",
    sub { is(beat("'eve', 's', status => 'away'"), 't', 'a change is held: another one is made meanwhile') });
is(beat("'eve', 's', status => 'busy'"), 't', '... and the first one again');
is(sql("SELECT status FROM presence WHERE user_id = 'eve'"), 'busy', '... which is not taken for known');

beat("'fay', 's'") for 1 .. 3;
while_held(
    "mark_user_offline('fay', 's')",
    sub {
        is(
            sql(
                "SET presence.rejoin_guard = 0; SELECT update_user_heartbeat('fay', 's'), update_user_heartbeat('fay', 's')"
            ),
            't|t',
            'an end is held: the session begins again meanwhile'
        );
    }
);
is(beat("'fay', 's'"), 't', '... and goes on');
is(beat("is_user_online('fay')"), 't', '... online');

while_held(
    "update_user_heartbeat('gus', 's')",
    sub {
        is(
            beat(
                "update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, 20000) AS i"
            ),
            20000,
            'a join is held: the cache grows meanwhile'
        );
    }
);
is(beat("'gus', 's'"), 't', '... and a heartbeat is taken');

# ------------------------------------------------------------------------------------------------ while the cache is filled

# Of what was prepared before a crash no cache knows. The worker has its snapshot already, and has yet to look what is prepared.
sql("BEGIN; SELECT update_user_heartbeat('hal', 's'); PREPARE TRANSACTION 'hal'");
$node->stop('immediate');
set_point($node, 'cache-filling', 'wait');
$node->start;
wait_for_point($node, 'cache-filling');
sql("COMMIT PREPARED 'hal'");
release($node, 'cache-filling');
ok(
    wait_until(
        60,
        sub { sql("SELECT pid FROM pg_stat_activity WHERE query = 'read online sessions' AND state = 'active'") eq '' }
    ),
    'the cache is filled'
);
is(sql('SELECT * FROM presence_verify()'),
    '', 'a prepared begin that is decided while the cache is being filled is in it');

# Others see such a commit before the process that made it has told of it.
{
    sql("BEGIN; SELECT update_user_heartbeat('ida', 's'); PREPARE TRANSACTION 'ida'");
    my ($decides, $verifies) = map { $node->background_psql('postgres') } 1, 2;
    my $pid = $verifies->query_safe('SELECT pg_backend_pid()');
    set_point($node, 'prepared-committed', 'wait');
    $decides->query_until(qr/begun/, "\\echo begun\nCOMMIT PREPARED 'ida';\n");
    wait_for_point($node, 'prepared-committed');
    $verifies->query_until(qr/begun/, "\\echo begun\nSELECT * FROM presence_verify();\n");
    my $state = '';
    wait_until(
        60,
        sub {
            $state = sql("SELECT coalesce(wait_event_type, '-'), state FROM pg_stat_activity WHERE pid = $pid");
            $state =~ /^Lock|\|idle$/;
        }
    );
    is($state, 'Lock|active', 'COMMIT PREPARED is held: presence_verify() waits');
    release($node, 'prepared-committed');
    is($verifies->query('SELECT 1'), '1', '... and everything agrees');
    $_->quit for $decides, $verifies;
}

# ------------------------------------------------------------------------------------------------ the state of databases

sub use_database {
    my ($database, $users) = @_;
    sql("SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s'::text)) FROM generate_series(1, $users) AS i",
        $database)
        for 1 .. 3;
    return;
}

sub is_apart {
    my ($database, $users, $name) = @_;
    is(sql('SELECT cached_sessions FROM presence_health', $database),
        $users, "$name: database $database has its own state");
    ok(has_worker($node, $database), '... and a worker');
    is(sql('SELECT * FROM presence_verify()', $database), '', '... and everything agrees');
    return;
}

for my $point (qw(states-listed databases-read)) {
    my $name = $point =~ s/.*-//r;
    sql("CREATE DATABASE before_$name");
    create_extension($node, "before_$name");
    use_database("before_$name", 3);
    set_point($node, $point, 'wait');
    sql("DROP DATABASE before_$name");
    wait_for_point($node, $point);
    sql("CREATE DATABASE while_$name");
    create_extension($node, "while_$name");
    use_database("while_$name", 5);
    release($node, $point);
    sql("CREATE DATABASE after_$name");
    create_extension($node, "after_$name");
    use_database("after_$name", 7);
    is_apart("while_$name", 5, "launcher held at $point");
    is_apart("after_$name", 7, "launcher held at $point");
}

# What has a worker pause is itself dropped before the pause ends.
{
    sql('CREATE DATABASE dropped');
    create_extension($node, 'dropped');
    use_database('dropped', 3);
    my $session = $node->background_psql('postgres');
    set_point($node, 'worker-resuming', 'wait');
    set_point($node, 'state-unlinked', 'wait');
    $session->query_until(qr/begun/, "\\echo begun\nDROP DATABASE dropped;\n");
    wait_for_point($node, 'worker-resuming');
    is(sql("SELECT count(*) FROM pg_database WHERE datname = 'dropped'"), 0, 'DROP DATABASE is held: it is done');
    sql('CREATE DATABASE made_meanwhile');
    create_extension($node, 'made_meanwhile');
    use_database('made_meanwhile', 5);
    ok(wait_until(60, sub { sql('SELECT worker_pid IS NOT NULL FROM presence_health', 'made_meanwhile') eq 't' }),
        '... the launcher has reviewed the databases');
    is(scalar taken($node, 'state-unlinked'), 0, '... and leaves the state of the one that is gone for as long');
    release($node, 'worker-resuming');
    wait_for_point($node, 'state-unlinked');
    release($node, 'state-unlinked');
    $session->query('SELECT 1');
    $session->quit;
    is_apart('made_meanwhile', 5, 'DROP DATABASE was held');
}

# A copy that fails keeps the database locked until its worker may come back.
{
    sql('CREATE DATABASE mould');
    create_extension($node, 'mould');
    use_database('mould', 3);
    my $copy = $node->background_psql('postgres', on_error_stop => 0);
    set_point($node, 'worker-resuming', 'wait');
    $copy->query_until(qr/begun/, "\\echo begun\nCREATE DATABASE postgres TEMPLATE mould;\n");
    wait_for_point($node, 'worker-resuming');
    my $drop = $node->background_psql('postgres', on_error_stop => 0);
    $drop->query_until(qr/begun/, "\\echo begun\nDROP DATABASE mould;\n");
    ok(
        wait_until(
            30,
            sub {
                sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE mould%' AND wait_event_type = 'Lock'"
                ) eq '1';
            }
        ),
        'CREATE DATABASE has failed and is held: DROP DATABASE of the template waits'
    );
    release($node, 'worker-resuming');
    $_->query('SELECT 1') for $copy, $drop;
    $_->quit for $copy, $drop;
    is(sql("SELECT count(*) FROM pg_database WHERE datname = 'mould'"), 0, '... and is then done');
    sql('CREATE DATABASE made_later');
    create_extension($node, 'made_later');
    use_database('made_later', 5);
    is_apart('made_later', 5, 'CREATE DATABASE was held');
}
is(sql('SELECT problem FROM presence_health'), '{}', 'there is no problem');
$node->stop;

# ------------------------------------------------------------------------------------------------ killed at each point

my $killed = new_node('killed', conf => chaos_conf());
start_chaos($killed, 4, 1);

my $made = 0;

sub psql {
    return eval { $killed->psql($_[1] // 'postgres', $_[0]) };
}

sub make_database {
    psql("CREATE DATABASE made$made TEMPLATE mould") if ++$made;
    psql("SELECT update_user_heartbeat('u' || i, 's') FROM generate_series(1, 3) AS i", "made$made");
    return;
}
sub drop_database { psql("DROP DATABASE IF EXISTS made$made"); make_database(); return; }
sub restart_all { return kill_child(qr/\[local\]/); }
sub change_settings { psql('ALTER DATABASE mould RESET ALL'); psql('ALTER DATABASE postgres RESET ALL'); return; }

sub damage {
    psql("SELECT update_user_heartbeat('u' || clock_timestamp(), 's') FROM generate_series(1, 3)", 'mould');
    psql('SELECT FROM presence_feed_position()', 'mould');
    psql('DELETE FROM presence_session; DELETE FROM presence_event', 'mould');
    return;
}

# Where the calls of clients do not lead there: what does.
my %ways = (
    'session-committed' => undef,
    'session-opened' => undef,
    'session-prepared' => undef,
    'entries-closed' => undef,
    'rows-written' => undef,
    'entries-made' => undef,
    'events-written' => undef,
    'heartbeat-locked' => undef,
    'departure-locked' => undef,
    'expiry-locked' => undef,
    'numbering-begins' => undef,
    'numbers-given' => undef,
    'numbers-announced' => undef,
    'numbering-committed' => undef,
    'cache-filling' => \&restart_all,
    'retention-locked' => undef,
    'events-removed' => undef,
    'prepared-committed' => undef,
    'heartbeats-written' => undef,
    'heartbeats-renamed' => undef,
    'heartbeats-checked' => \&restart_all,
    'heartbeats-restored' => \&restart_all,
    'epoch-made' => \&make_database,
    'state-made' => \&make_database,
    'worker-registered' => \&make_database,
    'worker-paused' => \&drop_database,
    'worker-resuming' => \&drop_database,
    'states-listed' => \&drop_database,
    'databases-read' => \&drop_database,
    'state-unlinked' => \&drop_database,
    'worker-leaving' => \&change_settings,
    'users-reviewed' => \&damage,
    'feed-restarted' => \&damage
);

# Without LONG, one for each kind of process and moment: a backend before and after its commit, the worker that ends, numbers and
# removes, the launcher and its file, a command that needs the database, a review.
my @points =
    $ENV{LONG}
    ? sort keys %ways
    : qw(events-written session-committed expiry-locked numbers-given retention-locked heartbeats-written state-made worker-paused users-reviewed);
for my $point (@points) {
    set_point($killed, $point, 'kill');
    my $came = wait_until(
        60,
        sub {
            return 1 if taken($killed, $point);
            $ways{$point}->() if $ways{$point};
            look("on the way to point $point");
            return scalar taken($killed, $point);
        }
    );
    ok($came, "a process is killed at point $point");
    look("killed at point $point") or last;
}
end_chaos();
$killed->stop;
done_testing();
