#include "core/refresh_outcome.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/captured_fields.h"
#include "core/refresh_policy.h"
#include "core/renewal_token.h"

namespace token_refresh {
namespace {

Outcome StartOutcome(Claim claim, Micros now) {
  Outcome outcome;
  outcome.answered_at = now;
  outcome.attempts = claim.attempts;
  outcome.lost_response = claim.lost_response;
  outcome.claim = std::move(claim);
  return outcome;
}

// Whether the provider may have used up the refresh token without our learning the answer.
bool AnswerMayBeLost(const FailedAnswer& answer, const HttpResponse& response, const Provider& provider) {
  if (provider.options.request.refresh_with != RefreshWith::kRefreshToken) return false;
  return answer.unread_success || response.resent || response.failure == TransportFailure::kMaybeHandled ||
         response.failure == TransportFailure::kTooLarge;
}

int32_t OneMoreAttempt(int32_t attempts) {
  return attempts < std::numeric_limits<int32_t>::max() ? attempts + 1 : attempts;
}

bool IsUrgent(const Claim& claim, Micros now) {
  return claim.asked_for || (claim.expires_at.has_value() && *claim.expires_at > now);
}

Micros TransientDelay(const Outcome& outcome, const AnswerContext& context) {
  const ProviderOptions& options = context.provider.options;
  Micros delay = BackoffDelay(outcome.attempts, IsUrgent(outcome.claim, context.now), options.max_attempt_delay,
                              context.jitter);
  // For so long only is the lost answer to be had again.
  const bool just_lost = outcome.lost_response && !outcome.claim.lost_response;
  if (just_lost && options.replay_window) delay = std::min(delay, *options.replay_window / 2);
  return std::max<Micros>(delay, outcome.failure->retry_after_us.value_or(0));
}

// Callers that were told to wait come back spread over a second, not all at once.
Micros RateLimitDelay(const Failure& failure, double jitter) {
  return failure.retry_after_us.value_or(kRateLimitDelay) + static_cast<Micros>(jitter * kSecond);
}

// What an error rule may name but an answer cannot mean.
FailureClass Judge(FailureClass failure, bool answer_lost_before) {
  if (failure == FailureClass::kSuperseded) return FailureClass::kTransient;
  if (failure == FailureClass::kReauth && answer_lost_before) return FailureClass::kLostResponse;
  return failure;
}

void PlanNextTry(Outcome& outcome, const AnswerContext& context) {
  const Micros now = context.now;
  switch (outcome.failure->failure) {
    case FailureClass::kReauth:
    case FailureClass::kLostResponse:
      outcome.attempts = OneMoreAttempt(outcome.attempts);
      outcome.due_at = std::nullopt;
      outcome.lost_response = false;
      return;
    case FailureClass::kRateLimited:
      outcome.due_at = now + RateLimitDelay(*outcome.failure, context.jitter);
      return;
    case FailureClass::kTooEarly: {
      const Micros interval = context.provider.options.timing.min_interval;
      outcome.due_at = now + (interval > 0 ? interval : kTooEarlyDelay);
      return;
    }
    case FailureClass::kClientConfig:
      outcome.attempts = OneMoreAttempt(outcome.attempts);
      outcome.due_at = now + std::max(kClientConfigFirstDelay,
                                      BackoffDelay(outcome.attempts, false, kClientConfigLastDelay, context.jitter));
      return;
    case FailureClass::kTransient:
    case FailureClass::kSuperseded:
      outcome.attempts = OneMoreAttempt(outcome.attempts);
      outcome.due_at = now + TransientDelay(outcome, context);
      return;
  }
}

RefreshTiming TimingOf(const Claim& claim, const AnswerContext& context) {
  RefreshTiming timing = context.provider.options.timing;
  if (claim.refresh_margin) timing.refresh_margin = claim.refresh_margin;
  return timing;
}

std::optional<Micros> NextDueAt(const RefreshTiming& timing, const TokenTimes& times, const AnswerContext& context) {
  const std::optional<Micros> due_at = DueAt(timing, context.refresh_margin, times, context.jitter);
  return due_at ? std::max(*due_at, context.now + kMinimumRefreshGap) : due_at;
}

Outcome LearnedOutcome(Claim claim, Micros expires_in, std::string remark, const AnswerContext& context) {
  const RefreshTiming timing = TimingOf(claim, context);
  Outcome outcome = StartOutcome(std::move(claim), context.now);
  outcome.introspected = true;
  outcome.attempts = 0;
  outcome.remark = std::move(remark);
  outcome.expires_at = context.now + expires_in;
  TokenTimes times;
  times.issued_at = context.now;
  times.expires_at = outcome.expires_at;
  times.refresh_expires_at = outcome.claim.refresh_expires_at;
  // The grant has been idle since the refresh, not since the question.
  if (timing.keep_alive && outcome.claim.last_refreshed_at)
    times.refresh_hint_at = *outcome.claim.last_refreshed_at + *timing.keep_alive;
  outcome.due_at = NextDueAt(timing, times, context);
  return outcome;
}

// Nobody asks in vain for ever: of a token that was to be asked about, and could not be read, the next one will not be
// readable either. Nor does anybody ask while rows are refreshed on demand only.
bool WillBeAskedAbout(const Claim& claim, const AnswerContext& context) {
  const bool unreadable = !claim.asked_for && !claim.expires_at && claim.access_token.empty();
  return context.provider.options.timing.introspects && context.background && !unreadable;
}

bool IsJustRefreshed(const Claim& claim, Micros now) {
  return claim.last_refreshed_at && now - *claim.last_refreshed_at < kBelievedActive;
}

}  // namespace

Outcome RefreshedOutcome(Claim claim, TokenSet tokens, const AnswerContext& context) {
  const RefreshTiming timing = TimingOf(claim, context);
  const Micros now = context.now;
  Outcome outcome = StartOutcome(std::move(claim), now);
  outcome.attempts = 0;
  outcome.lost_response = false;
  outcome.expires_at = now + tokens.expires_in.value_or(AssumedLifetime(timing));
  outcome.expiry_assumed = !tokens.expires_in && WillBeAskedAbout(outcome.claim, context);
  if (tokens.refresh_expires_in) outcome.refresh_expires_at = now + *tokens.refresh_expires_in;

  TokenTimes times;
  times.issued_at = now;
  times.expires_at = outcome.expires_at;
  times.refresh_expires_at = outcome.refresh_expires_at;
  if (tokens.refresh_in) times.refresh_hint_at = now + *tokens.refresh_in;
  outcome.due_at = NextDueAt(timing, times, context);
  if (!tokens.captured.empty()) tokens.captured = MergeCaptured(outcome.claim.captured, tokens.captured);
  SetRenewalToken(context.provider.options.request.refresh_with, tokens);
  outcome.tokens = std::move(tokens);
  return outcome;
}

Outcome FailedOutcome(Claim claim, FailedAnswer answer, const HttpResponse& response, const AnswerContext& context) {
  Outcome outcome = StartOutcome(std::move(claim), context.now);
  const bool lost_now = AnswerMayBeLost(answer, response, context.provider);
  answer.failure.failure = Judge(answer.failure.failure, outcome.lost_response || lost_now);
  outcome.lost_response = answer.refresh_token.empty() && (outcome.lost_response || lost_now);
  outcome.failure = std::move(answer.failure);
  outcome.duration = response.duration;
  if (!answer.refresh_token.empty() && !answer.refresh_token.Equals(outcome.claim.refresh_token.view())) {
    outcome.rotated_refresh_token = std::move(answer.refresh_token);
    if (answer.refresh_expires_in) outcome.refresh_expires_at = context.now + *answer.refresh_expires_in;
  }
  PlanNextTry(outcome, context);
  return outcome;
}

Outcome IntrospectedOutcome(Claim claim, const Introspection& found, const AnswerContext& context) {
  const Micros assumed = AssumedLifetime(context.provider.options.timing);
  if (found.expires_in) return LearnedOutcome(std::move(claim), *found.expires_in, {}, context);
  if (found.active)
    return LearnedOutcome(std::move(claim), assumed, "introspection gives no exp; a lifetime is assumed", context);
  if (IsJustRefreshed(claim, context.now))
    return LearnedOutcome(std::move(claim), assumed,
                          "introspection calls a new token inactive; a lifetime is assumed", context);
  return LearnedOutcome(std::move(claim), 0, "introspection says that the token is not active", context);
}

Outcome UnlearnedOutcome(Claim claim, Failure failure, const AnswerContext& context) {
  if (failure.failure != FailureClass::kRateLimited && claim.attempts + 1 >= kIntrospectionAttempts)
    return LearnedOutcome(std::move(claim), AssumedLifetime(context.provider.options.timing),
                          failure.message + "; a lifetime is assumed", context);
  Outcome outcome = StartOutcome(std::move(claim), context.now);
  outcome.introspected = true;
  outcome.failure = std::move(failure);
  PlanNextTry(outcome, context);
  return outcome;
}

Failure UnaskedFailure(FailureClass failure, const Error& error) {
  const std::string message = "the request cannot be made: " + error.message;
  return {failure, message.substr(0, kMaxFailureMessage), {}};
}

Outcome UnaskedOutcome(Claim claim, const Error& error, const AnswerContext& context) {
  Outcome outcome = StartOutcome(std::move(claim), context.now);
  const bool for_people = error.code == ErrorCode::kInvalidArgument;
  outcome.failure = UnaskedFailure(for_people ? FailureClass::kClientConfig : FailureClass::kTransient, error);
  PlanNextTry(outcome, context);
  return outcome;
}

Outcome ReleasedOutcome(Claim claim, Micros now) {
  Outcome outcome = StartOutcome(std::move(claim), now);
  outcome.released = true;
  outcome.due_at = outcome.claim.due_at;
  return outcome;
}

std::optional<Micros> EarliestRefresh(const Claim& claim, const Provider& provider, Micros now) {
  const Micros interval = provider.options.timing.min_interval;
  if (interval <= 0 || !claim.last_refreshed_at) return std::nullopt;
  // A last refresh in the future is a clock that was set back: waiting for longer than the interval helps nobody.
  const Micros allowed_at = std::min(*claim.last_refreshed_at, now) + interval;
  return allowed_at > now ? std::optional<Micros>(allowed_at) : std::nullopt;
}

Outcome TooEarlyOutcome(Claim claim, Micros allowed_at, Micros now) {
  if (!claim.due_at || *claim.due_at > now) return ReleasedOutcome(std::move(claim), now);
  Outcome outcome = StartOutcome(std::move(claim), now);
  outcome.failure = Failure{FailureClass::kTooEarly, "within the provider's minimum interval; not attempted", {}};
  outcome.due_at = allowed_at;
  return outcome;
}

DemandResult ResultOf(FailureClass failure) {
  switch (failure) {
    case FailureClass::kTransient:
      return DemandResult::kTransient;
    case FailureClass::kRateLimited:
      return DemandResult::kRateLimited;
    case FailureClass::kReauth:
      return DemandResult::kReauth;
    case FailureClass::kClientConfig:
      return DemandResult::kClientConfig;
    case FailureClass::kTooEarly:
      return DemandResult::kTooEarly;
    case FailureClass::kSuperseded:
      return DemandResult::kSuperseded;
    case FailureClass::kLostResponse:
      return DemandResult::kReauth;
  }
  return DemandResult::kInternal;
}

DemandResult ResultOf(Refusal refusal) {
  switch (refusal) {
    case Refusal::kNotDue:
      return DemandResult::kAlreadyRefreshed;
    case Refusal::kNotFound:
      return DemandResult::kNotFound;
    case Refusal::kLocked:
      return DemandResult::kLocked;
    case Refusal::kAlreadyRefreshed:
      return DemandResult::kAlreadyRefreshed;
    case Refusal::kNeedsReauth:
      return DemandResult::kReauth;
    case Refusal::kNoRefreshToken:
      return DemandResult::kNoRefreshToken;
    case Refusal::kUnreadable:
      return DemandResult::kUnreadable;
    case Refusal::kLeftAlone:
      return DemandResult::kLeftAlone;
    case Refusal::kParked:
      return DemandResult::kParked;
  }
  return DemandResult::kInternal;
}

DemandResult ResultOf(const Outcome& outcome, SaveVerdict verdict) {
  switch (verdict) {
    case SaveVerdict::kSuperseded:
      return DemandResult::kSuperseded;
    case SaveVerdict::kGone:
      return DemandResult::kNotFound;
    case SaveVerdict::kNotStored:
      return DemandResult::kInternal;
    case SaveVerdict::kSaved:
    case SaveVerdict::kParked:
      break;
  }
  if (outcome.failure) return ResultOf(outcome.failure->failure);
  if (!outcome.tokens) return DemandResult::kInternal;
  return verdict == SaveVerdict::kParked ? DemandResult::kParked : DemandResult::kRefreshed;
}

}  // namespace token_refresh
