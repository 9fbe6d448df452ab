# pg_cron of the distribution runs the schedule of examples/onevault, beside the refresher.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use ExampleTest;
use PostgreSQL::Test::Utils;
use Test::More;
use TokenRefreshTest;

my $node = new_node('main', -extension => 0, -start => 0);
plan(skip_all => 'pg_cron is missing for this version of PostgreSQL') unless -e $node->config_data('--sharedir') . '/extension/pg_cron.control';
$node->start;

my $example = ExampleTest->new($node, 'onevault');
$example->step('Try it');
$example->owner_query(q{INSERT INTO auth.api_token_s (api_token_hk, token_hash, user_hk, tenant_hk, load_date, expires_at)
    SELECT sha256(t.token), sha256(t.token), sha256(t.token), '\x7e', now() - interval '80 days', now() + CASE WHEN n <= 5 THEN interval '3 days' ELSE interval '30 days' END
    FROM generate_series(1, 8) AS n, LATERAL (SELECT convert_to('ovt_prod_' || n, 'UTF8')) AS t (token)});
$example->step('Import');
$example->step('Switch over');

# pg_cron wants its database to be there when the server starts.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron,token_refresh'\ncron.database_name = 'onevault'\ncron.use_background_workers = on");
$node->restart;
is($example->step('Schedule'), "1\n", 'the schedule of the README');
is($example->query('SELECT schedule, command, username, database, active FROM cron.job'),
    '0 */6 * * *|SELECT auth.refresh_expiring_tokens_batch()|onevault|onevault|t', 'what pg_cron knows of it');
is($example->query("SELECT string_agg(DISTINCT status, ' ') FROM token_refresh.api_token_status"), 'active', 'nothing has been refreshed yet');

# The same job, now: every second, or at the next start where pg_cron does not count in seconds yet.
my ($major, $minor) = $example->query(q{SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'}) =~ /^(\d+)\.(\d+)/;
my $by_seconds = $major > 1 || $minor >= 5;
$example->query(sprintf("SELECT cron.alter_job(1, schedule => '%s')", $by_seconds ? '1 seconds' : '@reboot'));
$node->restart unless $by_seconds;

$example->await("SELECT count(*) = 5 FROM token_refresh.api_token_status WHERE status = 'ready'", 'the successors of the five that expire soon are there');
$example->await("SELECT count(*) > 0 FROM cron.job_run_details WHERE status = 'succeeded'", 'a run has succeeded');
is($example->query("SELECT DISTINCT command, username, database FROM cron.job_run_details WHERE status <> 'running'"),
    'SELECT auth.refresh_expiring_tokens_batch()|onevault|onevault', 'as the owner of the functions, in the database');
# A run that the restart above may have met is none of ours.
is($example->query("SELECT count(*) FROM cron.job_run_details WHERE status = 'failed' AND return_message <> 'server restarted'"), '0', 'none has failed');
is($example->query("SELECT count(*) FROM token_refresh.api_token"), '13', 'there is one successor each');
is($example->query("SELECT is_valid, was_refreshed, refresh_reason FROM auth.validate_and_refresh_api_token('ovt_prod_1')"),
    't|t|EXPIRING_SOON', 'which is handed over at the next use');
is($example->query("SELECT token_refresh.status() ->> 'running'"), 'true', 'the refresher runs, too');

$node->stop;
done_testing();
