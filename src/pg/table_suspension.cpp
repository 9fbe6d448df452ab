#include "pg/table_suspension.h"

#include <algorithm>
#include <new>
#include <unordered_map>

namespace token_refresh {

namespace {

// So long an access may take without being counted: a large batch on a busy machine does.
constexpr Micros kFree = kSecond / 2;
// What is counted is forgiven again at the rate of one second in ten, and may add up to so much.
constexpr int64_t kForgiven = 10;
constexpr Micros kAllowance = 2 * kSecond;
constexpr Micros kFirst = 10 * kSecond;
constexpr Micros kLongest = 10 * kMinute;

struct TableTime {
  Micros counted = 0;
  Micros counted_at = 0;
  Micros suspended_until = 0;
  Micros suspended_for = 0;
};

std::unordered_map<int32_t, TableTime>& TableTimes() {
  static std::unordered_map<int32_t, TableTime> times;
  return times;
}

// Null: there is no memory. Called where nothing may be thrown.
TableTime* FindOrAdd(int32_t token_table) noexcept {
  try {
    return &TableTimes()[token_table];
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace

Micros SuspendedUntil(int32_t token_table, Micros now) {
  const auto found = TableTimes().find(token_table);
  return found != TableTimes().end() && now < found->second.suspended_until ? found->second.suspended_until : 0;
}

void NoteTableTime(int32_t token_table, Micros now, Micros took) {
  if (took <= kFree) return;
  TableTime* known = FindOrAdd(token_table);
  if (known == nullptr) return;
  TableTime& time = *known;
  time.counted = std::max<Micros>(time.counted - (now - time.counted_at) / kForgiven, 0) + took - kFree;
  time.counted_at = now;
  if (time.counted <= kAllowance) return;
  // Whether it has mended its ways is seen when it has been left in peace for a time.
  const bool again = time.suspended_for > 0 && now < time.suspended_until + kLongest;
  time.suspended_for = again ? std::min(2 * time.suspended_for, kLongest) : kFirst;
  time.suspended_until = now + time.suspended_for;
}

}  // namespace token_refresh
