# examples/postgrest, by the commands of its README. PostgREST is not here: what it does with a request is done by hand, as
# it is documented: a transaction (read-only for GET) in which role, claims, headers, cookies, method and path are set, the
# pre-request function, the request, and errors by SQLSTATE as statuses.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64url);
use PostgreSQL::Test::Utils;
use SignInTest;
use Test::More;
use TokenRefreshTest;

my $server  = start_openid_server();
my $node    = new_node('main', -extension => 0, 'token_refresh.http_timeout' => '3s', log_min_error_statement => 'panic');
my $client  = $server->stats->{client};
my $example = ExampleTest->new($node, 'postgrest', owner => 'authenticator',
    ISSUER => $server->url, CLIENT_ID => $client->{client_id}, CLIENT_SECRET => $client->{client_secret});
my @secrets = ($client->{client_secret});

# The status of an error, as PostgREST has it.
sub status_of_error
{
    my ($state, $authenticated) = @_;
    return $1 if $state =~ /^PT(\d{3})$/;
    return $authenticated ? 403 : 401 if $state eq '42501';
    return 405 if $state eq '25006';
    return { '28' => 403, '08' => 503 }->{ substr($state, 0, 2) } // 400;
}

# Returns { status, body, headers }. %with: headers (names as they are put into the setting), cookies, role (that which
# PostgREST has taken; by default the one of the JWT), jwt (that which it has verified, if it is another), check (0:
# db-pre-request is not configured).
sub request
{
    my ($method, $path, $sql, %with) = @_;
    my $headers  = $with{headers} // {};
    my ($bearer) = map { /^[Bb]earer (\S+)$/ } values %$headers;
    my ($part)   = ($with{jwt} // $bearer // '') =~ /\.([^.]+)\./;
    my $claims   = eval { JSON::PP->new->decode(decode_base64url($part // '')) } // {};
    my $role     = $with{role} // $claims->{role} // 'web_anon';
    my %setting  = (search_path => '"api", "public"', role => $role, 'request.jwt.claims' => json({ %$claims, role => $role }),
        'request.method' => $method, 'request.path' => $path, 'request.headers' => json($headers), 'request.cookies' => json($with{cookies} // {}));
    my $settings = join ', ', map { sprintf('set_config(%s, %s, true)', literal($_), literal($setting{$_})) } sort keys %setting;
    my $mode     = $method eq 'GET' ? 'READ ONLY' : 'READ WRITE';
    my $check    = $with{check} // 1 ? 'SELECT "api"."check_request"() \\gset' : '';
    my ($status, $output, $error) = $node->psql($example->{database}, <<"END", on_error_stop => 1, extra_params => [ '-U', 'authenticator' ]);
\\set VERBOSITY verbose
START TRANSACTION ISOLATION LEVEL READ COMMITTED $mode;
SELECT length(concat($settings)) > 0 AS set \\gset
$check
$sql;
SELECT 'headers ' || coalesce(nullif(current_setting('response.headers', true), ''), '[]');
COMMIT;
END
    return { status => status_of_error($1, $role ne 'web_anon'), body => $2, state => $1, headers => [] } if $error =~ /ERROR:  (\S+): (.*)/;
    my ($body, $answered) = $output =~ /\A(.*?)\n?headers (\[.*\])\z/s;
    return { status => 200, body => $body, headers => JSON::PP->new->decode($answered) };
}

sub bearer { return (headers => { authorization => "Bearer $_[0]", 'user-agent' => 'Mozilla/5.0', 'x-real-ip' => '192.0.2.9' }); }

sub cookie { my ($answer) = @_; my ($text) = map { $_->{'Set-Cookie'} // () } @{ $answer->{headers} }; return $text; }

# Begins, and visits the provider. Returns what the page gets, and the cookies of the browser.
sub visit
{
    my ($user) = @_;
    $server->control(claims => { sub => $user, name => ucfirst $user });
    my $begun = request(POST => '/rpc/sign_in_begin', q{SELECT * FROM api.sign_in_begin('https://app.example.com/back')});
    my $answer = HTTP::Tiny->new(max_redirect => 0)->get($begun->{body});
    my ($query) = $answer->{headers}{location} =~ /\?(.*)/;
    my %got = map { my ($name, $value) = split /=/; $value =~ s/%(..)/chr hex $1/ge; ($name => $value) } split /&/, $query;
    my ($state) = cookie($begun) =~ /^__Host-sign_in=([^;]+);/;
    push @secrets, $got{code};
    return (\%got, { '__Host-sign_in' => $state });
}

sub complete_sql { my ($got) = @_; return sprintf('SELECT * FROM api.sign_in_complete(state => %s, code => %s, iss => %s)', map { literal($_) } @$got{qw(state code iss)}); }

sub sign_in
{
    my ($user) = @_;
    my ($got, $cookies) = visit($user);
    my $answer = request(POST => '/rpc/sign_in_complete', complete_sql($got), cookies => $cookies, headers => { 'user-agent' => 'Mozilla/5.0', 'x-real-ip' => '192.0.2.9' });
    is($answer->{status}, 200, "$user signs in") or diag($answer->{body});
    my ($jwt) = split /\|/, $answer->{body};
    push @secrets, $jwt;
    return wantarray ? ($jwt, $answer) : $jwt;
}

my $me = 'SELECT * FROM api.me()';

subtest 'set up' => sub {
    $example->step('Try it');
    my $sql = slurp_file("$example->{dir}/setup.sql");
    my @blocks = $example->{readme} =~ /^ +```sql\n(.*?)^ +```/msg;
    is(scalar @blocks, 2, 'the README shows two pieces');
    for my $block (@blocks)
    {
        (my $shown = $block) =~ s/^   //mg;
        ok(index($sql, $shown) >= 0, 'which are in setup.sql');
    }
    ok(index($example->{readme} =~ s/^    //mgr, slurp_file("$example->{dir}/postgrest.conf")) >= 0, 'and the configuration is that of postgrest.conf');
    is($example->owner_query(q{BEGIN READ ONLY; SELECT api.pre_config() \gset
SELECT current_setting('pgrst.jwt_secret')::jsonb = token_refresh.jwks(), current_setting('pgrst.jwt_secret')::jsonb #>> '{keys,0,alg}'}), 't|ES256', 'db-pre-config gives PostgREST the public key');
};

subtest 'a sign-in' => sub {
    my ($jwt, $answer) = sign_in('alice');
    is(cookie($answer), '__Host-sign_in=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax', 'the cookie is taken back');
    is_deeply([ grep { $_->{'Cache-Control'} } @{ $answer->{headers} } ], [ { 'Cache-Control' => 'no-store' } ], 'the answer is not to be kept');
    my $whoami = request(GET => '/rpc/me', $me, bearer($jwt));
    like($whoami->{body}, qr/^[0-9a-f-]{36}\|Alice\|.*\|1$/, 'GET /rpc/me');
    is($example->query(q{SELECT device_info, ip_hash = token_refresh.ip_hash('192.0.2.9') FROM token_refresh.session_status}), '{"user_agent": "Mozilla/5.0"}|t', 'the device is known');
    like($example->query(q{SELECT token_refresh.get_access_token('main', id::text) FROM token_refresh.account}), qr/^at_/, 'and the tokens are kept');
};

subtest 'a sign-in that is no good' => sub {
    my $sessions = 'SELECT count(*) FROM token_refresh.session';
    my $before = $example->query($sessions);
    my ($got, $cookies) = visit('mallory');
    is(request(POST => '/', complete_sql($got))->{state}, 'PT403', 'a browser without the cookie');
    is(request(POST => '/', complete_sql($got), cookies => { '__Host-sign_in' => 'x' x 43 })->{state}, 'PT403', 'with that of another sign-in');
    is(request(POST => '/', complete_sql({ %$got, state => undef }))->{state}, 'PT403', 'without a state');
    my $answer = request(POST => '/', complete_sql({ %$got, code => 'made-up' }), cookies => $cookies);
    is($answer->{status}, 403, 'a code that the provider refuses');
    is(request(POST => '/', complete_sql($got), cookies => $cookies)->{status}, 403, 'then the right one: the state is spent');
    ($got, $cookies) = visit('mallory');
    $server->control(down => ['/token']);
    is(request(POST => '/', complete_sql($got), cookies => $cookies)->{status}, 503, 'a provider that is down');
    $server->control();
    is($example->query($sessions), $before, 'none leaves a session');
};

subtest 'headers' => sub {
    my $jwt = sign_in('bob');
    is(request(GET => '/rpc/me', $me, headers => { authorization => "bearer $jwt" }, role => 'web_user')->{status}, 200, 'the word bearer in lower case');
    is(request(GET => '/rpc/me', $me)->{status}, 401, 'none: nobody, who may not ask');
    is(request(GET => '/', 'SELECT 1')->{status}, 200, '... but goes on as web_anon');
    is(request(GET => '/', 'SELECT current_user, api.user_id() IS NULL', bearer($jwt))->{body}, 'web_user|f', 'a good one: web_user');
    is(request(GET => '/', q{SELECT current_user, current_setting('request.jwt.claims')::jsonb ->> 'name' IS NULL}, bearer($jwt), role => 'web_anon')->{body}, 'web_user|t',
        'also where PostgREST does not know the role');
    my %refused = (
        'garbage' => 'Bearer garbage', 'three parts of garbage' => 'Bearer e30.e30.e30', 'another scheme' => 'Basic YWxpY2U6c2VjcmV0', 'no token' => 'Bearer', 'an empty one' => '',
        'two words' => "Bearer $jwt $jwt", 'a changed one' => 'Bearer ' . ($jwt =~ s/(.)(.)$/$1 eq 'A' ? "B$2" : "A$2"/er), 'unsigned' => 'Bearer ' . ($jwt =~ s/[^.]*$//r), 'quotes' => qq(Bearer '"\\));
    for my $what (sort keys %refused)
    {
        for my $role (qw(web_anon web_user))
        {
            my $answer = request(GET => '/rpc/me', 'SELECT 1', headers => { authorization => $refused{$what} }, role => $role);
            is("$answer->{state} $answer->{body}", 'PT401 the session is over', "$what, as $role");
        }
    }
    # PostgREST writes names in lower case. Others are not looked at, and then a JWT has not been seen.
    for my $name ('Authorization', 'AUTHORIZATION')
    {
        is(request(GET => '/', 'SELECT 1', headers => { $name => "Bearer $jwt" }, role => 'web_user')->{state}, 'PT401', "$name, as web_user");
        is(request(GET => '/', 'SELECT current_user', headers => { $name => "Bearer $jwt" }, role => 'web_anon')->{body}, 'web_anon', "$name, as web_anon: nobody");
    }
    is(request(GET => '/', 'SELECT 1', role => 'web_user')->{state}, 'PT401', 'the role without a JWT');
};

subtest 'rows' => sub {
    my ($alice, $bob) = map { scalar sign_in($_) } qw(alice bob);
    my $note = sub { my ($jwt, $body) = @_; return request(POST => '/note', "INSERT INTO api.note (body) VALUES ('$body')", bearer($jwt)); };
    my $notes = 'SELECT body FROM api.note ORDER BY body';
    is($note->($alice, 'of alice')->{status}, 200, 'alice writes');
    is($note->($bob, 'of bob')->{status}, 200, 'bob writes');
    is(request(GET => '/note', $notes, bearer($alice))->{body}, 'of alice', 'alice reads what is hers');
    is(request(GET => '/note', $notes, bearer($bob))->{body}, 'of bob', 'bob what is his');
    is(request(PATCH => '/note', "WITH c AS (UPDATE api.note SET body = 'changed by bob' RETURNING 1) SELECT count(*) FROM c", bearer($bob))->{body}, '1', 'bob changes all: that is his');
    is(request(DELETE => '/note', "WITH d AS (DELETE FROM api.note WHERE body = 'of alice' RETURNING 1) SELECT count(*) FROM d", bearer($bob))->{body}, '0', '... and deletes none of hers');
    is(request(POST => '/note', "INSERT INTO api.note (owner, body) SELECT id, 'forged' FROM (SELECT gen_random_uuid() AS id) x", bearer($bob))->{state}, '42501', 'nobody writes for another');
    is(request(GET => '/note', $notes)->{status}, 401, 'nobody reads without a JWT');
    is(request(GET => '/note', "INSERT INTO api.note (body) VALUES ('by GET')", bearer($bob))->{status}, 405, 'GET writes nothing');
    is(request(GET => '/note', $notes, bearer($alice), check => 0)->{body}, '', 'without db-pre-request nobody sees anything');
    # Two headers Authorization: PostgREST has verified the one, the database gets the other.
    is(request(GET => '/note', "SELECT body, current_setting('request.jwt.claims')::jsonb ->> 'sub' = api.user_id()::text FROM api.note", bearer($bob), jwt => $alice)->{body},
        'changed by bob|t', 'rows and claims are those of the JWT that the database has found good');
};

subtest 'signing out' => sub {
    my ($here, $there) = map { scalar sign_in('carol') } 1 .. 2;
    my $other = sign_in('dora');
    my $ask = sub { return request(GET => '/rpc/me', $me, bearer($_[0]))->{status}; };
    like(request(GET => '/rpc/me', $me, bearer($here))->{body}, qr/\|Carol\|.*\|2$/, 'two sessions');
    is(request(GET => '/rpc/sign_out', 'SELECT api.sign_out()', bearer($here))->{status}, 405, 'not by GET');
    is(request(POST => '/rpc/sign_out', 'SELECT api.sign_out()', bearer($here))->{body}, 't', 'signed out');
    is($ask->($here), 401, 'the JWT is no good with the next request, though its signature is');
    is(request(POST => '/rpc/sign_out', 'SELECT api.sign_out()', bearer($here))->{status}, 401, 'nor for signing out again');
    is($ask->($there), 200, 'the other session goes on');
    my $third = sign_in('carol');
    is(request(POST => '/rpc/sign_out_everywhere', 'SELECT api.sign_out_everywhere()', bearer($there))->{body}, '2', 'signed out everywhere');
    is($ask->($_), 401, 'all are over') for $there, $third;
    is($ask->($other), 200, 'that of another is not');
    is($example->query(q{SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE event LIKE 'logout%'}), 'logout logout_all', 'it is in the audit');
};

# As PostgREST does: the key by its kid, and the algorithm that belongs to it.
my $verify = <<'END';
import { createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
const [jwks, token] = readFileSync(0, 'utf8').split('\n');
const [head, body, signature] = token.split('.');
const { kid } = JSON.parse(Buffer.from(head, 'base64url'));
const jwk = JSON.parse(jwks).keys.find((key) => key.kid === kid);
const key = { key: createPublicKey({ key: jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
console.log(jwk.alg, verify('sha256', Buffer.from(`${head}.${body}`), key, Buffer.from(signature, 'base64url')));
END

subtest 'the signature, verified by others' => sub {
    plan(skip_all => 'node is missing') if system('node --version >/dev/null 2>&1') != 0;
    my $keys = $example->owner_query(q{BEGIN; SELECT api.pre_config() \gset
SELECT current_setting('pgrst.jwt_secret')});
    my $jwt = sign_in('frank');
    my %answer = ($jwt => 'ES256 true', $jwt =~ s/(.)(.{20})$/($1 eq 'A' ? 'B' : 'A') . $2/er => 'ES256 false');
    for my $token (sort { $answer{$b} cmp $answer{$a} } keys %answer)
    {
        my ($output, $errors) = ('', '');
        my $input = "$keys\n$token";
        IPC::Run::run([ 'node', '--input-type=module', '-e', $verify ], '<', \$input, '>', \$output, '2>', \$errors, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
        is($output, "$answer{$token}\n", "the key of db-pre-config: $answer{$token}") or diag($errors);
    }
};

subtest 'keys that change' => sub {
    my $old = sign_in('erin');
    $example->query(q{SELECT token_refresh.create_signing_key(kid => 'next')});
    my $new = sign_in('erin');
    is(request(GET => '/rpc/me', $me, bearer($_))->{status}, 200, 'both are good') for $old, $new;
    my ($notify) = $example->{readme} =~ /^    (NOTIFY .*;)$/m;
    my $listener = $node->background_psql($example->{database}, on_error_stop => 0, extra_params => [ '-U', 'authenticator' ]);
    $listener->query_safe('LISTEN pgrst');
    $example->query($notify);
    like($listener->query_safe('SELECT 1'), qr/Asynchronous notification "pgrst" with payload "reload config"/, 'PostgREST is told to read its configuration again');
    $listener->quit;
    is($example->owner_query(q{BEGIN; SELECT api.pre_config() \gset
SELECT jsonb_array_length(current_setting('pgrst.jwt_secret')::jsonb -> 'keys')}), '2', 'the configuration, when it is read again, has both');
};

subtest 'who may do what' => sub {
    my $denied = sub {
        my ($role, @sql) = @_;
        for my $sql (@sql)
        {
            my ($status, $output, $error) = $node->psql($example->{database}, "SET ROLE $role; $sql", extra_params => [ '-U', 'authenticator' ]);
            like($error, qr/ERROR:  permission denied/, "$role: $sql");
        }
        return;
    };
    my @internals = ('SELECT * FROM token_refresh.session_status', 'SELECT * FROM token_refresh.account', 'SELECT * FROM token_refresh.credential', 'SELECT * FROM token_refresh.signing_key',
        q{SELECT token_refresh.create_session('main', NULL, '{"sub": "alice"}')}, q{SELECT token_refresh.revoke_all_sessions(gen_random_uuid())},
        q{SELECT * FROM token_refresh.begin_authorization('main')}, q{SELECT * FROM token_refresh.complete_authorization('s', 'c')}, 'SET ROLE api_owner');
    $denied->(web_anon => @internals, $me, 'SELECT * FROM api.note', 'SELECT api.sign_out()', 'SELECT api.sign_out_everywhere()', 'SELECT api.pre_config()');
    $denied->(web_user => @internals, q{SELECT * FROM api.sign_in_begin('x')}, 'SELECT api.pre_config()', 'TRUNCATE api.note', 'UPDATE api.note SET owner = NULL');
    $denied->(none => @internals, $me, 'SELECT * FROM api.note', 'SELECT api.check_request()', q{SELECT * FROM api.sign_in_begin('x')});
    is($example->query(q{SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'api' AND has_function_privilege('public', p.oid, 'EXECUTE')}), '0', 'nothing in api is for PUBLIC');
};

ok(secrets_absent(read_log($node), @secrets), 'no secret is in the log');
$example->ran_all_steps;
$node->stop;
done_testing();
