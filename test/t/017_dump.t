# P12: pg_dump and restore into another cluster with the same key file. Everything that
# cannot be derived survives; the schedule is made anew; refreshing goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server   = start_token_server();
my $old      = new_node('old', 'token_refresh.sweep_interval' => '10s');
my $key_file = $old->basedir . '/token_refresh.keys';

create_provider($old, $_, token_endpoint => $server->token_endpoint($_), refresh_margin => '2 minutes') for qw(acme parking);
my @grants = $server->grants('acme', subjects => [qw(valid rolled)]);
store_credential($old, 'acme', @grants, $server->expired_grants('acme', subjects => ['dead']));
$old->safe_psql('postgres', q{SELECT token_refresh.store_credential('acme', 'rolled', '{"access_token": "fake-labelled", "scope": "a b"}', label => 'second')});
is($old->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'rolled')}), 't', 'one was refreshed');

subtest 'a dead grant' => sub {
    $server->fault('acme', kind => 'invalid_grant', match => '^dead$');
    my ($dead) = $server->expired_grants('acme', subjects => ['dead']);
    store_credential($old, 'acme', $dead);
    poll_until($old, q{SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'dead'}, 'is known as such');
    $server->fault('acme');
};

subtest 'a parked result' => sub {
    my @parking = $server->expired_grants('parking', n => 2);
    $old->safe_psql('postgres', q{ALTER TABLE token_refresh.credential ADD CONSTRAINT no_news CHECK (provider <> 'parking' OR expires_at < '2021-01-01') NOT VALID});
    store_credential($old, 'parking', @parking);
    poll_until($old, q{SELECT count(*) = 2 FROM token_refresh.token_status WHERE parked}, 'is there, twice');
};
my $parked_token = access_token($old, 'parking', 'subject1');

# As if all that had happened an hour ago.
$old->safe_psql('postgres', q{SET session_replication_role = replica; UPDATE token_refresh.credential SET issued_at = issued_at - interval '1 hour'});

# One dump while refreshing goes on, one while it is paused.
my $dump = $old->basedir . '/dump';
$old->command_ok([ 'pg_dump', '--file', "$dump.unpaused.sql", $old->connstr('postgres') ], 'pg_dump');
$old->safe_psql('postgres', 'SELECT token_refresh.pause()');
my $requests_of_dead = $server->stats('acme')->{per_subject}{dead}{requests};
my %requests = map { $_ => $server->stats($_)->{requests} } qw(acme parking);
$old->command_ok([ 'pg_dump', '--file', "$dump.sql", $old->connstr('postgres') ], 'pg_dump, plain');
$old->command_ok([ 'pg_dump', '--format=custom', '--file', "$dump.custom", $old->connstr('postgres') ], 'pg_dump, custom');

my $text = slurp_file("$dump.sql");
ok(secrets_absent($text, 'obviously-fake-secret', 'fake-labelled', $parked_token, map { @{$_}{qw(access_token refresh_token)} } @grants),
    'the dump holds no secret');
unlike($text, qr/COPY token_refresh\.(schedule|in_flight) /, 'what is derived is not in it');

# What must survive: everything that people entered or providers said.
my @facts = (
    'SELECT name, client_id, options, effective_options, client_secret, created_at FROM token_refresh.provider',
    'SELECT id, provider, subject, label, access_token, refresh_token, token_type, scope, issued_at, expires_at, status, last_error, refreshed_at FROM token_refresh.credential',
    'SELECT token_table, row_key, replaces_refresh_token, access_token, refresh_token, expires_at, reason FROM token_refresh.parked_result',
    'SELECT paused, changed_at, changed_by FROM token_refresh.control',
    'SELECT occurred_at, event, provider, row_key, subject, failure, message, actor FROM token_refresh.audit_event',
    'SELECT provider, subject, label, status, expires_at, parked FROM token_refresh.token_status',
    q{SELECT status -> 'paused' FROM token_refresh.status()});
sub facts { my ($node, $database) = @_; return map { join "\n", sort split /\n/, $node->safe_psql($database, $_) } @facts; }
my @before = facts($old, 'postgres');
$old->stop;

