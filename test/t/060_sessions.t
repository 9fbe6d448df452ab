# Sessions: one account for one identity however many sign in at once; validate_jwt is a read and nothing else, sees a
# revocation from its COMMIT on, and takes whatever it is given; who may do what; other databases and encodings.
use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 sha256);
use FindBin;
use JSON::PP ();
use lib "$FindBin::Bin/../support";
use MIME::Base64 qw(decode_base64url encode_base64 encode_base64url);
use PostgreSQL::Test::Utils;
use Test::More;
use ApiTokenTest qw(use_node query run_herd);
use TokenRefreshTest;

my $node = new_node('main', 'max_connections' => 100, 'autovacuum' => 'off', 'wal_level' => 'minimal', 'max_wal_senders' => 0, 'log_min_messages' => 'info', 'token_refresh.enabled' => 'off');
use_node($node);
create_provider($node, 'va', token_endpoint => 'http://127.0.0.1:9/token');

my $secret = 'an obviously fake secret of forty letters';
query(sprintf(q{SELECT import_signing_key('HS256', %s, 'shared')}, literal($secret)));

sub sign_in { my ($who) = @_; return split /\|/, query("SELECT jwt_token, user_id, session_id FROM create_session('va', NULL, '{\"sub\": \"$who\"}')"); }
sub is_good { my ($jwt) = @_; return query(sprintf('SELECT validate_jwt(%s) IS NOT NULL', literal($jwt))); }
sub jti     { my ($jwt) = @_; return query(sprintf(q{SELECT validate_jwt(%s) ->> 'jti'}, literal($jwt))); }
sub error_of { my ($sql, %option) = @_; my ($status, $output, $error) = $node->psql('postgres', $sql, %option); return $error =~ /ERROR:  (.*)/ ? $1 : "no error, but $output"; }

subtest 'fifty first sign-ins of one identity' => sub {
    query('CREATE TABLE signed (jwt text, account uuid)');
    ok(run_herd(50, q{GATE;
INSERT INTO signed SELECT jwt_token, user_id FROM create_session('va', jsonb_build_object('access_token', 'fake-' || :client_id, 'expires_in', 3600), jsonb_build_object('sub', 'herd', 'n', :client_id::integer));}), 'all succeed');
    is(query(q{SELECT count(*) FROM account WHERE identity = 'herd'}), '1', 'one account');
    is(query(q{SELECT count(DISTINCT account), count(*) FROM signed}), '1|50', 'which all of them got');
    is(query(q{SELECT count(*) FROM credential}), '1', 'one credential');
    is(query(q{SELECT count(DISTINCT validate_jwt(jwt) ->> 'jti') FROM signed}), '50', 'fifty sessions, all good');
    is(query(q{SELECT count(*) FROM audit_event WHERE event = 'login'}), '50', 'fifty logins in the audit');
    is(query(q{SELECT revoke_all_sessions((SELECT id FROM account WHERE identity = 'herd'))}), '50', 'and all ended at once');
    is(query(q{SELECT count(validate_jwt(jwt)) FROM signed}), '0', 'none is good');
};

subtest 'one refresh token, presented by twenty at once' => sub {
    my (undef, undef, $session) = sign_in('refreshing');
    query('CREATE TABLE refreshed (token text)');
    query("INSERT INTO refreshed SELECT refresh_token FROM start_session_refresh('$session')");
    query('CREATE TABLE answered (jwt text, token text)');
    ok(run_herd(20, q{GATE;
INSERT INTO answered SELECT jwt_token, new_refresh_token FROM refreshed, refresh_session(token);}), 'all succeed');
    is(query('SELECT count(*), count(DISTINCT token), count(validate_jwt(jwt)) FROM answered'), '20|1|20', 'all get the same successor, and good JWTs');
    is(query(qq{SELECT refreshes, status FROM session_status WHERE session_id = '$session'}), '1|active', 'it was rotated once');
};

