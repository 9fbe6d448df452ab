------------------------------------------------------------------------------
-- Sessions: internal functions
------------------------------------------------------------------------------

CREATE FUNCTION _sign_jwt(claims jsonb) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_sign_jwt';
COMMENT ON FUNCTION _sign_jwt(jsonb) IS 'internal: a JWT of these claims, signed with the newest key';

CREATE FUNCTION _make_session_refresh_token(session_id uuid, counter integer, expires_at timestamptz) RETURNS text
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_make_session_refresh_token';
COMMENT ON FUNCTION _make_session_refresh_token(uuid, integer, timestamptz) IS 'internal: the refresh token of a session with this number; always the same for the same arguments';

CREATE FUNCTION _read_session_refresh_token(refresh_token text, OUT session_id uuid, OUT counter integer, OUT expires_at timestamptz)
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_read_session_refresh_token';
COMMENT ON FUNCTION _read_session_refresh_token(text) IS 'internal: what a refresh token says, if this database has made it; else NULL';

CREATE FUNCTION ip_hash(ip text) RETURNS bytea
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_ip_hash';
COMMENT ON FUNCTION ip_hash(text) IS 'an IP address as session.ip_hash has it: HMAC-SHA-256 under a secret of this database';

CREATE FUNCTION _identity_of(claims jsonb, OUT claim text, OUT identity text)
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._require('claims', claims IS NULL);
    IF jsonb_typeof(claims) <> 'object' THEN
        RAISE EXCEPTION 'argument "claims" must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOREACH claim IN ARRAY '{icn,sub}'::text[] LOOP
        identity := claims ->> claim;
        CONTINUE WHEN coalesce(identity, '') = '';
        IF jsonb_typeof(claims -> claim) <> 'string' OR octet_length(identity) > 1000 THEN
            RAISE EXCEPTION 'claim "%" must be text of at most 1000 bytes', claim USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN;
    END LOOP;
    RAISE EXCEPTION 'the claims name nobody: neither "icn" nor "sub" is there' USING ERRCODE = 'invalid_parameter_value';
END $$;
COMMENT ON FUNCTION _identity_of(jsonb) IS 'internal: who has signed in, at his provider, and which claim says so';

