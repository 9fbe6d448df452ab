#include "core/refresh_outcome.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/refresh_policy.h"

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'700'000'000 * kSecond;

Claim MakeClaim() {
  Claim claim;
  claim.schedule_id = 7;
  claim.attempts = 2;
  claim.due_at = kNow - kSecond;
  claim.expires_at = kNow - kMinute;
  return claim;
}

AnswerContext Context(const Provider& provider) { return {provider, kNow, 5 * kMinute, 0}; }

TokenSet Tokens(std::optional<Micros> expires_in) {
  TokenSet tokens;
  tokens.access_token = Secret("fake-access");
  tokens.expires_in = expires_in;
  return tokens;
}

Outcome Failed(FailureClass failure, Claim claim = MakeClaim(), const Provider& provider = {},
               TransportFailure transport = TransportFailure::kNone, std::optional<Micros> retry_after = {}) {
  HttpResponse response;
  response.failure = transport;
  return FailedOutcome(std::move(claim), {{failure, "why", retry_after}, {}, {}, false}, response, Context(provider));
}

// A success, as its status says, that gave refresh_token alone; empty: that could not be read.
Outcome WithoutAccessToken(std::string_view refresh_token, Claim claim = MakeClaim(), const Provider& provider = {}) {
  FailedAnswer answer{{FailureClass::kTransient, "why", {}}, Secret(refresh_token), {}, refresh_token.empty()};
  return FailedOutcome(std::move(claim), std::move(answer), {}, Context(provider));
}

TEST(RefreshedOutcomeTest, PlansTheNextRefreshBeforeTheExpiry) {
  Claim claim = MakeClaim();
  claim.lost_response = true;
  const Outcome outcome = RefreshedOutcome(std::move(claim), Tokens(kHour), Context({}));
  ASSERT_TRUE(outcome.tokens.has_value());
  EXPECT_EQ(outcome.expires_at, kNow + kHour);
  EXPECT_EQ(outcome.due_at, kNow + kHour - 5 * kMinute);
  EXPECT_EQ(outcome.attempts, 0);
  EXPECT_FALSE(outcome.lost_response);
  EXPECT_EQ(outcome.refresh_expires_at, std::nullopt);
}

TEST(RefreshedOutcomeTest, KeepsTheDeadlineOfTheRefreshTokenAndTheHint) {
  TokenSet tokens = Tokens(kDay);
  tokens.refresh_expires_in = 10 * kHour;
  Outcome outcome = RefreshedOutcome(MakeClaim(), std::move(tokens), Context({}));
  EXPECT_EQ(outcome.refresh_expires_at, kNow + 10 * kHour);
  EXPECT_EQ(outcome.due_at, kNow + 10 * kHour - 5 * kMinute);

  tokens = Tokens(kDay);
  tokens.refresh_in = 2 * kHour;
  outcome = RefreshedOutcome(MakeClaim(), std::move(tokens), Context({}));
  EXPECT_EQ(outcome.due_at, kNow + 2 * kHour);
}

TEST(RefreshedOutcomeTest, AssumesALifetimeWhenNobodySaysIt) {
  EXPECT_EQ(RefreshedOutcome(MakeClaim(), Tokens({}), Context({})).expires_at, kNow + kAssumedLifetime);
  Provider provider;
  provider.options.timing.default_expires_in = 2 * kHour;
  EXPECT_EQ(RefreshedOutcome(MakeClaim(), Tokens({}), Context(provider)).expires_at, kNow + 2 * kHour);
}

TEST(RefreshedOutcomeTest, NeverPlansABusyLoop) {
  EXPECT_EQ(RefreshedOutcome(MakeClaim(), Tokens(kSecond), Context({})).due_at, kNow + kMinimumRefreshGap);
}

TEST(FailedOutcomeTest, TransientBacksOffAndCountsTheAttempt) {
  const Outcome outcome = Failed(FailureClass::kTransient);
  EXPECT_EQ(outcome.attempts, 3);
  EXPECT_EQ(outcome.due_at, kNow + 4 * kSecond);
  EXPECT_FALSE(outcome.lost_response);
}

