# examples/signin with Chromium, against a certified OpenID provider: the browser goes from the sign-in page to a
# protected page, logs out, and logs out everywhere; what must be refused is; the tokens are kept fresh.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use BrowserTest;
use Test::More;
use Time::HiRes qw(usleep);
use TokenRefreshTest;

my $lacking = BrowserTest::lacking();
plan(skip_all => $lacking) if $lacking;

my ($port, $app_url) = BrowserTest::new_address();
my $provider = start_oidc_server(ACCESS_TOKEN_TTL => 4, SIGN_IN_REDIRECT_URIS => "$app_url/callback");
my $node     = new_node('main', -extension => 0, log_statement => 'all', log_parameter_max_length => '0');
my ($client) = grep { $_->{client_id} eq 'sign-in' } @{ $provider->call(GET => '/test/clients') };

my $example = ExampleTest->new($node, 'signin',
    ISSUER => $provider->url, CLIENT_ID => 'sign-in', CLIENT_SECRET => $client->{client_secret});
$example->step('Set up');
$example->ran_all_steps;

my %database = (PGHOST => $node->host, PGPORT => $node->port, PGUSER => 'signin_app', PGDATABASE => 'signin');
my $app      = BrowserTest::App->start($port, APP_URL => $app_url, %database);
my $browser  = BrowserTest::Browser->start;

my @secrets = ($client->{client_secret});

# All sessions there are, and the living ones.
sub sessions { return $example->query('SELECT count(*) FROM token_refresh.session'); }

sub active_sessions { return $example->query(q{SELECT count(*) FROM token_refresh.session_status WHERE status = 'active'}); }

sub credential { return $example->query("SELECT $_[0] FROM token_refresh.token_status"); }

