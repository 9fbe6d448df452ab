// The engine and a store that refuses, rejects or fails.
#include "engine_fixture.h"

namespace token_refresh {
namespace {

class RefresherStoreTest : public EngineTest {};

TEST_F(RefresherStoreTest, UnreadableAndLockedRowsAreLeftAloneForAWhile) {
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

TEST_F(RefresherStoreTest, HeldRowsDoNotHideTheOthers) {
  for (int64_t id = 1; id <= 3000; id++) AddRow(id).unreadable = true;
  AddRow(3001, 1);
  clock.Advance(kSecond);
  Run(kSecond);
  EXPECT_TRUE(InFlight(3001));
}

TEST_F(RefresherStoreTest, ARefusedRowThatStaysDueDoesNotSpin) {
  AddRow(1).status = "needs_reauth";
  AddRow(2).refresh_token.clear();
  Turn();
  EXPECT_LE(Run(10 * kMinute), 11);
  EXPECT_EQ(engine->counters().requests, 0u);
}

TEST_F(RefresherStoreTest, ARejectedWriteIsParkedAndWrittenLater) {
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

TEST_F(RefresherStoreTest, ARotatedRefreshTokenAloneIsParkedAsWell) {
  AddRow(1).rejects_writes = true;
  engine->RequestNow(1, Row(1).generation);
  Turn();
  Answer(1, MakeResponse(200, R"({"refresh_token":"fake-next-1"})"));
  EXPECT_EQ(Finished(1), std::vector{DemandResult::kTransient});
  EXPECT_EQ(engine->counters().parked, 1u);
  EXPECT_EQ(engine->counters().failed, 1u);
  EXPECT_EQ(Row(1).refresh_token, FirstToken(1));
  Row(1).rejects_writes = false;
  Run(10 * kSecond);
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_TRUE(transport.Answer(NextToken(1), Success(2)));
  EXPECT_EQ(engine->counters().requests, 2u);  // the retired token was not presented again
}

TEST_F(RefresherStoreTest, ARotatedRefreshTokenDoesNotReplaceANewerOne) {
  AddRow(1);
  Turn();
  store.SignIn(1, "fake-signed-in", clock.Now() + kHour, clock.Now() + kHour);
  Answer(1, MakeResponse(200, R"({"refresh_token":"fake-next-1"})"));
  EXPECT_EQ(Row(1).refresh_token, "fake-signed-in");
  EXPECT_EQ(engine->counters().superseded, 1u);
}

TEST_F(RefresherStoreTest, SupersededTokensAreLeftAlone) {
  AddRow(1);
  Turn();
  store.SignIn(1, "fake-signed-in", clock.Now() + kHour, clock.Now() + kHour);
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).refresh_token, "fake-signed-in");
  EXPECT_EQ(engine->counters().superseded, 1u);
  Run(kSecond);
  EXPECT_EQ(engine->NextTurnAt(), Row(1).due_at);
}

TEST_F(RefresherStoreTest, ARowThatIsGoneIsForgotten) {
  AddRow(1);
  Turn();
  store.rows.erase(1);
  ASSERT_TRUE(transport.Answer(FirstToken(1), Success(1)));
  Turn();
  EXPECT_EQ(engine->unfinished(), 0u);
  EXPECT_EQ(engine->NextTurnAt(), std::nullopt);
}

TEST_F(RefresherStoreTest, WhatCannotBeStoredIsKeptUntilItCan) {
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

TEST_F(RefresherStoreTest, OneRowThatCannotBeStoredHoldsNobodyUp) {
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

TEST_F(RefresherStoreTest, ManyUnsavedAnswersStopNewRequests) {
  AddRows(1, 200);
  for (int64_t id = 1; id <= 200; id++) Row(id).token_table = static_cast<int32_t>(id % 4);
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

// They stop the table that they belong to alone; that is up to the store.
TEST_F(RefresherStoreTest, ManyUnsavedAnswersOfOneTableStopNoOther) {
  AddRows(1, 150);
  for (int64_t id = 1; id <= 150; id++) {
    Row(id).token_table = 2;
    Row(id).fail_saves = 1000;
  }
  Configure(150, 150);
  Turn();
  for (int64_t id = 1; id <= 150; id++) ASSERT_TRUE(transport.Answer(FirstToken(id), Success(id)));
  Turn();
  EXPECT_EQ(engine->unfinished(), 150u);
  AddRows(1001, 20);
  engine->ScheduleChanged();
  Run(kSecond);
  EXPECT_TRUE(InFlight(1001));
  EXPECT_TRUE(InFlight(1020));
}

// Somebody holds rows of the first provider locked while it fails.
TEST_F(RefresherStoreTest, UnsavedFailuresStopNoOtherProvider) {
  SetProvider(2);
  AddRows(1, 130);
  for (int64_t id = 1; id <= 130; id++) Row(id).fail_saves = 1000;
  Configure(150, 1000);
  Turn();
  for (int64_t id = 1; id <= 130; id++) ASSERT_TRUE(transport.Answer(FirstToken(id), Down()));
  Turn();
  EXPECT_EQ(engine->unfinished(), 130u);
  AddRows(1001, 20, 2);
  engine->ScheduleChanged();
  Run(kSecond);
  EXPECT_TRUE(InFlight(1001));
  EXPECT_TRUE(InFlight(1020));
}

TEST_F(RefresherStoreTest, StoreErrorsAreNotHammered) {
  AddRow(1);
  store.fail_lists = 5;
  const int turns = Run(20 * kSecond);
  EXPECT_LE(turns, 6);
  EXPECT_GE(turns, 4);
  EXPECT_FALSE(InFlight(1));
  Run(60 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherStoreTest, AFailedClaimIsTriedAgain) {
  AddRow(1);
  store.fail_claims = 1;
  Turn();
  EXPECT_FALSE(InFlight(1));
  Run(2 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

}  // namespace
}  // namespace token_refresh
