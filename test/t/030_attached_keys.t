# Attached tables of all shapes: keys of any type and number of columns, names that need quoting, columns that are too short,
# times in other forms, and what happens when the application alters the table or a key.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s');

# One round with a key: rows that were there, rows that come, changes of an expiry, reading, refreshing on demand. A sweep
# finds the keys of the trigger, and the other way round: there is one row of the schedule for each.
sub all_ways
{
    my ($what, %given) = @_;
    my $table = $given{table} // 'keyed';
    subtest $what => sub {
        app($node, $given{before}) if $given{before};
        app($node, token_table($table, $given{columns}));
        my @values = @{ $given{values} };
        my @names = map { "$what $_" } 0 .. $#values;
        my $insert = sub { my ($i) = @_; sign_in($node, $server, $table, $names[$i], %{ $values[$i] }); };
        $insert->($_) for 0 .. 1;
        attach($node, $table);
        refreshed($node, $server, $table, $names[$_], "row $_, which was there") for 0 .. 1;
        # In a session with other ideas of how values look.
        app($node, "ALTER ROLE app SET DateStyle = 'German'; ALTER ROLE app SET TimeZone = 'Asia/Kolkata'; ALTER ROLE app SET bytea_output = 'escape'; ALTER ROLE app SET IntervalStyle = 'iso_8601'");
        $insert->($_) for 2 .. $#values;
        refreshed($node, $server, $table, $names[$_], "row $_, which came") for 2 .. $#values;
        app($node, "UPDATE $table SET expires_at = now() + interval '1 minute' WHERE name = " . literal($names[0]));
        refreshed($node, $server, $table, $names[0], 'when it falls due again');
        my $key = literal(table_status($node, $names[0], 'row_key'));
        is(app($node, 'SELECT token_refresh.get_access_token_from(' . literal($table) . ", $key) = access_token FROM $table WHERE name = " . literal($names[0])), 't', 'the token is read by its key');
        is(app($node, 'SELECT success FROM token_refresh.refresh_row(' . literal($table) . ", $key)"), 't', 'and refreshed on demand');
        app($node, 'ALTER ROLE app RESET ALL');
        # What the sweep makes of it.
        super($node, 'UPDATE token_refresh.schedule SET left_alone = true');
        super($node, "UPDATE token_refresh.token_table SET poll_interval = '1 second' WHERE relation = " . literal($table) . '::regclass');
        poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.schedule WHERE left_alone', 'the sweep knows all rows by the same keys');
        is(super($node, "SELECT count(*), count(DISTINCT subject) FROM token_refresh.token_status"), scalar(@values) . '|' . scalar(@values), 'each is scheduled once');
        is(super($node, "SELECT count(*) FROM $table t JOIN token_refresh.token_status s ON s.row_key = $given{row_key} AND s.subject = t.name"), scalar(@values), 'by the text of its key') if $given{row_key};
        is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
        app($node, "SELECT token_refresh.detach_table(" . literal($table) . "); DROP TABLE $table");
        app($node, $given{after}) if $given{after};
    };
    return;
}

all_ways('uuid', columns => 'key uuid PRIMARY KEY', row_key => 'key::text',
    values => [ map { { key => "'00000000-0000-4000-8000-00000000000$_'" } } 1 .. 3 ]);
