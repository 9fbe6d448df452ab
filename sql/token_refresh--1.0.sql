-- token_refresh 1.0: tables, views and functions.
-- Everything is schema-qualified or pinned to pg_catalog; nothing is granted to PUBLIC.
\echo Use "CREATE EXTENSION token_refresh" to load this file. \quit

------------------------------------------------------------------------------
-- The schema
------------------------------------------------------------------------------

-- CREATE EXTENSION takes a schema that is there already as it is. Who owns it, or may create objects in it, could
-- put his own beside those that run with the extension's rights.
DO $$
DECLARE
    stranger text;
BEGIN
    SELECT r.rolname INTO stranger
        FROM (SELECT n.nspowner AS role FROM pg_namespace n WHERE n.oid = '@extschema@'::regnamespace
              UNION ALL
              SELECT a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a
                  WHERE n.oid = '@extschema@'::regnamespace AND a.privilege_type = 'CREATE'
              UNION ALL
              SELECT p.proowner FROM pg_proc p WHERE p.pronamespace = '@extschema@'::regnamespace) AS may
        LEFT JOIN pg_roles r ON r.oid = may.role
        WHERE NOT coalesce(r.rolsuper, false) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'schema "@extschema@" is under the control of role "%", who is no superuser', coalesce(stranger, 'PUBLIC')
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'The role owns the schema or a function in it, or may create objects in it.',
                  HINT = 'Drop or rename the schema; CREATE EXTENSION makes a new one.';
    END IF;
END $$;

------------------------------------------------------------------------------
-- Providers
------------------------------------------------------------------------------

CREATE TABLE provider (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    client_id text,
    client_secret bytea,
    previous_client_secret bytea,
    client_secret_changed_at timestamptz,
    options jsonb NOT NULL DEFAULT '{}',
    effective_options jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE provider IS 'OAuth 2.0 authorization servers and this database''s client registration at each; write through create_provider, alter_provider and drop_provider';
COMMENT ON COLUMN provider.client_secret IS 'sealed; never readable through SQL';
COMMENT ON COLUMN provider.previous_client_secret IS 'sealed; the secret before the last change, kept for an overlap';
COMMENT ON COLUMN provider.options IS 'the options as given';
COMMENT ON COLUMN provider.effective_options IS 'preset and options merged and checked, intervals in microseconds; what the refresher reads';

-- One row per preset: endpoints and dialect are facts of the provider, with the page that states them.
CREATE VIEW provider_preset (name, title, options, refreshable, source, looked_up) AS
VALUES
  ('google', 'Google (also Gmail, YouTube, Google Calendar)',
   '{"token_endpoint": "https://oauth2.googleapis.com/token", "revocation_endpoint": "https://oauth2.googleapis.com/revoke", "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth", "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo", "issuer": "https://accounts.google.com", "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs", "token_endpoint_auth_method": "client_secret_post", "default_expires_in": "1 hour", "keep_alive": "90 days"}'::jsonb,
   true, 'https://developers.google.com/identity/protocols/oauth2/web-server', '2026-11-21'::date),
  ('spotify', 'Spotify',
   '{"token_endpoint": "https://accounts.spotify.com/api/token", "authorization_endpoint": "https://accounts.spotify.com/authorize", "token_endpoint_auth_method": "client_secret_basic", "basic_encoding": "raw", "default_expires_in": "1 hour"}'::jsonb,
   true, 'https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens', '2026-11-21'::date),
  ('discord', 'Discord',
   '{"token_endpoint": "https://discord.com/api/oauth2/token", "revocation_endpoint": "https://discord.com/api/oauth2/token/revoke", "authorization_endpoint": "https://discord.com/oauth2/authorize", "userinfo_endpoint": "https://discord.com/api/users/@me", "token_endpoint_auth_method": "client_secret_basic", "basic_encoding": "raw", "default_expires_in": "7 days"}'::jsonb,
   true, 'https://discord.com/developers/docs/topics/oauth2', '2026-11-21'::date),
  ('github', 'GitHub (user tokens that expire; tokens without a refresh token are kept as they are)',
   '{"token_endpoint": "https://github.com/login/oauth/access_token", "authorization_endpoint": "https://github.com/login/oauth/authorize", "token_endpoint_auth_method": "client_secret_post", "default_expires_in": "8 hours", "error_rules": [{"pointer": "/error", "value": "bad_refresh_token", "class": "reauth"}, {"pointer": "/error", "value": "incorrect_client_credentials", "class": "client_config"}]}'::jsonb,
   true, 'https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens', '2026-11-21'::date),
  ('microsoft', 'Microsoft identity platform (work, school and personal accounts)',
   '{"token_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/token", "authorization_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize", "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo", "token_endpoint_auth_method": "client_secret_post", "default_expires_in": "1 hour", "keep_alive": "45 days"}'::jsonb,
   true, 'https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow', '2026-11-21'::date);
COMMENT ON VIEW provider_preset IS 'the built-in catalogue: options that create_provider uses for a provider of that name, and their source';

------------------------------------------------------------------------------
-- Credentials
------------------------------------------------------------------------------

-- The built-in token table. Nothing that a refresh rewrites is indexed, so refreshing is a HOT update.
CREATE TABLE credential (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    provider text COLLATE "C" NOT NULL REFERENCES provider (name),
    subject text COLLATE "C" NOT NULL CHECK (length(subject) BETWEEN 1 AND 1000),
    label text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(label) <= 200),
    access_token bytea NOT NULL,
    refresh_token bytea,
    token_type text NOT NULL DEFAULT 'Bearer',
    scope text,
    issued_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    refresh_expires_at timestamptz,
    status text NOT NULL DEFAULT 'connected'
        CHECK (status IN ('connected', 'token_expired', 'needs_reauth', 'error', 'disconnected')),
    last_error text,
    refreshed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credential_identity UNIQUE (provider, subject, label)
) WITH (fillfactor = 70);
ALTER TABLE credential ALTER access_token SET STORAGE EXTERNAL, ALTER refresh_token SET STORAGE EXTERNAL;
COMMENT ON TABLE credential IS 'the tokens one subject holds at one provider; SELECT on it, and row-level security, decide who may read which access token';
COMMENT ON COLUMN credential.access_token IS 'sealed; get_access_token opens it';
COMMENT ON COLUMN credential.refresh_token IS 'sealed; opened by the refresher only';

