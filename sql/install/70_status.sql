------------------------------------------------------------------------------
-- What people see
------------------------------------------------------------------------------

-- What keeps a whole table from being served shows at once, in the words of the refresher.
CREATE VIEW _token_table_trouble AS
SELECT t.id, t.relation,
       CASE WHEN c.oid IS NULL THEN 'the table does not exist any more'
            ELSE coalesce(
                CASE WHEN t.owner <> pg_get_userbyid(c.relowner)
                     THEN format('table %I.%I has another owner now: its new owner must detach and attach it', n.nspname, c.relname) END,
                (SELECT format('column %I of table %I.%I does not exist', m.name, n.nspname, c.relname)
                 FROM (SELECT unnest(t.key_columns) UNION ALL SELECT e.value FROM jsonb_each_text(t.columns) e) AS m (name)
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attname = m.name AND a.attnum > 0 AND NOT a.attisdropped)
                 LIMIT 1),
                CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                                      WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
                                        AND i.indexprs IS NULL AND i.indpred IS NULL AND i.indnkeyatts = cardinality(t.key_columns)
                                        AND (SELECT count(*) FROM unnest(t.key_columns) k (name)
                                             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND a.attnotnull
                                             WHERE a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) = i.indnkeyatts)
                     THEN format('the key (%s) of table %I.%I is not unique and NOT NULL any more', array_to_string(t.key_columns, ', '),
                                 n.nspname, c.relname) END,
                (SELECT format('row-level security holds for the owner of table %I.%I as well, and no policy lets the owner see a row',
                               n.nspname, c.relname)
                 FROM pg_catalog.pg_roles r
                 WHERE r.oid = c.relowner AND c.relrowsecurity AND c.relforcerowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy p, unnest(p.polroles) AS u (role)
                                   WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
                                     AND CASE WHEN u.role = 0 THEN true ELSE pg_has_role(c.relowner, u.role, 'USAGE') END)))
       END AS trouble
FROM @extschema@.token_table t
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.relation
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
OFFSET 0;
COMMENT ON VIEW _token_table_trouble IS 'internal: why a token table cannot be served as it is; NULL: it can';

CREATE VIEW token_status AS
SELECT t.relation AS token_table, s.row_key, coalesce(c.provider, p.name) AS provider,
       coalesce(c.subject, s.subject) AS subject, coalesce(c.label, s.label, '') AS label,
       CASE WHEN s.status IN ('needs_reauth', 'disconnected') THEN s.status
            WHEN t.trouble IS NOT NULL THEN 'error'
            WHEN s.status = 'connected' AND coalesce(k.expires_at, s.expires_at) < clock_timestamp() THEN 'token_expired'
            ELSE s.status END AS status,
       coalesce(k.expires_at, s.expires_at) AS expires_at, coalesce(k.retry_at, s.due_at) AS due_at, s.attempts,
       CASE WHEN k.schedule_id IS NOT NULL AND s.status <> 'needs_reauth'
                THEN CASE WHEN k.reason ~ '^([0-9A-Z]{5}( |$)|a trigger or rule)' AND k.reason !~ '^(55P03|57014)'
                          THEN 'the table rejects the new tokens: ' ELSE 'the new tokens are parked: ' END || k.reason
            WHEN s.status NOT IN ('needs_reauth', 'disconnected') AND t.trouble IS NOT NULL THEN 'client_config: ' || t.trouble
            WHEN s.failure IS NOT NULL THEN s.failure || coalesce(': ' || s.message, '') END AS last_error,
       s.last_refreshed_at, s.refresh_count, k.schedule_id IS NOT NULL AS parked
