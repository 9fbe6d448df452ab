// The engine in the background: listing, claiming, limits, failing providers and failing stores.
#include "core/refresher.h"

#include "engine_fixture.h"

namespace token_refresh {
namespace {

class RefresherTest : public EngineTest {
 protected:
  void Configure(int per_provider, int total) {
    RefresherSettings settings;
    settings.max_in_flight = per_provider;
    settings.max_in_flight_total = total;
    engine->Configure(settings);
  }

  int InFlightOf(int64_t first, int64_t count) const {
    int found = 0;
    for (int64_t id = first; id < first + count; id++) found += InFlight(id);
    return found;
  }
};

TEST_F(RefresherTest, RefreshesWhatIsDueAndSleepsUntilTheNextDueTime) {
  AddRow(1);
  AddRow(2, kHour);
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());
  Turn();
  ASSERT_EQ(transport.pending.size(), 1u);
  EXPECT_EQ(engine->unfinished(), 1u);
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(Row(1).access_token, "fake-access");
  EXPECT_EQ(Row(1).expires_at, clock.Now() + kHour);
  EXPECT_TRUE(store.journal.empty());
  EXPECT_EQ(engine->unfinished(), 0u);
  EXPECT_EQ(engine->NextTurnAt(), std::min(*Row(1).due_at, *Row(2).due_at));
  EXPECT_EQ(engine->counters().requests, 1u);
  EXPECT_EQ(engine->counters().refreshed, 1u);
}

TEST_F(RefresherTest, IdleCostsNothing) {
  Turn();
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
  AddRow(1, kHour);
  engine->ScheduleChanged();
  EXPECT_EQ(Run(kMinute), 1);
  EXPECT_EQ(engine->NextTurnAt(), Row(1).due_at);
  EXPECT_EQ(store.claim_calls, 0);
}

TEST_F(RefresherTest, EveryWakeUpMakesProgress) {
  AddRow(1, kMinute);
  Turn();
  EXPECT_EQ(Run(kMinute), 1);
  EXPECT_TRUE(InFlight(1));
  // What is in flight is waited for, not polled.
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
}

TEST_F(RefresherTest, ListsOnceForManyTurns) {
  Configure(10, 1000);
  AddRows(1, 500);
  Turn();
  EXPECT_EQ(transport.pending.size(), 10u);
  for (int64_t id = 1; id <= 400; id++) Answer(id, Success(id));
  EXPECT_EQ(store.lists, 1);
  EXPECT_EQ(transport.pending.size(), 10u);
}

TEST_F(RefresherTest, ComesBackForWhatDidNotFitIntoTheList) {
  Configure(2000, 4000);
  AddRows(1, 2500);
  while (engine->NextTurnAt() == clock.Now()) {
    Turn();
    transport.AnswerAllPending(200, R"({"access_token":"fake-access","expires_in":3600})");
    Turn();
  }
  EXPECT_EQ(engine->counters().refreshed, 2500u);
  EXPECT_LE(store.lists, 4);
}

TEST_F(RefresherTest, KeepsTheRefreshTokenThatTheAnswerOmits) {
  AddRow(1);
  Turn();
  Answer(1, MakeResponse(200, R"({"access_token":"fake-access"})"));
  EXPECT_EQ(Row(1).refresh_token, FirstToken(1));
  EXPECT_EQ(Row(1).expires_at, clock.Now() + kHour);
}

TEST_F(RefresherTest, AShortLifetimeIsNoBusyLoop) {
  AddRow(1);
  Turn();
  Answer(1, Success(1, 1));
  EXPECT_GE(*engine->NextTurnAt(), clock.Now() + kSecond);
}

TEST_F(RefresherTest, ATransientFailureIsTriedAgainWithBackoff) {
  AddRow(1);
  Turn();
  Answer(1, Down());
  EXPECT_EQ(Row(1).attempts, 1);
  EXPECT_EQ(Row(1).failure, FailureClass::kTransient);
  EXPECT_EQ(Row(1).status, "connected");
  EXPECT_GE(*Row(1).due_at, clock.Now() + kSecond);
  EXPECT_LE(*Row(1).due_at, clock.Now() + 1300 * kMillisecond);
  Run(2 * kSecond);
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).attempts, 0);
  EXPECT_EQ(engine->counters().failed, 1u);
}

