-- Sessions: the contract, accounts, JWTs and what is in them, revocation, refresh tokens, signing keys, bad input.
-- All secrets go from one statement to the next in variables and are not shown.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;
SET search_path = token_refresh, public;
SET timezone = 'UTC';

-- The columns: names, order, types.
SELECT * FROM create_session('p', NULL, '{}') \gdesc
SELECT * FROM start_session_refresh(NULL) \gdesc
SELECT * FROM refresh_session('') \gdesc
SELECT validate_jwt(''), revoke_session(NULL), revoke_all_sessions(NULL), jwks(), create_signing_key(), import_signing_key('', ''), retire_signing_key(''), ip_hash('') \gdesc
SELECT proname, pg_get_function_arguments(oid) FROM pg_proc
    WHERE pronamespace = 'token_refresh'::regnamespace AND proname ~ '^[a-z].*(session|jwt|jwks|signing_key|ip_hash)' ORDER BY 1, 2;

SELECT create_provider('va', 'client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');
\set VERBOSITY terse
-- Nothing to sign with yet.
SELECT jwks(), validate_jwt('x');
SELECT create_session('va', NULL, '{"sub": "alice"}');
SELECT create_session('va', NULL, '{"sub": "alice"}', '{"ip": "192.0.2.1"}');
SELECT refresh_session('trs_');
SELECT count(*) AS accounts FROM account;

SELECT import_signing_key('HS256', repeat('k', 40), 'shared') AS kid;
SELECT jwks();

-- A sign-in.
SELECT user_id AS alice, jwt_token AS jwt, session_id AS session FROM create_session('va',
    '{"access_token": "at-fake", "refresh_token": "rt-fake", "expires_in": 3600}', '{"icn": "1012667145V762142", "sub": "alice", "email": "alice@example.com"}',
    '{"ip": "192.0.2.1", "user_agent": "curl"}', '{"va_linked": true, "role": "member"}') \gset
SELECT validate_jwt(:'jwt') AS claims \gset
SELECT :'claims'::jsonb - '{sub,jti,iat,exp}'::text[] AS others, :'claims'::jsonb ->> 'sub' = :'alice' AS sub, (:'claims'::jsonb ->> 'exp')::bigint - (:'claims'::jsonb ->> 'iat')::bigint AS lifetime,
       (SELECT jwt_id::text FROM session) = :'claims'::jsonb ->> 'jti' AS jti, (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(:'claims') k) AS names;
SELECT identity, claims, last_login_at >= created_at AS last_login, provider FROM account;
SELECT status, expires_at - created_at AS lifetime, extract(epoch FROM expires_at)::bigint = (:'claims'::jsonb ->> 'exp')::bigint AS exp, refreshes, device_info, octet_length(ip_hash), ip_hash = ip_hash('192.0.2.1') AS ours,
       ip_hash <> sha256('192.0.2.1') AS keyed FROM session_status;
SELECT get_access_token('va', :'alice');
SELECT event, provider, row_key = :'session' AS its_session, subject = :'alice' AS its_account, message ~ '^ip_hash [0-9a-f]{64}$' AS ip, actor = session_user AS actor FROM audit_event WHERE event = 'login';

-- Again: the same account, its claims of now; icn goes first, and tokens need not come.
SELECT user_id = :'alice' AS same, session_id <> :'session' AS new_session, jwt_token AS jwt2 FROM create_session('va', NULL, '{"icn": "1012667145V762142", "sub": "other"}') \gset
\echo :same :new_session
SELECT claims FROM account;
SELECT get_access_token('va', :'alice');
SELECT user_id <> :'alice' AS other FROM create_session('va', NULL, '{"sub": "alice"}');
SELECT user_id <> :'alice' AS other FROM create_session('va', NULL, '{"icn": "", "sub": "bob", "email": null}');
SELECT identity_claim, identity FROM account ORDER BY 1, 2;
-- The same value of the other claim is somebody else.
SELECT user_id <> :'alice' AS other FROM create_session('va', NULL, '{"sub": "1012667145V762142"}');
SELECT count(*), count(DISTINCT user_id) AS accounts FROM session_status WHERE identity = '1012667145V762142';
SELECT DISTINCT identity_claim FROM session_status WHERE user_id = :'alice';
SELECT _account_of('va', '{"icn": "1012667145V762142"}') = :'alice' AS same, _account_of('va', '{"sub": "1012667145V762142"}') = :'alice' AS of_sub;
DELETE FROM account WHERE identity_claim = 'sub' AND identity = '1012667145V762142';

