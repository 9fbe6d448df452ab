// What the engine asks a provider, as which client, and with the one client secret or the other.
#include <utility>

#include "core/client_authentication.h"
#include "core/client_secret_parts.h"
#include "core/credential_client.h"
#include "core/introspection.h"
#include "core/refresh_outcome.h"
#include "core/refresher_impl.h"

namespace token_refresh {

void Refresher::Impl::Submit(const Lane& lane, Claim claim) {
  InFlight flight;
  flight.lane = lane;
  flight.registration = lane->shared_provider();
  flight.provider = ProviderForClient(flight.registration, claim.client_id, claim.client_secret);
  const Provider& provider = *flight.provider;
  flight.previous_secret = lane->prefers_previous_secret() && HasTwoSecrets(provider);
  flight.introspection = WantsIntrospection(claim, *lane);
  if (claim.only_asked && !flight.introspection) {
    // A store that is down is asked once in a turn, however many claims there are.
    if (!store_failed && !store.NoteRefresh(claim).ok()) StoreFailed();
    if (store_failed) return GiveBack(std::move(claim), DemandResult::kInternal);
    claim.only_asked = false;
  }
  flight.claim = std::move(claim);
  if (flight.introspection && lane->introspection_blocked_until() > now) return PutOffIntrospection(std::move(flight));
  Result<HttpRequest> request = BuildRequest(flight);
  if (request) return Send(std::move(flight), *std::move(request));
  const AnswerContext context{provider, now, settings.refresh_margin, Jitter()};
  outbox.Add(flight.introspection ? UnlearnedOutcome(std::move(flight.claim),
                                                     UnaskedFailure(FailureClass::kTransient, request.error()), context)
                                  : UnaskedOutcome(std::move(flight.claim), request.error(), context));
}

Result<HttpRequest> Refresher::Impl::BuildRequest(const InFlight& flight) const {
  const Claim& claim = flight.claim;
  RefreshInput input;
  input.refresh_token = claim.refresh_token.view();
  input.subject = claim.subject;
  input.captured = claim.captured;
  input.now = now;
  input.previous_secret = flight.previous_secret;
  if (!flight.introspection) return BuildRefreshRequest(*flight.provider, input, settings.http);
  return BuildIntrospectionRequest(*flight.provider, input, claim.access_token.view(), settings.http);
}

void Refresher::Impl::Send(InFlight flight, HttpRequest request) {
  const uint64_t id = next_request_id++;
  flight.probe = flight.lane->StartRequest(now);
  counters.requests++;
  in_flight.emplace(id, std::move(flight));
  transport.Submit(id, std::move(request));
}

std::vector<std::string_view> Refresher::Impl::SecretsOf(const Provider& provider, const Claim& claim) {
  std::vector<std::string_view> secrets;
  for (const Secret* secret : {&claim.refresh_token, &claim.access_token})
    if (!secret->empty()) secrets.push_back(secret->view());
  AddClientSecrets(provider, secrets);
  return secrets;
}

// The provider has looked at nothing but the client, so the token is as good as before.
bool Refresher::Impl::AskWithOtherSecret(InFlight& flight) {
  if (flight.second_secret || !HasTwoSecrets(*flight.provider)) return false;
  flight.second_secret = true;
  flight.previous_secret = !flight.previous_secret;
  Result<HttpRequest> request = BuildRequest(flight);
  if (!request) return false;
  Send(std::move(flight), *std::move(request));
  return true;
}

void Refresher::Impl::RememberSecret(const InFlight& flight) {
  if (flight.second_secret && flight.registration == flight.lane->shared_provider())
    flight.lane->PreferSecret(flight.previous_secret);
}

}  // namespace token_refresh
