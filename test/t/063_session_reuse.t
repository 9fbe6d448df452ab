# A refresh token that is presented again after its grace period ends its session, whatever becomes of the transaction
# in which it was presented.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ApiTokenTest qw(use_node query run_herd);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();
use TokenRefreshTest;

my $node = new_node('main', 'max_connections' => 60, 'log_min_messages' => 'info', 'token_refresh.databases' => 'postgres');
use_node($node);
query(q{SELECT create_provider('va', 'c', 's', '{"token_endpoint": "http://127.0.0.1:9/token"}'); SELECT create_signing_key()});

# A session that has been refreshed twice: its three refresh tokens.
my $number = 0;
sub generations
{
    my ($session, @tokens) = split /\|/, query(sprintf(q{SELECT s.session_id, f.refresh_token, b.new_refresh_token, c.new_refresh_token FROM create_session('va', NULL, '{"sub": "%d"}') s,
        start_session_refresh(s.session_id) f, refresh_session(f.refresh_token) b, refresh_session(b.new_refresh_token) c}, $number++));
    die 'no three tokens' unless @tokens == 3 && $tokens[0] ne $tokens[1] && $tokens[1] ne $tokens[2];
    return ($session, @tokens);
}

sub refresh { my ($token) = @_; return "SELECT count(*) FROM token_refresh.refresh_session('$token')"; }
sub status { my ($session) = @_; return query("SELECT status FROM session_status WHERE session_id = '$session'"); }
sub events { my ($session) = @_; return query("SELECT count(*) FROM audit_event WHERE event = 'session_refresh_reused' AND row_key = '$session'"); }

# Test points: the session has ended, which is in the audit, once.
sub has_ended
{
    my ($session, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    # Should the machine be so busy that nobody waited for the refresher.
    ok($node->poll_query_until('postgres', "SELECT status = 'revoked' FROM token_refresh.session_status WHERE session_id = '$session'"), "$name: the session is revoked");
    is(events($session), '1', "$name: which is in the audit once");
    return;
}

subtest 'whatever the caller does' => sub {
    query(q{CREATE FUNCTION refresh_or_raise(token text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    successor text;
BEGIN
    SELECT new_refresh_token INTO successor FROM token_refresh.refresh_session(token);
    IF NOT FOUND THEN
        RAISE SQLSTATE 'PT401' USING MESSAGE = 'sign in again';
    END IF;
    RETURN successor;
END $$});
    my %way = (
        'committed'       => '%s',
        'rolled back'     => 'BEGIN; %s; ROLLBACK',
        'in error'        => 'BEGIN; %s; SELECT 1/0',
        'REPEATABLE READ' => 'BEGIN ISOLATION LEVEL REPEATABLE READ; %s; ROLLBACK',
        'SERIALIZABLE'    => 'BEGIN ISOLATION LEVEL SERIALIZABLE; %s; ROLLBACK',
        'savepoint'       => 'BEGIN; SAVEPOINT a; %s; ROLLBACK TO a; COMMIT');
    for my $way (sort keys %way)
    {
        my ($session, @tokens) = generations();
        my ($status, $output) = $node->psql('postgres', sprintf($way{$way}, refresh($tokens[0])));
        like($output, qr/^0$/m, "$way: no row");
        has_ended($session, $way);
    }
    my ($session, @tokens) = generations();
    my ($status, $output, $error) = $node->psql('postgres', "SELECT refresh_or_raise('$tokens[0]')");
    like($error, qr/ERROR:  sign in again/, 'a function that raises');
    has_ended($session, 'a function that raises');
    is(query(refresh($tokens[2])), '0', 'the newest token is no good any more');
    ($session, @tokens) = generations();
    query("SELECT refresh_or_raise('$tokens[2]')");
    is(status($session), 'active', 'and none is ended that is not to be');
    is(query(q{SELECT string_agg(DISTINCT actor, ',') FROM audit_event WHERE event = 'session_refresh_reused'}), 'refresher', 'the audit says who has done it');
};

# The refresher can do nothing then, and goes on trying; whoever presents the token does not wait for that.
subtest 'somebody holds the row' => sub {
    my ($session, @tokens) = generations();
    my $holder = background_session($node);
    $holder->query_safe("BEGIN; SELECT FROM token_refresh.session WHERE id = '$session' FOR UPDATE");
    my $began = Time::HiRes::time();
    is(query(refresh($tokens[0])), '0', 'no row');
    cmp_ok(Time::HiRes::time() - $began, '<', 10, 'without waiting');
    is(status($session), 'active', 'nothing is done yet');
    $holder->query_safe('ROLLBACK');
    $holder->quit;
    poll_until($node, "SELECT status = 'revoked' FROM token_refresh.session_status WHERE session_id = '$session'", 'when the row is free it is done, without anybody asking again');
    has_ended($session, 'then');

    # The caller itself, who has refreshed before in his transaction.
    for my $end ('COMMIT', 'ROLLBACK')
    {
        ($session, @tokens) = generations();
        is(query('BEGIN; ' . refresh($tokens[1]) . '; ' . refresh($tokens[0]) . "; $end"), "1\n0", "held by the caller, $end");
        poll_until($node, "SELECT status = 'revoked' FROM token_refresh.session_status WHERE session_id = '$session'", 'done as soon as he has ended');
        has_ended($session, 'then');
    }
};

# Nobody else sees what the caller's transaction has written: it revokes.
subtest 'what is not committed' => sub {
    my ($session, @tokens) = generations();
    is(query('BEGIN; ' . refresh($tokens[2]) . '; ' . refresh($tokens[0]) . '; COMMIT'), "1\n0", 'refreshed and presented again in one transaction');
    has_ended($session, 'COMMIT');
    ($session, @tokens) = generations();
    is(query('BEGIN; ' . refresh($tokens[2]) . '; ' . refresh($tokens[2]) . "; SAVEPOINT a; " . refresh($tokens[0]) . '; ROLLBACK TO a; ' . refresh($tokens[2]) . '; ROLLBACK'), "1\n1\n0\n1", 'the same in a subtransaction');
    is(query(q{BEGIN; SELECT session_id AS session FROM create_session('va', NULL, '{"sub": "new"}') \gset
        SELECT refresh_token AS a FROM start_session_refresh(:'session') \gset
        SELECT new_refresh_token AS b FROM refresh_session(:'a') \gset
        SELECT new_refresh_token AS c FROM refresh_session(:'b') \gset
        SELECT count(*) FROM refresh_session(:'a');
        SELECT count(*) FROM refresh_session(:'c');
        SELECT status FROM session_status WHERE session_id = :'session'; COMMIT}), "0\n0\nrevoked", 'a session of the same transaction');
};

# It was good when it was looked at, and is not when the lock is there.
subtest 'reused while others refresh' => sub {
    for my $end ('COMMIT', 'ROLLBACK')
    {
        my ($session, @tokens) = generations();
        my ($first, $late) = map { background_session($node) } 1 .. 2;
        my $next = $first->query_safe("BEGIN; SELECT new_refresh_token FROM token_refresh.refresh_session('$tokens[2]')");
        $first->query_safe(refresh($next));
        $late->query_safe('BEGIN');
        $late->query_until(qr/presenting/, "\\echo presenting\n" . refresh($tokens[1]) . ";\n");
        $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'refresh_session' AND wait_event_type = 'Lock'}) or die 'it does not wait';
        $first->query_safe('COMMIT');
        is($late->query_safe(q{SELECT 'end'}), "0\nend", 'no row');
        is(status($session), 'active', 'nothing is to be seen yet');
        $late->query_safe($end);
        poll_until($node, "SELECT status = 'revoked' FROM token_refresh.session_status WHERE session_id = '$session'", "done after $end");
        has_ended($session, $end);
        $_->quit for $first, $late;
    }
};

