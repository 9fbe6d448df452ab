// A session asks the refresher for a credential and waits. The session itself never
// touches the network. May raise; reacts to cancel and terminate at once.
#pragma once

#include <cstdint>

#include "core/refresher.h"
#include "pg/catalog.h"

namespace token_refresh {

struct DemandOutcome {
  bool timed_out;
  DemandResult result;  // meaningless when timed_out
};

// Whether this server can refresh at all right now; fills why not with the error that
// RaiseCannotRefresh would raise.
bool CanRefresh();

// Raises why it cannot: library not preloaded (55000), hot standby (25006), database left out by
// token_refresh.databases (55000), launcher not running (55000).
[[noreturn]] void RaiseCannotRefresh();

// Waits at most timeout_ms. Raises object_in_use (55006) when this transaction has itself written
// the row, since the refresher cannot see that before COMMIT; configuration_limit_exceeded
// (53400) when all request slots are taken.
DemandOutcome RefreshAndWait(const ScheduleRow& row, int64_t timeout_ms);

// Word of the contract for a result, as in details of refresh_expiring_tokens.
const char* DemandResultName(DemandResult result);
// The tokens are fresh, wherever they lie.
bool IsFresh(DemandResult result);
// The failure class of the contract; null for results that are no failure.
const char* DemandFailure(DemandResult result);
// A sentence for results that leave no message of their own in the schedule; null otherwise.
const char* DemandMessage(DemandResult result);

}  // namespace token_refresh
