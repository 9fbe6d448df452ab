# alter_provider plans anew what it has read, not what others have written since: a session that disconnects or signs in,
# a refresher that has been told that a grant is dead. And it keeps nobody from storing credentials.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'token_refresh.request_timeout' => '60s');
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));

my $margin = 100;

# Another margin each time, so that all is planned anew.
sub alter { $margin++; return qq{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "$margin seconds"}')}; }

sub schedule
{
    my ($subject, $what) = @_;
    return $node->safe_psql('postgres', "SELECT $what FROM token_refresh.schedule WHERE token_table = 1 AND row_key = (SELECT id::text FROM token_refresh.credential WHERE subject = '$subject')");
}

# Starts alter_provider, and waits until it waits for the session's lock.
sub start_blocked_alter
{
    my $query = start_query($node, alter(), name => 'alter');
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'alter' AND wait_event_type = 'Lock'")
        or die 'alter_provider does not wait';
    return $query;
}

sub finish_ok
{
    my ($query) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($output, $error, $status) = $query->finish;
    return is("$status$error", '0', 'alter_provider succeeds');
}

# How alter_provider ends: "" or "SQLSTATE message / hint".
sub altered
{
    my ($options) = @_;
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT token_refresh.alter_provider('keyed', " . literal(json($options)) . ')');
    return $error =~ /ERROR:  (\w+): (.*?)\n.*?HINT:  ([^\n]*)/s ? "$1 $2 / $3" : $error;
}

subtest 'a secret of the wrong kind' => sub {
    my $key  = `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null`;
    my $hint = 'Give the new client_secret in the same call.';
    my $now  = sub { return $node->safe_psql('postgres', q{SELECT options ->> 'token_endpoint_auth_method', previous_client_secret IS NULL FROM token_refresh.provider WHERE name = 'keyed'}) };
    create_provider($node, 'keyed', token_endpoint => 'https://auth.example.org/token', client_secret => 'fake-secret', token_endpoint_auth_method => 'client_secret_basic');
    is(altered({ token_endpoint_auth_method => 'private_key_jwt' }), "22023 the client_secret that is stored does not do: client_secret holds no private key / $hint", 'a secret is no key');
    is($now->(), 'client_secret_basic|t', '... and nothing has changed');
    is(altered({ token_endpoint_auth_method => $_ }), '', "a secret does for $_") for qw(client_secret_post client_secret_jwt client_secret_basic);
    is(altered({ token_endpoint_auth_method => 'private_key_jwt', client_secret => $key }), '', 'the key in the same call');
    for my $method (qw(client_secret_basic client_secret_post client_secret_jwt))
    {
        like(altered({ token_endpoint_auth_method => $method }), qr{^22023 the client_secret that is stored does not do: client_secret holds a private key, .* / $hint$}, "a key does not do for $method");
    }
    like(altered({ token_endpoint_auth_method => undef }), qr{^22023 the client_secret that is stored}, '... nor for the default');
    like(altered({ token_endpoint_auth_signing_alg => 'RS256' }), qr{^22023 the client_secret that is stored .* / $hint$}, 'nor does it for another algorithm');
    is($now->(), 'private_key_jwt|f', '... and nothing has changed');
    is(altered({ token_endpoint_auth_signing_alg => 'ES256' }), '', 'its own algorithm');
    # As an earlier version let it become.
    $node->safe_psql('postgres', "UPDATE token_refresh.provider SET options = $_, effective_options = effective_$_ WHERE name = 'keyed'")
        for q{options - 'token_endpoint_auth_signing_alg' || '{"token_endpoint_auth_method": "client_secret_basic"}'};
    is(altered({ enabled => JSON::PP::false() }), '', 'other options have nothing to do with it');
    $node->safe_psql('postgres', q{SELECT token_refresh.drop_provider('keyed')});
};

subtest 'disconnected while it waits' => sub {
    store_credential($node, 'acme', $server->grants('acme', subjects => ['leaving']));
    my $session = background_session($node);
    $session->query("BEGIN; UPDATE token_refresh.credential SET status = 'disconnected' WHERE subject = 'leaving'");
    my $alter = start_blocked_alter();
    $session->query('COMMIT');
    $session->quit;
    finish_ok($alter);
    is(schedule('leaving', 'status, due_at IS NULL'), 'disconnected|t', 'it stays so');
};

subtest 'signed in while it waits' => sub {
    store_credential($node, 'acme', $server->grants('acme', subjects => ['anew'], lifetime => 3600));
    my ($grant) = $server->grants('acme', subjects => ['anew'], lifetime => 72000);
    my %tokens = map { $_ => $grant->{$_} } qw(access_token refresh_token expires_in);
    my $session = background_session($node);
    $session->query('BEGIN; SELECT token_refresh.store_credential(' . join(', ', "'acme'", "'anew'", literal(json(\%tokens))) . ')');
    my $alter = start_blocked_alter();
    $session->query('COMMIT');
    $session->quit;
    finish_ok($alter);
    is(schedule('anew', "expires_at > now() + interval '19 hours', due_at > now() + interval '18 hours'"), 't|t', 'the plan is that of the new tokens');
};

subtest 'a grant dies while it waits' => sub {
    # Some before it and some after it, in whatever order they are planned.
    store_credential($node, 'acme', $server->grants('acme', prefix => 'before', n => 5));
    $server->fault('acme', kind => 'invalid_grant', match => '^dies$');
    $server->control('acme', hold => 'before');
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => ['dies']));
    $server->wait('acme', held => 1);
    store_credential($node, 'acme', $server->grants('acme', prefix => 'after', n => 5));
    my $session = background_session($node);
    $session->query("BEGIN; SELECT FROM token_refresh.schedule WHERE row_key IN (SELECT id::text FROM token_refresh.credential WHERE subject ~ '^(before|after)') FOR UPDATE");
    my $alter = start_blocked_alter();
    $server->release('acme');
    poll_until($node, q{SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'dies'}, 'the refresher is told');
    $session->query('COMMIT');
    $session->quit;
    finish_ok($alter);
    is(schedule('dies', 'status, due_at IS NULL'), 'needs_reauth|t', 'it stays dead');
    $node->safe_psql('postgres', q{SELECT token_refresh.get_access_token('acme', 'dies'), token_refresh.refresh_credential('acme', 'dies')});
    is($server->stats('acme')->{per_subject}{dies}{requests}, 1, 'and is not presented again');
    $server->fault('acme');
};

