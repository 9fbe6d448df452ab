------------------------------------------------------------------------------
-- Internal functions: for triggers, other functions of the extension, and the refresher
------------------------------------------------------------------------------

CREATE FUNCTION _feed_schedule() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_feed_schedule';
COMMENT ON FUNCTION _feed_schedule() IS 'internal: keeps schedule in step with a token table, and wakes the refresher at COMMIT';

CREATE FUNCTION _find_restored() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_find_restored';
COMMENT ON FUNCTION _find_restored() IS 'internal: a parked result that comes out of a dump finds its row';

CREATE FUNCTION _provider_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_provider_changed';
COMMENT ON FUNCTION _provider_changed() IS 'internal: makes every process forget what it knows of providers';

-- The last two are what the schedule held of the row when it was read; null: no row.
CREATE FUNCTION _plan_row(token_table integer, row_key text, provider text, has_refresh_token boolean, status text,
                          issued_at timestamptz, expires_at timestamptz, refresh_expires_at timestamptz,
                          known_generation bigint, known_expires_at timestamptz) RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_plan_row';
COMMENT ON FUNCTION _plan_row(integer, text, text, boolean, text, timestamptz, timestamptz, timestamptz, bigint, timestamptz) IS 'internal: computes when a row falls due and writes it to schedule, unless others have written there since it was read';

