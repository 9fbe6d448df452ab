# P1 for attached tables: whatever keeps a table from taking the new tokens, they are not lost, others go on, and it heals by
# itself when the cause is gone. And the ways in which rows change without the trigger.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s');
app($node, token_table('good'));
attach($node, 'good');

my $others = 0;
sub others_go_on
{
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $name = 'other' . ++$others;
    sign_in($node, $server, 'good', $name);
    return refreshed($node, $server, 'good', $name, 'others go on');
}

# A table that does not take what it should; what $cause makes, $cure takes back. $reason: what the status says.
sub rejected
{
    my ($what, $cause, $cure, $reason) = @_;
    subtest $what => sub {
        app($node, token_table('picky'));
        attach($node, 'picky', status_column => 'status', error_column => 'last_error');
        sign_in($node, $server, 'picky', "$what fine");
        refreshed($node, $server, 'picky', "$what fine", 'before');
        app($node, $cause);
        sign_in($node, $server, 'picky', [ "$what 1", "$what 2" ], status => "'bad'");
        poll_until($node, "SELECT count(*) = 2 FROM token_refresh.token_status WHERE subject LIKE '$what _' AND parked", 'parked');
        like(table_status($node, "$what 1"), qr/the table rejects the new tokens: $reason/, 'the status says why');
        my $token = app($node, "SELECT token_refresh.get_access_token_from('picky', id::text) FROM picky WHERE name = '$what 1'");
        ok($server->is_active('acme', $token), 'readers get the new token');
        others_go_on();
        app($node, $cure);
        refreshed($node, $server, 'picky', "$what $_", 'stored when it takes them') for 1, 2;
        is(super($node, "SELECT access_token = '$token' FROM picky WHERE name = '$what 1'"), 't', 'the very token');
        is(app($node, "SELECT success FROM token_refresh.refresh_row('picky', (SELECT id::text FROM picky WHERE name = '$what 2'))"), 't', 'the next refresh works');
        is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
        app($node, "SELECT token_refresh.detach_table('picky'); DROP TABLE picky CASCADE");
    };
    return;
}

rejected('a CHECK constraint', q{ALTER TABLE picky ADD CONSTRAINT no_news CHECK (status <> 'bad' OR expires_at < '2021-01-01') NOT VALID; ALTER TABLE picky ALTER status SET DEFAULT 'bad'; ALTER TABLE picky ADD CONSTRAINT again CHECK (name LIKE '%fine' OR expires_at < '2021-01-01') NOT VALID},
    'ALTER TABLE picky DROP CONSTRAINT no_news, DROP CONSTRAINT again', '23514 new row for relation "picky" violates check constraint "again"');
rejected('a trigger that raises', q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF session_user = 'app' THEN RETURN NEW; END IF; RAISE EXCEPTION 'not today'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON picky FOR EACH ROW EXECUTE FUNCTION refuse()}, 'DROP TRIGGER refuse ON picky; DROP FUNCTION refuse', 'P0001$');
rejected('a trigger that drops the update', q{CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN session_user = 'app' THEN NEW END; END $$;
    CREATE TRIGGER drop_it BEFORE UPDATE ON picky FOR EACH ROW EXECUTE FUNCTION drop_it()}, 'DROP TRIGGER drop_it ON picky; DROP FUNCTION drop_it', 'a trigger or rule of the table has dropped the update');
rejected('a deferred constraint trigger', q{CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF session_user <> 'app' THEN RAISE EXCEPTION 'too late'; END IF; RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON picky DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()}, 'DROP TRIGGER late ON picky; DROP FUNCTION late', 'P0001$');
subtest 'a limit that was hit does not hit others' => sub {
    # An error that ends an access must take its time limit along: five seconds later nothing may be cancelled.
    app($node, token_table('failing') . q{ALTER TABLE failing ADD CHECK (expires_at < '2021-01-01')});
    attach($node, 'failing');
    sign_in($node, $server, 'failing', 'failing1');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'failing1'", 'parked');
    my $began = time;
    while (time - $began < 7) { others_go_on() or last; }
    unlike(read_log($node), qr/57014/, 'nothing was cancelled');
    is(super($node, "SELECT count(*) FROM token_refresh.token_status WHERE parked"), '1', 'nothing else is parked');
    app($node, 'ALTER TABLE failing DROP CONSTRAINT failing_expires_at_check');
    refreshed($node, $server, 'failing', 'failing1', 'stored in the end');
};

