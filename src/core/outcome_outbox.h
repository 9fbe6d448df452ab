// Outcomes on their way into the store. What cannot be stored stays here and is tried again until it
// can: a rotated refresh token exists nowhere else. Private to the refresh engine.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

#include "core/clock.h"
#include "core/store.h"

namespace token_refresh {

class OutcomeOutbox {
 public:
  void Add(Outcome outcome) { fresh_.push_back(std::move(outcome)); }

  // Saves what is new, and what failed before once its time has come, in one call to the store.
  // told hears each verdict; after kNotStored the outcome stays here.
  void Flush(Store& store, Micros now, double jitter, const std::function<void(const Outcome&, SaveVerdict)>& told);

  bool has_fresh() const { return !fresh_.empty(); }
  // Of those that could not be stored, the ones that hold new tokens: a crash would lose them. Of one token table at
  // most kUnsavedOfTable count, since what is wrong with one is no reason to leave the others alone.
  size_t unsaved_tokens() const { return unsaved_tokens_; }
  size_t size() const { return fresh_.size() + unsaved_.size(); }
  // When to try the unsaved ones again; nothing: there are none.
  std::optional<Micros> RetryAt() const;

 private:
  size_t CountUnsavedTokens() const;

  std::vector<Outcome> fresh_;
  std::vector<Outcome> unsaved_;
  size_t unsaved_tokens_ = 0;
  int failures_ = 0;
  Micros retry_at_ = 0;
};

}  // namespace token_refresh
