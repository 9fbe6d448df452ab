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

void AtTransactionEnd(XactEvent event, void* arg) {
  switch (event) {
    case XACT_EVENT_COMMIT:
      Fulfil(wishes);
      wishes = kNone;
      break;
    case XACT_EVENT_ABORT:
    case XACT_EVENT_PREPARE:
      wishes = kNone;
      break;
    default:
      break;
  }
}

void EnsureCallback() {
  static bool registered = false;
  if (registered) return;
  RegisterXactCallback(AtTransactionEnd, nullptr);
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
