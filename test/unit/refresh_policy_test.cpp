#include "core/refresh_policy.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'800'000'000 * kSecond;
constexpr Micros kDefaultMargin = 5 * kMinute;
constexpr Micros kFirst = std::numeric_limits<Micros>::min();
constexpr Micros kLast = std::numeric_limits<Micros>::max();

TokenTimes LivesFor(Micros lifetime) {
  TokenTimes times;
  times.issued_at = kNow;
  times.expires_at = kNow + lifetime;
  return times;
}

// The due time as a delay from the issue, without jitter.
std::optional<Micros> DelayOf(const RefreshTiming& timing, const TokenTimes& times, double jitter = 0) {
  const std::optional<Micros> due = DueAt(timing, kDefaultMargin, times, jitter);
  if (!due) return std::nullopt;
  return *due - times.issued_at;
}

TEST(RefreshMarginTest, DefaultIsFiveMinutesOrAQuarterOfTheLifetime) {
  const RefreshTiming timing;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + kHour), 5 * kMinute);
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + 20 * kMinute), 5 * kMinute);
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + 10 * kMinute), 150 * kSecond);
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + 8 * kSecond), 2 * kSecond);
  EXPECT_EQ(RefreshMargin(timing, 0, kNow, kNow + kHour), 0);
}

TEST(RefreshMarginTest, TheProvidersMarginWins) {
  RefreshTiming timing;
  timing.refresh_margin = 50 * kMinute;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + kHour), 50 * kMinute);
  timing.refresh_margin = 0;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + kHour), 0);
}

TEST(RefreshMarginTest, AMarginThatLeavesNothingOfTheLifetimeFallsBackToTheDefault) {
  RefreshTiming timing;
  timing.refresh_margin = kHour;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + kHour), 5 * kMinute);
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + kHour + 1), kHour);
  timing.refresh_margin = 10 * kDay;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + 8 * kSecond), 2 * kSecond);
}

TEST(RefreshMarginTest, NoLifetimeHasNoMargin) {
  RefreshTiming timing;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow), 0);
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow - kHour), 0);
  timing.refresh_margin = kMinute;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow - kHour), 0);
  timing.refresh_margin = -kMinute;
  EXPECT_EQ(RefreshMargin(timing, kDefaultMargin, kNow, kNow + kHour), 0);
}

TEST(DueAtTest, ExpiryMinusMargin) {
  const RefreshTiming timing;
  EXPECT_EQ(DelayOf(timing, LivesFor(kHour)), 55 * kMinute);
  EXPECT_EQ(DelayOf(timing, LivesFor(8 * kSecond)), 6 * kSecond);
}

TEST(DueAtTest, NothingWithoutAReason) {
  TokenTimes times;
  times.issued_at = kNow;
  RefreshTiming timing;
  timing.min_interval = kHour;
  EXPECT_EQ(DueAt(timing, kDefaultMargin, times, 0.5), std::nullopt);
}

TEST(DueAtTest, KeepAliveIsAReasonOfItsOwn) {
  RefreshTiming timing;
  timing.keep_alive = 7 * kDay;
  TokenTimes times;
  times.issued_at = kNow;
  EXPECT_EQ(DelayOf(timing, times), 7 * kDay);
  EXPECT_EQ(DelayOf(timing, LivesFor(kHour)), 55 * kMinute);
  EXPECT_EQ(DelayOf(timing, LivesFor(60 * kDay)), 7 * kDay);
}

TEST(DueAtTest, TheRefreshTokensDeadlineHasAMarginOfItsOwn) {
  const RefreshTiming timing;
  TokenTimes times;
  times.issued_at = kNow;
  times.refresh_expires_at = kNow + 90 * kDay;
  EXPECT_EQ(DelayOf(timing, times), 90 * kDay - 5 * kMinute);
  times.expires_at = kNow + kHour;
  EXPECT_EQ(DelayOf(timing, times), 55 * kMinute);
  times.refresh_expires_at = kNow + 8 * kMinute;
  EXPECT_EQ(DelayOf(timing, times), 6 * kMinute);
}

