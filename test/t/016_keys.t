# The key ring: what is wrong with it is said, nothing is stored without it, it is rotated
# online, and a ciphertext opens only where it belongs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server   = start_token_server();
my $node     = new_node('main');
my $key_file = $node->basedir . '/token_refresh.keys';

sub new_key
{
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, $_[0] // 32);
    return encode_base64($key, '');
}

# Puts another text into the key file and lets the server read it.
sub use_keys
{
    my ($text, $mode) = @_;
    unlink $key_file;
    if (defined $text)
    {
        my $mask = umask 077;
        append_to_file($key_file, $text);
        umask $mask;
        chmod $mode, $key_file if defined $mode;
    }
    $node->reload;
    return;
}

sub use_settings
{
    my (%settings) = @_;
    $node->append_conf('postgresql.conf', "$_ = " . literal($settings{$_})) for sort keys %settings;
    $node->reload;
    my $tests = join ' AND ', map { "current_setting('$_') = " . literal($settings{$_}) } keys %settings;
    $node->poll_query_until('postgres', "SELECT $tests") or die 'no reload';
    return;
}

# SQLSTATE, message and hint of the error that the SQL raises.
sub error_of
{
    my ($sql) = @_;
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
    my ($state, $message) = $error =~ /ERROR:  (\w+): (.*)/ or return "no error, but $output";
    my ($hint) = $error =~ /HINT:  (.*)/;
    return "$state $message (" . ($hint // 'no hint') . ')';
}

sub key_usage
{
    return $node->safe_psql('postgres',
        q{SELECT string_agg(place || ' ' || key || CASE WHEN current THEN '*' ELSE '' END || ' ' || secrets, ', ' ORDER BY place, key) FROM token_refresh.key_usage});
}

my $first = 'first ' . new_key() . "\n";
use_keys($first);
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
my @grants = $server->grants('acme', n => 3);
store_credential($node, 'acme', @grants);
is(key_usage(), 'credential first* 6, provider first* 1', 'key_usage');

my $read  = q{SELECT token_refresh.get_access_token('acme', 'subject1')};
my $store = q{SELECT token_refresh.store_credential('acme', 'new', '{"access_token": "fake-access-token"}')};

subtest 'a key ring that cannot be used' => sub {
    my $make = 'Make one with: (umask 077; echo "main $(openssl rand -base64 32)" > FILE), owned by the server\'s user, '
        . 'and set token_refresh.key_file to its absolute path.';
    my $line = 'A line is a name, a space and 32 random bytes in base64, as `openssl rand -base64 32` prints them.';
    my ($good) = $first =~ /^first (.*)\n/;
    my @cases = (
        [ 'no file', undef, undef, qq{could not open key file "$key_file": No such file or directory ($make)} ],
        [ 'a file that others can read', $first, 0644, qq{key file "$key_file" can be read or written by others (Set its mode to 0600.)} ],
        [ 'a file that the group can read', $first, 0640, qq{key file "$key_file" can be read or written by others (Set its mode to 0600.)} ],
        [ 'an empty file', '', undef, 'the key ring holds no key (Make one with: echo "main $(openssl rand -base64 32)")' ],
        [ 'a short key', 'short ' . new_key(16) . "\n", undef, "line 1 of the key ring: expected 32 bytes in base64, got 16 ($line)" ],
        [ 'a long key', "# comment\n\nlong " . new_key(64) . "\n", undef, "line 3 of the key ring: expected 32 bytes in base64, got 64 ($line)" ],
        [ 'a key without a name', "$good\n", undef, "line 1 of the key ring: expected a name and a key, got 1 word ($line)" ],
        [ 'name and key exchanged', "$good first\n", undef,
            qr/^F0000 line 1 of the key ring: the (name is not 1 to 63 of the characters A-Z a-z 0-9 _ \. -|key is not valid base64 \(the padding belongs to it\)) \(\Q$line\E\)$/ ],
        [ 'garbage', "first {\"key\": 1}\n", undef, "line 1 of the key ring: expected a name and a key, got 3 words ($line)" ],
        [ 'garbage instead of base64', "first garbage!\n", undef, "line 1 of the key ring: the key is not valid base64 (the padding belongs to it) ($line)" ],
        [ 'the same name twice', $first . 'first ' . new_key() . "\n", undef, "line 2 of the key ring: an earlier line has the same name ($line)" ],
        [ 'the same key twice', $first . "second $good\n", undef, "line 2 of the key ring: an earlier line has the same key ($line)" ]);
    for my $case (@cases)
    {
        my ($what, $text, $mode, $expected) = @$case;
        use_keys($text, $mode);
        for my $sql ($read, $store)
        {
            my $error = error_of($sql);
            ref $expected ? like($error, $expected, $what) : is($error, "F0000 $expected", $what);
            ok(secrets_absent($error, $good, $grants[0]{access_token}), 'the message holds no secret');
        }
    }
    use_settings('token_refresh.key_file' => '');
    is(error_of($read), "F0000 no key: token_refresh.key_file is not set ($make)", 'token_refresh.key_file not set');
    use_settings('token_refresh.key_file' => $node->data_dir);
    like(error_of($read), qr/is not a regular file/, 'a directory');
    use_settings('token_refresh.key_file' => $key_file);
    use_keys($first);
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'with the good file again the token is read');
    is($node->safe_psql('postgres', q{SELECT count(*) FROM token_refresh.credential WHERE subject = 'new'}), '0', 'nothing was stored without a key');
    is(status_of($node, 'acme', 'subject1')->{status}, 'connected', 'and nothing was lost');
};

