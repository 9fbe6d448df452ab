// The state of the refresh engine, and the steps of one turn. Private to refresher.cpp (the turn,
// answers, saving, wake-ups), refresher_claims.cpp (what to claim, and what becomes of a claim),
// refresher_requests.cpp (what is asked) and refresher_introspection.cpp (when a token expires).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/demand_book.h"
#include "core/outcome_outbox.h"
#include "core/provider_lane.h"
#include "core/refresher.h"
#include "core/row_ledger.h"

namespace token_refresh {

struct Refresher::Impl {
  using Lane = std::shared_ptr<ProviderLane>;
  using ListedRow = std::pair<Lane, int64_t>;

  // A request that the transport carries. Keeps the provider as it was asked, whatever changes meanwhile.
  struct InFlight {
    Claim claim;
    Lane lane;
    std::shared_ptr<const Provider> provider;      // as its client sees it
    std::shared_ptr<const Provider> registration;  // as it is registered
    bool introspection = false;    // it asks when the access token expires, for nothing else
    bool probe = false;
    bool previous_secret = false;  // asked with previous_client_secret
    bool second_secret = false;    // the other secret has been refused already
  };

  Impl(Store& store, HttpTransport& transport, const Clock& clock, uint64_t random_seed)
      : store(store), transport(transport), clock(clock), random(random_seed) {}

  // refresher.cpp
  void Turn();
  void ReloadProviders();
  void DropLane(ProviderLane& lane);
  void ReceiveAnswers();
  void TakeAnswer(InFlight flight, const HttpResponse& response);
  void JudgeProvider(const InFlight& flight, const Outcome& outcome);
  void SaveOutcomes();
  void NoteSaved(const Outcome& outcome, SaveVerdict verdict);
  void Count(const Outcome& outcome, SaveVerdict verdict);
  void StoreFailed();
  std::optional<Micros> NextTurnAt() const;
  bool HasWorkNow(Micros now) const;
  std::optional<Micros> LaneWakeAt(const ProviderLane& lane, Micros now) const;

  // refresher_claims.cpp
  void RequestNow(int64_t schedule_id, int64_t seen_generation);
  void EndHolds();
  void SubmitBacklogs();
  void ServeDemands();
  void ServeDueRows();
  void ListDueRows();
  void TakeList(const DueList& list, const std::vector<DueQuota>& quotas);
  std::vector<ListedRow> PickReadyRows();
  void ClaimListed(const std::vector<ListedRow>& rows);
  void RefuseListed(const std::vector<ListedRow>& rows, const std::vector<RefusedClaim>& refused);
  void Dispatch(Claim claim);
  void GiveBack(Claim claim, DemandResult result);
  void GiveBackBacklog(ProviderLane& lane, DemandResult result);

  // refresher_requests.cpp
  void Submit(const Lane& lane, Claim claim);
  // What an answer may echo.
  static std::vector<std::string_view> SecretsOf(const Provider& provider, const Claim& claim);
  Result<HttpRequest> BuildRequest(const InFlight& flight) const;
  // Takes the claim over when it returns true.
  bool AskWithOtherSecret(InFlight& flight);
  // After an answer to it that is not about the client.
  static void RememberSecret(const InFlight& flight);
  void Send(InFlight flight, HttpRequest request);

  // refresher_introspection.cpp
  static bool WantsIntrospection(const Claim& claim, const ProviderLane& lane);
  void TakeIntrospection(InFlight flight, const HttpResponse& response);
  void PutOffIntrospection(InFlight flight);

  Lane FindLane(int32_t provider_id) const;
  int FreePlaces() const;
  bool MayServeBackground(const ProviderLane& lane, Micros now) const;
  bool StoreIsResting(Micros now) const { return now < store_retry_at; }
  bool ClaimsArePaused() const;
  double Jitter() { return std::uniform_real_distribution<double>(0, 1)(random); }

  Store& store;
  HttpTransport& transport;
  const Clock& clock;
  std::mt19937_64 random;
  RefresherSettings settings;
  RefresherCounters counters;
  Micros now = 0;  // of this turn
  bool draining = false;

  std::optional<uint64_t> providers_version;
  std::map<int32_t, Lane> lanes;  // by provider id; ordered, so that a simulation repeats
  int enabled_lanes = 0;

  RowLedger rows;
  DemandBook demands;
  std::unordered_map<uint64_t, InFlight> in_flight;
  uint64_t next_request_id = 1;
  OutcomeOutbox outbox;

  int store_failures = 0;
  Micros store_retry_at = 0;
  bool store_failed = false;  // in this turn
};

}  // namespace token_refresh
