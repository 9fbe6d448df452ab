"""B7: validate_jwt, beside a bare index select of the session's row and beside a function in PL/pgSQL that verifies HS256
with pgcrypto's hmac and looks at no session. The last stands in for the verify() of pgjwt, which is made the same way."""

import os
import re
import statistics

from servers import DATABASE, run

SESSIONS = 1000000
TOKENS = 100  # different JWTs of each kind; pgbench binds them as parameters, and chooses among them
SECONDS = 5
CALLS = 300  # for each JWT, within one statement
SECRET = "an-obviously-fake-secret-of-forty-letters"
ALGORITHMS = ("HS256", "ES256", "RS256", "EdDSA")

LOAD = """
SELECT token_refresh.create_provider('bench_sessions', 'bench', 'not-a-secret',
    '{"token_endpoint": "http://127.0.0.1:9/token", "token_endpoint_auth_method": "client_secret_basic"}');
CREATE EXTENSION pgcrypto;
CREATE TABLE held (algorithm text, number integer, token text, jwt_id uuid);
DO $$
DECLARE
    its_algorithm text;
BEGIN
    FOREACH its_algorithm IN ARRAY '{ES256,RS256,EdDSA,HS256}'::text[] LOOP
        IF its_algorithm = 'HS256' THEN
            PERFORM token_refresh.import_signing_key('HS256', 'an-obviously-fake-secret-of-forty-letters');
        ELSE
            PERFORM token_refresh.create_signing_key(its_algorithm);
        END IF;
        INSERT INTO held SELECT its_algorithm, i, s.jwt_token, (token_refresh.validate_jwt(s.jwt_token) ->> 'jti')::uuid
            FROM generate_series(1, 100) i, token_refresh.create_session('bench_sessions', NULL, jsonb_build_object('sub', 'user ' || i),
                '{"user_agent": "bench"}', jwt_claims => '{"email": "someone@example.com", "role": "member"}') s;
    END LOOP;
END $$;
INSERT INTO token_refresh.session (account, expires_at, created_at, jwt_claims)
    SELECT (SELECT id FROM token_refresh.account LIMIT 1), now() + interval '1 day', now(), '{}' FROM generate_series(1, :sessions);

CREATE FUNCTION base64url_decode(data text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT decode(rpad(translate(data, '-_', '+/'), (length(data) + 3) / 4 * 4, '='), 'base64')
$$;
CREATE FUNCTION verify_by_hand(token text, secret text) RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public AS $$
DECLARE
    parts text[] := string_to_array(token, '.');
    claims jsonb;
BEGIN
    IF cardinality(parts) <> 3 OR convert_from(base64url_decode(parts[1]), 'UTF8')::jsonb ->> 'alg' <> 'HS256'
       OR hmac(convert_to(parts[1] || '.' || parts[2], 'UTF8'), convert_to(secret, 'UTF8'), 'sha256') <> base64url_decode(parts[3]) THEN
        RETURN NULL;
    END IF;
    claims := convert_from(base64url_decode(parts[2]), 'UTF8')::jsonb;
    RETURN CASE WHEN (claims ->> 'exp')::bigint > extract(epoch FROM clock_timestamp()) THEN claims END;
END $$;
CREATE ROLE visitor LOGIN;
GRANT USAGE ON SCHEMA token_refresh TO visitor;
GRANT SELECT ON token_refresh.session TO visitor;
GRANT EXECUTE ON FUNCTION token_refresh.validate_jwt TO visitor;
VACUUM ANALYZE;
CHECKPOINT;
"""

SELECT = "SELECT account, expires_at, revoked_at IS NULL, device_info FROM token_refresh.session WHERE jwt_id = :{name}"
BY_HAND = "SELECT verify_by_hand(:{name}, '" + SECRET + "')"
VALIDATE = "SELECT token_refresh.validate_jwt(:{name})"

# What one call costs within the server, without the way to it; the process has seen each JWT before.
TIMED = """
CREATE FUNCTION pg_temp.microseconds(expression text, calls integer, wanted text) RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
    answers bigint;
BEGIN
    EXECUTE format('SELECT count(%s) FROM held, generate_series(1, %s) WHERE algorithm = %L', expression, calls, wanted) INTO answers;
    IF answers <> calls * 100 THEN RAISE 'only % of % were good', answers, calls * 100; END IF;
    RETURN extract(epoch FROM clock_timestamp() - began) * 1000000 / answers;
END $$;
SELECT count(token_refresh.validate_jwt(token)) FROM held;
SELECT pg_temp.microseconds('token_refresh.validate_jwt(token)', {calls}, '{algorithm}');
SELECT pg_temp.microseconds('verify_by_hand(token, ''{secret}'')', {calls} / 10, 'HS256');
"""


