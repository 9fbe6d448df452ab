-- VetAssist as it was: its users, their VA tokens, its audit, and how it encrypts. Run as the role vetassist.
\set ON_ERROR_STOP on

CREATE EXTENSION IF NOT EXISTS pgcrypto;

CREATE TABLE vetassist_users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    va_icn text UNIQUE,
    is_active boolean NOT NULL DEFAULT true
);

CREATE TABLE vetassist_va_tokens (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL UNIQUE REFERENCES vetassist_users (id) ON DELETE CASCADE,
    access_token_encrypted bytea NOT NULL,
    refresh_token_encrypted bytea,
    expires_at timestamptz NOT NULL,
    refreshed_at timestamptz
);

CREATE TABLE vetassist_auth_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid,
    event_type text NOT NULL,
    event_data jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The application's key. From it and the user's id comes a key for each user, so that the tokens of one
-- user, copied into the row of another, do not open.
CREATE TABLE vetassist_encryption_key (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    key bytea NOT NULL CHECK (length(key) = 32)
);
INSERT INTO vetassist_encryption_key (key) VALUES (gen_random_bytes(32));

CREATE FUNCTION va_user_key(user_id text) RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    application_key bytea;
BEGIN
    SELECT k.key INTO STRICT application_key FROM public.vetassist_encryption_key k;
    RETURN encode(public.hmac(convert_to(user_id, 'UTF8'), application_key, 'sha256'), 'hex');
END $$;

-- The key is random already: making it slow to guess (s2k-mode 3, the default) would only cost time.
CREATE FUNCTION encrypt_va_token(token text, user_id text) RETURNS bytea
    LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS $$
SELECT public.pgp_sym_encrypt(token, public.va_user_key(user_id), 'cipher-algo=aes256, compress-algo=0, s2k-mode=1')
$$;

CREATE FUNCTION decrypt_va_token(token_encrypted bytea, user_id text) RETURNS text
    LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
SELECT public.pgp_sym_decrypt(token_encrypted, public.va_user_key(user_id))
$$;

REVOKE EXECUTE ON FUNCTION va_user_key, encrypt_va_token, decrypt_va_token FROM PUBLIC;
