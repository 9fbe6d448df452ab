-- API tokens: the contract, every refresh reason and the state that each leaves, scopes, bad input, batch, import.
-- All secrets go from one statement to the next in variables and are not shown.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;
SET search_path = token_refresh, public;
SET timezone = 'UTC';

-- The columns: names, order, types.
SELECT * FROM issue_api_token('o', '{api:read}') \gdesc
SELECT * FROM validate_api_token('') \gdesc
SELECT * FROM validate_and_refresh_api_token('') \gdesc
SELECT * FROM refresh_api_token('') \gdesc
SELECT * FROM get_token_refresh_status('') \gdesc
SELECT * FROM refresh_expiring_tokens_batch() \gdesc
SELECT revoke_api_token('') AS by_token, revoke_api_token(1) AS by_id \gdesc
SELECT proname, pg_get_function_arguments(oid) FROM pg_proc
    WHERE pronamespace = 'token_refresh'::regnamespace AND proname ~ '^(issue|validate|import|revoke|refresh|get)_.*(api_token|tokens_batch|refresh_status)' ORDER BY 1, 2;

-- A new one.
SELECT token AS token, token_id AS id FROM issue_api_token('alice', '{api:read,api:write}', user_hk => '\x01', tenant_hk => '\x02') \gset
SELECT :'token' ~ '^tr_[A-Za-z0-9_-]{48}$' AS shape, expires_at - issued_at AS lifetime, owner, prefix, token_type, scope, user_hk, tenant_hk, status,
       family = token_id AS first_of_its_family, predecessor, successor_id, last_used_at, use_count, imported
    FROM api_token_status WHERE token_id = :id;
SELECT token_hash = sha256(:'token') AS only_its_hash, successor FROM api_token WHERE id = :id;
SELECT length(token), token_id > :id AS next_id FROM issue_api_token('alice', '{}', prefix => '', expires_in => '1 second');
SELECT length(token), token LIKE repeat('p', 32) || '%' AS begins FROM issue_api_token('alice', '{*}', prefix => repeat('p', 32), expires_in => '100 years', token_type => 'PRODUCTION');

-- Valid.
SELECT is_valid, user_hk, tenant_hk, scope, expires_at - now() > '89 days' AS expires, message FROM validate_api_token(:'token');
SELECT is_valid, user_hk, tenant_hk, scope, expires_at - now() > '89 days' AS expires, new_token, was_refreshed, refresh_reason, message
    FROM validate_and_refresh_api_token(:'token');
SELECT success, new_token, expires_at - now() > '89 days' AS expires, refresh_reason, message FROM refresh_api_token(:'token');
SELECT is_valid, expires_at - now() > '89 days' AS expires, days_until_expiry, refresh_recommended, refresh_reason, message FROM get_token_refresh_status(:'token');
SELECT status, successor_id, retires_at FROM api_token_status WHERE token_id = :id;

-- Scopes: what is granted covers itself; with ":*" what begins so; "*" all. A star in what is asked for means nothing.
SELECT token AS wide FROM issue_api_token('alice', '{api:*,other}') \gset
SELECT token AS none FROM issue_api_token('alice', '{}') \gset
SELECT token AS all FROM issue_api_token('alice', '{*}') \gset
SELECT r.scope, a.is_valid AS two, w.is_valid AS "api:* other", n.is_valid AS none, s.is_valid AS "*"
    FROM (VALUES (NULL), ('api:read'), ('api:rea'), ('api:read '), ('API:READ'), ('api:'), ('api:*'), ('api:x:y'), ('api'), ('apix'), ('other'), ('other:x'), ('*'), (''), ('a"b\c''d')) r (scope),
         validate_api_token(:'token', r.scope) a, validate_api_token(:'wide', r.scope) w, validate_api_token(:'none', r.scope) n, validate_api_token(:'all', r.scope) s;
SELECT is_valid, user_hk, scope, expires_at, message FROM validate_api_token(:'token', 'api:admin');
SELECT is_valid, scope, expires_at, new_token, was_refreshed, refresh_reason, message FROM validate_and_refresh_api_token(:'token', 'api:admin');
-- api:read is what validate_and_refresh_api_token asks for by itself.
SELECT is_valid, refresh_reason, message FROM validate_and_refresh_api_token(:'none');
SELECT is_valid, refresh_reason FROM validate_and_refresh_api_token(:'none', NULL);

