# examples/platform_connections, by the commands of its README: five platforms in one table, with ciphertext that Node
# writes and reads, the application's statuses and error columns, timestamps without time zone, and its monitoring queries.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
# The timestamps of the table mean UTC wherever the server is.
my $node = new_node('main', -extension => 0, TimeZone => 'America/New_York');
my $key  = `openssl rand -hex 32`;
chomp $key;
my @realms = qw(spotify discord google);
my %secret = map { $_ => "obviously-fake-secret-of-$_" } @realms;
my $example = ExampleTest->new($node, 'platform_connections', database => 'platform', ENCRYPTION_KEY => $key, KEY_FILE => $node->basedir . '/token_refresh.keys',
    map { (uc($_) . '_TOKEN_ENDPOINT' => $server->token_endpoint($_), uc($_) . '_CLIENT_ID' => "client-of-$_", uc($_) . '_CLIENT_SECRET' => $secret{$_}) } @realms);

sub set_client { my ($realm, $secret) = @_; $server->control($realm, auth => { method => $realm eq 'google' ? 'post' : 'basic', client_id => "client-of-$realm", client_secret => $secret }); return; }
set_client($_, $secret{$_}) for @realms;
# Two hours, so that what is fresh does not expire within one.
$server->control($_, lifetime => $_ eq 'discord' ? 7 * 86400 : 7200) for @realms;

my %realm = (spotify => 'spotify', discord => 'discord', map { $_ => 'google' } qw(youtube gmail google_calendar));
my @platforms = sort keys %realm;
my %id = map { $_->[0] => sprintf('00000000-0000-4000-8000-%012d', $_->[1]) } [ ann => 1 ], [ ben => 2 ], [ cleo => 3 ], [ dora => 4 ];
my @secrets = ($key, values %secret);

# Without Node another implementation of its format stands in, so that everything else is tested.
my $has_node = system('node -e "" >/dev/null 2>&1') == 0;
my @encrypt  = $has_node ? ('node', 'encrypt.mjs') : ();
note('node is missing: python stands in for it') unless $has_node;

sub encrypt { my @tokens = @_; return @encrypt ? $example->convert(\@encrypt, @tokens) : $example->hex_cipher('encrypt', @tokens); }

# What the application does when a user has connected a platform.
sub connect_platform
{
    my ($user, @platforms) = @_;
    my $sql = '';
    for my $platform (@platforms)
    {
        my ($grant) = $server->grants($realm{$platform}, subjects => ["$platform-$user"]);
        push @secrets, $grant->{access_token}, $grant->{refresh_token};
        my @stored = encrypt($grant->{access_token}, $grant->{refresh_token});
        $sql .= "INSERT INTO platform_connections (user_id, platform, access_token, refresh_token, token_expires_at)"
            . " VALUES ('$id{$user}', '$platform', '$stored[0]', '$stored[1]', (now() AT TIME ZONE 'UTC') + interval '$grant->{expires_in} seconds')"
            . ' ON CONFLICT (user_id, platform) DO UPDATE SET access_token = excluded.access_token, refresh_token = excluded.refresh_token,'
            . " token_expires_at = excluded.token_expires_at, status = 'connected', last_sync_error = NULL;\n";
    }
    $example->owner_query($sql);
    return;
}

sub where { my ($user, @platforms) = @_; return "user_id = '$id{$user}' AND platform IN (" . join(', ', map { "'$_'" } @platforms) . ')'; }

sub expire
{
    my ($user, $when, @platforms) = @_;
    $example->owner_query("UPDATE platform_connections SET token_expires_at = (now() AT TIME ZONE 'UTC') + interval '$when' WHERE " . where($user, @platforms));
    return;
}

sub await_refreshed
{
    my ($what, $user, @platforms) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $example->await("SELECT bool_and(token_expires_at > (now() AT TIME ZONE 'UTC') + interval '90 minutes') FROM platform_connections WHERE " . where($user, @platforms), $what);
}

sub columns { my ($user, $platform, $columns) = @_; return $example->query("SELECT $columns FROM platform_connections WHERE " . where($user, $platform)); }

