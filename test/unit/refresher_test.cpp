// The engine in the background: what is listed and claimed, and what becomes of the answers.
#include "engine_fixture.h"

namespace token_refresh {
namespace {

class RefresherTest : public EngineTest {};

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

TEST_F(RefresherTest, ARotatedRefreshTokenWithoutAnAccessTokenIsPresentedNext) {
  AddRow(1).access_token = "fake-old-access";
  const std::optional<Micros> expires_at = Row(1).expires_at;
  engine->RequestNow(1, Row(1).generation);
  Turn();
  Answer(1, MakeResponse(200, R"({"refresh_token":"fake-next-1","expires_in":3600})"));
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(Row(1).access_token, "fake-old-access");
  EXPECT_EQ(Row(1).expires_at, expires_at);
  EXPECT_EQ(Row(1).failure, FailureClass::kTransient);
  EXPECT_EQ(Row(1).attempts, 1);
  EXPECT_EQ(Finished(1), std::vector{DemandResult::kTransient});
  EXPECT_EQ(engine->counters().failed, 1u);
  Run(2 * kSecond);
  EXPECT_TRUE(transport.Answer(NextToken(1), Success(2)));
  Turn();
  EXPECT_EQ(Row(1).refresh_token, NextToken(2));
  EXPECT_EQ(Row(1).attempts, 0);
}

TEST_F(RefresherTest, ASuccessThatCannotBeReadMayHaveCostTheGrant) {
  AddRow(1);
  Turn();
  Answer(1, MakeResponse(200, "<html>please wait</html>"));
  EXPECT_TRUE(Row(1).lost_response);
  EXPECT_EQ(Row(1).status, "connected");
  Run(2 * kSecond);
  Answer(1, Dead());
  EXPECT_EQ(Row(1).failure, FailureClass::kLostResponse);
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

TEST_F(RefresherTest, ManyDueRowsAreListedFewTimes) {
  Configure(10, 1000);
  AddRows(1, 1500);
  Turn();
  for (int64_t id = 1; id <= 900; id++) Answer(id, Success(id));
  EXPECT_EQ(store.lists, 1);
  for (int64_t id = 901; id <= 1500; id++) Answer(id, Success(id));
  EXPECT_LE(store.lists, 3);
  EXPECT_EQ(engine->counters().refreshed, 1500u);
}

}  // namespace
}  // namespace token_refresh
