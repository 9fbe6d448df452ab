# status() shows what keeps requests from a provider, and until when: each reason comes, and goes again. After a restart of the
# refresher nothing of the old one is shown.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'log_min_messages' => 'warning', 'token_refresh.drain_timeout' => '100ms', 'token_refresh.max_in_flight' => '400');

sub query { return $node->safe_psql('postgres', $_[0]); }

my $row = q{jsonb_path_query_first(token_refresh.status(), '$.providers[*] ? (@.provider == $p)', jsonb_build_object('p', '%s'))};

# The row of a provider, and how many seconds are left of its "until".
sub state_of
{
    my ($provider, $database) = @_;
    my $found = sprintf $row, $provider;
    return JSON::PP->new->allow_nonref->decode($node->safe_psql($database // 'postgres',
        "SELECT r || jsonb_build_object('left', extract(epoch FROM (r ->> 'until')::timestamptz - clock_timestamp())) FROM (SELECT $found) s (r)"));
}

sub await_reason
{
    my ($provider, $reason, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    poll_until($node, sprintf("SELECT ($row) ->> 'held_back' IS NOT DISTINCT FROM %s", $provider, literal($reason)), $what)
        or diag(query('SELECT jsonb_pretty(token_refresh.status())'));
    return state_of($provider);
}

sub refresher_pid { return query(q{SELECT pid FROM token_refresh._refresher_state() WHERE phase = 'running'}); }

# A provider with so many credentials that are due.
sub begin
{
    my ($name, $due, %options) = @_;
    create_provider($node, $name, token_endpoint => $server->token_endpoint($name), %options);
    store_credential($node, $name, $server->expired_grants($name, n => $due, prefix => $name)) if $due;
    return;
}

sub await_refreshed
{
    my ($provider) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, "SELECT bool_and(refresh_count > 0) FROM token_refresh.token_status WHERE provider = '$provider'", "$provider: all are refreshed");
}

subtest 'nothing' => sub {
    begin('idle', 0);
    is_deeply(state_of('idle'), { provider => 'idle', in_flight => 0, max_in_flight => 400, held_back => undef, until => undef, left => undef }, 'a provider that nobody asks');
};

subtest 'requests in flight' => sub {
    $server->control('busy', hold => 'before');
    begin('busy', 3, max_in_flight => 2);
    my $state = await_reason('busy', 'max_in_flight', 'no more requests may go out');
    is_deeply([ @$state{qw(in_flight max_in_flight until)} ], [ 2, 2, undef ], 'so many are under way; an answer will end that');
    query(q{SELECT token_refresh.alter_provider('busy', '{"max_in_flight": null}')});
    $server->wait('busy', held => 3);
    $state = await_reason('busy', undef, 'more requests may go out');
    is_deeply([ @$state{qw(in_flight max_in_flight)} ], [ 3, 400 ], 'all are under way');
    $server->release('busy');
    await_refreshed('busy');
    poll_until($node, sprintf("SELECT ($row) ->> 'in_flight' = '0'", 'busy'), 'none is under way');
};

subtest 'a provider that keeps failing' => sub {
    $server->fault('failing', kind => 'status', status => 500);
    begin('failing', 6);
    my $state = await_reason('failing', 'failing', 'it is probed only');
    ok(defined $state->{left} && $state->{left} < 79, 'at the latest after a minute, and up to 30 % more');
    like(query(q{SELECT message FROM token_refresh.refresh_credential('failing', 'failing1')}), qr/keeps failing|500/, 'as a caller is told');
    $server->fault('failing');
    await_refreshed('failing');
    await_reason('failing', undef, 'one success ends it');
};

subtest 'Retry-After' => sub {
    $server->fault('limited', kind => 'rate_limit', headers => { 'Retry-After' => '3600' }, count => 1);
    begin('limited', 2, max_in_flight => 1);
    my $state = await_reason('limited', 'rate_limited', 'all of its credentials wait');
    ok($state->{left} > 3000 && $state->{left} <= 3600, 'as long as it has asked for');
    is($state->{in_flight}, 0, 'nothing is under way');
    query(q{SELECT token_refresh.alter_provider('limited', '{"timeout": "20 seconds"}')});
    await_reason('limited', undef, 'of a registration that has changed this is not known');
    poll_until($node, q{SELECT count(*) > 0 FROM token_refresh.token_status WHERE provider = 'limited' AND refresh_count > 0}, 'it is asked again');
};