my $new = new_node('new', -extension => 0, 'token_refresh.key_file' => $key_file);
my %restore = (
    plain    => [ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.sql", '-d' ],
    unpaused => [ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.unpaused.sql", '-d' ],
    custom  => [ 'pg_restore', '--exit-on-error', "$dump.custom", '-d' ]);
for my $form (qw(plain custom))
{
    subtest "restored, $form" => sub {
        $new->safe_psql('postgres', "CREATE DATABASE restored_$form");
        $new->command_ok([ @{ $restore{$form} }, $new->connstr("restored_$form") ], 'restoring succeeds');
        my @after = facts($new, "restored_$form");
        is($after[$_], $before[$_], $facts[$_]) for 0 .. $#facts;
        is($new->safe_psql("restored_$form", 'SELECT count(*) FROM token_refresh.schedule'), '6', 'the schedule has a row for each credential');
        is($server->stats($_)->{requests}, $requests{$_}, "nothing was asked of $_, as it is paused") for qw(acme parking);
        is($new->safe_psql("restored_$form", q{SELECT token_refresh.get_access_token('acme', 'valid')}), $grants[0]{access_token}, 'tokens are read');
        is($new->safe_psql("restored_$form", q{SELECT token_refresh.get_access_token('parking', 'subject1')}), $parked_token, 'parked ones too');
        is($new->safe_psql("restored_$form", q{SELECT token_refresh.store_credential('acme', 'next', '{"access_token": "fake"}') > (SELECT max(id) FROM token_refresh.credential WHERE subject <> 'next')}),
            't', 'the sequence goes on');
    };
}

# Every statement of the script commits by itself, and the refresher is already there: credentials are
# restored before their parked results, and must not be refreshed with the retired tokens.
subtest 'restored while refreshing is not paused' => sub {
    $new->safe_psql('postgres', 'CREATE DATABASE restored_unpaused');
    $new->command_ok([ @{ $restore{unpaused} }, $new->connstr('restored_unpaused') ], 'restoring succeeds');
    ok($new->poll_query_until('restored_unpaused', q{SELECT token_refresh.status() ->> 'running'}, 'true'), 'the refresher runs');
    is($new->safe_psql('restored_unpaused', q{SELECT count(*) FROM token_refresh.schedule WHERE due_at < now() + interval '30 seconds'}),
        '0', 'nothing is due in the first moments');
    is($server->stats($_)->{requests}, $requests{$_}, "nothing was asked of $_") for qw(acme parking);
    ok($new->poll_query_until('restored_unpaused', 'SELECT count(*) = 0 FROM token_refresh.parked_result'), 'the parked results are stored');
    is($new->safe_psql('restored_unpaused', q{SELECT count(*) FROM token_refresh.audit_event WHERE event = 'parked_result_stored'}), '2', 'as the audit says');
    $new->safe_psql('postgres', 'DROP DATABASE restored_unpaused');
};

# A big table takes its time: a row may be planned long before it is committed.
subtest 'restored by a transaction that lasts' => sub {
    $new->safe_psql('postgres', 'CREATE DATABASE restored_slowly');
    $new->safe_psql('restored_slowly', 'CREATE EXTENSION token_refresh');
    ok($new->poll_query_until('restored_slowly', q{SELECT token_refresh.status() ->> 'running'}, 'true'), 'the refresher runs');
    my $options = json({ token_endpoint => $server->token_endpoint('acme') });
    $new->safe_psql('restored_slowly', "SELECT token_refresh.create_provider('acme', 'test-client', 'obviously-fake-secret', '$options')");
    $new->safe_psql('restored_slowly', <<'END');
BEGIN;
INSERT INTO token_refresh.credential (provider, subject, access_token, refresh_token, issued_at, expires_at) VALUES ('acme', 'slow', 'x', 'x', '2020-01-01', '2020-01-02');
UPDATE token_refresh.schedule SET due_at = now() - interval '10 minutes';
COMMIT;
END
    ok($new->poll_query_until('restored_slowly', q{SELECT due_at > now() + interval '30 seconds' FROM token_refresh.schedule}), 'it is not due before a minute after its COMMIT');
    is($new->safe_psql('restored_slowly', q{SELECT status, failure IS NULL FROM token_refresh.schedule}), 'connected|t', 'nothing was tried');
    $new->safe_psql('postgres', 'DROP DATABASE restored_slowly');
};

subtest 'refreshing goes on' => sub {
    # Both databases hold the same grants: only one may use them.
    $new->safe_psql('postgres', 'DROP DATABASE restored_custom');
    $new->safe_psql('restored_plain', 'ALTER TABLE token_refresh.credential DROP CONSTRAINT IF EXISTS no_news');
    $new->safe_psql('restored_plain', 'SELECT token_refresh.resume(); UPDATE token_refresh.schedule SET due_at = now() WHERE due_at < now() + interval \'2 minutes\'; SELECT token_refresh._wake_refresher()');
    ok($new->poll_query_until('restored_plain', 'SELECT count(*) = 0 FROM token_refresh.parked_result'), 'the parked results are stored');
    is($new->safe_psql('restored_plain', "SELECT success FROM token_refresh.refresh_credential('$_->[0]', '$_->[1]')"), 't', "$_->[0] $_->[1] is refreshed")
        for [qw(acme valid)], [qw(acme rolled)], [qw(parking subject1)], [qw(parking subject2)];
    is($new->safe_psql('restored_plain', q{SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'dead')}),
        'f|reauth|the user must sign in again', 'the dead grant stays dead');
    is($server->stats('acme')->{per_subject}{dead}{requests}, $requests_of_dead, 'and is not presented');
    is($server->stats($_)->{reuse}, 0, "$_: no refresh token was presented twice") for qw(acme parking);
};

$new->stop;
done_testing();
