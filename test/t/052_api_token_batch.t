# Successors made ahead for API tokens of which only hashes are stored: whom the batch finds, how they are handed
# over and announced, what is forgotten; keys that are missing, rotated and lost; a dump and its restore.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node     = new_node('main', 'max_connections' => 60, 'log_min_messages' => 'info');
my $key_file = $node->basedir . '/token_refresh.keys';

sub query { my ($sql) = @_; return $node->safe_psql('postgres', "SET search_path = public, token_refresh;\n$sql"); }

# What a table of the test holds, and nobody else: the tokens themselves.
query('CREATE TABLE held (kind text, token text, token_id bigint PRIMARY KEY); CREATE TABLE next (kind text, token_id bigint, token text)');

sub issue
{
    my ($kind, $count, $more) = @_;
    query("INSERT INTO held SELECT '$kind', token, token_id FROM generate_series(1, $count) i, issue_api_token(concat('$kind', left(i::text, 0)), '{api:read,$kind}', user_hk => int4send(i)" . ($more // '') . ')');
    return;
}

sub set { my ($kind, $what) = @_; query("UPDATE api_token SET $what WHERE owner = '$kind'"); return; }

sub batch { my ($arguments) = @_; return query('SELECT tokens_found, tokens_refreshed, tokens_failed, jsonb_array_length(details) FROM refresh_expiring_tokens_batch(' . ($arguments // '') . ')'); }

# Everybody of these comes for the successor.
sub ask
{
    my ($kind) = @_;
    query("INSERT INTO next SELECT kind, token_id, new_token FROM held h, validate_and_refresh_api_token(token) WHERE kind = '$kind' AND is_valid AND NOT EXISTS (SELECT FROM next n WHERE n.token_id = h.token_id)");
    return;
}

# And those once more whose token somebody else had in hand just then.
sub ask_again { my ($kind) = @_; note(query("WITH d AS (DELETE FROM next WHERE kind = '$kind' AND token IS NULL RETURNING 1) SELECT count(*) || ' come again' FROM d")); ask($kind); return; }

# Returns how many came, got one, and got one that is good.
sub hand_over
{
    my ($kind) = @_;
    ask($kind);
    return handed_over($kind);
}

sub handed_over
{
    my ($kind) = @_;
    return query("SELECT count(*), count(DISTINCT n.token), count(*) FILTER (WHERE v.is_valid AND t.id = a.successor_id AND t.family = a.family AND t.user_hk = a.user_hk AND v.user_hk = a.user_hk AND v.scope = a.scope)
        FROM next n JOIN api_token a ON a.id = n.token_id LEFT JOIN api_token t ON t.token_hash = sha256(n.token::bytea), validate_api_token(n.token) v WHERE kind = '$kind'");
}

sub states { my ($kind) = @_; return query("SELECT string_agg(format('%s %s', status, n), ', ') FROM (SELECT status, count(*) AS n FROM api_token_status WHERE owner = '$kind' GROUP BY 1 ORDER BY 1) s"); }

subtest '2,000 tokens' => sub {
    issue('due', 1400);
    set('due', "expires_at = now() + random() * interval '6 days' + interval '1 hour'");
    issue('later',   300);
    issue('idle',    100, ", refresh_if_used_within => '1 hour'");
    set('idle', "expires_at = now() + '1 day', issued_at = now() - interval '1 day'");
    issue('used', 100, ", refresh_if_used_within => '1 hour'");
    set('used', "expires_at = now() + '1 day', issued_at = now() - interval '1 day'");
    query(q{INSERT INTO api_token_use SELECT token_id, now() - interval '59 minutes', 1 FROM held WHERE kind = 'used' UNION ALL SELECT token_id, now() - interval '61 minutes', 1 FROM held WHERE kind = 'idle'});
    issue('revoked', 50);
    set('revoked', "expires_at = now() + '1 day'");
    query(q{SELECT count(revoke_api_token(token_id)) FROM held WHERE kind = 'revoked'});
    issue('expired', 50);
    set('expired', "expires_at = now() - interval '1 second'");

    my $holder = background_session($node);
    $holder->query_safe(q{BEGIN; SELECT count(*) FROM (SELECT FROM token_refresh.api_token WHERE owner = 'due' ORDER BY id LIMIT 10 FOR UPDATE) x});
    my $listener = background_session($node);
    $listener->query_safe('LISTEN token_refresh_api_token');
    is(query(q{CREATE TABLE report AS SELECT * FROM refresh_expiring_tokens_batch(); SELECT tokens_found, tokens_refreshed, tokens_failed, jsonb_array_length(details) FROM report}), '1500|1490|10|1500', 'the batch found what expires, and did what nobody holds');
    is(query(q{SELECT string_agg(format('%s %s: %s', d ->> 'owner', d ->> 'status', n), ', ') FROM (SELECT jsonb_build_object('owner', d ->> 'owner', 'status', d ->> 'status') AS d, count(*) AS n FROM report, jsonb_array_elements(details) d GROUP BY 1 ORDER BY 1) x}),
        'due LOCKED: 10, due SUCCESSOR_READY: 1390, used SUCCESSOR_READY: 100', 'details');
    is(query(q{SELECT bool_and(d ?& '{token_id,owner,token_type,expires_at,days_left,status}' AND (d ->> 'days_left')::integer BETWEEN 0 AND 6) FROM report, jsonb_array_elements(details) d}), 't', 'with all that is of interest');
    my ($heard) = $listener->query('SELECT 1');
    my @payloads = $heard =~ /Asynchronous notification "token_refresh_api_token" with payload "(.*?)" received/g;
    is(scalar(@payloads), 1490, 'every successor is announced');
    my %notice = %{ JSON::PP->new->decode($payloads[0]) };
    is(join(' ', sort keys %notice), 'event token_id', 'what an announcement says, which everybody may hear');
    is($notice{event}, 'successor_ready', 'its event');
    $listener->quit;

    is(batch(), '10|0|10|10', 'a second batch finds but what is still held');
    $holder->query_safe('COMMIT');
    $holder->quit;
    is(batch(), '10|10|0|10', 'and does it when it is free');
    is(batch(), '0|0|0|0', 'then there is nothing to do');
    is(states('due'),  'active 1400, ready 1400', 'nothing is handed over yet');
    is(states('idle'), 'active 100', 'who does not use his token gets no successor');

    my @held = split /\n/, query('SELECT token FROM held');
    is(hand_over('due'),  '1400|1400|1400', 'every old token yields its own successor');
    is(hand_over('used'), '100|100|100',    'those that were used too');
    push @held, split /\n/, query('SELECT token FROM next');
    is(states('due'), 'active 1400, grace 1400', 'the old ones are in their grace period');
    is(query(q{SELECT count(*) FROM next n JOIN held h USING (token_id), validate_and_refresh_api_token(h.token) v WHERE v.new_token = n.token}), '1500', 'whoever comes again gets the same');
    is(query(q{SELECT event || ' ' || count(*) FROM audit_event WHERE subject = 'due' AND event <> 'api_token_issued' GROUP BY event ORDER BY event}), "api_token_rotated 1400\napi_token_successor_ready 1400", 'the audit');
    my %is_held = map { $_ => 1 } @held;
    my $told = $heard . query('SELECT details FROM report') . query('SELECT * FROM audit_event') . query('SELECT * FROM api_token_status');
    is(scalar(grep { $is_held{$_} } $told =~ /tr_[A-Za-z0-9_-]{48}/g), 0, 'no token in notices, details, audit and status');
};

subtest 'a successor that nobody has got' => sub {
    # Lives so short that a successor, too, expires within the time that the batch looks at.
    issue('short', 20, ", expires_in => '2 days'");
    is(batch(), '20|20|0|20', 'is made');
    is(batch(), '0|0|0|0',    'and gets none itself');
    is(hand_over('short'), '20|20|20', 'when it has been handed over');
    is(batch(), '20|20|0|20', 'it gets one');
    is(states('short'), 'active 20, grace 20, ready 20', 'three generations');
    query(q{INSERT INTO held SELECT 'shorter', token, (SELECT id FROM api_token WHERE token_hash = sha256(token::bytea)) FROM next WHERE kind = 'short'});
    is(hand_over('shorter'), '20|20|20', 'and gives it');
};

subtest 'two at once' => sub {
    issue('twice', 200, ", expires_in => '3 days'");
    set('twice', "expires_at = now() + '5 hours'");
    my $first = background_session($node);
    like($first->query_safe('BEGIN; SELECT tokens_refreshed FROM token_refresh.refresh_expiring_tokens_batch()'), qr/^220$/m, 'one has not committed');
    like(batch(), qr/^\d+\|0\|\d+/, 'another does not wait for it');
    my ($token, $id) = split /\|/, query(q{SELECT token, token_id FROM held WHERE kind = 'twice' LIMIT 1});
    like(query("SELECT refresh_reason, message FROM validate_and_refresh_api_token('$token')"), qr/^REFRESH_FAILED.*in hand/, 'nor does a caller');
    $first->query_safe('COMMIT');
    is(states('twice'), 'active 200, ready 200', 'each has one');
    is(batch(), '0|0|0|0', 'which is enough');
    $first->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM token_refresh.api_token');
    is(hand_over('twice'), '200|200|200', 'handed over');
    like($first->query_safe('SELECT tokens_found, tokens_refreshed FROM token_refresh.refresh_expiring_tokens_batch(); COMMIT'), qr/^0\|0$/m, 'an older snapshot finds nothing that is not there');
    $first->quit;
    # Many at the same time, while others come for their successors.
    issue('many', 300, ", expires_in => '30 days'");
    set('many', "expires_at = now() + '2 days'");
    my @batches = map { start_query($node, 'SELECT tokens_found FROM token_refresh.refresh_expiring_tokens_batch()') } 1 .. 4;
    ask('many');
    is(join('', map { ($_->finish)[1] } @batches), '', 'while several batches run and callers come: no batch fails');
    ask_again('many');
    is(handed_over('many'), '300|300|300', 'everybody gets one');
    is(query(q{SELECT max(n) FROM (SELECT count(*) AS n FROM api_token WHERE predecessor IS NOT NULL GROUP BY predecessor) x}), '1', 'no token has two successors');
    is(query(q{SELECT count(*) FROM api_token t JOIN api_token s ON s.id = t.successor_id WHERE s.predecessor <> t.id OR s.family <> t.family}), '0', 'and all belong together');
};

subtest 'what is forgotten' => sub {
    issue('past', 10, ", expires_in => '1 day'");
    is(batch("'1 day'"), '10|10|0|10', 'made');
    query(q{UPDATE api_token SET expires_at = now() - interval '1 second' WHERE owner = 'past' AND predecessor IS NULL});
    issue('given', 10, ", expires_in => '1 day'");
    set('given', "expires_at = now() + '1 hour'");
    is(hand_over('given'), '10|10|10', 'others were handed over');
    query(q{UPDATE api_token SET retires_at = now() - interval '1 second' WHERE owner = 'given' AND retires_at IS NOT NULL});
    # The refresher does it when it starts, and as often as it sweeps.
    $node->restart;
    poll_until($node, q{SELECT count(*) = 0 FROM token_refresh.api_token WHERE owner = 'past' AND predecessor IS NOT NULL}, 'a successor that nobody has got goes when its predecessor has expired');
    is(states('past'), 'expired 10', 'the predecessor stays for a while');
    is(query(q{SELECT count(*) FROM api_token WHERE owner IN ('past', 'given') AND successor IS NOT NULL}), '0', 'no sealed token is kept longer than it can be asked for');
    is(states('given'), 'active 10, replaced 10', 'what was handed over stays');
    is(query(q{SELECT count(*) FROM next n, validate_api_token(n.token) v WHERE kind = 'given' AND v.is_valid}), '10', 'and is good');
    is(query(q{SELECT DISTINCT message FROM held, validate_api_token(token) WHERE kind = 'past'}), 'the token has expired', 'the others have expired');
    # Each token by itself: a family may live for years.
    query(q{INSERT INTO api_token_use SELECT id, now(), 1 FROM api_token WHERE owner IN ('past', 'given', 'due') ON CONFLICT DO NOTHING;
        UPDATE api_token SET expires_at = now() - interval '91 days', retires_at = NULL WHERE owner = 'past';
        UPDATE api_token SET expires_at = now() - interval '91 days' WHERE owner = 'given' AND predecessor IS NULL});
    is(query(q{SELECT _tidy_api_tokens('90 days', 5), _tidy_api_tokens('90 days', 1000)}), 't|f', 'step by step');
    is(states('past') . '; ' . states('given'), '; active 10', 'what has expired long ago is gone, its successors live');
    is(query(q{SELECT count(*) FROM next n, validate_api_token(n.token) v WHERE kind = 'given' AND v.is_valid}), '10', 'and are good');
    is(query(q{SELECT count(*) FROM api_token_use u WHERE NOT EXISTS (SELECT FROM api_token t WHERE t.id = u.token_id)}), '0', 'its use with it');
    my $xid = query('SELECT pg_snapshot_xmax(pg_current_snapshot())');
    is(query(q{BEGIN; SELECT _tidy_api_tokens('90 days', 1000); SELECT pg_current_xact_id_if_assigned(); COMMIT}), "f\n", 'with nothing to do nothing is written');
    # By the index, however many tokens live.
    for my $call (q{_tidy_api_tokens('90 days', 1000)}, q{refresh_expiring_tokens_batch('1 microsecond')})
    {
        my $read = query(qq{SET enable_seqscan = off; BEGIN; SELECT FROM $call; SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::text FROM pg_stat_xact_user_tables WHERE relname = 'api_token'; COMMIT});
        cmp_ok((split /\n/, $read)[-1], '<', 100, "$call reads only what it is about");
    }
};

sub use_keys
{
    my ($ring) = @_;
    unlink $key_file;
    if (defined $ring)
    {
        my $mask = umask 077;
        append_to_file($key_file, $ring);
        umask $mask;
    }
    $node->reload;
    return;
}

sub new_key { open(my $random, '<:raw', '/dev/urandom') or die $!; read($random, my $key, 32) == 32 or die $!; return encode_base64($key, ''); }

my $first_ring = slurp_file($key_file);

sub key_usage { return query(q{SELECT string_agg(format('%s%s: %s', key, CASE WHEN current THEN '*' END, secrets), ', ' ORDER BY key) FROM key_usage WHERE place = 'api_token'}); }

subtest 'keys' => sub {
    query('UPDATE api_token SET successor = NULL');
    issue('sealed', 50, ", expires_in => '2 days'");
    is(batch("'2 days'") =~ /^(\d+)\|\1\|0/ ? 1 : 0, 1, 'successors under the first key');
    query(q{UPDATE api_token SET successor = NULL WHERE owner <> 'sealed'});
    is(key_usage(), 'test*: 50', 'key_usage counts them');
    my $second = 'second ' . new_key() . "\n";
    use_keys($second . $first_ring);
    is(key_usage(), 'test: 50', 'another key seals now');
    query('CALL rotate_keys(batch_size => 7)');
    is(key_usage(), 'second*: 50', 'rotate_keys seals them anew');
    like(query(q{SELECT message FROM audit_event WHERE event = 'keys_rotated' ORDER BY occurred_at DESC LIMIT 1}), qr/^50 rows resealed/, 'says the audit');
    use_keys($second);
    is(hand_over('sealed'), '50|50|50', 'without the first key all are handed over');

    # Rotating keys and tokens at the same time.
    issue('racing', 300, ", expires_in => '2 days'");
    batch("'2 days'");
    my $third = 'third ' . new_key() . "\n";
    use_keys($third . $second);
    my $rotation = start_query($node, 'CALL token_refresh.rotate_keys(batch_size => 5)');
    ask('racing');
    is(($rotation->finish)[1], '', 'while callers come: rotate_keys says nothing');
    ask_again('racing');
    is(handed_over('racing'), '300|300|300', 'and every token yields its successor');
    query('CALL rotate_keys()');
    like(key_usage(), qr/^third\*: \d+$/, 'nothing is under the old key');
    use_keys($third);
    is(query(q{SELECT count(*) FROM next n JOIN held h USING (token_id), validate_and_refresh_api_token(h.token) v WHERE n.kind = 'racing' AND v.new_token = n.token}), '300', 'which can go');

    # A key that is lost: what is under it is not handed over, so that the old token keeps its whole life.
    issue('lost', 5, ", expires_in => '2 days'");
    batch("'2 days'");
    my $fourth = 'fourth ' . new_key() . "\n";
    use_keys($fourth);
    my $ask = q{SELECT DISTINCT v.is_valid, v.refresh_reason, v.new_token IS NULL, v.message FROM held, validate_and_refresh_api_token(token) v WHERE kind = '%s'};
    like(query(sprintf($ask, 'lost')), qr/^t\|REFRESH_FAILED\|t\|token valid but not refreshed: .*key/, 'its key is missing: the token is good, and says why there is no successor');
    is(states('lost'), 'active 5, ready 5', 'the grace period has not begun');
    like(key_usage(), qr/missing key [0-9a-f]{16}/, 'key_usage tells');
    use_keys($third . $fourth);
    is(hand_over('lost'), '5|5|5', 'with the key again they are handed over');

    # No key ring at all.
    issue('keyless', 5, ", expires_in => '2 days'");
    issue('keyless2', 5, ", expires_in => '2 days'");
    set('keyless2', "expires_at = now() + '1 hour'");
    use_keys(undef);
    is(query(q{SELECT count(*) FROM held, validate_api_token(token) v WHERE kind LIKE 'keyless%' AND v.is_valid}), '10', 'without a key ring: tokens are validated');
    is(query(q{SELECT length(token) FROM issue_api_token('o', '{a}')}), '51', 'and issued');
    like(query(sprintf($ask, 'keyless2')), qr/^t\|REFRESH_FAILED\|t\|token valid but not refreshed: could not open the key file/, 'refreshing says why it cannot');
    like(query(q{SELECT DISTINCT success, refresh_reason, message FROM held, refresh_api_token(token, 0, true) WHERE kind = 'keyless'}), qr/^f\|REFRESH_FAILED\|could not open the key file/, 'refresh_api_token too');
    my ($status, $output, $error) = $node->psql('postgres', q{SELECT tokens_found FROM token_refresh.refresh_expiring_tokens_batch('2 days')});
    like($error, qr/ERROR:  could not open the key file.*HINT:  Make one with/s, 'the batch raises, with a hint');
    is(states('keyless') . ', ' . states('keyless2'), 'active 5, active 5', 'nothing has happened to the tokens');
    # A refresher that has no key either.
    $node->restart;
    like(query(sprintf($ask, 'keyless2')), qr/^t\|REFRESH_FAILED\|/, 'after a restart as well');
    use_keys($third . $fourth);
    is(hand_over('keyless2'), '5|5|5', 'with the file at its place and a reload they come');

    # Changed by somebody, or copied from another row.
    issue('forged', 2, ", expires_in => '2 days'");
    batch("'2 days'");
    query(q{UPDATE api_token t SET successor = s.successor FROM api_token s WHERE t.owner = 'forged' AND s.owner = 'forged' AND t.id <> s.id AND t.successor IS NOT NULL AND s.successor IS NOT NULL});
    like(query(sprintf($ask, 'forged')), qr/^t\|REFRESH_FAILED\|t\|/, 'a sealed token opens in its own row alone');
    is(states('forged'), 'active 2, ready 2', 'and is not handed over');
    query(q{UPDATE api_token t SET successor = s.successor FROM api_token s WHERE t.owner = 'forged' AND s.owner = 'forged' AND t.id <> s.id AND t.successor IS NOT NULL AND s.successor IS NOT NULL});
    is(hand_over('forged'), '2|2|2', 'at its place it opens');
};

subtest 'dump and restore' => sub {
    issue('dumped', 20, ", expires_in => '2 days'");
    batch("'2 days'");
    issue('plain', 5);
    query(q{SELECT count(import_api_token(sha256(concat('ovt_', i)::bytea), 'vault', '{api:read}', now() + '30 days', 'ovt_')) FROM generate_series(1, 5) i;
        INSERT INTO api_token_use SELECT token_id, now(), 7 FROM held WHERE kind = 'plain'});
    my $dump = $node->basedir . '/dump.sql';
    $node->command_ok([ 'pg_dump', '--file', $dump, $node->connstr('postgres') ], 'pg_dump');
    my $text = slurp_file($dump);
    # The tables of the test hold tokens; what the extension has of them is hashes and ciphertext.
    my ($ours) = $text =~ /^(COPY token_refresh\.api_token .*?^\\\.$)/ms;
    unlike($ours, qr/tr_[A-Za-z0-9_-]{48}/, 'the dump of api_token has no token');
    my $copy = new_node('copy', -extension => 0, 'token_refresh.key_file' => $key_file);
    $copy->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $copy->connstr('postgres') ], 'restored');
    my $there = sub { return $copy->safe_psql('postgres', "SET search_path = public, token_refresh; $_[0]"); };
    for my $what ('api_token', 'api_token_use', 'imported_token_prefix')
    {
        my $all = "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM token_refresh.$what t";
        is($there->($all), query($all), "$what is the same");
    }
    is($there->(q{SELECT count(*) FROM held, validate_api_token(token) v WHERE kind IN ('plain', 'dumped') AND v.is_valid}), '25', 'old tokens are good there');
    $there->(q{CREATE TABLE got AS SELECT new_token FROM held, validate_and_refresh_api_token(token) WHERE kind = 'dumped'});
    is($there->('SELECT count(DISTINCT new_token), bool_and(is_valid) FROM got, validate_api_token(new_token)'), '20|t', 'successors made before the dump are handed over');
    is($there->(q{SELECT count(*) FROM generate_series(1, 5) i, validate_api_token(concat('ovt_', i)) v WHERE v.is_valid}), '5', 'imported tokens are good');
    is($there->(q{SELECT token_id > (SELECT max(id) FROM api_token) FROM issue_api_token('new', '{a}')}), 't', 'new ids go on');
    $copy->stop;
};

$node->stop;
unlike(read_log($node), qr/deadlock detected|TRAP|PANIC/, 'no deadlock');
done_testing();
