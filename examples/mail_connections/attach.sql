-- Registers Google as a provider and attaches both tables. Run as a superuser, with GOOGLE_CLIENT_ID and
-- GOOGLE_CLIENT_SECRET in the environment. All of it happens, or nothing.
\set ON_ERROR_STOP on
\getenv client_id GOOGLE_CLIENT_ID
\getenv client_secret GOOGLE_CLIENT_SECRET
-- Set it to try this out with another server; else the preset says where Google's is.
\set token_endpoint ''
\getenv token_endpoint GOOGLE_TOKEN_ENDPOINT
\set check_interval '300 s'
\getenv check_interval CHECK_INTERVAL
\set refresh_before_expiry '10 minutes'
\getenv refresh_before_expiry REFRESH_BEFORE_EXPIRY

SELECT set_config('attach.missing', coalesce(string_agg(v.name, ', '), ''), false) AS missing
FROM (VALUES ('GOOGLE_CLIENT_ID', :{?client_id}), ('GOOGLE_CLIENT_SECRET', :{?client_secret})) AS v (name, is_set)
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

SELECT token_refresh.create_provider('google', client_id => :'client_id', client_secret => :'client_secret',
    options => jsonb_strip_nulls(jsonb_build_object('preset', 'google', 'token_endpoint', nullif(:'token_endpoint', ''))));

GRANT USAGE ON SCHEMA token_refresh TO mail;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table, token_refresh.detach_table, token_refresh.get_access_token_from,
    token_refresh.refresh_row, token_refresh.status TO mail;
GRANT SELECT ON token_refresh.token_status TO mail;
GRANT SELECT (relation, poll_interval, refresh_margin) ON token_refresh.token_table TO mail;

-- Only the owner of a table attaches it.
SET LOCAL ROLE mail;
SELECT token_refresh.attach_table(kind.table_name, jsonb_build_object(
    'provider',             'google',
    'label',                kind.label,
    'subject_column',       'tenant_id',
    'access_token_column',  'access_token',
    'refresh_token_column', 'refresh_token',
    'expires_at_column',    'expires_at',
    'cipher',               'aes-256-gcm-hex',
    'key',                  'mail',
    'refresh_margin',       :'refresh_before_expiry',
    'poll_interval',        :'check_interval'))
FROM (VALUES ('public.booking_oauth_tokens'::regclass,  'booking'),
             ('public.stopsale_oauth_tokens'::regclass, 'stopsale')) AS kind (table_name, label);
COMMIT;
