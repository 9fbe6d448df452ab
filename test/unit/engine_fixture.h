// An engine in a faked world, for the tests of its behaviour. Row n first holds the refresh token
// "fake-refresh-n", and a successful answer replaces it by "fake-next-n".
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/refresher.h"
#include "fake_clock.h"
#include "fake_store.h"
#include "fake_transport.h"

namespace token_refresh {

class EngineTest : public testing::Test {
 protected:
  EngineTest() {
    SetProvider(1);
    Start();
  }

  void Configure(int per_provider, int total) {
    RefresherSettings settings;
    settings.max_in_flight = per_provider;
    settings.max_in_flight_total = total;
    engine->Configure(settings);
  }

  void Start() { engine = std::make_unique<Refresher>(store, transport, clock, 42); }

  void SetProvider(int32_t id, ProviderOptions options = {}) {
    auto provider = std::make_shared<Provider>();
    provider->id = id;
    provider->name = "provider-" + std::to_string(id);
    provider->client_id = "client";
    provider->client_secret = Secret("fake-client-password");
    provider->options = std::move(options);
    provider->options.token_endpoint = "https://provider.example/token";
    std::erase_if(store.providers, [id](const auto& known) { return known->id == id; });
    store.providers.push_back(std::move(provider));
    store.providers_version++;
  }

  static std::string FirstToken(int64_t id) { return "fake-refresh-" + std::to_string(id); }
  static std::string NextToken(int64_t id) { return "fake-next-" + std::to_string(id); }

  FakeStore::Row& AddRow(int64_t id, Micros due_in = 0, int32_t provider_id = 1) {
    FakeStore::Row& row = store.rows[id];
    row.provider_id = provider_id;
    row.refresh_token = FirstToken(id);
    row.due_at = clock.Now() + due_in;
    row.expires_at = *row.due_at + 5 * kMinute;
    return row;
  }

  void AddRows(int64_t first, int64_t count, int32_t provider_id = 1) {
    for (int64_t id = first; id < first + count; id++) AddRow(id, 0, provider_id);
  }

  FakeStore::Row& Row(int64_t id) { return store.rows.at(id); }

  static HttpResponse Success(int64_t id, int expires_in = 3600) {
    return MakeResponse(200, R"({"access_token":"fake-access","token_type":"Bearer","expires_in":)" +
                                 std::to_string(expires_in) + R"(,"refresh_token":")" + NextToken(id) + R"("})");
  }

  static HttpResponse Dead() { return MakeResponse(400, R"({"error":"invalid_grant"})"); }
  static HttpResponse Down() { return MakeResponse(503, "<html>down</html>"); }
  static HttpResponse BadClient() { return MakeResponse(401, R"({"error":"invalid_client"})"); }

  static HttpResponse Throttled(std::string retry_after = "") {
    HttpResponse response = MakeResponse(429, "");
    response.retry_after = std::move(retry_after);
    return response;
  }

  void Turn() { engine->Turn(); }

  // Lets the engine wake up by itself until length is over; returns how often it did.
  int Run(Micros length) {
    const Micros end = clock.Now() + length;
    int turns = 0;
    int without_time = 0;
    for (std::optional<Micros> next = engine->NextTurnAt(); next && *next <= end; next = engine->NextTurnAt()) {
      without_time = *next > clock.Now() ? 0 : without_time + 1;
      if (without_time > 100) {
        ADD_FAILURE() << "the engine does not come to rest";
        break;
      }
      clock.AdvanceTo(*next);
      Turn();
      turns++;
    }
    clock.AdvanceTo(end);
    return turns;
  }

  void Answer(int64_t id, HttpResponse response) {
    ASSERT_TRUE(transport.Answer(FirstToken(id), std::move(response))) << "row " << id << " is not in flight";
    Turn();
  }

  void AnswerAll(int64_t first, int64_t count, HttpResponse (*response)()) {
    for (int64_t id = first; id < first + count; id++)
      EXPECT_TRUE(transport.Answer(FirstToken(id), response())) << "row " << id << " is not in flight";
    Turn();
  }

  // Makes the provider of these rows known to fail.
  void OpenBreaker(int64_t first_id) {
    AddRows(first_id, 5, 1);
    clock.Advance(kSecond);
    engine->ScheduleChanged();
    Turn();
    AnswerAll(first_id, 5, Down);
    for (int64_t id = first_id; id < first_id + 5; id++) Row(id).due_at = clock.Now() + kDay;
  }

  bool InFlight(int64_t id) const {
    return std::any_of(transport.pending.begin(), transport.pending.end(), [id](const auto& pending) {
      return FormField(pending.request, "refresh_token") == FirstToken(id);
    });
  }

  // How the demands for id ended since the last call of this kind.
  std::vector<DemandResult> Finished(int64_t id) {
    for (const FinishedDemand& finished : engine->TakeFinished())
      finished_[finished.schedule_id].push_back(finished.result);
    return std::exchange(finished_[id], {});
  }

  FakeClock clock;
  FakeStore store;
  FakeTransport transport;
  std::unique_ptr<Refresher> engine;

 private:
  std::map<int64_t, std::vector<DemandResult>> finished_;
};

}  // namespace token_refresh
