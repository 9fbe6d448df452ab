-- The provider, a key that signs sessions, and the role that the application logs in as. Run as a superuser, with ISSUER,
-- CLIENT_ID and CLIENT_SECRET in the environment. All of it happens, or nothing.
\set ON_ERROR_STOP on
\getenv issuer ISSUER
\getenv client_id CLIENT_ID
\getenv client_secret CLIENT_SECRET
\set scope 'openid profile offline_access'
\getenv scope SCOPE
\set params '{"prompt": "consent"}'
\getenv params AUTHORIZATION_PARAMS

SELECT set_config('setup.missing', coalesce(string_agg(v.name, ', '), ''), false) AS missing
FROM (VALUES ('ISSUER', :{?issuer}), ('CLIENT_ID', :{?client_id}), ('CLIENT_SECRET', :{?client_secret})) AS v (name, is_set)
WHERE NOT v.is_set \gset
DO $$ BEGIN
    IF current_setting('setup.missing') <> '' THEN
        RAISE EXCEPTION 'not set in the environment: %', current_setting('setup.missing');
    END IF;
END $$;

BEGIN;
-- The statement below has the client secret in it.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';

-- What the issuer publishes says where its endpoints are, and with which keys it signs.
SELECT token_refresh.create_provider('openid', client_id => :'client_id', client_secret => :'client_secret',
    options => jsonb_build_object('issuer', :'issuer', 'scope', :'scope', 'authorization_params', :'params'::jsonb));

SELECT token_refresh.create_signing_key() WHERE NOT EXISTS (SELECT FROM token_refresh.signing_key WHERE retired_at IS NULL);

SELECT 'CREATE ROLE signin_app LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'signin_app') \gexec
GRANT USAGE ON SCHEMA token_refresh TO signin_app;
GRANT EXECUTE ON FUNCTION token_refresh.begin_authorization, token_refresh.complete_authorization, token_refresh.create_session,
    token_refresh.validate_jwt, token_refresh.revoke_session, token_refresh.revoke_all_sessions, token_refresh.get_token,
    token_refresh.disconnect TO signin_app;
-- get_token reads with the rights of its caller; disconnect locks the row and deletes it with them.
GRANT SELECT, UPDATE (status), DELETE ON token_refresh.credential TO signin_app;
COMMIT;
