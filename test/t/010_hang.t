# While a provider hangs, nobody else notices: the refresher holds no transaction
# and no lock (P5), serves other credentials, its waiting callers can be cancelled and
# terminated at once (P6), and a shutdown ends within drain_timeout.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $drain_timeout = 2;
my $server        = start_token_server();
my $node          = new_node(
    'main',
    'token_refresh.http_timeout'    => '60s',
    'token_refresh.request_timeout' => '60s',
    'token_refresh.drain_timeout'   => "${drain_timeout}s");

# "half" hangs in the middle of its answer, and only for some; "stuck" never answers anybody.
create_provider($node, $_, token_endpoint => $server->token_endpoint($_)) for qw(half stuck healthy);
$server->control('stuck', hold => JSON::PP::true, policy => 'replay', replay_window => 60);
$server->fault('half', kind => 'hang_after', match => '^slow', when => 'before');
store_credential($node, 'half',    $server->grants('half',    subjects => [qw(slow1 slow2 quick1 quick2)]));
store_credential($node, 'stuck',   $server->grants('stuck',   n        => 3));
store_credential($node, 'healthy', $server->grants('healthy', n        => 3));

sub refresh { return sprintf('SELECT success FROM token_refresh.refresh_credential(%s, %s)', literal($_[0]), literal($_[1])); }

# Starts a caller and waits until the provider has its request, or until it waits for the same one.
sub start_caller
{
    my ($name, $provider, $subject) = @_;
    my $query = start_query($node, refresh($provider, $subject), name => $name);
    $node->poll_query_until('postgres',
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND wait_event_type = 'Extension'")
        or die "$name does not wait";
    return $query;
}

# How long it takes, in seconds as the server sees it, until the caller has ended its statement.
sub seconds_to_end
{
    my ($function, $name) = @_;
    $node->safe_psql('postgres', <<"END");
CREATE OR REPLACE FUNCTION seconds_to_end(name text) RETURNS double precision LANGUAGE plpgsql AS \$\$
DECLARE
    victim integer := (SELECT pid FROM pg_stat_activity WHERE application_name = name);
    began timestamptz := clock_timestamp();
BEGIN
    PERFORM $function(victim);
    LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = victim AND application_name = name AND state = 'active');
        IF clock_timestamp() > began + interval '20 seconds' THEN RAISE 'the caller does not end'; END IF;
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN extract(epoch FROM clock_timestamp() - began);
END \$\$;
END
    return $node->safe_psql('postgres', 'SELECT seconds_to_end(' . literal($name) . ')');
}

store_credential($node, 'half',  $server->expired_grants('half',  subjects => ['slow0']));
store_credential($node, 'stuck', $server->expired_grants('stuck', subjects => ['subject0']));
$server->wait($_, held => 1) for qw(half stuck);

subtest 'no transaction, snapshot or lock while a request hangs' => sub {
    my $refresher = "backend_type = 'token_refresh refresher'";
    is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE $refresher"), '1', 'one refresher');
    is($node->safe_psql('postgres', <<"END"), '0|0|0', 'transactions, snapshots, locks seen in 20 looks');
SELECT sum(found.transactions), sum(found.snapshots), sum(found.locks)
FROM generate_series(1, 20) AS look,
LATERAL (SELECT pg_sleep(0.05 + 0 * look), pg_stat_clear_snapshot()) AS pause,
LATERAL (SELECT count(xact_start) AS transactions, count(backend_xmin) + count(backend_xid) AS snapshots,
                (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid AND look > 0) AS locks
         FROM pg_stat_activity a WHERE $refresher AND look > 0 AND pause IS NOT NULL GROUP BY a.pid) AS found
END
    $node->safe_psql('postgres', 'CREATE TABLE garbage AS SELECT generate_series(1, 1000) AS n; DELETE FROM garbage');
    my ($status, $output, $report) = $node->psql('postgres', 'VACUUM (VERBOSE) garbage');
    like($report, qr/1000 removed|removed 1000/, 'VACUUM is not held back');
};

