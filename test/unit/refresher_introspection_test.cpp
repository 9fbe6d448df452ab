// The engine with a provider that has to be asked when its access tokens expire, and with credentials that have
// clients of their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/encoding.h"
#include "engine_fixture.h"

namespace token_refresh {
namespace {

using testing::HasSubstr;

class IntrospectionEngineTest : public EngineTest {
 protected:
  IntrospectionEngineTest() { Introspect({}); }

  void Introspect(ProviderOptions options) {
    options.introspection_endpoint = "https://provider.example/introspect";
    options.timing.introspects = true;
    SetProvider(1, std::move(options));
  }

  // A row whose tokens have just been stored.
  FakeStore::Row& AddUnknown(int64_t id) {
    FakeStore::Row& row = AddRow(id);
    row.access_token = "fake-access";
    row.expires_at.reset();
    return row;
  }

  bool Introspecting() const {
    return transport.pending.size() == 1 && FormField(transport.pending[0].request, "token") == "fake-access" &&
           transport.pending[0].request.url == "https://provider.example/introspect";
  }

  void AnswerIntrospection(int status, std::string_view body) {
    ASSERT_TRUE(Introspecting()) << transport.pending.size() << " under way, the first to "
                                 << (transport.pending.empty() ? "" : transport.pending[0].request.url);
    transport.AnswerAllPending(status, body);
    Turn();
  }

  std::string ExpiringIn(Micros length) const {
    return R"({"active":true,"exp":)" + std::to_string((clock.Now() + length) / kSecond) + "}";
  }

  static HttpResponse Untold(int64_t id) {
    return MakeResponse(200, R"({"access_token":"fake-access","refresh_token":")" + NextToken(id) + R"("})");
  }
};

TEST_F(IntrospectionEngineTest, AnAnswerThatDoesNotTellIsAskedAbout) {
  AddRow(1);
  Turn();
  Answer(1, Untold(1));
  EXPECT_EQ(Row(1).writes, 1);
  EXPECT_EQ(Row(1).expires_at, std::nullopt);
  Run(kSecond);
  AnswerIntrospection(200, ExpiringIn(900 * kSecond));
  EXPECT_EQ(Row(1).expires_at, clock.Now() + 900 * kSecond);
  EXPECT_GT(*Row(1).due_at, clock.Now() + 500 * kSecond);
  EXPECT_LT(*Row(1).due_at, clock.Now() + 900 * kSecond);
  EXPECT_EQ(Row(1).refresh_token, NextToken(1));
  EXPECT_EQ(Row(1).writes, 1);
}

TEST_F(IntrospectionEngineTest, AnAnswerThatTellsIsBelieved) {
  AddRow(1);
  Turn();
  Answer(1, Success(1, 600));
  Run(kMinute);
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).introspections, 0);
}

TEST_F(IntrospectionEngineTest, WhatIsNotActiveIsRefreshed) {
  AddUnknown(1);
  Turn();
  AnswerIntrospection(200, R"({"active":false})");
  EXPECT_EQ(Row(1).expires_at, clock.Now());
  EXPECT_THAT(Row(1).message, HasSubstr("not active"));
  Run(2 * kSecond);
  EXPECT_TRUE(InFlight(1));
}

// With the answer to a question no tokens are lost; with that to a refresh they may be.
TEST_F(IntrospectionEngineTest, TheJournalKnowsWhatIsOnlyAsked) {
  AddUnknown(1);
  Turn();
  ASSERT_TRUE(Introspecting());
  EXPECT_TRUE(store.only_asked.contains(1));
  // Somebody wants a new token meanwhile.
  engine->RequestNow(1, -1);
  AnswerIntrospection(200, ExpiringIn(kHour));
  EXPECT_TRUE(InFlight(1));
  EXPECT_FALSE(store.only_asked.contains(1));
  EXPECT_TRUE(store.journal.contains(1));
  store.Restart();
  EXPECT_TRUE(Row(1).lost_response);
}

