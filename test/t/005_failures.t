# Trouble at the provider: what is only trouble never ends a grant and is tried again
# by the rules; only the provider's word ends one, at once and for good (P4). While the
# old token lives nobody notices (P10), and every outcome can be seen (P11).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'token_refresh.http_timeout' => '1s');

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

sub requests { my ($provider, $subject) = @_; return $server->stats($provider)->{per_subject}{$subject}{requests} // 0; }

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

# name => [settings of the provider, what last_error says]
my %trouble = (
    status_500     => [ { fault => { kind => 'status', status => 500 } }, qr/^transient: HTTP 500/ ],
    status_503     => [ { fault => { kind => 'status', status => 503, body => 'come back later' } }, qr/^transient: HTTP 503/ ],
    status_404     => [ { fault => { kind => 'status', status => 404 } }, qr/^transient: HTTP 404/ ],
    redirect       => [ { fault => { kind => 'status', status => 302, headers => { Location => '/elsewhere' } } }, qr/^transient: HTTP 302/ ],
    dead_in_a_500  => [ { fault => { kind => 'status', status => 500, body => { error => 'invalid_grant' } } }, qr/^transient: HTTP 500 invalid_grant/ ],
    unknown_error  => [ { fault => { kind => 'status', status => 400, body => { error => 'out_of_coffee' } } }, qr/^transient: HTTP 400 out_of_coffee/ ],
    empty          => [ { fault => { kind => 'status', status => 200, body => '' } }, qr/^transient: HTTP 200.*empty/ ],
    no_token       => [ { fault => { kind => 'status', status => 200, body => { token_type => 'Bearer' } } }, qr/^transient: HTTP 200/ ],
    garbage        => [ { fault => { kind => 'garbage' } }, qr/^transient: HTTP 200/ ],
    html_200       => [ { fault => { kind => 'html', status => 200 } }, qr/^transient: HTTP 200.*HTML/ ],
    html_401       => [ { fault => { kind => 'html', status => 401 } }, qr/^transient: HTTP 401.*HTML/ ],
    html_400       => [ { fault => { kind => 'html', status => 400, body => '<html>invalid_grant</html>' } }, qr/^transient: HTTP 400.*HTML/ ],
    not_http       => [ { fault => { kind => 'raw', body => "220 mail.example ready\r\n" } }, qr/^transient: / ],
    reset          => [ { fault => { kind => 'reset' } }, qr/^transient: / ],
    closed         => [ { fault => { kind => 'close' } }, qr/^transient: / ],
    timeout        => [ { fault => { kind => 'close' }, hang => 2 }, qr/^transient: / ],
);

subtest 'trouble of every kind' => sub {
    my %old;
    for my $name (sort keys %trouble)
    {
        add_provider($name);
        $server->control($name, %{ $trouble{$name}[0] });
        store_expired($name, 'expired');
        $old{$name} = store_ageing($name, 'alive');
    }
    # The discard service: nobody has run it for decades.
    create_provider($node, 'refused', token_endpoint => 'http://127.0.0.1:9/token');
    store_expired('refused', 'expired');

    for my $name (sort keys %trouble)
    {
        await_status($name, $_, 'attempts >= 2', "$name, $_: tried again") for qw(expired alive);
        for my $subject (qw(expired alive))
        {
            my $status = status_of($node, $name, $subject);
            is($status->{status}, $subject eq 'alive' ? 'connected' : 'token_expired', "$name, $subject: status");
            like($status->{last_error}, $trouble{$name}[1], "$name, $subject: last_error");
        }
        is(access_token($node, $name, 'alive') eq $old{$name}, 1, "$name: while the old token lives it is given");
        unlike(events($name, 'expired'), qr/(?<!refresh_failed)\/|needs_reauth/, "$name: the audit knows of failures only");
    }
    await_status('refused', 'expired', 'attempts >= 2', 'refused: tried again');
    like(status_of($node, 'refused', 'expired')->{last_error}, qr/^transient: /, 'refused: last_error');

    # The first pause is a second, the second two; up to 30 % more, and what a busy machine adds.
    is(query(<<'END'), '', 'the pauses grow as they should');
WITH failures AS (
    SELECT provider, occurred_at, row_number() OVER w AS n, occurred_at - lag(occurred_at) OVER w AS pause
    FROM token_refresh.audit_event WHERE subject = 'expired' AND event = 'refresh_failed'
      AND provider NOT IN ('timeout')
    WINDOW w AS (PARTITION BY provider ORDER BY occurred_at))
SELECT string_agg(format('%s: %s after %s', provider, n, pause), E'\n')
FROM failures WHERE n = 2 AND pause NOT BETWEEN interval '0.8 s' AND interval '4 s'
END
};

subtest 'refresh_credential has no business with the access token' => sub {
    query("UPDATE token_refresh.credential SET access_token = 'damaged' WHERE provider = 'status_500' AND subject = 'alive'");
    is(query("SELECT success, failure, expires_at > now() FROM token_refresh.refresh_credential('status_500', 'alive')"), 'f|transient|t', 'it fails as ever');
};

subtest 'the trouble ends' => sub {
    $server->control($_, fault => { kind => 'none' }, hang => 0) for keys %trouble;
    for my $name (sort keys %trouble)
    {
        await_status($name, $_, "refresh_count = 1 AND status = 'connected' AND attempts = 0 AND last_error IS NULL", "$name, $_: refreshed by itself")
            for qw(expired alive);
        like(events($name, 'expired'), qr{^(refresh_failed/transient )+refreshed$}, "$name: events");
        is($server->stats($name)->{reuse}, 0, "$name: no refresh token was presented twice");
    }
};

subtest '429, Retry-After in seconds' => sub {
    add_provider('limited');
    $server->fault('limited', kind => 'rate_limit', headers => { 'Retry-After' => '4' }, count => 1);
    store_expired('limited', 'first');
    await_status('limited', 'first', "last_error LIKE 'rate_limited: HTTP 429%'", 'the failure is rate_limited');
    is(query("SELECT attempts, due_at - occurred_at BETWEEN interval '3.5 s' AND interval '6 s' FROM token_refresh.token_status s JOIN token_refresh.audit_event a USING (provider, subject) WHERE provider = 'limited' AND event = 'refresh_failed'"),
        '0|t', 'it counts as no attempt, and is due when the provider said');
    store_expired('limited', 'second');
    is(query("SELECT success, failure, message FROM token_refresh.refresh_credential('limited', 'second')"), 'f|rate_limited|the provider asks to wait', 'the others wait as well');
    is($server->stats('limited')->{requests}, 1, 'nothing was asked meanwhile');
    await_status('limited', $_, 'refresh_count = 1', "$_ is refreshed by itself") for qw(first second);
    is(query("SELECT min(r.occurred_at) - max(f.occurred_at) BETWEEN interval '3.5 s' AND interval '8 s' FROM token_refresh.audit_event r, token_refresh.audit_event f WHERE r.provider = 'limited' AND f.provider = 'limited' AND r.event = 'refreshed' AND f.event = 'refresh_failed'"),
        't', 'when the time had come');
    is($server->stats('limited')->{requests}, 3, 'by one request each');
};

subtest '429, Retry-After as a date, and without' => sub {
    add_provider($_) for qw(dated undated unavailable);
    $server->fault('dated', kind => 'rate_limit', count => 1, headers => { 'Retry-After' => strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 5)) });
    $server->fault('undated', kind => 'status', status => 429, count => 1);
    $server->fault('unavailable', kind => 'status', status => 503, count => 1, headers => { 'Retry-After' => '5' });
    store_expired($_, 'one') for qw(dated undated unavailable);
    my %pause = (dated => ['2.5 s', '6.5 s'], undated => ['59 s', '62 s'], unavailable => ['4.5 s', '6.5 s']);
    for my $name (sort keys %pause)
    {
        await_status($name, 'one', 'last_error IS NOT NULL', "$name: failed");
        is(query("SELECT due_at - occurred_at BETWEEN '$pause{$name}[0]'::interval AND '$pause{$name}[1]'::interval FROM token_refresh.token_status s JOIN token_refresh.audit_event a USING (provider, subject) WHERE provider = '$name' AND event = 'refresh_failed'"),
            't', "$name: due when it should be");
    }
    await_status($_, 'one', 'refresh_count = 1', "$_: refreshed by itself") for qw(dated unavailable);
    is($server->stats($_)->{requests}, 2, "$_: two requests") for qw(dated unavailable);
    is($server->stats('undated')->{requests}, 1, 'undated: still waiting');
};

