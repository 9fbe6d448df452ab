-- Hands both tables back to the mail service. Run as a superuser.
\set ON_ERROR_STOP on

BEGIN;
SELECT token_refresh.detach_table('public.booking_oauth_tokens');
SELECT token_refresh.detach_table('public.stopsale_oauth_tokens');
SELECT token_refresh.drop_provider('google');
COMMIT;