TEST(DueAtTest, TheProvidersHintCountsWhenItIsEarlier) {
  const RefreshTiming timing;
  TokenTimes times = LivesFor(kDay);
  times.refresh_hint_at = kNow + 12 * kHour;
  EXPECT_EQ(DelayOf(timing, times), 12 * kHour);
  times.refresh_hint_at = kNow + 2 * kDay;
  EXPECT_EQ(DelayOf(timing, times), kDay - 5 * kMinute);
}

TEST(DueAtTest, TheMinimumIntervalBeatsEveryReason) {
  // Exact Online: lives ten minutes, a new one not before nine and a half.
  RefreshTiming timing;
  timing.min_interval = 9 * kMinute + 30 * kSecond;
  for (double jitter : {0.0, 0.5, 0.999}) {
    EXPECT_EQ(DelayOf(timing, LivesFor(10 * kMinute), jitter), 9 * kMinute + 30 * kSecond);
  }
  timing.keep_alive = kMinute;
  TokenTimes times = LivesFor(10 * kMinute);
  times.refresh_hint_at = kNow + 5;
  EXPECT_EQ(DelayOf(timing, times), 9 * kMinute + 30 * kSecond);
  EXPECT_EQ(DelayOf(timing, LivesFor(-kDay)), 9 * kMinute + 30 * kSecond);
}

TEST(DueAtTest, WhatHasExpiredIsDueSinceThen) {
  const RefreshTiming timing;
  EXPECT_EQ(DelayOf(timing, LivesFor(0), 0.9), 0);
  EXPECT_EQ(DelayOf(timing, LivesFor(-kHour), 0.9), -kHour);
}

TEST(DueAtTest, ATokenIsNeverDueAtTheMomentOfItsIssueForItsMarginsSake) {
  RefreshTiming timing;
  timing.refresh_margin = 2 * kHour;
  EXPECT_EQ(DelayOf(timing, LivesFor(kHour)), 55 * kMinute);
}

TEST(DueAtTest, JitterPullsForwardByATenthAtMost) {
  const RefreshTiming timing;
  EXPECT_EQ(DelayOf(timing, LivesFor(8 * kSecond), 0.5), 5700 * kMillisecond);
  EXPECT_EQ(DelayOf(timing, LivesFor(kHour), 0.5), 55 * kMinute - 165 * kSecond);
}

TEST(DueAtTest, JitterIsTenMinutesAtMost) {
  const RefreshTiming timing;
  EXPECT_EQ(DelayOf(timing, LivesFor(60 * kDay), 0.5), 60 * kDay - 5 * kMinute - 5 * kMinute);
}

TEST(DueAtTest, JitterKeepsItsBoundsForAnyToken) {
  std::mt19937_64 random(20260417);
  const auto up_to = [&](Micros most) { return std::uniform_int_distribution<Micros>(0, most)(random); };
  for (int i = 0; i < 100'000; ++i) {
    RefreshTiming timing;
    if (i % 3 == 0) timing.refresh_margin = up_to(kHour);
    if (i % 5 == 0) timing.min_interval = up_to(kHour);
    if (i % 7 == 0) timing.keep_alive = 1 + up_to(90 * kDay);
    TokenTimes times = LivesFor(1 + up_to(i % 2 ? 2 * kHour : 365 * kDay));
    if (i % 11 == 0) times.refresh_expires_at = kNow + 1 + up_to(90 * kDay);
    const double jitter = std::uniform_real_distribution<double>(0, 1)(random);
    const Micros latest = DelayOf(timing, times, 0).value();
    const Micros delay = DelayOf(timing, times, jitter).value();
    ASSERT_LE(delay, latest);
    ASSERT_GE(delay, timing.min_interval);
    ASSERT_GT(delay, 0);
    ASSERT_GE(delay, latest - latest / 10);
    ASSERT_GE(delay, latest - 10 * kMinute);
  }
}

TEST(DueAtTest, JitterSpreadsTokensThatWereMadeTogether) {
  const RefreshTiming timing;
  const Micros earliest = DelayOf(timing, LivesFor(kHour), 0.99).value();
  const Micros latest = DelayOf(timing, LivesFor(kHour), 0.01).value();
  EXPECT_GT(latest - earliest, 5 * kMinute);
}

