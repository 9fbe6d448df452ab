# Keys and copies: sessions on a standby, signing keys that overlap, a key ring that is rotated, lost and found, dump
# and restore, and what the refresher tidies up.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use MIME::Base64 qw(decode_base64url encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $primary = new_node('primary', -init => { allows_streaming => 1 }, 'max_connections' => 30, 'wal_level' => 'logical', 'token_refresh.jwt_issuer' => 'https://id.example.com', 'token_refresh.jwt_audience' => 'web');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
create_provider($primary, 'va', token_endpoint => 'http://127.0.0.1:9/token');

sub catch_up { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')); return; }
sub on { my ($node, $sql, $database) = @_; return $node->safe_psql($database // 'postgres', "SET search_path = public, token_refresh;\n$sql"); }
sub sign_in { my ($who) = @_; return split /\|/, on($primary, "SELECT jwt_token, user_id, session_id FROM create_session('va', NULL, '{\"sub\": \"$who\"}')"); }
sub good { my ($node, @jwts) = @_; return on($node, 'SELECT string_agg((validate_jwt(jwt) IS NOT NULL)::text, $$ $$ ORDER BY n) FROM unnest(ARRAY[' . join(', ', map { literal($_) } @jwts) . ']) WITH ORDINALITY u (jwt, n)'); }
sub header { my ($jwt) = @_; return decode_base64url((split /\./, $jwt)[0]); }
sub failure { my ($node, $sql) = @_; my ($status, $output, $error) = $node->psql('postgres', $sql); return $error =~ /ERROR:  (.*)/ ? $1 : 'no error'; }

my ($hs, $es);

subtest 'a standby' => sub {
    on($primary, q{SELECT create_signing_key('HS256', 'hs')});
    ($hs) = sign_in('alice');
    on($primary, q{SELECT create_signing_key(kid => 'es')});
    ($es) = sign_in('bob');
    catch_up();
    is(good($standby, $hs, $es), 'true true', 'validates');
    is(on($standby, q{SELECT jsonb_array_length(jwks() -> 'keys')}), '1', 'and publishes');
    is(on($standby, "SET force_parallel_mode = on; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT validate_jwt('$hs') ->> 'iss'"), 'https://id.example.com', 'under REPEATABLE READ, in parallel');
    like(failure($standby, q{SELECT token_refresh.create_session('va', NULL, '{"sub": "x"}')}), qr/read-only transaction/, 'nobody signs in there');
    my $session = background_session($standby);
    my $check = sub { return $session->query_safe("SELECT token_refresh.validate_jwt('$_[0]') IS NOT NULL"); };
    is($check->($hs), 't', 'a session there');
    on($primary, sprintf(q{SELECT revoke_session((validate_jwt('%s') ->> 'jti')::uuid)}, $hs));
    catch_up();
    is($check->($hs), 'f', 'sees a revocation once it is replayed');
    on($primary, q{SELECT create_signing_key('EdDSA', 'ed')});
    my ($ed) = sign_in('carol');
    catch_up();
    is($check->($ed), 't', 'and a new key');
    on($primary, q{SELECT retire_signing_key('ed', '0')});
    catch_up();
    is($check->($ed), 'f', 'and the end of one');
    $session->quit;
};

subtest 'overlap' => sub {
    my ($before) = sign_in('alice');
    on($primary, q{SELECT create_signing_key('ES256', 'next')});
    my ($after) = sign_in('alice');
    like(header($before), qr/"kid":"es"/, 'the old key');
    like(header($after), qr/"kid":"next"/, 'and the new one');
    on($primary, q{SELECT retire_signing_key('es')});
    is(good($primary, $before, $after), 'true true', 'both verify');
    is(on($primary, q{SELECT jsonb_agg(k ->> 'kid') FROM jsonb_array_elements(jwks() -> 'keys') k}), '["next", "es"]', 'both are published');
    # It ends by itself, in sessions that know it, too.
    my $session = background_session($primary);
    on($primary, q{SELECT retire_signing_key('es', '1 second')});
    is($session->query_safe("SELECT token_refresh.validate_jwt('$before') IS NOT NULL"), 't', 'until the time has come');
    ok($primary->poll_query_until('postgres', q{SELECT count(*) = 1 FROM token_refresh.signing_key WHERE verify_until < clock_timestamp() AND kid = 'es'}), 'when it has');
    is($session->query_safe("SELECT token_refresh.validate_jwt('$before') IS NULL"), 't', 'it verifies no more');
    $session->quit;
};

my $key_file = $primary->basedir . '/token_refresh.keys';
sub write_keys { my ($text) = @_; truncate($key_file, 0); append_to_file($key_file, $text); $primary->reload; return; }

subtest 'the key ring' => sub {
    on($primary, q{SELECT create_signing_key('HS256', 'hs2')});
    ($hs) = sign_in('alice');
    my ($with_ip, undef, $session_id) = split /\|/, on($primary, q{SELECT jwt_token, user_id, session_id FROM create_session('va', NULL, '{"sub": "bob"}', '{"ip": "192.0.2.1"}')});
    my $refresh = on($primary, "SELECT refresh_token FROM start_session_refresh('$session_id')");
    my $old = slurp_file($key_file);
    my $new = 'next ' . encode_base64(pack('N8', map { int rand 2**32 } 1 .. 8), '') . "\n";
    write_keys($new . $old);
    $primary->psql('postgres', 'CALL token_refresh.rotate_keys()');
    is(on($primary, q{SELECT place, key, secrets FROM key_usage WHERE place ~ 'sign|session' ORDER BY 1}), "session_secret|next|2\nsigning_key|next|5", 'rotated, with signing keys and secrets');
    write_keys($new);
    is(good($primary, $hs, $es, $with_ip), 'true false true', 'without the old key all is as before: what is good is good');
    is(on($primary, q{SELECT count(*) FROM session WHERE ip_hash = ip_hash('192.0.2.1')}), '1', 'hashes of addresses stay comparable');
    my $second = on($primary, "SELECT new_refresh_token FROM refresh_session('$refresh')");
    like($second, qr/^trs_/, 'refresh tokens go on');

    # Lost: public keys still verify, secrets do not, nothing is signed; no error but where something is asked to be made.
    on($primary, q{SELECT create_signing_key('ES256', 'es2')});
    my ($jwt) = sign_in('dave');
    my $offset = -s $primary->logfile;
    write_keys('other ' . encode_base64(pack('N8', map { int rand 2**32 } 1 .. 8), '') . "\n");
    is(good($primary, $jwt), 'true', 'a public key verifies without the key ring');
    is(good($primary, $hs, 'x', ''), 'false false false', 'a secret that does not open verifies nothing, without an error');
    like(slurp_file($primary->logfile, $offset), qr/LOG:  token_refresh: signing key hs2 cannot be used: /, 'but the log says so');
    like(failure($primary, q{SELECT token_refresh.create_session('va', NULL, '{"sub": "x"}')}), qr/key/, 'signing in is an error');
    like(failure($primary, "SELECT token_refresh.refresh_session('$second')"), qr/key/, 'so is refreshing');
    my $session = background_session($primary);
    my $check = "SELECT token_refresh.validate_jwt('$hs') IS NOT NULL";
    is($session->query_safe($check), 'f', 'a session that has met that');
    write_keys($new);
    ok($primary->poll_query_until('postgres', "$check"), 'found again: all is well');
    my $tries = 0;
    until ($session->query_safe($check) eq 't' || $tries++ > 300) { select undef, undef, undef, 0.05; }
    is($session->query_safe($check), 't', 'in that session as well');
    like(on($primary, "SELECT new_refresh_token FROM refresh_session('$second')"), qr/^trs_/, 'the refresh token was not used up');
    $session->quit;
    # Lost for good.
    write_keys('other ' . encode_base64(pack('N8', map { int rand 2**32 } 1 .. 8), '') . "\n");
    on($primary, q{DELETE FROM signing_key; DELETE FROM session_secret; SELECT create_signing_key(kid => 'fresh')});
    is(good($primary, sign_in('erin'), $jwt), 'true false false false', 'a new beginning: new JWTs are good, the old ones are not');
};

subtest 'dump and restore' => sub {
    my ($jwt, undef, $session_id) = sign_in('frank');
    my $refresh = on($primary, "SELECT refresh_token FROM start_session_refresh('$session_id')");
    on($primary, q{SELECT create_signing_key('HS256', 'dumped')});
    my ($with_secret) = sign_in('grace');
    my $pem_mark = '-----BEGIN';
    my $dump = $primary->basedir . '/dump';
    $primary->command_ok([ 'pg_dump', '--file', "$dump.sql", $primary->connstr('postgres') ], 'pg_dump, plain');
    $primary->command_ok([ 'pg_dump', '--format=custom', '--file', "$dump.custom", $primary->connstr('postgres') ], 'pg_dump, custom');
    my $text = slurp_file("$dump.sql");
    like($text, qr/COPY token_refresh\.$_ /, "has $_") for qw(account session signing_key session_secret);
    ok(secrets_absent($text, $jwt, $refresh, $with_secret, $pem_mark), 'holds no secret');
    for my $form ('plain', 'custom')
    {
        $primary->safe_psql('postgres', "CREATE DATABASE $form");
        $primary->command_ok([ $form eq 'plain' ? ('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.sql", '-d') : ('pg_restore', '--exit-on-error', "$dump.custom", '-d'), $primary->connstr($form) ], "restored, $form");
        is(on($primary, "SELECT validate_jwt('$jwt') ->> 'jti' = (SELECT jwt_id::text FROM session WHERE id = '$session_id'), validate_jwt('$with_secret') IS NOT NULL", $form), 't|t', 'JWTs are good there');
        is(on($primary, "SELECT validate_jwt(jwt_token) IS NOT NULL FROM refresh_session('$refresh')", $form), 't', 'sessions are refreshed there');
        is(on($primary, q{SELECT validate_jwt(jwt_token) IS NOT NULL FROM create_session('va', NULL, '{"sub": "frank"}')}, $form), 't', 'and begun');
        is(on($primary, q{SELECT count(*) FROM account WHERE identity = 'frank'}, $form), '1', 'for the same account');
    }
    # A copy to which logical replication brings the keys: a process there forgets one that is retired.
    on($primary, 'CREATE PUBLICATION keys FOR TABLE signing_key');
    on($primary, q{SELECT pg_create_logical_replication_slot('keys', 'pgoutput')});
    $primary->safe_psql('plain', sprintf('CREATE SUBSCRIPTION keys CONNECTION %s PUBLICATION keys WITH (create_slot = false, copy_data = false)', literal($primary->connstr('postgres'))));
    my $session = background_session($primary, 'plain');
    my $check = "SELECT token_refresh.validate_jwt('$with_secret') IS NOT NULL";
    is($session->query_safe($check), 't', 'in a copy');
    on($primary, q{SELECT retire_signing_key('dumped', '0')});
    ok($primary->poll_query_until('plain', q{SELECT verify_until <= clock_timestamp() FROM token_refresh.signing_key WHERE kid = 'dumped'}), 'a retirement comes by logical replication');
    is($session->query_safe($check), 'f', 'and counts');
    $session->quit;
    $primary->safe_psql('plain', 'DROP SUBSCRIPTION keys');
};

subtest 'what has ended is tidied up' => sub {
    my ($jwt, undef, $session_id) = sign_in('old');
    on($primary, "UPDATE session SET expires_at = now() - interval '31 days' WHERE id = '$session_id'; SELECT retire_signing_key('fresh', '0')");
    my $kept = on($primary, 'SELECT count(*) - 1 FROM session');
    $primary->restart;
    poll_until($primary, "SELECT NOT EXISTS (SELECT FROM token_refresh.session WHERE id = '$session_id') AND NOT EXISTS (SELECT FROM token_refresh.signing_key WHERE kid = 'fresh')", 'by the refresher');
    is(on($primary, 'SELECT count(*) FROM session'), $kept, 'the others stay');
};

$_->stop for $standby, $primary;
unlike(read_log($_), qr/TRAP|PANIC|was terminated by signal/, 'nothing broke') for $primary, $standby;
done_testing();
