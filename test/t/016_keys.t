# The key ring: what is wrong with it is said, nothing is stored without it, it is rotated
# online, and a ciphertext opens only where it belongs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
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
        [ 'no file', undef, undef, "could not open the key file: No such file or directory ($make)" ],
        [ 'a file that cannot be opened', $first, 0000,
            "could not open the key file: Permission denied (The server's user must be able to read it, and to search the directories above it.)" ],
        [ 'a file that others can read', $first, 0644, 'the key file can be read or written by others (Set its mode to 0600.)' ],
        [ 'a file that the group can read', $first, 0640, 'the key file can be read or written by others (Set its mode to 0600.)' ],
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
            unlike($error, qr/\Q$key_file\E/, 'nor does it tell where the file is');
        }
    }
    my $offset = -s $node->logfile;
    use_keys(undef);
    error_of("SET client_min_messages = log; $read");
    like(read_log($node, $offset), qr/LOG:  token_refresh: token_refresh\.key_file is "\Q$key_file\E"/, 'the log does');
    my ($status, $output, $error) = $node->psql('postgres', "SET client_min_messages = debug5; $read");
    unlike($error, qr/\Q$key_file\E/, 'but not to the client, whatever it wants to see');
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
    use_settings('token_refresh.key_command' => 'head -c 70000 /dev/zero');
    like(error_of($read), qr/^F0000 token_refresh.key_command prints more than a key ring can be/, 'one that prints without end');
    use_settings('token_refresh.key_file' => $key_file, 'token_refresh.key_command' => 'echo garbage');
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'key_file goes first');
    is($node->safe_psql('postgres', q{CREATE ROLE nobody LOGIN; SET ROLE nobody; SELECT count(*) FROM pg_settings WHERE name LIKE 'token_refresh.key\_%'}),
        '0', 'both settings are hidden from users');
    like(error_of("SET ROLE nobody; SHOW token_refresh.key_$_"), qr/^42501 must be superuser or have privileges of pg_read_all_settings/, "SHOW token_refresh.key_$_ too")
        for qw(file command);
    my ($status, $output, $error) = $node->psql('postgres', "SET token_refresh.key_command = 'id'");
    like($error, qr/cannot be changed now/, 'and cannot be set by a session');
};

