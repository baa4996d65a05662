# What the tests in this directory share: servers with the extension, and waiting for conditions instead of for time.
package PresenceNode;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(new_node create_extension wait_until restart_server kill_server is_running has_worker save_file
    feed_of check_gapless check_agreement log_position log_since);

# new_node(name, preload => 1, conf => 'lines', allows_streaming => 0, has_archiving => 0, extra => [options of initdb])
sub new_node {
    my ($name, %options) = @_;
    my $node = bless PostgreSQL::Test::Cluster->new($name), 'PresenceNode::Server';
    $node->init(map { $_ => $options{$_} } qw(allows_streaming has_archiving extra));
    my $preload = ($options{preload} // 1) ? 'presence' : '';
    $node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '$preload'
max_connections = 100
autovacuum = off
timezone = 'UTC'
log_timezone = 'UTC'
log_statement = none
CONF
    $node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
    $node->start;
    return $node;
}

sub create_extension {
    my ($node, $database) = @_;
    $node->safe_psql($database // 'postgres', 'CREATE EXTENSION presence');
    return;
}

# wait_until(seconds, code): whether it became true in time
sub wait_until {
    my ($seconds, $condition) = @_;
    my $deadline = time + $seconds;
    while (1) {
        return 1 if $condition->();
        return 0 if time > $deadline;
        sleep 0.1;
    }
}

sub is_running {
    my ($pid) = @_;
    open my $status, '<', "/proc/$pid/status" or return 0;
    return !grep {/^State:\s*Z/} <$status>;
}

# The method "restart" always restarts fast up to 16, and takes named options from 17 on.
sub restart_server {
    my ($node, $mode) = @_;
    $node->stop($mode);
    $node->start;
    return;
}

# kill -9 of the postmaster, after which its children end by themselves. Where nobody reaps dead processes (a container
# without init), the killed one still looks alive to the next start, so its lock files have to go.
sub kill_server {
    my ($node) = @_;
    my $pid_file = $node->data_dir . '/postmaster.pid';
    my ($pid) = split /\n/, slurp_file($pid_file);
    my @children = split ' ', `pgrep -P $pid`;
    $node->kill9;
    wait_until(
        30,
        sub {
            !grep { is_running($_) } @children;
        }
    ) or BAIL_OUT('the children of a killed postmaster do not end');
    unlink $pid_file, $node->host . '/.s.PGSQL.' . $node->port . '.lock';
    return;
}

# Whether this build has the background worker and runs it here.
sub has_worker {
    my ($node, $database) = @_;
    return wait_until(
        2,
        sub {
            $node->safe_psql($database // 'postgres', 'SELECT worker_pid IS NOT NULL FROM presence_health') eq 't';
        }
    );
}

# The file that carries heartbeats over a restart.
sub save_file { return $_[0]->data_dir . '/pg_stat/presence.heartbeats'; }

# Everything in the feed, once everything committed is numbered.
sub feed_of {
    my ($node, $columns, $database) = @_;
    $database //= 'postgres';
    wait_until(
        30,
        sub {
            $node->safe_psql($database, 'SELECT FROM presence_feed_position()');
            $node->safe_psql($database, 'SELECT count(*) FROM presence_event_queue') eq '0';
        }
    ) or fail('everything committed is numbered');
    return $node->safe_psql($database, "SELECT $columns FROM ONLY presence_events ORDER BY seq");
}

# The feed as a whole, from its first number. Returns the last one.
sub check_gapless {
    my ($node, $when, $database) = @_;
    my @numbers = split /\n/, feed_of($node, 'seq', $database);
    is("@numbers", join(' ', 1 .. @numbers), "$when: the feed has no gap");
    return $numbers[-1];
}

# Fails where presence_verify() finds anything in one of the server's databases. What a test has changed by hand is reviewed
# first: by the worker, a while after rows were only added, or where there is none by the cleanup.
sub check_agreement {
    my ($node) = @_;

# Whatever a test has set for a database.
    local $ENV{PGOPTIONS} = '-c statement_timeout=0 -c role=none';
    for my $database (split /\n/,
        $node->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2')) {
        my $schema = $node->safe_psql($database,
            "SELECT quote_ident(nspname) FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'presence'"
        ) or next;
        my $wrong;
        wait_until(
            60,
            sub {
                $wrong = $node->safe_psql($database, "SELECT * FROM $schema.presence_verify()");
                return 1 if $wrong eq '';
                $node->safe_psql($database,
                    "SELECT $schema.scheduled_presence_cleanup() FROM $schema.presence_change LIMIT 1");
                return 0;
            }
        );
        is($wrong, '', "everything agrees in database $database of server " . $node->name);
    }
    return;
}

sub log_position { return -s $_[0]->logfile; }
sub log_since { return slurp_file($_[0]->logfile, $_[1]); }

package PresenceNode::Server;

our @ISA = ('PostgreSQL::Test::Cluster');

# Where there is no server, psql may have ended before it is given its query, which IPC::Run takes for an error of its own.
sub psql {
    my ($self, $database, $sql, %params) = @_;
    my @result = eval { $self->SUPER::psql($database, $sql, %params) };
    if (my $error = $@) {
        die $error if $params{on_error_die} || $error !~ /^ack Broken pipe/;
        @result = (2, '', 'psql ended before it was given its query');
    }
    return wantarray ? @result : $result[0];
}

# A server that is stopped without more ado is at the end of its test.
sub stop {
    my ($self, @how) = @_;
    PresenceNode::check_agreement($self) unless @how || !defined $self->{_pid};
    return $self->SUPER::stop(@how);
}

1;
