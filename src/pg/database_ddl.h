// Makes commands on whole databases work while refreshers are connected: DROP, RENAME, SET
// TABLESPACE and use as a template fail when anybody else is connected to the database, so its
// refresher leaves before the command and comes back after it. The launcher hears of
// new and changed databases in the same way, and a refresher of its extension being dropped.
#pragma once

namespace token_refresh {

// Called from _PG_init while shared libraries are preloaded.
void InstallDatabaseDdlHook();

}  // namespace token_refresh
