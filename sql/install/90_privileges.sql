------------------------------------------------------------------------------
-- Nothing for PUBLIC
------------------------------------------------------------------------------

REVOKE ALL ON SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA @extschema@ FROM PUBLIC;
-- Nobody can call a trigger function, and this one serves no table but that for which it was installed. Who adds a
-- partition to an attached table, or restores one, creates its trigger and needs the privilege.
GRANT EXECUTE ON FUNCTION @extschema@._feed_schedule() TO PUBLIC;

-- The launcher hears of the extension when this commits.
SELECT @extschema@._wake_refresher();

-- Whoever has forgotten this would otherwise find out when the first token has expired.
DO $$
BEGIN
    IF (SELECT s.phase = 'not_preloaded' FROM @extschema@._refresher_state() s) THEN
        RAISE WARNING 'no token will be refreshed: token_refresh is not preloaded'
            USING HINT = 'Add token_refresh to shared_preload_libraries and restart the server.';
    END IF;
END $$;
