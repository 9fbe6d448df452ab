-- Puts functions of the same names, arguments and columns in the place of the service's own. Run as the role onevault.
\set ON_ERROR_STOP on

BEGIN;
-- The service's own step aside, to be found again.
CREATE SCHEMA auth_before;
DO $$
DECLARE
    own regprocedure;
BEGIN
    FOR own IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'auth'::regnamespace AND p.proname = ANY (ARRAY[
        'validate_production_api_token', 'validate_and_refresh_api_token', 'refresh_production_token_enhanced',
        'get_token_refresh_status', 'refresh_expiring_tokens_batch', 'test_token_refresh_system'])
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET SCHEMA auth_before', own);
    END LOOP;
END $$;

-- All run with the caller's rights, and name everything by its schema. Those that only read become part of the query
-- that calls them (SQL, STABLE), which costs next to nothing; of the others PL/pgSQL keeps the plans.
CREATE FUNCTION auth.validate_production_api_token(p_token text, p_required_scope text DEFAULT 'api:read')
RETURNS TABLE (is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz, message text)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
SELECT v.is_valid, v.user_hk, v.tenant_hk, v.scope, v.expires_at, v.message
FROM token_refresh.validate_api_token(p_token, p_required_scope) v
$$;

CREATE FUNCTION auth.validate_and_refresh_api_token(p_token text, p_required_scope text DEFAULT 'api:read')
RETURNS TABLE (is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz,
               new_token text, was_refreshed boolean, refresh_reason varchar(100), message text)
    LANGUAGE plpgsql ROWS 1 AS $$
BEGIN
    RETURN QUERY
        SELECT v.is_valid, v.user_hk, v.tenant_hk, v.scope, v.expires_at, v.new_token, v.was_refreshed, v.refresh_reason, v.message
        FROM token_refresh.validate_and_refresh_api_token(p_token, p_required_scope) v;
END $$;

CREATE FUNCTION auth.refresh_production_token_enhanced(p_token text, p_threshold_days integer DEFAULT 7, p_force boolean DEFAULT false)
RETURNS TABLE (success boolean, new_token text, expires_at timestamptz, refresh_reason varchar(100), message text)
    LANGUAGE plpgsql ROWS 1 AS $$
BEGIN
    RETURN QUERY
        SELECT r.success, r.new_token, r.expires_at, r.refresh_reason, r.message
        FROM token_refresh.refresh_api_token(p_token, p_threshold_days, p_force) r;
END $$;

CREATE FUNCTION auth.get_token_refresh_status(p_token text)
RETURNS TABLE (is_valid boolean, expires_at timestamptz, days_until_expiry integer, refresh_recommended boolean,
               refresh_reason varchar(100), message text)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
SELECT s.is_valid, s.expires_at, s.days_until_expiry, s.refresh_recommended, s.refresh_reason, s.message
FROM token_refresh.get_token_refresh_status(p_token) s
$$;

CREATE FUNCTION auth.refresh_expiring_tokens_batch()
RETURNS TABLE (tokens_found integer, tokens_refreshed integer, tokens_failed integer, details jsonb)
    LANGUAGE plpgsql ROWS 1 AS $$
BEGIN
    RETURN QUERY
        SELECT b.tokens_found, b.tokens_refreshed, b.tokens_failed, b.details
        FROM token_refresh.refresh_expiring_tokens_batch(interval '7 days') b;
END $$;

-- The second step rotates the token: what it answers is the successor.
CREATE FUNCTION auth.test_token_refresh_system(p_token text)
RETURNS TABLE (step text, result text, details jsonb)
    LANGUAGE plpgsql ROWS 2 AS $$
BEGIN
    RETURN QUERY
        SELECT 'STEP_1_STATUS', CASE WHEN s.is_valid THEN 'the token is good' ELSE 'the token is no good' END, to_jsonb(s)
        FROM token_refresh.get_token_refresh_status(p_token) s;
    RETURN QUERY
        SELECT 'STEP_2_REFRESH', CASE WHEN r.success THEN 'it can be refreshed' ELSE 'it cannot be refreshed' END, to_jsonb(r)
        FROM token_refresh.refresh_api_token(p_token, 7, true) r;
END $$;

REVOKE ALL ON FUNCTION auth.validate_production_api_token, auth.validate_and_refresh_api_token, auth.refresh_production_token_enhanced,
    auth.get_token_refresh_status, auth.refresh_expiring_tokens_batch, auth.test_token_refresh_system FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.validate_production_api_token, auth.validate_and_refresh_api_token, auth.refresh_production_token_enhanced,
    auth.get_token_refresh_status TO onevault_api;
COMMIT;
