-- Credentials: storing and reading, and what is said about every kind of mistake. No token
-- here falls due while the test runs, so that nothing is asked of the providers.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;
TRUNCATE token_refresh.audit_event;
SELECT token_refresh.create_provider('acme', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');
SELECT token_refresh.create_provider('other', 'my-client', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token", "refresh_margin": "10 minutes"}');

-- Storing, and reading it back.
SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake-access-1", "refresh_token": "fake-refresh-1", "expires_in": 3600, "scope": "read write"}') > 0 AS stored;
SELECT token_refresh.get_access_token('acme', 'alice');
SELECT access_token, token_type, expires_at - now() BETWEEN '59 minutes' AND '1 hour' AS expires_in_an_hour, scope, status, was_refreshed, message
FROM token_refresh.get_token('acme', 'alice');
SELECT token_refresh.get_access_token(provider => 'acme', subject => 'alice', min_validity => '30 minutes');
-- Sealed, and not readable as text.
SELECT octet_length(access_token) > octet_length('fake-access-1') AS sealed,
       position(convert_to('fake-access-1', 'UTF8') IN access_token) AS plaintext_access, position(convert_to('fake-refresh-1', 'UTF8') IN refresh_token) AS plaintext_refresh
FROM token_refresh.credential WHERE subject = 'alice';

-- Stored again it replaces what was there; what the new answer does not mention stays.
SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake-access-2", "expires_in": "7200"}') = id AS same_row FROM token_refresh.credential WHERE subject = 'alice';
SELECT access_token, scope, expires_at - now() > '1 hour' AS later FROM token_refresh.get_token('acme', 'alice');
SELECT count(*), bool_and(refresh_token IS NOT NULL) AS keeps_refresh_token FROM token_refresh.credential WHERE subject = 'alice';

-- Labels tell apart several credentials of one subject, providers too.
SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake-access-work", "expires_in": 3600}', 'work') > 0 AS stored;
SELECT token_refresh.store_credential('other', 'alice', '{"access_token": "fake-access-other", "expires_in": 3600}') > 0 AS stored;
SELECT token_refresh.get_access_token('acme', 'alice'), token_refresh.get_access_token('acme', 'alice', 'work'), token_refresh.get_access_token('acme', 'alice', label => 'home') AS home,
       token_refresh.get_access_token('other', 'alice');

-- The ways in which a token response tells of its expiry, its type and its scope.
CREATE FUNCTION pg_temp.attempt(response jsonb) RETURNS TABLE (lifetime text, token_type text, scope text, state text, message text, hint text) LANGUAGE plpgsql AS $$
DECLARE
    stored bigint;
BEGIN
    stored := token_refresh.store_credential('acme', 'variant', response);
    SELECT CASE WHEN c.expires_at IS NULL THEN 'unknown' WHEN c.expires_at < now() THEN 'over' WHEN c.expires_at > now() + interval '9 years' THEN 'ten years'
                ELSE date_trunc('minute', c.expires_at - c.issued_at + interval '1 second')::text END, c.token_type, c.scope
        INTO lifetime, token_type, scope FROM token_refresh.credential c WHERE c.id = stored;
    DELETE FROM token_refresh.credential c WHERE c.id = stored;
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END $$;
SELECT v.response, a.lifetime, a.token_type, a.scope, a.message FROM (VALUES
    (1, '{"expires_in": 3600}'::jsonb), (2, '{"expires_in": "3600"}'), (3, '{"expires_in": 3600.0}'), (4, '{}'), (5, '{"expires_in": null}'),
    (6, '{"expires_at": "2020-01-01T00:00:00Z"}'), (7, '{"expires_at": 1577836800}'), (8, '{"expires_at": 1577836800000}'), (9, '{"expires_at": "2120-01-01T00:00:00+02:00"}'),
    (10, '{"expires_in": 1e12}'), (11, '{"token_type": "bearer"}'), (12, '{"token_type": "DPoP"}'), (13, '{"token_type": null}'),
    (14, '{"scope": ["read", "write"]}'), (15, '{"scope": ""}'), (16, '{"scope": null}'), (17, '{"refresh_token": null}'), (18, '{"refresh_token": ""}'),
    (19, '{"id_token": "ignored", "unknown": {"a": [1]}}')) AS v (n, response), pg_temp.attempt('{"access_token": "fake"}' || v.response) a ORDER BY v.n;

-- Mistakes. None of them stores anything.
\x on
\pset format unaligned
\pset fieldsep ': '
SELECT v.response, a.state, a.message, a.hint FROM (VALUES
    (1, '{}'::jsonb), (2, '[]'), (3, '"fake"'), (4, 'null'), (5, '{"access_token": null}'), (6, '{"access_token": ""}'), (7, '{"access_token": 5}'), (8, '{"access_token": {"a": 1}}'),
    (9, '{"access_token": ["fake"]}'), (10, '{"access_token": "fake\ntoken"}'), (11, '{"accessToken": "fake"}'), (12, '{"error": "invalid_grant"}'),
    (20, '{"access_token": "fake", "refresh_token": 5}'), (21, '{"access_token": "fake", "refresh_token": "fake\ttoken"}'), (22, '{"access_token": "fake", "token_type": 5}'),
    (23, '{"access_token": "fake", "token_type": ""}'), (24, '{"access_token": "fake", "scope": 5}'), (25, '{"access_token": "fake", "scope": [5]}'),
    (30, '{"access_token": "fake", "expires_in": "soon"}'), (31, '{"access_token": "fake", "expires_in": -1}'), (32, '{"access_token": "fake", "expires_in": 0}'),
    (33, '{"access_token": "fake", "expires_in": true}'), (34, '{"access_token": "fake", "expires_in": "PT1H"}'), (35, '{"access_token": "fake", "expires_at": "tomorrow"}'),
    (36, '{"access_token": "fake", "expires_at": "2030-01-01T00:00:00"}'), (37, '{"access_token": "fake", "expires_at": true}'), (38, '{"access_token": "fake", "expires_at": -5}'),
    (39, '{"access_token": "fake", "expires_in": 60, "expires_at": 1577836800}'), (40, '{"access_token": "fake", "refresh_expires_in": "never"}')) AS v (n, response),
    pg_temp.attempt(v.response) a ORDER BY v.n;
-- Too much of it.
SELECT a.state, a.message, a.hint FROM pg_temp.attempt(jsonb_build_object('access_token', repeat('x', 1024 * 1024))) a;
SELECT a.state, a.message, a.hint FROM pg_temp.attempt(jsonb_build_object('access_token', repeat('x', 65537))) a;
SELECT a.state, a.message, a.hint FROM pg_temp.attempt(jsonb_build_object('access_token', 'fake', 'refresh_token', repeat('x', 100000))) a;
SELECT a.state, a.message, a.hint FROM pg_temp.attempt(jsonb_build_object('access_token', 'fake', 'scope', repeat('x ', 40000))) a;
SELECT a.state, a.message, a.hint FROM pg_temp.attempt((repeat('[', 100) || repeat(']', 100))::jsonb) a;
\x off
\pset format aligned
SELECT count(*) FROM token_refresh.credential WHERE subject = 'variant';
-- As long as it may be.
SELECT token_refresh.store_credential('acme', 'long', jsonb_build_object('access_token', repeat('x', 65536), 'refresh_token', repeat('y', 65536), 'expires_in', 3600)) > 0 AS stored;
SELECT token_refresh.get_access_token('acme', 'long') = repeat('x', 65536) AS read;
SELECT token_refresh.store_credential('acme', 'Zoë ☺ o''Neil\', '{"access_token": "fake-é☺", "expires_in": 3600}', 'première') > 0 AS stored;
SELECT token_refresh.get_access_token('acme', 'Zoë ☺ o''Neil\', 'première') = 'fake-é☺' AS read;
DELETE FROM token_refresh.credential WHERE label = 'première';

-- Arguments.
SELECT token_refresh.store_credential(NULL, 'alice', '{"access_token": "fake"}');
SELECT token_refresh.store_credential('acme', NULL, '{"access_token": "fake"}');
SELECT token_refresh.store_credential('acme', 'alice', NULL);
SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake"}', NULL);
SELECT token_refresh.get_access_token(NULL, 'alice');
SELECT token_refresh.get_access_token('acme', NULL);
SELECT token_refresh.get_access_token('acme', 'alice', NULL);
SELECT token_refresh.get_token(NULL, 'alice');
SELECT token_refresh.get_token('acme', NULL);
SELECT token_refresh.get_token('acme', 'alice', NULL);
SELECT token_refresh.refresh_credential(NULL, 'alice');
SELECT token_refresh.refresh_credential('acme', NULL);
SELECT token_refresh.refresh_credential('acme', 'alice', NULL);
SELECT token_refresh.get_access_token('acme', 'alice', min_validity => '-1 minute');
SELECT token_refresh.get_access_token('acme', 'alice', min_validity => NULL);
SELECT token_refresh.get_access_token('acme', 'alice', min_validity => '178956970 years') IS NOT NULL AS new_enough;
SELECT token_refresh.store_credential('nowhere', 'alice', '{"access_token": "fake"}');
SELECT token_refresh.get_access_token('nowhere', 'alice');
SELECT token_refresh.get_token('nowhere', 'alice');
SELECT token_refresh.refresh_credential('nowhere', 'alice');
SELECT token_refresh.store_credential('acme', '', '{"access_token": "fake"}');
SELECT token_refresh.store_credential('acme', repeat('a', 1001), '{"access_token": "fake"}');
SELECT token_refresh.store_credential('acme', 'alice', '{"access_token": "fake"}', repeat('a', 201));

-- When there is no token to be had: NULL, and get_token says why.
SELECT token_refresh.get_access_token('acme', 'nobody');
SELECT * FROM token_refresh.get_token('acme', 'nobody');
SELECT * FROM token_refresh.refresh_credential('acme', 'nobody');
SELECT token_refresh.store_credential('acme', 'expired', '{"access_token": "fake-expired", "expires_at": "2020-01-01T00:00:00Z"}') > 0 AS stored;
SELECT token_refresh.get_access_token('acme', 'expired');
SELECT access_token, token_type, expires_at AT TIME ZONE 'UTC' AS expires_at, status, was_refreshed, message FROM token_refresh.get_token('acme', 'expired');
SELECT success, expires_at AT TIME ZONE 'UTC' AS expires_at, failure, message FROM token_refresh.refresh_credential('acme', 'expired');
SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'alice', 'work');

-- Within its margin, without a refresh token: the old one is as good as any.
SELECT token_refresh.store_credential('other', 'short', '{"access_token": "fake-short", "expires_in": 1200}') > 0 AS stored;
SELECT access_token, status, was_refreshed, message FROM token_refresh.get_token('other', 'short', min_validity => '1 hour');
-- A dead grant: the status says so, new tokens end it, and the dead refresh token does not outlive it.
SELECT token_refresh.store_credential('acme', 'dead', '{"access_token": "fake-dead", "refresh_token": "fake-dead-refresh", "expires_in": 3600}') > 0 AS stored;
UPDATE token_refresh.credential SET status = 'needs_reauth' WHERE subject = 'dead';
SELECT token_refresh.store_credential('acme', 'dead', '{"access_token": "fake-alive", "expires_in": 3600}') > 0 AS stored;
SELECT status, refresh_token IS NULL AS no_refresh_token FROM token_refresh.credential WHERE subject = 'dead';

-- What the application itself says in the status counts: it may stop the refreshing of a credential, and let it go on.
CREATE FUNCTION pg_temp.say(new_status text) RETURNS TABLE (status text, scheduled boolean, generation bigint) LANGUAGE sql AS $$
    UPDATE token_refresh.credential SET status = new_status WHERE subject = 'spoken';
    SELECT s.status, s.due_at IS NOT NULL, s.generation FROM token_refresh.schedule s JOIN token_refresh.credential c ON s.row_key = c.id::text WHERE c.subject = 'spoken';
$$;
SELECT token_refresh.store_credential('acme', 'spoken', '{"access_token": "fake-spoken", "refresh_token": "fake-spoken-refresh", "expires_in": 3600}') > 0 AS stored;
SELECT * FROM pg_temp.say('disconnected');
SELECT access_token, status FROM token_refresh.get_token('acme', 'spoken');
BEGIN;
UPDATE token_refresh.credential SET issued_at = '2020-01-01', expires_at = '2020-01-02' WHERE subject = 'spoken';
SELECT access_token, status, was_refreshed, message FROM token_refresh.get_token('acme', 'spoken');
ROLLBACK;
SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'spoken');
SELECT * FROM pg_temp.say('connected');
SELECT * FROM pg_temp.say('needs_reauth');
SELECT success, failure, message FROM token_refresh.refresh_credential('acme', 'spoken');
SELECT * FROM pg_temp.say('connected');
-- Other tokens do not take back that it is disconnected, unless they are stored by store_credential.
SELECT * FROM pg_temp.say('disconnected');
UPDATE token_refresh.credential SET refresh_token = 'fake' WHERE subject = 'spoken';
SELECT * FROM pg_temp.say('disconnected');
SELECT token_refresh.store_credential('acme', 'spoken', '{"access_token": "fake-spoken", "refresh_token": "fake-spoken-refresh", "expires_in": 3600}') > 0 AS stored;
SELECT * FROM pg_temp.say('connected');
-- A dead grant gets another refresh token.
SELECT * FROM pg_temp.say('needs_reauth');
UPDATE token_refresh.credential SET refresh_token = 'fake' WHERE subject = 'spoken';
SELECT status, due_at IS NOT NULL AS scheduled FROM token_refresh.token_status WHERE subject = 'spoken';
DELETE FROM token_refresh.credential WHERE subject = 'spoken';

-- In the transaction that has stored it.
BEGIN;
SELECT token_refresh.store_credential('acme', 'new', '{"access_token": "fake-new", "refresh_token": "fake-new-refresh", "expires_in": 3600}') > 0 AS stored;
SELECT token_refresh.get_access_token('acme', 'new');
SELECT * FROM token_refresh.refresh_credential('acme', 'new');
ROLLBACK;
SELECT token_refresh.get_access_token('acme', 'new');

-- What becomes of the schedule.
SELECT subject, label, status, due_at IS NOT NULL AS scheduled, due_at < expires_at AS before_expiry FROM token_refresh.token_status ORDER BY provider, subject, label;
DELETE FROM token_refresh.credential WHERE subject = 'alice';
SELECT count(*) FROM token_refresh.token_status WHERE subject = 'alice';
SELECT count(*) FROM token_refresh.schedule WHERE row_key IS NOT NULL AND NOT EXISTS (SELECT FROM token_refresh.credential WHERE id = row_key::bigint);
TRUNCATE token_refresh.credential;
SELECT count(*) FROM token_refresh.schedule;

-- One audit event for each that was stored; no secret.
SELECT subject, label, count(*) FROM token_refresh.audit_event WHERE event = 'credential_stored' AND subject <> 'variant' AND label <> 'première' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS secrets FROM token_refresh.audit_event a WHERE to_jsonb(a)::text LIKE '%fake-%';

SELECT token_refresh.drop_provider('acme');
SELECT token_refresh.drop_provider('other');
