"""B12: a thousand sessions that want the same expired token at the same moment."""

import json
import os
import statistics

from servers import DATABASE, BenchError, run, wait_until

SESSIONS = 1000
LATENCY = 0.3  # of the provider, seconds

PREPARE = """
SELECT token_refresh.create_provider('slow', 'bench', 'not-a-secret',
    jsonb_build_object('token_endpoint', :'url', 'token_endpoint_auth_method', 'client_secret_basic'));
SELECT token_refresh.pause();
"""


class HerdBench:
    def __init__(self, cluster, endpoint, work_dir):
        self.cluster = cluster
        self.endpoint = endpoint
        self.client = os.path.join(work_dir, "herd_client")
        self.last = {"one": [], "herd": []}
        self.requests = []
        self.rounds = 0

    def prepare(self):
        self.cluster.sql(PREPARE, url=self.endpoint.url)
        self.store("awake", 86400)

    def store(self, subject, lifetime):
        grant = self.endpoint.ask("grants", {"subjects": [subject]})[0]
        grant["expires_in"] = lifetime
        self.cluster.sql("SELECT token_refresh.store_credential('slow', :'subject', :'grant')", subject=subject,
                         grant=json.dumps(grant))

    def expired(self, subject):
        return self.cluster.sql("SELECT expires_at < now() FROM token_refresh.credential"
                                " WHERE provider = 'slow' AND subject = :'subject'", subject=subject) == "t"

    def ask(self, sessions):
        """Returns when the last of the sessions had its answer, in ms, and how many requests that took."""
        self.rounds += 1
        subject = f"expired {self.rounds}"
        self.store(subject, 1)
        wait_until(lambda: self.expired(subject), "the token to expire")
        before = self.endpoint.ask("stats")["requests"]
        # The sessions are not new: each has read another token before.
        _, last, answers, different = run(
            [self.client, f"host={self.cluster.socket_dir} user=postgres dbname={DATABASE}", str(sessions),
             "SELECT token_refresh.get_access_token('slow', 'awake')",
             f"SELECT token_refresh.get_access_token('slow', '{subject}')"]).split()
        if (answers, different) != (str(sessions), "1"):
            raise BenchError(f"{answers} answers of {sessions} sessions, {different} different ones")
        return float(last), self.endpoint.ask("stats")["requests"] - before

    def round(self):
        last, _ = self.ask(1)
        self.last["one"].append(last)
        last, requests = self.ask(SESSIONS)
        self.last["herd"].append(last)
        self.requests.append(requests)

    def rows(self):
        latency = LATENCY * 1000
        yield "B12", f"requests for {SESSIONS} callers", "1", float(max(self.requests)), self.requests, "requests"
        yield ("B12", "a single caller / the provider's latency", "-", statistics.median(self.last["one"]) / latency,
               self.last["one"], "ms")
        yield ("B12", f"the last of {SESSIONS} callers / the provider's latency", "<= 1.5",
               statistics.median(self.last["herd"]) / latency, self.last["herd"], "ms")
