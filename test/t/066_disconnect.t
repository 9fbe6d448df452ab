# disconnect: forgotten at once with the caller's transaction, revoked at the provider after it, whatever becomes of the
# provider, the refresher or the keys meanwhile; and never without a COMMIT.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use SignInTest;
use TokenRefreshTest;

my $node   = new_node('main', 'token_refresh.http_timeout' => '20s', 'restart_after_crash' => 'on', 'max_prepared_transactions' => 2,
    'token_refresh.sweep_interval' => '10s');
my $server = start_openid_server();
create_openid_provider($node, 'idp', $server);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub disconnect { my ($subject, $more) = @_; return sprintf('SELECT token_refresh.disconnect(%s, %s%s)', literal('idp'), literal($subject), $more // ''); }
sub arrived { return $server->stats->{arrived}{ $_[0] } // 0; }
sub alive { my ($user) = @_; my $tokens = $server->stats->{tokens}; return scalar grep { $tokens->{$_} eq $user } keys %$tokens; }
sub pending { return sql('SELECT count(*) FROM token_refresh.revocation'); }
sub due_now { return sql('UPDATE token_refresh.revocation SET due_at = now(); SELECT token_refresh._wake_refresher()'); }

# Signs in, so that there is a credential of that subject with tokens that the provider knows.
sub connect_user
{
    my ($user, %more) = @_;
    my %answer = authorize($node, $server, 'idp', subject => $user, authorization_params => json({ login_hint => $user }), %more);
    sql('SELECT 1 FROM ' . complete(%answer) . ' c');
    return;
}

sub events
{
    my ($subject) = @_;
    return sql("SELECT string_agg(event || coalesce('/' || failure, ''), ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE subject = '$subject' AND event ~ '^(disc|tok|rev)'");
}

sub wait_for
{
    my ($condition, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    for (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default) { return pass($what) if $condition->(); usleep(50_000); }
    return fail($what);
}

sub all_revoked
{
    my ($user, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', "$what: nothing is left to be revoked");
    return is(alive($user), 0, "$what: no token lives at the provider");
}

sub gone
{
    my ($user, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(sql("SELECT (SELECT count(*) FROM token_refresh.credential WHERE subject = '$user'), (SELECT count(*) FROM token_refresh.token_status WHERE subject = '$user'),"
        . " (SELECT count(*) FROM token_refresh.parked_result p JOIN token_refresh.schedule s ON s.id = p.schedule_id)"), '0|0|0', "$what: the credential is gone, and what was known of it");
}

sub refresher_pid { return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'"); }

subtest 'revoked at the provider' => sub {
    connect_user('alice');
    connect_user('alice', label => 'mail');
    is(alive('alice'), 4, 'there are two credentials');
    is(sql(disconnect('alice')), 't', 'one is disconnected');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'its tokens are revoked');
    is(join(' ', sort map { "$_->[0]:" . ($_->[1] // 'unknown') } @{ $server->stats->{revoked} }), 'access_token:alice refresh_token:alice', '... with the right hints');
    is(alive('alice'), 2, '... the others live');
    is(sql(q{SELECT string_agg(label, ',') FROM token_refresh.credential}), 'mail', 'the other label stays');
    is(events('alice'), 'disconnected token_revoked token_revoked', 'the audit tells it');
    is(sql(q{SELECT string_agg(actor || ' ' || coalesce(message, ''), ', ' ORDER BY message DESC NULLS FIRST) FROM token_refresh.audit_event WHERE event IN ('disconnected', 'token_revoked')}),
        sql('SELECT session_user') . ' , refresher refresh_token, refresher access_token', '... and by whom');
    is(sql(q{SELECT token_refresh.get_access_token('idp', 'alice') IS NULL}), 't', 'get_access_token has none');
    is(sql(q{SELECT status, access_token IS NULL FROM token_refresh.get_token('idp', 'alice')}), 'disconnected|t', 'nor has get_token');
    is(sql(disconnect('alice')), 'f', 'again: there is none');
    is(sql(disconnect('alice', q{, 'mail'})), 't', 'the other one, by its label');
    all_revoked('alice', 'both');
    connect_user('alice');
    like(sql(q{SELECT token_refresh.get_access_token('idp', 'alice')}), qr/^at_/, 'who comes back is connected');
};

subtest 'what is not there' => sub {
    is(sql(disconnect('nobody')), 'f', 'a subject');
    is(sql(disconnect('alice', q{, 'other'})), 'f', 'a label');
    like(error_of($node, q{SELECT token_refresh.disconnect('nobody', 'alice')}), qr/^42704 unknown provider "nobody"/, 'a provider');
    is(events('nobody') . pending(), '0', 'nothing is said or queued');
};

subtest 'without COMMIT nothing happens' => sub {
    my $before = arrived('/revoke');
    is(sql('BEGIN; ' . disconnect('alice') . '; SELECT count(*) FROM token_refresh.credential; ROLLBACK'), "t\n0", 'ROLLBACK');
    is(sql('BEGIN; SAVEPOINT s; ' . disconnect('alice') . '; ROLLBACK TO s; COMMIT'), 't', 'ROLLBACK TO');
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query(disconnect('alice'));
    is(sql(q{SELECT token_refresh._wake_refresher(); SELECT count(*) FROM token_refresh.credential}), "\n1", 'others see the credential until COMMIT');
    like(sql(q{SELECT token_refresh.get_access_token('idp', 'alice')}), qr/^at_/, '... and use it');
    $session->query('ROLLBACK');
    $session->quit;
    is(arrived('/revoke'), $before, 'the provider has heard nothing');
    is(alive('alice'), 2, 'the tokens live');
    is(sql(q{SELECT token_refresh.get_access_token('idp', 'alice') ~ '^at_', (SELECT count(*) FROM token_refresh.audit_event WHERE subject = 'alice' AND event = 'disconnected')}), 't|2', 'nor has anybody else');
    is(sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'alice')}), 't', 'it can be refreshed');
};

subtest 'revoke => false' => sub {
    my $before = arrived('/revoke');
    is(sql(disconnect('alice', ', revoke => false')), 't', 'disconnected');
    gone('alice', 'without telling');
    is(pending() . ' ' . arrived('/revoke'), "0 $before", 'the provider is not told');
    is(sql(q{SELECT count(*) FROM token_refresh.audit_event WHERE subject = 'alice' AND event = 'disconnected'}), '3', 'the audit is');
};

subtest 'a provider that is down' => sub {
    connect_user('bob');
    $server->control(down => ['/revoke']);
    is(sql(disconnect('bob')), 't', 'disconnected');
    gone('bob', 'at once');
    poll_until($node, 'SELECT count(*) = 2 AND min(attempts) >= 2 AND bool_and(message ~ \'503\') FROM token_refresh.revocation', 'it is told again, the attempts are counted');
    is(alive('bob'), 2, 'in vain so far');
    $server->control();
    all_revoked('bob', 'when it is back');
    is(events('bob'), 'disconnected token_revoked token_revoked', 'the audit tells it once');

    connect_user('bob2');
    $server->control(down => ['/revoke']);
    sql(disconnect('bob2'));
    poll_until($node, 'SELECT count(*) = 2 AND min(attempts) >= 1 AND max(due_at) < now() + interval \'1 minute\' FROM token_refresh.revocation', 'down for long');
    sql('UPDATE token_refresh.revocation SET give_up_at = now()');
    due_now();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'at last it is given up');
    is(events('bob2'), 'disconnected revocation_failed/given_up revocation_failed/given_up', 'as the audit says');
    like(sql(q{SELECT message FROM token_refresh.audit_event WHERE subject = 'bob2' AND event = 'revocation_failed' LIMIT 1}), qr/^(refresh|access)_token: given up after [2-9] attempts: HTTP 503/, '... with the last answer');
    $server->control();
};

subtest 'a provider that refuses' => sub {
    for my $case ([400, 'unsupported_token_type', 'revocation_failed/refused'], [400, 'invalid_request', 'revocation_failed/refused'], [400, 'invalid_token', 'token_revoked'])
    {
        my ($status, $error, $event) = @$case;
        connect_user("refused-$error");
        my $before = arrived('/revoke');
        $server->control(raw => { '/revoke' => [$status, 'application/json', json({ error => $error })] });
        sql(disconnect("refused-$error"));
        poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', "$error: it is over");
        is(events("refused-$error"), "disconnected $event $event", '... as the audit says');
        is(arrived('/revoke') - $before, 2, '... after one request for each token');
        $server->control();
    }
    for my $case ([401, 'invalid_client'], [403, 'access_denied'], [400, 'invalid_client'])
    {
        my ($status, $error) = @$case;
        connect_user("again-$status");
        $server->control(raw => { '/revoke' => [$status, 'application/json', json({ error => $error })] });
        sql(disconnect("again-$status"));
        poll_until($node, "SELECT count(*) = 2 AND bool_and(message ~ 'HTTP $status $error') FROM token_refresh.revocation", "$status $error says nothing of the token");
        $server->control();
        all_revoked("again-$status", 'when it takes the client again');
    }
};

subtest 'a refresh in flight' => sub {
    connect_user('carol');
    my $before = arrived('/token');
    # Else the old refresh token would be revoked before it is looked at.
    $server->control(hang => 2, down => ['/revoke']);
    my $refresh = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('idp', 'carol')});
    wait_for(sub { arrived('/token') > $before }, 'the provider has the request');
    my $began = time;
    is(sql(disconnect('carol')), 't', 'disconnected');
    cmp_ok(time - $began, '<', 1, '... without waiting for it');
    gone('carol', 'meanwhile');
    my ($output, $error) = $refresh->finish;
    unlike("$output $error", qr/deadlock|^t/, 'who waits for the refresh is told that there is nothing');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer has been dealt with');
    gone('carol', 'afterwards');
    poll_until($node, q{SELECT count(*) = 4 AND count(token) = 4 FROM token_refresh.revocation}, 'the provider is still to be told of four tokens');
    is(alive('carol'), 3, '... three of which live');
    $server->control();
    due_now();
    all_revoked('carol', 'what the refresh has brought');
    is(events('carol'), 'disconnected' . ' token_revoked' x 4, '... and all of it is in the audit');
};

subtest 'who signs in again while a refresh is in flight' => sub {
    connect_user('cara');
    my $before = arrived('/token');
    $server->control(slow => { '/token' => 2 }, down => ['/revoke']);
    my $refresh = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('idp', 'cara')});
    wait_for(sub { arrived('/token') > $before }, 'the provider has the request');
    sql(disconnect('cara'));
    connect_user('cara');
    $refresh->finish;
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer has been dealt with');
    $server->control();
    due_now();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'the tokens of the former grant are revoked');
    is(events('cara'), 'disconnected' . ' token_revoked' x 4, '... all of them');
    is(alive('cara'), 2, '... and no other');
    is(sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'cara')}), 't', 'the new one is served');
    sql(disconnect('cara'));
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', '... and can be disconnected');
};

