# New keys reach the processes of the server at different times: what comes in between costs no
# token, and what a process cannot open it neither takes for something else nor gives up.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use TokenRefreshTest;

my $server   = start_token_server();
my $node     = new_node('main');
my $key_file = $node->basedir . '/token_refresh.keys';

sub query { return $node->safe_psql('postgres', $_[0]); }

sub new_key
{
    my ($name) = @_;
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, 32) == 32 or die "cannot read /dev/urandom: $!";
    return "$name " . encode_base64($key, '') . "\n";
}

# Replaces the key file at once. Nobody is told.
sub write_keys
{
    my ($text) = @_;
    my $mask = umask 077;
    unlink "$key_file.new";
    append_to_file("$key_file.new", $text);
    umask $mask;
    rename "$key_file.new", $key_file or die "cannot rename: $!";
    return;
}

sub events
{
    my ($subject) = @_;
    return query("SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE subject = '$subject' AND event <> 'credential_stored'");
}

# All secrets of the credentials by key.
sub sealed_with { return query(q{SELECT string_agg(key, ' ' ORDER BY key) FROM token_refresh.key_usage WHERE place = 'credential'}); }

sub begin_refresh
{
    my ($provider, @subjects) = @_;
    $server->control($provider, hold => 'after');
    store_credential($node, $provider, $server->expired_grants($provider, subjects => \@subjects));
    $server->wait($provider, held => scalar @subjects);
    return;
}

sub refreshes_again
{
    my ($provider, $subject) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(query("SELECT success, message FROM token_refresh.refresh_credential('$provider', '$subject')"), 't|', "$provider: the next refresh works");
    is($server->stats($provider)->{reuse}, 0, 'no refresh token was presented twice');
    return;
}

# A test point: the refresher comes to seal with that key.
sub seals_with
{
    my ($key, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return poll_until($node, <<"END", $what);
SELECT CASE WHEN (SELECT r.success FROM token_refresh.refresh_credential('acme', 'early') r)
       THEN EXISTS (SELECT FROM token_refresh.key_usage c WHERE c.place = 'credential' AND c.key = '$key') END
END
}

my %key = map { $_ => new_key($_) } qw(first second third fourth fifth);
write_keys($key{first});
$node->restart;
create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
# Without a secret, so that it can be used whatever becomes of the keys.
create_provider($node, 'public', token_endpoint => $server->token_endpoint('public'), token_endpoint_auth_method => 'none');

subtest 'keys are rotated before the refresher has heard of it' => sub {
    begin_refresh('acme', 'early');
    write_keys($key{second} . $key{first});
    query('CALL token_refresh.rotate_keys()');
    is(sealed_with(), 'second', 'what is in flight has a new envelope, under a key that the refresher has not read yet');
    $server->release('acme');
    poll_until($node, q{SELECT refresh_count = 1 AND NOT parked FROM token_refresh.token_status WHERE subject = 'early'}, 'the answer is stored');
    unlike(events('early'), qr/superseded/, 'it is not taken for that of another grant');
    ok($server->is_active('acme', access_token($node, 'acme', 'early')), 'the new access token is given');
    refreshes_again('acme', 'early');
    write_keys($key{second});
    is(query(q{SELECT count(*) FROM token_refresh.key_usage WHERE NOT current}), '0', 'nothing is left to the old key');
};

subtest 'the new key is out of reach when the answers come' => sub {
    $server->fault('public', kind => 'invalid_grant', match => '^dying$');
    begin_refresh('public', 'lost_key', 'dying');
    # Stopped meanwhile, lest it look into the file while the key is there.
    my $refresher = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'});
    kill('STOP', $refresher) or die $!;
    write_keys($key{third} . $key{second});
    query('CALL token_refresh.rotate_keys()');
    write_keys($key{second});
    kill('CONT', $refresher) or die $!;
    $server->release('public');
    poll_until($node, q{SELECT count(*) = 1 FROM token_refresh.parked_result WHERE reason LIKE 'the refresh token in the row does not open%'}, 'the fresh tokens are parked');
    ok($server->is_active('public', access_token($node, 'public', 'lost_key')), 'readers get them');
    is(status_of($node, 'public', 'dying')->{status}, 'token_expired', 'a verdict waits until it can be seen whose it is');
    poll_until($node, 'SELECT attempts >= 2 FROM token_refresh.parked_result', 'storing them is tried again, with growing pauses');
    is(events('lost_key'), 'parked', 'they are not discarded');

    write_keys($key{third} . $key{second});
    poll_until($node, q{SELECT NOT parked FROM token_refresh.token_status WHERE subject = 'lost_key'}, 'with the key they are stored');
    is(events('lost_key'), 'parked parked_result_stored', 'as the audit says');
    poll_until($node, q{SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE subject = 'dying'}, 'and the dead grant is known');
    is(events('dying'), 'needs_reauth', 'one audit event');
    is($server->stats('public')->{per_subject}{dying}{requests}, 1, 'it was presented once');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'nothing is in flight');
    refreshes_again('public', 'lost_key');
    refreshes_again('acme', 'early');
    $server->fault('public');
    query(q{DELETE FROM token_refresh.credential WHERE subject = 'dying'});
};

