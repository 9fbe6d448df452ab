# Sessions through pgbouncer in transaction mode: many clients share two sessions of the server, each of which remembers JWTs
# and keys. A revocation counts with the next call of every client, a refresh token is used once whichever session it
# meets, validating writes nothing; and a standby behind a pgbouncer of its own follows.
use strict;
use warnings;

use FindBin;
use IPC::Run ();
use lib "$FindBin::Bin/../support";
use Bouncer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $primary = new_node('primary', -init => { allows_streaming => 1 }, 'autovacuum' => 'off', 'max_connections' => 30, 'token_refresh.session_refresh_grace' => '1h', 'token_refresh.enabled' => 'off');
$primary->safe_psql('postgres', q{
    CREATE ROLE web LOGIN;
    GRANT USAGE ON SCHEMA token_refresh TO web;
    GRANT EXECUTE ON FUNCTION token_refresh.validate_jwt, token_refresh.refresh_session, token_refresh.revoke_session TO web;
    SELECT token_refresh.create_signing_key();
});
create_provider($primary, 'va', token_endpoint => 'http://127.0.0.1:9/token');

my $bouncer = Bouncer->start($primary, users => ['web'], pool_size => 2);
plan(skip_all => 'pgbouncer is missing') unless $bouncer;

sub on { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql); }
my @secrets;
sub sign_in
{
    my ($who) = @_;
    my ($jwt, $session) = split /\|/, on($primary, "SELECT jwt_token, session_id FROM token_refresh.create_session('va', NULL, '{\"sub\": \"$who\"}')");
    push @secrets, $jwt;
    return ($jwt, $session);
}
sub revoke_sql { my ($jwt) = @_; return sprintf(q{SELECT token_refresh.revoke_session((token_refresh.validate_jwt(%s) ->> 'jti')::uuid)}, literal($jwt)); }

# A psql that stays connected to pgbouncer.
sub client { my ($bouncer) = @_; return $primary->background_psql('postgres', on_error_stop => 0, extra_params => [ '-d', $bouncer->connstr('web') ]); }
sub check { my ($jwt, $client) = @_; return $client->query_safe(sprintf('SELECT token_refresh.validate_jwt(%s) IS NOT NULL', literal($jwt))); }
sub check_all { my ($jwt, @clients) = @_; return join '', map { check($jwt, $_) } @clients; }

# pgbench with so many clients; returns whether all went well, and complaints.
sub bench
{
    my ($bouncer, $clients, $times, $script) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
    append_to_file($file, $script);
    my ($output, $errors) = ('', '');
    my $ok = IPC::Run::run([ $primary->installed_command('pgbench'), '-n', '-M', 'extended', '-c', $clients, '-j', 2, '-t', $times, '-f', $file, $bouncer->connstr('web') ],
        '<', \undef, '>', \$output, '2>', \$errors, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
    return ($ok && $output =~ m{processed: (\d+)/\1$}m, $errors);
}

my @clients = map { client($bouncer) } 1 .. 6;

subtest 'six clients, two sessions of the server' => sub {
    my ($jwt) = sign_in('alice');
    # Two transactions that are open at once take both sessions, so that both come to know the JWT.
    $_->query_safe('BEGIN') for @clients[ 0, 1 ];
    is(check_all($jwt, @clients[ 0, 1 ]), 'tt', 'good in both');
    isnt($clients[0]->query_safe('SELECT pg_backend_pid()'), $clients[1]->query_safe('SELECT pg_backend_pid()'), 'they are two');
    $_->query_safe('COMMIT') for @clients[ 0, 1 ];
    is(check_all($jwt, @clients), 't' x 6, 'good for every client');
    is(on($primary, q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'web'}), '2', 'all by these two');
};

subtest 'revocation' => sub {
    my ($jwt) = sign_in('bob');
    is(check_all($jwt, @clients), 't' x 6, 'good for every client');
    is($clients[0]->query_safe(revoke_sql($jwt)), 't', 'one revokes');
    is(check_all($jwt, @clients[ 1 .. 5, 0 ]), 'f' x 6, 'no good for any, with the next call');

    ($jwt) = sign_in('bob');
    $clients[0]->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
    is(check($jwt, $clients[0]), 't', 'good in a transaction that is open');
    is($clients[1]->query_safe(revoke_sql($jwt)), 't', 'revoked through the other session');
    is(check($jwt, $clients[0]), 'f', 'no good in the next statement of that transaction');
    $clients[0]->query_safe('COMMIT');

    ($jwt) = sign_in('bob');
    is($clients[0]->query_safe('BEGIN; ' . revoke_sql($jwt)), 't', 'revoked, but not committed');
    is(check($jwt, $clients[1]), 't', 'good for another');
    $clients[0]->query_safe('ROLLBACK');
    is(check_all($jwt, @clients), 't' x 6, 'and for all after ROLLBACK');
    on($primary, revoke_sql($jwt));
    is(check_all($jwt, @clients), 'f' x 6, 'revoked past pgbouncer: no good either');
};

subtest 'keys' => sub {
    on($primary, q{SELECT token_refresh.create_signing_key(kid => 'next')});
    my ($jwt) = sign_in('carol');
    is(check_all($jwt, @clients), 't' x 6, 'what a new key has signed is good');
    on($primary, q{SELECT token_refresh.retire_signing_key('next', '0')});
    is(check_all($jwt, @clients), 'f' x 6, 'and is not once that is retired');
};

