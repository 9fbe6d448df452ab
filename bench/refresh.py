"""B1: durable refreshes per second of many due credentials, beside a client that has no database at all."""

import os
import statistics

from servers import DATABASE, BenchError, run

CREDENTIALS = 20000
OURS_IN_FLIGHT = 512  # the default of token_refresh.max_in_flight
BARE_IN_FLIGHT = (64, OURS_IN_FLIGHT)
TIME_LIMIT = 120  # seconds for one round

LOAD = """
SELECT token_refresh.create_provider('fast', 'bench', 'not-a-secret',
    jsonb_build_object('token_endpoint', :'url', 'token_endpoint_auth_method', 'client_secret_basic'));
SELECT token_refresh.pause();
SELECT count(token_refresh.store_credential('fast', 'user ' || i, jsonb_build_object(
    'access_token', 'at_' || repeat(md5(i::text), 3), 'refresh_token', 'rt_' || repeat(md5(i::text), 2),
    'expires_in', 86400, 'scope', 'openid email calendar.read'))) FROM generate_series(1, :credentials) i;
CREATE PROCEDURE wait_for_refreshes(goal bigint, patience interval) LANGUAGE plpgsql AS $$
DECLARE
    give_up_at timestamptz := clock_timestamp() + patience;
BEGIN
    -- Shared memory, not the schedule: looking must not cost what is measured. The counters move after the COMMIT.
    WHILE (SELECT refreshed FROM token_refresh._refresher_state()) < goal LOOP
        IF clock_timestamp() > give_up_at THEN RAISE EXCEPTION 'the refreshes take too long'; END IF;
        PERFORM pg_sleep(0.002);
    END LOOP;
END $$;
CREATE TABLE bench_node_credential (
    id bigint PRIMARY KEY, subject text NOT NULL, plain text, access_token bytea, refresh_token bytea,
    expires_at timestamptz NOT NULL, updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 70);
ALTER TABLE bench_node_credential ALTER access_token SET STORAGE EXTERNAL, ALTER refresh_token SET STORAGE EXTERNAL;
INSERT INTO bench_node_credential (id, subject, plain, expires_at)
    SELECT i, 'user ' || i, 'rt_' || repeat(md5(i::text), 2), now() - interval '1 minute'
    FROM generate_series(1, :credentials) i;
VACUUM ANALYZE;
"""

# Each round begins alike: everything due, free room on the pages, and a checkpoint behind it, so that each
# page goes to the WAL in full once.
MAKE_ALL_DUE = """
SELECT token_refresh.pause();
UPDATE token_refresh.schedule s SET due_at = now() - interval '1 second'
    FROM token_refresh.provider p WHERE p.id = s.provider AND p.name = 'fast';
VACUUM token_refresh.schedule;
VACUUM token_refresh.credential;
CHECKPOINT;
"""

MEASURE = """
SELECT refreshed AS before FROM token_refresh._refresher_state() \\gset
SELECT id AS provider FROM token_refresh.provider WHERE name = 'fast' \\gset
SELECT sum(refresh_count) AS counted FROM token_refresh.schedule WHERE provider = :provider \\gset
SELECT clock_timestamp() AS started \\gset
SELECT token_refresh.resume() \\g /dev/null
CALL wait_for_refreshes(:before + :credentials, :'patience');
SELECT extract(epoch FROM clock_timestamp() - :'started');
SELECT sum(refresh_count) - :counted, count(*) FILTER (WHERE last_refreshed_at >= :'started'),
    count(*) FILTER (WHERE due_at <= now()) FROM token_refresh.schedule WHERE provider = :provider;
"""


class RefreshBench:
    def __init__(self, cluster, endpoint, work_dir, node_dir):
        self.cluster = cluster
        self.endpoint = endpoint
        self.bare_client = os.path.join(work_dir, "bare_client")
        self.node_dir = node_dir
        self.rates = {}

    def prepare(self):
        self.cluster.sql(LOAD, url=self.endpoint.url, credentials=CREDENTIALS)

    def note(self, name, rate):
        self.rates.setdefault(name, []).append(rate)

    def bare(self, in_flight):
        return float(run([self.bare_client, self.endpoint.url, str(CREDENTIALS), str(in_flight)]))

    def ours(self):
        self.cluster.sql(MAKE_ALL_DUE)
        seconds, proof = self.cluster.sql(MEASURE, credentials=CREDENTIALS, patience=f"{TIME_LIMIT} s").splitlines()
        if proof != f"{CREDENTIALS}|{CREDENTIALS}|0":
            raise BenchError(f"refreshed, refreshed lately, still due: {proof}; expected {CREDENTIALS}|{CREDENTIALS}|0")
        return CREDENTIALS / float(seconds)

    def node(self, mode):
        self.cluster.sql("UPDATE bench_node_credential SET expires_at = now() - interval '1 minute';"
                         " VACUUM bench_node_credential; CHECKPOINT;")
        rows, seconds = run(["node", os.path.join(self.node_dir, "node_refresher.mjs"), self.cluster.socket_dir, DATABASE,
                             self.endpoint.url, mode]).split()
        left = int(self.cluster.sql("SELECT count(*) FROM bench_node_credential WHERE expires_at < now()"))
        if left + int(rows) != CREDENTIALS:
            raise BenchError(f"the Node refresher claims {rows} rows and left {left} of {CREDENTIALS}")
        return int(rows) / float(seconds)

    def round(self):
        for in_flight in BARE_IN_FLIGHT:
            self.note(f"bare {in_flight}", self.bare(in_flight))
        self.note("ours", self.ours())
        if self.node_dir:
            self.note("node serial", self.node("serial"))
            self.note("node batched", self.node("batched"))

    def rows(self):
        median = {name: statistics.median(rates) for name, rates in self.rates.items()}
        bare = max((f"bare {n}" for n in BARE_IN_FLIGHT), key=median.get)
        for n in BARE_IN_FLIGHT:
            yield "B1", f"bare client, {n} in flight", "-", None, self.rates[f"bare {n}"], "requests/s"
        yield "B1", f"ours / the better bare client", ">= 0.40", median["ours"] / median[bare], self.rates["ours"], "rows/s"
        for name, target in (("node serial", ">= 25"), ("node batched", ">= 5")):
            if name in median:
                yield "B1", f"ours / {name}", target, median["ours"] / median[name], self.rates[name], "rows/s"
