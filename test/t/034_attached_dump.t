# P12 for attached tables: pg_dump and restore into another cluster with the same key file, and DROP EXTENSION.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my ($old, $server) = attach_node('old', 'token_refresh.sweep_interval' => '10s');
my $key_file = $old->basedir . '/token_refresh.keys';

# One that was detached before, so that the ids are not those that a new attachment would get.
app($old, token_table('gone'));
attach($old, 'gone');
# And one that is still there: it gets its id again.
app($old, token_table('former'));
my $former = attach($old, 'former');
app($old, q{SELECT token_refresh.detach_table('former'), token_refresh.detach_table('gone'); DROP TABLE gone; CREATE SCHEMA "My App"; CREATE TYPE state AS ENUM ('ok', 'bad')});
app($old, token_table('"My App".plain') . token_table('polled') . token_table('parking')
    . 'CREATE TABLE parted (id integer PRIMARY KEY, name text NOT NULL, access_token text, refresh_token text, expires_at timestamptz) PARTITION BY HASH (id);'
    . 'CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0)');
my @tables = ('"My App".plain', 'polled', 'parking', 'parted');
attach($old, '"My App".plain', filter => "name <> 'nobody'", label => 'a label', refresh_margin => '2 minutes', status_column => 'status');
attach($old, 'polled', trigger => JSON::PP::false, poll_interval => '1 second');
attach($old, 'parking');
attach($old, 'parted');
sign_in($old, $server, $_, "of $_", $_ eq 'parted' ? (id => 1) : ()) for @tables;
refreshed($old, $server, $_, "of $_", "before, $_") for @tables;

app($old, "ALTER TABLE parking ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID; UPDATE parking SET expires_at = '2020-01-01'");
poll_until($old, 'SELECT parked FROM token_refresh.token_status WHERE token_table = \'parking\'::regclass', 'a parked result');
my $parked = app($old, "SELECT token_refresh.get_access_token_from('parking', '1')");
super($old, 'SELECT token_refresh.pause()');

my @facts = (
    'SELECT id, relation::text, key_columns, columns, provider, label, filter, cipher, has_trigger, poll_interval, refresh_margin, attached_at, attached_by, owner FROM token_refresh.token_table WHERE id <> 1 ORDER BY id',
    q{SELECT tgrelid::regclass, tgname, tgisinternal, tgenabled, encode(tgargs, 'escape') FROM pg_trigger WHERE tgname LIKE 'token_refresh%' ORDER BY tgrelid::regclass::text, 2},
    q{SELECT count(*) FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND deptype = 'x' AND refclassid = 'pg_extension'::regclass},
    'SELECT token_table::text, row_key, subject, label, provider, expires_at, parked FROM token_refresh.token_status ORDER BY 1, 2',
    'SELECT token_table, row_key, access_token, refresh_token, replaces_refresh_token FROM token_refresh.parked_result ORDER BY 1, 2');
sub facts { my ($node, $database) = @_; return map { $node->safe_psql($database, $_) } @facts; }
my @before = facts($old, 'postgres');
my $dump = $old->basedir . '/dump';
$old->command_ok([ 'pg_dump', '--file', "$dump.sql", $old->connstr('postgres') ], 'pg_dump, plain');
$old->command_ok([ 'pg_dump', '--format=custom', '--file', "$dump.custom", $old->connstr('postgres') ], 'pg_dump, custom');
my $requests = $server->stats('acme')->{requests};
$old->stop;

my $new = new_node('new', -extension => 0, 'token_refresh.key_file' => $key_file, 'token_refresh.sweep_interval' => '10s');
$new->safe_psql('postgres', 'CREATE ROLE app LOGIN');
my %restore = (
    plain  => [ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.sql", '-d' ],
    custom => [ 'pg_restore', '--exit-on-error', "$dump.custom", '-d' ]);
for my $form (qw(custom plain))
{
    subtest "restored, $form" => sub {
        my $database = $form eq 'plain' ? 'postgres' : 'restored';
        $new->safe_psql('postgres', "CREATE DATABASE $database") if $form ne 'plain';
        $new->command_ok([ @{ $restore{$form} }, $new->connstr($database) ], 'restoring succeeds');
        ok($new->poll_query_until($database, 'SELECT count(*) = 4 FROM token_refresh.token_status'), 'each row is scheduled');
        my @after = facts($new, $database);
        is($after[$_], $before[$_], $facts[$_]) for 0 .. $#facts;
        is($server->stats('acme')->{requests}, $requests, 'nothing is asked while paused');
        is($new->safe_psql($database, "SELECT token_refresh.get_access_token_from('parking', '1')"), $parked, 'what is parked is read');
        $new->safe_psql('postgres', "DROP DATABASE $database") if $form ne 'plain';
    };
}

subtest 'refreshing goes on' => sub {
    app($new, 'ALTER TABLE parking DROP CONSTRAINT no_news');
    super($new, 'SELECT token_refresh.resume(); UPDATE token_refresh.parked_result SET retry_at = now(); SELECT token_refresh._wake_refresher()');
    refreshed($new, $server, 'parking', 'of parking', 'what was parked is stored');
    for my $table (@tables)
    {
        my $name = literal("of $table");
        is(app($new, "SELECT success FROM token_refresh.refresh_row(" . literal($table) . ", '1')"), 't', "$table: on demand");
        app($new, "UPDATE $table SET expires_at = now() - interval '1 minute'");
        refreshed($new, $server, $table, "of $table", "$table: when it falls due");
    }
    sign_in($new, $server, '"My App".plain', 'came later');
    refreshed($new, $server, '"My App".plain', 'came later', 'a new row');
    is(attach($new, 'former'), $former, 'a table that was attached once has the id that it had');
    app($new, token_table('another'));
    ok(attach($new, 'another') > $new->safe_psql('postgres', 'SELECT max(id) FROM token_refresh.token_table WHERE relation <> \'another\'::regclass'), 'the next attachment has an id of its own');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'DROP EXTENSION' => sub {
    my $rows = app($new, q{SELECT * FROM "My App".plain ORDER BY id});
    super($new, 'DROP EXTENSION token_refresh');
    is(super($new, 'SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal'), '0', 'needs no CASCADE and leaves no trigger');
    is(app($new, q{SELECT * FROM "My App".plain ORDER BY id}), $rows, 'the tables stay as they are');
    app($new, q{UPDATE "My App".plain SET expires_at = now(); UPDATE parted SET expires_at = now(); TRUNCATE polled; INSERT INTO parking (name) VALUES ('x')});
    pass('and the application goes on');
    super($new, 'CREATE EXTENSION token_refresh');
    create_provider($new, 'acme', token_endpoint => $server->token_endpoint('acme'));
    super($new, 'GRANT USAGE ON SCHEMA token_refresh TO app; GRANT EXECUTE ON FUNCTION token_refresh.attach_table TO app');
    attach($new, '"My App".plain');
    app($new, q{UPDATE "My App".plain SET expires_at = '2020-01-01'});
    refreshed($new, $server, '"My App".plain', 'of "My App".plain', 'attached again');
};

$new->stop;
done_testing();
