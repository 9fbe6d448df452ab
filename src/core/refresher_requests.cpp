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
  flight.introspection = WantsIntrospection(claim, provider);
  const RefreshInput input = InputOf(claim, flight.previous_secret);
  Result<HttpRequest> request =
      flight.introspection ? BuildIntrospectionRequest(provider, input, claim.access_token.view(), settings.http)
                           : BuildRefreshRequest(provider, input, settings.http);
  if (!request) {
    const AnswerContext context{provider, now, settings.refresh_margin, Jitter()};
    return outbox.Add(flight.introspection
                          ? UnlearnedOutcome(std::move(claim), UnaskedFailure(FailureClass::kTransient, request.error()), context)
                          : UnaskedOutcome(std::move(claim), request.error(), context));
  }
  flight.claim = std::move(claim);
  Send(std::move(flight), *std::move(request));
}

void Refresher::Impl::Send(InFlight flight, HttpRequest request) {
  const uint64_t id = next_request_id++;
  flight.probe = flight.lane->StartRequest(now);
  counters.requests++;
  in_flight.emplace(id, std::move(flight));
  transport.Submit(id, std::move(request));
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

std::vector<std::string_view> Refresher::Impl::SecretsOf(const Provider& provider, const Claim& claim) {
  std::vector<std::string_view> secrets;
  for (const Secret* secret :
       {&claim.refresh_token, &claim.access_token, &provider.client_secret, &provider.previous_client_secret}) {
    if (!secret->empty()) secrets.push_back(secret->view());
  }
  // Of a secret with a key behind it only the secret is sent.
  for (const Secret* secret : {&provider.client_secret, &provider.previous_client_secret}) {
    const std::string_view part = SplitClientSecret(provider.options, secret->view()).secret;
    if (!part.empty()) secrets.push_back(part);
  }
  return secrets;
}

// The provider has looked at nothing but the client, so the token is as good as before.
bool Refresher::Impl::AskWithOtherSecret(InFlight& flight) {
  if (flight.second_secret || !HasTwoSecrets(*flight.provider)) return false;
  const bool other = !flight.previous_secret;
  Result<HttpRequest> request = BuildRefreshRequest(*flight.provider, InputOf(flight.claim, other), settings.http);
  if (!request) return false;
  flight.previous_secret = other;
  flight.second_secret = true;
  Send(std::move(flight), *std::move(request));
  return true;
}

}  // namespace token_refresh
