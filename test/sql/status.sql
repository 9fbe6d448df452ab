-- What people see: token_status, status(), pausing, the key ring.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;
TRUNCATE token_refresh.audit_event;

-- Nothing is due in the background from here on.
SELECT token_refresh.pause();
SELECT token_refresh.status() -> 'paused' AS paused;
SELECT token_refresh.pause();
SELECT count(*) AS rows, bool_and(changed_by = session_user) AS by_me FROM token_refresh.control;

-- The shape of status().
SELECT key, jsonb_typeof(value) AS type FROM jsonb_each(token_refresh.status()) WHERE key NOT IN ('requests', 'refreshed', 'failed') ORDER BY key COLLATE "C";
SELECT token_refresh.status() -> 'credentials' AS credentials, token_refresh.status() -> 'in_flight' AS in_flight, token_refresh.status() -> 'parked' AS parked;

-- Nothing to refresh.
SELECT * FROM token_refresh.refresh_expiring_tokens();
SELECT * FROM token_refresh.refresh_expiring_tokens(within => '1 hour');

SELECT token_refresh.create_provider('acme', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');
SELECT token_refresh.create_provider('other', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');
SELECT count(token_refresh.store_credential(provider, subject, response, label)) FROM (VALUES
    ('acme', 'fresh', '', '{"access_token": "fake", "refresh_token": "fake", "expires_in": 3600}'::jsonb),
    ('acme', 'fresh', 'work', '{"access_token": "fake", "refresh_token": "fake", "expires_in": 3600}'),
    ('acme', 'soon', '', '{"access_token": "fake", "refresh_token": "fake", "expires_in": 240}'),
    ('acme', 'expired', '', '{"access_token": "fake", "refresh_token": "fake", "expires_at": "2020-01-01T00:00:00Z"}'),
    ('acme', 'forever', '', '{"access_token": "fake"}'),
    ('acme', 'no refresh token', '', '{"access_token": "fake", "expires_in": 3600}'),
    ('other', 'dead', '', '{"access_token": "fake", "refresh_token": "fake", "expires_in": 3600}')) AS v (provider, subject, label, response);
UPDATE token_refresh.credential SET status = 'needs_reauth', expires_at = expires_at WHERE subject = 'dead';

SELECT token_table, provider, subject, label, status, expires_at IS NOT NULL AS expires, due_at IS NOT NULL AS due, attempts, last_error, last_refreshed_at, refresh_count, parked
FROM token_refresh.token_status ORDER BY provider, subject, label;
SELECT jsonb_pretty(token_refresh.status() -> 'credentials') AS credentials;

-- A dead grant is not asked for.
SELECT access_token, status, was_refreshed, message FROM token_refresh.get_token('other', 'dead');
SELECT success, failure, message FROM token_refresh.refresh_credential('other', 'dead');

-- Nobody has a secret to see: neither in the view nor in status().
SELECT count(*) AS secrets FROM token_refresh.token_status t WHERE to_jsonb(t)::text LIKE '%fake%';
SELECT position('fake' IN token_refresh.status()::text) AS secrets;

-- The key ring, by names.
SELECT count(*) > 0 AS has_keys, count(*) FILTER (WHERE seals) AS sealing, bool_and(octet_length(key_id) = 8) AS ids FROM token_refresh.key_ring();
SELECT place, current, secrets FROM token_refresh.key_usage ORDER BY place;
CALL token_refresh.rotate_keys();
CALL token_refresh.rotate_keys(batch_size => 1);
CALL token_refresh.rotate_keys(batch_size => 0);
CALL token_refresh.rotate_keys(NULL);
BEGIN;
CALL token_refresh.rotate_keys();
ROLLBACK;
SELECT token_refresh.get_access_token('acme', 'fresh');

-- An event for each of pause() and resume().
TRUNCATE token_refresh.credential;
SELECT token_refresh.drop_provider(name) FROM token_refresh.provider ORDER BY name;
SELECT token_refresh.resume();
SELECT token_refresh.resume();
SELECT token_refresh.status() -> 'paused' AS paused;
SELECT event, actor = session_user AS by_me, count(*) FROM token_refresh.audit_event WHERE event IN ('paused', 'resumed', 'keys_rotated') GROUP BY 1, 2 ORDER BY 1;

-- The extension goes and comes back.
DROP EXTENSION token_refresh;
SELECT token_refresh.status();
CREATE EXTENSION token_refresh;
SELECT count(*) FROM token_refresh.provider;
DROP EXTENSION token_refresh;
