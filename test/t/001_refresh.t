# Background refreshing: short-lived tokens of a provider that rotates its refresh
# tokens and forgives nothing stay valid without any SQL call, each refresh token is
# presented once, and what happened can be seen.
#
# TOKEN_REFRESH_SOAK=1: for a minute instead of some seconds.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use TokenRefreshTest;

my $count    = 100;
my $lifetime = 8;
my $seconds  = $ENV{TOKEN_REFRESH_SOAK} ? 60 : 14;
my $server   = start_token_server();
my $node     = new_node('main');

create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
$server->control('acme', lifetime => $lifetime);
my @grants = $server->grants('acme', n => $count);
my $stored_at = time;
store_credential($node, 'acme', @grants);

subtest "$count credentials of $lifetime seconds for $seconds seconds" => sub {
    # A view, a table: none of these is a call that could refresh.
    my $look = "SELECT count(*) FILTER (WHERE expires_at <= clock_timestamp()), count(*), round(extract(epoch FROM min(expires_at) - clock_timestamp()), 1)"
        . ' FROM token_refresh.token_status';
    my ($looks, $expired, $least) = (0, 0, $lifetime);
    for (my $next = $stored_at + 1; $next < $stored_at + $seconds; $next += 1)
    {
        my $pause = $next - time;
        sleep($pause) if $pause > 0;
        my ($dead, $all, $left) = split /\|/, $node->safe_psql('postgres', $look);
        $looks++;
        $expired += $dead;
        $least = $left if $left < $least;
        note("after $looks s: $dead of $all expired") if $dead > 0 || $all != $count;
    }
    is($expired, 0, "none was found expired in $looks looks");
    note("the shortest time that was left to any of them: $least s");
};

subtest 'the provider saw each refresh token once' => sub {
    my $stats = $server->stats('acme');
    is($stats->{reuse},         0, 'no refresh token was presented twice');
    is($stats->{invalid_grant}, 0, 'none was refused');
    is(scalar(keys %{ $stats->{per_subject} }), $count, 'all credentials were refreshed');
    my $least = int($seconds / $lifetime);
    is(scalar(grep { $_->{refreshed} < $least } values %{ $stats->{per_subject} }), 0, "each at least $least times");
    # From one refresh to the next it is at least three quarters of the lifetime, less a tenth.
    my $most = int($seconds / ($lifetime * 0.75 * 0.9)) + 1;
    is(scalar(grep { $_->{refreshed} > $most } values %{ $stats->{per_subject} }), 0, "and none more than $most times");
};

subtest 'what can be seen' => sub {
    $node->safe_psql('postgres', 'SELECT token_refresh.pause()');
    poll_until($node, "SELECT (token_refresh.status() ->> 'in_flight')::int = 0", 'paused, and nothing is in flight any more');
    my $refreshed = $server->stats('acme')->{refreshed};
    is($node->safe_psql('postgres', 'SELECT sum(refresh_count) FROM token_refresh.token_status'), $refreshed, 'refresh_count');
    is($node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.audit_event WHERE event = 'refreshed'"), $refreshed, 'audit events');
    is($node->safe_psql('postgres', "SELECT count(DISTINCT subject), min(provider), min(label), min(actor), count(failure) FROM token_refresh.audit_event WHERE event = 'refreshed'"),
        "$count|acme||refresher|0", 'what they say');
    my $status = JSON::PP->new->decode($node->safe_psql('postgres', 'SELECT token_refresh.status()'));
    is($status->{refreshed},          $refreshed, 'status(): refreshed');
    is($status->{failed},             0,          'status(): failed');
    is($status->{parked},             0,          'status(): parked');
    ok($status->{paused},                         'status(): paused');
    is($status->{credentials}[0]{count}, $count,  'status(): credentials');
    is($node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.token_status WHERE last_refreshed_at IS NULL OR attempts > 0 OR last_error IS NOT NULL OR parked'),
        '0', 'token_status knows when, and of no trouble');
};

subtest 'a pause is a pause' => sub {
    poll_until($node, 'SELECT bool_and(expires_at < clock_timestamp()) FROM token_refresh.token_status', 'all run out');
    is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT status, ' ') FROM token_refresh.token_status"), 'token_expired', 'and are called expired');
    is($node->safe_psql('postgres', "SELECT credentials ->> 'expired' FROM jsonb_array_elements(token_refresh.status() -> 'credentials') credentials"),
        $count, 'also by status()');
    my $before = $server->stats('acme')->{refreshed};
    my $token = access_token($node, 'acme', 'subject1');
    ok($server->is_active('acme', $token), 'on demand there is a fresh token all the same');
    is($server->stats('acme')->{refreshed}, $before + 1, 'by one request');

    $node->safe_psql('postgres', 'SELECT token_refresh.resume()');
    poll_until($node, 'SELECT bool_and(expires_at > clock_timestamp()) FROM token_refresh.token_status', 'after resume() all are fresh again');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

$node->stop;
done_testing();
