#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/refresh_outcome.h"
#include "core/refresher_impl.h"

namespace token_refresh {
namespace {

// How many due rows a list brings beyond those in hand, so that one list serves many turns.
constexpr int kLookAhead = 1000;
constexpr int kMaxQuota = 1000 * 1000;

// How long a due row that was refused is left alone; then the table is asked again. Unreadable
// rows wait for a person to bring the key back, locked ones for a transaction to end, parked ones for the
// store's next try. The others are not due as the claim sees it, which a list has just denied.
constexpr Micros kShortHold = 1 * kSecond;
constexpr Micros kLongHold = 60 * kSecond;

Micros HoldLength(Refusal refusal) {
  switch (refusal) {
    case Refusal::kUnreadable:
    case Refusal::kAlreadyRefreshed:
    case Refusal::kNeedsReauth:
    case Refusal::kNoRefreshToken:
    case Refusal::kLeftAlone:
      return kLongHold;
    case Refusal::kLocked:
    case Refusal::kParked:
    case Refusal::kNotDue:
    case Refusal::kNotFound:
      break;
  }
  return kShortHold;
}

// A list that is full of rows already in hand: more than the engine knows of are due, and it cannot see them.
constexpr Micros kBlindListDelay = 1 * kSecond;

DemandResult ResultOf(LaneGate gate) {
  switch (gate) {
    case LaneGate::kDisabled:
      return DemandResult::kProviderDisabled;
    case LaneGate::kRateLimited:
      return DemandResult::kRateLimited;
    case LaneGate::kFailing:
      return DemandResult::kProviderFailing;
    case LaneGate::kOpen:
      break;
  }
  return DemandResult::kInternal;
}

}  // namespace

// ---- places

Refresher::Impl::Lane Refresher::Impl::FindLane(int32_t provider_id) const {
  const auto found = lanes.find(provider_id);
  return found == lanes.end() ? nullptr : found->second;
}

int Refresher::Impl::FreePlaces() const {
  const int64_t taken = static_cast<int64_t>(in_flight.size() + outbox.unsaved_tokens());
  return static_cast<int>(std::max<int64_t>(0, settings.max_in_flight_total - taken));
}

bool Refresher::Impl::MayServeBackground(const ProviderLane& lane, Micros at) const {
  return lane.Places(at, settings.max_in_flight) > 0 &&
         MayTakePlace(lane.in_flight(), FreePlaces(), settings.max_in_flight_total, enabled_lanes);
}

// ---- on demand

void Refresher::Impl::RequestNow(int64_t schedule_id, int64_t seen_generation) {
  if (draining) return demands.FinishAtOnce(schedule_id, DemandResult::kShuttingDown);
  if (rows.IsAt(schedule_id, RowStage::kUnsaved)) return demands.FinishAtOnce(schedule_id, DemandResult::kInternal);
  if (rows.IsAt(schedule_id, RowStage::kClaimed)) return demands.Join(schedule_id);
  demands.Queue(schedule_id, seen_generation);
}

void Refresher::Impl::ServeDemands() {
  std::vector<ClaimRequest> requests = demands.TakeQueued(static_cast<size_t>(FreePlaces()));
  // Claimed in the background while its caller waited for a place: that refresh serves the caller.
  std::erase_if(requests, [this](const ClaimRequest& request) {
    const std::optional<RowStage> stage = rows.StageOf(request.schedule_id);
    if (stage == RowStage::kUnsaved) demands.Finish(request.schedule_id, DemandResult::kInternal);
    return stage == RowStage::kUnsaved || stage == RowStage::kClaimed;
  });
  if (requests.empty()) return;

  Result<ClaimBatch> batch = store.ClaimRows(now, requests);
  if (batch.ok()) {
    if (batch->providers_changed) return demands.PutBack(requests);
    for (Claim& claim : batch->claims) Dispatch(std::move(claim));
    for (const RefusedClaim& refused : batch->refused) demands.Finish(refused.schedule_id, ResultOf(refused.refusal));
  } else {
    StoreFailed();
  }
  // Whatever was not answered has no one else who would.
  for (const ClaimRequest& request : requests)
    if (!rows.IsAt(request.schedule_id, RowStage::kClaimed))
      demands.Finish(request.schedule_id, DemandResult::kInternal);
}

void Refresher::Impl::SubmitBacklogs() {
  for (const auto& [id, lane] : lanes) {
    if (lane->backlog.empty()) continue;
    while (!lane->backlog.empty() && FreePlaces() > 0 && lane->Room(now, settings.max_in_flight) > 0) {
      Claim claim = std::move(lane->backlog.front());
      lane->backlog.pop_front();
      Submit(lane, std::move(claim));
    }
    const LaneGate gate = lane->GateAt(now);
    if (gate != LaneGate::kOpen) GiveBackBacklog(*lane, ResultOf(gate));
  }
}

// ---- in the background

void Refresher::Impl::EndHolds() {
  for (const RowLedger::HeldRow& row : rows.EndHolds(now)) {
    const Lane lane = FindLane(row.provider_id);
    if (!lane) continue;
    lane->held = std::max(0, lane->held - 1);
    lane->ListAgain();
  }
}

void Refresher::Impl::ServeDueRows() {
  if (!settings.background) return;
  ListDueRows();
  if (store_failed) return;
  const std::vector<ListedRow> picked = PickReadyRows();
  if (!picked.empty()) ClaimListed(picked);
}

void Refresher::Impl::ListDueRows() {
  std::vector<DueQuota> quotas;
  for (const auto& [id, lane] : lanes) {
    if (!lane->WantsList(now) || !MayServeBackground(*lane, now)) continue;
    const int places = std::min(lane->Places(now, settings.max_in_flight), FreePlaces());
    if (lane->ready.size() >= static_cast<size_t>(places)) continue;
    // Rows in hand may still be due in the table. The more of them, the further the list looks
    // beyond, so that many held rows do not make many long lists.
    const size_t in_hand =
        lane->ready.size() + lane->backlog.size() + outbox.size() + static_cast<size_t>(lane->in_flight() + lane->held);
    const size_t quota = in_hand + std::max<size_t>(kLookAhead, in_hand / 2);
    quotas.push_back({id, static_cast<int32_t>(std::min<size_t>(quota, kMaxQuota))});
  }
  if (quotas.empty()) return;
  const Result<DueList> list = store.ListDue(now, quotas);
  if (!list.ok()) return StoreFailed();
  TakeList(*list, quotas);
}

void Refresher::Impl::TakeList(const DueList& list, const std::vector<DueQuota>& quotas) {
  struct Seen {
    int listed = 0;
    bool any_new = false;
  };
  std::unordered_map<int32_t, Seen> seen;
  for (const DueRow& row : list.rows) {
    Seen& of_lane = seen[row.provider_id];
    of_lane.listed++;
    const Lane lane = FindLane(row.provider_id);
    if (!lane || rows.StageOf(row.schedule_id)) continue;
    of_lane.any_new = true;
    rows.Set(row.schedule_id, RowStage::kReady);
    lane->ready.push_back(row.schedule_id);
  }
  for (const DueQuota& quota : quotas) {
    const Lane lane = FindLane(quota.provider_id);
    const Seen& of_lane = seen[quota.provider_id];
    const bool full = of_lane.listed >= quota.limit;
    lane->Listed(now, full && of_lane.any_new, list.next_due_at);
    if (full && !of_lane.any_new) lane->MayBeDueAt(now + kBlindListDelay);
  }
}

std::vector<Refresher::Impl::ListedRow> Refresher::Impl::PickReadyRows() {
  std::vector<Lane> with_work;
  std::vector<PlaceShare> shares;
  for (const auto& [id, lane] : lanes) {
    if (lane->ready.empty()) continue;
    const int places = lane->Places(now, settings.max_in_flight);
    with_work.push_back(lane);
    shares.push_back(
        {static_cast<int>(std::min<size_t>(static_cast<size_t>(places), lane->ready.size())), lane->in_flight(), 0});
  }
  SharePlaces(shares, FreePlaces(), settings.max_in_flight_total, enabled_lanes);

  std::vector<ListedRow> picked;
  for (size_t i = 0; i < with_work.size(); i++) {
    const Lane& lane = with_work[i];
    for (int left = shares[i].given; left > 0 && !lane->ready.empty();) {
      const int64_t id = lane->ready.front();
      lane->ready.pop_front();
      // Served on demand since it was listed.
      if (!rows.IsAt(id, RowStage::kReady)) continue;
      rows.Set(id, RowStage::kClaiming);
      picked.push_back({lane, id});
      left--;
    }
  }
  return picked;
}

void Refresher::Impl::ClaimListed(const std::vector<ListedRow>& listed) {
  std::vector<ClaimRequest> requests;
  requests.reserve(listed.size());
  for (const auto& [lane, id] : listed) requests.push_back({id});
  Result<ClaimBatch> batch = store.ClaimRows(now, requests);
  if (!batch.ok() || batch->providers_changed) {
    for (auto row = listed.rbegin(); row != listed.rend(); ++row) {
      rows.Set(row->second, RowStage::kReady);
      row->first->ready.push_front(row->second);
    }
    if (!batch.ok()) StoreFailed();
    return;
  }
  for (Claim& claim : batch->claims) Dispatch(std::move(claim));
  RefuseListed(listed, batch->refused);
}

void Refresher::Impl::RefuseListed(const std::vector<ListedRow>& listed, const std::vector<RefusedClaim>& refused) {
  std::unordered_map<int64_t, Refusal> why;
  for (const RefusedClaim& row : refused) why[row.schedule_id] = row.refusal;
  for (const auto& [lane, id] : listed) {
    if (!rows.IsAt(id, RowStage::kClaiming)) continue;
    // Without an answer it is as if it were not due: neither lost, nor asked for again at once.
    const auto found = why.find(id);
    const Micros length = HoldLength(found == why.end() ? Refusal::kNotDue : found->second);
    lane->held++;
    rows.Hold(id, lane->provider().id, now + length);
  }
}

// ---- what becomes of a claim

void Refresher::Impl::Dispatch(Claim claim) {
  const int64_t id = claim.schedule_id;
  rows.Set(id, RowStage::kClaimed);
  const Lane lane = FindLane(claim.provider_id);
  // A provider that the store could not load, and has complained about.
  if (!lane) return GiveBack(std::move(claim), DemandResult::kInternal);
  const LaneGate gate = lane->GateAt(now);
  if (gate != LaneGate::kOpen) return GiveBack(std::move(claim), ResultOf(gate));
  const std::optional<Micros> allowed_at = EarliestRefresh(claim, lane->provider(), now);
  if (allowed_at && !WantsIntrospection(claim, *lane)) {
    demands.Finish(id, DemandResult::kTooEarly);
    return outbox.Add(TooEarlyOutcome(std::move(claim), *allowed_at, now));
  }
  if (lane->Places(now, settings.max_in_flight) > 0) return Submit(lane, std::move(claim));
  lane->backlog.push_back(std::move(claim));
}

void Refresher::Impl::GiveBack(Claim claim, DemandResult result) {
  demands.Finish(claim.schedule_id, result);
  outbox.Add(ReleasedOutcome(std::move(claim), now));
}

void Refresher::Impl::GiveBackBacklog(ProviderLane& lane, DemandResult result) {
  for (Claim& claim : lane.backlog) GiveBack(std::move(claim), result);
  lane.backlog.clear();
}

}  // namespace token_refresh
