# examples/mail_connections, by the commands of its README: two tables under two labels, a key of two columns, and a
# status document that has to be the application's own, member for member.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', -extension => 0);
my %client = (client_id => 'mail', client_secret => 'obviously-fake-secret');
my $key    = `openssl rand -hex 32`;
chomp $key;
my $example = ExampleTest->new($node, 'mail_connections', database => 'mail',
    GOOGLE_TOKEN_ENDPOINT => $server->token_endpoint('google'), GOOGLE_CLIENT_ID => $client{client_id}, GOOGLE_CLIENT_SECRET => $client{client_secret},
    ENCRYPTION_KEY => $key, KEY_FILE => $node->basedir . '/token_refresh.keys');
# As Google does: the secret in the body, and the refresh token stays.
$server->control('google', auth => { method => 'post', %client }, policy => 'norotate');

my @secrets = ($key, $client{client_secret});

# What the application does when a tenant has connected a mailbox. $expires: from now.
sub connect_mailbox
{
    my ($kind, $tenant, $expires) = @_;
    my ($grant) = $server->grants('google', subjects => ["$kind-$tenant"]);
    push @secrets, $grant->{access_token}, $grant->{refresh_token};
    my @stored = $example->hex_cipher('encrypt', $grant->{access_token}, $grant->{refresh_token});
    return sprintf("INSERT INTO %s_oauth_tokens VALUES (%d, '%s\@tenant%d.example', '%s', '%s', now() + interval '%s');\n", $kind, $tenant, $kind, $tenant, @stored, $expires);
}

sub expire
{
    my ($kind, $tenant, $when) = @_;
    $example->owner_query("UPDATE ${kind}_oauth_tokens SET expires_at = now() + interval '$when' WHERE tenant_id = $tenant");
    return;
}

# What the application does before it opens a mailbox.
sub ask
{
    my ($kind, $tenant) = @_;
    my $token = $example->owner_query("SELECT token_refresh.get_access_token_from('${kind}_oauth_tokens', jsonb_build_array(tenant_id::text, email)::text)"
        . " FROM ${kind}_oauth_tokens WHERE tenant_id = $tenant");
    push @secrets, $token if $token ne '';
    return $token;
}

sub stored
{
    my ($kind, $tenant, $column) = @_;
    my ($token) = $example->hex_cipher('decrypt', $example->owner_query("SELECT ${column}_token FROM ${kind}_oauth_tokens WHERE tenant_id = $tenant"));
    push @secrets, $token;
    return $token;
}