# A refresh of that subject is under way while the SQL is run. Then the provider answers it.
sub refreshed_during
{
    my ($user, $sql, %answer) = @_;
    connect_user($user);
    my $before = arrived('/token');
    $server->control(slow => { '/token' => 2 }, %answer);
    my $refresh = start_query($node, "SELECT success FROM token_refresh.refresh_credential('idp', '$user')");
    wait_for(sub { arrived('/token') > $before }, "$user: the provider has the request");
    sql($sql);
    $refresh->finish;
    $server->control();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', "$user: the answer has been dealt with");
    return;
}

subtest 'a refresh in flight brings what is not to be revoked' => sub {
    my $before = arrived('/revoke');
    refreshed_during('cleo', disconnect('cleo', ', revoke => false'));
    refreshed_during('cora', q{DELETE FROM token_refresh.credential WHERE subject = 'cora'});
    gone($_, 'afterwards') for qw(cleo cora);
    is(alive('cleo') . alive('cora') . pending() . (arrived('/revoke') - $before), '3300', 'the provider is not told of what was only forgotten');
};

subtest 'a refresh in flight that brings nothing' => sub {
    refreshed_during('curt', disconnect('curt'), raw => { '/token' => [ 400, 'application/json', json({ error => 'invalid_grant' }) ] });
    all_revoked('curt', 'a refusal');
    is(events('curt'), 'disconnected token_revoked token_revoked', '... and nothing else is told');
};

