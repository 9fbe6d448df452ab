// The engine on demand: who waits for what, and what they are told.
#include "engine_fixture.h"

namespace token_refresh {
namespace {

using Results = std::vector<DemandResult>;

class RefresherDemandTest : public EngineTest {
 protected:
  RefresherDemandTest() { Turn(); }

  // A row that nobody but a caller would refresh.
  FakeStore::Row& AddFreshRow(int64_t id, int32_t provider_id = 1) { return AddRow(id, kHour, provider_id); }

  void Demand(int64_t id, int64_t seen_generation = 1) {
    engine->RequestNow(id, seen_generation);
    EXPECT_TRUE(engine->NextTurnAt() == std::nullopt || *engine->NextTurnAt() >= clock.Now());
    Turn();
  }
};

TEST_F(RefresherDemandTest, ManyCallersOneRequestOneResult) {
  AddFreshRow(1);
  for (int i = 0; i < 1000; i++) engine->RequestNow(1, 1);
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());
  Turn();
  for (int i = 0; i < 1000; i++) engine->RequestNow(1, 1);
  Turn();
  EXPECT_EQ(transport.pending.size(), 1u);
  EXPECT_EQ(Finished(1), Results{});
  Answer(1, Success(1));
  EXPECT_EQ(Finished(1), Results{DemandResult::kRefreshed});
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
}

TEST_F(RefresherDemandTest, JoinsTheRefreshInTheBackground) {
  AddRow(1);
  engine->ScheduleChanged();
  Run(kSecond);
  ASSERT_TRUE(InFlight(1));
  Demand(1);
  EXPECT_EQ(transport.pending.size(), 1u);
  Answer(1, Down());
  EXPECT_EQ(Finished(1), Results{DemandResult::kTransient});
}

TEST_F(RefresherDemandTest, JoinsAlthoughNoPlaceIsFree) {
  Configure(1, 1);
  AddRow(1);
  engine->ScheduleChanged();
  Run(kSecond);
  Demand(1, -1);
  Answer(1, Success(1));
  EXPECT_EQ(Finished(1), Results{DemandResult::kRefreshed});
  EXPECT_EQ(engine->counters().requests, 1u);
}

TEST_F(RefresherDemandTest, JoinsWhatTheBackgroundClaimsWhileItWaitsForAPlace) {
  Configure(1, 1);
  AddRow(1);
  clock.Advance(kSecond);
  engine->ScheduleChanged();
  engine->RequestNow(99, 1);  // refused: its place goes to the background
  engine->RequestNow(1, -1);
  Turn();
  ASSERT_TRUE(InFlight(1));
  Configure(2, 2);
  Turn();
  EXPECT_EQ(transport.pending.size(), 1u);
  Answer(1, Success(1));
  EXPECT_EQ(Finished(1), Results{DemandResult::kRefreshed});
}

TEST_F(RefresherDemandTest, ARefreshThatIsWaitedForIsUrgent) {
  AddRow(1).attempts = 20;
  Row(1).expires_at = clock.Now() - kHour;
  clock.Advance(kSecond);
  engine->ScheduleChanged();
  Turn();
  Demand(1);
  Answer(1, Down());
  EXPECT_LE(*Row(1).due_at, clock.Now() + 40 * kSecond);
}

TEST_F(RefresherDemandTest, CallersOfADroppedProviderAreTold) {
  ProviderOptions options;
  options.max_in_flight = 1;
  SetProvider(1, options);
  AddFreshRow(1);
  AddFreshRow(2);
  engine->RequestNow(1, 1);
  engine->RequestNow(2, 1);
  Turn();
  store.providers.clear();
  store.providers_version++;
  Turn();
  EXPECT_EQ(Finished(2), Results{DemandResult::kNotFound});
  EXPECT_FALSE(store.journal.contains(2));
}

TEST_F(RefresherDemandTest, TheLatestGenerationSeenCounts) {
  AddFreshRow(1).generation = 5;
  engine->RequestNow(1, 4);
  engine->RequestNow(1, 5);
  engine->RequestNow(1, 3);
  Turn();
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherDemandTest, SaysWhyARowIsRefused) {
  AddFreshRow(1).generation = 7;
  AddFreshRow(2).locked = true;
  AddFreshRow(3).status = "needs_reauth";
  AddFreshRow(4).refresh_token.clear();
  AddFreshRow(5).unreadable = true;
  AddFreshRow(6).parked_refresh_token = NextToken(6);
  Row(6).rejects_writes = true;
  for (int64_t id = 1; id <= 7; id++) engine->RequestNow(id, 1);
  Turn();
  EXPECT_EQ(Finished(1), Results{DemandResult::kAlreadyRefreshed});
  EXPECT_EQ(Finished(2), Results{DemandResult::kLocked});
  EXPECT_EQ(Finished(3), Results{DemandResult::kReauth});
  EXPECT_EQ(Finished(4), Results{DemandResult::kNoRefreshToken});
  EXPECT_EQ(Finished(5), Results{DemandResult::kUnreadable});
  EXPECT_EQ(Finished(6), Results{DemandResult::kParked});
  EXPECT_EQ(Finished(7), Results{DemandResult::kNotFound});
  EXPECT_TRUE(transport.pending.empty());
}

TEST_F(RefresherDemandTest, SaysHowTheRefreshEnded) {
  for (int64_t id = 1; id <= 6; id++) AddFreshRow(id);
  Row(2).rejects_writes = true;
  for (int64_t id = 1; id <= 6; id++) engine->RequestNow(id, 1);
  Turn();
  Answer(1, Dead());
  EXPECT_EQ(Finished(1), Results{DemandResult::kReauth});
  Answer(2, Success(2));
  EXPECT_EQ(Finished(2), Results{DemandResult::kParked});
  store.SignIn(3, "fake-signed-in", clock.Now() + kHour, clock.Now() + kHour);
  Answer(3, Success(3));
  EXPECT_EQ(Finished(3), Results{DemandResult::kSuperseded});
  store.rows.erase(4);
  Answer(4, Success(4));
  EXPECT_EQ(Finished(4), Results{DemandResult::kNotFound});
  Answer(5, BadClient());
  EXPECT_EQ(Finished(5), Results{DemandResult::kClientConfig});
  Answer(6, MakeResponse(400, R"({"error":"access_denied","error_description":"token not expired"})"));
  EXPECT_EQ(Finished(6), Results{DemandResult::kTooEarly});
  EXPECT_EQ(Row(6).refresh_token, FirstToken(6));
}

TEST_F(RefresherDemandTest, WhatCannotBeStoredIsAnInternalErrorOnce) {
  AddFreshRow(1).fail_saves = 1;
  Demand(1);
  Answer(1, Success(1));
  EXPECT_EQ(Finished(1), Results{DemandResult::kInternal});
  Demand(1);
  EXPECT_EQ(Finished(1), Results{DemandResult::kInternal});
  Run(2 * kSecond);
  EXPECT_EQ(Finished(1), Results{});
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(engine->counters().requests, 1u);
}

TEST_F(RefresherDemandTest, AStoreErrorIsToldAtOnce) {
  AddFreshRow(1);
  store.fail_claims = 1;
  Demand(1);
  EXPECT_EQ(Finished(1), Results{DemandResult::kInternal});
  Demand(1);  // the store is left alone for a second
  EXPECT_EQ(Finished(1), Results{DemandResult::kInternal});
  EXPECT_EQ(store.claim_calls, 1);
  clock.Advance(2 * kSecond);
  Demand(1);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherDemandTest, AThrottledProviderIsNotAsked) {
  AddFreshRow(1);
  AddFreshRow(2);
  Demand(1);
  Answer(1, Throttled("30"));
  EXPECT_EQ(Finished(1), Results{DemandResult::kRateLimited});
  const FakeStore::Row before = Row(2);
  Demand(2);
  EXPECT_EQ(Finished(2), Results{DemandResult::kRateLimited});
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_TRUE(store.journal.empty());
  EXPECT_EQ(Row(2).due_at, before.due_at);
  EXPECT_EQ(Row(2).attempts, before.attempts);
  EXPECT_EQ(engine->NextTurnAt(), *Row(1).due_at);
}

TEST_F(RefresherDemandTest, AFailingProviderIsAskedByOneCallerAtATime) {
  OpenBreaker(1);
  AddFreshRow(11);
  AddFreshRow(12);
  Demand(11);
  EXPECT_EQ(Finished(11), Results{DemandResult::kProviderFailing});
  clock.Advance(2 * kSecond);
  engine->RequestNow(11, 1);
  engine->RequestNow(12, 1);
  Turn();
  EXPECT_TRUE(InFlight(11));
  EXPECT_EQ(Finished(12), Results{DemandResult::kProviderFailing});
  Answer(11, Success(11));
  EXPECT_EQ(Finished(11), Results{DemandResult::kRefreshed});
  Demand(12);
  EXPECT_TRUE(InFlight(12));
}

TEST_F(RefresherDemandTest, ADisabledOrUnknownProviderIsNotAsked) {
  ProviderOptions options;
  options.enabled = false;
  SetProvider(2, options);
  AddFreshRow(1, 2);
  AddFreshRow(2, 77);
  Demand(1);
  Demand(2);
  EXPECT_EQ(Finished(1), Results{DemandResult::kProviderDisabled});
  EXPECT_EQ(Finished(2), Results{DemandResult::kInternal});
  EXPECT_TRUE(store.journal.empty());
  EXPECT_TRUE(transport.pending.empty());
}

TEST_F(RefresherDemandTest, TheMinimumIntervalIsKept) {
  ProviderOptions options;
  options.timing.min_interval = 10 * kMinute;
  SetProvider(1, options);
  AddFreshRow(1).last_refreshed_at = clock.Now() - kMinute;
  const std::optional<Micros> due_at = Row(1).due_at;
  Demand(1);
  EXPECT_EQ(Finished(1), Results{DemandResult::kTooEarly});
  EXPECT_EQ(Row(1).due_at, due_at);
  EXPECT_TRUE(store.journal.empty());
  EXPECT_TRUE(transport.pending.empty());
}

TEST_F(RefresherDemandTest, CallersOfABusyProviderWaitForAPlace) {
  ProviderOptions options;
  options.max_in_flight = 1;
  SetProvider(1, options);
  for (int64_t id = 1; id <= 3; id++) {
    AddFreshRow(id);
    engine->RequestNow(id, 1);
  }
  Turn();
  EXPECT_EQ(transport.pending.size(), 1u);
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);  // the answer will wake the engine
  Answer(1, Success(1));
  EXPECT_TRUE(InFlight(2));
  engine->RequestNow(3, 1);
  Turn();
  Answer(2, Success(2));
  Answer(3, Success(3));
  EXPECT_EQ(Finished(3), Results{DemandResult::kRefreshed});
  EXPECT_EQ(engine->counters().requests, 3u);
}

