# The application changes the key of a row while its refresh is in flight, or while its tokens are parked: by an UPDATE, by
# moving it to another partition, by deleting and inserting it, seen by the trigger or found by a sweep. The tokens go with
# the row, no rotated refresh token is lost (P1), and nobody gets those of another row.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '1h', 'token_refresh.request_timeout' => '60s');

# Lets the provider hold its answers: the refresh tokens are rotated, and nobody knows the new ones yet.
sub hold_refresh
{
    my ($table, $where, $count) = @_;
    $server->control('acme', hold => 'after');
    app($node, "UPDATE $table SET expires_at = '2020-01-01'" . ($where ? " WHERE $where" : ''));
    $server->wait('acme', held => $count // 1);
    return;
}

# Somebody who waits for the refresh that is in flight.
sub start_waiting
{
    my ($table, $key) = @_;
    my $caller = start_query($node, "SELECT success FROM token_refresh.refresh_row('$table', " . literal($key) . ')');
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'")
        or die 'the caller does not wait';
    return $caller;
}

sub let_answer
{
    $server->release('acme');
    $server->wait('acme', in_flight => 0);
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer is dealt with');
    return;
}

sub reject { my ($table) = @_; app($node, "ALTER TABLE $table ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID"); return; }
sub accept_again
{
    my ($table) = @_;
    app($node, "ALTER TABLE $table DROP CONSTRAINT no_news");
    super($node, 'UPDATE token_refresh.parked_result SET retry_at = now(); SELECT token_refresh._wake_refresher()');
    return;
}

sub await_parked { my ($name) = @_; poll_until($node, 'SELECT parked FROM token_refresh.token_status WHERE subject = ' . literal($name), "$name is parked"); return; }

# A transaction of the application.
sub begin
{
    my ($sql) = @_;
    my $session = background_session($node);
    $session->query_safe("SET ROLE app; BEGIN; $sql");
    return $session;
}

sub end { my ($session, $how) = @_; $session->query_safe($how); $session->quit; return; }

sub requests { return $server->stats('acme')->{requests}; }

sub nothing_lost
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($server->stats('acme')->{reuse}, 0, "$what: no refresh token was presented twice");
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', "$what: nothing stays parked");
    return;
}

# Ready to be changed: rows "a", "b", ... under those keys.
sub keyed_table
{
    my ($table, $names, %options) = @_;
    app($node, token_table($table, 'key text PRIMARY KEY'));
    attach($node, $table, %options);
    sign_in($node, $server, $table, "$table $_", key => literal($_)) for @$names;
    refreshed($node, $server, $table, "$table $_", "before: $_") for @$names;
    return;
}

sub drop_table
{
    my ($table) = @_;
    app($node, "SELECT token_refresh.detach_table('$table'); DROP TABLE $table");
    return;
}

subtest 'by an UPDATE, in flight' => sub {
    keyed_table('flying', ['a']);
    my $count = requests();
    hold_refresh('flying');
    my $caller = start_waiting('flying', 'a');
    app($node, "UPDATE flying SET key = 'b'");
    let_answer();
    refreshed($node, $server, 'flying', 'flying a', 'the answer is stored under the new key');
    is(($caller->finish)[0], 't', 'who waited gets it');
    is(requests(), $count + 1, 'by one request');
    hold_refresh('flying');
    app($node, "UPDATE flying SET key = 'c'; UPDATE flying SET key = 'd'");
    $server->fault('acme');
    let_answer();
    refreshed($node, $server, 'flying', 'flying a', 'changed twice');
    $server->fault('acme', kind => 'invalid_grant', match => 'flying');
    hold_refresh('flying');
    app($node, "UPDATE flying SET key = 'e'");
    let_answer();
    is(table_status($node, 'flying a', 'row_key, status'), 'e|needs_reauth', 'a verdict finds its row as well');
    $server->fault('acme');
    nothing_lost('by an UPDATE');
    drop_table('flying');
};

