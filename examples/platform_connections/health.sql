-- The platforms of one user, as GET /platforms/health gives them. Run as the role platform, with psql -v user_id=...
\set ON_ERROR_STOP on

SELECT json_build_object('health', json_agg(json_build_object(
    'platform', wanted.platform,
    'connected', is_there.connected,
    'status', CASE WHEN is_there.connected THEN 'healthy' ELSE 'needs_reconnect' END) ORDER BY wanted.position))
FROM unnest(ARRAY['spotify', 'youtube', 'discord']) WITH ORDINALITY AS wanted (platform, position)
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM public.platform_connections c
                   JOIN token_refresh.token_status s ON s.token_table = 'public.platform_connections'::regclass
                                                    AND s.row_key = c.id::text
                   WHERE c.user_id = :'user_id' AND c.platform = wanted.platform AND s.status = 'connected') AS connected
) AS is_there;
