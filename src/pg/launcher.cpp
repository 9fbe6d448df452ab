// The launcher: one background worker per cluster that keeps a refresher alive in every
// database that has the extension. It cannot look into a database itself, so it starts a
// refresher in each, and one that finds no extension leaves (kNotInstalled) until
// somebody reports that it has come.
//
//   kUnknown -> kStarting -> kRunning -> kUnknown ...     (it stopped: again, after a while)
//                         -> kNotInstalled                (until LookForExtension)
//   any      -> kHeld -> kUnknown                         (database_ddl.cpp)
//   any      -> kExcluded -> kUnknown                     (settings, pg_database)
//
// It sleeps without a timeout unless something is due. That is safe since whatever concerns it wakes
// it: commands on databases and CREATE EXTENSION at their commit (every session has
// loaded this library), the postmaster when a worker starts or stops, the first use
// of an extension that came unseen, and a reload of the configuration.
#include <cstring>

#include "pg/database_list.h"
#include "pg/postgres_api.h"
#include "pg/shared_state.h"
#include "pg/workers.h"

namespace token_refresh {
namespace {

// Most databases have no extension: looking into all of them at once would take every worker slot.
constexpr int kMaxStarting = 2;
// A start that takes longer (a command has locked the database) holds up the others no more.
constexpr int kStartMs = 10 * 1000;
constexpr int kFirstBackoffMs = 1000;
constexpr int kMaxBackoffMs = 60 * 1000;
constexpr int kRegisterAgainMs = 60 * 1000;
constexpr int kRestartSeconds = 2;

// A database that could have a refresher, as the launcher sees it. Plain memory.
struct Watch {
  Oid database;  // InvalidOid: a free place
  BackgroundWorkerHandle* handle;
  TimestampTz started_at;
  TimestampTz start_after;
  int backoff_ms;
  bool wanted;  // in the last scan
};

Watch watches[kMaxDatabases];
TimestampTz register_after = 0;
TimestampTz warn_after = 0;  // a slot that gets free ends the wait above, and may be taken at once
bool warned_of_too_many = false;
MemoryContext handle_context = nullptr;

TimestampTz Later(TimestampTz from, int milliseconds) { return TimestampTzPlusMilliseconds(from, milliseconds); }

// Looking at pg_database --------------------------------------------------------

Watch* FindWatch(Oid database) {
  for (Watch& watch : watches) {
    if (watch.database == database) return &watch;
  }
  return nullptr;
}

void WarnOfTooMany() {
  if (warned_of_too_many) return;
  warned_of_too_many = true;
  ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
          errmsg("token_refresh can look after %d databases, some get no refresher", kMaxDatabases),
          errhint("Name those that have the extension in token_refresh.databases."));
}

void NoteWanted(Oid database) {
  DatabaseEntry entry;
  Watch* watch = FindWatch(database);
  if (watch == nullptr) watch = FindWatch(InvalidOid);
  const bool known = GetDatabaseEntry(database, &entry);
  if (watch == nullptr || (!known && !SetDatabasePhase(database, RefresherPhase::kUnknown))) return WarnOfTooMany();
  watch->database = database;
  watch->wanted = true;
  MoveDatabasePhase(database, RefresherPhase::kExcluded, RefresherPhase::kUnknown);
}

const ListedDatabase* Find(const ListedDatabase* databases, int count, Oid database) {
  for (int i = 0; i < count; ++i) {
    if (databases[i].database == database) return &databases[i];
  }
  return nullptr;
}

// A place is kept until the worker that was started from it is gone.
void FreeUnwantedWatches() {
  for (Watch& watch : watches) {
    if (watch.handle == nullptr && !watch.wanted) memset(&watch, 0, sizeof watch);
  }
}

// Brings watches and shared entries in line with pg_database and the settings.
void ScanDatabases() {
  pgstat_report_activity(STATE_RUNNING, "looking for databases");
  SetCurrentStatementStartTimestamp();
  StartTransactionCommand();
  // The entries first: one that is listed here and not in pg_database below is of a database that is gone.
  DatabaseEntry* entries = static_cast<DatabaseEntry*>(palloc(sizeof(DatabaseEntry) * kMaxDatabases));
  const int entry_count = ListDatabaseEntries(entries, kMaxDatabases);
  ListedDatabase* databases = nullptr;
  const int database_count = ListDatabases(&databases);
  // What is gone or left out makes room for what is new.
  for (int i = 0; i < entry_count; ++i) {
    const ListedDatabase* listed = Find(databases, database_count, entries[i].database);
    if (listed == nullptr) {
      ForgetDatabase(entries[i].database);
    } else if (!listed->wanted && entries[i].phase != RefresherPhase::kExcluded) {
      SetDatabasePhase(listed->database, RefresherPhase::kExcluded);
    }
  }
  for (Watch& watch : watches) {
    const ListedDatabase* listed = Find(databases, database_count, watch.database);
    watch.wanted = listed != nullptr && listed->wanted;
  }
  FreeUnwantedWatches();
  for (int i = 0; i < database_count; ++i) {
    if (databases[i].wanted) NoteWanted(databases[i].database);
  }
  CommitTransactionCommand();
  pgstat_report_activity(STATE_IDLE, nullptr);
}

// Starting and watching refreshers ------------------------------------------------

bool RegisterWorker(Watch* watch) {
  BackgroundWorker worker;
  memset(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = BGW_NEVER_RESTART;
  worker.bgw_main_arg = ObjectIdGetDatum(watch->database);
  worker.bgw_notify_pid = MyProcPid;
  strlcpy(worker.bgw_library_name, kLibraryName, sizeof worker.bgw_library_name);
  strlcpy(worker.bgw_function_name, kRefresherFunction, sizeof worker.bgw_function_name);
  strlcpy(worker.bgw_name, kRefresherName, BGW_MAXLEN);
  strlcpy(worker.bgw_type, kRefresherName, BGW_MAXLEN);
  MemoryContext previous = MemoryContextSwitchTo(handle_context);
  const bool registered = RegisterDynamicBackgroundWorker(&worker, &watch->handle);
  MemoryContextSwitchTo(previous);
  return registered;
}

void StartRefresher(Watch* watch, TimestampTz now) {
  // Fails when a command has taken hold of the database a moment ago.
  if (!MoveDatabasePhase(watch->database, RefresherPhase::kUnknown, RefresherPhase::kStarting)) return;
  if (RegisterWorker(watch)) {
    watch->started_at = now;
    return;
  }
  watch->handle = nullptr;
  MoveDatabasePhase(watch->database, RefresherPhase::kStarting, RefresherPhase::kUnknown);
  register_after = Later(now, kRegisterAgainMs);
  if (now < warn_after) return;
  warn_after = register_after;
  ereport(
      WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
      errmsg("token_refresh could not start a refresher for the database with OID %u", watch->database),
      errdetail("All background worker slots are in use. It is tried again in %d seconds.", kRegisterAgainMs / 1000),
      errhint("Raise max_worker_processes by one for each database that has the extension."));
}

void NoteWorkerStopped(Watch* watch, TimestampTz now) {
  const bool ran_well = now >= Later(watch->started_at, kMaxBackoffMs);
  pfree(watch->handle);
  watch->handle = nullptr;
  register_after = 0;  // a slot is free
  watch->start_after = 0;

  // It may have ended before it could say anything.
  MoveDatabasePhase(watch->database, RefresherPhase::kStarting, RefresherPhase::kUnknown);
  DatabaseEntry entry;
  const bool failed =
      GetDatabaseEntry(watch->database, &entry) && entry.phase == RefresherPhase::kUnknown && !entry.stop_requested;
  if (!failed || ran_well) {
    watch->backoff_ms = 0;
    return;
  }
  watch->backoff_ms = Min(Max(2 * watch->backoff_ms, kFirstBackoffMs), kMaxBackoffMs);
  watch->start_after = Later(now, watch->backoff_ms);
}

bool IsStarting(const Watch& watch, TimestampTz now) {
  DatabaseEntry entry;
  return watch.handle != nullptr && now < Later(watch.started_at, kStartMs) &&
         GetDatabaseEntry(watch.database, &entry) && entry.phase == RefresherPhase::kStarting;
}

// Does what is due for one database; returns when it wants to be looked at again.
TimestampTz Tend(Watch* watch, TimestampTz now, int* starting) {
  DatabaseEntry entry;
  if (!GetDatabaseEntry(watch->database, &entry)) return DT_NOEND;
  if (entry.phase == RefresherPhase::kHeld) {
    if (now < entry.held_until) return entry.held_until;
    MoveDatabasePhase(watch->database, RefresherPhase::kHeld, RefresherPhase::kUnknown);
    GetDatabaseEntry(watch->database, &entry);
  }
  if (entry.phase != RefresherPhase::kUnknown || !watch->wanted || watch->handle != nullptr) return DT_NOEND;
  const TimestampTz start_after = Max(watch->start_after, register_after);
  if (now < start_after) return start_after;
  if (*starting >= kMaxStarting) return DT_NOEND;  // the end of a start wakes the launcher, or its timeout below
  StartRefresher(watch, now);
  if (watch->handle == nullptr) return now < register_after ? register_after : DT_NOEND;
  ++*starting;
  return Later(now, kStartMs);
}

// Returns when the launcher has to look again by itself; DT_NOEND: never.
TimestampTz TendAll() {
  const TimestampTz now = GetCurrentTimestamp();
  int starting = 0;
  TimestampTz next = DT_NOEND;
  for (Watch& watch : watches) {
    pid_t pid;
    if (watch.handle != nullptr && GetBackgroundWorkerPid(watch.handle, &pid) == BGWH_STOPPED) {
      NoteWorkerStopped(&watch, now);
    }
    if (!IsStarting(watch, now)) continue;
    ++starting;
    next = Min(next, Later(watch.started_at, kStartMs));
  }
  for (Watch& watch : watches) {
    if (OidIsValid(watch.database)) next = Min(next, Tend(&watch, now, &starting));
  }
  return next;
}

// The loop ------------------------------------------------------------------------

// True when the latch was set.
bool Sleep(TimestampTz until) {
  // A signal that came while a scan waited for a lock has lost its latch.
  if (ConfigReloadPending || ShutdownRequestPending) return true;
  int events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
  long timeout_ms = -1;
  if (until != DT_NOEND) {
    events |= WL_TIMEOUT;
    timeout_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
  }
  const int occurred = WaitLatch(MyLatch, events, timeout_ms, PG_WAIT_EXTENSION);
  if ((occurred & WL_LATCH_SET) == 0) return false;
  ResetLatch(MyLatch);
  return true;
}

// A launcher before this one may have ended while workers were starting, and nobody watches those any more.
void ForgetOldStarts() {
  DatabaseEntry entries[kMaxDatabases];
  const int count = ListDatabaseEntries(entries, kMaxDatabases);
  for (int i = 0; i < count; ++i) {
    MoveDatabasePhase(entries[i].database, RefresherPhase::kStarting, RefresherPhase::kUnknown);
  }
}

void Run() {
  bool scan = true;
  while (!ShutdownRequestPending) {
    if (ConfigReloadPending) {
      ConfigReloadPending = false;
      ProcessConfigFile(PGC_SIGHUP);
      scan = true;
    }
    if (scan) ScanDatabases();
    scan = Sleep(TendAll());
    CHECK_FOR_INTERRUPTS();
  }
}

}  // namespace

void RegisterLauncherWorker() {
  if (IsBinaryUpgrade) return;  // pg_upgrade wants to be alone
  BackgroundWorker worker;
  memset(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;  // on a standby: after its promotion
  worker.bgw_restart_time = kRestartSeconds;
  strlcpy(worker.bgw_library_name, kLibraryName, sizeof worker.bgw_library_name);
  strlcpy(worker.bgw_function_name, kLauncherFunction, sizeof worker.bgw_function_name);
  strlcpy(worker.bgw_name, kLauncherName, BGW_MAXLEN);
  strlcpy(worker.bgw_type, kLauncherName, BGW_MAXLEN);
  RegisterBackgroundWorker(&worker);
}

}  // namespace token_refresh

extern "C" void token_refresh_launcher_main(Datum main_arg) {
  using namespace token_refresh;
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
  BackgroundWorkerUnblockSignals();
  BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
  handle_context = AllocSetContextCreate(TopMemoryContext, "token_refresh launcher", ALLOCSET_DEFAULT_SIZES);
  RegisterLauncher();
  ForgetOldStarts();
  Run();
  // 1 lets the postmaster start the launcher again when it was only this process that was to end.
  proc_exit(1);
}