sub requests { my ($kind, $tenant) = @_; return $server->stats('google')->{per_subject}{"$kind-$tenant"}{requests} // 0; }

sub await_refreshed
{
    my ($kind, $tenants, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $example->await("SELECT bool_and(expires_at > now() + interval '30 minutes') FROM ${kind}_oauth_tokens WHERE tenant_id IN ($tenants)", $what);
}

# A test point: the status document is this one, without looking at white space. The members must come in this order.
sub document_is
{
    my ($running, $booking, $stopsale, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $expected = sprintf('{"running":%s,"check_interval_seconds":300,"refresh_before_expiry_minutes":10,"stats":{'
            . '"booking_oauth_count":%d,"stopsale_oauth_count":%d,"booking_expiring_soon":%d,"stopsale_expiring_soon":%d,'
            . '"booking_expired":%d,"stopsale_expired":%d}}',
        $running ? 'true' : 'false', map { ($booking->[$_], $stopsale->[$_]) } 0 .. 2);
    my $document = $example->step('Check');
    $document =~ s/\s+//g;
    # trouble.sql, of which there is none in those cases, prints after it.
    return is($document =~ s/(?<=\}\}).*//r, $expected, $what);
}

subtest 'the application as it was' => sub {
    $example->step('Try it');
    $example->owner_query(connect_mailbox('booking', 1, '1 hour') . connect_mailbox('booking', 2, '1 hour') . connect_mailbox('stopsale', 1, '1 hour'));
    is(stored('booking', 1, 'refresh') =~ /^rt_/ ? 'opens' : '', 'opens', 'its tokens open under its key');
};

subtest 'attach' => sub {
    $example->step('Give it the key');
    my ($status, undef, $errors) = $example->run_in_folder([ 'env', '-u', 'GOOGLE_CLIENT_ID', '-u', 'GOOGLE_CLIENT_SECRET', 'psql', '-qf', 'attach.sql' ], '');
    is($status, 3, 'attach.sql fails without a client');
    like($errors, qr/ERROR:  not set in the environment: GOOGLE_CLIENT_ID, GOOGLE_CLIENT_SECRET\n/, 'and says what is not set');
    $example->step('Attach');
    $example->readme_quotes('attach.sql', check_interval => '300 s', refresh_before_expiry => '10 minutes');
    $example->await('SELECT count(*) = 3 FROM token_refresh.token_status', 'the rows that were there are scheduled');
    is($example->owner_query("SELECT string_agg(concat_ws('/', token_table, row_key, subject, label, status), ' ' ORDER BY label, subject) FROM token_refresh.token_status"),
        'booking_oauth_tokens/["1", "booking@tenant1.example"]/1/booking/connected'
            . ' booking_oauth_tokens/["2", "booking@tenant2.example"]/2/booking/connected'
            . ' stopsale_oauth_tokens/["1", "stopsale@tenant1.example"]/1/stopsale/connected', 'and known by table, key, subject and label');
    document_is(0, [ 2, 0, 0 ], [ 1, 0, 0 ], 'the status document, paused');
    is($server->stats('google')->{requests}, 0, 'nothing is asked while paused');
    $example->step('Switch over');
    $example->await("SELECT (token_refresh.status() -> 'running')::boolean", 'the refresher runs');
    document_is(1, [ 2, 0, 0 ], [ 1, 0, 0 ], 'the status document is exactly that of the application');
};

subtest 'paused: what waits, and what is asked for' => sub {
    $example->query('SELECT token_refresh.pause()');
    expire('booking', 1, '-1 minute');
    expire('stopsale', 1, '8 minutes');
    document_is(0, [ 2, 0, 1 ], [ 1, 1, 0 ], 'the document counts what has expired and what expires within ten minutes');
    my $token = ask('booking', 1);
    ok($server->is_active('google', $token), 'the next read of the expired one gets a fresh token');
    is(stored('booking', 1, 'access'), $token, 'the application finds it in the table');
    is(requests('booking', 1), 1, 'by one request');
    document_is(0, [ 2, 0, 0 ], [ 1, 1, 0 ], 'the document knows');
    is(requests('stopsale', 1), 0, 'nothing else was asked');
    $example->query('SELECT token_refresh.resume()');
    await_refreshed('stopsale', 1, 'with eight minutes left the other one is refreshed as soon as refreshing goes on');
    document_is(1, [ 2, 0, 0 ], [ 1, 0, 0 ], 'and everything is fresh');
};

subtest 'a bad row' => sub {
    $example->query('SELECT token_refresh.pause()');
    # The row that expired first has garbage for a ciphertext, two others have it in other places.
    my $bad = "INSERT INTO booking_oauth_tokens VALUES (66, 'bad\@tenant.example', 'garbage', 'garbage', now() - interval '1 year'),"
        . " (67, 'bad\@tenant.example', 'aa:bb:cc', 'aa:bb:cc', now() - interval '1 year');\n";
    my $swapped = connect_mailbox('stopsale', 66, '-1 year');
    $swapped =~ s/:([0-9a-f])([0-9a-f]+)', now/':' . ($1 eq '0' ? '1' : '0') . "$2', now"/e or die 'no ciphertext to spoil';
    $example->owner_query($bad . $swapped . join('', map { connect_mailbox('booking', $_, '-1 hour') . connect_mailbox('stopsale', $_, '-1 hour') } 10 .. 19));
    my $rows = 'SELECT string_agg(t::text, E\'\n\' ORDER BY t::text) FROM (SELECT * FROM booking_oauth_tokens UNION ALL SELECT * FROM stopsale_oauth_tokens) t WHERE tenant_id IN (66, 67)';
    my $before = $example->query($rows);
    $example->query('SELECT token_refresh.resume()');
    await_refreshed($_, join(',', 10 .. 19), "$_: the other tenants are refreshed") for qw(booking stopsale);
    is($example->query($rows), $before, 'the bad rows are as they were');
    $example->await("SELECT count(*) = 3 FROM token_refresh.token_status WHERE subject IN ('66', '67') AND last_error IS NOT NULL", 'token_status says what is wrong with them');
    like($example->step('Check'), qr/\Q"booking_oauth_count" : 14\E/, 'they are counted');
    like($example->step('Check'), qr/booking\s*\|\s*66\b.*booking\s*\|\s*67\b.*stopsale\s*\|\s*66\b/s, 'and named');
    is(requests('stopsale', 66), 0, 'nobody was asked for them');
    is(ask('booking', 12) eq stored('booking', 12, 'access') && $server->is_active('google', stored('booking', 12, 'access')), 1, 'the fresh ones are good');

    # The bad ones stay; what falls due later is refreshed all the same.
    expire($_, 15, '-1 minute') for qw(booking stopsale);
    await_refreshed($_, 15, "$_: and so are those that expire later") for qw(booking stopsale);
};

subtest 'Google says no to one' => sub {
    $server->fault('google', kind => 'invalid_grant', match => '^booking-2$');
    expire($_, 2, '-1 minute') for qw(booking);
    expire('booking', 1, '-1 minute');
    $example->await("SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE label = 'booking' AND subject = '2'", 'it needs a new sign-in');
    await_refreshed('booking', 1, 'the other one is refreshed');
    is(ask('booking', 2), '', 'asking for it gives nothing');
    is(requests('booking', 2), 1, 'and Google is not asked again');
    is($example->query("SELECT c ->> 'needs_reauth' FROM jsonb_array_elements(token_refresh.status() -> 'credentials') c WHERE c ->> 'label' = 'booking'"), '1', 'status() counts it');
};

subtest 'other times' => sub {
    $example->step('Change the times');
    $example->await('SELECT count(*) = 26 FROM token_refresh.token_status', 'the rows are scheduled anew');
    like($example->step('Check'), qr/"running" : true, "check_interval_seconds" : 120, "refresh_before_expiry_minutes" : 15,/, 'the document has the other times');
};

subtest 'switch back' => sub {
    my $rows = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM (SELECT * FROM booking_oauth_tokens UNION ALL SELECT * FROM stopsale_oauth_tokens) t";
    my $before = $example->query($rows);
    $example->step('Switch back');
    is($example->query($rows), $before, 'the rows are as they were');
    $example->no_trigger_left('booking_oauth_tokens', 'stopsale_oauth_tokens');
    is($example->query('SELECT count(*) FROM token_refresh.token_status'), '0', 'nothing is scheduled');
    like($example->step('Check'), qr/"running" : false,/, 'and nothing is running for them, says the document');
    ok(secrets_absent(read_log($node), @secrets), 'no secret is in the log');
};

$example->ran_all_steps;
$node->stop;
done_testing();
