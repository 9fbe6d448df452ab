#include "core/issuer_keys.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/provider_answer.h"

namespace token_refresh {
namespace {

// Keys that came over another trust are other keys: who creates a provider with a CA of its own must not be able to
// lend its keys to somebody else's provider.
std::string SourceOf(const HttpRequest& request) {
  return request.url + '\n' + request.ca_file + (request.allow_insecure_http ? "\ninsecure" : "");
}

HttpRequest BuildKeysRequest(const Provider& provider, const HttpDefaults& defaults) {
  HttpRequest request = NewProviderRequest(provider, provider.options.jwks_uri, defaults);
  SetHeader(request, "Accept", "application/jwk-set+json, application/json");
  return request;
}

}  // namespace

void IssuerKeys::Get(const std::shared_ptr<const Provider>& provider, const HttpDefaults& defaults,
                     Continuation continuation) {
  const std::string source = SourceOf(BuildKeysRequest(*provider, defaults));
  const Micros now = clock_.Now();
  if (cache_.WantsFetch(source, now)) return Fetch(provider, defaults, std::move(continuation));
  continuation(cache_.Find(source, now), {});
}

bool IssuerKeys::Renew(const std::shared_ptr<const Provider>& provider, const HttpDefaults& defaults, bool may_wait,
                       Continuation continuation) {
  const std::string source = SourceOf(BuildKeysRequest(*provider, defaults));
  const Micros now = clock_.Now();
  if (waiting_.contains(source) || cache_.WantsFetchForUnknownKey(source, now)) {
    Fetch(provider, defaults, std::move(continuation));
    return true;
  }
  const std::optional<Micros> hold_ends = cache_.UnknownKeyHoldEnds(source, now);
  if (!may_wait || !hold_ends.has_value()) return false;
  held_.push_back({*hold_ends, provider, defaults, std::move(continuation)});
  return true;
}

void IssuerKeys::Turn() {
  const Micros now = clock_.Now();
  for (Held& held : std::exchange(held_, {})) {
    if (held.due_at > now) {
      held_.push_back(std::move(held));
    } else {
      Fetch(held.provider, held.defaults, std::move(held.continuation));
    }
  }
}

Micros IssuerKeys::NextAt() const {
  Micros next = INT64_MAX;
  for (const Held& held : held_) next = std::min(next, held.due_at);
  return next;
}

void IssuerKeys::Fetch(const std::shared_ptr<const Provider>& provider, const HttpDefaults& defaults,
                       Continuation continuation) {
  HttpRequest request = BuildKeysRequest(*provider, defaults);
  const std::string source = SourceOf(request);
  const auto [waiting, is_new] = waiting_.try_emplace(source);
  waiting->second.push_back(std::move(continuation));
  if (!is_new) return;
  calls_.Call(std::move(request),
              [this, source, provider](const HttpResponse& response) { TakeAnswer(source, *provider, response); });
}

void IssuerKeys::TakeAnswer(const std::string& source, const Provider& provider, const HttpResponse& response) {
  const Micros now = clock_.Now();
  std::string why_not;
  if (!IsSuccess(response)) {
    cache_.PutFailure(source, now);
    why_not = DescribeFailure(provider, response, "not an answer with keys", {}, now);
  } else if (const Status put = cache_.Put(source, response.body.view(), now); !put) {
    why_not = put.error().message;
  }
  const std::shared_ptr<const JwkSet> keys = cache_.Find(source, now);
  const auto waiting = waiting_.extract(source);
  for (const Continuation& continuation : waiting.mapped()) continuation(keys, why_not);
}

}  // namespace token_refresh
