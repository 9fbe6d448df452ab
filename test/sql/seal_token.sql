-- seal_token: what an application writes into a table that is attached with the cipher "native".
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
SELECT token_refresh.create_provider('seal_test', client_id => 'test-client', options => '{"token_endpoint": "http://127.0.0.1:9/token", "token_endpoint_auth_method": "none"}');
CREATE ROLE seal_owner;
CREATE ROLE seal_reader;
CREATE SCHEMA seal_home AUTHORIZATION seal_owner;
GRANT USAGE ON SCHEMA token_refresh TO seal_owner, seal_reader;
GRANT EXECUTE ON FUNCTION token_refresh.attach_table, token_refresh.detach_table, token_refresh.get_access_token_from,
    token_refresh.seal_token TO seal_owner, seal_reader;
SET search_path = seal_home;
SET ROLE seal_owner;
GRANT USAGE ON SCHEMA seal_home TO seal_reader;
CREATE TABLE mailbox (tenant integer, mail text, access bytea, refresh bytea, expires timestamptz, PRIMARY KEY (tenant, mail));
CREATE TABLE plain_text (id integer PRIMARY KEY, access text, refresh text, expires timestamptz);
SELECT token_refresh.attach_table('mailbox', '{"provider": "seal_test", "access_token_column": "access", "refresh_token_column": "refresh",
    "expires_at_column": "expires", "cipher": "native"}') > 1 AS attached;
SELECT token_refresh.attach_table('plain_text', '{"provider": "seal_test", "access_token_column": "access", "refresh_token_column": "refresh",
    "expires_at_column": "expires", "cipher": "plain"}') > 1 AS attached;

-- However the key is written, it names the same row.
INSERT INTO mailbox
    SELECT 1, 'a"b', token_refresh.seal_token('mailbox', '[1,"a\"b"]', 'access', 'fake-access-one'),
           token_refresh.seal_token('mailbox', '["1", "a\"b"]', 'refresh', 'fake-refresh-one'), now() + interval '1 day';
SELECT token_refresh.get_access_token_from('mailbox', '["1","a\"b"]');
SELECT token_refresh.seal_token('mailbox', '[1,"a"]', 'access', 'fake-access-one') <> token_refresh.seal_token('mailbox', '[1,"a"]', 'access', 'fake-access-one') AS never_twice_the_same,
       encode(access, 'escape') LIKE '%fake-access%' AS in_plain_text FROM mailbox;

-- It opens in its row and its column alone.
\set VERBOSITY sqlstate
INSERT INTO mailbox SELECT 2, 'c', access, refresh, expires FROM mailbox;
SELECT token_refresh.get_access_token_from('mailbox', '[2,"c"]');
UPDATE mailbox SET access = token_refresh.seal_token('mailbox', '[2,"c"]', 'refresh', 'fake-access-two') WHERE tenant = 2;
SELECT token_refresh.get_access_token_from('mailbox', '[2,"c"]');
\set VERBOSITY default
UPDATE mailbox SET access = token_refresh.seal_token('mailbox', '[2,"c"]', 'access', 'fake-access-two') WHERE tenant = 2;
SELECT token_refresh.get_access_token_from('mailbox', '[2,"c"]');

-- All parts of the key, and no more.
SELECT token_refresh.seal_token('mailbox', '[1]', 'access', 'fake');
SELECT token_refresh.seal_token('mailbox', '[1, null]', 'access', 'fake');
SELECT token_refresh.seal_token('mailbox', '[1, "a", "b"]', 'access', 'fake');
SELECT token_refresh.seal_token('mailbox', '{"tenant": 1, "mail": "a"}', 'access', 'fake');
SELECT token_refresh.seal_token('mailbox', '1', 'access', 'fake');
SELECT token_refresh.get_access_token_from('mailbox', '1');
SELECT token_refresh.get_access_token_from('mailbox', '["1"]');
SELECT token_refresh.get_access_token_from('mailbox', '["1", "a", "x"]');
SELECT token_refresh.get_access_token_from('mailbox', '["1", ["a"]]');
SELECT token_refresh.get_access_token_from('mailbox', 'one');

-- A key is brought into the form that its row has, or refused.
CREATE TYPE kind AS ENUM ('one', 'two');
CREATE TABLE keyed (day date, price numeric(6, 2), code char(4), id uuid, kind kind, access bytea, refresh bytea, expires timestamptz,
    PRIMARY KEY (day, price, code, id, kind));