subtest 'a read and nothing else' => sub {
    query(q{CREATE TABLE held AS SELECT jwt_token AS jwt FROM generate_series(1, 500) i, create_session('va', NULL, jsonb_build_object('sub', i::text))});
    query('VACUUM ANALYZE');
    query('SELECT count(validate_jwt(jwt)) FROM held');
    query('CHECKPOINT');
    my $wal = query('SELECT pg_current_wal_insert_lsn()');
    is(query('BEGIN; SELECT count(validate_jwt(jwt)) FROM held; SELECT pg_current_xact_id_if_assigned(); COMMIT'), "500\n", 'no transaction id');
    is(query(q{SELECT count(validate_jwt(jwt || 'x')) FROM held}), '0', 'garbage');
    is(query('SELECT pg_current_wal_insert_lsn()'), $wal, 'no WAL');
    is(query('BEGIN READ ONLY; SELECT count(validate_jwt(jwt)), jwks() FROM held; COMMIT'), '500|{"keys": []}', 'in a read-only transaction');
    like(error_of(q{BEGIN READ ONLY; SELECT token_refresh.create_session('va', NULL, '{"sub": "x"}')}), qr/read-only transaction/, 'where nobody signs in');
    my $setup = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2; ';
    query('ALTER TABLE held SET (parallel_workers = 2)');
    like(query("$setup EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT count(validate_jwt(jwt)) FROM held"), qr/Workers Launched: [12]/, 'with parallel workers');
    is(query("$setup BEGIN ISOLATION LEVEL $_; SELECT count(validate_jwt(jwt)) FROM held"), '500', "the right answer, $_") for ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
};

subtest 'revocation' => sub {
    for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
    {
        my ($jwt) = sign_in('revoked');
        my $check = sprintf('SELECT token_refresh.validate_jwt(%s) IS NOT NULL;', literal($jwt));
        my ($reader, $writer) = map { background_session($node) } 1 .. 2;
        is($reader->query_safe("BEGIN ISOLATION LEVEL $level; $check"), 't', "$level: good");
        is($writer->query_safe(sprintf(q{BEGIN; SELECT token_refresh.revoke_session('%s')}, jti($jwt))), 't', 'revoked by another session');
        is($reader->query_safe($check), 't', 'good until the COMMIT');
        $writer->query_safe('COMMIT');
        is($reader->query_safe($check), 'f', 'no good from then on, within the same transaction');
        $_->quit for $reader, $writer;
    }
    my ($jwt, $account, $session) = sign_in('rolled back');
    my $jti = jti($jwt);
    is(query("BEGIN; SELECT revoke_session('$jti'); SELECT validate_jwt('$jwt') IS NULL; ROLLBACK"), "t\nt", 'within the transaction that revokes it is no good');
    is(is_good($jwt), 't', 'after its ROLLBACK it is');
    is(query("BEGIN; SELECT revoke_session('$jti'); ROLLBACK; SELECT status FROM session_status WHERE session_id = '$session'"), "t\nactive", 'and the session goes on');
};

# revoke_all_sessions waits for a sign-in that is under way, and ends it with the others.
subtest 'everywhere, while somebody signs in' => sub {
    my (undef, $account) = sign_in('everywhere');
    my ($sign_in, $revoking) = map { background_session($node) } 1 .. 2;
    $sign_in->query_safe(q{BEGIN});
    my $jwt = $sign_in->query_safe(q{SELECT jwt_token FROM token_refresh.create_session('va', NULL, '{"sub": "everywhere"}')});
    $revoking->query_until(qr/revoking/, "\\echo revoking\nSELECT token_refresh.revoke_all_sessions('$account');\n");
    poll_until($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'revoke_all_sessions' AND wait_event_type = 'Lock'}, 'it waits');
    $sign_in->query_safe('COMMIT');
    is($revoking->query_safe(q{SELECT 'and then'}), "2\nand then", 'and ends both sessions');
    is(is_good($jwt), 'f', 'the new one is no good');
    $_->quit for $sign_in, $revoking;
};