-- What is no token.
\set bad '(VALUES (1, NULL), (2, ''''), (3, '' ''), (4, ''tr_''), (5, left(:''token'', -1)), (6, :''token'' || ''A''), (7, ''x'' || :''token''), (8, ''ts_'' || substr(:''token'', 4)), (9, overlay(:''token'' PLACING CASE substr(:''token'', 21, 1) WHEN ''x'' THEN ''y'' ELSE ''x'' END FROM 21)), (10, ''tr_'' || repeat(''A'', 48)), (11, repeat(''x'', 1000000)), (12, :''token'' || repeat('' '', 100)), (13, ''tr_'' || repeat(''é'', 24)), (14, E''back\\slash''''quote"''), (15, ''Bearer '' || :''token''), (16, upper(:''token''))) AS bad (n, token)'
SELECT n, v.is_valid, v.user_hk, v.scope, v.expires_at, v.message FROM :bad, validate_api_token(bad.token) v ORDER BY n;
SELECT DISTINCT v.is_valid, v.user_hk, v.tenant_hk, v.scope, v.expires_at, v.new_token, v.was_refreshed, v.refresh_reason, v.message FROM :bad, validate_and_refresh_api_token(bad.token) v ORDER BY message;
SELECT DISTINCT v.success, v.new_token, v.expires_at, v.refresh_reason, v.message FROM :bad, refresh_api_token(bad.token, 7, true) v ORDER BY message;
SELECT DISTINCT v.is_valid, v.expires_at, v.days_until_expiry, v.refresh_recommended, v.refresh_reason, v.message FROM :bad, get_token_refresh_status(bad.token) v ORDER BY message;
SELECT DISTINCT revoke_api_token(bad.token) FROM :bad;
-- Well-formed, but unknown: one that was rolled back.
BEGIN;
SELECT token AS unknown FROM issue_api_token('alice', '{api:read}') \gset
SELECT is_valid FROM validate_api_token(:'unknown');
ROLLBACK;
SELECT is_valid, message FROM validate_api_token(:'unknown');
SELECT is_valid, refresh_reason, message FROM validate_and_refresh_api_token(:'unknown');
SELECT revoke_api_token(:'unknown'), revoke_api_token(NULL::text), revoke_api_token(NULL::bigint), revoke_api_token(0), revoke_api_token(-1);

-- Refused arguments.
\set VERBOSITY terse
SELECT issue_api_token(NULL, '{a}');
SELECT issue_api_token('', '{a}');
SELECT issue_api_token(repeat('x', 1001), '{a}');
SELECT issue_api_token('o', NULL);
SELECT issue_api_token('o', '{a,NULL}');
SELECT issue_api_token('o', '{a,""}');
SELECT issue_api_token('o', '{{a},{b}}');
SELECT issue_api_token('o', '{a b}');
SELECT issue_api_token('o', '{"a\"b"}');
SELECT issue_api_token('o', '{"a\\b"}');
SELECT issue_api_token('o', '{é}');
SELECT issue_api_token('o', '{a*}');
SELECT issue_api_token('o', '{:*}');
SELECT issue_api_token('o', '{**}');
SELECT issue_api_token('o', '{*:read}');
SELECT issue_api_token('o', ARRAY[repeat('x', 257)]);
SELECT issue_api_token('o', array_fill('x'::text, ARRAY[101]));
SELECT issue_api_token('o', '{a}', NULL);
SELECT issue_api_token('o', '{a}', '0');
SELECT issue_api_token('o', '{a}', '-1 day');
SELECT issue_api_token('o', '{a}', '1 month -30 days');
SELECT issue_api_token('o', '{a}', '101 years');
SELECT issue_api_token('o', '{a}', '178000000 years');
SELECT issue_api_token('o', '{a}', prefix => NULL);
SELECT issue_api_token('o', '{a}', prefix => repeat('p', 33));
SELECT issue_api_token('o', '{a}', prefix => 'a b');
SELECT issue_api_token('o', '{a}', prefix => 'ü');
SELECT issue_api_token('o', '{a}', prefix => repeat('x', 1000000));
SELECT issue_api_token('o', '{a}', token_type => NULL);
SELECT issue_api_token('o', '{a}', token_type => '');
SELECT issue_api_token('o', '{a}', refresh_if_used_within => '-1 day');
SELECT refresh_api_token(:'token', -1);
SELECT refresh_api_token(:'token', NULL);
SELECT refresh_api_token(:'token', 7, NULL);
SELECT refresh_expiring_tokens_batch(NULL);
SELECT import_api_token('\x00'::bytea, 'o', '{a}', now());
SELECT import_api_token('xyz'::text, 'o', '{a}', now());
SELECT import_api_token(repeat('0', 63), 'o', '{a}', now());
SELECT import_api_token(NULL::bytea, 'o', '{a}', now());
SELECT import_api_token(NULL::text, 'o', '{a}', now());
SELECT import_api_token(repeat('0', 64), 'o', '{a}', NULL);
SELECT import_api_token(repeat('0', 64), 'o', '{a}', 'infinity');
SELECT import_api_token(repeat('0', 64), 'o', '{a}', now(), issued_at => '-infinity');
SELECT import_api_token(repeat('0', 64), 'o', '{a}', now(), is_revoked => NULL);
SELECT import_api_token(repeat('0', 64), 'o', '{a b}', now());
SELECT import_api_token(repeat('0', 64), 'o', '{a}', now(), prefix => 'no prefix');
\set VERBOSITY default

