-- The service's own three questions, and a fourth. Run as the role platform.
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

-- The table does not show rows that cannot be served at all: a ciphertext that does not open, a platform that is no
-- provider.
\echo == connections that cannot be refreshed, which the table does not say
SELECT c.platform, s.last_error, count(*)
FROM token_refresh.token_status s
JOIN public.platform_connections c ON c.id::text = s.row_key
WHERE s.token_table = 'public.platform_connections'::regclass AND s.status = 'error'
  AND c.status IS DISTINCT FROM 'error' AND c.platform <> 'github'
GROUP BY c.platform, s.last_error ORDER BY c.platform, s.last_error;
