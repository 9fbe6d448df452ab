# Sign-ins when things go wrong: crashes, shutdowns and impatient callers while a code is out, servers that cannot sign
# in, tables that do not take the credential, issuers that cannot be discovered. A code is presented at most once, what
# the provider has answered is stored or revoked, nobody waits for nothing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use SignInTest;
use TokenRefreshTest;

my $node = new_node('main', -init => { allows_streaming => 1 }, 'token_refresh.http_timeout' => '8s', 'token_refresh.request_slots' => 16,
    'max_connections' => 60, 'restart_after_crash' => 'on', 'dynamic_shared_memory_type' => 'mmap');
my $server = start_openid_server();
create_openid_provider($node, 'idp', $server);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub arrived { return $server->stats->{arrived}{ $_[0] } // 0; }
sub alive { my ($user) = @_; my $tokens = $server->stats->{tokens}; return scalar grep { $tokens->{$_} eq $user } keys %$tokens; }
sub stored { return sql("SELECT count(*) FROM token_refresh.credential WHERE subject = '$_[0]'"); }
sub refresher_pid { return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'"); }
sub used { my (%answer) = @_; return sql("SELECT used_at IS NOT NULL FROM token_refresh.authorization_request WHERE state_hash = sha256(" . literal($answer{state}) . ')'); }
sub segments { return scalar(grep { !/control/ } glob($node->data_dir . '/pg_dynshmem/mmap.*')); }

sub answer_for { my ($user, %more) = @_; return authorize($node, $server, 'idp', subject => $user, authorization_params => json({ login_hint => $user }), %more); }
sub complete_sql { return 'SELECT c.subject FROM ' . complete(@_) . ' c'; }

sub wait_for
{
    my ($condition) = @_;
    for (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default) { return 1 if $condition->(); usleep(50_000); }
    die 'timed out';
}

sub new_refresher
{
    my ($old) = @_;
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $old") or die 'no refresher';
    return;
}

# A caller who waits for a code that is at the provider, which takes its time.
sub send_code
{
    my ($seconds, $answer, %option) = @_;
    my $before = arrived('/token');
    $server->control(hang => $seconds);
    my $caller = start_query($node, ($option{set} // '') . complete_sql(%$answer), name => 'caller');
    wait_for(sub { arrived('/token') > $before });
    return $caller;
}

sub next_sign_in
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    $server->control();
    my %answer = answer_for('next');
    return is(sql(complete_sql(%answer)), 'next', "$what: the next sign-in works");
}

my $segments_before = do { my %answer = answer_for('first'); sql(complete_sql(%answer)); segments() };

subtest 'crashes while a code is out' => sub {
    for my $how ('kill -9 of the refresher', 'immediate shutdown', 'kill -9 of the server')
    {
        my $user   = $how =~ s/\W+/-/gr;
        my %answer = answer_for($user);
        my $caller = send_code(2, \%answer);
        my $pid    = refresher_pid();
        my $codes  = $server->stats->{codes};
        if ($how =~ /refresher/) { kill('KILL', $pid) or die $!; new_refresher($pid); }
        elsif ($how =~ /immediate/) { $node->stop('immediate'); $node->start; }
        else { $node->kill9; wait_for(sub { !kill(0, $pid) }); wait_for(sub { $node->start(fail_ok => 1) }); }
        like(($caller->finish)[1], qr/connection to server|terminating connection|server closed/, "$how: the caller is told");
        is(used(%answer), 't', '... the state is spent');
        like(error_of($node, complete_sql(%answer)), qr/^28000 sign-in refused: the state has been used already/, '... as who tries again is told');
        is(stored($user), '0', '... there is no credential');
        wait_for(sub { $server->stats->{codes} > $codes });
        next_sign_in($how);
    }
    is($server->stats->{code_reuse}, 0, 'no code was presented twice');
};

subtest 'shutdowns while a code is out' => sub {
    for my $how ('fast', 'refresher')
    {
        my %answer = answer_for("drained-$how");
        my $caller = send_code(2, \%answer);
        my $began  = time;
        my $pid    = refresher_pid();
        if ($how eq 'fast') { $node->stop('fast'); cmp_ok(time - $began, '<', 8, 'fast shutdown ends within drain_timeout'); $node->start; }
        else { sql("SELECT pg_terminate_backend($pid)"); new_refresher($pid); }
        my ($output, $error) = $caller->finish;
        if ($how eq 'fast') { like($error, qr/terminating connection|server closed/, 'the caller is told'); }
        else { is("$output$error", 'drained-refresher', 'the caller of a refresher that is told to end gets the answer'); }
        is(stored("drained-$how"), '1', '... the credential is stored');
        is(sql("SELECT event FROM token_refresh.audit_event WHERE subject = 'drained-$how' AND event LIKE 'auth%'"), 'authorization_completed', '... and audited');
        next_sign_in($how);
    }
    sql(q{ALTER SYSTEM SET token_refresh.drain_timeout = '1s'});
    $node->reload;
    my %answer = answer_for('not drained');
    my $caller = send_code(5, \%answer);
    my $began  = time;
    $node->stop('fast');
    cmp_ok(time - $began, '<', 4, 'a provider that is slower than drain_timeout does not hold it up');
    $caller->finish;
    $node->start;
    is(stored('not drained') . used(%answer), '0t', 'there is no credential; the state is spent');
    poll_until($node, q{SELECT count(*) = 1 FROM token_refresh.audit_event WHERE subject = 'not drained' AND event = 'authorization_refused' AND failure = 'interrupted'}, '... as the audit says');
    sql('ALTER SYSTEM RESET token_refresh.drain_timeout');
    $node->reload;
    next_sign_in('drain_timeout');
};

subtest 'callers that do not wait' => sub {
    for my $case ([ 'pg_cancel_backend', qr/canceling statement due to user request/ ], [ 'pg_terminate_backend', qr/terminating connection/ ],
        [ 'statement_timeout', qr/canceling statement due to statement timeout/ ], [ 'request_timeout', qr/timed out waiting for the provider/ ])
    {
        my ($how, $message) = @$case;
        my %answer = answer_for($how);
        my $set = $how eq 'statement_timeout' ? 'SET statement_timeout = 700; ' : $how eq 'request_timeout' ? 'SET token_refresh.request_timeout = 700; ' : '';
        my $caller = send_code(3, \%answer, set => $set);
        my $began = time;
        sql("SELECT $how(pid) FROM pg_stat_activity WHERE application_name = 'caller'") if $how =~ /^pg_/;
        like(($caller->finish)[1], $message, $how);
        cmp_ok(time - $began, '<', 2, '... at once');
        is(stored($how), '0', '... before the provider has answered');
        poll_until($node, "SELECT count(*) = 1 FROM token_refresh.credential WHERE subject = '$how'", '... whose answer is stored all the same');
        is(sql("SELECT event FROM token_refresh.audit_event WHERE subject = '$how' AND event LIKE 'auth%'"), 'authorization_completed', '... and audited');
        like(error_of($node, complete_sql(%answer)), qr/^28000 .*used already/, '... the state is spent');
    }
    next_sign_in('impatience');
};

subtest 'a refresher that takes its time' => sub {
    my %answer = answer_for('left');
    my $pid = refresher_pid();
    kill('STOP', $pid) or die $!;
    my $caller = start_query($node, complete_sql(%answer), name => 'caller');
    $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'caller' AND wait_event_type = 'Extension'}) or die;
    is(segments(), $segments_before + 1, 'the code waits in a segment');
    sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'caller'});
    like(($caller->finish)[1], qr/canceling statement/, 'a session leaves before its request is taken');
    is(segments(), $segments_before, '... and takes the segment along');
    kill('CONT', $pid) or die $!;
    next_sign_in('meanwhile');
    is(used(%answer), 'f', 'the state is not spent');
    is(sql(complete_sql(%answer)), 'left', '... and good still');

    my @answers = map { { answer_for("slot $_") } } 1 .. 17;
    kill('STOP', $pid) or die $!;
    my @callers = map { start_query($node, complete_sql(%{ $answers[$_] }), name => 'caller') } 0 .. 15;
    $node->poll_query_until('postgres', q{SELECT count(*) = 16 FROM pg_stat_activity WHERE application_name = 'caller' AND wait_event_type = 'Extension'}) or die;
    like(error_of($node, complete_sql(%{ $answers[16] })), qr/^53400 /, 'all request slots are taken');
    is(segments(), $segments_before + 16, '... nothing is left of who was refused');
    kill('CONT', $pid) or die $!;
    is(join(' ', map { ($_->finish)[0] } @callers), join(' ', map { "slot $_" } 1 .. 16), 'the others are served');
    is(sql(complete_sql(%{ $answers[16] })), 'slot 17', '... and then the one who was refused');
    is($server->stats->{code_reuse}, 0, 'no code was presented twice');
};

