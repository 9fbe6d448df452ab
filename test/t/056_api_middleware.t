# examples/api_middleware with the real drivers, for Express and for WSGI: over a connection pool with prepared
# statements, and through pgbouncer in transaction mode.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ApiServer;
use Bouncer;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use TokenRefreshTest;

# What is logged are the statements; their parameters are not.
my $node = new_node('main', log_statement => 'all', log_parameter_max_length => '0', max_connections => '60');
$node->safe_psql('postgres', q{
    CREATE ROLE api LOGIN;
    GRANT USAGE ON SCHEMA token_refresh TO api;
    GRANT EXECUTE ON FUNCTION token_refresh.validate_and_refresh_api_token TO api;
});

my @secrets;

# A new token and its id. $change: SET clause for its row.
sub token
{
    my ($scope, $change) = @_;
    my ($token, $id) = split /\|/, $node->safe_psql('postgres', qq{SELECT token, token_id
        FROM token_refresh.issue_api_token('alice', ARRAY[$scope], user_hk => '\\xa1', tenant_hk => '\\xb2')});
    $node->safe_psql('postgres', "UPDATE token_refresh.api_token SET $change WHERE id = $id") if $change;
    push @secrets, $token;
    return wantarray ? ($token, $id) : $token;
}

my $due = q{expires_at = now() + interval '1 day'};

