-- The service as it was: API tokens in a satellite of a data vault. Run as the role onevault.
\set ON_ERROR_STOP on

CREATE SCHEMA auth;

-- A change closes the current version (load_end_date) and inserts another. Of the tokens only SHA-256 hashes are kept.
CREATE TABLE auth.api_token_s (
    api_token_hk bytea NOT NULL,
    load_date timestamptz NOT NULL DEFAULT now(),
    load_end_date timestamptz,
    token_hash bytea NOT NULL,
    token_type varchar(50) NOT NULL DEFAULT 'API',
    scope text[] NOT NULL DEFAULT ARRAY['api:read'],
    user_hk bytea NOT NULL,
    tenant_hk bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    is_revoked boolean NOT NULL DEFAULT false,
    record_source varchar(100) NOT NULL DEFAULT 'auth',
    PRIMARY KEY (api_token_hk, load_date)
);
CREATE INDEX api_token_s_hash ON auth.api_token_s (token_hash) WHERE load_end_date IS NULL;

CREATE FUNCTION auth.validate_production_api_token(p_token text, p_required_scope text DEFAULT 'api:read')
RETURNS TABLE (is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz, message text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        SELECT true, s.user_hk, s.tenant_hk, s.scope, s.expires_at, 'valid'::text FROM auth.api_token_s s
        WHERE s.token_hash = sha256(convert_to(p_token, 'UTF8')) AND s.load_end_date IS NULL
          AND NOT s.is_revoked AND s.expires_at > now() AND p_required_scope = ANY (s.scope);
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, NULL::bytea, NULL::bytea, NULL::text[], NULL::timestamptz, 'not valid'::text;
    END IF;
END $$;
REVOKE ALL ON FUNCTION auth.validate_production_api_token FROM PUBLIC;

-- What the middleware logs in as.
GRANT USAGE ON SCHEMA auth TO onevault_api;
GRANT EXECUTE ON FUNCTION auth.validate_production_api_token TO onevault_api;
