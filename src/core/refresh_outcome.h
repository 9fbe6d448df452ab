// Turns what a provider answered into what is to be stored and when to ask again: the rules of
// design, without any state. Private to the refresh engine.
#pragma once

#include <variant>

#include "core/http.h"
#include "core/introspection.h"
#include "core/provider.h"
#include "core/refresher.h"
#include "core/store.h"
#include "core/token_response.h"

namespace token_refresh {

// A provider that answers expires_in=1, or a deadline in the past, must not make a busy loop.
constexpr Micros kMinimumRefreshGap = 1 * kSecond;

// After an answer that says "too early" when the provider's minimum interval is not known.
constexpr Micros kTooEarlyDelay = 60 * kSecond;

// So often a provider is asked when a token expires. Then the assumed lifetime counts.
constexpr int32_t kIntrospectionAttempts = 5;

// A token that is called inactive so soon after it was given: the provider does not tell this client about it.
constexpr Micros kBelievedActive = 1 * kMinute;

// A broken client registration is mended by people: ask again in minutes, at last once an hour.
constexpr Micros kClientConfigFirstDelay = 1 * kMinute;
constexpr Micros kClientConfigLastDelay = 1 * kHour;

// What the engine knows when it judges an answer.
struct AnswerContext {
  const Provider& provider;
  Micros now = 0;             // when the answer arrived
  Micros refresh_margin = 0;  // the default one
  double jitter = 0;          // in [0, 1)
  bool background = true;     // rows that are due are claimed by themselves
};

// The answer was read as tokens.
Outcome RefreshedOutcome(Claim claim, TokenSet tokens, const AnswerContext& context);

// The answer, or the lack of one, was read as failure. response says what became of the request.
// A dead grant becomes kLostResponse when an answer may have been lost before. A refresh token in the
// answer is kept, and settles what may have been lost.
Outcome FailedOutcome(Claim claim, FailedAnswer answer, const HttpResponse& response, const AnswerContext& context);

// The provider was asked when the access token expires, instead of for a new one. One that it calls inactive is
// refreshed next, unless it is so young that the provider cannot mean it.
Outcome IntrospectedOutcome(Claim claim, const Introspection& found, const AnswerContext& context);
// It did not say. Whoever is asked in vain for long enough gives the assumed lifetime.
Outcome UnlearnedOutcome(Claim claim, Failure failure, const AnswerContext& context);

// Nothing was asked because the request cannot be made: kInvalidArgument is for a person to mend (kClientConfig),
// all else may pass. The message of the error is ASCII and holds no secret.
Outcome UnaskedOutcome(Claim claim, const Error& error, const AnswerContext& context);
Failure UnaskedFailure(FailureClass failure, const Error& error);

// Nothing was asked: the claim is given back as it was.
Outcome ReleasedOutcome(Claim claim, Micros now);

// When the provider's minimum interval allows the next refresh; nothing: now.
std::optional<Micros> EarliestRefresh(const Claim& claim, const Provider& provider, Micros now);

// Nothing was asked because of the minimum interval. A row that is due is moved to its end,
// any other is given back as it was.
Outcome TooEarlyOutcome(Claim claim, Micros allowed_at, Micros now);

// What a waiting caller is told.
DemandResult ResultOf(const Outcome& outcome, SaveVerdict verdict);
DemandResult ResultOf(FailureClass failure);
DemandResult ResultOf(Refusal refusal);

}  // namespace token_refresh
