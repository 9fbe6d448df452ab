-- The mail service as it was: one table for each kind of mailbox. Run as the role mail.
\set ON_ERROR_STOP on

CREATE TABLE booking_oauth_tokens (
    tenant_id integer NOT NULL,
    email text NOT NULL,
    access_token text,
    refresh_token text,
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, email)
);
COMMENT ON COLUMN booking_oauth_tokens.access_token IS 'AES-256-GCM, iv:tag:ciphertext in hex';
COMMENT ON COLUMN booking_oauth_tokens.refresh_token IS 'AES-256-GCM, iv:tag:ciphertext in hex';

CREATE TABLE stopsale_oauth_tokens (LIKE booking_oauth_tokens INCLUDING ALL);
