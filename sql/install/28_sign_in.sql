------------------------------------------------------------------------------
-- Sign-ins under way, and revocations that providers still have to hear of
------------------------------------------------------------------------------

-- From begin_authorization to complete_authorization. A row is used once; by whom, the refresher decides in a transaction
-- of its own, before the code goes out. It is not dumped: what is under way does not survive a move.
CREATE TABLE authorization_request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state_hash bytea NOT NULL CHECK (length(state_hash) = 32),
    provider text COLLATE "C" NOT NULL REFERENCES provider (name) ON DELETE CASCADE,
    subject text COLLATE "C" CHECK (length(subject) BETWEEN 1 AND 1000),
    label text COLLATE "C" NOT NULL CHECK (length(label) <= 200),
    redirect_uri text NOT NULL,
    code_verifier bytea NOT NULL,
    sends_verifier boolean NOT NULL,
    wants_id_token boolean NOT NULL,
    max_age integer CHECK (max_age >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    failure text,
    message text,
    credential_id bigint,
    owner text,
    claims jsonb,
    taken_by bigint,
    CONSTRAINT authorization_request_state UNIQUE (state_hash)
);
CREATE INDEX authorization_request_expiry ON authorization_request (expires_at);
ALTER TABLE authorization_request ALTER code_verifier SET STORAGE EXTERNAL;
COMMENT ON TABLE authorization_request IS 'sign-ins between begin_authorization and complete_authorization, and for an hour after their end';
COMMENT ON COLUMN authorization_request.state_hash IS 'SHA-256 of the state, which itself is not kept';
COMMENT ON COLUMN authorization_request.code_verifier IS 'sealed; the verifier of PKCE (RFC 7636), from which the nonce is made, too';
COMMENT ON COLUMN authorization_request.wants_id_token IS 'the scope has openid, and the provider issuer and jwks_uri, with which an id_token can be verified: a nonce was sent';
COMMENT ON COLUMN authorization_request.used_at IS 'when complete_authorization was first called for it';
COMMENT ON COLUMN authorization_request.failure IS 'why there is no credential; NULL with credential_id: it went well';
COMMENT ON COLUMN authorization_request.taken_by IS 'which call of complete_authorization it was: another one does not get its result';
COMMENT ON COLUMN authorization_request.owner IS 'the subject under which the credential is stored';

-- The envelope stays bound to the row of the credential in which it was. A provider that is to be told of something cannot go.
CREATE TABLE revocation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text COLLATE "C" NOT NULL REFERENCES provider (name),
    subject text NOT NULL,
    label text NOT NULL,
    token bytea,
    sealed_table text NOT NULL,
    sealed_row text NOT NULL,
    token_type_hint text NOT NULL CHECK (token_type_hint IN ('refresh_token', 'access_token')),
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    give_up_at timestamptz NOT NULL DEFAULT clock_timestamp() + interval '1 day',
    under_way boolean NOT NULL DEFAULT false,
    message text,
    client_id text,
    client_secret bytea,
    client_row text
);
CREATE INDEX revocation_due ON revocation (provider, due_at);
CREATE INDEX revocation_under_way ON revocation (id) WHERE under_way;
CREATE INDEX revocation_expected ON revocation (sealed_row) WHERE token IS NULL;
ALTER TABLE revocation ALTER token SET STORAGE EXTERNAL;
COMMENT ON TABLE revocation IS 'tokens of disconnected credentials, sealed, that their provider is yet to be told of (RFC 7009); tried for a day';
COMMENT ON COLUMN revocation.token IS 'sealed; NULL: what is parked for the schedule row sealed_row, or what a refresh brings that is under way';
COMMENT ON COLUMN revocation.under_way IS 'the refresher is telling the provider; due again when that should long be over';
COMMENT ON COLUMN revocation.client_id IS 'of the credential itself; NULL: the provider''s client is meant';
COMMENT ON COLUMN revocation.client_row IS 'the row of credential that client_secret is sealed for; NULL: it is sealed for the same row as the token';
COMMENT ON COLUMN revocation.message IS 'how the last attempt went; no secret';

-- How an answer of the refresher reaches the session that asked: by what is committed.
CREATE TABLE discovery (
    id bigint PRIMARY KEY,
    issuer text NOT NULL,
    options jsonb,
    message text,
    CHECK ((options IS NULL) <> (message IS NULL)),
    answered_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE discovery IS 'what issuers have answered to discover_provider, for an hour';

