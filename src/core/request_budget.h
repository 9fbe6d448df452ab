// How many requests a provider may be sent in a minute. Spread evenly, so that no minute, wherever it begins, has
// more. Private to the refresh engine.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "core/clock.h"

namespace token_refresh {

// The generic cell rate algorithm. Where there is no limit nothing is kept.
class RequestBudget {
 public:
  int Available(Micros now, std::optional<int> per_minute) const {
    if (!per_minute) return std::numeric_limits<int>::max();
    const Micros ahead = Ahead(now, *per_minute);
    return std::max(0,
                    static_cast<int>(Burst(*per_minute) - (ahead + Spacing(*per_minute) - 1) / Spacing(*per_minute)));
  }

  // When the next one is available; now at the earliest.
  Micros NextAt(Micros now, std::optional<int> per_minute) const {
    if (!per_minute) return now;
    return now + std::max<Micros>(0, Ahead(now, *per_minute) - (Burst(*per_minute) - 1) * Spacing(*per_minute));
  }

  void Take(Micros now, std::optional<int> per_minute) {
    if (per_minute) spent_until_ = now + Ahead(now, *per_minute) + Spacing(*per_minute);
  }

 private:
  // So many may go out at once: what a second has, so that a late turn costs nothing.
  static Micros Burst(int per_minute) { return std::max(1, per_minute / 60); }
  // Rounded up; with the burst on top a minute has per_minute at the most.
  static Micros Spacing(int per_minute) {
    const Micros rate = per_minute - Burst(per_minute) + 1;
    return (kMinute + rate - 1) / rate;
  }

  // How far the requests so far reach beyond now. A clock that was set back must not stop them for long.
  Micros Ahead(Micros now, int per_minute) const {
    return std::clamp<Micros>(spent_until_ - now, 0, (Burst(per_minute) + 1) * Spacing(per_minute));
  }

  Micros spent_until_ = 0;
};

}  // namespace token_refresh
