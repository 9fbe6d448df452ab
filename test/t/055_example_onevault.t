# examples/onevault, by the commands of its README: hashes of a data vault are taken over, and functions with the names of
# the service's own serve its middleware, for Express and for WSGI, and a client that refreshes the tokens that it holds.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ApiServer;
use Digest::SHA qw(sha256_hex);
use ExampleTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node    = new_node('main', -extension => 0);
my $example = ExampleTest->new($node, 'onevault');
my @secrets;

# Tokens as the service made them, by the name of their user.
my %token;

# What the service does with a new token, as SQL. %column: others than the default's.
sub insertion
{
    my ($name, %column) = @_;
    my $hash = delete $column{hash};
    unless ($hash)
    {
        push @secrets, $token{$name} = 'ovt_prod_' . sha256_hex("obviously fake $name");
        $hash = sha256_hex($token{$name});
    }
    %column = (user_hk => sprintf(q('\x%s'), unpack('H*', $name)), tenant_hk => q('\x7e'), expires_at => q(now() + interval '60 days'),
        load_date => q(now() - interval '30 days'), token_hash => "'\\x$hash'", api_token_hk => "'\\x$hash'", %column);
    my @columns = sort keys %column;
    return 'INSERT INTO auth.api_token_s (' . join(', ', @columns) . ') VALUES (' . join(', ', @column{@columns}) . ')';
}

sub issue { my @arguments = @_; $example->owner_query(insertion(@arguments)); return; }

sub current { return "token_hash = '\\x" . sha256_hex($token{ $_[0] }) . "' AND load_end_date IS NULL"; }

# A version is closed and another one follows, in one transaction.
sub new_version
{
    my ($name, %column) = @_;
    return 'BEGIN; UPDATE auth.api_token_s SET load_end_date = now() WHERE ' . current($name) . '; '
        . insertion($name, hash => sha256_hex($token{$name}), load_date => 'now()', %column) . '; COMMIT';
}

# A call of a function as the middleware's role; the row as a hash.
sub call
{
    my ($function, @arguments) = @_;
    my $list = join(', ', map { literal($_) } @arguments);
    my $row  = $node->safe_psql($example->{database}, "SELECT to_jsonb(f) FROM auth.$function($list) f", extra_params => [ '-U', 'onevault_api' ]);
    return JSON::PP->new->decode($row);
}

sub is_valid { return call('validate_production_api_token', $_[0])->{is_valid} ? 1 : 0; }

# A vault's way: the version is closed, and another one follows.
sub revoke_in_vault
{
    my ($name) = @_;
    my $hash = sha256_hex($token{$name});
    $example->owner_query("UPDATE auth.api_token_s SET load_end_date = now() WHERE token_hash = '\\x$hash' AND load_end_date IS NULL");
    issue($name, hash => $hash, is_revoked => 'true', load_date => 'now()');
    return;
}

my $soon = q(now() + interval '3 days');

subtest 'the service as it was' => sub {
    $example->step('Try it');
    issue('ann');
    issue($_, expires_at => $soon, token_type => q('PRODUCTION')) for qw(ben cleo dora erin fred);
    issue('gone', is_revoked => 'true');
    issue('late', expires_at => q(now() - interval '1 day'));
    issue('web', token_type => q('SESSION'));
    # An earlier version, with more scopes.
    my $hash = sha256_hex($token{ann});
    issue('ann', hash => $hash, scope => q(ARRAY['api:admin']), load_date => q(now() - interval '60 days'), load_end_date => q(now() - interval '30 days'));
    is(is_valid($token{ann}), 1, 'its own function knows its tokens');
};