-- Refused arguments.
SELECT create_session(NULL, NULL, '{"sub": "x"}');
SELECT create_session('nobody', NULL, '{"sub": "x"}');
SELECT create_session('va', NULL, NULL);
SELECT create_session('va', NULL, '{}');
SELECT create_session('va', NULL, '[]');
SELECT create_session('va', NULL, '{"sub": ""}');
SELECT create_session('va', NULL, '{"sub": 7}');
SELECT create_session('va', NULL, '{"icn": {"a": 1}, "sub": "x"}');
SELECT create_session('va', NULL, jsonb_build_object('sub', repeat('x', 1001)));
SELECT create_session('va', '{}', '{"sub": "x"}');
SELECT create_session('va', NULL, '{"sub": "x"}', '[]');
SELECT create_session('va', NULL, '{"sub": "x"}', '{"ip": 7}');
SELECT create_session('va', NULL, '{"sub": "x"}', jsonb_build_object('a', repeat('x', 20000)));
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, '[]');
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, NULL);
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, '{"jti": "x"}');
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, '{"azp": 5}');
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, '{"azp": null}');
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, '{"n": 1e400}');
SELECT create_session('va', NULL, '{"sub": "x"}', NULL, jsonb_build_object('a', repeat('x', 16000)));
SELECT count(*) FROM account;
SELECT _make_signing_key(NULL, NULL, NULL);
-- One address, however it is written.
SELECT a, ip_hash(a) = ip_hash(b) AS same FROM (VALUES ('192.0.2.1', '::ffff:192.0.2.1'), ('2001:DB8::1', '2001:db8:0::0:1'), ('192.0.2.1', '192.0.2.2'), ('FE80::1%eth0', 'fe80::1%eth0')) v (a, b);

