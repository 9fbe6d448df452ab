# Detaching a table loses no token that a provider has given, leaves nothing behind that could be in the way of other tables,
# and what the refresher has known of the table is let go.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s');
my $unknown = "FROM token_refresh.schedule s WHERE NOT EXISTS (SELECT FROM token_refresh.token_table t WHERE t.id = s.token_table)";

# A table with one row that the provider is being asked for, and does not answer yet.
sub asked_for
{
    my ($table, $name, %options) = @_;
    app($node, token_table($table));
    attach($node, $table, %options);
    $server->control('acme', hold => 'after');
    sign_in($node, $server, $table, $name);
    return $server->wait('acme', held => 1);
}

sub answer { return $server->release('acme'); }

# A test point: the row holds what the provider has given last.
sub nothing_lost
{
    my ($table, $what) = @_;
    return ok($server->is_active('acme', super($node, "SELECT access_token FROM $table")), $what);
}

my $waits = "SELECT count(*) = 1 FROM pg_locks WHERE relation = 'token_refresh.token_table'::regclass AND mode = 'RowShareLock'";

subtest 'it waits for what is in flight' => sub {
    asked_for('waiting', 'waiter');
    my $detach = start_query($node, "SET ROLE app; SELECT token_refresh.detach_table('waiting')");
    poll_until($node, $waits, 'it waits');
    answer();
    is(($detach->finish)[1] // '', '', 'no error');
    nothing_lost('waiting', 'the answer is stored');
    is(super($node, "SELECT count(*) FROM token_refresh.token_table WHERE relation = 'waiting'::regclass"), '0', 'it is detached');
    is(super($node, 'SELECT count(*) FROM token_refresh.parked_result'), '0', 'nothing is parked');
};

subtest 'with another attachment in the same transaction' => sub {
    asked_for('anew', 'again');
    my $former = super($node, "SELECT id FROM token_refresh.token_table WHERE relation = 'anew'::regclass");
    my $detach = start_query($node, "SET ROLE app; BEGIN; SELECT token_refresh.detach_table('anew'); SELECT token_refresh.attach_table('anew', "
        . attach_options() . '); COMMIT');
    poll_until($node, $waits, 'it waits');
    answer();
    is(($detach->finish)[1] // '', '', 'no error');
    nothing_lost('anew', 'the answer is stored');
    is(super($node, "SELECT id FROM token_refresh.token_table WHERE relation = 'anew'::regclass"), $former, 'it has the id that it had');
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.schedule WHERE token_table = $former", 'its row is scheduled again');
    app($node, "UPDATE anew SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'anew', 'again', 'it is refreshed on');
};

subtest 'the provider does not answer' => sub {
    asked_for('silent', 'patient');
    like(app_fails($node, "\\set VERBOSITY verbose\nSELECT token_refresh.detach_table('silent')"),
        qr/55006: providers are being asked for 1 token\(s\) of table public\.silent.*Try again/s, 'it is refused');
    answer();
    refreshed($node, $server, 'silent', 'patient', 'the answer is stored');
    is(app_fails($node, "SELECT token_refresh.detach_table('silent')") =~ s/,.*//sr, 'no error', 'then it is detached');
};

subtest 'while nothing of it is claimed' => sub {
    app($node, token_table('held'));
    attach($node, 'held');
    my $session = background_session($node);
    $session->query("SET ROLE app; BEGIN; SAVEPOINT s; SELECT token_refresh.detach_table('held')");
    $session->query("ROLLBACK TO s; RESET ROLE; SELECT FROM token_refresh.token_table WHERE relation = 'held'::regclass FOR UPDATE; SET ROLE app");
    sign_in($node, $server, 'held', 'kept');
    sign_in($node, $server, 'anew', 'other');
    refreshed($node, $server, 'anew', 'other', 'others are');
    is(super($node, "SELECT expires_at < now() FROM held"), 't', 'the row has not been refreshed');
    $session->query('ROLLBACK');
    $session->quit;
    refreshed($node, $server, 'held', 'kept', 'when it stays attached');
};

# What an earlier version may have left behind, or a restore.
subtest 'rows of the schedule that belong to no table' => sub {
    super($node, "INSERT INTO token_refresh.schedule (token_table, row_key, provider, due_at, settling)
        SELECT 99999, n::text, p.id, now(), false FROM token_refresh.provider p, generate_series(1, 300) n WHERE p.name = 'acme'");
    sign_in($node, $server, 'anew', 'beside');
    refreshed($node, $server, 'anew', 'beside', 'others go on');
    poll_until($node, "SELECT count(*) = 0 $unknown", 'they are dropped');
    unlike(read_log($node, 0), qr/claiming due credentials failed/, 'no claim has failed');
};

subtest 'in the middle of a sweep' => sub {
    app($node, token_table('long', 'id integer PRIMARY KEY') . "INSERT INTO long SELECT n, 'l' || n, 'a', 'r' || n, now() + interval '20 days'
        FROM generate_series(1, 20000) n");
    for my $trigger (JSON::PP::true, JSON::PP::false)
    {
        my $id = attach($node, 'long', trigger => $trigger);
        poll_until($node, "SELECT count(*) > 300 FROM token_refresh.schedule WHERE token_table = $id", 'the sweep is under way');
        app($node, "SELECT token_refresh.detach_table('long')");
        # The next table is swept when this sweep has ended.
        app($node, token_table('next' . ($trigger ? 1 : 2)) . 'INSERT INTO next' . ($trigger ? 1 : 2) . " (name, access_token, refresh_token, expires_at)
            VALUES ('n', 'a', 'r', now() + interval '20 days')");
        my $next = attach($node, 'next' . ($trigger ? 1 : 2));
        poll_until($node, "SELECT count(*) = 1 FROM token_refresh.schedule WHERE token_table = $next", 'the next one is swept');
        is(super($node, "SELECT count(*) $unknown"), '0', 'nothing of it is in the schedule');
    }
    unlike(read_log($node, 0), qr/reconciling the schedule failed/, 'nothing has failed');
};

sub descriptions
{
    my $offset = -s $node->logfile;
    super($node, "SELECT pg_log_backend_memory_contexts(pid) FROM pg_stat_activity WHERE backend_type LIKE 'token_refresh refresher%'");
    my $log;
    for (1 .. 100)
    {
        $log = read_log($node, $offset);
        last if $log =~ /Grand total/;
        select(undef, undef, undef, 0.1);
    }
    return scalar(() = $log =~ /token_refresh token table/g);
}

subtest 'what the refresher has known is let go' => sub {
    my $before = descriptions();
    cmp_ok($before, '>', 0, 'it knows tables');
    for my $n (1 .. 5)
    {
        app($node, token_table("brief$n"));
        attach($node, "brief$n");
        sign_in($node, $server, "brief$n", "brief$n");
        refreshed($node, $server, "brief$n", "brief$n", 'it is served');
        app($node, "SELECT token_refresh.detach_table('brief$n')");
    }
    my $after;
    for (1 .. 10) { $after = descriptions(); last if $after <= $before; }
    cmp_ok($after, '<=', $before, 'no more than before');
};

$node->stop;
done_testing();
