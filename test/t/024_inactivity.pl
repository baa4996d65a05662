# The worker turns inactive sessions idle and away, by what the cache knows of them; over restarts, a crash and changes of the
# settings.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use PresenceNode;

my $node = new_node('inactivity', conf => "presence.timeout = '1h'\npresence.idle_after = '1s'\n");
create_extension($node);

sub query { return $node->safe_psql('postgres', $_[0]); }

sub set {
    my ($name, $value) = @_;
    $node->append_conf('postgresql.conf', "$name = $value\n");
    $node->reload;
    return;
}

sub shown {
    return query(q{SELECT string_agg(user_id || ' ' || status, ', ' ORDER BY user_id) FROM get_active_users()});
}

sub shows {
    my ($expected, $name) = @_;
    return ok(wait_until(30, sub { shown() eq $expected }), $name) || diag(shown());
}
sub misses { return query('SELECT cache_misses FROM presence_health'); }
my $row = q{SELECT xmin, ctid, heartbeat_at FROM presence_session WHERE user_id = 'ann'};

query(q{SELECT update_user_heartbeat('ann', 'tab', last_activity => now()), update_user_heartbeat('bob', 'tab')});
shows('ann idle, bob active', 'the worker turns who has told of activity, and nobody else');
query(q{SELECT update_user_heartbeat('ann', 'tab', last_activity => clock_timestamp())});
is(
    query(
        q{SELECT string_agg((details ->> 'status') || ' ' || reason, ', ' ORDER BY id) FROM presence_event WHERE event = 'update'}
    ),
    'idle timeout, active heartbeat',
    'each change is one update'
);

# A session that is known, and tells of activity for the first time.
query(q{SELECT update_user_heartbeat('bob', 'tab')}) for 1 .. 2;
query(q{SELECT update_user_heartbeat('bob', 'tab', last_activity => now())});
shows('ann idle, bob idle', 'also one that began without telling of activity');

# What changes nothing that is shown stays in memory.
set('presence.idle_after', q{'1h'});
shows('ann active, bob active', 'a longer limit turns them back');
query(q{SELECT update_user_heartbeat('ann', 'tab', last_activity => now()) FROM generate_series(1, 2)});
my ($before, $misses) = (query($row), misses());
query(
    q{SELECT update_user_heartbeat('ann', 'tab', last_activity => clock_timestamp()),
               update_user_heartbeats(ARRAY['ann'], ARRAY['tab'], ARRAY[clock_timestamp()]) FROM generate_series(1, 10)}
);
is(query($row), $before, 'activity of who is active writes nothing');
is(misses(), $misses, 'and takes the way through memory');
my $active = query(q{SELECT last_activity FROM presence_sessions WHERE user_id = 'ann'});

restart_server($node, 'fast');
is(
    query(
        qq{SELECT abs(extract(epoch FROM last_activity - '$active')) < 3 FROM presence_sessions WHERE user_id = 'ann'}),
    't',
    'a clean restart remembers the activity'
);
is(shown(), 'ann active, bob active', 'and what is shown');
set('presence.idle_after', q{'1s'});
shows('ann idle, bob idle', 'a shorter limit turns them');
set('presence.away_after', q{'2s'});
shows('ann away, bob away', 'and so does another one');
restart_server($node, 'immediate');
is(shown(), 'ann away, bob away', 'after a crash they show what they showed');
query(q{SELECT update_user_heartbeat('ann', 'tab')});
is(shown(), 'ann away, bob away', 'and a heartbeat without activity turns nobody back');
query(q{SELECT set_user_status('ann', 'busy')});
is(shown(), 'ann busy, bob away', 'a choice stands above it');
query(q{SELECT set_user_status('ann', NULL)});
set('presence.away_after', 0);
set('presence.idle_after', 0);
shows('ann active, bob active', 'without limits, sessions show what they have said');

# The file of heartbeats is older than what the tables say.
set('presence.idle_after', q{'1s'});
shows('ann idle, bob idle', 'a limit turns them again');
$node->append_conf('postgresql.conf', 'presence.idle_after = 0');
restart_server($node, 'immediate');
shows('ann active, bob active', 'a crash and no limit turn them back');
check_agreement($node);
$node->stop;
done_testing();
