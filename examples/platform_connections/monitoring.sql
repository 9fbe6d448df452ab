-- The service's own three questions. Run as the role platform.
\set ON_ERROR_STOP on

-- token_expires_at has no time zone and means UTC; compared with now() it means the session's.
SET TimeZone = 'UTC';

\echo == tokens that expire within an hour
SELECT platform, count(*) FROM public.platform_connections
WHERE token_expires_at < now() + interval '1 hour'
GROUP BY platform ORDER BY platform;

\echo == connections whose user must sign in again
SELECT platform, count(*) FROM public.platform_connections
WHERE status = 'needs_reauth'
GROUP BY platform ORDER BY platform;

\echo == failed refreshes
SELECT platform, last_sync_error, count(*) FROM public.platform_connections
WHERE last_sync_status = 'error'
GROUP BY platform, last_sync_error ORDER BY platform, last_sync_error;
