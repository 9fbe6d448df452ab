-- VA as a provider, the key that signs the JWTs, and what the application may do. Run as a superuser, with VA_ISSUER,
-- VA_CLIENT_ID, VA_CLIENT_SECRET and VETASSIST_JWT_SECRET in the environment. All of it happens, or nothing.
\set ON_ERROR_STOP on
\getenv issuer VA_ISSUER
\getenv client_id VA_CLIENT_ID
\getenv client_secret VA_CLIENT_SECRET
\getenv jwt_secret VETASSIST_JWT_SECRET

SELECT set_config('setup.missing', coalesce(string_agg(v.name, ', '), ''), false) AS missing
FROM (VALUES ('VA_ISSUER', :{?issuer}), ('VA_CLIENT_ID', :{?client_id}), ('VA_CLIENT_SECRET', :{?client_secret}),
             ('VETASSIST_JWT_SECRET', :{?jwt_secret})) AS v (name, is_set)
WHERE NOT v.is_set \gset
DO $$ BEGIN
    IF current_setting('setup.missing') <> '' THEN
        RAISE EXCEPTION 'not set in the environment: %', current_setting('setup.missing');
    END IF;
END $$;

BEGIN;
-- The two statements below have secrets in them.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';

-- The endpoints are what the issuer publishes.
SELECT token_refresh.create_provider('va', client_id => :'client_id', client_secret => :'client_secret',
    options => jsonb_build_object('issuer', :'issuer', 'scope', 'openid profile offline_access'));

SELECT token_refresh.import_signing_key('HS256', :'jwt_secret', kid => 'vetassist');

-- What every JWT says, and must say. For sessions of the server that begin from now on.
SELECT current_database() AS database \gset
ALTER DATABASE :"database" SET token_refresh.jwt_issuer = 'vetassist';
ALTER DATABASE :"database" SET token_refresh.jwt_audience = 'vetassist-frontend';
ALTER DATABASE :"database" SET token_refresh.jwt_lifetime = '30min';

GRANT USAGE ON SCHEMA token_refresh TO vetassist;
GRANT EXECUTE ON FUNCTION token_refresh.begin_authorization, token_refresh.complete_authorization, token_refresh.create_session,
    token_refresh.validate_jwt, token_refresh.revoke_session, token_refresh.revoke_all_sessions,
    token_refresh.get_access_token TO vetassist;
-- get_access_token reads with the rights of its caller.
GRANT SELECT ON token_refresh.credential TO vetassist;
COMMIT;
