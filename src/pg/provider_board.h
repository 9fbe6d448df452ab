// What keeps requests from the providers of a database, from the refresher to whoever asks status(). In shared memory,
// with room for a bounded number of providers: those that are neither asked nor held back take none. Where more than
// fit are busy in the whole cluster at once, those that found no room are not shown.
#pragma once

#include <vector>

#include "core/provider_state.h"
#include "pg/postgres_api.h"

namespace token_refresh {

constexpr int kMaxProviderEntries = 2048;  // in the whole cluster

// The refresher's side: one, in its own process. It remembers what is shown, and writes what has changed.
class ProviderBoard {
 public:
  // busy, and those that cannot be used: both in the order of ids.
  void Show(Oid database, std::vector<ProviderState> busy, const std::vector<int32_t>& unusable);

 private:
  struct Shown {
    ProviderState state;
    int entry;  // in shared memory; -1: there was no room
  };
  std::vector<Shown> shown_;
};

// For anyone, after SharedStateAvailable(): copies at most kMaxProviderEntries states; returns how many.
int CopyProviderStates(Oid database, ProviderState* out);

}  // namespace token_refresh
