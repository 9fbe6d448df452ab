-- Users, sessions and audit, under the names and columns that VetAssist knows. Run as a superuser, to whom the views
-- belong: they read what vetassist itself may not.
\set ON_ERROR_STOP on

BEGIN;
CREATE OR REPLACE VIEW public.vetassist_users AS
SELECT a.id, a.identity AS va_icn, coalesce(a.claims ->> 'veteran_status', 'unknown') AS va_veteran_status,
       a.claims ->> 'email' AS email, a.claims ->> 'first_name' AS first_name, a.claims ->> 'last_name' AS last_name,
       a.created_at, a.last_login_at
FROM token_refresh.account a
WHERE a.provider = 'va';

CREATE OR REPLACE VIEW public.vetassist_sessions AS
SELECT s.session_id AS id, s.user_id, s.jwt_id, s.device_info, s.created_at, s.expires_at, s.revoked_at
FROM token_refresh.session_status s
WHERE s.provider = 'va';

-- A sign-in that was refused has no user. Of the ICN and the JWT id there are eight characters, as there were.
CREATE OR REPLACE VIEW public.vetassist_auth_audit AS
SELECT CASE WHEN e.subject ~ '^[0-9a-f-]{36}$' THEN e.subject::uuid END AS user_id,
       CASE e.event WHEN 'refreshed' THEN 'token_refresh'
                    WHEN 'refresh_failed' THEN 'token_refresh_failed'
                    WHEN 'needs_reauth' THEN 'token_refresh_failed'
                    WHEN 'authorization_refused' THEN 'login_failed'
                    ELSE e.event END AS event_type,
       CASE e.event WHEN 'login' THEN jsonb_build_object('method', 'va_oauth', 'icn', left(a.identity, 8) || '...')
                    WHEN 'logout' THEN jsonb_build_object('jwt_id', left(s.jwt_id::text, 8))
                    WHEN 'logout_all' THEN '{}'
                    WHEN 'refreshed' THEN '{"success": true}'
                    ELSE jsonb_build_object('error', left(concat_ws(': ', e.failure, e.message), 200)) END AS event_data,
       CASE e.event WHEN 'login' THEN substr(e.message, length('ip_hash ') + 1) END AS ip_hash,
       e.occurred_at AS created_at
FROM token_refresh.audit_event e
LEFT JOIN token_refresh.account a ON a.id::text = e.subject
LEFT JOIN token_refresh.session s ON s.id::text = e.row_key AND e.event = 'logout'
WHERE e.provider = 'va'
  AND e.event IN ('login', 'logout', 'logout_all', 'authorization_refused', 'refreshed', 'refresh_failed', 'needs_reauth');

GRANT SELECT ON public.vetassist_users, public.vetassist_sessions, public.vetassist_auth_audit TO vetassist;
COMMIT;
