// A session asks the refresher for a credential and waits. The session itself never
// touches the network. May raise; reacts to cancel and terminate at once.
#pragma once

#include <cstdint>

#include "core/refresher.h"
#include "pg/catalog.h"

namespace token_refresh {

enum class DemandEnd {
  kAnswered,
  kTimedOut,       // the refresh goes on
  // The refresher was not asked:
  kCannotRefresh,  // RaiseCannotRefresh says why
  kOwnWrite,       // this transaction has itself written the row, which nobody else sees before COMMIT
  kNoSlot,         // all request slots are taken
};

struct DemandOutcome {
  DemandEnd end;
  DemandResult result;  // of kAnswered alone
};

// Whether this server can refresh at all right now.
bool CanRefresh();

// Raises why it cannot: library not preloaded (55000), hot standby (25006), database left out by
// token_refresh.databases (55000), launcher not running (55000).
[[noreturn]] void RaiseCannotRefresh();

// Waits at most timeout_ms. Raises on cancel and terminate alone.
DemandOutcome RefreshAndWait(const ScheduleRow& row, int64_t timeout_ms);

bool WasAsked(const DemandOutcome& outcome);
bool IsFresh(const DemandOutcome& outcome);
// For those who have nothing to fall back on when the refresher was not asked: the errors of
// RaiseCannotRefresh, object_in_use (55006), configuration_limit_exceeded (53400).
[[noreturn]] void RaiseNotAsked(const DemandOutcome& outcome);

// Word of the contract for a result, as in details of refresh_expiring_tokens.
const char* DemandResultName(DemandResult result);
// The tokens are fresh, wherever they lie.
bool IsFresh(DemandResult result);
// The failure class of the contract; null for results that are no failure.
const char* DemandFailure(DemandResult result);
// A sentence for results that leave no message of their own in the schedule; null otherwise.
const char* DemandMessage(DemandResult result);
const char* DemandMessage(const DemandOutcome& outcome);

}  // namespace token_refresh
