# Secrets stay secret (P7): with the server logging all it can, tokens passed as bind
# parameters, answers that quote what was sent, rejected writes and rotated keys, no
# token, client secret or key is in the log, an error, a view, pg_stat_activity or a dump.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use IPC::Run;
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node(
    'main',
    'log_min_messages'        => 'debug5',
    'log_min_error_statement' => 'debug5',
    'log_error_verbosity'     => 'verbose');

# Short and with characters that are encoded on their way: harder to recognise than a token.
my %client_secret = (acme => 's3 cret/+&%', post => 'zq"\\xy=7', locked => 'not-the-right-one');
my @secrets = values %client_secret;
my $errors  = '';  # everything that a client was told

# Runs a statement with bind parameters; they are not in its text.
sub bound
{
    my ($sql, %parameters) = @_;
    my $script = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
    append_to_file($script, "$sql;\n");
    my ($output, $error) = ('', '');
    my $ok = IPC::Run::run(
        [ $node->installed_command('pgbench'), '-n', '-M', 'extended', '-c', 1, '-t', 1, '-f', $script,
            (map { ('-D', "$_=$parameters{$_}") } sort keys %parameters), $node->connstr('postgres') ],
        '<', \undef, '>', \$output, '2>', \$error);
    $errors .= "$error\n";
    return $ok;
}

sub query { return $node->safe_psql('postgres', $_[0]); }

# What the server says to a statement that is expected to fail; without secrets in its text.
sub attempt { my ($sql) = @_; my ($status, $output, $error) = $node->psql('postgres', $sql); $errors .= "$output\n$error\n"; return $error; }

sub add_provider
{
    my ($name, %options) = @_;
    ok(bound('SELECT token_refresh.create_provider(:name, :client_id, :secret, (:options)::jsonb)', name => $name, client_id => 'app',
            secret => $client_secret{$name}, options => json({ token_endpoint => $server->token_endpoint($name), %options })), "provider $name");
    return;
}

sub store
{
    my ($provider, @grants) = @_;
    for my $grant (@grants)
    {
        my %response = %$grant;
        my $subject = delete $response{subject};
        push @secrets, @response{qw(access_token refresh_token)};
        bound('SELECT token_refresh.store_credential(:provider, :subject, (:response)::jsonb)', provider => $provider, subject => $subject, response => json(\%response))
            or die 'cannot store a credential';
    }
    return;
}

# The tokens of now; reading them does not write them anywhere.
sub note_tokens
{
    push @secrets, grep { $_ ne '' } split /\n/, query('SELECT token_refresh.get_access_token(provider, subject) FROM token_refresh.credential');
    return;
}

sub events { return query("SELECT string_agg(event || coalesce('/' || failure, ''), ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE subject = '$_[0]' AND event <> 'credential_stored'"); }

my $key_file = $node->basedir . '/token_refresh.keys';
sub keys_of_ring { return map { (split / /)[1] } grep { / / } split /\n/, slurp_file($key_file); }

subtest 'success' => sub {
    add_provider('acme');
    add_provider('post', token_endpoint_auth_method => 'client_secret_post');
    $server->control('acme', auth => { method => 'basic', client_id => 'app', client_secret => $client_secret{acme} });
    $server->control('post', auth => { method => 'post',  client_id => 'app', client_secret => $client_secret{post} });
    store('acme', $server->grants('acme', n => 3), $server->expired_grants('acme', subjects => ['old']));
    store('post', $server->expired_grants('post', subjects => ['old']));
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE provider = '$_' AND subject = 'old'", "$_: refreshed") for qw(acme post);
    note_tokens();
    is(query("SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')"), 't', 'refreshed on demand');
    note_tokens();
};

subtest 'a provider that quotes what was sent' => sub {
    my %fault = (
        quoted   => { kind => 'echo' },
        dead     => { kind => 'echo', error => 'invalid_grant' },
        locked   => { kind => 'echo', error => 'invalid_client' },
        slow     => { kind => 'echo', status => 500 },
        limited  => { kind => 'echo', status => 429 });
    add_provider('locked');
    my %provider = (locked => 'locked');
    # "limited" comes last: it makes all credentials of its provider wait.
    for my $subject (qw(quoted dead locked slow limited))
    {
        my $provider = $provider{$subject} // 'acme';
        $server->fault($provider, %{ $fault{$subject} }, match => "^$subject\$", count => 1);
        store($provider, $server->expired_grants($provider, subjects => [$subject]));
        poll_until($node, "SELECT last_error IS NOT NULL FROM token_refresh.token_status WHERE subject = '$subject'", "$subject: failed");
        my ($error) = query("SELECT last_error FROM token_refresh.token_status WHERE subject = '$subject'");
        like($error, qr/bad request.*\[redacted\]/, "$subject: the failure is told without it");
        $errors .= query("SELECT concat_ws(' ', status, message) FROM token_refresh.get_token('$provider', '$subject')") . "\n";
        $errors .= query("SELECT concat_ws(' ', failure, message) FROM token_refresh.refresh_credential('$provider', '$subject')") . "\n";
    }
    note_tokens();
};

