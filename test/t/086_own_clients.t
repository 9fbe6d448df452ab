# Credentials with a client of their own, as dynamic registration gives it out (RFC 7591): refreshed and revoked as that client,
# with its secret sealed like any other.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
make_keys($dir);
make_certificates($dir);
my $server = start_dialect_server($dir);
my $node   = new_node('main', 'log_min_messages' => 'debug5');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# The error, its SQLSTATE in front.
sub refusal { my ($statement) = @_; my (undef, undef, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement"); return $stderr; }

# A provider without a client of the database's, and what it expects of one.
sub provider
{
    my ($name, $client_id, $client_secret, $exchanges, %options) = @_;
    sql(sprintf('SELECT token_refresh.create_provider(%s, options => %s)', literal($name),
        literal(json({ token_endpoint => $server->url . "/$name/token", revocation_endpoint => $server->url . "/$name/revoke", registration_endpoint => $server->url . "/$name/register", %options }))));
    expect($name, $client_id, $client_secret, $exchanges);
    return;
}

sub expect
{
    my ($name, $client_id, $client_secret, $exchanges) = @_;
    return $server->call(POST => '/test/cases', { $name => { client_id => $client_id, client_secret => $client_secret, values => {}, exchanges => $exchanges } });
}

sub refresh
{
    my ($presented, $answer, %request) = @_;
    return { request => { params => { grant_type => 'refresh_token', refresh_token => $presented }, %request }, answer => { body => $answer } };
}

sub store
{
    my ($name, $subject, $response, @client) = @_;
    return sql(sprintf("SELECT token_refresh.store_credential(%s, %s, %s, '', %s, %s)", map { literal($_) } $name, $subject, json($response), @client[0, 1]));
}

sub differences { my ($name) = @_; return $server->call(GET => '/test/records')->{$name}; }

sub refreshed { my ($name, $subject) = @_; return sql(sprintf('SELECT success, failure, message FROM token_refresh.refresh_credential(%s, %s)', map { literal($_) } $name, $subject)); }

my %old = (access_token => 'fake-access-1', refresh_token => 'fake-refresh-1', expires_in => 3600);
my %new = (access_token => 'fake-access-2', refresh_token => 'fake-refresh-2', expires_in => 3600);

# ---- a confidential client

provider('registered', 'dynamic-client-7', 'fake-dynamic-secret-7', [refresh('fake-refresh-1', \%new)]);
my $id = store('registered', 'alice', \%old, 'dynamic-client-7', 'fake-dynamic-secret-7');
is(refreshed('registered', 'alice'), 't||', 'a credential is refreshed as its own client');
is_deeply(differences('registered'), [[]], 'which proves itself with its own secret');
is(access_token($node, 'registered', 'alice'), 'fake-access-2', 'the new tokens are there');
is(sql("SELECT client_id, client_secret IS NOT NULL FROM token_refresh.credential WHERE id = $id"), 'dynamic-client-7|t', 'the client stays with them');
is(sql("SELECT position('fake-dynamic-secret-7'::bytea IN client_secret) FROM token_refresh.credential WHERE id = $id"), 0, 'its secret is sealed');

sql("UPDATE token_refresh.credential SET client_secret = access_token WHERE id = $id; SELECT token_refresh.pause()");
is(refreshed('registered', 'alice'), 'f|client_config|the client_secret stored with the credential does not open with the keys at hand', 'another ciphertext in its place does not open');
like(read_log($node), qr/cannot be opened: its client_secret/, 'the log says which');
sql('SELECT token_refresh.resume()');

# ---- keys, revocation

provider('rotating', 'dynamic-client-8', 'fake-dynamic-secret-8',
    [refresh('fake-refresh-1', \%new), ({ request => { path => '/revoke', params => { token => '~^fake-(access|refresh)-2$', token_type_hint => '~^(access|refresh)_token$' } }, answer => { body => '' } }) x 2]);
store('rotating', 'alice', \%old, 'dynamic-client-8', 'fake-dynamic-secret-8');
my ($key_file) = sql('SHOW token_refresh.key_file');
my $keys = slurp_file($key_file);
unlink $key_file;
append_to_file($key_file, 'second ' . sql("SELECT encode(sha256(gen_random_uuid()::text::bytea), 'base64')") . "\n$keys");
chmod 0600, $key_file;
$node->reload;
poll_until($node, "SELECT count(*) = 2 FROM token_refresh.key_ring()", 'a second key');
sql('DELETE FROM token_refresh.credential WHERE id = ' . $id . '; CALL token_refresh.rotate_keys()');
is(sql("SELECT bool_and(substring(client_secret, 2, 8) = k.key_id) FROM token_refresh.credential, token_refresh.key_ring() k WHERE k.seals AND provider = 'rotating'"), 't', 'rotate_keys seals its secret anew');
is(refreshed('rotating', 'alice'), 't||', 'with which the client still proves itself');
is(sql("SELECT token_refresh.disconnect('rotating', 'alice')"), 't', 'it is disconnected');
poll_until($node, "SELECT count(*) = 2 FROM token_refresh.audit_event WHERE event = 'token_revoked' AND provider = 'rotating'", 'and its tokens are revoked');
my @revoked = @{ differences('rotating') };
is_deeply(\@revoked, [[], [], []], 'by the client that they were given to');

# ---- what is not given stays

provider('kept', 'dynamic-client-4', 'fake-dynamic-secret-4', [refresh('fake-refresh-1', \%new)]);
store('kept', 'alice', \%old, 'dynamic-client-4', 'fake-dynamic-secret-4');
my %alone = (access_token => 'fake-access-3', expires_in => 3600);
store('kept', 'alice', \%alone);
is(refreshed('kept', 'alice'), 't||', 'a refresh token that stays beside another access token');
is_deeply(differences('kept'), [[]], 'is presented by the client that it was given to');
store('kept', 'alice', \%alone, 'dynamic-client-3', 'fake-dynamic-secret-3');
is(sql("SELECT client_id, refresh_token IS NULL FROM token_refresh.credential WHERE provider = 'kept'"), 'dynamic-client-3|t', 'another client does not get it');
is(sql("BEGIN; DELETE FROM token_refresh.revocation; SELECT token_refresh.disconnect('kept', 'alice'); SELECT secrets FROM token_refresh.key_usage WHERE place = 'revocation'; ROLLBACK"), "t\n3", 'key_usage counts the secret with which a token will be revoked, and one that may still come');

# ---- a public client, one that is none any more, none at all

provider('public', 'dynamic-client-9', undef, [refresh('fake-refresh-1', \%new, auth => 'none')]);
store('public', 'alice', \%old, 'dynamic-client-9');
is(refreshed('public', 'alice'), 't||', 'a client without a secret is a public one');
is_deeply(differences('public'), [[]], 'which sends its client_id alone');
store('public', 'alice', \%old);
is(sql("SELECT client_id IS NULL FROM token_refresh.credential WHERE provider = 'public'"), 't', 'tokens that are stored without a client have none');
is(refreshed('public', 'alice'), 'f|client_config|the request cannot be made: neither the provider nor the credential has a client_id', 'and cannot be refreshed where the provider has none');
like(refusal("SELECT token_refresh.begin_authorization('public', 'alice', 'https://app.example/cb')"), qr/55000: provider "public" has no client_id|55000:.*client_id/, 'nor can anybody sign in');

# ---- beside the provider's client

sql(sprintf("SELECT token_refresh.create_provider('mixed', 'test-client', 'obviously-fake-secret', %s)", literal(json({ token_endpoint => $server->url . '/mixed/token' }))));
expect('mixed', 'test-client', 'obviously-fake-secret', [refresh('fake-refresh-1', \%new)]);
store('mixed', 'alice', \%old);
is(refreshed('mixed', 'alice'), 't||', "a credential without a client of its own is the provider's");
is_deeply(differences('mixed'), [[]], "and is refreshed with the provider's");
expect('mixed', 'dynamic-client-5', 'fake-dynamic-secret-5', [map { refresh('fake-refresh-1', { error => 'invalid_client' }) } 1 .. 6]);
store('mixed', "user $_", \%old, 'dynamic-client-5', 'fake-dynamic-secret-5') for 1 .. 6;
like(refreshed('mixed', "user $_"), qr/^f\|client_config\|/, "client $_ of its own is refused") for 1 .. 6;
expect('mixed', 'test-client', 'obviously-fake-secret', [refresh('fake-refresh-2', \%old)]);
is(refreshed('mixed', 'alice'), 't||', 'which is no reason to leave the others alone');

# ---- a secret in front of a key

sql(sprintf("SELECT token_refresh.create_provider('echoing', 'test-client', %s, %s)", literal("fake-front-secret\n" . slurp_file("$dir/ec.pem")),
    literal(json({ token_endpoint => $server->url . '/echoing/token', revocation_endpoint => $server->url . '/echoing/revoke', token_endpoint_auth_method => 'client_secret_post',
        grant_type => 'urn:ietf:params:oauth:grant-type:jwt-bearer' }))));
expect('echoing', 'test-client', 'fake-front-secret', [{ request => { path => '/revoke', params => { token => 'fake-access-1', token_type_hint => 'access_token', client_id => 'test-client', client_secret => 'fake-front-secret' }, auth => 'absent' },
    answer => { status => 400, body => { error => 'unsupported_token_type', error_description => 'fake-front-secret may not' } } }]);
store('echoing', 'alice', { access_token => 'fake-access-1', expires_in => 3600 });
is(sql("SELECT token_refresh.disconnect('echoing', 'alice')"), 't', 'where the secret of the client stands in front of its key');
poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE event = 'revocation_failed' AND provider = 'echoing'", 'a revocation is refused');
is_deeply(differences('echoing'), [[]], 'as it should be asked');
is(sql("SELECT message FROM token_refresh.audit_event WHERE event = 'revocation_failed' AND provider = 'echoing'"), 'access_token: HTTP 400 unsupported_token_type: [redacted] may not', 'with a text that echoes the secret, which does not get into the audit');

# ---- mistakes

like(refusal("SELECT token_refresh.store_credential('mixed', 'bob', '{\"access_token\": \"fake\"}', client_secret => 'fake')"), qr/22023: argument "client_secret" needs "client_id"/, 'a secret needs its client');
like(refusal("SELECT token_refresh.store_credential('mixed', 'bob', '{\"access_token\": \"fake\"}', client_id => '')"), qr/22023: argument "client_id" must be 1 to 1000/, 'an empty client_id is none');
like(refusal("SELECT token_refresh.create_provider('none', options => '{\"token_endpoint\": \"https://as.example/t\"}')"), qr/22023: client_id is needed/, 'without registration_endpoint a provider needs a client');

ok(secrets_absent(read_log($node), map { "fake-dynamic-secret-$_" } 5, 7, 8) || diag('statements of this test hold them as literals: see log_statement'), 'no secret of a client in the log');
$node->stop;
done_testing();
