// Time as an interface, so that the engine can be tested without sleeping.
// All times in the core are Micros: microseconds since 1970-01-01 00:00 UTC.
#pragma once

#include <cstdint>

namespace token_refresh {

using Micros = int64_t;

constexpr Micros kMillisecond = 1000;
constexpr Micros kSecond = 1000 * kMillisecond;
constexpr Micros kMinute = 60 * kSecond;
constexpr Micros kHour = 60 * kMinute;
constexpr Micros kDay = 24 * kHour;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Micros Now() const = 0;
};

}  // namespace token_refresh