-- EXPIRING_SOON: within seven days, and for short lives within their last quarter.
SELECT token AS soon, token_id AS soon_id FROM issue_api_token('bob', '{api:read}', '90 days', user_hk => '\x11', tenant_hk => '\x22', token_type => 'PRODUCTION', prefix => 'ovt_') \gset
UPDATE api_token SET expires_at = now() + '6 days 23 hours' WHERE id = :soon_id;
SELECT is_valid, days_until_expiry, refresh_recommended, refresh_reason, message FROM get_token_refresh_status(:'soon');
SELECT is_valid, user_hk, tenant_hk, scope, expires_at - now() > '89 days' AS expires, new_token AS next, was_refreshed, refresh_reason, message
    FROM validate_and_refresh_api_token(:'soon') \gset
SELECT :'is_valid', :'user_hk', :'tenant_hk', :'scope', :'expires' AS expires, :'was_refreshed', :'refresh_reason', :'message';
SELECT :'next' ~ '^ovt_[A-Za-z0-9_-]{48}$' AS shape, :'next' <> :'soon' AS another;
SELECT is_valid, user_hk, tenant_hk, scope, message FROM validate_api_token(:'next');
-- The old one is good for the grace period, and gives the same successor.
SELECT is_valid, expires_at - now() BETWEEN '23:59' AND '24:00' AS for_a_day, message FROM validate_api_token(:'soon');
SELECT is_valid, new_token = :'next' AS same, expires_at - now() > '89 days' AS expires, was_refreshed, refresh_reason FROM validate_and_refresh_api_token(:'soon');
SELECT success, new_token = :'next' AS same, expires_at - now() > '89 days' AS expires, refresh_reason, message FROM refresh_api_token(:'soon');
SELECT is_valid, refresh_recommended, refresh_reason FROM get_token_refresh_status(:'soon');
SELECT t.status, t.owner, t.prefix, t.token_type, t.scope, t.user_hk, t.tenant_hk, t.family = :soon_id AS family, t.predecessor = :soon_id AS successor, round(extract(epoch FROM t.expires_at - t.issued_at) / 86400) AS days
    FROM api_token_status t WHERE family = :soon_id ORDER BY token_id;
SELECT (successor_id = (SELECT token_id FROM api_token_status WHERE predecessor = :soon_id)) AS points_to_it FROM api_token_status WHERE token_id = :soon_id;
SELECT event, row_key = :'soon_id' AS of_the_old, subject, replace(message, (SELECT successor_id::text FROM api_token_status WHERE token_id = :soon_id), 'N') AS message
    FROM audit_event WHERE row_key = :'soon_id' ORDER BY occurred_at;
