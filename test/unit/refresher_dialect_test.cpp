// The engine with providers that are not the textbook's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/encoding.h"
#include "engine_fixture.h"

namespace token_refresh {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class DialectEngineTest : public EngineTest {
 protected:
  // The client secrets of provider 1.
  void SetSecrets(std::string_view now, std::string_view before, ProviderOptions options = {}) {
    auto provider = std::make_shared<Provider>();
    provider->id = 1;
    provider->name = "provider-1";
    provider->client_id = "client";
    provider->client_secret = Secret(now);
    provider->previous_client_secret = Secret(before);
    provider->options = std::move(options);
    provider->options.token_endpoint = "https://provider.example/token";
    store.providers = {std::move(provider)};
    store.providers_version++;
  }

  // Which secret each request under way was made with.
  std::vector<std::string> SecretsInFlight() const {
    std::vector<std::string> secrets;
    for (const auto& pending : transport.pending) {
      for (const HttpHeader& header : pending.request.headers) {
        if (header.name != "Authorization") continue;
        const std::string pair(Base64Decode(header.value.view().substr(6))->view());
        secrets.push_back(pair.substr(pair.find(':') + 1));
      }
    }
    return secrets;
  }
};

// ---- two client secrets

TEST_F(DialectEngineTest, TheOtherSecretIsTriedOnceAndRemembered) {
  SetSecrets("new", "old");
  AddRows(1, 2);
  Configure(1, 10);
  Turn();
  EXPECT_THAT(SecretsInFlight(), ElementsAre("new"));
  Answer(1, BadClient());
  EXPECT_THAT(SecretsInFlight(), ElementsAre("old"));
  EXPECT_EQ(Row(1).failure, std::nullopt);
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(Row(1).status, "connected");
  // The next one begins with what has worked.
  EXPECT_THAT(SecretsInFlight(), ElementsAre("old"));
  Answer(2, Success(2));
  EXPECT_EQ(engine->counters().requests, 3u);
  EXPECT_EQ(engine->counters().refreshed, 2u);

  // The provider has moved on: back to the new one.
  store.SignIn(1, FirstToken(1), clock.Now(), clock.Now() + kHour);
  engine->ScheduleChanged();
  clock.Advance(kSecond);
  Turn();
  EXPECT_THAT(SecretsInFlight(), ElementsAre("old"));
  Answer(1, BadClient());
  EXPECT_THAT(SecretsInFlight(), ElementsAre("new"));
  Answer(1, Success(1));
  EXPECT_EQ(engine->counters().refreshed, 3u);
}

TEST_F(DialectEngineTest, BothSecretsRefusedIsOneFailure) {
  SetSecrets("new", "old");
  AddRow(1);
  Turn();
  Answer(1, BadClient());
  Answer(1, BadClient());
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).failure, FailureClass::kClientConfig);
  EXPECT_EQ(Row(1).attempts, 1);
  EXPECT_EQ(Row(1).refresh_token, FirstToken(1));
  // Neither is preferred.
  Row(1).due_at = clock.Now();
  engine->ScheduleChanged();
  clock.Advance(kSecond);
  Turn();
  EXPECT_THAT(SecretsInFlight(), ElementsAre("new"));
}

TEST_F(DialectEngineTest, OtherRefusalsDoNotTouchTheOtherSecret) {
  SetSecrets("new", "old");
  AddRows(1, 3);
  Turn();
  Answer(1, Dead());
  Answer(2, Down());
  Answer(3, MakeResponse(401, R"({"error":"unauthorized_client"})"));
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).status, "needs_reauth");
}

TEST_F(DialectEngineTest, WithoutAnotherSecretThereIsNoSecondTry) {
  SetSecrets("only", "");
  AddRow(1);
  Turn();
  Answer(1, BadClient());
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).failure, FailureClass::kClientConfig);
}

TEST_F(DialectEngineTest, AChangedRegistrationForgetsWhichWorked) {
  SetSecrets("new", "old");
  AddRow(1);
  Turn();
  Answer(1, BadClient());
  Answer(1, Success(1));
  SetSecrets("newest", "new");
  store.SignIn(1, FirstToken(1), clock.Now(), clock.Now() + kHour);
  clock.Advance(kSecond);
  Turn();
  EXPECT_THAT(SecretsInFlight(), ElementsAre("newest"));
}

