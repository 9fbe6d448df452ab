------------------------------------------------------------------------------
-- API tokens: internal functions
------------------------------------------------------------------------------

CREATE TRIGGER imported_prefix_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON imported_token_prefix
    FOR EACH STATEMENT EXECUTE FUNCTION _provider_changed();

CREATE FUNCTION _make_api_token(prefix text, OUT token text, OUT token_hash bytea)
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_make_api_token';
COMMENT ON FUNCTION _make_api_token(text) IS 'internal: a new API token and its hash; nothing is stored';

CREATE FUNCTION _make_successors(token_ids bigint[], prefixes text[]) RETURNS TABLE (token_id bigint, token_hash bytea, sealed bytea)
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_make_successors';
COMMENT ON FUNCTION _make_successors(bigint[], text[]) IS 'internal: a new token for each, as its hash and sealed for the row of the token that it succeeds; nothing is stored';

CREATE FUNCTION _find_api_token(p_token text) RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_find_api_token';
COMMENT ON FUNCTION _find_api_token(text) IS 'internal: the id of a token, whatever its state; NULL: there is no such token';

CREATE FUNCTION _is_grantable_scope(scope text) RETURNS boolean
    LANGUAGE c STRICT IMMUTABLE AS 'MODULE_PATHNAME', 'token_refresh_is_grantable_scope';
COMMENT ON FUNCTION _is_grantable_scope(text) IS 'internal: whether a scope may be granted: a scope-token of RFC 6749, with a star only as "*" or as ":*" at its end';

