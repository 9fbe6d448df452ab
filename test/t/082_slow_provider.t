# A provider that hangs delays no token of another one: 300 credentials are due at each, and those of the healthy provider are all
# refreshed while not one request of the other has been answered. Nothing here depends on how fast the machine is.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $due    = 300;
my $server = start_token_server();
my $node   = new_node('main', 'log_min_messages' => 'warning', 'token_refresh.http_timeout' => '120s', 'token_refresh.request_timeout' => '120s');

sub query { return $node->safe_psql('postgres', $_[0]); }

sub refreshed { my ($provider) = @_; return query("SELECT count(*) FROM token_refresh.token_status WHERE provider = '$provider' AND refresh_count > 0"); }

# How far both have come when the last token of a provider is refreshed.
sub await_all
{
    my ($provider) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, "SELECT count(*) = $due FROM token_refresh.token_status WHERE provider = '$provider' AND refresh_count > 0", "$provider: all are refreshed");
}

create_provider($node, $_, token_endpoint => $server->token_endpoint($_)) for qw(slow fast);
$server->control('slow', hold => 'before');
my %grants = map { $_ => [$server->expired_grants($_, n => $due, prefix => $_)] } qw(slow fast);

subtest 'those of the slow provider are due first' => sub {
    store_credential($node, 'slow', @{ $grants{slow} });
    ok($server->wait('slow', held => 1)->{held} >= 1, 'its requests hang');
    store_credential($node, 'fast', @{ $grants{fast} });
    await_all('fast');
    my $slow = $server->stats('slow');
    is($slow->{refreshed}, 0, 'not one of the slow provider was answered meanwhile');
    cmp_ok($slow->{held}, '>=', 1, 'its requests hang still');
    is(refreshed('slow'), 0, 'and none of its tokens is new');
    note("$slow->{held} requests of the slow provider were under way");
    is($server->stats('fast')->{requests}, $due, 'the fast provider was asked once for each');
};

subtest 'all are due at once, and sessions ask as well' => sub {
    query("SELECT token_refresh.pause()");
    query("UPDATE token_refresh.credential SET issued_at = now() - interval '2 hours', expires_at = now() - interval '1 hour' WHERE provider = 'fast'");
    query("SELECT token_refresh.resume()");
    is(query("SELECT success FROM token_refresh.refresh_credential('fast', '$grants{fast}[7]{subject}')"), 't', 'a session gets its token');
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.token_status WHERE provider = 'fast' AND expires_at < now()", 'all of the fast provider are refreshed again');
    is($server->stats('slow')->{refreshed}, 0, 'while the slow one hangs');
    is(refreshed('slow'), 0, 'with all of its tokens');
    is($server->stats('fast')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'when it answers again' => sub {
    $server->release('slow');
    await_all('slow');
    is($server->stats('slow')->{reuse}, 0, 'no refresh token was presented twice');
    is($server->stats('slow')->{requests}, $due, 'each was asked for once');
};

$node->stop;
done_testing();
