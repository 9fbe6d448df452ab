# P7 for sessions: with the server logging all it can, no JWT, refresh token, signing key, token or IP address is in the
# log, an error, a view, pg_stat_activity or a dump.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node = new_node('main', 'log_min_messages' => 'debug5', 'log_min_error_statement' => 'debug5', 'log_error_verbosity' => 'verbose', 'log_statement' => 'all', 'log_duration' => 'on',
    # What a client binds is shown if the administrator asks for it; this is about what the extension shows.
    'log_parameter_max_length' => 0);
create_provider($node, 'va', token_endpoint => 'http://127.0.0.1:9/token');

my @secrets;
my $told = '';

# One statement with bound parameters $1, $2, ... ; false after an error.
sub bound
{
    my ($sql, @values) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
    $sql =~ s/\$(\d)/:v$1/g;
    append_to_file($script, "$sql;\n");
    my $number = 0;
    my ($output, $error) = ('', '');
    my $ok = IPC::Run::run([ $node->installed_command('pgbench'), '-n', '-M', 'extended', '-c', 1, '-t', 1, '-f', $script, (map { $number++; ('-D', "v$number=$_") } @values), $node->connstr('postgres') ],
        '<', \undef, '>', \$output, '2>', \$error);
    $told .= "$error\n";
    return $ok;
}

sub query { return $node->safe_psql('postgres', "SET search_path = public, token_refresh;\n$_[0]"); }

# Secrets go into a table, not through statements.
query('CREATE TABLE held (kind text, secret text)');
sub held { return query("SELECT secret FROM held WHERE kind = '$_[0]'"); }

my $hmac = 'obviously-fake-and-forty-characters-long';
my ($access, $refresh, $ip) = ('fake-access-token-0123456789', 'fake-refresh-token-0123456789', '2001:db8::feed:beef');
my $pem = do { IPC::Run::run([ 'openssl', 'genpkey', '-algorithm', 'ed25519' ], '<', \undef, '>', \my $made, '2>', \my $ignored); $made };
my ($pem_body) = $pem =~ /\n(\S+)\n/;

subtest 'a life' => sub {
    ok(bound(q{SELECT token_refresh.import_signing_key('EdDSA', $1, 'ed')}, $pem), 'a private key that is bound');
    ok(bound(q{SELECT token_refresh.import_signing_key('HS256', $1, 'hs')}, $hmac), 'a secret');
    query(q{SELECT create_signing_key(a) FROM unnest('{ES256,HS256}'::text[]) a});
    ok(bound(q{WITH s AS (SELECT * FROM token_refresh.create_session('va', $1::jsonb, '{"sub": "alice"}', $2::jsonb)) INSERT INTO held SELECT 'jwt', jwt_token FROM s UNION ALL SELECT 'session', session_id::text FROM s},
        json({ access_token => $access, refresh_token => $refresh, expires_in => 3600 }), json({ ip => $ip, user_agent => 'fake' })), 'a sign-in');
    ok(bound(q{INSERT INTO held SELECT 'refresh', refresh_token FROM token_refresh.start_session_refresh($1::uuid)}, held('session')), 'its first refresh token');
    ok(bound(q{WITH r AS (SELECT * FROM token_refresh.refresh_session($1)) INSERT INTO held SELECT 'next', new_refresh_token FROM r UNION ALL SELECT 'next jwt', jwt_token FROM r}, held('refresh')), 'refreshed');
    ok(bound('SELECT token_refresh.validate_jwt($1)', held($_)), "validated: $_") for 'jwt', 'next jwt', 'next';
    push @secrets, $hmac, $pem_body, $access, $refresh, map { held($_) } 'jwt', 'next jwt', 'refresh', 'next';
    push @secrets, map { (split /\./, held($_))[2] } 'jwt', 'next jwt';
};