subtest 'a reload that finds the key file broken' => sub {
    query('CALL token_refresh.rotate_keys()');
    my $offset = -s $node->logfile;
    write_keys('broken');
    $node->reload;
    my $refreshing = 't';
    for (1 .. 200)
    {
        $refreshing = query(q{SELECT success FROM token_refresh.refresh_credential('acme', 'early')}) if $refreshing eq 't';
        last if read_log($node, $offset) =~ /keeps the keys it has: line 1 of the key ring/;
        sleep 0.05;
    }
    like(read_log($node, $offset), qr/keeps the keys it has: line 1 of the key ring/, 'the log says so');
    is($refreshing, 't', 'refreshing goes on');
    write_keys($key{fourth} . $key{third});
    seals_with('fourth', 'the file is read again without another reload');
    write_keys($key{third} . $key{fourth});
};

# Whom no trigger tells, so that the row is due as before.
sub garble
{
    my ($subject) = @_;
    query(<<"END");
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE token_refresh.credential SET refresh_token = set_byte(refresh_token, length(refresh_token) - 1, get_byte(refresh_token, length(refresh_token) - 1) # 1)
    WHERE subject = '$subject';
COMMIT;
END
    return;
}

subtest 'what does not open is not in flight' => sub {
    query('SELECT token_refresh.pause()');
    $server->control('acme', hold => 'after');
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => [qw(good1 garbled good2)]));
    garble('garbled');
    query('SELECT token_refresh.resume()');
    $server->wait('acme', held => 2);
    poll_until($node, q{SELECT status = 'error' FROM token_refresh.token_status WHERE subject = 'garbled'}, 'the status says that one does not open');
    is(query(q{SELECT string_agg(c.subject, ' ' ORDER BY c.subject) FROM token_refresh.in_flight f, unnest(f.schedule_ids) u(id)
            JOIN token_refresh.schedule s ON s.id = u.id JOIN token_refresh.credential c ON c.id::text = s.row_key}),
        'good1 good2', 'the journal tells of those that are being asked for');
    $server->release('acme');
    poll_until($node, q{SELECT count(*) = 2 FROM token_refresh.token_status WHERE subject LIKE 'good_' AND refresh_count = 1}, 'these are stored');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'nothing is in flight');

    is(query(q{SELECT success, failure FROM token_refresh.refresh_credential('acme', 'garbled')}), 'f|client_config', 'asked for alone it does not open either');
    is(query('SELECT count(*) FROM token_refresh.in_flight'), '0', 'and leaves nothing in the journal');
    $node->restart;
    refreshes_again('acme', 'good1');
    is(query(q{SELECT count(*) FROM token_refresh.audit_event WHERE event = 'response_lost'}), '0', 'a restart finds no lost answer');
    query(q{DELETE FROM token_refresh.credential WHERE subject = 'garbled'});
};

subtest 'a key file that is named on the command line' => sub {
    system_or_bail('pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', "-c token_refresh.key_file=$key_file", 'restart');
    $node->_update_pid(1);
    my $session = background_session($node);
    isnt($session->query_safe(q{SELECT token_refresh.get_access_token('acme', 'early')}), '', 'a session that has read the keys');
    is(query(q{SELECT success FROM token_refresh.refresh_credential('acme', 'early')}), 't', 'so has the refresher');
    my $loaded = $session->query_safe('SELECT pg_conf_load_time()');
    write_keys($key{fifth} . $key{third} . $key{fourth});
    $node->reload;
    seals_with('fifth', 'after a reload the refresher seals with the new first key');
    for (1 .. 200) { last if $session->query_safe('SELECT pg_conf_load_time()') ne $loaded; sleep 0.05 }
    is($session->query_safe(q{SELECT string_agg(name, ' ') FROM token_refresh.key_ring() WHERE seals}), 'fifth', 'so does the session');
    $session->quit;
};

$node->stop;
done_testing();