# A session that lives on does not keep alive the JWT that a process remembers.
subtest 'a JWT that has expired' => sub {
    my $session = background_session($node);
    $session->query_safe(q{SET token_refresh.jwt_lifetime = '2s'; SET token_refresh.jwt_leeway = 0});
    my ($jwt, $id) = split /\|/, $session->query_safe(q{SELECT jwt_token, session_id FROM token_refresh.create_session('va', NULL, '{"sub": "sliding"}')});
    my $token = $session->query_safe("SELECT refresh_token FROM token_refresh.start_session_refresh('$id')");
    my $check = "SELECT token_refresh.validate_jwt('$jwt') IS NOT NULL";
    is($session->query_safe($check), 't', 'good') for 1 .. 2;
    ok($node->poll_query_until('postgres', "SELECT clock_timestamp() >= created_at + interval '2 seconds' FROM token_refresh.session WHERE id = '$id'"), 'its time has come');
    is($session->query_safe($check), 'f', 'no good, however often it was');
    is($session->query_safe("SELECT status FROM token_refresh.session_status WHERE session_id = '$id'"), 'active', 'the session goes on');
    like($session->query_safe("SELECT new_refresh_token FROM token_refresh.refresh_session('$token')"), qr/^trs_/, 'and is refreshed');
    $session->quit;
};

subtest 'ROLLBACK' => sub {
    my $before = query('SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM session), (SELECT count(*) FROM credential), (SELECT count(*) FROM audit_event)');
    my ($jwt) = query(q{BEGIN; SELECT jwt_token FROM create_session('va', '{"access_token": "fake", "expires_in": 60}', '{"sub": "nobody"}'); ROLLBACK});
    is(query('SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM session), (SELECT count(*) FROM credential), (SELECT count(*) FROM audit_event)'), $before, 'a sign-in leaves nothing');
    is(is_good($jwt), 'f', 'and its JWT is no good');
    my (undef, undef, $session) = sign_in('rolled back');
    my $first = query("SELECT refresh_token FROM start_session_refresh('$session')");
    my $next = query("BEGIN; SELECT new_refresh_token FROM refresh_session('$first'); ROLLBACK");
    is(query("SELECT count(*) FROM refresh_session('$next')"), '0', 'a refresh token that was rolled back is no good');
    is(query("SELECT status FROM session_status WHERE session_id = '$session'"), 'active', 'but ends nothing');
    is(query("SELECT count(*) FROM refresh_session('$first')"), '1', 'the one before is');
};