// The breaker opens by what both say, not by each.
TEST_F(DialectEngineTest, ARefusedSecretIsNoFailureOfTheProvider) {
  SetSecrets("new", "old");
  AddRows(1, 5);
  Turn();
  AnswerAll(1, 5, BadClient);
  EXPECT_EQ(transport.pending.size(), 5u);
  for (int64_t id = 1; id <= 5; id++) EXPECT_TRUE(transport.Answer(FirstToken(id), Success(id)));
  Turn();
  EXPECT_EQ(engine->counters().refreshed, 5u);
}

// ---- values

TEST_F(DialectEngineTest, AMissingValueIsTheClientsFaultAndHarmsNobodyElse) {
  ProviderOptions options;
  options.request_params = {{"shard", "${shard}"}};
  options.answer.captured_fields = {{"shard", "/shard"}};
  SetProvider(1, options);
  AddRows(1, 10);
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  for (int64_t id = 1; id <= 10; id++) {
    EXPECT_EQ(Row(id).failure, FailureClass::kClientConfig);
    EXPECT_EQ(Row(id).message, "the request cannot be made: there is no value for ${shard}");
    EXPECT_GT(Row(id).due_at, clock.Now());
  }
  EXPECT_EQ(engine->counters().requests, 0u);
  EXPECT_EQ(engine->unfinished(), 0u);
  engine->RequestNow(1, -1);
  Turn();
  EXPECT_THAT(Finished(1), ElementsAre(DemandResult::kClientConfig));
}

TEST_F(DialectEngineTest, CapturedFieldsAreHandedToTheStore) {
  ProviderOptions options;
  options.answer.captured_fields = {{"shard", "/shard"}};
  SetProvider(1, options);
  AddRow(1);
  std::string captured;
  store.on_saved = [&](const Outcome& outcome, SaveVerdict) { captured = outcome.tokens->captured; };
  Turn();
  Answer(1, MakeResponse(200, R"({"access_token":"fake-a","shard":"eu"})"));
  EXPECT_EQ(captured, R"({"shard":"eu"})");
}

// Without a refresh token there is none that a lost answer could have replaced.
TEST_F(DialectEngineTest, OnlyARefreshTokenCanBeLost) {
  ProviderOptions options;
  options.request.grant_type = kClientCredentialsGrant;
  options.request.refresh_with = RefreshWith::kNothing;
  SetProvider(1, options);
  AddRow(1);
  Turn();
  ASSERT_EQ(transport.pending.size(), 1u);
  transport.Collect();
  const HttpRequest& request = transport.pending[0].request;
  EXPECT_EQ(request.body.view(), "grant_type=client_credentials");
  transport.AnswerAllPending(200, "damaged");
  Turn();
  EXPECT_EQ(Row(1).failure, FailureClass::kTransient);
  EXPECT_FALSE(Row(1).lost_response);
}

// ---- requests_per_minute

TEST_F(DialectEngineTest, NoMoreRequestsThanAMinuteMayHave) {
  ProviderOptions options;
  options.requests_per_minute = 6;
  SetProvider(1, options);
  AddRows(1, 20);
  Turn();
  EXPECT_EQ(transport.pending.size(), 1u);
  Run(kMinute - 1);
  EXPECT_EQ(transport.pending.size(), 6u);
  Run(kMinute);
  EXPECT_EQ(transport.pending.size(), 12u);
}

TEST_F(DialectEngineTest, WhoWaitsIsServedWhenItIsAllowed) {
  ProviderOptions options;
  options.requests_per_minute = 2;
  SetProvider(1, options);
  AddRow(1, kDay);
  AddRow(2, kDay);
  engine->RequestNow(1, -1);
  engine->RequestNow(2, -1);
  Turn();
  EXPECT_EQ(transport.pending.size(), 1u);
  EXPECT_THAT(Finished(2), ElementsAre());
  EXPECT_EQ(engine->NextTurnAt(), clock.Now() + 30 * kSecond);
  Run(30 * kSecond);
  EXPECT_EQ(transport.pending.size(), 2u);
}

TEST_F(DialectEngineTest, OneProvidersLimitIsNotAnothers) {
  ProviderOptions options;
  options.requests_per_minute = 1;
  SetProvider(1, options);
  SetProvider(2);
  AddRows(1, 5, 1);
  AddRows(11, 5, 2);
  Turn();
  EXPECT_EQ(transport.pending.size(), 6u);
}

}  // namespace
}  // namespace token_refresh
