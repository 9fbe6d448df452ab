# A caller that holds the row itself, or has not committed it, is told so at once
# instead of waiting for a refresher that cannot see or lock it; a row that somebody else
# holds is reported as locked. Never a deadlock.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main');
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
$node->safe_psql('postgres', 'SELECT token_refresh.pause()');
# Expired, and nothing else has happened to it.
store_credential($node, 'acme', $server->expired_grants('acme', n => 3));

sub store_sql
{
    my ($grant) = @_;
    my %response = %$grant;
    my $subject = delete $response{subject};
    return sprintf("SELECT token_refresh.store_credential('acme', %s, %s)", literal($subject), literal(json(\%response)));
}

my %ask = (
    get_access_token   => "SELECT token_refresh.get_access_token('acme', '%s')",
    get_token          => "SELECT access_token FROM token_refresh.get_token('acme', '%s')",
    refresh_credential => "SELECT success FROM token_refresh.refresh_credential('acme', '%s')");

# Test points: in a transaction that does $change, asking for a refresh is an error within a second.
sub refused
{
    my ($what, $subject, $change) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    for my $function (sort keys %ask)
    {
        my $began = time;
        my ($status, $output, $error) = $node->psql('postgres',
            "\\set VERBOSITY verbose\nBEGIN;\n$change;\n" . sprintf($ask{$function}, $subject) . ";\nCOMMIT", on_error_stop => 1);
        my $seconds = time - $began;
        like($error, qr/ERROR:  55006: cannot refresh a credential that this transaction has changed/, "$what, $function: the error");
        like($error, qr/HINT:  Commit first/, "$what, $function: and what to do");
        cmp_ok($seconds, '<', 1, "$what, $function: at once");
    }
    return;
}

