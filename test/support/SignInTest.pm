# Helpers for the tests of sign-ins: the provider of openid_server.py, and a browser that does what it is told.
#
#   my $provider = start_openid_server();
#   create_openid_provider($node, 'idp', $provider);
#   my %answer = authorize($node, $provider, 'idp', scope => 'openid');   # code, state, iss
package SignInTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use TokenRefreshTest;

our @EXPORT    = qw(start_openid_server create_openid_provider authorize begin_at complete error_of);
our $redirect = 'https://app.example.com/callback';

my $support_dir = dirname(__FILE__);

sub start_openid_server { return SignInTest::OpenidServer->new('http', 'python3', "$support_dir/openid_server.py"); }

# By its issuer alone; %options come on top.
sub create_openid_provider
{
    my ($node, $name, $server, %options) = @_;
    create_provider($node, $name, %{ $server->stats->{client} }, issuer => $server->url, %options);
    return;
}

# begin_authorization: returns (URL, state). %arguments: of the function, besides provider.
sub begin_at
{
    my ($node, $provider, %arguments) = @_;
    my $list = join ', ', literal($provider), map { "$_ => " . literal($arguments{$_}) } sort keys %arguments;
    $list .= ', redirect_uri => ' . literal($redirect) unless exists $arguments{redirect_uri};
    return split /\n/, $node->safe_psql('postgres', "SELECT unnest(ARRAY[authorization_url, state]) FROM token_refresh.begin_authorization($list)");
}

# Begins, and goes where the browser would be sent. Returns code, state and iss as they come back.
sub authorize
{
    my ($node, $server, $provider, %arguments) = @_;
    my ($url) = begin_at($node, $provider, %arguments);
    my $answer = HTTP::Tiny->new(max_redirect => 0)->get($url);
    my $location = $answer->{headers}{location} // die "the provider answers $answer->{status}";
    my ($query) = $location =~ /\?(.*)/;
    return map { my ($name, $value) = split /=/; $value =~ s/%(..)/chr hex $1/ge; ($name, $value) } split /&/, $query;
}

# The SQL that completes it.
sub complete
{
    my (%answer) = @_;
    return sprintf('token_refresh.complete_authorization(%s, %s, iss => %s)', map { literal($_) } @answer{qw(state code iss)});
}

# "SQLSTATE message" of the error that the SQL raises.
sub error_of
{
    my ($node, $sql) = @_;
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
    return $error =~ /ERROR:  (\S+): (.*)/ ? "$1 $2" : "no error, but $output";
}

package SignInTest::OpenidServer;
our @ISA = ('TokenRefreshTest::Server');

# Each call sets all settings, those not named to their defaults.
sub control { my ($self, %settings) = @_; return $self->call(POST => '/test/control', \%settings); }

sub rotate { my ($self, %options) = @_; return $self->call(POST => '/test/rotate', \%options); }

sub stats { return $_[0]->call(GET => '/test/stats'); }

1;