FROM @extschema@.schedule s
JOIN @extschema@._token_table_trouble t ON t.id = s.token_table
LEFT JOIN @extschema@.credential c ON c.id = CASE WHEN s.token_table = 1 THEN s.row_key::bigint END
LEFT JOIN @extschema@.provider p ON p.id = s.provider
LEFT JOIN @extschema@.parked_result k ON k.schedule_id = s.id
WHERE s.row_key IS NOT NULL;
COMMENT ON VIEW token_status IS 'every credential of every token table: how fresh it is, and what went wrong; no secret';

CREATE FUNCTION status() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
SELECT jsonb_build_object(
    'running', r.phase = 'running',
    'refresher', r.phase,
    'paused', coalesce((SELECT c.paused FROM @extschema@.control c), false),
    'refresh_margin', current_setting('token_refresh.refresh_margin'),
    'sweep_interval', current_setting('token_refresh.sweep_interval'),
    'poll_interval', current_setting('token_refresh.poll_interval'),
    'requests', r.requests, 'refreshed', r.refreshed, 'failed', r.failed,
    'in_flight', (SELECT coalesce(sum(cardinality(f.schedule_ids)), 0) FROM @extschema@.in_flight f),
    'parked', (SELECT count(*) FROM @extschema@.parked_result),
    'providers', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'provider', x.name, 'in_flight', x.in_flight, 'max_in_flight', x.max_in_flight, 'held_back', x.held_back,
            'until', CASE WHEN x.held_back = x.reason THEN x.until END) ORDER BY x.name), '[]') FROM (
        SELECT p.name, coalesce(b.in_flight, 0) AS in_flight, m.max_in_flight, b.held_back AS reason, b.until,
               CASE WHEN NOT coalesce((p.effective_options ->> 'enabled')::boolean, true) THEN 'disabled'
                    WHEN b.held_back IS NOT NULL THEN b.held_back
                    WHEN b.in_flight >= m.max_in_flight THEN 'max_in_flight' END AS held_back
        FROM @extschema@.provider p LEFT JOIN @extschema@._provider_states() b ON b.provider = p.id,
             LATERAL (SELECT coalesce(p.effective_options ->> 'max_in_flight', current_setting('token_refresh.max_in_flight'))::integer) m (max_in_flight)) x),
    'credentials', (SELECT coalesce(jsonb_agg(to_jsonb(x) ORDER BY x.provider, x.label), '[]') FROM (
        SELECT s.provider, s.label, count(*) AS count,
               count(*) FILTER (WHERE s.status = 'connected' AND s.expires_at < clock_timestamp() + coalesce(t.refresh_margin, current_setting('token_refresh.refresh_margin')::interval)) AS expiring_soon,
               count(*) FILTER (WHERE s.expires_at < clock_timestamp()) AS expired,
               count(*) FILTER (WHERE s.status = 'needs_reauth') AS needs_reauth
        FROM @extschema@.token_status s JOIN @extschema@.token_table t ON t.relation = s.token_table GROUP BY s.provider, s.label) x))
FROM @extschema@._refresher_state() r
$$;
COMMENT ON FUNCTION status() IS 'the refresher of this database; per provider, how many refreshes are under way and what holds others back; per provider and label, how many credentials are expiring soon, expired or in need of a new sign-in';

CREATE FUNCTION pause() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.control (paused) VALUES (true)
    ON CONFLICT (singleton) DO UPDATE SET paused = true, changed_at = now(), changed_by = session_user;
INSERT INTO @extschema@.audit_event (event) VALUES ('paused');
SELECT @extschema@._wake_refresher();
$$;
COMMENT ON FUNCTION pause() IS 'stops background refreshing in this database until resume(); on-demand refreshes go on';

CREATE FUNCTION resume() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
INSERT INTO @extschema@.control (paused) VALUES (false)
    ON CONFLICT (singleton) DO UPDATE SET paused = false, changed_at = now(), changed_by = session_user;
INSERT INTO @extschema@.audit_event (event) VALUES ('resumed');
SELECT @extschema@._wake_refresher();
$$;
COMMENT ON FUNCTION resume() IS 'starts background refreshing again after pause()';

