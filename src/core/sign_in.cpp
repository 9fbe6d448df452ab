#include "core/sign_in.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "core/authorization_url.h"
#include "core/client_secret_parts.h"
#include "core/code_request.h"
#include "core/failure.h"
#include "core/id_token.h"
#include "core/provider_answer.h"
#include "core/renewal_token.h"
#include "core/sign_in_impl.h"
#include "core/stored_answer.h"
#include "core/userinfo.h"

namespace token_refresh {
namespace {

constexpr std::string_view kStopping = "the server is shutting down";
constexpr std::string_view kBeginAgain = "; a code is presented only once, so the user has to begin again";

bool HasVerifiableIdToken(const SignInRequest& request) {
  const ProviderOptions& options = request.provider->options;
  return request.openid && !options.issuer.empty() && !options.jwks_uri.empty();
}

// Everything of a sign-in that must not be read in a message.
std::vector<std::string_view> SecretsOf(const SignInRequest& request, const TokenSet& tokens) {
  std::vector<std::string_view> secrets = {request.code.view(), request.code_verifier.view(),
                                           tokens.access_token.view(), tokens.refresh_token.view(),
                                           tokens.id_token.view()};
  AddClientSecrets(*request.provider, secrets);
  return secrets;
}

// Of keys that an issuer has replaced, a token knows better than we do.
bool MayBeOfNewKeys(JwtFailure failure) {
  return failure == JwtFailure::kUnknownKey || failure == JwtFailure::kSignature;
}

const char* CodeFailureWord(const HttpResponse& response, const FailedAnswer& failed) {
  if (IsUnavailable(response)) return "provider_unavailable";
  return failed.unread_success || !failed.refresh_token.empty() ? "answer_unusable" : "provider_refused";
}

}  // namespace

// ---- the code

void SignIns::Impl::Begin(SignInRequest request) {
  const uint64_t number = next_number++;
  Flow& flow = flows[number];
  flow.request = std::move(request);
  ++under_way[flow.request.provider->name];
  flow.begun_at = clock.Now();
  if (draining) return Refuse(number, "shutting_down", std::string(kStopping));
  Result<std::string> nonce = NonceFor(flow.request.code_verifier);
  if (!nonce) return Refuse(number, "internal", nonce.error().message);
  flow.nonce = *std::move(nonce);
  const Secret no_verifier;
  const SignInRequest& sent = flow.request;
  Result<HttpRequest> code_request =
      BuildCodeRequest(*sent.provider, sent.code, sent.use_pkce ? sent.code_verifier : no_verifier, sent.redirect_uri,
                       flow.begun_at, defaults);
  if (!code_request) return Refuse(number, "internal", "the code cannot be sent: " + code_request.error().message);
  calls.Call(*std::move(code_request),
             [this, number](const HttpResponse& response) { TakeTokens(number, response); });
}

void SignIns::Impl::TakeTokens(uint64_t number, const HttpResponse& response) {
  Flow* flow = FindFlow(number);
  if (flow == nullptr) return;
  if (WasHeldBack(response)) return Refuse(number, "shutting_down", std::string(kStopping));
  std::variant<TokenSet, FailedAnswer> answer = ReadTokenResponse(
      *flow->request.provider, response, SecretsOf(flow->request, flow->tokens), clock.Now(), TokenAsk::kCode);
  if (auto* failed = std::get_if<FailedAnswer>(&answer); failed != nullptr) {
    flow->tokens.refresh_token = failed->refresh_token.Clone();
    flow->tokens.refresh_expires_in = failed->refresh_expires_in;
    return RefuseCode(number, response, *failed);
  }
  flow->tokens = std::move(*std::get_if<TokenSet>(&answer));
  Identify(number);
}

void SignIns::Impl::RefuseCode(uint64_t number, const HttpResponse& response, const FailedAnswer& failed) {
  std::string message = "the token endpoint gave no tokens for the code: " + failed.failure.message;
  Refuse(number, CodeFailureWord(response, failed), message.append(kBeginAgain));
}

// ---- who it is

void SignIns::Impl::Identify(uint64_t number) {
  Flow& flow = *FindFlow(number);
  const ProviderOptions& options = flow.request.provider->options;
  if (HasVerifiableIdToken(flow.request)) {
    if (flow.tokens.id_token.empty()) {
      return Refuse(number, "id_token_missing", "the provider gave no id_token, though openid was asked for");
    }
    // Cached ones come before Get() returns.
    flow.keys_cached = true;
    keys.Get(flow.request.provider, defaults, [this, number](const auto& jwks, const std::string& why_not) {
      CheckIdToken(number, jwks, why_not);
    });
    if (Flow* waiting = FindFlow(number); waiting != nullptr) waiting->keys_cached = false;
    return;
  }
  if (!flow.request.claims_needed) return Accept(number, {});
  if (!options.userinfo_endpoint.empty()) return AskUserinfo(number, flow);
  Refuse(number, "no_claims",
         "nothing says who has signed in: it takes an id_token, for which the provider needs issuer and jwks_uri, "
         "or a userinfo_endpoint");
}

void SignIns::Impl::CheckIdToken(uint64_t number, const std::shared_ptr<const JwkSet>& jwks,
                                 const std::string& why_not) {
  Flow* flow = FindFlow(number);
  if (flow == nullptr) return;
  if (jwks == nullptr) {
    if (draining) return Refuse(number, "shutting_down", std::string(kStopping));
    return Refuse(number, "keys_unavailable", "the keys of the issuer cannot be fetched: " + why_not);
  }
  const SignInRequest& request = flow->request;
  VerifiedJwt verified = VerifyIdToken(*request.provider, flow->tokens.id_token.view(), *jwks,
                                       {flow->nonce, request.max_authentication_age, clock.Now()});
  if (verified.ok()) return Accept(number, std::string(verified.payload.view()));
  const bool may_wait = flow->keys_cached && verified.failure == JwtFailure::kUnknownKey;
  if (MayBeOfNewKeys(verified.failure) && RenewKeys(number, *flow, may_wait)) return;
  std::string word = "id_token_";
  std::string message = "the id_token is refused: ";
  message.append(JwtFailureText(verified.failure));
  if (!why_not.empty()) message.append("; newer keys cannot be fetched: ").append(why_not);
  Refuse(number, word.append(JwtFailureWord(verified.failure)), std::move(message));
}

bool SignIns::Impl::RenewKeys(uint64_t number, Flow& flow, bool may_wait) {
  if (std::exchange(flow.keys_renewed, true)) return false;
  return keys.Renew(
      flow.request.provider, defaults, may_wait,
      [this, number](const auto& jwks, const std::string& why_not) { CheckIdToken(number, jwks, why_not); });
}

void SignIns::Impl::AskUserinfo(uint64_t number, const Flow& flow) {
  calls.Call(BuildUserinfoRequest(*flow.request.provider, flow.tokens.access_token, defaults),
             [this, number](const HttpResponse& response) { TakeUserinfo(number, response); });
}

void SignIns::Impl::TakeUserinfo(uint64_t number, const HttpResponse& response) {
  const Flow* flow = FindFlow(number);
  if (flow == nullptr) return;
  if (WasHeldBack(response)) return Refuse(number, "shutting_down", std::string(kStopping));
  Result<std::string> claims =
      ReadUserinfo(*flow->request.provider, response, SecretsOf(flow->request, flow->tokens), clock.Now());
  if (claims) return Accept(number, *std::move(claims));
  const bool unavailable = claims.error().code == ErrorCode::kUnavailable;
  Refuse(number, unavailable ? "userinfo_unavailable" : "userinfo_failed",
         "the userinfo endpoint does not say who it is: " + claims.error().message);
}

// ---- the end

void SignIns::Impl::Accept(uint64_t number, std::string claims) {
  Flow& flow = *FindFlow(number);
  SetRenewalToken(flow.request.provider->options.request.refresh_with, flow.tokens);
  AssumeLifetime(flow.request.provider->options.timing, flow.tokens);
  SignInResult result = TakeResult(number);
  result.accepted = true;
  result.claims = std::move(claims);
  finished.push_back(std::move(result));
}

void SignIns::Impl::Refuse(uint64_t number, std::string failure, std::string message) {
  SignInResult result = TakeResult(number);
  result.failure = std::move(failure);
  result.message = std::move(message);
  finished.push_back(std::move(result));
}

SignInResult SignIns::Impl::TakeResult(uint64_t number) {
  auto node = flows.extract(number);
  Flow& flow = node.mapped();
  if (const auto count = under_way.find(flow.request.provider->name); --count->second == 0) under_way.erase(count);
  SignInResult result;
  result.id = flow.request.id;
  result.tokens = std::move(flow.tokens);
  result.duration = std::max<Micros>(clock.Now() - flow.begun_at, 0);
  return result;
}

void SignIns::Impl::Abandon() {
  while (!flows.empty()) Refuse(flows.begin()->first, "shutting_down", std::string(kStopping));
}

SignIns::Impl::Flow* SignIns::Impl::FindFlow(uint64_t number) {
  const auto found = flows.find(number);
  return found == flows.end() ? nullptr : &found->second;
}

bool SignIns::Impl::HasRoomFor(const Provider& provider) const {
  const auto found = under_way.find(provider.name);
  const size_t its_own = found == under_way.end() ? 0 : found->second;
  const size_t free = max_under_way - std::min(max_under_way, flows.size());
  const std::optional<int> limit = provider.options.max_in_flight;
  return its_own < free && (!limit.has_value() || its_own < static_cast<size_t>(std::max(*limit, 1)));
}

bool SignIns::Impl::WasHeldBack(const HttpResponse& response) const {
  return draining && response.failure == TransportFailure::kNotSent;
}

SignIns::SignIns(HttpTransport& transport, const Clock& clock, size_t max_under_way)
    : impl_(std::make_unique<Impl>(transport, clock, max_under_way)) {}

SignIns::~SignIns() = default;

void SignIns::Configure(const HttpDefaults& defaults) { impl_->defaults = defaults; }

bool SignIns::HasRoomFor(const Provider& provider) const { return impl_->HasRoomFor(provider); }

void SignIns::Begin(SignInRequest request) { impl_->Begin(std::move(request)); }

void SignIns::Turn() {
  impl_->calls.Turn();
  impl_->keys.Turn();
}

Micros SignIns::NextTurnAt() const { return impl_->keys.NextAt(); }

std::vector<SignInResult> SignIns::TakeFinished() { return std::exchange(impl_->finished, {}); }

size_t SignIns::unfinished() const { return impl_->flows.size(); }

void SignIns::Drain() {
  impl_->draining = true;
  impl_->calls.RefuseQueued(std::string(kStopping));
}

void SignIns::Abandon() { impl_->Abandon(); }

}  // namespace token_refresh