# A key that another session makes or retires counts from its COMMIT on, and one that is rolled back does not.
subtest 'a session that has read the keys' => sub {
    my $session = background_session($node);
    my ($jwt) = sign_in('keys');
    my $check = sub { return $session->query_safe(sprintf('SELECT token_refresh.validate_jwt(%s) IS NOT NULL', literal($_[0]))); };
    is($check->($jwt), 't', 'it knows the key');
    query(q{SELECT create_signing_key(kid => 'new')});
    my ($newer) = sign_in('keys');
    like($newer, qr/^\Q${\ encode_base64url('{"alg":"ES256","kid":"new"')}\E/, 'a new key signs');
    is($check->($newer) . $check->($jwt), 'tt', 'both are good');
    query(q{BEGIN; SELECT retire_signing_key('new', '0'); ROLLBACK});
    is($check->($newer), 't', 'a retirement that is rolled back');
    is(query(sprintf(q{BEGIN; SELECT retire_signing_key('new', '0') IS NOT NULL; SELECT validate_jwt(%s) IS NULL; ROLLBACK; SELECT validate_jwt(%s) IS NOT NULL}, literal($newer), literal($newer))), "t\nt\nt", 'in the session that does it');
    query(q{SELECT retire_signing_key('new', '0')});
    is($check->($newer) . $check->($jwt), 'ft', 'retired at once');
    # Within an open transaction, where nothing else takes in what others have changed.
    query(q{SELECT create_signing_key(kid => 'within')});
    my ($within) = sign_in('keys');
    $session->query_safe('BEGIN');
    is($check->($within), 't', 'in a transaction');
    query(q{SELECT retire_signing_key('within', '0')});
    is($check->($within), 'f', 'retired while it is open');
    $session->query_safe('COMMIT');
    # Where triggers of other kinds do not fire.
    query(q{SELECT create_signing_key(kid => 'replica')});
    my ($replica) = sign_in('keys');
    is($check->($replica), 't', 'another key');
    query(q{SET session_replication_role = replica; SELECT retire_signing_key('replica', '0')});
    is($check->($replica), 'f', 'retired under session_replication_role = replica');
    query(q{SET session_replication_role = replica; SELECT create_signing_key(kid => 'truncated')});
    my ($truncated) = sign_in('keys');
    is($check->($truncated), 't', 'and one that is made so');
    query(q{CREATE TABLE keys AS TABLE signing_key; SET session_replication_role = replica; TRUNCATE signing_key});
    is($check->($truncated), 'f', 'TRUNCATE');
    query(q{INSERT INTO signing_key TABLE keys; DROP TABLE keys; DELETE FROM signing_key WHERE kid = 'truncated'});
    is($check->($truncated) . $check->($jwt), 'ft', 'and back again');
    unlike(query(q{EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) DELETE FROM signing_key WHERE verify_until < '-infinity'}), qr/Trigger/, 'tidying up nothing tells nobody that the keys have changed');
    # By default a key verifies as long as the longest-lived JWT that it may have signed.
    query(q{CREATE ROLE patient; ALTER ROLE patient SET token_refresh.jwt_lifetime = '12h'; SELECT create_signing_key(kid => 'patient')});
    is(query(q{SELECT retire_signing_key('patient') - now() BETWEEN '12 hours' AND '12 hours 1 minute'}), 't', 'the lifetime that a role has counts when a key is retired');
    query(q{SELECT create_signing_key(kid => 'short')});
    is(query(q{SET token_refresh.jwt_lifetime = '13h'; SELECT retire_signing_key('short') - now() BETWEEN '13 hours' AND '13 hours 1 minute'}), 't', 'as does that of the session');
    query(q{DROP ROLE patient});
    is(query(q{BEGIN; SELECT create_signing_key(kid => 'lost'); CREATE TEMP TABLE t AS SELECT jwt_token FROM create_session('va', NULL, '{"sub": "keys"}'); SELECT validate_jwt(jwt_token) IS NOT NULL FROM t; ROLLBACK}), "lost\nt", 'a key that is rolled back');
    like((sign_in('keys'))[0], qr/^\Q${\ encode_base64url('{"alg":"HS256","kid":"shared"')}\E/, 'signs no more');
    $session->quit;
};

