-- Roles, functions and a table for PostgREST. Run as a superuser, with ISSUER, CLIENT_ID and CLIENT_SECRET in the
-- environment. All of it happens, or nothing.
\set ON_ERROR_STOP on
\getenv issuer ISSUER
\getenv client_id CLIENT_ID
\getenv client_secret CLIENT_SECRET

BEGIN;
-- The next statement has the client secret in it.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';
SELECT token_refresh.create_provider('main', client_id => :'client_id', client_secret => :'client_secret',
    options => jsonb_build_object('issuer', :'issuer', 'scope', 'openid profile offline_access'));
-- ES256: PostgREST verifies with the public key.
SELECT token_refresh.create_signing_key();

-- PostgREST connects as authenticator, which reads the public keys, and becomes one of the next two.
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE web_anon NOLOGIN;
CREATE ROLE web_user NOLOGIN;
GRANT web_anon, web_user TO authenticator;

-- Whose the schema and its functions are. Nobody signs in as this.
CREATE ROLE api_owner NOLOGIN;
CREATE SCHEMA api AUTHORIZATION api_owner;
GRANT USAGE ON SCHEMA token_refresh TO api_owner, authenticator, web_anon, web_user;
GRANT EXECUTE ON FUNCTION token_refresh.begin_authorization, token_refresh.complete_authorization, token_refresh.create_session,
    token_refresh.revoke_session, token_refresh.revoke_all_sessions TO api_owner;
GRANT SELECT (id, claims, last_login_at) ON token_refresh.account TO api_owner;
GRANT SELECT (user_id, status) ON token_refresh.session_status TO api_owner;
-- A function that is to change the role cannot be SECURITY DEFINER, so who asks must be allowed to validate.
GRANT EXECUTE ON FUNCTION token_refresh.validate_jwt TO web_anon, web_user;
GRANT EXECUTE ON FUNCTION token_refresh.jwks TO authenticator;
SET LOCAL ROLE api_owner;

-- db-pre-config. Whenever PostgREST reads its configuration it gets the public keys that are good now.
CREATE FUNCTION api.pre_config() RETURNS void
    LANGUAGE sql AS $$
SELECT set_config('pgrst.jwt_secret', token_refresh.jwks()::text, true)
$$;

-- db-pre-request. PostgREST has found the signature good, and taken the role of the JWT. Whether its session lives is asked
-- here, and what all else relies on is set here: the claims. Settings of a transaction are text, and '' after it.
CREATE FUNCTION api.check_request() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    headers jsonb := nullif(current_setting('request.headers', true), '');
    token text := substring(headers ->> 'authorization' FROM '^[Bb]earer +(\S+)\s*$');
    claims jsonb := token_refresh.validate_jwt(token);
BEGIN
    IF claims IS NOT NULL THEN
        PERFORM set_config('api.claims', claims::text, true), set_config('request.jwt.claims', claims::text, true),
                set_config('role', 'web_user', true);
    ELSIF headers ? 'authorization' OR current_user <> 'web_anon' THEN
        RAISE SQLSTATE 'PT401' USING message = 'the session is over', hint = 'Sign in again.';
    ELSE
        PERFORM set_config('api.claims', '', true);
    END IF;
END $$;

-- NULL: nobody has signed in.
CREATE FUNCTION api.user_id() RETURNS uuid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT (nullif(current_setting('api.claims', true), '')::jsonb ->> 'sub')::uuid
$$;

-- Where to send the browser. The state goes into a cookie, by which the browser is known when it comes back.
CREATE FUNCTION api.sign_in_begin(redirect_uri text) RETURNS TABLE (authorization_url text)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    state text;
BEGIN
    SELECT b.authorization_url, b.state INTO authorization_url, state
        FROM token_refresh.begin_authorization('main', redirect_uri => redirect_uri) b;
    PERFORM set_config('response.headers', jsonb_build_array(jsonb_build_object('Set-Cookie',
        format('__Host-sign_in=%s; Path=/; Max-Age=600; Secure; HttpOnly; SameSite=Lax', state)))::text, true);
    RETURN NEXT;
END $$;

-- With what the browser has come back with. Errors of the sign-in itself are 28000 and 08006: 403 and 503.
CREATE FUNCTION api.sign_in_complete(state text, code text, iss text DEFAULT NULL) RETURNS TABLE (jwt_token text, expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    headers jsonb := nullif(current_setting('request.headers', true), '');
    cookies jsonb := nullif(current_setting('request.cookies', true), '');
BEGIN
    IF state = (cookies ->> '__Host-sign_in') IS NOT TRUE THEN
        RAISE SQLSTATE 'PT403' USING message = 'this browser has not begun this sign-in';
    END IF;
    SELECT s.jwt_token, s.expires_at INTO STRICT jwt_token, expires_at
        FROM token_refresh.complete_authorization(state, code, expected_provider => 'main', iss => iss) c,
             LATERAL token_refresh.create_session(c.provider, token_response => NULL, claims => c.claims,
                 device_info => jsonb_build_object('ip', left(headers ->> 'x-real-ip', 100), 'user_agent', left(headers ->> 'user-agent', 500)),
                 jwt_claims => '{"role": "web_user"}') s;
    PERFORM set_config('response.headers',
        '[{"Set-Cookie": "__Host-sign_in=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"}, {"Cache-Control": "no-store"}]', true);
    RETURN NEXT;
END $$;

CREATE FUNCTION api.sign_out() RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT token_refresh.revoke_session((nullif(current_setting('api.claims', true), '')::jsonb ->> 'jti')::uuid)
$$;

CREATE FUNCTION api.sign_out_everywhere() RETURNS integer
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT token_refresh.revoke_all_sessions(api.user_id())
$$;

-- STABLE, so that GET will do.
CREATE FUNCTION api.me() RETURNS TABLE (user_id uuid, name text, last_login_at timestamptz, sessions bigint)
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
SELECT a.id, a.claims ->> 'name', a.last_login_at,
       (SELECT count(*) FROM token_refresh.session_status s WHERE s.user_id = a.id AND s.status = 'active')
FROM token_refresh.account a WHERE a.id = api.user_id()
$$;

-- What the application is about: everybody has notes, and sees nobody else's.
CREATE TABLE api.note (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner uuid NOT NULL DEFAULT api.user_id(),
    body text NOT NULL
);
CREATE INDEX note_owner ON api.note (owner);
ALTER TABLE api.note ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_notes ON api.note TO web_user USING (owner = (SELECT api.user_id()));

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA api FROM PUBLIC;
GRANT USAGE ON SCHEMA api TO authenticator, web_anon, web_user;
GRANT EXECUTE ON FUNCTION api.pre_config TO authenticator;
GRANT EXECUTE ON FUNCTION api.check_request TO web_anon, web_user;
GRANT EXECUTE ON FUNCTION api.sign_in_begin, api.sign_in_complete TO web_anon;
GRANT EXECUTE ON FUNCTION api.user_id, api.me, api.sign_out, api.sign_out_everywhere TO web_user;
GRANT SELECT, INSERT (body), UPDATE (body), DELETE ON api.note TO web_user;
COMMIT;
