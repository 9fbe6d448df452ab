# Sign-ins and revocations under load and in odd places: whose tokens a credential holds, what a slow provider may hold
# up, what a provider takes along when it is dropped, and what is refused before a code goes out.
use strict;
use warnings;

use FindBin;
use JSON::PP ();
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use SignInTest;
use TokenRefreshTest;

my $node = new_node('main', 'token_refresh.http_timeout' => '20s', 'token_refresh.request_slots' => 16, 'max_connections' => 60);
my ($server, $slow) = (start_openid_server(), start_openid_server());
create_openid_provider($node, 'idp', $server);
create_openid_provider($node, 'slow', $slow, max_in_flight => 1);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub arrived { my ($at, $path) = @_; return $at->stats->{arrived}{$path} // 0; }
sub alive { my ($at, $user) = @_; my $tokens = $at->stats->{tokens}; return scalar grep { $tokens->{$_} eq $user } keys %$tokens; }
sub used { my (%answer) = @_; return sql("SELECT used_at IS NOT NULL FROM token_refresh.authorization_request WHERE state_hash = sha256(" . literal($answer{state}) . ')'); }
sub complete_sql { return 'SELECT c.subject FROM ' . complete(@_) . ' c'; }
sub refusals { return sql(q{SELECT failure FROM token_refresh.audit_event WHERE event = 'authorization_refused' ORDER BY occurred_at DESC LIMIT 1}); }

sub answer_at
{
    my ($at, $provider, $user, %more) = @_;
    return authorize($node, $at, $provider, subject => $user, authorization_params => json({ login_hint => $user }), %more);
}

sub wait_for
{
    my ($condition) = @_;
    for (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default) { return 1 if $condition->(); usleep(50_000); }
    die 'timed out';
}

# A caller whose code is at the provider.
sub send_code
{
    my ($at, $answer, %option) = @_;
    my $before = arrived($at, '/token');
    my $caller = start_query($node, ($option{set} // '') . complete_sql(%$answer), name => 'caller');
    wait_for(sub { arrived($at, '/token') > $before });
    return $caller;
}

subtest 'a sign-in is a grant of its own' => sub {
    my %answer = answer_at($server, 'idp', 'mailbox');
    sql(complete_sql(%answer));
    %answer = answer_at($server, 'idp', 'mailbox', scope => 'mail');
    $server->control(raw => { '/token' => [ 200, 'application/json', '{"access_token": "fake-of-bob", "expires_in": 3600}' ] });
    sql(complete_sql(%answer));
    is(sql(q{SELECT access_token IS NOT NULL, refresh_token IS NULL, status FROM token_refresh.credential WHERE subject = 'mailbox'}), 't|t|connected', 'the refresh token of another account is gone');
    isnt(sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'mailbox')}), 't', '... so nothing turns back to it');
    is(sql(q{SELECT token_refresh.get_access_token('idp', 'mailbox')}), 'fake-of-bob', '... and the token is of who has signed in');
    $server->control();
    sql(q{SELECT token_refresh.store_credential('idp', 'kept', '{"access_token": "fake-a", "refresh_token": "fake-r"}'), token_refresh.store_credential('idp', 'kept', '{"access_token": "fake-b"}')});
    is(sql(q{SELECT refresh_token IS NOT NULL FROM token_refresh.credential WHERE subject = 'kept'}), 't', 'store_credential keeps one, as it says');

    create_openid_provider($node, 'keeping', $server, keep_refresh_token => JSON::PP::true());
    %answer = answer_at($server, 'keeping', 'first');
    sql(complete_sql(%answer));
    is(sql(q{SELECT refresh_token IS NOT NULL FROM token_refresh.credential WHERE provider = 'keeping'}), 't', 'keep_refresh_token does not lose the one of the sign-in');
};

