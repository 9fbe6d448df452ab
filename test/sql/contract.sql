-- What applications rely on: names, arguments, result columns. An intended change of the
-- contract changes the answer of this test; anything else that does is a defect.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS token_refresh;
RESET client_min_messages;

-- Functions and procedures.
SELECT p.proname AS function, pg_get_function_arguments(p.oid) AS arguments
FROM pg_proc p WHERE p.pronamespace = 'token_refresh'::regnamespace AND p.proname !~ '^_' ORDER BY 1, 2;

SELECT p.proname AS function, pg_get_function_result(p.oid) AS result
FROM pg_proc p WHERE p.pronamespace = 'token_refresh'::regnamespace AND p.proname !~ '^_' ORDER BY 1, 2;

-- Tables and views, without the partitions; the columns of those that people read.
SELECT c.relname AS relation, c.relkind AS kind FROM pg_class c
WHERE c.relnamespace = 'token_refresh'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition ORDER BY 1;
SELECT a.attrelid::regclass AS relation, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type FROM pg_attribute a
WHERE a.attrelid IN ('token_refresh.token_status'::regclass, 'token_refresh.provider_preset'::regclass, 'token_refresh.key_usage'::regclass,
                     'token_refresh.credential'::regclass, 'token_refresh.provider'::regclass, 'token_refresh.audit_event'::regclass)
  AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid::regclass::text COLLATE "C", a.attnum;

-- Settings and their defaults; request_slots exists only where the library is preloaded.
SELECT name, boot_val AS default, unit, context FROM pg_settings
WHERE name LIKE 'token\_refresh.%' AND name <> 'token_refresh.request_slots' ORDER BY 1;
SELECT count(*) AS settings_without_description FROM pg_settings WHERE name LIKE 'token\_refresh.%' AND coalesce(short_desc, '') = '';

-- Everything has a comment: no row.
SELECT p.oid::regprocedure AS without_comment FROM pg_proc p
WHERE p.pronamespace = 'token_refresh'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass AS without_comment FROM pg_class c
WHERE c.relnamespace = 'token_refresh'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
  AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT t.oid::regtype AS without_comment FROM pg_type t
WHERE t.typnamespace = 'token_refresh'::regnamespace AND t.typrelid = 0 AND t.typelem = 0 AND obj_description(t.oid, 'pg_type') IS NULL;
SELECT a.attrelid::regclass AS relation, a.attname AS without_comment FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'token_refresh'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition AND c.relname !~ '^_'
  AND a.attnum > 0 AND NOT a.attisdropped AND col_description(a.attrelid, a.attnum) IS NULL;

-- Whatever runs with the rights of its owner has its search_path pinned: no row.
SELECT p.oid::regprocedure AS not_pinned FROM pg_proc p
WHERE p.pronamespace = 'token_refresh'::regnamespace AND p.prosecdef
  AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false);

-- Nothing is granted to PUBLIC but the trigger, which nobody can call.
SELECT object FROM (
    SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc WHERE pronamespace = 'token_refresh'::regnamespace
    UNION ALL
    SELECT oid::regclass::text, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM pg_class
        WHERE relnamespace = 'token_refresh'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
    UNION ALL
    SELECT nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname = 'token_refresh') AS objects (object, acl)
WHERE EXISTS (SELECT FROM aclexplode(acl) a WHERE a.grantee = 0);

-- What a refresh rewrites has no index, and room in the page.
SELECT a.attname AS indexed_column FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = 'token_refresh.credential'::regclass GROUP BY 1 ORDER BY 1;
SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'token_refresh'::regnamespace AND reloptions IS NOT NULL ORDER BY 1;

-- What pg_dump takes along.
SELECT c.relname, condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS u (relation, condition) JOIN pg_class c ON c.oid = u.relation
WHERE e.extname = 'token_refresh' AND NOT c.relispartition ORDER BY 1;
SELECT count(*) AS partitions_dumped FROM pg_extension e, unnest(e.extconfig) AS u (relation) JOIN pg_class c ON c.oid = u.relation
WHERE e.extname = 'token_refresh' AND c.relispartition;

-- A schema that somebody else controls is refused, however he controls it.
SET client_min_messages = warning;
DROP EXTENSION token_refresh;
DROP SCHEMA token_refresh CASCADE;
CREATE ROLE regress_token_refresh_stranger;
RESET client_min_messages;
\set SHOW_CONTEXT never
CREATE SCHEMA token_refresh AUTHORIZATION regress_token_refresh_stranger;
CREATE EXTENSION token_refresh;
\echo :LAST_ERROR_SQLSTATE
ALTER SCHEMA token_refresh OWNER TO current_user;
GRANT CREATE ON SCHEMA token_refresh TO PUBLIC;
CREATE EXTENSION token_refresh;
SET ROLE regress_token_refresh_stranger;
CREATE FUNCTION token_refresh._require(argument text, is_null bool, trap int DEFAULT 0) RETURNS void LANGUAGE sql AS '';
RESET ROLE;
REVOKE CREATE ON SCHEMA token_refresh FROM PUBLIC;
CREATE EXTENSION token_refresh;
DROP FUNCTION token_refresh._require(text, bool, int);
-- An empty one of a superuser will do.
CREATE EXTENSION token_refresh;
DROP ROLE regress_token_refresh_stranger;