# From here on: as whoever has the secret of HS256.
sub claims { my ($jwt) = @_; return JSON::PP->new->decode(query(sprintf('SELECT validate_jwt(%s)', literal($jwt)))); }
sub forge
{
    my ($header, $claims, $key) = @_;
    my $signed = encode_base64url(ref $header ? json($header) : $header) . '.' . encode_base64url(ref $claims ? json($claims) : $claims);
    return $signed . '.' . encode_base64url(hmac_sha256($signed, $key // $secret));
}

subtest 'malformed' => sub {
    my ($jwt) = sign_in('forged');
    my $claims = claims($jwt);
    my $text   = json($claims);
    my %hs     = (alg => 'HS256');
    is(is_good(forge(\%hs, $claims)), 't', 'the same claims are good');
    my ($head, $body, $mac) = split /\./, $jwt;
    # What is published of a key is no secret to sign with. It is an older one, so that the secret goes on signing.
    query(q{SELECT create_signing_key(kid => 'public'); UPDATE signing_key SET created_at = created_at - interval '1 year' WHERE kid = 'public'});
    my $jwk   = query(q{SELECT public_jwk FROM signing_key WHERE kid = 'public'});
    my $point = "\x04" . join('', map { decode_base64url(JSON::PP->new->decode($jwk)->{$_}) } 'x', 'y');
    my $der   = pack('H*', '3059301306072a8648ce3d020106082a8648ce3d030107034200') . $point;
    my $pem   = join("\n", '-----BEGIN PUBLIC KEY-----', encode_base64($der, '') =~ /(.{1,64})/g, '-----END PUBLIC KEY-----');
    my %published = (jwks => query('SELECT jwks()'), jwk => $jwk, point => $point, 'point in hex' => unpack('H*', $point), DER => $der, PEM => $pem, 'PEM with its last newline' => "$pem\n");
    like($published{jwks}, qr/"kid": "public"/, 'something is published');
    my %bad = (
        'empty' => '', 'two parts' => "$head.$body", 'no signature' => "$head.$body.", 'five parts' => "$head.$body.$mac.$mac.$mac", 'dots' => '.' x 10000, 'padding' => "$jwt=", 'standard base64' => "$head.$body." . ('+/' x 21) . 'A',
        'white space' => "$head. $body.$mac", 'a letter of two bytes' => "$head.$body.$mac\xc3\xa9", 'huge' => 'a' x 5_000_000, 'huge and signed' => forge(\%hs, { %$claims, x => 'x' x 20000 }),
        'deep' => forge(\%hs, '{"x":' x 10000 . '1' . '}' x 10000), 'deep header' => forge('{"alg":"HS256","x":' . '[' x 1000 . ']' x 1000 . '}', $claims), 'a name twice' => forge(\%hs, $text =~ s/^\{/{"sub":"x",/r),
        'no object' => forge(\%hs, '[1]'), 'no JSON' => forge(\%hs, 'x'), 'nothing' => forge(\%hs, ''), 'U+0000' => forge(\%hs, $text =~ s/^\{/{"x":"\\u0000",/r), 'bytes that are no UTF-8' => forge(\%hs, $text =~ s/^\{/{"x":"\xff\xfe",/r),
        'half a surrogate' => forge(\%hs, $text =~ s/^\{/{"x":"\\ud800",/r), 'a number without end' => forge(\%hs, $text =~ s/^\{/{"x":1e999999,/r), 'none' => forge({ alg => 'none' }, $claims), 'none, unsigned' => encode_base64url('{"alg":"none"}') . ".$body.",
        'unknown alg' => forge({ alg => 'HS512' }, $claims), 'alg of another case' => forge({ alg => 'hs256' }, $claims), 'no alg' => forge({ typ => 'JWT' }, $claims), 'alg is a number' => forge({ alg => 1 }, $claims), 'crit' => forge({ %hs, crit => ['exp'] }, $claims),
        'kid of another key' => forge({ %hs, kid => 'new' }, $claims), 'kid is a path' => forge({ %hs, kid => '../../../dev/null' }, $claims, ''), 'a key of its own' => forge({ %hs, jwk => { kty => 'oct', k => encode_base64url('x' x 32) } }, $claims, 'x' x 32),
        (map { ("signed with what is published: $_" => forge(\%hs, $claims, $published{$_}), "the same, with its kid: $_" => forge({ %hs, kid => 'public' }, $claims, $published{$_})) } keys %published),
        'a zero of many digits' => forge(\%hs, $text =~ s/^\{/{"x":0e-20000,/r), 'another' => forge(\%hs, $text =~ s/^\{/{"x":[0.0E+20000],/r), 'expired' => forge(\%hs, { %$claims, exp => time() - 60 }), 'not yet' => forge(\%hs, { %$claims, nbf => time() + 600 }), 'exp as text' => forge(\%hs, { %$claims, exp => '33000000000' }),
        'another account' => forge(\%hs, { %$claims, sub => (sign_in('victim'))[1] }), 'another session' => forge(\%hs, { %$claims, jti => '01234567-89ab-4def-8123-456789abcdef' }), 'jti in capitals' => forge(\%hs, { %$claims, jti => uc $claims->{jti} }));
    $node->safe_psql('postgres', 'CREATE TABLE bad (name text, token text)');
    $node->safe_psql('postgres', join('', map { sprintf("INSERT INTO bad VALUES (%s, %s);\n", literal($_), literal($bad{$_})) } sort keys %bad));
    is(query('SELECT count(*) FROM bad'), scalar(keys %bad), scalar(keys %bad) . ' of them');
    is(query(q{SELECT string_agg(name, ', ') FROM bad WHERE validate_jwt(token) IS NOT NULL}), '', 'all are NULL, in one transaction, which goes on');
    is(is_good($jwt), 't', 'as is the good one');
    # Every character of a good one matters.
    is(query(sprintf(q{SELECT count(validate_jwt(overlay(t PLACING CASE substr(t, i, 1) WHEN 'A' THEN 'B' ELSE 'A' END FROM i))) FROM (SELECT %s AS t) x, generate_series(1, length(t)) i WHERE i < length(t) OR substr(t, i, 1) > 'E'}, literal($jwt))), '0', 'any character changed');
    is(query(sprintf('SELECT count(validate_jwt(left(t, i))) FROM (SELECT %s AS t) x, generate_series(0, length(t) - 1) i', literal($jwt))), '0', 'any part of it');
};

subtest 'privileges' => sub {
    my ($jwt, $account, $session) = sign_in('theirs');
    my $jti = jti($jwt);
    query('CREATE ROLE nobody LOGIN; CREATE ROLE web LOGIN; GRANT USAGE ON SCHEMA token_refresh TO web; GRANT EXECUTE ON FUNCTION validate_jwt TO web');
    my %call = (
        create_session => q{('va', NULL, '{"sub": "x"}')}, validate_jwt => "('$jwt')", revoke_session => "('$jti')", revoke_all_sessions => "('$account')", start_session_refresh => "('$session')", refresh_session => q{('x')}, jwks => '()',
        create_signing_key => '()', import_signing_key => q{('HS256', 'x')}, retire_signing_key => q{('shared')}, ip_hash => q{('x')}, _sign_jwt => q{('{}')}, _session_jwt => "('$account', '$jti', '{}', now(), now())", _make_signing_key => q{('ES256', NULL, NULL)},
        _add_signing_key => q{('x', 'ES256', NULL, NULL)}, _make_session_secret => q{('ip_hash')}, _make_session_refresh_token => "('$session', 1, now())", _read_session_refresh_token => q{('x')}, _tidy_sessions => q{('0')}, _interval_setting => q{('token_refresh.jwt_lifetime')}, _session_end => '(now())', _identity_of => q{('{"sub": "x"}')}, _end_reused_session => "('$session', 'x')", _report_session_reuse => "('$session', true)", _is_reused => '(NULL, 1)', _check_session => q{('{}', '{}')});
    my @tables = qw(account session session_status session_secret signing_key);
    my $call = sub { my ($role, $name) = @_; return error_of("SELECT * FROM token_refresh.$name$call{$name}", extra_params => [ '-U', $role ]); };
    my $read = sub { my ($role, $name) = @_; return error_of("SELECT * FROM token_refresh.$name", extra_params => [ '-U', $role ]); };
    is(join(', ', grep { $call->('nobody', $_) !~ /^permission denied for schema/ } sort keys %call), '', 'a role with nothing can call nothing');
    is(join(', ', grep { $call->('web', $_) !~ /^permission denied for function/ } sort keys %call), 'validate_jwt', 'with EXECUTE on validate_jwt alone that is what works');
    is(join(', ', grep { $read->('web', $_) !~ /^permission denied for (table|view)/ } @tables), '', 'without reading a table');
    query('ALTER TABLE session ENABLE ROW LEVEL SECURITY; ALTER TABLE session FORCE ROW LEVEL SECURITY');
    is($node->safe_psql('postgres', "SELECT token_refresh.validate_jwt('$jwt') ->> 'jti'", extra_params => [ '-U', 'web' ]), $jti, 'row-level security does not matter to it');
    query('ALTER TABLE session DISABLE ROW LEVEL SECURITY; ALTER TABLE session NO FORCE ROW LEVEL SECURITY');
    query('GRANT EXECUTE ON FUNCTION create_session, revoke_session, revoke_all_sessions, start_session_refresh, refresh_session TO web');
    my $web = sub { return $node->safe_psql('postgres', $_[0], extra_params => [ '-U', 'web' ]); };
    my ($mine, $me, $my_session) = split /\|/, $web->(q{SELECT jwt_token, user_id, session_id FROM token_refresh.create_session('va', '{"access_token": "fake", "expires_in": 600}', '{"sub": "web"}', '{"ip": "192.0.2.1"}')});
    is($web->("SELECT token_refresh.validate_jwt('$mine') ->> 'sub'"), $me, 'an application signs people in');
    my $token = $web->("SELECT refresh_token FROM token_refresh.start_session_refresh('$my_session')");
    is($web->("SELECT session_id FROM token_refresh.refresh_session('$token')"), $my_session, 'keeps them signed in');
    is($web->("SELECT token_refresh.revoke_session((token_refresh.validate_jwt('$mine') ->> 'jti')::uuid), token_refresh.revoke_all_sessions('$me')"), 't|0', 'and out');
    is(query("SELECT string_agg(DISTINCT actor, ',') FROM audit_event WHERE subject = '$me'"), 'web', 'the audit says by whom');
    like(error_of(q{SET token_refresh.jwt_audience = 'x'}, extra_params => [ '-U', 'web' ]), qr/permission denied to set parameter/, 'it cannot change what is asked of a JWT');
    # What comes first in the search_path of the role is not taken for what the extension means.
    query(q{CREATE SCHEMA first; GRANT USAGE ON SCHEMA first TO web; ALTER ROLE web SET search_path = first, pg_temp, token_refresh, pg_catalog; GRANT TEMPORARY ON DATABASE postgres TO web});
    query("CREATE FUNCTION first.$_ LANGUAGE plpgsql AS \$\$BEGIN RAISE 'taken for the real one'; END \$\$") for 'clock_timestamp() RETURNS timestamptz', 'gen_random_uuid() RETURNS uuid', 'jsonb_typeof(jsonb) RETURNS text', 'octet_length(text) RETURNS integer';
    is($web->(q{CREATE TEMP TABLE session (id uuid, jwt_id uuid); CREATE TEMP TABLE signing_key (kid text); CREATE TEMP TABLE account (id uuid); CREATE FUNCTION pg_temp._sign_jwt(jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''mine''';
        SELECT jwt_token AS jwt, user_id AS me, session_id AS session FROM create_session('va', NULL, '{"sub": "web"}', '{"a": 1}') \gset
        SELECT refresh_token AS token FROM start_session_refresh(:'session') \gset
        SELECT jwt_token AS next FROM refresh_session(:'token') \gset
        SELECT validate_jwt(:'jwt') ->> 'sub' = :'me', validate_jwt(:'next') ->> 'sub' = :'me', revoke_session((validate_jwt(:'jwt') ->> 'jti')::uuid), revoke_all_sessions(:'me'), current_user}), 't|t|t|0|web', 'with a search_path of the role');
    is(query("SELECT count(*) FROM account a JOIN session s ON s.account = a.id WHERE a.identity = 'web'"), '2', 'it has signed in indeed');
};

subtest 'other databases' => sub {
    my ($jwt) = sign_in('here');
    my %encodings = (other => 'UTF8', latin1 => 'LATIN1', ascii => 'SQL_ASCII');
    for my $name (sort keys %encodings)
    {
        $node->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0 ENCODING '$encodings{$name}' LOCALE 'C'");
        my $there = sub { my ($sql) = @_; local $ENV{PGCLIENTENCODING} = $encodings{$name}; return $node->safe_psql($name, "SET search_path = public, token_refresh; $sql"); };
        $there->(sprintf(q{CREATE EXTENSION token_refresh; SELECT create_provider('va', 'c', 's', '{"token_endpoint": "http://127.0.0.1:9/t"}'); SELECT import_signing_key('HS256', %s, 'shared')}, literal($secret)));
        is($there->("SELECT validate_jwt('$jwt') IS NULL"), 't', "$name: a JWT of another database with the same key is none of its own");
        my $letter = $name eq 'latin1' ? "\xfc" : $name eq 'ascii' ? 'u' : "\xc3\xbc";
        $there->("CREATE TABLE held AS SELECT jwt_token AS jwt FROM create_session('va', NULL, '{\"sub\": \"J$letter\"}', '{\"ip\": \"$letter\"}', '{\"name\": \"$letter\"}')");
        is($there->(q{SELECT validate_jwt(jwt) ->> 'name', identity FROM held, account}), "$letter|J$letter", 'a name with its letters') for 1 .. 2;
        my $claims = $there->('SELECT validate_jwt(jwt) FROM held') =~ s/"name": "[^"]*"/"name": "\\u20ac \\ud83d\\ude00"/r;
        my $forged = forge({ alg => 'HS256' }, $claims);
        my %number = (n => '12345678901234567890.12', m => '1.10', l => '123456789012345678901234567890', e => '1.5');
        my $numbers = join ', ', map { qq{"$_": $number{$_}} } sort keys %number;
        for my $escape ('x', '\\u0041', '\\u00e4\\"\\\\u0041 \\u005c\\u0022')
        {
            my $jwt = forge({ alg => 'HS256' }, $claims =~ s/"name": "[^"]*"/"name": "$escape", $numbers/r);
            is($there->("SELECT validate_jwt('$jwt') ->> '$_'"), $number{$_}, "$name: $_, beside $escape") for sort keys %number;
        }
        my $escaped = forge({ alg => 'HS256' }, $claims =~ s/"name": "[^"]*"/"name": "\\u0041\\n\\u005cu0041\\\\u0041\\u0022"/r);
        is($there->("SELECT validate_jwt('$escaped') ->> 'name' = E'A\\n\\\\u0041\\\\u0041\"'"), 't', 'other escapes are left as they are');
        my $expected = $name =~ /other/ ? "\xe2\x82\xac \xf0\x9f\x98\x80" : $name eq 'ascii' ? "\xe2\x82\xac \xf0\x9f\x98\x80" : '';
        is($there->("SELECT validate_jwt('$forged') ->> 'name'"), $expected, 'what it cannot express is no error');
        $node->safe_psql('postgres', "DROP DATABASE $name");
    }
};

subtest 'a session that outlives the extension' => sub {
    my $session = background_session($node);
    my ($jwt) = sign_in('end');
    is($session->query_safe("SELECT token_refresh.validate_jwt('$jwt') IS NOT NULL"), 't', 'good');
    $node->safe_psql('postgres', 'DROP EXTENSION token_refresh CASCADE; CREATE EXTENSION token_refresh');
    is($session->query_safe("SELECT token_refresh.validate_jwt('$jwt') IS NULL"), 't', 'a new extension knows nothing of it');
    is($session->query_safe('SELECT token_refresh.jwks()'), '{"keys": []}', 'nor of the keys');
    $session->quit;
};

$node->stop;
unlike(read_log($node), qr/TRAP|PANIC|server process .* was terminated/, 'nothing broke');
done_testing();