-- Called by the refresher for sessions that wait, by sessions themselves where there is no refresher, and by the batch.
CREATE FUNCTION _rotate_api_tokens(token_ids bigint[], hand_over boolean) RETURNS TABLE (token_id bigint, result text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    childless bigint[];
    prefixes text[];
BEGIN
    -- What another transaction has in hand is left to it.
    SELECT array_agg(t.id), array_agg(t.id) FILTER (WHERE t.successor_id IS NULL), array_agg(t.prefix) FILTER (WHERE t.successor_id IS NULL)
        INTO held, childless, prefixes
        FROM (SELECT a.id, a.successor_id, a.prefix FROM @extschema@.api_token a
              WHERE a.id = ANY (token_ids) AND a.revoked_at IS NULL AND a.expires_at > clock_timestamp()
              FOR NO KEY UPDATE SKIP LOCKED) t;
    IF childless IS NOT NULL THEN
        WITH made AS MATERIALIZED (
            SELECT m.token_id, m.token_hash, m.sealed, nextval('@extschema@.api_token_id_seq') AS new_id
            FROM @extschema@._make_successors(childless, prefixes) m
        ), born AS (
            INSERT INTO @extschema@.api_token (id, expires_at, lifetime, token_hash, scope, user_hk, tenant_hk, family, predecessor,
                                               owner, prefix, token_type, issued_at, refresh_if_used_within)
            SELECT m.new_id, clock_timestamp() + a.lifetime, a.lifetime, m.token_hash, a.scope, a.user_hk, a.tenant_hk, a.family, a.id,
                   a.owner, a.prefix, a.token_type, clock_timestamp(), a.refresh_if_used_within
            FROM made m JOIN @extschema@.api_token a ON a.id = m.token_id
        )
        UPDATE @extschema@.api_token a SET successor_id = m.new_id, successor = m.sealed FROM made m WHERE a.id = m.token_id;
    END IF;
    WITH handed AS (
        UPDATE @extschema@.api_token a
            SET retires_at = clock_timestamp() + current_setting('token_refresh.api_token_grace')::interval
            WHERE hand_over AND a.id = ANY (held) AND a.retires_at IS NULL
            RETURNING a.id, a.owner, a.successor_id
    ), made AS (
        SELECT a.id, a.owner, a.successor_id FROM @extschema@.api_token a WHERE NOT hand_over AND a.id = ANY (childless)
    )
    INSERT INTO @extschema@.audit_event (event, row_key, subject, message)
        SELECT 'api_token_rotated', h.id::text, h.owner, 'its successor is token ' || h.successor_id FROM handed h
        UNION ALL
        SELECT 'api_token_successor_ready', m.id::text, m.owner, 'its successor will be token ' || m.successor_id FROM made m;
    RETURN QUERY
        SELECT i.id, CASE WHEN h.id IS NOT NULL THEN 'done' WHEN a.id IS NOT NULL THEN 'locked' ELSE 'gone' END
        FROM unnest(token_ids) AS i (id)
        LEFT JOIN unnest(held) AS h (id) ON h.id = i.id
        LEFT JOIN @extschema@.api_token a ON a.id = i.id AND a.revoked_at IS NULL AND a.expires_at > clock_timestamp();
END $$;
COMMENT ON FUNCTION _rotate_api_tokens(bigint[], boolean) IS 'internal: makes successors for those that have none, and begins the grace period of those that are handed over';

-- A rotation that was under way may have made another member meanwhile: until none is left. In one order, so that
-- two who revoke the same family do not wait for each other.
CREATE FUNCTION _revoke_family(family bigint, event text, token_id bigint, reason text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    revoked boolean := false;
BEGIN
    LOOP
        PERFORM FROM @extschema@.api_token t WHERE t.family = _revoke_family.family AND t.revoked_at IS NULL
            ORDER BY t.id FOR NO KEY UPDATE;
        UPDATE @extschema@.api_token t SET revoked_at = clock_timestamp(), revoke_reason = reason, successor = NULL
            WHERE t.family = _revoke_family.family AND t.revoked_at IS NULL;
        EXIT WHEN NOT FOUND;
        revoked := true;
    END LOOP;
    IF revoked THEN
        INSERT INTO @extschema@.audit_event (event, row_key, subject, message)
            SELECT event, t.id::text, t.owner, reason FROM @extschema@.api_token t WHERE t.id = token_id;
    END IF;
    RETURN revoked;
END $$;
COMMENT ON FUNCTION _revoke_family(bigint, text, bigint, text) IS 'internal: revokes a token with all its predecessors and successors; false when they were revoked already';

CREATE FUNCTION _flush_api_token_use(token_ids bigint[], last_used timestamptz[], counts bigint[]) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.api_token_use AS u (token_id, last_used_at, use_count)
    SELECT n.id, n.at, n.uses FROM unnest(token_ids, last_used, counts) AS n (id, at, uses)
    WHERE EXISTS (SELECT FROM @extschema@.api_token t WHERE t.id = n.id) ORDER BY n.id
    ON CONFLICT (token_id) DO UPDATE SET last_used_at = greatest(u.last_used_at, excluded.last_used_at), use_count = u.use_count + excluded.use_count;
$$;
COMMENT ON FUNCTION _flush_api_token_use(bigint[], timestamptz[], bigint[]) IS 'internal: writes down what was noted in shared memory';

-- A sealed successor is kept no longer than it can be asked for; one that nobody has got goes with its predecessor. True
-- when there may be more to do. Times are variables, as a volatile function would keep the indexes from being used.
CREATE FUNCTION _tidy_api_tokens(retention interval, batch_size integer) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    cutoff timestamptz := moment - retention;
    unsealed integer;
    forgotten integer;
BEGIN
    WITH over AS MATERIALIZED (
        SELECT t.id, t.successor_id, t.retires_at FROM @extschema@.api_token t
        WHERE t.successor IS NOT NULL AND least(t.retires_at, t.expires_at) < moment
        ORDER BY least(t.retires_at, t.expires_at) LIMIT batch_size FOR NO KEY UPDATE SKIP LOCKED
    ), forgotten AS (
        DELETE FROM @extschema@.api_token s USING over o
            WHERE s.id = o.successor_id AND o.retires_at IS NULL
              AND NOT EXISTS (SELECT FROM @extschema@.api_token_use u WHERE u.token_id = s.id)
    )
    UPDATE @extschema@.api_token t SET successor = NULL FROM over o WHERE t.id = o.id;
    GET DIAGNOSTICS unsealed = ROW_COUNT;
    WITH old AS (
        DELETE FROM @extschema@.api_token t WHERE t.id IN (
            SELECT e.id FROM @extschema@.api_token e WHERE e.expires_at < cutoff
            ORDER BY e.expires_at LIMIT batch_size FOR UPDATE SKIP LOCKED) RETURNING t.id
    ), used AS (
        DELETE FROM @extschema@.api_token_use u USING old WHERE u.token_id = old.id
    )
    SELECT count(*) INTO forgotten FROM old;
    RETURN greatest(unsealed, forgotten) = batch_size;
END $$;
COMMENT ON FUNCTION _tidy_api_tokens(interval, integer) IS 'internal: forgets successors that cannot be asked for any more, and tokens that have expired longer ago than the retention';