subtest 'a row of its own' => sub {
    refused('just inserted', 'mine', store_sql($server->expired_grants('acme', subjects => ['mine'])));
    refused('just replaced', 'subject1', store_sql($server->expired_grants('acme', subjects => ['subject1'])));
    refused('just updated', 'subject1', "UPDATE token_refresh.credential SET expires_at = expires_at - interval '1 hour' WHERE subject = 'subject1'");
    refused('changed and changed back in a savepoint', 'subject1',
        "SAVEPOINT a;\nUPDATE token_refresh.credential SET expires_at = expires_at - interval '1 hour' WHERE subject = 'subject1';\nRELEASE a");
    is($server->stats('acme')->{requests}, 0, 'the provider was never asked');
    is($node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.credential WHERE subject = 'mine'"), '0', 'the transactions had no effect');
};

subtest 'batch' => sub {
    my $began = time;
    my ($status, $output, $error) = $node->psql('postgres',
        "BEGIN;\nUPDATE token_refresh.credential SET expires_at = expires_at - interval '1 hour' WHERE subject = 'subject1';\nSELECT * FROM token_refresh.refresh_expiring_tokens();\nCOMMIT", on_error_stop => 1);
    cmp_ok(time - $began, '<', 5, 'refresh_expiring_tokens does not wait for what it cannot have');
    is($output, '3|2|1|{"acme": {"locked": 1, "refreshed": 2}}', 'and says so') or diag($error);
    # Made due again.
    $node->safe_psql('postgres', "UPDATE token_refresh.credential SET expires_at = '2020-01-01' WHERE provider = 'acme'");
};

subtest 'a row lock of its own' => sub {
    # The refresher can read the row, refresh it, and not write it: the answer is parked.
    my $token = $node->safe_psql('postgres', "BEGIN;\nSELECT FROM token_refresh.credential WHERE subject = 'subject2' FOR UPDATE;\n" . sprintf($ask{get_access_token}, 'subject2') . ";\nCOMMIT") =~ s/^\n//r;
    ok($server->is_active('acme', $token), 'the caller gets the fresh token');
    $node->safe_psql('postgres', 'SELECT token_refresh.resume()');
    poll_until($node, "SELECT NOT parked AND refresh_count >= 1 FROM token_refresh.token_status WHERE subject = 'subject2'", 'which is stored after its COMMIT');
    poll_until($node, 'SELECT min(refresh_count) >= 1 AND bool_and(expires_at > now()) FROM token_refresh.token_status', 'and all are fresh');
    $node->safe_psql('postgres', 'SELECT token_refresh.pause()');
    is(access_token($node, 'acme', 'subject2') eq $token, 1, 'it is the same');
};

subtest 'a change that makes nothing due' => sub {
    my ($grant) = $server->grants('acme', subjects => ['fresh']);
    my $output = $node->safe_psql('postgres', "BEGIN;\n" . store_sql($grant) . ";\n" . sprintf($ask{get_access_token}, 'fresh') . ";\nROLLBACK");
    like($output, qr/\n\Q$grant->{access_token}\E$/, 'a valid token just stored can be read');
};

subtest 'alive, but due' => sub {
    store_credential($node, 'acme', my ($grant) = $server->grants('acme', subjects => ['ageing']));
    my $age = "UPDATE token_refresh.credential SET issued_at = now() - interval '1 hour', expires_at = now() + interval '1 minute' WHERE subject = 'ageing'";
    my $requests = $server->stats('acme')->{requests};
    for my $function (qw(get_access_token get_token))
    {
        my $output = $node->safe_psql('postgres', "BEGIN;\n$age;\n" . sprintf($ask{$function}, 'ageing') . ";\nROLLBACK");
        is($output eq $grant->{access_token}, 1, "$function gives the token that lives");
    }
    is($node->safe_psql('postgres', "BEGIN;\n$age;\nSELECT status, was_refreshed, message FROM token_refresh.get_token('acme', 'ageing');\nROLLBACK"),
        'connected|f|this transaction has changed the credential; it can be refreshed after COMMIT', 'get_token says why it is not a fresh one');
    # Those who have said that they need more of it, or a refresh whatever there is, are refused.
    local $ask{get_access_token}   = "SELECT token_refresh.get_access_token('acme', '%s', min_validity => '10 minutes')";
    local $ask{get_token}          = "SELECT access_token FROM token_refresh.get_token('acme', '%s', min_validity => '10 minutes')";
    refused('made due, not enough', 'ageing', $age);
    is($server->stats('acme')->{requests}, $requests, 'the provider was not asked');
};

subtest 'somebody else holds it' => sub {
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => ['held']));
    my %hold = (
        'the schedule row' => "SELECT id FROM token_refresh.schedule WHERE row_key = (SELECT id::text FROM token_refresh.credential WHERE subject = 'held') FOR UPDATE",
        'an uncommitted change' => "UPDATE token_refresh.credential SET expires_at = expires_at - interval '1 hour' WHERE subject = 'held'");
    my $requests = $server->stats('acme')->{requests};
    for my $name (sort keys %hold)
    {
        my $session = background_session($node);
        $session->query('BEGIN');
        $session->query($hold{$name});
        my $began = time;
        is($node->safe_psql('postgres', "SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'held')"),
            'f|transient|another transaction holds the credential; try again when it has ended', "$name: locked");
        is($node->safe_psql('postgres', "SELECT access_token, status, message FROM token_refresh.get_token('acme', 'held')"),
            '|token_expired|another transaction holds the credential; try again when it has ended', "$name: get_token says the same");
        is($node->safe_psql('postgres', 'SELECT details FROM token_refresh.refresh_expiring_tokens()'), '{"acme": {"locked": 1}}', "$name: so does the batch");
        cmp_ok(time - $began, '<', 2, "$name: at once");
        $session->query('ROLLBACK');
        $session->quit;
    }
    is($server->stats('acme')->{requests}, $requests, 'the provider was not asked');
    is($node->safe_psql('postgres', "SELECT success FROM token_refresh.refresh_credential('acme', 'held')"), 't', 'afterwards it works');
};

subtest 'two callers, each with a row that the other wants' => sub {
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => [qw(left right)]));
    my %session;
    for my $name (qw(left right))
    {
        $session{$name} = background_session($node);
        $session{$name}->query("BEGIN; UPDATE token_refresh.credential SET expires_at = expires_at - interval '1 hour' WHERE subject = '$name'");
    }
    my $began = time;
    my ($left)  = $session{left}->query("SELECT message FROM token_refresh.get_token('acme', 'right')");
    my ($right) = $session{right}->query("SELECT message FROM token_refresh.get_token('acme', 'left')");
    cmp_ok(time - $began, '<', 2, 'no deadlock');
    is("$left/$right", join('/', ('another transaction holds the credential; try again when it has ended') x 2), 'both are told');
    $_->query('COMMIT'), $_->quit for values %session;
    is($node->safe_psql('postgres', "SELECT bool_and(r.success) FROM unnest('{left,right}'::text[]) s, token_refresh.refresh_credential('acme', s) r"), 't', 'afterwards both work');
};

is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');

$node->stop;
done_testing();
