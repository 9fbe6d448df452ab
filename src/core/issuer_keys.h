// Gets the keys of issuers: from the cache, or by a fetch that all who want them share. Called by SignIns.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/http_calls.h"
#include "core/jwk.h"
#include "core/jwks_cache.h"
#include "core/provider.h"
#include "core/provider_request.h"

namespace token_refresh {

class IssuerKeys {
 public:
  // keys: null when there are none; why_not is then a scrubbed sentence.
  using Continuation = std::function<void(std::shared_ptr<const JwkSet> keys, const std::string& why_not)>;

  // calls and clock outlive this.
  IssuerKeys(HttpCalls& calls, const Clock& clock) : calls_(calls), clock_(clock) {}

  // Runs the continuation once: at once, or after a fetch. The provider has a jwks_uri.
  void Get(const std::shared_ptr<const Provider>& provider, const HttpDefaults& defaults, Continuation continuation);

  // For a token that the keys do not suffice for. False when another fetch would not help; the continuation then does
  // not run. One that comes too soon after the last waits for a few seconds if it may, and would not help otherwise.
  bool Renew(const std::shared_ptr<const Provider>& provider, const HttpDefaults& defaults, bool may_wait,
             Continuation continuation);

  // Begins what has waited for long enough.
  void Turn();
  // When there is something to begin; INT64_MAX: nothing.
  Micros NextAt() const;

 private:
  struct Held {
    Micros due_at;
    std::shared_ptr<const Provider> provider;
    HttpDefaults defaults;
    Continuation continuation;
  };

  void Fetch(const std::shared_ptr<const Provider>& provider, const HttpDefaults& defaults, Continuation continuation);
  void TakeAnswer(const std::string& source, const Provider& provider, const HttpResponse& response);

  HttpCalls& calls_;
  const Clock& clock_;
  JwksCache cache_;
  std::vector<Held> held_;
  std::map<std::string, std::vector<Continuation>> waiting_;  // by the source that is being fetched
};

}  // namespace token_refresh
