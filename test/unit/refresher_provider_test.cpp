// The engine and its providers: limits, throttling, failure, and registrations that change.
#include "engine_fixture.h"

namespace token_refresh {
namespace {

class RefresherProviderTest : public EngineTest {
 protected:
  int InFlightOf(int64_t first, int64_t count) const {
    int found = 0;
    for (int64_t id = first; id < first + count; id++) found += InFlight(id);
    return found;
  }
};

TEST_F(RefresherProviderTest, ARateLimitStopsTheWholeProviderAndNoOther) {
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

TEST_F(RefresherProviderTest, ARateLimitWithoutATimeLastsAMinute) {
  AddRow(1);
  Turn();
  Answer(1, Throttled());
  Run(59 * kSecond);
  EXPECT_FALSE(InFlight(1));
  Run(3 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(RefresherProviderTest, AFailingProviderIsProbedNotHammered) {
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

TEST_F(RefresherProviderTest, AWrongClientIsProbedToo) {
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

TEST_F(RefresherProviderTest, WhatIsCommittedAfterAChangeIsNotServedByTheFormerProvider) {
  AddRows(1, 3);
  engine->RequestNow(2, 1);
  const auto change = [this] {
    ProviderOptions options;
    options.scope = "changed";
    SetProvider(1, options);
  };
  for (int changes = 0; changes < 2; changes++) {
    store.before_claim = change;
    Turn();
    EXPECT_TRUE(transport.pending.empty());
    EXPECT_TRUE(store.journal.empty());
    EXPECT_EQ(engine->NextTurnAt(), clock.Now());
    EXPECT_TRUE(engine->TakeFinished().empty());
  }
  Turn();
  ASSERT_EQ(transport.pending.size(), 3u);
  EXPECT_EQ(FormField(transport.pending[0].request, "refresh_token"), FirstToken(2)) << "who waits comes first";
  for (const auto& pending : transport.pending) EXPECT_EQ(FormField(pending.request, "scope"), "changed");
  AnswerAll(1, 3, [] { return Success(9); });
  const std::vector<FinishedDemand> finished = engine->TakeFinished();
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished[0].result, DemandResult::kRefreshed);
}

TEST_F(RefresherProviderTest, HonoursTheProvidersOwnLimit) {
  ProviderOptions options;
  options.max_in_flight = 2;
  SetProvider(1, options);
  AddRows(1, 10);
  Turn();
  EXPECT_EQ(transport.pending.size(), 2u);
  Answer(1, Success(1));
  EXPECT_EQ(transport.pending.size(), 2u);
}

TEST_F(RefresherProviderTest, ASlowProviderStarvesNoOther) {
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

TEST_F(RefresherProviderTest, ProvidersThatCannotBeReadAreTriedAgain) {
  AddRow(1);
  store.fail_loads = 2;
  EXPECT_LE(Run(10 * kSecond), 4);
  EXPECT_TRUE(InFlight(1));
  EXPECT_EQ(store.loads, 3);
}

TEST_F(RefresherProviderTest, ADisabledProviderIsLeftAlone) {
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

TEST_F(RefresherProviderTest, ADroppedProviderStillGetsItsAnswersSaved) {
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

TEST_F(RefresherProviderTest, ANewProviderIsSeen) {
  Turn();
  AddRow(5, 0, 2);
  SetProvider(2);
  EXPECT_EQ(engine->NextTurnAt(), clock.Now());
  Turn();
  EXPECT_TRUE(InFlight(5));
}

TEST_F(RefresherProviderTest, ADueRowWithinTheMinimumIntervalIsMovedToItsEnd) {
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

TEST_F(RefresherProviderTest, ALateFailureDoesNotDelayTheProbe) {
  Configure(6, 100);
  AddRows(1, 6);
  AddRow(7, kSecond);
  Turn();
  AnswerAll(1, 5, Down);
  clock.Advance(2 * kSecond);  // the probe's time has come
  Answer(6, Down());           // sent before the provider was known to fail
  EXPECT_EQ(transport.pending.size(), 1u);
}

TEST_F(RefresherProviderTest, AnAnswerToTheOldRegistrationSaysNothingOfTheNew) {
  Configure(6, 100);
  AddRows(1, 12);
  Turn();
  ProviderOptions options;
  options.scope = "mended";
  SetProvider(1, options);
  Turn();
  AnswerAll(1, 6, BadClient);
  EXPECT_EQ(transport.pending.size(), 6u);
}

TEST_F(RefresherProviderTest, AProviderThatComesBackFindsItsRowsAgain) {
  Configure(1, 100);
  AddRows(1, 3);
  Turn();
  store.providers.clear();
  store.providers_version++;
  Turn();
  Answer(1, Success(1));
  SetProvider(1);
  Run(kSecond);
  Answer(2, Success(2));
  Answer(3, Success(3));
  EXPECT_EQ(engine->counters().refreshed, 3u);
}

}  // namespace
}  // namespace token_refresh
