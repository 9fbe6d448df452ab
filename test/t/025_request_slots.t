# More callers than request slots: who is served waits his turn, who finds none gets the token that lives, or an error.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use Test::More;
use TokenRefreshTest;

my $server = start_token_server();
my $node   = new_node('main', 'token_refresh.request_slots' => 16, 'token_refresh.request_timeout' => '60s');
create_provider($node, 'small', token_endpoint => $server->token_endpoint('small'));

# The last of a batch has to wait until the others are answered, but has been looked at before.
$node->safe_psql('postgres', 'SELECT token_refresh.pause()');
$server->control('small', hold => 'before');
store_credential($node, 'small', $server->expired_grants('small', n => 5));
my $batch = start_query($node, 'SELECT details FROM token_refresh.refresh_expiring_tokens()');
$server->wait('small', held => 4);
$node->safe_psql('postgres', q{SELECT token_refresh.alter_provider('small', '{"refresh_margin": "1 minute"}')});
$server->release('small');
is(($batch->finish)[0], '{"small": {"refreshed": 5}}', 'who has looked before the new plan gets a refresh all the same');
is($server->stats('small')->{requests}, 5, 'of each');

# All are taken.
my @grants = $server->grants('small', prefix => 'busy', n => 17);
store_credential($node, 'small', @grants);
$server->control('small', hold => 'before');
my @callers = map { start_query($node, "SELECT success FROM token_refresh.refresh_credential('small', 'busy$_')") } 1 .. 16;
$server->wait('small', held => 16);
my $last = "token_refresh.%s('small', 'busy17'%s)";
$node->safe_psql('postgres', "UPDATE token_refresh.credential SET issued_at = now() - interval '1 hour', expires_at = now() + interval '30 seconds' WHERE subject = 'busy17'");
is($node->safe_psql('postgres', sprintf("SELECT access_token, status, message FROM $last", 'get_token', '')),
    "$grants[16]{access_token}|connected|too many credentials are being waited for; try again later", 'no slot is left: the token that lives is given');
for my $call (sprintf("SELECT $last", 'get_access_token', ", min_validity => '10 minutes'"), sprintf("SELECT success FROM $last", 'refresh_credential', ''))
{
    my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$call");
    like($error, qr/ERROR:  53400: too many credentials are being waited for/, $call);
}
$node->safe_psql('postgres', "UPDATE token_refresh.credential SET expires_at = now() - interval '1 second' WHERE subject = 'busy17'");
my ($status, $output, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n" . sprintf("SELECT $last", 'get_access_token', ''));
like($error, qr/ERROR:  53400: /, 'once it has expired that is an error');
$server->release('small');
is(join(' ', map { ($_->finish)[0] } @callers), join(' ', ('t') x 16), 'those who wait are served');
ok($server->is_active('small', access_token($node, 'small', 'busy17')), 'and then the last');
$node->stop;
done_testing();