sub family_size { return $node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.api_token WHERE family = $_[0]"); }

# A test point: refused, for this reason.
sub refused
{
    my ($answer, $message, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply([ $answer->{status}, $answer->{body}, $answer->{headers}{'www-authenticate'} =~ /^Bearer/ ? 1 : 0 ],
        [ 401, { error => 'invalid_token', message => $message }, 1 ], $what);
}

sub bad_tokens
{
    my ($server) = @_;
    my $none = 'a token is required: Authorization: Bearer TOKEN';
    refused($server->request('GET', undef), $none, 'no token');
    refused($server->request('GET', $_), $none, "not a bearer token") for 'Bearer', 'Basic YWxpY2U6c2VjcmV0', 'Bearer two words', 'Bearer a"b';
    refused($server->get('tr_made-up'), 'the token is malformed', 'malformed');
    my $good = token(q{'api:read'});
    (my $typo = $good) =~ s/(.)$/$1 eq 'A' ? 'B' : 'A'/e;
    refused($server->get($typo), 'the token is malformed', 'mistyped');
    my ($unknown, $id) = token(q{'api:read'});
    $node->safe_psql('postgres', "DELETE FROM token_refresh.api_token WHERE id = $id");
    refused($server->get($unknown), 'the token is unknown', 'unknown');
    (my $revoked, $id) = token(q{'api:read'});
    $node->safe_psql('postgres', "SELECT token_refresh.revoke_api_token($id)");
    refused($server->get($revoked), 'the token has been revoked', 'revoked');
    refused($server->get(token(q{'api:read'}, 'expires_at = now()')), 'the token has expired', 'expired');
    refused($server->get(token(q{'api:write'})), 'the token does not have the required scope', 'another scope');
    refused($server->request('POST', "Bearer $good"), 'the token does not have the required scope', 'a scope that another route wants');
    return;
}

sub good_tokens
{
    my ($server) = @_;
    my $token  = token(q{'api:read', 'api:write'});
    my $answer = $server->get($token);
    is_deeply([ @$answer{qw(status body)} ], [ 200, { user => 'a1', tenant => 'b2', scope => [ 'api:read', 'api:write' ] } ],
        'a good one: the handler knows whose it is');
    is($answer->{headers}{'x-new-token'}, undef, 'there is no new token');
    is($answer->{headers}{'cache-control'}, 'max-age=60', 'the handler says about caching what it likes');
    is($server->request('POST', "bearer $token")->{status}, 201, 'the scope covers the other route, too');
    is($server->get(token(q{'api:*'}))->{status}, 200, 'a wildcard');
    is($server->get(token(q{'api:read'}, q{expires_at = '20000-01-01'}))->{status}, 200, 'an expiry beyond the year 9999');
    return;
}

sub refreshed_tokens
{
    my ($server) = @_;
    my ($token, $id) = token(q{'api:read'}, $due);
    my $answer = $server->get($token);
    my $new    = $answer->{headers}{'x-new-token'};
    push @secrets, $new;
    is($answer->{status}, 200, 'a token that expires soon');
    like($new, qr/^tr_[\w-]{48}$/, 'X-New-Token');
    like($answer->{headers}{'x-token-expires'}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)$/, 'X-Token-Expires: ISO 8601, in UTC');
    is($node->safe_psql('postgres', "SELECT abs(extract(epoch FROM expires_at - '$answer->{headers}{'x-token-expires'}')) < 0.01 FROM token_refresh.api_token WHERE predecessor = $id"),
        't', 'that of the new token');
    is($answer->{headers}{'x-refresh-reason'}, 'EXPIRING_SOON', 'X-Refresh-Reason');
    is($answer->{headers}{'cache-control'}, 'no-store', 'Cache-Control, whatever the handler says');
    is($server->get($token)->{headers}{'x-new-token'}, $new, 'the old one is still good, and leads to the same new one');
    my $next = $server->get($new);
    is_deeply([ $next->{status}, $next->{headers}{'x-new-token'}, $next->{body}{user} ], [ 200, undef, 'a1' ], 'the new one is good');
    return;
}

sub herd
{
    my ($server) = @_;
    my ($token, $id) = token(q{'api:read'}, $due);
    my @answers = $server->get_all(50, $token);
    my %statuses = map { $_->{status} => 1 } @answers;
    my %new      = map { ($_->{headers}{'x-new-token'} // 'none') => 1 } @answers;
    push @secrets, keys %new;
    is(join(' ', sort keys %statuses), '200', '50 requests at once: all 200');
    is(scalar keys %new, 1, 'all get the same new token');
    isnt((keys %new)[0], 'none', 'and get one');
    is(family_size($id), 2, 'there is one successor');
    return;
}

sub database_away
{
    my ($server) = @_;
    my $token = token(q{'api:read'});
    is($server->get($token)->{status}, 200, 'while the database is there');
    $node->stop('fast');
    my $answer = $server->get($token);
    is_deeply([ @$answer{qw(status body)} ], [ 503, { error => 'temporarily_unavailable' } ], 'database away: 503, without details');
    is($answer->{headers}{'retry-after'}, 1, 'Retry-After');
    $node->start;
    my $tries = 10 * $PostgreSQL::Test::Utils::timeout_default;
    while ($server->get($token)->{status} != 200 && $tries-- > 0) { usleep(100_000); }
    cmp_ok($tries, '>', 0, 'when it is back, so is the application');
    return;
}

# Handlers that say about caching what they can, in each way that Node has; the token is refreshed for all.
my $caching = <<'END';
import express from 'express';
import { requireApiToken } from './api_token.mjs';

const refreshed = { is_valid: true, was_refreshed: true, expires_at: new Date(0), new_token: 'new', refresh_reason: 'FORCED' };
const value = 'public, max-age=600';
const routes = {
  'object': (res) => res.writeHead(200, { 'Cache-Control': value, 'X-Other': 'kept' }),
  'reason and object': (res) => res.writeHead(200, 'OK', { 'cache-control': value, 'X-Other': 'kept' }),
  'list': (res) => res.writeHead(200, ['X-Other', 'kept', 'CACHE-CONTROL', value]),
  'pairs': (res) => res.set('X-Other', 'kept').writeHead(200, [['Cache-Control', value]]),
  'value like the name': (res) => res.writeHead(200, ['X-Other', 'cache-control']),
  'set': (res) => res.set({ 'Cache-Control': value, 'X-Other': 'kept' }),
};
const app = express();
app.use(requireApiToken({ query: async () => ({ rows: [refreshed] }) }));
app.get('/:way', (req, res) => { routes[req.params.way](res); res.end('done'); });
const server = app.listen(0, '127.0.0.1', async () => {
  for (const way of Object.keys(routes)) {
    const url = `http://127.0.0.1:${server.address().port}/${encodeURIComponent(way)}`;
    const { status, headers } = await fetch(url, { headers: { Authorization: 'Bearer old', Connection: 'close' } });
    console.log([way, status, headers.get('Cache-Control'), headers.get('X-Other'), headers.get('X-New-Token')].join('|'));
  }
  server.close();
});
END

subtest 'node: what a handler may say about caching' => sub {
    my $lacking = ApiServer::lacking('node');
    plan(skip_all => $lacking) if $lacking;
    my ($output, $errors);
    IPC::Run::run([ 'node', '--input-type=module', '-' ], '<', \$caching, '>', \$output, '2>', \$errors,
        init => sub { chdir "$FindBin::Bin/../../examples/api_middleware/node" or die "cannot change to node: $!"; },
        IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
    my %other = ('value like the name' => 'cache-control');
    my @ways  = ('object', 'reason and object', 'list', 'pairs', 'value like the name', 'set');
    my %got   = map { /^([^|]*)\|(.*)$/ ? ($1 => $2) : () } split /\n/, $output;
    is($got{$_}, '200|no-store|' . ($other{$_} // 'kept') . '|new', "whatever the handler says: $_") for @ways;
    unlike($errors, qr/Error/, 'without an error');
};

my $bouncer = Bouncer->start($node, users => ['api'], pool_size => 3, prepared_statements => 100);
my %direct  = (PGHOST => $node->host, PGPORT => $node->port, PGUSER => 'api', PGDATABASE => 'postgres');

for my $kind (qw(node python))
{
    subtest $kind => sub {
        my $lacking = ApiServer::lacking($kind);
        plan(skip_all => $lacking) if $lacking;
        my $server = ApiServer->start($kind, %direct);
        my $was    = length read_log($node);
        $_->($server) for \&bad_tokens, \&good_tokens, \&refreshed_tokens, \&herd;
        like(read_log($node, $was), qr/execute [^<]\S*: SELECT is_valid.*?validate_and_refresh_api_token\(\$1, \$2\)/s, 'by prepared statements, which are logged');
        database_away($server);
        $server->stop;
        like($server->log, qr/refreshed \(EXPIRING_SOON\)/, 'it logs that it has refreshed');
        ok(secrets_absent($server->log, @secrets), 'its log has no token');
    };
    subtest "$kind, through pgbouncer" => sub {
        my $lacking = ApiServer::lacking($kind) // ($bouncer ? undef : 'pgbouncer is missing');
        plan(skip_all => $lacking) if $lacking;
        for my $prepare (0 .. $bouncer->can_prepare)
        {
            my $server = ApiServer->start($kind, %direct, PGPORT => $bouncer->port, PREPARE => $prepare);
            note($prepare ? 'prepared' : 'not prepared');
            $_->($server) for \&good_tokens, \&refreshed_tokens, \&herd;
            refused($server->get('tr_made-up'), 'the token is malformed', 'malformed');
            $server->stop;
            ok(secrets_absent($server->log, @secrets), 'the log of the application has no token');
        }
        # Sessions of the server are shared, or there would be as many as the pool of the application has.
        is($node->safe_psql('postgres', "SELECT count(*) <= 3 FROM pg_stat_activity WHERE usename = 'api'"), 't', 'sessions are shared');
    };
}

ok(secrets_absent(read_log($node), @secrets), 'no token is in the log of the server');
ok(secrets_absent($bouncer->log, @secrets), 'nor has that of pgbouncer') if $bouncer;
$bouncer->stop if $bouncer;
$node->stop;
done_testing();
