-- Takes the hashes over, and goes on doing so. Run as the role onevault; it may be run again.
\set ON_ERROR_STOP on

BEGIN;
-- Nobody changes a token before the triggers are there.
LOCK TABLE auth.api_token_s IN SHARE ROW EXCLUSIVE MODE;

-- The id of the token; a hash that is known already stays as it is. What no token can have must not make the service's
-- own statement fail: NULL, and a warning.
CREATE OR REPLACE FUNCTION auth.take_over_version(version auth.api_token_s) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN token_refresh.import_api_token(
        version.token_hash, owner => encode(version.user_hk, 'hex'), scope => version.scope, expires_at => version.expires_at,
        prefix => 'ovt_prod_', token_type => version.token_type, user_hk => version.user_hk, tenant_hk => version.tenant_hk,
        issued_at => version.load_date, is_revoked => version.is_revoked);
EXCEPTION WHEN data_exception THEN
    RAISE WARNING 'an API token is not taken over: %', SQLERRM
        USING DETAIL = format('user_hk %s, load_date %s', version.user_hk, version.load_date);
    RETURN NULL;
END $$;

-- The import of a known hash tells its id, whatever else is said. A hash that is not known becomes that of a revoked token.
CREATE OR REPLACE FUNCTION auth.revoke_hash(hash bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF octet_length(hash) = 32 THEN
        PERFORM token_refresh.revoke_api_token(token_refresh.import_api_token(
            hash, owner => 'auth.api_token_s', scope => '{}'::text[], expires_at => now(), prefix => 'ovt_prod_', is_revoked => true));
    END IF;
END $$;

-- Code that still inserts tokens, or revokes them, into the satellite is heard.
CREATE OR REPLACE FUNCTION auth.take_over_api_token() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM auth.take_over_version(NEW);
    IF NEW.is_revoked THEN
        PERFORM auth.revoke_hash(NEW.token_hash);
    END IF;
    RETURN NULL;
END $$;

-- Closed or deleted, and no version has followed.
CREATE OR REPLACE FUNCTION auth.end_api_token() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM auth.api_token_s s WHERE s.token_hash = OLD.token_hash AND s.load_end_date IS NULL
                   AND NOT s.is_revoked AND s.token_type IN ('API', 'PRODUCTION', 'API_KEY')) THEN
        PERFORM auth.revoke_hash(OLD.token_hash);
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION auth.take_over_version, auth.revoke_hash, auth.take_over_api_token, auth.end_api_token FROM PUBLIC;

SELECT count(auth.take_over_version(s)) FROM auth.api_token_s s
WHERE load_end_date IS NULL AND token_type IN ('API', 'PRODUCTION', 'API_KEY');

-- What has ended while no trigger was there, as after switching back.
DO $$
BEGIN
    PERFORM auth.revoke_hash(s.token_hash) FROM auth.api_token_s s
        WHERE s.token_type IN ('API', 'PRODUCTION', 'API_KEY')
        GROUP BY s.token_hash HAVING max(s.expires_at) > now() AND NOT bool_or(s.load_end_date IS NULL AND NOT s.is_revoked);
END $$;

CREATE OR REPLACE TRIGGER take_over_api_token AFTER INSERT OR UPDATE ON auth.api_token_s
    FOR EACH ROW WHEN (NEW.load_end_date IS NULL AND NEW.token_type IN ('API', 'PRODUCTION', 'API_KEY'))
    EXECUTE FUNCTION auth.take_over_api_token();

-- At the end of the transaction: a vault closes a version first, and inserts the next one then. A constraint trigger
-- cannot be replaced.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'auth.api_token_s'::regclass AND tgname = 'end_api_token') THEN
        CREATE CONSTRAINT TRIGGER end_api_token AFTER UPDATE OR DELETE ON auth.api_token_s
            DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (OLD.load_end_date IS NULL AND OLD.token_type IN ('API', 'PRODUCTION', 'API_KEY'))
            EXECUTE FUNCTION auth.end_api_token();
    END IF;
END $$;
COMMIT;