subtest 'failures of other kinds' => sub {
    # A new provider: "acme" has just asked to wait.
    $client_secret{other} = 'other "secret"';
    push @secrets, $client_secret{other};
    add_provider('other');
    for my $kind (qw(garbage html reset close invalid_client))
    {
        $server->fault('other', kind => $kind, match => "^$kind\$", count => 1);
        store('other', $server->expired_grants('other', subjects => [$kind]));
        poll_until($node, "SELECT attempts > 0 OR refresh_count > 0 FROM token_refresh.token_status WHERE subject = '$kind'", "$kind: dealt with");
    }
    # An answer that is half an error and has tokens in it all the same.
    my ($access, $refresh) = ('at_' . 'a1b2' x 8, 'rt_' . 'c3d4' x 8);
    push @secrets, $access, $refresh;
    $server->fault('other', kind => 'status', status => 400, count => 1, match => '^mixed$',
        body => { error => "weird $refresh", error_description => "got $access", access_token => $access, refresh_token => $refresh });
    store('other', $server->expired_grants('other', subjects => ['mixed']));
    poll_until($node, "SELECT attempts > 0 FROM token_refresh.token_status WHERE subject = 'mixed'", 'mixed: dealt with');
    note_tokens();
};

subtest 'parked and superseded' => sub {
    $client_secret{strict} = 'strict-fake-secret';
    push @secrets, $client_secret{strict};
    add_provider('strict');
    query(<<'END');
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.subject = 'parked' AND (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()) = 'token_refresh refresher' THEN
        RAISE 'no % today', NEW USING DETAIL = NEW::text;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER reject BEFORE UPDATE ON token_refresh.credential FOR EACH ROW EXECUTE FUNCTION reject();
END
    store('strict', $server->expired_grants('strict', subjects => ['parked']));
    poll_until($node, "SELECT parked FROM token_refresh.token_status WHERE subject = 'parked'", 'parked');
    note_tokens();

    $server->control('strict', hold => 'after');
    store('strict', $server->expired_grants('strict', subjects => ['superseded']));
    $server->wait('strict', held => 1);
    my $activity = query('SELECT string_agg(a::text, E\'\n\') FROM pg_stat_activity a');
    ok(secrets_absent($activity, @secrets), 'pg_stat_activity while a request is under way');
    store('strict', $server->grants('strict', subjects => ['superseded']));
    $server->release('strict');
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE subject = 'superseded' AND event = 'superseded'", 'superseded');
    note_tokens();
};

subtest 'errors' => sub {
    my ($token, $other) = ('at_' . 'e5f6' x 8, 'rt_' . '0718' x 8);
    my $secret = 'another-fake-secret';
    push @secrets, $token, $other, $secret;
    my %bad = (
        'unknown provider'     => [ 'nobody',  { access_token => $token, refresh_token => $other } ],
        'no access_token'      => [ 'acme',    { refresh_token => $other, scope => $token } ],
        'a number'             => [ 'acme',    { access_token => 5, refresh_token => $other } ],
        'an object'            => [ 'acme',    { access_token => { token => $token }, refresh_token => $other } ],
        'wrong refresh_token'  => [ 'acme',    { access_token => $token, refresh_token => [$other] } ],
        'wrong expires_in'     => [ 'acme',    { access_token => $token, refresh_token => $other, expires_in => $other } ],
        'wrong expires_at'     => [ 'acme',    { access_token => $token, refresh_token => $other, expires_at => $other } ],
        'an error, not tokens' => [ 'acme',    { error => 'invalid_grant', error_description => $other } ],
        'a list'               => [ 'acme',    [ $token, $other ] ]);
    for my $name (sort keys %bad)
    {
        ok(!bound('SELECT token_refresh.store_credential(:provider, :subject, (:response)::jsonb)', provider => $bad{$name}[0], subject => 'bad', response => json($bad{$name}[1])),
            "$name is refused") or diag('it was not');
    }
    ok(!bound('SELECT token_refresh.store_credential(:provider, :subject, (:response)::jsonb)', provider => 'acme', subject => 'x' x 1001,
            response => json({ access_token => $token, refresh_token => $other })), 'a check constraint refuses');

    my $endpoint = $server->token_endpoint('acme');
    my %options = (
        'known name'       => [ 'acme', { token_endpoint => $endpoint } ],
        'unknown option'   => [ 'new1', { token_endpoint => $endpoint, unknown => $other } ],
        'mistyped option'  => [ 'new2', { token_endpoint => $endpoint, refresh_margin => $other } ],
        'bad URL'          => [ 'new3', { token_endpoint => "http://user:$other\@example.org/" } ],
        'secret as option' => [ 'new4', { token_endpoint => $endpoint, client_secret => $other } ]);
    for my $name (sort keys %options)
    {
        ok(!bound('SELECT token_refresh.create_provider(:name, :client_id, :secret, (:options)::jsonb)', name => $options{$name}[0], client_id => 'app', secret => $secret,
                options => json($options{$name}[1])), "create_provider: $name is refused");
    }
    ok(!bound('SELECT token_refresh.alter_provider(:name, (:options)::jsonb)', name => 'acme', options => json({ client_secret => $secret, unknown => $other })), 'alter_provider: unknown option');
    ok(!bound('SELECT token_refresh.alter_provider(:name, (:options)::jsonb)', name => 'acme', options => json({ client_secret => [$secret] })), 'alter_provider: a secret that is no text');

    # Ciphertexts where they do not belong.
    query("UPDATE token_refresh.credential SET access_token = (SELECT access_token FROM token_refresh.credential WHERE provider = 'acme' AND subject = 'subject2'), refresh_token = (SELECT refresh_token FROM token_refresh.credential WHERE provider = 'acme' AND subject = 'subject2') WHERE provider = 'acme' AND subject = 'subject3'");
    like(attempt("SELECT token_refresh.get_access_token('acme', 'subject3')"), qr/ERROR/, 'a ciphertext of another row does not open');
    attempt("SELECT token_refresh.refresh_credential('acme', 'subject3')");
    query("DELETE FROM token_refresh.credential WHERE subject = 'subject3'");
    ok(secrets_absent($errors, @secrets, keys_of_ring()), 'no error message holds a secret');
};

