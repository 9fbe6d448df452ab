-- Who has signed in, and who was refused? Run as the role vetassist.
\set ON_ERROR_STOP on

\echo == sessions that live
SELECT u.va_icn, count(*) AS sessions, min(s.expires_at) AS first_to_expire
FROM vetassist_users u JOIN vetassist_sessions s ON s.user_id = u.id
WHERE s.revoked_at IS NULL AND s.expires_at > now()
GROUP BY u.va_icn ORDER BY u.va_icn;

\echo == the last day
SELECT event_type, count(*), count(DISTINCT user_id) AS users
FROM vetassist_auth_audit WHERE created_at > now() - interval '1 day'
GROUP BY event_type ORDER BY event_type;

\echo == sign-ins that were refused within the last hour
SELECT created_at, event_data ->> 'error' AS error
FROM vetassist_auth_audit WHERE event_type = 'login_failed' AND created_at > now() - interval '1 hour'
ORDER BY created_at;

\echo == users who have signed in from more than three addresses within the last day
SELECT user_id, count(DISTINCT ip_hash) AS addresses
FROM vetassist_auth_audit WHERE event_type = 'login' AND created_at > now() - interval '1 day'
GROUP BY user_id HAVING count(DISTINCT ip_hash) > 3 ORDER BY user_id;
