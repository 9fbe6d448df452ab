// When to refresh, when to try again, when to leave a provider alone. Pure
// arithmetic on Micros; used by the engine, and by the trigger that feeds the
// schedule when an application stores tokens.
#pragma once

#include <cstdint>
#include <optional>

#include "core/clock.h"
#include "core/provider.h"

namespace token_refresh {

struct TokenTimes {
  Micros issued_at = 0;
  std::optional<Micros> expires_at;
  std::optional<Micros> refresh_expires_at;
  std::optional<Micros> refresh_hint_at;  // the provider's refresh_in
};

// The lifetime of an access token of which nobody says how long it lives (RFC 6749 section 5.1
// leaves expires_in optional). An hour is what most providers give; a wrong guess
// costs one refresh too many, or readers who hold a dead token for at most that long.
constexpr Micros kAssumedLifetime = 1 * kHour;

// That of the provider, where it has one of its own.
Micros AssumedLifetime(const RefreshTiming& timing);

// How long before its expiry a token counts as due: the provider's margin, else
// min(default_margin, a quarter of the lifetime). Never more than the lifetime.
Micros RefreshMargin(const RefreshTiming& timing, Micros default_margin, Micros issued_at, Micros expires_at);

// The earliest of (expiry - margin), (refresh token's deadline - margin), the hint and
// the keep-alive, never sooner than issued_at + min_interval. Earlier by up to a tenth of the way
// from issued_at to there, so that tokens made together do not fall due together:
// jitter is in [0, 1). Nothing when there is no reason ever to refresh. At once where the provider is to be
// asked when the token expires.
std::optional<Micros> DueAt(const RefreshTiming& timing, Micros default_margin, const TokenTimes& times, double jitter);

// Delay before attempt number attempts + 1 after attempts >= 1 failures: 1 s x 2^(attempts-1)
// plus up to 30 % jitter; at most 30 s while urgent (the token still lives, or was asked for),
// otherwise at most ceiling (default 5 minutes).
Micros BackoffDelay(int attempts, bool urgent, std::optional<Micros> ceiling, double jitter);

constexpr Micros kRateLimitDelay = 60 * kSecond;  // when the provider names none

// One per provider, in the refresher's memory: after kFailuresToOpen failures in
// a row without a success the provider is probed with one request at a time,
// at growing intervals (1 s to 60 s), instead of being hammered.
class CircuitBreaker {
 public:
  static constexpr int kFailuresToOpen = 5;

  void RecordSuccess();
  void RecordFailure(Micros now, double jitter);
  bool open() const { return consecutive_failures_ >= kFailuresToOpen; }
  // When closed always; when open only if the probe's time has come and none is under way.
  bool MayRequest(Micros now, int in_flight) const;
  // When open: the time of the next probe.
  Micros next_probe_at() const { return next_probe_at_; }

 private:
  int consecutive_failures_ = 0;
  Micros next_probe_at_ = 0;
};

}  // namespace token_refresh
