# Sign-in: the refresher exchanges the code in a transaction of its own, verifies who it is, and stores the credential.
# What is refused is refused with a reason in the audit, and leaves neither a session nor a credential.
use strict;
use warnings;

use FindBin;
use JSON::PP ();
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();
use SignInTest;
use TokenRefreshTest;

my $node   = new_node('main', 'token_refresh.http_timeout' => '3s', 'max_connections' => 80);
my $server = start_openid_server();
create_openid_provider($node, 'idp', $server);
$node->safe_psql('postgres', q{SELECT token_refresh.create_signing_key('ES256')});

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub counts { return sql('SELECT (SELECT count(*) FROM token_refresh.credential), (SELECT count(*) FROM token_refresh.session)'); }
sub last_audit { return sql(q{SELECT event, failure, actor FROM token_refresh.audit_event WHERE event LIKE 'authorization%' ORDER BY occurred_at DESC LIMIT 1}); }
my @openid = (scope => 'openid offline_access');

# Signs in as far as a session, in one statement.
sub sign_in_sql
{
    my (%answer) = @_;
    return "SELECT s.jwt_token FROM " . complete(%answer) . " c, LATERAL token_refresh.create_session(c.provider, NULL, c.claims) s";
}

# Whether the condition comes to hold within the time limit of the suite.
sub wait_for
{
    my ($condition) = @_;
    for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
    {
        return 1 if $condition->();
        Time::HiRes::usleep(100_000);
    }
    return 0;
}

# A test: this answer is refused, with that in the audit, and leaves nothing behind.
sub refused
{
    my ($what, $state, $failure, %answer) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $before = counts();
    like(error_of($node, sign_in_sql(%answer)), qr/^$state sign-in/, "$what is refused");
    is(last_audit(), "authorization_refused|$failure|refresher", '... with its reason in the audit') if $failure;
    is(counts(), $before, '... and leaves neither credential nor session');
    return;
}

