#include "core/jwks_cache.h"

#include <algorithm>
#include <utility>

namespace token_refresh {
namespace {

// A time that lies ahead says that the clock was set back: nobody knows how long ago it was.
bool HasPassed(Micros since, Micros length, Micros now) { return now < since || now - since >= length; }

}  // namespace

std::shared_ptr<const JwkSet> JwksCache::Find(const std::string& source, Micros now) const {
  const Entry* entry = FindEntry(source);
  if (entry == nullptr || now - entry->fetched_at >= kServesFor) return nullptr;
  return entry->keys;
}

bool JwksCache::WantsFetch(const std::string& source, Micros now) const {
  if (Find(source, now) == nullptr) return true;
  const Entry& entry = *FindEntry(source);
  if (entry.failed_at.has_value() && !HasPassed(*entry.failed_at, kFailureHold, now)) return false;
  return HasPassed(entry.fetched_at, kFreshFor, now);
}

bool JwksCache::WantsFetchForUnknownKey(const std::string& source, Micros now) const {
  if (Find(source, now) == nullptr) return true;
  const Entry& entry = *FindEntry(source);
  if (entry.failed_at.has_value() && !HasPassed(*entry.failed_at, kFailureHold, now)) return false;
  return HasPassed(entry.fetched_at, kUnknownKeyHold, now);
}

std::optional<Micros> JwksCache::UnknownKeyHoldEnds(const std::string& source, Micros now) const {
  if (Find(source, now) == nullptr) return std::nullopt;
  const Entry& entry = *FindEntry(source);
  if (entry.failed_at.has_value() && !HasPassed(*entry.failed_at, kFailureHold, now)) return std::nullopt;
  return entry.fetched_at + kUnknownKeyHold;
}

Status JwksCache::Put(const std::string& source, std::string_view document, Micros now) {
  Result<JwkSet> keys = ParseJwks(document);
  if (!keys) {
    PutFailure(source, now);
    return keys.error();
  }
  Entry& entry = EntryFor(source, now);
  entry.keys = std::make_shared<const JwkSet>(*std::move(keys));
  entry.fetched_at = now;
  return Ok();
}

void JwksCache::PutFailure(const std::string& source, Micros now) { EntryFor(source, now).failed_at = now; }

const JwksCache::Entry* JwksCache::FindEntry(const std::string& source) const {
  const auto found = entries_.find(source);
  return found == entries_.end() ? nullptr : &found->second;
}

JwksCache::Entry& JwksCache::EntryFor(const std::string& source, Micros now) {
  if (!entries_.contains(source) && entries_.size() >= kMaxEntries) {
    entries_.erase(std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.tried_at < b.second.tried_at;
    }));
  }
  Entry& entry = entries_[source];
  entry.tried_at = now;
  return entry;
}

}  // namespace token_refresh
