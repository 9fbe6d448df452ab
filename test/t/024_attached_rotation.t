# rotate_keys and key_usage reach the tokens in attached tables: as the owner of the table, in batches, and without news
# for the schedule.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'token_refresh.request_timeout' => '60s');
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));

sub query { return $node->safe_psql('postgres', $_[0]); }

sub random_key
{
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, 32) == 32 or die "cannot read /dev/urandom: $!";
    return $key;
}

# Puts a line in front of the key ring, or behind it.
sub add_key
{
    my ($line, $name, $where) = @_;
    my $path = $node->basedir . '/token_refresh.keys';
    my $ring = slurp_file($path);
    open(my $file, '>', $path) or die "cannot write $path: $!";
    print $file $where eq 'front' ? "$line\n$ring" : "$ring$line\n";
    close($file) or die "cannot write $path: $!";
    $node->reload;
    $node->poll_query_until('postgres', "SELECT name = '$name' FROM token_refresh.key_ring() WHERE seals") or die 'the key ring is not taken';
    return;
}

sub usage { return query(q{SELECT string_agg(place || ' ' || key || CASE WHEN current THEN '*' ELSE '' END || ' ' || secrets, ', ' ORDER BY place, key) FROM token_refresh.key_usage}); }

add_key('app-key ' . unpack('H*', random_key()) . ' app', 'test', 'back');

# Columns in other places than the envelope's words, a key of two columns, a name that wants quotes, a trigger that tells
# in whose name it runs.
query(<<'END');
CREATE ROLE app LOGIN;
GRANT USAGE ON SCHEMA token_refresh TO app;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table TO app;
CREATE SCHEMA app AUTHORIZATION app;
SET ROLE app;
CREATE TABLE app."My Tokens" (tenant text, no integer, "at" bytea, "rt" bytea, expires_at timestamptz, PRIMARY KEY (tenant, no));
CREATE TABLE app.runs_as (name text, subject text);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.tenant = 'stubborn' AND NEW.rt IS DISTINCT FROM OLD.rt THEN RAISE 'no'; END IF;
    INSERT INTO app.runs_as VALUES (current_user, NEW.tenant);
    RETURN NEW;
END $$;
CREATE TRIGGER note BEFORE UPDATE ON app."My Tokens" FOR EACH ROW EXECUTE FUNCTION app.note();
CREATE TABLE app.hex (id integer PRIMARY KEY, access_token text, refresh_token text, expires_at timestamptz);
SELECT token_refresh.attach_table('app."My Tokens"', '{"provider": "acme", "access_token_column": "at", "refresh_token_column": "rt", "expires_at_column": "expires_at", "cipher": "native"}');
SELECT token_refresh.attach_table('app.hex', '{"provider": "acme", "access_token_column": "access_token", "refresh_token_column": "refresh_token", "expires_at_column": "expires_at", "cipher": "aes-256-gcm-hex", "key": "app-key"}');
INSERT INTO app.hex VALUES (1, '00:00:00', NULL, NULL);
END
my $id = query(q{SELECT id FROM token_refresh.token_table WHERE relation = 'app."My Tokens"'::regclass});
my @grants = $server->grants('acme', prefix => 'user', n => 7, lifetime => 7200);
for my $i (0 .. $#grants)
{
    my ($tenant, $no) = ($i == 3 ? 'stubborn' : "it's \"$i\"", $i);
    my $key  = "jsonb_build_array(" . literal($tenant) . "::text, '$no')::text";
    my $seal = sub { return "token_refresh._seal('token_refresh.token_table:$id', $key, '$_[0]', '$grants[$i]{$_[0]}')"; };
    query(sprintf('INSERT INTO app."My Tokens" VALUES (%s, %d, %s, %s, %s)', literal($tenant), $no, $seal->('access_token'), $seal->('refresh_token'), "now() + interval '2 hours'"));
}
query(q{INSERT INTO app."My Tokens" VALUES ('none', 0, token_refresh._seal('x', 'x', 'x', 'fake'), NULL, NULL)});

is(usage(), 'app."My Tokens" test* 15, app.hex app-key* 1, provider test* 1', 'key_usage knows both tables');

subtest 'rotate_keys' => sub {
    add_key('second ' . encode_base64(random_key(), ''), 'second', 'front');
    is(usage(), 'app."My Tokens" test 15, app.hex app-key* 1, provider test 1', 'a new key guards nothing yet');
    my $schedule = 'SELECT md5(string_agg(s::text, $$,$$ ORDER BY id)) FROM token_refresh.schedule s';
    my $before = query($schedule);
    my ($status, $output, $error) = $node->psql('postgres', 'CALL token_refresh.rotate_keys(batch_size => 2)');
    is($status, 0, 'succeeds');
    like($error, qr/WARNING:  table app."My Tokens" rejects the resealed tokens of 1 row\(s\) with SQLSTATE P0001\n/, 'says what its table keeps');
    like($error, qr/WARNING:  3 secrets could not be opened and were left as they are\nDETAIL:  app."My Tokens": 3 under test\n/,
        'and what is left: that, and what belongs to another place');
    is(usage(), 'app."My Tokens" second* 12, app."My Tokens" test 3, app.hex app-key* 1, provider second* 1', 'as key_usage does');
    is(query(q{SELECT string_agg(DISTINCT name, ' ') FROM app.runs_as}), 'app', 'the trigger of the table has run as its owner');
    is(query('SELECT count(*) FROM app.runs_as'), '6', 'once for each row');
    is(query($schedule), $before, 'the schedule has heard nothing');
    my $now = query(q{SELECT md5(string_agg(t::text, $$,$$ ORDER BY no)) FROM app."My Tokens" t});
    $node->psql('postgres', 'CALL token_refresh.rotate_keys()');
    is(query(q{SELECT md5(string_agg(t::text, $$,$$ ORDER BY no)) FROM app."My Tokens" t}), $now, 'once more changes nothing');
};

subtest 'afterwards' => sub {
    my $key = q{jsonb_build_array('it''s "0"', '0')::text};
    is(query(qq{SELECT token_refresh.get_access_token_from('app."My Tokens"', $key)}), $grants[0]{access_token}, 'the tokens are the same');
    is(query(qq{SELECT success FROM token_refresh.refresh_row('app."My Tokens"', $key)}), 't', 'and are refreshed');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'a table that cannot be read' => sub {
    query('ALTER TABLE app."My Tokens" RENAME COLUMN rt TO other');
    like(usage(), qr/app\."My Tokens" unknown, as the table cannot be read 0/, 'is named by key_usage');
    my ($status, $output, $error) = $node->psql('postgres', 'CALL token_refresh.rotate_keys()');
    like($error, qr/under unknown, as the table cannot be read/, 'and by rotate_keys');
};

$node->stop;
done_testing();
