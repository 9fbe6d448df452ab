# P8, P12: a hot standby reads valid tokens and says why it cannot refresh; after its
# promotion the refresher starts by itself.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server  = start_token_server();
my $primary = new_node('primary', -init => { allows_streaming => 1 });
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub catch_up { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')); return; }

create_provider($primary, 'acme', token_endpoint => $server->token_endpoint('acme'));
create_provider($primary, 'down', token_endpoint => $server->token_endpoint('down'));
$server->fault('down', kind => 'status', status => 503);
my @grants = $server->grants('acme', n => 3);
store_credential($primary, 'acme', @grants);
store_credential($primary, 'down', $server->expired_grants('down', n => 1));
# Alive, but within its margin.
my ($late) = $server->grants('down', subjects => ['late'], lifetime => 1000);
store_credential($primary, 'down', $late);
$primary->safe_psql('postgres',
    q{UPDATE token_refresh.credential SET issued_at = issued_at - interval '900 seconds', expires_at = expires_at - interval '900 seconds' WHERE subject = 'late'});
poll_until($primary, q{SELECT min(attempts) > 0 FROM token_refresh.token_status WHERE provider = 'down'}, 'the provider "down" is');
catch_up();

my $processes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'token_refresh %'";

# Runs SQL; returns SQLSTATE, message and hint of its error.
sub error_of
{
    my ($node, $sql) = @_;
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
    my ($state, $message) = $error =~ /ERROR:  (\w+): (.*)/ or return ('none', $output);
    my ($hint) = $error =~ /HINT:  (.*)/;
    return ($state, $message, $hint);
}

subtest 'reading' => sub {
    is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'the standby is one');
    is($standby->safe_psql('postgres', $processes), '0', 'neither launcher nor refresher runs on it');
    for my $way ('', 'BEGIN TRANSACTION READ ONLY;', 'BEGIN ISOLATION LEVEL REPEATABLE READ;')
    {
        is($standby->safe_psql('postgres', "$way SELECT token_refresh.get_access_token('acme', 'subject1')"),
            $grants[0]{access_token}, 'a valid token is read' . ($way && " after $way"));
    }
    is( $primary->safe_psql('postgres', "BEGIN TRANSACTION READ ONLY; SELECT token_refresh.get_access_token('acme', 'subject1')"),
        $grants[0]{access_token}, 'and on the primary after BEGIN TRANSACTION READ ONLY');
    is($standby->safe_psql('postgres', "SELECT access_token, status FROM token_refresh.get_token('down', 'late')"),
        "$late->{access_token}|connected", 'one that should be refreshed, but lives, is read as well (P10)');
    is($standby->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.token_status'), '5', 'token_status');
    is($standby->safe_psql('postgres', q{SELECT token_refresh.status() -> 'running'}), 'false', 'status(): not running');
};

subtest 'what cannot be done' => sub {
    for my $sql (
        q{SELECT token_refresh.refresh_credential('acme', 'subject1')},
        q{SELECT token_refresh.get_access_token('down', 'subject1')},
        q{SELECT * FROM token_refresh.refresh_expiring_tokens('1 day')})
    {
        my ($state, $message, $hint) = error_of($standby, $sql);
        is("$state $message", '25006 cannot refresh tokens on a standby server', $sql);
        is($hint, 'Ask the primary; what it refreshes arrives here by replication.', 'with a hint');
    }
    my ($state) = error_of($standby, q{SELECT token_refresh.store_credential('acme', 'new', '{"access_token": "fake"}')});
    is($state, '25006', 'storing is refused');
    ($state) = error_of($primary, q{BEGIN TRANSACTION READ ONLY; SELECT token_refresh.store_credential('acme', 'new', '{"access_token": "fake"}')});
    is($state, '25006', 'storing in a read-only transaction of the primary too');
};

subtest 'a refresh on the primary arrives' => sub {
    is($primary->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject2')}), 't', 'refreshed');
    catch_up();
    my $token = access_token($standby, 'acme', 'subject2');
    isnt($token, $grants[1]{access_token}, 'the standby has another token');
    ok($server->is_active('acme', $token), 'a valid one');
};

subtest 'promotion' => sub {
    $primary->stop;
    $standby->promote;
    poll_until($standby, $processes, 'launcher and refresher start by themselves', '2');
    poll_until($standby, "SELECT token_refresh.status() ->> 'running'", 'status(): running', 'true');
    is($standby->safe_psql('postgres', qq{SELECT success FROM token_refresh.refresh_credential('acme', '$_')}), 't', "$_ can be refreshed")
        for qw(subject1 subject2 subject3);
    $server->fault('down');
    poll_until($standby, q{SELECT min(refresh_count) = 1 FROM token_refresh.token_status WHERE provider = 'down'},
        'what was due is refreshed in the background');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

$standby->stop;
done_testing();
