------------------------------------------------------------------------------
-- Providers
------------------------------------------------------------------------------

CREATE TABLE provider (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    client_id text,
    client_secret bytea,
    previous_client_secret bytea,
    client_secret_changed_at timestamptz,
    options jsonb NOT NULL DEFAULT '{}',
    effective_options jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE provider IS 'OAuth 2.0 authorization servers and this database''s client registration at each; write through create_provider, alter_provider and drop_provider';
COMMENT ON COLUMN provider.client_secret IS 'sealed; never readable through SQL';
COMMENT ON COLUMN provider.previous_client_secret IS 'sealed; the secret before the last change, kept for an overlap';
COMMENT ON COLUMN provider.options IS 'the options as given';
COMMENT ON COLUMN provider.effective_options IS 'preset and options merged and checked, intervals in microseconds; what the refresher reads';

-- One row per preset: endpoints and dialect are facts of the provider, with the page that states them.
CREATE VIEW provider_preset (name, title, options, refreshable, source, looked_up) AS
VALUES
  ('google', 'Google (also Gmail, YouTube, Google Calendar)',
   '{"token_endpoint": "https://oauth2.googleapis.com/token", "revocation_endpoint": "https://oauth2.googleapis.com/revoke", "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth", "userinfo_endpoint": "https://openidconnect.googleapis.com/v1/userinfo", "issuer": "https://accounts.google.com", "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs", "token_endpoint_auth_method": "client_secret_post", "default_expires_in": "1 hour", "keep_alive": "90 days"}'::jsonb,
   true, 'https://developers.google.com/identity/protocols/oauth2/web-server', '2026-11-21'::date),
  ('spotify', 'Spotify',
   '{"token_endpoint": "https://accounts.spotify.com/api/token", "authorization_endpoint": "https://accounts.spotify.com/authorize", "token_endpoint_auth_method": "client_secret_basic", "basic_encoding": "raw", "default_expires_in": "1 hour"}'::jsonb,
   true, 'https://developer.spotify.com/documentation/web-api/tutorials/refreshing-tokens', '2026-11-21'::date),
  ('discord', 'Discord',
   '{"token_endpoint": "https://discord.com/api/oauth2/token", "revocation_endpoint": "https://discord.com/api/oauth2/token/revoke", "authorization_endpoint": "https://discord.com/oauth2/authorize", "userinfo_endpoint": "https://discord.com/api/users/@me", "token_endpoint_auth_method": "client_secret_basic", "basic_encoding": "raw", "default_expires_in": "7 days"}'::jsonb,
   true, 'https://discord.com/developers/docs/topics/oauth2', '2026-11-21'::date),
  ('github', 'GitHub (user tokens that expire; tokens without a refresh token are kept as they are)',
   '{"token_endpoint": "https://github.com/login/oauth/access_token", "authorization_endpoint": "https://github.com/login/oauth/authorize", "token_endpoint_auth_method": "client_secret_post", "default_expires_in": "8 hours", "error_rules": [{"pointer": "/error", "value": "bad_refresh_token", "class": "reauth"}, {"pointer": "/error", "value": "incorrect_client_credentials", "class": "client_config"}]}'::jsonb,
   true, 'https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens', '2026-11-21'::date),
  ('microsoft', 'Microsoft identity platform (work, school and personal accounts)',
   '{"token_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/token", "authorization_endpoint": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize", "userinfo_endpoint": "https://graph.microsoft.com/oidc/userinfo", "token_endpoint_auth_method": "client_secret_post", "default_expires_in": "1 hour", "keep_alive": "45 days"}'::jsonb,
   true, 'https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-auth-code-flow', '2026-11-21'::date);
COMMENT ON VIEW provider_preset IS 'the built-in catalogue: options that create_provider uses for a provider of that name, and their source';

