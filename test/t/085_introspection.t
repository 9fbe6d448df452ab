# expiry_source introspection (RFC 7662): where no answer tells when an access token expires, the provider is asked, in the
# background, with the tokens stored already; what it says, or does not say, decides when the credential is refreshed.
use strict;
use warnings;

use FindBin;
use IO::Select;
use IO::Socket::INET;
use lib "$FindBin::Bin/../support";
use DialectTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
make_keys($dir);
make_certificates($dir);
my $server = start_dialect_server($dir);
my $node   = new_node('main', 'token_refresh.sweep_interval' => '1h', 'log_min_messages' => 'debug5', 'restart_after_crash' => 'on');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# A provider that has to be asked, and the exchanges that it expects. Texts that begin with fake are tokens.
sub provider
{
    my ($name, $exchanges, %options) = @_;
    sql(sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', map { literal($_) } $name, 'test-client', 'obviously-fake-secret',
        json({ token_endpoint => $server->url . "/$name/token", introspection_endpoint => $server->url . "/$name/introspect", expiry_source => 'introspection', %options })));
    $server->call(POST => '/test/cases', { $name => { client_id => 'test-client', client_secret => 'obviously-fake-secret', values => {}, exchanges => $exchanges } });
    return;
}

sub refresh { my ($presented, $answer) = @_; return { request => { params => { grant_type => 'refresh_token', refresh_token => $presented } }, answer => { body => $answer } }; }

