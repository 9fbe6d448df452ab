-- attach_table refuses what it cannot serve, says everything that is wrong at once, and then has changed nothing.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
SELECT token_refresh.create_provider('attach_test', client_id => 'test-client', options => '{"token_endpoint": "http://127.0.0.1:9/token", "token_endpoint_auth_method": "none"}');

CREATE ROLE attach_owner;
CREATE ROLE attach_other;
CREATE SCHEMA attach_home AUTHORIZATION attach_owner;
GRANT USAGE ON SCHEMA token_refresh TO attach_owner, attach_other;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table, token_refresh.detach_table, token_refresh.get_access_token_from, token_refresh.refresh_row
    TO attach_owner, attach_other;
SET search_path = attach_home, public;
SET ROLE attach_owner;
CREATE TABLE tokens (id integer PRIMARY KEY, subject text, access text, refresh text, expires timestamptz, note text, active boolean);
INSERT INTO tokens VALUES (1, 'a', 'fake-access', 'fake-refresh', now() + interval '1 day', 'n', true);

-- As attach_table, with the columns that are needed; what is wrong is shown without its position in the text.
CREATE FUNCTION try(what text, table_name regclass, options jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    PERFORM token_refresh.attach_table(table_name, jsonb_strip_nulls('{"provider": "attach_test", "access_token_column": "access",
        "refresh_token_column": "refresh", "expires_at_column": "expires", "cipher": "plain"}'::jsonb || options));
    RETURN what || ': attached';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', what || ': ' || SQLSTATE || ' ' || message, nullif(replace(detail, E'\n', E'\n  '), ''), nullif(hint, ''));
END $$;
\pset format unaligned
\pset tuples_only on

\echo == arguments
SELECT token_refresh.attach_table(NULL, '{}');
SELECT token_refresh.attach_table('tokens', NULL);
SELECT token_refresh.detach_table(NULL);
SELECT token_refresh.attach_table('tokens', '[]');
SELECT token_refresh.attach_table('no_such_table', '{}');
SELECT token_refresh.attach_table(1::oid::regclass, '{}');
SELECT token_refresh.detach_table('tokens');
SELECT token_refresh.get_access_token_from('tokens', '1');
SELECT * FROM token_refresh.refresh_row('tokens', '1');
SELECT token_refresh.get_access_token_from(NULL, '1');
SELECT token_refresh.get_access_token_from('tokens', NULL);

\echo == options
SELECT try('unknown, with a near one', 'tokens', '{"acces_token_column": "access"}');
SELECT try('types', 'tokens', '{"trigger": "yes", "filter": 1, "label": null, "poll_interval": "often", "status_values": [], "expires_at_column": 7}');
SELECT try('empty', 'tokens', '{"access_token_column": "", "provider": "", "filter": "", "time_zone": ""}');
SELECT try('intervals', 'tokens', '{"poll_interval": "0 s", "refresh_margin": "-1 minute"}');
SELECT try('together', 'tokens', '{"provider_column": "note", "label": "x", "label_column": "note", "key": "k", "status_values": {"connected": "c"}, "result_values": {"success": "s"}}');
SELECT try('nothing', 'tokens', '{"provider": null, "access_token_column": null, "refresh_token_column": null, "expires_at_column": null, "cipher": null}');
SELECT try('status values', 'tokens', '{"status_column": "note", "status_values": {"conected": "c", "error": 5, "connected": "same", "needs_reauth": "same"}}');
SELECT try('one column for two', 'tokens', '{"refresh_token_column": "access", "error_column": "note", "status_column": "note"}');
SELECT try('cipher', 'tokens', '{"cipher": "rot13"}');
SELECT try('cipher object', 'tokens', '{"cipher": {"decrypt": "f"}}');
SELECT try('time zone', 'tokens', '{"time_zone": "Mars/Olympus"}');
SELECT try('time zone', 'tokens', '{"time_zone": ""}');

\echo == every kind of wrong column at once
CREATE TABLE wrong (id integer PRIMARY KEY, access integer, refresh jsonb, expires text, scope bytea, status boolean, error xml, at uuid,
    made timestamptz GENERATED ALWAYS AS ('2026-01-01 00:00:00+00'::timestamptz) STORED);
SELECT try('wrong columns', 'wrong', '{"scope_column": "scope", "status_column": "status", "error_column": "error", "refreshed_at_column": "at", "updated_at_column": "made",
    "subject_column": "none", "provider": "no such provider", "filter": "1 +", "result_column": "ctid", "label_column": "Access"}');
DROP TABLE wrong;
SELECT try('text and bytea', 'tokens', '{"cipher": "native"}');
CREATE TABLE mixed (id integer PRIMARY KEY, access bytea, refresh text, expires timestamptz);
SELECT try('mixed', 'mixed');
DROP TABLE mixed;

\echo == words that a column cannot hold
CREATE TYPE state AS ENUM ('ok', 'needs_reauth', 'error');
CREATE TABLE narrow (id integer PRIMARY KEY, access text, refresh text, expires timestamptz, state state, result varchar(5), key text, n integer);
SELECT try('labels of an enum', 'narrow', '{"status_column": "state"}');
SELECT try('labels of an enum', 'narrow', '{"status_column": "state", "status_values": {"connected": "ok", "error": "broken"}}');
SELECT try('a length', 'narrow', '{"result_column": "result", "result_values": {"success": "fine", "failure": "failed"}}');
SELECT try('a length', 'narrow', '{"status_column": "result", "status_values": {"connected": "äöüäö"}}');
SELECT token_refresh.detach_table('narrow');
SELECT try('all of them fit', 'narrow', '{"status_column": "state", "status_values": {"connected": "ok", "error": "error"}, "filter": "key IS NULL AND n IS NULL"}');
SELECT token_refresh.get_access_token_from('narrow', '1');
SELECT token_refresh.detach_table('narrow');
DROP TABLE narrow;

\echo == kinds of tables
CREATE TABLE ancestor (LIKE tokens INCLUDING ALL);
CREATE TABLE child () INHERITS (ancestor);
SELECT try('inheritance', 'ancestor');
DROP TABLE ancestor CASCADE;
CREATE VIEW a_view AS SELECT * FROM tokens;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM tokens;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (x integer);
CREATE TEMP TABLE a_temp (LIKE tokens INCLUDING ALL);
CREATE TABLE parent (LIKE tokens INCLUDING ALL) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parent FOR VALUES FROM (0) TO (10);
CREATE TABLE unkeyed (LIKE tokens);
CREATE TABLE keyed_badly (LIKE tokens);
CREATE UNIQUE INDEX ON keyed_badly (note);
CREATE UNIQUE INDEX ON keyed_badly (lower(subject));
CREATE UNIQUE INDEX ON keyed_badly (id) WHERE active;
ALTER TABLE keyed_badly ALTER id SET NOT NULL;
ALTER TABLE keyed_badly ADD UNIQUE (id) DEFERRABLE;
CREATE TABLE keyed_well (LIKE tokens);
ALTER TABLE keyed_well ALTER id SET NOT NULL, ALTER note SET NOT NULL, ADD UNIQUE (note, id);
SELECT try(t::regclass::text, t::regclass) FROM unnest(ARRAY['a_view', 'a_matview', 'a_sequence', 'a_type', 'a_temp', 'part', 'unkeyed', 'keyed_badly', 'keyed_well', 'parent', 'tokens_pkey']) t;
RESET ROLE;
SELECT try(t::regclass::text, t::regclass) FROM unnest(ARRAY['pg_class', 'token_refresh.credential', 'token_refresh.provider', 'information_schema.sql_features']) t;
SET ROLE attach_owner;
SELECT token_refresh.detach_table('keyed_well'), token_refresh.detach_table('parent');

CREATE TABLE keyed_by_token (access text NOT NULL UNIQUE, refresh text PRIMARY KEY, expires timestamptz NOT NULL, id integer NOT NULL, UNIQUE (id, expires));
SELECT try('keyed by what a refresh writes', 'keyed_by_token');
ALTER TABLE keyed_by_token ADD UNIQUE (id);
SELECT try('keyed by something else as well', 'keyed_by_token');
RESET ROLE;
SELECT key_columns FROM token_refresh.token_table WHERE relation = 'keyed_by_token'::regclass;
SET ROLE attach_owner;
SELECT token_refresh.detach_table('keyed_by_token');
CREATE TABLE _new (LIKE tokens INCLUDING ALL);
SELECT try('a name that the statements use', '_new');
DROP TABLE _new, keyed_by_token;

\echo == a table of somebody else
RESET ROLE;
GRANT USAGE ON SCHEMA attach_home TO attach_other;
SET ROLE attach_other;
SELECT token_refresh.attach_table('tokens', '{}');
SELECT token_refresh.detach_table('tokens');
SELECT token_refresh.get_access_token_from('token_refresh.credential', '1');
SET ROLE attach_owner;

\echo == filters
SELECT try('filter ' || f, 'tokens', jsonb_build_object('filter', f)) FROM unnest(ARRAY[
    'active AND', 'active; DROP TABLE tokens', 'true; SELECT 1', 'true) OR (true', 'true, true', 'active)', '(active', '1', 'note', 'nonesuch', 'others.active', 'tokens.nonesuch',
    'true FROM tokens', 'true ORDER BY 1', 'true AS x', '$1', 'count(*) > 0', 'row_number() OVER () = 1', 'no_such_function(note)', 'EXISTS (SELECT FROM nowhere)',
    'SELECT true', '', '-- nothing', '1/0 = 1', 'generate_series(1, id) = 1']) WITH ORDINALITY AS t (f, n) ORDER BY n;
SELECT try('filter with a comment', 'tokens', '{"filter": "true -- fine"}');
SELECT token_refresh.detach_table('tokens');
SELECT try('filter on the row by the name of its table', 'tokens', '{"filter": "EXISTS (SELECT FROM attach_home.tokens u WHERE u.id = tokens.id)"}');
SELECT token_refresh.detach_table('tokens');

\echo == functions of a cipher
CREATE FUNCTION open_text(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION seal_text(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION open_number(text, text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION open_never(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the token is %', $1; END $$;
CREATE PROCEDURE open_procedure(text, text) LANGUAGE sql AS '';
RESET ROLE;
CREATE FUNCTION attach_home.locked(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
REVOKE EXECUTE ON FUNCTION attach_home.locked(text, text) FROM PUBLIC;
SET ROLE attach_owner;
SELECT try('cipher ' || d || ', ' || e, 'tokens', jsonb_build_object('cipher', jsonb_build_object('decrypt', d, 'encrypt', e))) FROM (VALUES
    ('attach_home.none', 'attach_home.seal_text'), ('attach_home.open_number', 'attach_home.open_number'), ('attach_home.locked', 'attach_home.locked'),
    ('attach_home.open_procedure', 'attach_home.seal_text'), ('attach_home.open_never', 'attach_home.seal_text'), ('open_text', 'seal_text'), ('a.b.c', 'x"y')) t (d, e);
CREATE TABLE byte_tokens (id integer PRIMARY KEY, access bytea, refresh bytea, expires timestamptz);
SELECT try('functions of text for bytea', 'byte_tokens', '{"cipher": {"decrypt": "attach_home.open_text", "encrypt": "attach_home.seal_text"}}');
SELECT try('what does not open', 'tokens', '{"cipher": "aes-256-gcm-hex", "key": "nobodys"}');
INSERT INTO byte_tokens VALUES (1, '\x00', '\x00', now());
SELECT try('what does not open', 'byte_tokens', '{"cipher": "native"}');
SELECT try('a provider that does not exist', 'tokens', '{"provider": "nonesuch"}');
CREATE TABLE odd_columns (id integer PRIMARY KEY, access text, refresh text, expires bigint, note text NOT NULL DEFAULT '');
INSERT INTO odd_columns VALUES (1, 'fake-access', 'fake-refresh', 1893456000000);
SELECT try('milliseconds', 'odd_columns');
SELECT try('an error column that takes no NULL', 'odd_columns', '{"error_column": "note"}');

\echo == nothing was changed
RESET ROLE;
SELECT count(*) FROM token_refresh.token_table WHERE id <> 1;
SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = 'attach_home'::regnamespace AND NOT tgisinternal;
SELECT count(*) FROM token_refresh.schedule WHERE token_table <> 1;
SELECT * FROM attach_home.tokens WHERE access <> 'fake-access';

\echo == attached, and once only
SET ROLE attach_owner;
SELECT try('first', 'tokens', '{"subject_column": "subject"}');
SELECT try('second', 'tokens', '{"subject_column": "subject"}');
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'tokens'::regclass ORDER BY 1;
SELECT token_refresh.get_access_token_from('tokens', '1');
SELECT token_refresh.get_access_token_from('tokens', '2') IS NULL;
SELECT token_refresh.get_access_token_from('tokens', 'x');
SELECT token_refresh.detach_table('tokens');
SELECT token_refresh.detach_table('tokens');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tokens'::regclass;
-- The application's own ROLLBACK takes everything back.
BEGIN;
SELECT try('in a transaction', 'tokens');
ROLLBACK;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tokens'::regclass;
RESET ROLE;
SELECT event, message FROM token_refresh.audit_event WHERE event LIKE 'table%' AND message LIKE 'attach_home%' ORDER BY occurred_at;
SET client_min_messages = error;
DROP SCHEMA attach_home CASCADE;
DROP OWNED BY attach_owner, attach_other;
DROP ROLE attach_owner, attach_other;
SELECT token_refresh.drop_provider('attach_test');
