# What is stored while a refresh is in flight is not overwritten by its answer (P3),
# and what is merely rewritten, sealed anew or planned anew does not lose the answer.
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

# Stores an expired credential and waits until the provider holds its refresh:
# "before", not rotated yet; "after", rotated, the answer is about to be sent.
sub begin_refresh
{
    my ($subject, $when) = @_;
    $server->control('acme', hold => $when // 'after');
    store_credential($node, 'acme', $server->expired_grants('acme', subjects => [$subject]));
    $server->wait('acme', held => 1);
    return;
}

# Lets the provider answer, and waits until the refresher has dealt with it.
sub let_answer
{
    $server->release('acme');
    $server->wait('acme', in_flight => 0);
    $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM token_refresh.in_flight') or die 'the answer is not dealt with';
    return;
}

sub new_grant { my ($subject) = @_; return $server->grants('acme', subjects => [$subject]); }

sub events
{
    my ($subject) = @_;
    return $node->safe_psql('postgres', sprintf(
        "SELECT string_agg(event, ' ' ORDER BY occurred_at) FROM token_refresh.audit_event WHERE subject = %s AND event <> 'credential_stored'",
        literal($subject)));
}

sub refreshes_again
{
    my ($subject) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $reuse = $server->stats('acme')->{reuse};
    is($node->safe_psql('postgres', sprintf("SELECT success, message FROM token_refresh.refresh_credential('acme', %s)", literal($subject))),
        't|', 'the next refresh works');
    ok($server->is_active('acme', access_token($node, 'acme', $subject)), 'and gives a valid token');
    is($server->stats('acme')->{reuse}, $reuse, 'no refresh token was presented twice');
    return;
}

for my $when ('before', 'after')
{
    subtest "stored anew, the refresh is held $when the rotation" => sub {
        my $subject = "anew_$when";
        begin_refresh($subject, $when);
        my ($grant) = new_grant($subject);
        store_credential($node, 'acme', $grant);
        let_answer();
        is(access_token($node, 'acme', $subject) eq $grant->{access_token}, 1, 'the new tokens stay');
        is(events($subject), 'superseded', 'one audit event: superseded');
        my $status = status_of($node, 'acme', $subject);
        is("$status->{status} $status->{refresh_count} $status->{attempts}", 'connected 0 0', 'the status is that of the new tokens');
        refreshes_again($subject);
    };
}

subtest 'a caller waits while somebody else stores new tokens' => sub {
    begin_refresh('waiting');
    my $caller = start_query($node, "SELECT token_refresh.get_access_token('acme', 'waiting')");
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'")
        or die 'the caller does not wait';
    my ($grant) = new_grant('waiting');
    store_credential($node, 'acme', $grant);
    let_answer();
    my ($token, $error) = $caller->finish;
    is($token eq $grant->{access_token}, 1, 'it gets the new token') or diag($error);
    refreshes_again('waiting');
};

subtest 'a failure that belongs to the old tokens' => sub {
    my %fault = (
        'invalid_grant'  => {},
        'invalid_client' => {},
        'status'         => { status => 500 });
    for my $kind (sort keys %fault)
    {
        my $subject = "failed_$kind";
        $server->fault('acme', kind => $kind, %{ $fault{$kind} });
        begin_refresh($subject, 'before');
        store_credential($node, 'acme', new_grant($subject));
        let_answer();
        $server->fault('acme');
        my $status = status_of($node, 'acme', $subject);
        is("$status->{status} $status->{attempts}", 'connected 0', "$kind does not touch the new ones");
        is($status->{last_error}, undef, "$kind: no error");
        is(events($subject), 'superseded', "$kind: one audit event");
        is($node->safe_psql('postgres', "SELECT status, last_error FROM token_refresh.credential WHERE subject = '$subject'"), 'connected|', "$kind: the row");
        refreshes_again($subject);
    }
};

subtest 'a sign-in that is not committed yet when the answer comes' => sub {
    for my $end ('COMMIT', 'ROLLBACK')
    {
        my $subject = "open_\L$end";
        begin_refresh($subject);
        my ($grant) = new_grant($subject);
        my $session = background_session($node);
        $session->query('BEGIN');
        $session->query(sprintf("SELECT token_refresh.store_credential('acme', %s, %s)", literal($subject),
            literal(json({ map { $_ => $grant->{$_} } qw(access_token refresh_token expires_in) }))));
        my $offset = -s $node->logfile;
        $server->release('acme');
        $server->wait('acme', in_flight => 0);
        $node->wait_for_log(qr/could not be stored|parking fresh tokens/, $offset);
        poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', "$end: it is parked, though the schedule is locked as well");
        $session->query($end);
        $session->quit;
        if ($end eq 'COMMIT')
        {
            poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE subject = '$subject' AND event = 'superseded'", "$end: the answer is superseded");
            is(access_token($node, 'acme', $subject) eq $grant->{access_token}, 1, "$end: the new tokens stay");
        }
        else
        {
            poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = '$subject'", "$end: the answer is stored");
        }
        poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', "$end: nothing stays parked");
        refreshes_again($subject);
    }
};

subtest 'deleted' => sub {
    begin_refresh('deleted');
    my $caller = start_query($node, "SELECT status, access_token IS NULL FROM token_refresh.get_token('acme', 'deleted')");
    $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'")
        or die 'the caller does not wait';
    $node->safe_psql('postgres', "DELETE FROM token_refresh.credential WHERE subject = 'deleted'");
    let_answer();
    is(($caller->finish)[0], 'disconnected|t', 'a waiting caller is told');
    is(events('deleted'), 'superseded', 'it is in the audit');
    $node->safe_psql('postgres', 'SELECT token_refresh._wake_refresher()');
    poll_until($node, "SELECT (SELECT count(*) FROM token_refresh.credential WHERE subject = 'deleted'), (SELECT count(*) FROM token_refresh.schedule s WHERE NOT EXISTS (SELECT FROM token_refresh.credential c WHERE c.id = s.row_key::bigint)), (SELECT count(*) FROM token_refresh.parked_result)",
        'and nothing is left', '0|0|0');

    begin_refresh('replaced');
    my ($grant) = new_grant('replaced');
    $node->safe_psql('postgres', "DELETE FROM token_refresh.credential WHERE subject = 'replaced'");
    store_credential($node, 'acme', $grant);
    let_answer();
    is(access_token($node, 'acme', 'replaced') eq $grant->{access_token}, 1, 'deleted and stored again: the new tokens stay');
    refreshes_again('replaced');

    begin_refresh('leaving');
    my $session = background_session($node);
    $session->query('BEGIN');
    $session->query("DELETE FROM token_refresh.credential WHERE subject = 'leaving'");
    $server->release('acme');
    poll_until($node, 'SELECT count(*) = 1 FROM token_refresh.parked_result', 'deleted, but not committed yet when the answer comes: parked');
    $session->query('COMMIT');
    $session->quit;
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.parked_result', 'nothing is left when it is committed');
};

subtest 'another access token, but the same refresh token' => sub {
    begin_refresh('partly');
    my ($grant) = new_grant('partly');
    delete $grant->{refresh_token};
    store_credential($node, 'acme', $grant);
    let_answer();
    # The refresh token that was sent is used up: its successor must not be lost.
    is(events('partly'), 'refreshed', 'the answer is stored');
    refreshes_again('partly');
};

subtest 'a failure while other tokens are stored beside the same refresh token' => sub {
    for my $kind ('invalid_client', 'status')
    {
        my $subject = "beside_$kind";
        $server->fault('acme', kind => $kind, status => $kind eq 'status' ? 500 : undef, match => $subject);
        begin_refresh($subject, 'before');
        store_credential($node, 'acme', { subject => $subject, access_token => "fake-$kind", expires_in => 3600 });
        let_answer();
        $server->fault('acme');
        my $status = status_of($node, 'acme', $subject);
        is(join('|', $status->{status}, $status->{attempts}, $status->{last_error} // ''), 'connected|0|', "$kind does not touch them");
        is($node->safe_psql('postgres', "SELECT status, last_error FROM token_refresh.credential WHERE subject = '$subject'"), 'connected|', "$kind: nor the row");
        is(events($subject), 'superseded', "$kind: one audit event");
        refreshes_again($subject);
    }
};

subtest 'a provider that keeps its refresh tokens' => sub {
    create_provider($node, 'keeping', token_endpoint => $server->token_endpoint('keeping'));
    my %extra = ('leaves it out' => sub { {} }, 'repeats it' => sub { { refresh_token => $_[0]{refresh_token} } });
    for my $answer (sort keys %extra)
    {
        for my $way ('with', 'without')
        {
            (my $subject = "$answer $way") =~ s/ /_/g;
            my ($old) = $server->expired_grants('keeping', subjects => [$subject]);
            $server->control('keeping', policy => 'norotate', hold => 'after', extra => $extra{$answer}->($old));
            store_credential($node, 'keeping', $old);
            $server->wait('keeping', held => 1);
            # Signed in again: the same refresh token, other tokens beside it.
            my %newer = (subject => $subject, access_token => "fake-newer-$subject", refresh_token => $old->{refresh_token}, scope => 'more', expires_in => 7200);
            delete $newer{refresh_token} if $way eq 'without';
            store_credential($node, 'keeping', \%newer);
            my $caller = start_query($node, "SELECT success FROM token_refresh.refresh_credential('keeping', '$subject')");
            $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event_type = 'Extension'")
                or die 'the caller does not wait';
            $server->release('keeping');
            is(($caller->finish)[0], 't', "the provider $answer, stored $way it: a waiting caller is content");
            is(events($subject), 'superseded', 'one audit event: superseded');
            is($node->safe_psql('postgres', "SELECT access_token, scope, expires_at > now() + interval '1 hour 59 minutes' FROM token_refresh.get_token('keeping', '$subject')"),
                "$newer{access_token}|more|t", 'all of the newer row stays');
            my $status = status_of($node, 'keeping', $subject);
            is("$status->{status} $status->{refresh_count} $status->{attempts}", 'connected 0 0', 'so does its status');
            is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM token_refresh.in_flight), (SELECT count(*) FROM token_refresh.parked_result)'), '0|0', 'nothing is left');
            is($node->safe_psql('postgres', "SELECT success FROM token_refresh.refresh_credential('keeping', '$subject')"), 't', 'the next refresh works');
        }
    }

    # One of many: the others are stored by the same batch.
    $server->control('keeping', hold => 'after', extra => {});
    my @many = $server->expired_grants('keeping', prefix => 'many', n => 20);
    store_credential($node, 'keeping', @many);
    $server->wait('keeping', held => 20);
    store_credential($node, 'keeping', { subject => 'many7', access_token => 'fake-newer-many7', expires_in => 7200 });
    my $offset = -s $node->logfile;
    $server->release('keeping');
    $server->wait('keeping', in_flight => 0);
    poll_until($node, "SELECT count(*) = 19 FROM token_refresh.token_status WHERE subject LIKE 'many%' AND refresh_count = 1", 'the others of the batch are stored');
    is(events('many7'), 'superseded', 'one is superseded');
    is(access_token($node, 'keeping', 'many7'), 'fake-newer-many7', 'its newer token stays');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'nothing is in flight');
    unlike(read_log($node, $offset), qr/could not be stored|parking/, 'no complaint in the log');

    # Sealed anew, it is still the one that was claimed.
    my ($grant) = $server->expired_grants('keeping', subjects => ['kept_resealed']);
    $server->control('keeping', hold => 'after');
    store_credential($node, 'keeping', $grant);
    $server->wait('keeping', held => 1);
    my ($access_token, $refresh_token) = map { "'$_'" } @$grant{qw(access_token refresh_token)};
    is($node->safe_psql('postgres', <<"END"), 't', 'another envelope');
BEGIN;
SELECT refresh_token AS before FROM token_refresh.credential WHERE subject = 'kept_resealed' \\gset
\\o /dev/null
SELECT token_refresh._own_writes(true);
\\o
UPDATE token_refresh.credential SET
    access_token = token_refresh._seal('token_refresh.credential', id::text, 'access_token', $access_token),
    refresh_token = token_refresh._seal('token_refresh.credential', id::text, 'refresh_token', $refresh_token)
    WHERE subject = 'kept_resealed' RETURNING refresh_token <> :'before';
COMMIT;
END
    $server->release('keeping');
    $server->wait('keeping', in_flight => 0);
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'kept_resealed'", 'in a new envelope it is stored');
    ok($server->is_active('keeping', access_token($node, 'keeping', 'kept_resealed')), 'as the provider gave it');
};

subtest 'disconnected meanwhile' => sub {
    my $disconnect = sub { return $node->safe_psql('postgres', "UPDATE token_refresh.credential SET status = 'disconnected' WHERE subject = '$_[0]'") };
    my $stays = sub {
        my ($subject, $what) = @_;
        is($node->safe_psql('postgres', "SELECT c.status, s.status, s.due_at IS NULL FROM token_refresh.credential c JOIN token_refresh.schedule s ON s.row_key = c.id::text WHERE c.subject = '$subject'"),
            'disconnected|disconnected|t', "$what: it stays so");
        my $requests = $server->stats('acme')->{requests};
        is($node->safe_psql('postgres', "SELECT success, failure, message FROM token_refresh.refresh_credential('acme', '$subject')"),
            'f|reauth|the credential has been disconnected', "$what: it is not refreshed any more");
        is($server->stats('acme')->{requests}, $requests, "$what: nor presented");
    };
    begin_refresh('leaves_success');
    $disconnect->('leaves_success');
    let_answer();
    is(events('leaves_success'), 'refreshed', 'new tokens are stored: the old ones are used up');
    $stays->('leaves_success', 'success');
    $node->safe_psql('postgres', "UPDATE token_refresh.credential SET status = 'connected' WHERE subject = 'leaves_success'");
    refreshes_again('leaves_success');

    for my $kind ('invalid_grant', 'invalid_client', 'status')
    {
        $server->fault('acme', kind => $kind, status => $kind eq 'status' ? 500 : undef, match => "leaves_$kind");
        begin_refresh("leaves_$kind", 'before');
        $disconnect->("leaves_$kind");
        let_answer();
        is(events("leaves_$kind"), 'superseded', "$kind: one audit event");
        is($node->safe_psql('postgres', "SELECT last_error FROM token_refresh.credential WHERE subject = 'leaves_$kind'"), '', "$kind: the row is as it was");
        $stays->("leaves_$kind", $kind);
        $server->fault('acme');
    }
};

subtest 'the row is written for other reasons' => sub {
    begin_refresh('touched');
    $node->safe_psql('postgres', "UPDATE token_refresh.credential SET scope = 'other', expires_at = expires_at + interval '1 second' WHERE subject = 'touched'");
    let_answer();
    is(events('touched'), 'refreshed', 'the answer is stored');
    refreshes_again('touched');

    begin_refresh('replanned');
    $node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "1 minute"}')});
    let_answer();
    is(events('replanned'), 'refreshed', 'alter_provider: the answer is stored');
    refreshes_again('replanned');

    my $offset = -s $node->logfile;
    $server->fault('acme', kind => 'status', status => 500, count => 1);
    begin_refresh('failing', 'before');
    $node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "3 minutes"}')});
    $server->release('acme');
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'failing'", 'a failure under a plan that has been replaced: tried again');
    is(events('failing'), 'superseded refreshed', 'and in the audit');
    unlike(read_log($node, $offset), qr/could not be stored/, 'no complaint in the log');
};

