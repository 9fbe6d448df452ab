// How the shared memory is laid out and guarded. For shared_memory.cpp, shared_state.cpp, refresher_news.cpp,
// provider_board.cpp and request_slots.cpp only; everybody else goes through shared_state.h.
#pragma once

#include <type_traits>

#include "core/provider_state.h"
#include "pg/postgres_api.h"
#include "pg/provider_board.h"
#include "pg/shared_state.h"

namespace token_refresh {

// What status() shows of a provider; only of those that are being asked or held back.
struct ProviderEntry {
  Oid database = InvalidOid;  // a free entry
  ProviderState state;
};

struct SharedState {
  int launcher_procno;  // -1: none
  pid_t launcher_pid;
  ConditionVariable refresher_left;  // broadcast whenever a refresher is gone
  DatabaseEntry databases[kMaxDatabases];
  ProviderEntry providers[kMaxProviderEntries];
};

// nullptr without preloading.
extern SharedState* shared_state;

LWLock* SharedLock();

// Runs f under the lock and returns what it returns. f must not raise and should
// take a few instructions: it is no place for palloc, ereport or a wait.
template <class F>
auto WithSharedLock(LWLockMode mode, F&& f) {
  LWLockAcquire(SharedLock(), mode);
  if constexpr (std::is_void_v<decltype(f())>) {
    f();
    LWLockRelease(SharedLock());
  } else {
    auto result = f();
    LWLockRelease(SharedLock());
    return result;
  }
}

// The caller holds the lock. Null when the database has no entry.
DatabaseEntry* FindLocked(Oid database);

// Has the refresher look. The latch alone would not do: PostgreSQL resets it when a transaction of the refresher waits
// for a lock or for a standby. The caller holds the lock exclusively.
void TellRefresherLocked(DatabaseEntry* entry);

// Takes back the entries of all providers of a database. The caller holds the lock exclusively.
void ForgetProviderStatesLocked(Oid database);

// The slots' memory is laid out by the process that created it, then found by the others.
Size RequestSlotsSize();
void InitRequestSlots(void* memory);
void AttachRequestSlots(void* memory);

// Ends requests of the database with kShuttingDown: those taken by a refresher that
// leaves, or all of them. The caller holds the lock exclusively.
void EndRequestsLocked(Oid database, bool taken_only);

}  // namespace token_refresh
