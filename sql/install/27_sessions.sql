------------------------------------------------------------------------------
-- Accounts, sessions, and the keys that sign their JWTs
------------------------------------------------------------------------------

-- Its columns are read by number: src/pg/signing_keys.cpp.
CREATE TABLE signing_key (
    kid text COLLATE "C" PRIMARY KEY CHECK (kid ~ '^[!#-\[\]-~]{1,200}$'),
    algorithm text COLLATE "C" NOT NULL CHECK (algorithm IN ('HS256', 'ES256', 'RS256', 'EdDSA')),
    key bytea NOT NULL,
    public_jwk jsonb CHECK ((public_jwk IS NULL) = (algorithm = 'HS256')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at timestamptz,
    verify_until timestamptz CHECK ((verify_until IS NULL) = (retired_at IS NULL))
);
ALTER TABLE signing_key ALTER key SET STORAGE EXTERNAL;
COMMENT ON TABLE signing_key IS 'keys that sign JWTs: the newest that is not retired does; write through create_signing_key, import_signing_key and retire_signing_key';
COMMENT ON COLUMN signing_key.key IS 'sealed: a private key in PEM, or the secret of HS256';
COMMENT ON COLUMN signing_key.public_jwk IS 'what jwks() publishes, and what signatures are checked with; NULL: HS256 has nothing to publish';
COMMENT ON COLUMN signing_key.verify_until IS 'until then what a retired key has signed is good';

-- Each made with the first signing key. Other names would need other secrets, and are refused.
CREATE TABLE session_secret (
    purpose text COLLATE "C" PRIMARY KEY CHECK (purpose IN ('ip_hash', 'refresh_token')),
    secret bytea NOT NULL
);
ALTER TABLE session_secret ALTER secret SET STORAGE EXTERNAL;
COMMENT ON TABLE session_secret IS 'sealed secrets of this database: behind the hashes of IP addresses and the MACs of session refresh tokens';

CREATE TABLE account (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    provider text COLLATE "C" NOT NULL REFERENCES provider (name),
    identity_claim text COLLATE "C" NOT NULL CHECK (identity_claim IN ('icn', 'sub')),
    identity text COLLATE "C" NOT NULL CHECK (octet_length(identity) BETWEEN 1 AND 1000),
    claims jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_login_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT account_identity UNIQUE (provider, identity_claim, identity)
) WITH (fillfactor = 80);
COMMENT ON TABLE account IS 'who has signed in: one row for each identity at a provider';
COMMENT ON COLUMN account.identity_claim IS 'the claim that says who it is: icn, or else sub. The same value of the other is somebody else';
COMMENT ON COLUMN account.identity IS 'the value of that claim';
COMMENT ON COLUMN account.claims IS 'those of the last sign-in';

-- What a validation reads comes first; src/pg/session_rows.cpp knows these by number.
CREATE TABLE session (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    jwt_id uuid NOT NULL DEFAULT gen_random_uuid(),
    account uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    refresh_count integer NOT NULL DEFAULT 0 CHECK (refresh_count >= 0),
    refreshed_at timestamptz,
    jwt_claims jsonb NOT NULL,
    device_info jsonb,
    ip_hash bytea,
    CONSTRAINT session_jwt UNIQUE (jwt_id)
) WITH (fillfactor = 80);
CREATE INDEX session_account ON session (account);
CREATE INDEX session_expiry ON session (expires_at);
COMMENT ON TABLE session IS 'sessions of accounts; write through create_session, refresh_session, revoke_session and revoke_all_sessions';
COMMENT ON COLUMN session.jwt_id IS 'the claim jti of its JWTs';
COMMENT ON COLUMN session.refresh_count IS 'the number of the newest refresh token that was handed out; 0: it is not refreshed';
COMMENT ON COLUMN session.jwt_claims IS 'claims that its JWTs have besides those of every JWT';
COMMENT ON COLUMN session.device_info IS 'as it was given, without ip';
COMMENT ON COLUMN session.ip_hash IS 'what ip_hash() makes of the IP address; the address itself is not kept';

SELECT pg_catalog.pg_extension_config_dump('signing_key', '');
SELECT pg_catalog.pg_extension_config_dump('session_secret', '');
SELECT pg_catalog.pg_extension_config_dump('account', '');
SELECT pg_catalog.pg_extension_config_dump('session', '');