TEST_F(RefresherTest, ADeadGrantIsNeverPresentedAgain) {
  AddRow(1);
  Turn();
  Answer(1, Dead());
  EXPECT_EQ(Row(1).status, "needs_reauth");
  EXPECT_EQ(Row(1).failure, FailureClass::kReauth);
  engine->ScheduleChanged();
  Run(kDay);
  EXPECT_EQ(engine->counters().requests, 1u);
}

TEST_F(RefresherTest, DeadAfterALostAnswerSaysSo) {
  AddRow(1);
  Turn();
  Answer(1, MakeTransportFailure(TransportFailure::kMaybeHandled));
  EXPECT_TRUE(Row(1).lost_response);
  Run(2 * kSecond);
  Answer(1, Dead());
  EXPECT_EQ(Row(1).failure, FailureClass::kLostResponse);
}

TEST_F(RefresherTest, SecretsThatAProviderEchoesAreScrubbed) {
  AddRow(1);
  Turn();
  Answer(1, MakeResponse(400, R"({"error":"odd","error_description":"fake-refresh-1 of fake-client-password"})"));
  EXPECT_EQ(Row(1).message.find("fake-refresh-1"), std::string::npos);
  EXPECT_EQ(Row(1).message.find("fake-client-password"), std::string::npos);
}

TEST_F(RefresherTest, ARateLimitStopsTheWholeProviderAndNoOther) {
  SetProvider(2);
  Configure(1, 100);
  AddRows(1, 2, 1);
  AddRow(10, 0, 2);
  Turn();
  Answer(1, Throttled("30"));
  EXPECT_EQ(Row(1).attempts, 0);
  EXPECT_FALSE(InFlight(2));
  EXPECT_TRUE(InFlight(10));
  EXPECT_EQ(engine->NextTurnAt(), clock.Now() + 30 * kSecond);
  Run(30 * kSecond);
  EXPECT_TRUE(InFlight(2));
}

TEST_F(RefresherTest, ARateLimitWithoutATimeLastsAMinute) {
  AddRow(1);
  Turn();
  Answer(1, Throttled());
  Run(59 * kSecond);
  EXPECT_FALSE(InFlight(1));
  Run(3 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherTest, AFailingProviderIsProbedNotHammered) {
  AddRows(1, 200);
  Configure(5, 100);
  Turn();
  AnswerAll(1, 5, Down);
  EXPECT_TRUE(transport.pending.empty());
  Run(2 * kSecond);
  EXPECT_EQ(transport.pending.size(), 1u);
  transport.Answer(FormField(transport.pending[0].request, "refresh_token"), Down());
  Turn();
  Run(kSecond);
  EXPECT_TRUE(transport.pending.empty());
  Run(3 * kSecond);
  ASSERT_EQ(transport.pending.size(), 1u);
  transport.Answer(FormField(transport.pending[0].request, "refresh_token"), Success(6));
  Turn();
  EXPECT_EQ(transport.pending.size(), 5u);
}

TEST_F(RefresherTest, AWrongClientIsProbedToo) {
  AddRows(1, 20);
  Configure(5, 100);
  Turn();
  AnswerAll(1, 5, BadClient);
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).status, "error");
  EXPECT_GE(*Row(1).due_at, clock.Now() + kMinute);
  // Mended by a person: asked at once.
  ProviderOptions options;
  options.scope = "mended";
  SetProvider(1, options);
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());
  Turn();
  EXPECT_EQ(transport.pending.size(), 5u);
}

TEST_F(RefresherTest, HonoursTheProvidersOwnLimit) {
  ProviderOptions options;
  options.max_in_flight = 2;
  SetProvider(1, options);
  AddRows(1, 10);
  Turn();
  EXPECT_EQ(transport.pending.size(), 2u);
  Answer(1, Success(1));
  EXPECT_EQ(transport.pending.size(), 2u);
}