subtest 'by an UPDATE that is not committed yet when the answer comes' => sub {
    keyed_table('waiting', ['a']);
    for my $how (qw(COMMIT ROLLBACK))
    {
        hold_refresh('waiting');
        my $session = begin("UPDATE waiting SET key = key || 'x'");
        $server->release('acme');
        poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', "$how: it is parked");
        end($session, $how);
        refreshed($node, $server, 'waiting', 'waiting a', "$how: and stored");
        is(table_status($node, 'waiting a', 'row_key'), 'ax', "$how: under the right key");
        nothing_lost($how);
    }
    drop_table('waiting');
};

subtest 'two rows swap their keys in flight' => sub {
    keyed_table('swapping', [qw(a b)]);
    hold_refresh('swapping', undef, 2);
    app($node, "BEGIN; UPDATE swapping SET key = 'x' WHERE key = 'a'; UPDATE swapping SET key = 'a' WHERE key = 'b'; UPDATE swapping SET key = 'b' WHERE key = 'x'; COMMIT");
    let_answer();
    refreshed($node, $server, 'swapping', "swapping $_", "$_ has a token") for qw(a b);
    is(super($node, "SELECT string_agg(row_key || subject, ' ' ORDER BY row_key) FROM token_refresh.token_status WHERE token_table = 'swapping'::regclass"), 'aswapping b bswapping a', 'the schedule knows which is which');
    is(events_of($node, "swapping $_"), 'refreshed refreshed', 'nothing was superseded') for qw(a b);
    app($node, "UPDATE swapping SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'swapping', "swapping $_", "$_ goes on") for qw(a b);
    nothing_lost('swapped');
    drop_table('swapping');
};

subtest 'two rows swap their keys while they are parked' => sub {
    keyed_table('trading', [qw(a b)]);
    reject('trading');
    app($node, "UPDATE trading SET expires_at = '2020-01-01'");
    await_parked("trading $_") for qw(a b);
    my %token = map { $_ => app($node, "SELECT token_refresh.get_access_token_from('trading', '$_')") } qw(a b);
    app($node, "BEGIN; UPDATE trading SET key = 'x' WHERE key = 'a'; UPDATE trading SET key = 'a' WHERE key = 'b'; UPDATE trading SET key = 'b' WHERE key = 'x'; COMMIT");
    is(app($node, "SELECT token_refresh.get_access_token_from('trading', 'a')"), $token{b}, 'readers get the token of the row');
    is(app($node, "SELECT token_refresh.get_access_token_from('trading', 'b')"), $token{a}, 'either');
    accept_again('trading');
    refreshed($node, $server, 'trading', "trading $_", "$_ is stored") for qw(a b);
    nothing_lost('traded');
    drop_table('trading');
};

subtest 'a key that another row has just left' => sub {
    keyed_table('heirs', [qw(a b)]);
    hold_refresh('heirs', "key = 'a'");
    app($node, "BEGIN; DELETE FROM heirs WHERE key = 'b'; UPDATE heirs SET key = 'b' WHERE key = 'a'; COMMIT");
    let_answer();
    refreshed($node, $server, 'heirs', 'heirs a', 'deleted in the same transaction');
    is(super($node, "SELECT count(*) FROM token_refresh.token_status WHERE token_table = 'heirs'::regclass"), '1', 'one row is left');

    # The tokens of a row must not be given to those who read its successor.
    reject('heirs');
    app($node, "UPDATE heirs SET expires_at = '2020-01-01'");
    await_parked('heirs a');
    app($node, "UPDATE heirs SET key = 'c' WHERE key = 'b'; INSERT INTO heirs (key, name, access_token, expires_at) VALUES ('b', 'other', 'of another', '2020-01-01')");
    is(app($node, "SELECT token_refresh.get_access_token_from('heirs', 'b')"), '', 'nobody reads the tokens that are parked for the row before');
    ok($server->is_active('acme', app($node, "SELECT token_refresh.get_access_token_from('heirs', 'c')")), 'they have gone with their row');
    accept_again('heirs');
    refreshed($node, $server, 'heirs', 'heirs a', 'and are stored');
    hold_refresh('heirs', "key = 'c'");
    my $session = begin("DELETE FROM heirs WHERE key = 'c'; INSERT INTO heirs (key, name, access_token, expires_at) VALUES ('c', 'third', 'of a third', '2020-01-01')");
    $server->release('acme');
    poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', 'deleted and replaced, but not committed when the answer comes: parked');
    end($session, 'COMMIT');
    is(app($node, "SELECT token_refresh.get_access_token_from('heirs', 'c')"), '', 'and given to nobody');
    nothing_lost('left');

    # Behind the back of the trigger: the schedule thinks that somebody stands there.
    sign_in($node, $server, 'heirs', 'late', key => "'late'");
    refreshed($node, $server, 'heirs', 'late', 'another');
    super($node, "SET session_replication_role = replica; DELETE FROM heirs WHERE key = 'c'");
    hold_refresh('heirs', "key = 'late'");
    app($node, "UPDATE heirs SET key = 'c' WHERE key = 'late'");
    let_answer();
    refreshed($node, $server, 'heirs', 'late', 'a key where the schedule knows a row that is gone');
    is(super($node, "SELECT subject FROM token_refresh.token_status WHERE row_key = 'c'"), 'late', 'which has left');
    drop_table('heirs');
};

subtest 'by deleting and inserting' => sub {
    keyed_table('reborn', ['a']);
    hold_refresh('reborn');
    app($node, "BEGIN; CREATE TEMPORARY TABLE copy AS SELECT * FROM reborn; DELETE FROM reborn; UPDATE copy SET key = 'b'; INSERT INTO reborn SELECT * FROM copy; COMMIT");
    let_answer();
    refreshed($node, $server, 'reborn', 'reborn a', 'in one transaction');
    is(events_of($node, 'reborn a'), 'refreshed refreshed', 'as if nothing had been');
    reject('reborn');
    app($node, "UPDATE reborn SET expires_at = '2020-01-01'");
    await_parked('reborn a');
    app($node, "BEGIN; CREATE TEMPORARY TABLE copy AS SELECT * FROM reborn; DELETE FROM reborn; UPDATE copy SET key = 'c'; INSERT INTO reborn SELECT * FROM copy; COMMIT");
    is(super($node, 'SELECT row_key FROM token_refresh.parked_result'), 'c', 'what is parked goes with it');
    accept_again('reborn');
    refreshed($node, $server, 'reborn', 'reborn a', 'and is stored');
    hold_refresh('reborn');
    app($node, "BEGIN; CREATE TEMPORARY TABLE copy AS SELECT * FROM reborn; SAVEPOINT s; DELETE FROM reborn; INSERT INTO reborn SELECT * FROM copy; ROLLBACK TO s; UPDATE reborn SET key = 'd'; COMMIT");
    let_answer();
    refreshed($node, $server, 'reborn', 'reborn a', 'after a savepoint');

    # Other tokens are another grant.
    hold_refresh('reborn');
    my ($grant) = $server->grants('acme', subjects => ['reborn a']);
    app($node, sprintf("BEGIN; DELETE FROM reborn; INSERT INTO reborn (key, name, access_token, refresh_token, expires_at) VALUES ('d', 'reborn a', '%s', '%s', now() + interval '1 hour'); COMMIT", @{$grant}{qw(access_token refresh_token)}));
    let_answer();
    is(super($node, 'SELECT access_token FROM reborn'), $grant->{access_token}, 'deleted and signed in again: the new tokens stay');
    nothing_lost('reborn');
    drop_table('reborn');
};

subtest 'signed in again under another key' => sub {
    keyed_table('again', ['a']);
    hold_refresh('again');
    my ($grant) = $server->grants('acme', subjects => ['again a']);
    app($node, sprintf("UPDATE again SET key = 'b', access_token = '%s', refresh_token = '%s', expires_at = now() + interval '1 hour'", @{$grant}{qw(access_token refresh_token)}));
    let_answer();
    is(super($node, 'SELECT access_token FROM again'), $grant->{access_token}, 'the new tokens stay');
    is(events_of($node, 'again a'), 'refreshed superseded', 'the answer is superseded');
    nothing_lost('again');
    drop_table('again');
};

subtest 'ON UPDATE CASCADE, and a key of two columns' => sub {
    app($node, 'CREATE TABLE tenant (id text PRIMARY KEY); INSERT INTO tenant VALUES (1), (2)');
    app($node, token_table('cascading', 'tenant text REFERENCES tenant ON UPDATE CASCADE, no integer, PRIMARY KEY (tenant, no)'));
    attach($node, 'cascading');
    sign_in($node, $server, 'cascading', "cascading $_", tenant => "'1'", no => $_) for 1 .. 3;
    refreshed($node, $server, 'cascading', "cascading $_", "before: $_") for 1 .. 3;
    hold_refresh('cascading', undef, 3);
    app($node, "UPDATE tenant SET id = '3' WHERE id = '1'; UPDATE cascading SET no = no + 10 WHERE no = 1");
    let_answer();
    refreshed($node, $server, 'cascading', "cascading $_", "row $_") for 1 .. 3;
    is(super($node, "SELECT string_agg(row_key, ' ' ORDER BY row_key) FROM token_refresh.token_status WHERE token_table = 'cascading'::regclass"), '["3", "11"] ["3", "2"] ["3", "3"]', 'the schedule has the new keys');
    nothing_lost('cascading');
    drop_table('cascading');
};

subtest 'by moving to another partition' => sub {
    app($node, 'CREATE TABLE regional (name text NOT NULL, access_token text, refresh_token text, expires_at timestamptz, region text, id integer, PRIMARY KEY (region, id)) PARTITION BY LIST (region);'
        . join('', map { "CREATE TABLE regional_$_ PARTITION OF regional FOR VALUES IN ('$_');" } qw(eu us)));
    attach($node, 'regional');
    sign_in($node, $server, 'regional', "regional $_", region => "'eu'", id => $_) for 1 .. 3;
    refreshed($node, $server, 'regional', "regional $_", "before: $_") for 1 .. 3;
    hold_refresh('regional', undef, 3);
    my $caller = start_waiting('regional', '["eu", "1"]');
    app($node, "UPDATE regional SET region = 'us'");
    let_answer();
    refreshed($node, $server, 'regional', "regional $_", "in flight: $_") for 1 .. 3;
    is(($caller->finish)[0], 't', 'who waited gets it');
    is(table_status($node, "regional $_", 'row_key, refresh_count'), qq{["us", "$_"]|2}, "its history goes with it: $_") for 1 .. 3;
    for my $how (qw(ROLLBACK COMMIT))
    {
        hold_refresh('regional', 'id = 1');
        my $session = begin("UPDATE regional SET region = 'eu' WHERE id = 1");
        $server->release('acme');
        poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', "$how: not committed when the answer comes: parked");
        end($session, $how);
        refreshed($node, $server, 'regional', 'regional 1', "$how: stored");
    }
    $server->fault('acme', kind => 'invalid_grant', match => 'regional 2');
    app($node, "UPDATE regional SET expires_at = '2020-01-01' WHERE id = 2");
    poll_until($node, "SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'regional 2'", 'a grant that has died');
    $server->fault('acme');
    my $count = requests();
    app($node, "UPDATE regional SET region = 'eu' WHERE id = 2");
    is(table_status($node, 'regional 2', 'row_key, status, due_at IS NULL'), '["eu", "2"]|needs_reauth|t', 'stays dead, though the table has no column to say so');
    app($node, "UPDATE regional SET region = 'us', expires_at = '2020-01-01' WHERE id = 1");
    refreshed($node, $server, 'regional', 'regional 1', 'due and moved at once');
    is(requests(), $count + 1, 'and is not asked for');
    nothing_lost('moved');
    drop_table('regional');
};

subtest 'no trigger tells' => sub {
    keyed_table('polled', [qw(a b)], trigger => JSON::PP::false, poll_interval => '1 second');
    my $sweep_each = sub { super($node, "UPDATE token_refresh.token_table SET poll_interval = '$_[0]' WHERE relation = 'polled'::regclass"); };
    my $sweep_once = sub {
        super($node, q{INSERT INTO token_refresh.schedule (token_table, row_key, provider) SELECT id, 'probe', 0 FROM token_refresh.token_table WHERE relation = 'polled'::regclass});
        poll_until($node, q{SELECT count(*) = 0 FROM token_refresh.schedule WHERE row_key = 'probe'}, 'a sweep');
    };
    hold_refresh('polled', undef, 2);
    app($node, "UPDATE polled SET key = 'c' WHERE key = 'a'");
    poll_until($node, "SELECT row_key = 'c' FROM token_refresh.token_status WHERE subject = 'polled a'", 'changed in flight: the sweep finds it');
    $sweep_once->();
    let_answer();
    refreshed($node, $server, 'polled', 'polled a', 'the answer is stored under the new key');
    refreshed($node, $server, 'polled', 'polled b', 'the other one, too');

    app($node, "UPDATE polled SET expires_at = now() + interval '1 day'");
    $sweep_once->();
    $sweep_each->('1 hour');
    $server->control('acme', hold => 'after');
    my $caller = start_query($node, "SELECT success FROM token_refresh.refresh_row('polled', 'b')");
    $server->wait('acme', held => 1);
    app($node, "UPDATE polled SET key = 'd' WHERE key = 'b'");
    let_answer();
    is(super($node, q{SELECT reason FROM token_refresh.parked_result}), 'the row is gone; a sweep looks whether it has another key', 'the answer comes before the next sweep: it is kept');
    $caller->finish;
    my $before = super($node, "SELECT refresh_token FROM polled WHERE key = 'd'");
    $sweep_each->('1 second');
    poll_until($node, "SELECT refresh_token <> '$before' FROM polled WHERE key = 'd'", 'and stored when the sweep has found the row');

    reject('polled');
    app($node, "UPDATE polled SET expires_at = '2020-01-01' WHERE key = 'd'");
    await_parked('polled b');
    app($node, "UPDATE polled SET key = 'e' WHERE key = 'd'");
    poll_until($node, "SELECT row_key = 'e' AND parked FROM token_refresh.token_status WHERE subject = 'polled b'", 'what is parked is found again');
    ok($server->is_active('acme', app($node, "SELECT token_refresh.get_access_token_from('polled', 'e')")), 'readers get it');
    accept_again('polled');
    refreshed($node, $server, 'polled', 'polled b', 'and it is stored');

    hold_refresh('polled', "key = 'e'");
    app($node, "DELETE FROM polled WHERE key = 'e'");
    let_answer();
    nothing_lost('a row that is really gone is waited for until the next sweep but one');
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.schedule WHERE row_key IS NULL", 'then nothing is left of it');
    is(events_of($node, 'polled b') =~ /superseded$/ ? 1 : 0, 1, 'as the audit says');
    drop_table('polled');
};

subtest 'the built-in table' => sub {
    $server->control('acme', hold => 'after');
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => ['built in']));
    $server->wait('acme', held => 1);
    super($node, "UPDATE token_refresh.credential SET id = 1000 WHERE subject = 'built in'");
    let_answer();
    ok($server->is_active('acme', access_token($node, 'acme', 'built in')), 'in flight: stored, and sealed for its new id');
    is(super($node, "SELECT success FROM token_refresh.refresh_credential('acme', 'built in')"), 't', 'and refreshed again');

    super($node, "ALTER TABLE token_refresh.credential ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID");
    super($node, "UPDATE token_refresh.credential SET expires_at = '2020-01-01'");
    await_parked('built in');
    my $token = access_token($node, 'acme', 'built in');
    super($node, 'UPDATE token_refresh.credential SET id = 1001');
    is(access_token($node, 'acme', 'built in'), $token, 'parked: readers get it');
    super($node, 'ALTER TABLE token_refresh.credential DROP CONSTRAINT no_news; UPDATE token_refresh.parked_result SET retry_at = now(); SELECT token_refresh._wake_refresher()');
    poll_until($node, "SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'built in'", 'it is stored');
    is(access_token($node, 'acme', 'built in'), $token, 'sealed for its new id');
    is(super($node, "SELECT success FROM token_refresh.refresh_credential('acme', 'built in')"), 't', 'and refreshed again');
    nothing_lost('built in');
};

$node->stop;
done_testing();
