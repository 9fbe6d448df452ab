# Answers of a success status that are odd. The provider has replaced the refresh token, so what can be
# read must be read (P1), and what cannot be read is no reason to call a grant dead (P4). The providers
# are strict: a refresh token that is presented twice ends its grant.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main');

sub add_provider { my ($name, %options) = @_; return create_provider($node, $name, token_endpoint => $server->token_endpoint($name), %options); }

sub query { return $node->safe_psql('postgres', $_[0]); }

# An expired credential: due at once.
sub store_expired { my ($provider, $subject) = @_; return store_credential($node, $provider, $server->expired_grants($provider, subjects => [$subject])); }

# A credential that is due and lives on for five minutes; returns its access token.
sub store_ageing
{
    my ($provider, $subject) = @_;
    my ($grant) = $server->grants($provider, subjects => [$subject]);
    store_credential($node, $provider, $grant);
    query("UPDATE token_refresh.credential SET issued_at = now() - interval '1 hour', expires_at = now() + interval '5 minutes' - interval '1 second'"
        . " WHERE provider = '$provider' AND subject = '$subject'");
    return $grant->{access_token};
}

# The audit of a credential as "event/failure event/failure ...".
sub events
{
    my ($provider, $subject) = @_;
    return query("SELECT string_agg(concat_ws('/', event, failure), ' ' ORDER BY occurred_at) FROM token_refresh.audit_event"
        . " WHERE provider = '$provider' AND subject = '$subject' AND event <> 'credential_stored'");
}

sub await_status
{
    my ($provider, $subject, $condition, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, "SELECT $condition FROM token_refresh.token_status WHERE provider = '$provider' AND subject = '$subject'", $what);
}

sub refresh
{
    my ($provider, $subject) = @_;
    return query("SELECT success, failure FROM token_refresh.refresh_credential('$provider', '$subject')");
}

# Test points: the credential is as if nothing had been.
sub is_well
{
    my ($provider, $subject, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    await_status($provider, $subject, "refresh_count >= 1 AND status = 'connected' AND attempts = 0 AND last_error IS NULL AND NOT parked", "$name: it is refreshed");
    ok($server->is_active($provider, access_token($node, $provider, $subject)), "$name: the token is valid");
    $server->fault($provider);
    is(refresh($provider, $subject), 't|', "$name: the next refresh works");
    is($server->stats($provider)->{reuse}, 0, "$name: no refresh token was presented twice");
    return;
}

# Raises in the refresher for the subjects named in a table; what sessions write is taken.
query(<<'END');
CREATE TABLE unwanted (subject text PRIMARY KEY);
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.unwanted u WHERE NEW.subject = u.subject)
       AND (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) = 'token_refresh refresher' THEN
        RAISE 'not in this house';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER reject BEFORE UPDATE ON token_refresh.credential FOR EACH ROW EXECUTE FUNCTION reject();
END

sub reject { my ($subject) = @_; return query('INSERT INTO unwanted VALUES (' . literal($subject) . ')'); }

sub accept_all { return query('TRUNCATE unwanted'); }

my $kept = 'its refresh token is kept';

# A provider of its own for each credential: five failures in a row would make the refresher hold back.
subtest 'a refresh token without an access token' => sub {
    my %old;
    for my $subject (qw(expired alive))
    {
        add_provider($subject);
        $server->control($subject, omit => ['access_token'], extra => { refresh_expires_in => 86400 });
        $old{$subject} = $subject eq 'alive' ? store_ageing($subject, 'one') : store_expired($subject, 'one');
    }
    for my $subject (qw(expired alive))
    {
        await_status($subject, 'one', 'attempts >= 2', "$subject: tried again");
        is(status_of($node, $subject, 'one')->{last_error}, "transient: HTTP 200: the answer holds no access token; $kept", "$subject: last_error");
        like(events($subject, 'one'), qr{^refresh_failed/transient( refresh_failed/transient)+$}, "$subject: events");
    }
    is(access_token($node, 'alive', 'one') eq $old{alive}, 1, 'the access token stays as it was');
    is(query("SELECT access_token IS NULL, status, message FROM token_refresh.get_token('expired', 'one')"),
        "t|token_expired|HTTP 200: the answer holds no access token; $kept", 'get_token says why there is none');
    is(query("SELECT status, last_error, refreshed_at, refresh_expires_at > now() + interval '23 hours' FROM token_refresh.credential WHERE provider = 'expired'"),
        'connected|||t', 'the row has the new refresh token and its deadline, and else is as it was');
    is($server->stats($_)->{reuse}, 0, "$_: each refresh token was presented once") for qw(expired alive);

    $server->control('expired', omit => [], extra => { access_token => 7 });
    is(refresh('expired', 'one'), 'f|transient', 'refresh_credential is told the truth');
    is(status_of($node, 'expired', 'one')->{last_error}, "transient: HTTP 200: the access token in the answer is not text; $kept", 'an access token that is none is the same');
    $node->restart;
    $server->control($_, omit => [], extra => {}) for qw(expired alive);
    is_well($_, 'one', $_) for qw(expired alive);
};

