# The servers that tests start beside PostgreSQL: what all of them have in common, token_server.py and oidc_server.
#
# TokenRefreshTest::Server is a helper process that listens on a port of its own choice and ends when its
# standard input is closed.
package TokenRefreshTest::Server;

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(usleep);

sub new
{
    my ($class, $scheme, @command) = @_;
    my $port_file = PostgreSQL::Test::Utils::tempdir() . '/port';
    # A handle of perl's own is closed in all other processes that the test starts.
    my $pid = open(my $stdin, '|-', @command, '--port-file', $port_file) or die "cannot start $command[0]: $!";
    for (my $attempt = 0; !-e $port_file; $attempt++)
    {
        die "$command[0] did not start, see the test's log" if $attempt > 600 || !kill(0, $pid);
        usleep(50_000);
    }
    my $port = PostgreSQL::Test::Utils::slurp_file($port_file);
    chomp $port;
    my $self = bless {
        stdin => $stdin,
        url   => "$scheme://127.0.0.1:$port",
        http  => HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default, verify_SSL => 0),
    }, $class;
    return $self;
}

sub url { return $_[0]{url}; }

# A request to the server's control interface; returns the decoded answer.
sub call
{
    my ($self, $method, $path, $body, $accepted) = @_;
    my %content;
    if (defined $body)
    {
        utf8::encode(my $json = TokenRefreshTest::json($body));
        %content = (content => $json, headers => { 'Content-Type' => 'application/json' });
    }
    my $answer = $self->{http}->request($method, "$self->{url}$path", \%content);
    die "$method $path: $answer->{status} $answer->{content}" unless $answer->{success};
    return JSON::PP->new->decode($answer->{content});
}

# From now on its port refuses connections.
sub stop
{
    my ($self) = @_;
    local ($?, $!);
    close(delete $self->{stdin}) if $self->{stdin};
    return;
}

sub DESTROY { $_[0]->stop; }

# token_server.py; its documentation says what the calls do.
package TokenRefreshTest::TokenServer;
our @ISA = ('TokenRefreshTest::Server');

sub token_endpoint { my ($self, $realm) = @_; return "$self->{url}/$realm/token"; }

sub revocation_endpoint { my ($self, $realm) = @_; return "$self->{url}/$realm/revoke"; }

sub control { my ($self, $realm, %settings) = @_; return $self->call(POST => "/$realm/control", \%settings); }

# Sets the fault; without one, ends it.
sub fault
{
    my ($self, $realm, %fault) = @_;
    return $self->control($realm, fault => { kind => 'none', %fault });
}

sub grants { my ($self, $realm, %options) = @_; return @{ $self->call(POST => "/$realm/grants", \%options) }; }

# Grants whose access tokens expired long ago: due at once.
sub expired_grants
{
    my ($self, $realm, %options) = @_;
    my @grants = $self->grants($realm, %options);
    delete $_->{expires_in} for @grants;
    return map { { %$_, expires_at => '2020-01-01T00:00:00Z' } } @grants;
}

sub stats { my ($self, $realm) = @_; return $self->call(GET => "/$realm/stats"); }

sub release { my ($self, $realm, %options) = @_; return $self->call(POST => "/$realm/release", \%options); }

# Returns the counters once they have reached the goals; dies when they do not in time.
sub wait
{
    my ($self, $realm, %goals) = @_;
    $goals{timeout} //= $PostgreSQL::Test::Utils::timeout_default - 5;
    return $self->call(GET => "/$realm/wait?" . join('&', map { "$_=$goals{$_}" } sort keys %goals));
}

# Whether an access token is valid.
sub is_active
{
    my ($self, $realm, $token) = @_;
    return $self->call(GET => "/$realm/introspect?token=$token")->{active} ? 1 : 0;
}

# oidc_server/server.mjs; its first lines say what the calls do.
package TokenRefreshTest::OidcServer;
our @ISA = ('TokenRefreshTest::Server');

sub token_endpoint { return "$_[0]{url}/token"; }

sub revocation_endpoint { return "$_[0]{url}/token/revocation"; }

# The options of create_provider() for one of its clients: basic, post or public.
sub provider_options
{
    my ($self, $client_id) = @_;
    my ($client) = grep { $_->{client_id} eq $client_id } @{ $self->call(GET => '/test/clients') };
    return (%$client, token_endpoint => $self->token_endpoint, revocation_endpoint => $self->revocation_endpoint);
}

sub grants
{
    my ($self, %query) = @_;
    return @{ $self->call(GET => '/test/grants?' . join('&', map { "$_=$query{$_}" } sort keys %query)) };
}

sub stats { return $_[0]->call(GET => '/test/stats'); }

sub break_down { return $_[0]->call(POST => '/test/control?broken=true'); }

sub mend { return $_[0]->call(POST => '/test/control?broken=false'); }

sub is_active { my ($self, $token) = @_; return $self->call(GET => "/test/introspect?token=$token")->{active} ? 1 : 0; }

1;
