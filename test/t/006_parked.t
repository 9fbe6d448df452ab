# A table that does not take the fresh tokens loses nothing (P1): they are parked, readers
# get them, the retired refresh token is not presented again, others go on, and
# when the cause is gone everything is as if nothing had been.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main');
create_provider($node, $_, token_endpoint => $server->token_endpoint($_)) for qw(acme short);
$server->control('short', lifetime => 4);

sub query { return $node->safe_psql('postgres', $_[0]); }

sub store_expired { my ($provider, $subject) = @_; return store_credential($node, $provider, $server->expired_grants($provider, subjects => [$subject])); }

sub events
{
    my ($subject) = @_;
    return query("SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE subject = '$subject' AND event <> 'credential_stored'");
}

sub await_parked
{
    my ($subject) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = '$subject'", 'the answer is parked');
}

# Test points: the fresh token is there for readers, one request was made, the status tells of it.
sub parked_and_served
{
    my ($subject, $reason) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    await_parked($subject);
    my ($token, $status, $message) = split /\|/, query("SELECT access_token, status, message FROM token_refresh.get_token('acme', '$subject')"), -1;
    ok($server->is_active('acme', $token), 'readers get the fresh token');
    is("$status|$message", 'connected|', 'as if it were stored');
    query('SELECT token_refresh.refresh_expiring_tokens()');
    my $row = status_of($node, 'acme', $subject);
    is("$row->{status} $row->{refresh_count} $row->{attempts}", 'connected 1 0', 'the status counts it as refreshed');
    like($row->{last_error}, $reason, 'and says why the table has not got it');
    is(query("SELECT (token_refresh.status() ->> 'parked')::int"), '1', 'status() counts it');
    like(events($subject), qr/^parked$/, 'one audit event');
    is($server->stats('acme')->{per_subject}{$subject}{requests}, 1, 'one request');
    return $token;
}

