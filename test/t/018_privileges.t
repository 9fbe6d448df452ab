# Who may do what: nothing without a GRANT; with row-level security everybody has access to
# his own tokens; and no object of a user gets into what the extension runs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main');
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
my %grant = map { $_->{subject} => $_ } $server->grants('acme', subjects => [qw(alice bob)]);
store_credential($node, 'acme', values %grant);
my ($expired) = $server->expired_grants('acme', subjects => ['carol']);

# Runs SQL as a role. Returns the output, or SQLSTATE and message of the error.
sub as_role
{
    my ($role, $sql) = @_;
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", connstr => $node->connstr('postgres') . " user=$role");
    return $error =~ /ERROR:  (\w+): (.*)/ ? "$1 $2" : $output;
}

$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN; CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE attacker LOGIN; GRANT ALL ON SCHEMA public TO attacker');

subtest 'a role with no grants' => sub {
    my $objects = $node->safe_psql('postgres', <<'END');
SELECT string_agg(name, ', ') FROM (
    SELECT oid::regprocedure::text AS name FROM pg_proc WHERE pronamespace = 'token_refresh'::regnamespace AND prorettype <> 'trigger'::regtype AND has_function_privilege('nobody', oid, 'EXECUTE')
    UNION ALL
    SELECT oid::regclass::text FROM pg_class
    WHERE relnamespace = 'token_refresh'::regnamespace
      AND CASE relkind WHEN 'S' THEN has_sequence_privilege('nobody', oid, 'USAGE, SELECT, UPDATE')
          WHEN 'i' THEN false WHEN 'I' THEN false WHEN 't' THEN false
          ELSE has_table_privilege('nobody', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
               OR has_any_column_privilege('nobody', oid, 'SELECT, INSERT, UPDATE, REFERENCES') END
    UNION ALL
    SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'token_refresh' AND has_schema_privilege('nobody', oid, 'USAGE, CREATE')) AS allowed
END
    is($objects, '', 'has a privilege on nothing');

    # Real calls, with USAGE on the schema so that it is the function that refuses.
    $node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA token_refresh TO nobody');
    my @calls = split /\n/, $node->safe_psql('postgres', <<'END');
SELECT format(CASE prokind WHEN 'p' THEN 'CALL %s(%s)' ELSE 'SELECT %s(%s)' END, oid::regproc,
    (SELECT string_agg(format(CASE prokind WHEN 'p' THEN 'NULL::%s' ELSE '(SELECT NULL::%s)' END, format_type(t, NULL)), ', ' ORDER BY n) FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n)))
FROM pg_proc WHERE pronamespace = 'token_refresh'::regnamespace AND prorettype <> 'trigger'::regtype ORDER BY 1
END
    cmp_ok(scalar @calls, '>', 20, 'there are functions to call');
    like(as_role('nobody', $_), qr/^42501 permission denied for (function|procedure)/, $_) for @calls;
    my @tables = split /\n/, $node->safe_psql('postgres',
        q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'token_refresh'::regnamespace AND relkind IN ('r', 'v', 'p') ORDER BY 1});
    like(as_role('nobody', "SELECT * FROM $_"), qr/^42501 permission denied for (table|view)/, "SELECT FROM $_") for @tables;
};

subtest 'EXECUTE alone' => sub {
    $node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA token_refresh TO PUBLIC; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_refresh TO reader');
    for my $sql (
        q{SELECT token_refresh.get_access_token('acme', 'alice')},
        q{SELECT * FROM token_refresh.get_token('acme', 'alice')},
        q{SELECT * FROM token_refresh.refresh_credential('acme', 'alice')},
        q{SELECT token_refresh.store_credential('acme', 'reader', '{"access_token": "fake"}')})
    {
        is(as_role('reader', $sql), '42501 permission denied for table credential', $sql);
    }
};