sub requests { my ($user, $platform) = @_; return $server->stats($realm{$platform})->{per_subject}{"$platform-$user"}{requests} // 0; }

# A test point: what token_status comes to say.
sub await_status
{
    my ($user, $platform, $condition, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $example->await("SELECT $condition FROM token_refresh.token_status WHERE subject = '$id{$user}' AND provider = '$platform'", $what);
}

my $github = "SELECT string_agg(c::text, ' ' ORDER BY user_id) FROM platform_connections c WHERE platform = 'github'";
my $github_before;

subtest 'the application as it was' => sub {
    $example->step('Try it');
    $example->owner_query('INSERT INTO users VALUES ' . join(', ', map { "('$id{$_}')" } sort keys %id));
    connect_platform($_, @platforms) for qw(ann ben cleo);
    my @personal = encrypt('personal-access-token-of-ann', 'personal-access-token-of-ben');
    $example->owner_query("INSERT INTO platform_connections (user_id, platform, access_token) VALUES ('$id{ann}', 'github', '$personal[0]'), ('$id{ben}', 'github', '$personal[1]')");
    # One that has run out long ago, should GitHub's tokens ever do that.
    $example->owner_query("UPDATE platform_connections SET refresh_token = access_token, token_expires_at = '2020-01-01' WHERE " . where('ben', 'github'));
    $github_before = $example->query($github);
};

subtest 'attach' => sub {
    my $rows   = "SELECT md5(string_agg(c::text, ' ' ORDER BY id)) FROM platform_connections c";
    my $before = $example->query($rows);
    $example->step('Give it the key');
    my ($status, undef, $errors) = $example->run_in_folder([ 'env', '-u', 'SPOTIFY_CLIENT_ID', '-u', 'GOOGLE_CLIENT_SECRET', 'psql', '-qf', 'attach.sql' ], '');
    is($status, 3, 'attach.sql fails without all of the clients');
    like($errors, qr/ERROR:  not set in the environment: SPOTIFY_CLIENT_ID, GOOGLE_CLIENT_SECRET\n/, 'and says what is not set');
    $example->step('Attach');
    $example->readme_quotes('attach.sql');
    is($example->query($rows), $before, 'the rows are as they were');
    $example->await("SELECT count(*) = 15 FROM token_refresh.token_status WHERE provider <> 'github'", 'the rows that were there are scheduled');
    is($example->owner_query("SELECT string_agg(DISTINCT concat_ws(' ', provider, status), ', ') FROM token_refresh.token_status WHERE provider <> 'github'"),
        join(', ', map { "$_ connected" } @platforms), 'the owner sees all five platforms');
    $example->step('Switch over');
};

subtest 'refreshed' => sub {
    expire('ann', '2 minutes', @platforms);
    await_refreshed('all five of one user', 'ann', @platforms);
    for my $platform (@platforms)
    {
        is(columns('ann', $platform, 'status, last_sync_status, last_sync_error IS NULL'), 'connected|success|t', "$platform: status and result");
        is(columns('ann', $platform, "updated_at BETWEEN (now() AT TIME ZONE 'UTC') - interval '1 minute' AND now() AT TIME ZONE 'UTC'"), 't', "$platform: updated_at, in UTC");
        my $hours = $platform eq 'discord' ? 7 * 24 : 2;
        is(columns('ann', $platform, "token_expires_at - (now() AT TIME ZONE 'UTC') BETWEEN interval '$hours hours' - interval '1 minute' AND interval '$hours hours'"), 't', "$platform: token_expires_at, in UTC");
        my @tokens = $example->hex_cipher('decrypt', split /\|/, columns('ann', $platform, 'access_token, refresh_token'));
        push @secrets, @tokens;
        ok($server->is_active($realm{$platform}, $tokens[0]), "$platform: the token is good");
        is(requests('ann', $platform), 1, "$platform: one request");
    }
    is($server->stats('spotify')->{last_auth_method}, 'basic', 'Spotify got its client secret in the header');
    is($server->stats('google')->{last_auth_method},  'post',  'Google in the body');
};

subtest 'Node reads what was written' => sub {
    unless ($has_node)
    {
        $example->leave_out('Check');
        plan(skip_all => 'node is missing');
    }
    is($example->step('Check') + 0, 2 * @platforms, 'the command of the README counts the tokens that open');
    my @stored = split /\n/, $example->query('SELECT unnest(ARRAY[access_token, refresh_token]) FROM platform_connections WHERE ' . where('ann', @platforms) . ' ORDER BY platform');
    is(join(' ', $example->convert([ 'node', 'decrypt.mjs' ], @stored)), join(' ', $example->hex_cipher('decrypt', @stored)), 'and Node reads in them what others do');
    is(scalar(grep { !/^[0-9a-f]{32}:[0-9a-f]{32}:(?:[0-9a-f]{2})+$/ } @stored), 0, 'in the form that the application uses, with an iv of 16 bytes');
};

subtest 'invalid_grant: needs_reauth' => sub {
    # The platform quotes in its error what it was sent.
    $server->fault('spotify', kind => 'echo', error => 'invalid_grant', match => '-ben$');
    expire('ben', '2 minutes', 'spotify');
    $example->await('SELECT status = \'needs_reauth\' FROM platform_connections WHERE ' . where('ben', 'spotify'), 'the row says needs_reauth');
    is(columns('ben', 'spotify', 'last_sync_status'), 'error', 'last_sync_status');
    my $error = columns('ben', 'spotify', 'last_sync_error');
    like($error, qr/invalid_grant/, 'last_sync_error');
    ok(secrets_absent($error, @secrets), 'without the secrets that the platform put into it');
    is(columns('ben', 'spotify', "updated_at > (now() AT TIME ZONE 'UTC') - interval '1 minute'"), 't', 'updated_at');
};

subtest 'invalid_client: error' => sub {
    set_client('discord', 'obviously-another-secret');
    expire('ben', '2 minutes', 'discord');
    $example->await('SELECT status = \'error\' FROM platform_connections WHERE ' . where('ben', 'discord'), 'the row says error');
    is(columns('ben', 'discord', 'last_sync_status'), 'error', 'last_sync_status');
    like(columns('ben', 'discord', 'last_sync_error'), qr/invalid_client/, 'last_sync_error');
};

subtest 'what passes: connected' => sub {
    my %trouble = (
        google_calendar => [ [ kind => 'status', status => 500 ], 'HTTP 500' ],
        youtube         => [ [ kind => 'status', status => 418, body => { error => 'teapot' } ], 'HTTP 418' ]);
    for my $platform (sort keys %trouble)
    {
        $server->fault('google', @{ $trouble{$platform}[0] }, match => "^$platform-ben\$");
        expire('ben', '2 minutes', $platform);
        await_status('ben', $platform, "attempts >= 1 AND last_error LIKE 'transient: $trouble{$platform}[1]%'", "$platform: the refresh fails");
        is(columns('ben', $platform, "status, last_sync_status, last_sync_error LIKE '%$trouble{$platform}[1]%'"), 'connected|error|t', "$platform: the row says connected, and what went wrong");
        expire('ben', '-1 minute', $platform);
        $example->await("SELECT status = 'token_expired' FROM platform_connections WHERE " . where('ben', $platform), "$platform: once the token has run out the row says that");
        $server->fault('google');
        await_refreshed("$platform: tried again until it works", 'ben', $platform);
        is(columns('ben', $platform, 'status, last_sync_status, last_sync_error IS NULL'), 'connected|success|t', "$platform: and then all is well");
    }
    $server->fault('google', kind => 'status', status => 429, match => '^gmail-ben$');
    expire('ben', '2 minutes', 'gmail');
    await_status('ben', 'gmail', "last_error LIKE 'rate_limited: HTTP 429%' AND attempts = 0 AND due_at - clock_timestamp() BETWEEN interval '30 s' AND interval '62 s'", 'gmail: 429 is to be tried again in a minute, and counts as no attempt');
    is(columns('ben', 'gmail', "status, last_sync_status, last_sync_error LIKE '%429%'"), 'connected|error|t', 'gmail: the row says connected, and what went wrong');
};

subtest 'monitoring' => sub {
    my $error = sub { my $text = columns('ben', $_[0], 'last_sync_error'); return "$_[0]|$text|1"; };
    $example->owner_query('INSERT INTO platform_connections (user_id, platform, access_token, refresh_token, token_expires_at)'
        . " VALUES ('$id{dora}', 'linkedin', 'aa:bb:cc', 'aa:bb:cc', '2020-01-01'), ('$id{dora}', 'youtube', 'garbage', 'garbage', '2020-01-01')");
    $example->await("SELECT count(*) = 2 FROM token_refresh.token_status WHERE subject = '$id{dora}' AND status = 'error'", 'two rows cannot be served');
    is(columns('dora', $_, 'status, last_sync_status, last_sync_error IS NULL'), 'connected|pending|t', "$_: which its own columns do not say") for qw(linkedin youtube);
    is($example->owner_query("SELECT success, failure, message FROM platform_connections c, token_refresh.refresh_row('platform_connections', c.id::text)"
            . " WHERE c.platform = 'linkedin'"), 'f|client_config|there is no provider "linkedin"', 'a manual refresh says why it cannot be');
    is($example->step('Monitor'), join("\n",
            '== tokens that expire within an hour', 'discord|1', 'github|1', 'gmail|1', 'linkedin|1', 'spotify|1', 'youtube|1',
            '== connections whose user must sign in again', 'spotify|1',
            '== failed refreshes', $error->('discord'), $error->('gmail'), $error->('spotify'),
            '== connections that cannot be refreshed, which the table does not say', 'linkedin|client_config: there is no provider "linkedin"|1',
            'youtube|client_config: the stored refresh token does not open with the keys at hand|1', ''), 'the three queries, and the fourth');
    $example->owner_query("DELETE FROM platform_connections WHERE user_id = '$id{dora}'");
};

subtest 'health and metrics' => sub {
    my $health = sub { my ($user) = @_; return $example->step('Health', USER_ID => $id{$user}) =~ s/\s+//gr; };
    my $entry = sub { return sprintf('{"platform":"%s","connected":%s,"status":"%s"}', $_[0], $_[1] ? ('true', 'healthy') : ('false', 'needs_reconnect')); };
    is($health->('ann'), '{"health":[' . join(',', map { $entry->($_, 1) } qw(spotify youtube discord)) . ']}', 'all is well with one user');
    is($health->('ben'), '{"health":[' . join(',', $entry->('spotify', 0), $entry->('youtube', 1), $entry->('discord', 0)) . ']}', 'two of three platforms are not well with another');
    is($health->('dora'), '{"health":[' . join(',', map { $entry->($_, 0) } qw(spotify youtube discord)) . ']}', 'a third has none');
    my $metrics = $example->step('Metrics');
    like($metrics, qr/^discord\|failed\|client_config\|[1-9]\d*\ndiscord\|success\|\|1\n/m, 'successes and failures by platform and reason');
    like($metrics, qr/^spotify\|failed\|reauth\|1\nspotify\|success\|\|1\n/m, 'a dead grant is counted once');
    like($metrics, qr/^gmail\|failed\|rate_limited\|1\n/m, 'so is a request to wait');
    like($metrics, qr/^spotify\|3\|0\|0\|1$/m, 'how many connections there are, and how they stand');
};

subtest 'mended' => sub {
    $example->query(q(SELECT token_refresh.alter_provider('discord', '{"client_secret": "obviously-another-secret"}')));
    await_refreshed('discord: with the right secret it is refreshed at once', 'ben', 'discord');
    is(columns('ben', 'discord', 'status, last_sync_status, last_sync_error IS NULL'), 'connected|success|t', 'discord: and all is well');
    $server->fault('spotify');
    connect_platform('ben', 'spotify');
    expire('ben', '2 minutes', 'spotify');
    await_refreshed('spotify: the user has connected it again, and refreshing goes on', 'ben', 'spotify');
    is(columns('ben', 'spotify', 'status, last_sync_status, last_sync_error IS NULL'), 'connected|success|t', 'spotify: and all is well');
    is(requests('ben', 'spotify'), 2, 'spotify: the dead grant was presented once');
};

subtest 'by hand' => sub {
    my $before = requests('ann', 'spotify');
    $example->query('SELECT token_refresh.pause()');
    # It would fall due again when its minute is over.
    $server->fault('google');
    connect_platform('ben', 'gmail');
    expire('ann', '-1 minute', 'discord', 'spotify');
    expire('ben', '-1 minute', 'discord');
    $server->fault('discord', kind => 'status', status => 503, match => '-ben$');
    my ($status, $output, $errors) = $example->run_in_folder([ 'bash', '-euo', 'pipefail', '-c', $example->{steps}{'Refresh by hand'} ], '', USER_ID => $id{ann});
    is($status, 0, 'the commands run') or diag($errors);
    like($output, qr/^ t  *\|.*^due 2, refreshed 1, failed 1$/ms, 'one by one, and all that is due');
    like($errors, qr/^failed 1 of 2: \{"discord": \{"refreshed": 1, "transient": 1\}\}$/m, 'with a complaint about the one that failed');
    $server->fault('discord');
    $example->step('Refresh by hand', USER_ID => $id{ann});
    is(requests('ann', 'spotify'), $before + 2, 'one request each time');
    $example->query('SELECT token_refresh.resume()');
    await_refreshed('and what was left is refreshed later', 'ben', 'discord');
};

subtest 'what is left alone' => sub {
    $example->owner_query("UPDATE platform_connections SET status = 'disconnected' WHERE " . where('cleo', 'spotify'));
    expire('cleo', '2 minutes', @platforms);
    await_refreshed('the other connections of the user', 'cleo', grep { !/spotify|gmail/ } @platforms);
    is(requests('cleo', 'spotify'), 0, 'one that the application has disconnected is not refreshed');
    is(columns('cleo', 'spotify', 'status'), 'disconnected', 'nor is its status changed');
    is($example->query($github), $github_before, 'the rows of github are as they were');
};

subtest 'switch back' => sub {
    my $rows   = "SELECT md5(string_agg(c::text, ' ' ORDER BY id)) FROM platform_connections c";
    my $before = $example->query($rows);
    $example->step('Switch back');
    is($example->query($rows), $before, 'the rows are as they were');
    $example->no_trigger_left('platform_connections');
    is($example->query('SELECT count(*) FROM token_refresh.token_status'), '0', 'nothing is scheduled');
    is($server->stats($_)->{reuse}, 0, "$_: no refresh token was presented twice") for @realms;
    ok(secrets_absent(read_log($node), @secrets), 'no secret is in the log');
};

$example->ran_all_steps;
$node->stop;
done_testing();
