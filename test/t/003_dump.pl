# pg_dump and restore of a database with live presence: sessions, events and settings survive, and seq goes on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $conf = "presence.rejoin_guard = '1h'\npresence.idle_after = '1ms'\n";
my $node = new_node('dump', conf => $conf);
my $dir = PostgreSQL::Test::Utils::tempdir;
$node->safe_psql('postgres',
    "CREATE DATABASE app; ALTER DATABASE app SET presence.timeout = '7min'; ALTER DATABASE app SET presence.notify_channel = 'chat'"
);
$node->safe_psql('app',
    'CREATE SCHEMA tracker; CREATE EXTENSION presence SCHEMA tracker; ALTER DATABASE app SET search_path = tracker, public'
);
$node->safe_psql('app', <<'SQL');
CREATE ROLE app_backend;
GRANT EXECUTE ON FUNCTION update_user_heartbeat(presence_id, presence_id, text, inet, interval, text, jsonb, timestamptz, text) TO app_backend;
SELECT update_user_heartbeats(array_agg('u' || i), array_agg('s' || i)) FROM generate_series(1, 100) AS i;
SELECT update_user_heartbeat('u1', 's1', 'Browser/1.0', '192.0.2.1', '2 min', 'busy', '{"room": "Grüße"}');
SELECT update_user_heartbeat('u1'), update_user_heartbeat('u1', 'third');
SELECT set_user_status('u5', 'invisible'), set_user_status('u6', 'busy', '2100-01-01', 'Writing'), set_user_status('never', 'away');
SELECT join_rooms(ARRAY['u7', 'u8', 'u8'], ARRAY['s7', 's8', 's8'], ARRAY['lobby', 'lobby', 'attic']), join_room('u7', 's7', 'attic', '{"at": 1}');
INSERT INTO presence_policies VALUES ('tier', '20 minutes', 5);
SELECT update_user_heartbeat('u9', 'tiered', policy => 'tier');
SELECT update_user_heartbeat('u9', 's9', last_activity => now() - interval '1 hour');
SELECT set_session_location('u7', 's7', 'Berlin'), set_session_location('u10', 's10', 'Rome', 41.9, 12.5);
SELECT mark_user_offline('u2'), handle_user_disconnect('u3', 's3');
SELECT cleanup_stale_presence(), scheduled_presence_cleanup();
SQL
feed_of($node, 'seq', 'app');
my $roll_up = 'SET presence.reports = on; SELECT presence_roll_up()';
$node->safe_psql('app', $roll_up);

# And some that nobody has numbered yet, where there is no worker that does.
$node->safe_psql('app', "SELECT update_user_heartbeat('late', 's'), update_user_heartbeat('late', 't')");

command_ok(['pg_dump', '--format=custom', '--file', "$dir/app.dump", $node->connstr('app')], 'pg_dump, custom format');
command_ok(['pg_dump', '--file', "$dir/app.sql", $node->connstr('app')], 'pg_dump, plain');
command_ok(['pg_dump', '--format=directory', '--jobs=2', '--file', "$dir/app.dir", $node->connstr('app')],
    'pg_dump, parallel');

my %facts = (
    users =>
        "SELECT user_id, online, status, sessions, online_since, session_id, user_agent, ip_address, metadata FROM presence ORDER BY user_id",
    sessions =>
        'SELECT user_id, session_id, online, status, joined_at, ended_at, end_reason, user_agent, ip_address, heartbeat_interval, metadata FROM presence_sessions ORDER BY user_id, session_id',
    activity => 'SELECT user_id, session_id, said, last_activity FROM presence_session WHERE last_activity IS NOT NULL',
    choices => "SELECT u, s FROM unnest(ARRAY['u5', 'u6', 'never']) AS u, get_user_status(u) AS s",
    policies =>
        "SELECT p, s.user_id, s.timeout FROM presence_policies AS p LEFT JOIN presence_session AS s ON s.policy = p.name",
    locations => 'SELECT * FROM presence_by_region() ORDER BY region',
    hidden => 'SELECT user_id, session_id, online, status, joined_at FROM presence_hidden_session',
    rooms =>
        "SELECT room, user_id, sessions, entered_at, metadata FROM unnest(ARRAY['attic', 'lobby']) AS room, get_room(room) ORDER BY room, user_id",
    room_counts => "SELECT room_count('attic'), room_count('lobby')",
    log => 'SELECT * FROM presence_admin_log ORDER BY id',
    reports =>
        'SELECT (SELECT jsonb_agg(d ORDER BY day) FROM presence_daily_users AS d), (SELECT jsonb_agg(u ORDER BY user_id) FROM presence_report_user AS u), (SELECT p FROM presence_report_position AS p), (SELECT count(*) FROM presence_report_session)',
    events => 'SELECT count(*), count(DISTINCT user_id) FROM presence_events',
    settings => 'SHOW presence.timeout',
    channel => 'SHOW presence.notify_channel',
    count => 'SELECT presence_count()',
    heard => "SELECT count(*) FROM presence WHERE online AND heartbeat_at > now() - interval '7 min'"
);
my %before = map { $_ => $node->safe_psql('app', $facts{$_}) } keys %facts;
my $last = $node->safe_psql('app', 'SELECT max(seq) FROM presence_changes_since(0, 100000)');
my $feed = feed_of($node, '*', 'app');
my $epoch = $node->safe_psql('app', 'SELECT epoch FROM presence_feed_position()');
my $unreported = $node->safe_psql('app', "BEGIN; $roll_up; ROLLBACK");

