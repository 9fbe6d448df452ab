-- Providers: creating, altering, dropping, presets, and what is said about every kind of mistake.
\set SHOW_CONTEXT never
\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;

TRUNCATE token_refresh.audit_event;

-- A provider as one has it.
SELECT token_refresh.create_provider('acme', 'my-client', 'obviously-fake-secret',
    '{"token_endpoint": "https://auth.example.org/token", "token_endpoint_auth_method": "client_secret_post",
      "scope": "read write", "refresh_margin": "2 minutes", "min_interval": "PT30S", "max_in_flight": 20,
      "request_headers": {"X-Api-Version": "3"}, "request_params": {"audience": "api", "scope": null},
      "error_rules": [{"status": 400, "pointer": "/code", "value": "expired", "class": "reauth"}]}');
SELECT name, client_id, client_secret IS NOT NULL AS has_secret, previous_client_secret IS NOT NULL AS has_previous,
       client_secret_changed_at IS NOT NULL AS changed, jsonb_pretty(options) AS options FROM token_refresh.provider;
SELECT jsonb_pretty(effective_options) AS effective_options FROM token_refresh.provider;
SELECT position('obviously-fake-secret' IN to_jsonb(p)::text) AS secret_in_row FROM token_refresh.provider p;

-- A public client, and one on loopback over http.
SELECT token_refresh.create_provider('public', 'my-client', options =>
    '{"token_endpoint": "https://auth.example.org/token", "token_endpoint_auth_method": "none"}');