TEST_F(IntrospectionEngineTest, WhatCannotBeReadIsNotedAsARefresh) {
  AddUnknown(1).hides_access_token = true;
  Turn();
  EXPECT_TRUE(InFlight(1));
  EXPECT_FALSE(store.only_asked.contains(1));
}

TEST_F(IntrospectionEngineTest, NothingIsRefreshedThatCannotBeNoted) {
  AddUnknown(1).hides_access_token = true;
  store.fail_notes = 1;
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  Turn();
  EXPECT_FALSE(store.journal.contains(1));
  Run(kMinute);
  EXPECT_TRUE(InFlight(1));
}

TEST_F(IntrospectionEngineTest, ManyClaimsThatCannotBeNotedAreOneFailure) {
  for (int64_t id = 1; id <= 20; id++) AddUnknown(id).hides_access_token = true;
  store.fail_notes = 20;
  Turn();
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_TRUE(store.journal.empty());
  store.fail_notes = 0;
  Run(3 * kSecond);
  EXPECT_EQ(transport.pending.size(), 20u);
}

TEST_F(IntrospectionEngineTest, ANewTokenThatIsCalledInactiveIsNotRefreshedForEver) {
  AddRow(1);
  Turn();
  Answer(1, Untold(1));
  Run(kSecond);
  AnswerIntrospection(200, R"({"active":false})");
  EXPECT_EQ(Row(1).expires_at, clock.Now() + kHour);
  EXPECT_THAT(Row(1).message, HasSubstr("a lifetime is assumed"));
  Run(10 * kMinute);
  EXPECT_TRUE(transport.pending.empty());
}

TEST_F(IntrospectionEngineTest, WithoutExpTheProvidersLifetimeIsAssumed) {
  ProviderOptions options;
  options.timing.default_expires_in = 2 * kHour;
  Introspect(std::move(options));
  AddUnknown(1);
  Turn();
  AnswerIntrospection(200, R"({"active":true})");
  EXPECT_EQ(Row(1).expires_at, clock.Now() + 2 * kHour);
}

TEST_F(IntrospectionEngineTest, FiveFailuresAreEnough) {
  AddUnknown(1);
  Turn();
  for (int attempt = 1; attempt <= 5; attempt++) {
    EXPECT_EQ(Row(1).expires_at, std::nullopt);
    AnswerIntrospection(403, "<html>no</html>");
    if (attempt < 5) Run(20 * kSecond);
  }
  EXPECT_EQ(Row(1).expires_at, clock.Now() + kHour);
  EXPECT_EQ(Row(1).attempts, 0);
  EXPECT_EQ(Row(1).status, "connected");
  EXPECT_EQ(Row(1).lost_response, false);
  // The token endpoint is not to blame.
  AddRow(2);
  engine->ScheduleChanged();
  Turn();
  EXPECT_TRUE(InFlight(2));
}

TEST_F(IntrospectionEngineTest, TheOtherSecretIsTriedOnce) {
  auto provider = std::make_shared<Provider>();
  provider->id = 1;
  provider->client_id = "client";
  provider->client_secret = Secret("new");
  provider->previous_client_secret = Secret("old");
  provider->options = store.providers[0]->options;
  store.providers = {std::move(provider)};
  store.providers_version++;
  AddUnknown(1);
  Turn();
  AnswerIntrospection(401, R"({"error":"invalid_client"})");
  AnswerIntrospection(200, ExpiringIn(900 * kSecond));
  EXPECT_EQ(Row(1).expires_at, clock.Now() + 900 * kSecond);
  EXPECT_EQ(Row(1).introspections, 1);
}

TEST_F(IntrospectionEngineTest, ALostAnswerLosesNothing) {
  AddUnknown(1);
  Turn();
  transport.FailAllPending(TransportFailure::kMaybeHandled);
  Turn();
  EXPECT_EQ(Row(1).failure, FailureClass::kTransient);
  EXPECT_EQ(Row(1).lost_response, false);
  Run(5 * kSecond);
  EXPECT_TRUE(Introspecting());
}