subtest 'a locked row, a locked table' => sub {
    app($node, token_table('busy'));
    attach($node, 'busy');
    $server->control('acme', hold => 'after');
    sign_in($node, $server, 'busy', [ 'busy1', 'busy2' ]);
    $server->wait('acme', held => 2);
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query("UPDATE busy SET status = 'locked' WHERE name = 'busy1'");
    $server->release('acme');
    refreshed($node, $server, 'busy', 'busy2', 'the row beside it');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'busy1'", 'a locked row: parked');
    like(table_status($node, 'busy1'), qr/55P03/, 'the status says why');
    others_go_on();
    $session->query('COMMIT');
    refreshed($node, $server, 'busy', 'busy1', 'stored after its end');
    is(super($node, "SELECT status FROM busy WHERE name = 'busy1'"), 'locked', "and the application's write stays");

    # All that is cached of tables is read again when a provider changes.
    app($node, "UPDATE busy SET expires_at = now() + interval '1 hour'");
    $session->query('BEGIN');
    $session->query('ALTER TABLE busy ADD more text');
    super($node, q{UPDATE token_refresh.schedule SET due_at = now() WHERE subject LIKE 'busy%'; SELECT token_refresh.alter_provider('acme', '{"timeout": "20 s"}')});
    others_go_on();
    is(table_status($node, 'busy1', 'status'), 'connected', 'a locked table is not in error');
    $session->query('COMMIT');
    $session->quit;
    app($node, "UPDATE busy SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'busy', "busy$_", 'after the end of the lock') for 1, 2;
};

subtest 'dropped, truncated and detached while in flight' => sub {
    my @tables = qw(to_drop to_truncate to_detach to_delete);
    app($node, token_table($_)) for @tables;
    attach($node, $_) for @tables;
    $server->control('acme', hold => 'after');
    sign_in($node, $server, $_, "of $_") for @tables;
    $server->wait('acme', held => 4);
    app($node, 'DROP TABLE to_drop; TRUNCATE to_truncate; DELETE FROM to_delete');
    my $detach = start_query($node, "SET ROLE app; SELECT token_refresh.detach_table('to_detach')");
    $server->release('acme');
    is(($detach->finish)[1], '', 'detached');
    is(super($node, 'SELECT expires_at > now() FROM to_detach'), 't', 'when the answer had been stored');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'nothing stays in flight');
    others_go_on();
    poll_until($node, q{SELECT count(*) = 0 FROM token_refresh.schedule WHERE subject LIKE 'of %'}, 'nothing of them stays in the schedule');
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.parked_result", 'or parked');
    poll_until($node, q{SELECT count(*) = 0 FROM token_refresh.token_table t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation)}, 'the dropped table is forgotten');
};

subtest 'a database that is read-only by default' => sub {
    super($node, 'ALTER DATABASE postgres SET default_transaction_read_only = on');
    $node->restart;
    my $write = sub { super($node, "SET default_transaction_read_only = off; $_[0]") };
    $write->("UPDATE good SET expires_at = '2020-01-01' WHERE name = 'other1'");
    refreshed($node, $server, 'good', 'other1', 'the refresher writes');
    $write->('ALTER DATABASE postgres RESET default_transaction_read_only');
};

