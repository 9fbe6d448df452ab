# Every SQL snippet of the README runs, in the order in which a reader meets it.
use strict;
use warnings;

use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/../support';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', -extension => 0);
my ($grant) = $server->grants('acme', n => 1, prefix => 'alice');

my $readme = slurp_file(dirname(__FILE__) . '/../../README.md');
my @snippets = $readme =~ /^```sql\n(.*?)^```/msg;
cmp_ok(scalar @snippets, '>=', 7, 'the README has its SQL snippets');

my %real = (
    'https://auth.example.com/token' => $server->token_endpoint('acme'),
    'first-access-token'             => $grant->{access_token},
    'first-refresh-token'            => $grant->{refresh_token});

my $number = 0;
for my $snippet (@snippets)
{
    $number++;
    $snippet =~ s/\Q$_\E/$real{$_}/g for keys %real;
    my ($title) = grep { !/^--/ } split /\n/, $snippet;
    my ($status, $output, $errors) = $node->psql('postgres', $snippet, on_error_stop => 1);
    is($status, 0, "snippet $number runs: $title") or diag($errors);
}

is(access_token($node, 'acme', 'alice') eq $grant->{access_token} ? 'old' : 'new',
    'new', 'refresh_credential() of the README has refreshed the token');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT status, ',') FROM token_refresh.token_status"),
    'connected', 'the credential of the README is connected');
like($node->safe_psql('postgres', "SET ROLE app; SET app.subject = 'alice'; SELECT token_refresh.get_access_token('acme', 'alice')"),
    qr/^at_/, 'the role of the README reads the token of its user');
is($node->safe_psql('postgres', "SET ROLE app; SET app.subject = 'bob'; SELECT token_refresh.get_access_token('acme', 'alice') IS NULL"),
    't', 'and of nobody else');

done_testing();
