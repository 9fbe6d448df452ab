------------------------------------------------------------------------------
-- Sign-in: internal functions
------------------------------------------------------------------------------

CREATE FUNCTION _make_authorization(client_id text, options jsonb, redirect_uri text, scope text, params jsonb,
                                    OUT authorization_url text, OUT state text, OUT state_hash bytea, OUT code_verifier bytea,
                                    OUT sends_verifier boolean, OUT wants_id_token boolean)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_make_authorization';
COMMENT ON FUNCTION _make_authorization(text, jsonb, text, text, jsonb) IS 'internal: the URL of an authorization request, and what is to be kept until it is completed';

-- The one who finds it unused may present the code. Results are words of src/pg/sign_in_desk.cpp. The provider is locked
-- first, so that it is not dropped meanwhile.
CREATE FUNCTION _take_authorization(request bigint, expected_provider text, iss text, caller bigint,
                                    OUT result text, OUT provider text, OUT redirect_uri text, OUT code_verifier bytea, OUT state_hash bytea,
                                    OUT sends_verifier boolean, OUT wants_id_token boolean, OUT max_age integer, OUT has_subject boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    r @extschema@.authorization_request;
    its_provider @extschema@.provider;
    issuer text;
    reason text;
BEGIN
    SELECT p.* INTO its_provider FROM @extschema@.authorization_request a JOIN @extschema@.provider p ON p.name = a.provider
        WHERE a.id = request FOR KEY SHARE OF p;
    SELECT a.* INTO r FROM @extschema@.authorization_request a WHERE a.id = request FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        result := 'unknown';
        RETURN;
    END IF;
    issuer := its_provider.effective_options ->> 'issuer';
    IF r.used_at IS NULL AND its_provider.effective_options @> '{"enabled": false}' THEN
        result := 'disabled';
        RETURN;
    END IF;
    CASE
        WHEN r.used_at IS NOT NULL THEN
            result := 'used';
            reason := 'the state was presented again';
        WHEN r.expires_at <= clock_timestamp() THEN
            result := 'expired';
            reason := 'the state has expired';
        WHEN expected_provider <> r.provider OR iss <> issuer THEN
            result := 'other_provider';
            reason := 'the state belongs to another provider';
        -- RFC 9207 section 2.4: what cannot be compared proves nothing.
        WHEN iss IS NOT NULL AND issuer IS NULL THEN
            result := 'other_provider';
            reason := 'the provider has no issuer with which iss could be compared; set its option "issuer"';
        -- ... And what never comes without iss has not come from there.
        WHEN iss IS NULL AND its_provider.effective_options @> '{"authorization_response_iss_parameter_supported": true}' THEN
            result := 'other_provider';
            reason := 'an answer of this provider carries an iss (RFC 9207), and none was handed on as argument "iss"';
        ELSE
            result := 'taken';
    END CASE;
    -- Whoever presents a state with the answer of another provider may be mixing them up: it is spent.
    UPDATE @extschema@.authorization_request a SET used_at = clock_timestamp(), taken_by = caller,
            failure = CASE WHEN result <> 'taken' THEN result END, message = reason
        WHERE a.id = request AND a.used_at IS NULL;
    IF reason IS NOT NULL THEN
        INSERT INTO @extschema@.audit_event (event, provider, subject, label, failure, message, actor)
            VALUES ('authorization_refused', r.provider, r.subject, r.label, 'state_' || result, reason, 'refresher');
        RETURN;
    END IF;
    provider := r.provider;
    redirect_uri := r.redirect_uri;
    code_verifier := r.code_verifier;
    state_hash := r.state_hash;
    sends_verifier := r.sends_verifier;
    wants_id_token := r.wants_id_token;
    max_age := r.max_age;
    has_subject := r.subject IS NOT NULL;
END $$;
COMMENT ON FUNCTION _take_authorization(bigint, text, text, bigint) IS 'internal: for the refresher, which is about to present the code';

-- Without a lock on an account that is there: its owner may just be beginning a session.
CREATE FUNCTION _account_of(of_provider text, of_claims jsonb) RETURNS uuid
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who record := @extschema@._identity_of(of_claims);
    found_id uuid;
BEGIN
    INSERT INTO @extschema@.account AS a (provider, identity_claim, identity, claims)
        SELECT of_provider, who.claim, who.identity, of_claims
        WHERE NOT EXISTS (SELECT FROM @extschema@.account k
            WHERE k.provider = of_provider AND k.identity_claim = who.claim AND k.identity = who.identity)
        ON CONFLICT ON CONSTRAINT account_identity DO NOTHING;
    SELECT a.id INTO STRICT found_id FROM @extschema@.account a
        WHERE a.provider = of_provider AND a.identity_claim = who.claim AND a.identity = who.identity;
    RETURN found_id;
END $$;
COMMENT ON FUNCTION _account_of(text, jsonb) IS 'internal: finds or makes the account of the claims';

-- Whose the credential is going to be.
CREATE FUNCTION _authorization_owner(request bigint, given_claims jsonb, OUT provider text, OUT owner text, OUT label text)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT r.provider, coalesce(r.subject, @extschema@._account_of(r.provider, given_claims)::text), r.label
    FROM @extschema@.authorization_request r WHERE r.id = request
$$;
COMMENT ON FUNCTION _authorization_owner(bigint, jsonb) IS 'internal: under which names the credential of a sign-in is to be stored';

CREATE FUNCTION _finish_authorization(request bigint, new_credential_id bigint, new_owner text, new_claims jsonb, new_failure text, new_message text)
RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
WITH finished AS (
    UPDATE @extschema@.authorization_request a
        SET credential_id = new_credential_id, owner = new_owner, claims = new_claims, failure = new_failure, message = new_message
        WHERE a.id = request RETURNING a.provider, a.subject, a.label)
INSERT INTO @extschema@.audit_event (event, provider, subject, label, failure, message, actor)
    SELECT CASE WHEN new_failure IS NULL THEN 'authorization_completed' ELSE 'authorization_refused' END,
           f.provider, coalesce(new_owner, f.subject), f.label, new_failure, new_message, 'refresher' FROM finished f
$$;
COMMENT ON FUNCTION _finish_authorization(bigint, bigint, text, jsonb, text, text) IS 'internal: how a sign-in has ended';

-- What a refresher had under way that is no more: nobody knows what the provider has answered.
CREATE FUNCTION _forget_unfinished() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT @extschema@._finish_authorization(a.id, NULL, NULL, NULL, 'interrupted', 'the refresher has ended before it was done')
    FROM (SELECT o.id FROM @extschema@.authorization_request o
          WHERE o.used_at IS NOT NULL AND o.failure IS NULL AND o.credential_id IS NULL FOR UPDATE SKIP LOCKED) a;
UPDATE @extschema@.revocation r SET due_at = clock_timestamp(), under_way = false
    FROM (SELECT o.id FROM @extschema@.revocation o WHERE o.under_way FOR UPDATE SKIP LOCKED) a WHERE r.id = a.id;
$$;
COMMENT ON FUNCTION _forget_unfinished() IS 'internal: for a refresher that begins';

-- Tokens that were given for a credential which has been disconnected: sealed for parked_result, whether they were there or not.
CREATE FUNCTION _revoke_given(schedule_id bigint, refresh_token bytea, access_token bytea) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.revocation (provider, subject, label, token, sealed_table, sealed_row, token_type_hint, client_id, client_secret, client_row)
    SELECT r.provider, r.subject, r.label, t.token, r.sealed_table, r.sealed_row, t.hint, r.client_id, r.client_secret, r.client_row
    FROM @extschema@.revocation r,
         LATERAL (VALUES (_revoke_given.refresh_token, 'refresh_token'), (_revoke_given.access_token, 'access_token')) t (token, hint)
    WHERE r.sealed_row = _revoke_given.schedule_id::text AND r.token IS NULL AND t.token IS NOT NULL
$$;
COMMENT ON FUNCTION _revoke_given(bigint, bytea, bytea) IS 'internal: has tokens revoked, if those of their credential were to be';

-- Whoever may delete there need not be allowed to do this.
CREATE FUNCTION _revoke_parked() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM @extschema@._revoke_given(OLD.schedule_id, OLD.refresh_token, OLD.access_token);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION _revoke_parked() IS 'internal: what is parked is not forgotten unrevoked when its credential has been disconnected';
CREATE TRIGGER revoke_parked AFTER DELETE ON parked_result
    FOR EACH ROW EXECUTE FUNCTION _revoke_parked();

-- What is neither parked nor under way any more will not come. For the refresher: nobody else writes in_flight.
CREATE FUNCTION _end_expectations() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    over bigint[];
BEGIN
    SELECT array_agg(e.sealed_row::bigint) INTO over FROM (
        SELECT r.sealed_row FROM @extschema@.revocation r WHERE r.token IS NULL
            AND (r.give_up_at < now() OR r.sealed_row::bigint NOT IN (SELECT unnest(f.schedule_ids) FROM @extschema@.in_flight f))
            FOR UPDATE SKIP LOCKED) e;
    IF over IS NOT NULL THEN
        DELETE FROM @extschema@.parked_result p WHERE p.schedule_id = ANY (over)
            AND NOT EXISTS (SELECT FROM @extschema@.schedule s WHERE s.id = p.schedule_id AND s.row_key IS NOT NULL);
        DELETE FROM @extschema@.revocation r WHERE r.token IS NULL AND r.sealed_row = ANY (over::text[]);
    END IF;
END $$;
COMMENT ON FUNCTION _end_expectations() IS 'internal: for the refresher, which is about to look for revocations';

-- What is due, and is not tried again within the lease. busy: the provider of each that is under way; per_provider of one
-- at most, so that one that does not answer keeps nobody waiting.
CREATE FUNCTION _take_revocations(at_most integer, per_provider integer, busy text[], lease interval)
RETURNS TABLE (id bigint, provider text, token bytea, sealed_table text, sealed_row text, token_type_hint text, attempts integer,
               client_id text, client_secret bytea, client_row text)
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
SELECT @extschema@._end_expectations();
UPDATE @extschema@.revocation r SET due_at = clock_timestamp() + lease, attempts = r.attempts + 1, under_way = true
    FROM (SELECT d.id FROM @extschema@.provider p, LATERAL (
              SELECT x.id, x.due_at FROM @extschema@.revocation x WHERE x.provider = p.name AND x.due_at <= now() AND x.token IS NOT NULL ORDER BY x.due_at
              LIMIT greatest(per_provider - (SELECT count(*) FROM unnest(busy) b WHERE b = p.name), 0) FOR UPDATE SKIP LOCKED) d
          ORDER BY d.due_at LIMIT at_most) due
    WHERE r.id = due.id
    RETURNING r.id, r.provider, r.token, r.sealed_table, r.sealed_row, r.token_type_hint, r.attempts,
              r.client_id, r.client_secret, r.client_row
$$;
COMMENT ON FUNCTION _take_revocations(integer, integer, text[], interval) IS 'internal: for the refresher, which is about to revoke them';

CREATE FUNCTION _settle_revocation(revocation_id bigint, outcome text, why text, pause interval) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r @extschema@.revocation;
    over boolean := outcome <> 'retry';
BEGIN
    SELECT x.* INTO r FROM @extschema@.revocation x WHERE x.id = revocation_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    over := over OR clock_timestamp() + pause > r.give_up_at;
    IF NOT over THEN
        UPDATE @extschema@.revocation x SET due_at = clock_timestamp() + pause, under_way = false, message = why WHERE x.id = revocation_id;
        RETURN;
    END IF;
    DELETE FROM @extschema@.revocation x WHERE x.id = revocation_id;
    IF outcome = 'nothing' THEN
        RETURN;
    END IF;
    INSERT INTO @extschema@.audit_event (event, provider, subject, label, failure, message, actor)
        VALUES (CASE WHEN outcome = 'done' THEN 'token_revoked' ELSE 'revocation_failed' END, r.provider, r.subject, r.label,
                CASE outcome WHEN 'retry' THEN 'given_up' WHEN 'refused' THEN 'refused' END,
                concat_ws(': ', r.token_type_hint, CASE WHEN outcome = 'retry' THEN 'given up after ' || r.attempts || ' attempts' END,
                          nullif(why, '')),
                'refresher');
END $$;
COMMENT ON FUNCTION _settle_revocation(bigint, text, text, interval) IS 'internal: what has become of a revocation';

CREATE FUNCTION _queue_revocation(provider text, subject text, label text, token bytea, sealed_table text, sealed_row text, hint text,
                                  client_id text DEFAULT NULL, client_secret bytea DEFAULT NULL, client_row text DEFAULT NULL) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.revocation (provider, subject, label, token, sealed_table, sealed_row, token_type_hint, client_id, client_secret, client_row)
    SELECT p.name, subject, label, token, sealed_table, sealed_row, hint, _queue_revocation.client_id, _queue_revocation.client_secret, client_row
    FROM @extschema@.provider p WHERE p.name = _queue_revocation.provider AND p.effective_options ? 'revocation_endpoint'
$$;
COMMENT ON FUNCTION _queue_revocation(text, text, text, bytea, text, text, text, text, bytea, text) IS 'internal: has the refresher revoke a token, if the provider can; without one, what is parked or still comes for a row of the schedule';

CREATE FUNCTION _tidy_sign_ins() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
DELETE FROM @extschema@.authorization_request a USING (
    SELECT o.id FROM @extschema@.authorization_request o WHERE o.expires_at < now() - interval '1 hour'
    ORDER BY o.expires_at LIMIT 10000 FOR UPDATE SKIP LOCKED) old WHERE a.id = old.id;
DELETE FROM @extschema@.discovery d WHERE d.answered_at < now() - interval '1 hour';
$$;
COMMENT ON FUNCTION _tidy_sign_ins() IS 'internal: forgets sign-ins and discoveries that are over';

------------------------------------------------------------------------------
-- Sign-in: the contract. Whoever may execute these needs no privilege on the tables, except for disconnect.
------------------------------------------------------------------------------

CREATE FUNCTION begin_authorization(provider text, subject text DEFAULT NULL, redirect_uri text DEFAULT NULL, scope text DEFAULT NULL,
                                    label text DEFAULT '', authorization_params jsonb DEFAULT '{}', expires_in interval DEFAULT '10 minutes')
RETURNS TABLE (authorization_url text, state text)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    its_provider @extschema@.provider;
    made record;
    wanted_scope text;
    max_age text;
BEGIN
    PERFORM @extschema@._require('provider', provider IS NULL);
    PERFORM @extschema@._require('redirect_uri', redirect_uri IS NULL);
    PERFORM @extschema@._require('label', label IS NULL);
    PERFORM @extschema@._require('authorization_params', authorization_params IS NULL);
    PERFORM @extschema@._require('expires_in', expires_in IS NULL);
    IF length(subject) NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'argument "subject" must be 1 to 1000 characters long' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF length(label) > 200 THEN
        RAISE EXCEPTION 'argument "label" must be 0 to 200 characters long' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF expires_in <= interval '0' OR expires_in > interval '1 hour' THEN
        RAISE EXCEPTION 'argument "expires_in" must be positive and at most one hour' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.* INTO its_provider FROM @extschema@.provider p WHERE p.name = provider;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown provider "%"', provider
            USING ERRCODE = 'undefined_object', HINT = 'Create it with token_refresh.create_provider().';
    END IF;
    IF its_provider.effective_options @> '{"enabled": false}' THEN
        RAISE EXCEPTION 'provider "%" is disabled', provider
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'See its option "enabled".';
    END IF;
    IF its_provider.effective_options @> jsonb_build_object('secondary_tokens', jsonb_build_array(jsonb_build_object('label', label))) THEN
        RAISE EXCEPTION 'argument "label" must not be "%": other tokens of the answer have that label', label
            USING ERRCODE = 'invalid_parameter_value', HINT = 'See the provider''s option "secondary_tokens".';
    END IF;
    IF its_provider.client_id IS NULL THEN
        RAISE EXCEPTION 'provider "%" has no client_id', provider
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Where each credential has a client of its own, the application signs its users in, and stores what it was answered.';
    END IF;
    wanted_scope := coalesce(scope, its_provider.effective_options ->> 'scope');
    SELECT m.* INTO made FROM @extschema@._make_authorization(its_provider.client_id, its_provider.effective_options, redirect_uri,
                                                             wanted_scope, authorization_params) m;
    IF subject IS NULL AND NOT made.wants_id_token AND NOT its_provider.effective_options ? 'userinfo_endpoint' THEN
        RAISE EXCEPTION 'argument "subject" is needed: nothing at provider "%" would say who has signed in', provider
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give the subject; or the scope "openid" and the provider the options issuer and jwks_uri; or the option userinfo_endpoint.';
    END IF;
    -- OpenID Connect Core 1.0 section 3.1.2.1: how long ago the user may have proved who he is.
    max_age := CASE WHEN authorization_params ? 'max_age' THEN authorization_params ->> 'max_age'
                    ELSE its_provider.effective_options #>> '{authorization_params,max_age}' END;
    IF max_age !~ '^[0-9]{1,9}$' THEN
        RAISE EXCEPTION 'authorization parameter "max_age" must be a number of seconds' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF max_age IS NOT NULL AND NOT made.wants_id_token THEN
        RAISE EXCEPTION 'authorization parameter "max_age" would not be checked: there will be no id_token' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'It takes the scope "openid", and the options issuer and jwks_uri of the provider.';
    END IF;
    INSERT INTO @extschema@.authorization_request (state_hash, provider, subject, label, redirect_uri, code_verifier, sends_verifier,
                                                   wants_id_token, max_age, expires_at)
        VALUES (made.state_hash, provider, subject, label, redirect_uri, made.code_verifier, made.sends_verifier, made.wants_id_token, max_age::integer,
                clock_timestamp() + expires_in);
    authorization_url := made.authorization_url;
    state := made.state;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION begin_authorization(text, text, text, text, text, jsonb, interval) IS 'begins a sign-in at a provider: where to send the browser, and the state with which it comes back. Without a subject the credential will belong to the account of whoever signs in';

CREATE FUNCTION complete_authorization(state text, code text, expected_provider text DEFAULT NULL, iss text DEFAULT NULL)
RETURNS TABLE (credential_id bigint, provider text, subject text, claims jsonb)
    LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'token_refresh_complete_authorization';
COMMENT ON FUNCTION complete_authorization(text, text, text, text) IS 'ends a sign-in with what the browser has brought back: the refresher exchanges the code, verifies who has signed in and stores the credential, whatever becomes of the caller''s transaction';

CREATE FUNCTION discover_provider(issuer text, options jsonb DEFAULT '{}', has_client_secret boolean DEFAULT true) RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_discover_provider';
COMMENT ON FUNCTION discover_provider(text, jsonb, boolean) IS 'provider options from what an issuer publishes (RFC 8414, OpenID Connect Discovery); options say how to ask: timeouts, ca_file, allow_insecure_http';

CREATE FUNCTION disconnect(provider text, subject text, label text DEFAULT '', revoke boolean DEFAULT true) RETURNS boolean
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_disconnect';
COMMENT ON FUNCTION disconnect(text, text, text, boolean) IS 'forgets a credential and, after COMMIT, has its tokens revoked at the provider (RFC 7009), in the background and for up to a day; false when there was none';

