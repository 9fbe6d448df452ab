# Validating API tokens costs a read and nothing else; use is counted in shared memory and written down later; who may
# do what; sessions that outlive the extension; other databases; without preloading.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node = new_node('main', 'restart_after_crash' => 'on', 'log_min_messages' => 'info', 'autovacuum' => 'off', 'wal_level' => 'minimal', 'max_wal_senders' => 0,
    'token_refresh.api_token_use_interval' => '1h', 'token_refresh.api_token_use_slots' => 1024);

sub query_in { my ($database, $sql) = @_; return $node->safe_psql($database, "SET search_path = public, token_refresh;\n$sql"); }
sub query { return query_in('postgres', $_[0]); }

sub error_of { my ($sql, %option) = @_; my ($status, $output, $error) = $node->psql('postgres', $sql, %option); return $error =~ /ERROR:  (.*)/ ? $1 : "no error, but $output"; }

sub issue { my ($owner) = @_; return split /\|/, query("SELECT token, token_id FROM issue_api_token('$owner', '{api:read}')"); }

sub uses { my ($id) = @_; return query("SELECT use_count FROM api_token_status WHERE token_id = $id"); }

# With a new value the refresher writes down what is older than it.
sub set_interval { my ($interval) = @_; $node->append_conf('postgresql.conf', "token_refresh.api_token_use_interval = '$interval'"); $node->reload; return; }

query(q{CREATE TABLE held AS SELECT i AS n, token, token_id FROM generate_series(1, 1500) i, issue_api_token(concat('held', left(i::text, 0)), '{api:read}')});

subtest 'a read and nothing else' => sub {
    query('VACUUM');
    query('SELECT count(*) FROM held, validate_api_token(token) v WHERE is_valid');
    query('CHECKPOINT');
    my $wal = query('SELECT pg_current_wal_insert_lsn()');
    is(query(q{BEGIN; SELECT count(*) FROM held, validate_api_token(token, 'api:read') v WHERE is_valid; SELECT pg_current_xact_id_if_assigned(); COMMIT}), "1500\n", 'no transaction id: validate_api_token');
    is(query(q{BEGIN; SELECT count(*) FROM held, validate_and_refresh_api_token(token) v WHERE is_valid; SELECT pg_current_xact_id_if_assigned(); COMMIT}), "1500\n", 'validate_and_refresh_api_token');
    is(query(q{BEGIN; SELECT count(*) FROM held, get_token_refresh_status(token) v WHERE is_valid; SELECT pg_current_xact_id_if_assigned(); COMMIT}), "1500\n", 'get_token_refresh_status');
    is(query(q{SELECT count(*) FROM held, validate_api_token(token || 'x') v WHERE is_valid}), '0', 'garbage');
    is(query('SELECT pg_current_wal_insert_lsn()'), $wal, 'no WAL');
    is(query('SELECT count(*) FROM api_token_use'), '0', 'no use is written down yet');
};

