# One attached table must not harm the others, nor the sessions that look at it, and a copied ciphertext must not
# give what a row has got: a table that is locked when its description is known, keys that end a sweep early or never,
# rows that take the place of others.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s', 'token_refresh.poll_interval' => '1s');
super($node, 'GRANT EXECUTE ON FUNCTION token_refresh.seal_token TO app');
app($node, token_table('good'));
attach($node, 'good');

my $others = 0;
sub others_go_on
{
    my ($what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $name = 'other' . ++$others;
    sign_in($node, $server, 'good', $name);
    return refreshed($node, $server, 'good', $name, "$what: others go on");
}

sub refresher { return super($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'"); }

# Every row of $table, by its trigger or not, is in the schedule.
sub taken_up
{
    my ($table, $count, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, "SELECT count(*) = $count FROM token_refresh.schedule WHERE token_table = (SELECT id FROM token_refresh.token_table WHERE relation = '$table'::regclass) AND row_key IS NOT NULL", $what);
}

my $later = "now() + interval '1 day'";
sub rows_of { my ($key, $count) = @_; return "SELECT $key, 'of the table', 'a', 'r', $later FROM generate_series(1, $count) i"; }

subtest 'a table is locked whose description is known' => sub {
    app($node, token_table('busy'));
    attach($node, 'busy');
    sign_in($node, $server, 'busy', [ 'busy1', 'busy2' ]);
    refreshed($node, $server, 'busy', $_, 'before') for qw(busy1 busy2);
    my $before = refresher();
    $server->control('acme', hold => 'after');
    app($node, "UPDATE busy SET expires_at = '2020-01-01' WHERE name = 'busy1'");
    sign_in($node, $server, 'good', 'in flight');
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => ['built in']));
    $server->wait('acme', held => 3);
    my $session = background_session($node);
    $session->query_safe('BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE');
    super($node, "UPDATE token_refresh.schedule SET due_at = now() WHERE subject = 'busy2'; SELECT token_refresh._wake_refresher()");
    $server->release('acme');
    refreshed($node, $server, 'good', 'in flight', 'in flight with it');
    ok($server->is_active('acme', access_token($node, 'acme', 'built in')), 'the built-in table as well');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'busy1'", 'what is in flight is parked');
    others_go_on('later');
    is(table_status($node, 'busy2', 'status'), 'connected', 'nothing is in error');
    $session->query_safe('COMMIT');
    $session->quit;
    refreshed($node, $server, 'busy', 'busy1', 'after the lock');
    app($node, "UPDATE busy SET expires_at = '2020-01-01' WHERE name = 'busy2'");
    refreshed($node, $server, 'busy', 'busy2', 'and what was due');
    is(refresher(), $before, 'the refresher has lived on');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
    app($node, "SELECT token_refresh.detach_table('busy')");
};

subtest 'a session that waits for the lock of a table' => sub {
    app($node, 'CREATE TABLE vault (id integer PRIMARY KEY, name text, access_token bytea, refresh_token bytea, expires_at timestamptz)');
    attach($node, 'vault', cipher => 'native');
    app($node, "INSERT INTO vault VALUES (1, 'vault', token_refresh.seal_token('vault', '1', 'access_token', 'a'), NULL, $later)");
    my $usage = "SELECT key FROM token_refresh.key_usage WHERE place = 'public.vault'";
    my $session = background_session($node);
    is(($session->query($usage))[0], 'test', 'before');
    my $locker = background_session($node);
    $locker->query_safe('BEGIN; LOCK TABLE vault IN ACCESS EXCLUSIVE MODE');
    $session->query_safe("SET lock_timeout = '200ms'");
    is(($session->query($usage))[0], 'unknown, as the table cannot be read', 'key_usage says that it does not know');
    is(($session->query('SELECT 1'))[0], '1', 'and the session goes on');
    $session->query('CALL token_refresh.rotate_keys()');
    is(($session->query('SELECT 2'))[0], '2', 'after rotate_keys, too');
    $session->query("SET lock_timeout = 0; SET statement_timeout = '300ms'");
    $session->{stderr} = '';
    $session->query($usage);
    like($session->{stderr}, qr/ERROR:  .*cancel/, 'a cancel ends the statement');
    is(($session->query('BEGIN; SELECT 3; ROLLBACK'))[0], '3', 'and nothing else');
    $locker->query_safe('ROLLBACK');
    is(($session->query($usage))[0], 'test', 'afterwards');
    $_->quit for $session, $locker;
    app($node, "SELECT token_refresh.detach_table('vault')");
};

subtest 'a key that is the empty text' => sub {
    for my $trigger (JSON::PP::true, JSON::PP::false)
    {
        my $name = $trigger ? 'nothing' : 'nothing_polled';
        app($node, token_table($name, 'key text PRIMARY KEY') . "INSERT INTO $name VALUES ('', 'nothing', 'a', 'r', $later)");
        attach($node, $name, trigger => $trigger);
        taken_up($name, 1, "$name: it is taken up");
        app($node, token_table("after_$name") . "INSERT INTO after_$name (name, refresh_token, expires_at) VALUES ('after', 'r', $later)");
        attach($node, "after_$name");
        taken_up("after_$name", 1, 'the sweep ends, and other tables are swept');
    }
    # Whatever a cast of the owner makes of the last key.
    app($node, q{CREATE TYPE turns AS ENUM ('first', 'last'); CREATE FUNCTION turn(text) RETURNS turns LANGUAGE sql AS $$ SELECT 'first'::public.turns $$; CREATE CAST (text AS turns) WITH FUNCTION turn(text)});
    app($node, token_table('turning', 'key turns PRIMARY KEY') . "INSERT INTO turning VALUES ('first', 'turning', 'a', 'r', $later), ('last', 'turning', 'a', 'r', $later)");
    attach($node, 'turning');
    taken_up('turning', 2, 'a cursor that does not move: taken up');
    app($node, token_table('after_turning') . "INSERT INTO after_turning (name, refresh_token, expires_at) VALUES ('after', 'r', $later)");
    attach($node, 'after_turning');
    taken_up('after_turning', 1, 'and the sweep ends');
    # It may also go round in circles, for ever.
    app($node, "CREATE TYPE wheel AS ENUM (" . join(', ', map { "'$_'" } 1 .. 300) . q{); CREATE FUNCTION spin(text) RETURNS wheel LANGUAGE sql AS $$ SELECT CASE WHEN $1 IN ('250', '251') THEN '40'::public.wheel ELSE '1'::public.wheel END $$; CREATE CAST (text AS wheel) WITH FUNCTION spin(text)});
    app($node, token_table('circling', 'key wheel PRIMARY KEY') . "INSERT INTO circling SELECT w, 'circling', 'a', 'r', $later FROM unnest(enum_range(NULL::wheel)) w");
    attach($node, 'circling');
    app($node, token_table('after_circling') . "INSERT INTO after_circling (name, refresh_token, expires_at) VALUES ('after', 'r', $later)");
    attach($node, 'after_circling');
    taken_up('after_circling', 1, 'a sweep that never ends: others have their turn');
    for my $turn (1, 2)
    {
        super($node, "INSERT INTO token_refresh.schedule (token_table, row_key, provider) SELECT id, '77777', 0 FROM token_refresh.token_table WHERE relation = 'after_circling'::regclass");
        poll_until($node, "SELECT count(*) = 0 FROM token_refresh.schedule WHERE row_key = '77777'", 'and again');
    }
    app($node, join ';', map { "SELECT token_refresh.detach_table('$_')" } qw(circling after_circling nothing nothing_polled after_nothing after_nothing_polled turning after_turning));
};

