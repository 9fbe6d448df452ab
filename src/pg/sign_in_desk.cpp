#include "pg/sign_in_desk.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/encoding.h"
#include "core/request_payload.h"
#include "core/sealed_box.h"
#include "pg/authorization_statements.h"
#include "pg/boundary.h"
#include "pg/bytes.h"
#include "pg/failure_log.h"
#include "pg/keys.h"

namespace token_refresh {

namespace {

constexpr const char* kActivity = "token_refresh: sign-ins";
// What cannot be stored is tried again for a minute, unless that is hopeless.
constexpr Micros kFirstPause = kSecond;
constexpr Micros kPatience = kMinute;

Result<CodePayload> ReadCode(const PendingRequest& request) {
  Result<Secret> payload = ReadPayload(request);
  if (!payload.ok()) return payload.error();
  std::optional<CodePayload> code = ReadCodePayload(payload->view());
  if (code.has_value()) return std::move(*code);
  return Error{ErrorCode::kInternal, "its payload is damaged", ""};
}

const char* OrNull(const std::optional<std::string>& text) { return text.has_value() ? text->c_str() : nullptr; }

DemandResult ResultOfTaking(const char* result) {
  if (strcmp(result, "used") == 0) return DemandResult::kSpent;
  if (strcmp(result, "expired") == 0) return DemandResult::kExpired;
  if (strcmp(result, "disabled") == 0) return DemandResult::kProviderDisabled;
  return strcmp(result, "other_provider") == 0 ? DemandResult::kOtherProvider : DemandResult::kNotFound;
}

Result<Secret> OpenVerifier(const TakenAuthorization& taken) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (!ring.ok()) return ring.error();
  const std::string row = HexEncode(View(taken.state_hash));
  return Open(**ring, SealedPlace{kAuthorizationPlace, row, kVerifierColumn}, View(taken.code_verifier));
}

// To be revoked; empty when there is no token, or no key.
std::string SealRefused(int64_t authorization, const char* column, const Secret& token) {
  Result<const KeyRing*> ring = LoadKeyRing();
  if (token.empty() || !ring.ok()) return {};
  const std::string row = std::to_string(authorization);
  Result<std::string> sealed = Seal(**ring, SealedPlace{kAuthorizationPlace, row, column}, token.view());
  return sealed.ok() ? std::move(*sealed) : std::string();
}

// The data is wrong, or nobody waits for it any more: its provider was dropped.
bool IsHopeless(const PostgresError& error) {
  const int category = ERRCODE_TO_CATEGORY(error.sqlstate);
  return category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
         error.sqlstate == ERRCODE_UNDEFINED_OBJECT;
}

}  // namespace

SignInDesk::SignInDesk(Oid database, PgStore& store, HttpTransport& transport, const Clock& clock)
    : database_(database),
      store_(store),
      clock_(clock),
      sign_ins_(transport, clock),
      context_(AllocSetContextCreate(TopMemoryContext, "token_refresh sign-ins", ALLOCSET_DEFAULT_SIZES)) {}

void SignInDesk::BeginDrain() {
  draining_ = true;
  sign_ins_.Drain();
}

void SignInDesk::Serve(Micros now) {
  if (!std::exchange(begun_, true)) {
    auto error = RunPostgres(kActivity, [] { ForgetUnfinished(); });
    if (error) LogFailure("noting what was interrupted", *error);
  }
  sign_ins_.Turn();
  BeginSome();
  for (SignInResult& result : sign_ins_.TakeFinished()) finished_.push_back({std::move(result), now, 0, now});
  StoreDue(now);
}

// What has no room waits in the segment of its session, so that it goes when the session goes.
void SignInDesk::BeginSome() {
  std::vector<Pending> pending = std::exchange(waiting_for_room_, {});
  for (const PendingRequest& request : std::exchange(taken_, {})) pending.push_back({request, {}});
  std::set<std::string> full;
  for (Pending& next : pending) {
    if (draining_) {
      FinishRequest(database_, next.request.subject, DemandResult::kShuttingDown);
    } else if (full.contains(next.provider)) {
      waiting_for_room_.push_back(std::move(next));
    } else if (const DemandResult result = Begin(next); result == DemandResult::kRateLimited) {
      full.insert(next.provider);
      waiting_for_room_.push_back(std::move(next));
    } else if (result != DemandResult::kRefreshed) {
      FinishRequest(database_, next.request.subject, result);
    }
  }
}

Micros SignInDesk::NextAt() const {
  Micros next = taken_.empty() ? sign_ins_.NextTurnAt() : 0;
  for (const Finished& finished : finished_) next = std::min(next, finished.due_at);
  return next;
}

