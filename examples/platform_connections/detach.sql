-- Hands the table back to the service. Run as a superuser.
\set ON_ERROR_STOP on

BEGIN;
SELECT token_refresh.detach_table('public.platform_connections');
SELECT token_refresh.drop_provider(platform)
FROM unnest(ARRAY['spotify', 'discord', 'youtube', 'gmail', 'google_calendar']) AS platform;
COMMIT;