subtest 'the grant dies while the row is written for other reasons' => sub {
    my %change = (
        alter_provider => q{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "2 minutes"}')},
        'an UPDATE'    => "UPDATE token_refresh.credential SET expires_at = expires_at + interval '1 second' WHERE provider = 'acme' AND status = 'connected'");
    for my $name (sort keys %change)
    {
        (my $subject = "dies $name") =~ s/ /_/g;
        $server->fault('acme', kind => 'invalid_grant', match => $subject);
        begin_refresh($subject, 'before');
        $node->safe_psql('postgres', $change{$name});
        let_answer();
        is(status_of($node, 'acme', $subject)->{status}, 'needs_reauth', "$name: dead it is");
        is(events($subject), 'needs_reauth', "$name: one audit event");
        $node->safe_psql('postgres', "SELECT token_refresh.get_access_token('acme', '$subject'), token_refresh.refresh_credential('acme', '$subject')");
        is($server->stats('acme')->{per_subject}{$subject}{requests}, 1, "$name: it is not presented again");
        $server->fault('acme');
    }
};

subtest 'a new plan is no new token' => sub {
    my $schedule = sub { return $node->safe_psql('postgres', "SELECT $_[1] FROM token_refresh.schedule s JOIN token_refresh.credential c ON s.row_key = c.id::text WHERE c.subject = '$_[0]'") };
    store_credential($node, 'acme', new_grant('planned'));
    $node->safe_psql('postgres', "UPDATE token_refresh.schedule SET lost_response = true WHERE row_key = (SELECT id::text FROM token_refresh.credential WHERE subject = 'planned')");
    my $generation = $schedule->('planned', 'generation');
    my $due_at     = $schedule->('planned', 'due_at');
    $node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('acme', '{"refresh_margin": "4 minutes"}')});
    isnt($schedule->('planned', 'due_at'), $due_at, 'alter_provider plans anew');
    is($schedule->('planned', 'generation, lost_response'), "$generation|t", 'the tokens are the old ones, and an answer may still be lost');
    $node->safe_psql('postgres', "UPDATE token_refresh.credential SET expires_at = expires_at - interval '1 minute' WHERE subject = 'planned'");
    is($schedule->('planned', 'generation, lost_response'), "$generation|t", 'another expiry does not change that');
    store_credential($node, 'acme', { subject => 'planned', access_token => 'fake', expires_in => 3600 });
    is($schedule->('planned', 'generation, lost_response'), ($generation + 1) . '|t', 'another access token is new, but the refresh token is the same');
    store_credential($node, 'acme', new_grant('planned'));
    is($schedule->('planned', 'generation, lost_response'), ($generation + 2) . '|f', 'another refresh token has lost no answer');

};

