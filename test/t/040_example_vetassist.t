# examples/vetassist, by the commands of its README: a table with tokens that SQL functions of its owner encrypt for
# each user, of active users only, with an audit of successes and failures.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', -extension => 0);
my %client = (client_id => 'vetassist', client_secret => 'obviously-fake-secret');
my $example = ExampleTest->new($node, 'vetassist',
    VA_TOKEN_ENDPOINT => $server->token_endpoint('va'), VA_CLIENT_ID => $client{client_id}, VA_CLIENT_SECRET => $client{client_secret});
$server->control('va', auth => { method => 'basic', %client });

my %id = map { $_->[0] => sprintf('00000000-0000-4000-8000-%012d', $_->[1]) } [ alice => 1 ], [ bob => 2 ], [ carol => 3 ], [ dave => 4 ], [ erin => 5 ];
my @secrets = ($client{client_secret});

# What the application does when a user signs in.
sub sign_in
{
    my ($name) = @_;
    my ($grant) = $server->grants('va', subjects => [ $id{$name} ]);
    push @secrets, $grant->{access_token}, $grant->{refresh_token};
    my ($user, $access, $refresh) = map { literal($_) } $id{$name}, $grant->{access_token}, $grant->{refresh_token};
    $example->owner_query("INSERT INTO vetassist_users (id, va_icn) VALUES ($user, 'icn of $name') ON CONFLICT DO NOTHING;"
        . ' INSERT INTO vetassist_va_tokens (user_id, access_token_encrypted, refresh_token_encrypted, expires_at)'
        . " VALUES ($user, encrypt_va_token($access, $user), encrypt_va_token($refresh, $user), now() + interval '1 hour')"
        . ' ON CONFLICT (user_id) DO UPDATE SET access_token_encrypted = excluded.access_token_encrypted,'
        . ' refresh_token_encrypted = excluded.refresh_token_encrypted, expires_at = excluded.expires_at, refreshed_at = now()');
    return;
}

# The same, of an application that signs in to the database as another role than the owner.
sub sign_in_as_service
{
    my ($name) = @_;
    $example->query("DO \$\$ BEGIN CREATE ROLE web LOGIN; EXCEPTION WHEN duplicate_object THEN END \$\$; GRANT vetassist TO web");
    $node->safe_psql($example->{database}, "SET ROLE vetassist; UPDATE vetassist_va_tokens SET refreshed_at = clock_timestamp() WHERE user_id = '$id{$name}'", extra_params => [ '-U', 'web' ]);
    return;
}

sub set_active { my ($name, $active) = @_; $example->owner_query("UPDATE vetassist_users SET is_active = $active WHERE id = '$id{$name}'"); return; }

sub expire { my ($name, $when) = @_; $example->owner_query("UPDATE vetassist_va_tokens SET expires_at = now() + interval '$when' WHERE user_id = '$id{$name}'"); return; }

sub row { return $example->query("SELECT t FROM vetassist_va_tokens t WHERE user_id = '$id{$_[0]}'"); }

# A token as the application reads it.
sub stored
{
    my ($name, $kind) = @_;
    my $token = $example->owner_query("SELECT decrypt_va_token(${kind}_token_encrypted, user_id::text) FROM vetassist_va_tokens WHERE user_id = '$id{$name}'");
    push @secrets, $token if $token ne '';
    return $token;
}

# What the application calls for a request.
sub ask
{
    my ($name) = @_;
    my $token = $example->owner_query("SELECT token_refresh.get_access_token_from('vetassist_va_tokens', id::text) FROM vetassist_va_tokens WHERE user_id = '$id{$name}'");
    push @secrets, $token if $token ne '';
    return $token;
}