# What auto_explain logs of the statements within: the tokens come out of a table, so that they are in no plan of the
# statement itself.
subtest 'auto_explain' => sub {
    ok(bound(q{INSERT INTO held SELECT 'response', $1}, json({ access_token => $access, refresh_token => $refresh, expires_in => 3600 })), 'tokens in a table');
    my $session = background_session($node);
    $session->query_safe(q{LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET auto_explain.log_verbose = on});
    my $of = sub { my ($kind) = @_; return "FROM (SELECT secret FROM held WHERE kind = '$kind') h,"; };
    is($session->query_safe("SELECT count(s.jwt_token) ${\ $of->('response')} token_refresh.create_session('va', h.secret::jsonb, '{\"sub\": \"explained\"}') s"), '1', 'a sign-in');
    $session->query_safe(q{INSERT INTO held SELECT 'explained', f.refresh_token FROM token_refresh.create_session('va', NULL, '{"sub": "explained"}') s, token_refresh.start_session_refresh(s.session_id) f});
    is($session->query_safe("SELECT count(r.jwt_token) ${\ $of->('explained')} token_refresh.refresh_session(h.secret) r"), '1', 'refreshed');
    is($session->query_safe("SELECT count(j) ${\ $of->('jwt')} token_refresh.validate_jwt(h.secret) j"), '1', 'validated');
    push @secrets, held('explained');
    $session->quit;
    my $log = read_log($node);
    like($log, qr/PL\/pgSQL function token_refresh\.$_/, "the plans within $_ are logged") for 'create_session', 'refresh_session';
};

subtest 'errors' => sub {
    ok(!bound(q{SELECT 1 / (length($1) - length($1)) FROM token_refresh.validate_jwt($1)}, held('jwt')), 'an error after a call');
    ok(!bound(q{SELECT token_refresh.import_signing_key('ES256', $1, 'x')}, $pem), 'a key of another kind');
    ok(!bound(q{SELECT token_refresh.import_signing_key('HS256', $1, 'x')}, $pem), 'a private key for a secret');
    ok(!bound(q{SELECT token_refresh.import_signing_key('HS256', $1, 'hs')}, $hmac), 'a kid that is there');
    ok(!bound(q{SELECT token_refresh.create_session('va', $1::jsonb, '{"sub": "alice"}', $2::jsonb, '{"jti": 1}')}, json({ access_token => $access }), json({ ip => $ip })), 'a bad argument beside tokens');
    query(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no session today'; END $$; CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON token_refresh.session FOR EACH ROW EXECUTE FUNCTION refuse()});
    ok(!bound(q{SELECT token_refresh.create_session('va', $1::jsonb, '{"sub": "alice"}', $2::jsonb)}, json({ access_token => $access }), json({ ip => $ip })), 'a session that is refused by its table');
    ok(!bound(q{SELECT token_refresh.refresh_session($1)}, held('next')), 'a refresh that is');
    query('DROP TRIGGER refuse ON token_refresh.session');
    query('ALTER TABLE token_refresh.session ADD CHECK (refresh_count < 3) NOT VALID');
    ok(!bound(q{SELECT token_refresh.refresh_session($1)}, held('next')), 'by a constraint');
    ok(bound(q{SELECT token_refresh.refresh_session($1)}, held('next') =~ s/.$/0/r), 'a forged one');
};

subtest 'where they are not' => sub {
    is(scalar(grep { defined && length > 20 } @secrets), 11, 'secrets that are looked for: ' . scalar(@secrets));
    my $names = query("SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'token_refresh' AND c.relkind IN ('r', 'v')");
    for my $name (split / /, $names)
    {
        my $rows = query("SELECT * FROM $name");
        next unless $rows =~ /\S/;
        ok(secrets_absent($rows, @secrets, $ip), $name);
        ok(secrets_absent(join("\n", map { pack 'H*', $_ } $rows =~ /\\x([0-9a-f]+)/g), @secrets, $ip), "$name, bytes") if $rows =~ /\\x[0-9a-f]/;
    }
    my ($dump, $error) = ('', '');
    ok(IPC::Run::run([ $node->installed_command('pg_dump'), '-T', 'held', $node->connstr('postgres') ], '<', \undef, '>', \$dump, '2>', \$error), 'pg_dump');
    ok(secrets_absent($dump . query('SELECT a FROM pg_stat_activity a'), @secrets, $ip), 'the dump and pg_stat_activity');
    ok(secrets_absent($told . $error, @secrets, $ip), 'what clients were told');
};

$node->stop;
my $log = read_log($node);
like($log, qr/LOG: .*execute.*refresh_session\(\$1\)/, 'the log has the statements');
ok(secrets_absent($log, @secrets, $ip), 'and no secret');
unlike($log, qr/TRAP|PANIC/, 'nothing broke');
done_testing();
