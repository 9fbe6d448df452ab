// Days of a few hundred credentials with a strictly rotating provider, in seconds: random faults of the network,
// the provider and the store, callers, sign-ins, revocations, orderly restarts and crashes. Every
// seed repeats exactly. The promises of the engine are checked all the way, and once more
// when the faults have ended.
#include <gtest/gtest.h>

#include <set>

#include "core/refresher.h"
#include "fake_store.h"
#include "rotating_provider.h"

namespace token_refresh {
namespace {

constexpr int64_t kCredentials = 200;
constexpr int32_t kProviderId = 1;

struct Scenario {
  uint64_t seed;
  Micros replay_window;
  int max_in_flight;
  bool restarts;
  bool crashes;
};

class Simulation {
 public:
  explicit Simulation(const Scenario& scenario)
      : scenario_(scenario), random_(scenario.seed), provider_(clock_, scenario.seed + 1, scenario.replay_window) {
    auto provider = std::make_shared<Provider>();
    provider->id = kProviderId;
    provider->client_id = "client";
    provider->client_secret = Secret("fake-client-password");
    provider->options.token_endpoint = "https://provider.example/token";
    store_.providers = {provider};
    for (int64_t id = 1; id <= kCredentials; id++) SignIn(id);
    provider_.on_request = [this](const auto& grant, const std::string& token) { CheckRequest(grant, token); };
    store_.on_saved = [this](const Outcome& outcome, SaveVerdict verdict) { CheckSaved(outcome, verdict); };
    StartEngine();
  }

  void RunWithFaults(Micros length) {
    faults_ = true;
    next_mischief_at_ = clock_.Now();
    Run(length);
  }

  // People sign in again where they must, and everything gets well.
  void RunWithoutFaults(Micros length) {
    faults_ = false;
    provider_.fault_rate = 0;
    provider_.down = false;
    store_.fail_loads = store_.fail_lists = store_.fail_claims = store_.fail_saves = 0;
    for (auto& [id, row] : store_.rows) {
      row.locked = row.rejects_writes = row.unreadable = false;
      row.fail_saves = 0;
    }
    Run(length / 2);
    for (const auto& [id, row] : store_.rows)
      if (row.status == "needs_reauth") SignIn(id);
    engine_->ScheduleChanged();
    Run(length - length / 2);
  }

  void CheckAllFresh() {
    for (const auto& [id, row] : store_.rows) {
      EXPECT_EQ(row.status, "connected") << id;
      EXPECT_GT(row.expires_at, clock_.Now()) << id;
      EXPECT_GT(row.due_at, clock_.Now() - kMinute) << id;
      EXPECT_TRUE(row.parked_refresh_token.empty()) << id;
      const RotatingProvider::Grant* grant = provider_.GrantOf(row.refresh_token);
      EXPECT_FALSE(grant->dead) << id;
      EXPECT_TRUE(InFlight(id) || grant->current == row.refresh_token) << "a rotated token was lost: " << id;
    }
    EXPECT_TRUE(waiting_.empty()) << "callers were forgotten";
  }

  void CheckItWasWorthIt() const {
    EXPECT_GT(provider_.rotations, 12 * kCredentials);
    EXPECT_GT(refused_answers_, 0);
    EXPECT_GT(parked_, 0);
    EXPECT_GT(superseded_, 0);
    EXPECT_GT(not_stored_, 0);
    EXPECT_GT(answered_demands_, 100);
    EXPECT_TRUE(!scenario_.restarts || restarts_ > 5);
    EXPECT_TRUE(!scenario_.crashes || crashes_ > 5);
  }

  // An orderly end: what is in flight is received and saved.
  void Drain() {
    engine_->BeginDrain();
    TellCallers();
    const Micros deadline = clock_.Now() + 10 * kMinute;
    while (engine_->unfinished() > 0 && clock_.Now() < deadline) Step(deadline);
    EXPECT_EQ(engine_->unfinished(), 0u) << "the drain does not end";
    EXPECT_EQ(provider_.answered, settled_) << "an outcome was lost";
    EXPECT_TRUE(store_.journal.empty());
    EXPECT_TRUE(waiting_.empty()) << "callers were forgotten";
  }

