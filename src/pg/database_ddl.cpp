#include "pg/database_ddl.h"

#include "pg/postgres_api.h"
#include "pg/shared_state.h"
#include "pg/wakeup.h"
#include "pg/workers.h"

extern "C" {
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
}

namespace token_refresh {
namespace {

// After this the launcher takes the database back even if the command is still under way;
// the new refresher then waits for the command's lock on the database.
constexpr int kHoldCeilingMs = 30 * 1000;
// All that a command waits for a refresher here; it drains for less (kDrainForCommand). PostgreSQL itself waits
// for five more seconds for other sessions to leave.
constexpr int kLeaveTimeoutMs = 2 * 1000;

ProcessUtility_hook_type previous_hook = nullptr;
object_access_hook_type previous_access_hook = nullptr;

// The databases that the current transaction holds. More than one takes a transaction that renames
// several: those beyond the last place are not held, and the command may find the refresher connected.
constexpr int kMaxHeld = 16;
Oid held[kMaxHeld];
int held_count = 0;

void ReleaseAtTransactionEnd(XactEvent event, void* arg) {
  if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE) return;
  while (held_count > 0) ReleaseDatabase(held[--held_count]);
}

void HoldUntilTransactionEnd(Oid database) {
  static bool registered = false;
  if (!registered) {
    RegisterXactCallback(ReleaseAtTransactionEnd, nullptr);
    registered = true;
  }
  if (held_count == kMaxHeld || !HoldDatabase(database, kHoldCeilingMs)) return;
  held[held_count++] = database;
  WaitUntilRefresherLeft(database, kLeaveTimeoutMs);
}

bool MayCreateDatabases() {
  if (superuser()) return true;
  HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
  if (!HeapTupleIsValid(tuple)) return false;
  const bool may = reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcreatedb;
  ReleaseSysCache(tuple);
  return may;
}

const char* OptionText(List* options, const char* name) {
  ListCell* cell;
  foreach (cell, options) {
    DefElem* option = static_cast<DefElem*>(lfirst(cell));
    if (strcmp(option->defname, name) == 0 && option->arg != nullptr) return defGetString(option);
  }
  return nullptr;
}

// The functions below let nobody stop a refresher whom the command itself would refuse; what
// else may be wrong with the command is left to the command.

void BeforeCreate(const CreatedbStmt* statement, bool allowed_here) {
  WakeLauncherAtCommit();
  const char* name = OptionText(statement->options, "template");
  if (!allowed_here || !MayCreateDatabases()) return;
  const Oid source = get_database_oid(name != nullptr ? name : "template1", true);
  if (OidIsValid(source) && OwnsDatabase(source, GetUserId())) HoldUntilTransactionEnd(source);
}

void BeforeChange(const char* name) {
  const Oid database = get_database_oid(name, true);
  if (!OidIsValid(database) || database == MyDatabaseId) return;
  if (OwnsDatabase(database, GetUserId())) HoldUntilTransactionEnd(database);
}

void BeforeUtility(Node* statement, bool top_level) {
  switch (nodeTag(statement)) {
    case T_CreatedbStmt:
      BeforeCreate(reinterpret_cast<CreatedbStmt*>(statement), !IsInTransactionBlock(top_level));
      break;
    case T_DropdbStmt:
      if (IsInTransactionBlock(top_level)) break;
      WakeLauncherAtCommit();
      BeforeChange(reinterpret_cast<DropdbStmt*>(statement)->dbname);
      break;
    case T_RenameStmt: {
      const RenameStmt* rename = reinterpret_cast<RenameStmt*>(statement);
      if (rename->renameType != OBJECT_DATABASE) break;
      WakeLauncherAtCommit();  // token_refresh.databases goes by name
      if (MayCreateDatabases()) BeforeChange(rename->subname);
      break;
    }
    case T_AlterDatabaseStmt: {
      const AlterDatabaseStmt* alter = reinterpret_cast<AlterDatabaseStmt*>(statement);
      WakeLauncherAtCommit();  // ALLOW_CONNECTIONS, IS_TEMPLATE
      if (OptionText(alter->options, "tablespace") == nullptr || IsInTransactionBlock(top_level)) break;
      BeforeChange(alter->dbname);
      break;
    }
    default:
      break;
  }
}

void OnUtility(PlannedStmt* planned, const char* query, bool read_only_tree, ProcessUtilityContext context,
               ParamListInfo params, QueryEnvironment* environment, DestReceiver* receiver,
               QueryCompletion* completion) {
  if (SharedStateAvailable() && !RecoveryInProgress()) {
    BeforeUtility(planned->utilityStmt, context == PROCESS_UTILITY_TOPLEVEL);
  }
  const ProcessUtility_hook_type next = previous_hook != nullptr ? previous_hook : standard_ProcessUtility;
  next(planned, query, read_only_tree, context, params, environment, receiver, completion);
}

// The extension can go by DROP EXTENSION, by DROP SCHEMA CASCADE or with its owner; an idle refresher would find
// out at its next sweep.
void OnObjectAccess(ObjectAccessType access, Oid class_id, Oid object, int sub_id, void* arg) {
  if (previous_access_hook != nullptr) previous_access_hook(access, class_id, object, sub_id, arg);
  if (access == OAT_DROP && class_id == ExtensionRelationId &&
      object == get_extension_oid(kLibraryName, true)) {
    WakeRefresherAtCommit(DT_NOBEGIN);
  }
}

}  // namespace

void InstallDatabaseDdlHook() {
  previous_hook = ProcessUtility_hook;
  ProcessUtility_hook = OnUtility;
  previous_access_hook = object_access_hook;
  object_access_hook = OnObjectAccess;
}

}  // namespace token_refresh