SELECT encode(successor, 'escape') LIKE '%' || right(:'next', 40) || '%' AS in_plain_text FROM api_token WHERE id = :soon_id;
-- A short life.
SELECT token AS short, token_id AS short_id FROM issue_api_token('bob', '{api:read}', '1 hour') \gset
SELECT refresh_reason, message FROM validate_and_refresh_api_token(:'short');
UPDATE api_token SET expires_at = now() + '16 minutes' WHERE id = :short_id;
SELECT refresh_reason FROM validate_and_refresh_api_token(:'short');
UPDATE api_token SET expires_at = now() + '14 minutes' WHERE id = :short_id;
SELECT was_refreshed, refresh_reason, expires_at - now() BETWEEN '59 minutes' AND '61 minutes' AS an_hour FROM validate_and_refresh_api_token(:'short');
-- The old one lives no longer than before; that it has expired within its grace period is no reuse.
SELECT expires_at - now() BETWEEN '13 minutes' AND '15 minutes' AS no_longer_than_before FROM validate_api_token(:'short');
UPDATE api_token SET expires_at = now() - interval '1 second' WHERE id = :short_id;
SELECT is_valid, message FROM validate_api_token(:'short');
SELECT count(*) FILTER (WHERE status = 'expired') AS expired, count(*) FILTER (WHERE status = 'active') AS active
    FROM api_token_status WHERE family = :short_id;

-- FORCED, NO_REFRESH_NEEDED and the threshold.
SELECT token AS far, token_id AS far_id FROM issue_api_token('carol', '{api:read,x:*}', '90 days') \gset
SELECT success, new_token, refresh_reason, message FROM refresh_api_token(:'far', 89);
SELECT success, new_token AS far2, refresh_reason, message, expires_at - now() > '89 days' AS expires FROM refresh_api_token(:'far', 0, true) \gset
SELECT :'success', :'refresh_reason', :'message', :'expires' AS expires;
SELECT success, refresh_reason, new_token = :'far2' AS same FROM refresh_api_token(:'far', 0, false);
SELECT was_refreshed, refresh_reason, new_token = :'far2' AS same FROM validate_and_refresh_api_token(:'far');
SELECT is_valid, scope, refresh_reason FROM validate_and_refresh_api_token(:'far2');
SELECT success, refresh_reason, new_token <> :'far2' AS another FROM refresh_api_token(:'far2', 91);
SELECT token AS t FROM issue_api_token('carol', '{api:read}', '100 years') \gset
SELECT success, refresh_reason FROM refresh_api_token(:'t', 2000000000);
SELECT token AS t FROM issue_api_token('carol', '{api:read}', '100 years') \gset
SELECT success, refresh_reason FROM refresh_api_token(:'t', 150000000);

-- Expired.
UPDATE api_token SET expires_at = now() - interval '1 microsecond' WHERE token_hash = sha256(:'t');
SELECT token AS old, token_id AS old_id FROM issue_api_token('carol', '{api:read}') \gset
UPDATE api_token SET expires_at = now() WHERE id = :old_id;
SELECT is_valid, user_hk, scope, expires_at, message FROM validate_api_token(:'old');
SELECT is_valid, new_token, refresh_reason, message FROM validate_and_refresh_api_token(:'old');
SELECT success, new_token, refresh_reason, message FROM refresh_api_token(:'old', 7, true);
SELECT is_valid, expires_at, days_until_expiry, refresh_recommended, refresh_reason, message FROM get_token_refresh_status(:'old');
SELECT status FROM api_token_status WHERE token_id = :old_id;

-- Reuse after the grace period: the old one, its successor, and the successor of that.
UPDATE api_token SET retires_at = now() - interval '1 second' WHERE id = :far_id;
SELECT status FROM api_token_status WHERE family = :far_id ORDER BY token_id;
SELECT is_valid, message FROM validate_api_token(:'far');
SELECT is_valid, message FROM validate_api_token(:'far');
SELECT is_valid, message FROM validate_api_token(:'far2');
SELECT is_valid, new_token, refresh_reason, message FROM validate_and_refresh_api_token(:'far2');
SELECT status, s.revoke_reason, t.successor IS NULL AS wiped FROM api_token_status s JOIN api_token t ON t.id = s.token_id WHERE s.family = :far_id ORDER BY token_id;
SELECT event, subject, message FROM audit_event WHERE row_key = :'far_id' AND event LIKE '%reused';

