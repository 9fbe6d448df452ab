# A hundred sessions that want the same expired token cause one request and all get
# its result (P2), whichever function they call and whoever was first.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $callers = 100;
my $server  = start_token_server();
my $node    = new_node('main', 'max_connections' => $callers + 20, 'token_refresh.request_timeout' => '60s');
create_provider($node, $_, token_endpoint => $server->token_endpoint($_)) for qw(acme down);
$node->safe_psql('postgres', 'SELECT token_refresh.pause(); CREATE TABLE seen (test text, result text)');

# A hundred sessions that execute SQL once and note its only result.
sub start_herd
{
    my ($test, $sql) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . "/$test.sql";
    append_to_file($script, sprintf("INSERT INTO seen SELECT %s, result::text FROM (%s) AS call (result);\n", literal($test), $sql));
    my ($output, $error) = ('', '');
    my $run = IPC::Run::start(
        [ $node->installed_command('pgbench'), '-n', '-c', $callers, '-j', 2, '-t', 1, '-f', $script, $node->connstr('postgres') ],
        '<', \undef, '>', \$output, '2>', \$error, IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
    return { test => $test, run => $run, error => \$error };
}

sub await_waiting
{
    my ($number) = @_;
    poll_until($node, "SELECT count(*) = $number FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'",
        "$number sessions wait");
    return;
}

# What they saw: (number of results, number of different ones, one of them).
sub finish_herd
{
    my ($herd) = @_;
    ok($herd->{run}->finish, "$herd->{test}: no session failed") or diag(${ $herd->{error} });
    return split /\|/, $node->safe_psql('postgres',
        "SELECT count(*), count(DISTINCT coalesce(result, 'none')), min(result) FROM seen WHERE test = " . literal($herd->{test})), -1;
}

sub expired_credential
{
    my ($provider, $subject) = @_;
    store_credential($node, $provider, $server->expired_grants($provider, subjects => [$subject]));
    return;
}

sub requests { my ($provider, $subject) = @_; return $server->stats($provider)->{per_subject}{$subject}{requests}; }

sub get { my ($provider, $subject) = @_; return sprintf('SELECT token_refresh.get_access_token(%s, %s)', literal($provider), literal($subject)); }

my $refresh = "SELECT success FROM token_refresh.refresh_credential('acme', %s)";

subtest 'get_access_token' => sub {
    expired_credential('acme', 'wanted');
    $server->control('acme', hold => JSON::PP::true);
    my $herd = start_herd('get', get('acme', 'wanted'));
    await_waiting($callers);
    my $began = time;
    $server->release('acme');
    my ($results, $different, $token) = finish_herd($herd);
    note(sprintf('all have their answer after %.2f s', time - $began));
    is($results,   $callers, 'all have a result');
    is($different, 1,        'the same');
    ok($server->is_active('acme', $token), 'which is valid');
    is(requests('acme', 'wanted'), 1, 'one request');
};

subtest 'refresh_credential' => sub {
    expired_credential('acme', 'forced');
    $server->control('acme', hold => JSON::PP::true);
    my $herd = start_herd('forced', sprintf($refresh, "'forced'"));
    await_waiting($callers);
    $server->release('acme');
    my ($results, $different, $success) = finish_herd($herd);
    is("$results $different $success", "$callers 1 true", 'all are told of success');
    is(requests('acme', 'forced'), 1, 'one request');
    is($node->safe_psql('postgres', "SELECT refresh_count FROM token_refresh.token_status WHERE subject = 'forced'"), '1', 'one refresh');
};

subtest 'nobody holds the provider back' => sub {
    expired_credential('acme', 'rush');
    $server->control('acme', latency => 0.2);
    my ($results, $different, $token) = finish_herd(start_herd('rush', get('acme', 'rush')));
    is("$results $different", "$callers 1", 'latecomers get the same token');
    is(requests('acme', 'rush'), 1, 'one request');
    $server->control('acme', latency => 0);
};

subtest 'callers of different functions, and the background' => sub {
    expired_credential('acme', 'mixed');
    $server->control('acme', hold => JSON::PP::true);
    my $herd  = start_herd('mixed', get('acme', 'mixed'));
    my $other = start_query($node, sprintf($refresh, "'mixed'"));
    my $batch = start_query($node, 'SELECT details FROM token_refresh.refresh_expiring_tokens()');
    await_waiting($callers + 2);
    $node->safe_psql('postgres', 'SELECT token_refresh.resume()');
    # The background goes on: it serves a credential that was stored after the others.
    expired_credential('acme', 'later');
    $server->wait('acme', held => 2);
    $server->release('acme');
    my ($results, $different, $token) = finish_herd($herd);
    is("$results $different", "$callers 1", 'all have the same token');
    is(($other->finish)[0], 't', 'refresh_credential succeeds');
    is(($batch->finish)[0], '{"acme": {"refreshed": 1}}', 'refresh_expiring_tokens as well');
    is(requests('acme', 'mixed'), 1, 'one request');
};

subtest 'the background is first' => sub {
    $server->control('acme', hold => JSON::PP::true);
    expired_credential('acme', 'due');
    $server->wait('acme', held => 1);
    my $herd = start_herd('due', get('acme', 'due'));
    await_waiting($callers);
    $server->release('acme');
    my ($results, $different, $token) = finish_herd($herd);
    is("$results $different", "$callers 1", 'all have the same token');
    is(requests('acme', 'due'), 1, 'one request');
    ok($server->is_active('acme', $token), 'the token is valid');
};

subtest 'a failing provider is asked once, too' => sub {
    $node->safe_psql('postgres', 'SELECT token_refresh.pause()');
    expired_credential('down', 'nobody');
    $server->control('down', hold => JSON::PP::true, fault => { kind => 'status', status => 500 });
    my $herd = start_herd('down', get('down', 'nobody'));
    await_waiting($callers);
    $server->release('down');
    my ($results, $different, $token) = finish_herd($herd);
    is("$results $different $token", "$callers 1 ", 'nobody gets a token');
    is(requests('down', 'nobody'), 1, 'one request');
    is(status_of($node, 'down', 'nobody')->{attempts}, 1, 'one attempt');
};

is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');

$node->stop;
done_testing();