subtest 'the answer is lost after the rotation' => sub {
    my @kinds = qw(close reset hang_after garbage);
    add_provider("replay_$_", replay_window => '1 minute') for @kinds;
    for my $kind (@kinds)
    {
        $server->control("replay_$kind", policy => 'replay', replay_window => 60, fault => { kind => $kind, when => 'after', count => 1 });
        store_expired("replay_$kind", 'one');
    }
    for my $kind (@kinds)
    {
        await_status("replay_$kind", 'one', 'refresh_count = 1', "$kind: the provider gives the answer again");
        is($server->stats("replay_$kind")->{replayed}, 1, "$kind: it was asked twice");
        # On a kept connection that is closed without a word the request is sent again at once.
        like(events("replay_$kind", 'one'), qr{^(refresh_failed/transient )?refreshed$}, "$kind: events");
        ok($server->is_active("replay_$kind", access_token($node, "replay_$kind", 'one')), "$kind: the token is valid");
        is(query("SELECT success FROM token_refresh.refresh_credential('replay_$kind', 'one')"), 't', "$kind: the next refresh works");
    }

    add_provider('strict');
    $server->fault('strict', kind => 'close', when => 'after', count => 1);
    store_expired('strict', 'one');
    await_status('strict', 'one', "status = 'needs_reauth'", 'a provider without a replay window ends the grant');
    like(status_of($node, 'strict', 'one')->{last_error}, qr/^lost_response: HTTP 400 invalid_grant/, 'and the failure says that an answer was lost');
    like(events('strict', 'one'), qr{^(refresh_failed/transient )?needs_reauth/lost_response$}, 'events');
    is(query("SELECT success, failure FROM token_refresh.refresh_credential('strict', 'one')"), 'f|lost_response', 'refresh_credential says the same');
};