# Test points: it heals by itself, and the provider's next refresh token is the one that is stored.
sub healed
{
    my ($subject, $token) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = '$subject'", 'it heals by itself');
    is(query("SELECT count(*) FROM token_refresh.parked_result"), '0', 'nothing stays parked');
    is(access_token($node, 'acme', $subject) eq $token, 1, 'the token is the same');
    is(events($subject), 'parked parked_result_stored', 'the audit tells both');
    my $row = status_of($node, 'acme', $subject);
    is("$row->{status} $row->{refresh_count} " . ($row->{last_error} // ''), 'connected 1 ', 'the status is clean');
    is(query("SELECT status, last_error, refreshed_at IS NOT NULL, expires_at > now() + interval '59 minutes' FROM token_refresh.credential WHERE subject = '$subject'"),
        'connected||t|t', 'so is the row');
    is(query("SELECT due_at > now() + interval '30 minutes' FROM token_refresh.token_status WHERE subject = '$subject'"), 't', 'it is due when its token runs out, not before');
    is($server->stats('acme')->{per_subject}{$subject}{requests}, 1, 'still one request');
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', '$subject')"), 't', 'the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
    return;
}

sub others_go_on
{
    my ($subject) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    store_expired('acme', $subject);
    poll_until($node, "SELECT refresh_count = 1 AND NOT parked FROM token_refresh.token_status WHERE subject = '$subject'", 'others are refreshed meanwhile');
    return;
}

# Raises in the refresher for the subjects named in a table; what sessions write is taken.
query(<<'END');
CREATE TABLE unwanted (subject text PRIMARY KEY);
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.unwanted u WHERE NEW.subject LIKE u.subject)
       AND (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) = 'token_refresh refresher' THEN
        RAISE 'not in this house';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER reject BEFORE UPDATE ON token_refresh.credential FOR EACH ROW EXECUTE FUNCTION reject();
END

sub reject { my ($subject) = @_; return query('INSERT INTO unwanted VALUES (' . literal($subject) . ')'); }

sub accept_all { return query('TRUNCATE unwanted'); }

subtest 'a trigger that raises' => sub {
    reject('trigger');
    store_expired('acme', 'trigger');
    my $token = parked_and_served('trigger', qr/^the table rejects the new tokens: P0001 not in this house$/);
    others_go_on('beside_trigger');
    accept_all();
    healed('trigger', $token);
};

subtest 'a constraint' => sub {
    query("ALTER TABLE token_refresh.credential ADD CONSTRAINT never CHECK (subject <> 'constraint' OR refreshed_at IS NULL)");
    store_expired('acme', 'constraint');
    my $token = parked_and_served('constraint', qr/^the table rejects the new tokens: 23514 .*violates check constraint "never"/);
    others_go_on('beside_constraint');
    query('ALTER TABLE token_refresh.credential DROP CONSTRAINT never');
    healed('constraint', $token);
};

subtest 'a locked row' => sub {
    $server->control('acme', hold => 'after');
    store_expired('acme', 'locked');
    $server->wait('acme', held => 1);
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query("SELECT id FROM token_refresh.credential WHERE subject = 'locked' FOR UPDATE");
    $server->release('acme');
    my $token = parked_and_served('locked', qr/^the new tokens are parked: 55P03 /);
    others_go_on('beside_locked');
    $session->query('COMMIT');
    $session->quit;
    healed('locked', $token);
};

subtest 'a row whose schedule is locked as well' => sub {
    $server->control('acme', hold => 'after');
    store_expired('acme', 'held');
    $server->wait('acme', held => 1);
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query("SELECT FROM token_refresh.credential WHERE subject = 'held' FOR UPDATE");
    $session->query("SELECT FROM token_refresh.schedule WHERE row_key = (SELECT id::text FROM token_refresh.credential WHERE subject = 'held') FOR UPDATE");
    $server->release('acme');
    poll_until($node, 'SELECT attempts >= 2 FROM token_refresh.parked_result', 'it is tried again');
    is(query("SELECT retry_at - parked_at >= (power(2, attempts + 1) - 1.5) * interval '1 second' FROM token_refresh.parked_result"), 't', 'with growing pauses');
    is($server->stats('acme')->{per_subject}{held}{requests}, 1, 'one request');
    $session->query('COMMIT');
    $session->quit;
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'held'", 'it heals by itself');
};

subtest 'a locked table' => sub {
    $server->control('acme', hold => 'after');
    store_expired('acme', 'altered');
    $server->wait('acme', held => 1);
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query("ALTER TABLE token_refresh.credential ALTER COLUMN scope SET STATISTICS 100");
    $session->query('LOCK TABLE token_refresh.credential IN ACCESS EXCLUSIVE MODE');
    $server->release('acme');
    # Nobody can read the table now; what is parked is beside it.
    poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', 'the answer is parked');
    $session->query('COMMIT');
    $session->quit;
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'altered'", 'it heals by itself');
    healed('altered', access_token($node, 'acme', 'altered'));
};

subtest 'many at once, some rejected' => sub {
    reject('bad%');
    $server->control('acme', hold => 'after');
    store_credential($node, 'acme', $server->expired_grants('acme', prefix => 'good', n => 20), $server->expired_grants('acme', prefix => 'bad', n => 5));
    $server->wait('acme', held => 25);
    $server->release('acme');
    poll_until($node, "SELECT count(*) = 25 FROM token_refresh.token_status WHERE (subject LIKE 'good%' OR subject LIKE 'bad%') AND refresh_count = 1 AND parked = (subject LIKE 'bad%')",
        'the good ones are stored, the bad ones parked');
    my @tokens = split /\n/, query("SELECT token_refresh.get_access_token('acme', subject) FROM token_refresh.credential WHERE subject LIKE 'good%' OR subject LIKE 'bad%'");
    is(scalar(grep { $server->is_active('acme', $_) } @tokens), 25, 'all have a fresh token');
    accept_all();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'all heal');
    is(query("SELECT bool_and((r).success) FROM (SELECT token_refresh.refresh_credential('acme', subject) r FROM token_refresh.credential WHERE subject LIKE 'bad%') x"), 't', 'and can be refreshed');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'the parked token itself runs out' => sub {
    reject('short');
    store_expired('short', 'short');
    await_parked('short');
    my $alive = 1;
    for my $round (2 .. 4)
    {
        $server->wait('short', refreshed => $round);
        poll_until($node, "SELECT refresh_count >= $round FROM token_refresh.token_status WHERE subject = 'short'", "refresh number $round is counted");
        my $token = access_token($node, 'short', 'short');
        $alive &&= $token ne '' && $server->is_active('short', $token);
    }
    ok($alive, 'readers have a valid token all the time');
    is($server->stats('short')->{reuse}, 0, 'each refresh token was presented once');
    ok(status_of($node, 'short', 'short')->{parked}, 'it is still parked');
    is(query("SELECT count(*) FROM token_refresh.audit_event WHERE coalesce(subject, '') = '' AND row_key IS NOT NULL"), '0', 'every audit event names its subject');

    # The provider is down for a while, too: the parked refresh token is tried again by the usual rules.
    $server->fault('short', kind => 'status', status => 500);
    poll_until($node, "SELECT attempts >= 2 FROM token_refresh.token_status WHERE subject = 'short'", 'a failing provider is asked again, with growing pauses');
    $server->fault('short');
    my $refreshed = $server->stats('short')->{refreshed};
    $server->wait('short', refreshed => $refreshed + 1);
    accept_all();
    poll_until($node, "SELECT NOT parked AND attempts = 0 FROM token_refresh.token_status WHERE subject = 'short'", 'it heals');
    is($server->stats('short')->{reuse}, 0, 'each refresh token was presented once');
    is(query("SELECT success FROM token_refresh.refresh_credential('short', 'short')"), 't', 'the next refresh works');
    query("DELETE FROM token_refresh.credential WHERE provider = 'short'");
};

# Makes what is parked fifty minutes older. Nothing tries to store it meanwhile.
sub age_parked
{
    my ($subject) = @_;
    query(<<"END");
BEGIN;
SELECT token_refresh._own_writes(true);
UPDATE token_refresh.credential SET issued_at = issued_at - interval '1 day' WHERE subject = '$subject';
UPDATE token_refresh.parked_result SET issued_at = issued_at - interval '50 minutes', expires_at = expires_at - interval '50 minutes';
UPDATE token_refresh.schedule s SET last_refreshed_at = p.issued_at FROM token_refresh.parked_result p WHERE s.row_key = p.row_key;
COMMIT;
END
    return;
}

subtest 'the parked token does not last long enough' => sub {
    reject('brief');
    store_expired('acme', 'brief');
    await_parked('brief');
    query('SELECT token_refresh.pause()');
    age_parked('brief');
    my $first = access_token($node, 'acme', 'brief');
    my $get = "SELECT access_token, was_refreshed, coalesce(message, '') FROM token_refresh.get_token('acme', 'brief', min_validity => '%s minutes')";
    is(query(sprintf($get, 5)), "$first|f|", 'who needs five minutes gets it');
    is($server->stats('acme')->{per_subject}{brief}{requests}, 1, 'there was one request');

    $server->fault('acme', kind => 'status', status => 500, match => '^brief$');
    like(query(sprintf($get, 30)), qr/^\Q$first\E\|f\|HTTP 500/, 'who needs half an hour gets it while the provider fails');
    $server->fault('acme');
    query("UPDATE token_refresh.schedule SET attempts = 0 WHERE attempts > 0");
    my ($second, $rest) = split /\|/, query(sprintf($get, 30)), 2;
    ok($second ne $first && $server->is_active('acme', $second), 'else another one');
    is($rest, 't|', 'as get_token says');
    is($server->stats('acme')->{per_subject}{brief}{requests}, 3, 'by one more request');
    is(access_token($node, 'acme', 'brief') eq $second, 1, 'which serves everybody');
    is(query(sprintf($get, 30)), "$second|f|", 'and is not made again');

    is(query("SELECT success, expires_at > now() + interval '59 minutes' FROM token_refresh.refresh_credential('acme', 'brief')"), 't|t', 'refresh_credential refreshes it as well');
    my $third = access_token($node, 'acme', 'brief');
    ok($third ne $second && $server->is_active('acme', $third), 'now it is another one');
    accept_all();
    query('UPDATE token_refresh.parked_result SET retry_at = now(); SELECT token_refresh.resume()');
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'brief'", 'it heals');
    is(access_token($node, 'acme', 'brief') eq $third, 1, 'with the last one');
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'brief')"), 't', 'the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'a provider that keeps its refresh tokens' => sub {
    create_provider($node, 'keeping', token_endpoint => $server->token_endpoint('keeping'));
    $server->control('keeping', policy => 'norotate');
    for my $case ([ 'with', 'left out' ], [ 'without', 'left out' ], [ 'with', 'repeated' ], [ 'without', 'repeated' ])
    {
        my ($way, $answer) = @$case;
        my $subject = "kept_$way" . ($answer eq 'repeated' ? '_repeated' : '');
        reject($subject);
        my ($old) = $server->expired_grants('keeping', subjects => [$subject]);
        my %repeated = (access_token => '<access_token>', token_type => 'Bearer', expires_in => 3600, refresh_token => $old->{refresh_token});
        $server->fault('keeping', $answer eq 'repeated' ? (kind => 'reword', body => json(\%repeated)) : ());
        store_credential($node, 'keeping', $old);
        await_parked($subject);
        # Signed in again meanwhile: the same refresh token, another access token.
        my %newer = (subject => $subject, access_token => "fake-newer-$way", refresh_token => $old->{refresh_token}, expires_in => 7200);
        delete $newer{refresh_token} if $way eq 'without';
        store_credential($node, 'keeping', \%newer);
        is(access_token($node, 'keeping', $subject), $newer{access_token}, "$way refresh token: the newer tokens are given");
        accept_all();
        poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = '$subject'", "$way refresh token: what is parked is of no use any more");
        is(access_token($node, 'keeping', $subject), $newer{access_token}, "$way refresh token: they stay");
        is(query("SELECT success FROM token_refresh.refresh_credential('keeping', '$subject')"), 't', "$way refresh token: the next refresh works");
    }
    $server->fault('keeping');

    # The same, not committed yet when the answer is parked.
    my ($old) = $server->expired_grants('keeping', subjects => ['kept_open']);
    $server->control('keeping', hold => 'after');
    store_credential($node, 'keeping', $old);
    $server->wait('keeping', held => 1);
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query("SELECT token_refresh.store_credential('keeping', 'kept_open', '{\"access_token\": \"fake-newer-open\", \"expires_in\": 7200}')");
    $server->release('keeping');
    poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', 'not committed yet when the answer comes: parked');
    $session->query('COMMIT');
    $session->quit;
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'discarded when it is committed');
    is(access_token($node, 'keeping', 'kept_open'), 'fake-newer-open', 'the newer tokens stay');
    is($node->safe_psql('postgres', "SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE subject = 'kept_open'"),
        'credential_stored credential_stored parked superseded', 'as the audit says');
    is(query("SELECT success FROM token_refresh.refresh_credential('keeping', 'kept_open')"), 't', 'the next refresh works');
};