 private:
  bool Chance(double probability) { return std::uniform_real_distribution<double>(0, 1)(random_) < probability; }
  int64_t Between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  bool InFlight(int64_t id) const { return store_.journal.contains(id); }

  void StartEngine() {
    engine_ = std::make_unique<Refresher>(store_, provider_, clock_, static_cast<uint64_t>(Between(0, 1 << 30)));
    RefresherSettings settings;
    settings.max_in_flight = scenario_.max_in_flight;
    settings.max_in_flight_total = 2 * scenario_.max_in_flight;
    engine_->Configure(settings);
  }

  void SignIn(int64_t id) {
    const Micros expires_at = clock_.Now() + Between(kMinute, kHour);
    store_.SignIn(id, provider_.NewGrant(id), expires_at - Between(0, kMinute), expires_at);
    reported_dead_.erase(id);
  }

  // ---- invariants

  void CheckRequest(const RotatingProvider::Grant& grant, const std::string& token) {
    const FakeStore::Row& row = store_.rows.at(grant.owner);
    if (provider_.GrantOf(row.refresh_token) != &grant) return;  // signed in anew since it was claimed
    EXPECT_EQ(row.refresh_token, token) << "a retired token was presented although its successor is stored";
    EXPECT_TRUE(row.parked_refresh_token.empty()) << "a retired token was presented although its successor is parked";
    EXPECT_EQ(row.status, "connected") << "a dead grant was presented again";
    EXPECT_FALSE(reported_dead_.contains(grant.owner)) << "a dead grant was presented again";
    EXPECT_FALSE(store_.rows.at(grant.owner).unreadable);
  }

  void CheckSaved(const Outcome& outcome, SaveVerdict verdict) {
    if (verdict == SaveVerdict::kNotStored) {
      not_stored_++;
      return;
    }
    if (outcome.released) return;
    settled_++;
    if (verdict == SaveVerdict::kParked) parked_++;
    if (verdict == SaveVerdict::kSuperseded) superseded_++;
    if (verdict != SaveVerdict::kSaved || !outcome.failure) return;
    const FailureClass failure = outcome.failure->failure;
    if (failure != FailureClass::kReauth && failure != FailureClass::kLostResponse) return;
    refused_answers_++;
    const RotatingProvider::Grant* grant = provider_.GrantOf(outcome.claim.refresh_token.view());
    EXPECT_TRUE(grant->dead) << "a living grant was called dead";
    EXPECT_TRUE(failure == FailureClass::kLostResponse || grant->revoked) << "a lost answer was blamed on the user";
    reported_dead_.insert(grant->owner);
  }

  // ---- time

  void Run(Micros length) {
    const Micros end = clock_.Now() + length;
    while (clock_.Now() < end && !testing::Test::HasFailure()) {
      if (faults_ && clock_.Now() >= next_mischief_at_) {
        Mischief();
        next_mischief_at_ = clock_.Now() + Between(kSecond, 4 * kMinute);
      }
      if (Chance(0.02)) Demand();
      Step(faults_ ? std::min(end, next_mischief_at_) : end);
    }
  }

  // Sleeps until something happens, and lets the engine have its turn.
  void Step(Micros latest) {
    Micros next = latest;
    if (const auto at = engine_->NextTurnAt()) next = std::min(next, *at);
    if (const auto at = provider_.NextEventAt()) next = std::min(next, *at);
    turns_without_time_ = next > clock_.Now() ? 0 : turns_without_time_ + 1;
    ASSERT_LT(turns_without_time_, 1000) << "the engine does not come to rest";
    clock_.AdvanceTo(next);
    engine_->Turn();
    TellCallers();
  }

  void TellCallers() {
    std::set<int64_t> told;
    for (const FinishedDemand& finished : engine_->TakeFinished()) told.insert(finished.schedule_id);
    for (const int64_t id : told) EXPECT_EQ(waiting_.erase(id), 1u) << "answered without having asked";
    answered_demands_ += static_cast<int>(told.size());
  }