CREATE TABLE token_table (
    id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL UNIQUE,
    key_columns text[] NOT NULL,
    columns jsonb NOT NULL,
    provider text COLLATE "C" REFERENCES provider (name),
    label text,
    filter text,
    alias name NOT NULL,
    cipher text NOT NULL CHECK (cipher IN ('native', 'plain', 'aes-256-gcm-hex', 'functions')),
    cipher_key text,
    decrypt_function text,
    encrypt_function text,
    status_values jsonb,
    result_values jsonb,
    time_zone text NOT NULL DEFAULT 'UTC',
    has_trigger boolean NOT NULL DEFAULT true,
    poll_interval interval,
    refresh_margin interval,
    attached_at timestamptz NOT NULL DEFAULT now(),
    attached_by text NOT NULL DEFAULT session_user,
    owner text CHECK (owner IS NOT NULL OR id = 1)
);
COMMENT ON TABLE token_table IS 'tables that hold credentials: which column is what; the first row is the built-in table, the others are written by attach_table';
COMMENT ON COLUMN token_table.columns IS 'from the word of the contract to the name of the column';
COMMENT ON COLUMN token_table.alias IS 'the name of the table when it was attached, by which the filter knows it';
COMMENT ON COLUMN token_table.provider IS 'of all rows; NULL: a column says it';
COMMENT ON COLUMN token_table.owner IS 'the role that owned the table when it was attached; if another one owns it, nothing of it is run';
COMMENT ON COLUMN token_table.status_values IS 'from our word to the text of the application; NULL: the words themselves';

INSERT INTO token_table (relation, key_columns, columns, cipher, alias) VALUES ('@extschema@.credential', '{id}',
    '{"provider": "provider", "subject": "subject", "label": "label",
      "access_token": "access_token", "refresh_token": "refresh_token", "token_type": "token_type", "scope": "scope",
      "issued_at": "issued_at", "expires_at": "expires_at", "refresh_expires_at": "refresh_expires_at",
      "status": "status", "last_error": "last_error", "refreshed_at": "refreshed_at", "updated_at": "updated_at"}',
    'native', 'credential');

