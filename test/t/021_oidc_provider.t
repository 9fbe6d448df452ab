# Against a certified authorization server that rotates refresh tokens and revokes the
# whole grant when one is presented twice: every client authentication method.
use strict;
use warnings;

use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/../support';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $per_client = 5;
my $server     = start_oidc_server(ACCESS_TOKEN_TTL => 4);
my $node       = new_node('main');

for my $client (qw(basic post public))
{
    create_provider($node, $client, $server->provider_options($client));
    my @grants = $server->grants(client => $client, n => $per_client);
    is(scalar @grants, $per_client, "$client: the server grants tokens");
    store_credential($node, $client, @grants);
}

poll_until($node, 'SELECT min(refresh_count) >= 3 FROM token_refresh.token_status',
    'every credential is refreshed three times by itself');
is($node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.token_status WHERE status <> 'connected'"),
    '0', 'all are connected');

for my $client (qw(basic post public))
{
    my $subject = $node->safe_psql('postgres',
        "SELECT subject FROM token_refresh.credential WHERE provider = '$client' ORDER BY id LIMIT 1");
    is($node->safe_psql('postgres', "SELECT success FROM token_refresh.refresh_credential('$client', '$subject')"),
        't', "$client: refresh_credential() refreshes");
    ok($server->is_active(access_token($node, $client, $subject)), "$client: the server knows the access token");
}

my $stats = $server->stats;
is($stats->{grants_revoked}, 0, 'the server revoked no grant');
is($stats->{reuse}, 0, 'and saw no refresh token twice');

$server->break_down;
poll_until($node, "SELECT count(*) > 0 FROM token_refresh.token_status WHERE attempts > 0", 'the broken server is noticed');
$server->mend;
poll_until($node, "SELECT count(*) = 0 FROM token_refresh.token_status WHERE attempts > 0 OR status <> 'connected'",
    'and all recover when it is mended');

done_testing();
