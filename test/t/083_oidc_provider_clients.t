# Every client authentication that oidc-provider supports, over http and over https with a private CA, with rotating refresh tokens
# and without; what it must refuse; introspection, revocation and a sign-in afterwards, as the server tells it. The server revokes a
# grant when a refresh token is presented twice. Keys and certificates are made at run time.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use PostgreSQL::Test::Utils;
use RealServerTest;
use Test::More;
use TokenRefreshTest;

# Skips the script, if it has to, before the work begins.
plan(skip_all => 'TOKEN_REFRESH_OIDC_SERVER (see scripts/install-oidc-server) is not set') unless $ENV{TOKEN_REFRESH_OIDC_SERVER};
my $dir = PostgreSQL::Test::Utils::tempdir();
make_keys($dir);
make_certificates($dir);
DialectTest::openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', "$dir/other_rsa.pem");

# ---- the table
#
# name            of client, provider and subject
# method, alg     token_endpoint_auth_method, token_endpoint_auth_signing_alg
# key             private_key_jwt: NAME.pem is ours, the server knows NAME.pub
# certificate     NAME.crt and NAME.key are ours
# tls             https, with the CA that has signed the server's certificate
# client_id, client_secret    other ones than usual
# registered      what the server knows of the client besides, or otherwise; key_file in the folder
# options         what create_provider is told besides, or otherwise; <issuer> stands for the server's
# altered         what alter_provider is told afterwards
# failure, message            it must not work, and why; without: it must
# unsent          it fails before anything is sent
my $jwt  = 'private_key_jwt';
my @odd  = (client_id => q{odd:client &+%41=/?"}, client_secret => q{all sorts: +%2B&=:/?#'"\\~ of it} . new_secret());
my $refused = qr/invalid_client/;
my %by_ca   = (method => 'tls_client_auth', tls => 1, registered => { tls_client_auth_subject_dn => 'CN=client' });
my @cases = (
    { name => 'basic-client',  method => 'client_secret_basic' },
    { name => 'basic-odd',     method => 'client_secret_basic', @odd },
    { name => 'basic-tls',     method => 'client_secret_basic', tls => 1 },
    { name => 'basic-kept',    method => 'client_secret_basic', registered => { keeps_refresh_token => JSON::PP::true } },
    { name => 'basic-overlap', method => 'client_secret_basic', altered => { client_secret => new_secret() } },
    { name => 'post-client',   method => 'client_secret_post' },
    { name => 'post-odd',      method => 'client_secret_post', @odd, client_id => "$odd[1]2" },
    { name => 'post-tls',      method => 'client_secret_post', tls => 1 },
    { name => 'public-client', method => 'none' },
    { name => 'public-kept',   method => 'none', tls => 1, registered => { keeps_refresh_token => JSON::PP::true } },
    { name => 'secret-jwt',    method => 'client_secret_jwt', alg => 'HS256' },
    { name => 'secret-jwt-tls', method => 'client_secret_jwt', alg => 'HS256', tls => 1 },
    { name => 'jwt-rs256',     method => $jwt, alg => 'RS256', key => 'rsa' },
    { name => 'jwt-ps256',     method => $jwt, alg => 'PS256', key => 'rsa' },
    { name => 'jwt-es256',     method => $jwt, alg => 'ES256', key => 'ec' },
    { name => 'jwt-eddsa',     method => $jwt, alg => 'EdDSA', key => 'ed' },
    { name => 'jwt-issuer',    method => $jwt, alg => 'RS256', key => 'rsa', options => { assertion_audience => '<issuer>' } },
    { name => 'jwt-tls-kept',  method => $jwt, alg => 'ES256', key => 'ec', tls => 1, registered => { keeps_refresh_token => JSON::PP::true } },
    { name => 'mtls-ca',       %by_ca, certificate => 'client' },
    { name => 'mtls-bound',    %by_ca, certificate => 'client', registered => { tls_client_auth_subject_dn => 'CN=client', tls_client_certificate_bound_access_tokens => JSON::PP::true } },
    { name => 'mtls-self-signed', method => 'self_signed_tls_client_auth', tls => 1, certificate => 'self_signed', registered => { key_file => 'self_signed.crt' } },

    (map { { %$_, options => { grant_type => 'client_credentials' }, registered => { %{ $_->{registered} // {} }, grant_types => ['client_credentials'] } } }
        { name => 'own-basic', method => 'client_secret_basic' },
        { name => 'own-post',  method => 'client_secret_post', tls => 1 },
        { name => 'own-secret-jwt', method => 'client_secret_jwt', alg => 'HS256' },
        { name => 'own-jwt',   method => $jwt, alg => 'PS256', key => 'rsa' },
        { name => 'own-mtls',  %by_ca, certificate => 'client' }),

    { name => 'wrong-secret',      method => 'client_secret_basic', registered => { client_secret => new_secret() }, failure => 'client_config', message => $refused },
    { name => 'wrong-hmac',        method => 'client_secret_jwt', alg => 'HS256', registered => { client_secret => new_secret() }, failure => 'client_config', message => $refused },
    { name => 'wrong-key',         method => $jwt, alg => 'RS256', key => 'other_rsa', registered => { key_file => 'rsa.pub' }, failure => 'client_config', message => $refused },
    { name => 'wrong-alg',         method => $jwt, alg => 'RS256', key => 'rsa', registered => { token_endpoint_auth_signing_alg => 'PS256' }, failure => 'client_config', message => $refused },
    { name => 'wrong-audience',    method => $jwt, alg => 'ES256', key => 'ec', options => { assertion_audience => 'https://elsewhere.example/token' }, failure => 'client_config', message => $refused },
    { name => 'no-certificate',    %by_ca, options => { token_endpoint_auth_method => 'none' }, failure => 'client_config', message => $refused },
    { name => 'other-subject',     %by_ca, certificate => 'server', failure => 'client_config', message => $refused },
    { name => 'expired-certificate', %by_ca, certificate => 'expired', registered => { tls_client_auth_subject_dn => 'CN=expired' }, failure => 'client_config', message => $refused },
    { name => 'not-by-ca',         %by_ca, certificate => 'self_signed', registered => { tls_client_auth_subject_dn => 'CN=self_signed' }, failure => 'client_config', message => $refused },
    { name => 'not-registered',    method => 'self_signed_tls_client_auth', tls => 1, certificate => 'client', registered => { key_file => 'self_signed.crt' }, failure => 'client_config', message => $refused },
    { name => 'without-ca-file',   method => 'client_secret_basic', tls => 1, options => { ca_file => undef }, failure => 'transient', message => qr/certificate/i, unsent => 1 },
    { name => 'other-ca-file',     method => 'client_secret_post', tls => 1, options => { ca_file => "$dir/self_signed.crt" }, failure => 'transient', message => qr/certificate/i, unsent => 1 },
    { name => 'mtls-without-ca-file', %by_ca, certificate => 'client', options => { ca_file => undef }, failure => 'transient', message => qr/certificate/i, unsent => 1 },
);

# ---- what the two sides are told

my %secrets;

for my $case (@cases)
{
    $case->{$_} //= {} for qw(registered options altered);
    $case->{client_id} //= $case->{name};
    $case->{own}  = ($case->{options}{grant_type} // '') eq 'client_credentials';
    $case->{kept} = $case->{registered}{keeps_refresh_token};
    $case->{client_secret} //= new_secret() if $case->{method} =~ /^client_secret/;
    $case->{client_secret} = slurp_file("$dir/$case->{key}.pem") if $case->{key};
    my @own_secrets = grep { defined } map { $_->{client_secret} } @$case{qw(registered altered)}, $case;
    $secrets{$_} = 1 for grep { !/BEGIN/ } @own_secrets;
}

sub registration
{
    my ($case) = @_;
    my %registration = (client_id => $case->{client_id}, token_endpoint_auth_method => $case->{method});
    $registration{token_endpoint_auth_signing_alg} = $case->{alg} if $case->{alg};
    $registration{client_secret} = $case->{client_secret} if $case->{method} =~ /^client_secret/;
    $registration{key_file} = "$case->{key}.pub" if $case->{key};
    %registration = (%registration, %{ $case->{registered} });
    $registration{key_file} = "$dir/$registration{key_file}" if $registration{key_file};
    return \%registration;
}

my $server   = start_oidc_clients($dir, map { registration($_) } @cases);
my ($asker)  = grep { $_->{client_id} eq 'basic' } @{ $server->call(GET => '/test/clients') };
my $node     = new_node('main');
my %stored;    # the first tokens of each
$secrets{$asker->{client_secret}} = 1;

sub options_of
{
    my ($case) = @_;
    my $url = $case->{tls} ? $server->{tls_url} : $server->url;
    my %options = (token_endpoint_auth_method => $case->{method}, authorization_endpoint => $server->url . '/auth', token_endpoint => "$url/token",
        revocation_endpoint => "$url/token/revocation", introspection_endpoint => "$url/token/introspection");
    $options{ca_file} = "$dir/ca.crt" if $case->{tls};
    $options{token_endpoint_auth_signing_alg} = $case->{alg} if $case->{alg};
    @options{qw(client_certificate client_key)} = map { "$dir/$case->{certificate}.$_" } qw(crt key) if $case->{certificate};
    %options = (%options, %{ $case->{options} });
    return map { ($_ => defined $options{$_} ? $options{$_} =~ s/<issuer>/$server->url/er : undef) } keys %options;
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub told { my ($token) = @_; return introspect($server->url . '/token/introspection', $asker, $token); }

sub set_up
{
    my ($case) = @_;
    my $name = $case->{name};
    my %options = options_of($case);
    create_provider($node, $name, client_id => $case->{client_id}, client_secret => $case->{client_secret},
        map { defined $options{$_} ? ($_ => $options{$_}) : () } keys %options);
    sql(sprintf('SELECT token_refresh.alter_provider(%s, %s)', literal($name), literal(json($case->{altered})))) if %{ $case->{altered} };
    if ($case->{own}) { sql("SELECT token_refresh.store_credential('$name', '$name', '{}')"); return; }
    my ($grant) = $server->grants(client => $case->{client_id} =~ s/([^A-Za-z0-9])/sprintf('%%%02X', ord $1)/ger);
    $stored{$name} = $grant;
    @secrets{ $grant->{access_token}, $grant->{refresh_token} } = (1, 1);
    # Those that must work are due: the refresher sees to them by itself.
    my %due = $case->{failure} ? () : (expires_in => undef, expires_at => '2020-01-01T00:00:00Z');
    store_credential($node, $name, { %$grant, subject => $name, %due });
    return;
}

my @working = grep { !$_->{failure} } @cases;
my @failing = grep { $_->{failure} } @cases;
set_up($_) for @cases;

# ---- those that must work

poll_until($node, sprintf('SELECT count(*) = %d FROM token_refresh.token_status WHERE refresh_count > 0', scalar @working),
    scalar @working . ' credentials are refreshed by themselves');
sql('SELECT token_refresh.pause()');

for my $case (@working)
{
    my $name = $case->{name};
    subtest $name => sub {
        my $by_itself = access_token($node, $name, $name);
        is_deeply([ @{ refresh($node, $name) }{qw(success failure)} ], [ JSON::PP::true, undef ], 'refreshed on demand') for 1 .. 2;
        is(events_of($node, $name), 'refreshed refreshed refreshed', 'three times in all, and nothing else has happened');
        my $token = access_token($node, $name, $name);
        $secrets{$_} = 1 for $by_itself, $token;
        my $answer = told($token);
        isnt($token, $by_itself, 'each time there is a new access token');
        ok($answer->{active}, 'the one in the table is active, says the server');
        is($answer->{client_id}, $case->{client_id}, '... and is of this client');
        cmp_ok(abs($answer->{exp} - sql("SELECT extract(epoch FROM expires_at)::bigint FROM token_refresh.token_status WHERE provider = '$name'")), '<=', 10,
            '... and ends when we think it does');
        is(exists $answer->{cnf}{'x5t#S256'} ? 1 : 0, $case->{registered}{tls_client_certificate_bound_access_tokens} ? 1 : 0, 'bound to the certificate, or not');
        return if $case->{own};
        my $first = told($stored{$name}{refresh_token});
        is($first->{active} ? 'active' : 'used up', $case->{kept} ? 'active' : 'used up', 'the first refresh token');
    };
}
my $stats = $server->stats;
is_deeply([ @$stats{qw(reuse grants_revoked)} ], [ 0, 0 ], 'no refresh token was presented twice, no grant revoked');

# ---- those that must not

for my $case (@failing)
{
    my ($name, $before) = ($case->{name}, $server->stats);
    subtest $name => sub {
        my $result = refresh($node, $name);
        is_deeply([ @$result{qw(success failure)} ], [ JSON::PP::false, $case->{failure} ], 'refused');
        like($result->{message}, $case->{message}, '... with this message');
        is(events_of($node, $name), "refresh_failed/$case->{failure}", 'it is audited');
        is(access_token($node, $name, $name), $stored{$name}{access_token}, 'the access token is as it was');
        ok(told($stored{$name}{refresh_token})->{active}, 'the server still knows the refresh token');
        my $after = $server->stats;
        is($after->{requests} - $before->{requests}, $case->{unsent} ? 0 : 1, 'requests that have arrived');
        is($after->{tls_errors} > $before->{tls_errors} ? 1 : 0, $case->{unsent} ? 1 : 0, 'whether the handshake has failed');
    };
}

# ---- revocation

my @revoked = grep { $_->{name} ne 'basic-client' && $_->{name} ne 'basic-tls' } @working;
my %last = map { ($_->{name} => access_token($node, $_->{name}, $_->{name})) } @revoked;
all_revoked($node, map { $_->{name} } @revoked);
for my $case (@revoked)
{
    my $name = $case->{name};
    subtest "$name, disconnected" => sub {
        ok(!told($last{$name})->{active}, 'the access token is inactive, says the server');
        ok(!told($stored{$name}{refresh_token})->{active}, 'and the first refresh token') unless $case->{own};
        is(events_of($node, $name), join(' ', ('refreshed') x 3, 'disconnected', ('token_revoked') x ($case->{own} ? 1 : 2)), 'the audit tells it');
    };
}

# ---- introspection, as each client that can prove who it is

sql('SELECT token_refresh.resume()');
for my $case (grep { !$_->{own} && $_->{method} ne 'none' } @revoked)
{
    my $name = $case->{name};
    my ($grant) = $server->grants(client => $case->{client_id} =~ s/([^A-Za-z0-9])/sprintf('%%%02X', ord $1)/ger);
    @secrets{ $grant->{access_token}, $grant->{refresh_token} } = (1, 1);
    is(learned_expiry($node, $name, %$grant), told($grant->{access_token})->{exp}, "$name: a token without a lifetime ends when the server says");
}
sql('SELECT token_refresh.pause()');

# ---- sign-in

for my $case (grep { !$_->{own} && !%{ $_->{altered} } } @revoked)
{
    my $name = $case->{name};
    subtest "$name, connected again" => sub {
        connect_by_code($node, $name, sub { visit_oidc_provider($name, @_) }, redirect_uri => $server->url . '/callback',
            scope => 'openid offline_access', authorization_params => '{"prompt": "consent"}');
        my $first = access_token($node, $name, $name);
        ok(told($first)->{active}, 'there is an access token that is active');
        is(refresh($node, $name)->{success}, JSON::PP::true, 'it can be refreshed');
        my $token = access_token($node, $name, $name);
        isnt($token, $first, 'there is a new one');
        is(told($token)->{sub}, $name, '... for this user');
        $secrets{$_} = 1 for $first, $token;
    };
}

# ---- presented twice

subtest 'somebody else presents a refresh token that was used' => sub {
    my ($case) = grep { $_->{name} eq 'basic-client' } @cases;
    my ($status, $answer) = post_form($server->url . '/token', { grant_type => 'refresh_token', refresh_token => $stored{'basic-client'}{refresh_token} }, $case);
    is("$status $answer->{error}", '400 invalid_grant', 'the server refuses');
    ok(!told(access_token($node, ('basic-client') x 2))->{active}, '... and revokes the grant');
    is(refresh($node, 'basic-client')->{failure}, 'reauth', 'which we learn at the next refresh');
    is(status_of($node, ('basic-client') x 2)->{status}, 'needs_reauth', 'a new sign-in is needed');
    my $requests = $server->stats->{requests};
    is(refresh($node, 'basic-client')->{failure}, 'reauth', 'again');
    is($server->stats->{requests}, $requests, '... without asking');
};

subtest 'an answer is lost' => sub {
    is($server->stats->{reuse}, 1, 'one refresh token was presented twice so far, and not by us');
    $server->call(POST => '/test/control?lose=1');
    note('said at once: ' . json(refresh($node, 'basic-tls')));
    sql('SELECT token_refresh.resume()');
    poll_until($node, q{SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE provider = 'basic-tls'}, 'a server that revokes the grant of who asks again');
    like(status_of($node, ('basic-tls') x 2)->{last_error}, qr/^lost_response: /, 'what it was');
    is($server->stats->{reuse}, 2, 'the server has seen it twice');
    ok(!told(access_token($node, ('basic-tls') x 2))->{active}, '... and has revoked the grant');
};

ok(secrets_absent(read_log($node) . sql(q{SELECT string_agg(a::text, ' ') FROM token_refresh.audit_event a}), keys %secrets), 'neither log nor audit holds a secret');

$node->stop;
done_testing();
