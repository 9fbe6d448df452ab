-- Sign-in: the contract, the URL of begin_authorization, and every argument that is no good. What is random is cut out.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;
SET search_path = token_refresh, public;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

-- The columns: names, order, types.
SELECT * FROM begin_authorization('p') \gdesc
SELECT * FROM complete_authorization('', '') \gdesc
SELECT discover_provider(''), disconnect('', '') \gdesc
SELECT proname, pg_get_function_arguments(oid) FROM pg_proc
    WHERE pronamespace = 'token_refresh'::regnamespace AND proname IN ('begin_authorization', 'complete_authorization', 'discover_provider', 'disconnect') ORDER BY 1;

CREATE FUNCTION pg_temp.begun(provider text, subject text DEFAULT NULL, redirect_uri text DEFAULT 'https://app.example.com/cb', scope text DEFAULT NULL, label text DEFAULT '',
                              params jsonb DEFAULT '{}', expires_in interval DEFAULT '10 minutes') RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(b.authorization_url, '(state|code_challenge|nonce)=[A-Za-z0-9_-]{43}(?=&|$)', '\1=*', 'g')
           || CASE WHEN b.state ~ '^[A-Za-z0-9_-]{43}$' AND strpos(b.authorization_url, 'state=' || b.state) > 0 THEN '' ELSE ' AND WHAT STATE' END
    FROM token_refresh.begin_authorization($1, $2, $3, $4, $5, $6, $7) b $$;

SELECT create_provider('op', 'app', 'obviously-fake-secret', '{"issuer": "http://127.0.0.1:9", "authorization_endpoint": "http://127.0.0.1:9/authorize",
    "token_endpoint": "http://127.0.0.1:9/token", "jwks_uri": "http://127.0.0.1:9/jwks", "revocation_endpoint": "http://127.0.0.1:9/revoke", "scope": "openid email"}');
SELECT create_provider('plain', 'app', 'obviously-fake-secret', '{"authorization_endpoint": "http://127.0.0.1:9/authorize", "token_endpoint": "http://127.0.0.1:9/token"}');
SELECT create_provider('info', 'app', 'obviously-fake-secret', '{"authorization_endpoint": "http://127.0.0.1:9/authorize?tenant=7", "token_endpoint": "http://127.0.0.1:9/token",
    "userinfo_endpoint": "http://127.0.0.1:9/me", "authorization_params": {"prompt": "consent", "access_type": "offline", "max_age": "60"}}');
SELECT create_provider('none', 'app', 'obviously-fake-secret', '{"token_endpoint": "http://127.0.0.1:9/token"}');
SELECT create_provider('clash', 'app', 'obviously-fake-secret', '{"authorization_endpoint": "http://127.0.0.1:9/authorize?scope=x", "token_endpoint": "http://127.0.0.1:9/token"}');

-- The URL.
SELECT pg_temp.begun('op');
SELECT pg_temp.begun('op', scope => 'profile', subject => 'alice');
SELECT pg_temp.begun('op', scope => '', subject => 'alice');
SELECT pg_temp.begun('op', scope => 'openidconnect', subject => 'alice');
SELECT pg_temp.begun('op', scope => 'a openid');
SELECT pg_temp.begun('op', redirect_uri => 'https://app.example.com/cb?a=b&c=d e');
SELECT pg_temp.begun('op', redirect_uri => 'https://app.example.com/cb?a=b&c=%20');
SELECT pg_temp.begun('plain', 'alice', label => repeat('l', 200));
SELECT pg_temp.begun('info');
SELECT pg_temp.begun('info', params => '{"max_age": null, "prompt": "none", "access_type": null, "login_hint": "a&b=c#d", "x": "\u00fc"}');
SELECT pg_temp.begun('clash', 'alice');
SELECT pg_temp.begun('clash', 'alice', scope => 'y');

-- As the provider wants it.
SELECT create_provider('tiktok', 'app', 'obviously-fake-secret');
SELECT pg_temp.begun('tiktok', 'alice', scope => 'user.info.basic video.list');
SELECT pg_temp.begun('tiktok', 'alice', params => '{"client_key": "other"}');

