# Attached tables that are partitioned, and tables that are distributed by Citus.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s');

my $columns = 'name text NOT NULL, access_token text, refresh_token text, expires_at timestamptz, status text, region text, id integer';
for my $trigger (1, 0)
{
    my %options = $trigger ? () : (trigger => JSON::PP::false, poll_interval => '1 second');
    my $with = $trigger ? 'with triggers' : 'without triggers';

    subtest "by hash, $with" => sub {
        app($node, "CREATE TABLE hashed ($columns, PRIMARY KEY (id)) PARTITION BY HASH (id);"
            . join('', map { "CREATE TABLE hashed_$_ PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER $_);" } 0 .. 2));
        sign_in($node, $server, 'hashed', "hashed$with$_", id => $_) for 1 .. 4;
        attach($node, 'hashed', %options);
        sign_in($node, $server, 'hashed', "hashed$with$_", id => $_) for 5 .. 8;
        refreshed($node, $server, 'hashed', "hashed$with$_", "row $_") for 1 .. 8;
        is(super($node, 'SELECT count(*) FROM token_refresh.token_status WHERE token_table = \'hashed\'::regclass'), '8', 'each row is scheduled once');
        app($node, "UPDATE hashed SET expires_at = '2020-01-01' WHERE id = 1");
        refreshed($node, $server, 'hashed', "hashed${with}1", 'due again');
        is(app($node, "SELECT token_refresh.get_access_token_from('hashed', '8') = access_token FROM hashed WHERE id = 8"), 't', 'read');
        is(app($node, "SELECT success FROM token_refresh.refresh_row('hashed', '8')"), 't', 'refreshed on demand');
        app($node, 'DELETE FROM hashed WHERE id = 2');
        poll_until($node, 'SELECT count(*) = 7 FROM token_refresh.token_status WHERE token_table = \'hashed\'::regclass', 'a deleted row leaves the schedule');
        app($node, "SELECT token_refresh.detach_table('hashed')");
        is(super($node, q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'token_refresh%' AND tgrelid::regclass::text LIKE 'hashed%'}), '0', 'detaching leaves no trigger on a partition');
        app($node, 'DROP TABLE hashed');
    };

    subtest "by range, $with" => sub {
        app($node, "CREATE TABLE ranged ($columns, PRIMARY KEY (region, id)) PARTITION BY LIST (region);"
            . join('', map { "CREATE TABLE ranged_$_ PARTITION OF ranged FOR VALUES IN ('$_');" } qw(eu us))
            . 'CREATE TABLE ranged_new (LIKE ranged INCLUDING ALL)');
        attach($node, 'ranged', %options);
        sign_in($node, $server, 'ranged', "ranged $with", region => "'eu'", id => 1);
        refreshed($node, $server, 'ranged', "ranged $with", 'a row');
        app($node, "UPDATE ranged SET region = 'us' WHERE id = 1");
        poll_until($node, q{SELECT count(*) = 1 AND min(row_key) = '["us", "1"]' FROM token_refresh.token_status WHERE token_table = 'ranged'::regclass}, 'moved to another partition: its key is the new one');
        app($node, "UPDATE ranged SET expires_at = '2020-01-01'");
        refreshed($node, $server, 'ranged', "ranged $with", 'refreshed there');
        app($node, "ALTER TABLE ranged ATTACH PARTITION ranged_new FOR VALUES IN ('new')");
        sign_in($node, $server, 'ranged', "new $with", region => "'new'", id => 2);
        refreshed($node, $server, 'ranged', "new $with", 'a row of a partition that came later');
        app($node, 'ALTER TABLE ranged DETACH PARTITION ranged_new');
        poll_until($node, q{SELECT count(*) = 1 FROM token_refresh.token_status WHERE token_table = 'ranged'::regclass}, 'and it goes with its partition') unless $trigger;
        app($node, "UPDATE ranged_new SET expires_at = '2020-01-01'; DROP TABLE ranged_new");
        pass('which the application goes on with');
        app($node, "SELECT token_refresh.detach_table('ranged'); DROP TABLE ranged");
    };
}

subtest 'moved while its tokens are parked' => sub {
    app($node, "CREATE TABLE moving ($columns, score integer NOT NULL DEFAULT 1, PRIMARY KEY (id, score)) PARTITION BY RANGE (score);"
        . 'CREATE TABLE moving_low PARTITION OF moving FOR VALUES FROM (0) TO (10); CREATE TABLE moving_high PARTITION OF moving FOR VALUES FROM (10) TO (20);'
        . "ALTER TABLE moving_low ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID");
    attach($node, 'moving');
    sign_in($node, $server, 'moving', 'moving', id => 1);
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'moving'", 'parked');
    my $token = app($node, q{SELECT token_refresh.get_access_token_from('moving', '["1", "1"]')});
    ok($server->is_active('acme', $token), 'readers get it');
    super($node, 'SELECT token_refresh.pause()');
    app($node, 'UPDATE moving SET score = 11');
    is(super($node, 'SELECT row_key FROM token_refresh.parked_result'), '["1", "11"]', 'it moves along');
    is(app($node, q{SELECT token_refresh.get_access_token_from('moving', '["1", "11"]')}), $token, 'readers still get it');
    super($node, 'SELECT token_refresh.resume()');
    refreshed($node, $server, 'moving', 'moving', 'where the table takes it, it is stored');
    app($node, 'DROP TABLE moving');
};

subtest 'parked by a partition' => sub {
    app($node, "CREATE TABLE tiers ($columns, PRIMARY KEY (id)) PARTITION BY RANGE (id); CREATE TABLE tiers_low PARTITION OF tiers FOR VALUES FROM (0) TO (10);"
        . "ALTER TABLE tiers_low ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01') NOT VALID");
    attach($node, 'tiers');
    sign_in($node, $server, 'tiers', 'tiers', id => 1);
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'tiers'", 'parked');
    app($node, 'ALTER TABLE tiers_low DROP CONSTRAINT no_news');
    refreshed($node, $server, 'tiers', 'tiers', 'stored when its partition takes it');
    is(app_fails($node, "SELECT token_refresh.attach_table('tiers_low', " . attach_options() . ')') =~ /Attach the partitioned table, not a partition/ ? 1 : 0, 1, 'a partition by itself is refused');
};

subtest 'distributed by Citus' => sub {
    plan(skip_all => 'Citus is not installed')
        if super($node, "SELECT count(*) FROM pg_available_extensions WHERE name = 'citus'") eq '0';
    $node->append_conf('postgresql.conf', "shared_preload_libraries = 'citus, token_refresh'");
    $node->restart;
    super($node, 'CREATE EXTENSION citus');
    app($node, "CREATE TABLE spread ($columns, PRIMARY KEY (id))");
    super($node, "SELECT create_distributed_table('spread', 'id')");
    attach($node, 'spread', trigger => JSON::PP::false, poll_interval => '1 second');
    sign_in($node, $server, 'spread', "spread$_", id => $_) for 1 .. 20;
    refreshed($node, $server, 'spread', "spread$_", "row $_") for 1 .. 20;
    is(app($node, "SELECT token_refresh.get_access_token_from('spread', '7') = access_token FROM spread WHERE id = 7"), 't', 'read');
};

is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
$node->stop;
done_testing();
