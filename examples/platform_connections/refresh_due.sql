-- Refreshes what is due, waits for all of it, and complains on the standard error if something failed. Run as the role
-- platform.
\set ON_ERROR_STOP on

SELECT tokens_found, tokens_refreshed, tokens_failed, details, tokens_failed > 0 AS alert
FROM token_refresh.refresh_expiring_tokens() \gset
\echo due :tokens_found, refreshed :tokens_refreshed, failed :tokens_failed
\if :alert
\warn failed :tokens_failed of :tokens_found: :details
\endif
