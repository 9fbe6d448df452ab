-- The mailboxes that somebody must look after, and why. Run as the role mail.
\set ON_ERROR_STOP on

SELECT s.label, s.subject AS tenant_id, s.status, s.expires_at, s.attempts, s.last_error
FROM token_refresh.token_status s
WHERE s.last_error IS NOT NULL
ORDER BY s.label, s.subject;
