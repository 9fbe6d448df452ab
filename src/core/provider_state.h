// What keeps requests from a provider at the moment, as the refresh engine tells those who look after the
// database. Made by the engine (provider_lane.cpp), shown by status(). Holds nothing but ids, counts and times.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "core/clock.h"

namespace token_refresh {

struct ProviderState {
  int32_t provider_id = 0;
  int32_t in_flight = 0;     // refreshes under way
  Micros blocked_until = 0;  // the provider has asked for patience until then; 0: it has not
  Micros probe_at = 0;       // it keeps failing, and is asked again no sooner than then; 0: it does not
  Micros budget_at = 0;      // requests_per_minute allows the next request then; 0: at once
  bool unusable = false;     // its options or its client secret cannot be read; the engine does not know it

  // Whether there is nothing to tell.
  bool quiet() const {
    return in_flight == 0 && blocked_until == 0 && probe_at == 0 && budget_at == 0 && !unusable;
  }
  bool operator==(const ProviderState&) const = default;
};

struct HeldBack {
  const char* reason = nullptr;
  Micros until = 0;  // the next request goes out no sooner; 0: not known
};

// The state may be older than now: what is over is not shown. Only the next due row ends the state of
// a provider that keeps failing, so its time may have passed.
inline std::optional<HeldBack> WhyHeldBack(const ProviderState& state, Micros now) {
  if (state.unusable) return HeldBack{"unusable", 0};
  if (now < state.blocked_until) return HeldBack{"rate_limited", std::max(state.blocked_until, state.probe_at)};
  if (state.probe_at != 0) return HeldBack{"failing", state.probe_at};
  if (now < state.budget_at) return HeldBack{"requests_per_minute", state.budget_at};
  return std::nullopt;
}

}  // namespace token_refresh