SELECT token_refresh.create_provider('local', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');
SELECT token_refresh.create_provider('local6', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://[::1]:9/token"}');

-- Some providers give out empty secrets.
SELECT token_refresh.create_provider('empty', 'my-client', '', '{"token_endpoint": "https://auth.example.org/token"}');

-- Presets: by name, by option, overridden.
SELECT token_refresh.create_provider(name, 'my-client', 'obviously-fake-secret')
FROM token_refresh.provider_preset WHERE name IN ('discord', 'github', 'google', 'microsoft', 'spotify') ORDER BY name;
SELECT p.name, p.options, p.effective_options ->> 'token_endpoint' = s.options ->> 'token_endpoint' AS endpoint_of_preset
FROM token_refresh.provider p JOIN token_refresh.provider_preset s USING (name) ORDER BY name;
SELECT token_refresh.create_provider('work-google', 'my-client', 'obviously-fake-secret', '{"preset": "google", "scope": "openid", "keep_alive": "30 days"}');
SELECT options, effective_options ->> 'token_endpoint' AS token_endpoint, effective_options ->> 'scope' AS scope,
       effective_options ->> 'keep_alive' AS keep_alive FROM token_refresh.provider WHERE name = 'work-google';

-- Altering. What is not named stays; null takes an option back to its default.
SELECT token_refresh.alter_provider('acme', '{"scope": null, "max_in_flight": 5, "refresh_margin": "90 seconds"}');
SELECT options -> 'scope' AS scope, options -> 'max_in_flight' AS max_in_flight, effective_options -> 'refresh_margin' AS refresh_margin,
       options ->> 'token_endpoint' AS token_endpoint, previous_client_secret IS NULL AS same_secret FROM token_refresh.provider WHERE name = 'acme';
SELECT token_refresh.alter_provider('acme', '{"client_secret": "obviously-fake-too", "client_id": "other-client"}');
SELECT client_id, previous_client_secret IS NOT NULL AS has_previous, options ? 'client_secret' OR effective_options ? 'client_secret' AS secret_in_options
FROM token_refresh.provider WHERE name = 'acme';
SELECT token_refresh.alter_provider('work-google', '{"keep_alive": null}');
SELECT effective_options ->> 'keep_alive' AS keep_alive_of_preset FROM token_refresh.provider WHERE name = 'work-google';
SELECT token_refresh.alter_provider('public', '{}');
-- To which hosts secrets go is in the audit: those and no more of an URL.
SELECT token_refresh.alter_provider('acme', '{"token_endpoint": "https://login.example.net:8443/oauth/token?tenant=hidden"}');
SELECT token_refresh.alter_provider('acme', '{"token_endpoint": "https://login.example.net:8443/token", "refresh_endpoint": "https://refresh.example.net/token"}');
SELECT token_refresh.alter_provider('acme', '{"token_endpoint": "https://auth.example.org/token", "refresh_endpoint": null}');
SELECT message FROM token_refresh.audit_event WHERE event = 'provider_altered' AND message IS NOT NULL ORDER BY occurred_at;
-- So are those that a variable decides about; whoever signed in at the former issuer is another one at the new one.
SELECT token_refresh.create_provider('tenant', 'my-client', 'obviously-fake-secret', '{
    "token_endpoint": "https://${t}.example.com/token", "refresh_endpoint": "https://${t}.example.com/${shard}/token",
    "issuer": "https://${t}.example.com/", "variables": {"t": "one"}, "captured_fields": ["shard"]}');
SELECT effective_options ->> 'token_endpoint' AS token_endpoint, effective_options ->> 'refresh_endpoint' AS refresh_endpoint,
       effective_options ->> 'issuer' AS issuer, options ->> 'issuer' AS issuer_as_given FROM token_refresh.provider WHERE name = 'tenant';
INSERT INTO token_refresh.account (provider, identity_claim, identity, claims) VALUES ('tenant', 'sub', 'somebody', '{}');
SELECT token_refresh.alter_provider('tenant', '{"variables": {"t": "two"}}');
DELETE FROM token_refresh.account WHERE provider = 'tenant';
SELECT message FROM token_refresh.audit_event WHERE event = 'provider_altered' AND provider = 'tenant';

-- Of two tokens in one answer under one label one would be lost.
SELECT token_refresh.alter_provider('tenant', '{"secondary_tokens": [{"label": "user", "pointer": "/authed_user"}], "authorization_endpoint": "https://a.example.com/"}');
SELECT token_refresh.store_credential('tenant', 'somebody', '{"access_token": "fake-bot", "authed_user": {"access_token": "fake-user"}}', 'user');
SELECT token_refresh.begin_authorization('tenant', 'somebody', 'https://app.example.com/cb', label => 'user');
SELECT count(*) AS stored FROM token_refresh.credential WHERE provider = 'tenant';
SELECT token_refresh.drop_provider('tenant');

-- Mistakes of create_provider. None of them creates anything.
CREATE FUNCTION pg_temp.attempt(options jsonb, client_id text DEFAULT 'my-client', client_secret text DEFAULT 'obviously-fake-secret', name text DEFAULT 'wrong')
RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM token_refresh.create_provider(name, client_id, client_secret, options);
    message := 'no error';
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    hint := regexp_replace(hint, '^(.*The presets are: [a-z]*, ).*, google, .*', '\1..., google, ...');
    RETURN NEXT;
END $$;

SELECT token_refresh.create_provider(NULL);
SELECT token_refresh.create_provider('wrong', options => NULL);
SELECT token_refresh.create_provider('acme', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "https://auth.example.org/token"}');
SELECT token_refresh.create_provider('Not a name', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "https://auth.example.org/token"}');
SELECT token_refresh.create_provider('wrong');
SELECT token_refresh.create_provider('wrong', 'my-client', 'obviously-fake-secret');
\x on
\pset format unaligned
\pset fieldsep ': '
SELECT o.options, a.* FROM (VALUES
    (1, '[]'::jsonb), (2, '"google"'), (3, '{}'), (4, 'null'),
    (5, '{"preset": "gogle"}'), (6, '{"preset": 7}'), (7, '{"preset": null}'),
    (8, '{"preset": "nothing-like-it"}')) AS o (n, options), pg_temp.attempt(o.options) a ORDER BY o.n;
-- A name without an endpoint that is nearly that of a preset; what else is wrong is said first.
SELECT o.name, o.options, a.* FROM (VALUES (1, 'spotfy', '{}'::jsonb), (2, 'spotfy', '{"scope": "read"}'),
    (3, 'spotfy', '{"token_endpont": "https://auth.example.org/token"}')) AS o (n, name, options),
    pg_temp.attempt(o.options, name => o.name) a ORDER BY o.n;
-- Unknown and mistyped options.
SELECT o.options, a.* FROM (VALUES
    (1, '{"token_endpont": "https://auth.example.org/token"}'::jsonb),
    (2, '{"client_secret": "obviously-fake-secret"}'),
    (3, '{"scope": ["read"]}'), (4, '{"scope": 1}'), (5, '{"scope": null}'),
    (6, '{"max_in_flight": "5"}'), (7, '{"max_in_flight": 0}'), (8, '{"max_in_flight": 1.5}'), (9, '{"max_in_flight": 1e30}'),
    (10, '{"enabled": "yes"}'), (11, '{"enabled": 1}'),
    (12, '{"token_endpoint_auth_method": "basic"}'), (13, '{"token_endpoint_auth_method": true}'), (14, '{"basic_encoding": "utf8"}'),
    (15, '{"request_headers": "X-Api-Version: 3"}'), (16, '{"request_headers": {"X-Api-Version": 3}}'),
    (17, '{"request_headers": {"Authorization": "Bearer x"}}'), (18, '{"request_headers": {"X Y": "z"}}'),
    (19, '{"request_params": {"a": 1}}'), (20, '{"request_params": []}'),
    (21, '{"error_rules": {"status": 400, "class": "reauth"}}'), (22, '{"error_rules": [{"status": 400}]}'),
    (23, '{"error_rules": [{"status": 400, "class": "dead"}]}'), (24, '{"error_rules": [{"class": "reauth"}]}'),
    (25, '{"error_rules": [{"status": 503, "class": "reauth"}]}'), (26, '{"error_rules": [{"pointer": "error", "class": "reauth"}]}'),
    (27, '{"ca_file": "certificates.pem"}')) AS o (n, options),
    pg_temp.attempt('{"token_endpoint": "https://auth.example.org/token"}' || o.options) a ORDER BY o.n;
-- Intervals.
SELECT o.options, a.* FROM (VALUES
    (1, '{"refresh_margin": 60}'::jsonb), (2, '{"refresh_margin": "soon"}'), (3, '{"refresh_margin": "-1 minute"}'), (4, '{"refresh_margin": "0"}'),
    (5, '{"refresh_margin": true}'), (6, '{"refresh_margin": {"minutes": 1}}'), (7, '{"refresh_margin": ["1 minute"]}'),
    (8, '{"timeout": "11 minutes"}'), (9, '{"timeout": "0"}'), (10, '{"keep_alive": "20 years"}'), (11, '{"min_interval": "1 fortnight"}'),
    (12, '{"replay_window": ""}'), (13, '{"refresh_margin": "300000000 years"}'), (14, '{"refresh_margin": "178956970 years"}')) AS o (n, options),
    pg_temp.attempt('{"token_endpoint": "https://auth.example.org/token"}' || o.options) a ORDER BY o.n;
-- Endpoints.
SELECT o.options, a.* FROM (VALUES
    (1, '{"token_endpoint": "http://auth.example.org/token"}'::jsonb), (2, '{"token_endpoint": "http://127.0.0.1.example.org/token"}'),
    (3, '{"token_endpoint": "http://localhost.example.org/token"}'), (4, '{"token_endpoint": "http://auth.example.org/token", "allow_insecure_http": true}'),
    (5, '{"token_endpoint": "https://auth.example.org/token", "refresh_endpoint": "http://auth.example.org/token"}'),
    (6, '{"token_endpoint": "https://auth.example.org/token", "revocation_endpoint": "http://10.0.0.1/revoke"}'),
    (7, '{"token_endpoint": "auth.example.org/token"}'), (8, '{"token_endpoint": "ftp://auth.example.org/token"}'), (9, '{"token_endpoint": "file:///etc/passwd"}'),
    (10, '{"token_endpoint": "https:///token"}'), (11, '{"token_endpoint": "https://user:password@auth.example.org/token"}'),
    (12, '{"token_endpoint": "https://auth.example.org/token#fragment"}'), (13, '{"token_endpoint": "https://auth.example.org/to ken"}'),
    (14, '{"token_endpoint": "https://{tenant}.example.org/token"}'), (15, '{"token_endpoint": ""}'), (16, '{"token_endpoint": 5}'), (17, '{"token_endpoint": null}')) AS o (n, options),
    pg_temp.attempt(o.options) a ORDER BY o.n;
-- Combinations with the client.
SELECT o.method, o.client_id, o.secret, a.* FROM (VALUES
    (1, 'client_secret_basic', NULL, 'obviously-fake-secret'), (2, 'client_secret_basic', '', 'obviously-fake-secret'), (3, 'client_secret_post', 'my-client', NULL),
    (4, 'none', 'my-client', 'obviously-fake-secret'), (5, 'none', NULL, NULL)) AS o (n, method, client_id, secret),
    pg_temp.attempt(jsonb_build_object('token_endpoint', 'https://auth.example.org/token', 'token_endpoint_auth_method', o.method), o.client_id, o.secret) a ORDER BY o.n;
-- Too much of it.
SELECT a.* FROM pg_temp.attempt(jsonb_build_object('token_endpoint', 'https://auth.example.org/token', 'scope', repeat('x', 5000))) a;
SELECT a.* FROM pg_temp.attempt(jsonb_build_object('token_endpoint', 'https://auth.example.org/' || repeat('x', 3000))) a;
SELECT a.* FROM pg_temp.attempt(jsonb_build_object('token_endpoint', 'https://auth.example.org/token', 'request_params', jsonb_build_object('a', repeat('x', 70000)))) a;
SELECT n AS name, a.* FROM unnest(ARRAY['', '-acme', 'Acme', 'ac me', 'acme;', repeat('a', 64)]) n, pg_temp.attempt('{}', name => n) a;
\x off
\pset format aligned
SELECT count(*) AS created FROM token_refresh.provider WHERE name = 'wrong';

-- Mistakes of alter_provider change nothing.
SELECT token_refresh.alter_provider(NULL, '{}');
SELECT token_refresh.alter_provider('acme', NULL);
SELECT token_refresh.alter_provider('nowhere', '{}');
SELECT token_refresh.alter_provider('acme', '[]');
SELECT token_refresh.alter_provider('acme', '{"client_id": 5}');
SELECT token_refresh.alter_provider('acme', '{"client_secret": {}}');
SELECT token_refresh.alter_provider('acme', '{"client_id": null}');
SELECT token_refresh.alter_provider('acme', '{"client_secret": null}');
SELECT token_refresh.alter_provider('acme', '{"token_endpoint": null}');
SELECT token_refresh.alter_provider('acme', '{"scop": "read"}');
SELECT token_refresh.alter_provider('acme', '{"timeout": "soon"}');
SELECT token_refresh.alter_provider('acme', '{"token_endpoint": "http://auth.example.org/token"}');
SELECT token_refresh.alter_provider('acme', '{"token_endpoint_auth_method": "none"}');
SELECT token_refresh.alter_provider('acme', '{"token_endpoint_auth_method": "private_key_jwt"}');
SELECT client_id, options, effective_options -> 'refresh_margin' AS refresh_margin FROM token_refresh.provider WHERE name = 'acme';
-- From a confidential client to a public one takes both at once.
SELECT token_refresh.alter_provider('acme', '{"token_endpoint_auth_method": "none", "client_secret": null}');

-- Dropping.
SELECT token_refresh.store_credential('local', 'alice', '{"access_token": "fake-access-token"}') > 0 AS stored;
SELECT token_refresh.drop_provider(NULL);
SELECT token_refresh.drop_provider('nowhere');
SELECT token_refresh.drop_provider('local');
DELETE FROM token_refresh.credential;
CREATE TABLE served (id integer PRIMARY KEY, access_token text, refresh_token text, expires_at timestamptz);
CREATE TABLE served_too (id integer PRIMARY KEY, provider text, access_token text, refresh_token text, expires_at timestamptz);
SELECT count(token_refresh.attach_table(t.name, jsonb_build_object('cipher', 'plain', 'access_token_column', 'access_token',
    'refresh_token_column', 'refresh_token', 'expires_at_column', 'expires_at') || t.options)) AS attached
FROM (VALUES ('served'::regclass, '{"provider": "local"}'::jsonb), ('served_too', '{"provider_column": "provider"}')) AS t (name, options);
INSERT INTO served_too VALUES (1, 'local', 'fake', NULL, NULL), (2, 'nowhere', 'fake', NULL, NULL);
SELECT token_refresh.drop_provider('local');
SELECT token_refresh.detach_table('served');
SELECT token_refresh.drop_provider('local');
DELETE FROM served_too WHERE id = 1;
SELECT token_refresh.drop_provider('local');
SELECT token_refresh.detach_table('served_too');
DROP TABLE served, served_too;
SELECT token_refresh.create_provider('local', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');

-- All that is in the audit, without the secrets.
SELECT event, provider, count(*) FROM token_refresh.audit_event WHERE provider IN ('acme', 'local', 'wrong') AND event LIKE 'provider%' GROUP BY 1, 2 ORDER BY 2, 1;
SELECT count(*) AS secrets FROM token_refresh.audit_event a WHERE to_jsonb(a)::text LIKE '%obviously-fake%';

DO $$ BEGIN PERFORM token_refresh.drop_provider(name) FROM token_refresh.provider; END $$;
