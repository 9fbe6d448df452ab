-- The catalogue: what every row must be like, and which providers it must have.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;

SELECT count(*) >= 60 AS enough, count(*) = count(DISTINCT name) AS unique_names,
       bool_and((name, title, options, refreshable, source, looked_up, verified) IS NOT NULL) AS complete
FROM token_refresh.provider_preset;

-- Each of these finds no row.
SELECT name AS bad_name FROM token_refresh.provider_preset WHERE name !~ '^[a-z0-9][a-z0-9_.-]{0,62}$';
SELECT name AS bad_title FROM token_refresh.provider_preset WHERE title !~ '^[[:print:]]{2,120}$';
SELECT name AS bad_source FROM token_refresh.provider_preset WHERE source !~ '^https://[a-z0-9.-]+\.[a-z]+/[[:graph:]]*$';
SELECT name AS not_looked_up FROM token_refresh.provider_preset WHERE looked_up < '2026-11-01';
SELECT name AS bad_options FROM token_refresh.provider_preset
WHERE jsonb_typeof(options) <> 'object' OR NOT options ?& ARRAY['token_endpoint', 'token_endpoint_auth_method'];

-- Options are known ones of the right type; intervals are intervals.
CREATE TEMPORARY TABLE known (key text, type text, meaning text);
INSERT INTO known VALUES
    ('token_endpoint', 'string', 'url'), ('refresh_endpoint', 'string', 'url'), ('revocation_endpoint', 'string', 'url'),
    ('introspection_endpoint', 'string', 'url'), ('authorization_endpoint', 'string', 'url'), ('userinfo_endpoint', 'string', 'url'),
    ('issuer', 'string', 'url'), ('jwks_uri', 'string', 'url'), ('token_endpoint_auth_method', 'string', 'word'),
    ('basic_encoding', 'string', 'word'), ('basic_user', 'string', 'word'), ('response_format', 'string', 'word'), ('request_signature', 'object', ''),
    ('grant_type', 'string', 'text'), ('request_method', 'string', 'word'),
    ('request_format', 'string', 'word'), ('scope', 'string', 'text'), ('scope_separator', 'string', 'text'),
    ('expires_in_unit', 'string', 'word'), ('expiry_source', 'string', 'word'), ('success_pointer', 'string', 'pointer'),
    ('success_value', 'string', 'text'), ('subject_pointer', 'string', 'pointer'), ('default_expires_in', 'string', 'interval'),
    ('refresh_margin', 'string', 'interval'), ('keep_alive', 'string', 'interval'), ('min_interval', 'string', 'interval'),
    ('replay_window', 'string', 'interval'), ('keep_refresh_token', 'boolean', ''), ('requests_per_minute', 'number', ''),
    ('authorization_params', 'object', ''), ('request_params', 'object', ''), ('request_headers', 'object', ''),
    ('param_names', 'object', ''), ('authorization_param_names', 'object', ''), ('response_pointers', 'object', 'pointers'), ('secondary_tokens', 'array', ''), ('refresh_with', 'string', 'word'),
    ('variables', 'object', ''), ('captured_fields', 'array', ''), ('error_rules', 'array', ''), ('allowed_hosts', 'array', '');
CREATE TEMPORARY VIEW chosen AS
    SELECT p.name, o.key, o.value, o.value #>> '{}' AS text, k.type, k.meaning
    FROM token_refresh.provider_preset p CROSS JOIN jsonb_each(p.options) o LEFT JOIN known k USING (key);
SELECT name, key AS unknown_key FROM chosen WHERE type IS NULL;
SELECT name, key AS wrong_type FROM chosen WHERE jsonb_typeof(value) <> type;
SELECT name, key AS empty FROM chosen WHERE text IN ('', '{}', '[]');
SELECT name, key, text AS not_https FROM chosen WHERE meaning = 'url' AND text !~ '^https://[a-z0-9.$_{}-]+(/[[:graph:]]*)?$';
SELECT name, key, text AS no_pointer FROM chosen WHERE meaning = 'pointer' AND text !~ '^(/[^/]+)+$';
SELECT c.name, p.key, p.value AS no_pointer FROM chosen c, jsonb_each_text(c.value) p WHERE c.meaning = 'pointers' AND p.value !~ '^(/[^/]+)+$';
SELECT name, key, text AS no_interval FROM chosen WHERE CASE WHEN meaning = 'interval' THEN text::interval <= '0' END;
SELECT name, key, text AS no_word FROM chosen WHERE meaning = 'word' AND text <> ALL (CASE key
    WHEN 'token_endpoint_auth_method' THEN ARRAY['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
                                                 'tls_client_auth', 'self_signed_tls_client_auth', 'none']
    WHEN 'basic_encoding' THEN ARRAY['rfc6749', 'raw']
    WHEN 'request_method' THEN ARRAY['GET', 'POST']
    WHEN 'request_format' THEN ARRAY['form', 'json', 'query']
    WHEN 'expires_in_unit' THEN ARRAY['s', 'ms']
    WHEN 'refresh_with' THEN ARRAY['refresh_token', 'access_token', 'nothing']
    WHEN 'basic_user' THEN ARRAY['client_id', 'client_secret']
    WHEN 'response_format' THEN ARRAY['auto', 'xml']
    ELSE ARRAY['response', 'introspection', 'jwt'] END);
SELECT c.name, r.value AS bad_rule FROM chosen c, jsonb_array_elements(c.value) r
WHERE c.key = 'error_rules' AND (NOT r.value ? 'class' OR r.value - ARRAY['status', 'pointer', 'value', 'class'] <> '{}'
    OR r.value ->> 'class' NOT IN ('transient', 'rate_limited', 'reauth', 'client_config', 'too_early'));
