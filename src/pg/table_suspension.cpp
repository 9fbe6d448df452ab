#include "pg/table_suspension.h"

#include <algorithm>
#include <unordered_map>

namespace token_refresh {

namespace {

constexpr Micros kFirst = 10 * kSecond;
constexpr Micros kLongest = 10 * kMinute;

struct Suspension {
  Micros until = 0;
  Micros length = 0;
};

std::unordered_map<int32_t, Suspension>& Suspensions() {
  static std::unordered_map<int32_t, Suspension> suspensions;
  return suspensions;
}

}  // namespace

bool IsSuspended(int32_t token_table, Micros now) {
  const auto found = Suspensions().find(token_table);
  return found != Suspensions().end() && now < found->second.until;
}

void Suspend(int32_t token_table, Micros now) {
  Suspension& suspension = Suspensions()[token_table];
  suspension.length = suspension.length == 0 ? kFirst : std::min(2 * suspension.length, kLongest);
  suspension.until = now + suspension.length;
}

void EndSuspension(int32_t token_table) { Suspensions().erase(token_table); }

}  // namespace token_refresh
