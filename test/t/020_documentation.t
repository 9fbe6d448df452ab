# Every SQL snippet of the README, and then of the documents on attached tables, API tokens, sessions and sign-in, runs, in the
# order in which a reader meets it.
use strict;
use warnings;

use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/../support';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use SignInTest;
use TokenRefreshTest;

my $server = start_token_server();
my $openid = start_openid_server();
my $client = $openid->stats->{client};
my $node   = new_node('main', -extension => 0);
my ($grant, $bobs, @numbered) = $server->grants('acme', subjects => [qw(alice bob seven eight nine ten eleven)]);

my %real = (
    'https://accounts.example.com'   => $openid->url,
    'id-of-this-application'         => $client->{client_id},
    'its-own-secret'                 => $client->{client_secret},
    'https://auth.example.com/token' => $server->token_endpoint('acme'),
    'first-access-token'             => $grant->{access_token},
    'first-refresh-token'            => $grant->{refresh_token},
    'bobs-access-token'              => $bobs->{access_token},
    'bobs-refresh-token'             => $bobs->{refresh_token},
    map { ("access-token-of-$_" => $numbered[ $_ - 7 ]{access_token}, "refresh-token-of-$_" => $numbered[ $_ - 7 ]{refresh_token}) } 7 .. 11);

# As many issuers do: then an answer without iss is refused.
$openid->control(metadata => { authorization_response_iss_parameter_supported => JSON::PP::true() });

# Rows of attached tables that are shown expire in two minutes, so they are due at once.
sub await_refreshed
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, q{SELECT count(DISTINCT s.token_table) = (SELECT count(*) - 1 FROM token_refresh.token_table)
        AND min(s.expires_at) > now() + interval '10 minutes'
        FROM token_refresh.token_status s WHERE s.token_table <> 'token_refresh.credential'::regclass}, $what);
}

# A token like the one that the snippets before have issued.
sub api_token
{
    return $node->safe_psql('postgres', "SELECT token FROM token_refresh.issue_api_token('alice', ARRAY['api:read'])");
}

# A JWT of the account that the snippets before have made.
sub jwt
{
    return $node->safe_psql('postgres', q{SELECT jwt_token FROM token_refresh.create_session('acme', NULL, '{"sub": "acme-user-17"}')});
}

# Runs the snippets of a file with real tokens in place of those that are shown.
sub run_snippets
{
    my ($file, $least) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @snippets = slurp_file(dirname(__FILE__) . "/../../$file") =~ /^```sql\n(.*?)^```/msg;
    cmp_ok(scalar @snippets, '>=', $least, "$file has its SQL snippets");
    my $number = 0;
    for my $snippet (@snippets)
    {
        $number++;
        $snippet =~ s/\Q$_\E/$real{$_}/g for keys %real;
        my ($title) = grep { !/^--/ } split /\n/, $snippet;
        my $token;
        $snippet =~ s{alices-jwt}{jwt()}ge;
        if ($snippet =~ /the-code-that-came-back/)
        {
            my %answer = authorize($node, $openid, $file eq 'README.md' ? 'idp' : 'accounts', scope => 'openid');
            $snippet =~ s/the-(\w+)-that-came-back/$answer{$1}/g;
        }
        my $needs_token = $snippet =~ s{tr_alices-token}{$token //= api_token()}ge;
        my ($status, $output, $errors) = $node->psql('postgres', $snippet, on_error_stop => 1);
        is($status, 0, "$file, snippet $number runs: $title") or diag($errors);
        like($output, qr/^t\|/m, 'it says that the token is good') if $needs_token;
        await_refreshed("its rows are refreshed in place") if $snippet =~ /\battach_table\('/;
    }
    return;
}

run_snippets('README.md', 13);

is(access_token($node, 'acme', 'alice') eq $grant->{access_token} ? 'old' : 'new',
    'new', 'refresh_credential() of the README has refreshed the token');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT status, ',') FROM token_refresh.token_status"),
    'connected', 'the credential of the README is connected');
like($node->safe_psql('postgres', "SET ROLE app; SET app.subject = 'alice'; SELECT token_refresh.get_access_token('acme', 'alice')"),
    qr/^at_/, 'the role of the README reads the token of its user');