subtest 'the table rejects it' => sub {
    my %old;
    for my $name (qw(rejected_expired rejected_alive))
    {
        add_provider($name);
        $server->control($name, omit => ['access_token']);
        reject($name);
        $old{$name} = $name =~ /alive/ ? store_ageing($name, $name) : store_expired($name, $name);
    }
    for my $name (qw(rejected_expired rejected_alive))
    {
        await_status($name, $name, "parked AND attempts >= 2", "$name: parked, and asked again with what is parked");
        is(status_of($node, $name, $name)->{last_error}, 'the table rejects the new tokens: P0001 not in this house', "$name: last_error");
        like(events($name, $name), qr{^parked/transient( parked/transient)+$}, "$name: events");
    }
    is(query("SELECT bool_and(access_token IS NULL AND refresh_token IS NOT NULL) FROM token_refresh.parked_result"), 't', 'a refresh token alone is parked');
    is(query("SELECT count(*) FROM token_refresh.key_usage WHERE NOT current"), '0', 'the keys in use are known');
    is(access_token($node, 'rejected_alive', 'rejected_alive') eq $old{rejected_alive}, 1, 'the old token is given while it lives');
    is(query("SELECT access_token IS NULL, status FROM token_refresh.get_token('rejected_expired', 'rejected_expired')"), 't|token_expired', 'there is none for the other');
    my $requests = $server->stats('rejected_alive')->{requests};
    is(refresh('rejected_alive', 'rejected_alive'), 'f|transient', 'who asks for a refresh is told the truth');
    cmp_ok($server->stats('rejected_alive')->{requests}, '>', $requests, 'after one more request');
    is(status_of($node, $_, $_)->{refresh_count}, 0, "$_: none of that counts as a refresh") for qw(rejected_expired rejected_alive);
    is($server->stats($_)->{reuse}, 0, "$_: each refresh token was presented once") for qw(rejected_expired rejected_alive);

    query("DELETE FROM unwanted WHERE subject = 'rejected_expired'");
    await_status('rejected_expired', 'rejected_expired', 'NOT parked', 'when the table takes it, it is stored');
    like(status_of($node, 'rejected_expired', 'rejected_expired')->{last_error}, qr/^transient: HTTP 200: .*; $kept$/, 'the failure remains');
    $server->control($_, omit => []) for qw(rejected_expired rejected_alive);
    is_well('rejected_expired', 'rejected_expired', 'rejected_expired');

    # Only now the access token comes, and is parked beside the refresh token.
    await_status('rejected_alive', 'rejected_alive', 'parked AND refresh_count = 1', 'both tokens are parked');
    my $new = access_token($node, 'rejected_alive', 'rejected_alive');
    ok($new ne $old{rejected_alive} && $server->is_active('rejected_alive', $new), 'readers get the parked token');
    accept_all();
    is_well('rejected_alive', 'rejected_alive', 'rejected_alive');
    is(query('SELECT count(*) FROM token_refresh.parked_result'), '0', 'nothing stays parked');
};

subtest 'somebody signs in meanwhile' => sub {
    add_provider('newer');
    $server->control('newer', omit => ['access_token'], hold => 'after');
    store_expired('newer', 'one');
    $server->wait('newer', held => 1);
    my ($grant) = $server->grants('newer', subjects => ['one']);
    store_credential($node, 'newer', $grant);
    $server->release('newer');
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE provider = 'newer' AND event = 'superseded'", 'the answer is superseded');
    is(access_token($node, 'newer', 'one') eq $grant->{access_token}, 1, 'the new tokens stay');
    $server->control('newer', omit => []);
    is(refresh('newer', 'one'), 't|', 'and can be refreshed');
    is($server->stats('newer')->{reuse}, 0, 'no refresh token was presented twice');
};

my $tokens = '"access_token":"<access_token>","refresh_token":"<refresh_token>"';