subtest 'the issuer in the answer' => sub {
    my $url = $server->url;
    create_provider($node, 'no-issuer', %{ $server->stats->{client} }, token_endpoint => "$url/token", authorization_endpoint => "$url/authorize");
    my $codes = $server->stats->{codes};
    for my $iss ('https://evil.example.com', '')
    {
        my %answer = answer_at($server, 'no-issuer', 'x');
        like(error_of($node, complete_sql(%answer, iss => $iss)), qr/^28000 sign-in refused: the provider has no issuer/, "'$iss' where none is known");
        is(refusals(), 'state_other_provider', '... as the audit says');
    }
    my %answer = answer_at($server, 'no-issuer', 'x');
    like(error_of($node, sprintf q{SELECT * FROM token_refresh.complete_authorization(%s, %s, '')}, map { literal($_) } @answer{qw(state code)}), qr/^28000 .*another provider/, 'an empty expected_provider');
    is($server->stats->{codes}, $codes, 'no code went out');
    %answer = answer_at($server, 'no-issuer', 'x');
    is(sql(sprintf q{SELECT subject FROM token_refresh.complete_authorization(%s, %s)}, map { literal($_) } @answer{qw(state code)}), 'x', 'without iss it goes on');

    # RFC 9207 section 2.4: whoever says that it sends one has not sent an answer without.
    $server->control(metadata => { authorization_response_iss_parameter_supported => JSON::PP::true() });
    create_openid_provider($node, 'announcing', $server);
    $server->control();
    $codes = $server->stats->{codes};
    for my $expected ('NULL', q{'announcing'})
    {
        %answer = answer_at($server, 'announcing', 'y');
        like(error_of($node, sprintf q{SELECT * FROM token_refresh.complete_authorization(%s, %s, %s)}, (map { literal($_) } @answer{qw(state code)}), $expected),
            qr/^28000 sign-in refused: .*carries an iss/, "none where the metadata announces one, $expected expected");
        is(refusals(), 'state_other_provider', '... as the audit says');
        is(used(%answer), 't', '... and the state is spent');
    }
    is($server->stats->{codes}, $codes, '... without a code that went out');
    %answer = answer_at($server, 'announcing', 'y');
    is(sql(complete_sql(%answer)), 'y', 'with it, it goes on');
    sql(q{SELECT token_refresh.alter_provider('announcing', '{"authorization_response_iss_parameter_supported": false}')});
    %answer = answer_at($server, 'announcing', 'y');
    is(sql(complete_sql(%answer, iss => undef)), 'y', 'and so it does without, once the option is taken back');
};

subtest 'a provider that is slow' => sub {
    $slow->control(hang => 4);
    my %first  = answer_at($slow, 'slow', 'first');
    my %second = answer_at($slow, 'slow', 'second');
    my %third  = answer_at($slow, 'slow', 'third');
    my $codes  = arrived($slow, '/token');
    my $caller = send_code($slow, \%first);
    like(error_of($node, "SET token_refresh.request_timeout = 500; " . complete_sql(%second)), qr/^08006 .*timed out/, 'max_in_flight holds for sign-ins');
    my $waiting = start_query($node, complete_sql(%third));
    is(($caller->finish)[0], 'first', 'the first is served');
    is(($waiting->finish)[0], 'third', '... then the next one that still waits');
    is(arrived($slow, '/token') - $codes, 2, '... no code went out for the one who has left');
    is(used(%second), 'f', '... whose state is not spent');
    $slow->control();
    is(sql(complete_sql(%second)), 'second', '... and good still');

    sql(q{SELECT token_refresh.alter_provider('slow', '{"max_in_flight": null}')});
    $slow->control(hang => 6);
    my @answers = map { { answer_at($slow, 'slow', "gone $_") } } 1 .. 16;
    my @callers = map { start_query($node, 'SET token_refresh.request_timeout = 300; ' . complete_sql(%$_)) } @answers;
    $_->finish for @callers;
    my %answer = answer_at($server, 'idp', 'meanwhile');
    is(sql(complete_sql(%answer)), 'meanwhile', 'sixteen sessions that have left hold no slot');
    is(sql(q{SELECT success FROM token_refresh.refresh_credential('idp', 'meanwhile')}), 't', '... so that others can be refreshed, too');
    poll_until($node, q{SELECT count(*) = 16 FROM token_refresh.credential WHERE subject LIKE 'gone %'}, 'what the provider answers is stored all the same');
    $slow->control();
};

