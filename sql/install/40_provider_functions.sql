------------------------------------------------------------------------------
-- Providers: the contract
------------------------------------------------------------------------------

CREATE FUNCTION create_provider(name text, client_id text DEFAULT NULL, client_secret text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    chosen jsonb := options;
    effective jsonb;
    new_id integer;
BEGIN
    PERFORM @extschema@._require('name', name IS NULL);
    PERFORM @extschema@._require('options', options IS NULL);
    IF name !~ '^[a-z0-9][a-z0-9_.-]{0,62}$' THEN
        RAISE EXCEPTION 'invalid provider name "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A name has 1 to 63 characters: lower-case letters, digits, "_", "." and "-", beginning with a letter or digit.';
    END IF;
    IF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION 'argument "options" must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT options ?| ARRAY['preset', 'token_endpoint']
       AND EXISTS (SELECT FROM @extschema@.provider_preset p WHERE p.name = create_provider.name) THEN
        chosen := jsonb_build_object('preset', name) || options;
    END IF;
    effective := @extschema@._merge_preset(chosen);
    IF NOT effective ? 'token_endpoint' AND jsonb_typeof(effective -> 'issuer') = 'string' THEN
        chosen := @extschema@.discover_provider(effective ->> 'issuer', effective, client_secret IS NOT NULL) || chosen;
        effective := @extschema@._merge_preset(chosen);
    END IF;
    IF NOT effective ? 'token_endpoint' AND @extschema@._near_preset(name) IS NOT NULL THEN
        -- What else is wrong comes first: it may be the endpoint, under a wrong name.
        PERFORM @extschema@._canonical_options(name, NULL, NULL, effective);
        RAISE EXCEPTION 'option "token_endpoint" is missing, and there is no preset "%"', name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Did you mean the preset "%s"? Otherwise give options.token_endpoint.', @extschema@._near_preset(name));
    END IF;
    effective := @extschema@._canonical_options(name, client_id, client_secret IS NOT NULL, effective);
    PERFORM @extschema@._check_client_secret(effective, client_secret);
    INSERT INTO @extschema@.provider AS p (name, client_id, options, effective_options)
        VALUES (name, client_id, chosen, effective)
        ON CONFLICT ON CONSTRAINT provider_name_key DO NOTHING RETURNING p.id INTO new_id;
    IF new_id IS NULL THEN
        RAISE EXCEPTION 'provider "%" already exists', name
            USING ERRCODE = 'duplicate_object', HINT = 'Use alter_provider() to change it.';
    END IF;
    UPDATE @extschema@.provider p
        SET client_secret = @extschema@._seal('token_refresh.provider', new_id::text, 'client_secret', client_secret),
            client_secret_changed_at = CASE WHEN client_secret IS NOT NULL THEN now() END
        WHERE p.id = new_id;
    INSERT INTO @extschema@.audit_event (event, provider) VALUES ('provider_created', name);
END $$;
COMMENT ON FUNCTION create_provider(text, text, text, jsonb) IS 'registers an authorization server and this database''s client there; without an endpoint, the preset of that name is used, or what the issuer publishes';

CREATE FUNCTION alter_provider(name text, options jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    old @extschema@.provider;
    changed jsonb;
    effective jsonb;
    new_client_id text;
    secret_given boolean;
    has_secret boolean;
    moves text;
BEGIN
    PERFORM @extschema@._require('name', name IS NULL);
    PERFORM @extschema@._require('options', options IS NULL);
    SELECT * INTO old FROM @extschema@.provider p WHERE p.name = alter_provider.name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown provider "%"', name
            USING ERRCODE = 'undefined_object', HINT = 'Create it with create_provider(), or see the table token_refresh.provider.';
    END IF;
    IF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION 'argument "options" must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF options ? 'client_id' AND jsonb_typeof(options -> 'client_id') NOT IN ('string', 'null')
       OR options ? 'client_secret' AND jsonb_typeof(options -> 'client_secret') NOT IN ('string', 'null') THEN
        RAISE EXCEPTION 'client_id and client_secret must be strings or null' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    new_client_id := CASE WHEN options ? 'client_id' THEN options ->> 'client_id' ELSE old.client_id END;
    secret_given := options ? 'client_secret';
    has_secret := CASE WHEN secret_given THEN options ->> 'client_secret' IS NOT NULL ELSE old.client_secret IS NOT NULL END;
    -- A null takes an option back to its default.
    changed := old.options || (options - ARRAY['client_id', 'client_secret']);
    SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') INTO changed FROM jsonb_each(changed) e WHERE e.value <> 'null';
    effective := @extschema@._canonical_options(name, new_client_id, has_secret, @extschema@._merge_preset(changed));
    PERFORM @extschema@._check_client_secret(effective, options ->> 'client_secret');
    -- What other options change says nothing of the secret, and can be changed whatever has become of it.
    IF NOT secret_given AND EXISTS (
        SELECT FROM unnest('{token_endpoint_auth_method,token_endpoint_auth_signing_alg,grant_type}'::text[]) AS k (key)
        WHERE effective -> k.key IS DISTINCT FROM old.effective_options -> k.key) THEN
        PERFORM @extschema@._check_stored_secret(effective, old.id::text, old.client_secret);
    END IF;
    UPDATE @extschema@.provider p
        SET client_id = new_client_id, options = changed, effective_options = effective, updated_at = now()
        WHERE p.id = old.id;
    IF secret_given THEN
        UPDATE @extschema@.provider p
            SET client_secret = @extschema@._seal('token_refresh.provider', old.id::text, 'client_secret', options ->> 'client_secret'),
                previous_client_secret = p.client_secret,
                client_secret_changed_at = now()
            WHERE p.id = old.id;
    END IF;
    -- New timing changes when the tokens fall due; a mended client is tried at once. What is parked has its own due time.
    UPDATE @extschema@.schedule s SET due_at = clock_timestamp()
        WHERE s.provider = old.id AND s.failure IS NOT NULL AND s.due_at IS NOT NULL
          AND (s.token_table <> 1 OR EXISTS (SELECT FROM @extschema@.parked_result k WHERE k.schedule_id = s.id));
    -- What is known of the row of an attached table is what its schedule says.
    IF effective IS DISTINCT FROM old.effective_options THEN
        UPDATE @extschema@.schedule s SET due_at = @extschema@._due_at(name, t.refresh_margin, s.last_refreshed_at, s.expires_at)
            FROM @extschema@.token_table t
            WHERE t.id = s.token_table AND t.id <> 1 AND s.provider = old.id AND s.status = 'connected' AND s.failure IS NULL
              AND s.due_at IS NOT NULL AND s.expires_at IS NOT NULL AND NOT s.settling
              AND NOT EXISTS (SELECT FROM @extschema@.parked_result k WHERE k.schedule_id = s.id);
        -- Tokens without an expiry, too, are asked about from now on. What cannot be refreshed is put away again.
        UPDATE @extschema@.schedule s SET due_at = clock_timestamp()
            WHERE effective ->> 'expiry_source' = 'introspection' AND s.token_table <> 1 AND s.provider = old.id
              AND s.status = 'connected' AND s.failure IS NULL AND s.expires_at IS NULL AND s.row_key IS NOT NULL AND NOT s.settling
              AND NOT s.left_alone AND NOT EXISTS (SELECT FROM @extschema@.parked_result k WHERE k.schedule_id = s.id);
    END IF;
    -- While the provider is yet to be asked when refreshed tokens expire, the row holds an assumption.
    PERFORM @extschema@._plan_row(1, c.id::text, c.provider, c.refresh_token IS NOT NULL, c.status, c.issued_at,
                                  CASE WHEN effective ->> 'expiry_source' = 'introspection' AND s.expires_at IS NULL AND s.due_at IS NOT NULL
                                            AND s.last_refreshed_at IS NOT NULL THEN NULL ELSE c.expires_at END,
                                  c.refresh_expires_at, s.generation, s.expires_at)
        FROM @extschema@.credential c
        LEFT JOIN @extschema@.schedule s ON s.token_table = 1 AND s.row_key = c.id::text
        WHERE c.provider = alter_provider.name AND c.status NOT IN ('needs_reauth', 'disconnected')
          AND coalesce(s.status NOT IN ('needs_reauth', 'disconnected'), true)
          AND NOT EXISTS (SELECT FROM @extschema@.parked_result k WHERE k.schedule_id = s.id);
    -- Secrets are sent to these from now on, or they say who somebody is. Scheme, host and port say where; an URL may hold more.
    SELECT string_agg(format('%s: %s -> %s', m.endpoint, coalesce(m.before, 'none'), coalesce(m.after, 'none')), ', ') INTO moves
        FROM (SELECT e.endpoint, substring(old.effective_options ->> e.endpoint FROM '^[^/]*//[^/?#]*') AS before,
                     substring(effective ->> e.endpoint FROM '^[^/]*//[^/?#]*') AS after
              FROM unnest(ARRAY['token_endpoint', 'refresh_endpoint', 'revocation_endpoint', 'introspection_endpoint', 'authorization_endpoint',
                                'userinfo_endpoint', 'jwks_uri']) AS e (endpoint)
              UNION ALL SELECT 'issuer', old.effective_options ->> 'issuer', effective ->> 'issuer'
              -- Where a captured field stands in the URL, too, variables are put in when it is asked.
              UNION ALL SELECT 'variable ' || key, o.value, n.value
              FROM jsonb_each_text(coalesce(old.effective_options -> 'variables', '{}')) o
              FULL JOIN jsonb_each_text(coalesce(effective -> 'variables', '{}')) n USING (key)
              WHERE EXISTS (SELECT FROM unnest(ARRAY['token_endpoint', 'refresh_endpoint', 'introspection_endpoint']) e (endpoint),
                                 substring(effective ->> e.endpoint FROM '^[^/]*//[^/?#]*') a (host)
                            WHERE strpos(a.host, '${') > 0 AND strpos(a.host, key) > 0)) m
        WHERE m.before IS DISTINCT FROM m.after;
    IF old.effective_options ->> 'issuer' <> effective ->> 'issuer' AND EXISTS (SELECT FROM @extschema@.account a WHERE a.provider = name) THEN
        RAISE WARNING 'provider "%" has accounts of its former issuer; the same identities of the new one will be taken for them', name;
    END IF;
    INSERT INTO @extschema@.audit_event (event, provider, message) VALUES ('provider_altered', name, moves);
END $$;
COMMENT ON FUNCTION alter_provider(text, jsonb) IS 'changes options of a provider, also client_id and client_secret; null takes an option back to its default';

CREATE FUNCTION drop_provider(name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    dropped integer;
    held record;
    tables text;
BEGIN
    PERFORM @extschema@._require('name', name IS NULL);
    SELECT p.id INTO dropped FROM @extschema@.provider p WHERE p.name = drop_provider.name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown provider "%"', name
            USING ERRCODE = 'undefined_object', HINT = 'See the table token_refresh.provider.';
    END IF;
    SELECT h.* INTO held FROM (VALUES
        (1, 'credential(s)', (SELECT count(*) FROM @extschema@.credential c WHERE c.provider = name),
            'End each with token_refresh.disconnect(), or delete its rows from token_refresh.credential, first.'),
        (2, 'account(s)', (SELECT count(*) FROM @extschema@.account a WHERE a.provider = name),
            'Delete its rows from token_refresh.account first; their sessions go with them.'),
        (3, 'sign-in(s) under way', (SELECT count(*) FROM @extschema@.authorization_request a
                                     WHERE a.provider = name AND a.failure IS NULL AND a.credential_id IS NULL
                                           AND a.used_at > clock_timestamp() - interval '10 minutes'),
            'Try again when it has answered.'),
        (4, 'token(s) to be revoked', (SELECT count(*) FROM @extschema@.revocation r WHERE r.provider = name),
            'Wait until it has been told of them; or leave them alive there: DELETE its rows FROM token_refresh.revocation first.')
        ) h (rank, what, number, hint)
        WHERE h.number > 0 ORDER BY h.rank LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'provider "%" still has % %', name, held.number, held.what
            USING ERRCODE = 'dependent_objects_still_exist', HINT = held.hint;
    END IF;
    -- A table names it for all of its rows, or rows name it in a column.
    SELECT string_agg(t.relation::text, ', ' ORDER BY t.relation::text) INTO tables FROM @extschema@.token_table t
        WHERE t.id <> 1 AND (t.provider = name OR EXISTS (SELECT FROM @extschema@.schedule s
                                                          WHERE s.token_table = t.id AND s.provider = dropped
                                                                AND s.row_key IS NOT NULL));
    IF tables IS NOT NULL THEN
        RAISE EXCEPTION 'provider "%" is still used by attached table(s): %', name, tables
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = 'Delete the rows that name it, or detach the tables with detach_table(), first.';
    END IF;
    DELETE FROM @extschema@.parked_result k WHERE k.token_table = 0 AND k.provider = name;
    DELETE FROM @extschema@.provider p WHERE p.name = drop_provider.name;
    INSERT INTO @extschema@.audit_event (event, provider) VALUES ('provider_dropped', name);
END $$;
COMMENT ON FUNCTION drop_provider(text) IS 'forgets a provider that has no credentials and accounts any more, no tokens to be revoked, and that no attached table uses';