is($node->safe_psql('postgres', "SET ROLE app; SET app.subject = 'bob'; SELECT token_refresh.get_access_token('acme', 'alice') IS NULL"),
    't', 'and of nobody else');

run_snippets('docs/attached-tables.md', 9);
is($node->safe_psql('postgres', "SELECT success FROM token_refresh.refresh_row('vault', '$_')"), 't', "row $_ of vault, with sealed tokens, is refreshed") for 900, 1;
ok($server->is_active('acme', $node->safe_psql('postgres', "SELECT token_refresh.get_access_token_from('vault', '$_')")), "and gets a token that the provider knows") for 900, 1;
is($node->safe_psql('postgres', "SELECT token_refresh.get_access_token_from('note', '1')"), $numbered[4]{access_token}, 'what was in plain text is sealed, and opens');
is($node->safe_psql('postgres', "SELECT success FROM token_refresh.refresh_row('note', '1')"), 't', 'the refresh token, too');
is($server->stats('acme')->{per_subject}{seven}{requests}, 1, 'asking for a token that is valid costs no request');
is($server->stats('acme')->{per_subject}{eight}{requests}, 2, 'refresh_row() makes one');
is($node->safe_psql('postgres', q{SELECT string_agg(state, ',') FROM connection WHERE expires_at > now() AT TIME ZONE 'UTC' + interval '10 minutes'}),
    'active,active', 'the tokens are in the table, which knows its own words for the status');
is($node->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.token_table WHERE relation = 'connection'::regclass}), '0', 'it is detached');

run_snippets('docs/api-tokens.md', 10);
is($node->safe_psql('postgres', q{SELECT string_agg(owner || ' ' || status, ', ' ORDER BY owner, status) FROM token_refresh.api_token_status WHERE imported}),
    'bob revoked, carol revoked', 'imported tokens are there, and are revoked');
is($node->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.api_token_status WHERE owner = 'alice' AND status = 'grace'}), '1', 'one was refreshed by force');
for my $allowed ([ gateway => q{validate_and_refresh_api_token('x')} ], [ token_desk => q{issue_api_token('dave', ARRAY['api:read'])} ],
    [ token_desk => 'api_token_status' ], [ token_batch => 'refresh_expiring_tokens_batch()' ])
{
    my ($role, $what) = @$allowed;
    my ($status, undef, $errors) = $node->psql('postgres', "SET ROLE $role; SELECT count(*) FROM token_refresh.$what", on_error_stop => 1);
    is($status, 0, "the role $role may read $what") or diag($errors);
}

run_snippets('docs/sessions.md', 7);
is($node->safe_psql('postgres', q{SELECT string_agg(identity || ' ' || (SELECT count(*) FROM token_refresh.session s WHERE s.account = a.id), ', ' ORDER BY identity) FROM token_refresh.account a}),
    'acme-user-17 4, acme-user-18 1, alice 1', 'sessions of three accounts');
is($node->safe_psql('postgres', q{SELECT token_refresh.get_access_token('acme', id::text) IS NOT NULL FROM token_refresh.account WHERE identity = 'acme-user-17'}), 't', 'whose tokens are kept');
is($node->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.signing_key WHERE retired_at IS NULL}), '1', 'one key signs');
is($node->safe_psql('postgres', 'SET ROLE web; SELECT token_refresh.validate_jwt(' . literal(jwt()) . q{) ->> 'sub' IS NOT NULL}), 't', 'the role web validates');

run_snippets('docs/sign-in.md', 8);
is($node->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.session_status WHERE provider = 'accounts' AND identity = 'alice' AND status = 'active'}), '1', 'somebody has signed in');
like($node->safe_psql('postgres', q{SELECT token_refresh.get_access_token('accounts', user_id::text) FROM token_refresh.session_status WHERE provider = 'accounts'}), qr/^at_/, 'and has a token at the provider');
is($node->safe_psql('postgres', q{SELECT effective_options ? 'revocation_endpoint' FROM token_refresh.provider WHERE name = 'accounts'}), 't', 'whose endpoints have been discovered');

done_testing();