subtest 'from the browser to a session' => sub {
    my ($url, $state) = begin_at($node, 'idp', @openid, authorization_params => '{"prompt": "login"}');
    like($url, qr/^\Q$server->{url}\E\/authorize\?/, 'the endpoint comes from the issuer');
    for my $parameter (qr/response_type=code/, qr/client_id=app/, qr/code_challenge_method=S256/, qr/code_challenge=[\w-]{43}(&|$)/,
        qr/nonce=[\w-]{43}/, qr/state=\Q$state\E/, qr/prompt=login/, qr/scope=openid(%20|\+)offline_access/)
    {
        like($url, $parameter, "it has $parameter");
    }
    my %answer = authorize($node, $server, 'idp', @openid);
    my $row = sql("SELECT c.provider, c.claims ->> 'name', c.subject = s.user_id::text, token_refresh.validate_jwt(s.jwt_token) ->> 'sub' = c.subject,"
        . ' c.credential_id = (SELECT max(id) FROM token_refresh.credential) IS NOT FALSE FROM ' . complete(%answer) . " c, LATERAL token_refresh.create_session(c.provider, NULL, c.claims) s");
    is($row, 'idp|Alice|t|t|t', 'one statement signs in; the credential belongs to the account');
    like(sql(q{SELECT token_refresh.get_access_token('idp', subject) FROM token_refresh.credential}), qr/^at_/, 'and has a token');
    is(sql(q{SELECT string_agg(event, ',' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE event ~ '^(auth|cred|login)'}),
        'credential_stored,authorization_completed,login', 'the audit tells it');
    is(sql(q{SELECT token_refresh.refresh_credential('idp', (SELECT subject FROM token_refresh.credential))}) =~ /^\(t,/, 1, 'the credential can be refreshed');
    refused('the same again', '28000', 'state_used', %answer);
    is($server->stats->{code_reuse}, 0, 'the code was presented once');
};

subtest 'state and code' => sub {
    my %answer = authorize($node, $server, 'idp', @openid);
    refused('a state that nobody has made', '28000', undef, %answer, state => 'x' x 43);
    refused('a code that was tampered with', '28000', 'provider_refused', %answer, code => "$answer{code}x");
    refused('... then the right one', '28000', 'state_used', %answer);

    %answer = authorize($node, $server, 'idp', @openid, expires_in => '1 second');
    $node->poll_query_until('postgres', 'SELECT expires_at < clock_timestamp() FROM token_refresh.authorization_request ORDER BY id DESC LIMIT 1') or die;
    refused('a state that has expired', '28000', 'state_expired', %answer);

    create_openid_provider($node, 'other', $server);
    %answer = authorize($node, $server, 'idp', @openid);
    my $codes = $server->stats->{codes};
    refused('the answer of another issuer', '28000', 'state_other_provider', %answer, iss => 'https://evil.example.com');
    %answer = authorize($node, $server, 'idp', @openid);
    like(error_of($node, sprintf('SELECT * FROM token_refresh.complete_authorization(%s, %s, %s)', map { literal($_) } @answer{qw(state code)}, 'other')),
        qr/^28000 sign-in refused: the state belongs to another provider/, 'nor does it fit at another provider');
    is($server->stats->{codes}, $codes, 'no code went out for these');

    like(error_of($node, sprintf("BEGIN; SELECT state AS s FROM token_refresh.begin_authorization('idp', redirect_uri => '%s') \\gset\nSELECT * FROM token_refresh.complete_authorization(:'s', 'c')", 'https://app.example.com/cb')),
        qr/^55006/, 'begun in the same transaction: told to commit first');
    like(error_of($node, 'SELECT * FROM token_refresh.complete_authorization(NULL, \'c\')'), qr/^22004/, 'a null');
    like(error_of($node, sprintf("SELECT * FROM token_refresh.complete_authorization('s', '%s')", 'c' x 70_000)), qr/^28000/, 'a huge code');
};

subtest 'id_tokens that are no good' => sub {
    for my $case (['alg none', 'id_token_', forge => 'alg_none'], ['HS256 with the RSA public key', 'id_token_', forge => 'hs256'],
        ['an unknown kid', 'id_token_unknown_key', forge => 'unknown_kid'], ['five parts', 'id_token_malformed', forge => 'five_parts'],
        ['a claim twice', 'id_token_malformed_claims', forge => 'twice'], ['other claims under the signature', 'id_token_wrong_signature', forge => 'other_claims'],
        ['the wrong audience', 'id_token_wrong_audience', claims => { aud => 'somebody-else' }],
        ['the wrong issuer', 'id_token_wrong_issuer', claims => { iss => 'https://evil.example.com' }],
        ['an expired one', 'id_token_expired', claims => { exp => time - 3600 }],
        ['the wrong nonce', 'id_token_wrong_nonce', claims => { nonce => 'another' }], ['no nonce', 'id_token_wrong_nonce', claims => { nonce => undef }],
        ['another authorized party', 'id_token_wrong_authorized_party', claims => { azp => 'somebody-else' }],
        ['no subject', 'id_token_missing_claim', claims => { sub => undef }], ['none at all', 'id_token_missing', id_token => JSON::PP::false])
    {
        my ($what, $failure, %settings) = @$case;
        my %answer = authorize($node, $server, 'idp', @openid);
        $server->control(%settings);
        refused($what, '28000', undef, %answer);
        like(last_audit(), qr/^authorization_refused\|$failure\w*\|refresher$/, "... as $failure");
    }
    $server->control();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'their tokens are revoked');
    cmp_ok(scalar(grep { $_->[1] } @{ $server->stats->{revoked} }), '>=', 20, '... all of them');
};

subtest 'keys that change, and keys that cannot be had' => sub {
    my $old_keys = $server->stats->{jwks};
    $server->rotate(keep => JSON::PP::false);
    # The keys are fetched anew for a key that is not known, but not for each.
    my $jwt = '';
    for (1 .. $PostgreSQL::Test::Utils::timeout_default)
    {
        my %answer = authorize($node, $server, 'idp', @openid);
        (undef, $jwt) = $node->psql('postgres', sign_in_sql(%answer));
        last if $jwt =~ /^ey/;
        sleep 1;
    }
    like($jwt, qr/^ey/, 'a new key is found by itself');
    cmp_ok($server->stats->{jwks} - $old_keys, '<=', 2, '... with hardly a request more');
    my %answer = authorize($node, $server, 'idp', @openid);
    $server->control(down => ['/jwks']);
    like(sql(sign_in_sql(%answer)), qr/^ey/, 'keys that are known do while they cannot be fetched');
    $node->restart;
    %answer = authorize($node, $server, 'idp', @openid);
    refused('no keys to be had', '08006', 'keys_unavailable', %answer);
    $server->control();
    %answer = authorize($node, $server, 'idp', @openid);
    like(sql(sign_in_sql(%answer)), qr/^ey/, 'and they are had again');
};

subtest 'a provider in trouble' => sub {
    my %answer = authorize($node, $server, 'idp', @openid);
    $server->control(down => ['/token']);
    refused('a provider that is down', '08006', 'provider_unavailable', %answer);
    $server->control(hang => 5);
    %answer = authorize($node, $server, 'idp', @openid);
    my $codes = $server->stats->{codes};
    refused('one that does not answer in time', '08006', 'provider_unavailable', %answer);
    ok(wait_for(sub { $server->stats->{codes} > $codes }), 'it has used up the code all the same');
    $server->control(refuse => 'invalid_grant');
    %answer = authorize($node, $server, 'idp', @openid);
    my $error = error_of($node, sign_in_sql(%answer));
    like($error, qr/^28000 .*invalid_grant/, 'what it says is told');
    unlike($error, qr/\Q$answer{code}\E/, '... without the code that it repeats');
    $server->control();
};

subtest 'who it is, without an id_token' => sub {
    $server->control(userinfo => { email => 'a@example.com' });
    my %answer = authorize($node, $server, 'idp', scope => 'email', authorization_params => '{"login_hint": "bob"}');
    is(sql("SELECT c.claims FROM " . complete(%answer) . ' c'), '{"sub": "bob", "email": "a@example.com"}', 'the userinfo endpoint is asked');
    create_openid_provider($node, 'by-number', $server, subject_pointer => '/data/id');
    $server->control(userinfo => { sub => undef, data => { id => 4711 } });
    %answer = authorize($node, $server, 'by-number');
    is(sql("SELECT c.claims ->> 'sub' FROM " . complete(%answer) . ' c'), '4711', 'a number, where the option says');
    $server->control(down => ['/userinfo']);
    %answer = authorize($node, $server, 'idp');
    refused('no answer there', '08006', 'userinfo_unavailable', %answer);
    %answer = authorize($node, $server, 'idp', subject => 'user 7', label => 'mail');
    is(sql("SELECT c.subject, c.claims FROM " . complete(%answer) . ' c'), 'user 7|{}', 'a subject that was given needs no claims');
    is(sql(q{SELECT count(*) FROM token_refresh.credential WHERE subject = 'user 7' AND label = 'mail'}), '1', '... and has its credential under the label');
    $server->control();
};

subtest 'a caller that rolls back' => sub {
    for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
    {
        my $who    = "rolled back in $level";
        my %answer = authorize($node, $server, 'idp', @openid, subject => $who);
        my $used   = $server->stats->{codes};
        is(sql("BEGIN ISOLATION LEVEL $level; SELECT c.subject FROM " . complete(%answer) . ' c; ROLLBACK'), $who, "$level: it is told the result");
        like(sql("SELECT token_refresh.get_access_token('idp', '$who')"), qr/^at_/, '... and the credential stays after ROLLBACK');
        refused('... the state', '28000', 'state_used', %answer);
        is($server->stats->{codes}, $used + 1, '... and the code was presented once');
    }
};

subtest 'many at once' => sub {
    my %answer = authorize($node, $server, 'idp', @openid, authorization_params => '{"login_hint": "carol"}');
    my @callers = map { start_query($node, 'SELECT 1 FROM ' . complete(%answer)) } 1 .. 10;
    my @done = map { [ $_->finish ] } @callers;
    is(scalar(grep { $_->[0] eq '1' } @done), 1, 'ten with one state: one gets it');
    is(scalar(grep { $_->[1] =~ /has been used already/ } @done), 9, '... nine are refused');
    is($server->stats->{code_reuse}, 0, '... and the code goes out once');

    my @answers = map { { authorize($node, $server, 'idp', @openid, authorization_params => '{"login_hint": "dora"}') } } 1 .. 50;
    @callers = map { start_query($node, sign_in_sql(%$_)) } @answers;
    @done = map { [ $_->finish ] } @callers;
    diag($_) for grep { $_ ne '' } map { $_->[1] } @done;
    is(scalar(grep { $_->[0] =~ /^ey/ } @done), 50, 'fifty first sign-ins of one identity succeed');
    is(sql(q{SELECT count(*) FROM token_refresh.account WHERE identity = 'dora'}), '1', '... for one account');
};

done_testing();