subtest 'many at once, writing nothing' => sub {
    on($primary, q{CREATE TABLE held AS SELECT i, jwt_token AS jwt FROM generate_series(1, 50) i, token_refresh.create_session('va', NULL, jsonb_build_object('sub', 'herd ' || i)); GRANT SELECT ON held TO web; VACUUM ANALYZE});
    # The server itself writes now and then, and so does the first who reads fresh pages: what validating writes, it writes
    # every time.
    my ($before, $after);
    for (1 .. 5)
    {
        $before = on($primary, 'SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot())');
        # 1/0 is an error, which pgbench would count.
        my ($ok, $errors) = bench($bouncer, 20, 50, q{\set i random(1, 50)
SELECT 1 / count(token_refresh.validate_jwt(jwt)) FROM held WHERE i = :i;
});
        ok($ok, '1,000 validations by 20 clients, all good') or diag($errors);
        $after = on($primary, 'SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot())');
        last if $after eq $before;
    }
    is($after, $before, 'no WAL, and no transaction id');
    my ($ok) = bench($bouncer, 2, 1, "SELECT 1 / count(token_refresh.validate_jwt(jwt || 'x')) FROM held;\n");
    ok(!$ok, 'a JWT that is no good would have shown');
    is($clients[0]->query_safe('BEGIN READ ONLY; SELECT count(token_refresh.validate_jwt(jwt)) FROM held; COMMIT'), '50', 'in a read-only transaction');
};

subtest 'refreshing' => sub {
    my ($jwt, $session) = sign_in('dora');
    my $token = on($primary, "SELECT refresh_token FROM token_refresh.start_session_refresh('$session')");
    my @next = map { [ split /\|/, $_->query_safe(sprintf('SELECT jwt_token, new_refresh_token FROM token_refresh.refresh_session(%s)', literal($token))) ] } @clients;
    my %successors = map { $_->[1] => 1 } @next;
    is(scalar keys %successors, 1, 'all clients with one token get one successor');
    is(check_all($_->[0], @clients[ 0, 1 ]), 'tt', 'and a good JWT') for @next[ 0, 5 ];
    is(on($primary, "SELECT refreshes, status FROM token_refresh.session_status WHERE session_id = '$session'"), '1|active', 'it was rotated once');

    my $second = (keys %successors)[0];
    my $third = $clients[2]->query_safe(sprintf('SELECT new_refresh_token FROM token_refresh.refresh_session(%s)', literal($second)));
    isnt($third, '', 'the successor gives another');
    is($clients[3]->query_safe(sprintf('SELECT count(*) FROM token_refresh.refresh_session(%s)', literal($token))), '0', 'the first one, presented again, gives nothing');
    is(check_all($next[0][0], @clients), 'f' x 6, 'and has ended the session, for every client');
    is($clients[4]->query_safe(sprintf('SELECT count(*) FROM token_refresh.refresh_session(%s)', literal($third))), '0', 'which nothing refreshes any more');

    # Each in a transaction of its own, all at the same time.
    (undef, $session) = sign_in('erin');
    on($primary, "CREATE TABLE presented AS SELECT refresh_token AS token FROM token_refresh.start_session_refresh('$session'); GRANT SELECT ON presented TO web; CREATE TABLE answered (token text); GRANT INSERT ON answered TO web");
    my ($ok, $errors) = bench($bouncer, 20, 1, "INSERT INTO answered SELECT r.new_refresh_token FROM presented, token_refresh.refresh_session(token) r;\n");
    ok($ok, '20 clients at once') or diag($errors);
    is(on($primary, 'SELECT count(*), count(DISTINCT token) FROM answered'), '20|1', 'get the same successor');
};

subtest 'a standby behind a pgbouncer of its own' => sub {
    $primary->backup('backup');
    my $standby = PostgreSQL::Test::Cluster->new('standby');
    $standby->init_from_backup($primary, 'backup', has_streaming => 1);
    $standby->start;
    my $reader = Bouncer->start($standby, users => ['web'], pool_size => 2);
    my @readers = map { client($reader) } 1 .. 4;
    my $catch_up = sub { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')); };

    my ($jwt, $session) = sign_in('frank');
    $catch_up->();
    is(check_all($jwt, @readers), 't' x 4, 'good for every client');
    is($readers[0]->query_safe('SELECT pg_is_in_recovery()'), 't', 'of the standby');
    my ($ok, $errors) = bench($reader, 10, 20, "SELECT 1 / (count(token_refresh.validate_jwt(jwt)) / 50) FROM held;\n");
    ok($ok, '10,000 validations by 10 clients') or diag($errors);

    # Replay is held back, so that there is something to see in between.
    on($standby, 'SELECT pg_wal_replay_pause()');
    ok($standby->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'}), 'replay is paused');
    is($clients[0]->query_safe(revoke_sql($jwt)), 't', 'revoked on the primary');
    is(check($jwt, $clients[1]), 'f', 'no good there');
    is(check_all($jwt, @readers), 't' x 4, 'good on the standby, which has not heard of it');
    on($standby, 'SELECT pg_wal_replay_resume()');
    $catch_up->();
    is(check_all($jwt, @readers), 'f' x 4, 'no good for any client once it is replayed');
    my (undef, undef, $error) = $standby->psql('postgres', 'SELECT token_refresh.revoke_session(gen_random_uuid())', extra_params => [ '-d', $reader->connstr('web') ]);
    like($error, qr/read-only transaction/, 'revoking is for the primary');
    $_->quit for @readers;
    $reader->stop;
    $standby->stop;
};

$_->quit for @clients;
ok(secrets_absent(read_log($primary) . $bouncer->log, @secrets), 'no JWT is in the logs');
$bouncer->stop;
$primary->stop;
unlike(read_log($primary), qr/TRAP|PANIC|server process .* was terminated/, 'nothing broke');
done_testing();