-- What is kept: no state, no verifier.
SELECT provider, subject, length(label) AS label, redirect_uri, length(state_hash) AS hash, length(code_verifier) > 43 AND get_byte(code_verifier, 0) = 1 AS sealed, sends_verifier, wants_id_token, max_age,
       expires_at - created_at BETWEEN interval '9 min 59 s' AND interval '10 min 1 s' AS expiry, used_at, failure, credential_id, claims FROM authorization_request ORDER BY id;

-- Who would it be?
SELECT pg_temp.begun('plain');
SELECT pg_temp.begun('plain', scope => 'openid');
SELECT pg_temp.begun('op', scope => 'email');

-- Nulls.
SELECT pg_temp.begun(NULL);
SELECT pg_temp.begun('op', redirect_uri => NULL);
SELECT begin_authorization('op');
SELECT pg_temp.begun('op', label => NULL);
SELECT pg_temp.begun('op', params => NULL);
SELECT pg_temp.begun('op', expires_in => NULL);
SELECT complete_authorization(NULL, 'c');
SELECT complete_authorization('s', NULL);
SELECT discover_provider(NULL);
SELECT discover_provider('https://issuer.example.com', NULL);
SELECT discover_provider('https://issuer.example.com', '{}', NULL);
SELECT disconnect(NULL, 'alice');
SELECT disconnect('op', NULL);
SELECT disconnect('op', 'alice', NULL);
SELECT disconnect('op', 'alice', '', NULL);

-- Lengths.
SELECT pg_temp.begun('op', subject => '');
SELECT pg_temp.begun('op', subject => repeat('s', 1001));
SELECT pg_temp.begun('op', subject => repeat('s', 1000)) ~ 'state=' AS begun;
SELECT pg_temp.begun('op', label => repeat('l', 201));
SELECT pg_temp.begun('op', redirect_uri => 'https://app.example.com/' || repeat('a', 1976)) ~ 'state=' AS begun;
SELECT pg_temp.begun('op', redirect_uri => 'https://app.example.com/' || repeat('a', 1977));
SELECT pg_temp.begun('op', scope => 'openid ' || repeat('s', 9000));
SELECT pg_temp.begun('op', params => jsonb_build_object('x', repeat('x', 9000)));
SELECT pg_temp.begun('unknown');
SELECT pg_temp.begun('');
SELECT pg_temp.begun('none', 'alice');

-- redirect_uri.
SELECT uri, pg_temp.begun('plain', 'alice', uri) ~ 'state=' AS begun FROM unnest(ARRAY['https://app.example.com', 'https://app.example.com:8443/cb', 'http://127.0.0.1:5173/cb', 'http://[::1]/cb',
    'http://localhost/cb', 'com.example.app:/cb', 'HTTPS://APP.example.com/cb']) uri;
SELECT pg_temp.begun('plain', 'alice', '');
SELECT pg_temp.begun('plain', 'alice', '/cb');
SELECT pg_temp.begun('plain', 'alice', 'http://app.example.com/cb');
SELECT pg_temp.begun('plain', 'alice', 'http://127.0.0.1.example.com/cb');
SELECT pg_temp.begun('plain', 'alice', 'https://app.example.com/cb#a');
SELECT pg_temp.begun('plain', 'alice', 'https://user:word@app.example.com/cb');
SELECT pg_temp.begun('plain', 'alice', 'https:///cb');
SELECT pg_temp.begun('plain', 'alice', E'https://app.example.com/cb\r\nX: y');
SELECT pg_temp.begun('plain', 'alice', 'https://app.example.com/ü');
SELECT pg_temp.begun('plain', 'alice', 'javascript:alert(1)');
SELECT pg_temp.begun('plain', 'alice', 'data:text/html,x');
SELECT pg_temp.begun('plain', 'alice', 'com.example.app:cb');
SELECT pg_temp.begun('plain', 'alice', 'myapp://cb');

-- scope.
SELECT pg_temp.begun('plain', 'alice', scope => E'a\nb');
SELECT pg_temp.begun('plain', 'alice', scope => 'ü');
SELECT pg_temp.begun('plain', 'alice', scope => '  ');
SELECT pg_temp.begun('plain', 'alice', scope => 'a&response_type=token');

