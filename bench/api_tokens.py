"""B4 and B5: validating an API token, beside a bare index select of the same row and a function in PL/pgSQL."""

import os
import re
import statistics

from servers import DATABASE, run

TOKENS = 1000000
SECONDS = 5

# pgbench can make numbers only, so a token is one, behind zeros that make it as long as a real one. Its checksum is
# computed like that of any other and found wrong; then it is looked up because of its imported prefix. That is a little
# more than a real token costs.
TOKEN = "('bench_' || lpad((:number)::text, 48, '0'))"

LOAD = """
INSERT INTO token_refresh.imported_token_prefix VALUES ('bench_');
INSERT INTO token_refresh.api_token (expires_at, lifetime, token_hash, scope, user_hk, tenant_hk, family, owner, prefix, token_type, imported)
    SELECT now() + interval '60 days', interval '90 days', sha256(convert_to('bench_' || lpad(i::text, 48, '0'), 'UTF8')),
           '{read,write}', sha256(i::text::bytea), sha256('tenant'), i, 'owner ' || i % 1000, 'bench_', 'API', true
    FROM generate_series(1, :tokens) i;
SELECT setval('token_refresh.api_token_id_seq', :tokens);

-- What an application writes by hand: one look-up, some checks, a row.
CREATE FUNCTION validate_by_hand(p_token text, p_required_scope text)
RETURNS TABLE (is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz, message text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    found_row record;
BEGIN
    SELECT t.user_hk, t.tenant_hk, t.scope, t.expires_at, t.revoked_at INTO found_row
        FROM token_refresh.api_token t WHERE t.token_hash = sha256(convert_to(p_token, 'UTF8'));
    IF NOT FOUND OR found_row.revoked_at IS NOT NULL OR found_row.expires_at <= now() THEN
        RETURN QUERY SELECT false, NULL::bytea, NULL::bytea, NULL::text[], NULL::timestamptz, 'invalid'::text;
    ELSIF NOT p_required_scope = ANY (found_row.scope) THEN
        RETURN QUERY SELECT false, NULL::bytea, NULL::bytea, NULL::text[], NULL::timestamptz, 'scope'::text;
    ELSE
        RETURN QUERY SELECT true, found_row.user_hk, found_row.tenant_hk, found_row.scope, found_row.expires_at, 'valid'::text;
    END IF;
END $$;
CREATE ROLE validator LOGIN;
GRANT USAGE ON SCHEMA token_refresh TO validator;
GRANT SELECT ON token_refresh.api_token TO validator;
GRANT EXECUTE ON FUNCTION token_refresh.validate_api_token TO validator;
GRANT EXECUTE ON FUNCTION token_refresh.validate_and_refresh_api_token TO validator;
VACUUM ANALYZE;
CHECKPOINT;
"""

COLUMNS = "revoked_at IS NULL, user_hk, tenant_hk, scope, expires_at, token_type"
SCRIPTS = {
    "by key": f"SELECT {COLUMNS} FROM token_refresh.api_token WHERE id = :number",
    "by hash": f"SELECT {COLUMNS} FROM token_refresh.api_token WHERE token_hash = sha256({TOKEN}::bytea)",
    "by hand": f"SELECT * FROM validate_by_hand({TOKEN}, 'read')",
    "validate": f"SELECT * FROM token_refresh.validate_api_token({TOKEN}, 'read')",
    "and refresh": f"SELECT * FROM token_refresh.validate_and_refresh_api_token({TOKEN}, 'read')",
}


class ApiTokenBench:
    def __init__(self, cluster, work_dir):
        self.cluster = cluster
        self.work_dir = work_dir
        self.rates = {}

    def prepare(self):
        self.cluster.sql(LOAD, tokens=TOKENS)
        for name, statement in SCRIPTS.items():
            with open(self.script(name), "w") as file:
                file.write(f"\\set number random(1, {TOKENS})\n{statement};\n")

    def script(self, name):
        return os.path.join(self.work_dir, f"api_token_{name.replace(' ', '_')}.pgbench")

    def round(self):
        for name in SCRIPTS:
            report = run([os.path.join(self.cluster.bindir, "pgbench"), "-h", self.cluster.socket_dir, "-U", "validator", "-n",
                          "-M", "prepared", "-c", "8", "-j", "2", "-T", str(SECONDS), "-f", self.script(name), DATABASE])
            self.rates.setdefault(name, []).append(float(re.search(r"tps = ([0-9.]+)", report).group(1)))

    def ratio(self, name, beside):
        return statistics.median(self.rates[name]) / statistics.median(self.rates[beside])

    def rows(self):
        yield "B4", "index select of the row by its hash, computed in SQL", "-", None, self.rates["by hash"], "reads/s"
        yield ("B4", "validate_api_token / select by hash", ">= 0.93", self.ratio("validate", "by hash"),
               self.rates["validate"], "reads/s")
        yield "B4", "select by primary key, nothing to compute", "-", self.ratio("validate", "by key"), self.rates["by key"], "reads/s"
        yield ("B4", "validate_api_token / a function in PL/pgSQL", "-", self.ratio("validate", "by hand"),
               self.rates["by hand"], "reads/s")
        yield ("B5", "validate_and_refresh_api_token / select by hash", ">= 0.90", self.ratio("and refresh", "by hash"),
               self.rates["and refresh"], "reads/s")