CREATE FUNCTION _due_at(provider text, refresh_margin interval, issued_at timestamptz, expires_at timestamptz,
                        refresh_expires_at timestamptz DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_due_at';
COMMENT ON FUNCTION _due_at(text, interval, timestamptz, timestamptz, timestamptz) IS 'internal: when a token falls due that can be refreshed';

CREATE FUNCTION _canonical_options(provider text, client_id text, has_client_secret boolean, merged_options jsonb) RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_canonical_options';
COMMENT ON FUNCTION _canonical_options(text, text, boolean, jsonb) IS 'internal: checks provider options, turns intervals into microseconds and puts variables into endpoints; has_client_secret null: the client is not looked at';

CREATE FUNCTION _near_word(word text, words text[]) RETURNS text
    LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'token_refresh_near_word';
COMMENT ON FUNCTION _near_word(text, text[]) IS 'internal: which of the words was probably meant, or null';

CREATE FUNCTION _near_preset(name text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT @extschema@._near_word(_near_preset.name, array_agg(p.name ORDER BY p.name)) FROM @extschema@.provider_preset p $$;
COMMENT ON FUNCTION _near_preset(text) IS 'internal: which preset was probably meant, or null';

CREATE FUNCTION _seal(table_name text, row_key text, column_name text, secret text) RETURNS bytea
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_seal';
COMMENT ON FUNCTION _seal(text, text, text, text) IS 'internal: seals a secret for one place';

CREATE FUNCTION _reseal(table_name text, row_key text, column_name text, sealed bytea) RETURNS bytea
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_reseal';
COMMENT ON FUNCTION _reseal(text, text, text, bytea) IS 'internal: seals anew with the first key of the ring; the plaintext does not leave the function; gives back as it is what that key has sealed, or what does not open';

CREATE FUNCTION _own_writes(on_off boolean) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_own_writes';
COMMENT ON FUNCTION _own_writes(boolean) IS 'internal: for the rest of the transaction, writes to token tables do not reach the schedule';

CREATE FUNCTION _refresh_many(schedule_ids bigint[]) RETURNS TABLE (schedule_id bigint, result text)
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_refresh_many';
COMMENT ON FUNCTION _refresh_many(bigint[]) IS 'internal: asks the refresher for many credentials at once and waits for all';

CREATE FUNCTION _refresher_state(OUT phase text, OUT pid integer, OUT requests bigint, OUT refreshed bigint, OUT failed bigint)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_refresher_state';
COMMENT ON FUNCTION _refresher_state() IS 'internal: the refresher of this database as shared memory knows it';

CREATE FUNCTION _provider_states() RETURNS TABLE (provider integer, in_flight integer, held_back text, until timestamptz)
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_provider_states';
COMMENT ON FUNCTION _provider_states() IS 'internal: the providers that the refresher of this database is asking or holds back';

CREATE FUNCTION _wake_refresher() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_wake_refresher';
COMMENT ON FUNCTION _wake_refresher() IS 'internal: at COMMIT, lets launcher and refresher look again';

CREATE FUNCTION _merge_preset(options jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base jsonb := '{}';
BEGIN
    IF options ? 'preset' THEN
        IF jsonb_typeof(options -> 'preset') <> 'string' THEN
            RAISE EXCEPTION 'option "preset" must be text' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT p.options INTO base FROM @extschema@.provider_preset p WHERE p.name = _merge_preset.options ->> 'preset';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'unknown preset "%"', options ->> 'preset'
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = coalesce('Did you mean "' || @extschema@._near_preset(options ->> 'preset') || '"? ', '') || 'The presets are: ' || (SELECT string_agg(p.name, ', ' ORDER BY p.name) FROM @extschema@.provider_preset p) || '.';
        END IF;
    END IF;
    -- Of variables those that are given come on top of those of the preset.
    IF jsonb_typeof(options -> 'variables') = 'object' AND base ? 'variables' THEN
        base := jsonb_set(base, '{variables}', (base -> 'variables') || (options -> 'variables'));
        RETURN base || (options - ARRAY['preset', 'variables']);
    END IF;
    RETURN base || (options - 'preset');
END $$;
COMMENT ON FUNCTION _merge_preset(jsonb) IS 'internal: the preset''s options overridden by those given';

CREATE FUNCTION _check_client_secret(options jsonb, client_secret text) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_check_client_secret';
COMMENT ON FUNCTION _check_client_secret(jsonb, text) IS 'internal: refuses a secret that does not do for the options, such as a key that cannot be read';

CREATE FUNCTION _check_stored_secret(options jsonb, provider_id text, client_secret bytea) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'token_refresh_check_stored_secret';
COMMENT ON FUNCTION _check_stored_secret(jsonb, text, bytea) IS 'internal: refuses options with which the secret that is stored does not do';

CREATE FUNCTION _require(argument text, is_null boolean) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF is_null THEN
        RAISE EXCEPTION 'argument "%" must not be null', argument USING ERRCODE = 'null_value_not_allowed';
    END IF;
END $$;
COMMENT ON FUNCTION _require(text, boolean) IS 'internal: refuses a null argument by name';

CREATE TRIGGER feed_schedule AFTER INSERT OR UPDATE OR DELETE ON credential
    FOR EACH ROW EXECUTE FUNCTION _feed_schedule('1');
CREATE TRIGGER feed_schedule_truncate AFTER TRUNCATE ON credential
    FOR EACH STATEMENT EXECUTE FUNCTION _feed_schedule('1');
CREATE TRIGGER find_restored AFTER INSERT ON parked_result
    FOR EACH ROW EXECUTE FUNCTION _find_restored();
CREATE TRIGGER provider_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON provider
    FOR EACH STATEMENT EXECUTE FUNCTION _provider_changed();
CREATE TRIGGER token_table_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON token_table
    FOR EACH STATEMENT EXECUTE FUNCTION _provider_changed();

CREATE TRIGGER control_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON control
    FOR EACH STATEMENT EXECUTE FUNCTION _provider_changed();

CREATE FUNCTION _trim_audit(retention interval) RETURNS integer
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_month timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    month_number integer := extract(year FROM now() AT TIME ZONE 'UTC') * 12 + extract(month FROM now() AT TIME ZONE 'UTC');
    months_ago integer;
    partition regclass;
    trimmed integer := 0;
BEGIN
    FOR i IN 0..15 LOOP
        months_ago := (month_number - i) % 16;
        partition := format('@extschema@.audit_event_%s', to_char(i, 'FM00'))::regclass;
        IF this_month - make_interval(months => months_ago - 1) < now() - retention AND pg_relation_size(partition) > 0 THEN
            EXECUTE format('TRUNCATE %s', partition);
            trimmed := trimmed + 1;
        END IF;
    END LOOP;
    RETURN trimmed;
END $$;
COMMENT ON FUNCTION _trim_audit(interval) IS 'internal: empties the months of audit_event that are older than the retention';