TEST_F(RefresherDemandTest, CallersWhoWaitForAPlaceAreToldWhenTheProviderThrottles) {
  ProviderOptions options;
  options.max_in_flight = 1;
  SetProvider(1, options);
  AddFreshRow(1);
  AddFreshRow(2);
  engine->RequestNow(1, 1);
  engine->RequestNow(2, 1);
  Turn();
  Answer(1, Throttled());
  EXPECT_EQ(Finished(2), Results{DemandResult::kRateLimited});
  EXPECT_TRUE(store.journal.empty());
}

TEST_F(RefresherDemandTest, CallersGoBeforeTheBackground) {
  RefresherSettings settings;
  settings.max_in_flight = 10;
  settings.max_in_flight_total = 10;
  engine->Configure(settings);
  AddRows(1, 100);
  AddFreshRow(500);
  engine->ScheduleChanged();
  clock.Advance(kSecond);
  engine->RequestNow(500, 1);
  Turn();
  EXPECT_TRUE(InFlight(500));
  EXPECT_EQ(transport.pending.size(), 10u);
}

TEST_F(RefresherDemandTest, ACallerOfARowInTheReadyQueueTakesItOut) {
  ProviderOptions options;
  options.max_in_flight = 1;
  SetProvider(1, options);
  AddRows(1, 3);
  clock.Advance(kSecond);
  Turn();
  ASSERT_TRUE(InFlight(1));
  engine->RequestNow(3, 1);  // claimed now, submitted before row 2
  Turn();
  Answer(1, Success(1));
  EXPECT_TRUE(InFlight(3));
  Answer(3, Success(3));
  EXPECT_EQ(Finished(3), Results{DemandResult::kRefreshed});
  Answer(2, Success(2));
  EXPECT_EQ(engine->counters().requests, 3u);
  EXPECT_TRUE(transport.pending.empty());
}

TEST_F(RefresherDemandTest, WorksWhilePaused) {
  RefresherSettings settings;
  settings.background = false;
  engine->Configure(settings);
  AddFreshRow(1);
  Demand(1);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherDemandTest, AnEngineThatEndsTakesNoDemands) {
  ProviderOptions options;
  options.max_in_flight = 1;
  SetProvider(1, options);
  for (int64_t id = 1; id <= 4; id++) AddFreshRow(id);
  engine->RequestNow(1, 1);
  engine->RequestNow(2, 1);
  Turn();
  engine->RequestNow(3, 1);
  engine->BeginDrain();
  engine->RequestNow(4, 1);
  for (int64_t id = 2; id <= 4; id++) EXPECT_EQ(Finished(id), Results{DemandResult::kShuttingDown}) << id;
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());  // the claim that was given back is to be saved
  Answer(1, Success(1));
  EXPECT_EQ(Finished(1), Results{DemandResult::kRefreshed});
  EXPECT_TRUE(store.journal.empty());
  EXPECT_EQ(engine->unfinished(), 0u);
}

}  // namespace
}  // namespace token_refresh