subtest 'in an open transaction' => sub {
    my $session = background_session($node);
    $session->query('BEGIN; ' . alter());
    is($node->safe_psql('postgres', q{SET lock_timeout = '10s'; SELECT token_refresh.store_credential('acme', 'other', '{"access_token": "fake"}') > 0}), 't',
        'it keeps nobody from storing credentials of the provider');
    $session->query('ROLLBACK');
    $session->quit;
};

# The refresher has begun a turn, and comes no further than the schedule, when both are committed.
subtest 'changed, then a credential stored, while the refresher is about to claim' => sub {
    my ($old, $new) = map { $server->token_endpoint($_) } qw(moved-from moved-to);
    create_provider($node, 'moving', token_endpoint => $old);
    my ($grant) = $server->expired_grants('moved-to', subjects => ['moved']);
    my $store = sprintf('token_refresh.store_credential(%s, %s, %s)', map { literal($_) } 'moving', 'moved',
        json({ map { $_ => $grant->{$_} } qw(access_token refresh_token expires_at) }));
    my $session = background_session($node);
    $session->query('BEGIN; LOCK TABLE token_refresh.schedule');
    $node->safe_psql('postgres', 'SELECT token_refresh.resume()');
    $session->query(<<"SQL");
DO \$\$
BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'token_refresh refresher' AND wait_event_type = 'Lock') LOOP
        PERFORM pg_stat_clear_snapshot();
    END LOOP;
    PERFORM token_refresh.alter_provider('moving', '{"token_endpoint": "$new"}');
    PERFORM $store;
END
\$\$;
COMMIT
SQL
    $session->quit;
    poll_until($node, q{SELECT refresh_count = 1 FROM token_refresh.token_status WHERE provider = 'moving'}, 'it is refreshed');
    is($server->stats('moved-from')->{requests}, 0, 'and was presented to nobody but whom it is for');
    $node->safe_psql('postgres', q{DELETE FROM token_refresh.credential WHERE provider = 'moving'; SELECT token_refresh.drop_provider('moving')});
};

subtest 'an attached table' => sub {
    $node->safe_psql('postgres', q{CREATE TABLE app (id integer PRIMARY KEY, provider text, access_token text, refresh_token text, expires_at timestamptz)});
    $node->safe_psql('postgres', q{SELECT token_refresh.attach_table('app', '{"provider_column": "provider", "access_token_column": "access_token", "refresh_token_column": "refresh_token", "expires_at_column": "expires_at", "cipher": "plain"}')});
    $server->fault('acme', kind => 'invalid_client');
    my ($grant) = $server->expired_grants('acme', subjects => ['attached']);
    $node->safe_psql('postgres', "INSERT INTO app VALUES (1, 'acme', '$grant->{access_token}', '$grant->{refresh_token}', '2020-01-01')");
    poll_until($node, q{SELECT status = 'error' FROM token_refresh.token_status WHERE token_table = 'app'::regclass}, 'fails at a client that is broken');
    $server->fault('acme');
    $node->safe_psql('postgres', alter());
    poll_until($node, q{SELECT status = 'connected' AND refresh_count = 1 FROM token_refresh.token_status WHERE token_table = 'app'::regclass}, 'and is tried at once when it is mended');
    my $due = q{SELECT due_at FROM token_refresh.token_status WHERE token_table = 'app'::regclass};
    $node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "1 second"}')});
    my $late = $node->safe_psql('postgres', $due);
    $node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "10 minutes"}')});
    is($node->safe_psql('postgres', "SELECT due_at < '$late'::timestamptz - interval '2 minutes' FROM ($due) s"), 't', 'new timing holds for a row that is well, too');
    $node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('acme', '{"client_id": "another"}')});
    my $drop = q{DELETE FROM token_refresh.credential; \set VERBOSITY verbose
SELECT token_refresh.drop_provider('acme')};
    like(($node->psql('postgres', $drop))[2], qr/ERROR:  2BP01: provider "acme" is still used by attached table\(s\): public.app\nHINT:  .*detach_table/, 'rows that name a provider keep it');
    $node->safe_psql('postgres', 'DELETE FROM app');
    $node->safe_psql('postgres', q{SELECT token_refresh.drop_provider('acme')});
    is($node->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.provider}), '0', 'nothing else does');
};

$node->stop;
done_testing();
