-- How the tokens are. Run as the role onevault.
\set ON_ERROR_STOP on

\echo == tokens by status
SELECT status, count(*) FROM token_refresh.api_token_status GROUP BY status ORDER BY status;

\echo == good for less than seven days, without a successor
SELECT token_id, owner, expires_at, last_used_at FROM token_refresh.api_token_status
WHERE status = 'active' AND expires_at < now() + interval '7 days' AND successor_id IS NULL ORDER BY expires_at;

\echo == what happened within the last day
SELECT event, count(*) FROM token_refresh.audit_event
WHERE event LIKE 'api_token%' AND occurred_at > now() - interval '1 day' GROUP BY event ORDER BY event;