# The same for each way to make and to read a dump.
sub check_copy {
    my ($how, $server, $database) = @_;
    for my $fact (sort keys %facts) {
        is($server->safe_psql($database, $facts{$fact}), $before{$fact}, "$how: $fact");
    }
    is(feed_of($server, '*', $database), $feed, "$how: the feed, number for number");
    is($server->safe_psql($database, "BEGIN; $roll_up; ROLLBACK"), $unreported, "$how: reports go on where they were");
    isnt($server->safe_psql($database, 'SELECT epoch FROM presence_feed_position()'), $epoch, "$how: in a new epoch");
    is(
        $server->safe_psql(
            $database,
            "SELECT update_user_heartbeat('u1', 's1'), update_user_heartbeat('u2', 's2'), update_user_heartbeat('new', 's')"
        ),
        't|f|t',
        "$how: heartbeats go on, tombstones included"
    );
    feed_of($server, 'seq', $database);
    is(
        $server->safe_psql(
            $database,
            "SELECT string_agg(seq - $last || ' ' || event || ' ' || user_id, ', ' ORDER BY seq) FROM presence_changes_since($last)"
        ),
        '1 session_start new, 2 user_online new',
        "$how: the next number comes after the highest"
    );
    is($server->safe_psql($database, "SELECT mark_user_offline('new')"), 't', "$how: departures go on");
    is(
        $server->safe_psql(
            $database,
            "SELECT pg_get_userbyid(proowner) = current_user AND has_function_privilege('app_backend', oid, 'EXECUTE') FROM pg_proc WHERE proname = 'update_user_heartbeat'"
        ),
        't',
        "$how: and so do rights"
    );
    return;
}

# A new server, as after a disaster: roles and settings of the database come with pg_dumpall and --create.
my $other = new_node('restored', conf => $conf);
command_ok(['pg_dumpall', '--globals-only', '--file', "$dir/globals.sql", '--dbname', $node->connstr('postgres')],
    'pg_dumpall of the roles');
$other->safe_psql('postgres', 'CREATE ROLE app_backend');
command_ok(['pg_restore', '--create', '--exit-on-error', '--dbname', $other->connstr('postgres'), "$dir/app.dump"],
    'pg_restore --create on another server');
check_copy('another server', $other, 'app');

# Beside the original, whose settings of the database are not in the dump then.
for my $way (['plain', 'app.sql'], ['parallel', 'app.dir']) {
    my ($name, $file) = @$way;
    $node->safe_psql('postgres',
        "CREATE DATABASE $name TEMPLATE template0; ALTER DATABASE $name SET search_path = tracker, public");
    $node->safe_psql('postgres',
        "ALTER DATABASE $name SET presence.timeout = '7min'; ALTER DATABASE $name SET presence.notify_channel = 'chat'"
    );
    if ($name eq 'plain') {
        command_ok(
            [
                'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '--single-transaction', '-d', $node->connstr($name),
                '-f', "$dir/$file"
            ],
            "$name: psql reads it"
        );
    } else {
        command_ok(['pg_restore', '--exit-on-error', '--jobs=2', '--dbname', $node->connstr($name), "$dir/$file"],
            "$name: pg_restore reads it");
    }
    check_copy($name, $node, $name);
}
is($node->safe_psql('app', 'SELECT presence_count()'), $before{count}, 'the original has noticed nothing');

# Everything at once.
command_ok(['pg_dumpall', '--file', "$dir/all.sql", '--dbname', $node->connstr('postgres')], 'pg_dumpall');
my $third = new_node('all', conf => $conf);
command_ok(['psql', '-Xq', '-d', $third->connstr('postgres'), '-f', "$dir/all.sql"], 'psql reads it');
check_copy('pg_dumpall', $third, 'app');

# Data alone, into an extension that is there already: what "pg_restore --data-only" after an upgrade does.
$other->safe_psql('postgres', 'CREATE DATABASE fresh');
$other->safe_psql('postgres', "ALTER DATABASE fresh SET search_path = tracker, public");
$other->safe_psql('fresh', 'CREATE SCHEMA tracker; CREATE EXTENSION presence SCHEMA tracker');
command_ok(['pg_restore', '--data-only', '--exit-on-error', '--dbname', $other->connstr('fresh'), "$dir/app.dump"],
    'pg_restore --data-only');
is($other->safe_psql('fresh', $facts{users}), $before{users}, 'data only: users');
is(feed_of($other, '*', 'fresh'), $feed, 'data only: the feed');

$_->stop for $node, $other, $third;
done_testing();