# The trigger does not see these, or not all of them.
subtest 'COPY, replica sessions, and no trigger at all' => sub {
    app($node, token_table('loaded') . token_table('polled'));
    attach($node, 'loaded', poll_interval => '1 second');
    attach($node, 'polled', trigger => JSON::PP::false, poll_interval => '1 second');
    is(super($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'polled'::regclass"), '0', 'no trigger');
    my @grants = $server->grants('acme', subjects => [ map { "copied$_" } 1 .. 3 ]);
    super($node, "COPY loaded (name, access_token, refresh_token, expires_at) FROM STDIN;\n"
        . join('', map { "$_->{subject}\t$_->{access_token}\t$_->{refresh_token}\t2020-01-01\n" } @grants) . "\\.\n");
    refreshed($node, $server, 'loaded', "copied$_", "COPY, row $_") for 1 .. 3;
    my ($replicated) = $server->grants('acme', subjects => ['replicated']);
    my $insert = sub { "INSERT INTO $_[0] (name, access_token, refresh_token, expires_at) VALUES ('$_[1]->{subject}', '$_[1]->{access_token}', '$_[1]->{refresh_token}', '2020-01-01')" };
    super($node, 'SET session_replication_role = replica; ' . $insert->('loaded', $replicated));
    refreshed($node, $server, 'loaded', 'replicated', 'a row that comes by replication');
    super($node, "SET session_replication_role = replica; UPDATE loaded SET expires_at = now() + interval '1 minute' WHERE name = 'replicated'");
    refreshed($node, $server, 'loaded', 'replicated', 'a change that comes by replication');
    super($node, "SET session_replication_role = replica; DELETE FROM loaded WHERE name = 'replicated'");
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.token_status WHERE subject = 'replicated'", 'a deletion, too');
    sign_in($node, $server, 'polled', 'polled1');
    refreshed($node, $server, 'polled', 'polled1', 'a table without a trigger');
    app($node, "UPDATE polled SET expires_at = now() + interval '1 minute'");
    refreshed($node, $server, 'polled', 'polled1', 'again');
    ok($server->is_active('acme', app($node, "SELECT token_refresh.get_access_token_from('polled', '1')")), 'read');
    app($node, 'TRUNCATE polled');
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.token_status WHERE subject = 'polled1'", 'TRUNCATE');
};

# Nobody can tell then which token the row holds.
subtest 'the row cannot be read when the answer comes' => sub {
    app($node, token_table('opaque') . q{
CREATE FUNCTION take_off(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN split_part($1, ':', 2); END $$;
CREATE FUNCTION put_on(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN gen_random_uuid() || ':' || $1; END $$;});
    attach($node, 'opaque', cipher => { decrypt => 'public.take_off', encrypt => 'public.put_on' });
    my ($grant) = $server->grants('acme', subjects => ['opaque']);
    $server->control('acme', hold => 'after');
    app($node, "INSERT INTO opaque (name, access_token, refresh_token, expires_at)
        VALUES ('opaque', public.put_on('$grant->{access_token}', ''), public.put_on('$grant->{refresh_token}', ''), '2020-01-01')");
    $server->wait('acme', held => 1);
    app($node, q{UPDATE opaque SET refresh_token = public.put_on(public.take_off(refresh_token, ''), '');
CREATE OR REPLACE FUNCTION take_off(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'the key is away'; END $$});
    $server->release('acme');
    poll_until($node, q{SELECT count(*) = 1 FROM token_refresh.parked_result WHERE reason LIKE '%cannot be read%'}, 'the answer is parked');
    $node->restart;
    others_go_on();
    app($node, q{CREATE OR REPLACE FUNCTION take_off(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN split_part($1, ':', 2); END $$});
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'and stored when it can be read');
    ok($server->is_active('acme', super($node, q{SELECT split_part(access_token, ':', 2) FROM opaque})), 'with the token that the provider gave');
};

subtest 'detaching while something is parked' => sub {
    app($node, token_table('owing') . q{ALTER TABLE owing ADD CONSTRAINT no_news CHECK (expires_at < '2021-01-01')});
    attach($node, 'owing');
    sign_in($node, $server, 'owing', 'owing1');
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'owing1'", 'parked');
    like(app_fails($node, "SELECT token_refresh.detach_table('owing')"), qr/has not taken 1 refreshed token/, 'is refused');
    app($node, 'ALTER TABLE owing DROP CONSTRAINT no_news');
    refreshed($node, $server, 'owing', 'owing1', 'stored');
    app($node, "SELECT token_refresh.detach_table('owing')");
    pass('then it is detached');
};

is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
$node->stop;
done_testing();
