------------------------------------------------------------------------------
-- Signing keys
------------------------------------------------------------------------------

-- current_setting() would not know it in a session that has not loaded the library yet.
CREATE FUNCTION _interval_setting(name text) RETURNS interval
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_interval_setting';
COMMENT ON FUNCTION _interval_setting(text) IS 'internal: a setting of the extension as an interval';

-- For each row: what changes none is no news, and a subscription of logical replication fires no other triggers. Always,
-- or else a key that is retired where session_replication_role is replica would verify on in processes that know it.
CREATE TRIGGER signing_key_changed AFTER INSERT OR UPDATE OR DELETE ON signing_key
    FOR EACH ROW EXECUTE FUNCTION _provider_changed();
CREATE TRIGGER signing_key_truncated AFTER TRUNCATE ON signing_key
    FOR EACH STATEMENT EXECUTE FUNCTION _provider_changed();
ALTER TABLE signing_key ENABLE ALWAYS TRIGGER signing_key_changed;
ALTER TABLE signing_key ENABLE ALWAYS TRIGGER signing_key_truncated;

CREATE FUNCTION _make_signing_key(algorithm text, key_text text, wanted_kid text, OUT kid text, OUT sealed bytea, OUT public_jwk jsonb)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_make_signing_key';
COMMENT ON FUNCTION _make_signing_key(text, text, text) IS 'internal: a new key, or the one that is given, sealed for its row; nothing is stored';

CREATE FUNCTION _make_session_secret(purpose text) RETURNS bytea
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_make_session_secret';
COMMENT ON FUNCTION _make_session_secret(text) IS 'internal: a new secret, sealed for its row; nothing is stored';

CREATE FUNCTION _add_signing_key(event text, algorithm text, key_text text, kid text) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    made record;
BEGIN
    PERFORM @extschema@._require('algorithm', algorithm IS NULL);
    IF kid IS NULL AND algorithm = 'HS256' THEN
        kid := gen_random_uuid()::text;
    END IF;
    IF kid !~ '^[!#-\[\]-~]{1,200}$' THEN
        RAISE EXCEPTION 'argument "kid" must be 1 to 200 printable ASCII characters without spaces, quotes and backslashes'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    made := @extschema@._make_signing_key(algorithm, key_text, kid);
    INSERT INTO @extschema@.signing_key AS k (kid, algorithm, key, public_jwk) VALUES (made.kid, algorithm, made.sealed, made.public_jwk)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'signing key "%" exists already', made.kid USING ERRCODE = 'duplicate_object';
    END IF;
    INSERT INTO @extschema@.session_secret AS s (purpose, secret)
        SELECT p, @extschema@._make_session_secret(p) FROM unnest('{ip_hash,refresh_token}'::text[]) p
        WHERE NOT EXISTS (SELECT FROM @extschema@.session_secret x WHERE x.purpose = p)
        ON CONFLICT DO NOTHING;
    INSERT INTO @extschema@.audit_event (event, row_key, message) VALUES (event, made.kid, algorithm);
    RETURN made.kid;
END $$;
COMMENT ON FUNCTION _add_signing_key(text, text, text, text) IS 'internal: stores a signing key, with what else sessions need';

CREATE FUNCTION create_signing_key(algorithm text DEFAULT 'ES256', kid text DEFAULT NULL) RETURNS text
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT @extschema@._add_signing_key('signing_key_created', algorithm, NULL, kid)
$$;
COMMENT ON FUNCTION create_signing_key(text, text) IS 'makes a key that signs JWTs from now on (HS256, ES256, RS256 or EdDSA) and returns its kid; older keys go on verifying';

CREATE FUNCTION import_signing_key(algorithm text, key text, kid text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require('key', key IS NULL);
    RETURN @extschema@._add_signing_key('signing_key_imported', algorithm, key, kid);
END $$;
COMMENT ON FUNCTION import_signing_key(text, text, text) IS 'takes a key over that is there already: a private key in PEM, or for HS256 the secret; it signs from now on';

-- Of this session, or of any role or database: it may have signed in with it.
CREATE FUNCTION _longest_jwt_lifetime() RETURNS interval
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT max(l.lifetime) FROM (
    SELECT @extschema@._interval_setting('token_refresh.jwt_lifetime')
    UNION ALL
    SELECT split_part(c, '=', 2)::interval FROM pg_db_role_setting s, unnest(s.setconfig) c
    WHERE c LIKE 'token\_refresh.jwt\_lifetime=%' AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
) l (lifetime)
$$;
COMMENT ON FUNCTION _longest_jwt_lifetime() IS 'internal: how long a JWT of this database lives at most, going by the settings';

CREATE FUNCTION retire_signing_key(kid text, verify_for interval DEFAULT NULL) RETURNS timestamptz
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    until timestamptz;
BEGIN
    PERFORM @extschema@._require('kid', kid IS NULL);
    IF verify_for < interval '0' OR verify_for > interval '100 years' THEN
        RAISE EXCEPTION 'argument "verify_for" must be between 0 and 100 years' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    verify_for := coalesce(verify_for, @extschema@._longest_jwt_lifetime() + @extschema@._interval_setting('token_refresh.jwt_leeway'));
    UPDATE @extschema@.signing_key k SET retired_at = coalesce(k.retired_at, clock_timestamp()),
            verify_until = least(k.verify_until, clock_timestamp() + verify_for)
        WHERE k.kid = retire_signing_key.kid RETURNING k.verify_until INTO until;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown signing key "%"', kid USING ERRCODE = 'undefined_object', HINT = 'See the table token_refresh.signing_key.';
    END IF;
    INSERT INTO @extschema@.audit_event (event, row_key, message) VALUES ('signing_key_retired', kid, 'verifies until ' || until);
    RETURN until;
END $$;
COMMENT ON FUNCTION retire_signing_key(text, interval) IS 'a key signs no more; what it has signed is good for verify_for, by default until the last of it has expired. Returns until when';

CREATE FUNCTION jwks() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT jsonb_build_object('keys', coalesce(jsonb_agg(k.public_jwk ORDER BY k.created_at DESC, k.kid), '[]'))
FROM @extschema@.signing_key k WHERE k.public_jwk IS NOT NULL AND (k.verify_until IS NULL OR k.verify_until > clock_timestamp())
$$;
COMMENT ON FUNCTION jwks() IS 'the public keys for others to verify JWTs with, as a JWKS (RFC 7517), newest first';

