# examples/vetassist/sessions, by the commands of its README, against an OpenID provider. What the old service was to be
# verified by, each in its place below:
#
#  1. a session can be made by hand from made-up tokens and claims                       'made-up data'
#  2. the whole way: to VA, back with a code, and on with a JWT                          'the whole way'
#  3. the JWT decodes with the secret and HS256, and has sub, iss, aud, exp, iat, jti,
#     va_linked and va_icn; it is good for 30 minutes                                    'the JWT, decoded by Python'
#  4. the user is found by ICN the next time, and when it was is known                   'the same veteran again'
#  5. tokens are stored encrypted                                                        'the whole way'
#  6. a session that is ended is no good from then on; all of a user, too                'log out', 'log out everywhere'
#  7. the audit has login, logout and logout_all, with a hash of the address, not the address;
#     of ICN and JWT id there are eight characters                                       in each, and 'the audit as a whole'
#  8. the application's calls are those of the README                                    'the calls of the README'
#  9. what fails leaves neither user nor session, and says so                            'refused'
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use SignInTest;
use Test::More;
use TokenRefreshTest;

my $server  = start_openid_server();
# Statements of this test hold codes as literals; an application binds them.
my $node    = new_node('main', -extension => 0, 'token_refresh.http_timeout' => '3s', log_min_error_statement => 'panic');
my $secret  = 'an obviously fake secret of the example';
my $client  = $server->stats->{client};
my $example = ExampleTest->new($node, 'vetassist/sessions', database => 'vetassist_sessions', owner => 'vetassist',
    VA_ISSUER => $server->url, VA_CLIENT_ID => $client->{client_id}, VA_CLIENT_SECRET => $client->{client_secret}, VETASSIST_JWT_SECRET => $secret);
my @secrets = ($secret, $client->{client_secret});
my $redirect = 'https://vetassist.example.com/callback';
my %device   = (ip => '192.0.2.17', user_agent => 'Mozilla/5.0 (example)');

sub app { return $example->owner_query($_[0]); }

# As the application; "SQLSTATE message" of its error.
sub app_error
{
    my ($sql) = @_;
    my ($status, $output, $error) = $node->psql($example->{database}, "\\set VERBOSITY verbose\n$sql", extra_params => [ '-U', 'vetassist' ]);
    return $error =~ /ERROR:  (\S+): (.*)/ ? "$1 $2" : "no error, but $output";
}

# Goes to VA and back. %claims: what VA says of the veteran. Returns what the callback gets.
sub visit_va
{
    my (%claims) = @_;
    $server->control(claims => \%claims);
    my ($url, $state) = split /\|/, app("SELECT authorization_url, state FROM token_refresh.begin_authorization('va', redirect_uri => '$redirect')");
    my $answer = HTTP::Tiny->new(max_redirect => 0)->get($url);
    my ($query) = $answer->{headers}{location} =~ /\?(.*)/;
    my %got = map { my ($name, $value) = split /=/; $value =~ s/%(..)/chr hex $1/ge; ($name => $value) } split /&/, $query;
    is($got{state}, $state, 'the state comes back');
    push @secrets, $got{code};
    return %got;
}

