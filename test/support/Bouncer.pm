# pgbouncer in transaction mode before a node, for tests.
#
#   my $bouncer = Bouncer->start($node, users => ['web'], pool_size => 2);   # undef: there is no pgbouncer
#   $bouncer->connstr('web');
package Bouncer;

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();
use Time::HiRes ();

# %option: users, without passwords; pool_size, the sessions of the server that all clients of one user share;
# prepared_statements, how many a client may have, if this pgbouncer can_prepare.
sub start
{
    my ($class, $node, %option) = @_;
    local $ENV{PATH} = "$ENV{PATH}:/usr/sbin";
    my ($version) = (`pgbouncer --version 2>/dev/null` // '') =~ /^PgBouncer (\d+\.\d+)/ or return;
    my $self = bless { port => PostgreSQL::Test::Cluster::get_free_port(), host => $node->host, dir => PostgreSQL::Test::Utils::tempdir(), version => $version }, $class;
    my $prepared = $option{prepared_statements} && $self->can_prepare ? "max_prepared_statements = $option{prepared_statements}" : '';
    PostgreSQL::Test::Utils::append_to_file("$self->{dir}/users", join('', map { qq("$_" ""\n) } @{ $option{users} }));
    PostgreSQL::Test::Utils::append_to_file("$self->{dir}/pgbouncer.ini", <<"END");
[databases]
postgres = host=@{[ $node->host ]} port=@{[ $node->port ]}
[pgbouncer]
pool_mode = transaction
default_pool_size = $option{pool_size}
max_client_conn = 100
listen_port = $self->{port}
unix_socket_dir = @{[ $node->host ]}
auth_type = trust
auth_file = $self->{dir}/users
$prepared
END
    $self->{run} = IPC::Run::start([ 'pgbouncer', '-v', "$self->{dir}/pgbouncer.ini" ], '<', '/dev/null', '>', "$self->{dir}/log", '2>&1');
    my $socket = $node->host . "/.s.PGSQL.$self->{port}";
    for (my $attempt = 0; !-S $socket; $attempt++)
    {
        die 'pgbouncer does not start: ' . $self->log if $attempt > 600 || !$self->{run}->pumpable;
        Time::HiRes::usleep(50_000);
    }
    return $self;
}

sub port { return $_[0]{port}; }

# Prepared statements in transaction mode: since 1.21.
sub can_prepare { my ($major, $minor) = split /\./, $_[0]{version}; return $major > 1 || $minor >= 21 ? 1 : 0; }

sub connstr { my ($self, $user) = @_; return "host=$self->{host} port=$self->{port} dbname=postgres user=$user"; }

sub log { return PostgreSQL::Test::Utils::slurp_file("$_[0]{dir}/log"); }

sub stop
{
    my ($self) = @_;
    my $run = delete $self->{run} or return;
    $run->signal('TERM');
    eval { $run->finish };
    return;
}

sub DESTROY { local ($?, $@, $!); $_[0]->stop; }

1;
