# Tables that are given away, altered or filled so that the extension would run somebody's code as somebody else, write to
# another table, or fall over.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use IPC::Run ();
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s', 'token_refresh.poll_interval' => '1s', 'restart_after_crash' => 'off',
    'shared_preload_libraries' => 'token_refresh, auto_explain', 'auto_explain.log_nested_statements' => 'on', 'auto_explain.log_verbose' => 'on');
add_owner($node, 'eve');
super($node, 'GRANT EXECUTE ON FUNCTION token_refresh.seal_token TO app, eve, PUBLIC; GRANT USAGE ON SCHEMA token_refresh TO PUBLIC; CREATE TABLE who_ran (what text, who text); GRANT ALL ON who_ran TO PUBLIC');
sub eve { my ($sql) = @_; return app($node, $sql, 'eve'); }
sub ran_as { my ($what) = @_; return super($node, "SELECT coalesce(string_agg(DISTINCT who, ' '), 'nobody') FROM who_ran WHERE what = '$what'"); }
sub status_in { my ($table, $columns) = @_; return super($node, 'SELECT ' . ($columns // 'status, last_error') . " FROM token_refresh.token_status WHERE token_table = '$table'::regclass"); }
my $columns = 'id integer PRIMARY KEY, name text, access_token text, refresh_token text, expires_at timestamptz';
my $filter  = q{CREATE FUNCTION public.watch(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.who_ran VALUES (what, current_user); RETURN true; END $$;};
eve($filter);

subtest 'triggers that are none of ours' => sub {
    app($node, token_table('triggers'));
    my $id = attach($node, 'triggers');
    sign_in($node, $server, 'triggers', 'of triggers', expires_at => "now() + interval '1 day'");
    for my $kind ('AFTER DELETE ON triggers FOR EACH STATEMENT', 'BEFORE DELETE ON triggers FOR EACH ROW', 'BEFORE TRUNCATE ON triggers FOR EACH STATEMENT')
    {
        app($node, "CREATE TRIGGER mine $kind EXECUTE FUNCTION token_refresh._feed_schedule('$id')");
        like(app_fails($node, $kind =~ /DELETE/ ? 'DELETE FROM triggers' : 'TRUNCATE triggers'), qr/ERROR:  trigger "mine" is none that token_refresh has made/, $kind);
        app($node, 'DROP TRIGGER mine ON triggers');
    }
};

subtest 'a key that is lost' => sub {
    for my $trigger (1, 0)
    {
        my $table = $trigger ? 'keyless' : 'keyless_polled';
        app($node, "CREATE TABLE $table ($columns)");
        attach($node, $table, trigger => $trigger ? JSON::PP::true : JSON::PP::false);
        sign_in($node, $server, $table, "of $table", id => 1, expires_at => "now() + interval '1 day'");
        poll_until($node, "SELECT status = 'connected' FROM token_refresh.token_status WHERE token_table = '$table'::regclass", 'scheduled');
        app($node, "ALTER TABLE $table DROP CONSTRAINT ${table}_pkey; ALTER TABLE $table ALTER id DROP NOT NULL");
        app($node, "INSERT INTO $table VALUES (NULL, 'nobody', 'a', 'r', now() + interval '1 day'), (1, 'twin', 'a', 'r', now())");
        is(status_in($table), "error|client_config: the key (id) of table public.$table is not unique and NOT NULL any more", "$table: the status says so");
        like(app_fails($node, "SELECT token_refresh.get_access_token_from('$table', '1')"), qr/ERROR:  the key \(id\) of table public\.$table is not unique/, 'so does reading');
        app($node, "DELETE FROM $table WHERE name <> 'of $table'; ALTER TABLE $table ADD PRIMARY KEY (id); UPDATE $table SET expires_at = '2020-01-01'");
        refreshed($node, $server, $table, "of $table", 'served again');
    }
};

subtest 'a subject that is NULL, in a function' => sub {
    app($node, "CREATE FUNCTION opens(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS \$\$ SELECT CASE WHEN length(\$2) > 100 THEN 'too long' ELSE reverse(\$1) END \$\$; CREATE FUNCTION seals(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS \$\$ SELECT reverse(\$1) \$\$;
        CREATE TABLE nameless ($columns)");
    attach($node, 'nameless', cipher => { decrypt => 'public.opens', encrypt => 'public.seals' });
    app($node, "INSERT INTO nameless VALUES (1, NULL, 'olleh', 'tnarg', now() + interval '1 day')");
    is(app($node, "SELECT token_refresh.get_access_token_from('nameless', '1')"), 'hello', 'opens');
};

subtest 'attach_table that waits for another owner' => sub {
    eve("CREATE TABLE given ($columns); INSERT INTO given VALUES (1, 'x', 'a', 'r', now())");
    my $session = background_session($node);
    $session->query('BEGIN; ALTER TABLE given OWNER TO postgres');
    my ($output, $errors) = ('', '');
    my $attaching = IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-U', 'eve', '-d', $node->connstr('postgres'), '-c',
        "SELECT token_refresh.attach_table('given', " . attach_options(filter => "public.watch('given')") . ')' ], '<', \'', '>', \$output, '2>', \$errors);
    poll_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 'it waits');
    $session->query('COMMIT');
    $session->quit;
    $attaching->finish;
    like($errors, qr/ERROR:  must be owner of table given/, 'is refused then');
    is(ran_as('given'), 'nobody', 'and runs nothing');
};

subtest 'another owner' => sub {
    my $message = 'has another owner now: its new owner must detach and attach it';
    eve("CREATE TABLE sold ($columns); ALTER TABLE sold ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID");
    attach($node, 'sold', filter => "public.watch('sold')", -role => 'eve');
    sign_in($node, $server, 'sold', 'of sold', id => 1, -role => 'eve');
    poll_until($node, 'SELECT parked FROM token_refresh.token_status WHERE subject = \'of sold\'', 'tokens are parked');
    super($node, 'ALTER TABLE sold OWNER TO app; DELETE FROM who_ran');
    super($node, "UPDATE token_refresh.parked_result SET retry_at = now(); SELECT token_refresh._wake_refresher()");
    app($node, "INSERT INTO sold VALUES (2, 'second', 'a', 'r', '2020-01-01')");
    poll_until($node, "SELECT retry_at > now() FROM token_refresh.parked_result", 'storing is tried');
    is(ran_as('sold'), 'nobody', "nothing of the former owner's is run");
    is(table_status($node, 'second'), '', 'no new row is taken up');
    like(app_fails($node, "SELECT token_refresh.get_access_token_from('sold', '1')"), qr/ERROR:  table public\.sold $message/, 'reading says so');
    like(app_fails($node, "SELECT token_refresh.detach_table('sold')", 'eve'), qr/must be owner of table sold/, 'the former owner cannot detach it');
    app($node, "ALTER TABLE sold DROP CONSTRAINT no_news; SELECT token_refresh.detach_table('sold')");
    attach($node, 'sold');
    refreshed($node, $server, 'sold', 'of sold', 'what was parked is stored when the new owner has attached it');
    super($node, 'DELETE FROM sold WHERE id = 2; ALTER TABLE sold OWNER TO eve');
    poll_until($node, "SELECT bool_and(last_error LIKE '%$message') FROM token_refresh.token_status WHERE token_table = 'sold'::regclass", 'the status says so');
    super($node, 'ALTER TABLE sold OWNER TO app');
    is(table_status($node, 'of sold', 'status'), 'connected', 'given back, it is served again');
};

subtest 'detached and given away while a refresh is in flight' => sub {
    super($node, "CREATE TABLE ours ($columns); SELECT token_refresh.attach_table('ours', " . attach_options() . ')');
    $server->control('acme', hold => 'after');
    my ($grant) = $server->grants('acme', subjects => ['of ours']);
    super($node, "INSERT INTO ours VALUES (1, 'of ours', '$grant->{access_token}', '$grant->{refresh_token}', '2020-01-01')");
    $server->wait('acme', held => 1);
    my ($status) = $node->psql('postgres', "SELECT token_refresh.detach_table('ours')");
    super($node, 'ALTER TABLE ours OWNER TO eve');
    eve("CREATE FUNCTION watches() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM public.watch('ours'); RETURN NEW; END \$\$; CREATE TRIGGER watches BEFORE UPDATE ON ours FOR EACH ROW EXECUTE FUNCTION watches()");
    $server->release('acme');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'the answer has come' . ($status == 0 ? '' : ', detaching was refused'));
    is(ran_as('ours'), 'nobody', "nothing of the new owner's is run");
};

subtest 'a filter under other settings' => sub {
    eve("CREATE TABLE slashes ($columns)");
    my $evil = q{'\\\\' = '' or true) IS TRUE), NULL::text FROM unnest($1, $2) AS _new(n, key), public.slashes UNION ALL SELECT 99999999, NULL, NULL, NULL::text, NULL, true, NULL UNION ALL SELECT 1,NULL,NULL,NULL,NULL,((true --' IS NOT NULL};
    $evil =~ s/\\\\/\\/;
    like(app_fails($node, "SET standard_conforming_strings = off; SELECT token_refresh.attach_table('slashes', " . attach_options(filter => $evil) . ')', 'eve'),
        qr/option "filter"/, 'means what it will mean to the refresher');
};

subtest 'another table of that name' => sub {
    super($node, 'CREATE SCHEMA one AUTHORIZATION app');
    app($node, "CREATE TYPE one.state AS ENUM ('connected', 'error'); CREATE TABLE one.t ($columns, state one.state DEFAULT 'connected')");
    attach($node, 'one.t', status_column => 'state', status_values => { connected => 'connected', error => 'error' });
    sign_in($node, $server, 'one.t', 'of one', id => 1);
    refreshed($node, $server, 'one.t', 'of one', 'before');
    my $reader = background_session($node);
    my ($token) = $reader->query("SELECT token_refresh.get_access_token_from('one.t', '1')");
    super($node, 'ALTER SCHEMA one RENAME TO two; CREATE SCHEMA one AUTHORIZATION app');
    app($node, "ALTER TYPE two.state RENAME TO states; CREATE TABLE one.t (LIKE two.t INCLUDING ALL); INSERT INTO one.t SELECT * FROM two.t; UPDATE one.t SET access_token = 'the other'");
    is(($reader->query("SELECT token_refresh.get_access_token_from('two.t', '1')"))[0], $token, 'a session that knows the old name reads the table that is attached');
    $reader->quit;
    app($node, "UPDATE two.t SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'two.t', 'of one', 'the table in the renamed schema is refreshed') or diag(table_status($node, 'of one'));
    is(app($node, 'SELECT access_token FROM one.t'), 'the other', 'the other is left alone');
};

subtest "functions of that name, of other types, and somebody else's" => sub {
    super($node, 'CREATE SCHEMA shared; GRANT ALL ON SCHEMA shared TO app, eve');
    app($node, q{CREATE FUNCTION shared.opens(text, text) RETURNS text LANGUAGE sql AS 'SELECT substr($1, 5)'; CREATE FUNCTION shared.seals(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'xyz:' || $1 $$;
        CREATE TABLE vars (id integer PRIMARY KEY, name varchar(20), access_token varchar(200), refresh_token varchar(200), expires_at timestamptz)});
    attach($node, 'vars', cipher => { decrypt => 'shared.opens', encrypt => 'shared.seals' });
    eve(q{CREATE FUNCTION shared.opens(varchar, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.watch('opens'); RETURN substr($1, 5); END $$;
        CREATE FUNCTION shared.seals(text, varchar) RETURNS varchar LANGUAGE plpgsql AS $$ BEGIN PERFORM public.watch('seals'); RETURN 'xyz:' || $1; END $$});
    my ($grant) = $server->grants('acme', subjects => ['of vars']);
    app($node, "INSERT INTO vars VALUES (1, 'of vars', 'xyz:$grant->{access_token}', 'xyz:$grant->{refresh_token}', '2020-01-01')");
    poll_until($node, "SELECT expires_at > now() FROM vars", 'refreshed');
    is(ran_as('opens') . ' ' . ran_as('seals'), 'nobody nobody', 'by the functions that were meant');
    app($node, 'ALTER FUNCTION shared.opens(text, text) RENAME TO opens_no_more');
    is(table_status($node, 'of vars', 'parked'), 'f', 'without them');
    like(app_fails($node, "SELECT token_refresh.get_access_token_from('vars', '1')"), qr/there is no function shared\.opens\(text, text\) that returns text/, 'nothing is tried with others');
};

subtest 'casts of the owner of a type' => sub {
    eve(q{CREATE TYPE kind AS ENUM ('a', 'b', ''); CREATE FUNCTION text_kind(text) RETURNS kind LANGUAGE plpgsql AS $$ BEGIN PERFORM public.watch('cast'); RETURN 'a'; END $$;
        CREATE CAST (text AS kind) WITH FUNCTION text_kind(text);
        CREATE TABLE kinds (id kind PRIMARY KEY, name text, access_token bytea, refresh_token bytea, expires_at timestamptz)});
    attach($node, 'kinds', cipher => 'native', -role => 'eve');
    is(super($node, "SELECT length(token_refresh.seal_token('kinds', 'a', 'access_token', 'x')) > 1"), 't', 'a superuser seals');
    is(ran_as('cast'), 'nobody', 'and runs none');
    eve("INSERT INTO kinds VALUES ('', 'x', token_refresh.seal_token('kinds', '', 'access_token', 'of nothing'), NULL, now() + interval '1 day'), ('b', 'x', 'in plain text', NULL, now() + interval '1 day')");
    is(eve("SELECT token_refresh.get_access_token_from('kinds', '')"), 'of nothing', 'a key that prints as nothing');
    is(super($node, "SELECT key, current, secrets FROM token_refresh.key_usage WHERE place = 'public.kinds' ORDER BY 1"), "not sealed|f|1\ntest|t|1", 'of what is not sealed nothing is shown');
    like(app_fails($node, "SELECT token_refresh.get_access_token_from('kinds', 'b')", 'eve'), qr/ERROR:  the access token in column access_token of table public\.kinds does not open in the row b\n/, 'what does not open is named');
};

subtest 'what is too much, or no time' => sub {
    app($node, "CREATE TABLE large (id bytea PRIMARY KEY, name text, access_token text, refresh_token text, expires_at numeric)");
    attach($node, 'large');
    app($node, "INSERT INTO large VALUES ('1', repeat('x', 100000), 'a', repeat('r', 70000), 1)");
    poll_until($node, "SELECT last_error = 'client_config: the refresh token in the row is longer than 64 kB' FROM token_refresh.token_status WHERE token_table = 'large'::regclass", 'a token of 70 kB is not read');
    is(status_in('large', 'length(subject)'), '1000', 'and of the subject no more than is shown');
    my ($status, undef, $warning) = $node->psql('postgres', "INSERT INTO large SELECT string_agg(sha256(i::text::bytea), ''), 'long', 'a', 'r', 1 FROM generate_series(1, 70) i", extra_params => [ '-U', 'app' ]);
    is($status, 0, 'a key longer than the schedule can hold');
    like($warning, qr/WARNING:  token_refresh leaves a row of table public\.large alone, as its key is longer than 2000 bytes/, 'with a warning');
    app($node, "UPDATE large SET name = 'longer', id = id || '\\x00' WHERE name = 'long'; DELETE FROM large WHERE name = 'longer'");
    app($node, "INSERT INTO large VALUES ('$_', '$_', 'a', 'r', '$_')") for 'NaN', '1e300', '-1e300', '1e18', 'Infinity';
    app($node, "CREATE TABLE zoned (id integer PRIMARY KEY, name text, access_token text, refresh_token text, expires_at timestamp)");
    attach($node, 'zoned', time_zone => 'America/Los_Angeles');
    app($node, "INSERT INTO zoned VALUES (1, 'zoned', 'a', 'r', '294276-12-31 23:59:59'), (2, 'never', 'a', 'r', 'infinity'), (3, 'ever', 'a', NULL, '-infinity')");
    is(app($node, "SELECT token_refresh.get_access_token_from('zoned', '2'), token_refresh.get_access_token_from('zoned', '3')"), 'a|', 'infinity is later than now, -infinity is not');
    app($node, "SELECT token_refresh.detach_table('large')");
};

subtest 'a table that becomes a partition' => sub {
    app($node, "CREATE TABLE part ($columns); CREATE TABLE whole ($columns) PARTITION BY RANGE (id)");
    attach($node, 'part');
    app($node, "ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM (0) TO (10)");
    is(app_fails($node, "SELECT token_refresh.detach_table('part')"), 'no error, but: ', 'is detached');
};

subtest 'what people see' => sub {
    app($node, "CREATE TABLE counted ($columns); INSERT INTO counted VALUES (1, 'c1', 'a', 'r', now() + interval '1 day')");
    create_provider($node, 'counted', token_endpoint => $server->token_endpoint('counted'));
    attach($node, 'counted', provider => 'counted');
    app($node, "INSERT INTO counted VALUES (2, 'c2', 'a', 'r', now() + interval '1 day')");
    poll_until($node, "SELECT count(*) = 2 FROM token_refresh.token_status WHERE provider = 'counted'", 'rows of before, and new ones');
    is(super($node, "SELECT c ->> 'label', c ->> 'count' FROM jsonb_array_elements(token_refresh.status() -> 'credentials') c WHERE c ->> 'provider' = 'counted'"), '|2', 'are counted together');
};

subtest 'auto_explain' => sub {
    $node->append_conf('postgresql.conf', 'auto_explain.log_min_duration = 0');
    $node->reload;
    my $offset = -s $node->logfile;
    app($node, "CREATE TABLE explained ($columns)");
    attach($node, 'explained', cipher => { decrypt => 'public.opens', encrypt => 'public.seals' }, subject_column => undef);
    app($node, "CREATE TABLE explained_plain ($columns)");
    attach($node, 'explained_plain');
    app($node, "INSERT INTO explained SELECT 1, 'x', reverse('x'), reverse(token), '2020-01-01' FROM (VALUES ('$_->{refresh_token}')) v (token)") for $server->grants('acme', subjects => ['of explained']);
    sign_in($node, $server, 'explained_plain', 'of explained_plain', id => 1);
    poll_until($node, "SELECT count(*) = 2 FROM (TABLE explained UNION ALL TABLE explained_plain) t WHERE expires_at > now()", 'refreshed');
    my @secrets = split /[|\n]/, super($node, "SELECT access_token, refresh_token FROM explained_plain UNION ALL SELECT reverse(access_token), reverse(refresh_token) FROM explained");
    app($node, "SELECT count(token_refresh.get_access_token_from('explained', '1'))");
    my $log = read_log($node, $offset);
    like($log, qr/Query Text: UPDATE public\.explained_plain/, 'the plans are in the log');
    ok(secrets_absent($log, @secrets), 'no token is');
};

is(super($node, "SELECT rolname FROM pg_roles WHERE rolsuper"), 'postgres', 'nobody has become a superuser');
$node->stop;
done_testing();
