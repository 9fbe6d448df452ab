#include "pg/provider_board.h"

#include <algorithm>
#include <utility>

#include "pg/shared_memory.h"

namespace token_refresh {
namespace {

// Where to look for a free entry first; only a hint.
int TakeEntryLocked(Oid database, int* from) {
  for (; *from < kMaxProviderEntries; ++*from) {
    ProviderEntry& entry = shared_state->providers[*from];
    if (OidIsValid(entry.database)) continue;
    entry.database = database;
    return *from;
  }
  return -1;
}

void MarkUnusable(const std::vector<int32_t>& unusable, std::vector<ProviderState>* states) {
  auto at = states->begin();
  for (const int32_t id : unusable) {
    at = std::find_if(at, states->end(), [&](const ProviderState& s) { return s.provider_id >= id; });
    if (at == states->end() || at->provider_id != id) at = states->insert(at, ProviderState{.provider_id = id});
    at->unusable = true;
  }
}

}  // namespace

void ProviderBoard::Show(Oid database, std::vector<ProviderState> busy, const std::vector<int32_t>& unusable) {
  MarkUnusable(unusable, &busy);
  const auto same = [](const Shown& shown, const ProviderState& state) { return shown.state == state; };
  if (std::equal(shown_.begin(), shown_.end(), busy.begin(), busy.end(), same)) return;

  // Both are in the order of ids: whoever stays keeps its entry.
  std::vector<Shown> next;
  next.reserve(busy.size());
  auto old = shown_.begin();
  for (const ProviderState& state : busy) {
    old = std::find_if(old, shown_.end(), [&](const Shown& s) { return s.state.provider_id >= state.provider_id; });
    const bool known = old != shown_.end() && old->state.provider_id == state.provider_id;
    next.push_back({state, known ? std::exchange(old->entry, -1) : -1});
  }
  WithSharedLock(LW_EXCLUSIVE, [&] {
    for (const Shown& gone : shown_) {
      if (gone.entry >= 0) shared_state->providers[gone.entry] = ProviderEntry{};
    }
    int from = 0;
    for (Shown& shown : next) {
      if (shown.entry < 0) shown.entry = TakeEntryLocked(database, &from);
      if (shown.entry >= 0) shared_state->providers[shown.entry].state = shown.state;
    }
  });
  shown_ = std::move(next);
}

void ForgetProviderStatesLocked(Oid database) {
  for (ProviderEntry& entry : shared_state->providers) {
    if (entry.database == database) entry = ProviderEntry{};
  }
}

int CopyProviderStates(Oid database, ProviderState* out) {
  return WithSharedLock(LW_SHARED, [&] {
    int count = 0;
    for (const ProviderEntry& entry : shared_state->providers) {
      if (entry.database == database) out[count++] = entry.state;
    }
    return count;
  });
}

}  // namespace token_refresh