-- What is no JWT, or none of ours, is NULL. hs() signs as whoever has the secret.
CREATE FUNCTION pg_temp.b64u(b bytea) RETURNS text LANGUAGE sql AS $$ SELECT translate(encode(b, 'base64'), E'+/=\n', '-_') $$;
CREATE FUNCTION pg_temp.pad(k bytea, x integer) RETURNS bytea LANGUAGE sql AS
    $$ SELECT decode(string_agg(lpad(to_hex((CASE WHEN i < octet_length(k) THEN get_byte(k, i) ELSE 0 END) # x), 2, '0'), '' ORDER BY i), 'hex') FROM generate_series(0, 63) i $$;
CREATE FUNCTION pg_temp.hs(claims text, header text DEFAULT '{"alg":"HS256"}', secret text DEFAULT repeat('k', 40)) RETURNS text LANGUAGE sql AS $$
SELECT t || '.' || pg_temp.b64u(sha256(pg_temp.pad(secret::bytea, 92) || sha256(pg_temp.pad(secret::bytea, 54) || t::bytea)))
FROM (SELECT pg_temp.b64u(convert_to(header, 'UTF8')) || '.' || pg_temp.b64u(convert_to(claims, 'UTF8')) AS t) x $$;
-- $1: the claims of a good one, with these changes.
CREATE FUNCTION pg_temp.changed(claims jsonb, change jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT validate_jwt(pg_temp.hs(jsonb_strip_nulls(claims || change)::text)) $$;
SELECT pg_temp.changed(:'claims', '{}') = :'claims' AS good, pg_temp.changed(:'claims', '{"x": [1, {"y": "ü"}]}') -> 'x' AS x;
SELECT c.change, pg_temp.changed(:'claims', c.change) FROM (VALUES ('{"exp": null}'::jsonb), ('{"exp": "x"}'), ('{"exp": 1}'), ('{"exp": -1}'), ('{"nbf": 33000000000}'), ('{"iat": 33000000000}'), ('{"aud": "x"}'),
    ('{"jti": null}'), ('{"jti": "x"}'), ('{"jti": 7}'), ('{"jti": "00000000-0000-0000-0000-000000000000"}'), ('{"sub": null}'), ('{"sub": "x"}'), ('{"sub": "00000000-0000-0000-0000-000000000000"}')) c (change);
SELECT validate_jwt(pg_temp.hs(:'claims', '{"alg":"HS256","kid":"shared"}')) IS NOT NULL AS with_kid, validate_jwt(pg_temp.hs(:'claims', '{"alg":"HS256","kid":"other"}')) AS other_kid,
       validate_jwt(pg_temp.hs(:'claims', '{"alg":"none"}')) AS alg_none, validate_jwt(pg_temp.hs(:'claims', secret => repeat('x', 40))) AS other_secret,
       validate_jwt(pg_temp.hs('{"exp":1,' || substr(:'claims', 2))) AS name_twice, validate_jwt(pg_temp.hs(left(:'claims', -1))) AS no_json;
SELECT n, validate_jwt(t) FROM (VALUES (1, NULL), (2, ''), (3, '..'), (4, :'jwt' || '.'), (5, :'jwt' || '.x.y'), (6, left(:'jwt', -1)), (7, ' ' || :'jwt'), (8, :'jwt' || E'\n'), (9, :'jwt' || '='), (10, split_part(:'jwt', '.', 1) || '.' || split_part(:'jwt', '.', 2)),
    (11, split_part(:'jwt', '.', 1) || '.' || split_part(:'jwt', '.', 2) || '.'), (12, repeat('a', 100000000)), (13, repeat('.', 16000)), (14, 'ü.ü.ü'), (15, replace(:'jwt', '.', ' '))) bad (n, t) ORDER BY n;
SELECT validate_jwt(:'jwt') IS NOT NULL AS still_good;

-- Issuer and audience; the lifetime.
SET token_refresh.jwt_issuer = 'https://id.example.com';
SET token_refresh.jwt_audience = 'frontend';
SET token_refresh.jwt_lifetime = '5min';
SELECT validate_jwt(:'jwt') AS of_before;
SELECT jwt_token AS named, expires_at - now() BETWEEN '4 minutes' AND '5 minutes' AS lifetime FROM create_session('va', NULL, '{"sub": "alice"}') \gset
SELECT validate_jwt(:'named') - '{sub,jti,iat,exp}'::text[] AS claims, :'lifetime' AS lifetime;
SET token_refresh.jwt_audience = 'backend';
SELECT validate_jwt(:'named') AS other_audience;
RESET token_refresh.jwt_audience;
SELECT validate_jwt(:'named') AS no_audience;
SET token_refresh.jwt_audience = 'frontend';
SET token_refresh.jwt_issuer = 'https://other.example.com';
SELECT validate_jwt(:'named') AS other_issuer;
RESET token_refresh.jwt_issuer;
SELECT validate_jwt(:'named') IS NOT NULL AS any_issuer;
RESET token_refresh.jwt_audience; RESET token_refresh.jwt_lifetime;
SET token_refresh.jwt_issuer = 'with space';

-- Revocation.
SELECT (validate_jwt(:'jwt2') ->> 'jti')::uuid AS jti2 \gset
SELECT revoke_session(:'jti2'), revoke_session(:'jti2') AS again, revoke_session(NULL) AS of_null, revoke_session(gen_random_uuid()) AS unknown;
SELECT validate_jwt(:'jwt2') AS revoked, validate_jwt(:'jwt') IS NOT NULL AS other_session;
SELECT jwt_token AS jwt2 FROM create_session('va', NULL, '{"icn": "1012667145V762142"}') \gset
SELECT revoke_all_sessions(:'alice'), revoke_all_sessions(NULL) AS of_null, revoke_all_sessions(gen_random_uuid()) AS unknown;
SELECT validate_jwt(:'jwt'), validate_jwt(:'jwt2');
SELECT revoke_all_sessions(:'alice') AS again;
SELECT event, provider, row_key IS NOT NULL AS session, subject = :'alice' AS alice, message FROM audit_event WHERE event IN ('logout', 'logout_all') ORDER BY occurred_at;
SELECT status, count(*) FROM session_status WHERE user_id = :'alice' GROUP BY 1;

-- A session that is over although its JWT is not.
SELECT jwt_token AS jwt, session_id AS session FROM create_session('va', NULL, '{"sub": "bob"}') \gset
SELECT validate_jwt(:'jwt') IS NOT NULL AS good;
UPDATE session SET expires_at = now() WHERE id = :'session';
SELECT validate_jwt(:'jwt');

-- Refreshing.
SELECT jwt_token AS jwt, session_id AS session, user_id AS bob FROM create_session('va', NULL, '{"sub": "bob"}', jwt_claims => '{"role": "member"}') \gset
SELECT refresh_token AS rt1, expires_at - now() BETWEEN '6 days 23:59' AND '7 days' AS week FROM start_session_refresh(:'session') \gset
SELECT :'rt1' ~ '^trs_[A-Za-z0-9_-]{80}$' AS form, :'week' AS week;
SELECT start_session_refresh(:'session');
SELECT start_session_refresh(gen_random_uuid());
SELECT start_session_refresh(NULL);
SELECT user_id = :'bob' AND session_id = :'session' AS same, jwt_token AS jwt_b, expires_at - now() BETWEEN '29 minutes' AND '30 minutes' AS life, new_refresh_token AS rt2, refresh_expires_at - now() <= '7 days' AS week FROM refresh_session(:'rt1') \gset
SELECT validate_jwt(:'jwt_b') ->> 'role' AS role, validate_jwt(:'jwt_b') -> 'jti' = validate_jwt(:'jwt') -> 'jti' AS same_jti, :'rt1' <> :'rt2' AS rotated, :'life' AS life, :'same' AS same, :'week' AS week;
SELECT new_refresh_token = :'rt2' AS same_successor, validate_jwt(jwt_token) IS NOT NULL AS good FROM refresh_session(:'rt1');
SELECT new_refresh_token AS rt3 FROM refresh_session(:'rt2') \gset
SELECT status, refreshes FROM session_status WHERE session_id = :'session';
SELECT count(*) AS garbage FROM unnest(ARRAY[NULL, '', 'trs_', :'rt3' || 'A', left(:'rt3', -1), overlay(:'rt3' PLACING CASE substr(:'rt3', 30, 1) WHEN 'x' THEN 'y' ELSE 'x' END FROM 30), repeat('x', 84), 'trs_' || repeat('A', 80), upper(:'rt3')]) t, refresh_session(t);
SELECT status FROM session_status WHERE session_id = :'session';
-- Of before the last: a copy.
SELECT * FROM refresh_session(:'rt1');
SELECT status, validate_jwt(:'jwt_b') AS jwt FROM session_status WHERE session_id = :'session';
SELECT * FROM refresh_session(:'rt3');
-- The last but one, after its grace period.
SELECT session_id AS session FROM create_session('va', NULL, '{"sub": "bob"}') \gset
SELECT refresh_token AS rt1 FROM start_session_refresh(:'session') \gset
SELECT new_refresh_token AS rt2 FROM refresh_session(:'rt1') \gset
SET token_refresh.session_refresh_grace = 0;
SELECT * FROM refresh_session(:'rt1');
SELECT * FROM refresh_session(:'rt2');
RESET token_refresh.session_refresh_grace;
SELECT event, subject = :'bob' AS bob, message FROM audit_event WHERE event ~ '^session_refresh' ORDER BY occurred_at;
-- A token of a refresh that was rolled back is no good when its number has been reached, and ends nothing.
SELECT session_id AS session FROM create_session('va', NULL, '{"sub": "bob"}') \gset
SELECT refresh_token AS rt1 FROM start_session_refresh(:'session') \gset
BEGIN;
SET LOCAL token_refresh.session_idle_timeout = '1d';
SELECT new_refresh_token AS lost FROM refresh_session(:'rt1') \gset
ROLLBACK;
SELECT new_refresh_token AS rt2 FROM refresh_session(:'rt1') \gset
SELECT count(*) AS lost FROM refresh_session(:'lost');
SELECT count(*) AS good FROM refresh_session(:'rt2');
-- When the end has been set so near that it has passed.
SELECT session_id AS session FROM create_session('va', NULL, '{"sub": "bob"}') \gset
UPDATE session SET created_at = now() - interval '1 hour' WHERE id = :'session';
SET token_refresh.session_max_lifetime = '10min';
SELECT start_session_refresh(:'session');
RESET token_refresh.session_max_lifetime;
SELECT refresh_token AS rt1 FROM start_session_refresh(:'session') \gset
SET token_refresh.session_max_lifetime = '10min';
SELECT count(*) AS refreshed FROM refresh_session(:'rt1');
RESET token_refresh.session_max_lifetime;
SELECT count(*) AS refreshed FROM refresh_session(:'rt1');
-- However often: not beyond the session's end.
SELECT session_id AS session FROM create_session('va', NULL, '{"sub": "bob"}') \gset
SET token_refresh.session_max_lifetime = '10min';
SELECT refresh_token AS rt1, expires_at - now() <= '10 minutes' AS bounded FROM start_session_refresh(:'session') \gset
SELECT :'bounded' AS start, expires_at - now() <= '10 minutes' AS jwt, refresh_expires_at - now() <= '10 minutes' AS refresh FROM refresh_session(:'rt1');
RESET token_refresh.session_max_lifetime;

-- Several signing keys.
SELECT create_signing_key(kid => 'es'), create_signing_key('RS256', 'rs'), create_signing_key('EdDSA', 'ed'), create_signing_key('HS256', 'hs');
SELECT length(create_signing_key()) AS thumbprint;
SELECT k ->> 'kid' = (SELECT kid FROM signing_key WHERE public_jwk = k) AS kid, k - '{x,y,n,kid}'::text[] AS rest FROM jsonb_array_elements(jwks() -> 'keys') k ORDER BY k ->> 'alg', 1;
SELECT retire_signing_key(kid) > now() AS retired FROM signing_key WHERE kid !~ '^(es|rs|ed|hs)$' AND kid <> 'shared';
CREATE FUNCTION pg_temp.header(jwt text) RETURNS jsonb LANGUAGE sql AS $$ SELECT convert_from(decode(rpad(translate(split_part(jwt, '.', 1), '-_', '+/'), (length(split_part(jwt, '.', 1)) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb $$;
CREATE TABLE signed (kid text, jwt text);
DO $$
BEGIN
    FOR i IN 1 .. 4 LOOP
        INSERT INTO signed SELECT pg_temp.header(jwt_token) ->> 'kid', jwt_token FROM token_refresh.create_session('va', NULL, '{"sub": "carol"}');
        PERFORM token_refresh.retire_signing_key((SELECT s.kid FROM signed s ORDER BY s.ctid DESC LIMIT 1));
    END LOOP;
END $$;
SELECT kid, pg_temp.header(jwt) AS header, validate_jwt(jwt) ->> 'jti' IS NOT NULL AS good FROM signed;
SELECT retire_signing_key('rs', '0') <= clock_timestamp() AS ended;
SELECT kid, validate_jwt(jwt) ->> 'jti' IS NOT NULL AS good FROM signed;
SELECT retire_signing_key('rs') <= clock_timestamp() AS not_longer_again, (SELECT array_agg(k ->> 'kid' ORDER BY 1) FROM jsonb_array_elements(jwks() -> 'keys') k WHERE k ->> 'kid' IN ('rs', 'es', 'ed')) AS published;
SELECT retire_signing_key('nobody');
SELECT retire_signing_key(NULL);
SELECT retire_signing_key('es', '-1 second');
SELECT create_signing_key('none');
SELECT create_signing_key('PS256');
SELECT create_signing_key('es256');
SELECT create_signing_key(NULL);
SELECT create_signing_key(kid => 'es');
SELECT create_signing_key(kid => 'a b');
SELECT create_signing_key(kid => '');
SELECT import_signing_key('HS256', 'too short');
SELECT import_signing_key('ES256', 'no pem');
SELECT import_signing_key('HS256', NULL);
SELECT event, count(*) FROM audit_event WHERE event ~ '^signing_key' GROUP BY 1 ORDER BY 1;
SELECT place, current, secrets FROM key_usage WHERE place ~ 'sign|session' ORDER BY 1;

-- Upkeep, and the end.
UPDATE session SET expires_at = now() - interval '2 hours' WHERE revoked_at IS NOT NULL;
SELECT count(*) AS before FROM session \gset
SELECT _tidy_sessions('1 hour');
SELECT :before - count(*) AS tidied_up, count(*) FILTER (WHERE expires_at < now() - interval '1 hour') AS left_over FROM session;
-- By the index, however many sessions live.
INSERT INTO session (account, expires_at, created_at, jwt_claims)
    SELECT a.id, now() + interval '1 hour', now(), '{}' FROM (SELECT id FROM account LIMIT 1) a, generate_series(1, 500);
SET enable_seqscan = off;
BEGIN;
SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) AS read_before FROM pg_stat_xact_user_tables WHERE relid = 'session'::regclass \gset
SELECT _tidy_sessions('1 hour');
SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) - :read_before < 50 AS few_read FROM pg_stat_xact_user_tables WHERE relid = 'session'::regclass;
COMMIT;
RESET enable_seqscan;
SELECT count(*) AS ended_keys FROM signing_key WHERE kid = 'rs';
SELECT drop_provider('va');
DELETE FROM credential;
SELECT drop_provider('va');
DELETE FROM account;
SELECT count(*) AS sessions FROM session;
DROP TABLE signed;
DELETE FROM signing_key;
DELETE FROM session_secret;
SELECT drop_provider('va');