TEST_F(IntrospectionEngineTest, ALimitHoldsForAllThatAskAndForNoRefresh) {
  AddUnknown(1);
  Turn();
  AnswerIntrospection(429, "");
  AddUnknown(2);
  AddRow(3);
  engine->ScheduleChanged();
  Run(30 * kSecond);
  ASSERT_EQ(transport.pending.size(), 1);
  EXPECT_TRUE(InFlight(3));
  Answer(3, Success(3));
  EXPECT_EQ(Row(2).failure, FailureClass::kRateLimited);
  EXPECT_EQ(Row(2).attempts, 0);
  Run(40 * kSecond);
  EXPECT_EQ(transport.pending.size(), 2);
}

TEST_F(IntrospectionEngineTest, WhoeverComesMeanwhileGetsANewToken) {
  AddUnknown(1);
  Turn();
  engine->RequestNow(1, Row(1).generation);
  Turn();
  AnswerIntrospection(200, ExpiringIn(900 * kSecond));
  EXPECT_TRUE(InFlight(1));
  Answer(1, Success(1));
  EXPECT_EQ(Finished(1), std::vector{DemandResult::kRefreshed});
  EXPECT_EQ(Row(1).introspections, 0);
}

TEST_F(IntrospectionEngineTest, WhoeverWaitsIsNotKeptWaiting) {
  FakeStore::Row& row = AddUnknown(1);
  row.due_at = clock.Now() + kHour;
  engine->RequestNow(1, row.generation);
  Turn();
  EXPECT_TRUE(InFlight(1));
}

TEST_F(IntrospectionEngineTest, TheMinimumIntervalIsOfRefreshes) {
  ProviderOptions options;
  options.timing.min_interval = 10 * kMinute;
  Introspect(std::move(options));
  AddUnknown(1).last_refreshed_at = clock.Now();
  Turn();
  EXPECT_TRUE(Introspecting());
}

TEST_F(IntrospectionEngineTest, NothingNewIsBegunInTheEnd) {
  AddUnknown(1);
  Turn();
  engine->RequestNow(1, Row(1).generation);
  engine->BeginDrain();
  AnswerIntrospection(200, ExpiringIn(900 * kSecond));
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(engine->unfinished(), 0);
  EXPECT_EQ(Finished(1), std::vector{DemandResult::kShuttingDown});
}

TEST_F(IntrospectionEngineTest, ARequestThatCannotBeMadeCountsAsAnAttempt) {
  ProviderOptions options;
  options.request_headers = {{"X-Shop", "${shop}"}};
  Introspect(std::move(options));
  AddUnknown(1);
  Run(2 * kMinute);
  EXPECT_EQ(Row(1).introspections, 1);
  EXPECT_NE(Row(1).expires_at, std::nullopt);
  EXPECT_THAT(Row(1).message, HasSubstr("cannot be made"));
}

TEST_F(IntrospectionEngineTest, ATokenThatCannotBeReadIsRefreshedOnce) {
  AddUnknown(1).hides_access_token = true;
  Turn();
  Answer(1, Untold(1));
  Run(kMinute);
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).writes, 1);
  ASSERT_NE(Row(1).expires_at, std::nullopt);
  EXPECT_GT(*Row(1).due_at, clock.Now() + 30 * kMinute);
}

TEST_F(IntrospectionEngineTest, OfATokenThatCannotBeReadALifetimeIsAssumedInTheEnd) {
  AddRow(1).hides_access_token = true;
  for (int refresh = 1; refresh <= 2; refresh++) {
    Turn();
    ASSERT_EQ(transport.pending.size(), 1);
    transport.AnswerAllPending(200, R"({"access_token":"fake-access"})");
    Turn();
    clock.Advance(kSecond);
  }
  Run(kMinute);
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_GT(Row(1).due_at, clock.Now() + 30 * kMinute);
}

TEST_F(IntrospectionEngineTest, AGrantIsIdleSinceItsRefresh) {
  ProviderOptions options;
  options.timing.keep_alive = 30 * kDay;
  Introspect(std::move(options));
  AddUnknown(1).last_refreshed_at = clock.Now() - 20 * kDay;
  Turn();
  AnswerIntrospection(200, ExpiringIn(300 * kDay));
  EXPECT_LE(*Row(1).due_at, clock.Now() + 10 * kDay);
}

