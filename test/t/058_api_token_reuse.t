# The end of a family of API tokens: a token that is presented after its grace period takes all with it, and so does
# a revocation, whatever is under way.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ApiTokenTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node = new_node('main', 'max_connections' => 100, 'log_min_messages' => 'info');
use_node($node);
query('CREATE TABLE seen (test text, is_valid boolean, new_token text)');

# A, its successor B, and the successor of that.
sub three_generations
{
    my ($owner) = @_;
    my ($id, $a, $b, $c) = split /\|/, query("SELECT token_id, token, b.new_token, c.new_token FROM issue_api_token('$owner', '{api:read}'), refresh_api_token(token, 0, true) b, refresh_api_token(b.new_token, 0, true) c");
    die 'no three tokens' unless $a ne $b && $b ne $c;
    return ($id, $a, $b, $c);
}

sub end_grace { my ($id) = @_; query("UPDATE api_token SET retires_at = now() - interval '1 second' WHERE id = $id"); return; }

# Test points: none of the family is good, and this is in the audit, once.
sub family_is_over
{
    my ($id, @tokens) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(query("SELECT count(*), bool_or(is_valid) FROM unnest('{" . join(',', @tokens) . "}'::text[]) t, validate_api_token(t)"), '3|f', 'old, successor and the successor of that are invalid');
    is(query("SELECT count(*), bool_and(revoked_at IS NOT NULL AND successor IS NULL) FROM api_token WHERE family = $id"), '3|t', 'all are revoked, no sealed token is left');
    is(events($id, 'reused'), 1, 'which is in the audit once');
    return;
}

subtest 'reuse after grace' => sub {
    my %way = (
        'committed'   => '%s',
        'rolled back' => 'BEGIN; %s; ROLLBACK',
        'read-only'   => 'BEGIN READ ONLY; %s; COMMIT',
        'in error'    => 'BEGIN; %s; SELECT 1/0');
    for my $way (sort keys %way)
    {
        my @others = $way eq 'committed' ? qw(validate_and_refresh_api_token refresh_api_token get_token_refresh_status) : ();
        for my $function ('validate_api_token', @others)
        {
            my ($id, @tokens) = three_generations($way);
            end_grace($id);
            my ($status, $output) = $node->psql('postgres', sprintf($way{$way}, "SELECT message FROM token_refresh.$function('$tokens[0]')"));
            like($output, qr/^the token was replaced and its grace period is over/m, "$function, $way: says why");
            family_is_over($id, @tokens);
        }
    }
    my ($id, @tokens) = three_generations('middle');
    end_grace($id + 1);
    is(is_valid($tokens[1]), 'f', 'the token in the middle is presented');
    family_is_over($id, @tokens);

    ($id, @tokens) = three_generations('herd');
    end_grace($id);
    ok(run_herd(50, "BEGIN;\nGATE;\nINSERT INTO seen SELECT 'reuse', is_valid FROM validate_api_token('$tokens[0]');\nCOMMIT;"), '50 sessions at once: none failed');
    is(query(q{SELECT count(*), bool_or(is_valid) FROM seen WHERE test = 'reuse'}), '50|f', 'to none of them it is good');
    family_is_over($id, @tokens);

    ($id, @tokens) = three_generations('held');
    end_grace($id);
    my $session = background_session($node);
    $session->query_safe("BEGIN; SELECT 1 FROM token_refresh.api_token WHERE id = (SELECT max(id) FROM token_refresh.api_token WHERE family = $id) FOR UPDATE");
    is(is_valid($tokens[0]), 'f', 'a row of the family is locked by somebody: the answer is no');
    is(events($id, 'reused'), 0, 'nothing is done yet');
    $session->query_safe('ROLLBACK');
    $session->quit;
    poll_until($node, "SELECT count(*) = 3 FROM token_refresh.api_token WHERE family = $id AND revoked_at IS NOT NULL", 'when the lock is gone the family is revoked, without anybody asking again');
    family_is_over($id, @tokens);

    # A grace period that was short from the beginning.
    ($id, @tokens) = three_generations('long');
    $node->append_conf('postgresql.conf', q{token_refresh.api_token_grace = '1s'});
    $node->reload;
    my ($short, $short_id);
    for (1 .. 50)
    {
        ($short, $short_id) = due_token('short');
        refresh($short);
        last if query("SELECT retires_at < now() + interval '2 seconds' FROM api_token WHERE id = $short_id") eq 't';
    }
    poll_until($node, "SELECT NOT is_valid FROM token_refresh.validate_api_token('$short')", 'a grace period of one second is over');
    is(events($short_id, 'reused'), 1, 'which is a reuse');
    # A successor that has been replaced itself, and is over before its predecessor, is not handed out: to present it would be a reuse.
    my $d = query("SELECT new_token FROM refresh_api_token('$tokens[2]', 0, true)");
    poll_until($node, "SELECT retires_at < now() FROM token_refresh.api_token WHERE successor_id = (SELECT max(id) FROM token_refresh.api_token WHERE family = $id)", 'the third has been replaced and is over');
    is(query("SELECT is_valid, new_token, refresh_reason, message FROM validate_and_refresh_api_token('$tokens[1]')"),
        't||REFRESH_FAILED|token valid but not refreshed: the successor of the token cannot be had any more', 'the second, still in its grace period, does not give it');
    is(is_valid($d), 't', 'the family lives');
    $node->append_conf('postgresql.conf', q{token_refresh.api_token_grace = '1d'});
    $node->reload;
};