my $first  = start_caller('first caller',  'half',  'slow1');
my $second = start_caller('second caller', 'stuck', 'subject1');
my $third  = start_caller('third caller',  'stuck', 'subject1');
$server->wait($_, held => 2) for qw(half stuck);

subtest 'other credentials are served' => sub {
    my $began = time;
    is($node->safe_psql('postgres', refresh('half', 'quick1')),      't', 'one of the same provider');
    is($node->safe_psql('postgres', refresh('healthy', 'subject1')), 't', 'one of another provider');
    store_credential($node, 'healthy', $server->expired_grants('healthy', subjects => ['late']));
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'late'",
        'one that nobody asks for');
    cmp_ok(time - $began, '<', 5, 'without delay');
    is($server->stats($_)->{held}, 2, "$_ is still hanging") for qw(half stuck);
};

subtest 'a waiting caller reacts at once' => sub {
    my $seconds = seconds_to_end('pg_cancel_backend', 'first caller');
    cmp_ok($seconds, '<', 0.2, 'to pg_cancel_backend');
    note("cancelled within $seconds s");
    like(($first->finish)[1], qr/canceling statement due to user request/, 'with the usual error');

    $seconds = seconds_to_end('pg_terminate_backend', 'second caller');
    cmp_ok($seconds, '<', 0.2, 'to pg_terminate_backend');
    note("terminated within $seconds s");
    like(($second->finish)[1], qr/terminating connection due to administrator command/, 'with the usual error');

    my $fourth = start_query($node, 'SET statement_timeout = 300; ' . refresh('stuck', 'subject1'));
    like(($fourth->finish)[1], qr/canceling statement due to statement timeout/, 'to statement_timeout');
    ok($third->is_running, 'somebody else who waits for the same credential goes on waiting');
    is($server->stats('stuck')->{per_subject}{subject1}{requests}, 1, 'and all waited for one request');
};

subtest 'a request that everybody gave up is finished all the same' => sub {
    $server->fault('half');
    $server->release('half');
    poll_until($node, "SELECT attempts = 1 OR refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'slow1'",
        'its answer, a broken one, is noted');
};

subtest 'fast shutdown' => sub {
    my $offset = -s $node->logfile;
    my $began  = time;
    $node->stop('fast');
    my $seconds = time - $began;
    note(sprintf('stopped within %.2f s, drain_timeout is %d s', $seconds, $drain_timeout));
    cmp_ok($seconds, '<', $drain_timeout + 2, 'ends within drain_timeout');
    cmp_ok($seconds, '>', $drain_timeout * 0.9, 'but the refresher waits as long as that for answers');
    like(read_log($node, $offset), qr/leaves with 2 answers outstanding/, 'and says what it leaves behind');
    my ($output, $error) = $third->finish;
    like($error, qr/terminating connection|server closed the connection/, 'the last caller was sent away');
};

subtest 'after the start all is well' => sub {
    $server->release('stuck');
    $node->start;
    is($node->safe_psql('postgres', refresh($_->[0], $_->[1])), 't', "$_->[0] $_->[1]")
        for [qw(half slow1)], [qw(half slow2)], [qw(stuck subject0)], [qw(stuck subject1)], [qw(stuck subject2)], [qw(healthy late)];
    is($server->stats('half')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'a shutdown with answers on their way keeps them' => sub {
    $server->control('healthy', latency => 0.5);
    my $caller = start_query($node, refresh('healthy', 'subject2'));
    $server->wait('healthy', in_flight => 1);
    $node->stop('fast');
    $caller->finish;
    is($server->stats('healthy')->{in_flight}, 0, 'the refresher has waited for the answer');
    $server->control('healthy', latency => 0);
    $node->start;
    is($node->safe_psql('postgres', "SELECT refresh_count FROM token_refresh.token_status WHERE provider = 'healthy' AND subject = 'subject2'"),
        '1', 'and has stored it');
    is($node->safe_psql('postgres', refresh('healthy', 'subject2')), 't', 'the stored refresh token is the new one');
    is($server->stats('healthy')->{reuse}, 0, 'no refresh token was presented twice');
};

$node->stop;
done_testing();
