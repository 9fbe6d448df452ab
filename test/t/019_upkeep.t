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

# Once more, from the last sweep on.
sub sweep_soon
{
    $node->append_conf('postgresql.conf', "token_refresh.sweep_interval = '10s'");
    $node->reload;
    return;
}

subtest 'a sweep and single bad rows' => sub {
    $node->safe_psql('postgres', 'SELECT token_refresh.pause()');
    create_provider($node, 'broken', token_endpoint => $server->token_endpoint('broken'));
    store_credential($node, 'lost', map { { subject => "sweep$_", access_token => 'fake', refresh_token => "fake$_", expires_in => 3600 } } 1 .. 3);
    store_credential($node, 'broken', { subject => 'broken', access_token => 'fake', refresh_token => 'fake', expires_in => 3600 });
    my $session = background_session($node);
    $session->query("BEGIN; SELECT FROM token_refresh.schedule WHERE row_key = (SELECT id::text FROM token_refresh.credential WHERE subject = 'sweep1') FOR UPDATE");
    my $offset = -s $node->logfile;
    # All of these are written behind the back of the triggers, those in front of the others are bad.
    $node->safe_psql('postgres', <<'END');
SET session_replication_role = replica;
INSERT INTO token_refresh.credential (id, provider, subject, access_token, refresh_token, expires_at) VALUES (-3, 'nowhere', 'nowhere', '', 'x', now());
UPDATE token_refresh.credential SET id = -2 WHERE subject = 'broken';
UPDATE token_refresh.credential SET expires_at = '2040-01-01' WHERE subject LIKE 'sweep%';
UPDATE token_refresh.provider SET effective_options = '{"refresh_margin": "broken"}' WHERE name = 'broken';
END
    sweep_soon();
    my $expiry = "SELECT string_agg(to_char(s.expires_at, 'YYYY'), ' ' ORDER BY c.subject) FROM token_refresh.schedule s JOIN token_refresh.credential c ON c.id::text = s.row_key WHERE c.subject LIKE 'sweep%'";
    my $this_year = $node->safe_psql('postgres', "SELECT to_char(now() + interval '1 hour', 'YYYY')");
    poll_until($node, $expiry, 'does not end at a row that does not let itself be planned, nor at one that is locked', "$this_year 2040 2040");
    is(join('|', map { $_ // '' } @{ status_of($node, 'nowhere', 'nowhere') }{qw(status last_error)}), 'error|client_config: there is no provider "nowhere"', 'a provider that does not exist is said');
    like(read_log($node, $offset), qr/planning a row failed with SQLSTATE/, 'a row that cannot be planned is in the log');
    $session->query('COMMIT');
    $session->quit;
    poll_until($node, $expiry, 'what was locked is looked at again', '2040 2040 2040');
    $node->safe_psql('postgres', q{SET session_replication_role = replica; DELETE FROM token_refresh.credential WHERE provider <> 'lost'; RESET session_replication_role; SELECT token_refresh.drop_provider('broken'), token_refresh.resume()});
};

# A dump may bring what is parked before the rows that it belongs to.
subtest 'what is parked for an empty table' => sub {
    $node->safe_psql('postgres', 'DELETE FROM token_refresh.credential');
    $node->safe_psql('postgres', q{INSERT INTO token_refresh.parked_result (schedule_id, token_table, row_key, replaces_refresh_token, access_token, token_type, issued_at, reason, parked_at) VALUES (77, 1, '77', 'x', 'x', 'Bearer', '2020-01-01', 'restored', '2020-01-01')});
    my $sweep = sub {
        $node->safe_psql('postgres', q{INSERT INTO token_refresh.schedule (token_table, row_key, provider) VALUES (1, '-1', 0)});
        $node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM token_refresh.schedule WHERE row_key = '-1'}) or die 'no sweep';
    };
    # The second begins when the first is over.
    $sweep->() for 1 .. 2;
    is($node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.parked_result'), '1', 'stays');
    $node->safe_psql('postgres', q{SELECT token_refresh.store_credential('lost', 'another', '{"access_token": "fake"}')});
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'once the table has other rows it goes');
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
