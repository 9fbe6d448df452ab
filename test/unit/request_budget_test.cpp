#include "core/request_budget.h"

#include <gtest/gtest.h>

#include <deque>

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'700'000'000 * kSecond;

TEST(RequestBudgetTest, WithoutALimitThereIsAlwaysRoom) {
  RequestBudget budget;
  budget.Take(kNow, std::nullopt);
  EXPECT_GT(budget.Available(kNow, std::nullopt), 1000000);
  EXPECT_EQ(budget.NextAt(kNow, std::nullopt), kNow);
}

TEST(RequestBudgetTest, OneAMinute) {
  RequestBudget budget;
  EXPECT_EQ(budget.Available(kNow, 1), 1);
  budget.Take(kNow, 1);
  EXPECT_EQ(budget.Available(kNow, 1), 0);
  EXPECT_EQ(budget.NextAt(kNow, 1), kNow + kMinute);
  EXPECT_EQ(budget.Available(kNow + kMinute - 1, 1), 0);
  EXPECT_EQ(budget.Available(kNow + kMinute, 1), 1);
}

TEST(RequestBudgetTest, AClockThatWasSetBackStopsItForOneRequestOnly) {
  RequestBudget budget;
  budget.Take(kNow, 60);
  EXPECT_LE(budget.NextAt(kNow - kDay, 60), kNow - kDay + 2 * kSecond);
}

// Whoever takes what there is never has more in any minute, and gets nearly all that is allowed.
TEST(RequestBudgetTest, NoMinuteHasMore) {
  for (const int per_minute : {1, 2, 7, 59, 60, 61, 100, 600, 6000}) {
    RequestBudget budget;
    std::deque<Micros> last_minute;
    int total = 0;
    for (Micros now = kNow; now < kNow + 10 * kMinute; now = std::max(now + 1, budget.NextAt(now, per_minute))) {
      while (!last_minute.empty() && last_minute.front() <= now - kMinute) last_minute.pop_front();
      for (int room = budget.Available(now, per_minute); room > 0; room--) {
        budget.Take(now, per_minute);
        last_minute.push_back(now);
        total++;
      }
      ASSERT_LE(last_minute.size(), static_cast<size_t>(per_minute));
    }
    EXPECT_GE(total, per_minute * 10 * 95 / 100) << per_minute;
  }
}

}  // namespace
}  // namespace token_refresh
