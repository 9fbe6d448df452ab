------------------------------------------------------------------------------
-- API tokens: the contract. Whoever may execute these needs no privilege on the tables: presenting the token is what counts.
------------------------------------------------------------------------------

CREATE FUNCTION issue_api_token(owner text, scope text[], expires_in interval DEFAULT '90 days', prefix text DEFAULT 'tr_',
                                token_type text DEFAULT 'API', user_hk bytea DEFAULT NULL, tenant_hk bytea DEFAULT NULL,
                                refresh_if_used_within interval DEFAULT NULL)
RETURNS TABLE (token text, token_id bigint, expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made record;
BEGIN
    PERFORM @extschema@._check_api_token(owner, scope, prefix, token_type, refresh_if_used_within);
    PERFORM @extschema@._require('expires_in', expires_in IS NULL);
    IF expires_in <= interval '0' OR expires_in > interval '100 years' THEN
        RAISE EXCEPTION 'argument "expires_in" must be more than 0 and at most 100 years' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    made := @extschema@._make_api_token(prefix);
    token := made.token;
    token_id := nextval('@extschema@.api_token_id_seq');
    INSERT INTO @extschema@.api_token AS t (id, expires_at, lifetime, token_hash, scope, user_hk, tenant_hk, family, owner, prefix, token_type, refresh_if_used_within)
        VALUES (token_id, now() + expires_in, expires_in, made.token_hash, scope, user_hk, tenant_hk, token_id, owner, prefix, token_type, refresh_if_used_within)
        RETURNING t.expires_at INTO expires_at;
    INSERT INTO @extschema@.audit_event (event, row_key, subject) VALUES ('api_token_issued', token_id::text, owner);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION issue_api_token(text, text[], interval, text, text, bytea, bytea, interval) IS 'a new API token; this is the only time that it can be read';

CREATE FUNCTION _check_api_token(owner text, scope text[], prefix text, token_type text, refresh_if_used_within interval) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bad text;
BEGIN
    PERFORM @extschema@._require('owner', owner IS NULL);
    PERFORM @extschema@._require('scope', scope IS NULL);
    PERFORM @extschema@._require('prefix', prefix IS NULL);
    PERFORM @extschema@._require('token_type', token_type IS NULL);
    IF length(owner) NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'argument "owner" must be 1 to 1000 characters long' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(token_type) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'argument "token_type" must be 1 to 100 characters long' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF refresh_if_used_within <= interval '0' THEN
        RAISE EXCEPTION 'argument "refresh_if_used_within" must be more than 0' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF coalesce(array_ndims(scope), 1) <> 1 OR cardinality(scope) > 100 THEN
        RAISE EXCEPTION 'argument "scope" must be a list of at most 100 scopes' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT coalesce(s.scope, 'NULL') INTO bad FROM unnest(scope) AS s (scope)
        WHERE NOT coalesce(@extschema@._is_grantable_scope(s.scope), false) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'invalid scope "%"', bad
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A scope has 1 to 256 printable ASCII characters without spaces, quotes and backslashes; a star is allowed as "*" and at the end after a colon, as in "api:*".';
    END IF;
END $$;
COMMENT ON FUNCTION _check_api_token(text, text[], text, text, interval) IS 'internal: refuses arguments that no token can have';

CREATE FUNCTION import_api_token(token_hash bytea, owner text, scope text[], expires_at timestamptz, prefix text DEFAULT '', token_type text DEFAULT 'API',
                                 user_hk bytea DEFAULT NULL, tenant_hk bytea DEFAULT NULL, issued_at timestamptz DEFAULT now(),
                                 is_revoked boolean DEFAULT false, refresh_if_used_within interval DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    new_id bigint;
BEGIN
    PERFORM @extschema@._require('token_hash', token_hash IS NULL);
    PERFORM @extschema@._require('expires_at', expires_at IS NULL);
    PERFORM @extschema@._require('issued_at', issued_at IS NULL);
    PERFORM @extschema@._require('is_revoked', is_revoked IS NULL);
    PERFORM @extschema@._check_api_token(owner, scope, prefix, token_type, refresh_if_used_within);
    IF octet_length(token_hash) <> 32 THEN
        RAISE EXCEPTION 'argument "token_hash" must be a SHA-256 digest of 32 bytes, not of %', octet_length(token_hash)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is the digest of the token''s characters: sha256(convert_to(token, ''UTF8'')).';
    END IF;
    IF NOT isfinite(expires_at) OR NOT isfinite(issued_at) THEN
        RAISE EXCEPTION 'arguments "expires_at" and "issued_at" must be finite' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF issued_at > now() THEN
        RAISE EXCEPTION 'argument "issued_at" must not be in the future' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Its successors begin as it does.
    PERFORM @extschema@._make_api_token(prefix);
    IF NOT EXISTS (SELECT FROM @extschema@.imported_token_prefix p WHERE p.prefix = import_api_token.prefix) THEN
        INSERT INTO @extschema@.imported_token_prefix (prefix) VALUES (prefix) ON CONFLICT DO NOTHING;
    END IF;
    new_id := nextval('@extschema@.api_token_id_seq');
    INSERT INTO @extschema@.api_token AS t (id, expires_at, lifetime, token_hash, scope, user_hk, tenant_hk, family, owner, prefix, token_type, issued_at,
                                            refresh_if_used_within, imported, revoked_at, revoke_reason)
        VALUES (new_id, expires_at, greatest(least(expires_at, issued_at + interval '100 years') - issued_at, interval '1 day'), token_hash, scope, user_hk, tenant_hk, new_id, owner, prefix, token_type,
                issued_at, refresh_if_used_within, true, CASE WHEN is_revoked THEN now() END, CASE WHEN is_revoked THEN 'imported as revoked' END)
        ON CONFLICT ON CONSTRAINT api_token_hash DO NOTHING RETURNING t.id INTO new_id;
    IF new_id IS NULL THEN
        SELECT t.id INTO new_id FROM @extschema@.api_token t WHERE t.token_hash = import_api_token.token_hash;
    END IF;
    RETURN new_id;
END $$;
COMMENT ON FUNCTION import_api_token(bytea, text, text[], timestamptz, text, text, bytea, bytea, timestamptz, boolean, interval) IS 'takes over a token of which another system has stored the SHA-256 hash; a hash that is there already stays as it is';

CREATE FUNCTION import_api_token(token_hash text, owner text, scope text[], expires_at timestamptz, prefix text DEFAULT '', token_type text DEFAULT 'API',
                                 user_hk bytea DEFAULT NULL, tenant_hk bytea DEFAULT NULL, issued_at timestamptz DEFAULT now(),
                                 is_revoked boolean DEFAULT false, refresh_if_used_within interval DEFAULT NULL) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT @extschema@.import_api_token(decode(regexp_replace(token_hash, '^\\x', ''), 'hex'), owner, scope, expires_at, prefix, token_type,
                                    user_hk, tenant_hk, issued_at, is_revoked, refresh_if_used_within)
$$;
COMMENT ON FUNCTION import_api_token(text, text, text[], timestamptz, text, text, bytea, bytea, timestamptz, boolean, interval) IS 'the same, of a hash in hexadecimal digits';

CREATE FUNCTION validate_api_token(p_token text, p_required_scope text DEFAULT NULL)
RETURNS TABLE (is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz, message text)
    LANGUAGE c ROWS 1 PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_refresh_validate_api_token';
COMMENT ON FUNCTION validate_api_token(text, text) IS 'whether an API token is good, and whose it is; writes nothing';

CREATE FUNCTION validate_and_refresh_api_token(p_token text, p_required_scope text DEFAULT 'api:read')
RETURNS TABLE (is_valid boolean, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz,
               new_token text, was_refreshed boolean, refresh_reason varchar(100), message text)
    LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'token_refresh_validate_and_refresh_api_token';
COMMENT ON FUNCTION validate_and_refresh_api_token(text, text) IS 'as validate_api_token; a token that expires soon gets a successor, the same for everybody who presents it within the grace period';

CREATE FUNCTION refresh_api_token(p_token text, p_threshold_days integer DEFAULT 7, p_force boolean DEFAULT false)
RETURNS TABLE (success boolean, new_token text, expires_at timestamptz, refresh_reason varchar(100), message text)
    LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'token_refresh_refresh_api_token';
COMMENT ON FUNCTION refresh_api_token(text, integer, boolean) IS 'a successor for a token that expires within so many days, or in any case';

CREATE FUNCTION get_token_refresh_status(p_token text)
RETURNS TABLE (is_valid boolean, expires_at timestamptz, days_until_expiry integer, refresh_recommended boolean, refresh_reason varchar(100), message text)
    LANGUAGE c ROWS 1 PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_refresh_get_token_refresh_status';
COMMENT ON FUNCTION get_token_refresh_status(text) IS 'whether a token is good, and whether it should be refreshed; writes nothing';

CREATE FUNCTION revoke_api_token(token_id bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    its_family bigint;
BEGIN
    SELECT t.family INTO its_family FROM @extschema@.api_token t WHERE t.id = token_id;
    RETURN FOUND AND @extschema@._revoke_family(its_family, 'api_token_revoked', token_id, 'revoked by ' || session_user);
END $$;
COMMENT ON FUNCTION revoke_api_token(bigint) IS 'revokes a token with all its predecessors and successors; false when there was nothing to revoke';

CREATE FUNCTION revoke_api_token(p_token text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    its_id bigint := @extschema@._find_api_token(p_token);
BEGIN
    IF its_id IS NOT NULL AND NOT EXISTS (SELECT FROM @extschema@.api_token t WHERE t.id = its_id) THEN
        RAISE EXCEPTION 'the token is newer than the snapshot of this transaction'
            USING ERRCODE = 'serialization_failure', HINT = 'Try again in a new transaction.';
    END IF;
    RETURN @extschema@.revoke_api_token(its_id);
END $$;
COMMENT ON FUNCTION revoke_api_token(text) IS 'the same, of the token itself';

CREATE FUNCTION refresh_expiring_tokens_batch(within interval DEFAULT '7 days')
RETURNS TABLE (tokens_found integer, tokens_refreshed integer, tokens_failed integer, details jsonb)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    chunk CONSTANT integer := 10000;
    moment CONSTANT timestamptz := clock_timestamp();
    until CONSTANT timestamptz := moment + within;
    ids bigint[];
    results jsonb;
BEGIN
    PERFORM @extschema@._require('within', within IS NULL);
    tokens_found := 0;
    tokens_refreshed := 0;
    details := '[]';
    -- A successor that nobody has got yet needs none itself.
    SELECT array_agg(t.id ORDER BY t.expires_at, t.id) INTO ids
        FROM @extschema@.api_token t
        LEFT JOIN @extschema@.api_token_use u ON u.token_id = t.id
        LEFT JOIN @extschema@.api_token p ON p.id = t.predecessor
        WHERE t.expires_at > moment AND t.expires_at <= until
          AND t.successor_id IS NULL AND t.revoked_at IS NULL
          AND (t.refresh_if_used_within IS NULL OR coalesce(u.last_used_at, t.issued_at) > moment - t.refresh_if_used_within)
          AND (p.id IS NULL OR p.retires_at IS NOT NULL OR u.token_id IS NOT NULL);
    FOR at IN 1 .. coalesce(cardinality(ids), 0) BY chunk LOOP
        WITH rotated AS MATERIALIZED (
            SELECT r.token_id, r.result FROM @extschema@._rotate_api_tokens(ids[at : at + chunk - 1], false) r
        ), shown AS (
            SELECT r.result, t.expires_at,
                   jsonb_build_object('token_id', t.id, 'owner', t.owner, 'token_type', t.token_type, 'expires_at', t.expires_at,
                                      'days_left', extract(day FROM t.expires_at - clock_timestamp())::integer,
                                      'status', CASE r.result WHEN 'done' THEN 'SUCCESSOR_READY' WHEN 'locked' THEN 'LOCKED' ELSE 'GONE' END) AS entry,
                   CASE r.result WHEN 'done' THEN pg_notify('token_refresh_api_token',
                       json_build_object('event', 'successor_ready', 'token_id', t.id)::text) END
            FROM rotated r JOIN @extschema@.api_token t ON t.id = r.token_id
        )
        SELECT tokens_found + count(*), tokens_refreshed + count(*) FILTER (WHERE s.result = 'done'), jsonb_agg(s.entry ORDER BY s.expires_at)
            INTO tokens_found, tokens_refreshed, results FROM shown s;
        -- There may be more than one value can hold.
        IF at = 1 THEN
            details := coalesce(results, '[]');
        END IF;
    END LOOP;
    tokens_failed := tokens_found - tokens_refreshed;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION refresh_expiring_tokens_batch(interval) IS 'makes successors ahead for API tokens that expire within the interval; each is handed over when the old token is next used; details has the first 10,000';

CREATE FUNCTION discard_successors() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    discarded bigint;
BEGIN
    WITH ahead AS MATERIALIZED (
        SELECT t.id, t.successor_id FROM @extschema@.api_token t
        WHERE t.successor IS NOT NULL AND t.retires_at IS NULL ORDER BY t.id FOR NO KEY UPDATE
    ), forgotten AS (
        DELETE FROM @extschema@.api_token s USING ahead a WHERE s.id = a.successor_id
    )
    UPDATE @extschema@.api_token t SET successor = NULL, successor_id = NULL FROM ahead a WHERE t.id = a.id;
    GET DIAGNOSTICS discarded = ROW_COUNT;
    RETURN discarded;
END $$;
COMMENT ON FUNCTION discard_successors() IS 'forgets the successors that were made ahead and that nobody has got, for when the key that has sealed them is lost; the next batch makes others';

CREATE VIEW api_token_status AS
SELECT t.id AS token_id, t.owner, t.prefix, t.token_type, t.scope, t.user_hk, t.tenant_hk,
       CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked'
            WHEN t.retires_at <= clock_timestamp() AND t.retires_at < t.expires_at THEN 'replaced'
            WHEN t.expires_at <= clock_timestamp() THEN 'expired'
            WHEN t.retires_at IS NOT NULL THEN 'grace'
            WHEN p.id IS NOT NULL AND p.retires_at IS NULL AND u.token_id IS NULL THEN 'ready'
            ELSE 'active' END AS status,
       t.issued_at, t.expires_at, t.retires_at, t.revoked_at, t.revoke_reason, t.family, t.predecessor, t.successor_id,
       u.last_used_at, coalesce(u.use_count, 0) AS use_count, t.refresh_if_used_within, t.imported
FROM @extschema@.api_token t
LEFT JOIN @extschema@.api_token_use u ON u.token_id = t.id
LEFT JOIN @extschema@.api_token p ON p.id = t.predecessor;
COMMENT ON VIEW api_token_status IS 'every API token: whose it is, its state, and when it was last used; no hash, no secret';

