// The refresher's process: what it owns, and the parts of it that lie in more than one file. For refresher_worker
// (the turns of the loop), refresher_setup (before the first) and refresher_wait (between them) only.
#pragma once

#include <memory>

#include "core/curl_transport.h"
#include "core/refresher.h"
#include "pg/boundary.h"
#include "pg/desks.h"
#include "pg/provider_board.h"
#include "pg/shared_state.h"
#include "pg/store.h"

namespace token_refresh {

class WallClock final : public Clock {
 public:
  Micros Now() const override { return FromTimestamp(GetCurrentTimestamp()); }
};

// What the worker owns. Allocated once and never freed: the process ends by proc_exit, which
// runs no destructors of this frame.
struct Worker {
  Oid database = InvalidOid;
  WallClock clock;
  std::unique_ptr<PgStore> store;
  std::unique_ptr<CurlTransport> transport;
  std::unique_ptr<Desks> desks;
  std::unique_ptr<Refresher> engine;
  ProviderBoard board;
  RefresherSettings settings;
  Micros recover_at = 1;   // when to look for lost answers; 0: that is done
  Micros look_at = 0;      // sessions rely on the schedule being looked at by then; 0: on nothing
  Micros drain_until = 0;  // 0: not draining
  bool hurrying = false;   // draining while a command on the database waits
  XLogRecPtr unflushed = InvalidXLogRecPtr;  // the end of a commit that did not wait for the disk
  Micros flush_at = 0;                       // 0: nothing is unflushed
  WaitEventSet* wait_set = nullptr;
};

// A C++ step of the worker; what it throws ends the worker, and the launcher starts another.
template <class F>
void Step(F&& f) {
  PlainError error;
  if (CallCpp(error, std::forward<F>(f))) return;
  ereport(FATAL, (errcode(error.sqlstate), errmsg("token_refresh refresher: %s", error.message)));
}

bool ExtensionPresent(Worker* worker);

// phase: what the launcher then takes the database for.
[[noreturn]] void Leave(RefresherPhase phase);

// Statements are short and set-based: plans that walk an index for each element of an array, and no
// long wait for a lock.
void SetSessionDefaults();

// Ends the process when something is wrong.
Worker* MakeWorker(Oid database);

// By the settings as they are now.
void Configure(Worker* worker);

// A COMMIT that makes something due wakes the refresher only if that is earlier than the advertised
// time. So until the schedule has been read every COMMIT must wake it, and at the advertised time it must
// really be read, whatever the engine itself has in mind then.
void KeepPromiseToLook(Worker* worker);

// Claims are committed without waiting for the disk. When no save comes along that flushes them too, they are
// flushed while the providers think: after a crash only what is on disk is known to have been asked.
void FlushClaims(Worker* worker);

// Until something has happened, or it is time for something. May leave.
void Wait(Worker* worker);

}  // namespace token_refresh
