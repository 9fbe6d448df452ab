-- How are the VA tokens? Run as the role vetassist.
\set ON_ERROR_STOP on

\echo == tokens, the next to expire first
SELECT t.user_id, t.expires_at, t.refreshed_at, s.status, s.due_at, s.last_error
FROM public.vetassist_va_tokens t
LEFT JOIN token_refresh.token_status s ON s.token_table = 'public.vetassist_va_tokens'::regclass AND s.row_key = t.id::text
ORDER BY t.expires_at;

\echo == refreshes of the last day
SELECT a.event_type, count(*), count(DISTINCT a.user_id) AS users
FROM public.vetassist_auth_audit_all a
WHERE a.event_type IN ('token_refresh', 'token_refresh_failed') AND a.created_at > now() - interval '1 day'
GROUP BY a.event_type ORDER BY a.event_type;

\echo == who must sign in at VA again
SELECT s.subject AS user_id, s.last_error
FROM token_refresh.token_status s
WHERE s.token_table = 'public.vetassist_va_tokens'::regclass AND s.status = 'needs_reauth'
ORDER BY s.subject;

\echo == what cannot be refreshed for another reason
SELECT s.subject AS user_id, s.last_error
FROM token_refresh.token_status s
WHERE s.token_table = 'public.vetassist_va_tokens'::regclass AND s.status = 'error'
ORDER BY s.subject;
