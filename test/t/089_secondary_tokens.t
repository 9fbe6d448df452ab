# Several tokens in one answer: each its own credential, which finds its tokens wherever they come, and which no other one's answer
# sets back.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use DialectTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $dir = PostgreSQL::Test::Utils::tempdir();
make_keys($dir);
make_certificates($dir);
my $server = start_dialect_server($dir);
my $node   = new_node('main');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub refresh { my ($presented, $answer) = @_; return { request => { params => { grant_type => 'refresh_token', refresh_token => $presented } }, answer => { body => $answer } }; }

sub tokens { my ($who, $n, %more) = @_; return (access_token => "fake-$who-access-$n", refresh_token => "fake-$who-refresh-$n", expires_in => 3600, %more); }

sub provider
{
    my ($name, @exchanges) = @_;
    sql(sprintf('SELECT token_refresh.create_provider(%s, %s, %s, %s)', map { literal($_) } $name, 'test-client', 'obviously-fake-secret',
        json({ token_endpoint => $server->url . "/$name/token", secondary_tokens => [{ label => 'user', pointer => '/authed_user' }], captured_fields => [qw(team place)] })));
    $server->call(POST => '/test/cases', { $name => { client_id => 'test-client', client_secret => 'obviously-fake-secret', values => {}, exchanges => \@exchanges } });
    return sql(sprintf(q{SELECT token_refresh.store_credential(%s, 'team', %s)}, literal($name), literal(json({ tokens('bot', 1), team => 'T1', place => 'here', authed_user => { tokens('user', 1) } }))));
}

sub refreshed { my ($name, $label) = @_; return sql(sprintf(q{SELECT success FROM token_refresh.refresh_credential(%s, 'team', %s)}, literal($name), literal($label))); }

sub stored { my ($name) = @_; return sql(sprintf(q{SELECT string_agg(token_refresh.get_access_token(provider, subject, label), ' ' ORDER BY label) FROM token_refresh.credential WHERE provider = %s}, literal($name))); }

sub all_as_expected { my ($name, $count, $what) = @_; return is_deeply($server->call(GET => '/test/records')->{$name}, [map { [] } 1 .. $count], $what); }

provider('both', refresh('fake-bot-refresh-1', { tokens('bot', 2), place => 'there', authed_user => { tokens('user', 2) } }), refresh('fake-user-refresh-2', { tokens('user', 3) }));
is(stored('both'), 'fake-bot-access-1 fake-user-access-1', 'one answer, two credentials');
is(refreshed('both', ''), 't', 'the first is refreshed');
is(stored('both'), 'fake-bot-access-2 fake-user-access-2', 'what comes beside it is stored, too');
is(sql(q{SELECT string_agg(captured::text, ' ' ORDER BY label) FROM token_refresh.credential WHERE provider = 'both'}), join(' ', ('{"team": "T1", "place": "there"}') x 2), 'what is captured from it is both of theirs');
is(refreshed('both', 'user'), 't', 'the second is refreshed by itself');
is(stored('both'), 'fake-bot-access-2 fake-user-access-3', 'with its own refresh token');
all_as_expected('both', 2, 'each refresh token was presented once');

provider('nested', refresh('fake-user-refresh-1', { ok => JSON::PP::true, authed_user => { tokens('user', 2) } }), refresh('fake-user-refresh-2', { tokens('bot', 9), authed_user => { tokens('user', 3) } }));
is(refreshed('nested', 'user'), 't', 'its tokens may come where they have come first');
is(stored('nested'), 'fake-bot-access-1 fake-user-access-2', 'they are its own');
is(refreshed('nested', 'user'), 't', 'also beside others');
is(stored('nested'), 'fake-bot-access-1 fake-user-access-3', 'which are not');
all_as_expected('nested', 2, 'and nothing rotated is lost');

provider('older', map { refresh("fake-bot-refresh-$_", { tokens('bot', $_ + 1), authed_user => { tokens('user', $_ + 1) } }) } 1 .. 2);
sql(q{UPDATE token_refresh.credential SET issued_at = now() + interval '1 minute' WHERE provider = 'older' AND label = 'user'});
is(refreshed('older', ''), 't', 'an answer to a request that was made before others stored newer tokens');
is(stored('older'), 'fake-bot-access-2 fake-user-access-1', 'does not replace those');
sql(q{UPDATE token_refresh.credential SET issued_at = '2020-01-01', status = 'disconnected' WHERE provider = 'older' AND label = 'user'});
is(refreshed('older', ''), 't', 'nor does one');
is(sql(q{SELECT status, issued_at < '2021-01-01' FROM token_refresh.credential WHERE provider = 'older' AND label = 'user'}), 'disconnected|t', 'connect again what the application has disconnected');

$node->stop;
done_testing();