subtest 'a session that looks late' => sub {
    $slow->control(hang => 2);
    my %answer = answer_at($slow, 'slow', 'late');
    my $caller = send_code($slow, \%answer);
    my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'caller'});
    kill('STOP', $pid) or die $!;
    $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM token_refresh.credential WHERE subject = 'late'}) or die;
    sql('SELECT token_refresh.discover_provider(' . literal($server->url) . ')') for 1 .. 20;
    kill('CONT', $pid) or die $!;
    is(($caller->finish)[0], 'late', 'it finds the result where it is committed');
    $slow->control();
};

subtest 'drop_provider' => sub {
    create_openid_provider($node, 'old', $slow);
    my %answer = answer_at($slow, 'old', 'iris');
    $slow->control(hang => 2);
    my $caller = send_code($slow, \%answer);
    like(error_of($node, q{SELECT token_refresh.drop_provider('old')}), qr/^2BP01 provider "old" still has 1 sign-in\(s\) under way/, 'not while a code is out');
    is(($caller->finish)[0], 'iris', '... which comes to its end');
    $slow->control(down => ['/revoke']);
    sql(q{SELECT token_refresh.disconnect('old', 'iris')});
    poll_until($node, 'SELECT count(*) = 2 AND min(attempts) >= 1 FROM token_refresh.revocation', 'the provider does not hear of a disconnect');
    like(error_of($node, q{SELECT token_refresh.drop_provider('old')}), qr/^2BP01 provider "old" still has 2 token\(s\) to be revoked/, 'not while it is still to be told');
    like(($node->psql('postgres', q{SELECT token_refresh.drop_provider('old')}))[2], qr/HINT: .*DELETE.*token_refresh\.revocation/, '... which says how to drop it all the same');
    $slow->control();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'when it has been told');
    is(alive($slow, 'iris'), 0, '... no token lives');
    is(error_of($node, q{SELECT token_refresh.drop_provider('old')}), 'no error, but ', '... and it can be dropped');
};

