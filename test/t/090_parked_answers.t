# A table does not take all that an answer brings, or takes it later: nothing of the answer is lost. Several tokens in one answer are
# stored or parked each for itself, and what is parked is stored as the answer had it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
make_keys($dir);
make_certificates($dir);
my $server = start_dialect_server($dir);
my $node   = new_node('main', 'token_refresh.sweep_interval' => '1h');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub refresh { my ($presented, $answer) = @_; return { request => { params => { grant_type => 'refresh_token', refresh_token => $presented } }, answer => { body => $answer } }; }

sub tokens { my ($who, $n, %more) = @_; return (access_token => "fake-$who-access-$n", refresh_token => "fake-$who-refresh-$n", expires_in => 3600, %more); }

# Both tokens of the answer, as number n.
sub both { my ($n, %more) = @_; return { tokens('bot', $n), authed_user => { tokens('user', $n, %more) } }; }

sub provider
{
    my ($name, $options, @exchanges) = @_;
    my ($client_id, $client_secret) = @{ delete $options->{client} // ['test-client', 'obviously-fake-secret'] };
    sql(sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', map { literal($_) } $name, 'test-client', 'obviously-fake-secret', json({ token_endpoint => $server->url . "/$name/token", %$options })));
    $server->call(POST => '/test/cases', { $name => { client_id => $client_id, client_secret => $client_secret, values => {}, exchanges => \@exchanges } });
    return;
}

sub store { my ($name, $response) = @_; return sql(sprintf(q{SELECT token_refresh.store_credential(%s, 'team', %s)}, literal($name), literal(json($response)))); }

# A provider whose answers have two tokens, and the credentials of the first.
sub pair
{
    my ($name, @exchanges) = @_;
    provider($name, { secondary_tokens => [{ label => 'user', pointer => '/authed_user' }] }, @exchanges);
    return store($name, both(1));
}

sub refreshed { my ($name, $label) = @_; return sql(sprintf(q{SELECT success, coalesce(failure, '') FROM token_refresh.refresh_credential(%s, 'team', %s)}, literal($name), literal($label // ''))); }

# What the rows hold, by label.
sub stored { my ($name) = @_; return sql(sprintf(q{SELECT string_agg(token_refresh.get_access_token(provider, subject, label), ' ' ORDER BY label) FROM token_refresh.credential WHERE provider = %s}, literal($name))); }

sub parked { my ($name) = @_; return sql("SELECT coalesce(string_agg(label, ' ' ORDER BY label), '') FROM token_refresh.token_status WHERE provider = '$name' AND parked"); }

sub all_as_expected { my ($name, $count, $what) = @_; return is_deeply($server->call(GET => '/test/records')->{$name}, [map { [] } 1 .. $count], $what); }

sub events { my ($name, $label) = @_; return sql("SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE provider = '$name' AND label = '$label' AND actor = 'refresher'"); }

sub retry { return sql('UPDATE token_refresh.parked_result SET retry_at = now(); SELECT token_refresh._wake_refresher()'); }

# Raises in the refresher for the credentials named in a table; what sessions write is taken.
sql(<<'END');
CREATE TABLE unwanted (name text PRIMARY KEY);
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.unwanted u WHERE u.name = NEW.provider || '/' || NEW.label)
       AND (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) = 'token_refresh refresher' THEN
        RAISE 'not %, and not in this house', encode(NEW.access_token, 'hex');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER reject BEFORE INSERT OR UPDATE ON token_refresh.credential FOR EACH ROW EXECUTE FUNCTION reject();
END

sub reject { return sql('INSERT INTO unwanted VALUES ' . join ', ', map { '(' . literal($_) . ')' } @_); }

sub accept_all
{
    my ($name) = @_;
    sql('TRUNCATE unwanted');
    retry();
    return poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', "$name: everything is stored when the table takes it");
}

# As if the tokens in the row had run out; the schedule does not hear of it.
sub run_out { my ($name, $label) = @_; return sql("BEGIN; SELECT token_refresh._own_writes(true); UPDATE token_refresh.credential SET issued_at = now() - interval '2 hours', expires_at = now() - interval '1 hour' WHERE provider = '$name' AND label = '$label'; COMMIT"); }

subtest 'the first is rejected' => sub {
    pair('first', refresh('fake-bot-refresh-1', both(2)), refresh('fake-user-refresh-2', { tokens('user', 3) }), refresh('fake-bot-refresh-2', both(4)));
    reject('first/');
    refreshed('first');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE provider = 'first' AND label = ''", 'it is parked');
    is(parked('first'), '', 'and nothing else');
    is(stored('first'), 'fake-bot-access-1 fake-user-access-2', 'the other one is stored at once');
    is(refreshed('first', 'user'), 't|', 'and refreshed by itself');
    accept_all('first');
    is(stored('first'), 'fake-bot-access-2 fake-user-access-3', 'the first comes late, and sets nothing back');
    is(refreshed('first'), 't|', 'the next refresh works');
    is(stored('first'), 'fake-bot-access-4 fake-user-access-4', 'for both');
    all_as_expected('first', 3, 'each refresh token was presented once');
};

subtest 'another one is rejected' => sub {
    pair('second', refresh('fake-bot-refresh-1', both(2)), refresh('fake-bot-refresh-2', { tokens('bot', 3) }), refresh('fake-user-refresh-2', { tokens('user', 3) }), refresh('fake-user-refresh-3', { tokens('user', 4) }));
    reject('second/user');
    is(refreshed('second'), 't|', 'the first is refreshed');
    is(parked('second'), 'user', 'and stored; the other is parked');
    like(sql("SELECT last_error FROM token_refresh.token_status WHERE provider = 'second' AND label = 'user'"), qr/^the table rejects the new tokens: P0001 not \[redacted\], and not in this house$/, 'the status says why');
    is(sql("SELECT status, refresh_count, due_at > now() FROM token_refresh.token_status WHERE provider = 'second' AND label = 'user'"), 'connected|1|t', 'it is as good as stored');
    is(stored('second'), 'fake-bot-access-2 fake-user-access-1', 'who can use the old one gets it');
    run_out('second', 'user');
    is(stored('second'), 'fake-bot-access-2 fake-user-access-2', 'else the one that is parked');
    is(refreshed('second'), 't|', 'the first is refreshed again');
    is(parked('second'), 'user', 'which changes nothing for the other');
    is(refreshed('second', 'user'), 't|', 'the other is refreshed');
    is(stored('second'), 'fake-bot-access-3 fake-user-access-3', 'with what is parked');
    is(events('second', 'user'), 'parked parked', 'the audit tells it');
    accept_all('second');
    is(stored('second'), 'fake-bot-access-3 fake-user-access-3', 'it is the last');
    is(events('second', 'user'), 'parked parked parked_result_stored', 'the audit has all');
    is(refreshed('second', 'user'), 't|', 'the next refresh works');
    all_as_expected('second', 4, 'each refresh token was presented once');
};

subtest 'both are rejected' => sub {
    pair('neither', refresh('fake-bot-refresh-1', both(2)), refresh('fake-bot-refresh-2', { tokens('bot', 3) }), refresh('fake-user-refresh-2', { tokens('user', 3) }));
    reject('neither/', 'neither/user');
    refreshed('neither');
    is(parked('neither'), ' user', 'both are parked');
    $node->restart;
    is(parked('neither'), ' user', 'also after a restart');
    accept_all('neither');
    is(stored('neither'), 'fake-bot-access-2 fake-user-access-2', 'each in its place');
    is(refreshed('neither') . ' ' . refreshed('neither', 'user'), 't| t|', 'the next refreshes work');
    all_as_expected('neither', 3, 'each refresh token was presented once');
};

subtest 'the row of the other is locked' => sub {
    pair('locked', refresh('fake-bot-refresh-1', both(2)), refresh('fake-user-refresh-2', { tokens('user', 3) }));
    my $session = background_session($node);
    $session->query("BEGIN; SELECT FROM token_refresh.credential WHERE provider = 'locked' AND label = 'user' FOR UPDATE");
    is(refreshed('locked'), 't|', 'the first is refreshed');
    is(parked('locked'), 'user', 'the other is parked');
    $session->query('COMMIT');
    $session->quit;
    accept_all('locked');
    is(stored('locked'), 'fake-bot-access-2 fake-user-access-2', 'it is stored');
    is(refreshed('locked', 'user'), 't|', 'the next refresh works');
    all_as_expected('locked', 2, 'each refresh token was presented once');
};

subtest 'the table is locked' => sub {
    my $holding = start_token_server();
    sql(sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', map { literal($_) } 'closed', 'test-client', 'obviously-fake-secret', json({ token_endpoint => $holding->token_endpoint('closed'), secondary_tokens => [{ label => 'user', pointer => '/authed_user' }] })));
    my ($grant) = $holding->grants('closed', subjects => ['team']);
    $holding->fault('closed', kind => 'reword', body => json({ access_token => '<access_token>', refresh_token => '<refresh_token>', expires_in => 3600, authed_user => { tokens('user', 2) } }));
    $holding->control('closed', hold => 'after');
    store('closed', { %$grant{qw(access_token refresh_token)}, expires_in => 3600, authed_user => { tokens('user', 1) } });
    my $caller = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('closed', 'team')});
    $holding->wait('closed', held => 1);
    my $session = background_session($node);
    $session->query('BEGIN; LOCK TABLE token_refresh.credential IN ACCESS EXCLUSIVE MODE');
    $holding->release('closed');
    poll_until($node, 'SELECT count(*) = 2 FROM token_refresh.parked_result', 'both are parked');
    $session->query('COMMIT');
    $session->quit;
    $caller->finish;
    accept_all('closed');
    my ($bot, $user) = split / /, stored('closed');
    ok($holding->is_active('closed', $bot), 'the first has its new token');
    is($user, 'fake-user-access-2', 'and so has the other');
    is(sql("SELECT count(*) FROM token_refresh.credential WHERE provider = 'closed'"), '2', 'there are no more than these');

    # Others replace the first, or delete both, while the answer is on its way.
    for my $meanwhile ('replaced', 'deleted')
    {
        my $n = $meanwhile eq 'replaced' ? 3 : 4;
        my ($new) = $holding->grants('closed', subjects => ['team']);
        store('closed', { %$new{qw(access_token refresh_token)}, expires_in => 3600 });
        $holding->fault('closed', kind => 'reword', body => json({ access_token => '<access_token>', refresh_token => '<refresh_token>', expires_in => 3600, authed_user => { tokens('user', $n) } }));
        $holding->control('closed', hold => 'after');
        $caller = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('closed', 'team')});
        $holding->wait('closed', held => 1);
        my ($newer) = $holding->grants('closed', subjects => ['team']);
        store('closed', { %$newer{qw(access_token refresh_token)}, expires_in => 3600 }) if $meanwhile eq 'replaced';
        sql("DELETE FROM token_refresh.credential WHERE provider = 'closed'") if $meanwhile eq 'deleted';
        $holding->release('closed');
        $caller->finish;
        poll_until($node, "SELECT count(*) = $n - 2 FROM token_refresh.audit_event WHERE provider = 'closed' AND event = 'superseded'", "$meanwhile: the first is left alone");
        is(stored('closed'), $meanwhile eq 'replaced' ? "$newer->{access_token} fake-user-access-3" : '', "$meanwhile: the other is stored where it is there");
    }

    # Many at once.
    my @many = map { "member$_" } 1 .. 40;
    my @grants = $holding->grants('closed', subjects => \@many);
    $holding->fault('closed', kind => 'reword', count => scalar @many, body => json({ access_token => '<access_token>', refresh_token => '<refresh_token>', expires_in => 3600, authed_user => { tokens('user', 5) } }));
    $holding->control('closed', hold => 'after');
    sql(join ';', map { sprintf(q{SELECT token_refresh.store_credential('closed', %s, %s)}, literal($many[$_]), literal(json({ %{ $grants[$_] }{qw(access_token refresh_token)}, expires_at => '2020-01-01T00:00:00Z' }))) } 0 .. $#many);
    $holding->wait('closed', held => scalar @many);
    $session = background_session($node);
    $session->query('BEGIN; LOCK TABLE token_refresh.credential IN ACCESS EXCLUSIVE MODE');
    $holding->release('closed');
    poll_until($node, 'SELECT count(*) = 80 FROM token_refresh.parked_result', 'many: all are parked');
    cmp_ok(sql("SELECT count(*) FROM token_refresh.audit_event WHERE provider = 'closed' AND label = 'user' AND event = 'parked' AND message = 'saving took too long'"), '>', 0, 'many: without waiting for the table for each');
    $session->query('COMMIT');
    $session->quit;
    accept_all('closed');
    is(sql("SELECT count(*) FROM token_refresh.credential WHERE provider = 'closed' AND subject LIKE 'member%'"), '80', 'many: all are stored');
    $holding->stop;
};

# Parks a credential that there has not been. The tokens are given to a client of their own.
my @client = ('own-client', 'obviously-fake-own-secret');
sub park_new
{
    my ($name, @more) = @_;
    provider($name, { client => \@client, revocation_endpoint => $server->url . "/$name/revoke", secondary_tokens => [{ label => 'user', pointer => '/authed_user' }] }, refresh('fake-bot-refresh-1', both(2, scope => 'a b')), @more);
    sql(sprintf(q{SELECT token_refresh.store_credential(%s, 'team', %s, client_id => %s, client_secret => %s)}, map { literal($_) } $name, json({ tokens('bot', 1) }), @client));
    reject("$name/user");
    is(refreshed($name), 't|', 'the first is stored');
    is(stored($name), 'fake-bot-access-2', 'it is the only one');
    return is(sql("SELECT count(*) FROM token_refresh.parked_result WHERE provider = '$name' AND label = 'user'"), '1', 'the other is parked');
}

subtest 'the other is a new credential' => sub {
    park_new('fresh', refresh('fake-user-refresh-2', { tokens('user', 3) }));
    poll_until($node, "SELECT attempts > 0 FROM token_refresh.parked_result WHERE provider = 'fresh'", 'it is tried again by itself');
    like(sql("SELECT reason, retry_at > now() FROM token_refresh.parked_result WHERE provider = 'fresh'"), qr/^P0001 not \[redacted\], and not in this house\|t$/, 'later and later');
    is(sql("SELECT token_refresh.status() ->> 'parked'"), '1', 'status() counts it');
    accept_all('fresh');
    is(stored('fresh'), 'fake-bot-access-2 fake-user-access-2', 'it comes into being');
    is(sql("SELECT scope, token_type, round(extract(epoch FROM expires_at - issued_at)), status, client_id FROM token_refresh.credential WHERE provider = 'fresh' AND label = 'user'"), 'a b|Bearer|3600|connected|own-client', 'as the answer had it');
    is(events('fresh', 'user'), 'parked credential_stored parked_result_stored', 'the audit tells it');
    is(refreshed('fresh', 'user'), 't|', 'the next refresh works');
    all_as_expected('fresh', 2, 'each refresh token was presented once');
};

# Not parked for its row, but under its name.
sub parked_by_name
{
    my ($name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(sql("SELECT token_table, label FROM token_refresh.parked_result WHERE coalesce(provider, '') IN ('', '$name')"), '0|user', 'the other is parked');
}

subtest 'the other is being refreshed itself' => sub {
    pair('flying', refresh('fake-bot-refresh-1', both(2)), refresh('fake-user-refresh-2', { tokens('user', 3) }));
    my $note = sql("INSERT INTO token_refresh.in_flight (schedule_ids) SELECT ARRAY[s.id] FROM token_refresh.schedule s JOIN token_refresh.credential c ON s.row_key = c.id::text WHERE c.provider = 'flying' AND c.label = 'user' RETURNING id");
    reject('flying/user');
    is(refreshed('flying'), 't|', 'the first is refreshed');
    parked_by_name('flying');
    sql("DELETE FROM token_refresh.in_flight WHERE id = $note");
    retry();
    poll_until($node, "SELECT token_table = 1 FROM token_refresh.parked_result", 'as soon as that has ended it is parked for its row');
    is(refreshed('flying', 'user'), 't|', 'which is refreshed with it');
    accept_all('flying');
    is(stored('flying'), 'fake-bot-access-2 fake-user-access-3', 'and stored');
    all_as_expected('flying', 2, 'each refresh token was presented once');
};

subtest 'the other has been dead' => sub {
    pair('dead', refresh('fake-bot-refresh-1', both(2)), refresh('fake-user-refresh-2', { tokens('user', 3) }));
    sql("UPDATE token_refresh.credential SET status = 'needs_reauth' WHERE provider = 'dead' AND label = 'user'");
    reject('dead/user');
    is(refreshed('dead'), 't|', 'the first is refreshed');
    parked_by_name('dead');
    accept_all('dead');
    is(sql("SELECT status FROM token_refresh.credential WHERE provider = 'dead' AND label = 'user'"), 'connected', 'new tokens bring it back');
    is(refreshed('dead', 'user'), 't|', 'the next refresh works');
    all_as_expected('dead', 2, 'each refresh token was presented once');
};

subtest 'the row goes meanwhile' => sub {
    pair('gone', refresh('fake-bot-refresh-1', both(2)));
    sql("UPDATE token_refresh.credential SET status = 'needs_reauth' WHERE provider = 'gone' AND label = 'user'");
    reject('gone/user');
    is(refreshed('gone'), 't|', 'the first is refreshed');
    parked_by_name('gone');
    sql("DELETE FROM token_refresh.credential WHERE provider = 'gone' AND label = 'user'");
    accept_all('gone');
    is(stored('gone'), 'fake-bot-access-2', 'what is parked does not bring it back');
    is(events('gone', 'user'), 'parked superseded', 'the audit tells it');
};

subtest 'a new credential is rejected again and again' => sub {
    park_new('again', refresh('fake-bot-refresh-2', both(3)), refresh('fake-bot-refresh-3', { tokens('bot', 4), authed_user => { access_token => 'fake-user-access-4', expires_in => 3600 } }), refresh('fake-user-refresh-3', { tokens('user', 5) }));
    is(refreshed('again'), 't|', 'the first is refreshed again');
    is(sql("SELECT count(*) FROM token_refresh.parked_result"), '1', 'the newest is parked alone');
    is(events('again', 'user'), 'parked superseded parked', 'the audit tells it');
    is(refreshed('again'), 't|', 'the first is refreshed once more');
    is(sql("SELECT count(*) FROM token_refresh.parked_result"), '2', 'a refresh token stays parked until there is another one');
    accept_all('again');
    is(stored('again'), 'fake-bot-access-4 fake-user-access-4', 'the newest is stored');
    is(refreshed('again', 'user'), 't|', 'the next refresh works');
    all_as_expected('again', 4, 'each refresh token was presented once');
};

subtest 'newer tokens without a refresh token' => sub {
    provider('bare', { secondary_tokens => [{ label => 'user', pointer => '/authed_user' }] }, refresh('fake-bot-refresh-1', both(2)),
        refresh('fake-bot-refresh-2', { tokens('bot', 3), authed_user => { access_token => 'fake-user-access-3', expires_in => 3600 } }), refresh('fake-user-refresh-2', { tokens('user', 4) }));
    store('bare', { tokens('bot', 1) });
    reject('bare/user');
    is(refreshed('bare'), 't|', 'a refresh token is parked');
    sql("UPDATE token_refresh.parked_result SET retry_at = now() + interval '1 hour'; TRUNCATE unwanted");
    is(refreshed('bare'), 't|', 'an answer without one');
    is(stored('bare'), 'fake-bot-access-3', 'is not stored before it');
    accept_all('bare');
    is(stored('bare'), 'fake-bot-access-3 fake-user-access-3', 'what is newer comes last');
    is(refreshed('bare', 'user'), 't|', 'the refresh token is there');
    all_as_expected('bare', 3, 'each was presented once');
};

subtest 'the deadline of a refresh token' => sub {
    pair('deadline', refresh('fake-bot-refresh-1', { tokens('bot', 2), authed_user => { access_token => 'fake-user-access-2', refresh_token => 'fake-user-refresh-2', refresh_token_expires_in => 864000 } }));
    reject('deadline/user');
    is(refreshed('deadline'), 't|', 'the first is refreshed');
    is(parked('deadline'), 'user', 'the other is parked');
    accept_all('deadline');
    is(sql("SELECT due_at BETWEEN now() + interval '8 days' AND now() + interval '10 days' FROM token_refresh.token_status WHERE provider = 'deadline' AND label = 'user'"), 't', 'and refreshed before its refresh token expires');
};

subtest 'what is parked does not open' => sub {
    park_new('garbled');
    my $flip = "UPDATE token_refresh.parked_result SET refresh_token = set_byte(refresh_token, length(refresh_token) - 1, get_byte(refresh_token, length(refresh_token) - 1) # 1)";
    sql($flip);
    retry();
    poll_until($node, "SELECT reason = 'what is parked does not open with the keys at hand' AND retry_at > now() + interval '4 minutes' FROM token_refresh.parked_result", 'that is said, and it is tried again in a while');
    sql($flip);
    accept_all('garbled');
    is(stored('garbled'), 'fake-bot-access-2 fake-user-access-2', 'what opens again is stored');
};

subtest 'others have stored tokens meanwhile' => sub {
    park_new('overtaken');
    my $user = json({ tokens('user', 7) });
    sql("SELECT token_refresh.store_credential('overtaken', 'team', '$user', 'user')");
    accept_all('overtaken');
    is(stored('overtaken'), 'fake-bot-access-2 fake-user-access-7', 'a new credential: they stay');
    is(events('overtaken', 'user'), 'parked superseded', 'the audit tells it');

    pair('overtaken2', refresh('fake-bot-refresh-1', both(2)));
    reject('overtaken2/user');
    is(refreshed('overtaken2'), 't|', 'the first is stored');
    is(parked('overtaken2'), 'user', 'the other is parked');
    sql("SELECT token_refresh.store_credential('overtaken2', 'team', '$user', 'user')");
    accept_all('overtaken2');
    is(stored('overtaken2'), 'fake-bot-access-2 fake-user-access-7', 'one that has been there: they stay');

    pair('overtaken3', refresh('fake-user-refresh-1', { tokens('user', 3) }), refresh('fake-bot-refresh-1', both(2)));
    reject('overtaken3/user');
    is(refreshed('overtaken3', 'user'), 't|', 'the other is refreshed itself');
    is(parked('overtaken3'), 'user', 'and parked');
    sql("UPDATE token_refresh.parked_result SET issued_at = now() + interval '1 minute'");
    is(refreshed('overtaken3'), 't|', 'an answer to a request that was made before that');
    sql("UPDATE token_refresh.parked_result SET issued_at = now()");
    accept_all('overtaken3');
    is(stored('overtaken3'), 'fake-bot-access-2 fake-user-access-3', 'what is parked stays as well');
};

subtest 'disconnected meanwhile' => sub {
    pair('leaving', refresh('fake-bot-refresh-1', both(2)));
    sql("UPDATE token_refresh.credential SET status = 'disconnected' WHERE provider = 'leaving' AND label = 'user'");
    my $session = background_session($node);
    $session->query("BEGIN; SELECT FROM token_refresh.credential WHERE provider = 'leaving' AND label = 'user' FOR UPDATE");
    is(refreshed('leaving'), 't|', 'the first is refreshed');
    $session->query('COMMIT');
    $session->quit;
    accept_all('leaving');
    is(sql("SELECT status FROM token_refresh.credential WHERE provider = 'leaving' AND label = 'user'"), 'disconnected', 'a credential that was disconnected stays so');

    # Without a refresh token there is nothing to compare, so what is parked is parked under the name.
    pair('left', refresh('fake-bot-refresh-1', both(2)));
    sql("UPDATE token_refresh.credential SET refresh_token = NULL WHERE provider = 'left' AND label = 'user'");
    reject('left/user');
    is(refreshed('left'), 't|', 'the first is refreshed');
    is(sql("SELECT count(*) FROM token_refresh.parked_result WHERE provider = 'left'"), '1', 'the other is parked');
    is(sql("SELECT token_refresh.disconnect('left', 'team', 'user')"), 't', 'it is disconnected');
    is(sql("SELECT count(*) FROM token_refresh.parked_result"), '0', 'then nothing of it stays parked');
    sql('TRUNCATE unwanted');
};

subtest 'disconnected before it has been stored' => sub {
    park_new('unborn', { request => { path => '/revoke', params => { token => 'fake-user-refresh-2', token_type_hint => 'refresh_token' } }, answer => { status => 200, body => {} } });
    # Of two the provider would be told at once, in whichever order.
    sql("UPDATE token_refresh.parked_result SET access_token = NULL WHERE provider = 'unborn'");
    sql('CREATE ROLE helpdesk; GRANT USAGE ON SCHEMA token_refresh TO helpdesk; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_refresh TO helpdesk; GRANT SELECT, UPDATE ON token_refresh.credential TO helpdesk');
    my $disconnect = q{SELECT token_refresh.disconnect('unborn', 'team', 'user')};
    is(sql("SET ROLE helpdesk; $disconnect"), 'f', 'who may not delete credentials cannot take it along');
    sql('GRANT DELETE ON token_refresh.credential TO helpdesk; ALTER TABLE token_refresh.credential ENABLE ROW LEVEL SECURITY');
    is(sql("SET ROLE helpdesk; $disconnect"), 'f', 'nor can who may not see all');
    sql('ALTER TABLE token_refresh.credential DISABLE ROW LEVEL SECURITY');
    is(sql("SET ROLE helpdesk; $disconnect"), 't', 'others can');
    is(sql($disconnect), 'f', 'once');
    is(sql("SELECT count(*) FROM token_refresh.parked_result"), '0', 'then nothing of it stays parked');
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE provider = 'unborn' AND event = 'token_revoked'", 'its token is revoked');
    accept_all('unborn');
    is(stored('unborn'), 'fake-bot-access-2', 'and it does not come into being');
    all_as_expected('unborn', 2, 'by the client that it was given to');
    sql('DROP OWNED BY helpdesk; DROP ROLE helpdesk');
};

subtest 'the provider is locked, and dropped' => sub {
    provider('leased', { secondary_tokens => [{ label => 'user', pointer => '/authed_user' }] }, refresh('fake-bot-refresh-1', both(2)));
    store('leased', { tokens('bot', 1) });
    my $session = background_session($node);
    $session->query("BEGIN; SELECT FROM token_refresh.provider WHERE name = 'leased' FOR UPDATE");
    is(refreshed('leased'), 't|', 'the first is refreshed');
    is(stored('leased'), 'fake-bot-access-2', 'and stored');
    is(sql("SELECT count(*) FROM token_refresh.parked_result WHERE provider = 'leased'"), '1', 'the other is parked');
    reject('leased/user');
    $session->query('COMMIT');
    $session->quit;
    is(sql("SELECT token_refresh.disconnect('leased', 'team')"), 't', 'the first is disconnected');
    sql("SELECT token_refresh.drop_provider('leased')");
    is(sql('SELECT count(*) FROM token_refresh.parked_result'), '0', 'what is parked goes with the provider');

    park_new('erased');
    sql("DELETE FROM token_refresh.credential WHERE provider = 'erased'; DELETE FROM token_refresh.provider WHERE name = 'erased'");
    accept_all('erased');
};

subtest 'new keys, and a dump' => sub {
    park_new('dumped', refresh('fake-user-refresh-2', { tokens('user', 3) }));
    sql('SELECT token_refresh.pause()');
    my $usage = q{SELECT string_agg(key || ' ' || secrets, ', ' ORDER BY key) FROM token_refresh.key_usage WHERE place = 'parked_result'};
    is(sql($usage), 'test 3', 'its secrets are counted');
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, 32);
    my $key_file = $node->basedir . '/token_refresh.keys';
    my $before   = slurp_file($key_file);
    open(my $file, '>', $key_file) or die "cannot write $key_file: $!";
    print $file 'newer ' . encode_base64($key, '') . "\n$before";
    close $file;
    $node->reload;
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.key_ring() WHERE name = 'newer' AND seals", 'there is a new key');
    sql('CALL token_refresh.rotate_keys()');
    is(sql($usage), 'newer 3', 'and sealed anew');

    my $dump = $node->basedir . '/dump.sql';
    $node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('postgres') ], 'pg_dump');
    ok(secrets_absent(slurp_file($dump), 'fake-user-access-2', 'fake-user-refresh-2', 'fake-bot-refresh-2'), 'the dump holds no secret');
    my $columns = 'SELECT schedule_id, token_table, provider, subject, label, client_id, client_secret, access_token, refresh_token, scope, asked_at, issued_at, expires_at FROM token_refresh.parked_result';
    my $facts   = sql($columns);
    $node->safe_psql('postgres', 'CREATE DATABASE restored');
    $node->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('restored') ], 'restoring succeeds');
    is($node->safe_psql('restored', $columns), $facts, 'it is there');
    $node->safe_psql('restored', 'TRUNCATE unwanted; UPDATE token_refresh.parked_result SET retry_at = now(), parked_at = now(); SELECT token_refresh.resume()');
    ok($node->poll_query_until('restored', 'SELECT count(*) = 0 FROM token_refresh.parked_result'), 'and stored there');
    is($node->safe_psql('restored', "SELECT token_refresh.get_access_token('dumped', 'team', 'user')"), 'fake-user-access-2', 'with its tokens');
    is($node->safe_psql('restored', "SELECT success FROM token_refresh.refresh_credential('dumped', 'team', 'user')"), 't', 'the next refresh works');
    all_as_expected('dumped', 2, 'each refresh token was presented once');
    $node->safe_psql('postgres', 'DROP DATABASE restored WITH (FORCE)');
    sql("DELETE FROM token_refresh.parked_result; SELECT token_refresh.resume()");
};