subtest 'each 2xx with tokens is a success' => sub {
    for my $status (201, 202, 203, 206, 299)
    {
        add_provider("status_$status");
        $server->fault("status_$status", kind => 'reword', status => $status, body => "{$tokens,\"expires_in\":3600}");
        store_expired("status_$status", 'one');
        is_well("status_$status", 'one', $status);
        like(events("status_$status", 'one'), qr{^refreshed refreshed$}, "$status: at once");
    }
};

subtest 'small flaws do not cost the tokens' => sub {
    my %flawed = (
        nan         => "{\"issued\":NaN,$tokens}",
        infinite    => "{$tokens,\"expires_in\":1e999}",
        surrogate   => "{\"name\":\"\\ud83d\",$tokens}",
        lines       => "{\"name\":\"two\nlines\",$tokens}",
        mark        => "\x{FEFF}{$tokens}",
        guard       => ")]}'\n{$tokens}",
        comma       => "{$tokens,}",
        rest        => "{$tokens}\n<!-- served in 3 ms -->",
        twice       => "{\"refresh_token\":null,$tokens,\"access_token\":\"\"}",
        broken_off  => "{$tokens,\"scope\":\"a",
    );
    for my $name (sort keys %flawed)
    {
        add_provider($name);
        $server->fault($name, kind => 'reword', body => $flawed{$name});
        store_expired($name, 'one');
    }
    for my $name (sort keys %flawed)
    {
        is_well($name, 'one', $name);
        like(events($name, 'one'), qr{^refreshed refreshed$}, "$name: at once");
    }
    add_provider('half');
    $server->fault('half', kind => 'reword', count => 1, body => '{"refresh_token":"<refresh_token>","access_token":"<acc');
    store_expired('half', 'one');
    is_well('half', 'one', 'half');
    is(query("SELECT message FROM token_refresh.audit_event WHERE provider = 'half' AND event = 'refresh_failed'"), "HTTP 200: the answer is damaged JSON; $kept", 'half: the failure was noted');
};

# An answer that breaks off before the refresh token may have held one.
my %unread = (
    empty   => { status => 200, body => '' },
    nothing => { status => 204, body => '' },
    html    => { status => 200, body => '<html>please wait</html>' },
    cut     => { status => 202, body => '{"access_token":"<access_token>","refresh_tok' },
    foreign => { status => 200, body => '{"result":{"tokens":["<refresh_token>"]}}' },
);

subtest 'a success that cannot be read: the provider gives the answer again' => sub {
    for my $name (sort keys %unread)
    {
        add_provider("replay_$name", replay_window => '1 minute');
        $server->control("replay_$name", policy => 'replay', replay_window => 60, fault => { kind => 'reword', count => 1, %{ $unread{$name} } });
        store_expired("replay_$name", 'one');
    }
    for my $name (sort keys %unread)
    {
        is_well("replay_$name", 'one', $name);
        is($server->stats("replay_$name")->{replayed}, 1, "$name: it was asked twice");
        is(events("replay_$name", 'one'), 'refresh_failed/transient refreshed refreshed', "$name: events");
    }
};

subtest 'a success that cannot be read: the provider ends the grant' => sub {
    for my $name (sort keys %unread)
    {
        add_provider("strict_$name");
        $server->fault("strict_$name", kind => 'reword', count => 1, %{ $unread{$name} });
        store_expired("strict_$name", 'one');
    }
    for my $name (sort keys %unread)
    {
        await_status("strict_$name", 'one', "status = 'needs_reauth'", "$name: it has said so");
        is(events("strict_$name", 'one'), 'refresh_failed/transient needs_reauth/lost_response', "$name: not before");
        like(status_of($node, "strict_$name", 'one')->{last_error}, qr/^lost_response: HTTP 400 invalid_grant/, "$name: the failure says that an answer was lost");
    }
};

subtest 'a refusal is none of that' => sub {
    add_provider('refusing');
    $server->fault('refusing', kind => 'status', status => 200, count => 1, body => { error => 'server_error', refresh_token => 'fake-refresh-token' });
    store_expired('refusing', 'one');
    is_well('refusing', 'one', 'an error with a refresh token beside it');
    $server->fault('refusing', kind => 'status', status => 200, count => 1, body => { error => 'bad_refresh_token' });
    store_expired('refusing', 'two');
    await_status('refusing', 'two', "status = 'needs_reauth' AND last_error LIKE 'reauth: %'", 'a dead grant, said with a 200, is blamed on no lost answer');
};

is(query("SELECT count(*) FROM token_refresh.audit_event WHERE message ~ '(at|rt)_[0-9a-f]{8}'"), '0', 'no message holds a token');

$node->stop;
done_testing();