TEST_F(RefresherTest, ASlowProviderStarvesNoOther) {
  SetProvider(2);
  Configure(512, 64);
  AddRows(1, 200, 1);
  Turn();
  EXPECT_EQ(transport.pending.size(), 56u);  // an eighth is kept for others
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
  AddRows(1001, 100, 2);
  engine->ScheduleChanged();
  clock.Advance(kSecond);
  Turn();
  EXPECT_EQ(InFlightOf(1001, 100), 8);
  // Places that the slow one gives back go to whoever holds less.
  for (int64_t id = 1; id <= 10; id++) Answer(id, Success(id));
  EXPECT_EQ(InFlightOf(1001, 100), 18);
  EXPECT_EQ(InFlightOf(1, 200), 46);
}

TEST_F(RefresherTest, UnreadableAndLockedRowsAreLeftAloneForAWhile) {
  AddRow(1).unreadable = true;
  AddRow(2).locked = true;
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_LE(Run(10 * kSecond), 12);
  Row(2).locked = false;
  Run(2 * kSecond);
  EXPECT_TRUE(InFlight(2));
  Row(1).unreadable = false;
  Run(60 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherTest, HeldRowsDoNotHideTheOthers) {
  for (int64_t id = 1; id <= 3000; id++) AddRow(id).unreadable = true;
  AddRow(3001, 1);
  clock.Advance(kSecond);
  Run(kSecond);
  EXPECT_TRUE(InFlight(3001));
}

TEST_F(RefresherTest, ARefusedRowThatStaysDueDoesNotSpin) {
  AddRow(1).status = "needs_reauth";
  AddRow(2).refresh_token.clear();
  Turn();
  EXPECT_LE(Run(10 * kMinute), 11);
  EXPECT_EQ(engine->counters().requests, 0u);
}

TEST_F(RefresherTest, ARejectedWriteIsParkedAndWrittenLater) {
  AddRow(1).rejects_writes = true;
  Turn();
  Answer(1, Success(1));
  EXPECT_EQ(engine->counters().parked, 1u);
  EXPECT_LE(Run(10 * kSecond), 20);
  EXPECT_EQ(Row(1).refresh_token, FirstToken(1));
  Row(1).rejects_writes = false;
  Run(5 * kSecond);
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(engine->counters().requests, 1u);  // the retired token was not presented again
  EXPECT_EQ(engine->NextTurnAt(), Row(1).due_at);
}

TEST_F(RefresherTest, SupersededTokensAreLeftAlone) {
  AddRow(1);
  Turn();
  store.SignIn(1, "fake-signed-in", clock.Now() + kHour, clock.Now() + kHour);
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).refresh_token, "fake-signed-in");
  EXPECT_EQ(engine->counters().superseded, 1u);
  Run(kSecond);
  EXPECT_EQ(engine->NextTurnAt(), Row(1).due_at);
}

TEST_F(RefresherTest, ARowThatIsGoneIsForgotten) {
  AddRow(1);
  Turn();
  store.rows.erase(1);
  ASSERT_TRUE(transport.Answer(FirstToken(1), Success(1)));
  Turn();
  EXPECT_EQ(engine->unfinished(), 0u);
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
}

TEST_F(RefresherTest, WhatCannotBeStoredIsKeptUntilItCan) {
  AddRow(1).fail_saves = 4;
  Turn();
  Answer(1, Success(1));
  EXPECT_EQ(engine->unfinished(), 1u);
  EXPECT_EQ(Row(1).refresh_token, FirstToken(1));
  EXPECT_LE(Run(6 * kSecond), 4);
  EXPECT_EQ(engine->unfinished(), 1u);
  Run(20 * kSecond);
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(engine->counters().requests, 1u);
  EXPECT_EQ(engine->unfinished(), 0u);
}