subtest 'a key_command that hangs' => sub {
    # The refresher is kept out: what is counted here is what sessions start. The number tells the processes apart.
    my $children = "$$" + 100_000;
    my $count    = sub { my @found = grep { my $line = eval { slurp_file($_) } // ''; $line =~ /\b$children\b/ } glob '/proc/[0-9]*/cmdline'; return scalar @found };
    my $gone     = sub {
        for (1 .. 200) { return ok(1, $_[0]) if $count->() == 0; sleep 0.05 }
        return ok(0, $_[0]);
    };
    use_settings('token_refresh.databases' => 'template1', 'token_refresh.key_file' => '', 'token_refresh.key_command' => "sleep $children & sleep $children");
    poll_until($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'}, 'no refresher');
    $gone->('none of its commands');

    for my $case (
        [ 'pg_cancel_backend', sub { "SELECT pg_cancel_backend($_[0])" } ],
        [ 'pg_terminate_backend', sub { "SELECT pg_terminate_backend($_[0])" } ])
    {
        my ($what, $sql) = @$case;
        my $reader = start_query($node, $read, name => $what);
        $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$what' AND state = 'active'");
        for (1 .. 200) { last if $count->() >= 2; sleep 0.05 }
        my $began = time;
        $node->safe_psql('postgres', $sql->($node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = '$what'")));
        like(($reader->finish)[1], qr/canceling statement due to user request|terminating connection|key_command was interrupted/, "$what is obeyed");
        cmp_ok(time - $began, '<', 3, 'at once');
        $gone->('the command and what it started are gone');
    }

    my $began = time;
    is(error_of("SET statement_timeout = 300; $store") =~ s/^57014 canceling statement due to statement timeout .*|^55000 waiting for token_refresh.key_command was interrupted .*/ok/r, 'ok', 'statement_timeout is obeyed');
    cmp_ok(time - $began, '<', 3, 'at once');

    $began = time;
    my ($status, $output, $error) = $node->psql('postgres', "$read;\n$read;", on_error_stop => 0);
    my $seconds = time - $began;
    is(scalar(() = $error =~ /ERROR:  token_refresh.key_command took longer than 10 s/g), 2, 'after 10 s there is an error') or diag($error);
    cmp_ok($seconds, '>', 9.5, 'not earlier');
    cmp_ok($seconds, '<', 15, 'and it does not wait again for the next statement');
    $gone->('the command and what it started are gone');

    use_settings('token_refresh.key_command' => "cat $key_file; exec >&-; sleep $children");
    $began = time;
    like(error_of("SET statement_timeout = 300; $read"), qr/^57014|^55000/, 'one that has printed its keys but does not end');
    $gone->('it is ended');

    use_settings('token_refresh.databases' => '', 'token_refresh.key_file' => $key_file, 'token_refresh.key_command' => '');
    poll_until($node, q{SELECT token_refresh.status() ->> 'running'}, 'the refresher is back', 'true');
    is($node->safe_psql('postgres', $read), $grants[0]{access_token}, 'and so are the keys');
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

subtest 'what is parked while keys rotate' => sub {
    my $place = q{'token_refresh.parked_result', '0', 'access_token', 'fake'};
    $node->safe_psql('postgres', "CREATE TABLE old_envelope AS SELECT token_refresh._seal($place) AS parked, token_refresh._seal('token_refresh.parked_result', '0', 'replaces_refresh_token', 'fake') AS replaced");
    my $fourth = 'fourth ' . new_key() . "\n";
    use_keys($fourth . $second);
    my $locker = background_session($node);
    $locker->query_safe(q{BEGIN; SELECT FROM token_refresh.credential WHERE subject = 'subject3' FOR UPDATE});
    my $rotation = start_query($node, 'CALL token_refresh.rotate_keys(batch_size => 1)', name => 'rotation');
    $node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'rotation' AND wait_event_type = 'Lock'});
    $node->safe_psql('postgres', q{INSERT INTO token_refresh.parked_result (schedule_id, token_table, row_key, replaces_refresh_token, access_token, token_type, issued_at, reason, retry_at)
        SELECT 0, 1, '0', replaced, parked, 'Bearer', now(), 'a test', 'infinity' FROM old_envelope});
    $locker->query_safe('COMMIT');
    $locker->quit;
    is(($rotation->finish)[1], '', 'rotate_keys says nothing');
    is(key_usage(), 'credential fourth* 6, parked_result fourth* 2, provider fourth* 1', 'as nothing is left to the old key');
    $node->safe_psql('postgres', 'DELETE FROM token_refresh.parked_result; DROP TABLE old_envelope');
    use_keys($second = $fourth);
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
    my $before = $node->safe_psql('postgres', 'SELECT md5(string_agg(c::text, $$,$$ ORDER BY id)), (array_agg(xmin ORDER BY id))[1] FROM token_refresh.credential c');
    store_credential($node, 'acme', { %{ $grants[0] }, subject => 'newer' });
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\nCALL token_refresh.rotate_keys(batch_size => 2)");
    is($status, 0, 'rotate_keys does what it can');
    like($error, qr/WARNING:  01000: 7 secrets could not be opened and were left as they are\nDETAIL:  credential: 6 under missing key $id, provider: 1 under missing key $id\nHINT:  Put a missing key back/, 'and says what it cannot');
    is($node->safe_psql('postgres', q{SELECT message FROM token_refresh.audit_event WHERE event = 'keys_rotated' ORDER BY occurred_at DESC LIMIT 1}),
        "0 rows resealed; 7 secrets could not be opened (credential: 6 under missing key $id, provider: 1 under missing key $id)", 'the audit too');
    is($node->safe_psql('postgres', q{SELECT md5(string_agg(c::text, $$,$$ ORDER BY id)), (array_agg(xmin ORDER BY id))[1] FROM token_refresh.credential c WHERE subject <> 'newer'}),
        $before, 'nothing was written to their rows');
    $node->safe_psql('postgres', q{DELETE FROM token_refresh.credential WHERE subject = 'newer'});
    is($node->safe_psql('postgres', q{SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'subject1')}),
        'f|client_config|the stored refresh token does not open with the keys at hand', 'refreshing fails');
    is($node->safe_psql('postgres', q{SELECT tokens_found, tokens_refreshed, tokens_failed FROM token_refresh.refresh_expiring_tokens('1 day')}),
        '3|0|3', 'refresh_expiring_tokens counts failures');
    is($server->stats('acme')->{requests}, $requests, 'nothing is presented');
    is($node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.in_flight'), '0', 'nothing is in flight');
    isnt(status_of($node, 'acme', 'subject1')->{status}, 'needs_reauth', 'the grant is not given up');

    use_keys($second);
    is($node->safe_psql('postgres', q{SELECT success FROM token_refresh.refresh_credential('acme', 'subject1')}), 't', 'with the key again it is refreshed');
    is(status_of($node, 'acme', 'subject1')->{status}, 'connected', 'and connected');
};

subtest 'a start without a usable key ring' => sub {
    my $offset = -s $node->logfile;
    use_keys(undef);
    $node->restart;
    $node->wait_for_log(qr/provider "acme" cannot be used: could not open the key file/, $offset);
    pass('the log says that the provider cannot be used');
    is($node->safe_psql('postgres', q{SELECT success, failure FROM token_refresh.refresh_credential('acme', 'subject1')}), 'f|client_config', 'a refresh fails');
    is($node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.in_flight'), '0', 'nothing is in flight');
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