all_ways('text', columns => 'key text PRIMARY KEY', row_key => 'key',
    values => [ map { { key => literal($_) } } "O'Brien \"x\" \\ %s", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x91", ' leading, [1] {"a"} ', "tab\tnew\nline", '' ]);
all_ways('char(n)', columns => 'key char(8) PRIMARY KEY', row_key => 'key::text',
    values => [ map { { key => literal($_) } } 'ab', 'abcdefgh', ' c' ]);
all_ways('composite', columns => 'tenant text, "No" integer, flag boolean, PRIMARY KEY (tenant, "No", flag)',
    row_key => 'jsonb_build_array(tenant, "No"::text, flag::text)::text',
    values => [ map { { tenant => literal($_->[0]), '"No"' => $_->[1], flag => $_->[2] } } [ 'a', 1, 'true' ], [ 'a', 1, 'false' ], [ 'a"\\,', 2, 'true' ], [ "\xc3\xa4'", -3, 'false' ] ]);
all_ways('timestamptz', columns => 'key timestamptz PRIMARY KEY',
    values => [ map { { key => "'2026-0$_-02 03:04:05.678901+00'" } } 1 .. 3 ]);
all_ways('date, interval and bytea', columns => 'd date, i interval, b bytea, PRIMARY KEY (d, i, b)',
    values => [ map { { d => "'2026-0$_-02'", i => "'1 year $_ days 02:00'", b => "'\\x00ff0$_'" } } 1 .. 3 ]);
all_ways('inet and numeric', columns => 'n inet, m numeric, PRIMARY KEY (n, m)',
    values => [ map { { n => "'10.0.0.$_'", m => "$_.50" } } 1 .. 3 ]);
all_ways('enum and domain', before => q{CREATE TYPE realm AS ENUM ('b', 'a'); CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]+$')},
    columns => 'r realm, c code, PRIMARY KEY (r, c)', after => 'DROP TYPE realm; DROP DOMAIN code',
    values => [ map { { r => "'$_->[0]'", c => "'$_->[1]'" } } [ 'b', 'X' ], [ 'a', 'X' ], [ 'b', 'Y' ] ]);
all_ways('a unique index, with a collation', columns => 'key text COLLATE "C" NOT NULL UNIQUE', row_key => 'key',
    values => [ map { { key => literal($_) } } 'b', 'A', 'a' ]);
all_ways('quoted names', table => '"Odd Schema"."My ""Tokens"" $1"', before => 'CREATE SCHEMA "Odd Schema"', after => 'DROP SCHEMA "Odd Schema"',
    columns => '"select" integer, dropped text, "Key" uuid DEFAULT gen_random_uuid() PRIMARY KEY', row_key => '"Key"::text',
    values => [ map { { '"select"' => $_ } } 1 .. 3 ]);

subtest 'a dropped column, and columns in another order' => sub {
    app($node, 'CREATE TABLE gaps (gone1 text, expires_at timestamptz, gone2 text, refresh_token text, name text, id integer GENERATED ALWAYS AS IDENTITY, gone3 text, access_token text, UNIQUE (id));'
        . 'ALTER TABLE gaps DROP gone1, DROP gone3');
    sign_in($node, $server, 'gaps', 'gap1');
    attach($node, 'gaps');
    refreshed($node, $server, 'gaps', 'gap1', 'the row that was there');
    app($node, 'ALTER TABLE gaps DROP gone2, ADD more text');
    sign_in($node, $server, 'gaps', 'gap2', more => "'x'");
    refreshed($node, $server, 'gaps', 'gap2', 'the row that comes after another column has gone');
    is(super($node, "SELECT more FROM gaps WHERE name = 'gap2'"), 'x', 'nothing else is written');
};

subtest 'token columns that are too short' => sub {
    app($node, 'CREATE TABLE short (id integer PRIMARY KEY, name text, access_token varchar(40), refresh_token varchar(20), expires_at timestamptz, last_error varchar(12))');
    my ($grant) = $server->grants('acme', subjects => ['short1']);
    # The provider's tokens have 35 characters.
    app($node, 'ALTER TABLE short ALTER refresh_token TYPE varchar(40)');
    sign_in($node, $server, 'short', 'short1', id => 1, expires_at => "now() + interval '1 day'");
    app($node, "ALTER TABLE short ALTER access_token TYPE varchar(10) USING 'old'");
    attach($node, 'short', error_column => 'last_error');
    app($node, "UPDATE short SET expires_at = '2020-01-01'");
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'short1'", 'the new tokens are parked');
    like(table_status($node, 'short1'), qr/22001 value too long for type character varying\(10\)/, 'and the status says why');
    is(super($node, 'SELECT access_token FROM short'), 'old', 'nothing is cut off');
    ok($server->is_active('acme', app($node, "SELECT token_refresh.get_access_token_from('short', '1')")), 'readers get the new token');
    app($node, 'ALTER TABLE short RENAME access_token TO too_short; ALTER TABLE short ADD access_token text');
    refreshed($node, $server, 'short', 'short1', 'stored when there is room');
    $server->fault('acme', kind => 'invalid_grant', match => '^short1$');
    app($node, "UPDATE short SET expires_at = '2020-01-01'");
    poll_until($node, q{SELECT last_error <> '' FROM short}, 'the last error');
    is(super($node, 'SELECT length(last_error) FROM short'), '12', 'is cut to what its column takes');
    $server->fault('acme');
    app($node, "SELECT token_refresh.detach_table('short'); DROP TABLE short");
};

subtest 'times in other forms' => sub {
    app($node, <<'END');
CREATE TYPE token_state AS ENUM ('ok', 'expired', 'gone', 'broken', 'off');
CREATE TABLE times (id bigint PRIMARY KEY, name text, access_token text, refresh_token text, expires_at bigint, refreshed_at timestamp, updated_at timestamp(0), status token_state);
CREATE TABLE local_times (id bigint PRIMARY KEY, name text, access_token text, refresh_token text, expires_at timestamp, refreshed_at numeric, updated_at integer, status token_state);
END
    my %values = (connected => 'ok', token_expired => 'expired', needs_reauth => 'gone', error => 'broken', disconnected => 'off');
    sign_in($node, $server, 'times', 'epoch', id => 1, status => "'expired'", expires_at => '1000000000');
    sign_in($node, $server, 'local_times', 'local', id => 1, status => "'expired'", expires_at => "now() AT TIME ZONE 'America/New_York' - interval '1 minute'");
    sign_in($node, $server, 'local_times', 'local later', id => 2, status => "'expired'", expires_at => "now() AT TIME ZONE 'America/New_York' + interval '1 hour'");
    attach($node, 'times', status_column => 'status', status_values => \%values, refreshed_at_column => 'refreshed_at', updated_at_column => 'updated_at');
    attach($node, 'local_times', status_column => 'status', status_values => \%values, refreshed_at_column => 'refreshed_at', updated_at_column => 'updated_at', time_zone => 'America/New_York');
    poll_until($node, "SELECT expires_at BETWEEN extract(epoch FROM now()) + 3000 AND extract(epoch FROM now()) + 4000 FROM times", 'seconds since 1970');
    poll_until($node, "SELECT expires_at BETWEEN (now() AT TIME ZONE 'America/New_York') + interval '50 minutes' AND (now() AT TIME ZONE 'America/New_York') + interval '70 minutes' FROM local_times WHERE id = 1", 'local time');
    is(super($node, "SELECT status, abs(extract(epoch FROM refreshed_at - now() AT TIME ZONE 'UTC')) < 60, abs(extract(epoch FROM updated_at - now() AT TIME ZONE 'UTC')) < 60 FROM times"), 'ok|t|t', 'without an option timestamps are in UTC');
    is(super($node, "SELECT status, abs(refreshed_at - extract(epoch FROM now())) < 60, abs(updated_at - extract(epoch FROM now())) < 60 FROM local_times WHERE id = 1"), 'ok|t|t', 'numbers are seconds');
    is(table_status($node, $_, "extract(epoch FROM expires_at - now())::integer BETWEEN 3000 AND 4000"), 't', "$_: token_status has the right time") for 'epoch', 'local', 'local later';
    is(super($node, 'SELECT status FROM local_times WHERE id = 2'), 'expired', 'what is not due is left alone');
    $server->fault('acme', kind => 'invalid_grant', match => '^epoch$');
    app($node, 'UPDATE times SET expires_at = 1000000000');
    poll_until($node, "SELECT status = 'gone' FROM times", 'a status of an enum is written');
    $server->fault('acme');
};

subtest 'a renamed table' => sub {
    app($node, token_table('before'));
    sign_in($node, $server, 'before', 'renamed1');
    attach($node, 'before', filter => "name <> 'nobody'");
    refreshed($node, $server, 'before', 'renamed1', 'before');
    app($node, 'ALTER TABLE before RENAME TO after; CREATE SCHEMA other; ALTER TABLE after SET SCHEMA other');
    app($node, "UPDATE other.after SET expires_at = now() - interval '1 minute'");
    refreshed($node, $server, 'other.after', 'renamed1', 'under its new name');
    sign_in($node, $server, 'other.after', 'renamed2');
    refreshed($node, $server, 'other.after', 'renamed2', 'a new row');
    is(super($node, "SELECT DISTINCT token_table FROM token_refresh.token_status WHERE subject LIKE 'renamed%'"), 'other.after', 'and so the status names it');
    app($node, "SELECT token_refresh.detach_table('other.after')");
};

subtest 'a renamed column' => sub {
    app($node, token_table('columns'));
    sign_in($node, $server, 'columns', 'column1');
    attach($node, 'columns');
    refreshed($node, $server, 'columns', 'column1', 'before');
    my $requests = $server->stats('acme')->{requests};
    app($node, 'ALTER TABLE columns RENAME expires_at TO valid_until');
    app($node, "INSERT INTO columns (name, access_token, refresh_token, valid_until) VALUES ('column2', 'a', 'b', '2020-01-01'); UPDATE columns SET valid_until = '2020-01-02', refresh_token = refresh_token || '' WHERE name = 'column1'");
    pass("the application's writes go on");
    super($node, "UPDATE token_refresh.schedule SET due_at = now() WHERE subject = 'column1'; SELECT token_refresh._wake_refresher()");
    poll_until($node, "SELECT status = 'error' FROM token_refresh.token_status WHERE subject = 'column1'", 'the row is in error');
    like(table_status($node, 'column1'), qr/column expires_at of table public\.columns does not exist/, 'and the status says why');
    my ($status, undef, $errors) = $node->psql('postgres', "SELECT token_refresh.get_access_token_from('columns', '1')", extra_params => [ '-U', 'app' ]);
    like($errors, qr/column expires_at of table public\.columns does not exist/, 'so does reading');
    is($server->stats('acme')->{requests}, $requests, 'the provider is not asked');
    app($node, 'ALTER TABLE columns RENAME valid_until TO expires_at');
    app($node, "DELETE FROM columns WHERE name = 'column2'");
    is(app($node, "SELECT success FROM token_refresh.refresh_row('columns', '1')"), 't', 'when it is renamed back it can be refreshed');
    refreshed($node, $server, 'columns', 'column1', 'the row');
    is(table_status($node, 'column1'), 'connected|f|', 'all is well');
    app($node, "SELECT token_refresh.detach_table('columns')");
};

subtest 'an altered column' => sub {
    app($node, 'CREATE TABLE altered (id integer PRIMARY KEY, name text, access_token text, refresh_token text, expires_at timestamp, status text, more text)');
    sign_in($node, $server, 'altered', 'altered1', id => 1, status => "'connected'");
    attach($node, 'altered', status_column => 'status');
    refreshed($node, $server, 'altered', 'altered1', 'before');
    app($node, "SET TimeZone = 'UTC'; ALTER TABLE altered ALTER access_token TYPE varchar(2000), ALTER refresh_token TYPE varchar(2000), ALTER status TYPE varchar(30), ALTER expires_at TYPE timestamptz, ALTER id TYPE bigint, ALTER name TYPE varchar(50)");
    app($node, "UPDATE altered SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'altered', 'altered1', 'an updated row');
    sign_in($node, $server, 'altered', 'altered2', id => '10000000000');
    refreshed($node, $server, 'altered', 'altered2', 'a new row');
    is(app($node, q{SELECT token_refresh.get_access_token_from('altered', '10000000000') = access_token FROM altered WHERE name = 'altered2'}), 't', 'reading');

    my $version = sub { super($node, "SELECT s.xmin FROM token_refresh.schedule s WHERE s.subject = 'altered1'") };
    my $before = $version->();
    app($node, "UPDATE altered SET more = 'x'; UPDATE altered SET more = NULL, status = status, expires_at = expires_at, access_token = access_token");
    is($version->(), $before, 'an UPDATE that changes nothing of interest does not touch the schedule');
    for my $change ("expires_at = now() + interval '2 hours'", "expires_at = NULL", "status = NULL", "name = name || 'x'", "access_token = 'other'", "refresh_token = NULL", 'id = 2')
    {
        my $known = super($node, "SELECT s.xmin FROM token_refresh.schedule s WHERE s.subject LIKE 'altered1%'");
        app($node, "UPDATE altered SET $change WHERE name LIKE 'altered1%'");
        isnt(super($node, "SELECT s.xmin FROM token_refresh.schedule s WHERE s.subject LIKE 'altered1%'"), $known, "$change does");
    }
    app($node, "SELECT token_refresh.detach_table('altered'); DROP TABLE altered");
};

subtest 'the application changes a key' => sub {
    app($node, token_table('moving', 'key text PRIMARY KEY'));
    attach($node, 'moving');
    sign_in($node, $server, 'moving', 'moving', key => "'one'");
    refreshed($node, $server, 'moving', 'moving', 'before');
    app($node, "UPDATE moving SET key = 'two'");
    is(table_status($node, 'moving', 'row_key'), 'two', 'the schedule follows');
    app($node, "UPDATE moving SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'moving', 'moving', 'under its new key');
    app($node, "UPDATE moving SET key = 'three', expires_at = '2020-01-01'");
    refreshed($node, $server, 'moving', 'moving', 'due and moved at once');

    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');

    $server->control('acme', hold => 'after');
    app($node, "UPDATE moving SET expires_at = '2020-01-01'");
    $server->wait('acme', held => 1);
    super($node, 'SELECT token_refresh.pause()');
    app($node, "UPDATE moving SET key = 'four'");
    $server->release('acme');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'moved while its refresh was in flight');
    is(super($node, "SELECT expires_at > now() FROM moving"), 't', 'the answer is stored under the new key');
};

subtest 'a single row whose key is empty' => sub {
    app($node, token_table('bare', 'key text PRIMARY KEY'));
    sign_in($node, $server, 'bare', 'bare', key => "''");
    attach($node, 'bare', trigger => JSON::PP::false, poll_interval => '1 second');
    super($node, 'SELECT token_refresh.resume()');
    refreshed($node, $server, 'bare', 'bare', 'is refreshed like any other');
    is(app($node, "SELECT token_refresh.get_access_token_from('bare', '') = access_token FROM bare"), 't', 'and read');
    app($node, "DELETE FROM bare");
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.token_status WHERE subject = 'bare'", 'the sweep gets beyond it');
};

$node->stop;
done_testing();
