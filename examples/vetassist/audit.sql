-- The audit of refreshes, where VetAssist looks for it. Run as a superuser, after attach.sql.
\set ON_ERROR_STOP on

BEGIN;
SET LOCAL ROLE vetassist;

CREATE OR REPLACE FUNCTION audit_va_token_refresh() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.vetassist_auth_audit (user_id, event_type, event_data)
        VALUES (new.user_id, 'token_refresh', '{"success": true}');
    RETURN NULL;
END $$;

-- A sign-in sets refreshed_at, too. The refresher writes in the name of the table's owner, in a session of the role
-- that initdb has made (its oid is 10); the application signs in as another role.
CREATE OR REPLACE TRIGGER audit_va_token_refresh AFTER UPDATE OF refreshed_at ON public.vetassist_va_tokens
    FOR EACH ROW WHEN (new.refreshed_at IS DISTINCT FROM old.refreshed_at
                       AND session_user = pg_get_userbyid(10) AND session_user <> current_user)
    EXECUTE FUNCTION public.audit_va_token_refresh();

-- A failed refresh changes nothing in the table, so no trigger sees it. The extension's own audit has it, and this
-- view, which belongs to the superuser, shows of that audit what concerns the users of VetAssist. Only since the
-- provider was created: what was before detach.sql has put into the table.
RESET ROLE;
CREATE OR REPLACE VIEW public.vetassist_auth_audit_all AS
SELECT a.user_id, a.event_type, a.event_data, a.created_at
FROM public.vetassist_auth_audit a
UNION ALL
SELECT u.id, 'token_refresh_failed', jsonb_build_object('error', left(concat_ws(': ', e.failure, e.message), 200)), e.occurred_at
FROM token_refresh.audit_event e
JOIN token_refresh.provider p ON p.name = e.provider AND p.created_at <= e.occurred_at
JOIN public.vetassist_users u ON u.id::text = e.subject
WHERE e.provider = 'va' AND e.event IN ('refresh_failed', 'needs_reauth');
GRANT SELECT ON public.vetassist_auth_audit_all TO vetassist;
COMMIT;
