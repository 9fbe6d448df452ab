"""B6: get_access_token of a valid token, beside a bare index select of the same row."""

import os
import re
import statistics

from servers import DATABASE, run

CREDENTIALS = 100000
SECONDS = 5

LOAD = """
SELECT token_refresh.create_provider('valid', 'bench', 'not-a-secret',
    '{"token_endpoint": "http://127.0.0.1:9/token", "token_endpoint_auth_method": "client_secret_basic"}');
SELECT count(token_refresh.store_credential('valid', i::text, jsonb_build_object(
    'access_token', 'at_' || repeat(md5(i::text), 3), 'refresh_token', 'rt_' || repeat(md5(i::text), 2),
    'expires_in', 864000, 'scope', 'openid email calendar.read'))) FROM generate_series(1, :credentials) i;
CREATE ROLE reader LOGIN;
GRANT USAGE ON SCHEMA token_refresh TO reader;
GRANT SELECT ON token_refresh.credential TO reader;
GRANT EXECUTE ON FUNCTION token_refresh.get_access_token TO reader;
VACUUM ANALYZE;
CHECKPOINT;
"""

SCRIPTS = {
    "select": "SELECT access_token FROM token_refresh.credential"
              " WHERE provider = 'valid' AND subject = :subject AND label = '';",
    "ours": "SELECT token_refresh.get_access_token('valid', :subject);",
}
ROLES = {"postgres": "a superuser", "reader": "a role with EXECUTE and SELECT"}


class ReadBench:
    def __init__(self, cluster, work_dir):
        self.cluster = cluster
        self.work_dir = work_dir
        self.rates = {}

    def prepare(self):
        self.cluster.sql(LOAD, credentials=CREDENTIALS)
        for name, statement in SCRIPTS.items():
            with open(self.script(name), "w") as file:
                file.write(f"\\set subject random(1, {CREDENTIALS})\n{statement}\n")

    def script(self, name):
        return os.path.join(self.work_dir, f"read_{name}.pgbench")

    def round(self):
        for role in ROLES:
            for name in SCRIPTS:
                report = run([os.path.join(self.cluster.bindir, "pgbench"), "-h", self.cluster.socket_dir, "-U", role, "-n",
                              "-M", "prepared", "-c", "8", "-j", "2", "-T", str(SECONDS), "-f", self.script(name), DATABASE])
                rate = float(re.search(r"tps = ([0-9.]+)", report).group(1))
                self.rates.setdefault((role, name), []).append(rate)

    def rows(self):
        for role, words in ROLES.items():
            select, ours = self.rates[role, "select"], self.rates[role, "ours"]
            yield "B6", f"index select, as {words}", "-", None, select, "reads/s"
            yield ("B6", f"get_access_token / index select, as {words}", ">= 0.90",
                   statistics.median(ours) / statistics.median(select), ours, "reads/s")