subtest 'callers of other kinds' => sub {
    my %answer = answer_for('held');
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query('SELECT FROM token_refresh.authorization_request WHERE used_at IS NULL FOR UPDATE');
    like(error_of($node, complete_sql(%answer)), qr/^08006 /, 'a request that somebody holds');
    $session->query('ROLLBACK');
    $session->quit;
    is(used(%answer), 'f', '... is not spent');
    is(sql(complete_sql(%answer)), 'held', '... and good afterwards');

    sql(q{CREATE FUNCTION tries(n integer, state text, code text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE failed integer := 0;
BEGIN
    FOR i IN 1 .. n LOOP
        BEGIN
            PERFORM token_refresh.complete_authorization(state, code);
        EXCEPTION WHEN invalid_authorization_specification THEN failed := failed + 1;
        END;
    END LOOP;
    RETURN failed;
END $$});
    %answer = answer_for('in a function');
    is(sql(sprintf 'SELECT tries(20, %s, %s)', map { literal($_) } @answer{qw(state code)}), '19', 'one success and nineteen refusals in one transaction');
    is(stored('in a function') . segments(), "1$segments_before", '... leave one credential and no segment');

    sql('CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA token_refresh TO app; GRANT EXECUTE ON FUNCTION token_refresh.complete_authorization TO app');
    %answer = answer_for('by a role');
    my ($status, $output) = $node->psql('postgres', 'BEGIN READ ONLY; ' . complete_sql(%answer), connstr => $node->connstr('postgres') . ' user=app');
    is($output, 'by a role', 'a role that may do nothing else, in a transaction that may write nothing');

    sql('SELECT token_refresh.pause()');
    %answer = answer_for('paused');
    is(sql(complete_sql(%answer)), 'paused', 'sign-ins go on while refreshing is paused');
    is(sql(q{SELECT token_refresh.disconnect('idp', 'paused')}), 't', '... so does disconnecting');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', '... and revoking');
    sql('SELECT token_refresh.resume()');
    is($server->stats->{code_reuse}, 0, 'no code was presented twice');
};

subtest 'tables that do not take it' => sub {
    sql(q{ALTER TABLE token_refresh.credential ADD CONSTRAINT unwanted CHECK (subject <> 'unwanted')});
    my %answer = answer_for('unwanted');
    like(error_of($node, complete_sql(%answer)), qr/^08006 sign-in refused \(not_stored\)/, 'a constraint');
    is(sql(q{SELECT event || ' ' || failure FROM token_refresh.audit_event WHERE subject = 'unwanted' AND event LIKE 'auth%'}), 'authorization_refused not_stored', '... as the audit says');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', '... the tokens are revoked');
    is(alive('unwanted') . stored('unwanted'), '00', '... all of them');
    sql('ALTER TABLE token_refresh.credential DROP CONSTRAINT unwanted');

    %answer = answer_for('locked');
    sql(complete_sql(%answer));
    %answer = answer_for('locked');
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query(q{SELECT FROM token_refresh.credential WHERE subject = 'locked' FOR UPDATE});
    my $caller = start_query($node, complete_sql(%answer), name => 'caller');
    usleep(3_000_000);
    ok($caller->is_running, 'a locked row is waited for');
    $session->query('COMMIT');
    $session->quit;
    is(($caller->finish)[0], 'locked', '... and written when it is free');
    my $token = sql(q{SELECT token_refresh.get_access_token('idp', 'locked')});
    is($server->stats->{tokens}{$token}, 'locked', '... with the new tokens');

    create_openid_provider($node, 'short-lived', $server);
    %answer = authorize($node, $server, 'short-lived', subject => 'orphan', authorization_params => '{"login_hint": "orphan"}');
    $caller = send_code(2, \%answer);
    like(error_of($node, q{SELECT token_refresh.drop_provider('short-lived')}), qr/^2BP01 .*1 sign-in\(s\) under way/, 'a provider is not dropped while a code is out');
    sql(q{DELETE FROM token_refresh.provider WHERE name = 'short-lived'});
    my $began = time;
    like(($caller->finish)[1], qr/sign-in refused: the state is unknown/, '... the caller is told');
    cmp_ok(time - $began, '<', 5, '... as soon as the provider has answered');
    next_sign_in('trouble with tables');
};

# What a refresh could not store says nothing of who signs in after it.
subtest 'a sign-in after a refresh that was not stored is scheduled' => sub {
    my %answer = answer_for('rejected');
    sql(complete_sql(%answer));
    sql(q{ALTER TABLE token_refresh.credential ADD CONSTRAINT no_news CHECK (subject <> 'rejected' OR refreshed_at IS NULL)});
    is(sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'rejected')}), 't', 'a refresh whose tokens are parked');
    %answer = answer_for('after');
    sql(complete_sql(%answer));
    is(sql(q{SELECT due_at > now() FROM token_refresh.token_status WHERE subject = 'after'}), 't', 'who signs in then is due in time');
    is(sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'after')}), 't', '... and refreshed');
    sql(q{ALTER TABLE token_refresh.credential DROP CONSTRAINT no_news});
};

