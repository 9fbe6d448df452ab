#include "pg/database_list.h"

#include <cstring>

#include "pg/postgres_api.h"
#include "pg/settings.h"

namespace token_refresh {
namespace {

bool Contains(List* names, const char* name) {
  ListCell* cell;
  foreach (cell, names) {
    if (strcmp(static_cast<const char*>(lfirst(cell)), name) == 0) return true;
  }
  return false;
}

// token_refresh.databases as a list of names; NIL: all databases.
List* WantedNames() {
  const char* setting = Settings::databases;
  if (setting == nullptr || setting[0] == '\0') return NIL;
  List* names = NIL;
  if (!SplitIdentifierString(pstrdup(setting), ',', &names)) {
    ereport(WARNING, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
            errmsg("token_refresh.databases is not a list of names, all databases are served"));
    return NIL;
  }
  return Contains(names, "*") ? NIL : names;
}

bool IsWanted(const FormData_pg_database* database, List* names) {
  // -2 marks a database whose DROP was interrupted.
  if (!database->datallowconn || database->datistemplate || database->datconnlimit == -2) return false;
  return names == NIL || Contains(names, NameStr(database->datname));
}

}  // namespace

int ListDatabases(ListedDatabase** out) {
  List* names = WantedNames();
  int count = 0;
  int size = 64;
  ListedDatabase* list = static_cast<ListedDatabase*>(palloc(sizeof(ListedDatabase) * size));
  Relation relation = table_open(DatabaseRelationId, AccessShareLock);
  SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, nullptr, 0, nullptr);
  while (HeapTuple tuple = systable_getnext(scan)) {
    const FormData_pg_database* database = reinterpret_cast<FormData_pg_database*>(GETSTRUCT(tuple));
    if (count == size) {
      size *= 2;
      list = static_cast<ListedDatabase*>(repalloc(list, sizeof(ListedDatabase) * size));
    }
    list[count++] = {database->oid, IsWanted(database, names)};
  }
  systable_endscan(scan);
  table_close(relation, AccessShareLock);
  *out = list;
  return count;
}

}  // namespace token_refresh
