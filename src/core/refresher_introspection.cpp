// Asking when an access token expires, where the provider's answers do not tell. A row without an expiry is due at
// once; when it is claimed, this is what is asked for. The next turn of the row is a refresh like any other.
#include <utility>
#include <variant>

#include "core/introspection.h"
#include "core/refresh_outcome.h"
#include "core/refresher_impl.h"

namespace token_refresh {

// Whoever waits for the row wants a new token. What goes out to a provider that keeps failing is a probe, and of that a
// refresh alone tells whether it is well again.
bool Refresher::Impl::WantsIntrospection(const Claim& claim, const ProviderLane& lane) {
  return lane.provider().options.timing.introspects && !lane.keeps_failing() && !claim.asked_for &&
         !claim.expires_at && !claim.access_token.empty();
}

void Refresher::Impl::TakeIntrospection(InFlight flight, const HttpResponse& response) {
  // Somebody has come to wait for the row meanwhile.
  if (flight.claim.asked_for) {
    if (draining) return GiveBack(std::move(flight.claim), DemandResult::kShuttingDown);
    return Dispatch(std::move(flight.claim));
  }
  const Provider& provider = *flight.provider;
  std::vector<std::string_view> sent = SecretsOf(provider, flight.claim);
  std::variant<Introspection, FailedAnswer> answer = ReadIntrospection(provider, response, sent, now);
  FailedAnswer* failed = std::get_if<FailedAnswer>(&answer);
  if (failed != nullptr && failed->client_refused && AskWithOtherSecret(flight)) return;
  if (failed == nullptr) RememberSecret(flight);
  const AnswerContext context{provider, now, settings.refresh_margin, Jitter()};
  Outcome outcome = failed == nullptr
                        ? IntrospectedOutcome(std::move(flight.claim), *std::get_if<Introspection>(&answer), context)
                        : UnlearnedOutcome(std::move(flight.claim), std::move(failed->failure), context);
  outcome.duration = response.duration;
  // Nothing of this says anything about the token endpoint.
  if (outcome.failure && outcome.failure->failure == FailureClass::kRateLimited)
    flight.lane->BlockIntrospectionUntil(now + outcome.failure->retry_after_us.value_or(kRateLimitDelay));
  outbox.Add(std::move(outcome));
}

// The endpoint has said that it is asked too often.
void Refresher::Impl::PutOffIntrospection(InFlight flight) {
  const Micros left = flight.lane->introspection_blocked_until() - now;
  const AnswerContext context{*flight.provider, now, settings.refresh_margin, Jitter()};
  Failure failure{FailureClass::kRateLimited, "introspection: the provider's limit is reached; not attempted", left};
  outbox.Add(UnlearnedOutcome(std::move(flight.claim), std::move(failure), context));
}

}  // namespace token_refresh
