# Helpers for the tests against real authorization servers. Their cases are rows of a table; what a row may hold is said at
# each table. A row's name is that of the client, of the provider and of its only credential's subject.
#
#   my $server = start_oidc_clients($dir, @clients);       # oidc-provider, with these clients (RFC 7591) besides its own
#   my $server = start_django_server(clients => [...], realms => {...});
package RealServerTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

our @EXPORT = qw(start_oidc_clients start_django_server new_secret post_form introspect refresh events_of
    all_revoked connect_by_code visit_oidc_provider learned_expiry);

my $support_dir = dirname(__FILE__);

# 32 random bytes in hex.
sub new_secret
{
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $bytes, 32) == 32 or die "cannot read /dev/urandom: $!";
    return unpack('H*', $bytes);
}

sub write_json
{
    my ($value) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/config.json';
    append_to_file($file, json($value));
    return $file;
}

# ---- the servers

# To be called first, see start_oidc_server. {tls_url} is the address for https, with server.crt of $dir; clients may show certificates,
# those by ca.crt are trusted. (What is in the folder: DialectTest::make_certificates.)
sub start_oidc_clients
{
    my ($dir, @clients) = @_;
    my $server = start_oidc_server(ACCESS_TOKEN_TTL => 600, CLIENTS_FILE => write_json(\@clients),
        TLS_CERTIFICATE => "$dir/server.crt", TLS_KEY => "$dir/server.key", TLS_CA => "$dir/ca.crt");
    $server->{tls_url} = 'https://127.0.0.1:' . $server->call(GET => '/test/tls_port')->{port};
    return $server;
}

# To be called first: skips the whole script where Django OAuth Toolkit is not installed. %config: see django_server/server.py.
# {tls_url} is the address for https, {about} what the server says of itself.
sub start_django_server
{
    my (%config) = @_;
    # The Python that the distribution's packages are for comes first.
    my ($python) = grep { system("$_ -c 'import oauth2_provider' >/dev/null 2>&1") == 0 } '/usr/bin/python3', 'python3';
    plan(skip_all => 'Django OAuth Toolkit (python3-django-oauth-toolkit) is not installed') unless $python;
    $config{database} = PostgreSQL::Test::Utils::tempdir() . '/django.sqlite';
    my $server = RealServerTest::DjangoServer->new('http', $python, "$support_dir/django_server/server.py", '--config', write_json(\%config));
    $server->{about} = $server->call(GET => '/test/about');
    $server->{tls_url} = "https://127.0.0.1:$server->{about}{tls_port}";
    return $server;
}

# ---- as a client of the server, by ourselves

# Returns (status, decoded answer or undef). With a client {client_id, client_secret}: HTTP Basic.
sub post_form
{
    my ($url, $form, $client) = @_;
    my @encoded = map { s/([^A-Za-z0-9_.~-])/sprintf('%%%02X', ord $1)/ger } @{ $client // {} }{qw(client_id client_secret)} if $client;
    my %headers = $client ? (Authorization => 'Basic ' . encode_base64(join(':', @encoded), '')) : ();
    my $answer = HTTP::Tiny->new->post_form($url, $form, { headers => \%headers });
    my $body = eval { JSON::PP->new->utf8->decode($answer->{content}) };
    return ($answer->{status}, $body);
}

# RFC 7662: what the server says of a token to that client. Without a good answer: {}.
sub introspect
{
    my ($url, $client, $token, $hint) = @_;
    my ($status, $answer) = post_form($url, { token => $token, $hint ? (token_type_hint => $hint) : () }, $client);
    return $answer if $status == 200 && defined $answer->{active};
    diag("$url answers $status");
    return {};
}

# ---- of the credential of a row

# What refresh_credential() says, as a hash.
sub refresh
{
    my ($node, $name) = @_;
    my $row = $node->safe_psql('postgres', sprintf('SELECT to_jsonb(r) FROM token_refresh.refresh_credential(%s, %s) r', (literal($name)) x 2));
    return JSON::PP->new->decode($row);
}

# Those of the audit that tell of a refresh or a disconnect, in their order.
sub events_of
{
    my ($node, $name) = @_;
    return $node->safe_psql('postgres', sprintf(q{
        SELECT string_agg(event || coalesce('/' || failure, ''), ' ' ORDER BY occurred_at) FROM token_refresh.audit_event
        WHERE provider = %s AND subject = %1$s AND event NOT IN ('credential_stored', 'authorization_completed')}, literal($name)));
}

# Disconnects the credentials of all rows, and waits until their providers have been told.
sub all_revoked
{
    my ($node, @names) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $list = join ', ', map { '(' . literal($_) . ')' } @names;
    is($node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE token_refresh.disconnect(n, n)) FROM (VALUES $list) v (n)"), scalar @names, 'all are disconnected');
    return poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'and the providers were told of all their tokens');
}