subtest 'captured fields, and an expiry that is yet to be asked for' => sub {
    my %introspected = (introspection_endpoint => $server->url . '/asked/introspect', expiry_source => 'introspection', captured_fields => ['host']);
    provider('asked', \%introspected, refresh('fake-bot-refresh-1', { access_token => 'fake-bot-access-2', refresh_token => 'fake-bot-refresh-2', host => 'new.example' }),
        { request => { path => '/introspect', params => { token => 'fake-bot-access-2', token_type_hint => 'access_token' } }, answer => { status => 200, body => { active => JSON::PP::true, exp => '<now+1800>' } } });
    reject('asked/');
    store('asked', { access_token => 'fake-bot-access-1', refresh_token => 'fake-bot-refresh-1', host => 'old.example', expires_at => '2020-01-01T00:00:00Z' });
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE provider = 'asked'", 'an answer without a lifetime is parked');
    is(access_token($node, 'asked', 'team'), 'fake-bot-access-2', 'readers get the new token');
    accept_all('asked');
    is(sql("SELECT captured FROM token_refresh.credential WHERE provider = 'asked'"), '{"host": "new.example"}', 'what the answer has given is stored');
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE provider = 'asked' AND event = 'introspected'", 'then the provider is asked when the token expires');
    is(sql("SELECT (round(extract(epoch FROM expires_at - now()) / 300) * 5)::integer FROM token_refresh.credential WHERE provider = 'asked'"), '30', 'which the row has then');
    all_as_expected('asked', 2, 'each token was sent once');
};