-- Revoked: by token, by id, once.
SELECT revoke_api_token(:'token'), revoke_api_token(:'token'), revoke_api_token(:id);
SELECT is_valid, user_hk, scope, expires_at, message FROM validate_api_token(:'token');
SELECT is_valid, refresh_reason, message FROM validate_and_refresh_api_token(:'token');
SELECT success, new_token, refresh_reason, message FROM refresh_api_token(:'token', 7, true);
SELECT status, revoke_reason = 'revoked by ' || session_user AS reason FROM api_token_status WHERE token_id = :id;
SELECT event, subject, message = 'revoked by ' || session_user AS message FROM audit_event WHERE row_key = :'id' AND event LIKE '%revoked';
-- One goes with all of its family.
SELECT revoke_api_token(:soon_id);
SELECT is_valid, message FROM validate_api_token(:'next');
-- In a transaction.
SELECT token AS t FROM issue_api_token('dave', '{a}') \gset
BEGIN;
SELECT revoke_api_token(:'t');
SELECT is_valid FROM validate_api_token(:'t');
ROLLBACK;
SELECT is_valid FROM validate_api_token(:'t');

-- REFRESH_FAILED: the token is good, but this transaction is read-only.
SELECT token AS t, token_id AS t_id FROM issue_api_token('dave', '{api:read}', '1 day') \gset
UPDATE api_token SET expires_at = now() + '1 hour' WHERE id = :t_id;
BEGIN READ ONLY;
SELECT is_valid, expires_at - now() <= '1 hour' AS expires, new_token, was_refreshed, refresh_reason, message FROM validate_and_refresh_api_token(:'t');
SELECT success, new_token, expires_at - now() <= '1 hour' AS expires, refresh_reason, message FROM refresh_api_token(:'t');
SELECT is_valid, refresh_recommended, refresh_reason FROM get_token_refresh_status(:'t');
COMMIT;
-- Whoever holds the row.
BEGIN;
SELECT 1 AS locked FROM api_token WHERE id = :t_id FOR UPDATE;
SELECT is_valid, new_token, refresh_reason, message FROM validate_and_refresh_api_token(:'t');
COMMIT;
SELECT is_valid, was_refreshed, refresh_reason FROM validate_and_refresh_api_token(:'t');

-- Issued, and refreshed, in one transaction.
BEGIN;
SELECT token AS t FROM issue_api_token('erin', '{api:read}', '1 day') \gset
SELECT success, new_token AS t2, refresh_reason FROM refresh_api_token(:'t', 1) \gset
SELECT :'success', :'refresh_reason';
SELECT new_token = :'t2' AS same FROM refresh_api_token(:'t', 1);
SELECT success, new_token AS t3 FROM refresh_api_token(:'t2', 0, true) \gset
SELECT is_valid FROM validate_api_token(:'t3');
COMMIT;
SELECT is_valid, new_token = :'t2' AS same FROM validate_and_refresh_api_token(:'t');
SELECT is_valid, new_token = :'t3' AS same FROM validate_and_refresh_api_token(:'t2');
SELECT is_valid, new_token FROM validate_and_refresh_api_token(:'t3');

-- The batch.
DELETE FROM api_token;
SELECT tokens_found, tokens_refreshed, tokens_failed, details FROM refresh_expiring_tokens_batch();
SELECT token AS b1, token_id AS b1_id FROM issue_api_token('batch', '{api:read}', '2 days') \gset
SELECT token AS b2, token_id AS b2_id FROM issue_api_token('batch', '{api:read}', '6 days', token_type => 'PRODUCTION') \gset
SELECT token AS b3, token_id AS b3_id FROM issue_api_token('later', '{api:read}', '8 days') \gset
SELECT token AS b4, token_id AS b4_id FROM issue_api_token('idle', '{api:read}', '2 days', refresh_if_used_within => '1 hour') \gset
UPDATE api_token SET issued_at = now() - interval '2 hours' WHERE id = :b4_id;
SELECT token AS b5, token_id AS b5_id FROM issue_api_token('revoked', '{api:read}', '2 days') \gset
SELECT revoke_api_token(:b5_id);
SELECT tokens_found, tokens_refreshed, tokens_failed, jsonb_array_length(details) AS details, details -> 0 ->> 'token_id' = :'b1_id' AS soonest_first,
       (details -> 1) - 'token_id' - 'expires_at' AS second FROM refresh_expiring_tokens_batch();