TEST_F(RefresherTest, OneRowThatCannotBeStoredHoldsNobodyUp) {
  AddRow(1).fail_saves = 1000;
  Turn();
  Answer(1, Success(1));
  AddRow(2);
  engine->ScheduleChanged();
  Run(kSecond);
  Answer(2, Success(2));
  EXPECT_EQ(Row(2).refresh_token, NextToken(2));
  EXPECT_EQ(engine->unfinished(), 1u);
}

TEST_F(RefresherTest, ManyUnsavedAnswersStopNewRequests) {
  AddRows(1, 200);
  Configure(150, 1000);
  store.fail_saves = 1000 * 1000;
  Turn();
  for (int64_t id = 1; id <= 150; id++) ASSERT_TRUE(transport.Answer(FirstToken(id), Success(id)));
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_LE(Run(10 * kMinute), 30);
  EXPECT_TRUE(transport.pending.empty());
  store.fail_saves = 0;
  Run(kMinute);
  EXPECT_EQ(transport.pending.size(), 50u);
  EXPECT_EQ(engine->counters().refreshed, 150u);
}

TEST_F(RefresherTest, StoreErrorsAreNotHammered) {
  AddRow(1);
  store.fail_lists = 5;
  const int turns = Run(20 * kSecond);
  EXPECT_LE(turns, 6);
  EXPECT_GE(turns, 4);
  EXPECT_FALSE(InFlight(1));
  Run(60 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherTest, AFailedClaimIsTriedAgain) {
  AddRow(1);
  store.fail_claims = 1;
  Turn();
  EXPECT_FALSE(InFlight(1));
  Run(2 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherTest, ProvidersThatCannotBeReadAreTriedAgain) {
  AddRow(1);
  store.fail_loads = 2;
  EXPECT_LE(Run(10 * kSecond), 4);
  EXPECT_TRUE(InFlight(1));
  EXPECT_EQ(store.loads, 3);
}

TEST_F(RefresherTest, ADisabledProviderIsLeftAlone) {
  ProviderOptions options;
  options.enabled = false;
  SetProvider(1, options);
  AddRow(1);
  Turn();
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
  EXPECT_EQ(store.lists, 0);
  SetProvider(1);
  Turn();
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherTest, ADroppedProviderStillGetsItsAnswersSaved) {
  AddRows(1, 2);
  Configure(1, 10);
  Turn();
  store.providers.clear();
  store.providers_version++;
  Turn();
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
}

TEST_F(RefresherTest, ANewProviderIsSeen) {
  Turn();
  AddRow(5, 0, 2);
  SetProvider(2);
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());
  Turn();
  EXPECT_TRUE(InFlight(5));
}

TEST_F(RefresherTest, ADueRowWithinTheMinimumIntervalIsMovedToItsEnd) {
  ProviderOptions options;
  options.timing.min_interval = 10 * kMinute;
  SetProvider(1, options);
  AddRow(1).last_refreshed_at = clock.Now() - kMinute;
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).due_at, clock.Now() + 9 * kMinute);
  EXPECT_TRUE(store.journal.empty());
  EXPECT_EQ(engine->NextTurnAt(), Row(1).due_at);
}

TEST_F(RefresherTest, PausedMeansNoBackgroundWork) {
  AddRow(1);
  RefresherSettings settings;
  settings.background = false;
  engine->Configure(settings);
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
  engine->Configure(RefresherSettings{});
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());
  Turn();
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherTest, DrainingClaimsNothingAndSavesWhatArrives) {
  Configure(1, 10);
  AddRows(1, 2);
  Row(1).fail_saves = 1;
  Turn();
  engine->BeginDrain();
  Answer(1, Success(1));
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(engine->unfinished(), 1u);
  Run(2 * kSecond);
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(engine->unfinished(), 0u);
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
}

TEST_F(RefresherTest, AnAnswerThatNobodyAskedForIsIgnored) {
  AddRow(1);
  Turn();
  transport.Submit(999, {});
  transport.Answer("", Success(1));
  Turn();
  EXPECT_TRUE(InFlight(1));
}

}  // namespace
}  // namespace token_refresh