subtest 'a key ring that the refresher has not' => sub {
    my $key_file = $node->basedir . '/token_refresh.keys';
    my %answer = answer_for('no key');
    my $session = background_session($node);
    # The session knows the keys already.
    $session->query(q{SELECT 1 FROM token_refresh.begin_authorization('idp', 'x', 'https://app.example.com/callback')});
    rename($key_file, "$key_file.away") or die $!;
    my $pid = refresher_pid();
    sql("SELECT pg_terminate_backend($pid)");
    new_refresher($pid);
    my $output = $session->query('\set VERBOSITY verbose' . "\n" . complete_sql(%answer));
    like($session->{stderr}, qr/08006: sign-in failed: the refresher could not do it/, 'the caller is told');
    is(used(%answer), 'f', 'the state is not spent');
    my $offset = -s $node->logfile;
    $session->query(q{SELECT token_refresh.discover_provider('} . $server->url . q{')});
    like($session->{stderr}, qr/08006/, 'nor can an issuer be discovered');
    like(read_log($node, $offset), qr/token_refresh: a discovery cannot be read: /, '... as the log says');
    rename("$key_file.away", $key_file) or die $!;
    $session->quit;
    $node->reload;
    is(sql(complete_sql(%answer)), 'no key', 'with the keys it is good');
};

