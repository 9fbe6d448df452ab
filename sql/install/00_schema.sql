-- token_refresh 1.0: tables, views and functions.
-- Everything is schema-qualified or pinned to pg_catalog; nothing is granted to PUBLIC.
\echo Use "CREATE EXTENSION token_refresh" to load this file. \quit

------------------------------------------------------------------------------
-- The schema
------------------------------------------------------------------------------

-- CREATE EXTENSION takes a schema that is there already as it is. Who owns it, or may create objects in it, could
-- put his own beside those that run with the extension's rights.
DO $$
DECLARE
    stranger text;
BEGIN
    SELECT r.rolname INTO stranger
        FROM (SELECT n.nspowner AS role FROM pg_namespace n WHERE n.oid = '@extschema@'::regnamespace
              UNION ALL
              SELECT a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a
                  WHERE n.oid = '@extschema@'::regnamespace AND a.privilege_type = 'CREATE'
              UNION ALL
              SELECT p.proowner FROM pg_proc p WHERE p.pronamespace = '@extschema@'::regnamespace) AS may
        LEFT JOIN pg_roles r ON r.oid = may.role
        WHERE NOT coalesce(r.rolsuper, false) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'schema "@extschema@" is under the control of role "%", who is no superuser', coalesce(stranger, 'PUBLIC')
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'The role owns the schema or a function in it, or may create objects in it.',
                  HINT = 'Drop or rename the schema; CREATE EXTENSION makes a new one.';
    END IF;
END $$;

