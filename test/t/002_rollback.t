# A refresh survives the transaction that asked for it (P1): whatever the caller does
# with its own transaction, the new tokens are stored and everybody sees them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main');
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
# So that every refresh here is the work of a caller.
$node->safe_psql('postgres', 'SELECT token_refresh.pause()');

sub get { return sprintf("SELECT token_refresh.get_access_token('acme', %s)", literal($_[0])); }

sub expired_credential
{
    my ($subject) = @_;
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => [$subject]));
    return;
}

# Test points: the token is the provider's newest and the one that is stored, it
# took one request, and the next refresh works.
sub refreshed_for_good
{
    my ($subject, $token, $requests) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($server->is_active('acme', $token), 'the caller got a valid token');
    is(access_token($node, 'acme', $subject) eq $token, 1, 'it is stored');
    is($server->stats('acme')->{per_subject}{$subject}{requests}, $requests // 1, 'number of requests');
    is($node->safe_psql('postgres', "SELECT success, failure FROM token_refresh.refresh_credential('acme', '$subject')"), 't|', 'the next refresh works');
    my $next = access_token($node, 'acme', $subject);
    ok($next ne $token && $server->is_active('acme', $next), 'and its token is another, and valid');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
    return;
}

for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
    (my $name = lc $level) =~ s/ /_/g;

    subtest "$level, rolled back" => sub {
        expired_credential($name);
        my $token = $node->safe_psql('postgres', "BEGIN ISOLATION LEVEL $level;\n" . get($name) . ";\nROLLBACK");
        refreshed_for_good($name, $token);
    };

    subtest "$level, with a snapshot from before the refresh" => sub {
        expired_credential("${name}_early");
        my $output = $node->safe_psql('postgres', "BEGIN ISOLATION LEVEL $level;\n"
            . "SELECT count(*) FROM token_refresh.credential WHERE subject = '${name}_early';\n"
            . get("${name}_early") . ";\n" . get("${name}_early") . ";\nROLLBACK");
        my ($count, $first, $second) = split /\n/, $output;
        is($first eq $second, 1, 'asked twice it gives the same token');
        refreshed_for_good("${name}_early", $first);
    };

    subtest "$level, somebody else refreshed after the snapshot" => sub {
        expired_credential("${name}_other");
        my $session = background_session($node);
        $session->query("BEGIN ISOLATION LEVEL $level");
        $session->query('SELECT count(*) FROM token_refresh.credential');
        my $token = access_token($node, 'acme', "${name}_other");
        my ($seen) = $session->query(get("${name}_other"));
        is($seen eq $token, 1, 'the old snapshot does not matter');
        $session->query('ROLLBACK');
        $session->quit;
        refreshed_for_good("${name}_other", $seen);
    };
}

subtest 'read-only transaction' => sub {
    for my $kind ('READ ONLY', 'ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE')
    {
        (my $subject = lc $kind) =~ s/\W+/_/g;
        expired_credential($subject);
        my $token = $node->safe_psql('postgres', "BEGIN $kind;\n" . get($subject) . ";\nCOMMIT");
        refreshed_for_good($subject, $token);
    }
};

subtest 'savepoint rolled back' => sub {
    expired_credential('savepoint');
    my ($first, $second) = split /\n/, $node->safe_psql('postgres',
        "BEGIN;\nSAVEPOINT here;\n" . get('savepoint') . ";\nROLLBACK TO here;\n" . get('savepoint') . ";\nCOMMIT");
    is($first eq $second, 1, 'the token stays the same');
    refreshed_for_good('savepoint', $first);
};

subtest 'a transaction that fails' => sub {
    expired_credential('failing');
    my ($status, $token, $error) = $node->psql('postgres', "BEGIN;\n" . get('failing') . ";\nSELECT 1 / 0;\nCOMMIT");
    like($error, qr/division by zero/, 'it fails after the refresh');
    refreshed_for_good('failing', $token);

    expired_credential('caught');
    $node->safe_psql('postgres', <<'END');
DO $$
BEGIN
    PERFORM token_refresh.get_access_token('acme', 'caught');
    RAISE 'undone';
EXCEPTION WHEN OTHERS THEN
END $$
END
    refreshed_for_good('caught', access_token($node, 'acme', 'caught'));
};

subtest 'the other functions, rolled back' => sub {
    expired_credential('refresh_credential');
    is($node->safe_psql('postgres', "BEGIN;\nSELECT success FROM token_refresh.refresh_credential('acme', 'refresh_credential');\nROLLBACK"),
        't', 'refresh_credential');
    refreshed_for_good('refresh_credential', access_token($node, 'acme', 'refresh_credential'));

    expired_credential('get_token');
    my ($token, $status, $refreshed, $message) = split /\|/, $node->safe_psql('postgres',
        "BEGIN ISOLATION LEVEL SERIALIZABLE;\nSELECT access_token, status, was_refreshed, message FROM token_refresh.get_token('acme', 'get_token');\nROLLBACK"), -1;
    is("$status $refreshed $message", 'connected t ', 'get_token');
    refreshed_for_good('get_token', $token);

    expired_credential("batch$_") for 1 .. 5;
    is($node->safe_psql('postgres', "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT * FROM token_refresh.refresh_expiring_tokens();\nROLLBACK"),
        '5|5|0|{"acme": {"refreshed": 5}}', 'refresh_expiring_tokens');
    refreshed_for_good('batch3', access_token($node, 'acme', 'batch3'));
};

subtest 'a caller that gives up while the provider is at it' => sub {
    expired_credential('impatient');
    $server->control('acme', hold => 'after');
    my ($status, $output, $error) = $node->psql('postgres', "BEGIN;\nSET LOCAL statement_timeout = '500ms';\n" . get('impatient') . ";\nROLLBACK");
    like($error, qr/canceling statement due to statement timeout/, 'it is cancelled');
    $server->wait('acme', held => 1);
    $server->release('acme');
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'impatient'", 'the answer is stored all the same');
    refreshed_for_good('impatient', access_token($node, 'acme', 'impatient'));
};

subtest 'somebody who waits in vain' => sub {
    expired_credential('slow');
    $server->control('acme', hold => JSON::PP::true);
    my ($token, $status, $message) = split /\|/, $node->safe_psql('postgres',
        "SET token_refresh.request_timeout = '200ms'; SELECT access_token, status, message FROM token_refresh.get_token('acme', 'slow')"), -1;
    is("$token|$status", '|token_expired', 'gets no token');
    like($message, qr/timed out/, 'and the reason');
    is($node->safe_psql('postgres', "SET token_refresh.request_timeout = '200ms'; SELECT success, failure FROM token_refresh.refresh_credential('acme', 'slow')"),
        'f|transient', 'refresh_credential says so, too');
    $server->release('acme');
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'slow'", 'the answer is stored when it comes');
    refreshed_for_good('slow', access_token($node, 'acme', 'slow'));
};

$node->stop;
done_testing();
