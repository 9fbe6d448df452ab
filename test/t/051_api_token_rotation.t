# Rotation of API tokens: one successor for everybody who asks, whatever becomes of their transactions; nobody is
# locked out by a rollback, a lock, a cancel, a crash.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ApiTokenTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $callers = 100;
my $node    = new_node('main', 'max_connections' => $callers + 30, 'restart_after_crash' => 'on', 'log_min_messages' => 'info');
use_node($node);
query('CREATE TABLE seen (test text, is_valid boolean, new_token text, reason text, message text)');

# Test points: the old token gives this successor to whoever comes next, and both are good.
sub nobody_is_locked_out
{
    my ($token, $id, $known, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($valid, $reason, $new) = refresh($token);
    is("$valid $reason", 't EXPIRING_SOON', "$what: the old token is good and gives a successor");
    is($new, $known, "$what: the same as before") if defined $known;
    is(is_valid($new), 't', "$what: which is good");
    is(family_size($id) . ' ' . events($id, 'rotated'), '2 1', "$what: one successor, one rotation");
    return;
}

my $note_result = 'INSERT INTO seen SELECT %s, is_valid, new_token, refresh_reason, message FROM validate_and_refresh_api_token(%s)';

for my $isolation ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
    subtest "$callers sessions, $isolation" => sub {
        my ($token, $id) = due_token($isolation);
        # The snapshot of the stricter levels is taken before anybody rotates.
        ok(run_herd($callers, "BEGIN ISOLATION LEVEL $isolation;\nGATE;\n" . sprintf($note_result, literal($isolation), literal($token)) . ";\nCOMMIT;"), 'no session failed');
        my ($answers, $valid, $given, $different) = split /\|/,
            query("SELECT count(*), count(*) FILTER (WHERE is_valid), count(new_token), count(DISTINCT new_token) FROM seen WHERE test = '$isolation'");
        is("$answers $valid", "$callers $callers", 'the token is good for everybody');
        is($different, 1, "one successor; $given sessions have it");
        is($given, $callers, 'all of them') or diag(query("SELECT DISTINCT reason, message FROM seen WHERE test = '$isolation'"));
        nobody_is_locked_out($token, $id, query("SELECT DISTINCT new_token FROM seen WHERE test = '$isolation' AND new_token IS NOT NULL"), 'after it');
        is(query("SELECT string_agg(status, ' ' ORDER BY token_id) FROM api_token_status WHERE family = $id"), 'grace active', 'the states');
    };
}

subtest 'different functions at once' => sub {
    my ($token, $id) = due_token('mixed');
    my $gate = background_session($node);
    $gate->query_safe('SELECT pg_advisory_lock(1)');
    my @herds = map { start_herd(20, "SELECT pg_advisory_lock_shared(1);\nINSERT INTO seen SELECT 'mixed', true, new_token, refresh_reason FROM $_;") }
        ("validate_and_refresh_api_token('$token')", "refresh_api_token('$token', 0, true)", "refresh_api_token('$token')");
    push @herds, start_herd(5, "SELECT pg_advisory_lock_shared(1);\nSELECT tokens_failed FROM refresh_expiring_tokens_batch();");
    $node->poll_query_until('postgres', q{SELECT count(*) = 65 FROM pg_stat_activity WHERE application_name = 'herd' AND wait_event = 'advisory'});
    $gate->quit;
    is(scalar(grep { finish_herd($_) } @herds), 4, 'no session failed');
    is(query(q{SELECT count(DISTINCT new_token) FROM seen WHERE test = 'mixed'}), '1', 'one successor');
    is(family_size($id), 2, 'is stored');
};

subtest 'ROLLBACK' => sub {
    my $call = 'SELECT new_token FROM token_refresh.validate_and_refresh_api_token(%s)';
    my %way = (
        'of the transaction' => 'BEGIN; ' . $call . '; ROLLBACK;',
        'to a savepoint'     => 'BEGIN; SAVEPOINT s; ' . $call . '; ROLLBACK TO s; COMMIT;',
        'by an error'        => 'BEGIN; ' . $call . '; SELECT 1/0; COMMIT;',
        'at REPEATABLE READ' => 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class WHERE false; ' . $call . '; ROLLBACK;',
        'of a lost client'   => 'BEGIN; ' . $call . '; SELECT pg_terminate_backend(pg_backend_pid());');
    for my $way (sort keys %way)
    {
        my ($token, $id) = due_token('rollback');
        my ($status, $output) = $node->psql('postgres', sprintf($way{$way}, literal($token)));
        my ($new) = $output =~ /^(tr_\S{48})$/m;
        isnt($new, undef, "$way: the client has got a successor") or next;
        is(is_valid($new), 't', "$way: it is good");
        nobody_is_locked_out($token, $id, $new, $way);
    }
    # A statement that fails has told the client nothing.
    my ($token, $id) = due_token('rollback');
    $node->psql('postgres', sprintf('SELECT new_token, 1 / (length(new_token) - 51) FROM token_refresh.validate_and_refresh_api_token(%s)', literal($token)));
    is(events($id, 'rotated'), 1, 'a statement that fails: it was rotated');
    nobody_is_locked_out($token, $id, undef, 'a statement that fails');
};