# At the provider: who somebody is, up to the question for his consent.
sub give_name
{
    my ($visitor, $name) = @_;
    $visitor->open("$app_url/");
    my $page = $visitor->press('Sign in');
    like($page->{url}, qr/^\Q@{[ $provider->url ]}\E\//, "$visitor->{name}: the link leads to the provider, another site");
    # It has a session of its own with a browser that has been there.
    if ($page->{title} eq 'Provider: sign in')
    {
        $visitor->fill('Name', $name);
        $page = $visitor->press('Continue');
    }
    is($page->{title}, 'Provider: consent', 'which asks for consent');
    return;
}

sub sign_in
{
    my ($visitor, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    give_name($visitor, $name);
    my $page = $visitor->press('Allow');
    is("$page->{status} $page->{url} $page->{title}", "200 $app_url/account Hello, $name", "$visitor->{name} sees the protected page");
    push @secrets, $visitor->cookies->{session}{value};
    return $page;
}

# The URL of the callback, which the browser has not followed.
sub caught_callback
{
    my ($visitor, $name) = @_;
    give_name($visitor, $name);
    my $url = $visitor->catch('Allow', "$app_url/callback*");
    push @secrets, $url =~ /[?&]code=([^&]+)/;
    return $url;
}

# A test point: the page tells of a refusal, there is no session more, and no cookie of one.
sub refused
{
    my ($visitor, $page, $status, $message, $sessions_before, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $cookie = exists $visitor->cookies->{session} ? 'a session cookie' : 'no session cookie';
    return is_deeply([ @$page{qw(status title)}, $cookie, sessions() ], [ $status, $message, 'no session cookie', $sessions_before ], $what);
}

# How many the audit has for one of these reasons.
sub audited_refusals
{
    my $reasons = join(', ', map { literal($_) } @_);
    return $example->query("SELECT count(*) FROM token_refresh.audit_event WHERE event = 'authorization_refused' AND failure IN ($reasons)");
}

sub shown_account { my ($page) = @_; return $page->{text} =~ /Your account is ([0-9a-f-]{36})/ ? $1 : undef; }

subtest 'a stranger' => sub {
    my $stranger = $browser->visitor('stranger');
    is($stranger->open("$app_url/")->{title}, 'Welcome', 'sees the public page');
    refused($stranger, $stranger->open("$app_url/account"), 401, 'Please sign in.', 0, 'and no protected one');
};

my $alice = $browser->visitor('alice');
my $phone = $browser->visitor('alice on her phone');
my $account;

subtest 'sign in' => sub {
    my $page = sign_in($alice, 'alice');
    $account = shown_account($page);
    is($account, $example->query('SELECT id FROM token_refresh.account'), 'which says what the account is');
    like($page->{text}, qr/There is an access token until \d{4}-\d\d-\d\dT/, 'and until when the access token is good');
    my $cookies = $alice->cookies;
    is_deeply([ map { $cookies->{session}{$_} ? 1 : 0 } qw(httpOnly secure) ], [ 1, 0 ], 'the cookie is for no script, and there is no https');
    is($cookies->{session}{sameSite}, 'Lax', 'SameSite=Lax');
    is($cookies->{session}{domain}, 'localhost', 'for the application alone');
    ok(!exists $cookies->{'sign-in'}, 'the cookie with the state is gone');
    like($cookies->{session}{value}, qr/^[\w-]+\.[\w-]+\.[\w-]+$/, 'the cookie is a JWT');
    is($example->query(q{SELECT string_agg(provider || ' ' || identity || ' ' || (claims ->> 'name'), ',') FROM token_refresh.account}),
        'openid alice alice', 'the account has the claims of the id_token');
    is($example->query(q{SELECT device_info ->> 'user_agent' ~ 'Chrome' AND ip_hash = token_refresh.ip_hash('127.0.0.1') FROM token_refresh.session_status}),
        't', 'the session knows the browser, and a hash of the address');
    is(credential(q{string_agg(subject || ' ' || status, ',')}), "$account connected", 'the tokens belong to the account');
};

subtest 'the credential is kept fresh' => sub {
    $example->await('SELECT min(refresh_count) >= 2 FROM token_refresh.token_status', 'it is refreshed by itself');
    my $token = $example->query("SELECT token_refresh.get_access_token('openid', '$account')");
    ok($provider->is_active($token), 'the provider knows the access token');
    push @secrets, $token;
    is($provider->stats->{reuse}, 0, 'and has seen no refresh token twice');
};

subtest 'log out everywhere' => sub {
    is(shown_account(sign_in($phone, 'alice')), $account, 'another browser, the same account');
    is(active_sessions(), 2, 'there are two sessions');
    is($alice->open("$app_url/account")->{status}, 200, 'the first goes on');
    is($phone->press('Sign out everywhere')->{title}, 'Welcome', 'log out everywhere');
    is(active_sessions(), 0, 'no session is left');
    refused($_, $_->open("$app_url/account"), 401, 'Please sign in.', 2, "$_->{name}: the next request is refused") for $alice, $phone;
    is($example->query(q{SELECT string_agg(event, ',' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE event IN ('login', 'logout', 'logout_all')}),
        'login,login,logout_all', 'the audit tells of it');
};

subtest 'log out' => sub {
    sign_in($_, 'alice') for $alice, $phone;
    my $stolen = $phone->cookies->{session}{value};
    is($phone->press('Sign out')->{title}, 'Welcome', 'log out');
    refused($phone, $phone->open("$app_url/account"), 401, 'Please sign in.', 4, 'the browser is out');
    is(request('GET', '/account', Cookie => "session=$stolen")->{status}, 401, 'and the JWT is no good, had somebody copied it');
    is($alice->open("$app_url/account")->{status}, 200, 'the other browser is not concerned');
};

# Requests without a browser, with whatever headers.
sub request
{
    my ($method, $path, %headers) = @_;
    return HTTP::Tiny->new(max_redirect => 0, timeout => $PostgreSQL::Test::Utils::timeout_default)
        ->request($method, "http://127.0.0.1:$port$path", { headers => \%headers });
}

my $forged = 'This sign-in was not begun in this browser, or has been used.';

subtest 'callbacks that are refused' => sub {
    my $mallory = $browser->visitor('mallory');
    my $before  = sessions();
    my $refused = sub { refused($mallory, $mallory->open($_[0]), 400, $_[1], $before, $_[2]) };

    my $url = caught_callback($mallory, 'mallory');
    refused($phone, $phone->open($url), 400, $forged, $before, 'a state of another browser, which has no cookie');
    $mallory->forget_cookies;
    $refused->($url, $forged, 'the cookie is missing');

    ($url = caught_callback($mallory, 'mallory')) =~ s/([?&]code=)(.)/$1 . ($2 eq 'A' ? 'B' : 'A')/e;
    $refused->($url, 'The sign-in was refused.', 'a tampered code');
    # It takes more than a browser to send the cookie again.
    my ($state) = $url =~ /[?&]state=([^&]+)/;
    (my $path = $url) =~ s/^\Q$app_url\E//;
    is(request('GET', $path, Cookie => "sign-in=$state")->{status}, 400, 'the state is no good any more');

    ($url = caught_callback($mallory, 'mallory')) =~ s/([?&]state=)(.)/$1 . ($2 eq 'A' ? 'B' : 'A')/e;
    $refused->($url, $forged, 'a tampered state');

    ($url = caught_callback($mallory, 'mallory')) =~ s/([?&]iss=)[^&]*/$1https%3A%2F%2Felsewhere.example.com/;
    $refused->($url, 'The sign-in was refused.', 'an answer of another issuer');

    give_name($mallory, 'mallory');
    my $page = $mallory->press('Cancel');
    refused($mallory, $page, 400, 'You have not signed in.', $before, 'no consent');
    is($example->query(q{SELECT count(*) FROM token_refresh.account WHERE identity = 'mallory'}), 0, 'no account has come of all that');
    is(audited_refusals($_), 1, "the audit has the reason: $_") for qw(provider_refused state_used state_other_provider);
};

subtest 'a state is good once' => sub {
    my $bob = $browser->visitor('bob');
    my $url = caught_callback($bob, 'bob');
    is($bob->open($url)->{title}, 'Hello, bob', 'a callback');
    push @secrets, $bob->cookies->{session}{value};
    my $before = sessions();
    is($bob->open($url)->{title}, $forged, 'the same once more: refused');
    my ($state) = $url =~ /[?&]state=([^&]+)/;
    (my $path = $url) =~ s/^\Q$app_url\E//;
    my $answer = request('GET', $path, Cookie => "sign-in=$state");
    is($answer->{status}, 400, 'with the cookie, too');
    unlike($answer->{headers}{'set-cookie'}, qr/session=/, 'which gives no session cookie');
    is(sessions(), $before, 'nor is there a session more');
    is($bob->open("$app_url/account")->{title}, 'Hello, bob', 'the one that there is lives');
};

subtest 'a name with markup' => sub {
    my $name    = q{<script>alert(1)</script><b title="'&amp;">};
    my $visitor = $browser->visitor('somebody');
    my $page    = sign_in($visitor, $name);
    like($page->{text}, qr/^Hello, \Q$name\E$/m, 'it is text');
    is($page->{dialogs}, 0, 'no script runs');
};

subtest 'forms of others' => sub {
    my $session = $alice->cookies->{session}{value};
    for my $path (qw(/sign-out /sign-out-everywhere /disconnect))
    {
        for my $origin ($provider->url, 'null', "$app_url.example.com", undef)
        {
            my $answer = request('POST', $path, Cookie => "session=$session", defined $origin ? (Origin => $origin) : ());
            is($answer->{status}, 403, "$path from " . ($origin // 'nowhere'));
        }
    }
    is($alice->open("$app_url/account")->{status}, 200, 'the session lives');
    is(request('POST', '/sign-out', Origin => $app_url)->{status}, 401, 'without a session there is nothing to end');
};

subtest 'odd requests' => sub {
    is(request('GET', "/callback?$_", Cookie => 'sign-in=a')->{status}, 400, $_ || 'nothing') for '', 'state=a', 'state=a&code=b&code=c', 'state=a&state=a', 'state=a&error=server_error',
        'state=a&code=%00', 'state=a&code=b&iss=c&iss=d';
    is(request('GET', '/account', Cookie => $_)->{status}, 401, "the cookie $_") for 'session=', 'session=a.b.c', 'session=%', 'xsession=a', 'session';
    is(sessions(), $example->query(q{SELECT count(*) FROM token_refresh.audit_event WHERE event = 'login'}), 'no session has come of that');
};

subtest 'disconnect' => sub {
    my $before = $provider->stats->{revocations};
    my $page   = $alice->press('Disconnect');
    like($page->{text}, qr/There is no access token/, 'the token is gone, and alice is still there');
    is(credential("count(*) FILTER (WHERE subject = '$account')"), 0, 'the credential is forgotten');
    my $tries = 10 * $PostgreSQL::Test::Utils::timeout_default;
    while ($provider->stats->{revocations} == $before && $tries-- > 0) { usleep(100_000); }
    cmp_ok($provider->stats->{revocations}, '>', $before, 'the provider is told');
    $page = $alice->press('Sign in');
    is($page->{title}, 'Provider: consent', 'she may connect again: the provider knows her, and asks for consent');
    like($alice->press('Allow')->{text}, qr/There is an access token until/, 'and is');
};

subtest 'the provider changes its keys' => sub {
    my $carol = $browser->visitor('carol');
    sign_in($carol, 'carol');
    my $fetched = $provider->stats->{jwks};
    sign_in($carol, 'carol');
    is($provider->stats->{jwks}, $fetched, 'keys that are known are not fetched again');
    my $before = sessions();
    $provider->call(POST => '/test/control?rotate_keys=true&jwks_broken=true');
    give_name($carol, 'carol');
    like($carol->press('Allow')->{status}, qr/^(400|503)$/, 'a key that is not known, nor to be had: refused');
    is(sessions(), $before, 'and no session');
    is(audited_refusals('id_token_unknown_key', 'keys_unavailable'), 1, 'the audit has the reason');
    # With the server, what it remembers of keys is gone; else it would not look again within a minute.
    $provider->call(POST => '/test/control?jwks_broken=false');
    $node->restart('fast');
    sign_in($carol, 'carol');
};

subtest 'https' => sub {
    my $https_port = PostgreSQL::Test::Cluster::get_free_port();
    my $https = BrowserTest::App->start($https_port, APP_URL => 'https://app.example.com', %database);
    my $answer = HTTP::Tiny->new(max_redirect => 0)->get("http://127.0.0.1:$https_port/sign-in");
    is($answer->{status}, 302, 'behind a proxy with https');
    like($answer->{headers}{'set-cookie'}, qr/^__Host-sign-in=[^;]+;(?=.* Path=\/(;|$))(?=.* HttpOnly)(?=.* Secure)(?=.* SameSite=Lax)(?!.* Domain)/, 'cookies are Secure, and bound to the host');
    like($answer->{headers}{location}, qr/redirect_uri=https%3A%2F%2Fapp\.example\.com%2Fcallback/, 'the provider hears of that address');
    $https->stop;
};

subtest 'the database is away' => sub {
    $node->stop('fast');
    my $page = $alice->open("$app_url/account");
    is("$page->{status} $page->{title}", '503 This does not work at the moment.', 'an answer without details');
    ok(exists $alice->cookies->{session}, 'nobody is signed out by that');
    $node->start;
    $example->await('SELECT true', 'it is back');
    is($alice->open("$app_url/account")->{status}, 200, 'and so is the session');
};

$app->stop;
ok(secrets_absent($app->log, @secrets), 'nothing secret is in the log of the application');
ok(secrets_absent(read_log($node), @secrets), 'nor in that of the server');
ok(secrets_absent($example->query(q{SELECT string_agg(e::text, ' ') FROM token_refresh.audit_event e}), @secrets), 'nor in the audit');
$node->stop;
done_testing();
