------------------------------------------------------------------------------
-- Keys
------------------------------------------------------------------------------

CREATE FUNCTION key_ring() RETURNS TABLE (name text, key_id bytea, seals boolean)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_key_ring';
COMMENT ON FUNCTION key_ring() IS 'names and ids of the keys at hand, never the keys; the first seals, all open';

CREATE FUNCTION _attached_keys() RETURNS TABLE (place text, key text, current boolean, secrets bigint)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_attached_keys';
COMMENT ON FUNCTION _attached_keys() IS 'internal: by which keys the tokens in attached tables are guarded, read as the owners of the tables';

-- What is no envelope (core/sealed_box.h) may be a secret in plain text, of which nothing is to be shown.
CREATE FUNCTION _envelope_key(sealed bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE AS
    $$SELECT CASE WHEN pg_catalog.length(sealed) OPERATOR(pg_catalog.>=) 49 AND pg_catalog.get_byte(sealed, 0) OPERATOR(pg_catalog.=) 1
           THEN pg_catalog.substring(sealed, 2, 8) END$$;
COMMENT ON FUNCTION _envelope_key(bytea) IS 'internal: the id of the key that has sealed it; NULL: it is not sealed';

CREATE VIEW key_usage AS
SELECT u.place, coalesce(k.name, 'missing key ' || encode(u.key_id, 'hex'), 'not sealed') AS key, coalesce(k.seals, false) AS current,
       count(*) AS secrets
FROM (SELECT 'provider' AS place, @extschema@._envelope_key(s) AS key_id
          FROM @extschema@.provider, LATERAL unnest(ARRAY[client_secret, previous_client_secret]) s WHERE s IS NOT NULL
      UNION ALL
      SELECT 'credential', @extschema@._envelope_key(s)
          FROM @extschema@.credential, LATERAL unnest(ARRAY[access_token, refresh_token, client_secret]) s WHERE s IS NOT NULL
      UNION ALL
      SELECT 'parked_result', @extschema@._envelope_key(s)
          FROM @extschema@.parked_result, LATERAL unnest(ARRAY[access_token, refresh_token, replaces_refresh_token, client_secret]) s WHERE s IS NOT NULL
      UNION ALL
      SELECT 'api_token', @extschema@._envelope_key(successor) FROM @extschema@.api_token WHERE successor IS NOT NULL
      UNION ALL
      SELECT 'authorization_request', @extschema@._envelope_key(a.code_verifier) FROM @extschema@.authorization_request a WHERE a.used_at IS NULL
      UNION ALL
      SELECT 'revocation', @extschema@._envelope_key(s)
          FROM @extschema@.revocation v, LATERAL unnest(ARRAY[v.token, v.client_secret]) s WHERE s IS NOT NULL
      UNION ALL
      SELECT 'signing_key', @extschema@._envelope_key(k.key) FROM @extschema@.signing_key k
      UNION ALL
      SELECT 'session_secret', @extschema@._envelope_key(s.secret) FROM @extschema@.session_secret s) u
LEFT JOIN @extschema@.key_ring() k ON k.key_id = u.key_id
GROUP BY 1, 2, 3
UNION ALL
SELECT a.place, a.key, a.current, a.secrets FROM @extschema@._attached_keys() a;
COMMENT ON VIEW key_usage IS 'how many secrets each key of the ring still guards, in attached tables too; a key that guards none may be removed';

CREATE FUNCTION _reseal_few() RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealing bytea;
    providers bigint;
    parked bigint;
    signing bigint;
    session_secrets bigint;
    sign_ins bigint;
    revocations bigint;
BEGIN
    SELECT k.key_id INTO STRICT sealing FROM @extschema@.key_ring() k WHERE k.seals;
    UPDATE @extschema@.provider p SET
        client_secret = @extschema@._reseal('token_refresh.provider', p.id::text, 'client_secret', p.client_secret),
        previous_client_secret = @extschema@._reseal('token_refresh.provider', p.id::text, 'client_secret', p.previous_client_secret)
        WHERE substring(p.client_secret, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.provider', p.id::text, 'client_secret', p.client_secret) <> p.client_secret
           OR substring(p.previous_client_secret, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.provider', p.id::text, 'client_secret', p.previous_client_secret) <> p.previous_client_secret;
    GET DIAGNOSTICS providers = ROW_COUNT;
    UPDATE @extschema@.parked_result r SET
        access_token = @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'access_token', r.access_token),
        refresh_token = @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'refresh_token', r.refresh_token),
        replaces_refresh_token = @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'replaces_refresh_token', r.replaces_refresh_token),
        client_secret = @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'client_secret', r.client_secret)
        WHERE substring(r.access_token, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'access_token', r.access_token) <> r.access_token
           OR substring(r.refresh_token, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'refresh_token', r.refresh_token) <> r.refresh_token
           OR substring(r.replaces_refresh_token, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'replaces_refresh_token', r.replaces_refresh_token) <> r.replaces_refresh_token
           OR substring(r.client_secret, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'client_secret', r.client_secret) <> r.client_secret;
    GET DIAGNOSTICS parked = ROW_COUNT;
    UPDATE @extschema@.signing_key g SET key = @extschema@._reseal('token_refresh.signing_key', g.kid, 'key', g.key)
        WHERE substring(g.key, 2, 8) <> sealing AND @extschema@._reseal('token_refresh.signing_key', g.kid, 'key', g.key) <> g.key;
    GET DIAGNOSTICS signing = ROW_COUNT;
    UPDATE @extschema@.session_secret s SET secret = @extschema@._reseal('token_refresh.session_secret', s.purpose, 'secret', s.secret)
        WHERE substring(s.secret, 2, 8) <> sealing AND @extschema@._reseal('token_refresh.session_secret', s.purpose, 'secret', s.secret) <> s.secret;
    GET DIAGNOSTICS session_secrets = ROW_COUNT;
    UPDATE @extschema@.authorization_request a
        SET code_verifier = @extschema@._reseal('token_refresh.authorization_request', encode(a.state_hash, 'hex'), 'code_verifier', a.code_verifier)
        WHERE a.used_at IS NULL AND substring(a.code_verifier, 2, 8) <> sealing
          AND @extschema@._reseal('token_refresh.authorization_request', encode(a.state_hash, 'hex'), 'code_verifier', a.code_verifier) <> a.code_verifier;
    GET DIAGNOSTICS sign_ins = ROW_COUNT;
    UPDATE @extschema@.revocation v SET token = @extschema@._reseal(v.sealed_table, v.sealed_row, v.token_type_hint, v.token),
        client_secret = @extschema@._reseal(CASE WHEN v.client_row IS NULL THEN v.sealed_table ELSE 'token_refresh.credential' END, coalesce(v.client_row, v.sealed_row), 'client_secret', v.client_secret)
        WHERE substring(v.token, 2, 8) <> sealing AND @extschema@._reseal(v.sealed_table, v.sealed_row, v.token_type_hint, v.token) <> v.token
           OR substring(v.client_secret, 2, 8) <> sealing
              AND @extschema@._reseal(CASE WHEN v.client_row IS NULL THEN v.sealed_table ELSE 'token_refresh.credential' END, coalesce(v.client_row, v.sealed_row), 'client_secret', v.client_secret) <> v.client_secret;
    GET DIAGNOSTICS revocations = ROW_COUNT;
    RETURN providers + parked + signing + session_secrets + sign_ins + revocations;
