-- What the session service did, under the names that it had. Run as the role vetassist.
\set ON_ERROR_STOP on

BEGIN;
-- The code that VA has sent the browser back with becomes an account, stored tokens, a session and a JWT. No row, and an
-- error, when VA or its answer is no good.
CREATE OR REPLACE FUNCTION create_session_from_va_auth(state text, code text, iss text DEFAULT NULL, device_info jsonb DEFAULT NULL)
RETURNS TABLE (user_id uuid, jwt_token text, expires_at timestamptz, va_icn text)
    LANGUAGE sql AS $$
SELECT s.user_id, s.jwt_token, s.expires_at, v.icn
FROM token_refresh.complete_authorization(state, code, expected_provider => 'va', iss => iss) c,
     LATERAL (SELECT coalesce(c.claims ->> 'icn', c.claims ->> 'sub') AS icn) v,
     LATERAL token_refresh.create_session('va', token_response => NULL, claims => c.claims, device_info => device_info,
         jwt_claims => jsonb_build_object('va_linked', true, 'va_icn', v.icn)) s
$$;

-- Whose session ends says the JWT itself, once it has been found good. NULL: it was not.
CREATE OR REPLACE FUNCTION log_out(jwt text) RETURNS boolean
    LANGUAGE sql AS $$
SELECT token_refresh.revoke_session((v.claims ->> 'jti')::uuid)
FROM token_refresh.validate_jwt(jwt) AS v (claims) WHERE v.claims IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION log_out_everywhere(jwt text) RETURNS integer
    LANGUAGE sql AS $$
SELECT token_refresh.revoke_all_sessions((v.claims ->> 'sub')::uuid)
FROM token_refresh.validate_jwt(jwt) AS v (claims) WHERE v.claims IS NOT NULL
$$;
COMMIT;