subtest 'keys that are too long for the schedule, in front' => sub {
    app($node, token_table('long', 'key text PRIMARY KEY'));
    app($node, "INSERT INTO long " . rows_of("repeat('a', 3000) || i", 300) . "; INSERT INTO long " . rows_of("'b' || i", 300));
    attach($node, 'long');
    taken_up('long', 300, 'those behind them are taken up');
    # A batch that fails is read row by row. What a replica session writes the trigger does not see.
    app($node, token_table('odd', 'key text PRIMARY KEY') . 'ALTER TABLE odd ADD n integer DEFAULT 1');
    attach($node, 'odd', filter => '1 / n = 1');
    super($node, 'SET session_replication_role = replica; BEGIN; INSERT INTO odd ' . rows_of("repeat('a', 3000) || i", 240) . '; INSERT INTO odd ' . rows_of("'b' || i", 300)
        . "; UPDATE odd SET n = 0 WHERE key IN ('b1', 'b100'); COMMIT");
    taken_up('odd', 300, 'row by row, too');
    app($node, join ';', map { "SELECT token_refresh.detach_table('$_')" } qw(long odd));
};

# A table whose tokens are sealed, each bound to its row. -columns: what the rows have beside.
sub sealed_table
{
    my ($table, %options) = @_;
    my $key = delete $options{-key} // 'id text PRIMARY KEY';
    app($node, "CREATE TABLE $table ($key, name text, access_token bytea, refresh_token bytea, expires_at timestamptz)" . (delete $options{-partitioned} // ''));
    attach($node, $table, cipher => 'native', %options);
    return;
}

sub seal_into
{
    my ($table, $id, $expires_at, %more) = @_;
    my ($grant) = $server->grants('acme', subjects => [$id]);
    my $key = delete $more{-row_key} // $id;
    my $columns = join ', ', 'id', sort keys %more;
    my $values = join ', ', map { literal($_) } $id, map { $more{$_} } sort keys %more;
    app($node, "INSERT INTO $table ($columns, name, access_token, refresh_token, expires_at) VALUES ($values, '$id', " . join(', ', map {
        "token_refresh.seal_token('$table', " . literal($key) . ", '$_', '$grant->{$_}')" } qw(access_token refresh_token)) . ", $expires_at)");
    return $grant;
}

sub refused_to
{
    my ($table, $thief, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $answer = app_fails($node, "SELECT token_refresh.get_access_token_from('$table', '$thief')");
    return like($answer, qr/ERROR:  .*does not open in the row $thief/, "$what: who copies a ciphertext gets nothing");
}

my $grab = sub { my ($table, $key) = @_; return "INSERT INTO $table SELECT '$key', 'thief', access_token, refresh_token, $later FROM ${table}_copy"; };

subtest 'a copied ciphertext, by the trigger' => sub {
    sealed_table('sealed');
    seal_into('sealed', 'victim', $later);
    app($node, 'CREATE TABLE sealed_copy AS TABLE sealed');
    $server->control('acme', hold => 'after');
    app($node, "UPDATE sealed SET expires_at = '2020-01-01'");
    $server->wait('acme', held => 1);
    app($node, 'DELETE FROM sealed');
    app($node, $grab->('sealed', 'thief1'));
    $server->release('acme');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer has come');
    refused_to('sealed', 'thief1', 'in flight');
    like(events_of($node, 'victim'), qr/superseded/, 'the answer is superseded');

    app($node, 'TRUNCATE sealed; TRUNCATE sealed_copy');
    seal_into('sealed', 'victim2', $later);
    app($node, "INSERT INTO sealed_copy TABLE sealed; ALTER TABLE sealed ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID; UPDATE sealed SET expires_at = '2020-01-01'");
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'victim2'", 'parked');
    # Before the refresher hears that the row is gone.
    my $refresher = refresher();
    kill 'STOP', $refresher;
    app($node, 'ALTER TABLE sealed DROP CONSTRAINT no_news; DELETE FROM sealed');
    app($node, $grab->('sealed', 'thief2'));
    refused_to('sealed', 'thief2', 'parked');
    kill 'CONT', $refresher;
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'what was parked is gone with its row');
    refused_to('sealed', 'thief2', 'later');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');

    # The transaction that deletes the row may insert it anew, also from within a block of its own.
    seal_into('sealed', 'mover', $later);
    $server->control('acme', hold => 'after');
    app($node, "UPDATE sealed SET expires_at = '2020-01-01' WHERE id = 'mover'");
    $server->wait('acme', held => 1);
    app($node, q{DO $$ DECLARE r sealed; BEGIN BEGIN DELETE FROM sealed WHERE id = 'mover' RETURNING * INTO r; EXCEPTION WHEN division_by_zero THEN NULL; END; r.id := 'moved'; INSERT INTO sealed VALUES (r.*); END $$});
    $server->release('acme');
    poll_until($node, "SELECT expires_at > now() FROM sealed WHERE id = 'moved'", 'a row that moves keeps its answer');
    ok($server->is_active('acme', app($node, "SELECT token_refresh.get_access_token_from('sealed', 'moved')")), 'which opens where it is now');
    is($server->stats('acme')->{reuse}, 0, 'still no refresh token was presented twice');
    app($node, "SELECT token_refresh.detach_table('sealed')");
};

subtest 'by moving to another partition' => sub {
    sealed_table('parts', -key => 'region text, id text, PRIMARY KEY (region, id)', -partitioned => ' PARTITION BY LIST (region)');
    app($node, join ';', map { "CREATE TABLE parts_$_ PARTITION OF parts FOR VALUES IN ('$_')" } qw(eu us));
    seal_into('parts', '1', $later, region => 'eu', -row_key => '["eu", "1"]');
    $server->control('acme', hold => 'after');
    app($node, "UPDATE parts SET expires_at = '2020-01-01'");
    $server->wait('acme', held => 1);
    app($node, "UPDATE parts SET region = 'us'");
    $server->release('acme');
    poll_until($node, 'SELECT expires_at > now() FROM parts', 'the answer is stored');
    ok($server->is_active('acme', app($node, q{SELECT token_refresh.get_access_token_from('parts', '["us", "1"]')})), 'and opens there');
    app($node, "SELECT token_refresh.detach_table('parts')");
};

subtest 'a copied ciphertext, found by a sweep' => sub {
    sealed_table('polled', trigger => JSON::PP::false);
    seal_into('polled', 'victim3', $later);
    taken_up('polled', 1, 'known');
    app($node, 'CREATE TABLE polled_copy AS TABLE polled');
    $server->control('acme', hold => 'after');
    app($node, "UPDATE polled SET expires_at = '2020-01-01'");
    $server->wait('acme', held => 1);
    app($node, 'DELETE FROM polled; ' . $grab->('polled', 'thief3'));
    $server->release('acme');
    poll_until($node, q{SELECT (SELECT count(*) FROM token_refresh.in_flight) + (SELECT count(*) FROM token_refresh.parked_result) + (SELECT count(*) FROM token_refresh.schedule WHERE row_key IS NULL) = 0}, 'the answer has come, and nobody has turned up for it');
    refused_to('polled', 'thief3', 'in flight');
    app($node, 'TRUNCATE polled');
    taken_up('polled', 0, 'and forgotten');

    # The same row again, where it was.
    seal_into('polled', 'back', $later);
    taken_up('polled', 1, 'known');
    $server->control('acme', hold => 'after');
    app($node, "UPDATE polled SET expires_at = '2020-01-01'");
    $server->wait('acme', held => 1);
    app($node, "CREATE TABLE away AS TABLE polled; DELETE FROM polled");
    poll_until($node, q{SELECT count(*) = 1 FROM token_refresh.schedule WHERE row_key IS NULL}, 'away');
    app($node, "INSERT INTO polled TABLE away");
    taken_up('polled', 1, 'back');
    $server->release('acme');
    poll_until($node, 'SELECT expires_at > now() FROM polled', 'has its answer');
    ok($server->is_active('acme', app($node, "SELECT token_refresh.get_access_token_from('polled', 'back')")), 'which opens');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
    app($node, "SELECT token_refresh.detach_table('polled')");
};

# The functions may bind a token to its subject.
subtest 'a ciphertext of functions, under another subject' => sub {
    app($node, q{CREATE FUNCTION opens(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF split_part($1, ':', 1) <> $2 THEN RAISE 'not the token of %', $2; END IF; RETURN split_part($1, ':', 2); END $$;
        CREATE FUNCTION seals(text, text) RETURNS text LANGUAGE sql AS $$ SELECT $2 || ':' || $1 $$});
    app($node, token_table('funny', 'id text PRIMARY KEY'));
    attach($node, 'funny', cipher => { decrypt => 'public.opens', encrypt => 'public.seals' });
    my ($grant) = $server->grants('acme', subjects => ['owner']);
    $server->control('acme', hold => 'after');
    app($node, "INSERT INTO funny VALUES ('owner', 'owner', 'owner:$grant->{access_token}', 'owner:$grant->{refresh_token}', '2020-01-01')");
    app($node, 'CREATE TABLE funny_copy AS TABLE funny');
    $server->wait('acme', held => 1);
    app($node, 'DELETE FROM funny');
    app($node, $grab->('funny', 'thief4'));
    $server->release('acme');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer has come');
    is(super($node, "SELECT access_token = 'owner:$grant->{access_token}' FROM funny"), 't', 'is not stored for another');
    app($node, "SELECT token_refresh.detach_table('funny')");
};

# Between the two statements of a sweep somebody may let go of the row of the schedule.
subtest 'a row of the schedule that was skipped is not deleted' => sub {
    app($node, token_table('skipped', 'key text PRIMARY KEY'));
    attach($node, 'skipped', trigger => JSON::PP::false);
    sign_in($node, $server, 'skipped', $_, key => literal($_)) for qw(one two);
    refreshed($node, $server, 'skipped', $_, 'before') for qw(one two);
    app($node, "ALTER TABLE skipped ADD CONSTRAINT no_news CHECK (key = 'one' OR expires_at < '2021-01-01') NOT VALID");
    app($node, "UPDATE skipped SET expires_at = '2020-01-01' WHERE key = 'two'");
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'two'", 'one is parked');
    $server->control('acme', hold => 'after');
    app($node, "UPDATE skipped SET expires_at = '2020-01-01' WHERE key = 'one'");
    $server->wait('acme', held => 1);
    super($node, q{CREATE TABLE tried (at timestamptz DEFAULT now()); CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.tried DEFAULT VALUES; RETURN NULL; END $$;
        CREATE TRIGGER skip BEFORE UPDATE ON token_refresh.schedule FOR EACH ROW WHEN (OLD.row_key IS NOT NULL AND NEW.row_key IS NULL) EXECUTE FUNCTION skip()});
    app($node, 'CREATE TABLE hidden AS TABLE skipped; DELETE FROM skipped');
    poll_until($node, 'SELECT count(*) >= 4 FROM tried', 'sweeps have missed them');
    is(super($node, "SELECT string_agg(row_key, ' ' ORDER BY row_key) FROM token_refresh.token_status WHERE token_table = 'skipped'::regclass"), 'one two', 'in flight, or parked: still there');
    app($node, 'ALTER TABLE skipped DROP CONSTRAINT no_news; INSERT INTO skipped TABLE hidden');
    super($node, 'DROP TRIGGER skip ON token_refresh.schedule; DROP FUNCTION skip');
    $server->release('acme');
    refreshed($node, $server, 'skipped', $_, 'stored') for qw(one two);
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

unlike(read_log($node), qr/FATAL:  (?!terminating)|PANIC/, 'nothing has died');
$node->stop;
done_testing();
