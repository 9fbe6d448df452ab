# A large table is attached while the application writes to it: which locks that takes, and what the writers notice.
# Times are shown, not judged. TOKEN_REFRESH_BACKFILL_ROWS=100000 makes it a measurement.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../support";
use AttachTest;
use Test::More;
use Time::HiRes qw(time);
use TokenRefreshTest;

my $rows = $ENV{TOKEN_REFRESH_BACKFILL_ROWS} // 10_000;
my ($node, $server) = attach_node('main', 'token_refresh.sweep_interval' => '10min');

app($node, token_table('large'));
app($node, "INSERT INTO large (name, access_token, refresh_token, expires_at) SELECT 'user' || i, 'fake-access', 'fake-refresh', now() + interval '1 day' FROM generate_series(1, $rows) i");
super($node, 'VACUUM ANALYZE large');

# One write a transaction, for as long as there is no row in "stop". How long each took goes to "latencies".
app($node, <<"END" =~ s/ROWS/$rows - 1/er);
CREATE TABLE stop (at timestamptz);
CREATE TABLE latencies (at timestamptz, took interval);
CREATE PROCEDURE write_on(seed integer) LANGUAGE plpgsql AS \$\$
DECLARE
    began timestamptz;
BEGIN
    WHILE NOT EXISTS (SELECT FROM public.stop) LOOP
        began := clock_timestamp();
        UPDATE public.large SET expires_at = now() + interval '1 day' WHERE id = 1 + (random() * (ROWS))::integer;
        COMMIT;
        INSERT INTO public.latencies VALUES (began, clock_timestamp() - began);
        COMMIT;
        PERFORM pg_sleep(0.002);
    END LOOP;
END \$\$;
END
my @writers = map { start_query($node, "CALL write_on($_)", timeout => 120) } 1 .. 2;
poll_until($node, 'SELECT count(*) > 500 FROM latencies', 'writers are at work');

my $session = background_session($node);
my $options = attach_options();
$session->query('BEGIN');
my $began = time;
my $started = super($node, 'SELECT clock_timestamp()');
$session->query("SELECT token_refresh.attach_table('large', $options)");
my $attached = time - $began;
my $locks = super($node, "SELECT string_agg(DISTINCT mode, ' ' ORDER BY mode) FROM pg_locks WHERE relation = 'large'::regclass AND granted AND pid <> pg_backend_pid() AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL write_on%')");
is($locks, 'AccessShareLock ShareRowExclusiveLock', 'attaching locks out writers until COMMIT, but never readers');
$session->query('COMMIT');
my $committed = time - $began;
$session->quit;

$began = time;
my @backfill_locks;
until (super($node, "SELECT count(*) FROM token_refresh.schedule") == $rows)
{
    push @backfill_locks, super($node, "SELECT string_agg(DISTINCT l.mode, ' ') FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 'large'::regclass AND a.backend_type LIKE 'token_refresh%'");
    last if time - $began > 120;
}
my $backfilled = time - $began;
is(super($node, 'SELECT count(*) FROM token_refresh.schedule'), $rows, 'every row is scheduled');
is(join(' ', grep { $_ ne '' && $_ ne 'AccessShareLock' } @backfill_locks), '', 'the backfill only reads the table');
app($node, 'INSERT INTO stop VALUES (now())');
for my $writer (@writers)
{
    my (undef, $errors, $status) = $writer->finish;
    is($status, 0, 'no write of the application failed') or diag($errors);
}
my $figures = sub {
    my ($when) = @_;
    return super($node, "SELECT format('%s writes, median %s ms, p99 %s ms, longest %s ms', count(*), round((extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY took)) * 1000)::numeric, 2),"
        . " round((extract(epoch FROM percentile_cont(0.99) WITHIN GROUP (ORDER BY took)) * 1000)::numeric, 2), round(extract(epoch FROM max(took)) * 1000, 1)) FROM latencies WHERE $when");
};
diag(sprintf('attach_table took %.0f ms, to COMMIT %.0f ms; the backfill of %d rows %.1f s', $attached * 1000, $committed * 1000, $rows, $backfilled));
diag('writers before: ', $figures->("at < '$started'::timestamptz - interval '100 ms'"));
diag('writers during attach_table: ', $figures->("at BETWEEN '$started'::timestamptz - interval '100 ms' AND '$started'::timestamptz + interval '$committed s'"));
diag('writers during the backfill: ', $figures->("at > '$started'::timestamptz + interval '$committed s'"));
is(super($node, 'SELECT count(*) FROM token_refresh.schedule s JOIN large t ON t.id = s.row_key::integer WHERE s.expires_at <> t.expires_at'), '0', 'what was written meanwhile is known');
is($server->stats('acme')->{requests}, 0, 'nothing was due');

$node->stop;
done_testing();
