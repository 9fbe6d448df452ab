-- Numbers for a monitoring service: what happened within the last hour, and how it stands. Run as a superuser: the audit
-- is that of the whole database.
\set ON_ERROR_STOP on

\echo == refreshes of the last hour
SELECT e.provider AS platform, CASE WHEN e.event = 'refreshed' THEN 'success' ELSE 'failed' END AS result,
       e.failure AS reason, count(*)
FROM token_refresh.audit_event e
JOIN token_refresh.token_table t ON t.id = e.token_table AND t.relation = 'public.platform_connections'::regclass
WHERE e.event IN ('refreshed', 'refresh_failed', 'needs_reauth') AND e.occurred_at > now() - interval '1 hour'
GROUP BY e.provider, result, e.failure ORDER BY e.provider, result, e.failure;

\echo == connections
SELECT c.provider AS platform, sum(c.count) AS count, sum(c.expiring_soon) AS expiring_soon,
       sum(c.expired) AS expired, sum(c.needs_reauth) AS needs_reauth
FROM jsonb_to_recordset(token_refresh.status() -> 'credentials')
    AS c (provider text, count integer, expiring_soon integer, expired integer, needs_reauth integer)
WHERE c.provider IS NOT NULL GROUP BY c.provider ORDER BY c.provider;