TEST(FailedOutcomeTest, TransientIsUrgentWhileTheTokenLivesOrSomebodyWaits) {
  Claim expired = MakeClaim();
  expired.attempts = 20;
  EXPECT_EQ(Failed(FailureClass::kTransient, std::move(expired)).due_at, kNow + 5 * kMinute);
  Claim alive = MakeClaim();
  alive.attempts = 20;
  alive.expires_at = kNow + kMinute;
  EXPECT_EQ(Failed(FailureClass::kTransient, std::move(alive)).due_at, kNow + 30 * kSecond);
  Claim asked_for = MakeClaim();
  asked_for.attempts = 20;
  asked_for.asked_for = true;
  EXPECT_EQ(Failed(FailureClass::kTransient, std::move(asked_for)).due_at, kNow + 30 * kSecond);
}

TEST(FailedOutcomeTest, TransientHonoursTheProvidersCeilingAndWish) {
  Provider provider;
  provider.options.max_attempt_delay = 2 * kSecond;
  EXPECT_EQ(Failed(FailureClass::kTransient, MakeClaim(), provider).due_at, kNow + 2 * kSecond);
  EXPECT_EQ(Failed(FailureClass::kTransient, MakeClaim(), {}, TransportFailure::kNone, kMinute).due_at, kNow + kMinute);
  EXPECT_EQ(Failed(FailureClass::kTransient, MakeClaim(), {}, TransportFailure::kNone, kSecond).due_at,
            kNow + 4 * kSecond);
}

TEST(FailedOutcomeTest, RemembersThatAnAnswerMayBeLost) {
  const auto lost = [](TransportFailure transport) {
    return Failed(FailureClass::kTransient, MakeClaim(), {}, transport).lost_response;
  };
  EXPECT_TRUE(lost(TransportFailure::kMaybeHandled));
  EXPECT_TRUE(lost(TransportFailure::kTooLarge));
  EXPECT_FALSE(lost(TransportFailure::kNotSent));
  EXPECT_FALSE(lost(TransportFailure::kRefused));
  EXPECT_FALSE(lost(TransportFailure::kNone));
  for (const FailureClass failure :
       {FailureClass::kTransient, FailureClass::kRateLimited, FailureClass::kTooEarly, FailureClass::kClientConfig}) {
    Claim claim = MakeClaim();
    claim.lost_response = true;
    EXPECT_TRUE(Failed(failure, std::move(claim)).lost_response) << FailureName(failure);
  }
}

TEST(FailedOutcomeTest, DeadGrantsAreNeverDue) {
  const Outcome outcome = Failed(FailureClass::kReauth);
  EXPECT_EQ(outcome.failure->failure, FailureClass::kReauth);
  EXPECT_EQ(outcome.due_at, std::nullopt);
}

TEST(FailedOutcomeTest, DeadAfterALostAnswerSaysSo) {
  Claim claim = MakeClaim();
  claim.lost_response = true;
  const Outcome before = Failed(FailureClass::kReauth, std::move(claim));
  EXPECT_EQ(before.failure->failure, FailureClass::kLostResponse);
  EXPECT_EQ(before.due_at, std::nullopt);

  HttpResponse resent;
  resent.resent = true;
  FailedAnswer dead{{FailureClass::kReauth, "why", {}}, {}, {}, false};
  const Outcome now = FailedOutcome(MakeClaim(), std::move(dead), resent, Context({}));
  EXPECT_EQ(now.failure->failure, FailureClass::kLostResponse);
}