subtest 'what cannot be noted is in the log, without data' => sub {
    my $discover = "SELECT token_refresh.discover_provider('" . $server->url . "')";
    my $told = sub {
        my ($change, $undo) = @_;
        sql($change);
        my $offset = -s $node->logfile;
        like(error_of($node, $discover), qr/^08006 /, 'the caller hears that it failed');
        sql($undo);
        return join '', grep { /token_refresh: / } split /^/, read_log($node, $offset);
    };
    like($told->('ALTER TABLE token_refresh.discovery ADD CONSTRAINT nothing CHECK (id < 0) NOT VALID', 'ALTER TABLE token_refresh.discovery DROP CONSTRAINT nothing'),
        qr/token_refresh: noting what a discovery has found failed with SQLSTATE 23514: new row for relation "discovery" violates check constraint "nothing"$/m,
        'words that name objects only');
    my $log = $told->(q{CREATE FUNCTION quote_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'the row has %', NEW.issuer; END$$;
        CREATE TRIGGER quote BEFORE INSERT ON token_refresh.discovery FOR EACH ROW EXECUTE FUNCTION quote_row()},
        'DROP FUNCTION quote_row() CASCADE');
    like($log, qr/token_refresh: noting what a discovery has found failed with SQLSTATE P0001$/m, 'of other words the SQLSTATE');
    unlike($log, qr/the row has/, '... and no data');
};

subtest 'servers that cannot sign in' => sub {
    my %answer = answer_for('elsewhere');
    my $url = $server->url;
    my $everything = sub {
        my ($place) = @_;
        return map { error_of($place, $_) } complete_sql(%answer), "SELECT token_refresh.discover_provider('$url')",
            qq{SELECT token_refresh.create_provider('found', 'a', options => '{"issuer": "$url"}')};
    };
    $node->backup('backup');
    my $standby = PostgreSQL::Test::Cluster->new('standby');
    $standby->init_from_backup($node, 'backup', has_streaming => 1);
    $standby->start;
    like($_, qr/^25006 /, 'standby') for $everything->($standby), error_of($standby, q{SELECT token_refresh.disconnect('idp', 'first')}),
        error_of($standby, q{SELECT 1 FROM token_refresh.begin_authorization('idp', 'x', 'https://app.example.com/callback')});
    $standby->stop;

    sql(q{ALTER SYSTEM SET token_refresh.databases = 'template1'});
    $node->reload;
    wait_for(sub { (error_of($node, q{SELECT token_refresh.discover_provider('x')}) =~ /^55000/) });
    like($_, qr/^55000 .*token_refresh.databases leaves out/, 'left out') for $everything->($node);
    is(sql(q{SELECT token_refresh.disconnect('idp', 'first')}), 't', '... where disconnecting is possible');
    sql(q{ALTER SYSTEM RESET token_refresh.databases});
    $node->reload;
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', '... and revoked when it is served again');
    is(alive('first'), 0, '... at the provider');

    my $old = new_node('old', 'shared_preload_libraries' => '');
    like($_, qr/^55000 .*not preloaded/, 'not preloaded') for $everything->($old);
    is(error_of($old, qq{SELECT token_refresh.create_provider('idp', 'a', 'fake', '{"issuer": "$url", "token_endpoint": "$url/token", "revocation_endpoint": "$url/revoke"}')}), 'no error, but ', '... where endpoints can be given');
    $old->safe_psql('postgres', q{SELECT token_refresh.store_credential('idp', 'mia', '{"access_token": "fake-a", "refresh_token": "fake-r"}')});
    is($old->safe_psql('postgres', q{SELECT token_refresh.disconnect('idp', 'mia'); SELECT count(token) FROM token_refresh.revocation}), "t\n2", '... and disconnecting is possible');
    $old->stop;
    wait_for(sub { refresher_pid() });
    is(sql(complete_sql(%answer)), 'elsewhere', 'none of them has spent the state');
};

