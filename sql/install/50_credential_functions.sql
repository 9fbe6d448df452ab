------------------------------------------------------------------------------
-- Credentials: the contract. These run with the caller's privileges on credential
-- (SELECT to read, SELECT, INSERT and UPDATE to store); they look no name up in the
-- search_path, so none is set, which would cost more than the look-up itself.
------------------------------------------------------------------------------

CREATE FUNCTION store_credential(provider text, subject text, token_response jsonb, label text DEFAULT '',
                                 client_id text DEFAULT NULL, client_secret text DEFAULT NULL) RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_store_credential';
COMMENT ON FUNCTION store_credential(text, text, jsonb, text, text, text) IS 'stores what a token endpoint answered, sealed, under provider, subject and label; replaces what was there. With the client that it was answered to, if that is not the provider''s';

CREATE FUNCTION get_access_token(provider text, subject text, label text DEFAULT '', min_validity interval DEFAULT NULL) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_get_access_token';
COMMENT ON FUNCTION get_access_token(text, text, text, interval) IS 'a valid access token, refreshed first if it must be; NULL when there is none to be had (get_token says why)';

CREATE FUNCTION get_token(provider text, subject text, label text DEFAULT '', min_validity interval DEFAULT NULL)
RETURNS TABLE (access_token text, token_type text, expires_at timestamptz, scope text, status text, was_refreshed boolean, message text)
    LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'token_refresh_get_token';
COMMENT ON FUNCTION get_token(text, text, text, interval) IS 'as get_access_token, with type, expiry, scope, status and, when there is no token, the reason';

CREATE FUNCTION refresh_credential(provider text, subject text, label text DEFAULT '')
RETURNS TABLE (success boolean, expires_at timestamptz, failure text, message text)
    LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'token_refresh_refresh_credential';
COMMENT ON FUNCTION refresh_credential(text, text, text) IS 'refreshes now, whatever the expiry, and waits for the result';

CREATE FUNCTION get_access_token_from(table_name regclass, row_key text, min_validity interval DEFAULT NULL) RETURNS text
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_get_access_token_from';
COMMENT ON FUNCTION get_access_token_from(regclass, text, interval) IS 'a valid access token of a row of an attached table, refreshed first if it must be; NULL when there is none to be had';

CREATE FUNCTION refresh_row(table_name regclass, row_key text)
RETURNS TABLE (success boolean, expires_at timestamptz, failure text, message text)
    LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'token_refresh_refresh_row';
COMMENT ON FUNCTION refresh_row(regclass, text) IS 'refreshes a row of an attached table now, whatever its expiry, and waits for the result';

CREATE FUNCTION attach_table(table_name regclass, options jsonb) RETURNS integer
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_attach_table';
COMMENT ON FUNCTION attach_table(regclass, jsonb) IS 'serves the tokens in a table of the caller in place: options say which column is what, and how the tokens are encrypted';

CREATE FUNCTION seal_token(table_name regclass, row_key text, column_name text, token text) RETURNS bytea
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_seal_token';
COMMENT ON FUNCTION seal_token(regclass, text, text, text) IS 'a token as a table that is attached with the cipher native stores it; for who may write the column';

CREATE FUNCTION detach_table(table_name regclass) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_detach_table';
COMMENT ON FUNCTION detach_table(regclass) IS 'ends what attach_table began; the table itself stays as it is';

CREATE FUNCTION refresh_expiring_tokens(within interval DEFAULT NULL)
RETURNS TABLE (tokens_found integer, tokens_refreshed integer, tokens_failed integer, details jsonb)
    LANGUAGE plpgsql SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids bigint[];
BEGIN
    -- By default what is due; with an interval, what expires within it (a row is due before it expires).
    SELECT array_agg(s.id ORDER BY s.due_at) INTO ids
        FROM @extschema@.schedule s
        WHERE s.due_at IS NOT NULL AND s.row_key IS NOT NULL AND s.status <> 'needs_reauth'
          AND (within IS NULL AND s.due_at <= clock_timestamp() OR s.expires_at <= clock_timestamp() + within);
    RETURN QUERY
    WITH results AS MATERIALIZED (
        SELECT r.schedule_id, r.result, p.name AS provider
        FROM @extschema@._refresh_many(coalesce(ids, '{}')) r
        LEFT JOIN @extschema@.schedule s ON s.id = r.schedule_id
        LEFT JOIN @extschema@.provider p ON p.id = s.provider
    ), per_provider AS (
        SELECT r.provider, count(*) AS found,
               count(*) FILTER (WHERE r.result IN ('refreshed', 'already_refreshed', 'parked', 'superseded')) AS refreshed,
               jsonb_object_agg(r.result, r.n) AS by_result
        FROM (SELECT x.provider, x.result, count(*) OVER (PARTITION BY x.provider, x.result) AS n FROM results x) r
        GROUP BY r.provider
    )
    SELECT coalesce(sum(q.found), 0)::integer, coalesce(sum(q.refreshed), 0)::integer,
           coalesce(sum(q.found - q.refreshed), 0)::integer,
           coalesce(jsonb_object_agg(coalesce(q.provider, ''), q.by_result), '{}')
    FROM per_provider q;
END $$;
COMMENT ON FUNCTION refresh_expiring_tokens(interval) IS 'refreshes what is due, or what expires within the interval, and waits for all of it; details counts results per provider';