subtest 'privileges on columns' => sub {
    $node->safe_psql('postgres', 'GRANT SELECT (provider, subject, label, status, expires_at) ON token_refresh.credential TO reader');
    is(as_role('reader', q{SELECT subject, status FROM token_refresh.credential WHERE subject = 'alice'}), 'alice|connected', 'without those of the tokens the rest is seen');
    is(as_role('reader', q{SELECT token_refresh.get_access_token('acme', 'alice')}), '42501 permission denied for table credential', 'but no token');
    is(as_role('reader', q{SELECT * FROM token_refresh.refresh_credential('acme', 'alice')}), '42501 permission denied for table credential', 'nor is it refreshed');
    $node->safe_psql('postgres', 'GRANT SELECT ON token_refresh.credential TO reader');
    is(as_role('reader', q{SELECT token_refresh.get_access_token('acme', 'alice')}), $grant{alice}{access_token}, 'with SELECT on the table there is');
    is(as_role('reader', q{SELECT success FROM token_refresh.refresh_credential('acme', 'alice')}), 't', 'and it can be refreshed');
    is( as_role('reader', q{SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake"}')}),
        '42501 permission denied for table credential', 'but not stored');
    $grant{alice}{access_token} = access_token($node, 'acme', 'alice');
};

$node->safe_psql('postgres', <<'END');
GRANT EXECUTE ON FUNCTION token_refresh.get_access_token, token_refresh.get_token, token_refresh.refresh_credential, token_refresh.store_credential TO alice, bob;
GRANT SELECT, INSERT, UPDATE ON token_refresh.credential TO alice, bob;
ALTER TABLE token_refresh.credential ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON token_refresh.credential USING (subject = current_user);
END

subtest 'row-level security' => sub {
    is(as_role('alice', q{SELECT token_refresh.get_access_token('acme', 'alice')}), $grant{alice}{access_token}, 'alice reads her own token');
    is(as_role('alice', q{SELECT token_refresh.get_access_token('acme', 'bob')}), '', 'not that of bob');
    is(as_role('alice', q{SELECT access_token, status, message FROM token_refresh.get_token('acme', 'bob')}),
        '|disconnected|no credential is stored for this subject and label', 'get_token does not even say that there is one');
    is(as_role('bob', q{SELECT token_refresh.get_access_token('acme', 'bob')}), $grant{bob}{access_token}, 'bob reads his own token');

    is(as_role('alice', q{SELECT success FROM token_refresh.refresh_credential('acme', 'alice')}), 't', 'alice refreshes her own');
    is(as_role('alice', q{SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'bob')}),
        'f|reauth|no credential is stored for this subject and label', 'not that of bob');
    is(access_token($node, 'acme', 'bob'), $grant{bob}{access_token}, 'which is the old one still');
    is($server->stats('acme')->{per_subject}{bob}{requests} // 0, 0, 'the provider was not asked');

    like(as_role('alice', q{SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake-new", "expires_in": 3600}')}), qr/^\d+$/, 'alice stores her own');
    is(as_role('alice', q{SELECT token_refresh.get_access_token('acme', 'alice')}), 'fake-new', 'and reads it');
    like(as_role('alice', q{SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake-other", "expires_in": 3600}', label => 'other')}), qr/^\d+$/, 'also a new one');
    is( as_role('alice', qq{SELECT token_refresh.store_credential('acme', '$_', '{"access_token": "fake-stolen"}')}),
        '42501 new row violates row-level security policy for table "credential"', "nothing in the name of $_") for qw(bob somebody);
    is(access_token($node, 'acme', 'bob'), $grant{bob}{access_token}, 'bob has what he had');

    # One session, two roles: nothing that was cached for one serves the other.
    $node->safe_psql('postgres', 'CREATE ROLE pool LOGIN; GRANT alice, bob, reader TO pool');
    my $own = q{SELECT token_refresh.get_access_token('acme', 'bob')};
    is(as_role('pool', "SET ROLE bob; $own; SET ROLE alice; $own; SET ROLE bob; $own"),
        "$grant{bob}{access_token}\n\n$grant{bob}{access_token}", 'SET ROLE takes effect');
    is(as_role('reader', $own), '', 'a role without a policy sees nothing');
    is($node->safe_psql('postgres', "ALTER ROLE reader BYPASSRLS; SET ROLE reader; $own"), $grant{bob}{access_token}, 'one that bypasses row-level security sees all');

    store_credential($node, 'acme', { %$expired });
    poll_until($node, q{SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'carol'}, 'the refresher sees all');
    $node->safe_psql('postgres', 'ALTER TABLE token_refresh.credential FORCE ROW LEVEL SECURITY');
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'carol')}), 't', 'also when it is forced upon the owner');
    $node->safe_psql('postgres', 'ALTER TABLE token_refresh.credential NO FORCE ROW LEVEL SECURITY');
};

subtest 'the ciphertext is of no use to who may read it' => sub {
    my ($grant) = $server->grants('acme', subjects => ['alice']);
    store_credential($node, 'acme', $grant);
    as_role('alice', q{UPDATE token_refresh.credential SET access_token = refresh_token WHERE label = ''});
    like(as_role('alice', q{SELECT token_refresh.get_access_token('acme', 'alice')}), qr/^XX001 /, 'a refresh token cannot be read as an access token');
    is( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'token_refresh'::regnamespace AND proname ~ '^_' AND prorettype <> 'trigger'::regtype AND has_function_privilege('alice', oid, 'EXECUTE')}),
        '0', 'nor resealed for another place');
    store_credential($node, 'acme', $grant);
};

subtest 'objects of users in the search_path' => sub {
    # Whoever calls one of these has run code of the attacker.
    $node->safe_psql('postgres', 'CREATE TABLE public.victims (role text, object text); GRANT ALL ON public.victims TO PUBLIC');
    my $traps = '';
    for my $operator (['=', 'text'], ['<>', 'text'], ['<>', 'bytea'], ['=', 'integer'], ['=', 'bigint'], ['<', 'integer'], ['>', 'bigint'], ['<=', 'bigint'],
        ['+', 'bigint'], ['||', 'text'], ['=', 'boolean'], ['-', 'jsonb'], ['?', 'jsonb'], ['->>', 'jsonb'], ['<', 'timestamptz'])
    {
        my ($name, $type) = @$operator;
        my $result = { '+' => 'bigint', '||' => 'text', '-' => 'jsonb', '->>' => 'text' }->{$name} // 'boolean';
        my $value  = { '+' => '1', '||' => "''", '-' => "'{}'", '->>' => "''" }->{$name} // 'true';
        my $right  = $type eq 'jsonb' ? 'text' : $type;
        $traps .= trap("operator_" . unpack('H*', $name), "a $type, b $right", $result, $value);
        $traps .= sprintf("CREATE OPERATOR public.%s (FUNCTION = public.operator_%s, LEFTARG = %s, RIGHTARG = %s);\n", $name, unpack('H*', $name), $type, $right);
    }
    $traps .= trap('substring', 'a bytea, b integer, c integer', 'bytea', q{'\\x00'});
    $traps .= trap('format', 'a text, b bigint', 'text', q{''});
    $traps .= trap('concat_ws', 'a text, b text, c text', 'text', q{''});
    $traps .= trap('bytea_domain', 'a bytea', 'boolean', 'true') . "CREATE DOMAIN public.bytea AS pg_catalog.bytea CHECK (public.bytea_domain(VALUE));\n";
    $traps .= trap('max', 'a bigint', 'bigint', '1');
    $traps .= trap('now', '', 'timestamptz', 'pg_catalog.clock_timestamp()');
    $traps .= trap('clock_timestamp', '', 'timestamptz', q{'2000-01-01'::timestamptz});
    $traps .= trap('jsonb_typeof', 'a jsonb', 'text', q{'object'});
    $traps .= trap('current_setting', 'a text', 'text', q{'5min'});
    $traps .= trap('length', 'a text', 'integer', '1');
    $traps .= "CREATE DOMAIN public.text AS pg_catalog.varchar;\nCREATE TABLE public.credential (LIKE token_refresh.credential);\n"
        . "CREATE TABLE public.provider (LIKE token_refresh.provider);\n";
    $node->safe_psql('postgres', 'GRANT SELECT ON ALL TABLES IN SCHEMA token_refresh TO attacker');
    is(as_role('attacker', $traps), '', 'the attacker sets traps');
    is(as_role('alice', q{SET search_path = public, pg_catalog; SELECT 1 = 1, substring('\\x0102'::bytea, 1, 1); SELECT count(*) > 0 FROM public.victims}) =~ s/.*\n//sr,
        't', 'which work');
    $node->safe_psql('postgres', 'TRUNCATE public.victims');

    # Every function of the contract, as a user and as an administrator, with public before pg_catalog.
    my $path = "SET search_path = public, pg_catalog;\n";
    my @user = (
        q{SELECT token_refresh.get_access_token('acme', 'alice')},
        q{SELECT token_refresh.get_access_token('acme', 'bob')},
        q{SELECT status FROM token_refresh.get_token('acme', 'alice', min_validity => '10 minutes')},
        q{SELECT success FROM token_refresh.refresh_credential('acme', 'alice')},
        q{SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake", "refresh_token": "fake-refresh", "expires_in": 3600}')},
        q{SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake", "expires_in": 3600}', label => 'trapped')});
    my @admin = (
        q{SELECT token_refresh.create_provider('trapped', 'client', 'obviously-fake-secret', '{"token_endpoint": "https://example.org/token", "refresh_margin": "1 minute"}')},
        q{SELECT token_refresh.create_provider('google', 'client', 'obviously-fake-secret')},
        q{SELECT token_refresh.alter_provider('trapped', '{"client_secret": "obviously-fake-too", "scope": "a"}')},
        q{SELECT token_refresh.store_credential('trapped', 'x', '{"access_token": "fake", "refresh_token": "fake", "expires_in": 3600}')},
        q{UPDATE token_refresh.credential SET scope = 'a', expires_at = pg_catalog.now() WHERE subject OPERATOR(pg_catalog.=) 'x'},
        q{DELETE FROM token_refresh.credential WHERE subject OPERATOR(pg_catalog.=) 'x'},
        q{SELECT token_refresh.drop_provider('trapped')},
        q{SELECT token_refresh.refresh_expiring_tokens('1 minute')},
        q{SELECT token_refresh.refresh_expiring_tokens()},
        q{TABLE token_refresh.token_status}, q{SELECT token_refresh.status()}, q{TABLE token_refresh.key_usage}, q{SELECT token_refresh.key_ring()},
        q{SELECT token_refresh.pause()}, q{SELECT token_refresh.resume()}, q{TABLE token_refresh.provider_preset},
        q{SELECT token_refresh._trim_audit('1 day')},
        q{CALL token_refresh.rotate_keys()},
        q{BEGIN; UPDATE token_refresh.credential SET refresh_token = pg_catalog.set_byte(refresh_token, 1, 0), status = status WHERE subject OPERATOR(pg_catalog.=) 'alice'; COMMIT; CALL token_refresh.rotate_keys()});
    for my $case ((map { [ 'alice', $_ ] } @user), (map { [ $node->safe_psql('postgres', 'SELECT current_user'), $_ ] } @admin))
    {
        my ($role, $sql) = @$case;
        my $answer = as_role($role, $path . $sql);
        unlike($answer, qr/^[0-9A-Z]{5} /, "$role: $sql") or diag($answer);
        my $victims = $node->safe_psql('postgres', q{SELECT string_agg(DISTINCT role || ' ran ' || object, ', ') FROM public.victims});
        is($victims, '', 'ran nothing of the attacker');
        $node->safe_psql('postgres', 'TRUNCATE public.victims');
    }
    # The refresher too: it has refreshed and swept meanwhile.
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'carol')}), 't', 'the refresher works');
    is($node->safe_psql('postgres', 'SELECT count(*) FROM public.victims'), '0', 'and ran nothing of the attacker');
};

# SQL for a function of the attacker that notes who has run it.
sub trap
{
    my ($name, $arguments, $result, $value) = @_;
    return "CREATE OR REPLACE FUNCTION public.$name($arguments) RETURNS $result LANGUAGE plpgsql SET search_path = pg_catalog AS "
        . "\$\$ BEGIN INSERT INTO public.victims VALUES (current_user, '$name($arguments)'); RETURN $value; END \$\$;\n";
}

$node->stop;
done_testing();