CREATE FUNCTION _check_session(device_info jsonb, jwt_claims jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reserved text;
BEGIN
    PERFORM @extschema@._require('jwt_claims', jwt_claims IS NULL);
    IF jsonb_typeof(device_info) <> 'object' OR octet_length(device_info::text) > 16384 THEN
        RAISE EXCEPTION 'argument "device_info" must be a JSON object of at most 16 KiB' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(device_info -> 'ip') NOT IN ('string', 'null') OR length(device_info ->> 'ip') > 1000 THEN
        RAISE EXCEPTION 'the ip in argument "device_info" must be text' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(jwt_claims) <> 'object' THEN
        RAISE EXCEPTION 'argument "jwt_claims" must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF jsonb_typeof(jwt_claims -> 'azp') <> 'string' THEN
        RAISE EXCEPTION 'the claim "azp" in argument "jwt_claims" must be text' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT r INTO reserved FROM unnest('{iss,sub,aud,exp,nbf,iat,jti}'::text[]) r WHERE jwt_claims ? r LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'argument "jwt_claims" must not set the claim "%"', reserved USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION _check_session(jsonb, jsonb) IS 'internal: refuses arguments that no session can have';

-- Times of JWTs are whole seconds.
CREATE FUNCTION _session_jwt(account uuid, jwt_id uuid, jwt_claims jsonb, issued_at timestamptz, expires_at timestamptz) RETURNS text
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT @extschema@._sign_jwt(jwt_claims || jsonb_strip_nulls(jsonb_build_object(
    'sub', account, 'jti', jwt_id, 'iat', extract(epoch FROM issued_at)::bigint, 'exp', extract(epoch FROM expires_at)::bigint,
    'iss', nullif(current_setting('token_refresh.jwt_issuer'), ''), 'aud', nullif(current_setting('token_refresh.jwt_audience'), ''))))
$$;
COMMENT ON FUNCTION _session_jwt(uuid, uuid, jsonb, timestamptz, timestamptz) IS 'internal: the JWT of a session';

CREATE FUNCTION _session_end(created_at timestamptz) RETURNS timestamptz
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT least(date_trunc('second', clock_timestamp()) + @extschema@._interval_setting('token_refresh.session_idle_timeout'),
             created_at + @extschema@._interval_setting('token_refresh.session_max_lifetime'))
$$;
COMMENT ON FUNCTION _session_end(timestamptz) IS 'internal: when a session that is refreshed now ends, unless it is refreshed again';

CREATE FUNCTION _is_reused(s session, counter integer) RETURNS boolean
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT s.revoked_at IS NULL AND s.expires_at > clock_timestamp() AND (counter < s.refresh_count - 1 OR counter < s.refresh_count
    AND s.refreshed_at + @extschema@._interval_setting('token_refresh.session_refresh_grace') <= clock_timestamp())
$$;
COMMENT ON FUNCTION _is_reused(session, integer) IS 'internal: whether a refresh token with this number is presented again after its grace period';

CREATE FUNCTION _end_reused_session(session_id uuid, by_whom text) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
WITH revoked AS (
    UPDATE @extschema@.session s SET revoked_at = clock_timestamp()
        WHERE s.id = session_id AND s.revoked_at IS NULL AND s.expires_at > clock_timestamp() RETURNING s.id, s.account)
INSERT INTO @extschema@.audit_event (event, provider, row_key, subject, message, actor)
    SELECT 'session_refresh_reused', a.provider, r.id::text, r.account::text,
           'a refresh token was presented again after its grace period; the session is revoked', by_whom
    FROM revoked r JOIN @extschema@.account a ON a.id = r.account
$$;
COMMENT ON FUNCTION _end_reused_session(uuid, text) IS 'internal: ends a session whose refresh token somebody has copied';

CREATE FUNCTION _report_session_reuse(session_id uuid, wait boolean) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_report_session_reuse';
COMMENT ON FUNCTION _report_session_reuse(uuid, boolean) IS 'internal: has the refresher end such a session in a transaction of its own; true: it has done so or goes on trying, false: the caller has to';

-- By now(): a volatile function would keep the index from being used.
CREATE FUNCTION _tidy_sessions(retention interval) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
DELETE FROM @extschema@.session s USING (
    SELECT o.id FROM @extschema@.session o WHERE o.expires_at < now() - retention
    ORDER BY o.expires_at LIMIT 10000 FOR UPDATE SKIP LOCKED) old WHERE s.id = old.id;
DELETE FROM @extschema@.signing_key k WHERE k.verify_until < clock_timestamp();
$$;
COMMENT ON FUNCTION _tidy_sessions(interval) IS 'internal: forgets sessions that have ended longer ago than the retention, and keys that verify nothing any more';

------------------------------------------------------------------------------
-- Sessions: the contract. Whoever may execute these needs no privilege on the tables. With a plan of its own for each
-- execution the tokens would be in the plan, which auto_explain may log.
------------------------------------------------------------------------------

CREATE FUNCTION create_session(provider text, token_response jsonb, claims jsonb, device_info jsonb DEFAULT NULL, jwt_claims jsonb DEFAULT '{}')
RETURNS TABLE (user_id uuid, jwt_token text, expires_at timestamptz, session_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    who record := @extschema@._identity_of(claims);
    its_ip_hash bytea := @extschema@.ip_hash(device_info ->> 'ip');
    jwt_id uuid := gen_random_uuid();
    began timestamptz := date_trunc('second', clock_timestamp());
BEGIN
    PERFORM @extschema@._require('provider', provider IS NULL);
    PERFORM @extschema@._check_session(device_info, jwt_claims);
    PERFORM FROM @extschema@.provider p WHERE p.name = create_session.provider;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown provider "%"', provider
            USING ERRCODE = 'undefined_object', HINT = 'Create it with token_refresh.create_provider().';
    END IF;
    INSERT INTO @extschema@.account AS a (provider, identity_claim, identity, claims)
        VALUES (provider, who.claim, who.identity, claims)
        ON CONFLICT ON CONSTRAINT account_identity DO UPDATE SET claims = excluded.claims, last_login_at = excluded.last_login_at
        RETURNING a.id INTO user_id;
    IF token_response IS NOT NULL THEN
        PERFORM @extschema@.store_credential(provider, user_id::text, token_response);
    END IF;
    expires_at := began + @extschema@._interval_setting('token_refresh.jwt_lifetime');
    INSERT INTO @extschema@.session AS s (jwt_id, account, expires_at, created_at, jwt_claims, device_info, ip_hash)
        VALUES (jwt_id, user_id, expires_at, began, jwt_claims, device_info - 'ip', its_ip_hash) RETURNING s.id INTO session_id;
    jwt_token := @extschema@._session_jwt(user_id, jwt_id, jwt_claims, began, expires_at);
    INSERT INTO @extschema@.audit_event (event, provider, row_key, subject, message)
        VALUES ('login', provider, session_id::text, user_id::text, 'ip_hash ' || encode(its_ip_hash, 'hex'));
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION create_session(text, jsonb, jsonb, jsonb, jsonb) IS 'after a sign-in: finds or creates the account of the claims, stores the tokens, begins a session and signs its JWT';

CREATE FUNCTION validate_jwt(token text) RETURNS jsonb
    LANGUAGE c STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'token_refresh_validate_jwt';
COMMENT ON FUNCTION validate_jwt(text) IS 'the claims of a JWT that is good and whose session is neither revoked nor over; else NULL. Writes nothing';

CREATE FUNCTION revoke_session(jwt_id uuid) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    WITH revoked AS (
        UPDATE @extschema@.session s SET revoked_at = clock_timestamp()
            WHERE s.jwt_id = revoke_session.jwt_id AND s.revoked_at IS NULL AND s.expires_at > clock_timestamp() RETURNING s.id, s.account)
    INSERT INTO @extschema@.audit_event (event, provider, row_key, subject)
        SELECT 'logout', a.provider, r.id::text, r.account::text FROM revoked r JOIN @extschema@.account a ON a.id = r.account;
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION revoke_session(uuid) IS 'ends the session whose JWT has this jti; false when there was none, or it was over';

CREATE FUNCTION revoke_all_sessions(user_id uuid) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    ended integer;
BEGIN
    -- Locks the account, so that none begins meanwhile unseen; in one order, so that two who do this do not wait for each other.
    PERFORM FROM @extschema@.account a WHERE a.id = user_id FOR UPDATE;
    UPDATE @extschema@.session s SET revoked_at = clock_timestamp()
        WHERE s.account = user_id AND s.revoked_at IS NULL AND s.expires_at > clock_timestamp();
    GET DIAGNOSTICS ended = ROW_COUNT;
    INSERT INTO @extschema@.audit_event (event, provider, subject, message)
        SELECT 'logout_all', a.provider, a.id::text, ended || ' session(s) ended' FROM @extschema@.account a WHERE a.id = user_id;
    RETURN ended;
END $$;
COMMENT ON FUNCTION revoke_all_sessions(uuid) IS 'ends all sessions of an account and returns how many';

CREATE FUNCTION start_session_refresh(session_id uuid) RETURNS TABLE (refresh_token text, expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    UPDATE @extschema@.session s SET refresh_count = 1, refreshed_at = clock_timestamp(),
            expires_at = @extschema@._session_end(s.created_at)
        WHERE s.id = session_id AND s.refresh_count = 0 AND s.revoked_at IS NULL AND s.expires_at > clock_timestamp()
            AND @extschema@._session_end(s.created_at) > clock_timestamp()
        RETURNING s.expires_at INTO expires_at;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the session is unknown, over, or has a refresh token already' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    refresh_token := @extschema@._make_session_refresh_token(session_id, 1, expires_at);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION start_session_refresh(uuid) IS 'the first refresh token of a session, which lives on from now while it is refreshed; once for each session';

CREATE FUNCTION refresh_session(refresh_token text)
RETURNS TABLE (user_id uuid, jwt_token text, expires_at timestamptz, session_id uuid, new_refresh_token text, refresh_expires_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_variable
DECLARE
    presented record;
    found_session @extschema@.session;
    its_end timestamptz;
BEGIN
    SELECT t.session_id, t.counter, t.expires_at INTO presented FROM @extschema@._read_session_refresh_token(refresh_token) t;
    IF presented.session_id IS NULL OR presented.expires_at <= clock_timestamp() THEN
        RETURN;
    END IF;
    -- Not locked yet: the refresher is going to need the row.
    SELECT s.* INTO found_session FROM @extschema@.session s WHERE s.id = presented.session_id;
    IF @extschema@._is_reused(found_session, presented.counter) AND @extschema@._report_session_reuse(presented.session_id, true) THEN
        RETURN;
    END IF;
    SELECT s.* INTO found_session FROM @extschema@.session s WHERE s.id = presented.session_id FOR NO KEY UPDATE;
    -- A number that is not reached: the database was set back, or a transaction rolled back.
    IF NOT FOUND OR found_session.revoked_at IS NOT NULL OR found_session.expires_at <= clock_timestamp()
       OR presented.counter > found_session.refresh_count THEN
        RETURN;
    END IF;
    -- There is no refresher, or the row has just changed. The refresher, which now has to wait for the row, sees to it that
    -- a ROLLBACK takes nothing back; before this transaction has written the row, which it then could not judge.
    IF @extschema@._is_reused(found_session, presented.counter) THEN
        PERFORM @extschema@._report_session_reuse(found_session.id, false);
        PERFORM @extschema@._end_reused_session(found_session.id, session_user);
        RETURN;
    END IF;
    IF presented.counter = found_session.refresh_count THEN
        -- Another expiry: of a transaction that was rolled back. The end may have been set nearer.
        its_end := @extschema@._session_end(found_session.created_at);
        IF presented.expires_at <> found_session.expires_at OR its_end <= clock_timestamp() THEN
            RETURN;
        END IF;
        UPDATE @extschema@.session s SET refresh_count = s.refresh_count + 1, refreshed_at = clock_timestamp(), expires_at = its_end
            WHERE s.id = found_session.id RETURNING s.* INTO found_session;
        INSERT INTO @extschema@.audit_event (event, provider, row_key, subject)
            SELECT 'session_refreshed', a.provider, found_session.id::text, a.id::text
            FROM @extschema@.account a WHERE a.id = found_session.account;
    END IF;
    user_id := found_session.account;
    session_id := found_session.id;
    refresh_expires_at := found_session.expires_at;
    new_refresh_token := @extschema@._make_session_refresh_token(session_id, found_session.refresh_count, refresh_expires_at);
    expires_at := least(date_trunc('second', clock_timestamp()) + @extschema@._interval_setting('token_refresh.jwt_lifetime'), refresh_expires_at);
    jwt_token := @extschema@._session_jwt(user_id, found_session.jwt_id, found_session.jwt_claims, date_trunc('second', clock_timestamp()), expires_at);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION refresh_session(text) IS 'a new JWT and the next refresh token of a session; no row when the token is no good. One that is presented again after its grace period ends the session';

CREATE VIEW session_status AS
SELECT s.id AS session_id, s.account AS user_id, a.provider, a.identity_claim, a.identity, s.jwt_id,
       CASE WHEN s.revoked_at IS NOT NULL THEN 'revoked' WHEN s.expires_at <= clock_timestamp() THEN 'expired' ELSE 'active' END AS status,
       s.created_at, s.expires_at, s.revoked_at, greatest(s.refresh_count - 1, 0) AS refreshes, s.refreshed_at, s.device_info, s.ip_hash
FROM @extschema@.session s JOIN @extschema@.account a ON a.id = s.account;
COMMENT ON VIEW session_status IS 'every session: whose it is and its state; no secret';

