# The owner of an attached table is not to be trusted: his triggers, filters, policies, cipher functions and casts gain nothing
# beyond his own rights, cannot hold up the refreshing of other tables, and cannot make others' logs show tokens. Readers see
# what their own rights allow.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10s');
add_owner($node, $_) for qw(eve bob);
sub eve { my ($sql) = @_; return app($node, $sql, 'eve'); }
sub eve_signs_in { my ($table, $name, %more) = @_; return sign_in($node, $server, $table, $name, -role => 'eve', %more); }

app($node, token_table('good'));
attach($node, 'good');

# A test point: a row of somebody else is refreshed, and how long that took.
my $others = 0;
sub others_go_on
{
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $name = 'other' . ++$others;
    my $began = time;
    sign_in($node, $server, 'good', $name);
    refreshed($node, $server, 'good', $name, 'others go on');
    note(sprintf('after %.1f s', time - $began));
    return;
}

# Each attempt is made in the trigger, and what came of it is noted.
subtest 'a trigger that tries to gain rights' => sub {
    my %attempts = (
        role        => q{EXECUTE 'SET ROLE postgres'},
        local_role  => q{PERFORM set_config('role', 'postgres', true)},
        authority   => q{EXECUTE 'SET SESSION AUTHORIZATION postgres'},
        reset_role  => q{EXECUTE 'RESET ROLE'; IF current_user = 'eve' THEN RAISE EXCEPTION 'still %', current_user; END IF},
        reset_authority => q{EXECUTE 'RESET SESSION AUTHORIZATION'; IF current_user = 'eve' THEN RAISE EXCEPTION 'still %', current_user; END IF},
        discard     => q{EXECUTE 'DISCARD ALL'},
        secrets     => q{PERFORM client_secret FROM token_refresh.provider},
        schedule    => q{UPDATE token_refresh.schedule SET due_at = now()},
        parked      => q{DELETE FROM token_refresh.parked_result},
        own_writes  => q{PERFORM token_refresh._own_writes(true)},
        seal        => q{PERFORM token_refresh._reseal('token_refresh.provider', '1', 'client_secret', '\x00')},
        superuser_setting => q{PERFORM set_config('session_replication_role', 'replica', false)},
        terminate   => q{PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()},
        cancel      => q{PERFORM pg_cancel_backend(pg_backend_pid())},
        listen      => q{EXECUTE 'LISTEN everything'},
        temporary   => q{EXECUTE 'CREATE TEMP TABLE token_refresh_schedule (id integer)'},
        prepared    => q{EXECUTE 'PREPARE evil AS SELECT 1'},
        cursor      => q{EXECUTE 'DECLARE evil CURSOR WITH HOLD FOR SELECT 1'},
        program     => q{EXECUTE 'COPY (SELECT 1) TO PROGRAM ''true'''},
        file        => q{PERFORM pg_read_file('PG_VERSION')},
        commit      => q{COMMIT},
        on_demand   => q{PERFORM token_refresh.refresh_row('public.attempts', '1'); PERFORM 1 / (SELECT count(*) FROM token_refresh.refresh_row('public.attempts', '1') WHERE success)},
        on_demand_other => q{PERFORM token_refresh.refresh_row('public.good', '1')},
        attach_other    => q{PERFORM token_refresh.attach_table('public.good', '{}')},
        detach_other    => q{PERFORM token_refresh.detach_table('public.good')},
        deferred    => q{EXECUTE 'SET CONSTRAINTS ALL DEFERRED'; INSERT INTO public.deferred DEFAULT VALUES});
    my $body = join("\n", map { qq{    BEGIN $attempts{$_}; INSERT INTO public.outcomes VALUES ('$_', 'done'); EXCEPTION WHEN OTHERS THEN INSERT INTO public.outcomes VALUES ('$_', SQLERRM); END;} } sort keys %attempts);
    eve(token_table('attempts') . <<"END");
CREATE TABLE outcomes (attempt text, outcome text, who text DEFAULT current_user);
CREATE TABLE deferred (id integer GENERATED ALWAYS AS IDENTITY);
CREATE FUNCTION run_late() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN INSERT INTO public.outcomes VALUES ('ran late', current_user); RETURN NULL; END \$\$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION run_late();
CREATE FUNCTION attempt() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
    IF session_user = 'eve' THEN RETURN NEW; END IF;
$body
    PERFORM set_config('search_path', 'eve', false), set_config('synchronous_commit', 'off', false), set_config('lock_timeout', '0', false),
            set_config('statement_timeout', '1', false), set_config('TimeZone', 'Asia/Tokyo', false), set_config('enable_indexscan', 'off', false),
            set_config('default_transaction_read_only', 'on', false), set_config('eve.mine', 'set', false);
    PERFORM pg_advisory_lock(42);
    RETURN NEW;
END \$\$;
CREATE TRIGGER attempt BEFORE UPDATE ON attempts FOR EACH ROW EXECUTE FUNCTION attempt();
END
    attach($node, 'attempts', -role => 'eve');
    eve_signs_in('attempts', 'eve1');
    poll_until($node, "SELECT refresh_count = 1 AND due_at > now() OR parked FROM token_refresh.token_status WHERE subject = 'eve1'", 'the refresh ends');
    is(table_status($node, 'eve1'), 'connected|f|', 'well');
    is(super($node, "SELECT string_agg(attempt, ' ' ORDER BY attempt) FROM outcomes WHERE outcome = 'done'"), '', 'no attempt succeeded')
        or diag(super($node, 'SELECT * FROM outcomes'));
    is(super($node, 'SELECT count(DISTINCT attempt) FROM outcomes'), scalar(keys %attempts), 'all were made');
    is(super($node, "SELECT string_agg(DISTINCT who, ' ') FROM outcomes"), 'eve', 'in the name of the owner');
    is(super($node, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no advisory lock stays');
    ok(!grep({ /terminat|cancel/i } grep { !/token_refresh launcher|QUERY|STATEMENT/ } grep { /FATAL/ } split /\n/, read_log($node)), 'nobody was terminated');

    # What the next owner's trigger finds.
    app($node, token_table('witness') . <<'END');
CREATE TABLE seen (settings text, who text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql SET DateStyle = ISO AS $$
BEGIN
    INSERT INTO public.seen VALUES (concat_ws('|', current_setting('search_path'), current_setting('lock_timeout'), current_setting('statement_timeout'),
        current_setting('TimeZone'), current_setting('enable_indexscan'), current_setting('default_transaction_read_only'), nullif(current_setting('eve.mine', true), '')), current_user);
    RETURN NEW;
END $$;
CREATE TRIGGER witness BEFORE UPDATE ON witness FOR EACH ROW EXECUTE FUNCTION witness();
END
    attach($node, 'witness');
    sign_in($node, $server, 'witness', 'witness1');
    refreshed($node, $server, 'witness', 'witness1', 'another table');
    is(super($node, 'SELECT * FROM seen'), 'pg_catalog, pg_temp|100ms|0|UTC|on|off|app', 'the settings are those of the refresher');
    others_go_on();
};

subtest 'deferred triggers' => sub {
    eve(token_table('late') . <<'END');
CREATE TABLE late_audit (note text, who text DEFAULT current_user, owner_id integer);
CREATE TABLE late_owner (id integer PRIMARY KEY); INSERT INTO late_owner VALUES (1);
ALTER TABLE late_audit ADD FOREIGN KEY (owner_id) REFERENCES late_owner DEFERRABLE INITIALLY DEFERRED;
CREATE FUNCTION note_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.late_audit (note, owner_id) VALUES (TG_NAME, 1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late_update AFTER UPDATE ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_late();
CREATE TRIGGER early AFTER UPDATE ON late FOR EACH ROW EXECUTE FUNCTION note_late();
END
    attach($node, 'late', -role => 'eve');
    eve_signs_in('late', 'late1');
    refreshed($node, $server, 'late', 'late1', 'a table with deferred triggers, and with triggers that write to tables with deferred constraints');
    is(super($node, "SELECT string_agg(note || ' ' || who, ', ' ORDER BY note) FROM late_audit"), 'early eve, late_update eve', 'they run in the name of the owner');
};

# Whatever of the owner's runs in the refresher, it has only some seconds.
my $for_ever = q{LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled OR OTHERS THEN NULL; END; END LOOP};
subtest 'a trigger that never ends' => sub {
    eve(token_table('endless') . <<"END");
CREATE FUNCTION endless() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN IF session_user = 'eve' THEN RETURN NEW; END IF; $for_ever; END \$\$;
CREATE TRIGGER endless BEFORE UPDATE ON endless FOR EACH ROW EXECUTE FUNCTION endless();
END
    attach($node, 'endless', -role => 'eve');
    eve_signs_in('endless', [ 'endless1', 'endless2' ]);
    others_go_on();
    poll_until($node, "SELECT count(*) = 2 FROM token_refresh.token_status WHERE subject LIKE 'endless%' AND parked", 'what it keeps from being stored is parked');
    like(table_status($node, 'endless1'), qr/^connected\|t\|the new tokens are parked: 57014/, 'the status says why');
    ok($server->is_active('acme', eve("SELECT token_refresh.get_access_token_from('endless', '1')")), 'readers get the parked token');
    others_go_on();
    eve('DROP TRIGGER endless ON endless');
    others_go_on();
    refreshed($node, $server, 'endless', "endless$_", 'stored when the trigger is gone') for 1, 2;
};

subtest 'a decrypt function, a filter and a policy that never end' => sub {
    eve(<<'END');
CREATE FUNCTION open_token(stored text, subject text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN substr(stored, 5); END $$;
CREATE FUNCTION seal_token(token text, subject text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'xyz:' || token; END $$;
CREATE FUNCTION wanted(name text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
END
    my @tables = qw(slow_cipher slow_filter slow_policy);
    eve(token_table($_)) for @tables;
    eve('ALTER TABLE slow_policy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY wanted ON slow_policy USING (public.wanted(name))');
    attach($node, 'slow_cipher', -role => 'eve', cipher => { decrypt => 'public.open_token', encrypt => 'public.seal_token' });
    attach($node, 'slow_filter', -role => 'eve', filter => 'public.wanted(name)', poll_interval => '1 second');
    attach($node, 'slow_policy', -role => 'eve');
    eve_signs_in($_, $_, expires_at => "now() + interval '1 day'") for @tables;
    eve("UPDATE slow_cipher SET access_token = 'xyz:' || access_token, refresh_token = 'xyz:' || refresh_token");
    eve("CREATE OR REPLACE FUNCTION open_token(stored text, subject text) RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN $for_ever; END \$\$;"
        . "CREATE OR REPLACE FUNCTION wanted(name text) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN IF session_user = 'eve' THEN RETURN true; END IF; $for_ever; END \$\$;");
    my $requests = $server->stats('acme')->{requests};
    for my $table (@tables)
    {
        eve("UPDATE $table SET expires_at = '2020-01-01'");
        poll_until($node, "SELECT status = 'error' FROM token_refresh.token_status WHERE subject = '$table'", "$table: the row is in error");
        like(table_status($node, $table), qr/^error\|f\|client_config: (reading the row fails with SQLSTATE 57014|the table is left alone for a while)/, "$table: the status says why");
    }
    is($server->stats('acme')->{requests}, $requests, 'the provider was not asked');
    others_go_on();
    eve('SELECT token_refresh.detach_table(t::regclass) FROM unnest(ARRAY[' . join(', ', map { "'$_'" } @tables) . ']) t');
};

# Code that ends before its time is up, each time, holds up others as well.
subtest 'a trigger and a filter that are slow each time' => sub {
    eve(token_table('sluggish') . token_table('sluggish_filter') . <<'END');
CREATE TABLE calls (at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION sluggish() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF session_user <> 'eve' THEN INSERT INTO public.calls DEFAULT VALUES; PERFORM pg_sleep(3); END IF; RETURN NEW; END $$;
CREATE TRIGGER sluggish BEFORE UPDATE ON sluggish FOR EACH ROW EXECUTE FUNCTION sluggish();
CREATE FUNCTION sluggish(name text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN IF session_user <> 'eve' THEN PERFORM pg_sleep(3); END IF; RETURN true; END $$;
END
    attach($node, 'sluggish', -role => 'eve');
    attach($node, 'sluggish_filter', -role => 'eve', filter => 'public.sluggish(name)', poll_interval => '1 second');
    eve_signs_in('sluggish', "sluggish$_") for 1 .. 3;
    eve_signs_in('sluggish_filter', 'sluggish_filter1');
    my $began = time;
    my $worst = 0;
    while (time - $began < 12)
    {
        my $since = time;
        others_go_on();
        $worst = time - $since if time - $since > $worst;
    }
    note(sprintf('the others have waited for %.1f s at most', $worst));
    is(super($node, 'SELECT count(*) BETWEEN 1 AND 2 FROM calls'), 't', 'in 12 s the trigger has run twice at most');
    like(table_status($node, 'sluggish3'), qr/ too long$/, 'the status says why the rest has to wait');
    eve('DROP TRIGGER sluggish ON sluggish; CREATE OR REPLACE FUNCTION sluggish(name text) RETURNS boolean LANGUAGE sql RETURN true');
    # A new refresher knows nothing of what has been.
    $node->restart;
    super($node, "UPDATE token_refresh.parked_result SET retry_at = now(); UPDATE token_refresh.schedule SET due_at = now() WHERE status = 'error'; SELECT token_refresh._wake_refresher()");
    refreshed($node, $server, 'sluggish', "sluggish$_", 'all are stored in the end') for 1 .. 3;
    refreshed($node, $server, 'sluggish_filter', 'sluggish_filter1', 'and swept');
    eve("SELECT token_refresh.detach_table('sluggish'), token_refresh.detach_table('sluggish_filter')");
};

subtest 'an error that quotes tokens' => sub {
    eve(token_table('leaky') . <<'END');
CREATE TABLE how (code text);
INSERT INTO how VALUES ('P0001');
CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user = 'eve' THEN RETURN NEW; END IF;
    RAISE EXCEPTION USING ERRCODE = (SELECT code FROM public.how), CONSTRAINT = NEW.refresh_token,
        MESSAGE = concat_ws(' ', NEW.access_token, NEW.refresh_token, OLD.refresh_token, (SELECT string_agg(l.refresh_token, ' ') FROM public.leaky l)),
        DETAIL = NEW.access_token, HINT = NEW.refresh_token;
END $$;
CREATE TRIGGER leak BEFORE UPDATE ON leaky FOR EACH ROW EXECUTE FUNCTION leak();
END
    attach($node, 'leaky', -role => 'eve', error_column => 'last_error', status_column => 'status');
    my @secrets;
    for my $code ('P0001', '23514', '57014')
    {
        eve("UPDATE how SET code = '$code'");
        my @names = map { "leaky $code $_" } 1 .. 3;
        $server->control('acme', hold => 'after');
        push @secrets, map { @{$_}{qw(access_token refresh_token)} } eve_signs_in('leaky', \@names);
        $server->wait('acme', held => 3);
        $server->release('acme');
        poll_until($node, "SELECT count(*) = 3 FROM token_refresh.token_status WHERE subject LIKE 'leaky $code%' AND parked", "SQLSTATE $code: parked");
        push @secrets, map { eve("SELECT token_refresh.get_access_token_from('leaky', id::text) FROM leaky WHERE name = '$_'") } @names;
        like(table_status($node, $names[0]), qr/the (table rejects the new tokens|new tokens are parked): $code/, 'the status has the SQLSTATE');
    }
    my $shown = super($node, 'SELECT string_agg(t::text, chr(10)) FROM token_refresh.token_status t') . super($node, 'SELECT string_agg(t::text, chr(10)) FROM token_refresh.audit_event t');
    ok(secrets_absent($shown, @secrets), 'neither the status nor the audit has a token');
    ok(secrets_absent(read_log($node), @secrets), 'nor has the log');
    eve('DROP TRIGGER leak ON leaky');
    poll_until($node, "SELECT count(*) = 0 FROM token_refresh.token_status WHERE subject LIKE 'leaky%' AND parked", 'all are stored when the trigger is gone');
};

subtest 'casts, domains and operators of the owner' => sub {
    eve(<<'END');
CREATE TABLE who_ran (who text);
GRANT INSERT ON who_ran TO PUBLIC;
CREATE TYPE mood AS ENUM ('connected', 'sad');
CREATE FUNCTION mood_text(mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.who_ran VALUES (current_user); RETURN 'connected'; END $$;
CREATE FUNCTION text_mood(text) RETURNS mood LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.who_ran VALUES (current_user); IF $1 = 'sad' THEN RETURN 'sad'; END IF; RETURN 'connected'; END $$;
CREATE FUNCTION fine(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.who_ran VALUES (current_user); RETURN true; END $$;
CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood);
CREATE CAST (text AS mood) WITH FUNCTION text_mood(text);
CREATE DOMAIN fine_text AS text CHECK (fine(VALUE));
END
    eve(token_table('casts', 'key fine_text, kind mood, state mood, PRIMARY KEY (key, kind)'));
    attach($node, 'casts', -role => 'eve', subject_column => 'name', status_column => 'state', status_values => { connected => 'connected' });
    eve_signs_in('casts', 'casts1', key => "'k'", kind => "'sad'", state => "'connected'", expires_at => "now() + interval '1 day'");
    my $key = table_status($node, 'casts1', 'row_key');
    is($key, '["k", "sad"]', 'the key is what the type prints');
    eve('DELETE FROM who_ran');
    is(super($node, "SELECT token_refresh.get_access_token_from('casts', '$key') = access_token FROM casts"), 't', 'a superuser reads');
    is(super($node, "SELECT coalesce(string_agg(DISTINCT who, ' '), '') FROM who_ran WHERE who <> 'eve'"), '', 'and runs nothing of the owner');
    eve("UPDATE casts SET expires_at = '2020-01-01'");
    refreshed($node, $server, 'casts', 'casts1', 'such a table is refreshed') or diag(table_status($node, 'casts1'));
    is(super($node, "SELECT coalesce(string_agg(DISTINCT who, ' '), '') FROM who_ran WHERE who <> 'eve'"), '', "and what is the owner's runs in the owner's name");
    is(super($node, 'SELECT count(*) FROM token_refresh.token_status WHERE token_table = \'casts\'::regclass'), '1', 'it is scheduled once');
};

subtest 'who may read' => sub {
    app($node, token_table('shared') . 'ALTER TABLE shared ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON shared FOR SELECT USING (name = current_user);');
    attach($node, 'shared');
    my ($bobs, $others) = sign_in($node, $server, 'shared', [ 'bob', 'carol' ], expires_at => "now() + interval '1 day'");
    my $read = sub { return "SELECT token_refresh.get_access_token_from('shared', '$_[0]')"; };
    like(app_fails($node, $read->(1), 'bob'), qr/permission denied for table shared/, 'without SELECT on the table nobody reads');
    like(app_fails($node, "SELECT * FROM token_refresh.refresh_row('shared', '1')", 'bob'), qr/permission denied for table shared/, 'nor refreshes');
    app($node, 'GRANT SELECT (id, name) ON shared TO bob');
    like(app_fails($node, $read->(1), 'bob'), qr/permission denied for table shared/, 'nor without SELECT on the column');
    app($node, 'GRANT SELECT (access_token, expires_at) ON shared TO bob');
    is(app($node, $read->(1), 'bob'), $bobs->{access_token}, 'his own row is read');
    is(app($node, $read->(2), 'bob'), '', 'of the others he gets nothing');
    my $requests = $server->stats('acme')->{requests};
    is(app($node, "SELECT success, message FROM token_refresh.refresh_row('shared', '2')", 'bob') =~ /^f\|/ ? 1 : 0, 1, 'nor can he have them refreshed');
    is($server->stats('acme')->{requests}, $requests, 'the provider is not asked');
    is(app($node, "SELECT success FROM token_refresh.refresh_row('shared', '1')", 'bob'), 't', 'his own he can');
    app($node, "UPDATE shared SET expires_at = now() - interval '1 minute' WHERE name = 'bob'");
    ok($server->is_active('acme', app($node, $read->(1), 'bob')), 'an expired one is refreshed when he reads it');
    like(app_fails($node, 'SELECT refresh_token FROM shared', 'bob'), qr/permission denied/, 'all that without seeing a refresh token');
    app($node, "UPDATE shared SET expires_at = now() - interval '1 minute', refresh_token = NULL WHERE name = 'bob'");
    is(app($node, $read->(1), 'bob'), '', 'a row without a refresh token');
    is(app($node, "SELECT success, failure, message FROM token_refresh.refresh_row('shared', '1')", 'bob'), 'f|reauth|there is no refresh token; the user must sign in again', 'the refresher says so');
    like(app_fails($node, "SELECT token_refresh.detach_table('shared')", 'bob'), qr/must be owner of table shared/, 'detaching is for the owner');
    is(app($node, $read->(2)), $others->{access_token}, 'the owner reads all');
};

others_go_on();
is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
$node->stop;
done_testing();