subtest 'the provider stops rotating while a token is parked' => sub {
    create_provider($node, 'settling', token_endpoint => $server->token_endpoint('settling'));
    reject('settling');
    store_expired('settling', 'settling');
    await_parked('settling');
    my $first = access_token($node, 'settling', 'settling');
    query('SELECT token_refresh.pause()');
    $server->control('settling', policy => 'norotate', hold => 'after');
    my $caller = start_query($node, "SELECT success FROM token_refresh.refresh_credential('settling', 'settling')");
    $server->wait('settling', held => 1);
    accept_all();
    $server->release('settling');
    is(($caller->finish)[0], 't', 'refreshed with the parked refresh token, and stored');
    my $second = access_token($node, 'settling', 'settling');
    isnt($second, $first, 'there is another access token');
    query('SELECT token_refresh.resume()');
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'settling'", 'nothing stays parked');
    is(access_token($node, 'settling', 'settling') eq $second, 1, 'it stays');
    is($server->stats('settling')->{requests}, 2, 'by two requests');
    is(query("SELECT success FROM token_refresh.refresh_credential('settling', 'settling')"), 't', 'the next refresh works');
    is($server->stats('settling')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'disconnected while parked' => sub {
    reject('leaving');
    store_expired('acme', 'leaving');
    await_parked('leaving');
    query("UPDATE token_refresh.credential SET status = 'disconnected' WHERE subject = 'leaving'");
    query("UPDATE token_refresh.parked_result SET due_at = now() - interval '1 minute', retry_at = now(), attempts = 0; SELECT token_refresh._wake_refresher()");
    poll_until($node, 'SELECT attempts > 0 FROM token_refresh.parked_result', 'storing it is tried again');
    like(query("SELECT success, failure FROM token_refresh.refresh_credential('acme', 'leaving')"), qr/^f\|/, 'it is not refreshed on demand');
    is($server->stats('acme')->{per_subject}{leaving}{requests}, 1, 'nor because it is due');
    accept_all();
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'leaving'", 'it is stored');
    my $row = status_of($node, 'acme', 'leaving');
    is("$row->{status} " . ($row->{due_at} // 'never'), 'disconnected never', 'and stays disconnected');
    is(query("SELECT status FROM token_refresh.credential WHERE subject = 'leaving'"), 'disconnected', 'in its table as well');
    query("UPDATE token_refresh.credential SET status = 'connected' WHERE subject = 'leaving'");
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'leaving')"), 't', 'connected again, it can be refreshed');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'what is parked does not open' => sub {
    reject('garbled');
    store_expired('acme', 'garbled');
    await_parked('garbled');
    my $token  = access_token($node, 'acme', 'garbled');
    my $offset = -s $node->logfile;
    my $flip   = 'UPDATE token_refresh.parked_result SET refresh_token = set_byte(refresh_token, length(refresh_token) - 1, get_byte(refresh_token, length(refresh_token) - 1) # 1)';
    query("$flip, retry_at = now(), due_at = now(); UPDATE token_refresh.schedule SET due_at = now() WHERE refresh_count > 0 AND id = (SELECT s.id FROM token_refresh.schedule s JOIN token_refresh.parked_result p USING (token_table, row_key)); SELECT token_refresh._wake_refresher()");
    poll_until($node, "SELECT last_error LIKE '%what is parked does not open with the keys at hand' FROM token_refresh.token_status WHERE subject = 'garbled'", 'the status says so');
    is(query("SELECT p.retry_at > now() + interval '4 minutes', s.due_at > now() + interval '4 minutes' FROM token_refresh.parked_result p JOIN token_refresh.schedule s USING (token_table, row_key)"),
        't|t', 'it is tried again in a while');
    others_go_on('beside_garbled');
    others_go_on('beside_garbled_too');
    is(scalar(() = read_log($node, $offset) =~ /WARNING: .*parked results? cannot be opened/g), 1, 'one warning');
    accept_all();
    query("$flip, retry_at = now(); SELECT token_refresh._wake_refresher()");
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'garbled'", 'what opens again is stored');
    is(access_token($node, 'acme', 'garbled') eq $token, 1, 'the token is the same');
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'garbled')"), 't', 'the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'it heals on demand' => sub {
    reject('demand');
    store_expired('short', 'demand');
    await_parked('demand');
    query('SELECT token_refresh.pause()');
    my $token = query("SELECT access_token FROM token_refresh.get_token('short', 'demand')");
    poll_until($node, "SELECT max(expires_at) < clock_timestamp() FROM token_refresh.parked_result", 'the parked token runs out');
    accept_all();
    my $next = access_token($node, 'short', 'demand');
    ok($next ne '' && $next ne $token && $server->is_active('short', $next), 'the first caller gets a fresh token');
    is($server->stats('short')->{reuse}, 0, 'no refresh token was presented twice');
    is(status_of($node, 'short', 'demand')->{parked} ? 1 : 0, 0, 'nothing stays parked');
    query("DELETE FROM token_refresh.credential WHERE provider = 'short'; SELECT token_refresh.resume()");
};

subtest 'a new sign-in discards it' => sub {
    reject('signin');
    store_expired('acme', 'signin');
    await_parked('signin');
    store_credential($node, 'acme', my ($grant) = $server->grants('acme', subjects => ['signin']));
    my $row = status_of($node, 'acme', 'signin');
    is(join(' ', $row->{parked} ? 1 : 0, $row->{status}, $row->{last_error} // ''), '0 connected ', 'nothing is parked any more');
    is(access_token($node, 'acme', 'signin') eq $grant->{access_token}, 1, 'the new tokens are given');
    accept_all();
    others_go_on('after_signin');
    is(access_token($node, 'acme', 'signin') eq $grant->{access_token}, 1, 'and stay');
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'signin')"), 't', 'and can be refreshed');
};

subtest 'deleted while parked' => sub {
    reject('deleted');
    store_expired('acme', 'deleted');
    await_parked('deleted');
    query("DELETE FROM token_refresh.credential WHERE subject = 'deleted'");
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'it is gone');
    is(access_token($node, 'acme', 'deleted'), '', 'there is no token any more');
    accept_all();
};

subtest 'a restart while parked' => sub {
    reject('restarted');
    store_expired('acme', 'restarted');
    await_parked('restarted');
    my $token = access_token($node, 'acme', 'restarted');
    $node->restart;
    is(access_token($node, 'acme', 'restarted') eq $token, 1, 'the parked token is still there');
    accept_all();
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'restarted'", 'it heals');
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'restarted')"), 't', 'the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'keys rotated while parked' => sub {
    reject('resealed');
    my ($grant) = $server->expired_grants('acme', subjects => ['resealed']);
    store_credential($node, 'acme', $grant);
    await_parked('resealed');
    my $token = access_token($node, 'acme', 'resealed');
    # Only another key makes rotate_keys seal anew, so the envelope is made by hand.
    my $refresh_token = literal($grant->{refresh_token});
    query(<<"END");
BEGIN;
SELECT token_refresh._own_writes(true);
UPDATE token_refresh.credential SET refresh_token = token_refresh._seal('token_refresh.credential', id::text, 'refresh_token', $refresh_token)
    WHERE subject = 'resealed';
COMMIT;
END
    accept_all();
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'resealed'", 'it heals');
    is(access_token($node, 'acme', 'resealed') eq $token, 1, 'with the parked token');
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'resealed')"), 't', 'the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'the grant dies, and the table does not take that either' => sub {
    reject('dying');
    $server->fault('acme', kind => 'invalid_grant', match => '^dying$');
    store_expired('acme', 'dying');
    poll_until($node, "SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'dying'", 'the status says so all the same');
    is(query("SELECT status, access_token IS NULL FROM token_refresh.get_token('acme', 'dying')"), 'needs_reauth|t', 'get_token says so');
    is(events('dying'), 'needs_reauth', 'one audit event');
    query("SELECT token_refresh.refresh_credential('acme', 'dying')");
    query("SELECT token_refresh.refresh_expiring_tokens('10 years')");
    others_go_on('beside_dying');
    $node->restart;
    others_go_on('after_dying');
    query("SELECT token_refresh.refresh_credential('acme', 'dying')");
    is($server->stats('acme')->{per_subject}{dying}{requests}, 1, 'it was presented once');
    $server->fault('acme');
    accept_all();
    store_credential($node, 'acme', $server->grants('acme', subjects => ['dying']));
    is(status_of($node, 'acme', 'dying')->{status}, 'connected', 'new tokens bring it back');
};

subtest 'the grant dies while its tokens are parked' => sub {
    reject('buried');
    store_expired('short', 'buried');
    await_parked('buried');
    $server->fault('short', kind => 'invalid_grant');
    poll_until($node, "SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'buried'", 'the status says so');
    my $requests = $server->stats('short')->{requests};
    accept_all();
    query("SELECT token_refresh.refresh_credential('short', 'buried')");
    query("SELECT token_refresh.refresh_expiring_tokens('10 years')");
    others_go_on('beside_buried');
    is($server->stats('short')->{requests}, $requests, 'it is not presented again');
    is(query("SELECT count(*) FROM token_refresh.audit_event WHERE subject = 'buried' AND event = 'needs_reauth'"), '1', 'one audit event');
    $server->fault('short');
    store_credential($node, 'short', my ($grant) = $server->grants('short', subjects => ['buried'], lifetime => 3600));
    is(access_token($node, 'short', 'buried') eq $grant->{access_token}, 1, 'new tokens bring it back');
};

$node->stop;
done_testing();