# Parallel workers really do it.
subtest 'parallel query' => sub {
    my $setup = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2; ';
    query('ANALYZE held; ALTER TABLE held SET (parallel_workers = 2)');
    my $sql = 'SELECT count(*) FROM held, token_refresh.%s(token) v WHERE v.is_valid';
    for my $function (qw(validate_api_token get_token_refresh_status))
    {
        like(query($setup . 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' . sprintf($sql, $function)), qr/Workers Launched: [12]/, "$function: with workers");
        is(query("$setup BEGIN ISOLATION LEVEL $_; " . sprintf($sql, $function)), '1500', "$function: the right answer, $_") for ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
    }
    query(q{SELECT import_api_token(sha256('ovt_here'), 'vault', '{api:read}', now() + '30 days', 'ovt_')});
    is(query($setup . sprintf($sql, 'validate_api_token') =~ s/\(token\)/('ovt_here' || left(token, 0))/r), '1500', 'workers read the imported prefixes');
    # Presented in a parallel query after the grace period.
    my ($token, $id) = issue('parallel');
    my $next = query("SELECT new_token FROM refresh_api_token('$token', 0, true)");
    query("UPDATE api_token SET retires_at = now() WHERE id = $id");
    is(query($setup . sprintf($sql, 'validate_api_token') =~ s/\(token\)/('$token' || left(token, 0))/r), '0', 'a reuse in a parallel query');
    is(query("SELECT is_valid, message FROM validate_api_token('$next')"), 'f|the token has been revoked', 'ends the family');
    is(query("SELECT count(*) FROM audit_event WHERE event = 'api_token_reused' AND row_key = '$id'"), '1', 'once');
};

subtest 'use' => sub {
    # What was used until now has filled the slots.
    $node->restart;
    my ($token, $id) = issue('used');
    query("SELECT count(*) FROM generate_series(1, 50) i, validate_api_token(concat('$token', left(i::text, 0)))");
    query("BEGIN READ ONLY; SELECT is_valid FROM validate_api_token('$token')");
    query("BEGIN; SELECT is_valid FROM validate_and_refresh_api_token('$token'); ROLLBACK");
    query("SELECT is_valid FROM validate_api_token('$token', 'other:scope')");
    query("SELECT is_valid FROM validate_api_token('${token}x')");
    is(uses($id), '0', 'it is noted, not written');
    set_interval('1s');
    poll_until($node, "SELECT use_count = 53 FROM token_refresh.api_token_status WHERE token_id = $id", 'after the interval all 53 are');
    is(query("SELECT last_used_at BETWEEN now() - interval '1 minute' AND now() FROM api_token_status WHERE token_id = $id"), 't', 'with the time');
    # What has just been revoked or expired is not used by being refused.
    my ($other, $other_id) = issue('refused');
    query("SELECT revoke_api_token($other_id)");
    query("SELECT is_valid FROM validate_api_token('$other')") for 1 .. 3;
    query("SELECT is_valid FROM validate_api_token('$token')");
    poll_until($node, "SELECT use_count = 54 FROM token_refresh.api_token_status WHERE token_id = $id", 'later uses are added');
    is(uses($other_id), '0', 'who is refused does not use a token');

    # Idle again: nothing is written, by nobody.
    query('VACUUM');
    query('CHECKPOINT');
    my $wal = query('SELECT pg_current_wal_insert_lsn()');
    query('SELECT pg_sleep(2.5)');
    is(query('SELECT pg_current_wal_insert_lsn()'), $wal, 'nothing is written when there was no use');
    # One use of a token that was used before.
    my $before = query("SELECT last_used_at FROM api_token_status WHERE token_id = $id");
    query("SELECT is_valid FROM validate_api_token('$token')");
    poll_until($node, "SELECT last_used_at > '$before' AND use_count = 55 FROM token_refresh.api_token_status WHERE token_id = $id", 'the next use is');

    # A fast shutdown writes it down; a crash loses what was noted since.
    set_interval('1h');
    query("SELECT is_valid FROM validate_api_token('$token')") for 1 .. 5;
    is(uses($id), '55', 'not yet');
    $node->restart;
    is(uses($id), '60', 'a shutdown writes down what was noted');
    query("SELECT is_valid FROM validate_api_token('$token')") for 1 .. 5;
    $node->stop('immediate');
    $node->start;
    is(uses($id), '60', 'a crash loses what was noted since, not more');
    query("SELECT is_valid FROM validate_api_token('$token')");
    $node->restart;
    is(uses($id), '61', 'and counting goes on');

    # A database without a refresher fills the slots with notes that nobody takes; they do not stay in the way for ever.
    $node->append_conf('postgresql.conf', "token_refresh.databases = 'postgres'\ntoken_refresh.api_token_use_interval = '1s'");
    $node->restart;
    $node->safe_psql('postgres', 'CREATE DATABASE unserved');
    query_in('unserved', 'CREATE EXTENSION token_refresh');
    query_in('unserved', q{SELECT count(*) FROM generate_series(1, 3000) i, issue_api_token(concat('x', i), '{a}') t, validate_api_token(t.token) v});
    query(q{CREATE TABLE seldom AS SELECT token, token_id FROM generate_series(1, 20) i, issue_api_token(concat('seldom', i), '{a}')});
    poll_until($node, q{SELECT count(v.is_valid) = 20 AND (SELECT count(*) = 20 FROM token_refresh.api_token_use u, public.seldom s WHERE u.token_id = s.token_id)
        FROM public.seldom, token_refresh.validate_api_token(token) v}, 'notes of a database that nobody serves give way');
    $node->safe_psql('postgres', 'DROP DATABASE unserved');
    $node->append_conf('postgresql.conf', "token_refresh.databases = ''");
    set_interval('1h');
    $node->restart;
};

subtest 'more tokens than slots' => sub {
    query('DELETE FROM api_token_use');
    my $script = PostgreSQL::Test::Utils::tempdir() . '/all.sql';
    append_to_file($script, "SELECT count(*) FROM held, token_refresh.validate_api_token(token) WHERE is_valid AND n % 4 = :client_id;\n");
    my ($output, $error) = ('', '');
    ok(IPC::Run::run([ $node->installed_command('pgbench'), '-n', '-c', 4, '-j', 2, '-t', 4, '-f', $script, $node->connstr('postgres') ], '<', \undef, '>', \$output, '2>', \$error), '1,500 tokens are used at once')
        or diag($error);
    $node->restart;
    my ($noted, $least, $most) = split /\|/, query(q{SELECT count(*), min(use_count), max(use_count) FROM api_token_use});
    cmp_ok($noted, '<=', 1024, "$noted were noted, no more than there are slots");
    cmp_ok($noted, '>', 500, 'but many');
    is("$least $most", '4 4', 'correctly');
    query(q{DELETE FROM api_token_use; SELECT count(*) FROM held, validate_api_token(token) WHERE is_valid AND n % 15 = 0});
    $node->restart;
    is(query('SELECT count(*), max(use_count) FROM api_token_use'), '100|1', 'the slots are free again');
};

subtest 'two databases' => sub {
    $node->safe_psql('postgres', 'CREATE DATABASE other');
    $node->safe_psql('other',    'CREATE EXTENSION token_refresh');
    # The same id in both.
    my ($here, $id) = issue('both');
    query_in('other', "ALTER SEQUENCE api_token_id_seq RESTART $id");
    my ($there, $same_id) = split /\|/, query_in('other', q{SELECT token, token_id FROM issue_api_token('both', '{api:read}')});
    is($same_id, $id, 'two databases with a token of the same id');
    is(query("SELECT message FROM validate_api_token('$there')"), 'the token is unknown', 'a token is of one database');
    query("SELECT is_valid FROM validate_api_token('$here')") for 1 .. 3;
    query_in('other', "SELECT is_valid FROM validate_api_token('$there')") for 1 .. 2;
    my $next = query("SELECT new_token FROM refresh_api_token('$here', 0, true)");
    my $next_there = query_in('other', "SELECT new_token FROM refresh_api_token('$there', 0, true)");
    isnt($next, $next_there, 'each has its own successor');
    $node->restart;
    is(uses($id) . ' ' . query_in('other', "SELECT use_count FROM api_token_status WHERE token_id = $id"), '4 3', 'uses are written where they happened');
    $node->safe_psql('postgres', 'DROP DATABASE other');
};

subtest 'privileges' => sub {
    my ($token, $id) = issue('theirs');
    query('CREATE ROLE nobody LOGIN; CREATE ROLE gateway LOGIN; CREATE ROLE importer LOGIN; GRANT USAGE ON SCHEMA token_refresh TO gateway, importer;
        GRANT EXECUTE ON FUNCTION validate_api_token TO gateway;
        GRANT EXECUTE ON FUNCTION import_api_token(bytea, text, text[], timestamptz, text, text, bytea, bytea, timestamptz, boolean, interval) TO importer');
    my %call = (
        issue_api_token => "('o', '{a}')", validate_api_token => "('$token')", validate_and_refresh_api_token => "('$token')", refresh_api_token => "('$token', 0, true)",
        get_token_refresh_status => "('$token')", revoke_api_token => "('$token')", refresh_expiring_tokens_batch => '()', import_api_token => "(sha256('x'), 'o', '{a}', now())",
        _rotate_api_tokens => "('{$id}', true)", _revoke_family => "($id, 'x', $id, 'x')", _make_api_token => "('x')", _make_successors => "('{1}', '{x}')", _find_api_token => "('$token')",
        _flush_api_token_use => "('{}', '{}', '{}')", _tidy_api_tokens => "('0', 1)", discard_successors => '()', _reseal_api_tokens => '(0, 10)');
    my @tables = qw(api_token api_token_use api_token_status imported_token_prefix);
    my $call = sub { my ($role, $name) = @_; return error_of("SELECT * FROM token_refresh.$name$call{$name}", extra_params => [ '-U', $role ]); };
    my $read = sub { my ($role, $name) = @_; return error_of("SELECT * FROM token_refresh.$name", extra_params => [ '-U', $role ]); };
    is(join(', ', grep { $call->('nobody', $_) !~ /^permission denied for schema/ } sort keys %call), '', 'a role with nothing can call nothing');
    is(join(', ', grep { $read->('nobody', $_) !~ /^permission denied for schema/ } @tables), '', 'and read nothing');
    is(join(', ', grep { $call->('gateway', $_) !~ /^permission denied for function/ } sort keys %call), 'validate_api_token', 'with EXECUTE on validate_api_token alone that is what works');
    is(join(', ', grep { $read->('gateway', $_) !~ /^permission denied for (table|view)/ } @tables), '', 'without reading a table');
    is($node->safe_psql('postgres', "SELECT is_valid, message FROM token_refresh.validate_api_token('$token', 'api:read')", extra_params => [ '-U', 'gateway' ]), 't|token valid', 'it validates');
    is(join(', ', grep { $call->('importer', $_) !~ /^permission denied for function/ } sort keys %call), 'import_api_token', 'another role may import');
    is(query(q{SELECT is_valid FROM validate_api_token('x')}), 'f', 'what it has imported had expired');

    # Row-level security does not apply to who presents a token: presenting it is what counts.
    query('GRANT EXECUTE ON FUNCTION validate_and_refresh_api_token, refresh_api_token, get_token_refresh_status TO gateway');
    query("UPDATE api_token SET expires_at = now() + '1 day' WHERE id = $id");
    like($node->safe_psql('postgres', "SELECT refresh_reason, new_token FROM token_refresh.validate_and_refresh_api_token('$token')", extra_params => [ '-U', 'gateway' ]), qr/^EXPIRING_SOON\|tr_/, 'who may execute it gets the successor, without rights on tables');
    # In a transaction of its own writing, as in a session without a refresher, the extension's rights are lent and given back.
    query('GRANT EXECUTE ON FUNCTION issue_api_token TO gateway');
    is($node->safe_psql('postgres', "BEGIN; SELECT success FROM token_refresh.issue_api_token('o', '{a}') i, token_refresh.refresh_api_token(i.token, 0, true); SELECT current_user, current_setting('search_path'); COMMIT", extra_params => [ '-U', 'gateway' ]),
        qq{t\ngateway|"\$user", public}, 'rights and search_path are given back');
    # What the role has of the same name is not taken for the extension's.
    query(q{ALTER ROLE gateway SET search_path = pg_temp, token_refresh, pg_catalog; GRANT TEMPORARY ON DATABASE postgres TO gateway});
    is($node->safe_psql('postgres', q{CREATE TEMP TABLE api_token (id bigint); CREATE FUNCTION pg_temp._rotate_api_tokens(bigint[], boolean) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''mine''; END';
        BEGIN; CREATE TEMP TABLE mine AS SELECT r.new_token, r.refresh_reason FROM issue_api_token('o', '{a}') i, refresh_api_token(i.token, 0, true) r; SELECT v.is_valid, refresh_reason FROM mine, validate_api_token(new_token) v; COMMIT}, extra_params => [ '-U', 'gateway' ]), 't|FORCED', 'with a search_path of the role');
};

subtest 'a session that outlives the extension' => sub {
    my $session = background_session($node);
    my $life = q{BEGIN; SELECT i.token, r.success FROM token_refresh.issue_api_token('o', '{a}', prefix => 'mine_') i, token_refresh.refresh_api_token(i.token, 0, true) r; COMMIT};
    my ($token) = $session->query_safe($life) =~ /(mine_\S{48})\|t/;
    like($session->query_safe("SELECT is_valid FROM token_refresh.validate_api_token('$token')"), qr/t/, 'a session that knows the tables');
    $session->query_safe(q{SELECT token_refresh.import_api_token(sha256('hers_1'), 'o', '{a}', now() + '1 day', 'hers_')});
    like($session->query_safe(q{SELECT is_valid FROM token_refresh.validate_api_token('hers_1')}), qr/t/, 'and the prefixes');
    $node->safe_psql('postgres', 'DROP EXTENSION token_refresh');
    my $fails = sub { my (undef, $failed) = $session->query("SELECT is_valid FROM token_refresh.validate_api_token('$token')"); $session->{stderr} = ''; return $failed; };
    ok($fails->(), 'after DROP EXTENSION it gets an error');
    $node->safe_psql('postgres', 'CREATE EXTENSION token_refresh');
    like($session->query_safe("SELECT message FROM token_refresh.validate_api_token('$token')"), qr/unknown/, 'after CREATE EXTENSION an old token is unknown');
    like($session->query_safe(q{SELECT message FROM token_refresh.validate_api_token('hers_1')}), qr/malformed/, 'and the old prefix');
    my ($new) = $session->query_safe($life) =~ /(mine_\S{48})\|t/;
    isnt($new, undef, 'issuing and refreshing work again');
    like($session->query_safe("SELECT is_valid FROM token_refresh.validate_api_token('$new')"), qr/t/, 'validating too');
    like($session->query_safe("SELECT new_token FROM token_refresh.validate_and_refresh_api_token('$new', NULL)"), qr/mine_/, 'and handing over');
    $session->query_safe(q{SELECT token_refresh.import_api_token(sha256('hers_1'), 'o', '{a}', now() + '1 day', 'hers_')});
    like($session->query_safe(q{SELECT is_valid FROM token_refresh.validate_api_token('hers_1')}), qr/t/, 'and importing');
    # In the transaction that makes the extension.
    $node->safe_psql('postgres', 'DROP EXTENSION token_refresh');
    like($session->query_safe(qq{BEGIN; CREATE EXTENSION token_refresh; CREATE TABLE young AS SELECT token FROM token_refresh.issue_api_token('o', '{a}'); SELECT v.is_valid FROM young, token_refresh.validate_api_token(token) v; ROLLBACK}), qr/^t$/m, 'in the transaction of CREATE EXTENSION');
    ok($fails->(), 'which was rolled back');
    $node->safe_psql('postgres', 'CREATE EXTENSION token_refresh');
    $session->quit;
};

subtest 'without preloading' => sub {
    $node->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
    $node->restart;
    my ($token, $id) = issue('bare');
    is(query("SELECT is_valid FROM validate_api_token('$token')"), 't', 'issued and validated');
    query("UPDATE api_token SET expires_at = now() + '1 day' WHERE id = $id");
    my ($reason, $next) = split /\|/, query("SELECT refresh_reason, new_token FROM validate_and_refresh_api_token('$token')");
    is($reason, 'EXPIRING_SOON', 'refreshed, in the transaction of the caller');
    is(query("SELECT new_token FROM validate_and_refresh_api_token('$token')"), $next, 'the same successor for all');
    my $third = query("BEGIN; SELECT new_token FROM refresh_api_token('$next', 0, true); ROLLBACK");
    is(query("SELECT is_valid FROM validate_api_token('$next')"), 't', 'after a ROLLBACK the old one is good');
    $third = query("SELECT new_token FROM refresh_api_token('$next', 0, true)");
    my $issued = query("SELECT token FROM issue_api_token('batch', '{api:read}', '2 days')");
    is(query('SELECT tokens_found, tokens_refreshed FROM refresh_expiring_tokens_batch()'), '1|1', 'the batch');
    query("UPDATE api_token SET expires_at = now() + '1 day' WHERE owner = 'batch'");
    like(query("SELECT refresh_reason FROM validate_and_refresh_api_token('$issued')"), qr/EXPIRING_SOON/, 'hands over');
    # A hundred at once: the token is good for all, and there is one successor.
    my ($herd_token, $herd_id) = issue('herd');
    query("UPDATE api_token SET expires_at = now() + '1 day' WHERE id = $herd_id; CREATE TABLE seen (is_valid boolean, new_token text)");
    my $script = PostgreSQL::Test::Utils::tempdir() . '/herd.sql';
    append_to_file($script, "INSERT INTO seen SELECT is_valid, new_token FROM token_refresh.validate_and_refresh_api_token('$herd_token');\n");
    my ($output, $error) = ('', '');
    ok(IPC::Run::run([ $node->installed_command('pgbench'), '-n', '-c', 80, '-j', 2, '-t', 1, '-f', $script, $node->connstr('postgres') ], '<', \undef, '>', \$output, '2>', \$error), '80 sessions at once') or diag($error);
    is(query('SELECT count(*), bool_and(is_valid), count(DISTINCT new_token) FROM seen'), '80|t|1', 'the token is good for all, with one successor');
    is(query("SELECT count(*) FROM api_token WHERE family = $herd_id"), '2', 'which is stored');
    # Reuse.
    query("UPDATE api_token SET retires_at = now() - interval '1 second' WHERE id = $id");
    is(query("BEGIN READ ONLY; SELECT is_valid FROM validate_api_token('$token'); COMMIT"), 'f', 'reuse in a read-only transaction: refused');
    is(query("SELECT is_valid FROM validate_api_token('$third')"), 't', 'but it cannot be acted upon');
    query('TRUNCATE seen');
    unlink $script;
    append_to_file($script, "INSERT INTO seen SELECT is_valid FROM token_refresh.validate_api_token('$token');\n");
    ok(IPC::Run::run([ $node->installed_command('pgbench'), '-n', '-c', 20, '-j', 2, '-t', 1, '-f', $script, $node->connstr('postgres') ], '<', \undef, '>', \$output, '2>', \$error), 'reuse by 20 sessions at once') or diag($error);
    is(query("SELECT count(*), bool_or(is_valid) FROM unnest('{$token,$next,$third}'::text[]) t, validate_api_token(t)"), '3|f', 'the family is revoked');
    is(query("SELECT count(*) FROM audit_event WHERE event = 'api_token_reused' AND row_key = '$id'"), '1', 'and audited once');
    is(query('SELECT count(*) FROM api_token_use'), '0', 'use is not noted');
};

$node->stop;
unlike(read_log($node), qr/TRAP|PANIC|deadlock/, 'the log is clean');
done_testing();
