#include "pg/wakeup.h"

#include "pg/postgres_api.h"
#include "pg/shared_state.h"

namespace token_refresh {
namespace {

// What the current transaction has asked for.
struct Wishes {
  TimestampTz earliest_due;
  bool launcher;
  bool all;
};
constexpr Wishes kNone = {DT_NOEND, false, false};
Wishes wishes = kNone;

void Fulfil(const Wishes& wanted) {
  if (wanted.all) {
    LookForExtension(MyDatabaseId);
    WakeRefresher(MyDatabaseId);
  } else if (wanted.earliest_due != DT_NOEND) {
    WakeRefresherFor(MyDatabaseId, wanted.earliest_due);
  }
  if (wanted.all || wanted.launcher) WakeLauncher();
}

void AtTransactionEnd(XactEvent event, void*) {
  if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE) wishes = kNone;
}

// Not at XACT_EVENT_COMMIT: then other processes have not been told yet to forget what they have cached, and who
// is woken so early may find everything as it was and sleep again.
void AfterCommit(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void*) {
  if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_commit || !is_top_level) return;
  const Wishes wanted = wishes;
  wishes = kNone;
  Fulfil(wanted);
}

void EnsureCallback() {
  static bool registered = false;
  if (registered) return;
  RegisterXactCallback(AtTransactionEnd, nullptr);
  RegisterResourceReleaseCallback(AfterCommit, nullptr);
  registered = true;
}

}  // namespace

void WakeRefresherAtCommit(TimestampTz due_at) {
  if (!SharedStateAvailable()) return;
  EnsureCallback();
  wishes.earliest_due = Min(wishes.earliest_due, due_at);
}

void WakeLauncherAtCommit() {
  if (!SharedStateAvailable()) return;
  EnsureCallback();
  wishes.launcher = true;
}

void WakeAllAtCommit() {
  if (!SharedStateAvailable()) return;
  EnsureCallback();
  wishes.all = true;
}

}  // namespace token_refresh
