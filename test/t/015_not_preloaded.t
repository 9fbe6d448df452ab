# Without shared_preload_libraries everything works that needs no refresher; what needs
# one says how to get it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'shared_preload_libraries' => '', -extension => 0);

my ($created, undef, $warned) = $node->psql('postgres', 'CREATE EXTENSION token_refresh');
is($created, 0, 'CREATE EXTENSION works');
like($warned, qr/WARNING:  no token will be refreshed: token_refresh is not preloaded\nHINT:  Add token_refresh to shared_preload_libraries and restart the server\./, '... and says what is missing');

# SQLSTATE, message and hint of the error that the SQL raises.
sub error_of
{
    my ($sql) = @_;
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
    my ($state, $message) = $error =~ /ERROR:  (\w+): (.*)/ or return "no error, but $output";
    my ($hint) = $error =~ /HINT:  (.*)/;
    return "$state $message (" . ($hint // 'no hint') . ')';
}

my $refusal = '55000 cannot refresh tokens: token_refresh is not preloaded '
    . '(Add token_refresh to shared_preload_libraries and restart the server.)';

create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
my ($valid) = $server->grants('acme', subjects => ['valid']);
store_credential($node, 'acme', $valid, $server->expired_grants('acme', subjects => ['expired']));
pass('creating a provider and storing credentials work');

is(access_token($node, 'acme', 'valid'), $valid->{access_token}, 'a valid token is read');
is($node->safe_psql('postgres', q{SELECT status FROM token_refresh.get_token('acme', 'valid')}), 'connected', 'by get_token too');
is(status_of($node, 'acme', 'expired')->{status}, 'token_expired', 'token_status works');
is($node->safe_psql('postgres', q{SELECT status ->> 'running', status ->> 'refresher' FROM token_refresh.status()}),
    'false|not_preloaded', 'status() says that nothing runs');
is($node->safe_psql('postgres', 'SELECT token_refresh.pause(); SELECT token_refresh.resume()'), "\n", 'pause() and resume() do no harm');

is(error_of(q{SELECT token_refresh.get_access_token('acme', 'expired')}), $refusal, 'get_access_token of an expired token');
is(error_of(q{SELECT token_refresh.get_token('acme', 'expired')}), $refusal, 'get_token of an expired token');
is(error_of(q{SELECT token_refresh.refresh_credential('acme', 'valid')}), $refusal, 'refresh_credential');
is(error_of(q{SELECT * FROM token_refresh.refresh_expiring_tokens()}), $refusal, 'refresh_expiring_tokens');

# A token that lives, but should be refreshed: the caller gets it (P10).
my ($late) = $server->grants('acme', subjects => ['late'], lifetime => 1000);
store_credential($node, 'acme', $late);
$node->safe_psql('postgres',
    q{UPDATE token_refresh.credential SET issued_at = issued_at - interval '900 seconds', expires_at = expires_at - interval '900 seconds' WHERE subject = 'late'});
is(access_token($node, 'acme', 'late'), $late->{access_token}, 'a token that should be refreshed, but lives, is read');

# Each in a session that has not loaded the library before.
subtest 'sessions' => sub {
    $node->safe_psql('postgres', q{ALTER DATABASE postgres SET token_refresh.jwt_issuer = 'https://id.example.com'; ALTER DATABASE postgres SET token_refresh.jwt_lifetime = '7min'});
    my $kid = $node->safe_psql('postgres', 'SELECT token_refresh.create_signing_key()');
    my ($jwt, $account, $session) = split /\|/, $node->safe_psql('postgres', q{SELECT jwt_token, user_id, session_id FROM token_refresh.create_session('acme', NULL, '{"sub": "alice"}')});
    my $validate = "SELECT v ->> 'iss', (v ->> 'exp')::bigint - (v ->> 'iat')::bigint FROM token_refresh.validate_jwt('%s') v";
    is($node->safe_psql('postgres', sprintf $validate, $jwt), 'https://id.example.com|420', 'a JWT by the settings of the database');
    my $token = $node->safe_psql('postgres', "SELECT refresh_token FROM token_refresh.start_session_refresh('$session')");
    is($node->safe_psql('postgres', sprintf $validate, $node->safe_psql('postgres', "SELECT jwt_token FROM token_refresh.refresh_session('$token')")), 'https://id.example.com|420', 'so is a refreshed one');
    is($node->safe_psql('postgres', "SELECT token_refresh.retire_signing_key('$kid') > now() + interval '7 minutes'"), 't', 'and the end of a key');
    is($node->safe_psql('postgres', "SELECT token_refresh.revoke_all_sessions('$account')"), '1', 'revoked');
    is($node->safe_psql('postgres', sprintf $validate, $jwt), '|', 'and no good');
};

$node->safe_psql('postgres', 'CALL token_refresh.rotate_keys()');
is(access_token($node, 'acme', 'valid'), $valid->{access_token}, 'rotate_keys works');
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('postgres', 'DROP DATABASE other');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'token_refresh%'}), '0', 'there is no worker');
is($server->stats('acme')->{requests}, 0, 'the provider was never asked');

$node->append_conf('postgresql.conf', q{shared_preload_libraries = 'token_refresh'});
$node->restart;
poll_until($node, q{SELECT min(refresh_count) = 1 FROM token_refresh.token_status WHERE subject IN ('expired', 'late')},
    'after adding it and a restart, what is due is refreshed');

($created, undef, $warned) = $node->psql('postgres', 'DROP EXTENSION token_refresh; CREATE EXTENSION token_refresh');
is($warned, '', 'CREATE EXTENSION warns of nothing then');
$node->safe_psql('postgres', 'DROP EXTENSION token_refresh');
$node->stop;
done_testing();
