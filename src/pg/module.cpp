// The library's entry: what happens when PostgreSQL loads it.
#include "pg/database_ddl.h"
#include "pg/postgres_api.h"
#include "pg/provider_cache.h"
#include "pg/settings.h"
#include "pg/shared_state.h"
#include "pg/workers.h"

extern "C" {

PG_MODULE_MAGIC;

void _PG_init(void);
}

void _PG_init(void) {
  using namespace token_refresh;
  DefineSettings(process_shared_preload_libraries_in_progress);
  InstallProviderCache();
  if (!process_shared_preload_libraries_in_progress) return;
  InstallSharedStateHooks();
  InstallDatabaseDdlHook();
  RegisterLauncherWorker();
}