-- Ciphertexts are bound to the id of their table: it gets the same one when it is attached again.
CREATE TABLE former_token_table (
    relation regclass PRIMARY KEY,
    id integer NOT NULL UNIQUE
);
COMMENT ON TABLE former_token_table IS 'tables that were attached once, and under which id; forgotten when they are dropped';

-- One narrow row per credential, whichever table it lives in. Derived from the token tables:
-- fed by their triggers and reconciled by the sweep, so it is not dumped. What is in flight or parked belongs to the
-- id, which a row keeps when its key changes. Where its row is gone there is no key, until the sweep has looked for it.
CREATE TABLE schedule (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    token_table integer NOT NULL,
    row_key text COLLATE "C",
    provider integer NOT NULL,
    status text NOT NULL DEFAULT 'connected',
    due_at timestamptz,
    expires_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    lost_response boolean NOT NULL DEFAULT false,
    failure text,
    message text,
    generation bigint NOT NULL DEFAULT 0,
    refresh_count bigint NOT NULL DEFAULT 0,
    last_refreshed_at timestamptz,
    left_alone boolean NOT NULL DEFAULT false,
    subject text,
    label text,
    settling boolean NOT NULL DEFAULT false,
    refused_token bytea,
    departed_with bytea,
    departed_access bytea,
    missed_at timestamptz,
    CONSTRAINT schedule_row UNIQUE (token_table, row_key)
) WITH (fillfactor = 80);
CREATE INDEX schedule_due ON schedule (provider, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX schedule_settling ON schedule (id) WHERE settling;
CREATE INDEX schedule_departed ON schedule (token_table, departed_with) WHERE row_key IS NULL;
COMMENT ON TABLE schedule IS 'when each credential is refreshed next, and how it went; kept by triggers and by the refresher';
COMMENT ON COLUMN schedule.provider IS 'its id; 0: the row names a provider that does not exist';
COMMENT ON COLUMN schedule.left_alone IS 'the filter of the token table does not hold for the row';
COMMENT ON COLUMN schedule.refused_token IS 'of a dead grant: the SHA-256 of its refresh token as it stood in the row';
COMMENT ON COLUMN schedule.settling IS 'comes out of a dump: not due before a minute after the refresher has first seen it committed';
COMMENT ON COLUMN schedule.subject IS 'as the row of an attached table has it; NULL: see credential';
COMMENT ON COLUMN schedule.row_key IS 'the key of the row as text; NULL: the row has been deleted, or moved to where it has not been seen yet';
COMMENT ON COLUMN schedule.departed_with IS 'of a row that is gone: SHA-256 of its refresh token as stored; the row that appears with that token takes its place';
COMMENT ON COLUMN schedule.departed_access IS 'the same of its access token';
COMMENT ON COLUMN schedule.missed_at IS 'when a sweep did not find the row; NULL: its deletion was seen';
COMMENT ON COLUMN schedule.due_at IS 'when to refresh or to try again; NULL: never';
COMMENT ON COLUMN schedule.generation IS 'how often other tokens were stored or parked, by whomever';
COMMENT ON COLUMN schedule.lost_response IS 'an answer may have been lost on the way since the last success';

-- The ids of two databases do not meet: what is parked is dumped, and finds its row by the id again.
DO $$
BEGIN
    EXECUTE format('ALTER TABLE @extschema@.schedule ALTER id RESTART WITH %s',
                   ('x' || substr(encode(sha256(gen_random_uuid()::text::bytea), 'hex'), 1, 14))::bit(56)::bigint + 1);
END $$;

CREATE TABLE in_flight (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schedule_ids bigint[] NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE in_flight IS 'what the refresher is asking providers for right now; what is found here after a crash may have lost its answer';

CREATE TABLE parked_result (
    schedule_id bigint PRIMARY KEY,
    token_table integer NOT NULL,
    row_key text COLLATE "C" NOT NULL,
    replaces_refresh_token bytea NOT NULL,
    access_token bytea CHECK (access_token IS NOT NULL OR refresh_token IS NOT NULL),
    refresh_token bytea,
    token_type text NOT NULL,
    scope text,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz,
    refresh_expires_at timestamptz,
    due_at timestamptz,
    reason text NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    retry_at timestamptz NOT NULL DEFAULT now(),
    parked_at timestamptz NOT NULL DEFAULT now(),
    generation bigint NOT NULL DEFAULT 0,
    replaces bytea
);
CREATE INDEX parked_result_replaces ON parked_result (token_table, replaces);
ALTER TABLE parked_result ALTER access_token SET STORAGE EXTERNAL, ALTER refresh_token SET STORAGE EXTERNAL;
COMMENT ON COLUMN parked_result.schedule_id IS 'whose they are; the envelopes are bound to it';
COMMENT ON COLUMN parked_result.row_key IS 'where the row stood when they were last looked at';
COMMENT ON COLUMN parked_result.replaces IS 'SHA-256 of the refresh token in the row, as stored there';
COMMENT ON COLUMN parked_result.generation IS 'that of the schedule when these were given; if it has moved on, other tokens were stored in the row';
COMMENT ON COLUMN parked_result.access_token IS 'NULL: a refresh token came alone; the access token in the row stays';
COMMENT ON COLUMN parked_result.retry_at IS 'when the table is asked again to take them';
COMMENT ON COLUMN parked_result.due_at IS 'when these tokens themselves are to be refreshed';
COMMENT ON TABLE parked_result IS 'fresh tokens, sealed, whose table rejected the write; retried until it takes them';

-- A ring of sixteen partitions, one a month: no DDL at run time, and what is too old is truncated.
CREATE TABLE audit_event (
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    provider text,
    token_table integer,
    row_key text,
    subject text,
    label text,
    failure text,
    message text,
    actor text NOT NULL DEFAULT session_user,
    ring smallint NOT NULL DEFAULT
        ((extract(year FROM now() AT TIME ZONE 'UTC') * 12 + extract(month FROM now() AT TIME ZONE 'UTC'))::integer % 16)::smallint
) PARTITION BY LIST (ring);
CREATE INDEX audit_event_time ON audit_event USING brin (occurred_at);
COMMENT ON TABLE audit_event IS 'append-only: what happened to providers and credentials; no secret. Kept for token_refresh.audit_retention';

DO $$
BEGIN
    FOR i IN 0..15 LOOP
        EXECUTE format('CREATE TABLE @extschema@.audit_event_%s PARTITION OF @extschema@.audit_event FOR VALUES IN (%s)',
                       to_char(i, 'FM00'), i);
        PERFORM pg_catalog.pg_extension_config_dump(format('@extschema@.audit_event_%s', to_char(i, 'FM00'))::regclass, '');
    END LOOP;
END $$;

CREATE TABLE control (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    paused boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE control IS 'whether background refreshing is paused in this database; no row: it is not';

SELECT pg_catalog.pg_extension_config_dump('provider', '');
SELECT pg_catalog.pg_extension_config_dump('provider_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('credential', '');
SELECT pg_catalog.pg_extension_config_dump('credential_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('token_table', 'WHERE id <> 1');
SELECT pg_catalog.pg_extension_config_dump('token_table_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('former_token_table', 'WHERE relation::oid IN (SELECT oid FROM pg_catalog.pg_class)');
SELECT pg_catalog.pg_extension_config_dump('parked_result', '');
SELECT pg_catalog.pg_extension_config_dump('control', '');

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

CREATE FUNCTION _due_at(provider text, refresh_margin interval, issued_at timestamptz, expires_at timestamptz) RETURNS timestamptz
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_due_at';
COMMENT ON FUNCTION _due_at(text, interval, timestamptz, timestamptz) IS 'internal: when a token falls due that can be refreshed';

CREATE FUNCTION _canonical_options(provider text, client_id text, has_client_secret boolean, merged_options jsonb) RETURNS jsonb
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_canonical_options';
COMMENT ON FUNCTION _canonical_options(text, text, boolean, jsonb) IS 'internal: checks provider options and turns intervals into microseconds';

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
                      HINT = 'The presets are: ' || (SELECT string_agg(p.name, ', ' ORDER BY p.name) FROM @extschema@.provider_preset p) || '.';
        END IF;
    END IF;
    RETURN base || (options - 'preset');
END $$;
COMMENT ON FUNCTION _merge_preset(jsonb) IS 'internal: the preset''s options overridden by those given';

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
    effective := @extschema@._canonical_options(name, client_id, client_secret IS NOT NULL, @extschema@._merge_preset(chosen));
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
COMMENT ON FUNCTION create_provider(text, text, text, jsonb) IS 'registers an authorization server and this database''s client there; without an endpoint, the preset of that name is used';

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
    END IF;
    PERFORM @extschema@._plan_row(1, c.id::text, c.provider, c.refresh_token IS NOT NULL, c.status, c.issued_at, c.expires_at,
                                  c.refresh_expires_at, s.generation, s.expires_at)
        FROM @extschema@.credential c
        LEFT JOIN @extschema@.schedule s ON s.token_table = 1 AND s.row_key = c.id::text
        WHERE c.provider = alter_provider.name AND c.status NOT IN ('needs_reauth', 'disconnected')
          AND coalesce(s.status NOT IN ('needs_reauth', 'disconnected'), true)
          AND NOT EXISTS (SELECT FROM @extschema@.parked_result k WHERE k.schedule_id = s.id);
    -- Secrets are sent to these from now on. Scheme, host and port say where; an URL may hold more.
    SELECT string_agg(format('%s: %s -> %s', m.endpoint, coalesce(m.before, 'none'), coalesce(m.after, 'none')), ', ') INTO moves
        FROM (SELECT e.endpoint, substring(old.effective_options ->> e.endpoint FROM '^[^/]*//[^/?#]*') AS before,
                     substring(effective ->> e.endpoint FROM '^[^/]*//[^/?#]*') AS after
              FROM unnest(ARRAY['token_endpoint', 'refresh_endpoint', 'revocation_endpoint', 'introspection_endpoint']) AS e (endpoint)) m
        WHERE m.before IS DISTINCT FROM m.after;
    INSERT INTO @extschema@.audit_event (event, provider, message) VALUES ('provider_altered', name, moves);
END $$;
COMMENT ON FUNCTION alter_provider(text, jsonb) IS 'changes options of a provider, also client_id and client_secret; null takes an option back to its default';

CREATE FUNCTION drop_provider(name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    dropped integer;
    holders bigint;
    tables text;
BEGIN
    PERFORM @extschema@._require('name', name IS NULL);
    SELECT p.id INTO dropped FROM @extschema@.provider p WHERE p.name = drop_provider.name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown provider "%"', name
            USING ERRCODE = 'undefined_object', HINT = 'See the table token_refresh.provider.';
    END IF;
    SELECT count(*) INTO holders FROM @extschema@.credential c WHERE c.provider = name;
    IF holders > 0 THEN
        RAISE EXCEPTION 'provider "%" still has % credential(s)', name, holders
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = 'Delete its rows from token_refresh.credential first.';
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
    DELETE FROM @extschema@.provider p WHERE p.name = drop_provider.name;
    INSERT INTO @extschema@.audit_event (event, provider) VALUES ('provider_dropped', name);
END $$;
COMMENT ON FUNCTION drop_provider(text) IS 'forgets a provider that has no credentials any more, and that no attached table uses';

------------------------------------------------------------------------------
-- Credentials: the contract. These run with the caller's privileges on credential
-- (SELECT to read, SELECT, INSERT and UPDATE to store); they look no name up in the
-- search_path, so none is set, which would cost more than the look-up itself.
------------------------------------------------------------------------------

CREATE FUNCTION store_credential(provider text, subject text, token_response jsonb, label text DEFAULT '') RETURNS bigint
    LANGUAGE c AS 'MODULE_PATHNAME', 'token_refresh_store_credential';
COMMENT ON FUNCTION store_credential(text, text, jsonb, text) IS 'stores what a token endpoint answered, sealed, under provider, subject and label; replaces what was there';

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

------------------------------------------------------------------------------
-- What people see
------------------------------------------------------------------------------

-- What keeps a whole table from being served shows at once, in the words of the refresher.
CREATE VIEW _token_table_trouble AS
SELECT t.id, t.relation,
       CASE WHEN c.oid IS NULL THEN 'the table does not exist any more'
            ELSE coalesce(
                CASE WHEN t.owner <> pg_get_userbyid(c.relowner)
                     THEN format('table %I.%I has another owner now: its new owner must detach and attach it', n.nspname, c.relname) END,
                (SELECT format('column %I of table %I.%I does not exist', m.name, n.nspname, c.relname)
                 FROM (SELECT unnest(t.key_columns) UNION ALL SELECT e.value FROM jsonb_each_text(t.columns) e) AS m (name)
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attname = m.name AND a.attnum > 0 AND NOT a.attisdropped)
                 LIMIT 1),
                CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                                      WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
                                        AND i.indexprs IS NULL AND i.indpred IS NULL AND i.indnkeyatts = cardinality(t.key_columns)
                                        AND (SELECT count(*) FROM unnest(t.key_columns) k (name)
                                             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND a.attnotnull
                                             WHERE a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) = i.indnkeyatts)
                     THEN format('the key (%s) of table %I.%I is not unique and NOT NULL any more', array_to_string(t.key_columns, ', '),
                                 n.nspname, c.relname) END,
                (SELECT format('row-level security holds for the owner of table %I.%I as well, and no policy lets the owner see a row',
                               n.nspname, c.relname)
                 FROM pg_catalog.pg_roles r
                 WHERE r.oid = c.relowner AND c.relrowsecurity AND c.relforcerowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy p, unnest(p.polroles) AS u (role)
                                   WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
                                     AND CASE WHEN u.role = 0 THEN true ELSE pg_has_role(c.relowner, u.role, 'USAGE') END)))
       END AS trouble
FROM @extschema@.token_table t
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
OFFSET 0;
COMMENT ON VIEW _token_table_trouble IS 'internal: why a token table cannot be served as it is; NULL: it can';

CREATE VIEW token_status AS
SELECT t.relation AS token_table, s.row_key, coalesce(c.provider, p.name) AS provider,
       coalesce(c.subject, s.subject) AS subject, coalesce(c.label, s.label, '') AS label,
       CASE WHEN s.status IN ('needs_reauth', 'disconnected') THEN s.status
            WHEN t.trouble IS NOT NULL THEN 'error'
            WHEN s.status = 'connected' AND coalesce(k.expires_at, s.expires_at) < clock_timestamp() THEN 'token_expired'
            ELSE s.status END AS status,
       coalesce(k.expires_at, s.expires_at) AS expires_at, coalesce(k.retry_at, s.due_at) AS due_at, s.attempts,
       CASE WHEN k.schedule_id IS NOT NULL AND s.status <> 'needs_reauth'
                THEN CASE WHEN k.reason ~ '^([0-9A-Z]{5}( |$)|a trigger or rule)' AND k.reason !~ '^(55P03|57014)'
                          THEN 'the table rejects the new tokens: ' ELSE 'the new tokens are parked: ' END || k.reason
            WHEN s.status NOT IN ('needs_reauth', 'disconnected') AND t.trouble IS NOT NULL THEN 'client_config: ' || t.trouble
            WHEN s.failure IS NOT NULL THEN s.failure || coalesce(': ' || s.message, '') END AS last_error,
       s.last_refreshed_at, s.refresh_count, k.schedule_id IS NOT NULL AS parked
FROM @extschema@.schedule s
JOIN @extschema@._token_table_trouble t ON t.id = s.token_table
LEFT JOIN @extschema@.credential c ON c.id = CASE WHEN s.token_table = 1 THEN s.row_key::bigint END
LEFT JOIN @extschema@.provider p ON p.id = s.provider
LEFT JOIN @extschema@.parked_result k ON k.schedule_id = s.id
WHERE s.row_key IS NOT NULL;
COMMENT ON VIEW token_status IS 'every credential of every token table: how fresh it is, and what went wrong; no secret';

CREATE FUNCTION status() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT jsonb_build_object(
    'running', r.phase = 'running',
    'refresher', r.phase,
    'paused', coalesce((SELECT c.paused FROM @extschema@.control c), false),
    'refresh_margin', current_setting('token_refresh.refresh_margin'),
    'sweep_interval', current_setting('token_refresh.sweep_interval'),
    'poll_interval', current_setting('token_refresh.poll_interval'),
    'requests', r.requests, 'refreshed', r.refreshed, 'failed', r.failed,
    'in_flight', (SELECT coalesce(sum(cardinality(f.schedule_ids)), 0) FROM @extschema@.in_flight f),
    'parked', (SELECT count(*) FROM @extschema@.parked_result),
    'credentials', (SELECT coalesce(jsonb_agg(to_jsonb(x) ORDER BY x.provider, x.label), '[]') FROM (
        SELECT s.provider, s.label, count(*) AS count,
               count(*) FILTER (WHERE s.status = 'connected' AND s.expires_at < clock_timestamp() + coalesce(t.refresh_margin, current_setting('token_refresh.refresh_margin')::interval)) AS expiring_soon,
               count(*) FILTER (WHERE s.expires_at < clock_timestamp()) AS expired,
               count(*) FILTER (WHERE s.status = 'needs_reauth') AS needs_reauth
        FROM @extschema@.token_status s JOIN @extschema@.token_table t ON t.relation = s.token_table GROUP BY s.provider, s.label) x))
FROM @extschema@._refresher_state() r
$$;
COMMENT ON FUNCTION status() IS 'the refresher of this database and, per provider and label, how many credentials are expiring soon, expired or in need of a new sign-in';

CREATE FUNCTION pause() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.control (paused) VALUES (true)
    ON CONFLICT (singleton) DO UPDATE SET paused = true, changed_at = now(), changed_by = session_user;
INSERT INTO @extschema@.audit_event (event) VALUES ('paused');
SELECT @extschema@._wake_refresher();
$$;
COMMENT ON FUNCTION pause() IS 'stops background refreshing in this database until resume(); on-demand refreshes go on';

CREATE FUNCTION resume() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.control (paused) VALUES (false)
    ON CONFLICT (singleton) DO UPDATE SET paused = false, changed_at = now(), changed_by = session_user;
INSERT INTO @extschema@.audit_event (event) VALUES ('resumed');
SELECT @extschema@._wake_refresher();
$$;
COMMENT ON FUNCTION resume() IS 'starts background refreshing again after pause()';

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
          FROM @extschema@.credential, LATERAL unnest(ARRAY[access_token, refresh_token]) s WHERE s IS NOT NULL
      UNION ALL
      SELECT 'parked_result', @extschema@._envelope_key(s)
          FROM @extschema@.parked_result, LATERAL unnest(ARRAY[access_token, refresh_token, replaces_refresh_token]) s WHERE s IS NOT NULL) u
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
        replaces_refresh_token = @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'replaces_refresh_token', r.replaces_refresh_token)
        WHERE substring(r.access_token, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'access_token', r.access_token) <> r.access_token
           OR substring(r.refresh_token, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'refresh_token', r.refresh_token) <> r.refresh_token
           OR substring(r.replaces_refresh_token, 2, 8) <> sealing
              AND @extschema@._reseal('token_refresh.parked_result', r.schedule_id::text, 'replaces_refresh_token', r.replaces_refresh_token) <> r.replaces_refresh_token;
    GET DIAGNOSTICS parked = ROW_COUNT;
    RETURN providers + parked;
END $$;
COMMENT ON FUNCTION _reseal_few() IS 'internal: reseals the secrets of providers and parked results; returns how many rows';

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
        refresh_token = @extschema@._reseal('token_refresh.credential', c.id::text, 'refresh_token', c.refresh_token)
        WHERE c.id > last_id AND c.id <= next_id
          AND (substring(c.access_token, 2, 8) <> sealing
               AND @extschema@._reseal('token_refresh.credential', c.id::text, 'access_token', c.access_token) <> c.access_token
            OR substring(c.refresh_token, 2, 8) <> sealing
               AND @extschema@._reseal('token_refresh.credential', c.id::text, 'refresh_token', c.refresh_token) <> c.refresh_token);
    GET DIAGNOSTICS resealed = ROW_COUNT;
    PERFORM @extschema@._own_writes(false);
    last_id := next_id;
END $$;
COMMENT ON FUNCTION _reseal_credentials(bigint, integer) IS 'internal: reseals the next credentials; last_id is null behind the last one';

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

------------------------------------------------------------------------------
-- Nothing for PUBLIC
------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA @extschema@ FROM PUBLIC;
-- Nobody can call a trigger function, and this one serves no table but that for which it was installed. Who adds a
-- partition to an attached table, or restores one, creates its trigger and needs the privilege.
GRANT EXECUTE ON FUNCTION @extschema@._feed_schedule() TO PUBLIC;

-- The launcher hears of the extension when this commits.
SELECT @extschema@._wake_refresher();