subtest 'what was captured is used while it is parked' => sub {
    provider('hosted', { captured_fields => ['host'], request_params => { where => '${host}' } },
        map { { request => { params => { grant_type => 'refresh_token', refresh_token => "fake-bot-refresh-$_->[0]", where => $_->[1] } }, answer => { body => { tokens('bot', $_->[0] + 1), $_->[2] ? (host => $_->[2]) : () } } } }
            [1, 'old.example', 'new.example'], [2, 'new.example', undef], [3, 'new.example', undef]);
    reject('hosted/');
    store('hosted', { tokens('bot', 1), host => 'old.example' });
    is(refreshed('hosted') . refreshed('hosted'), 't|t|', 'refreshed twice, and parked');
    accept_all('hosted');
    is(sql("SELECT captured FROM token_refresh.credential WHERE provider = 'hosted'"), '{"host": "new.example"}', 'an answer that does not say it takes nothing back');
    is(refreshed('hosted'), 't|', 'the next refresh works');
    all_as_expected('hosted', 3, 'each said what the answer before had given');
};

subtest 'nothing leaks' => sub {
    is(sql("SELECT count(*) FROM token_refresh.audit_event WHERE message ~ 'fake-'"), '0', 'no message holds a token');
    ok(secrets_absent(read_log($node, 0), 'fake-user-access-2', 'fake-user-refresh-2', 'obviously-fake-secret'), 'nor does the log');
};

$node->stop;
done_testing();
