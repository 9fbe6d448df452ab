-- Registers the platforms and attaches the table. Run as a superuser, with {SPOTIFY,DISCORD,GOOGLE}_CLIENT_ID and
-- _CLIENT_SECRET in the environment. All of it happens, or nothing.
\set ON_ERROR_STOP on
\getenv spotify_id SPOTIFY_CLIENT_ID
\getenv spotify_secret SPOTIFY_CLIENT_SECRET
\getenv discord_id DISCORD_CLIENT_ID
\getenv discord_secret DISCORD_CLIENT_SECRET
\getenv google_id GOOGLE_CLIENT_ID
\getenv google_secret GOOGLE_CLIENT_SECRET
-- Set these to try this out with another server; else the presets say where the platforms' are.
\set spotify_endpoint ''
\getenv spotify_endpoint SPOTIFY_TOKEN_ENDPOINT
\set discord_endpoint ''
\getenv discord_endpoint DISCORD_TOKEN_ENDPOINT
\set google_endpoint ''
\getenv google_endpoint GOOGLE_TOKEN_ENDPOINT

SELECT set_config('attach.missing', coalesce(string_agg(v.name, ', '), ''), false) AS missing
FROM (VALUES ('SPOTIFY_CLIENT_ID', :{?spotify_id}), ('SPOTIFY_CLIENT_SECRET', :{?spotify_secret}),
             ('DISCORD_CLIENT_ID', :{?discord_id}), ('DISCORD_CLIENT_SECRET', :{?discord_secret}),
             ('GOOGLE_CLIENT_ID', :{?google_id}), ('GOOGLE_CLIENT_SECRET', :{?google_secret})) AS v (name, is_set)
WHERE NOT v.is_set \gset
DO $$ BEGIN
    IF current_setting('attach.missing') <> '' THEN
        RAISE EXCEPTION 'not set in the environment: %', current_setting('attach.missing');
    END IF;
END $$;

BEGIN;
-- The statement below has the client secrets in it.
SET LOCAL log_statement = 'none';
SET LOCAL log_min_duration_statement = -1;
SET LOCAL log_min_error_statement = 'panic';

-- The three of Google are one client with one secret, but limits and troubles are counted for each.
SELECT token_refresh.create_provider(p.platform, client_id => p.client_id, client_secret => p.client_secret,
    options => jsonb_strip_nulls(jsonb_build_object('preset', p.preset, 'token_endpoint', nullif(p.token_endpoint, ''))))
FROM (VALUES
    ('spotify',         'spotify', :'spotify_id', :'spotify_secret', :'spotify_endpoint'),
    ('discord',         'discord', :'discord_id', :'discord_secret', :'discord_endpoint'),
    ('youtube',         'google',  :'google_id',  :'google_secret',  :'google_endpoint'),
    ('gmail',           'google',  :'google_id',  :'google_secret',  :'google_endpoint'),
    ('google_calendar', 'google',  :'google_id',  :'google_secret',  :'google_endpoint')
) AS p (platform, preset, client_id, client_secret, token_endpoint);

GRANT USAGE ON SCHEMA token_refresh TO platform;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table, token_refresh.detach_table, token_refresh.get_access_token_from,
    token_refresh.refresh_row, token_refresh.refresh_expiring_tokens, token_refresh.status TO platform;
GRANT SELECT ON token_refresh.token_status TO platform;

-- Only the owner of a table attaches it.
SET LOCAL ROLE platform;
SELECT token_refresh.attach_table('public.platform_connections', jsonb_build_object(
    'provider_column',      'platform',
    'subject_column',       'user_id',
    'access_token_column',  'access_token',
    'refresh_token_column', 'refresh_token',
    'expires_at_column',    'token_expires_at',
    'time_zone',            'UTC',
    'cipher',               'aes-256-gcm-hex',
    'key',                  'platform',
    'filter',               $$ platform_connections.platform <> 'github' $$,
    'status_column',        'status',
    'error_column',         'last_sync_error',
    'result_column',        'last_sync_status',
    'result_values',        jsonb_build_object('success', 'success', 'failure', 'error'),
    'updated_at_column',    'updated_at',
    'refresh_margin',       '5 minutes'));
COMMIT;