SELECT tokens_found, tokens_refreshed, tokens_failed, details FROM refresh_expiring_tokens_batch();
SELECT owner, status, retires_at FROM api_token_status WHERE owner <> 'revoked' ORDER BY token_id;
SELECT event, subject FROM audit_event WHERE row_key IN (:'b1_id', :'b2_id', :'b3_id') ORDER BY occurred_at, row_key;
-- It comes with the next use, whenever that is; looking does not hand over.
SELECT is_valid, expires_at - now() > '1 day' AS expires FROM validate_api_token(:'b2');
SELECT refresh_recommended, refresh_reason FROM get_token_refresh_status(:'b2');
SELECT status FROM api_token_status WHERE token_id = :b2_id;
SELECT is_valid, was_refreshed, refresh_reason, new_token AS b2next FROM validate_and_refresh_api_token(:'b2') \gset
SELECT :'is_valid', :'was_refreshed', :'refresh_reason';
SELECT is_valid, message FROM validate_api_token(:'b2next');
SELECT success, refresh_reason FROM refresh_api_token(:'b1', 0);
SELECT owner, status FROM api_token_status WHERE owner = 'batch' ORDER BY token_id;
-- Negative, absurd.
SELECT tokens_found FROM refresh_expiring_tokens_batch('-1 day');
\set VERBOSITY sqlstate
SELECT tokens_found FROM refresh_expiring_tokens_batch('178000000 years');
\set VERBOSITY default

-- Import, from a data vault: one statement, the hashes in bytes or in hexadecimal digits.
CREATE TABLE vault (token_hash bytea, user_hk bytea, tenant_hk bytea, scope text[], expires_at timestamptz, load_date timestamptz, load_end_date timestamptz, is_revoked boolean);
INSERT INTO vault VALUES
    (sha256('ovt_prod_0123456789abcdef'), '\xaa', '\xbb', '{api:read}', now() + '30 days', now() - interval '60 days', NULL, false),
    (sha256('ovt_prod_soon'), '\xac', '\xbd', '{api:read,api:write}', now() + '3 days', now() - interval '87 days', NULL, false),
    (sha256('ovt_prod_revoked'), '\xaa', '\xbb', '{api:read}', now() + '30 days', now() - interval '60 days', NULL, true),
    (sha256('ovt_prod_replaced'), '\xaa', '\xbb', '{api:read}', now() + '30 days', now() - interval '60 days', now(), false),
    (sha256('ovt_prod_expired'), '\xaa', '\xbb', '{api:read}', now() - interval '1 day', now() - interval '91 days', NULL, false);
SELECT is_valid, message FROM validate_api_token('ovt_prod_0123456789abcdef');
SELECT count(import_api_token(token_hash, 'vault', scope, expires_at, 'ovt_prod_', 'PRODUCTION', user_hk, tenant_hk, load_date, is_revoked)) FROM vault WHERE load_end_date IS NULL;
SELECT is_valid, user_hk, tenant_hk, scope, message FROM validate_api_token('ovt_prod_0123456789abcdef', 'api:read');
SELECT t AS token, is_valid, refresh_reason, message FROM unnest('{ovt_prod_revoked,ovt_prod_replaced,ovt_prod_expired,ovt_prod_unheard,ovt_prod_,ovt_pro}'::text[]) t, validate_and_refresh_api_token(t);
SELECT is_valid, message FROM validate_api_token('ovt_prod_' || repeat('x', 503));
SELECT is_valid, message FROM validate_api_token('ovt_prod_' || repeat('x', 504));
-- Its successor is one of ours with its prefix, and lives as long.
SELECT is_valid, user_hk, tenant_hk, scope, new_token ~ '^ovt_prod_[A-Za-z0-9_-]{48}$' AS shape, round(extract(epoch FROM expires_at - now()) / 86400) AS days, was_refreshed, refresh_reason
    FROM validate_and_refresh_api_token('ovt_prod_soon');
