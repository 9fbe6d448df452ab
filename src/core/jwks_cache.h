// The keys of issuers, and when to fetch them. State only: SignIns asks it, fetches, and tells it what came. One
// thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/clock.h"
#include "core/jwk.h"
#include "core/result.h"

namespace token_refresh {

class JwksCache {
 public:
  static constexpr size_t kMaxEntries = 64;
  static constexpr Micros kFreshFor = kHour;
  static constexpr Micros kServesFor = kDay;              // when they cannot be fetched again
  static constexpr Micros kUnknownKeyHold = 5 * kSecond;  // so often, at most, an unknown key id asks for a fetch
  static constexpr Micros kFailureHold = 10 * kSecond;    // between a failure and the next fetch

  // source: whatever names the keys; the jwks_uri, and how it is trusted.

  // Null: there are none that may still be used.
  std::shared_ptr<const JwkSet> Find(const std::string& source, Micros now) const;

  // Never fetched, or no longer fresh; after a failure, while there are keys that may be used, only when
  // kFailureHold has passed.
  bool WantsFetch(const std::string& source, Micros now) const;

  // Whether keys that do not suffice for a token are worth another fetch.
  bool WantsFetchForUnknownKey(const std::string& source, Micros now) const;

  // When it will be, if that is only too soon after the last fetch.
  std::optional<Micros> UnknownKeyHoldEnds(const std::string& source, Micros now) const;

  // A document that was fetched. Errors: as ParseJwks; it then counts as a failure.
  Status Put(const std::string& source, std::string_view document, Micros now);
  void PutFailure(const std::string& source, Micros now);

  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::shared_ptr<const JwkSet> keys;  // null: never fetched
    Micros fetched_at = 0;
    std::optional<Micros> failed_at;  // the last time it failed
    Micros tried_at = 0;
  };

  const Entry* FindEntry(const std::string& source) const;
  Entry& EntryFor(const std::string& source, Micros now);

  std::map<std::string, Entry> entries_;
};

}  // namespace token_refresh
