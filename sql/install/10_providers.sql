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
COMMENT ON COLUMN provider.effective_options IS 'preset and options merged and checked, intervals in microseconds, variables put into endpoints; what the refresher reads';

