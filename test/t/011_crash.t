# Crashes: what the provider has answered and the server has lost is asked for again
# within the provider's replay window; with nothing in flight nothing is lost in any case.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'restart_after_crash' => 'on', 'wal_writer_delay' => '10s');

sub add_provider
{
    my ($name, %options) = @_;
    create_provider($node, $name, token_endpoint => $server->token_endpoint($name), %options);
    return;
}

sub refresher_pid
{
    return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher'");
}

sub kill_refresher
{
    my $pid = refresher_pid();
    kill('KILL', $pid) or die "cannot kill the refresher: $!";
    $node->poll_query_until('postgres',
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $pid")
        or die 'the refresher did not come back';
    return;
}

# A test point: that a request is under way is on disk soon, without the help of the WAL writer,
# which has a long delay here.
sub notes_reach_disk
{
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $began = time;
    $node->poll_query_until('postgres', 'SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()');
    return cmp_ok(time - $began, '<', 5, 'the note of what was asked reaches the disk');
}

# Test points: all credentials of the provider hold a valid access token that the
# provider itself knows, and none was given up.
sub all_alive
{
    my ($provider, $count, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    poll_until($node, <<"END", "$what: all $count are refreshed");
SELECT count(*) = $count FROM token_refresh.token_status
WHERE provider = '$provider' AND status = 'connected' AND expires_at > now() + interval '30 minutes'
END
    is( $node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.token_status WHERE provider = '$provider' AND status = 'needs_reauth'"),
        '0', "$what: none needs a new sign-in");
    my @tokens = split /\n/, $node->safe_psql('postgres',
        "SELECT token_refresh.get_access_token(provider, subject) FROM token_refresh.credential WHERE provider = '$provider'");
    is(scalar(grep { $server->is_active($provider, $_) } @tokens), $count, "$what: the provider knows all access tokens");
    is($server->stats($provider)->{reuse}, 0, "$what: no refresh token was presented after its replay window");
    return;
}

# Every stored refresh token is the one that the provider expects next.
sub all_refresh_again
{
    my ($provider, $count, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is( $node->safe_psql('postgres', "SELECT tokens_found, tokens_refreshed FROM token_refresh.refresh_expiring_tokens('1 day')"),
        "$count|$count", "$what: all can be refreshed again");
    is($server->stats($provider)->{reuse}, 0, "$what: no refresh token was presented twice");
    return;
}

subtest 'kill -9 in the middle of 200 refreshes' => sub {
    add_provider('busy', max_in_flight => 20, replay_window => '60 seconds');
    $server->control('busy', policy => 'replay', replay_window => 60, latency => 0.05);
    store_credential($node, 'busy', $server->expired_grants('busy', n => 200));
    $server->wait('busy', refreshed => 60);
    kill_refresher();
    my $stats = $server->stats('busy');
    note("$stats->{refreshed} of 200 were refreshed when the server was back");
    all_alive('busy', 200, 'after the crash');
    note($server->stats('busy')->{replayed} . ' answers were lost and asked for again');
};

subtest 'kill -9 with 200 answers on their way' => sub {
    # Nothing is left that a mere reader would prune: that would be WAL, too, for which nobody waits.
    $node->safe_psql('postgres', 'VACUUM');
    add_provider('late', replay_window => '60 seconds');
    $server->control('late', policy => 'replay', replay_window => 60, hold => 'after');
    store_credential($node, 'late', $server->expired_grants('late', n => 200));
    $server->wait('late', refreshed => 200);
    $server->wait('late', held => 200);
    notes_reach_disk();
    kill_refresher();
    $server->release('late');
    all_alive('late', 200, 'after the crash');
    is($server->stats('late')->{replayed}, 200, 'all 200 answers were lost and given again');
    is($node->safe_psql('postgres', "SELECT count(*) FROM token_refresh.audit_event WHERE event = 'response_lost' AND provider = 'late'"),
        '200', 'and each loss is in the audit');
};

subtest 'an answer lost for good is no verdict on the user' => sub {
    add_provider('strict', replay_window => '0');
    $server->control('strict', hold => 'after');
    store_credential($node, 'strict', $server->expired_grants('strict', n => 1));
    $server->wait('strict', held => 1);
    notes_reach_disk();
    kill_refresher();
    $server->release('strict');
    poll_until($node, "SELECT status = 'needs_reauth' FROM token_refresh.token_status WHERE provider = 'strict'",
        'without a replay window the grant is gone');
    like(status_of($node, 'strict', 'subject1')->{last_error}, qr/^lost_response/, 'the failure says that the answer was lost');
    $node->safe_psql('postgres', "DELETE FROM token_refresh.credential");
};

subtest 'a strict provider, nothing in flight' => sub {
    add_provider('calm');
    store_credential($node, 'calm', $server->expired_grants('calm', n => 50));
    poll_until($node, 'SELECT min(refresh_count) = 1 FROM token_refresh.token_status', 'all are refreshed once');

    $node->restart;
    all_refresh_again('calm', 50, 'after a restart');
    kill_refresher();
    all_refresh_again('calm', 50, 'after kill -9 of the refresher');
    $node->stop('immediate');
    $node->start;
    all_refresh_again('calm', 50, 'after an immediate shutdown');
};

subtest 'a note stays in the journal until its answer is settled' => sub {
    add_provider('noted');
    my $begin = sub {
        my ($subject) = @_;
        $server->control('noted', hold => 'after');
        store_credential($node, 'noted', my ($grant) = $server->expired_grants('noted', subjects => [$subject]));
        $server->wait('noted', held => 1);
        return $grant->{refresh_token};
    };

    # Sealed anew meanwhile, so that the first attempt to save does not match.
    $node->safe_psql('postgres', <<'END');
CREATE TABLE finished (refreshed bigint);
CREATE FUNCTION note_finished() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.finished SELECT max(s.refresh_count) FROM token_refresh.schedule s WHERE s.id = ANY (OLD.schedule_ids);
    RETURN OLD;
END $$;
CREATE TRIGGER note_finished BEFORE DELETE ON token_refresh.in_flight FOR EACH ROW EXECUTE FUNCTION note_finished();
END
    my $refresh_token = literal($begin->('resealed'));
    $node->safe_psql('postgres', <<"END");
BEGIN;
SELECT token_refresh._own_writes(true);
UPDATE token_refresh.credential SET refresh_token = token_refresh._seal('token_refresh.credential', id::text, 'refresh_token', $refresh_token)
    WHERE subject = 'resealed';
COMMIT;
END
    $server->release('noted');
    poll_until($node, "SELECT refresh_count = 1 FROM token_refresh.token_status WHERE subject = 'resealed'", 'the answer is stored in the second attempt');
    is($node->safe_psql('postgres', 'SELECT refreshed FROM finished'), '1', 'the note goes with it, not before');
    $node->safe_psql('postgres', 'DROP TRIGGER note_finished ON token_refresh.in_flight; DROP FUNCTION note_finished; DROP TABLE finished');

    # Other tokens were stored meanwhile, and the audit cannot be told yet.
    $node->safe_psql('postgres', <<'END');
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER reject BEFORE INSERT ON token_refresh.audit_event FOR EACH ROW WHEN (NEW.event = 'superseded') EXECUTE FUNCTION reject();
END
    $begin->('replaced');
    store_credential($node, 'noted', $server->grants('noted', subjects => ['replaced']));
    my $offset = -s $node->logfile;
    $server->release('noted');
    $node->wait_for_log(qr/auditing superseded answers failed with SQLSTATE P0001/, $offset);
    is($node->safe_psql('postgres', 'SELECT count(*) FROM token_refresh.in_flight'), '1', 'as long as the audit fails the note stays');
    $node->safe_psql('postgres', 'DROP TRIGGER reject ON token_refresh.audit_event; DROP FUNCTION reject');
    poll_until($node, "SELECT count(*) = 1 FROM token_refresh.audit_event WHERE subject = 'replaced' AND event = 'superseded'", 'then the audit tells');
    poll_until($node, 'SELECT count(*) = 0 FROM token_refresh.in_flight', 'and the note goes');
    $node->safe_psql('postgres', "DELETE FROM token_refresh.credential WHERE provider = 'noted'");
};

subtest 'pg_terminate_backend of the refresher' => sub {
    $server->control('calm', hold => 'after');
    store_credential($node, 'calm', $server->expired_grants('calm', prefix => 'other', n => 50));
    $server->wait('calm', held => 50);
    my $pid = refresher_pid();
    my $offset = -s $node->logfile;
    is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)"), 't', 'it is told to end');
    my $sessions = "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid";
    is($node->safe_psql('postgres', "SELECT pg_sleep(0.3); $sessions") =~ s/^\n//r, '1', 'it stays while answers are on their way');
    $server->release('calm');
    poll_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $pid",
        'its successor comes by itself');
    poll_until($node, "SELECT min(refresh_count) = 1 FROM token_refresh.token_status WHERE subject LIKE 'other%'",
        'the answers are stored');
    unlike(read_log($node, $offset), qr/unanswered/, 'none was left behind');
    all_refresh_again('calm', 100, 'afterwards');
};

subtest 'pg_terminate_backend of the launcher' => sub {
    my $offset = -s $node->logfile;
    my $launcher = "backend_type = 'token_refresh launcher'";
    my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE $launcher");
    my $refresher = refresher_pid();
    $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
    poll_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE $launcher AND pid <> $pid", 'it comes back');
    is(refresher_pid(), $refresher, 'the refresher did not notice');
    $node->safe_psql('postgres', "SELECT pg_terminate_backend($refresher)");
    poll_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'token_refresh refresher' AND pid <> $refresher",
        'the new launcher looks after the old refresher');
};

$node->stop;
done_testing();
