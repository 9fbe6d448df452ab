#include "core/demand_book.h"

#include <algorithm>
#include <utility>

namespace token_refresh {

void DemandBook::Queue(int64_t schedule_id, int64_t seen_generation) {
  const auto [found, is_new] = seen_generation_.try_emplace(schedule_id, seen_generation);
  if (is_new)
    order_.push_back(schedule_id);
  else
    found->second = std::max(found->second, seen_generation);
}

std::vector<ClaimRequest> DemandBook::TakeQueued(size_t limit) {
  std::vector<ClaimRequest> requests;
  while (!order_.empty() && requests.size() < limit) {
    const int64_t id = order_.front();
    order_.pop_front();
    requests.push_back({id, true, seen_generation_.extract(id).mapped()});
    awaited_.insert(id);
  }
  return requests;
}

void DemandBook::PutBack(const std::vector<ClaimRequest>& requests) {
  for (auto request = requests.rbegin(); request != requests.rend(); ++request) {
    awaited_.erase(request->schedule_id);
    order_.push_front(request->schedule_id);
    seen_generation_.emplace(request->schedule_id, request->seen_generation);
  }
}

void DemandBook::Finish(int64_t schedule_id, DemandResult result) {
  if (awaited_.erase(schedule_id) > 0) FinishAtOnce(schedule_id, result);
}

void DemandBook::FinishQueued(DemandResult result) {
  for (const int64_t id : order_) FinishAtOnce(id, result);
  order_.clear();
  seen_generation_.clear();
}

std::vector<FinishedDemand> DemandBook::TakeFinished() { return std::exchange(finished_, {}); }

}  // namespace token_refresh
