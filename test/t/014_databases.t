# P12: databases come, go and change while their refreshers run; pausing and switching off.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'token_refresh.request_timeout' => '3s');

sub refreshers
{
    return $node->safe_psql('postgres',
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'");
}

sub refreshers_become
{
    my ($databases, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node,
        "SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), 'none') FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'",
        $what, $databases);
}

# Installs the extension in a database, with a provider and credentials.
sub furnish
{
    my ($database, $realm, @grants) = @_;
    my $endpoint = $server->token_endpoint($realm);
    my $sql = "CREATE EXTENSION IF NOT EXISTS token_refresh;\n";
    $sql .= "SELECT token_refresh.create_provider('acme', 'client', 'obviously-fake-secret', '{\"token_endpoint\": \"$endpoint\"}');\n";
    for my $grant (@grants)
    {
        my %response = %$grant;
        my $subject  = delete $response{subject};
        $sql .= sprintf("SELECT token_refresh.store_credential('acme', %s, %s);\n", literal($subject), literal(json(\%response)));
    }
    $node->safe_psql($database, $sql);
    return;
}

sub refreshed_within
{
    my ($database, $count, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(
        $node->poll_query_until($database, "SELECT count(*) = $count AND min(refresh_count) > 0 FROM token_refresh.token_status"),
        $what);
}

sub quickly
{
    my ($what, $sql, $limit) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $began = time;
    my ($status, $output, $error) = $node->psql('postgres', $sql);
    my $seconds = time - $began;
    note(sprintf('%s: %.2f s', $what, $seconds));
    is("$status $error", '0 ', "$what succeeds");
    return cmp_ok($seconds, '<', $limit, 'without long waiting');
}

# Until it waits for its latch and has not been woken for a moment.
sub wait_until_asleep
{
    my ($database) = @_;
    my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND datname = '$database'");
    my $before = -1;
    for (1 .. 100)
    {
        my ($now) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
        return if $now == $before;
        $before = $now;
        sleep 0.3;
    }
    die 'the refresher does not come to rest';
}

subtest 'a second database' => sub {
    refreshers_become('postgres', 'one refresher');
    $node->safe_psql('postgres', 'CREATE DATABASE second');
    my $began = time;
    furnish('second', 'second', $server->expired_grants('second', n => 3));
    refreshed_within('second', 3, 'is served without a restart');
    note(sprintf('%.2f s after CREATE EXTENSION', time - $began));
    is(refreshers(), 'postgres second', 'by a refresher of its own');
    is($node->safe_psql('second', "SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')"), 't', 'also on demand');
};

subtest 'CREATE EXTENSION that is rolled back' => sub {
    $node->safe_psql('postgres', 'CREATE DATABASE undecided');
    $node->safe_psql('undecided', 'BEGIN; CREATE EXTENSION token_refresh; ROLLBACK');
    $node->safe_psql('undecided', 'SELECT 1');
    is(refreshers(), 'postgres second', 'brings no refresher');
    quickly('DROP DATABASE', 'DROP DATABASE undecided', 3);
};

subtest 'CREATE DATABASE TEMPLATE' => sub {
    quickly('CREATE DATABASE TEMPLATE', 'CREATE DATABASE copy TEMPLATE second', 8);
    refreshers_become('copy postgres second', 'the template and the copy have refreshers');
    # The copy holds the same refresh tokens as its template: only one of them may use them.
    $node->safe_psql('copy', 'DELETE FROM token_refresh.credential; SELECT token_refresh.drop_provider(\'acme\')');
    furnish('copy', 'copy', $server->expired_grants('copy', n => 2));
    refreshed_within('copy', 2, 'the copy is served');
    is($node->safe_psql('second', "SELECT success FROM token_refresh.refresh_credential('acme', 'subject2')"), 't', 'so is the template');
    is($server->stats('second')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'ALTER DATABASE RENAME' => sub {
    quickly('ALTER DATABASE RENAME', 'ALTER DATABASE copy RENAME TO renamed', 8);
    refreshers_become('postgres renamed second', 'its refresher comes back');
    is($node->safe_psql('renamed', "SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')"), 't', 'it is served');
};

subtest 'a command on a database with requests in flight' => sub {
    for my $case ([ 'ALTER DATABASE RENAME', 'ALTER DATABASE renamed RENAME TO other' ], [ 'CREATE DATABASE TEMPLATE', 'CREATE DATABASE renamed TEMPLATE other' ])
    {
        my ($what, $sql) = @$case;
        my $database = $what =~ /RENAME/ ? 'renamed' : 'other';
        refreshers_become(join(' ', sort $database, 'postgres', 'second'), 'its refresher runs');
        $server->control('slow', hold => 'before');
        furnish_more($database, 'slow', 2, "slow$database");
        $server->wait('slow', held => 2);
        # Two seconds of draining, and what PostgreSQL itself takes for it.
        quickly($what, $sql, 3);
        $server->release('slow');
    }
    $node->safe_psql('postgres', 'DROP DATABASE renamed WITH (FORCE); ALTER DATABASE other RENAME TO renamed');
    refreshers_become('postgres renamed second', 'all as before');
};

subtest 'DROP EXTENSION while nothing happens' => sub {
    $node->safe_psql('postgres', 'CREATE DATABASE idle');
    furnish('idle', 'idle');
    refreshers_become('idle postgres renamed second', 'a refresher with nothing to do');
    # It hears of this at once, and so of all that was changed before; then it sleeps.
    $node->safe_psql('idle', 'SELECT token_refresh.resume()');
    wait_until_asleep('idle');
    $node->safe_psql('idle', 'DROP EXTENSION token_refresh');
    refreshers_become('postgres renamed second', 'leaves at COMMIT');
    furnish('idle', 'idle');
    refreshers_become('idle postgres renamed second', 'comes back with the extension');
    $node->safe_psql('idle', 'DROP SCHEMA token_refresh CASCADE');
    refreshers_become('postgres renamed second', 'leaves when the schema goes');
    $node->safe_psql('postgres', 'DROP DATABASE idle');
};

subtest 'DROP EXTENSION with requests in flight' => sub {
    $server->control('renamed', hold => 'after');
    furnish_more('renamed', 'renamed', 5);
    $server->wait('renamed', held => 5);
    my $caller = start_query($node, "SELECT * FROM token_refresh.refresh_credential('acme', 'held1')", database => 'renamed');
    ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'renamed' AND wait_event_type = 'Extension' AND backend_type = 'client backend'"),
        'a session waits for one of them');
    my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE datname = 'renamed' AND backend_type = 'token_refresh refresher'");
    my $dropper = start_query($node, 'DROP EXTENSION token_refresh', database => 'renamed');
    my ($output, $error) = $caller->finish;
    like("$output$error", qr/the extension token_refresh has been dropped while it was in use|the refresher is stopping; try again/, 'the session is told');
    is(($dropper->finish)[1], '', 'DROP EXTENSION succeeds');
    ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"), 'the refresher leaves');
    is( $node->safe_psql('renamed', <<'END'), '0', 'nothing is left but the schema');
SELECT count(*) FROM (SELECT relnamespace FROM pg_class UNION ALL SELECT pronamespace FROM pg_proc UNION ALL SELECT typnamespace FROM pg_type) AS objects (namespace)
WHERE namespace = 'token_refresh'::regnamespace
END
    $server->release('renamed');

    furnish('renamed', 'again', $server->expired_grants('again', n => 2));
    refreshed_within('renamed', 2, 'CREATE EXTENSION again works');
    is(refreshers(), 'postgres renamed second', 'all have refreshers');
};

subtest 'DROP EXTENSION and CREATE EXTENSION at once' => sub {
    $node->safe_psql('renamed', 'BEGIN; DROP EXTENSION token_refresh; CREATE EXTENSION token_refresh; COMMIT');
    furnish('renamed', 'anew', $server->expired_grants('anew', n => 2));
    refreshed_within('renamed', 2, 'the new one is served');
};

subtest 'DROP DATABASE with requests in flight' => sub {
    $server->control('anew', hold => 'after');
    furnish_more('renamed', 'anew', 5);
    $server->wait('anew', held => 5);
    quickly('DROP DATABASE', 'DROP DATABASE renamed', 6);
    is(refreshers(), 'postgres second', 'its refresher is gone');
    $server->release('anew');
    $node->safe_psql('postgres', 'CREATE DATABASE renamed');
    furnish('renamed', 'fresh', $server->expired_grants('fresh', n => 2));
    refreshed_within('renamed', 2, 'a new database of that name is served');
    quickly('DROP DATABASE WITH (FORCE)', 'DROP DATABASE renamed WITH (FORCE)', 8);
    is(refreshers(), 'postgres second', 'its refresher is gone');
};

subtest 'token_refresh.databases' => sub {
    $node->append_conf('postgresql.conf', "token_refresh.databases = 'second'");
    $node->reload;
    refreshers_become('second', 'one that is left out loses its refresher');
    my ($status, $output, $error) = $node->psql('postgres', <<'END');
\set VERBOSITY verbose
SELECT * FROM token_refresh.refresh_expiring_tokens();
SELECT token_refresh._refresh_many('{1}');
END
    like($error, qr/ERROR:  55000: cannot refresh tokens: token_refresh.databases leaves out database "postgres"/, 'asking for a refresh says so');
    like($error, qr/HINT:  Add the database to token_refresh.databases and reload the configuration/, 'with a hint');
    is($node->safe_psql('postgres', "SELECT token_refresh.status() ->> 'refresher'"), 'excluded', 'status() says so');
    $node->append_conf('postgresql.conf', "token_refresh.databases = ''");
    $node->reload;
    refreshers_become('postgres second', 'it gets it back');
};

subtest 'pause and resume' => sub {
    $node->safe_psql('second', 'SELECT token_refresh.pause()');
    is($node->safe_psql('second', "SELECT token_refresh.status() -> 'paused'"), 'true', 'status() says paused');
    my $requests = $server->stats('second')->{requests};
    furnish_more('second', 'second', 2, 'paused');
    is($node->safe_psql('second', "SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')"), 't', 'on demand a credential is refreshed');
    like($node->safe_psql('second', "SELECT token_refresh.get_access_token('acme', 'paused1')"), qr/^at_/, 'also one that has expired');
    is($server->stats('second')->{requests}, $requests + 2, 'nothing else');
    $node->restart;
    is($node->safe_psql('second', "SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')"), 't', 'the same after a restart');
    is($server->stats('second')->{requests}, $requests + 3, 'nothing else');
    $node->safe_psql('second', 'SELECT token_refresh.resume()');
    refreshed_within('second', 5, 'resume() brings the rest');
    is($node->safe_psql('second', "SELECT token_refresh.status() -> 'paused'"), 'false', 'status() says so');
    is($node->safe_psql('second', "SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE event IN ('paused', 'resumed')"),
        'paused resumed', 'both are in the audit');
};

subtest 'resume() is heard at once' => sub {
    for my $round (1 .. 10)
    {
        $node->safe_psql('second', 'SELECT token_refresh.pause()');
        furnish_more('second', 'second', 1, "round$round.");
        my $requests = $server->stats('second')->{requests};
        $node->safe_psql('second', 'SELECT token_refresh.resume()');
        $server->wait('second', requests => $requests + 1, timeout => 10);
    }
    refreshed_within('second', 15, 'every time');
};

subtest 'token_refresh.enabled' => sub {
    $node->append_conf('postgresql.conf', 'token_refresh.enabled = off');
    $node->reload;
    $node->poll_query_until('second', "SELECT NOT current_setting('token_refresh.enabled')::boolean") or die 'no reload';
    # The refresher has read the configuration when it has answered a question that came after.
    $node->safe_psql('second', "SELECT token_refresh.refresh_credential('acme', 'subject1')");
    my $requests = $server->stats('second')->{requests};
    furnish_more('second', 'second', 2, 'off');
    is($node->safe_psql('second', "SELECT success FROM token_refresh.refresh_credential('acme', 'off1')"), 't', 'off: on demand a credential is refreshed');
    is($server->stats('second')->{requests}, $requests + 1, 'nothing else');
    $node->append_conf('postgresql.conf', 'token_refresh.enabled = on');
    $node->reload;
    refreshed_within('second', 17, 'on again: the rest is refreshed');
};

# More credentials, due now, for a database that has the provider.
sub furnish_more
{
    my ($database, $realm, $count, $prefix) = @_;
    $prefix //= 'held';
    my $sql = sprintf("SELECT token_refresh.alter_provider('acme', '{\"token_endpoint\": \"%s\"}');\n", $server->token_endpoint($realm));
    for my $grant ($server->expired_grants($realm, prefix => $prefix, n => $count))
    {
        my %response = %$grant;
        my $subject  = delete $response{subject};
        $sql .= sprintf("SELECT token_refresh.store_credential('acme', %s, %s);\n", literal($subject), literal(json(\%response)));
    }
    $node->safe_psql($database, $sql);
    return;
}

is($server->stats($_)->{reuse}, 0, "realm $_: no refresh token was presented twice") for qw(second copy again anew fresh);
$node->stop;
done_testing();