sub callback_sql
{
    my (%got) = @_;
    return sprintf('SELECT user_id, jwt_token, expires_at, va_icn FROM create_session_from_va_auth(%s, %s, %s, %s)',
        map { literal($_) } @got{qw(state code iss)}, json({ %device, %{ $got{device} // {} } }));
}

# The whole sign-in; returns user, JWT, expiry and ICN.
sub sign_in
{
    my ($icn, %more) = @_;
    my $device = delete $more{device};
    my %got = visit_va(icn => $icn, %more);
    my @session = split /\|/, app(callback_sql(%got, device => $device));
    push @secrets, $session[1];
    return @session;
}

sub claims { my ($jwt) = @_; my $claims = app(sprintf('SELECT token_refresh.validate_jwt(%s)', literal($jwt))); return $claims eq '' ? undef : JSON::PP->new->decode($claims); }

sub is_good { return defined claims($_[0]) ? 1 : 0; }

sub audit { my ($user, $event) = @_; return app("SELECT event_data, ip_hash FROM vetassist_auth_audit WHERE user_id = '$user' AND event_type = '$event' ORDER BY created_at DESC LIMIT 1"); }

sub ip_hash { return $example->query(sprintf(q{SELECT encode(token_refresh.ip_hash(%s), 'hex')}, literal($_[0]))); }

subtest 'set up' => sub {
    $example->step('Try it');
    my ($status, undef, $errors) = $example->run_in_folder([ 'env', '-u', 'VETASSIST_JWT_SECRET', 'psql', '-qf', 'setup.sql' ], '');
    is($status, 3, 'setup.sql fails without the secret');
    like($errors, qr/ERROR:  not set in the environment: VETASSIST_JWT_SECRET\n/, 'and says that it is that which is not set');
    $example->step('Set up');
    my @quoted = ('setup.sql', 'functions.sql');
    my $files = join '', map { slurp_file("$example->{dir}/$_") } @quoted;
    my @blocks = $example->{readme} =~ /^```sql\n(.*?)^```/msg;
    is(scalar(grep { index($files, $_) < 0 } @blocks), 0, 'what the README shows is in the files');
    cmp_ok(scalar @blocks, '==', 3, 'all three pieces');
    is($example->query(q{SELECT effective_options ->> 'token_endpoint' FROM token_refresh.provider}), $server->url . '/token', 'the endpoints come from the issuer');
};

my ($alice, $alices_jwt);

subtest 'the whole way' => sub {
    my $began = time;
    my ($user, $jwt, $expires_at, $icn) = sign_in('1012740024V936776', email => 'alice@example.com', first_name => 'Alice', last_name => 'Example', veteran_status => 'confirmed');
    ($alice, $alices_jwt) = ($user, $jwt);
    is($icn, '1012740024V936776', 'the ICN is told');
    is(app('SELECT id, va_icn, va_veteran_status, email, first_name, last_name, last_login_at > now() - interval \'1 minute\' FROM vetassist_users'),
        "$user|$icn|confirmed|alice\@example.com|Alice|Example|t", 'there is a user, with what VA has said');
    is(app("SELECT user_id, jwt_id, device_info, revoked_at IS NULL, expires_at = '$expires_at' FROM vetassist_sessions"),
        "$user|" . claims($jwt)->{jti} . qq(|{"user_agent": "$device{user_agent}"}|t|t), 'and a session with the device, without its address');
    my $seconds = $example->query("SELECT round(extract(epoch FROM '$expires_at'::timestamptz - to_timestamp($began)))");
    cmp_ok(abs($seconds - 1800), '<=', 30, 'for 30 minutes');
    is(audit($user, 'login'), '{"icn": "10127400...", "method": "va_oauth"}|' . ip_hash($device{ip}), 'the audit has the login');
    unlike(app('SELECT string_agg(a::text, E\'\n\') FROM vetassist_auth_audit a'), qr/\Q$device{ip}\E|$icn/, '... without the address or the whole ICN');
    my $token = app("SELECT token_refresh.get_access_token('va', '$user')");
    push @secrets, $token;
    like($token, qr/^at_/, 'the application gets a token of VA for its user');
    is($example->query(sprintf(q{SELECT position(convert_to(%s, 'UTF8') IN access_token) FROM token_refresh.credential}, literal($token))), '0', '... which is stored sealed');
    is($example->query("SELECT success FROM token_refresh.refresh_credential('va', '$user')"), 't', 'it can be refreshed');
    is(audit($user, 'token_refresh'), '{"success": true}|', '... and the audit has that');
    push @secrets, app("SELECT token_refresh.get_access_token('va', '$user')");
};

# What the old service did with a library for JWTs, with the standard library of Python.
my $decode = <<'END';
import base64, hashlib, hmac, json, sys, time
secret, token = sys.stdin.read().split("\n")[:2]
part = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
head, body, signature = token.split(".")
expected = hmac.new(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
assert hmac.compare_digest(expected, part(signature)), "wrong signature"
header, claims = json.loads(part(head)), json.loads(part(body))
assert header["alg"] == "HS256", header
assert claims["iss"] == "vetassist" and claims["aud"] == "vetassist-frontend", claims
assert claims["iat"] <= time.time() + 5 and time.time() < claims["exp"], claims
print(json.dumps({"header": header, "claims": claims}))
END

sub decode_in_python
{
    my ($jwt, $key) = @_;
    my ($output, $errors) = ('', '');
    my $input = "$key\n$jwt\n";
    IPC::Run::run([ 'python3', '-c', $decode ], '<', \$input, '>', \$output, '2>', \$errors, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
    return $output eq '' ? $errors : JSON::PP->new->decode($output);
}

subtest 'the JWT, decoded by Python' => sub {
    my $decoded = decode_in_python($alices_jwt, $secret);
    ok(ref $decoded, 'its signature is that of the secret') or diag($decoded);
    is_deeply($decoded->{header}, { alg => 'HS256', kid => 'vetassist', typ => 'JWT' }, 'the header');
    my %claims = %{ $decoded->{claims} };
    is(join(' ', sort keys %claims), 'aud exp iat iss jti sub va_icn va_linked', 'it has these claims and no others');
    is($claims{sub}, $alice, 'sub is the user');
    is($claims{jti}, app('SELECT jwt_id FROM vetassist_sessions'), 'jti is the session\'s');
    is_deeply([ @claims{qw(va_icn va_linked)} ], [ '1012740024V936776', JSON::PP::true ], 'va_icn and va_linked');
    is($claims{exp} - $claims{iat}, 1800, 'exp is 30 minutes after iat');
    is_deeply(claims($alices_jwt), \%claims, 'validate_jwt says the same');
    like(decode_in_python($alices_jwt, 'another secret'), qr/wrong signature/, 'with another secret it does not decode');
};

subtest 'the same veteran again' => sub {
    my $before = app("SELECT last_login_at FROM vetassist_users WHERE id = '$alice'");
    my $created = app("SELECT created_at FROM vetassist_users WHERE id = '$alice'");
    my ($user, $jwt) = sign_in('1012740024V936776', email => 'alice@example.org');
    is($user, $alice, 'is the same user');
    is(app("SELECT count(*), bool_and(last_login_at > '$before'), bool_and(created_at = '$created'), min(email) FROM vetassist_users"), '1|t|t|alice@example.org', '... whose last sign-in is later, and whose email is the newest');
    is(app('SELECT count(*), count(DISTINCT jwt_id) FROM vetassist_sessions'), '2|2', 'with a second session');
    is(is_good($_), 1, 'both are good') for $alices_jwt, $jwt;
    is(app("SELECT count(*) FROM vetassist_auth_audit WHERE event_type = 'login' AND user_id = '$alice'"), '2', 'and two logins in the audit');
    is($example->query('SELECT count(*) FROM token_refresh.credential'), '1', 'there is one credential, with the newer tokens');
};

subtest 'made-up data' => sub {
    my ($user, $jwt, $icn) = split /\|/, app(sprintf('SELECT s.user_id, s.jwt_token, u.va_icn FROM token_refresh.create_session(%s, %s, %s, %s) s LEFT JOIN vetassist_users u ON u.id = s.user_id',
        map { literal($_) } 'va', json({ access_token => 'made-up-access', refresh_token => 'made-up-refresh', expires_in => 3600 }), json({ icn => 'made-up', sub => 'not taken' }), json(\%device)));
    push @secrets, 'made-up-access', 'made-up-refresh', $jwt;
    is(app("SELECT va_icn, va_veteran_status FROM vetassist_users WHERE id = '$user'"), 'made-up|unknown', 'a user by ICN, of unknown status');
    is(app("SELECT token_refresh.get_access_token('va', '$user')"), 'made-up-access', 'the tokens are stored');
    is(claims($jwt)->{sub}, $user, 'and the JWT is good');
    my ($by_sub) = split /\|/, app(q{SELECT user_id FROM token_refresh.create_session('va', NULL, '{"sub": "only-sub"}')});
    is(app("SELECT va_icn FROM vetassist_users WHERE id = '$by_sub'"), 'only-sub', 'without an ICN it is the subject');
    is(audit($by_sub, 'login'), '{"icn": "only-sub...", "method": "va_oauth"}|', 'without device_info there is no hash');
    like(app_error(q{SELECT token_refresh.create_session('va', NULL, '{"email": "x@example.com"}')}), qr/^22023 the claims name nobody/, 'claims without either are refused');
};

subtest 'log out' => sub {
    my ($user, $jwt) = sign_in('bob');
    my ($same, $other) = sign_in('bob');
    my $connection = $node->background_psql($example->{database}, on_error_stop => 0, extra_params => [ '-U', 'vetassist' ]);
    my $check = sprintf('SELECT token_refresh.validate_jwt(%s) IS NOT NULL', literal($jwt));
    is($connection->query_safe($check), 't', 'another connection finds it good');
    is(app(sprintf('SELECT log_out(%s)', literal($jwt))), 't', 'log out');
    is($connection->query_safe($check), 'f', 'it is no good there from then on');
    $connection->quit;
    is(is_good($jwt), 0, 'nor here');
    is(is_good($other), 1, 'the other session of the user goes on');
    my $jti = app("SELECT jwt_id FROM vetassist_sessions WHERE user_id = '$user' AND revoked_at IS NOT NULL");
    is(audit($user, 'logout'), sprintf('{"jwt_id": "%s"}|', substr($jti, 0, 8)), 'the audit has it');
    is(app(sprintf('SELECT log_out(%s) IS NULL', literal($_))), 't', 'NULL for what is no good') for $jwt, 'made-up', '';
    is(app("SELECT count(*) FROM vetassist_auth_audit WHERE event_type = 'logout'"), '1', 'and that is not audited');
    is(ref decode_in_python($jwt, $secret), 'HASH', 'the signature alone does not tell: who only decodes it would go on');
};

subtest 'log out everywhere' => sub {
    my @jwt = map { (sign_in('carol'))[1] } 1 .. 3;
    my ($others_user, $others) = sign_in('dora');
    app(sprintf('SELECT log_out(%s)', literal($jwt[0])));
    is(app(sprintf('SELECT log_out_everywhere(%s)', literal($jwt[1]))), '2', 'two sessions are left to end');
    is(join('', map { is_good($_) } @jwt), '000', 'none is good any more');
    is(is_good($others), 1, 'that of another user is');
    my $carol = app("SELECT id FROM vetassist_users WHERE va_icn = 'carol'");
    is(audit($carol, 'logout_all'), '{}|', 'the audit has it');
    is(app("SELECT count(*) FROM vetassist_sessions WHERE user_id = '$carol' AND revoked_at IS NULL"), '0', 'no session of hers is open');
    is(is_good((sign_in('carol'))[1]), 1, 'she can sign in again');
    is(app("SELECT token_refresh.revoke_all_sessions('$others_user')"), '1', 'and an administrator does it by the id');
};

subtest '30 minutes later' => sub {
    my ($user, $jwt) = sign_in('erin');
    my $jti = claims($jwt)->{jti};
    $example->query("UPDATE token_refresh.session SET expires_at = clock_timestamp() WHERE jwt_id = '$jti'");
    is(is_good($jwt), 0, 'a session that is over is no good, whatever its JWT says');
    is(app(sprintf('SELECT log_out(%s)', literal($jwt))), '', 'nor is there anything to end');
    # One second is long enough to be good, and short enough to wait for.
    my $short = $example->query(q{SET token_refresh.jwt_lifetime = '2s'; SELECT jwt_token FROM token_refresh.create_session('va', NULL, '{"icn": "erin"}')});
    push @secrets, $short;
    local $ENV{PGOPTIONS} = '-c token_refresh.jwt_leeway=0';
    $example->await(sprintf('SELECT token_refresh.validate_jwt(%s) IS NULL', literal($short)), 'a JWT that expires is no good by itself');
};

subtest 'JWTs that are none of ours' => sub {
    my ($user, $jwt) = sign_in('mallory');
    my ($head, $body, $signature) = split /\./, $jwt;
    (my $flipped = $signature) =~ s/^(.)/$1 eq 'A' ? 'B' : 'A'/e;
    my %bad = ('another signature' => "$head.$body.$flipped", 'no signature' => "$head.$body.", 'two parts' => "$head.$body", 'nothing' => '', 'words' => 'not a JWT');
    is(is_good($bad{$_}), 0, $_) for sort keys %bad;
    is(app('SELECT token_refresh.validate_jwt(NULL) IS NULL'), 't', 'null');
    # Signed here, for somebody else: the same secret, another issuer or audience.
    for my $setting (qw(jwt_issuer jwt_audience))
    {
        my $foreign = $example->query("SET token_refresh.$setting = 'somebody-else'; SELECT jwt_token FROM token_refresh.create_session('va', NULL, '{\"icn\": \"mallory\"}')");
        push @secrets, $foreign;
        is(is_good($foreign), 0, "another $setting");
    }
};

# The indented lines of the README, with values for what begins with a dollar sign.
subtest 'the calls of the README' => sub {
    my @calls = $example->{readme} =~ /^    (SELECT .*);$/mg;
    is(scalar @calls, 7, 'seven');
    $server->control(claims => { icn => 'heidi' });
    my %value = ('1' => $redirect, device_info => json(\%device), va_tokens => json({ access_token => 'made-up', expires_in => 3600 }), va_claims => json({ icn => 'heidi' }));
    for my $call (@calls)
    {
        (my $sql = $call) =~ s/\$(\w+)/literal($value{$1})/ge;
        my $answer = $example->owner_query($sql);
        isnt($answer, '', $call);
        if ($call =~ /begin_authorization/)
        {
            my ($url) = split /\|/, $answer;
            my ($query) = HTTP::Tiny->new(max_redirect => 0)->get($url)->{headers}{location} =~ /\?(.*)/;
            %value = (%value, map { my ($name, $text) = split /=/; $text =~ s/%(..)/chr hex $1/ge; ($name => $text) } split /&/, $query);
        }
        @value{qw(user_id jwt)} = split /\|/, $answer if $call =~ /create_session_from_va_auth/;
        # It has been used to log out.
        $value{jwt} = (sign_in('heidi'))[1] if $call =~ /log_out\(/;
    }
};

subtest 'a grant that is withdrawn' => sub {
    my ($user) = sign_in('ivan');
    $server->control(refuse => 'invalid_grant');
    is($example->query("SELECT success FROM token_refresh.refresh_credential('va', '$user')"), 'f', 'VA refuses to refresh');
    $server->control();
    like(audit($user, 'token_refresh_failed'), qr/^\{"error": ".*invalid_grant.*"\}\|$/, 'the audit has that, and why');
    is(app("SELECT token_refresh.get_access_token('va', '$user') IS NULL FROM token_refresh.credential WHERE subject = '$user' AND status = 'needs_reauth'"), 'f', 'the token is handed out while it lives');
    sign_in('ivan');
    is(app("SELECT status FROM token_refresh.credential WHERE subject = '$user'"), 'connected', 'and signing in is all that it takes');
};

subtest 'refused' => sub {
    my $count = 'SELECT (SELECT count(*) FROM vetassist_users), (SELECT count(*) FROM vetassist_sessions)';
    my $refusals = "SELECT count(*) FROM vetassist_auth_audit WHERE event_type = 'login_failed'";
    my $refused = sub {
        my ($what, $error, $audited, %got) = @_;
        my ($before, $known) = (app($count), app($refusals));
        like(app_error(callback_sql(%got)), $error, $what);
        is(app($count), $before, '... leaves neither user nor session');
        is(app($refusals), $known + ($audited ? 1 : 0), '... in the audit: ' . ($audited // 'nothing, since nobody knows of whom'));
        like(app("SELECT event_data ->> 'error' FROM vetassist_auth_audit WHERE event_type = 'login_failed' ORDER BY created_at DESC LIMIT 1"), qr/^$audited: /, '... with the reason') if $audited;
        return;
    };
    my %got = visit_va(icn => 'frank');
    app(callback_sql(%got));
    $refused->('a code that was used', qr/^28000 /, 'state_used', %got);
    %got = visit_va(icn => 'nobody');
    $refused->('a code that was tampered with', qr/^28000 /, 'provider_refused', %got, code => "$got{code}x");
    $refused->('a state that nobody has made', qr/^28000 /, undef, %got, state => 'x' x 43);
    %got = visit_va(icn => 'nobody', aud => 'another application');
    $refused->('an id_token for another application', qr/^28000 /, 'id_token_wrong_audience', %got);
    %got = visit_va(icn => 'nobody', exp => time - 3600);
    $refused->('an id_token that has expired', qr/^28000 /, 'id_token_expired', %got);
    %got = visit_va(icn => 'nobody');
    $server->control(forge => 'alg_none');
    $refused->('an id_token without a signature', qr/^28000 /, 'id_token_\w+', %got);
    $server->control();
    %got = visit_va(icn => 'nobody');
    $server->control(down => ['/token']);
    $refused->('VA is down', qr/^08006 /, 'provider_unavailable', %got);
    $server->control();
    is(app(q{SELECT count(*) FROM vetassist_users WHERE va_icn = 'nobody'}), '0', 'nobody is nobody');
};

subtest 'the audit as a whole' => sub {
    my $shown = $example->step('Check');
    like($shown, qr/sessions that live.*1012740024V936776 \|\s+2 \|/s, 'monitoring shows sessions');
    like($shown, qr/login +\|.*login_failed +\|.*logout +\|.*logout_all +\|.*token_refresh +\|/s, 'counts what happened');
    like($shown, qr/state_used: .*provider_unavailable: /s, 'and says why sign-ins were refused');
    is(app("SELECT string_agg(DISTINCT event_type, ' ' ORDER BY event_type) FROM vetassist_auth_audit"), 'login login_failed logout logout_all token_refresh token_refresh_failed', 'these event types, and no others');
    is(app("SELECT count(*) FROM vetassist_auth_audit WHERE event_type <> 'login_failed' AND user_id IS NULL"), '0', 'each has its user, but what was refused');
    is(app("SELECT count(*) FROM vetassist_auth_audit WHERE ip_hash !~ '^[0-9a-f]{64}\$'"), '0', 'hashes are 64 hexadecimal digits, as they were');
    sign_in('gus', device => { ip => "192.0.2.$_" }) for 1 .. 4;
    like($example->step('Check'), qr/more than three addresses.*\|\s+4\b/s, 'who signs in from many addresses is shown');
    my $audit = $example->query("SELECT string_agg(a::text, ' ') FROM vetassist_auth_audit a") . $example->query("SELECT string_agg(s::text, ' ') FROM vetassist_sessions s");
    unlike($audit, qr/192\.0\.2\./, 'no address is stored');
    ok(secrets_absent($audit . read_log($node), grep { $_ ne '' } @secrets), 'no secret is in the audit, in the sessions or in the log');
};

subtest 'what the application may not do' => sub {
    like(app_error($_), qr/^42501 /, $_) for 'SELECT * FROM token_refresh.session', 'SELECT * FROM token_refresh.signing_key', q{SELECT token_refresh.create_signing_key()},
        'SELECT * FROM token_refresh.audit_event', 'UPDATE vetassist_users SET va_icn = NULL', 'SET token_refresh.jwt_issuer = \'x\'';
};

$example->ran_all_steps;
$node->stop;
done_testing();