subtest 'a database in LATIN1' => sub {
    sql(q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'});
    $node->safe_psql('latin', 'CREATE EXTENSION token_refresh');
    my $client = $server->stats->{client};
    $node->safe_psql('latin', sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', map { literal($_) } 'idp', @{$client}{qw(client_id client_secret)}, json({ issuer => $server->url })));
    my $try = sub {
        my ($wanted, %settings) = @_;
        $server->control();
        my ($url) = split /\n/, $node->safe_psql('latin', q{SELECT authorization_url FROM token_refresh.begin_authorization('idp', redirect_uri => 'https://app.example.com/cb', scope => 'openid')});
        my ($query) = HTTP::Tiny->new(max_redirect => 0)->get($url)->{headers}{location} =~ /\?(.*)/;
        my %answer = map { my ($name, $value) = split /=/; $value =~ s/%(..)/chr hex $1/ge; ($name, $value) } split /&/, $query;
        $server->control(%settings);
        my $began = time;
        my ($status, $output, $error) = $node->psql('latin', "SET client_encoding = 'UTF8';\n\\set VERBOSITY verbose\nSELECT $wanted FROM " . complete(%answer) . ' c');
        cmp_ok(time - $began, '<', 5, 'an answer without delay');
        return $error =~ /ERROR:  (\S+): (.*)/ ? "$1 $2" : $output;
    };
    is($try->(q{c.claims ->> 'name'}, claims => { name => "J\x{f6}rg" }), "J\xc3\xb6rg", 'claims with umlauts');
    like($try->('c.claims', claims => { name => "\x{141}ukasz" }), qr/^28000 sign-in refused \(claims_unusable\)/, 'claims that the database cannot hold');
    is($node->safe_psql('latin', q{SELECT failure FROM token_refresh.audit_event WHERE event = 'authorization_refused'}), 'claims_unusable', '... as the audit says');
    $node->poll_query_until('latin', 'SELECT count(*) = 0 FROM token_refresh.revocation') or die;
    is(alive('alice'), 2, '... the tokens are revoked');
    for my $text ("ung\x{fc}ltig", "nieprawid\x{142}owy")
    {
        my $error = $try->('1', raw => { '/token' => [ 400, 'application/json', json({ error => 'invalid_grant', error_description => $text }) ] });
        like($error, qr/^28000 sign-in refused \(provider_refused\).*invalid_grant/, 'a complaint in another language');
    }
    sql('DROP DATABASE latin');
};

subtest 'discovery' => sub {
    my $url  = $server->url;
    my $path = '/.well-known/openid-configuration';
    my $ask  = sub {
        my ($issuer, %settings) = @_;
        $server->control(%settings);
        my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT token_refresh.discover_provider(" . literal($issuer) . q{, '{"timeout": "2 seconds"}')});
        return $output unless $error =~ /ERROR:  (\w+)/;
        my $state = $1;
        my ($detail) = $error =~ /DETAIL:  (.*)/;
        return "$state " . ($detail // $error);
    };
    like($ask->($url), qr/"token_endpoint": "\Q$url\E\/token"/, 'a good one');
    like($ask->($url, metadata => { issuer => 'https://evil.example.com' }), qr{^08006 the document is of the issuer "https://evil\.example\.com", which is not the one that was asked}, 'another issuer');
    like($ask->($url, metadata => { issuer => 'secret word' }), qr{^08006 the issuer in the document is not the one}, '... of which nothing is shown unless it is a URL');
    like($ask->("$url/"), qr/^08006 .*by a slash/, 'a slash more');
    like($ask->($url, raw => { $path => [ 404, 'text/plain', 'no' ] }), qr/^08006 the issuer publishes neither/, 'none');
    like($ask->($url, raw => { $path => [ 200, 'text/html', '<html>welcome</html>' ] }), qr/^08006 the discovery document is not a JSON object/, 'HTML');
    like($ask->($url, raw => { $path => [ 200, 'application/json', '["a"]' ] }), qr/^08006 the discovery document is not a JSON object/, 'an array');
    like($ask->($url, raw => { $path => [ 200, 'application/json', '{"issuer": "' . $url . '", "issuer": "x"}' ] }), qr/^08006 .*name twice/, 'a name twice');
    like($ask->($url, metadata => { token_endpoint => 'http://issuer.example.com/token' }), qr/^08006 .*no usable token_endpoint/, 'an endpoint in plain http');
    like($ask->($url, metadata => { token_endpoint => 7 }), qr/^08006 .*no usable token_endpoint/, 'an endpoint that is a number');
    like($ask->($url, down => [$path]), qr/^08006 the issuer gives no discovery document: HTTP 503/, 'one that is down');
    like($ask->($url, raw => { $path => [ 200, 'application/json', '{"issuer": "' . ('x' x 5_000_000) . '"}' ] }), qr/^08006 the issuer gives no discovery document/, 'a huge document');
    like($ask->($url, raw => { $path => [ 302, 'text/plain', '' ] }), qr/^08006 /, 'a redirection');
    my $began = time;
    like($ask->($url, slow => { $path => 6 }), qr/^08006 the issuer gives no discovery document/, 'one that hangs');
    cmp_ok(time - $began, '<', 5, '... as long as its timeout');
    $server->control();
    like($ask->($_), qr/^08006 an issuer is an https URL/, "$_ is not asked")
        for 'http://issuer.example.com', 'ftp://127.0.0.1/', 'x', '', "$url/?a=b", "$url/#a", 'https://user:word@issuer.example.com', "https://issuer.example.com/a b";
    like($ask->('http://127.0.0.1:1'), qr/^08006 the issuer gives no discovery document/, 'nobody there');

    sql(qq{SELECT token_refresh.create_provider('with', 'app', 'fake', '{"issuer": "$url"}'), token_refresh.create_provider('without', 'app', options => '{"issuer": "$url"}')});
    is(sql(q{SELECT string_agg(options ->> 'token_endpoint_auth_method', ' ' ORDER BY name) FROM token_refresh.provider WHERE name LIKE 'with%'}), 'client_secret_basic none', 'a client with a secret, and one without');
    $server->control(metadata => { introspection_endpoint => "$url/introspect" });
    like(sql(qq{SELECT token_refresh.create_provider('asks', 'app', 'fake', '{"issuer": "$url", "expiry_source": "introspection"}'); SELECT effective_options ->> 'introspection_endpoint' FROM token_refresh.provider WHERE name = 'asks'}), qr{/introspect$}, 'options may rest on what is found');
    $server->control();
    like(error_of($node, qq{SELECT token_refresh.create_provider('cannot', 'app', 'fake', '{"issuer": "$url", "expiry_source": "introspection"}')}), qr/^22023 option "expiry_source" .*needs option "introspection_endpoint"/, '... and not on what is not');
    like(sql(qq{SELECT token_refresh.create_provider('mine', 'app', 'fake', '{"issuer": "$url", "revocation_endpoint": "$url/mine"}'); SELECT options ->> 'revocation_endpoint' FROM token_refresh.provider WHERE name = 'mine'}), qr{/mine$}, 'options that are given go first');
    $server->control(down => [$path]);
    like(error_of($node, qq{SELECT token_refresh.create_provider('never', 'app', 'fake', '{"issuer": "$url"}')}), qr/^08006 issuer "\Q$url\E" cannot be discovered/, 'create_provider says so, too');
    is(sql(q{SELECT count(*) FROM token_refresh.provider WHERE name = 'never'}), '0', '... and creates nothing');
    $server->control();
};

is(segments(), $segments_before, 'no segments of shared memory have piled up');
unlike(read_log($node), qr/TRAP|PANIC|deadlock detected/, 'nothing broke');
$node->stop;
done_testing();