sub requests { return $server->stats('va')->{per_subject}{ $id{ $_[0] } }{requests} // 0; }

sub await_refreshed
{
    my ($name, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return $example->await("SELECT expires_at > now() + interval '30 minutes' FROM vetassist_va_tokens WHERE user_id = '$id{$name}'", $what);
}

sub failures { return $example->owner_query("SELECT count(*) FROM vetassist_auth_audit_all WHERE event_type = 'token_refresh_failed' AND user_id = '$id{$_[0]}'"); }

subtest 'the application as it was' => sub {
    $example->step('Try it');
    sign_in($_) for qw(alice bob carol dave);
    my ($status, undef, $errors) = $node->psql($example->{database}, "SELECT decrypt_va_token(access_token_encrypted, '$id{bob}') FROM vetassist_va_tokens WHERE user_id = '$id{alice}'");
    isnt($status, 0, "alice's token does not open as bob's");
    like($errors, qr/Wrong key or corrupt data/, 'and pgcrypto says so');
};

subtest 'attach' => sub {
    set_active('carol', 'false');
    my ($status, undef, $errors) = $example->run_in_folder([ 'env', '-u', 'VA_CLIENT_SECRET', 'psql', '-qf', 'attach.sql' ], '');
    is($status, 3, 'attach.sql fails without the client secret');
    like($errors, qr/ERROR:  not set in the environment: VA_CLIENT_SECRET\n/, 'and says that it is that which is not set');
    my %before = map { $_ => row($_) } keys %id;
    $example->step('Attach');
    $example->readme_quotes('attach.sql', poll_interval => '60 s');
    $example->await('SELECT count(*) = 4 FROM token_refresh.token_status', 'the rows that were there are scheduled');
    is($example->owner_query("SELECT string_agg(DISTINCT status, ' ') FROM token_refresh.token_status WHERE subject IN ('$id{alice}', '$id{bob}', '$id{dave}')"),
        'connected', 'the owner sees the status of its rows');
    is($server->stats('va')->{requests}, 0, 'nothing is asked while paused');
    is(row($_), $before{$_}, "the row of $_ is as it was") for qw(alice bob carol dave);
    $example->step('Switch over');
};

subtest 'two minutes before the expiry' => sub {
    my %old = map { $_ => stored('alice', $_) } qw(access refresh);
    my $bob = row('bob');
    my $began = time;
    expire('alice', '2 minutes');
    await_refreshed('alice', 'refreshed without a call or a restart');
    my $seconds = time - $began;
    cmp_ok($seconds, '<', 30, 'at once: not by the poll, which comes every 60 seconds');
    note(sprintf('it took %.1f seconds', $seconds));
    ok($server->is_active('va', stored('alice', 'access')), 'the application opens the new token, and VA knows it');
    isnt(stored('alice', $_), $old{$_}, "the $_ token is a new one") for qw(access refresh);
    is($example->query("SELECT refreshed_at > now() - interval '1 minute' FROM vetassist_va_tokens WHERE user_id = '$id{alice}'"), 't', 'refreshed_at says when');
    is(row('bob'), $bob, 'the others are left alone');
    is($server->stats('va')->{requests}, 1, 'by one request');
    is($example->owner_query('SELECT user_id, event_type, event_data FROM vetassist_auth_audit'),
        qq($id{alice}|token_refresh|{"success": true}), 'the audit has the success');
};

subtest 'a sign-in is no refresh' => sub {
    my $row = row('bob');
    sign_in_as_service('bob');
    isnt(row('bob'), $row, 'refreshed_at has changed');
    is($example->owner_query("SELECT count(*) FROM vetassist_auth_audit WHERE user_id = '$id{bob}'"), '0', 'and the audit knows of no refresh, though the owner has not signed in itself');
};

subtest 'a request that finds an expired token' => sub {
    $example->query('SELECT token_refresh.pause()');
    expire('bob', '-1 minute');
    my $token = ask('bob');
    ok($server->is_active('va', $token), 'gets a fresh one');
    is($token, stored('bob', 'access'), 'which the table has, too');
    is(ask('bob'), $token, 'and asking again gives the same');
    is(requests('bob'), 1, 'all by one request');
    is($example->owner_query("SELECT count(*) FROM vetassist_auth_audit WHERE event_type = 'token_refresh' AND user_id = '$id{bob}'"), '1', 'and audited like any other');
    $example->query('SELECT token_refresh.resume()');
};

subtest 'VA is down' => sub {
    $server->fault('va', kind => 'status', status => 503, match => $id{bob});
    my $old = stored('bob', 'access');
    expire('bob', '2 minutes');
    $example->await("SELECT attempts > 0 FROM token_refresh.token_status WHERE subject = '$id{bob}'", 'the refresh fails');
    is(ask('bob'), $old, 'while the old token lives, a request gets that');
    is($example->query("SELECT status FROM token_refresh.token_status WHERE subject = '$id{bob}'"), 'connected', 'and the grant is not given up');
    cmp_ok(failures('bob'), '>=', 1, 'the audit has the failure');
    like($example->owner_query("SELECT DISTINCT event_data ->> 'error' FROM vetassist_auth_audit_all WHERE user_id = '$id{bob}' AND event_type = 'token_refresh_failed'"),
        qr/^transient: HTTP 503/, 'and says what it was');
    $server->fault('va');
    await_refreshed('bob', 'when VA is back the token is refreshed by itself');
};

subtest 'VA says no' => sub {
    $server->fault('va', kind => 'invalid_grant', match => $id{dave});
    expire('dave', '2 minutes');
    $example->await("SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = '$id{dave}'", 'the user must sign in again');
    is(failures('dave'), 1, 'the audit has one failure');
    like($example->owner_query("SELECT event_data ->> 'error' FROM vetassist_auth_audit_all WHERE user_id = '$id{dave}' AND event_type = 'token_refresh_failed'"),
        qr/invalid_grant/, 'and says what it was');
    my $shown = $example->step('Check');
    like($shown, qr/sign in at VA again.*$id{dave}.*for another reason/s, 'monitoring names the user');
    like($shown, qr/needs_reauth .*$id{dave}.*invalid_grant/, 'and so does what was a log');
    $server->fault('va');
    sign_in('dave');
    is($example->query("SELECT status FROM token_refresh.token_status WHERE subject = '$id{dave}'"), 'connected', 'signing in again is all that it takes');
    expire('dave', '2 minutes');
    await_refreshed('dave', 'and refreshing goes on');
    is(requests('dave'), 2, 'the dead token was presented once');
};

subtest 'deactivated' => sub {
    my $row = row('carol');
    expire('carol', '2 minutes');
    isnt(row('carol'), $row, "carol's token is about to expire");
    $row = row('carol');
    expire('alice', '2 minutes');
    await_refreshed('alice', "alice's token, which fell due later, is refreshed");
    is(row('carol'), $row, "carol's is not");
    is(requests('carol'), 0, 'and VA was not asked');
    is(ask('carol'), stored('carol', 'access'), 'a request gets what is left of the old token');
    is(requests('carol'), 0, 'and VA is not asked for that either');
};

subtest 'switch back' => sub {
    my %before = map { $_ => row($_) } keys %id;
    my $audit = "SELECT string_agg(concat_ws(' ', user_id, event_type, event_data, created_at), E'\\n' ORDER BY created_at, user_id) FROM";
    my $before = $example->owner_query("$audit vetassist_auth_audit_all");
    like($before, qr/$id{bob} token_refresh_failed .*$id{dave} token_refresh_failed /s, 'there have been failures');
    $example->step('Switch back');
    is($example->owner_query("$audit vetassist_auth_audit"), $before, 'the application finds them in its own table');
    is(row($_), $before{$_}, "the row of $_ is as it was") for qw(alice bob carol dave);
    $example->no_trigger_left('vetassist_va_tokens');
    is($example->query('SELECT count(*) FROM token_refresh.token_status'), '0', 'nothing is scheduled');
    is($example->query('SELECT count(*) FROM token_refresh.provider'), '0', 'the provider is forgotten');
    like(stored($_, 'refresh'), qr/^rt_/, "the application opens the refresh token of $_") for qw(alice bob carol dave);
};

subtest 'reactivated' => sub {
    my $failures = $example->owner_query("SELECT count(*) FROM vetassist_auth_audit WHERE event_type = 'token_refresh_failed'");
    $example->step('Attach', POLL_INTERVAL => '1 s');
    is($example->owner_query("SELECT count(*) FROM vetassist_auth_audit_all WHERE event_type = 'token_refresh_failed'"), $failures, 'no failure is there twice');
    $example->step('Switch over');
    # No trigger sees this row, so when it is known the table has been polled.
    $example->query('ALTER TABLE vetassist_va_tokens DISABLE TRIGGER USER');
    sign_in('erin');
    $example->query('ALTER TABLE vetassist_va_tokens ENABLE TRIGGER USER');
    $example->await("SELECT count(*) = 1 FROM token_refresh.token_status WHERE subject = '$id{erin}'", 'the table is polled');
    is(requests('carol'), 0, 'a deactivated user is left alone by the poll, too');
    set_active('carol', 'true');
    await_refreshed('carol', "carol is back, and the poll sees that her token is due");
    ok($server->is_active('va', stored('carol', 'access')), 'the token is good');
    set_active('alice', 'false');
    expire('alice', '2 minutes');
    expire('bob', '2 minutes');
    await_refreshed('bob', "bob's token is refreshed");
    is($example->query("SELECT expires_at < now() + interval '3 minutes' FROM vetassist_va_tokens WHERE user_id = '$id{alice}'"), 't', 'that of alice, who has just been deactivated, is not');
};

subtest 'the audit as a whole' => sub {
    is($example->owner_query("SELECT count(*) FROM vetassist_auth_audit WHERE event_type = 'token_refresh'"), $server->stats('va')->{refreshed}, 'one success for each refresh');
    is($example->owner_query("SELECT count(*) FROM vetassist_auth_audit WHERE event_type NOT IN ('token_refresh', 'token_refresh_failed')"), '0', 'and nothing but successes and failures in the table');
    is($server->stats('va')->{reuse}, 0, 'no refresh token was presented twice');
    is($server->stats('va')->{invalid_client}, 0, 'and VA always knew the client');
    my $audit = $example->query("SELECT coalesce(string_agg(a::text, ' '), '') FROM vetassist_auth_audit_all a");
    ok(secrets_absent($audit . read_log($node), @secrets), 'no secret is in the audit or in the log');
};

$example->ran_all_steps;
$node->stop;
done_testing();