sub refresher { return query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'"); }

# A session that waits for a refresher that does not answer. It asks again when its patience ends, so as to be found waiting.
sub start_waiting
{
    my ($token) = @_;
    my $query = start_query($node, "SELECT v.* FROM generate_series(1, 60) i, token_refresh.validate_and_refresh_api_token(concat('$token', left(i::text, 0))) v", name => 'waits');
    $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waits' AND wait_event_type = 'Extension'}) or die 'it does not wait';
    return $query;
}

subtest 'a refresher that is slow to answer' => sub {
    my $pid = refresher();
    for my $end (qw(pg_cancel_backend pg_terminate_backend))
    {
        my ($token, $id) = due_token('slow');
        kill('STOP', $pid) or die "cannot stop the refresher: $!";
        my $caller = start_waiting($token);
        query("SELECT $end(pid) FROM pg_stat_activity WHERE application_name = 'waits'");
        like(($caller->finish)[1], qr/canceling statement|terminating connection/, "$end ends the wait");
        kill('CONT', $pid);
        nobody_is_locked_out($token, $id, undef, "after $end");
    }
    my ($token, $id) = due_token('patient');
    kill('STOP', $pid);
    is(query("SELECT is_valid, refresh_reason, message FROM validate_and_refresh_api_token('$token')"),
        't|REFRESH_FAILED|token valid but not refreshed: the refresher did not answer in time; the successor comes with a later call', 'nobody waits for long');
    kill('CONT', $pid);
    nobody_is_locked_out($token, $id, undef, 'later');
};

subtest 'the refresher is killed' => sub {
    my ($before, $before_id) = due_token('before');
    my (undef, undef, $known) = refresh($before);
    my ($token, $id) = due_token('killed');
    my $pid = refresher();
    kill('STOP', $pid);
    my $caller = start_waiting($token);
    kill('KILL', $pid);
    $caller->finish;
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $pid") or die 'the refresher did not come back';
    nobody_is_locked_out($token, $id, undef, 'while somebody waited');
    nobody_is_locked_out($before, $before_id, $known, 'after a rotation');
    # In the middle of many.
    query(q{CREATE TABLE many AS SELECT token, token_id FROM generate_series(1, 1000) i, issue_api_token(concat('many', left(i::text, 0)), '{api:read}', '1 day'); UPDATE api_token SET expires_at = now() + '1 hour' WHERE owner = 'many'});
    $pid = refresher();
    my $herd = start_herd(8, 'INSERT INTO seen SELECT token, is_valid, new_token FROM many, validate_and_refresh_api_token(token) WHERE token_id % 8 = :client_id;');
    $node->poll_query_until('postgres', q{SELECT count(*) > 80 FROM token_refresh.api_token WHERE owner = 'many' AND retires_at IS NOT NULL}) or die 'nothing is rotated';
    kill('KILL', $pid);
    $herd->{run}->finish;
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $pid") or die 'the refresher did not come back';
    note(query(q{SELECT count(*) || ' of 1000 were rotated before it' FROM api_token WHERE owner = 'many' AND retires_at IS NOT NULL}));
    query('CREATE TABLE next AS SELECT r.new_token FROM many, validate_and_refresh_api_token(token) r');
    is(query('SELECT count(*), count(DISTINCT new_token), count(*) FILTER (WHERE v.is_valid) FROM next, validate_api_token(new_token) v'),
        '1000|1000|1000', 'every token has a successor that is good');
    is(query(q{SELECT count(*) FROM api_token WHERE owner = 'many'}), '2000', 'and but one');
};

subtest 'locks of others' => sub {
    my ($token, $id) = due_token('locked');
    my $session = background_session($node);
    for my $lock ("SELECT id FROM token_refresh.api_token WHERE id = $id FOR UPDATE", "SELECT token_refresh.revoke_api_token($id)", "UPDATE token_refresh.api_token SET owner = owner WHERE id = $id")
    {
        $session->query_safe("BEGIN; $lock");
        is(query("SELECT is_valid, was_refreshed, refresh_reason, message FROM validate_and_refresh_api_token('$token')"),
            't|f|REFRESH_FAILED|token valid but not refreshed: another transaction has the token in hand; its successor comes with a later call', $lock =~ s/.*?(FOR UPDATE|revoke|SET).*/$1/r);
        $session->query_safe('ROLLBACK');
    }
    nobody_is_locked_out($token, $id, undef, 'when the locks are gone');
    # Not committed yet.
    my ($fresh) = $session->query_safe("BEGIN; SELECT token FROM token_refresh.issue_api_token('fresh', '{api:read}')") =~ /(tr_\S{48})/;
    is(query("SELECT is_valid, message FROM validate_api_token('$fresh')"), 'f|the token is unknown', 'a token of another transaction is unknown before its COMMIT');
    is(query("SELECT revoke_api_token('$fresh')"), 'f', 'and cannot be revoked');
    $session->query_safe('COMMIT');
    is(is_valid($fresh), 't', 'after it, it is good');
    # A revocation counts from its COMMIT on, under any isolation level.
    $session->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class; SELECT is_valid FROM token_refresh.validate_api_token('$fresh')");
    query("SELECT revoke_api_token('$fresh')");
    like($session->query_safe("SELECT message FROM token_refresh.validate_api_token('$fresh')"), qr/revoked/, 'revoked in the eyes of an older snapshot, too');
    $session->query_safe('COMMIT');
    # A transaction that cannot see a token does not say that there was nothing to revoke.
    $session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
    my ($newer) = due_token('newer');
    like($session->query_safe("SELECT is_valid FROM token_refresh.validate_api_token('$newer')"), qr/^t$/m, 'a token that is newer than the snapshot is good');
    my ($answer, $failed) = $session->query("\\set VERBOSITY sqlstate\nSELECT token_refresh.revoke_api_token('$newer')");
    like($session->{stderr}, qr/40001/, 'revoking it fails, to be tried again');
    $session->{stderr} = '';
    $session->query_safe('ROLLBACK');
    is(query("SELECT revoke_api_token('$newer')"), 't', 'in another transaction');
    # All changes of a transaction that is rolled back go with it.
    my ($lost) = $session->query_safe("BEGIN; SELECT r.new_token FROM token_refresh.issue_api_token('lost', '{a}') i, token_refresh.refresh_api_token(i.token, 0, true) r; ROLLBACK") =~ /(tr_\S{48})/;
    is(is_valid($lost), 'f', 'issued, refreshed and rolled back: unknown');
    $session->quit;
};

# The client is told at once, so it is on disk before, whatever the setting.
subtest 'a crash with synchronous_commit off' => sub {
    $node->append_conf('postgresql.conf', "synchronous_commit = off\nwal_writer_delay = '10s'\nrestart_after_crash = on");
    $node->restart;
    for my $round (1 .. 3)
    {
        my ($token) = due_token("crash$round");
        query('SELECT pg_switch_wal()');
        my $pid = query(q{SELECT pid FROM _refresher_state()});
        my (undef, $reason, $new) = refresh($token);
        kill('KILL', $pid);
        is($reason, 'EXPIRING_SOON', 'handed over');
        poll_until($node, "SELECT true", 'the server is back');
        poll_until($node, "SELECT pid <> $pid FROM token_refresh._refresher_state()", 'and the refresher');
        is(is_valid($new), 't', 'the successor is good');
    }
    $node->append_conf('postgresql.conf', 'synchronous_commit = on');
    $node->reload;
};

subtest 'a successor that is revoked' => sub {
    my ($token, $id) = due_token('heir');
    my (undef, undef, $new) = refresh($token);
    is(query("SELECT revoke_api_token('$new')"), 't', 'by its holder');
    is(join(' ', refresh($token)), 'f TOKEN_INVALID ', 'takes its predecessor with it');
    ($token, $id) = due_token('heir');
    (undef, undef, $new) = refresh($token);
    query("UPDATE api_token SET revoked_at = now() WHERE predecessor = $id");
    is(query("SELECT is_valid, refresh_reason, new_token, message FROM validate_and_refresh_api_token('$token')"), 't|REFRESH_FAILED||token valid but not refreshed: the token has been revoked', 'by an administrator, alone: it is not given out');
    query("DELETE FROM api_token WHERE predecessor = $id");
    is(query("SELECT is_valid, refresh_reason, new_token FROM validate_and_refresh_api_token('$token')"), 't|REFRESH_FAILED|', 'or deleted');
};

$node->stop;
my $log = read_log($node);
unlike($log, qr/deadlock detected|TRAP|PANIC|could not serialize/, 'no deadlock, no serialization failure');
done_testing();
