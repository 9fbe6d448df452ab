-- The document of GET /api/oauth/token-refresh/status, member for member. Run as the role mail.
\set ON_ERROR_STOP on

WITH job AS (
    SELECT token_refresh.status() AS status
), kind AS (
    SELECT c ->> 'label' AS label,
           sum((c ->> 'count')::integer) AS count,
           sum((c ->> 'expiring_soon')::integer) AS expiring_soon,
           sum((c ->> 'expired')::integer) AS expired
    FROM job, jsonb_array_elements(job.status -> 'credentials') c
    GROUP BY c ->> 'label'
), interval_of AS (
    SELECT count(*) AS attached,
           max(extract(epoch FROM t.poll_interval))::integer AS check_seconds,
           max(extract(epoch FROM t.refresh_margin))::integer / 60 AS margin_minutes
    FROM token_refresh.token_table t
    WHERE t.relation IN ('public.booking_oauth_tokens'::regclass, 'public.stopsale_oauth_tokens'::regclass)
)
SELECT json_build_object(
    'running', (job.status -> 'running')::boolean AND NOT (job.status -> 'paused')::boolean AND interval_of.attached = 2,
    'check_interval_seconds', interval_of.check_seconds,
    'refresh_before_expiry_minutes', interval_of.margin_minutes,
    'stats', json_build_object(
        'booking_oauth_count',    coalesce(booking.count, 0),
        'stopsale_oauth_count',   coalesce(stopsale.count, 0),
        'booking_expiring_soon',  coalesce(booking.expiring_soon, 0),
        'stopsale_expiring_soon', coalesce(stopsale.expiring_soon, 0),
        'booking_expired',        coalesce(booking.expired, 0),
        'stopsale_expired',       coalesce(stopsale.expired, 0)))
FROM job
CROSS JOIN interval_of
LEFT JOIN kind AS booking ON booking.label = 'booking'
LEFT JOIN kind AS stopsale ON stopsale.label = 'stopsale';