sub introspection
{
    my ($token, $answer, $status) = @_;
    return { request => { path => '/introspect', params => { token => $token, token_type_hint => 'access_token' } }, answer => { status => $status // 200, body => $answer } };
}

sub store { my ($name, $response) = @_; return sql(sprintf('SELECT token_refresh.store_credential(%s, %s, %s)', literal($name), literal('subject'), literal(json($response)))); }

sub events
{
    my ($name) = @_;
    return sql("SELECT coalesce(string_agg(event || coalesce('/' || failure, ''), ' ' ORDER BY occurred_at), '') FROM token_refresh.audit_event WHERE provider = '$name' AND subject IS NOT NULL AND event <> 'credential_stored'");
}

sub remark { my ($name) = @_; return sql("SELECT string_agg(message, '; ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE provider = '$name' AND event = 'introspected'"); }

# Minutes until the expiry in the row, to the nearest five, and when the credential is due.
sub lifetime
{
    my ($name) = @_;
    return sql(<<"END");
SELECT (round(extract(epoch FROM c.expires_at - now()) / 300) * 5)::integer || ' min '
       || CASE WHEN s.expires_at IS DISTINCT FROM c.expires_at THEN 'not as in the schedule' WHEN s.due_at > now() AND s.due_at < c.expires_at THEN 'due before' ELSE 'due ' || coalesce(s.due_at::text, 'never') END
FROM token_refresh.credential c JOIN token_refresh.schedule s ON s.token_table = 1 AND s.row_key = c.id::text WHERE c.provider = '$name'
END
}

# Every request was as expected, and so many came.
sub requests
{
    my ($name, $count, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply($server->call(GET => '/test/records')->{$name}, [map { [] } 1 .. $count], $what);
}

sub asked { my ($name, $times, $what) = @_; return poll_until($node, "SELECT count(*) = $times FROM token_refresh.audit_event WHERE provider = '$name' AND event = 'introspected'", $what); }

# ---- stored without a lifetime

provider('stored', [introspection('fake-access-1', { active => JSON::PP::true, exp => '<now+1800>' })]);
my $before = store('stored', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
asked('stored', 1, 'tokens stored without a lifetime are asked about');
is(lifetime('stored'), '30 min due before', 'the expiry that the provider tells stands in the row, and plans the refresh');
is(sql("SELECT access_token FROM token_refresh.get_token('stored', 'subject')"), 'fake-access-1', 'the token is the one that was stored');
is(sql("SELECT was_refreshed FROM token_refresh.get_token('stored', 'subject')"), 'f', 'it is not refreshed for that');
requests('stored', 1, 'one request, with the token and the client');
is(sql("SELECT s.generation, s.refresh_count, s.attempts, s.status FROM token_refresh.schedule s JOIN token_refresh.credential c ON s.row_key = c.id::text WHERE c.provider = 'stored'"), '0|0|0|connected', 'these are no new tokens');

# ---- a refresh that does not tell

provider('untold', [refresh('fake-refresh-1', { access_token => 'fake-access-2', refresh_token => 'fake-refresh-2' }), introspection('fake-access-2', { active => JSON::PP::true, exp => '<now+3600>' })]);
store('untold', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1', expires_at => '2020-01-01T00:00:00Z' });
asked('untold', 1, 'an answer without a lifetime is asked about');
is(lifetime('untold'), '60 min due before', 'and gets the expiry that the provider tells');
is(events('untold'), 'refreshed introspected', 'after its tokens have been saved');
is(access_token($node, 'untold', 'subject'), 'fake-access-2', 'the new token is there');
requests('untold', 2, 'the refresh token was presented once, the access token once');

# ---- a refresh that tells

provider('told', [refresh('fake-refresh-1', { access_token => 'fake-access-2', expires_in => 3600 })]);
store('told', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1', expires_in => 1200 });
is(sql("SELECT success FROM token_refresh.refresh_credential('told', 'subject')"), 't', 'a refresh on demand');
is(lifetime('told'), '60 min due before', 'what an answer tells is believed');

# ---- what is not active any more

provider('inactive', [introspection('fake-access-1', { active => JSON::PP::false }), refresh('fake-refresh-1', { access_token => 'fake-access-2', expires_in => 3600 })]);
store('inactive', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE provider = 'inactive' AND event = 'refreshed'", 'a token that is not active is refreshed');
is(access_token($node, 'inactive', 'subject'), 'fake-access-2', 'readers get the new one');
like(remark('inactive'), qr/not active/, 'the audit says why');

provider('disowned', [refresh('fake-refresh-1', { access_token => 'fake-access-2' }), introspection('fake-access-2', { active => JSON::PP::false })]);
store('disowned', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1', expires_at => '2020-01-01T00:00:00Z' });
asked('disowned', 1, 'a provider that calls its own new token inactive');
is(lifetime('disowned'), '60 min due before', 'is not asked for another one at once');
like(remark('disowned'), qr/calls a new token inactive/, 'the audit says so');

# ---- answers that say nothing

provider('mute', [introspection('fake-access-1', { active => JSON::PP::true })], default_expires_in => '2 hours');
store('mute', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
asked('mute', 1, 'an introspection without exp');
is(lifetime('mute'), '120 min due before', "gives the provider's default_expires_in");

provider('refusing', [map { introspection('fake-access-1', '<html>go away</html>', 403) } 1 .. 5]);
store('refusing', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
poll_until($node, "SELECT count(*) = 2 FROM token_refresh.audit_event WHERE provider = 'refusing' AND event = 'introspection_failed'", 'an endpoint that refuses is asked again');
is(sql("SELECT s.status, s.failure, s.attempts > 0 FROM token_refresh.schedule s JOIN token_refresh.credential c ON s.row_key = c.id::text WHERE c.provider = 'refusing'"), 'connected|transient|t', 'that is no failure of the grant');
is(access_token($node, 'refusing', 'subject'), 'fake-access-1', 'readers get the token meanwhile');
asked('refusing', 1, 'but not for ever');
is(lifetime('refusing'), '60 min due before', 'then a lifetime is assumed');
is(events('refusing'), join(' ', ('introspection_failed/transient') x 4, 'introspected'), 'after five attempts');
requests('refusing', 5, 'of which each asked what it should');

# ---- attached tables: three ciphers, one of which rejects the write

sql(<<'END');
CREATE TABLE plain_tokens (id int PRIMARY KEY, access_token text NOT NULL, refresh_token text NOT NULL, expires_at timestamptz);
CREATE FUNCTION hide(token text, subject text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT convert_to(reverse(token), 'UTF8') $$;
CREATE FUNCTION show(stored bytea, subject text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT reverse(convert_from(stored, 'UTF8')) $$;
CREATE TABLE hidden_tokens (id int PRIMARY KEY, access_token bytea NOT NULL, refresh_token bytea NOT NULL, expires_at timestamptz NOT NULL);
CREATE TABLE strict_tokens (LIKE plain_tokens INCLUDING ALL, CHECK (expires_at IS NULL OR expires_at < '2021-01-01'));
END
sub attach { my ($table, %options) = @_; return sql(sprintf('SELECT token_refresh.attach_table(%s, %s) > 0', literal($table), literal(json({ access_token_column => 'access_token', refresh_token_column => 'refresh_token', expires_at_column => 'expires_at', %options })))); }

provider('plain', [introspection('fake-access-1', { active => JSON::PP::true, exp => '<now+1800>' })]);
attach('plain_tokens', provider => 'plain', cipher => 'plain');
sql("INSERT INTO plain_tokens VALUES (1, 'fake-access-1', 'fake-refresh-1', NULL)");
asked('plain', 1, 'a row of an attached table is asked about');
is(sql("SELECT (round(extract(epoch FROM expires_at - now()) / 300) * 5)::integer, refresh_token FROM plain_tokens"), '30|fake-refresh-1', 'and gets its expiry');

provider('hidden', [refresh('fake-refresh-1', { access_token => 'fake-access-2', refresh_token => 'fake-refresh-2' }), introspection('fake-access-2', { active => JSON::PP::true, exp => '<now+1800>' })]);
attach('hidden_tokens', provider => 'hidden', cipher => { encrypt => 'public.hide', decrypt => 'public.show' });
sql("INSERT INTO hidden_tokens VALUES (1, hide('fake-access-1', '1'), hide('fake-refresh-1', '1'), now())");
asked('hidden', 1, "what the owner's functions encrypt is opened to ask");
is(sql("SELECT (round(extract(epoch FROM expires_at - now()) / 300) * 5)::integer, show(access_token, '1'), show(refresh_token, '1') FROM hidden_tokens"), '30|fake-access-2|fake-refresh-2', 'a column that must not be null holds what was assumed, then what was told');
requests('hidden', 2, 'each token was sent as it is');

provider('strict', [introspection('fake-access-1', { active => JSON::PP::true, exp => '<now+1800>' })]);
attach('strict_tokens', provider => 'strict', cipher => 'plain');
sql("INSERT INTO strict_tokens VALUES (1, 'fake-access-1', 'fake-refresh-1', NULL)");
poll_until($node, "SELECT s.due_at > now() + interval '5 minutes' FROM token_refresh.schedule s JOIN token_refresh.token_table t ON t.id = s.token_table WHERE t.relation = 'strict_tokens'::regclass", 'where the table rejects the expiry, the schedule knows it');
requests('strict', 1, 'and the provider is not asked again and again');

# ---- on demand, somebody else's tokens, mistakes

provider('demanded', [refresh('fake-refresh-1', { access_token => 'fake-access-2', expires_in => 3600 })]);
sql("SELECT token_refresh.pause()");
store('demanded', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
is(sql("SELECT success FROM token_refresh.refresh_credential('demanded', 'subject')"), 't', 'who asks for a new token gets one, not an introspection');
requests('demanded', 1, 'with one request');
sql("SELECT token_refresh.resume()");

provider('scheduled', [refresh('fake-refresh-1', { access_token => 'fake-access-2', refresh_token => 'fake-refresh-2' })]);
sql("SELECT token_refresh.pause()");
store('scheduled', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
is(sql("SELECT tokens_refreshed FROM token_refresh.refresh_expiring_tokens()"), 1, 'while paused, whoever refreshes what is due');
is(sql("SELECT tokens_found FROM token_refresh.refresh_expiring_tokens()"), 0, 'does not refresh it again and again');
is(lifetime('scheduled'), '60 min due before', 'as a lifetime is assumed');
sql("SELECT token_refresh.resume()");

# ---- switched on where tables are attached already, and a token that cannot be read

provider('later', [introspection('fake-access-1', { active => JSON::PP::true, exp => '<now+1800>' })], expiry_source => 'response');
sql("CREATE TABLE later_tokens (LIKE plain_tokens INCLUDING ALL)");
attach('later_tokens', provider => 'later', cipher => 'plain');
sql("INSERT INTO later_tokens VALUES (1, 'fake-access-1', 'fake-refresh-1', NULL), (2, 'fake-access-1', '', NULL)");
is(sql("SELECT bool_and(s.due_at IS NULL) FROM token_refresh.schedule s JOIN token_refresh.token_table t ON t.id = s.token_table WHERE t.relation = 'later_tokens'::regclass"), 't', 'rows without an expiry are never due');
sql(q{SELECT token_refresh.alter_provider('later', '{"expiry_source": "introspection"}')});
asked('later', 1, 'until the provider can be asked for it');
requests('later', 1, 'which is asked about what can be refreshed');

sql(<<'END');
CREATE FUNCTION show_refresh(stored bytea, subject text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN public.show(stored, subject) LIKE 'fake-refresh%' THEN public.show(stored, subject) END $$;
CREATE TABLE half_hidden_tokens (LIKE hidden_tokens INCLUDING ALL);
END
provider('half', [refresh('fake-refresh-1', { access_token => 'fake-access-2', refresh_token => 'fake-refresh-2' }), refresh('fake-refresh-2', { access_token => 'fake-access-3', refresh_token => 'fake-refresh-3' })]);
attach('half_hidden_tokens', provider => 'half', cipher => { encrypt => 'public.hide', decrypt => 'public.show_refresh' });
sql("INSERT INTO half_hidden_tokens VALUES (1, hide('fake-access-1', '1'), hide('fake-refresh-1', '1'), now())");
poll_until($node, "SELECT s.due_at > now() + interval '5 minutes' FROM token_refresh.schedule s JOIN token_refresh.token_table t ON t.id = s.token_table WHERE t.relation = 'half_hidden_tokens'::regclass", 'where an access token cannot be read, a lifetime is assumed');
requests('half', 2, 'and it is not refreshed again and again');

# ---- sweeps, and changes of the provider, meanwhile

provider('mended', [refresh('fake-refresh-1', { access_token => 'fake-access-2', refresh_token => 'fake-refresh-2' }), (map { introspection('fake-access-2', 'down', 503) } 1 .. 2), introspection('fake-access-2', { active => JSON::PP::true, exp => '<now+1800>' })]);
store('mended', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1', expires_at => '2020-01-01T00:00:00Z' });
poll_until($node, "SELECT count(*) > 0 FROM token_refresh.audit_event WHERE provider = 'mended' AND event = 'introspection_failed'", 'while an introspection endpoint is down');
sql(q{SELECT token_refresh.alter_provider('mended', '{"max_in_flight": 7}')});
asked('mended', 1, 'a change of its provider is no reason to ask no more');
is(lifetime('mended'), '30 min due before', 'and its answer counts');

provider('swept', [refresh('fake-refresh-1', { access_token => 'fake-access-2', refresh_token => 'fake-refresh-2' }), (map { introspection('fake-access-2', 'down', 503) } 1 .. 3), introspection('fake-access-2', { active => JSON::PP::true, exp => '<now+1800>' })]);
sql("CREATE TABLE swept_tokens (LIKE plain_tokens INCLUDING ALL); INSERT INTO swept_tokens VALUES (1, 'fake-access-1', 'fake-refresh-1', now())");
attach('swept_tokens', provider => 'swept', cipher => 'plain', trigger => JSON::PP::false, poll_interval => '1 second');
asked('swept', 1, 'while an introspection endpoint is down, sweeps see what is assumed');
is(sql("SELECT (round(extract(epoch FROM expires_at - now()) / 300) * 5)::integer FROM swept_tokens"), '30', 'and do not take it for what the application knows');
requests('swept', 5, 'until the provider has answered');

provider('changed', [introspection('fake-access-1', { active => JSON::PP::true, exp => '<now+1800>' })]);
sql("SELECT token_refresh.pause(); SELECT token_refresh.alter_provider('changed', '{\"expiry_source\": null}')");
store('changed', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
is(lifetime('changed'), '60 min due before', 'without introspection a lifetime is assumed');
sql("SELECT token_refresh.resume()");

my ($code, undef, $stderr) = $node->psql('postgres', "SELECT token_refresh.create_provider('wrong', 'c', 's', '{\"token_endpoint\": \"https://as.example/t\", \"expiry_source\": \"introspection\"}')");
like($stderr, qr/option "expiry_source" is "introspection", which needs option "introspection_endpoint"/, 'expiry_source introspection needs an endpoint');
($code, undef, $stderr) = $node->psql('postgres', "SELECT token_refresh.create_provider('wrong', 'c', 's', '{\"token_endpoint\": \"https://as.example/t\", \"expiry_source\": \"introspect\"}')");
like($stderr, qr/introspection/, 'a wrong word is told what is allowed');

# ---- a refresher that dies while it asks: no tokens are lost with that answer, unlike with that of a refresh

# Connections are accepted by the system, and never answered.
my $silent  = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "cannot listen: $!";
my $nowhere = 'http://127.0.0.1:' . $silent->sockport;
my @callers;
sub call_arrives { return IO::Select->new($silent)->can_read($PostgreSQL::Test::Utils::timeout_default) && push(@callers, scalar $silent->accept); }
sub pid { return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'"); }

sql(sprintf(q{SELECT token_refresh.create_provider('silent', 'test-client', 'obviously-fake-secret', %s)},
    literal(json({ token_endpoint => "$nowhere/token", introspection_endpoint => "$nowhere/introspect", expiry_source => 'introspection' }))));
store('silent', { access_token => 'fake-access-1', refresh_token => 'fake-refresh-1' });
ok(call_arrives(), 'a token is asked about');
sql(q{SELECT token_refresh.store_credential('silent', 'other', '{"access_token": "fake-access-1", "refresh_token": "fake-refresh-1", "expires_in": 3600}')});
my $caller = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('silent', 'other')});
ok(call_arrives(), 'and another one is refreshed');
is(sql('SELECT sum(cardinality(schedule_ids)), sum(cardinality(only_asked)) FROM token_refresh.in_flight'), '2|1', 'the journal tells them apart');
my $pid = pid();
kill('KILL', $pid) or die "cannot kill the refresher: $!";
$caller->finish;
poll_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $pid", 'another refresher takes over');
ok(call_arrives(), 'which asks again');
poll_until($node, q{SELECT count(*) = 1 FROM token_refresh.audit_event WHERE event = 'response_lost'}, 'one answer may have been lost');
is(sql(q{SELECT string_agg(c.subject || ' ' || s.lost_response, ', ' ORDER BY c.subject DESC) FROM token_refresh.schedule s JOIN token_refresh.credential c ON s.row_key = c.id::text WHERE c.provider = 'silent'}),
    'subject false, other true', 'that to the refresh');

ok(secrets_absent(read_log($node), map { ("fake-access-$_", "fake-refresh-$_") } 2), "no token in the log");
$node->stop;
done_testing();
