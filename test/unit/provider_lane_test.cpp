#include "core/provider_lane.h"

#include <gtest/gtest.h>

namespace token_refresh {
namespace {

constexpr Micros kNow = 1'700'000'000 * kSecond;

std::shared_ptr<Provider> MakeProvider() {
  auto provider = std::make_shared<Provider>();
  provider->id = 1;
  provider->options.token_endpoint = "https://provider.example/token";
  return provider;
}

ProviderLane FailingLane() {
  ProviderLane lane(MakeProvider());
  for (int i = 0; i < CircuitBreaker::kFailuresToOpen; i++) lane.RecordSign(ProviderSign::kFailing, false, kNow, 0);
  return lane;
}

TEST(ProviderLaneTest, CountsPlaces) {
  ProviderLane lane(MakeProvider());
  EXPECT_EQ(lane.Places(kNow, 2), 2);
  EXPECT_FALSE(lane.StartRequest(kNow));
  EXPECT_EQ(lane.Places(kNow, 2), 1);
  lane.backlog.emplace_back();
  EXPECT_EQ(lane.Places(kNow, 2), 0);
  EXPECT_EQ(lane.Room(kNow, 2), 1);
  lane.StartRequest(kNow);
  EXPECT_EQ(lane.Places(kNow, 1), 0);
  lane.EndRequest(false);
  EXPECT_EQ(lane.in_flight(), 1);
}

TEST(ProviderLaneTest, TheProvidersLimitWins) {
  auto provider = MakeProvider();
  provider->options.max_in_flight = 3;
  EXPECT_EQ(ProviderLane(provider).Places(kNow, 100), 3);
}

TEST(ProviderLaneTest, ARateLimitIsNeverShortened) {
  ProviderLane lane(MakeProvider());
  lane.BlockUntil(kNow + kMinute);
  lane.BlockUntil(kNow + kSecond);
  EXPECT_EQ(lane.GateAt(kNow + 59 * kSecond), LaneGate::kRateLimited);
  EXPECT_EQ(lane.OpensAt(kNow), kNow + kMinute);
  EXPECT_EQ(lane.GateAt(kNow + kMinute), LaneGate::kOpen);
}

TEST(ProviderLaneTest, AFailingProviderIsProbedByOneRequest) {
  ProviderLane lane = FailingLane();
  EXPECT_EQ(lane.GateAt(kNow), LaneGate::kFailing);
  EXPECT_EQ(lane.Places(kNow, 10), 0);
  EXPECT_EQ(lane.OpensAt(kNow), kNow + kSecond);
  EXPECT_EQ(lane.Places(kNow + kSecond, 10), 1);
  EXPECT_TRUE(lane.StartRequest(kNow));
  EXPECT_EQ(lane.GateAt(kNow + kSecond), LaneGate::kFailing);
  EXPECT_EQ(lane.OpensAt(kNow + kSecond), std::nullopt);
  lane.EndRequest(true);
  lane.RecordSign(ProviderSign::kAlive, true, kNow + kSecond, 0);
  EXPECT_EQ(lane.Places(kNow + kSecond, 10), 10);
}

TEST(ProviderLaneTest, StragglersDoNotDelayTheProbe) {
  ProviderLane lane(MakeProvider());
  for (int i = 0; i < 100; i++) EXPECT_FALSE(lane.StartRequest(kNow));
  for (int i = 0; i < 50; i++) {
    lane.EndRequest(false);
    lane.RecordSign(ProviderSign::kFailing, false, kNow, 0);
  }
  // Fifty still wait for an answer, and the forty-five after the fifth have not moved the probe away.
  EXPECT_EQ(lane.OpensAt(kNow), kNow + kSecond);
  EXPECT_EQ(lane.GateAt(kNow + kSecond), LaneGate::kOpen);
}

TEST(ProviderLaneTest, AFailedProbeMakesTheNextOneLater) {
  ProviderLane lane = FailingLane();
  lane.StartRequest(kNow);
  lane.EndRequest(true);
  lane.RecordSign(ProviderSign::kFailing, true, kNow + kSecond, 0);
  EXPECT_EQ(lane.OpensAt(kNow + kSecond), kNow + 3 * kSecond);
}

TEST(ProviderLaneTest, AChangedRegistrationStartsAfresh) {
  ProviderLane lane = FailingLane();
  lane.BlockUntil(kNow + kMinute);
  lane.StartRequest(kNow);
  auto same = MakeProvider();
  same->options.timing.refresh_margin = kMinute;
  lane.SetProvider(same);
  EXPECT_NE(lane.GateAt(kNow), LaneGate::kOpen);
  auto changed = MakeProvider();
  changed->client_secret = Secret("fake-new-password");
  lane.SetProvider(changed);
  EXPECT_EQ(lane.GateAt(kNow), LaneGate::kOpen);
  EXPECT_EQ(lane.in_flight(), 1);
}

TEST(ProviderLaneTest, ChangedErrorRulesAreAChangedRegistration) {
  ProviderLane lane = FailingLane();
  auto changed = MakeProvider();
  changed->options.error_rules.push_back({400, "/error", "odd", FailureClass::kReauth});
  lane.SetProvider(changed);
  EXPECT_EQ(lane.GateAt(kNow), LaneGate::kOpen);
}

TEST(ProviderLaneTest, ADisabledProviderIsNeverOpen) {
  auto provider = MakeProvider();
  provider->options.enabled = false;
  ProviderLane lane(provider);
  EXPECT_EQ(lane.GateAt(kNow), LaneGate::kDisabled);
  EXPECT_EQ(lane.OpensAt(kNow), std::nullopt);
}

TEST(ProviderLaneTest, ListsAtFirstWhenToldWhenDueAndWhenThereWasMore) {
  ProviderLane lane(MakeProvider());
  EXPECT_TRUE(lane.WantsList(kNow));
  lane.Listed(kNow, false, std::nullopt);
  EXPECT_FALSE(lane.WantsList(kNow + kDay));
  EXPECT_EQ(lane.WorkAt(kNow), std::nullopt);

  lane.MayBeDueAt(kNow + kHour);
  lane.MayBeDueAt(kNow + 2 * kHour);
  EXPECT_EQ(lane.WorkAt(kNow), kNow + kHour);
  EXPECT_TRUE(lane.WantsList(kNow + kHour));

  lane.Listed(kNow, true, std::nullopt);
  EXPECT_TRUE(lane.WantsList(kNow));
  lane.Listed(kNow, false, std::nullopt);
  lane.ListAgain();
  EXPECT_TRUE(lane.WantsList(kNow + kSecond));
}

TEST(ProviderLaneTest, ListsAreSpaced) {
  ProviderLane lane(MakeProvider());
  lane.Listed(kNow, false, kNow + 1);
  EXPECT_FALSE(lane.WantsList(kNow + 1));
  EXPECT_EQ(lane.WorkAt(kNow + 1), kNow + 20 * kMillisecond);
  EXPECT_TRUE(lane.WantsList(kNow + 20 * kMillisecond));
  // A clock that was set back does not stop them.
  lane.ListAgain();
  EXPECT_TRUE(lane.WantsList(kNow - kHour));
}

TEST(SharePlacesTest, GivesEverybodyWhatThereIsEnoughOf) {
  std::vector<PlaceShare> lanes = {{10, 0, 0}, {5, 3, 0}};
  SharePlaces(lanes, 100, 100, 2);
  EXPECT_EQ(lanes[0].given, 10);
  EXPECT_EQ(lanes[1].given, 5);
}

TEST(SharePlacesTest, WhoHoldsLeastComesFirst) {
  std::vector<PlaceShare> lanes = {{100, 60, 0}, {100, 10, 0}};
  SharePlaces(lanes, 30, 100, 2);
  EXPECT_EQ(lanes[0].given, 0);
  EXPECT_EQ(lanes[1].given, 30);
}

TEST(SharePlacesTest, OneLaneAloneMayTakeEverything) {
  std::vector<PlaceShare> lanes = {{1000, 0, 0}};
  SharePlaces(lanes, 100, 100, 1);
  EXPECT_EQ(lanes[0].given, 100);
}

TEST(SharePlacesTest, OneLaneOfManyLeavesAReserve) {
  std::vector<PlaceShare> lanes = {{1000, 0, 0}};
  SharePlaces(lanes, 80, 80, 2);
  EXPECT_EQ(lanes[0].given, 70);
  EXPECT_FALSE(MayTakePlace(70, 10, 80, 2));
  EXPECT_TRUE(MayTakePlace(0, 10, 80, 2));
  EXPECT_FALSE(MayTakePlace(0, 0, 80, 2));
}

TEST(SharePlacesTest, MoreLanesThanPlaces) {
  std::vector<PlaceShare> lanes(10, {5, 0, 0});
  SharePlaces(lanes, 4, 4, 10);
  int given = 0;
  for (const PlaceShare& lane : lanes) {
    EXPECT_LE(lane.given, 1);
    given += lane.given;
  }
  EXPECT_EQ(given, 4);
}

// ---- what is shown

TEST(ProviderLaneTest, AnIdleLaneHasNothingToTell) {
  ProviderLane lane(MakeProvider());
  EXPECT_TRUE(lane.StateAt(kNow).quiet());
  lane.StartRequest(kNow);
  EXPECT_EQ(lane.StateAt(kNow), (ProviderState{.provider_id = 1, .in_flight = 1}));
  EXPECT_FALSE(WhyHeldBack(lane.StateAt(kNow), kNow));
  lane.EndRequest(false);
  EXPECT_TRUE(lane.StateAt(kNow).quiet());
}

TEST(ProviderLaneTest, OneThatCannotBeUsedIsShownWithoutAnEnd) {
  const ProviderState state{.provider_id = 1, .budget_at = kNow + kSecond, .unusable = true};
  EXPECT_FALSE(state.quiet());
  ASSERT_TRUE(WhyHeldBack(state, kNow));
  EXPECT_STREQ(WhyHeldBack(state, kNow)->reason, "unusable");
  EXPECT_EQ(WhyHeldBack(state, kNow)->until, 0);
}

TEST(ProviderLaneTest, ARateLimitIsShownUntilItIsOver) {
  ProviderLane lane(MakeProvider());
  lane.BlockUntil(kNow + kMinute);
  const ProviderState state = lane.StateAt(kNow);
  ASSERT_TRUE(WhyHeldBack(state, kNow));
  EXPECT_STREQ(WhyHeldBack(state, kNow)->reason, "rate_limited");
  EXPECT_EQ(WhyHeldBack(state, kNow)->until, kNow + kMinute);
  EXPECT_FALSE(WhyHeldBack(state, kNow + kMinute)) << "though the state is old";
  EXPECT_TRUE(lane.StateAt(kNow + kMinute).quiet());
}

TEST(ProviderLaneTest, AFailingProviderIsShownUntilASuccess) {
  ProviderLane lane = FailingLane();
  for (const Micros at : {kNow, kNow + kMinute}) {
    ASSERT_TRUE(WhyHeldBack(lane.StateAt(at), at)) << "also when the probe's time has come";
    EXPECT_STREQ(WhyHeldBack(lane.StateAt(at), at)->reason, "failing");
    EXPECT_EQ(WhyHeldBack(lane.StateAt(at), at)->until, kNow + kSecond);
  }
  lane.BlockUntil(kNow + 100 * kMillisecond);
  EXPECT_STREQ(WhyHeldBack(lane.StateAt(kNow), kNow)->reason, "rate_limited");
  EXPECT_EQ(WhyHeldBack(lane.StateAt(kNow), kNow)->until, kNow + kSecond) << "the probe comes later";
  lane.RecordSign(ProviderSign::kAlive, true, kNow, 0);
  EXPECT_FALSE(WhyHeldBack(lane.StateAt(kNow + kSecond), kNow + kSecond));
}

TEST(ProviderLaneTest, AMinuteThatIsUsedUpIsShown) {
  auto provider = MakeProvider();
  provider->options.requests_per_minute = 1;
  ProviderLane lane(provider);
  EXPECT_TRUE(lane.StateAt(kNow).quiet());
  lane.StartRequest(kNow);
  lane.EndRequest(false);
  ASSERT_TRUE(WhyHeldBack(lane.StateAt(kNow), kNow));
  EXPECT_STREQ(WhyHeldBack(lane.StateAt(kNow), kNow)->reason, "requests_per_minute");
  EXPECT_EQ(WhyHeldBack(lane.StateAt(kNow), kNow)->until, lane.BudgetAt(kNow));
  EXPECT_EQ(lane.StateAt(kNow + kSecond), lane.StateAt(kNow)) << "nothing is written while nothing changes";
  EXPECT_TRUE(lane.StateAt(lane.BudgetAt(kNow)).quiet());
}

}  // namespace
}  // namespace token_refresh
