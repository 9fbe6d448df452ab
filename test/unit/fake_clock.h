// A clock that stands still until a test moves it.
#pragma once

#include <algorithm>

#include "core/clock.h"

namespace token_refresh {

class FakeClock : public Clock {
 public:
  Micros Now() const override { return now_; }
  void Advance(Micros by) { now_ += by; }
  void AdvanceTo(Micros time) { now_ = std::max(now_, time); }

 private:
  Micros now_ = 1'700'000'000 * kSecond;
};

}  // namespace token_refresh