subtest 'invalid_grant' => sub {
    add_provider('dead');
    $server->fault('dead', kind => 'invalid_grant', match => '^dead$');
    my $old = store_ageing('dead', 'ageing');
    query("SELECT success FROM token_refresh.refresh_credential('dead', 'ageing')");
    store_expired('dead', 'dead');
    await_status('dead', 'dead', "status = 'needs_reauth'", 'needs_reauth at once');
    is(requests('dead', 'dead'), 1, 'after one request');
    is(events('dead', 'dead'), 'needs_reauth/reauth', 'one audit event');
    is(query("SELECT due_at IS NULL, last_error FROM token_refresh.token_status WHERE provider = 'dead' AND subject = 'dead'"), 't|reauth: HTTP 400 invalid_grant', 'never due, and why');
    is(query("SELECT status, last_error FROM token_refresh.credential WHERE provider = 'dead' AND subject = 'dead'"), 'needs_reauth|HTTP 400 invalid_grant', 'the row says so, too');

    my $present = sub {
        is(query("SELECT access_token, status, was_refreshed, message FROM token_refresh.get_token('dead', 'dead')"), '|needs_reauth|f|HTTP 400 invalid_grant', 'get_token');
        is(access_token($node, 'dead', 'dead'), '', 'get_access_token');
        is(query("SELECT success, failure, message FROM token_refresh.refresh_credential('dead', 'dead')"), 'f|reauth|HTTP 400 invalid_grant', 'refresh_credential');
        is(query("SELECT tokens_found FROM token_refresh.refresh_expiring_tokens()"), '0', 'refresh_expiring_tokens');
        query("SELECT token_refresh.refresh_expiring_tokens('10 years')");
    };
    $present->();
    query("UPDATE token_refresh.credential SET expires_at = now() + interval '1 second' WHERE subject = 'dead'");
    query("UPDATE token_refresh.credential SET expires_at = '2020-01-01' WHERE subject = 'dead'");
    query(q{SELECT token_refresh.alter_provider('dead', '{"refresh_margin": "10 seconds"}')});
    $node->restart;
    store_expired('dead', 'another');
    await_status('dead', 'another', 'refresh_count = 1', 'after a restart others are refreshed');
    $present->();
    is(requests('dead', 'dead'), 1, 'it was never presented again');
    is(events('dead', 'dead'), 'needs_reauth/reauth', 'and there is still one audit event');

    $server->fault('dead');
    store_credential($node, 'dead', my ($grant) = $server->grants('dead', subjects => ['dead']));
    is(status_of($node, 'dead', 'dead')->{status}, 'connected', 'new tokens bring it back');
    is(access_token($node, 'dead', 'dead') eq $grant->{access_token}, 1, 'they are given');
    is(query("SELECT success FROM token_refresh.refresh_credential('dead', 'dead')"), 't', 'and refreshed');
};

