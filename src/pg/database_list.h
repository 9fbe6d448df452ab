// The databases of the cluster, and which of them may have a refresher. For the launcher.
#pragma once

#include "pg/postgres_api.h"

namespace token_refresh {

struct ListedDatabase {
  Oid database;
  bool wanted;  // sessions may connect, it is no template, and token_refresh.databases has it
};

// Reads pg_database; expects a transaction. Returns how many there are. *out is palloc'd.
int ListDatabases(ListedDatabase** out);

}  // namespace token_refresh
