-- Hands the table back to VetAssist. Run as a superuser.
\set ON_ERROR_STOP on

BEGIN;
SELECT token_refresh.detach_table('public.vetassist_va_tokens');
SELECT token_refresh.drop_provider('va');
DROP TRIGGER IF EXISTS audit_va_token_refresh ON public.vetassist_va_tokens;
DROP FUNCTION IF EXISTS public.audit_va_token_refresh();
DROP VIEW IF EXISTS public.vetassist_auth_audit_all;
COMMIT;
