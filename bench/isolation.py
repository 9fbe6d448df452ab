"""B13: what a provider that hangs costs the tokens of another one."""

import statistics

from servers import BenchError, wait_until

CREDENTIALS = 1000  # due at each of the two
HANGING = 512       # of them under way: the default of token_refresh.max_in_flight
CALLERS = 200       # sessions' questions, one after the other
TIME_LIMIT = 25     # seconds; less than a request may hang

PREPARE = """
SELECT token_refresh.create_provider(name, 'bench', 'not-a-secret',
    jsonb_build_object('token_endpoint', url, 'token_endpoint_auth_method', 'client_secret_basic'))
FROM (VALUES ('healthy', :'healthy'), ('hanging', :'hanging')) AS p (name, url);
SELECT count(token_refresh.store_credential(provider, 'user ' || i, jsonb_build_object(
    'access_token', 'at_' || repeat(md5(i::text), 3), 'refresh_token', 'rt_' || repeat(md5(i::text), 2),
    'expires_in', 86400))) FROM unnest(ARRAY['healthy', 'hanging']) provider, generate_series(1, :credentials) i;
CREATE VIEW bench_row AS
    SELECT s.id, s.due_at, s.refresh_count, p.name AS provider
    FROM token_refresh.schedule s JOIN token_refresh.provider p ON p.id = s.provider
    WHERE p.name IN ('healthy', 'hanging');
CREATE PROCEDURE bench_wait(goal bigint, patience interval) LANGUAGE plpgsql AS $$
DECLARE
    give_up_at timestamptz := clock_timestamp() + patience;
BEGIN
    -- Shared memory: looking costs nothing. The hanging provider refreshes nothing meanwhile.
    WHILE (SELECT refreshed FROM token_refresh._refresher_state()) < goal LOOP
        IF clock_timestamp() > give_up_at THEN RAISE EXCEPTION 'the refreshes take too long'; END IF;
        PERFORM pg_sleep(0.0005);
    END LOOP;
END $$;
-- Microseconds that each of so many callers waits for a token that must be refreshed.
CREATE FUNCTION bench_ask(callers integer) RETURNS SETOF double precision LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz;
BEGIN
    FOR i IN 1 .. callers LOOP
        began := clock_timestamp();
        PERFORM token_refresh.get_access_token('healthy', 'user ' || i, min_validity => '50 minutes');
        RETURN NEXT 1000000 * extract(epoch FROM clock_timestamp() - began);
    END LOOP;
END $$;
VACUUM ANALYZE;
"""

TIDY = "VACUUM token_refresh.schedule; VACUUM token_refresh.credential; CHECKPOINT;"

MAKE_HANGING_DUE = """
BEGIN;
UPDATE token_refresh.schedule SET due_at = now() - interval '1 second'
    WHERE id IN (SELECT id FROM bench_row WHERE provider = 'hanging');
SELECT token_refresh._wake_refresher();
COMMIT;
"""

# The clock starts just before the COMMIT that makes everything due.
MEASURE_BATCH = """
SELECT refreshed AS before FROM token_refresh._refresher_state() \\gset
SELECT sum(refresh_count) AS counted FROM bench_row WHERE provider = 'healthy' \\gset
BEGIN;
UPDATE token_refresh.schedule SET due_at = now() - interval '1 second'
    WHERE id IN (SELECT id FROM bench_row WHERE provider = ANY (:'due'::text[]));
SELECT token_refresh._wake_refresher() \\g /dev/null
SELECT clock_timestamp() AS started \\gset
COMMIT;
CALL bench_wait(:before + :credentials, :'patience');
SELECT 1000 * extract(epoch FROM clock_timestamp() - :'started');
SELECT sum(refresh_count) - :counted, count(*) FILTER (WHERE due_at <= now()) FROM bench_row WHERE provider = 'healthy';
"""

