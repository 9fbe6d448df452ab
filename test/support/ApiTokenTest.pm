# Helpers for the TAP tests of API tokens, on top of TokenRefreshTest. All are about the tokens of one cluster, in
# its database postgres; use_node says which.
#
#   use_node(new_node('main'));
#   my ($token, $id) = due_token('alice');
#   my ($is_valid, $reason, $new_token) = refresh($token);
package ApiTokenTest;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

our @EXPORT = qw(use_node query due_token refresh is_valid family_size events start_herd finish_herd run_herd);

my $node;

sub use_node { ($node) = @_; return; }

# Tables of the test come first in the search_path, so that they are made there.
sub query { my ($sql) = @_; return $node->safe_psql('postgres', "SET search_path = public, token_refresh;\n$sql"); }

# A token that is due: it has a day left of ninety.
sub due_token
{
    my ($owner) = @_;
    my ($token, $id) = split /\|/, query("SELECT token, token_id FROM issue_api_token('$owner', '{api:read}')");
    query("UPDATE api_token SET expires_at = now() + '1 day' WHERE id = $id");
    return ($token, $id);
}

sub refresh { my ($token) = @_; return split /\|/, query("SELECT is_valid, refresh_reason, new_token FROM validate_and_refresh_api_token('$token')"), -1; }

sub is_valid { my ($token) = @_; return query("SELECT is_valid FROM validate_api_token('$token')"); }

sub family_size { my ($id) = @_; return query("SELECT count(*) FROM api_token WHERE family = $id"); }

sub events { my ($id, $event) = @_; return query("SELECT count(*) FROM audit_event a JOIN api_token t ON a.row_key = t.id::text WHERE t.family = $id AND a.event = 'api_token_$event'"); }

# So many sessions that do the same at the same time; each is a pgbench client.
sub start_herd
{
    my ($clients, $script, %option) = @_;
    my $file = PostgreSQL::Test::Utils::tempdir() . '/herd.sql';
    append_to_file($file, "$script\n");
    my ($output, $error) = ('', '');
    local $ENV{PGOPTIONS} = '-c search_path=public,token_refresh ' . ($option{options} // '');
    local $ENV{PGAPPNAME} = 'herd';
    my $run = IPC::Run::start([ $node->installed_command('pgbench'), '-n', '-M', 'prepared', '-c', $clients, '-j', 2, '-t', $option{times} // 1, '-f', $file, $node->connstr('postgres') ],
        '<', \undef, '>', \$output, '2>', \$error, IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
    return { run => $run, error => \$error };
}

sub finish_herd { my ($herd) = @_; my $ok = $herd->{run}->finish; diag(${ $herd->{error} }) unless $ok; return $ok; }

# The same, held back at the line GATE; until all are there.
sub run_herd
{
    my ($clients, $script, %option) = @_;
    my $gate = background_session($node);
    $gate->query_safe('SELECT pg_advisory_lock(1)');
    $script =~ s/^GATE;$/SELECT pg_advisory_lock_shared(1);/m or die 'no gate';
    my $herd = start_herd($clients, $script, %option);
    $node->poll_query_until('postgres', "SELECT count(*) = $clients FROM pg_stat_activity WHERE application_name = 'herd' AND wait_event = 'advisory'") or die 'the herd does not gather';
    $gate->query_safe('SELECT pg_advisory_unlock(1)');
    my $ok = finish_herd($herd);
    $gate->quit;
    return $ok;
}

1;
