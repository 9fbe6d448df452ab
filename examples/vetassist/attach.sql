-- Registers VA as a provider and attaches the table. Run as a superuser, with VA_TOKEN_ENDPOINT, VA_CLIENT_ID and
-- VA_CLIENT_SECRET in the environment. All of it happens, or nothing.
\set ON_ERROR_STOP on
\getenv token_endpoint VA_TOKEN_ENDPOINT
\getenv client_id VA_CLIENT_ID
\getenv client_secret VA_CLIENT_SECRET
\set poll_interval '60 s'
\getenv poll_interval POLL_INTERVAL

SELECT set_config('attach.missing', coalesce(string_agg(v.name, ', '), ''), false) AS missing
FROM (VALUES ('VA_TOKEN_ENDPOINT', :{?token_endpoint}), ('VA_CLIENT_ID', :{?client_id}),
             ('VA_CLIENT_SECRET', :{?client_secret})) AS v (name, is_set)
WHERE NOT v.is_set \gset
DO $$ BEGIN
    IF current_setting('attach.missing') <> '' THEN
        RAISE EXCEPTION 'not set in the environment: %', current_setting('attach.missing');
    END IF;
END $$;

BEGIN;
-- The statement below has the client secret in it.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';

SELECT token_refresh.create_provider('va', client_id => :'client_id', client_secret => :'client_secret',
    options => jsonb_build_object('token_endpoint', :'token_endpoint'));

GRANT USAGE ON SCHEMA token_refresh TO vetassist;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table, token_refresh.detach_table, token_refresh.get_access_token_from,
    token_refresh.refresh_row, token_refresh.status TO vetassist;
GRANT SELECT ON token_refresh.token_status TO vetassist;

-- Only the owner of a table attaches it.
SET LOCAL ROLE vetassist;
SELECT token_refresh.attach_table('public.vetassist_va_tokens', jsonb_build_object(
    'provider',             'va',
    'subject_column',       'user_id',
    'access_token_column',  'access_token_encrypted',
    'refresh_token_column', 'refresh_token_encrypted',
    'expires_at_column',    'expires_at',
    'refreshed_at_column',  'refreshed_at',
    'cipher',               jsonb_build_object('decrypt', 'public.decrypt_va_token', 'encrypt', 'public.encrypt_va_token'),
    'filter',               $$ EXISTS (SELECT FROM public.vetassist_users u
                                       WHERE u.id = vetassist_va_tokens.user_id AND u.is_active) $$,
    'refresh_margin',       '5 minutes',
    'poll_interval',        :'poll_interval'));
COMMIT;