TEST(FailedOutcomeTest, KeepsARotatedRefreshToken) {
  Claim claim = MakeClaim();
  claim.refresh_token = Secret("fake-sent");
  claim.lost_response = true;
  FailedAnswer answer{{FailureClass::kTransient, "why", {}}, Secret("fake-rotated"), kDay, false};
  const Outcome outcome = FailedOutcome(std::move(claim), std::move(answer), {}, Context({}));
  EXPECT_EQ(outcome.rotated_refresh_token.view(), "fake-rotated");
  EXPECT_EQ(outcome.refresh_expires_at, kNow + kDay);
  EXPECT_FALSE(outcome.tokens.has_value());
  ASSERT_TRUE(outcome.failure.has_value());
  EXPECT_EQ(outcome.attempts, 3);
  EXPECT_EQ(outcome.due_at, kNow + 4 * kSecond);
  EXPECT_FALSE(outcome.lost_response) << "this answer settles what was lost before";
}

TEST(FailedOutcomeTest, TheSameRefreshTokenIsNoRotation) {
  Claim claim = MakeClaim();
  claim.refresh_token = Secret("fake-sent");
  const Outcome outcome = WithoutAccessToken("fake-sent", std::move(claim));
  EXPECT_TRUE(outcome.rotated_refresh_token.empty());
  EXPECT_FALSE(outcome.lost_response);
}

TEST(FailedOutcomeTest, ASuccessThatCouldNotBeReadIsALostAnswer) {
  const Outcome outcome = WithoutAccessToken("");
  EXPECT_EQ(outcome.failure->failure, FailureClass::kTransient);
  EXPECT_TRUE(outcome.lost_response);
}

TEST(FailedOutcomeTest, ALostAnswerIsAskedForWithinTheReplayWindow) {
  Provider provider;
  provider.options.replay_window = 30 * kSecond;
  const auto claim = [](bool lost_before) {
    Claim tired = MakeClaim();
    tired.attempts = 20;
    tired.lost_response = lost_before;
    return tired;
  };
  EXPECT_EQ(WithoutAccessToken("", claim(false)).due_at, kNow + 5 * kMinute);
  EXPECT_EQ(WithoutAccessToken("", claim(false), provider).due_at, kNow + 15 * kSecond);
  EXPECT_EQ(Failed(FailureClass::kTransient, claim(false), provider, TransportFailure::kMaybeHandled).due_at,
            kNow + 15 * kSecond);
  // A provider that loses every answer is not hammered for ever.
  EXPECT_EQ(WithoutAccessToken("", claim(true), provider).due_at, kNow + 5 * kMinute);
  EXPECT_EQ(Failed(FailureClass::kTransient, claim(false), provider).due_at, kNow + 5 * kMinute);
  // A long window does not make a short pause longer.
  EXPECT_EQ(WithoutAccessToken("", MakeClaim(), provider).due_at, kNow + 4 * kSecond);
}

TEST(FailedOutcomeTest, RateLimitsAreNoAttempts) {
  const Outcome named = Failed(FailureClass::kRateLimited, MakeClaim(), {}, TransportFailure::kNone, 7 * kSecond);
  EXPECT_EQ(named.due_at, kNow + 7 * kSecond);
  EXPECT_EQ(named.attempts, 2);
  EXPECT_EQ(Failed(FailureClass::kRateLimited).due_at, kNow + kRateLimitDelay);
}

TEST(FailedOutcomeTest, ClientConfigWaitsForMinutesAtMostAnHour) {
  EXPECT_EQ(Failed(FailureClass::kClientConfig).due_at, kNow + kMinute);
  Claim claim = MakeClaim();
  claim.attempts = 30;
  claim.asked_for = true;
  EXPECT_EQ(Failed(FailureClass::kClientConfig, std::move(claim)).due_at, kNow + kHour);
}

TEST(FailedOutcomeTest, TooEarlyWaitsForTheMinimumInterval) {
  const Outcome outcome = Failed(FailureClass::kTooEarly);
  EXPECT_EQ(outcome.due_at, kNow + kTooEarlyDelay);
  EXPECT_EQ(outcome.attempts, 2);
  Provider provider;
  provider.options.timing.min_interval = 570 * kSecond;
  EXPECT_EQ(Failed(FailureClass::kTooEarly, MakeClaim(), provider).due_at, kNow + 570 * kSecond);
}

