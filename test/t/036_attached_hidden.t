# Rows of attached tables that cannot be read, or not seen: they harm no other row, nothing of theirs is lost, and
# token_status says what is wrong.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s', 'token_refresh.poll_interval' => '1s');

sub reuse_is_zero { return is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice'); }

subtest 'a filter that raises for one row' => sub {
    app($node, token_table('picky'));
    # More than a batch of the sweep, the bad rows in the middle of it.
    app($node, "INSERT INTO picky (name, access_token, refresh_token, expires_at) SELECT 'user' || i, 'fake', 'fake', now() + interval '1 day' FROM generate_series(1, 600) i");
    app($node, "UPDATE picky SET status = '0' WHERE id IN (100, 101, 300)");
    like(app_fails($node, "SELECT token_refresh.attach_table('picky', " . attach_options(filter => "1 / status::integer = 1") . ')'), qr/option "filter": division by zero/, 'is refused when it is seen at once');
    app($node, "UPDATE picky SET status = '1'");
    attach($node, 'picky', filter => "1 / coalesce(status, '1')::integer = 1");
    app($node, "UPDATE picky SET status = CASE id WHEN 100 THEN '0' ELSE 'no number' END WHERE id IN (100, 101, 300)");
    poll_until($node, "SELECT count(*) = 600 FROM token_refresh.token_status WHERE token_table = 'picky'::regclass", 'every row is scheduled');
    poll_until($node, "SELECT count(*) = 3 FROM token_refresh.token_status WHERE token_table = 'picky'::regclass AND status = 'error'", 'the bad ones are in error');
    is(super($node, "SELECT string_agg(row_key || ' ' || last_error, ', ' ORDER BY row_key::integer) FROM token_refresh.token_status WHERE token_table = 'picky'::regclass AND status <> 'connected'"),
        join(', ', '100 client_config: reading the row fails with SQLSTATE 22012', map { "$_ client_config: reading the row fails with SQLSTATE 22P02" } 101, 300), 'with the reason, and no data');
    sign_in($node, $server, 'picky', 'comes later');
    refreshed($node, $server, 'picky', 'comes later', 'others go on');
    app($node, "UPDATE picky SET status = NULL");
    poll_until($node, "SELECT count(*) = 601 FROM token_refresh.token_status WHERE token_table = 'picky'::regclass AND status = 'connected' AND last_error IS NULL AND due_at > now()", 'and heal by themselves');
    app($node, "SELECT token_refresh.detach_table('picky')");
};

subtest 'a time that is none' => sub {
    app($node, token_table('epochs') . 'ALTER TABLE epochs ALTER expires_at TYPE double precision USING 0');
    attach($node, 'epochs', trigger => JSON::PP::false);
    sign_in($node, $server, 'epochs', [ 'good epoch', 'bad epoch', 'best epoch' ], expires_at => '1');
    app($node, "UPDATE epochs SET expires_at = '1e300' WHERE name = 'bad epoch'");
    poll_until($node, "SELECT expires_at > 1000000000 FROM epochs WHERE name = '$_ epoch'", "the $_ row is refreshed") for qw(good best);
    poll_until($node, "SELECT status = 'error' FROM token_refresh.token_status WHERE token_table = 'epochs'::regclass AND row_key = '2'", 'the bad one is in error');
    like(super($node, "SELECT last_error FROM token_refresh.token_status WHERE token_table = 'epochs'::regclass AND row_key = '2'"), qr/^client_config: reading the row fails with SQLSTATE 22008$/, 'with the reason');
    app($node, "UPDATE epochs SET expires_at = 1 WHERE name = 'bad epoch'");
    poll_until($node, "SELECT expires_at > 1000000000 FROM epochs WHERE name = 'bad epoch'", 'until it is mended');
    app($node, "SELECT token_refresh.detach_table('epochs')");
};

subtest 'a mapped column that is renamed or dropped' => sub {
    app($node, token_table('renamed'));
    attach($node, 'renamed');
    sign_in($node, $server, 'renamed', 'of renamed', expires_at => "now() + interval '1 day'");
    app($node, 'ALTER TABLE renamed RENAME refresh_token TO "Other"');
    is(table_status($node, 'of renamed'), 'error|f|client_config: column refresh_token of table public.renamed does not exist', 'shows at once');
    app($node, 'ALTER TABLE renamed RENAME "Other" TO refresh_token');
    is(table_status($node, 'of renamed'), 'connected|f|', 'and is over at once');
    app($node, 'ALTER TABLE renamed DROP name CASCADE');
    is(table_status($node, 'of renamed'), 'error|f|client_config: column name of table public.renamed does not exist', 'dropped');
    app($node, "SELECT token_refresh.detach_table('renamed')");
};

subtest 'a sign-in that no trigger tells of, with the same expiry' => sub {
    app($node, token_table('polled'));
    attach($node, 'polled', trigger => JSON::PP::false);
    $server->fault('acme', kind => 'invalid_grant', match => '^dies');
    sign_in($node, $server, 'polled', 'dies');
    poll_until($node, "SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'dies'", 'a grant dies');
    app($node, token_table('witness'));
    attach($node, 'witness', trigger => JSON::PP::false);
    for my $time (1, 2)
    {
        sign_in($node, $server, 'witness', "witness $time");
        refreshed($node, $server, 'witness', "witness $time", "a sweep, $time");
    }
    is($server->stats('acme')->{per_subject}{dies}{requests}, 1, 'it is not presented again');
    $server->fault('acme');
    my ($grant) = $server->grants('acme', subjects => ['dies']);
    app($node, "UPDATE polled SET access_token = '$grant->{access_token}', refresh_token = '$grant->{refresh_token}' WHERE name = 'dies'");
    refreshed($node, $server, 'polled', 'dies', 'another refresh token is taken up');
    app($node, "SELECT token_refresh.detach_table('polled'), token_refresh.detach_table('witness')");
};

subtest 'a table that is renamed' => sub {
    app($node, token_table('first_name', 'id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, n integer'));
    attach($node, 'first_name', filter => "EXISTS (SELECT FROM public.first_name f WHERE f.id = first_name.id) AND key IS NULL AND n IS NULL");
    sign_in($node, $server, 'first_name', 'of first');
    refreshed($node, $server, 'first_name', 'of first', 'before');
    app($node, 'CREATE SCHEMA elsewhere; ALTER TABLE first_name RENAME TO second_name; ALTER TABLE second_name SET SCHEMA elsewhere; CREATE VIEW first_name AS SELECT * FROM elsewhere.second_name');
    app($node, "UPDATE elsewhere.second_name SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'elsewhere.second_name', 'of first', 'its filter knows it by the name that it had');
    is(app($node, "SELECT success FROM token_refresh.refresh_row('elsewhere.second_name', '1')"), 't', 'on demand');
    app($node, "SELECT token_refresh.detach_table('elsewhere.second_name')");
};

subtest 'FORCE ROW LEVEL SECURITY' => sub {
    app($node, token_table('forced') . 'ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');
    my $trouble = 'row-level security holds for the owner of table public.forced as well, and no policy lets the owner see a row';
    like(app_fails($node, "SELECT token_refresh.attach_table('forced', " . attach_options() . ')'), qr/DETAIL:  $trouble/, 'without a policy for the owner is refused');
    app($node, 'CREATE POLICY own ON forced FOR UPDATE USING (true); CREATE POLICY others ON forced TO pg_monitor USING (true)');
    like(app_fails($node, "SELECT token_refresh.attach_table('forced', " . attach_options() . ')'), qr/DETAIL:  $trouble/, 'also if there are policies for others, or for something else');
    app($node, 'ALTER TABLE forced NO FORCE ROW LEVEL SECURITY; DROP POLICY own ON forced; DROP POLICY others ON forced');
    attach($node, 'forced');

    # One row is in flight, one is parked, one is at rest while the table gets it.
    sign_in($node, $server, 'forced', 'resting', expires_at => "now() + interval '1 day'");
    app($node, q{ALTER TABLE forced ADD CONSTRAINT no_news CHECK (name <> 'parking' OR expires_at < '2021-01-01')});
    sign_in($node, $server, 'forced', 'parking');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'parking'", 'parked before');
    $server->control('acme', hold => 'after');
    sign_in($node, $server, 'forced', 'flying');
    $server->wait('acme', held => 1);
    app($node, 'ALTER TABLE forced DROP CONSTRAINT no_news, FORCE ROW LEVEL SECURITY');
    $server->release('acme');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'flying'", 'what arrives is parked');
    is(table_status($node, 'resting'), "error|f|client_config: $trouble", 'the status says at once why');
    is(super($node, 'SELECT count(*) FROM token_refresh.schedule'), '3', 'all rows are known');
    # Two sweeps from now on have passed when a row that is in no trigger's sight has come twice.
    attach($node, 'witness', trigger => JSON::PP::false);
    for my $time (1, 2)
    {
        sign_in($node, $server, 'witness', "later witness $time");
        refreshed($node, $server, 'witness', "later witness $time", "a sweep, $time");
    }
    is(super($node, "SELECT count(*) FILTER (WHERE parked), count(*) FROM token_refresh.token_status WHERE token_table = 'forced'::regclass"), '2|3', 'sweeps forget nothing');
    ok($server->is_active('acme', super($node, "SELECT token_refresh.get_access_token_from('forced', '3')")), 'who sees the row reads what is parked');
    app($node, 'CREATE POLICY own ON forced USING (true)');
    refreshed($node, $server, 'forced', $_, 'with a policy it is stored') for qw(parking flying);
    is(table_status($node, 'resting'), 'connected|f|', 'and the trouble is over');

    # A policy may hide single rows.
    app($node, q{DROP POLICY own ON forced; CREATE POLICY own ON forced USING (status IS NULL OR status <> 'hidden'); CREATE POLICY all_of_it ON forced FOR UPDATE USING (true)});
    super($node, "UPDATE forced SET status = 'hidden', expires_at = '2020-01-01' WHERE name = 'resting'");
    poll_until($node, "SELECT status = 'error' FROM token_refresh.token_status WHERE subject = 'resting'", 'a row that is hidden');
    like(table_status($node, 'resting'), qr/the row is gone, or row-level security hides it from the owner of the table/, 'the status says so');
    super($node, "DELETE FROM forced WHERE name = 'resting'");
    is(table_status($node, 'resting'), '', 'a row that is deleted is forgotten');
    reuse_is_zero();
};

$node->stop;
done_testing();
