# API tokens on a hot standby: they are validated there, with what the primary has revoked and rotated; nothing is
# written, and what would have to be says so. After a promotion all goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $primary = new_node('primary', -init => { allows_streaming => 1 }, 'token_refresh.api_token_use_interval' => '1s');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub catch_up { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')); return; }

sub on { my ($node, $sql) = @_; return $node->safe_psql('postgres', "SET search_path = public, token_refresh;\n$sql"); }

sub issue
{
    my ($owner, $life) = @_;
    my $token = on($primary, "SELECT token FROM issue_api_token('$owner', '{api:read}', user_hk => '\\x01')");
    on($primary, "UPDATE api_token SET expires_at = now() + '$life' WHERE owner = '$owner'") if $life;
    return $token;
}

my %token = (fresh => issue('fresh'), due => issue('due', '1 day'), rotated => issue('rotated', '1 day'), prepared => issue('prepared', '2 days'), revoked => issue('revoked'), reused => issue('reused'));
on($primary, q{SELECT import_api_token(sha256('ovt_vault'), 'vault', '{api:read}', now() + '30 days', 'ovt_')});
my $next = on($primary, "SELECT new_token FROM validate_and_refresh_api_token('$token{rotated}')");
my $heir = on($primary, "SELECT new_token FROM refresh_api_token('$token{reused}', 0, true)");
on($primary, "UPDATE api_token SET retires_at = now() WHERE owner = 'reused' AND retires_at IS NOT NULL");
on($primary, q{SELECT tokens_refreshed FROM refresh_expiring_tokens_batch('3 days')});
on($primary, "SELECT revoke_api_token('$token{revoked}')");
catch_up();

my $validate = 'SELECT is_valid, message FROM token_refresh.validate_api_token(%s)';
my $ask      = 'SELECT is_valid, refresh_reason, new_token, message FROM token_refresh.validate_and_refresh_api_token(%s)';

subtest 'reading' => sub {
    for my $way ('', 'BEGIN READ ONLY;', 'BEGIN ISOLATION LEVEL REPEATABLE READ;', 'SET force_parallel_mode = on;')
    {
        is($standby->safe_psql('postgres', $way . sprintf($validate, literal($token{fresh}))), 't|token valid', "a valid token is valid there" . ($way && ", after $way"));
    }
    is($standby->safe_psql('postgres', sprintf($validate, literal($next))), 't|token valid', 'a successor');
    is($standby->safe_psql('postgres', sprintf($validate, literal($token{revoked}))), 'f|the token has been revoked', 'a revoked one');
    is($standby->safe_psql('postgres', sprintf($validate, "'ovt_vault'")), 't|token valid', 'an imported one');
    is($standby->safe_psql('postgres', sprintf($validate, "'garbage'")), 'f|the token is malformed', 'garbage');
    is($standby->safe_psql('postgres', sprintf($ask, literal($token{fresh}))), 't|NO_REFRESH_NEEDED||token valid for 89 more days', 'nothing due');
    is($standby->safe_psql('postgres', sprintf($ask, literal($token{due}))), 't|REFRESH_FAILED||token valid but not refreshed: this server is a standby; the successor comes with a call on the primary', 'one that is due is valid');
    is($standby->safe_psql('postgres', sprintf($ask, literal($token{prepared}))), 't|REFRESH_FAILED||token valid but not refreshed: this server is a standby; the successor comes with a call on the primary', 'one whose successor is ready too');
    is($standby->safe_psql('postgres', "SELECT success, refresh_reason, message FROM token_refresh.refresh_api_token('$token{due}', 0, true)"), 'f|REFRESH_FAILED|this server is a standby; the successor comes with a call on the primary', 'refresh_api_token');
    is($standby->safe_psql('postgres', "SELECT is_valid, refresh_recommended, refresh_reason FROM token_refresh.get_token_refresh_status('$token{due}')"), 't|t|EXPIRING_SOON', 'its status says so');
    my ($valid, $reason, $same) = split /\|/, $standby->safe_psql('postgres', sprintf($ask, literal($token{rotated})));
    is("$valid $reason", 't EXPIRING_SOON', 'a successor that was handed over on the primary');
    is($same, $next, 'is given here as well');
    is($standby->safe_psql('postgres', sprintf($validate, literal($token{reused}))), 'f|the token was replaced and its grace period is over; all of its family are revoked', 'presented after its grace period: no');
    is($standby->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.api_token_status WHERE status = 'ready'}), '2', 'api_token_status');
    on($primary, "UPDATE api_token SET expires_at = now() + '1 day' WHERE owner = 'fresh'");
    catch_up();
    for my $sql ("SELECT token_refresh.issue_api_token('o', '{a}')", "SELECT token_refresh.revoke_api_token('$token{fresh}')", 'SELECT * FROM token_refresh.refresh_expiring_tokens_batch()')
    {
        my ($status, $output, $error) = $standby->psql('postgres', $sql);
        like($error, qr/read-only transaction|during recovery/, 'refused: ' . $sql =~ s/.*token_refresh\.(\w+).*/$1/r);
    }
};

subtest 'what the primary does is seen' => sub {
    my $session = background_session($standby);
    like($session->query_safe(sprintf($validate, literal($token{fresh}))), qr/^t/, 'a session');
    like($session->query_safe(sprintf($validate, "'late_vault'")), qr/malformed/, 'that has read the prefixes');
    on($primary, q{SELECT import_api_token(sha256('late_vault'), 'vault', '{api:read}', now() + '30 days', 'late_')});
    on($primary, "SELECT revoke_api_token('$token{fresh}')");
    catch_up();
    like($session->query_safe(sprintf($validate, literal($token{fresh}))), qr/revoked/, 'a revocation');
    like($session->query_safe(sprintf($validate, "'late_vault'")), qr/^t/, 'an imported token with a new prefix');
    $session->quit;
};

subtest 'promotion' => sub {
    my $session = background_session($standby);
    like($session->query_safe(sprintf($ask, literal($token{due}))), qr/this server is a standby/, 'a session from before');
    $primary->stop;
    $standby->promote;
    poll_until($standby, "SELECT token_refresh.status() ->> 'running'", 'the refresher runs', 'true');
    like($session->query_safe(sprintf($ask, literal($token{due}))), qr/^t\|EXPIRING_SOON\|tr_/, 'the session gets the successor now');
    $session->quit;
    like($standby->safe_psql('postgres', sprintf($ask, literal($token{prepared}))), qr/^t\|EXPIRING_SOON\|tr_/, 'one that was made ahead on the old primary is handed over');
    is($standby->safe_psql('postgres', sprintf($validate, literal($heir))), 't|token valid', 'a family that nobody could revoke');
    is($standby->safe_psql('postgres', sprintf($validate, literal($token{reused}))) =~ /^f/, 1, 'is revoked when the old token is presented again');
    is($standby->safe_psql('postgres', sprintf($validate, literal($heir))), 'f|the token has been revoked', 'its successor too');
    poll_until($standby, q{SELECT count(*) >= 2 FROM token_refresh.api_token_status WHERE last_used_at IS NOT NULL AND owner IN ('due', 'prepared')}, 'use is noted from now on');
};

$standby->stop;
done_testing();