# When tokens expire that are stored without a lifetime, in seconds since 1970, after the provider has been asked (RFC 7662). It is not
# refreshed for that. Nothing: it was not told.
sub learned_expiry
{
    my ($node, $name, %tokens) = @_;
    my $provider = literal($name);
    my $where    = "provider = $provider AND subject = 'introspected'";
    $node->safe_psql('postgres', "SELECT token_refresh.alter_provider($provider, '{\"expiry_source\": \"introspection\"}')");
    store_credential($node, $name, { access_token => $tokens{access_token}, refresh_token => $tokens{refresh_token}, subject => 'introspected' });
    $node->poll_query_until('postgres', "SELECT count(*) > 0 FROM token_refresh.audit_event WHERE $where AND event = 'introspected'") or return;
    return $node->safe_psql('postgres', "SELECT extract(epoch FROM expires_at)::bigint FROM token_refresh.token_status WHERE $where AND refresh_count = 0 AND last_error IS NULL");
}

# ---- sign-in

# Without a browser. $visit is called with the address of the authorization request, and returns the one that leads back to us.
# %arguments: of begin_authorization.
sub connect_by_code
{
    my ($node, $name, $visit, %arguments) = @_;
    my $list = join ', ', map { "$_ => " . literal($arguments{$_}) } sort keys %arguments;
    my ($url, $state) = split /\n/, $node->safe_psql('postgres', sprintf(
            'SELECT unnest(ARRAY[authorization_url, state]) FROM token_refresh.begin_authorization(%s, subject => %1$s, %s)', literal($name), $list));
    my $location = $visit->($url);
    my ($code) = ($location // '') =~ /^\Q$arguments{redirect_uri}\E\?(?:.*&)?code=([^&]+)/ or die "$name: no code comes back";
    $node->safe_psql('postgres', sprintf('SELECT 1 FROM token_refresh.complete_authorization(%s, %s)', literal($state), literal($code)));
    return;
}

# At oidc-provider, as this user, who agrees to all: for connect_by_code.
sub visit_oidc_provider
{
    my ($user, $url) = @_;
    my ($origin) = $url =~ m{^(http://[^/]+)};
    my $http = HTTP::Tiny->new(max_redirect => 0);
    my %cookies;
    my $method = 'GET';
    for (1 .. 10)
    {
        my %form = $method eq 'POST' ? (content => "name=$user&answer=yes") : ();
        my $answer = $http->request($method, $url, { %form,
                headers => { Cookie => join('; ', map { "$_=$cookies{$_}" } keys %cookies), 'Content-Type' => 'application/x-www-form-urlencoded' } });
        my $set = $answer->{headers}{'set-cookie'} // [];
        /^([^=]+)=([^;]*)/ and $cookies{$1} = $2 for ref $set ? @$set : $set;
        return unless defined(my $location = $answer->{headers}{location});
        $url = $location =~ m{^/} ? "$origin$location" : $location;
        return $url if $url =~ m{[?&]code=};
        # A question, for which the form comes with any answer.
        $method = $url =~ m{/interaction/} ? 'POST' : 'GET';
    }
    return;
}

# django_server/server.py; realms.py says what the calls do.
package RealServerTest::DjangoServer;
our @ISA = ('TokenRefreshTest::Server');

# As that user: for connect_by_code.
sub visit { my ($self, $user, $url) = @_; return HTTP::Tiny->new(max_redirect => 0)->get($url, { headers => { 'X-Test-User' => $user } })->{headers}{location}; }

sub refresh_tokens { my ($self, $user) = @_; return @{ $self->call(GET => "/test/tokens?user=$user") }; }

sub stats { return $_[0]->call(GET => '/test/stats'); }

sub lose { my ($self, $answers, $half) = @_; return $self->call(POST => "/test/lose?answers=$answers" . ($half ? '&half=1' : '')); }

sub knows { my ($self, $setting) = @_; return scalar grep { $_ eq $setting } @{ $self->{about}{settings} }; }

1;