TEST(FailedOutcomeTest, AnAnswerCannotSupersede) {
  EXPECT_EQ(Failed(FailureClass::kSuperseded).failure->failure, FailureClass::kTransient);
}

TEST(FailedOutcomeTest, AttemptsDoNotOverflow) {
  Claim claim = MakeClaim();
  claim.attempts = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(Failed(FailureClass::kTransient, std::move(claim)).attempts, std::numeric_limits<int32_t>::max());
}

TEST(ReleasedOutcomeTest, LeavesTheRowAsItWas) {
  Claim claim = MakeClaim();
  claim.lost_response = true;
  const Outcome outcome = ReleasedOutcome(std::move(claim), kNow);
  EXPECT_TRUE(outcome.released);
  EXPECT_FALSE(outcome.tokens || outcome.failure);
  EXPECT_EQ(outcome.attempts, 2);
  EXPECT_EQ(outcome.due_at, kNow - kSecond);
  EXPECT_TRUE(outcome.lost_response);
}

TEST(EarliestRefreshTest, IsSetByTheMinimumInterval) {
  Provider provider;
  Claim claim = MakeClaim();
  claim.last_refreshed_at = kNow - kMinute;
  EXPECT_EQ(EarliestRefresh(claim, provider, kNow), std::nullopt);
  provider.options.timing.min_interval = 5 * kMinute;
  EXPECT_EQ(EarliestRefresh(claim, provider, kNow), kNow + 4 * kMinute);
  claim.last_refreshed_at = kNow - 5 * kMinute;
  EXPECT_EQ(EarliestRefresh(claim, provider, kNow), std::nullopt);
  claim.last_refreshed_at = kNow + kDay;  // the clock was set back
  EXPECT_EQ(EarliestRefresh(claim, provider, kNow), kNow + 5 * kMinute);
  claim.last_refreshed_at.reset();
  EXPECT_EQ(EarliestRefresh(claim, provider, kNow), std::nullopt);
}

TEST(TooEarlyOutcomeTest, MovesOnlyWhatIsDue) {
  const Outcome due = TooEarlyOutcome(MakeClaim(), kNow + kMinute, kNow);
  EXPECT_EQ(due.due_at, kNow + kMinute);
  EXPECT_EQ(due.failure->failure, FailureClass::kTooEarly);
  Claim later = MakeClaim();
  later.due_at = kNow + kHour;
  EXPECT_TRUE(TooEarlyOutcome(std::move(later), kNow + kMinute, kNow).released);
  Claim never = MakeClaim();
  never.due_at.reset();
  EXPECT_TRUE(TooEarlyOutcome(std::move(never), kNow + kMinute, kNow).released);
}

TEST(ResultOfTest, NamesWhatTheCallerCanExpect) {
  const Outcome refreshed = RefreshedOutcome(MakeClaim(), Tokens(kHour), Context({}));
  EXPECT_EQ(ResultOf(refreshed, SaveVerdict::kSaved), DemandResult::kRefreshed);
  EXPECT_EQ(ResultOf(refreshed, SaveVerdict::kParked), DemandResult::kParked);
  EXPECT_EQ(ResultOf(refreshed, SaveVerdict::kSuperseded), DemandResult::kSuperseded);
  EXPECT_EQ(ResultOf(refreshed, SaveVerdict::kGone), DemandResult::kNotFound);
  EXPECT_EQ(ResultOf(refreshed, SaveVerdict::kNotStored), DemandResult::kInternal);
  Claim claim = MakeClaim();
  claim.lost_response = true;
  EXPECT_EQ(ResultOf(Failed(FailureClass::kReauth, std::move(claim)), SaveVerdict::kSaved), DemandResult::kReauth);
  EXPECT_EQ(ResultOf(Failed(FailureClass::kClientConfig), SaveVerdict::kSaved), DemandResult::kClientConfig);
}

}  // namespace
}  // namespace token_refresh