# Too old for the callers, not old enough for the background.
MEASURE_CALLS = """
UPDATE token_refresh.credential SET issued_at = now() - interval '2 hours', expires_at = now() + interval '40 minutes'
    WHERE provider = 'healthy';
SELECT sum(refresh_count) AS counted FROM bench_row WHERE provider = 'healthy' \\gset
SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY waited) FROM bench_ask(:callers) waited;
SELECT sum(refresh_count) - :counted FROM bench_row WHERE provider = 'healthy';
"""


class IsolationBench:
    def __init__(self, cluster, healthy, hanging):
        self.cluster = cluster
        self.healthy = healthy
        self.hanging = hanging
        self.times = {name: [] for name in ("alone", "beside", "together", "median alone", "median beside", "p99 alone",
                                            "p99 beside")}

    def prepare(self):
        self.cluster.sql(PREPARE, healthy=self.healthy.url, hanging=self.hanging.url, credentials=CREDENTIALS)

    def batch(self, *due):
        """Milliseconds until the last of the healthy provider's tokens is committed."""
        time, proof = self.cluster.sql(MEASURE_BATCH, due=f"{{{','.join(due)}}}", credentials=CREDENTIALS,
                                       patience=f"{TIME_LIMIT} s").splitlines()
        if proof != f"{CREDENTIALS}|0":
            raise BenchError(f"refreshed, still due: {proof}; expected {CREDENTIALS}|0")
        return float(time)

    def calls(self, beside):
        figures, refreshed = self.cluster.sql(MEASURE_CALLS, callers=CALLERS).splitlines()
        if refreshed != str(CALLERS):
            raise BenchError(f"{refreshed} tokens were refreshed for {CALLERS} callers")
        for name, time in zip(("median", "p99"), figures.strip("{}").split(",")):
            self.times[f"{name} {beside}"].append(float(time))

    def await_hanging(self):
        wait_until(lambda: len(self.hanging.waiting) == HANGING, f"{HANGING} requests that hang")

    def still_hanging(self):
        self.await_hanging()
        if self.hanging.answered != self.answered:
            raise BenchError("the hanging provider has answered meanwhile")

    def release(self):
        self.hanging.hold(False)
        wait_until(lambda: self.cluster.sql("SELECT count(*) FROM bench_row WHERE due_at <= now()") == "0",
                   "the hanging provider's tokens")

    def hold(self):
        self.cluster.sql(TIDY)
        self.answered = self.hanging.answered
        self.hanging.hold(True)

    def round(self):
        self.cluster.sql(TIDY)
        self.times["alone"].append(self.batch("healthy"))
        self.calls("alone")
        self.hold()
        self.cluster.sql(MAKE_HANGING_DUE)
        self.await_hanging()
        self.times["beside"].append(self.batch("healthy"))
        self.calls("beside")
        self.still_hanging()
        self.release()
        self.hold()
        self.times["together"].append(self.batch("healthy", "hanging"))
        self.still_hanging()
        self.release()

    def rows(self):
        def ratio(name, alone):
            return statistics.median(self.times[name]) / statistics.median(self.times[alone])

        yield "B13", f"{CREDENTIALS} due, alone: the last is committed after", "-", None, self.times["alone"], "ms"
        yield ("B13", f"beside {HANGING} requests that hang and {CREDENTIALS - HANGING} more due / alone", "1",
               ratio("beside", "alone"), self.times["beside"], "ms")
        yield ("B13", f"due in the same moment as {CREDENTIALS} that hang / alone", "1", ratio("together", "alone"),
               self.times["together"], "ms")
        for name in ("median", "p99"):
            yield "B13", f"get_access_token, {name} of {CALLERS}, alone", "-", None, self.times[f"{name} alone"], "us"
            yield ("B13", f"get_access_token, {name}, while they hang / alone", "1",
                   ratio(f"{name} beside", f"{name} alone"), self.times[f"{name} beside"], "us")