# Many families, in which at the same time some rotate and others revoke. Whatever comes first, a family is revoked to
# its last token, or not at all.
subtest 'revoke and rotate at once' => sub {
    query(q{CREATE TABLE race AS SELECT i AS n, token, token_id FROM generate_series(1, 400) i, issue_api_token(concat('race', left(i::text, 0)), '{api:read}', '1 day');
        UPDATE api_token SET expires_at = now() + '1 hour' WHERE owner = 'race';
        CREATE SEQUENCE turn});
    my @herds = (
        start_herd(4, <<'END', times => 100),
SELECT nextval('turn') AS turn \gset
SELECT v.new_token AS second FROM race, validate_and_refresh_api_token(token) v WHERE n = :turn \gset
SELECT v.new_token AS third FROM refresh_api_token(:second, 0, true) v \gset
SELECT v.new_token FROM refresh_api_token(:third, 0, true) v;
END
        start_herd(4, <<'END', times => 200));
SELECT revoke_api_token(id) FROM (SELECT t.id FROM race JOIN api_token t ON t.family = race.token_id WHERE n = (SELECT last_value FROM turn) - :client_id ORDER BY random() LIMIT 1) x;
END
    is(scalar(grep { finish_herd($_) } @herds), 2, 'nobody failed');
    query(q{CREATE TABLE outcome AS SELECT family, count(*) AS tokens, count(revoked_at) AS revoked, count(*) FILTER (WHERE revoked_at IS NOT NULL AND successor IS NOT NULL) AS sealed FROM api_token WHERE owner = 'race' GROUP BY 1});
    note('families by number of tokens, revoked or not: ' . query(q{SELECT string_agg(format('%s of %s: %s', revoked, tokens, families), ', ') FROM (SELECT tokens, revoked, count(*) AS families FROM outcome GROUP BY 1, 2 ORDER BY 1, 2) x}));
    is(query('SELECT count(*) FROM outcome WHERE revoked NOT IN (0, tokens) OR sealed > 0'), '0', 'no family is revoked in part');
    is(query('SELECT count(*) > 5 FROM outcome WHERE revoked > 1'), 't', 'several were revoked amid their rotations');
    is(query(q{SELECT count(*) FROM outcome WHERE revoked > 0 AND (SELECT count(*) FROM audit_event WHERE event = 'api_token_revoked' AND row_key IN (SELECT id::text FROM api_token t WHERE t.family = outcome.family)) <> 1}),
        '0', 'each revocation is in the audit once');
};

$node->stop;
my $log = read_log($node);
unlike($log, qr/deadlock detected|TRAP|PANIC|could not serialize/, 'no deadlock, no serialization failure');
done_testing();
