# The applications of examples/api_middleware, run with their real drivers, and requests to them.
#
#   my $server = ApiServer->start('node', PGHOST => ..., PGUSER => 'api', PGDATABASE => 'postgres');
#   my $answer = $server->get($token);                 # {status, headers => {lower case}, body => decoded}
#   my @answers = $server->get_all(50, $token);        # 50 at once
#   $server->stop; $server->log;
package ApiServer;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IO::Socket::INET;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

my $examples_dir = abs_path(dirname(abs_path(__FILE__)) . '/../../examples/api_middleware');

# The Python that the distribution's packages are for comes first.
sub python
{
    my ($modules) = @_;
    for my $python ('/usr/bin/python3', 'python3')
    {
        return $python if system("$python -c 'import $modules' >/dev/null 2>&1") == 0;
    }
    return;
}

# Why the application of this kind (node, python) cannot be run here; undef if it can.
sub lacking
{
    my ($kind) = @_;
    return python('psycopg, psycopg_pool') ? undef : 'psycopg or psycopg_pool is missing' if $kind eq 'python';
    return 'node is missing' if system('node -e "" >/dev/null 2>&1') != 0;
    return -d "$examples_dir/node/node_modules" ? undef : 'express and pg are not installed';
}

# %env: the database, and what else the application reads from its environment.
sub start
{
    my ($class, $kind, %env) = @_;
    my $port = PostgreSQL::Test::Cluster::get_free_port();
    my $file = PostgreSQL::Test::Utils::tempdir() . "/$kind.log";
    my $self = bless { port => $port, file => $file }, $class;
    my $command = $kind eq 'node' ? [ 'node', 'server.mjs' ] : [ python('psycopg, psycopg_pool'), 'server.py' ];
    local %ENV = (%ENV, PORT => $port, PYTHONDONTWRITEBYTECODE => 1, %env);
    delete local @ENV{qw(PGOPTIONS PGAPPNAME)};
    $self->{run} = IPC::Run::start($command, '<', '/dev/null', '>', $file, '2>&1',
        init => sub { chdir "$examples_dir/$kind" or die "cannot change to $kind: $!"; });
    for (my $attempt = 0; $self->log !~ /^listening on port $port$/m; $attempt++)
    {
        die "the $kind application does not start: " . $self->log if $attempt > 600 || !$self->{run}->pumpable;
        usleep(50_000);
    }
    return $self;
}

# What it has written to its standard output and error.
sub log { my ($self) = @_; return slurp_file($self->{file}); }

sub stop
{
    my ($self) = @_;
    my $run = delete $self->{run} or return;
    $run->signal('TERM');
    # It ends by the signal.
    eval { $run->finish };
    return;
}

sub DESTROY { local ($?, $@, $!); $_[0]->stop; }

sub get { my ($self, $token) = @_; return ($self->get_all(1, $token))[0]; }

sub get_all { my ($self, $count, $token) = @_; return map { $self->receive($_) } map { $self->send('GET', "Bearer $token") } 1 .. $count; }

# One request. $authorization: the header, undef: none.
sub request
{
    my ($self, $method, $authorization) = @_;
    return $self->receive($self->send($method, $authorization));
}

sub send
{
    my ($self, $method, $authorization) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Timeout => 10)
        or die "cannot connect to the application: $@";
    my $header = defined $authorization ? "Authorization: $authorization\r\n" : '';
    my $length = $method eq 'POST' ? "Content-Length: 0\r\n" : '';
    $socket->print("$method /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n$header$length\r\n");
    return $socket;
}

sub receive
{
    my ($self, $socket) = @_;
    local $SIG{ALRM} = sub { die "the application does not answer: " . $self->log };
    alarm($PostgreSQL::Test::Utils::timeout_default);
    my $answer = do { local $/; <$socket> };
    alarm(0);
    my ($head, $body) = split /\r\n\r\n/, $answer // '', 2;
    my ($status, @headers) = split /\r\n/, $head // '';
    ($status) = ($status // '') =~ m{^HTTP/1\.\d (\d+)};
    my %headers = map { /^([^:]+):\s*(.*)$/ ? (lc $1 => $2) : () } @headers;
    my $decoded = ($headers{'content-type'} // '') =~ /json/ ? JSON::PP->new->decode($body) : $body;
    return { status => $status, headers => \%headers, body => $decoded };
}

1;