subtest 'a dead grant whose access token still lives' => sub {
    add_provider('fading');
    $server->fault('fading', kind => 'invalid_grant');
    my $old = store_ageing('fading', 'one');
    await_status('fading', 'one', "status = 'needs_reauth'", 'needs_reauth');
    is(query("SELECT access_token = '$old', status FROM token_refresh.get_token('fading', 'one')"), 't|needs_reauth', 'the old token is given while it lives, and the truth with it');
    is(requests('fading', 'one'), 1, 'one request');
};

subtest 'invalid_client' => sub {
    my $right = 'the-right-fake-secret';
    add_provider('locked', client_id => 'app', client_secret => 'the-wrong-fake-secret');
    $server->control('locked', auth => { method => 'basic', client_id => 'app', client_secret => $right });
    store_expired('locked', 'expired');
    my $old = store_ageing('locked', 'alive');
    await_status('locked', $_, "status = 'error' AND last_error = 'client_config: HTTP 401 invalid_client'", "$_: status error") for qw(expired alive);
    is(events('locked', 'expired'), 'refresh_failed/client_config', 'one audit event');
    is(query("SELECT status FROM token_refresh.credential WHERE provider = 'locked' AND subject = 'expired'"), 'error', 'the row says so, too');
    is(query("SELECT due_at > now() + interval '50 seconds' FROM token_refresh.token_status WHERE provider = 'locked' AND subject = 'expired'"), 't', 'it is not tried again soon');
    is(query("SELECT access_token = '$old', status FROM token_refresh.get_token('locked', 'alive')"), 't|error', 'a living token is given');
    is(query("SELECT access_token IS NULL FROM token_refresh.get_token('locked', 'expired')"), 't', 'a dead one is not');
    is(query("SELECT success, failure FROM token_refresh.refresh_credential('locked', 'expired')"), 'f|client_config', 'refresh_credential says why');

    query("SELECT token_refresh.alter_provider('locked', '" . json({ client_secret => $right }) . "')");
    await_status('locked', $_, "status = 'connected' AND refresh_count = 1 AND last_error IS NULL", "$_: with the right secret it recovers by itself") for qw(expired alive);
    like(events('locked', 'expired'), qr{^(refresh_failed/client_config )+refreshed$}, 'events');
    is(query("SELECT status, last_error FROM token_refresh.credential WHERE provider = 'locked' AND subject = 'expired'"), 'connected|', 'the row is well again');
    is($server->stats('locked')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'a failing provider costs the caller nothing while the old token lives' => sub {
    add_provider($_) for qw(hanging failing);
    $server->control('hanging', fault => { kind => 'close' }, hang => 2);
    $server->control('failing', fault => { kind => 'status', status => 500 });
    for my $name (qw(hanging failing))
    {
        query('SELECT token_refresh.pause()');
        my $old = store_ageing($name, 'one');
        my $began = time;
        is(access_token($node, $name, 'one') eq $old, 1, "$name: the caller who finds the trouble gets the old token");
        cmp_ok(time - $began, '<', 3, "$name: soon");
        await_status($name, 'one', 'attempts = 1', "$name: the failure is noted");
        query("UPDATE token_refresh.schedule SET due_at = now() + interval '20 seconds' WHERE provider = (SELECT id FROM token_refresh.provider WHERE name = '$name')");
        my ($requests) = requests($name, 'one');
        is(query("SELECT bool_and(token_refresh.get_access_token('$name', 'one') = '$old') FROM generate_series(1, 100)"), 't', "$name: all later callers as well");
        is(query("SELECT status, was_refreshed, message LIKE '%' FROM token_refresh.get_token('$name', 'one')"), 'connected|f|t', "$name: get_token tells of the trouble");
        is(requests($name, 'one'), $requests, "$name: and none of them waits for a request");
        query('SELECT token_refresh.resume()');
    }
};

$node->stop;
done_testing();