TEST(DueAtTest, ExtremeTimesDoNotOverflow) {
  const Micros extremes[] = {kFirst, kFirst + 1, -1, 0, 1, kNow, kLast - 1, kLast};
  for (Micros issued : extremes) {
    for (Micros expires : extremes) {
      for (Micros interval : extremes) {
        RefreshTiming timing;
        timing.min_interval = interval;
        timing.keep_alive = interval;
        timing.refresh_margin = expires;
        TokenTimes times;
        times.issued_at = issued;
        times.expires_at = expires;
        times.refresh_expires_at = expires;
        times.refresh_hint_at = expires;
        for (double jitter : {0.0, 0.999999, 1.0, 7.0, -1.0}) {
          EXPECT_LE(DueAt(timing, interval, times, jitter).value(), kLast);
          timing.refresh_margin.reset();
        }
      }
    }
  }
}

TEST(BackoffDelayTest, DoublesFromOneSecondToTheCeiling) {
  const Micros calm[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300};
  const Micros urgent[] = {1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30};
  for (int attempts = 1; attempts <= 12; ++attempts) {
    EXPECT_EQ(BackoffDelay(attempts, false, std::nullopt, 0), calm[attempts - 1] * kSecond) << attempts;
    EXPECT_EQ(BackoffDelay(attempts, true, std::nullopt, 0), urgent[attempts - 1] * kSecond) << attempts;
  }
}

TEST(BackoffDelayTest, TheProvidersCeilingHolds) {
  EXPECT_EQ(BackoffDelay(20, false, 2 * kHour, 0), 2 * kHour);
  EXPECT_EQ(BackoffDelay(20, true, 2 * kHour, 0), 30 * kSecond);
  EXPECT_EQ(BackoffDelay(20, true, 10 * kSecond, 0), 10 * kSecond);
  EXPECT_EQ(BackoffDelay(20, false, 10 * kSecond, 0), 10 * kSecond);
  EXPECT_EQ(BackoffDelay(3, false, Micros{0}, 0.5), 0);
  EXPECT_EQ(BackoffDelay(3, false, -kSecond, 0.5), 0);
}

TEST(BackoffDelayTest, JitterAddsThirtyPercentAtMostAlsoAtTheCeiling) {
  for (int attempts : {1, 2, 5, 6, 9, 100}) {
    for (bool urgent : {false, true}) {
      const Micros base = BackoffDelay(attempts, urgent, std::nullopt, 0);
      for (int step = 0; step < 1000; ++step) {
        const Micros delay = BackoffDelay(attempts, urgent, std::nullopt, step / 1000.0);
        ASSERT_GE(delay, base);
        ASSERT_LT(delay, base + base * 3 / 10);
      }
      EXPECT_GT(BackoffDelay(attempts, urgent, std::nullopt, 0.9), base + base / 4);
    }
  }
}

TEST(BackoffDelayTest, AnyNumberOfAttemptsIsFine) {
  EXPECT_EQ(BackoffDelay(0, false, std::nullopt, 0), kSecond);
  EXPECT_EQ(BackoffDelay(-5, false, std::nullopt, 0), kSecond);
  EXPECT_EQ(BackoffDelay(std::numeric_limits<int>::min(), false, std::nullopt, 0), kSecond);
  EXPECT_EQ(BackoffDelay(std::numeric_limits<int>::max(), false, std::nullopt, 0), 5 * kMinute);
  EXPECT_EQ(BackoffDelay(std::numeric_limits<int>::max(), true, std::nullopt, 0), 30 * kSecond);
  EXPECT_GT(BackoffDelay(std::numeric_limits<int>::max(), false, kLast, 0.99), kDay);
}

TEST(CircuitBreakerTest, OpensAfterFiveFailuresInARow) {
  CircuitBreaker breaker;
  for (int i = 0; i < 4; ++i) breaker.RecordFailure(kNow, 0);
  EXPECT_FALSE(breaker.open());
  EXPECT_TRUE(breaker.MayRequest(kNow, 512));
  breaker.RecordSuccess();
  for (int i = 0; i < 4; ++i) breaker.RecordFailure(kNow, 0);
  EXPECT_FALSE(breaker.open());
  breaker.RecordFailure(kNow, 0);
  EXPECT_TRUE(breaker.open());
  EXPECT_EQ(breaker.next_probe_at(), kNow + kSecond);
}

