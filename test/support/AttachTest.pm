# Helpers for the TAP tests of attached tables, on top of TokenRefreshTest. The tables belong to the role "app", who is no
# superuser.
#
#   my ($node, $server) = attach_node('main');
#   app($node, token_table('tokens'));                    # SQL as the owner
#   sign_in($node, $server, 'tokens', 'alice');           # a row whose token is due
#   attach($node, 'tokens', status_column => 'status');
#   refreshed($node, 'tokens', 'alice', 'what it shows'); # a test point
package AttachTest;

use strict;
use warnings;

use Exporter 'import';
use Test::More;
use TokenRefreshTest;

our @EXPORT = qw(attach_node add_owner app app_fails super token_table sign_in attach attach_options refreshed table_status events_of);

# A cluster with the provider "acme", and the owner.
sub attach_node
{
    my ($name, %conf) = @_;
    my $server = start_token_server();
    my $node   = new_node($name, %conf);
    create_provider($node, 'acme', token_endpoint => $server->token_endpoint('acme'));
    add_owner($node, 'app');
    return ($node, $server);
}

sub add_owner
{
    my ($node, $role) = @_;
    super($node, <<"END");
CREATE ROLE $role LOGIN;
GRANT CREATE ON SCHEMA public TO $role;
GRANT CREATE ON DATABASE postgres TO $role;
GRANT USAGE ON SCHEMA token_refresh TO $role;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table, token_refresh.detach_table, token_refresh.get_access_token_from,
    token_refresh.refresh_row TO $role;
END
    return;
}

# SQL as a superuser, and as the owner.
sub super { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql); }

sub app
{
    my ($node, $sql, $role) = @_;
    return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $role // 'app' ]);
}

# What an SQL of the owner is refused with.
sub app_fails
{
    my ($node, $sql, $role) = @_;
    my ($status, $output, $errors) = $node->psql('postgres', $sql, extra_params => [ '-U', $role // 'app' ]);
    return $status == 0 ? "no error, but: $output" : $errors;
}

# CREATE TABLE, with a column "name" that sign_in() fills. $columns: what comes in addition.
sub token_table
{
    my ($name, $columns) = @_;
    return "CREATE TABLE $name (" . ($columns // 'id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY')
        . ", name text NOT NULL, access_token text, refresh_token text, expires_at timestamptz, status text, last_error text);";
}

# Inserts a row for each subject. %more: of column => SQL expression; "expires_at" is by default long ago. Returns the grants.
sub sign_in
{
    my ($node, $server, $table, $subjects, %more) = @_;
    my $realm = delete $more{-realm} // 'acme';
    my $role  = delete $more{-role}  // 'app';
    %more = (expires_at => "'2020-01-01'", %more);
    my @grants = $server->grants($realm, subjects => ref $subjects ? $subjects : [$subjects]);
    my $columns = join(', ', 'name', 'access_token', 'refresh_token', sort keys %more);
    app($node, "INSERT INTO $table ($columns) VALUES " . join(', ', map {
        '(' . join(', ', literal($_->{subject}), literal($_->{access_token}), literal($_->{refresh_token}), map { $more{$_} } sort keys %more) . ')' } @grants), $role);
    return @grants;
}

sub attach_options
{
    my (%options) = @_;
    %options = (provider => 'acme', subject_column => 'name', access_token_column => 'access_token', refresh_token_column => 'refresh_token',
        expires_at_column => 'expires_at', cipher => 'plain', %options);
    delete @options{ grep { !defined $options{$_} } keys %options };
    return literal(json(\%options));
}

# Returns the id. Option -role: the owner; an option that is undef is left out.
sub attach
{
    my ($node, $table, %options) = @_;
    my $role = delete $options{-role};
    return app($node, sprintf('SELECT token_refresh.attach_table(%s, %s)', literal($table), attach_options(%options)), $role);
}

# A test point: the row gets a living token of the provider. $name: by which column "name" of the row is found.
sub refreshed
{
    my ($node, $server, $table, $name, $what) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $row = "FROM $table WHERE name = " . literal($name);
    poll_until($node, "SELECT expires_at > now() + interval '30 minutes' $row", $what) or return 0;
    my $token = super($node, "SELECT access_token $row");
    return ok($server->is_active('acme', $token), "$what: with a token that the provider knows");
}

# What token_status says of a subject, as one line.
sub table_status
{
    my ($node, $subject, $columns) = @_;
    return super($node, 'SELECT ' . ($columns // 'status, parked, last_error') . ' FROM token_refresh.token_status WHERE subject = ' . literal($subject));
}

sub events_of
{
    my ($node, $subject) = @_;
    return super($node, "SELECT coalesce(string_agg(event, ' ' ORDER BY occurred_at), '') FROM token_refresh.audit_event WHERE subject = " . literal($subject));
}

1;
