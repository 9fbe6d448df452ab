// Which schedule rows the refresh engine has in hand, and at what stage. Rows in hand are still
// due in the table until their outcome is saved, so every due list shows them again. Private to the engine.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <unordered_map>
#include <vector>

#include "core/clock.h"

namespace token_refresh {

enum class RowStage : uint8_t {
  kReady,     // listed as due, waiting to be claimed
  kClaiming,  // asked of the store in this turn
  kClaimed,   // ours: waiting, in flight, or answered and not saved
  kUnsaved,   // answered, and a save failed
  kHeld,      // due, but refused: left alone for a while
};

class RowLedger {
 public:
  struct HeldRow {
    int64_t schedule_id;
    int32_t provider_id;
  };

  std::optional<RowStage> StageOf(int64_t schedule_id) const;
  bool IsAt(int64_t schedule_id, RowStage stage) const { return StageOf(schedule_id) == stage; }
  void Set(int64_t schedule_id, RowStage stage) { stages_[schedule_id] = stage; }
  void Forget(int64_t schedule_id) { stages_.erase(schedule_id); }

  // until is rounded up to a full second, so that many holds end with one wake-up.
  void Hold(int64_t schedule_id, int32_t provider_id, Micros until);
  // Forgets the held rows whose time is over, and names them.
  std::vector<HeldRow> EndHolds(Micros now);
  std::optional<Micros> NextHoldEnd() const;

 private:
  struct HoldEntry {
    Micros until;
    HeldRow row;
    bool operator>(const HoldEntry& other) const { return until > other.until; }
  };

  std::unordered_map<int64_t, RowStage> stages_;
  std::priority_queue<HoldEntry, std::vector<HoldEntry>, std::greater<HoldEntry>> holds_;
};

}  // namespace token_refresh