CREATE TABLE daily (day date PRIMARY KEY, access bytea, refresh bytea, expires timestamptz);
SELECT token_refresh.attach_table(t, '{"provider": "seal_test", "access_token_column": "access", "refresh_token_column": "refresh",
    "expires_at_column": "expires", "cipher": "native"}') > 1 AS attached FROM unnest(ARRAY['keyed', 'daily']::regclass[]) t;
INSERT INTO keyed SELECT '2026-01-02', 7, 'ab', '0B5F7A52-5E0A-4B0E-9B1C-0A9E7A52F00D', 'two',
    token_refresh.seal_token('keyed', '["2026-01-02", "007", "ab", "0B5F7A52-5E0A-4B0E-9B1C-0A9E7A52F00D", "two"]', 'access', 'fake-access-three'), NULL, NULL;
SELECT token_refresh.get_access_token_from('keyed', '["2026-01-02", "7", "ab", "0b5f7a52-5e0a-4b0e-9b1c-0a9e7a52f00d", "two"]');
SET DateStyle = 'SQL, DMY';
INSERT INTO daily (day, access) SELECT date '2026-01-02', token_refresh.seal_token('daily', '2026-01-02', 'access', 'fake-access-four')
    UNION ALL SELECT date '2026-02-01', token_refresh.seal_token('daily', '2026-02-01', 'access', 'fake-access-five');
SELECT token_refresh.get_access_token_from('daily', '2026-01-02');
SELECT token_refresh.get_access_token_from('daily', '02/01/2026');
SELECT token_refresh.seal_token('daily', '02/01/2026', 'access', 'fake');
SELECT token_refresh.seal_token('keyed', '["02/01/2026", "7", "ab", "0b5f7a52-5e0a-4b0e-9b1c-0a9e7a52f00d", "two"]', 'access', 'fake');
RESET DateStyle;

-- Attached again, the table has the id that it had, so that what it holds opens.
SELECT token_refresh.detach_table('daily');
SELECT token_refresh.attach_table('daily', '{"provider": "seal_test", "access_token_column": "access",
    "refresh_token_column": "refresh", "expires_at_column": "expires", "cipher": "native"}') > 1 AS attached;
SELECT token_refresh.get_access_token_from('daily', '2026-01-02');
SELECT token_refresh.detach_table('daily');
CREATE TABLE another (LIKE daily INCLUDING ALL);
SELECT token_refresh.attach_table('another', '{"provider": "seal_test", "access_token_column": "access", "refresh_token_column": "refresh",
    "expires_at_column": "expires", "cipher": "native"}') > 1 AS attached;
SELECT token_refresh.attach_table('daily', '{"provider": "seal_test", "access_token_column": "access", "refresh_token_column": "refresh",
    "expires_at_column": "expires", "cipher": "native"}') > 1 AS attached;
SELECT token_refresh.get_access_token_from('daily', '2026-02-01');

-- Bad input.
SELECT token_refresh.seal_token('mailbox', '[1,"a"]', 'access', NULL);
SELECT token_refresh.seal_token('mailbox', '["x","a"]', 'access', 'fake');
SELECT token_refresh.seal_token('mailbox', '[1,"a"]', 'mail', 'fake');
SELECT token_refresh.seal_token('plain_text', '1', 'access', 'fake');
SELECT token_refresh.seal_token('pg_catalog.pg_class', '1', 'access', 'fake');

-- Only for who may write the column.
GRANT SELECT ON mailbox TO seal_reader;
SET ROLE seal_reader;
SELECT token_refresh.seal_token('mailbox', '[1,"a"]', 'access', 'fake');
SET ROLE seal_owner;
GRANT UPDATE (access) ON mailbox TO seal_reader;
SET ROLE seal_reader;
SELECT length(token_refresh.seal_token('mailbox', '[1,"a"]', 'access', 'fake')) > 4 AS sealed;
SELECT token_refresh.seal_token('mailbox', '[1,"a"]', 'refresh', 'fake');

RESET ROLE;
SELECT token_refresh.detach_table(t) FROM unnest(ARRAY['mailbox', 'plain_text', 'keyed', 'daily', 'another']::regclass[]) t;
DROP SCHEMA seal_home CASCADE;
RESET search_path;
SELECT token_refresh.drop_provider('seal_test');
DROP OWNED BY seal_owner, seal_reader;
DROP ROLE seal_owner, seal_reader;
