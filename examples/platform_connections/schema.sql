-- The service as it was: connections of users to platforms. Run as the role platform.
\set ON_ERROR_STOP on

CREATE TABLE users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid()
);

CREATE TABLE platform_connections (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    platform text NOT NULL,
    access_token text,
    refresh_token text,
    token_expires_at timestamp,
    status text DEFAULT 'connected'
        CHECK (status IN ('connected', 'token_expired', 'needs_reauth', 'disconnected', 'error')),
    last_sync_status text DEFAULT 'pending',
    last_sync_error text,
    connected_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now(),
    UNIQUE (user_id, platform)
);
CREATE INDEX idx_platform_connections_status ON platform_connections (status)
    WHERE status IN ('connected', 'token_expired');
CREATE INDEX idx_platform_connections_expiry ON platform_connections (token_expires_at)
    WHERE token_expires_at IS NOT NULL;