# A new key at the head of the ring.
sub add_key
{
    my ($name) = @_;
    my $path = $node->basedir . '/token_refresh.keys';
    my $ring = slurp_file($path);
    open(my $random, '<:raw', '/dev/urandom') or die "cannot open /dev/urandom: $!";
    read($random, my $key, 32) == 32 or die "cannot read /dev/urandom: $!";
    open(my $file, '>', $path) or die "cannot write $path: $!";
    print $file "$name " . encode_base64($key, '') . "\n$ring";
    close($file) or die "cannot write $path: $!";
    $node->reload;
    $node->poll_query_until('postgres', "SELECT name = '$name' FROM token_refresh.key_ring() WHERE seals") or die 'the key is not taken';
    return;
}

subtest 'rotate_keys' => sub {
    begin_refresh('resealed');
    add_key('second');
    $node->safe_psql('postgres', 'CALL token_refresh.rotate_keys()');
    is($node->safe_psql('postgres', "SELECT sum(secrets) FROM token_refresh.key_usage WHERE NOT current"), '', 'everything is sealed anew');
    let_answer();
    is(events('resealed'), 'refreshed', 'the answer is stored');
    is($node->safe_psql('postgres', "SELECT sum(secrets) FROM token_refresh.key_usage WHERE NOT current"), '', 'with the new key');
    refreshes_again('resealed');

    $server->fault('acme', kind => 'invalid_grant', match => 'dead');
    begin_refresh('dead', 'before');
    add_key('third');
    $node->safe_psql('postgres', 'CALL token_refresh.rotate_keys()');
    let_answer();
    is(status_of($node, 'acme', 'dead')->{status}, 'needs_reauth', 'a refusal is not lost either');
    is(events('dead'), 'needs_reauth', 'one audit event');
    $server->fault('acme');

    begin_refresh('both');
    add_key('fourth');
    $node->safe_psql('postgres', 'CALL token_refresh.rotate_keys()');
    my ($grant) = new_grant('both');
    store_credential($node, 'acme', $grant);
    let_answer();
    is(events('both'), 'superseded', 'sealed anew and then stored anew: superseded');
    is(access_token($node, 'acme', 'both') eq $grant->{access_token}, 1, 'the new tokens stay');
    refreshes_again('both');
};

$node->stop;
done_testing();