class SessionBench:
    def __init__(self, cluster, work_dir):
        self.cluster = cluster
        self.work_dir = work_dir
        self.rates = {}
        self.cost = {}

    def prepare(self):
        self.cluster.sql(LOAD, sessions=SESSIONS)
        self.held = {algorithm: [row.split("|") for row in self.cluster.sql(
            f"SELECT token, jwt_id FROM held WHERE algorithm = '{algorithm}' ORDER BY number").splitlines()]
                     for algorithm in ALGORITHMS}

    def pgbench(self, statement, values):
        command = [os.path.join(self.cluster.bindir, "pgbench"), "-h", self.cluster.socket_dir, "-U", "visitor", "-n",
                   "-M", "prepared", "-c", "8", "-j", "2", "-T", str(SECONDS)]
        for number, value in enumerate(values, 1):
            script = os.path.join(self.work_dir, f"session_{number}.pgbench")
            with open(script, "w") as file:
                file.write(statement.format(name=f"v{number}") + ";\n")
            command += ["-f", script, "-D", f"v{number}={value}"]
        return float(re.search(r"^tps = ([0-9.]+)", run([*command, DATABASE]), re.MULTILINE).group(1))

    def round(self):
        def note(name, statement, values):
            self.rates.setdefault(name, []).append(self.pgbench(statement, values))
        note("select", SELECT, [jwt_id for _, jwt_id in self.held["HS256"]])
        for algorithm in ("HS256", "ES256"):
            note(algorithm, VALIDATE, [token for token, _ in self.held[algorithm]])
        note("by hand", BY_HAND, [token for token, _ in self.held["HS256"]])
        for algorithm in ALGORITHMS:
            ours, by_hand = self.cluster.sql(TIMED.format(algorithm=algorithm, calls=CALLS, secret=SECRET)).splitlines()[-2:]
            self.cost.setdefault(algorithm, []).append(float(ours))
            self.cost.setdefault("by hand", []).append(float(by_hand))
        for algorithm in ALGORITHMS:
            self.cost.setdefault("first " + algorithm, []).append(self.first_calls(algorithm))

    def first_calls(self, algorithm):
        """When the table of keys changes, what a process knows of JWTs is forgotten: it sees each for the first time."""
        return float(self.cluster.sql(f"""
            CREATE TEMP TABLE cost (began timestamptz, ended timestamptz);
            DO $$ BEGIN
                FOR i IN 1 .. 20 LOOP
                    UPDATE token_refresh.signing_key SET kid = kid WHERE false;
                    PERFORM token_refresh.validate_jwt('x');
                    INSERT INTO cost VALUES (clock_timestamp());
                    PERFORM token_refresh.validate_jwt(token) FROM held WHERE algorithm = '{algorithm}';
                    UPDATE cost SET ended = clock_timestamp() WHERE ended IS NULL;
                END LOOP;
            END $$;
            SELECT extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY ended - began)) * 1000000 / {TOKENS} FROM cost"""))

    def rows(self):
        def ratio(name, beside, figures):
            return statistics.median(figures[name]) / statistics.median(figures[beside])
        yield "B7", "index select of the session's row by jwt_id", "-", None, self.rates["select"], "reads/s"
        for algorithm in ("HS256", "ES256"):
            yield ("B7", f"validate_jwt, {algorithm} / index select", ">= 0.75", ratio(algorithm, "select", self.rates),
                   self.rates[algorithm], "reads/s")
        yield ("B7", "validate_jwt, HS256 / verify in PL/pgSQL, no session (pgbench)", "-",
               ratio("HS256", "by hand", self.rates), self.rates["by hand"], "reads/s")
        for algorithm in ALGORITHMS:
            yield ("B7", f"verify in PL/pgSQL / validate_jwt, {algorithm}, per call", ">= 20" if algorithm == "HS256" else "-",
                   ratio("by hand", algorithm, self.cost), [1000 * cost for cost in self.cost[algorithm]], "ns")
        for algorithm in ALGORITHMS:
            yield ("B7", f"the same, the first call of a process with a JWT, {algorithm}", "-",
                   ratio("by hand", "first " + algorithm, self.cost), [1000 * cost for cost in self.cost["first " + algorithm]], "ns")
