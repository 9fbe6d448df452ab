// What the refresh engine knows of one provider: its requests in flight, its health, and which of
// its rows wait to be claimed. Private to the engine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/provider.h"
#include "core/provider_state.h"
#include "core/refresh_policy.h"
#include "core/request_budget.h"
#include "core/store.h"

namespace token_refresh {

// What the provider's answer says about the provider itself.
enum class ProviderSign { kAlive, kFailing, kNeither };

// Why nothing may be asked of a provider now.
enum class LaneGate { kOpen, kDisabled, kRateLimited, kFailing };

class ProviderLane {
 public:
  explicit ProviderLane(std::shared_ptr<const Provider> provider) : provider_(std::move(provider)) {}

  const Provider& provider() const { return *provider_; }
  const std::shared_ptr<const Provider>& shared_provider() const { return provider_; }
  // As it is to be shown; what is over at that time is left out.
  ProviderState StateAt(Micros now) const;
  // What went wrong with the old registration says nothing about a changed one.
  void SetProvider(std::shared_ptr<const Provider> provider);

  // Health.
  LaneGate GateAt(Micros now) const;
  bool keeps_failing() const { return breaker_.open(); }
  void BlockUntil(Micros time) { blocked_until_ = std::max(blocked_until_, time); }
  // Introspection is limited by itself: it must not keep tokens from being refreshed.
  void BlockIntrospectionUntil(Micros time) { introspection_blocked_until_ = std::max(introspection_blocked_until_, time); }
  Micros introspection_blocked_until() const { return introspection_blocked_until_; }
  // was_probe: the request was sent while the provider was already known to fail.
  void RecordSign(ProviderSign sign, bool was_probe, Micros now, double jitter);

  // Which of two client secrets the provider has last been content with.
  bool prefers_previous_secret() const { return prefers_previous_secret_; }
  void PreferSecret(bool previous) { prefers_previous_secret_ = previous; }

  // Requests. StartRequest returns whether it is a probe.
  bool StartRequest(Micros now);
  void EndRequest(bool was_probe);
  int in_flight() const { return in_flight_; }
  // How many more requests may start now, and how many of those are left over by the backlog.
  // limit holds where the provider has none of its own.
  int Room(Micros now, int limit) const;
  int Places(Micros now, int limit) const;

  // When requests_per_minute allows the next request.
  Micros BudgetAt(Micros now) const { return budget_.NextAt(now, provider_->options.requests_per_minute); }

  // Claims of waiting callers that were made before their provider was known to be busy.
  std::deque<Claim> backlog;

  // Rows that are due, as listed; some may have been served otherwise since.
  std::deque<int64_t> ready;
  int held = 0;  // due rows that are left alone for a while

  // The due list.
  void ListAgain() { list_again_ = true; }
  void MayBeDueAt(Micros time) { next_due_at_ = std::min(time, next_due_at_.value_or(time)); }
  // more: rows that are due did not fit into the list.
  void Listed(Micros now, bool more, std::optional<Micros> next_due_at);
  bool WantsList(Micros now) const;
  // When there is, or may be, background work, whether or not the provider may be asked then.
  std::optional<Micros> WorkAt(Micros now) const;
  // When GateAt() may open; nothing: only an event can open it.
  std::optional<Micros> OpensAt(Micros now) const;

 private:
  std::shared_ptr<const Provider> provider_;
  CircuitBreaker breaker_;
  RequestBudget budget_;
  Micros blocked_until_ = 0;
  Micros introspection_blocked_until_ = 0;
  bool prefers_previous_secret_ = false;
  int in_flight_ = 0;
  int probes_in_flight_ = 0;
  bool list_again_ = true;  // nothing is known yet
  bool more_due_ = false;
  std::optional<Micros> next_due_at_;
  std::optional<Micros> listed_at_;

  // When the next list is wanted; nothing: not before an event.
  std::optional<Micros> ListAt(Micros now) const;
};

// Requests are also bounded in total. Unless a lane holds less than an equal share of the total, the
// last eighth is left to others, so that a slow provider cannot take everything
// while no other has work.
bool MayTakePlace(int holding, int free_places, int total, int lane_count);

struct PlaceShare {
  int wanted = 0;   // places that the lane could use
  int holding = 0;  // what it has in flight
  int given = 0;    // the answer
};

// Gives free places to lanes, one by one, to whoever holds least: what a slow provider keeps
// for long counts against it.
void SharePlaces(std::vector<PlaceShare>& lanes, int free_places, int total, int lane_count);

}  // namespace token_refresh