subtest 'revocations' => sub {
    for my $provider ('slow', 'idp')
    {
        my $stored = join ', ', map { "token_refresh.store_credential('$provider', 'many$_', '{\"access_token\": \"fake-a$_\", \"refresh_token\": \"fake-r$_\"}')" } 1 .. 40;
        sql("SELECT $stored");
    }
    $slow->control(slow => { '/revoke' => 8 });
    sql(q{SELECT count(token_refresh.disconnect(provider, subject)) FROM token_refresh.credential WHERE provider = 'slow' AND subject LIKE 'many%'});
    wait_for(sub { arrived($slow, '/revoke') >= 6 });
    my $began = time;
    sql(q{SELECT count(token_refresh.disconnect(provider, subject)) FROM token_refresh.credential WHERE provider = 'idp' AND subject LIKE 'many%'});
    poll_until($node, q{SELECT count(*) = 0 FROM token_refresh.revocation WHERE provider = 'idp'}, 'those of a provider that answers');
    cmp_ok(time - $began, '<', 6, '... do not wait for one that does not');
    cmp_ok(sql(q{SELECT count(*) FROM token_refresh.revocation WHERE provider = 'slow'}), '>=', 60, '... which still has its own');
    my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'});
    my $before = arrived($slow, '/revoke');
    $slow->control();
    sql("SELECT pg_terminate_backend($pid)");
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'a new refresher does not wait for what the old one had under way');

    my $session = background_session($node);
    sql(q{SELECT token_refresh.store_credential('idp', 'held', '{"access_token": "fake-a"}')});
    $server->control(down => ['/revoke']);
    sql(q{SELECT token_refresh.disconnect('idp', 'held')});
    poll_until($node, 'SELECT count(*) = 1 AND min(attempts) >= 1 FROM token_refresh.revocation', 'one fails');
    $session->query('BEGIN');
    $session->query('SELECT id FROM token_refresh.revocation FOR UPDATE');
    poll_until($node, 'SELECT bool_and(due_at < now()) FROM token_refresh.revocation', '... and is locked when it is due again');
    my $commits = sub { return sql(q{SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot(); SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'}) =~ /(\d+)$/ ? $1 : die };
    $commits->() for 1 .. 2;
    my $count = $commits->();
    usleep(4_000_000);
    cmp_ok($commits->() - $count, '<', 200, 'it is not asked for without end');
    $session->query('COMMIT');
    $session->quit;
    $server->control();
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.revocation', 'it is taken up when it is free');
};

subtest 'what is refused, and how' => sub {
    my %answer = authorize($node, $server, 'idp');
    $server->control(down => ['/userinfo']);
    like(error_of($node, complete_sql(%answer)), qr/^08006 sign-in refused \(userinfo_unavailable\)/, 'a userinfo endpoint that is down');
    %answer = authorize($node, $server, 'idp');
    $server->control(userinfo => { icn => 17 });
    like(error_of($node, complete_sql(%answer)), qr/^28000 sign-in refused \(claims_unusable\)/, 'claims that name nobody');
    is(refusals(), 'claims_unusable', '... as the audit says');
    $server->control();
    like(error_of($node, q{SELECT token_refresh.begin_authorization('idp', 'x', 'https://app.example.com/cb', authorization_params => '{"max_age": "1"}')}), qr/^22023 .*max_age/, 'max_age that nothing would check');
    like(error_of($node, qq{SELECT token_refresh.begin_authorization('idp', 'x', 'https://app.example.com/cb', authorization_params => '{"$_": "x"}')}), qr/^22023 .*$_/, "the parameter $_") for 'request', 'request_uri';
    %answer = answer_at($server, 'idp', 'x');
    sql(q{SELECT token_refresh.alter_provider('idp', '{"enabled": false}')});
    like(error_of($node, q{SELECT token_refresh.begin_authorization('idp', 'x', 'https://app.example.com/cb')}), qr/^55000 provider "idp" is disabled/, 'a provider that is disabled');
    like(error_of($node, complete_sql(%answer)), qr/^08006 .*the provider is disabled/, '... also later');
    is(used(%answer), 'f', '... without spending the state');
    sql(q{SELECT token_refresh.alter_provider('idp', '{"enabled": true}')});
    is(sql(complete_sql(%answer)), 'x', '... which is good when it is enabled');
};

subtest 'discovered again' => sub {
    my $again = sub { my ($name) = @_; sql("SELECT token_refresh.alter_provider(name, token_refresh.discover_provider(options ->> 'issuer', options, client_secret IS NOT NULL)) FROM token_refresh.provider WHERE name = '$name'");
        return sql("SELECT options ->> 'token_endpoint_auth_method' FROM token_refresh.provider WHERE name = '$name'") };
    sql(sprintf q{SELECT token_refresh.create_provider('public', 'app', options => '{"issuer": "%s", "timeout": "5 seconds"}')}, $server->url);
    is($again->('public'), 'none', 'a public client stays one');
    create_openid_provider($node, 'by-post', $server, token_endpoint_auth_method => 'client_secret_post');
    is($again->('by-post'), 'client_secret_post', 'a method that was chosen by hand stays');
};

subtest 'who is trusted' => sub {
    my $message = sub { sql(q{SELECT token_refresh.alter_provider('no-issuer', '} . json($_[0]) . q{')}); return sql(q{SELECT message FROM token_refresh.audit_event WHERE event = 'provider_altered' ORDER BY occurred_at DESC LIMIT 1}) };
    is($message->({ issuer => 'https://issuer.example.com/a' }), 'issuer: none -> https://issuer.example.com/a', 'a new issuer is audited in full');
    is($message->({ jwks_uri => 'https://keys.example.com/jwks' }), 'jwks_uri: none -> https://keys.example.com', '... and new keys');
    is($message->({ userinfo_endpoint => 'https://me.example.com/me' }), 'userinfo_endpoint: none -> https://me.example.com', '... and who is asked');
    like($message->({ authorization_endpoint => 'https://login.example.com/me' }), qr{^authorization_endpoint: http://127\S+ -> https://login.example.com$}, '... and where browsers go');
};

unlike(read_log($node), qr/TRAP|PANIC|deadlock detected/, 'nothing broke');
$node->stop;
done_testing();
