-- What the owner of the schema auth needs, and the middleware. Run as a superuser.
\set ON_ERROR_STOP on

GRANT USAGE ON SCHEMA token_refresh TO onevault;
GRANT EXECUTE ON FUNCTION
    token_refresh.import_api_token(bytea, text, text[], timestamptz, text, text, bytea, bytea, timestamptz, boolean, interval),
    token_refresh.validate_api_token, token_refresh.validate_and_refresh_api_token, token_refresh.refresh_api_token,
    token_refresh.get_token_refresh_status, token_refresh.refresh_expiring_tokens_batch,
    token_refresh.revoke_api_token(bigint), token_refresh.revoke_api_token(text) TO onevault;
GRANT SELECT ON token_refresh.api_token_status, token_refresh.audit_event TO onevault;

-- Whoever presents a token may know what it is good for; these give nothing away to those who have none.
GRANT USAGE ON SCHEMA token_refresh TO onevault_api;
GRANT EXECUTE ON FUNCTION token_refresh.validate_api_token, token_refresh.validate_and_refresh_api_token,
    token_refresh.refresh_api_token, token_refresh.get_token_refresh_status TO onevault_api;
