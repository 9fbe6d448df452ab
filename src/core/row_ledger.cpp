#include "core/row_ledger.h"

namespace token_refresh {

std::optional<RowStage> RowLedger::StageOf(int64_t schedule_id) const {
  const auto found = stages_.find(schedule_id);
  return found == stages_.end() ? std::nullopt : std::optional<RowStage>(found->second);
}

void RowLedger::Hold(int64_t schedule_id, int32_t provider_id, Micros until) {
  const Micros rounded = (until + kSecond - 1) / kSecond * kSecond;
  Set(schedule_id, RowStage::kHeld);
  holds_.push({rounded, {schedule_id, provider_id}});
}

std::vector<RowLedger::HeldRow> RowLedger::EndHolds(Micros now) {
  std::vector<HeldRow> ended;
  while (!holds_.empty() && holds_.top().until <= now) {
    const HeldRow row = holds_.top().row;
    holds_.pop();
    // It may have been claimed on demand meanwhile.
    if (IsAt(row.schedule_id, RowStage::kHeld)) Forget(row.schedule_id);
    ended.push_back(row);
  }
  return ended;
}

std::optional<Micros> RowLedger::NextHoldEnd() const {
  return holds_.empty() ? std::nullopt : std::optional<Micros>(holds_.top().until);
}

}  // namespace token_refresh