END $$;
COMMENT ON FUNCTION _reseal_few() IS 'internal: reseals the secrets of providers, parked results, sessions, sign-ins and revocations; returns how many rows';

CREATE FUNCTION _reseal_credentials(INOUT last_id bigint, batch_size integer, OUT resealed bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealing bytea;
    next_id bigint;
BEGIN
    SELECT k.key_id INTO STRICT sealing FROM @extschema@.key_ring() k WHERE k.seals;
    SELECT max(b.id) INTO next_id FROM (
        SELECT c.id FROM @extschema@.credential c WHERE c.id > last_id ORDER BY c.id LIMIT batch_size) b;
    -- The same tokens in a new envelope are no news for the schedule.
    PERFORM @extschema@._own_writes(true);
    UPDATE @extschema@.credential c SET
        access_token = @extschema@._reseal('token_refresh.credential', c.id::text, 'access_token', c.access_token),
        refresh_token = @extschema@._reseal('token_refresh.credential', c.id::text, 'refresh_token', c.refresh_token),
        client_secret = @extschema@._reseal('token_refresh.credential', c.id::text, 'client_secret', c.client_secret)
        WHERE c.id > last_id AND c.id <= next_id
          AND (substring(c.access_token, 2, 8) <> sealing
               AND @extschema@._reseal('token_refresh.credential', c.id::text, 'access_token', c.access_token) <> c.access_token
            OR substring(c.refresh_token, 2, 8) <> sealing
               AND @extschema@._reseal('token_refresh.credential', c.id::text, 'refresh_token', c.refresh_token) <> c.refresh_token
            OR substring(c.client_secret, 2, 8) <> sealing
               AND @extschema@._reseal('token_refresh.credential', c.id::text, 'client_secret', c.client_secret) <> c.client_secret);
    GET DIAGNOSTICS resealed = ROW_COUNT;
    PERFORM @extschema@._own_writes(false);
    last_id := next_id;
END $$;
COMMENT ON FUNCTION _reseal_credentials(bigint, integer) IS 'internal: reseals the next credentials; last_id is null behind the last one';

CREATE FUNCTION _reseal_api_tokens(INOUT last_id bigint, batch_size integer, OUT resealed bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealing bytea;
    next_id bigint;
BEGIN
    SELECT k.key_id INTO STRICT sealing FROM @extschema@.key_ring() k WHERE k.seals;
    -- In the order in which a family is revoked.
    SELECT max(b.id) INTO next_id FROM (
        SELECT t.id FROM @extschema@.api_token t WHERE t.id > last_id AND t.successor IS NOT NULL
        ORDER BY t.id LIMIT batch_size FOR NO KEY UPDATE) b;
    UPDATE @extschema@.api_token t SET successor = @extschema@._reseal('token_refresh.api_token', t.id::text, 'successor', t.successor)
        WHERE t.id > last_id AND t.id <= next_id AND t.successor IS NOT NULL
          AND substring(t.successor, 2, 8) <> sealing
          AND @extschema@._reseal('token_refresh.api_token', t.id::text, 'successor', t.successor) <> t.successor;
    GET DIAGNOSTICS resealed = ROW_COUNT;
    last_id := next_id;
END $$;
COMMENT ON FUNCTION _reseal_api_tokens(bigint, integer) IS 'internal: reseals the next successors of API tokens; last_id is null behind the last one';

CREATE FUNCTION _reseal_attached(token_table integer, after_key text, batch_size integer, OUT last_key text, OUT resealed bigint)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_reseal_attached';
COMMENT ON FUNCTION _reseal_attached(integer, text, integer) IS 'internal: reseals the next rows of an attached table, as its owner; last_key is null behind the last one';

-- Its COMMITs forbid a pinned search_path: every name and operator in it is qualified.
CREATE PROCEDURE rotate_keys(batch_size integer DEFAULT 1000)
    LANGUAGE plpgsql AS $$
DECLARE
    at bigint;
    n bigint;
    in_pass bigint;
    resealed bigint := 0;
    attached pg_catalog.int4[];
    table_id integer;
    last_key pg_catalog.text;
    remaining bigint;
    remainder pg_catalog.text;
BEGIN
    IF batch_size IS NULL OR batch_size OPERATOR(pg_catalog.<) 1 THEN
        RAISE EXCEPTION 'argument "batch_size" must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Until a pass finds nothing to do: what was written meanwhile may be sealed with the key that was the first before.
    FOR pass IN 1 .. 10 LOOP
        in_pass := @extschema@._reseal_few();
        COMMIT;
        at := 0;
        LOOP
            SELECT c.last_id, c.resealed INTO at, n FROM @extschema@._reseal_credentials(at, batch_size) c;
            in_pass := in_pass OPERATOR(pg_catalog.+) n;
            COMMIT;
            EXIT WHEN at IS NULL;
        END LOOP;
        at := 0;
        LOOP
            SELECT t.last_id, t.resealed INTO at, n FROM @extschema@._reseal_api_tokens(at, batch_size) t;
            in_pass := in_pass OPERATOR(pg_catalog.+) n;
            COMMIT;
            EXIT WHEN at IS NULL;
        END LOOP;
        attached := ARRAY(SELECT t.id FROM @extschema@.token_table t
                              WHERE t.id OPERATOR(pg_catalog.<>) 1 AND t.cipher OPERATOR(pg_catalog.=) 'native' ORDER BY t.id);
        FOREACH table_id IN ARRAY attached LOOP
            last_key := NULL;
            LOOP
                SELECT r.last_key, r.resealed INTO last_key, n FROM @extschema@._reseal_attached(table_id, last_key, batch_size) r;
                in_pass := in_pass OPERATOR(pg_catalog.+) n;
                COMMIT;
                EXIT WHEN last_key IS NULL;
            END LOOP;
        END LOOP;
        resealed := resealed OPERATOR(pg_catalog.+) in_pass;
        EXIT WHEN in_pass OPERATOR(pg_catalog.=) 0;
    END LOOP;
    SELECT pg_catalog.sum(u.secrets), pg_catalog.string_agg(pg_catalog.format('%s: %s under %s', u.place, u.secrets, u.key), ', ' ORDER BY u.place, u.key)
        INTO remaining, remainder FROM @extschema@.key_usage u WHERE NOT u.current;
    INSERT INTO @extschema@.audit_event (event, message)
        VALUES ('keys_rotated', pg_catalog.concat_ws('; ', pg_catalog.format('%s rows resealed', resealed),
                    CASE WHEN remaining IS NULL THEN NULL
                         WHEN in_pass OPERATOR(pg_catalog.>) 0 THEN pg_catalog.format('%s secrets are under other keys again (%s)', remaining, remainder)
                         ELSE pg_catalog.format('%s secrets could not be opened (%s)', remaining, remainder) END));
    IF remaining IS NOT NULL AND in_pass OPERATOR(pg_catalog.>) 0 THEN
        RAISE WARNING '% secrets are under other keys than the first again', remaining
            USING DETAIL = remainder,
                  HINT = 'Some process seals with the key ring as it was: reload the configuration and call rotate_keys again.';
    ELSIF remaining IS NOT NULL THEN
        RAISE WARNING '% secrets could not be opened and were left as they are', remaining
            USING DETAIL = remainder,
                  HINT = 'Put a missing key back into the key ring and call rotate_keys again. What does not open although its key is there was changed, or copied from another row or column; or a process that has not read the new key ring has just sealed it, then reload the configuration and call again.';
    END IF;
END $$;
COMMENT ON PROCEDURE rotate_keys(integer) IS 'seals everything anew with the first key of the ring, in batches, online; key_usage shows what is left';

