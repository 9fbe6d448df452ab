#include "core/outcome_outbox.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <utility>

#include "core/refresh_policy.h"

namespace token_refresh {

void OutcomeOutbox::Flush(Store& store, Micros now, double jitter,
                          const std::function<void(const Outcome&, SaveVerdict)>& told) {
  std::vector<Outcome> batch = std::exchange(fresh_, {});
  const bool retrying = !unsaved_.empty() && now >= retry_at_;
  if (retrying) {
    std::move(unsaved_.begin(), unsaved_.end(), std::back_inserter(batch));
    unsaved_.clear();
  }
  if (batch.empty()) return;

  const std::vector<SaveVerdict> verdicts = store.Save(now, batch);
  const bool had_unsaved = !unsaved_.empty();
  for (size_t i = 0; i < batch.size(); i++) {
    // A verdict that is missing is no reason to drop an outcome.
    const SaveVerdict verdict = i < verdicts.size() ? verdicts[i] : SaveVerdict::kNotStored;
    told(batch[i], verdict);
    if (verdict == SaveVerdict::kNotStored) unsaved_.push_back(std::move(batch[i]));
  }
  unsaved_tokens_ = CountUnsavedTokens();
  if (unsaved_.empty()) {
    failures_ = 0;
  } else if (!had_unsaved) {
    failures_ = retrying ? failures_ + 1 : 1;
    retry_at_ = now + BackoffDelay(failures_, true, std::nullopt, jitter);
  }
}

size_t OutcomeOutbox::CountUnsavedTokens() const {
  std::unordered_map<int32_t, size_t> of_table;
  size_t count = 0;
  for (const Outcome& outcome : unsaved_)
    if (outcome.HasNewTokens() && of_table[outcome.claim.token_table]++ < kUnsavedOfTable) count++;
  return count;
}

std::optional<Micros> OutcomeOutbox::RetryAt() const {
  return unsaved_.empty() ? std::nullopt : std::optional<Micros>(retry_at_);
}

}  // namespace token_refresh