TEST(CircuitBreakerTest, ProbesOneAtATimeWhenTheTimeHasCome) {
  CircuitBreaker breaker;
  for (int i = 0; i < 5; ++i) breaker.RecordFailure(kNow, 0);
  EXPECT_FALSE(breaker.MayRequest(kNow, 0));
  EXPECT_FALSE(breaker.MayRequest(kNow + kSecond - 1, 0));
  EXPECT_TRUE(breaker.MayRequest(kNow + kSecond, 0));
  EXPECT_FALSE(breaker.MayRequest(kNow + kSecond, 1));
  EXPECT_FALSE(breaker.MayRequest(kNow + kHour, 1));
}

// Fails whenever a probe is allowed; returns the time of the next one.
Micros FailNextProbe(CircuitBreaker& breaker, double jitter = 0) {
  const Micros now = breaker.next_probe_at();
  EXPECT_TRUE(breaker.MayRequest(now, 0));
  breaker.RecordFailure(now, jitter);
  return breaker.next_probe_at() - now;
}

CircuitBreaker OpenBreaker() {
  CircuitBreaker breaker;
  for (int i = 0; i < CircuitBreaker::kFailuresToOpen; ++i) breaker.RecordFailure(kNow, 0);
  return breaker;
}

TEST(CircuitBreakerTest, IntervalsGrowFromOneSecondToAMinute) {
  CircuitBreaker breaker = OpenBreaker();
  for (Micros seconds : {2, 4, 8, 16, 32, 60, 60, 60}) EXPECT_EQ(FailNextProbe(breaker), seconds * kSecond);
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(FailNextProbe(breaker), kMinute);
  EXPECT_EQ(FailNextProbe(breaker, 0.5), 69 * kSecond);
}

TEST(CircuitBreakerTest, TheManyThatFailTogetherCountOnce) {
  CircuitBreaker breaker = OpenBreaker();
  for (int i = 0; i < 500; ++i) breaker.RecordFailure(kNow + i, 0);
  EXPECT_EQ(breaker.next_probe_at(), kNow + kSecond);
  // Those that fail only when the first probe is due make the interval grow by one step, not by 500.
  for (int i = 0; i < 500; ++i) breaker.RecordFailure(kNow + kSecond, 0);
  EXPECT_EQ(breaker.next_probe_at(), kNow + 3 * kSecond);
}

TEST(CircuitBreakerTest, AClockThatWasSetBackDoesNotKeepItOpen) {
  CircuitBreaker breaker = OpenBreaker();
  const Micros now = kNow - kHour;
  EXPECT_TRUE(breaker.MayRequest(now, 0));
  breaker.RecordFailure(now, 0);
  EXPECT_EQ(breaker.next_probe_at(), now + 2 * kSecond);
  EXPECT_FALSE(breaker.MayRequest(now + kSecond, 0));
}

TEST(CircuitBreakerTest, ASuccessClosesItAndForgets) {
  CircuitBreaker breaker = OpenBreaker();
  for (int i = 0; i < 20; ++i) FailNextProbe(breaker);
  breaker.RecordSuccess();
  EXPECT_FALSE(breaker.open());
  EXPECT_TRUE(breaker.MayRequest(kNow, 100));
  for (int i = 0; i < CircuitBreaker::kFailuresToOpen; ++i) breaker.RecordFailure(kNow, 0);
  EXPECT_EQ(breaker.next_probe_at(), kNow + kSecond);
}

TEST(CircuitBreakerTest, TheEndOfTimeDoesNotOverflow) {
  CircuitBreaker breaker;
  for (int i = 0; i < 5; ++i) breaker.RecordFailure(kLast, 0.9);
  EXPECT_EQ(breaker.next_probe_at(), kLast);
}

}  // namespace
}  // namespace token_refresh
