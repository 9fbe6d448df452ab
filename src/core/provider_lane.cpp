#include "core/provider_lane.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

namespace token_refresh {
namespace {

// When rows fall due one after the other, one list finds many of them.
constexpr Micros kListSpacing = 20 * kMillisecond;

constexpr int kReservedShare = 8;  // of the total, the part kept for lanes that hold little

bool SameRule(const ErrorRule& a, const ErrorRule& b) {
  return std::tie(a.status, a.pointer, a.value, a.failure) == std::tie(b.status, b.pointer, b.value, b.failure);
}

// Whether both would send the same request and read the answer alike.
bool SameRegistration(const Provider& a, const Provider& b) {
  const auto request = [](const ProviderOptions& o) {
    return std::tie(o.request, o.answer, o.auth_method, o.basic_encoding, o.basic_user, o.assertion,
                    o.client_certificate, o.client_key, o.allow_special_addresses, o.token_endpoint, o.scope,
                    o.request_params, o.request_headers, o.ca_file, o.allow_insecure_http, o.connect_timeout,
                    o.timeout);
  };
  return a.client_id == b.client_id && a.client_secret.Equals(b.client_secret.view()) &&
         a.previous_client_secret.Equals(b.previous_client_secret.view()) && a.RefreshUrl() == b.RefreshUrl() &&
         request(a.options) == request(b.options) &&
         std::equal(a.options.error_rules.begin(), a.options.error_rules.end(), b.options.error_rules.begin(),
                    b.options.error_rules.end(), SameRule);
}

}  // namespace

void ProviderLane::SetProvider(std::shared_ptr<const Provider> provider) {
  if (provider != provider_ && !SameRegistration(*provider, *provider_)) {
    breaker_ = CircuitBreaker();
    blocked_until_ = 0;
    prefers_previous_secret_ = false;
  }
  provider_ = std::move(provider);
}

LaneGate ProviderLane::GateAt(Micros now) const {
  if (!provider_->options.enabled) return LaneGate::kDisabled;
  if (now < blocked_until_) return LaneGate::kRateLimited;
  if (!breaker_.MayRequest(now, probes_in_flight_)) return LaneGate::kFailing;
  return LaneGate::kOpen;
}

ProviderState ProviderLane::StateAt(Micros now) const {
  ProviderState state{provider_->id, in_flight_};
  if (now < blocked_until_) state.blocked_until = blocked_until_;
  if (breaker_.open()) state.probe_at = breaker_.next_probe_at();
  if (const Micros budget_at = BudgetAt(now); now < budget_at) state.budget_at = budget_at;
  return state;
}

void ProviderLane::RecordSign(ProviderSign sign, bool was_probe, Micros now, double jitter) {
  if (sign == ProviderSign::kAlive) breaker_.RecordSuccess();
  // What was sent before the breaker opened and fails after it says nothing new: counted, it would
  // stretch the time to the next probe to its maximum at once.
  if (sign == ProviderSign::kFailing && (was_probe || !breaker_.open())) breaker_.RecordFailure(now, jitter);
}

bool ProviderLane::StartRequest(Micros now) {
  const bool probe = breaker_.open();
  budget_.Take(now, provider_->options.requests_per_minute);
  in_flight_++;
  if (probe) probes_in_flight_++;
  return probe;
}

void ProviderLane::EndRequest(bool was_probe) {
  in_flight_--;
  if (was_probe) probes_in_flight_--;
}

int ProviderLane::Room(Micros now, int limit) const {
  if (GateAt(now) != LaneGate::kOpen) return 0;
  const int free = std::min(std::max(0, provider_->options.max_in_flight.value_or(limit) - in_flight_),
                            budget_.Available(now, provider_->options.requests_per_minute));
  return breaker_.open() ? std::min(free, 1) : free;
}

int ProviderLane::Places(Micros now, int limit) const {
  return std::max(0, Room(now, limit) - static_cast<int>(backlog.size()));
}

void ProviderLane::Listed(Micros now, bool more, std::optional<Micros> next_due_at) {
  list_again_ = false;
  more_due_ = more;
  next_due_at_ = next_due_at;
  listed_at_ = now;
}

std::optional<Micros> ProviderLane::ListAt(Micros now) const {
  if (more_due_) return now;
  if (!list_again_ && !next_due_at_) return std::nullopt;
  const Micros wanted = list_again_ ? now : *next_due_at_;
  // A clock that was set back must not stop the lists.
  if (!listed_at_ || *listed_at_ > now) return wanted;
  return std::max(wanted, *listed_at_ + kListSpacing);
}

bool ProviderLane::WantsList(Micros now) const {
  const std::optional<Micros> at = ListAt(now);
  return at && *at <= now;
}

std::optional<Micros> ProviderLane::WorkAt(Micros now) const { return ready.empty() ? ListAt(now) : now; }

std::optional<Micros> ProviderLane::OpensAt(Micros now) const {
  switch (GateAt(now)) {
    case LaneGate::kOpen:
      return BudgetAt(now);
    case LaneGate::kRateLimited:
      return blocked_until_;
    case LaneGate::kFailing:
      if (probes_in_flight_ > 0) return std::nullopt;
      return std::max(blocked_until_, breaker_.next_probe_at());
    case LaneGate::kDisabled:
      break;
  }
  return std::nullopt;
}

bool MayTakePlace(int holding, int free_places, int total, int lane_count) {
  if (free_places <= 0) return false;
  const int reserve = lane_count > 1 ? total / kReservedShare : 0;
  return free_places > reserve || holding < std::max(1, total / std::max(1, lane_count));
}

void SharePlaces(std::vector<PlaceShare>& lanes, int free_places, int total, int lane_count) {
  using Entry = std::pair<int, size_t>;  // what the lane would hold, which
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> least;
  for (size_t i = 0; i < lanes.size(); i++)
    if (lanes[i].wanted > 0) least.push({lanes[i].holding, i});

  while (!least.empty()) {
    const auto [holding, i] = least.top();
    least.pop();
    // Everybody left holds at least as much.
    if (!MayTakePlace(holding, free_places, total, lane_count)) return;
    free_places--;
    if (++lanes[i].given < lanes[i].wanted) least.push({holding + 1, i});
  }
}

}  // namespace token_refresh
