#include "pg/shared_state.h"

#include <cstring>

#include "pg/postgres_api.h"
#include "pg/shared_memory.h"

namespace token_refresh {
namespace {

// The functions that end in Locked expect that the caller holds the lock.

DatabaseEntry* FindOrMakeLocked(Oid database) {
  DatabaseEntry* free = nullptr;
  DatabaseEntry* left_out = nullptr;  // can be forgotten when another needs its place
  for (DatabaseEntry& entry : shared_state->databases) {
    if (entry.database == database) return &entry;
    if (!OidIsValid(entry.database)) {
      if (free == nullptr) free = &entry;
    } else if (entry.phase == RefresherPhase::kExcluded && entry.refresher_pid == 0) {
      left_out = &entry;
    }
  }
  DatabaseEntry* place = free != nullptr ? free : left_out;
  if (place == nullptr) return nullptr;
  memset(place, 0, sizeof *place);
  place->database = database;
  place->phase = RefresherPhase::kUnknown;
  place->refresher_procno = -1;
  place->next_look_at = DT_NOEND;
  return place;
}

// Whoever has the place of a process that ended is woken for nothing, which is harmless.
void SetLatchOf(int procno) {
  if (procno >= 0) SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

void AskToLeaveLocked(DatabaseEntry* entry) {
  entry->stop_requested = true;
  TellRefresherLocked(entry);
}

void SetPhaseLocked(DatabaseEntry* entry, RefresherPhase phase) {
  const bool alive = entry->refresher_pid != 0;
  entry->phase = phase;
  entry->held_until = 0;
  entry->holders = 0;
  switch (phase) {
    case RefresherPhase::kUnknown:
      // stop_requested stays when none runs: it tells the launcher that the last one left because it was asked to.
      if (alive) {
        entry->phase = RefresherPhase::kRunning;
        entry->stop_requested = false;
      }
      break;
    case RefresherPhase::kStarting:
      entry->stop_requested = false;
      entry->look_again = false;
      break;
    case RefresherPhase::kExcluded:
      AskToLeaveLocked(entry);
      break;
    case RefresherPhase::kRunning:
    case RefresherPhase::kNotInstalled:
    case RefresherPhase::kHeld:
      break;
  }
}

void WakeLauncherLocked() { SetLatchOf(shared_state->launcher_procno); }

void LauncherExit(int code, Datum arg) {
  WithSharedLock(LW_EXCLUSIVE, [] {
    if (shared_state->launcher_pid != MyProcPid) return;
    shared_state->launcher_pid = 0;
    shared_state->launcher_procno = -1;
  });
}

}  // namespace

DatabaseEntry* FindLocked(Oid database) {
  for (DatabaseEntry& entry : shared_state->databases) {
    if (entry.database == database) return &entry;
  }
  return nullptr;
}

void TellRefresherLocked(DatabaseEntry* entry) {
  entry->news = true;
  SetLatchOf(entry->refresher_procno);
}

// Launcher ------------------------------------------------------------------

void RegisterLauncher() {
  before_shmem_exit(LauncherExit, static_cast<Datum>(0));
  WithSharedLock(LW_EXCLUSIVE, [] {
    shared_state->launcher_pid = MyProcPid;
    shared_state->launcher_procno = MyProcIndex();
  });
}

bool LauncherRunning() {
  return WithSharedLock(LW_SHARED, [] { return shared_state->launcher_pid != 0; });
}

void WakeLauncher() { WithSharedLock(LW_SHARED, WakeLauncherLocked); }

bool GetDatabaseEntry(Oid database, DatabaseEntry* out) {
  return WithSharedLock(LW_SHARED, [&] {
    const DatabaseEntry* entry = FindLocked(database);
    if (entry != nullptr) *out = *entry;
    return entry != nullptr;
  });
}

bool SetDatabasePhase(Oid database, RefresherPhase phase) {
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindOrMakeLocked(database);
    if (entry != nullptr) SetPhaseLocked(entry, phase);
    return entry != nullptr;
  });
}

bool MoveDatabasePhase(Oid database, RefresherPhase from, RefresherPhase to) {
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr || entry->phase != from) return false;
    SetPhaseLocked(entry, to);
    return true;
  });
}

