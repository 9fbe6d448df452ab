-- Refreshes one connection now, whatever its expiry. Run as the role platform, with psql -v user_id=... -v platform=...
\set ON_ERROR_STOP on

SELECT r.success, r.expires_at, r.failure, r.message
FROM public.platform_connections c
CROSS JOIN LATERAL token_refresh.refresh_row('public.platform_connections', c.id::text) r
WHERE c.user_id = :'user_id' AND c.platform = :'platform';
