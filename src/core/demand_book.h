// Who waits for which credential. Any number of callers of one credential are one demand: the worker
// tells all of them. Private to the refresh engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/refresher.h"
#include "core/store.h"

namespace token_refresh {

class DemandBook {
 public:
  // To be claimed in the next turn. Callers who saw different generations want what the latest of them wants.
  void Queue(int64_t schedule_id, int64_t seen_generation);
  // A refresh is under way already: its outcome serves this caller too.
  void Join(int64_t schedule_id) { awaited_.insert(schedule_id); }
  bool IsAwaited(int64_t schedule_id) const { return awaited_.contains(schedule_id); }
  size_t queued() const { return order_.size(); }

  // The longest waiting first; from here on they are awaited.
  std::vector<ClaimRequest> TakeQueued(size_t limit);
  // Those that were taken and could not be claimed in this turn: they are the next ones.
  void PutBack(const std::vector<ClaimRequest>& requests);

  void FinishAtOnce(int64_t schedule_id, DemandResult result) { finished_.push_back({schedule_id, result}); }
  // Nothing happens when nobody waits.
  void Finish(int64_t schedule_id, DemandResult result);
  void FinishQueued(DemandResult result);
  std::vector<FinishedDemand> TakeFinished();

 private:
  std::deque<int64_t> order_;
  std::unordered_map<int64_t, int64_t> seen_generation_;  // of the queued
  std::unordered_set<int64_t> awaited_;
  std::vector<FinishedDemand> finished_;
};

}  // namespace token_refresh
