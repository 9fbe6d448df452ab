// The refresh engine: decides what to refresh next, asks providers, understands
// their answers, and hands the outcomes to the store. Knows no SQL, no sockets and no
// wall clock; the world is behind Store, HttpTransport and Clock. Owned and driven by
// the refresher worker (src/pg/refresher_worker.cpp), by tests and simulations.
//
//   due row -> ListDue -> ClaimRows -> BuildRefreshRequest -> Submit
//           -> Collect -> ReadTokenResponse -> Outcome -> Save -> finished
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/clock.h"
#include "core/http.h"
#include "core/provider_state.h"
#include "core/store.h"
#include "core/token_request.h"

namespace token_refresh {

// How a request made by RequestNow() ended. Stored as a byte in shared memory.
enum class DemandResult : uint8_t {
  kRefreshed = 1,
  kAlreadyRefreshed,  // somebody else's refresh served this caller
  kParked,            // refreshed; the table rejects the write, the token is in parked_result
  kSuperseded,        // other tokens were stored meanwhile; read them
  kTransient,
  kRateLimited,
  kReauth,            // the grant is dead, now or since before
  kClientConfig,
  kTooEarly,          // the provider's minimum interval forbids it
  kProviderFailing,   // the circuit breaker is open; not attempted
  kProviderDisabled,
  kNotFound,
  kLocked,
  kNoRefreshToken,
  kUnreadable,        // the ciphertext does not open with the keys at hand, or the table cannot be read
  kLeftAlone,         // the filter of its table does not hold for the row
  kShuttingDown,
  kInternal,          // the store failed; see the server log
  // Of requests that are no refresh (pg/shared_state.h, RequestKind):
  kSpent,          // the state of a sign-in has been used
  kExpired,        // ... is too old
  kOtherProvider,  // ... belongs to another provider
  kFailed,         // it was tried; the committed row says why it failed
};

struct FinishedDemand {
  int64_t schedule_id = 0;
  DemandResult result = DemandResult::kInternal;
};

struct RefresherSettings {
  int max_in_flight = 512;         // per provider, where it has no limit of its own
  int max_in_flight_total = 4096;  // bounded by the file descriptors at hand
  Micros refresh_margin = 5 * kMinute;
  bool background = true;          // false while paused: on-demand requests only
  HttpDefaults http;
};

// Plain counters since start, for the worker's statistics.
struct RefresherCounters {
  uint64_t requests = 0, refreshed = 0, failed = 0, superseded = 0, parked = 0;
};

class Refresher {
 public:
  // random_seed feeds the jitter.
  Refresher(Store& store, HttpTransport& transport, const Clock& clock, uint64_t random_seed);
  ~Refresher();

  void Configure(const RefresherSettings& settings);

  // Somebody waits for this credential. At most one request per credential is
  // ever under way; a second caller shares its fate. Ends up in TakeFinished().
  void RequestNow(int64_t schedule_id, int64_t seen_generation);

  // Rows may have become due earlier than known: look again.
  void ScheduleChanged();

  // Stops claiming; what is in flight is still received and saved.
  void BeginDrain();

  // One round: receive, save, claim, submit. Never blocks on the network.
  void Turn();

  // When Turn() wants to run again although nothing arrives; nothing: only on events.
  std::optional<Micros> NextTurnAt() const;

  // Requests in flight plus outcomes not stored yet.
  size_t unfinished() const;

  std::vector<FinishedDemand> TakeFinished();
  const RefresherCounters& counters() const;
  // Of the providers that are being asked or held back, in the order of their ids.
  std::vector<ProviderState> BusyProviders() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace token_refresh