subtest 'a disconnect that waits while a refresh is stored' => sub {
    connect_user('dora');
    $server->control(hang => 2);
    my $before = arrived('/token');
    my $refresh = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('idp', 'dora')});
    wait_for(sub { arrived('/token') > $before }, 'the provider has the request');
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query(disconnect('dora'));
    my ($output, $error) = $refresh->finish;
    unlike($error, qr/deadlock/, 'the refresh ends before the COMMIT');
    $session->query('COMMIT');
    $session->quit;
    $server->control();
    gone('dora', 'after the COMMIT');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer has been dealt with');
    gone('dora', 'afterwards');
    all_revoked('dora', 'what was parked meanwhile');
    is(events('dora'), 'disconnected' . ' token_revoked' x 4, '... and all of it is in the audit');
};

subtest 'a parked result' => sub {
    connect_user('erin');
    sql(q{ALTER TABLE token_refresh.credential ADD CONSTRAINT no_news CHECK (subject <> 'erin' OR refreshed_at IS NULL)});
    sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'erin')});
    is(sql(q{SELECT parked FROM token_refresh.token_status WHERE subject = 'erin'}), 't', 'there is one');
    cmp_ok(alive('erin'), '>=', 2, 'with living tokens');
    is(sql(disconnect('erin')), 't', 'disconnected');
    gone('erin', 'parked');
    all_revoked('erin', 'parked');
    is(scalar(grep { ($_->[1] // '') eq 'erin' } @{ $server->stats->{revoked} }), 3, 'the parked tokens and the old access token were alive');
    sql('ALTER TABLE token_refresh.credential DROP CONSTRAINT no_news');
};

subtest 'privileges' => sub {
    sql(q{CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA token_refresh TO app});
    my $as_app = sub { my ($sql) = @_; my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", connstr => $node->connstr('postgres') . ' user=app'); return $error =~ /ERROR:  (\w+): (.*)/ ? "$1 $2" : $output };
    connect_user('frank');
    connect_user('grace');
    like($as_app->(disconnect('frank')), qr/^42501 permission denied for function/, 'EXECUTE is needed');
    sql('GRANT EXECUTE ON FUNCTION token_refresh.disconnect(text, text, text, boolean) TO app');
    my @needed = qw(SELECT UPDATE DELETE);
    for my $missing (@needed)
    {
        sql('REVOKE ALL ON token_refresh.credential FROM app; GRANT ' . join(', ', grep { $_ ne $missing } @needed) . ' ON token_refresh.credential TO app');
        like($as_app->(disconnect('frank')), qr/^42501 permission denied for table credential/, "$missing is needed");
    }
    sql('GRANT SELECT, UPDATE, DELETE ON token_refresh.credential TO app');
    sql(q{ALTER TABLE token_refresh.credential ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON token_refresh.credential TO app USING (subject = 'frank')});
    is($as_app->(disconnect('grace')), 'f', 'a row that a policy hides is not there');
    sql(q{CREATE POLICY more ON token_refresh.credential FOR SELECT TO app USING (subject = 'grace'); CREATE POLICY lock ON token_refresh.credential FOR UPDATE TO app USING (subject = 'grace')});
    like($as_app->(disconnect('grace')), qr/^42501 the credential may not be deleted/, 'a row that may not be deleted is refused');
    is(pending() . ' ' . alive('grace') . ' ' . (events('grace') // ''), '0 2 ', '... and nothing is revoked');
    is($as_app->(disconnect('frank')), 't', 'the own one is disconnected');
    all_revoked('frank', 'with the own privileges');
    is(sql(q{SELECT actor FROM token_refresh.audit_event WHERE subject = 'frank' AND event = 'disconnected'}), 'app', 'the audit says who did it');
    like($as_app->("SELECT count(*) FROM token_refresh.$_"), qr/^42501 /, "$_ stays closed") for qw(revocation audit_event authorization_request);
    sql('ALTER TABLE token_refresh.credential DISABLE ROW LEVEL SECURITY; DROP POLICY own ON token_refresh.credential; DROP POLICY more ON token_refresh.credential; DROP POLICY lock ON token_refresh.credential');
    is(sql(disconnect('grace')), 't', 'without the policies it goes');
    all_revoked('grace', 'without the policies');
};

subtest 'the refresher ends while a revocation is under way' => sub {
    for my $how ('kill -9', 'restart', 'immediate')
    {
        connect_user("henry-$how");
        my $before = arrived('/revoke');
        $server->control(slow => { '/revoke' => 4 });
        sql(disconnect("henry-$how"));
        wait_for(sub { arrived('/revoke') == $before + 2 }, "$how: the requests are under way");
        is(sql(q{SELECT string_agg(attempts::text, ','), bool_and(due_at > now() + interval '25 minutes') FROM token_refresh.revocation}), '1,1|t', '... and theirs for a while');
        my $pid = refresher_pid();
        $server->control();
        if ($how eq 'kill -9') { kill('KILL', $pid) or die "cannot kill: $!"; }
        elsif ($how eq 'restart') { $node->restart; }
        else { $node->stop('immediate'); $node->start; }
        $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $pid") or die 'no refresher';
        all_revoked("henry-$how", $how);
        is(arrived('/revoke'), $before + 4, '... sent once more');
        is(events("henry-$how"), 'disconnected token_revoked token_revoked', '... and noted once');
    }
};

subtest 'many, and at the same time' => sub {
    my $grants = join ', ', map { sprintf q{token_refresh.store_credential('idp', 'many%s', '{"access_token": "fake-a%s", "refresh_token": "fake-r%s", "expires_in": 3600}')}, $_, $_, $_ } 1 .. 50;
    sql("SELECT $grants");
    my $before = arrived('/revoke');
    is(sql(q{SELECT count(*) FROM token_refresh.credential c WHERE subject LIKE 'many%' AND token_refresh.disconnect(provider, subject, label)}), '50', 'fifty in one statement');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'all are revoked');
    is(arrived('/revoke') - $before, 100, '... each token once');

    connect_user('nora');
    my $session = background_session($node);
    $session->query('BEGIN');
    is($session->query(disconnect('nora')), 't', 'one transaction disconnects');
    my $other = start_query($node, disconnect('nora'));
    my $snapshot = start_query($node, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM token_refresh.credential; ' . disconnect('nora'));
    $node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) or die;
    $session->query('COMMIT');
    $session->quit;
    is(($other->finish)[0], 'f', '... another one that waits for it finds nothing');
    like(($snapshot->finish)[1], qr/could not serialize access/, '... nor does one with an older snapshot');
    all_revoked('nora', 'revoked');
    is(events('nora'), 'disconnected token_revoked token_revoked', '... once');
};

subtest 'COMMIT PREPARED' => sub {
    connect_user('olga');
    sql('BEGIN; ' . disconnect('olga') . q{; PREPARE TRANSACTION 'p'});
    is(alive('olga') . pending(), '20', 'not before it');
    sql(q{COMMIT PREPARED 'p'});
    all_revoked('olga', 'after it');
};

subtest 'drop_provider with revocations pending' => sub {
    create_openid_provider($node, 'old', $server);
    my %answer = authorize($node, $server, 'old', subject => 'iris', authorization_params => '{"login_hint": "iris"}');
    sql('SELECT 1 FROM ' . complete(%answer) . ' c');
    begin_at($node, 'old', subject => 'iris');
    $server->control(down => ['/revoke']);
    like(error_of($node, q{SELECT token_refresh.drop_provider('old')}), qr/^2BP01/, 'not with credentials');
    is(sql(q{SELECT token_refresh.disconnect('old', 'iris')}), 't', 'disconnected');
    poll_until($node, 'SELECT count(*) = 2 AND min(attempts) >= 1 FROM token_refresh.revocation', 'they wait');
    like(error_of($node, q{SELECT token_refresh.drop_provider('old')}), qr/^2BP01 .*2 token\(s\) to be revoked/, 'not before the provider has been told');
    sql(q{DELETE FROM token_refresh.revocation WHERE provider = 'old'});
    is(error_of($node, q{SELECT token_refresh.drop_provider('old')}), 'no error, but ', 'unless an administrator says that it need not be');
    is(sql('SELECT (SELECT count(*) FROM token_refresh.revocation), (SELECT count(*) FROM token_refresh.authorization_request WHERE provider = \'old\')'), '0|0', 'there is nobody left to tell');
    $server->control();
};

subtest 'rotate_keys with revocations and sign-ins pending' => sub {
    my $key_file = $node->basedir . '/token_refresh.keys';
    my $usage = sub { return sql(q{SELECT string_agg(place || ' ' || key || CASE WHEN current THEN '*' ELSE '' END || ' ' || secrets, ', ' ORDER BY place, key) FROM token_refresh.key_usage WHERE place IN ('authorization_request', 'revocation')}) };
    sql('DELETE FROM token_refresh.authorization_request');
    connect_user('jack');
    my %answer = authorize($node, $server, 'idp', subject => 'kate', authorization_params => '{"login_hint": "kate"}');
    $server->control(down => ['/revoke']);
    sql(disconnect('jack'));
    is($usage->(), 'authorization_request test* 1, revocation test* 2', 'key_usage shows them');
    my $old = slurp_file($key_file);
    my $new = 'second ' . encode_base64(pack('N8', map { int rand 2**32 } 1 .. 8), '') . "\n";
    my $write = sub { open(my $file, '>', $key_file) or die $!; print {$file} $_[0]; close $file; $node->reload; };
    $write->("$new$old");
    poll_until($node, q{SELECT count(*) = 2 FROM token_refresh.key_ring()}, 'a second key');
    is($usage->(), 'authorization_request test 1, revocation test 2', 'which guards nothing yet');
    sql('CALL token_refresh.rotate_keys()');
    is($usage->(), 'authorization_request second* 1, revocation second* 2', 'rotate_keys seals them anew');
    is(sql(q{SELECT count(*) FROM token_refresh.key_usage WHERE key = 'test'}), '0', 'the old key guards nothing');
    $write->($new);
    $node->restart;
    is(sql('SELECT subject FROM ' . complete(%answer) . ' c'), 'kate', 'without the old key the sign-in goes on');
    $server->control();
    due_now();
    all_revoked('jack', 'without the old key');
};

subtest 'pg_dump' => sub {
    connect_user('lena');
    $server->control(down => ['/revoke']);
    sql(disconnect('lena'));
    begin_at($node, 'idp', subject => 'lena');
    sql(q{INSERT INTO token_refresh.discovery (id, issuer, message) VALUES (1, 'https://issuer.example.com', 'x')});
    my $dump = '';
    ok(IPC::Run::run([ $node->installed_command('pg_dump'), $node->connstr('postgres') ], '<', \undef, '>', \$dump), 'pg_dump');
    like($dump, qr/COPY token_refresh\.credential /, 'it has the credentials');
    unlike($dump, qr/COPY token_refresh\.(authorization_request|revocation|discovery) /, 'not what is under way');
    unlike($dump, qr/issuer\.example\.com/, 'nor what was discovered');
    $server->control();
    due_now();
    all_revoked('lena', 'afterwards');
};

my $log = read_log($node);
unlike($log, qr/TRAP|PANIC|deadlock detected/, 'nothing broke');
$node->stop;
done_testing();