subtest 'key_command' => sub {
    use_settings('token_refresh.key_file' => '', 'token_refresh.key_command' => "cat $key_file");
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'its output is the key ring');
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject3')}), 't', 'for the refresher too');
    use_settings('token_refresh.key_command' => "cat $key_file; exit 1");
    is(error_of($read), "F0000 token_refresh.key_command failed (Run it as the server's user; it must print the key ring.)", 'one that fails');
    use_settings('token_refresh.key_command' => 'true');
    like(error_of($read), qr/^F0000 the key ring holds no key/, 'one that prints nothing');
    use_settings('token_refresh.key_file' => $key_file, 'token_refresh.key_command' => 'echo garbage');
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'key_file goes first');
    is($node->safe_psql('postgres', q{CREATE ROLE nobody LOGIN; SET ROLE nobody; SELECT count(*) FROM pg_settings WHERE name LIKE 'token_refresh.key\_%'}),
        '0', 'both settings are hidden from users');
    my ($status, $output, $error) = $node->psql('postgres', "SET token_refresh.key_command = 'id'");
    like($error, qr/cannot be changed now/, 'and cannot be set by a session');
};

my $second = 'second ' . new_key() . "\n";

subtest 'rotation' => sub {
    use_keys($second . $first);
    is(key_usage(), 'credential first 6, provider first 1', 'a new first key guards nothing yet');
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'what the old one sealed opens');
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject2')}), 't', 'a refresh');
    is(key_usage(), 'credential first 4, credential second* 2, provider first 1', 'seals with the new key');

    my $generations = 'SELECT string_agg(generation::text, \' \' ORDER BY id) FROM token_refresh.schedule';
    my $before = $node->safe_psql('postgres', $generations);
    $node->safe_psql('postgres', 'CALL token_refresh.rotate_keys(batch_size => 2)');
    is(key_usage(), 'credential second* 6, provider second* 1', 'rotate_keys seals the rest anew');
    is($node->safe_psql('postgres', $generations), $before, 'which the schedule does not take for new tokens');
    $node->safe_psql('postgres', 'CALL token_refresh.rotate_keys()');
    is($node->safe_psql('postgres', q{SELECT string_agg(message, ', ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE event = 'keys_rotated'}),
        '3 rows resealed, 0 rows resealed', 'the audit says what it did');

    use_keys($second);
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'without the old key all opens: an access token');
    is($node->safe_psql('postgres', "SELECT success FROM token_refresh.refresh_credential('acme', '$_')"), 't', "the refresh token of $_ and the client secret")
        for qw(subject1 subject2 subject3);
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'rotation while requests are in flight' => sub {
    my $third = 'third ' . new_key() . "\n";
    $server->control('acme', hold => 'after');
    my $caller = start_query($node, q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')});
    $server->wait('acme', held => 1);
    use_keys($third . $second);
    $node->safe_psql('postgres', 'CALL token_refresh.rotate_keys()');
    is(key_usage(), 'credential third* 6, provider third* 1', 'everything is sealed anew');
    $server->release('acme');
    is(($caller->finish)[0], 't', 'the answer is stored, as the refresh token is the same in a new envelope');
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')}), 't', 'and the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
    use_keys($second = $third);
};

subtest 'a key ring that breaks while a request is in flight' => sub {
    $server->control('acme', hold => 'after');
    my $caller = start_query($node, q{SET token_refresh.request_timeout = '60s'; SELECT success FROM token_refresh.refresh_credential('acme', 'subject2')});
    $server->wait('acme', held => 1);
    my $offset = -s $node->logfile;
    use_keys('broken');
    $server->release('acme');
    $caller->finish;
    $node->wait_for_log(qr/keeps the keys it has: line 1 of the key ring/, $offset);
    poll_until($node, q{SELECT refresh_count = 3 FROM token_refresh.token_status WHERE subject = 'subject2'},
        'the refresher keeps the keys it has and stores the answer');
    use_keys($second);
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject2')}), 't', 'and the next refresh works');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

subtest 'a key that is missing' => sub {
    my ($id) = split /\n/, $node->safe_psql('postgres', q{SELECT encode(key_id, 'hex') FROM token_refresh.key_ring()});
    my $requests = $server->stats('acme')->{requests};
    use_keys('other ' . new_key() . "\n");
    like(error_of($read), qr/^F0000 .*\b\Q$id\E/, 'reading says which key is missing');
    note(error_of($read));
    like(key_usage(), qr/credential missing key $id 6/, 'key_usage too');
    like(error_of('CALL token_refresh.rotate_keys()'), qr/^F0000 .*\b\Q$id\E/, 'rotate_keys changes nothing');
    like(error_of(q{SELECT * FROM token_refresh.refresh_credential('acme', 'subject1')}), qr/^F0000 .*\b\Q$id\E/, 'refreshing fails with the same error');
    is($node->safe_psql('postgres', q{SELECT tokens_found, tokens_refreshed, tokens_failed FROM token_refresh.refresh_expiring_tokens('1 day')}),
        '3|0|3', 'refresh_expiring_tokens counts failures');
    is($server->stats('acme')->{requests}, $requests, 'nothing is presented');
    isnt(status_of($node, 'acme', 'subject1')->{status}, 'needs_reauth', 'the grant is not given up');

    use_keys($second);
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')}), 't', 'with the key again it is refreshed');
    is(status_of($node, 'acme', 'subject1')->{status}, 'connected', 'and connected');
};

subtest 'a start without a usable key ring' => sub {
    my $offset = -s $node->logfile;
    use_keys(undef);
    $node->restart;
    $node->wait_for_log(qr/provider "acme" cannot be used: could not open key file/, $offset);
    pass('the log says that the provider cannot be used');
    like(error_of(q{SELECT * FROM token_refresh.refresh_credential('acme', 'subject1')}), qr/^F0000 /, 'a refresh fails');
    use_keys($second);
    is($node->safe_psql('postgres', q{SELECT success, message FROM token_refresh.refresh_credential('acme', 'subject1')}), 't|',
        'with the key file at its place and a reload it succeeds');
};

subtest 'a ciphertext opens only where it belongs' => sub {
    my $requests = $server->stats('acme')->{requests};
    # The triggers would replan the rows; the ciphertexts alone are at issue here.
    my $swap = 'BEGIN; SET LOCAL session_replication_role = replica; UPDATE token_refresh.credential c SET %s FROM token_refresh.credential o '
        . "WHERE c.subject = 'subject1' AND o.subject = 'subject2'; COMMIT";
    my $backup = 'CREATE TABLE backup AS SELECT * FROM token_refresh.credential';
    my $restore = 'BEGIN; SET LOCAL session_replication_role = replica; UPDATE token_refresh.credential c SET access_token = b.access_token, refresh_token = b.refresh_token FROM backup b WHERE b.id = c.id; COMMIT';
    $node->safe_psql('postgres', $backup);

    $node->safe_psql('postgres', sprintf($swap, 'access_token = o.access_token'));
    my $error = error_of($read);
    note($error);
    like($error, qr/^XX001 /, 'an access token copied from another row');
    $node->safe_psql('postgres', $restore);

    $node->safe_psql('postgres', sprintf($swap, 'access_token = c.refresh_token'));
    like(error_of($read), qr/^XX001 /, 'a refresh token copied into access_token');
    like(error_of('CALL token_refresh.rotate_keys()'), qr/^no error/, 'rotate_keys with nothing to do does not look');
    $node->safe_psql('postgres', $restore);

    $node->safe_psql('postgres', sprintf($swap, 'refresh_token = o.refresh_token'));
    like($node->safe_psql('postgres', q{SELECT success, failure FROM token_refresh.refresh_credential('acme', 'subject1')}),
        qr/^f\|client_config/, 'a refresh token copied from another row');
    $node->safe_psql('postgres', $restore);

    $node->safe_psql('postgres', sprintf($swap, q{access_token = set_byte(c.access_token, length(c.access_token) - 1, get_byte(c.access_token, length(c.access_token) - 1) # 1)}));
    like(error_of($read), qr/^XX001 /, 'a changed bit');
    $node->safe_psql('postgres', sprintf($swap, q{access_token = ''}));
    like(error_of($read), qr/^XX001 /, 'an empty one');
    $node->safe_psql('postgres', sprintf($swap, q{access_token = 'plain text'}));
    like(error_of($read), qr/^XX001 /, 'a plain text');
    $node->safe_psql('postgres', $restore);

    is($server->stats('acme')->{requests}, $requests, 'nothing was presented');
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')}), 't', 'at its place it opens');
    is($server->stats('acme')->{reuse}, 0, 'no refresh token was presented twice');
};

$node->stop;
done_testing();