-- What belongs together: introspection has an address, raw encoding is of the Basic header.
SELECT name AS no_introspection_endpoint FROM token_refresh.provider_preset
WHERE options ->> 'expiry_source' = 'introspection' AND NOT options ? 'introspection_endpoint';
SELECT name AS no_basic FROM token_refresh.provider_preset
WHERE options ? 'basic_encoding' AND options ->> 'token_endpoint_auth_method' <> 'client_secret_basic';
SELECT name AS success_of_what FROM token_refresh.provider_preset WHERE options ? 'success_value' AND NOT options ? 'success_pointer';

-- Every place in an option is a variable of the row, and every variable has a place.
CREATE TEMPORARY VIEW place AS
    SELECT DISTINCT p.name, m.match[1] AS variable
    FROM token_refresh.provider_preset p CROSS JOIN regexp_matches((p.options - 'variables')::text, '\$\{([^}]*)\}', 'g') AS m (match)
    WHERE m.match[1] NOT IN ('now_ms', 'client_id', 'body', 'signature');
SELECT name, variable AS not_explained FROM place
WHERE NOT coalesce((SELECT p.options -> 'variables' ? variable FROM token_refresh.provider_preset p WHERE p.name = place.name), false);
SELECT p.name, v.key AS without_place FROM token_refresh.provider_preset p CROSS JOIN jsonb_each(p.options -> 'variables') v
WHERE NOT EXISTS (SELECT FROM place WHERE place.name = p.name AND place.variable = v.key);
-- Who puts a value into the host says which hosts may come out; only of Keycloak nobody else can know them.
SELECT DISTINCT name AS any_host FROM chosen
WHERE meaning = 'url' AND text ~ '^https://[^/]*\$' AND name NOT IN (SELECT name FROM chosen WHERE key = 'allowed_hosts');
SELECT c.name, h.value AS bad_host FROM chosen c, jsonb_array_elements_text(c.value) h
WHERE c.key = 'allowed_hosts' AND h.value !~ '^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+$';
-- Hosts without a variable, and those of default values, are among the allowed ones.
CREATE FUNCTION pg_temp.filled(url text, variables jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v record;
BEGIN
    FOR v IN SELECT * FROM jsonb_each_text(variables) LOOP
        url := replace(url, '${' || v.key || '}', coalesce(v.value, '${' || v.key || '}'));
    END LOOP;
    RETURN url;
END $$;
SELECT c.name, c.key, h.host AS not_allowed FROM chosen c JOIN token_refresh.provider_preset p USING (name),
    LATERAL (SELECT substring(pg_temp.filled(c.text, p.options -> 'variables') FROM '^https://([^/]+)') AS host) h
WHERE c.meaning = 'url' AND c.text ~ '^https://[^/]*\$' AND h.host !~ '\$' AND p.options ? 'allowed_hosts'
  AND NOT EXISTS (SELECT FROM jsonb_array_elements_text(p.options -> 'allowed_hosts') a
                  WHERE h.host = a.value OR (a.value ^@ '*.' AND right(h.host, length(a.value) - 1) = substr(a.value, 2)));

-- The providers that must be there.
SELECT wanted AS missing FROM unnest(string_to_array($$
    google spotify discord github github-oauth-app va-lighthouse twitter linkedin reddit twitch
    microsoft slack salesforce hubspot atlassian zoom dropbox box notion shopify stripe quickbooks xero zoho exact-online
    facebook instagram threads tiktok pinterest asana monday clickup linear figma gitlab bitbucket okta auth0 keycloak cognito
    mailchimp zendesk intercom airtable calendly docusign ebay amazon paypal square strava fitbit whoop oura garmin snapchat
    webflow wix webex workday sap netsuite servicenow sage freshbooks $$, ' ')) AS w (word), btrim(w.word, E' \n') AS wanted
WHERE wanted <> '' AND NOT EXISTS (SELECT FROM token_refresh.provider_preset p WHERE p.name = wanted);

-- Every preset makes a provider, once its variables are given: no row. Of those whose whole host is a variable it is one
-- that is allowed.
CREATE FUNCTION pg_temp.trial(preset token_refresh.provider_preset) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := (SELECT jsonb_object_agg(v.key, coalesce(v.value #>> '{}', CASE WHEN v.key IN ('domain', 'host') THEN 'tenant.example.com'
                                                                                  WHEN v.key = 'landscape' THEN 'example.com' ELSE 'given' END))
                    FROM jsonb_each(preset.options -> 'variables') v);
    whole_host boolean := preset.options -> 'variables' @> ANY (ARRAY['{"domain": null}', '{"host": null}', '{"landscape": null}']::jsonb[]);
    certificate text := CASE WHEN preset.options ->> 'token_endpoint_auth_method' ~ 'tls_client_auth' THEN '/etc/ssl/client.pem' END;
    has_secret boolean := coalesce(preset.options ->> 'token_endpoint_auth_method', 'client_secret_basic') ~ '^client_secret|^private_key'
                          OR coalesce(preset.options ->> 'grant_type' ~ 'jwt-bearer', false) OR preset.options ? 'request_signature';
BEGIN
    PERFORM token_refresh._canonical_options(preset.name, 'client', has_secret,
        token_refresh._merge_preset(jsonb_strip_nulls(jsonb_build_object('preset', preset.name, 'variables', given, 'client_certificate', certificate,
            'allowed_hosts', CASE WHEN whole_host THEN '["*.example.com"]'::jsonb END))));
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END $$;
SELECT p.name, pg_temp.trial(p) AS problem FROM token_refresh.provider_preset p WHERE pg_temp.trial(p) IS NOT NULL ORDER BY 1;