subtest 'import' => sub {
    is($example->step('Import'), "8\n", 'the hashes are taken over: current versions, of three types');
    $example->readme_quotes('import.sql');
    is($example->step('Import'), "8\n", 'it may be run again');
    is($example->query('SELECT count(*) FROM token_refresh.api_token'), '8', 'and changes nothing then');
    is($example->query(q(SELECT scope, issued_at < now() - interval '29 days', tenant_hk, prefix FROM token_refresh.api_token_status WHERE user_hk = 'ann'::bytea)),
        '{api:read}|t|\x7e|ovt_prod_', 'the current version counts');
    issue('new');
    is($example->query(q(SELECT imported FROM token_refresh.api_token_status WHERE user_hk = 'new'::bytea)), 't', 'a token that the service issues is taken over at once');
};

subtest 'the functions' => sub {
    $example->step('Switch over');
    is($example->query(q{SELECT string_agg(proname || '(' || pg_get_function_arguments(oid) || ') ' || pg_get_function_result(oid), E'\n' ORDER BY proname)
        FROM pg_proc WHERE pronamespace = 'auth'::regnamespace AND prorettype <> 'trigger'::regtype AND proname NOT IN ('take_over_version', 'revoke_hash')}), <<'END' =~ s/\n\z//r =~ s/\n +/ /gr, 'names, arguments, columns and types');
get_token_refresh_status(p_token text)
    TABLE(is_valid boolean, expires_at timestamp with time zone, days_until_expiry integer, refresh_recommended boolean, refresh_reason character varying, message text)
refresh_expiring_tokens_batch()
    TABLE(tokens_found integer, tokens_refreshed integer, tokens_failed integer, details jsonb)
refresh_production_token_enhanced(p_token text, p_threshold_days integer DEFAULT 7, p_force boolean DEFAULT false)
    TABLE(success boolean, new_token text, expires_at timestamp with time zone, refresh_reason character varying, message text)
test_token_refresh_system(p_token text)
    TABLE(step text, result text, details jsonb)
validate_and_refresh_api_token(p_token text, p_required_scope text DEFAULT 'api:read'::text)
    TABLE(is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamp with time zone, new_token text, was_refreshed boolean, refresh_reason character varying, message text)
validate_production_api_token(p_token text, p_required_scope text DEFAULT 'api:read'::text)
    TABLE(is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamp with time zone, message text)
END
    is(is_valid($token{$_->[0]}), $_->[1], $_->[2]) for [ ann => 1, 'a good one' ], [ new => 1, 'one that has come since' ], [ gone => 0, 'a revoked one' ],
        [ late => 0, 'one that has expired' ], [ web => 0, 'one that is not imported' ];
    is(call('validate_production_api_token', $token{ann}, 'api:admin')->{is_valid}, JSON::PP::false, 'scopes of earlier versions do not count');
    my $status = call('get_token_refresh_status', $token{ann});
    is_deeply([ @$status{qw(refresh_recommended days_until_expiry)} ], [ JSON::PP::false, 59 ], 'get_token_refresh_status');
    my $answer = call('refresh_production_token_enhanced', $token{ann});
    is_deeply([ @$answer{qw(success new_token refresh_reason)} ], [ JSON::PP::true, undef, 'NO_REFRESH_NEEDED' ], 'refresh_production_token_enhanced: nothing to do');
    my ($code, undef, $errors) = $node->psql($example->{database}, 'SELECT auth.refresh_expiring_tokens_batch()', extra_params => [ '-U', 'onevault_api' ]);
    like($errors, qr/permission denied/, 'the batch is not for the middleware');
};

subtest 'the vault ends a token' => sub {
    issue($_) for qw(closed deleted moved changed kept);
    my $new = call('refresh_production_token_enhanced', $token{closed}, 7, 'true')->{new_token};
    push @secrets, $new;
    is(is_valid($_), 1, 'good at first') for @token{qw(closed deleted moved changed kept)}, $new;
    $example->owner_query('BEGIN; UPDATE auth.api_token_s SET load_end_date = now(); DELETE FROM auth.api_token_s; ROLLBACK');
    is(is_valid($token{kept}), 1, 'what is rolled back does not count');
    $example->owner_query('UPDATE auth.api_token_s SET load_end_date = now() WHERE ' . current('closed'));
    is(is_valid($token{closed}), 0, 'a version that is closed, and none follows');
    is(is_valid($new), 0, 'nor is its successor good any more');
    $example->owner_query('DELETE FROM auth.api_token_s WHERE ' . current('deleted'));
    is(is_valid($token{deleted}), 0, 'a version that is deleted');
    $example->owner_query(q(UPDATE auth.api_token_s SET token_type = 'SESSION' WHERE ) . current('moved'));
    is(is_valid($token{moved}), 0, 'a type that is not imported');
    $example->owner_query(new_version('changed'));
    is(is_valid($token{changed}), 1, 'a version that another one follows in the same transaction');
    $example->owner_query('DELETE FROM auth.api_token_s WHERE load_end_date IS NOT NULL AND token_hash = (SELECT token_hash FROM auth.api_token_s WHERE ' . current('changed') . ')');
    is(is_valid($token{changed}), 1, 'old versions may go');

    # As after switching back.
    issue($_) for qw(away still);
    $example->owner_query('ALTER TABLE auth.api_token_s DISABLE TRIGGER USER; UPDATE auth.api_token_s SET load_end_date = now() WHERE ' . current('away')
        . '; ALTER TABLE auth.api_token_s ENABLE TRIGGER USER');
    is(is_valid($token{away}), 1, 'closed while no trigger was there');
    my ($status) = $example->run_in_folder([ qw(psql -qAtU onevault -f import.sql) ], '');
    is($status, 0, 'the next import');
    is(is_valid($token{away}), 0, 'finds it');
    is(is_valid($token{still}), 1, 'and leaves others alone');
};

subtest 'what no token can have' => sub {
    my %odd = (endless => [ expires_at => q('infinity') ], spaced => [ scope => q(ARRAY['api read']) ], short => [ token_hash => q('\x0102') ],
        ahead => [ load_date => q(now() + interval '1 day') ]);
    for my $name (sort keys %odd)
    {
        my ($code, undef, $errors) = $node->psql($example->{database}, insertion($name, @{ $odd{$name} }), extra_params => [ '-U', 'onevault' ]);
        is($code, 0, "$name: the service can insert it");
        like($errors, qr/WARNING:  an API token is not taken over: .*\nDETAIL:  user_hk \\x@{[ unpack('H*', $name) ]}, load_date 2/, 'it is told why that is no good');
        is(is_valid($token{$name}), 0, 'and no good it is');
    }
    my ($status, $output, $errors) = $example->run_in_folder([ qw(psql -qAtU onevault -f import.sql) ], '');
    is($status, 0, 'nor do they stop an import') or diag($errors);
    is(() = $errors =~ /WARNING:  an API token is not taken over/g, 4, 'which tells of each');
    my ($code) = $node->psql($example->{database}, new_version('kept', is_revoked => 'true', expires_at => q('infinity')), extra_params => [ '-U', 'onevault' ]);
    is($code, 0, 'a revocation with such values');
    is(is_valid($token{kept}), 0, 'counts');
    $example->owner_query('UPDATE auth.api_token_s SET load_end_date = now() WHERE octet_length(token_hash) = 2');
};

for my $kind (qw(node python))
{
    my $lacking = ApiServer::lacking($kind);
    subtest "the middleware: $kind" => sub {
        plan(skip_all => $lacking) if $lacking;
        my $server = ApiServer->start($kind, PGHOST => $node->host, PGPORT => $node->port, PGUSER => 'onevault_api', PGDATABASE => $example->{database},
            VALIDATE_FUNCTION => 'auth.validate_and_refresh_api_token');
        my ($name) = $kind eq 'node' ? 'ben' : 'cleo';
        is_deeply($server->get($token{ann})->{body}, { user => unpack('H*', 'ann'), tenant => '7e', scope => ['api:read'] }, 'whose it is');
        my $answer = $server->get($token{$name});
        my $new    = $answer->{headers}{'x-new-token'};
        push @secrets, $new;
        is_deeply([ $answer->{status}, $answer->{headers}{'x-refresh-reason'} ], [ 200, 'EXPIRING_SOON' ], 'one that expires soon is refreshed');
        like($new, qr/^ovt_prod_[\w-]{48}$/, 'its successor begins as it does');
        is($server->get($new)->{body}{user}, unpack('H*', $name), 'and is good');
        is($server->get($token{$name})->{headers}{'x-new-token'}, $new, 'the old one leads to the same one');
        is($server->get($token{$_})->{status}, 401, "refused: $_") for qw(gone late web);
        issue("bad $kind");
        is($server->get($token{"bad $kind"})->{status}, 200, 'issued in the vault: good at once');
        revoke_in_vault("bad $kind");
        is($server->get($token{"bad $kind"})->{status}, 401, 'revoked in the vault: refused at once');
        revoke_in_vault($name);
        is($server->get($new)->{status}, 401, 'with its successors');
        $server->stop;
        ok(secrets_absent($server->log, @secrets), 'no token is in its log');
    };
}

subtest 'a client that refreshes what it holds' => sub {
    my $python = ApiServer::python('psycopg') or plan(skip_all => 'psycopg is missing');
    my $file   = PostgreSQL::Test::Utils::tempdir() . '/held_tokens.json';
    append_to_file($file, json({ a => $token{ann}, d => $token{dora}, g => $token{gone} }));
    my ($status, $output, $errors) = $example->run_in_folder([ $python, 'refresh_held_tokens.py', $file ], '', PGUSER => 'onevault_api');
    is($status, 0, 'it runs') or diag($errors);
    is($output, "a: token valid for 59 more days\nd: EXPIRING_SOON\ng: the token has been revoked\n", 'it says what it does');
    my $held = JSON::PP->new->decode(slurp_file($file));
    push @secrets, $held->{d};
    is_deeply([ @$held{qw(a g)} ], [ @token{qw(ann gone)} ], 'the others stay as they are');
    isnt($held->{d}, $token{dora}, 'the one that expires soon is replaced');
    is(is_valid($held->{d}), 1, 'by a good one');
    is((stat $file)[2] & 0777, 0600, 'for the owner alone');

    issue('gwen', expires_at => $soon);
    my $dir = PostgreSQL::Test::Utils::tempdir();
    append_to_file("$dir/held.json", json({ g => $token{gwen} }));
    my @command = ($python, 'refresh_held_tokens.py', "$dir/held.json");
    ($status) = $example->run_in_folder([ 'bash', '-c', 'ulimit -f 0; exec "$@"', 'bash', @command ], '', PGUSER => 'onevault_api');
    isnt($status, 0, 'where nothing can be written it fails');
    my $successors = q(SELECT count(successor_id) FROM token_refresh.api_token_status WHERE user_hk = 'gwen'::bytea);
    is($example->query($successors), '0', 'and asks for no successor, which would be lost');
    is(join(' ', grep { !/^\.+$/ } slurp_dir($dir)), 'held.json', 'it leaves no other file');
    is(slurp_file("$dir/held.json"), json({ g => $token{gwen} }), 'the file is as it was');
    ($status, $output) = $example->run_in_folder(\@command, '', PGUSER => 'onevault_api');
    is("$status $output" . $example->query($successors), "0 g: EXPIRING_SOON\n1", 'later it can');
    push @secrets, JSON::PP->new->decode(slurp_file("$dir/held.json"))->{g};
};

subtest 'the batch' => sub {
    my ($counts, $details) = split /\n/, $example->owner_query(q{CREATE TEMP TABLE b AS SELECT * FROM auth.refresh_expiring_tokens_batch();
        SELECT tokens_found = tokens_refreshed, tokens_failed, tokens_found = jsonb_array_length(details) FROM b;
        SELECT d ->> 'status', d ->> 'days_left', d ->> 'token_type', count(*) FROM b, jsonb_array_elements(details) d
        WHERE d ->> 'owner' IN (encode('erin', 'hex'), encode('fred', 'hex')) GROUP BY 1, 2, 3});
    is($counts, 't|0|t', 'all that expire soon are refreshed');
    is($details, 'SUCCESSOR_READY|2|PRODUCTION|2', 'also those that nobody uses, and of which there are hashes only');
    my $answer = call('validate_and_refresh_api_token', $token{erin});
    push @secrets, $answer->{new_token};
    is_deeply([ @$answer{qw(is_valid was_refreshed refresh_reason)} ], [ JSON::PP::true, JSON::PP::true, 'EXPIRING_SOON' ], 'handed over at the next use');
    is(is_valid($answer->{new_token}), 1, 'and good');
    revoke_in_vault('fred');
    is(is_valid($token{fred}), 0, 'a revocation in the vault counts at once');
};

subtest 'test_token_refresh_system' => sub {
    my @steps = split /\n/, $example->owner_query("SELECT step, details ->> 'is_valid', details ->> 'refresh_reason', details ->> 'new_token' FROM auth.test_token_refresh_system('$token{new}')");
    is($steps[0], 'STEP_1_STATUS|true|NO_REFRESH_NEEDED|', 'the status');
    my @refresh = split /\|/, $steps[1];
    push @secrets, $refresh[3];
    is(join('|', @refresh[ 0, 2 ]), 'STEP_2_REFRESH|FORCED', 'the refresh');
    is(is_valid($refresh[3]), 1, 'whose answer has the successor');
    $token{newer} = $refresh[3];
};

subtest 'monitoring' => sub {
    my $output = $example->step('Check');
    like($output, qr/^== tokens by status\nactive\|\d+\nexpired\|1\ngrace\|\d+\n(?:ready\|\d+\n)?revoked\|\d+\n== good/m, 'tokens by status');
    like($output, qr/^api_token_rotated\|\d+\napi_token_successor_ready\|\d+$/m, 'what happened');
};

subtest 'switch back' => sub {
    my $issue = q(SELECT token FROM token_refresh.issue_api_token('%s', ARRAY['api:read'], token_type => repeat('T', 60)%s));
    ($token{hal}, $token{ida}) = ($example->query(sprintf($issue, 'hal', q(, user_hk => 'hal'::bytea, tenant_hk => '\x7e'))), $example->query(sprintf($issue, 'ida', '')));
    push @secrets, @token{qw(hal ida)};
    is(is_valid($token{$_}), 1, "$_: issued here") for qw(hal ida);
    $example->leave_out('Schedule');
    $example->step('Switch back');
    $example->no_trigger_left('auth.api_token_s');
    is($example->query(q(SELECT string_agg(proname, ' ') FROM pg_proc WHERE pronamespace = 'auth'::regnamespace)), 'validate_production_api_token', "the service's own function is back");
    is(is_valid($token{$_->[0]}), $_->[1], $_->[2]) for [ ann => 1, 'a token as it was' ], [ web => 1, 'one of another type' ], [ new => 1, 'one in its grace period' ],
        [ newer => 1, 'a successor' ], [ hal => 1, 'one that was issued here' ], [ closed => 0, 'a closed one' ], [ deleted => 0, 'a deleted one' ],
        [ fred => 0, 'a revoked one' ], [ gone => 0, 'one that was revoked before' ];
    is($example->query('SELECT count(*) FROM (SELECT FROM auth.api_token_s WHERE load_end_date IS NULL GROUP BY token_hash HAVING count(*) > 1) twice'), '0', 'no token has two current versions');
    like(read_log($node), qr/WARNING:  API tokens that stay behind, since the satellite wants user_hk and tenant_hk: 1$/m, 'it is told how many have no place in the vault');
    ok(secrets_absent(read_log($node), @secrets), 'no token is in the log');
};

$example->ran_all_steps;
$node->stop;
done_testing();