-- authorization_params.
SELECT pg_temp.begun('plain', 'alice', params => '[]');
SELECT pg_temp.begun('plain', 'alice', params => '"x"');
SELECT pg_temp.begun('plain', 'alice', params => 'null');
SELECT pg_temp.begun('plain', 'alice', params => '{"x": {"a": 1}}');
SELECT pg_temp.begun('plain', 'alice', params => '{"x": ["a"]}');
SELECT pg_temp.begun('plain', 'alice', params => '{"x": true, "y": 7, "z": 1.5}');
SELECT pg_temp.begun('plain', 'alice', params => '{"": "x"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"x\n": "x"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"x": "a\nb"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"state": "x"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"response_type": "token"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"client_id": null}');
SELECT pg_temp.begun('plain', 'alice', params => '{"redirect_uri": "https://evil.example.com"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"nonce": "x"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"code_challenge": "x"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"code_challenge_method": "plain"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"code_challenge": null}');
SELECT pg_temp.begun('plain', 'alice', params => '{"code_challenge": null, "code_challenge_method": null}');
SELECT pg_temp.begun('plain', 'alice', params => '{"State": "x", "scope": "y"}');
SELECT pg_temp.begun('op', params => '{"scope": "email"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"request": "x"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"request_uri": "https://evil.example.com"}');
SELECT pg_temp.begun('plain', 'alice', params => '{"response_mode": "fragment"}');

-- max_age is verified in the id_token, so it has to be a number of seconds.
SELECT pg_temp.begun('op', params => '{"max_age": "0"}');
SELECT pg_temp.begun('op', params => '{"max_age": "3600"}');
SELECT pg_temp.begun('op', params => '{"max_age": 60}');
SELECT pg_temp.begun('op', params => '{"max_age": ""}');
SELECT pg_temp.begun('op', params => '{"max_age": "soon"}');
SELECT pg_temp.begun('op', params => '{"max_age": "-1"}');
SELECT pg_temp.begun('op', params => '{"max_age": "1.5"}');
SELECT pg_temp.begun('op', params => '{"max_age": "99999999999"}');
SELECT max_age, count(*) FROM authorization_request WHERE provider = 'op' GROUP BY 1 ORDER BY 1;
-- One that the call takes away is not asked for.
SELECT pg_temp.begun('info', params => '{"max_age": null}');
SELECT max_age FROM authorization_request ORDER BY id DESC LIMIT 1;

-- expires_in.
SELECT pg_temp.begun('op', expires_in => '0');
SELECT pg_temp.begun('op', expires_in => '-1 second');
SELECT pg_temp.begun('op', expires_in => '1 microsecond') ~ 'state=' AS begun;
SELECT pg_temp.begun('op', expires_in => '1 hour') ~ 'state=' AS begun;
SELECT pg_temp.begun('op', expires_in => '1 hour 1 microsecond');
SELECT pg_temp.begun('op', expires_in => '1 month -29 days -23 hours') ~ 'state=' AS begun;

-- complete_authorization: refused before anything is sent.
SELECT complete_authorization('', 'c');
SELECT complete_authorization(repeat('s', 43), 'c');
SELECT complete_authorization(repeat('s', 1000000), 'c');
SELECT complete_authorization('x', '');
SELECT complete_authorization('x', 'c', '', '');
\set VERBOSITY sqlstate
-- What the state belongs to is looked at before the code: here nobody hears of it.
SELECT state AS expected FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb') \gset
SELECT complete_authorization(:'expected', 'c', 'plain');
SELECT complete_authorization(:'expected', 'c', 'op');
SELECT state AS expected FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb') \gset
SELECT complete_authorization(:'expected', 'c', iss => 'http://127.0.0.1:9/');
SELECT state AS expected FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb') \gset
-- What is empty is not what is expected, either.
SELECT complete_authorization(:'expected', 'c', '');
SELECT state AS expected FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb') \gset
SELECT complete_authorization(:'expected', 'c', iss => '');
SELECT state AS expected FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb') \gset
SELECT complete_authorization(:'expected', repeat('c', 70000));
SELECT state AS expired FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb', expires_in => '1 microsecond') \gset
SELECT complete_authorization(:'expired', 'c');
\set VERBOSITY default
SELECT event, failure, message FROM audit_event WHERE event = 'authorization_refused' AND failure LIKE 'state%' AND provider = 'op' ORDER BY occurred_at;