subtest 'by twenty at once' => sub {
    my ($session, @tokens) = generations();
    ok(run_herd(20, "BEGIN;\nGATE;\nSELECT * FROM refresh_session('$tokens[0]');\nROLLBACK;"), 'all have an answer');
    has_ended($session, 'a herd');
    my @many = map { [ generations() ] } 1 .. 10;
    query(join '; ', 'BEGIN', (map { refresh($_->[1]) } @many), 'ROLLBACK');
    has_ended($_->[0], 'one of many') for @many;
};

# Where there is none the caller's transaction does it.
subtest 'without a refresher' => sub {
    $node->safe_psql('postgres', 'CREATE DATABASE apart');
    my $there = sub { return $node->safe_psql('apart', "SET search_path = public, token_refresh; $_[0]"); };
    $there->(q{CREATE EXTENSION token_refresh; SELECT create_provider('va', 'c', 's', '{"token_endpoint": "http://127.0.0.1:9/token"}'); SELECT create_signing_key();
        CREATE TABLE held AS SELECT s.session_id, f.refresh_token AS a, c.new_refresh_token AS c FROM create_session('va', NULL, '{"sub": "x"}') s,
            start_session_refresh(s.session_id) f, refresh_session(f.refresh_token) b, refresh_session(b.new_refresh_token) c});
    ok($node->poll_query_until('apart', 'SELECT NOT token_refresh._report_session_reuse(gen_random_uuid(), true)'), 'there is none');
    is($there->('BEGIN; SELECT count(r) FROM held, refresh_session(a) r; SELECT status FROM session_status; ROLLBACK; SELECT status FROM session_status'), "0\nrevoked\nactive", 'a ROLLBACK takes it back');
    is($there->('SELECT count(r) FROM held, refresh_session(a) r; SELECT status FROM session_status'), "0\nrevoked", 'and a COMMIT does not');
    is($there->(q{SELECT count(*) FROM audit_event WHERE event = 'session_refresh_reused'}), '1', 'it is in the audit');
};

$node->stop;
unlike(read_log($node), qr/TRAP|PANIC|server process .* was terminated|revoking a session failed/, 'nothing broke');
done_testing();