SELECT owner, prefix, token_type, imported, status FROM api_token_status WHERE owner = 'vault' ORDER BY token_id;
-- A hash that is there stays as it is, whoever comes with it.
SELECT import_api_token(encode(sha256('ovt_prod_0123456789abcdef'), 'hex'), 'mallory', '{*}', now() + '1 year', 'ovt_prod_') = token_id AS same FROM api_token_status WHERE owner = 'vault' AND status = 'active' AND imported;
SELECT owner, scope FROM api_token_status t JOIN api_token USING (owner, scope) WHERE token_hash = sha256('ovt_prod_0123456789abcdef') LIMIT 1;
SELECT import_api_token('\x' || upper(encode(sha256('hexed'), 'hex')), 'hex', '{api:read}', now() + '30 days', 'hex') > 0 AS imported;
SELECT is_valid, scope FROM validate_api_token('hexed');
-- An absurd life is no longer than any other may be.
SELECT import_api_token(sha256('hex-long'), 'hex', '{api:read}', '290000-01-01', 'hex', issued_at => '4000-01-01 BC') > 0 AS imported;
SELECT is_valid, refresh_reason FROM validate_and_refresh_api_token('hex-long');
SELECT success, refresh_reason, expires_at BETWEEN now() + '99 years' AND now() + '101 years' AS expires FROM refresh_api_token('hex-long', 0, true);
-- Rolled back, the prefix is unknown again.
BEGIN;
SELECT import_api_token(sha256('rolled-back'), 'back', '{api:read}', now() + '30 days', 'rolled') > 0 AS imported;
SELECT is_valid FROM validate_api_token('rolled-back');
ROLLBACK;
SELECT is_valid, message FROM validate_api_token('rolled-back');
BEGIN;
SAVEPOINT s;
SELECT import_api_token(sha256('rolled-back'), 'back', '{api:read}', now() + '30 days', 'rolled') > 0 AS imported;
SELECT is_valid FROM validate_api_token('rolled-back');
ROLLBACK TO s;
SELECT is_valid, message FROM validate_api_token('rolled-back');
COMMIT;
SELECT is_valid, message FROM validate_api_token('rolled-back');
-- Without a prefix anything may be one.
SELECT import_api_token(sha256('anything at all'), 'any', '{api:read}', now() + '30 days') > 0 AS imported;
SELECT is_valid FROM validate_api_token('anything at all');
SELECT is_valid, message FROM validate_api_token('something else');
SELECT is_valid, message FROM validate_api_token('');
DELETE FROM imported_token_prefix WHERE prefix = '';
SELECT is_valid, message FROM validate_api_token('anything at all');

-- In all places where a function can stand.
SELECT token AS t FROM issue_api_token('places', '{api:read}', '90 days', user_hk => '\x77') \gset
SELECT (validate_api_token(:'t', 'api:read')).user_hk;
SELECT v.* FROM (SELECT (r).is_valid, (r).refresh_reason, (r).new_token FROM (SELECT validate_and_refresh_api_token(:'t') AS r) x) v;
CREATE TABLE request (n integer, token text);
INSERT INTO request VALUES (1, :'t'), (2, 'garbage'), (3, NULL);
SELECT n, v.is_valid FROM request LEFT JOIN LATERAL validate_api_token(token) v ON true ORDER BY n;
SELECT n FROM request WHERE (SELECT is_valid FROM validate_api_token(token));
SELECT n FROM request WHERE EXISTS (SELECT FROM validate_api_token(token, 'api:read') WHERE is_valid);
CREATE VIEW good_request AS SELECT n, v.user_hk FROM request, validate_api_token(token) v WHERE v.is_valid;
SELECT * FROM good_request;
CREATE FUNCTION who_is(token text) RETURNS bytea LANGUAGE plpgsql STABLE AS $$
DECLARE
    v record;
BEGIN
    SELECT * INTO v FROM token_refresh.validate_and_refresh_api_token(token);
    IF NOT v.is_valid THEN RAISE EXCEPTION 'no: %', v.message; END IF;
    RETURN v.user_hk;
END $$;
SELECT who_is(token) FROM request WHERE n = 1;
SELECT who_is(token) FROM request WHERE n = 2;
PREPARE validate (text, text) AS SELECT is_valid, message FROM validate_api_token($1, $2);
EXECUTE validate (:'t', 'api:read');
EXECUTE validate (:'t', 'api:write');
EXECUTE validate (NULL, NULL);
SET plan_cache_mode = force_generic_plan;
EXECUTE validate (:'t', 'api:read');
RESET plan_cache_mode;
SELECT set_config(name, 'on', false) AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT is_valid, message FROM validate_api_token(:'t', 'api:read');
SELECT is_valid, days_until_expiry, refresh_reason FROM get_token_refresh_status(:'t');
SELECT is_valid, message FROM validate_api_token('ovt_prod_soon');
SELECT is_valid, refresh_reason FROM validate_and_refresh_api_token(:'t');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is_valid, message FROM validate_api_token(:'t');
SELECT is_valid, message FROM validate_api_token('hexed');
COMMIT;
SELECT set_config(name, 'off', false) AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');

DROP VIEW good_request;
DROP TABLE request, vault;
DROP FUNCTION who_is;
DELETE FROM api_token;
DELETE FROM api_token_use;
DELETE FROM imported_token_prefix;