void ForgetDatabase(Oid database) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr) return;
    EndRequestsLocked(database, false);
    if (entry->refresher_pid != 0) {
      AskToLeaveLocked(entry);
    } else {
      memset(entry, 0, sizeof *entry);
    }
  });
}

int ListDatabaseEntries(DatabaseEntry* out, int max) {
  return WithSharedLock(LW_SHARED, [&] {
    int count = 0;
    for (const DatabaseEntry& entry : shared_state->databases) {
      if (count < max && OidIsValid(entry.database)) out[count++] = entry;
    }
    return count;
  });
}

// Refresher -----------------------------------------------------------------

bool RegisterRefresher(Oid database) {
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindOrMakeLocked(database);
    if (entry == nullptr || entry->refresher_pid != 0 || entry->stop_requested) return false;
    entry->refresher_pid = MyProcPid;
    entry->refresher_procno = MyProcIndex();
    entry->next_look_at = DT_NOEND;
    entry->requests = entry->refreshed = entry->failed = 0;
    ForgetProviderStatesLocked(database);
    SetPhaseLocked(entry, RefresherPhase::kRunning);
    WakeLauncherLocked();  // it starts only a few at a time
    return true;
  });
}

void DeregisterRefresher(Oid database, RefresherPhase phase_after) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr || (entry->refresher_pid != 0 && entry->refresher_pid != MyProcPid)) return;
    entry->refresher_pid = 0;
    entry->refresher_procno = -1;
    entry->next_look_at = DT_NOEND;
    const bool installed = phase_after != RefresherPhase::kNotInstalled || entry->look_again;
    EndRequestsLocked(database, installed);
    ForgetProviderStatesLocked(database);
    if (entry->phase != RefresherPhase::kHeld && entry->phase != RefresherPhase::kExcluded) {
      SetPhaseLocked(entry, installed ? RefresherPhase::kUnknown : RefresherPhase::kNotInstalled);
    }
    WakeLauncherLocked();
  });
  ConditionVariableBroadcast(&shared_state->refresher_left);
}

bool RefresherStopRequested(Oid database) {
  return WithSharedLock(LW_SHARED, [&] {
    const DatabaseEntry* entry = FindLocked(database);
    return entry == nullptr || entry->stop_requested;
  });
}

// Anyone --------------------------------------------------------------------

void LookForExtension(Oid database) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    bool news = entry == nullptr;
    if (news) entry = FindOrMakeLocked(database);
    if (entry == nullptr) return;
    entry->look_again = true;
    if (entry->phase == RefresherPhase::kNotInstalled) {
      SetPhaseLocked(entry, RefresherPhase::kUnknown);
      news = true;
    }
    // Not when the launcher knows and waits for its time: this may be called for every commit.
    if (news) WakeLauncherLocked();
  });
}

bool HoldDatabase(Oid database, int hold_milliseconds) {
  const TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), hold_milliseconds);
  return WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr) return false;
    const bool alive = entry->refresher_pid != 0;
    if (!alive && (entry->phase == RefresherPhase::kNotInstalled || entry->phase == RefresherPhase::kExcluded)) {
      return false;
    }
    entry->phase = RefresherPhase::kHeld;
    entry->held_until = Max(entry->held_until, until);
    entry->holders++;
    AskToLeaveLocked(entry);
    return true;
  });
}

void ReleaseDatabase(Oid database) {
  WithSharedLock(LW_EXCLUSIVE, [&] {
    DatabaseEntry* entry = FindLocked(database);
    if (entry == nullptr || entry->phase != RefresherPhase::kHeld || --entry->holders > 0) return;
    SetPhaseLocked(entry, RefresherPhase::kUnknown);
    WakeLauncherLocked();
  });
}

bool WaitUntilRefresherLeft(Oid database, int timeout_ms) {
  const TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
  bool left = false;
  ConditionVariablePrepareToSleep(&shared_state->refresher_left);
  while (true) {
    left = WithSharedLock(LW_SHARED, [&] {
      const DatabaseEntry* entry = FindLocked(database);
      return entry == nullptr || entry->refresher_pid == 0;
    });
    const long remaining = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
    if (left || remaining <= 0) break;
    ConditionVariableTimedSleep(&shared_state->refresher_left, remaining, PG_WAIT_EXTENSION);
  }
  ConditionVariableCancelSleep();
  return left;
}

}  // namespace token_refresh
