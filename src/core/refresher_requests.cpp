// What the engine asks a provider, with the one client secret or the other.
#include <utility>

#include "core/client_authentication.h"
#include "core/refresh_outcome.h"
#include "core/refresher_impl.h"

namespace token_refresh {

void Refresher::Impl::Submit(const Lane& lane, Claim claim) {
  const bool previous_secret = lane->prefers_previous_secret() && HasTwoSecrets(lane->provider());
  Result<HttpRequest> request = BuildRefreshRequest(lane->provider(), InputOf(claim, previous_secret), settings.http);
  if (!request) {
    const AnswerContext context{lane->provider(), now, settings.refresh_margin, Jitter()};
    return outbox.Add(UnaskedOutcome(std::move(claim), request.error(), context));
  }
  const uint64_t id = next_request_id++;
  const bool probe = lane->StartRequest(now);
  counters.requests++;
  in_flight.emplace(id, InFlight{std::move(claim), lane, lane->shared_provider(), probe, previous_secret});
  transport.Submit(id, *std::move(request));
}

bool Refresher::Impl::HasTwoSecrets(const Provider& provider) {
  const Secret& previous = provider.previous_client_secret;
  return !previous.empty() && !previous.Equals(provider.client_secret.view()) &&
         ProvesWithSecret(provider.options.auth_method);
}

RefreshInput Refresher::Impl::InputOf(const Claim& claim, bool previous_secret) const {
  RefreshInput input;
  input.refresh_token = claim.refresh_token.view();
  input.subject = claim.subject;
  input.captured = claim.captured;
  input.now = now;
  input.previous_secret = previous_secret;
  return input;
}

// The provider has looked at nothing but the client, so the token is as good as before.
bool Refresher::Impl::AskWithOtherSecret(InFlight& flight) {
  const Provider& provider = *flight.provider;
  if (flight.second_secret || !HasTwoSecrets(provider)) return false;
  const bool other = !flight.previous_secret;
  Result<HttpRequest> request = BuildRefreshRequest(provider, InputOf(flight.claim, other), settings.http);
  if (!request) return false;
  const uint64_t id = next_request_id++;
  const bool probe = flight.lane->StartRequest(now);
  counters.requests++;
  in_flight.emplace(id, InFlight{std::move(flight.claim), flight.lane, flight.provider, probe, other, true});
  transport.Submit(id, *std::move(request));
  return true;
}

}  // namespace token_refresh