subtest 'keys' => sub {
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, 32) == 32 or die "cannot read /dev/urandom: $!";
    my $ring = slurp_file($key_file);
    open(my $file, '>', $key_file) or die "cannot write $key_file: $!";
    print $file 'second ' . encode_base64($key, '') . "\n$ring";
    close($file) or die "cannot write $key_file: $!";
    $node->reload;
    poll_until($node, "SELECT name = 'second' FROM token_refresh.key_ring() WHERE seals", 'a new key');
    query('CALL token_refresh.rotate_keys()');
    is(query("SELECT count(*) FROM token_refresh.key_usage WHERE NOT current"), '0', 'everything is sealed with it');
    bound('SELECT token_refresh.alter_provider(:name, (:options)::jsonb)', name => 'acme', options => json({ client_secret => 'the second fake secret' })) or die 'cannot alter the provider';
    push @secrets, 'the second fake secret';

    # A ring that is no good is complained about.
    append_to_file($key_file, "third not-a-key-$secrets[0]\n");
    $node->reload;
    $node->poll_query_until('postgres', "SELECT pg_conf_load_time() > now() - interval '1 minute'");
    attempt('SELECT * FROM token_refresh.key_ring()');
    $node->restart;
    attempt("SELECT token_refresh.get_access_token('acme', 'subject1')");
    open($file, '>', $key_file) or die "cannot write $key_file: $!";
    print $file 'second ' . encode_base64($key, '') . "\n$ring";
    close($file) or die "cannot write $key_file: $!";
    $node->reload;
    poll_until($node, "SELECT count(*) = 2 FROM token_refresh.key_ring()", 'the ring is well again');
};

push @secrets, keys_of_ring(), map { decode_base64($_) } keys_of_ring();
my %seen;
@secrets = grep { !$seen{$_}++ } @secrets;
cmp_ok(scalar(@secrets), '>', 50, 'number of secrets looked for: ' . scalar(@secrets));

subtest 'where they are not' => sub {
    my $names = query("SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'token_refresh' AND c.relkind IN ('r', 'v', 'p')");
    for my $name (split / /, $names)
    {
        my $rows = query("SELECT * FROM $name");
        ok(secrets_absent($rows, @secrets), $name);
        # What is sealed is printed in hex: a secret among it would be seen.
        ok(secrets_absent(join("\n", map { pack 'H*', $_ } $rows =~ /\\x([0-9a-f]+)/g), @secrets), "$name, bytes") if $rows =~ /\\x[0-9a-f]/;
    }
    ok(secrets_absent(query('SELECT token_refresh.status()'), @secrets), 'status()');
    ok(secrets_absent(query('SELECT a FROM pg_stat_activity a'), @secrets), 'pg_stat_activity');
    my ($dump, $error) = ('', '');
    ok(IPC::Run::run([ $node->installed_command('pg_dump'), $node->connstr('postgres') ], '<', \undef, '>', \$dump, '2>', \$error), 'pg_dump');
    like($dump, qr/COPY token_refresh\.credential/, 'the dump has the credentials');
    ok(secrets_absent($dump, @secrets), 'the dump has no secret');
    ok(secrets_absent($error . $errors, @secrets), 'nor has what clients were told');
};

$node->stop;
my $log = read_log($node);
like($log, qr/DEBUG: /, 'the log was verbose: ' . int(length($log) / 1024 / 1024) . ' MiB');
like($log, qr/STATEMENT: .*store_credential\(\$/, 'it has the statements');
ok(secrets_absent($log, @secrets), 'and no secret');

done_testing();
