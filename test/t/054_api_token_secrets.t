# P7 for API tokens: with the server logging all it can, no token is in the log, an error, a view, a notification,
# pg_stat_activity or a dump; texts of any encoding are refused as calmly as others.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node = new_node(
    'main',
    'log_min_messages'           => 'debug5',
    'log_min_error_statement'    => 'debug5',
    'log_error_verbosity'        => 'verbose',
    'log_statement'              => 'all',
    'log_duration'               => 'on',
    # What a client binds is shown if the administrator asks for it; this is about what the extension shows.
    'log_parameter_max_length'   => 0,
    'token_refresh.api_token_use_interval' => '1s');

my @secrets;
my $told = '';  # all that clients were told besides the results

# Runs one statement for each token with the token as a bind parameter, and stores the new tokens in "new".
sub bound
{
    my ($sql, $token, %option) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
    append_to_file($script, ($option{before} // '') . "\n$sql;\n" . ($option{after} // ''));
    my ($output, $error) = ('', '');
    my $ok = IPC::Run::run([ $node->installed_command('pgbench'), '-n', '-M', $option{mode} // 'extended', '-c', 1, '-t', 1, '-f', $script, '-D', "token=$token", $node->connstr('postgres') ],
        '<', \undef, '>', \$output, '2>', \$error);
    $told .= "$error\n";
    return $ok;
}

sub query { return $node->safe_psql('postgres', "SET search_path = public, token_refresh;\n$_[0]"); }

# Tokens go into a table, not through statements.
query('CREATE TABLE held (kind text, token text, id bigint)');
sub note_tokens { my %seen; @secrets = grep { !$seen{$_}++ } @secrets, split /\n/, query('SELECT token FROM held WHERE token IS NOT NULL'); return; }

sub held { my ($kind) = @_; return query("SELECT token FROM held WHERE kind = '$kind'"); }

my $listener = background_session($node);
$listener->query_safe('LISTEN token_refresh_api_token');

subtest 'a life' => sub {
    query(q{INSERT INTO held SELECT kind, token, token_id FROM unnest('{plain,due,ahead,forced,reused,revoked,expired}'::text[]) kind, issue_api_token(kind, '{api:read}', '2 days')});
    query(q{UPDATE api_token SET expires_at = now() + '1 hour' WHERE owner = 'due'; UPDATE api_token SET expires_at = now() WHERE owner = 'expired'; UPDATE api_token SET expires_at = now() + '1 day' WHERE owner <> 'ahead' AND expires_at > now() + '1 day'});
    query(q{SELECT import_api_token(sha256(('ovt_' || md5('a fake one'))::bytea), 'vault', '{api:read}', now() + '1 day', 'ovt_'); INSERT INTO held VALUES ('imported', 'ovt_' || md5('a fake one'))});
    push @secrets, held('plain');
    ok(bound("SELECT * FROM token_refresh.$_(:token)", held('plain'), mode => $_ =~ /status/ ? 'prepared' : 'extended'), "$_ with a bound token") for qw(validate_api_token validate_and_refresh_api_token refresh_api_token get_token_refresh_status);
    ok(bound('INSERT INTO held SELECT $$new$$, new_token FROM token_refresh.validate_and_refresh_api_token(:token)', held('due')), 'rotated');
    ok(bound('INSERT INTO held SELECT $$new$$, new_token FROM token_refresh.refresh_api_token(:token, 0, true)', held('forced')), 'forced');
    query(q{SELECT details FROM refresh_expiring_tokens_batch()});
    ok(bound('INSERT INTO held SELECT $$new$$, new_token FROM token_refresh.validate_and_refresh_api_token(:token)', held('ahead')), 'made ahead and handed over');
    ok(bound('INSERT INTO held SELECT $$new$$, new_token FROM token_refresh.refresh_api_token(:token, 0, true)', held('reused')), 'rotated');
    query(q{UPDATE api_token SET retires_at = now() WHERE owner = 'reused' AND retires_at IS NOT NULL});
    ok(bound('SELECT * FROM token_refresh.validate_api_token(:token)', held('reused')), 'reused');
    ok(bound('SELECT token_refresh.revoke_api_token(:token)', held('revoked')), 'revoked');
    ok(bound('SELECT * FROM token_refresh.validate_and_refresh_api_token(:token)', held($_)), $_) for qw(revoked expired imported);
    ok(bound('INSERT INTO held SELECT $$new$$, new_token FROM token_refresh.validate_and_refresh_api_token(:token)', held('imported')), 'the imported one rotated');
    poll_until($node, q{SELECT count(*) > 3 FROM token_refresh.api_token_use}, 'uses are written down');
};

subtest 'errors' => sub {
    note_tokens();
    ok(!bound('SELECT * FROM token_refresh.refresh_api_token(:token, -1)', held('plain')), 'a bad argument beside a token');
    ok(!bound('SELECT 1 / (length(token_id::text) - length(token_id::text)) FROM token_refresh.validate_api_token(:token), (SELECT 1 AS token_id) x', held('plain')), 'an error after a call');
    ok(!bound('SELECT token_refresh.issue_api_token(:token, ARRAY[:token || chr(32)])', 'a-fake-owner'), 'a bad scope');
    ok(!bound('SELECT token_refresh.import_api_token(convert_to(:token, $$UTF8$$), $$o$$, ARRAY[$$a$$], now())', held('plain')), 'a token in the place of its hash');
    ok(!bound('SELECT token_refresh.import_api_token(:token, $$o$$, ARRAY[$$a$$], now())', held('plain')), 'in the place of its hash in hexadecimal digits');
    ok(!bound('INSERT INTO token_refresh.api_token SELECT (jsonb_populate_record(a, jsonb_build_object($$token_hash$$, NULL, $$id$$, -1))).* FROM token_refresh.api_token a WHERE owner = $$ahead$$ AND :token <> $$$$', held('plain')), 'a row that the table refuses');
    # The refresher, whom the table refuses something.
    query(q{INSERT INTO held SELECT 'locked', token, token_id FROM issue_api_token('locked', '{api:read}', '2 days'); UPDATE api_token SET expires_at = now() + '1 hour' WHERE owner = 'locked'});
    query(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.owner = 'locked' THEN RAISE 'no % today', NEW USING DETAIL = NEW::text; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON token_refresh.api_token FOR EACH ROW EXECUTE FUNCTION refuse()});
    ok(bound('INSERT INTO held SELECT $$message$$, NULL FROM token_refresh.validate_and_refresh_api_token(:token) WHERE refresh_reason = $$REFRESH_FAILED$$', held('locked')), 'a successor that cannot be stored');
    is(query(q{SELECT count(*) FROM held WHERE kind = 'message'}), '1', 'REFRESH_FAILED');
    is(query(q{SELECT status FROM api_token_status WHERE owner = 'locked'}), 'active', 'the token lives');
    # Others, who ask at the same time, are not harmed: the refresher does them one by one.
    query(q{INSERT INTO held SELECT 'crowd', token, token_id FROM generate_series(1, 2) i, issue_api_token(concat('crowd', left(i::text, 0)), '{api:read}', '2 days'); UPDATE api_token SET expires_at = now() + '1 hour' WHERE owner = 'crowd'});
    my $pid = query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'");
    kill('STOP', $pid);
    # Nobody waits for long, but what was asked for stays asked for.
    my @callers = map { start_query($node, "SELECT refresh_reason FROM held, token_refresh.validate_and_refresh_api_token(token) WHERE id = $_") }
        split /\n/, query(q{SELECT id FROM held WHERE kind IN ('crowd', 'locked')});
    my $activity = query('SELECT a FROM pg_stat_activity a');
    is(join(' ', map { ($_->finish)[0] } @callers), 'REFRESH_FAILED REFRESH_FAILED REFRESH_FAILED', 'three ask at the same time');
    kill('CONT', $pid);
    poll_until($node, q{SELECT count(*) = 2 FROM token_refresh.api_token_status WHERE owner = 'crowd' AND status = 'grace'}, 'one token that cannot be rotated harms no other');
    is(query(q{SELECT status FROM api_token_status WHERE owner = 'locked'}), 'active', 'and is as it was');
    note_tokens();
    ok(secrets_absent($activity, @secrets), 'pg_stat_activity');
    query('DROP TRIGGER refuse ON token_refresh.api_token');
};

my %encodings = (latin1 => 'LATIN1', ascii => 'SQL_ASCII', japanese => 'EUC_JP');
for my $name (sort keys %encodings)
{
    subtest "a database in $encodings{$name}" => sub {
        $node->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0 ENCODING '$encodings{$name}' LOCALE 'C'");
        $node->safe_psql($name, 'CREATE EXTENSION token_refresh');
        my $there = sub { my ($sql) = @_; local $ENV{PGCLIENTENCODING} = $encodings{$name}; return $node->safe_psql($name, "SET search_path = token_refresh; $sql"); };
        # A name with a letter that is one or two bytes, or none of the encoding.
        my $letter = $name eq 'japanese' ? "\xa4\xa2" : "\xfc";
        my ($token) = split /\|/, $there->("SELECT token, token_id FROM issue_api_token(E'J${letter}rgen \\\\ ''\"', '{api:read}', '2 days')");
        is($there->("SELECT is_valid FROM validate_api_token('$token')"), 't', 'issued and validated');
        is($there->("SELECT is_valid, message FROM validate_api_token('$letter' || '$token')"), 'f|the token is malformed', 'a letter too many');
        is($there->("SELECT message FROM validate_api_token('tr_' || repeat('$letter', 48))"), 'the token is malformed', 'letters for a body');
        is($there->("SELECT is_valid, message FROM validate_api_token('$token', 'api:r${letter}ad')"), 'f|the token does not have the required scope', 'a scope with it');
        is($there->('SELECT tokens_refreshed FROM refresh_expiring_tokens_batch()'), '1', 'the batch announces the owner');
        # The refresher of a new database comes after a moment; without it the session does it.
        my $new = $there->("SELECT new_token FROM validate_and_refresh_api_token('$token')");
        like($new, qr/^tr_/, 'handed over') or diag($there->("SELECT message FROM validate_and_refresh_api_token('$token')"));
        $there->("SELECT import_api_token(sha256('x${letter}y'::bytea), 'o', '{a}', now() + '1 day')") if $name ne 'japanese';
        is($there->("SELECT is_valid FROM validate_api_token('x${letter}y')"), 't', 'an imported token is its bytes') if $name ne 'japanese';
        $node->safe_psql('postgres', "DROP DATABASE $name");
    };
}

subtest 'where they are not' => sub {
    note_tokens();
    cmp_ok(scalar(@secrets), '>=', 15, 'number of tokens looked for: ' . scalar(@secrets));
    my ($heard) = $listener->query('SELECT 1');
    like($heard, qr/Asynchronous notification/, 'there were announcements');
    ok(secrets_absent($heard, @secrets), 'without tokens');
    $listener->quit;
    my $names = query("SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'token_refresh' AND c.relkind IN ('r', 'v')");
    for my $name (split / /, $names)
    {
        my $rows = query("SELECT * FROM $name");
        next unless $rows =~ /\S/;
        ok(secrets_absent($rows, @secrets), $name);
        ok(secrets_absent(join("\n", map { pack 'H*', $_ } $rows =~ /\\x([0-9a-f]+)/g), @secrets), "$name, bytes") if $rows =~ /\\x[0-9a-f]/;
    }
    my ($dump, $error) = ('', '');
    ok(IPC::Run::run([ $node->installed_command('pg_dump'), '-T', 'held', $node->connstr('postgres') ], '<', \undef, '>', \$dump, '2>', \$error), 'pg_dump');
    like($dump, qr/COPY token_refresh\.api_token .*\n\d+\t/, 'the dump has the rows of api_token');
    ok(secrets_absent($dump, @secrets), 'the dump has no token');
    ok(secrets_absent($told . $error, @secrets), 'nor has what clients were told');
};

$node->stop;
my $log = read_log($node);
like($log, qr/DEBUG: /, 'the log was verbose: ' . int(length($log) / 1024 / 1024) . ' MiB');
like($log, qr/LOG: .*execute.*validate_and_refresh_api_token\(\$1\)/, 'it has the statements');
ok(secrets_absent($log, @secrets), 'and no token');
unlike($log, qr/TRAP|PANIC/, 'nothing broke');

done_testing();
