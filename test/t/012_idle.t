# P9: idle costs nothing, due starts now.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use TokenRefreshTest;

plan(skip_all => 'needs /proc') unless -r "/proc/$$/status";

my $idle_seconds = 5;
my $server       = start_token_server();
my $node         = new_node('main', 'autovacuum' => 'off', 'wal_level' => 'minimal', 'max_wal_senders' => 0);
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
store_credential($node, 'acme', $server->grants('acme', n => 1000));

my %pid = split /[|\n]/, $node->safe_psql('postgres',
    "SELECT backend_type, pid FROM pg_stat_activity WHERE backend_type LIKE 'token_refresh %'");
is(join(', ', sort keys %pid), 'token_refresh launcher, token_refresh refresher', 'both processes are there');

# How often the process has gone to sleep so far, and was woken again.
sub sleeps
{
    my ($pid) = @_;
    slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m or die 'no count of context switches';
    return $1;
}

# Waits until the process has not been woken for half a second.
sub wait_until_asleep
{
    my ($pid) = @_;
    my $before = -1;
    for (1 .. 100)
    {
        my $now = sleeps($pid);
        return if $now == $before;
        $before = $now;
        sleep 0.5;
    }
    die "process $pid does not come to rest";
}

subtest 'idle with 1,000 credentials, none due' => sub {
    # What CREATE EXTENSION has left in the catalogs would be pruned, with WAL, by whoever reads them next.
    $node->safe_psql('postgres', 'VACUUM');
    $node->safe_psql('postgres', 'CHECKPOINT');
    wait_until_asleep($_) for values %pid;
    my %before = map { $_ => sleeps($pid{$_}) } keys %pid;
    my $wal    = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
    sleep $idle_seconds;
    for my $name (sort keys %pid)
    {
        is(sleeps($pid{$name}) - $before{$name}, 0, "wake-ups of the $name in $idle_seconds s");
    }
    is($node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()'), $wal, 'no WAL was written');
    is($server->stats('acme')->{requests}, 0, 'no request was sent');
};

subtest 'reading is no reason to wake up' => sub {
    my $before = sleeps($pid{'token_refresh refresher'});
    my $wal    = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
    like(access_token($node, 'acme', 'subject1'), qr/^at_/, 'a token is read');
    $node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.token_status; SELECT token_refresh.status()');
    is(sleeps($pid{'token_refresh refresher'}), $before, 'the refresher sleeps');
    is($node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()'), $wal, 'no WAL was written (P8)');
};

subtest 'storing what is due later is none either' => sub {
    my $before = sleeps($pid{'token_refresh refresher'});
    store_credential($node, 'acme', $server->grants('acme', prefix => 'later', n => 10, lifetime => 86400));
    is(sleeps($pid{'token_refresh refresher'}), $before, 'the refresher sleeps');
};

my $session = background_session($node);

sub store_sql
{
    my ($grant) = @_;
    my $subject = delete $grant->{subject};
    return sprintf('SELECT token_refresh.store_credential(%s, %s, %s)', literal('acme'), literal($subject), literal(json($grant)));
}

subtest 'what a COMMIT makes due is started at once' => sub {
    my @delays;
    for my $round (1 .. 7)
    {
        my ($grant) = $server->expired_grants('acme', subjects => ["due$round"]);
        $session->query_safe('BEGIN');
        $session->query_safe(store_sql($grant));
        wait_until_asleep($pid{'token_refresh refresher'});
        is($server->stats('acme')->{requests}, $round - 1, "round $round: nothing before COMMIT");
        my $began = time;
        $session->query_safe('COMMIT');
        $server->wait('acme', requests => $round);
        push @delays, (time - $began) * 1000;
        poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'due$round'", 'it is refreshed');
    }
    @delays = sort { $a <=> $b } @delays;
    my $median = $delays[ @delays / 2 ];
    note(sprintf('from sending COMMIT to the request at the provider: median %.1f ms, least %.1f ms, most %.1f ms',
        $median, $delays[0], $delays[-1]));
    cmp_ok($median, '<', 100, 'median from sending COMMIT to the request at the provider, in ms');
};

subtest 'due again after a while' => sub {
    # Lifetime 3 s: due after 2.0 to 2.25 s.
    $server->control('acme', lifetime => 3);
    my ($grant) = $server->grants('acme', subjects => ['short'], lifetime => 3);
    my $requests = $server->stats('acme')->{requests};
    my $began    = time;
    store_credential($node, 'acme', $grant);
    $server->wait('acme', requests => $requests + 2);
    my $seconds = time - $began;
    note(sprintf('the second refresh of a credential with a lifetime of 3 s came after %.2f s', $seconds));
    cmp_ok($seconds, '>', 3.9, 'not too early');
    cmp_ok($seconds, '<', 8, 'in time');
    $node->safe_psql('postgres', "DELETE FROM token_refresh.credential WHERE subject = 'short'");
};

subtest 'what is rolled back is not' => sub {
    my $requests = $server->stats('acme')->{requests};
    my ($grant) = $server->expired_grants('acme', subjects => ['never']);
    wait_until_asleep($pid{'token_refresh refresher'});
    my $before = sleeps($pid{'token_refresh refresher'});
    $session->query_safe('BEGIN');
    $session->query_safe(store_sql($grant));
    $session->query_safe('ROLLBACK');
    wait_until_asleep($pid{'token_refresh refresher'});
    is(sleeps($pid{'token_refresh refresher'}), $before, 'the refresher sleeps');
    is($server->stats('acme')->{requests}, $requests, 'the provider hears nothing');
};

$session->quit;
$node->stop;
done_testing();
