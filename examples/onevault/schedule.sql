-- The batch, every six hours. Run as the role onevault.
\set ON_ERROR_STOP on

SELECT cron.schedule('token-refresh-check', '0 */6 * * *', 'SELECT auth.refresh_expiring_tokens_batch()');
