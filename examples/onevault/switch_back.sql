-- Puts the service's own functions back, and tells the satellite what has become of the tokens. Run as a superuser,
-- who alone sees hashes.
\set ON_ERROR_STOP on

BEGIN;
DROP TRIGGER take_over_api_token ON auth.api_token_s;
DROP TRIGGER end_api_token ON auth.api_token_s;
DROP FUNCTION auth.take_over_api_token, auth.end_api_token, auth.take_over_version(auth.api_token_s), auth.revoke_hash,
    auth.validate_production_api_token, auth.validate_and_refresh_api_token,
    auth.refresh_production_token_enhanced, auth.get_token_refresh_status, auth.refresh_expiring_tokens_batch,
    auth.test_token_refresh_system;
DO $$
DECLARE
    own regprocedure;
BEGIN
    FOR own IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'auth_before'::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET SCHEMA auth', own);
    END LOOP;
END $$;
DROP SCHEMA auth_before;

-- Revoked, or replaced by a successor since longer than the grace period.
WITH closed AS (
    UPDATE auth.api_token_s s SET load_end_date = now()
        FROM token_refresh.api_token t
        WHERE t.token_hash = s.token_hash AND s.load_end_date IS NULL AND NOT s.is_revoked
          AND (t.revoked_at IS NOT NULL OR t.retires_at <= now())
        RETURNING s.*
)
INSERT INTO auth.api_token_s (api_token_hk, token_hash, token_type, scope, user_hk, tenant_hk, expires_at, is_revoked, record_source)
    SELECT api_token_hk, token_hash, token_type, scope, user_hk, tenant_hk, expires_at, true, 'token_refresh' FROM closed;

-- What has been issued here, and successors that somebody has got.
INSERT INTO auth.api_token_s (api_token_hk, load_date, token_hash, token_type, scope, user_hk, tenant_hk, expires_at, record_source)
    SELECT sha256(t.token_hash), t.issued_at, t.token_hash, t.token_type::varchar(50), t.scope, t.user_hk, t.tenant_hk, t.expires_at, 'token_refresh'
    FROM token_refresh.api_token t JOIN token_refresh.api_token_status s ON s.token_id = t.id
    WHERE s.status IN ('active', 'grace') AND s.user_hk IS NOT NULL AND s.tenant_hk IS NOT NULL
      AND NOT EXISTS (SELECT FROM auth.api_token_s v WHERE v.token_hash = t.token_hash);

DO $$
DECLARE
    homeless bigint := count(*) FROM token_refresh.api_token_status
        WHERE status IN ('active', 'grace') AND (user_hk IS NULL OR tenant_hk IS NULL);
BEGIN
    IF homeless > 0 THEN
        RAISE WARNING 'API tokens that stay behind, since the satellite wants user_hk and tenant_hk: %', homeless;
    END IF;
END $$;
COMMIT;
