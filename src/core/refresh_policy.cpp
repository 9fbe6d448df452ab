#include "core/refresh_policy.h"

#include <algorithm>
#include <limits>

namespace token_refresh {
namespace {

constexpr Micros kFirstBackoff = 1 * kSecond;
constexpr Micros kUrgentCeiling = 30 * kSecond;
constexpr Micros kDefaultCeiling = 5 * kMinute;
constexpr double kBackoffJitter = 0.3;
// 2^20 s is twelve days: more than any ceiling that makes sense, and far from overflow.
constexpr int kMaxDoublings = 20;

constexpr Micros kMargins = 4;  // the default margin is at most a quarter of the lifetime
constexpr Micros kMaxDueJitter = 10 * kMinute;
constexpr Micros kJitterShare = 10;  // due times are pulled forward by at most a tenth

constexpr Micros kFirstProbe = 1 * kSecond;
constexpr Micros kLastProbe = 60 * kSecond;

// Times come from providers and applications: sums and differences stop at the ends of the range.
Micros SaturatingAdd(Micros a, Micros b) {
  Micros sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b > 0 ? std::numeric_limits<Micros>::max() : std::numeric_limits<Micros>::min();
}

Micros SaturatingSubtract(Micros a, Micros b) {
  Micros difference;
  if (!__builtin_sub_overflow(a, b, &difference)) return difference;
  return b < 0 ? std::numeric_limits<Micros>::max() : std::numeric_limits<Micros>::min();
}

double ClampJitter(double jitter) { return jitter > 0 ? std::min(jitter, 1.0) : 0; }

// jitter x length, rounded down and never beyond length, whatever a double makes of a huge one.
Micros JitterPart(Micros length, double jitter) {
  if (length <= 0) return 0;
  const double part = static_cast<double>(length) * ClampJitter(jitter);
  return part >= static_cast<double>(length) ? length : static_cast<Micros>(part);
}

// base x 2^doublings, at most ceiling. ceiling >= 0.
Micros Doubled(Micros base, int doublings, Micros ceiling) {
  return std::min(base << std::clamp(doublings, 0, kMaxDoublings), ceiling);
}

Micros WithBackoffJitter(Micros delay, double jitter) {
  return SaturatingAdd(delay, static_cast<Micros>(static_cast<double>(delay) * kBackoffJitter * ClampJitter(jitter)));
}

// Also when it lies further ahead than any interval: then the clock was set back.
bool ProbeIsDue(Micros now, Micros next_probe_at) {
  return now >= next_probe_at || SaturatingSubtract(next_probe_at, now) > 2 * kLastProbe;
}

void KeepEarlier(std::optional<Micros>& due, Micros candidate) { due = due ? std::min(*due, candidate) : candidate; }

}  // namespace

Micros AssumedLifetime(const RefreshTiming& timing) { return timing.default_expires_in.value_or(kAssumedLifetime); }

Micros RefreshMargin(const RefreshTiming& timing, Micros default_margin, Micros issued_at, Micros expires_at) {
  const Micros lifetime = std::max<Micros>(SaturatingSubtract(expires_at, issued_at), 0);
  // A provider's margin that leaves nothing of the lifetime would make every new token due at once,
  // for ever: the default rule holds instead.
  if (timing.refresh_margin && *timing.refresh_margin < lifetime) return std::max<Micros>(*timing.refresh_margin, 0);
  return std::clamp<Micros>(default_margin, 0, lifetime / kMargins);
}

std::optional<Micros> DueAt(const RefreshTiming& timing, Micros default_margin, const TokenTimes& times,
                            double jitter) {
  if (timing.introspects && !times.expires_at) return times.issued_at;
  std::optional<Micros> due;
  // The refresh token's deadline is kept by the same rule as the access token's expiry: lifetimes
  // of days make the margin default_margin, short ones a quarter.
  for (const std::optional<Micros>& deadline : {times.expires_at, times.refresh_expires_at}) {
    if (!deadline) continue;
    KeepEarlier(due, SaturatingSubtract(*deadline, RefreshMargin(timing, default_margin, times.issued_at, *deadline)));
  }
  if (times.refresh_hint_at) KeepEarlier(due, *times.refresh_hint_at);
  if (timing.keep_alive) KeepEarlier(due, SaturatingAdd(times.issued_at, std::max<Micros>(*timing.keep_alive, 0)));
  if (!due) return std::nullopt;

  const Micros earliest = SaturatingAdd(times.issued_at, std::max<Micros>(timing.min_interval, 0));
  if (*due <= earliest) {
    // Without a minimum interval an expiry in the past stays there: what expired first is refreshed first.
    return timing.min_interval > 0 ? earliest : *due;
  }
  const Micros room = SaturatingSubtract(*due, times.issued_at) / kJitterShare;
  return std::max(*due - JitterPart(std::min(room, kMaxDueJitter), jitter), earliest);
}

// The jitter comes on top of the ceiling, so that callers who all wait at the ceiling
// still spread out: no delay exceeds 1.3 ceilings.
Micros BackoffDelay(int attempts, bool urgent, std::optional<Micros> ceiling, double jitter) {
  Micros limit = std::max<Micros>(ceiling.value_or(kDefaultCeiling), 0);
  if (urgent) limit = std::min(limit, kUrgentCeiling);
  return WithBackoffJitter(Doubled(kFirstBackoff, std::max(attempts, 1) - 1, limit), jitter);
}

void CircuitBreaker::RecordSuccess() {
  consecutive_failures_ = 0;
  next_probe_at_ = 0;
}

void CircuitBreaker::RecordFailure(Micros now, double jitter) {
  // Not a probe but one of the many that were in flight when the provider went down: they all
  // tell of the same failure.
  if (open() && !ProbeIsDue(now, next_probe_at_)) return;
  consecutive_failures_ = std::min(consecutive_failures_ + 1, kFailuresToOpen + kMaxDoublings);
  if (!open()) return;
  const Micros interval = Doubled(kFirstProbe, consecutive_failures_ - kFailuresToOpen, kLastProbe);
  next_probe_at_ = SaturatingAdd(now, WithBackoffJitter(interval, jitter));
}

bool CircuitBreaker::MayRequest(Micros now, int in_flight) const {
  return !open() || (in_flight == 0 && ProbeIsDue(now, next_probe_at_));
}

}  // namespace token_refresh
