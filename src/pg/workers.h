// The names by which PostgreSQL finds and shows the background workers. Used by
// _PG_init, the launcher and the refresher.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

constexpr char kLibraryName[] = "token_refresh";
constexpr char kLauncherName[] = "token_refresh launcher";
constexpr char kRefresherName[] = "token_refresh refresher";
constexpr char kLauncherFunction[] = "token_refresh_launcher_main";
constexpr char kRefresherFunction[] = "token_refresh_refresher_main";

inline bool AmRefresher() {
  return MyBgworkerEntry != nullptr && strcmp(MyBgworkerEntry->bgw_function_name, kRefresherFunction) == 0;
}

// Called from _PG_init while shared libraries are preloaded.
void RegisterLauncherWorker();

}  // namespace token_refresh

extern "C" {
PGDLLEXPORT void token_refresh_launcher_main(Datum main_arg);
// main_arg: the database's Oid.
PGDLLEXPORT void token_refresh_refresher_main(Datum main_arg);
}
