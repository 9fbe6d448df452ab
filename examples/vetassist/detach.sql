-- Hands the table back to VetAssist. Run as a superuser.
\set ON_ERROR_STOP on

BEGIN;
SELECT token_refresh.detach_table('public.vetassist_va_tokens');

-- The failures stay in the audit of VetAssist: what the view of audit.sql shows, and the table does not have yet.
SELECT to_regclass('public.vetassist_auth_audit_all') IS NOT NULL AS audited \gset
\if :audited
INSERT INTO public.vetassist_auth_audit (user_id, event_type, event_data, created_at)
SELECT a.user_id, a.event_type, a.event_data, a.created_at FROM public.vetassist_auth_audit_all a
    WHERE a.event_type = 'token_refresh_failed'
EXCEPT ALL
SELECT a.user_id, a.event_type, a.event_data, a.created_at FROM public.vetassist_auth_audit a
    WHERE a.event_type = 'token_refresh_failed'
ORDER BY created_at;
\endif

SELECT token_refresh.drop_provider('va');
DROP TRIGGER IF EXISTS audit_va_token_refresh ON public.vetassist_va_tokens;
DROP FUNCTION IF EXISTS public.audit_va_token_refresh();
DROP VIEW IF EXISTS public.vetassist_auth_audit_all;
COMMIT;
