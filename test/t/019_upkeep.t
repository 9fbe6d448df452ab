# What the refresher owes besides refreshing: lost answers are looked for until that succeeds, a changed
# sweep_interval counts at once; and a batch is waited for only as long as it gets on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'max_prepared_transactions' => 2, 'token_refresh.request_timeout' => '2s');

subtest 'recovery that meets a lock' => sub {
    create_provider($node, 'lost', token_endpoint => $server->token_endpoint('lost'), replay_window => '60 seconds');
    $server->control('lost', policy => 'replay', replay_window => 60, hold => 'after');
    store_credential($node, 'lost', $server->expired_grants('lost', n => 3));
    $server->wait('lost', held => 3);
    # A prepared transaction keeps its locks through a crash.
    $node->safe_psql('postgres', "BEGIN; LOCK TABLE token_refresh.audit_event IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'locker'");
    my $offset = -s $node->logfile;
    $node->stop('immediate');
    $server->release('lost');
    # What is refreshed in the meantime would be no news any more.
    $node->append_conf('postgresql.conf', 'token_refresh.enabled = off');
    $node->start;
    $node->wait_for_log(qr/looking for lost answers failed with SQLSTATE 55P03/, $offset);
    $node->safe_psql('postgres', "COMMIT PREPARED 'locker'");
    poll_until($node, "SELECT count(*) FROM token_refresh.audit_event WHERE event = 'response_lost'", 'is repeated until it succeeds', '3');
    is($node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.in_flight'), '0', 'no note is left');
    $node->append_conf('postgresql.conf', 'token_refresh.enabled = on');
    $node->reload;
    poll_until($node, q{SELECT count(*) = 3 FROM token_refresh.token_status WHERE provider = 'lost' AND refresh_count = 1}, 'and all are refreshed');
    is($server->stats('lost')->{reuse}, 0, 'no refresh token was presented after its replay window');
};

subtest 'sweep_interval' => sub {
    $node->restart;
    poll_until($node, q{SELECT token_refresh.status() ->> 'running'}, 'the refresher runs', 'true');
    # Once it has answered it has begun its first sweep, and there is one table of a few rows.
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('lost', 'subject1')}), 't', 'and refreshes');
    $node->safe_psql('postgres', q{DELETE FROM token_refresh.schedule WHERE row_key = (SELECT id::text FROM token_refresh.credential WHERE subject = 'subject2')});
    $node->append_conf('postgresql.conf', "token_refresh.sweep_interval = '10s'");
    $node->reload;
    poll_until($node, q{SELECT count(*) = 3 FROM token_refresh.token_status WHERE provider = 'lost'}, 'a shorter one counts from the last sweep on');
    $node->append_conf('postgresql.conf', "token_refresh.sweep_interval = '600s'");
    $node->reload;
};

sub batch
{
    my ($provider, $within) = @_;
    my $began = time;
    my $answer = $node->safe_psql('postgres',
        "SELECT tokens_found, tokens_refreshed, tokens_failed, details -> '$provider' FROM token_refresh.refresh_expiring_tokens('$within')");
    my $seconds = time - $began;
    note(sprintf('%s: %.1f s', $answer, $seconds));
    return ($answer, $seconds);
}

subtest 'a batch at a provider that hangs' => sub {
    $node->safe_psql('postgres', 'DELETE FROM token_refresh.credential');
    create_provider($node, 'hangs', token_endpoint => $server->token_endpoint('hangs'), timeout => '50 seconds');
    store_credential($node, 'hangs', $server->grants('hangs', n => 10));
    $server->control('hangs', hold => JSON::PP::true);
    my ($answer, $seconds) = batch('hangs', '1 day');
    is($answer, '10|0|10|{"timeout": 10}', 'all are reported as timed out');
    cmp_ok($seconds, '<', 5, 'after one request_timeout, not one for each');

    create_provider($node, 'works', token_endpoint => $server->token_endpoint('works'));
    store_credential($node, 'works', $server->grants('works', n => 500));
    ($answer, $seconds) = batch('works', '1 day');
    is($answer, '510|500|10|{"refreshed": 500}', 'the others get on beside them');
    cmp_ok($seconds, '<', 9, 'without long waiting');
    $server->release('hangs');
};

$node->stop;
done_testing();