subtest 'requests_per_minute' => sub {
    begin('metered', 2, requests_per_minute => 1);
    my $state = await_reason('metered', 'requests_per_minute', 'this minute is used up');
    ok($state->{left} > 0 && $state->{left} <= 60, 'the next may go out within a minute');
    is($server->stats('metered')->{requests}, 1, 'one has');
    query(q{SELECT token_refresh.alter_provider('metered', '{"requests_per_minute": null}')});
    await_refreshed('metered');
    is(state_of('metered')->{held_back}, undef, 'without a limit nothing holds it back');
};

subtest 'disabled' => sub {
    query(q{SELECT token_refresh.alter_provider('idle', '{"enabled": false}')});
    is_deeply([ @{ state_of('idle') }{qw(held_back until)} ], [ 'disabled', undef ], 'at once');
    query(q{SELECT token_refresh.alter_provider('idle', '{"enabled": true}')});
    is(state_of('idle')->{held_back}, undef, 'and not any more');
};

subtest 'a client secret that does not open' => sub {
    my $key_file = $node->basedir . '/token_refresh.keys';
    rename $key_file, "$key_file.away" or die "cannot rename the key file: $!";
    TokenRefreshTest::new_key_file($node);
    $node->reload;
    my $state = await_reason('idle', 'unusable', 'a provider whose key is gone');
    is_deeply([ @$state{qw(in_flight until)} ], [ 0, undef ], 'until somebody puts it back');
    rename "$key_file.away", $key_file or die "cannot rename the key file: $!";
    $node->reload;
    await_reason('idle', undef, 'which ends it');
};

subtest 'as the reference shows it' => sub {
    my ($snippet) = slurp_file("$FindBin::Bin/../../docs/reference.md") =~ /^( {4}SELECT p\.\* FROM jsonb_to_recordset.*?;)$/ms or die 'no snippet';
    like(query($snippet), qr/^idle\|0\|400\|\|$/m, 'a row for each provider');
};

subtest 'databases are told apart' => sub {
    $server->control('held', hold => 'before');
    begin('held', 1);
    $server->wait('held', held => 1);
    await_reason('held', undef, 'it may be asked for more');
    my $id = query(q{SELECT id FROM token_refresh.provider WHERE name = 'held'});
    query('CREATE DATABASE other');
    $node->safe_psql('other', qq{CREATE EXTENSION token_refresh; ALTER TABLE token_refresh.provider ALTER id RESTART $id; SELECT token_refresh.create_provider('held', 'c', 's', '{"token_endpoint": "http://127.0.0.1:9/token"}')});
    is(state_of('held')->{in_flight}, 1, 'a request is under way');
    is(state_of('held', 'other')->{in_flight}, 0, 'not in the other database, where a provider has the same id');
    ok($node->poll_query_until('other', q{SELECT phase = 'running' FROM token_refresh._refresher_state()}), 'which has a refresher');
    is(state_of('held')->{in_flight}, 1, 'that leaves this one alone');
};

subtest 'a new refresher begins with nothing' => sub {
    $server->fault('stale', kind => 'rate_limit', headers => { 'Retry-After' => '3600' });
    begin('stale', 1);
    await_reason('stale', 'rate_limited', 'for an hour');
    my $old = refresher_pid();
    query('SELECT token_refresh.pause()');
    query("SELECT pg_terminate_backend($old)");
    poll_until($node, "SELECT pid <> $old FROM token_refresh._refresher_state() WHERE phase = 'running'", 'another refresher is there');
    is_deeply([ map { @{ state_of($_) }{qw(in_flight held_back until)} } qw(stale held) ], [ (0, undef, undef) x 2 ], 'and shows nothing of the old one');
    is(query('SELECT count(*) FROM token_refresh._provider_states()'), '0', 'nor does shared memory');
};

subtest 'a provider that goes' => sub {
    query('SELECT token_refresh.resume()');
    $server->fault('gone', kind => 'rate_limit', headers => { 'Retry-After' => '3600' });
    begin('gone', 1);
    await_reason('gone', 'rate_limited', 'it holds its requests back');
    my $id = query(q{SELECT id FROM token_refresh.provider WHERE name = 'gone'});
    query(q{DELETE FROM token_refresh.credential WHERE provider = 'gone'; SELECT token_refresh.drop_provider('gone')});
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh._provider_states() WHERE provider = $id", 'it takes no place any more');
};

subtest 'who is told' => sub {
    query('CREATE ROLE nobody_special');
    for my $call ('token_refresh.status()', 'token_refresh._provider_states()')
    {
        my (undef, undef, $error) = $node->psql('postgres', "SET ROLE nobody_special; SELECT * FROM $call");
        like($error, qr/permission denied/, "not everybody: $call");
    }
};

$node->stop;
done_testing();
