#include "core/refresher.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <variant>

#include "core/refresh_outcome.h"
#include "core/refresh_policy.h"
#include "core/refresher_impl.h"
#include "core/token_response.h"

namespace token_refresh {
namespace {

// So many new tokens that cannot be stored mean that the store is ill: nothing new is asked until it recovers,
// because a crash would lose them all. Failures may be lost: their rows would only be asked for again.
constexpr size_t kUnsavedToPause = 100;

ProviderSign SignOf(const Outcome& outcome) {
  if (!outcome.failure) return ProviderSign::kAlive;
  switch (outcome.failure->failure) {
    case FailureClass::kReauth:
    case FailureClass::kLostResponse:
    case FailureClass::kTooEarly:
      return ProviderSign::kAlive;
    case FailureClass::kTransient:
    case FailureClass::kSuperseded:
    case FailureClass::kClientConfig:
      return ProviderSign::kFailing;
    case FailureClass::kRateLimited:
      break;
  }
  return ProviderSign::kNeither;
}

void KeepEarlier(std::optional<Micros>& earliest, std::optional<Micros> candidate) {
  if (candidate && (!earliest || *candidate < *earliest)) earliest = candidate;
}

}  // namespace

// ---- the turn

void Refresher::Impl::Turn() {
  now = clock.Now();
  store_failed = false;
  if (!draining) ReloadProviders();
  ReceiveAnswers();
  SaveOutcomes();
  if (draining) return;
  SubmitBacklogs();
  if (StoreIsResting(now) || ClaimsArePaused()) {
    demands.FinishQueued(DemandResult::kInternal);
  } else {
    EndHolds();
    ServeDemands();
    if (!store_failed) ServeDueRows();
    if (!store_failed) store_failures = 0;
  }
  // Claims that were given back at once.
  if (outbox.has_fresh()) SaveOutcomes();
}

void Refresher::Impl::ReloadProviders() {
  // Read before loading: a change in between is seen again.
  const uint64_t version = store.ProvidersVersion();
  if (providers_version == version || StoreIsResting(now)) return;
  auto loaded = store.LoadProviders();
  if (!loaded.ok()) return StoreFailed();
  providers_version = version;

  std::map<int32_t, Lane> previous = std::exchange(lanes, {});
  enabled_lanes = 0;
  for (const std::shared_ptr<const Provider>& provider : *loaded) {
    if (provider->options.enabled) enabled_lanes++;
    Lane& lane = lanes[provider->id];
    const auto known = previous.find(provider->id);
    if (known == previous.end()) {
      lane = std::make_shared<ProviderLane>(provider);
      continue;
    }
    lane = std::move(known->second);
    lane->SetProvider(provider);
    lane->ListAgain();
    previous.erase(known);
  }
  for (const auto& [id, lane] : previous) DropLane(*lane);
}

void Refresher::Impl::DropLane(ProviderLane& lane) {
  for (const int64_t id : lane.ready)
    if (rows.IsAt(id, RowStage::kReady)) rows.Forget(id);
  lane.ready.clear();
  GiveBackBacklog(lane, DemandResult::kNotFound);
}

// ---- answers

void Refresher::Impl::ReceiveAnswers() {
  for (const HttpCompletion& completion : transport.Collect()) {
    auto flight = in_flight.extract(completion.id);
    if (!flight.empty()) TakeAnswer(std::move(flight.mapped()), completion.response);
  }
}

void Refresher::Impl::TakeAnswer(InFlight flight, const HttpResponse& response) {
  flight.lane->EndRequest(flight.probe);
  const Provider& provider = *flight.provider;
  if (demands.IsAwaited(flight.claim.schedule_id)) flight.claim.asked_for = true;
  if (flight.introspection) return TakeIntrospection(std::move(flight), response);

  std::variant<TokenSet, FailedAnswer> answer =
      ReadTokenResponse(provider, response, SecretsOf(provider, flight.claim), now, TokenAsk::kRefresh, flight.claim.label);
  const FailedAnswer* failed = std::get_if<FailedAnswer>(&answer);
  if (failed != nullptr && failed->client_refused && AskWithOtherSecret(flight)) return;
  if (failed == nullptr) RememberSecret(flight);

  const AnswerContext context{provider, now, settings.refresh_margin, Jitter(), settings.background};
  TokenSet* tokens = std::get_if<TokenSet>(&answer);
  Outcome outcome =
      tokens != nullptr ? RefreshedOutcome(std::move(flight.claim), std::move(*tokens), context)
                        : FailedOutcome(std::move(flight.claim), std::move(*std::get_if<FailedAnswer>(&answer)),
                                        response, context);
  outcome.duration = response.duration;
  JudgeProvider(flight, outcome);
  outbox.Add(std::move(outcome));
}

void Refresher::Impl::JudgeProvider(const InFlight& flight, const Outcome& outcome) {
  // What was asked under a registration that has been replaced says nothing about the new one.
  if (flight.registration != flight.lane->shared_provider()) return;
  const bool own_client_refused = flight.provider != flight.registration && outcome.failure &&
                                  outcome.failure->failure == FailureClass::kClientConfig;
  flight.lane->RecordSign(own_client_refused ? ProviderSign::kAlive : SignOf(outcome), flight.probe, now, Jitter());
  if (outcome.failure && outcome.failure->failure == FailureClass::kRateLimited)
    flight.lane->BlockUntil(now + outcome.failure->retry_after_us.value_or(kRateLimitDelay));
}

// ---- saving

void Refresher::Impl::SaveOutcomes() {
  outbox.Flush(store, now, Jitter(),
               [this](const Outcome& outcome, SaveVerdict verdict) { NoteSaved(outcome, verdict); });
}

void Refresher::Impl::NoteSaved(const Outcome& outcome, SaveVerdict verdict) {
  const int64_t id = outcome.claim.schedule_id;
  demands.Finish(id, ResultOf(outcome, verdict));
  if (verdict == SaveVerdict::kNotStored) return rows.Set(id, RowStage::kUnsaved);
  rows.Forget(id);
  Count(outcome, verdict);
  const Lane lane = FindLane(outcome.claim.provider_id);
  if (!lane || verdict == SaveVerdict::kGone) return;
  // When the store has given the row another due time than ours, only the table knows it.
  if (verdict != SaveVerdict::kSaved)
    lane->ListAgain();
  else if (const std::optional<Micros> due_at = outcome.ScheduledDueAt())
    lane->MayBeDueAt(*due_at);
}

void Refresher::Impl::Count(const Outcome& outcome, SaveVerdict verdict) {
  if (outcome.released || outcome.introspected) return;
  if (verdict == SaveVerdict::kSuperseded || verdict == SaveVerdict::kGone) {
    counters.superseded++;
    return;
  }
  if (outcome.tokens) {
    counters.refreshed++;
  } else {
    counters.failed++;
  }
  if (verdict == SaveVerdict::kParked) counters.parked++;
}

// ---- when to wake up

void Refresher::Impl::StoreFailed() {
  store_failed = true;
  store_failures++;
  store_retry_at = now + BackoffDelay(store_failures, true, std::nullopt, Jitter());
  demands.FinishQueued(DemandResult::kInternal);
}

bool Refresher::Impl::ClaimsArePaused() const { return outbox.unsaved_tokens() >= kUnsavedToPause; }

bool Refresher::Impl::HasWorkNow(Micros at) const {
  if (outbox.has_fresh()) return true;
  if (draining) return false;
  if (demands.queued() > 0 && (StoreIsResting(at) || ClaimsArePaused() || FreePlaces() > 0)) return true;
  return std::any_of(lanes.begin(), lanes.end(), [&](const auto& entry) {
    const ProviderLane& lane = *entry.second;
    if (lane.backlog.empty()) return false;
    return lane.GateAt(at) != LaneGate::kOpen || (FreePlaces() > 0 && lane.Room(at, settings.max_in_flight) > 0);
  });
}

std::optional<Micros> Refresher::Impl::LaneWakeAt(const ProviderLane& lane, Micros at) const {
  const std::optional<Micros> work = lane.WorkAt(at);
  const std::optional<Micros> opens = lane.OpensAt(at);
  if (!work || !opens) return std::nullopt;
  // With no place to be had, an answer will bring the next turn.
  if (*opens <= at && !MayServeBackground(lane, at)) return std::nullopt;
  return std::max(*work, *opens);
}

std::optional<Micros> Refresher::Impl::NextTurnAt() const {
  const Micros at = clock.Now();
  if (HasWorkNow(at)) return at;
  std::optional<Micros> next = outbox.RetryAt();
  if (draining) return next;
  for (const auto& [id, lane] : lanes)
    if (!lane->backlog.empty() && lane->BudgetAt(at) > at) KeepEarlier(next, lane->BudgetAt(at));

  std::optional<Micros> next_claim;
  if (providers_version != store.ProvidersVersion()) next_claim = at;
  if (settings.background && !ClaimsArePaused()) {
    KeepEarlier(next_claim, rows.NextHoldEnd());
    for (const auto& [id, lane] : lanes) KeepEarlier(next_claim, LaneWakeAt(*lane, at));
  }
  if (next_claim) KeepEarlier(next, std::max(*next_claim, store_retry_at));
  return next;
}

// ---- the interface

Refresher::Refresher(Store& store, HttpTransport& transport, const Clock& clock, uint64_t random_seed)
    : impl_(std::make_unique<Impl>(store, transport, clock, random_seed)) {}

Refresher::~Refresher() = default;

void Refresher::Configure(const RefresherSettings& settings) {
  if (settings.background && !impl_->settings.background) ScheduleChanged();
  impl_->settings = settings;
}

void Refresher::RequestNow(int64_t schedule_id, int64_t seen_generation) {
  impl_->RequestNow(schedule_id, seen_generation);
}

void Refresher::ScheduleChanged() {
  for (const auto& [id, lane] : impl_->lanes) lane->ListAgain();
}

void Refresher::BeginDrain() {
  impl_->draining = true;
  impl_->demands.FinishQueued(DemandResult::kShuttingDown);
  for (const auto& [id, lane] : impl_->lanes) impl_->GiveBackBacklog(*lane, DemandResult::kShuttingDown);
}

void Refresher::Turn() { impl_->Turn(); }

std::optional<Micros> Refresher::NextTurnAt() const { return impl_->NextTurnAt(); }

size_t Refresher::unfinished() const { return impl_->in_flight.size() + impl_->outbox.size(); }

std::vector<FinishedDemand> Refresher::TakeFinished() { return impl_->demands.TakeFinished(); }

const RefresherCounters& Refresher::counters() const { return impl_->counters; }

std::vector<ProviderState> Refresher::BusyProviders() const {
  const Micros now = impl_->clock.Now();
  std::vector<ProviderState> busy;
  for (const auto& [id, lane] : impl_->lanes)
    if (const ProviderState state = lane->StateAt(now); !state.quiet()) busy.push_back(state);
  return busy;
}

}  // namespace token_refresh