-- discover_provider.
SELECT discover_provider('');
SELECT discover_provider('http://issuer.example.com');
SELECT discover_provider('https://issuer.example.com?a=b');
SELECT discover_provider('https://issuer.example.com', '[]');
SELECT discover_provider('https://issuer.example.com', '{"nonsense": 1}');
SELECT discover_provider('https://issuer.example.com', '{"timeout": "soon"}');
SELECT discover_provider('https://issuer.example.com/' || repeat('a', 70000));

-- disconnect.
SELECT disconnect('unknown', 'alice');
SELECT disconnect('op', 'alice'), disconnect('op', ''), disconnect('op', 'alice', repeat('l', 1000)), disconnect('op', 'alice', revoke => false);
SELECT store_credential('op', 'alice', '{"access_token": "at-fake", "refresh_token": "rt-fake"}') > 0 AS stored;
BEGIN;
SELECT disconnect('op', 'alice'), disconnect('op', 'alice');
SELECT subject, label, token_type_hint, token IS NULL AS to_come, attempts, give_up_at - due_at > interval '23 hours' AS for_a_day FROM revocation ORDER BY id;
SELECT event, subject, label, actor = session_user AS actor FROM audit_event WHERE event = 'disconnected' AND occurred_at >= now();
ROLLBACK;
SELECT count(*) FROM revocation;
SELECT disconnect('op', 'alice', revoke => false);
SELECT count(*) FROM revocation;
SELECT get_access_token('op', 'alice');
-- Without a refresh token, and where there is nobody to tell.
SELECT store_credential('op', 'bob', '{"access_token": "at-fake"}') > 0 AS stored, store_credential('plain', 'bob', '{"access_token": "at-fake", "refresh_token": "rt-fake"}') > 0 AS stored;
BEGIN;
SELECT disconnect('op', 'bob'), disconnect('plain', 'bob');
SELECT provider, token_type_hint, token IS NULL AS to_come FROM revocation;
ROLLBACK;
SELECT disconnect('op', 'bob', revoke => false), disconnect('plain', 'bob');

-- Who may sign in need not see anything.
CREATE ROLE sign_in_app;
GRANT USAGE ON SCHEMA token_refresh TO sign_in_app;
SET ROLE sign_in_app;
SELECT begin_authorization('op', redirect_uri => 'https://app.example.com/cb');
SELECT complete_authorization('s', 'c');
SELECT discover_provider('https://issuer.example.com');
SELECT disconnect('op', 'alice');
RESET ROLE;
GRANT EXECUTE ON FUNCTION begin_authorization, complete_authorization TO sign_in_app;
SET ROLE sign_in_app;
SELECT state AS its_state FROM begin_authorization('op', redirect_uri => 'https://app.example.com/cb') \gset
\set VERBOSITY sqlstate
-- It gets as far as the provider, who is not there.
SELECT complete_authorization(:'its_state', 'c');
SELECT complete_authorization(:'its_state', 'c');
\set VERBOSITY default
SELECT count(*) FROM authorization_request;
SELECT count(*) FROM revocation;
SELECT count(*) FROM discovery;
SELECT count(*) FROM credential;
SELECT _take_authorization(1, NULL, NULL, 1);
SELECT _make_authorization('a', '{}', 'b', 'c', '{}');
SELECT _queue_revocation('op', 'a', '', '\x00', 'a', 'b', 'access_token');
RESET ROLE;
DROP OWNED BY sign_in_app;
DROP ROLE sign_in_app;

-- The provider takes along what is under way.
SELECT drop_provider(name) FROM unnest('{op,plain,info,none,clash,tiktok}'::text[]) name;
SELECT count(*) FROM authorization_request;