  // ---- what the world does

  void Demand() {
    const int64_t id = Between(1, kCredentials);
    engine_->RequestNow(id, store_.rows.at(id).generation);
    waiting_.insert(id);
  }

  FakeStore::Row& RandomRow() { return store_.rows.at(Between(1, kCredentials)); }

  void Mischief() {
    switch (Between(0, 12)) {
      case 0:
        provider_.fault_rate = Chance(0.5) ? 0.3 : 0.02;
        break;
      case 1:
        provider_.down = Chance(0.2);
        break;
      case 2:
        store_.fail_saves = static_cast<int>(Between(0, 20));
        break;
      case 3:
        store_.fail_claims = static_cast<int>(Between(0, 3));
        break;
      case 4:
        store_.fail_lists = static_cast<int>(Between(0, 3));
        break;
      case 5:
        RandomRow().rejects_writes ^= true;
        break;
      case 6:
        RandomRow().locked ^= true;
        break;
      case 7:
        RandomRow().fail_saves = static_cast<int>(Between(0, 5));
        break;
      case 8:
        SignInSomebody();
        break;
      case 9:
        RevokeSomebody();
        break;
      case 10:
        for (int i = 0; i < 50; i++) Demand();
        break;
      case 11:
        if (scenario_.restarts) Restart();
        break;
      case 12:
        if (scenario_.crashes) Crash();
        break;
    }
    for (auto& [id, row] : store_.rows)
      if (Chance(0.05)) row.locked = row.rejects_writes = false;
  }

  void SignInSomebody() {
    // Half of the time while a refresh is under way.
    int64_t id = Between(1, kCredentials);
    if (!store_.journal.empty() && Chance(0.5)) id = store_.journal.begin()->first;
    SignIn(id);
    for (const auto& [dead, row] : store_.rows)
      if (row.status == "needs_reauth" && Chance(0.3)) SignIn(dead);
    engine_->ScheduleChanged();
  }

  void RevokeSomebody() {
    RotatingProvider::Grant* grant = provider_.GrantOf(RandomRow().refresh_token);
    grant->dead = grant->revoked = true;
  }

  void Restart() {
    Drain();
    StartEngine();
    restarts_++;
  }

  void Crash() {
    engine_.reset();
    provider_.LoseEverything();
    store_.Restart();
    waiting_.clear();
    settled_ = provider_.answered;
    StartEngine();
    crashes_++;
  }

  const Scenario scenario_;
  FakeClock clock_;
  std::mt19937_64 random_;
  FakeStore store_;
  RotatingProvider provider_;
  std::unique_ptr<Refresher> engine_;

  bool faults_ = false;
  Micros next_mischief_at_ = 0;
  int turns_without_time_ = 0;
  std::set<int64_t> waiting_;        // callers
  std::set<int64_t> reported_dead_;  // credentials
  int settled_ = 0;                  // answers whose outcome was stored
  int parked_ = 0, superseded_ = 0, not_stored_ = 0, refused_answers_ = 0, answered_demands_ = 0;
  int restarts_ = 0, crashes_ = 0;
};

class RefresherSimulationTest : public testing::TestWithParam<Scenario> {};

TEST_P(RefresherSimulationTest, KeepsItsPromises) {
  Simulation simulation(GetParam());
  simulation.RunWithFaults(36 * kHour);
  simulation.RunWithoutFaults(4 * kHour);
  simulation.CheckAllFresh();
  simulation.CheckItWasWorthIt();
  simulation.Drain();
}

INSTANTIATE_TEST_SUITE_P(Seeds, RefresherSimulationTest,
                         testing::Values(Scenario{1, 10 * kMinute, 512, false, false}, Scenario{2, 0, 512, true, false},
                                         Scenario{3, 10 * kMinute, 4, true, true}, Scenario{4, 0, 20, true, true},
                                         Scenario{5, 30 * kSecond, 1, true, true}),
                         [](const auto& info) { return "Seed" + std::to_string(info.param.seed); });

}  // namespace
}  // namespace token_refresh