TEST_F(IntrospectionEngineTest, WhereNobodyWillAskALifetimeIsAssumed) {
  RefresherSettings settings;
  settings.background = false;
  engine->Configure(settings);
  AddUnknown(1);
  engine->RequestNow(1, Row(1).generation);
  Turn();
  Answer(1, Untold(1));
  EXPECT_EQ(Row(1).expires_at, clock.Now() + kHour);
  EXPECT_GT(Row(1).due_at, clock.Now() + 30 * kMinute);
}

TEST_F(IntrospectionEngineTest, AProviderThatKeepsFailingIsProbedWithARefresh) {
  AddRows(1, 20);
  Turn();
  AnswerAll(1, 20, Down);
  for (int64_t id = 101; id <= 150; id++) AddUnknown(id);
  engine->ScheduleChanged();
  const uint64_t before = engine->counters().requests;
  for (int i = 0; i < 200; i++) {
    Run(100 * kMillisecond);
    for (const FakeTransport::Pending& request : transport.pending)
      EXPECT_EQ(request.request.url, "https://provider.example/token");
    transport.AnswerAllPending(503, "<html>down</html>");
    Turn();
  }
  EXPECT_LE(engine->counters().requests - before, 5);
}

// ---- clients of their own (RFC 7591)

class OwnClientTest : public EngineTest {
 protected:
  std::string Authorization() const {
    for (const HttpHeader& header : transport.pending.at(0).request.headers)
      if (header.name == "Authorization") return std::string(header.value.view());
    return "(none)";
  }
};

TEST_F(OwnClientTest, TheCredentialsClientIsTheOneThatAsks) {
  FakeStore::Row& row = AddRow(1);
  row.client_id = "own";
  row.client_secret = "own-password";
  Turn();
  EXPECT_EQ(Authorization(), "Basic " + Base64Encode("own:own-password"));
  Answer(1, Success(1));
  EXPECT_EQ(Row(1).writes, 1);
}

TEST_F(OwnClientTest, WithoutASecretItIsPublic) {
  AddRow(1).client_id = "own";
  Turn();
  EXPECT_EQ(Authorization(), "(none)");
  EXPECT_EQ(FormField(transport.pending.at(0).request, "client_id"), "own");
}

TEST_F(OwnClientTest, ItsSecretIsNotTheProvidersToChange) {
  AddRow(1).client_id = "own";
  Row(1).client_secret = "own-password";
  auto provider = std::make_shared<Provider>();
  provider->id = 1;
  provider->name = "provider-1";
  provider->client_id = "client";
  provider->client_secret = Secret("new");
  provider->previous_client_secret = Secret("old");
  provider->options.token_endpoint = "https://provider.example/token";
  store.providers = {std::move(provider)};
  store.providers_version++;
  Turn();
  Answer(1, BadClient());
  EXPECT_TRUE(transport.pending.empty());
  EXPECT_EQ(Row(1).failure, FailureClass::kClientConfig);
}

TEST_F(OwnClientTest, OneThatIsRefusedSaysNothingAboutTheProvider) {
  for (int64_t id = 1; id <= 8; id++) AddRow(id).client_id = "own" + std::to_string(id);
  Turn();
  AnswerAll(1, 8, BadClient);
  clock.Advance(kSecond);
  AddRow(9);
  AddRow(10);
  engine->ScheduleChanged();
  Turn();
  EXPECT_EQ(transport.pending.size(), 2);
}

TEST_F(OwnClientTest, WhatItsAnswersEchoIsScrubbed) {
  AddRow(1).client_id = "own";
  Row(1).client_secret = "own-password";
  Turn();
  Answer(1, MakeResponse(400, R"({"error":"invalid_request","error_description":"own-password?"})"));
  EXPECT_EQ(Row(1).message.find("own-password"), std::string::npos) << Row(1).message;
  EXPECT_THAT(Row(1).message, HasSubstr("invalid_request"));
}

}  // namespace
}  // namespace token_refresh