// kRefreshed: it has begun. kRateLimited: there is no room now.
DemandResult SignInDesk::Begin(Pending& pending) {
  const PendingRequest& request = pending.request;
  Result<CodePayload> answer = ReadCode(request);
  if (!answer.ok()) {
    if (answer.error().code == ErrorCode::kUnavailable) return DemandResult::kNotFound;
    ReportToLog(WARNING, ("a sign-in cannot be read: " + answer.error().message).c_str());
    return DemandResult::kInternal;
  }
  pending.provider = answer->at;
  const std::shared_ptr<const Provider> provider = store_.FindProviderByName(pending.provider);
  if (provider != nullptr && !sign_ins_.HasRoomFor(*provider)) return DemandResult::kRateLimited;
  MemoryContextReset(context_);
  TakenAuthorization taken = {};
  auto error = RunPostgres(kActivity, [&] {
    TakeAuthorization(context_, answer->authorization, OrNull(answer->expected_provider), OrNull(answer->iss),
                      request.subject.id, &taken);
  });
  if (error) LogFailure("taking up a sign-in", *error);
  if (error) return DemandResult::kInternal;
  if (strcmp(taken.result, "taken") != 0) return ResultOfTaking(taken.result);

  waiting_[request.subject.id] = answer->authorization;
  SignInRequest sign_in;
  sign_in.id = request.subject.id;
  sign_in.provider = provider;
  Result<Secret> verifier = OpenVerifier(taken);
  if (sign_in.provider == nullptr || !verifier.ok()) {
    SignInResult result;
    result.id = sign_in.id;
    result.failure = "internal";
    result.message = verifier.ok() ? "the provider cannot be used; see the server log" : verifier.error().message;
    finished_.push_back({std::move(result), clock_.Now(), 0, 0});
    return DemandResult::kRefreshed;
  }
  sign_in.code = std::move(answer->code);
  sign_in.code_verifier = std::move(*verifier);
  sign_in.redirect_uri = taken.redirect_uri;
  sign_in.use_pkce = taken.sends_verifier;
  sign_in.openid = taken.wants_id_token;
  if (taken.has_max_age) sign_in.max_authentication_age = taken.max_age * kSecond;
  sign_in.claims_needed = !taken.has_subject;
  sign_ins_.Begin(std::move(sign_in));
  return DemandResult::kRefreshed;
}

void SignInDesk::StoreDue(Micros now) {
  for (Finished& finished : finished_) {
    if (finished.due_at > now) continue;
    const bool last_attempt = now - finished.answered_at >= kPatience;
    const bool stored = Store(finished, last_attempt);
    finished.pause = stored || last_attempt ? -1 : std::max(2 * finished.pause, kFirstPause);
    finished.due_at = now + finished.pause;
    if (finished.pause < 0) waiting_.erase(finished.result.id);
  }
  std::erase_if(finished_, [](const Finished& finished) { return finished.pause < 0; });
}

bool SignInDesk::Store(const Finished& finished, bool last_attempt) {
  const int64_t authorization = waiting_[finished.result.id];
  const SignInResult& result = finished.result;
  const RequestSubject subject = {RequestKind::kCompleteAuthorization, static_cast<int64_t>(result.id)};
  bool owner_known = false, claims_unusable = false;
  if (result.accepted) {
    const GivenTokens given = {&result.tokens, finished.answered_at};
    auto error = RunPostgres(kActivity, [&] { FinishAccepted(authorization, result.claims, given, &owner_known); });
    if (!error) {
      FinishRequest(database_, subject, DemandResult::kRefreshed);
      return true;
    }
    LogFailure("storing the tokens of a sign-in", *error);
    if (!last_attempt && !IsHopeless(*error)) return false;
    claims_unusable = !owner_known && ERRCODE_TO_CATEGORY(error->sqlstate) == ERRCODE_DATA_EXCEPTION;
  }
  const std::string access_token = SealRefused(authorization, "access_token", result.tokens.access_token);
  const std::string refresh_token = SealRefused(authorization, "refresh_token", result.tokens.refresh_token);
  const RefusedTokens refused = {access_token, refresh_token};
  const std::string_view failure = claims_unusable   ? "claims_unusable"
                                   : result.accepted ? "not_stored"
                                                     : std::string_view(result.failure);
  const std::string_view message =
      claims_unusable   ? "the claims name nobody in a way that can be used, or the database cannot hold them"
      : result.accepted ? "the tokens could not be stored; see the server log"
                        : std::string_view(result.message);
  auto error = RunPostgres(kActivity, [&] { FinishRefused(authorization, failure, message, refused); });
  if (error) LogFailure("noting that a sign-in has failed", *error);
  revocations_left_ = true;
  if (!error || last_attempt) FinishRequest(database_, subject, error ? DemandResult::kInternal : DemandResult::kFailed);
  return !error;
}

}  // namespace token_refresh
