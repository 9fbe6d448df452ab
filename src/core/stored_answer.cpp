#include "core/stored_answer.h"

#include <utility>
#include <variant>

#include "core/captured_fields.h"
#include "core/refresh_policy.h"
#include "core/renewal_token.h"
#include "core/secret_json.h"

namespace token_refresh {
namespace {

constexpr int kOk = 200;

// expires_at beside the token is a word of ours, which no provider means that way without a pointer to it.
bool IsPlain(std::string_view json) {
  const std::optional<SecretJson> object = IsNestedTooDeep(json) ? std::nullopt : ParseSecretJson(json);
  return object.has_value() && FindMember(*object, "access_token") != nullptr &&
         FindMember(*object, "expires_at") != nullptr;
}

// As if the provider had just answered it.
std::optional<TokenSet> ReadAsAnswer(const ProviderOptions& options, std::string_view json, Micros now) {
  if (options.answer == AnswerDialect() || json.size() > kMaxResponseBytes || IsPlain(json)) return std::nullopt;
  Provider provider;
  provider.options.answer = options.answer;
  HttpResponse response;
  response.status = options.answer.success_statuses.empty() ? kOk : options.answer.success_statuses.front();
  response.body = Secret(json);
  std::variant<TokenSet, FailedAnswer> answer = ReadTokenResponse(provider, response, {}, now);
  TokenSet* tokens = std::get_if<TokenSet>(&answer);
  if (tokens == nullptr) return std::nullopt;
  return std::move(*tokens);
}

}  // namespace

Result<TokenSet> ReadStoredAnswer(const ProviderOptions& options, std::string_view json, Micros now) {
  const RefreshWith refresh_with = options.request.refresh_with;
  std::optional<TokenSet> read = ReadAsAnswer(options, json, now);
  if (!read.has_value()) {
    Result<TokenSet> plain = ParseStoredTokens(json, now, refresh_with != RefreshWith::kNothing);
    if (!plain) return plain.error();
    read = *std::move(plain);
    read->captured = CaptureFields(options, json);
  }
  SetRenewalToken(refresh_with, *read);
  return *std::move(read);
}

void AssumeLifetime(const RefreshTiming& timing, TokenSet& tokens) {
  for (SecondaryTokens& secondary : tokens.secondary) AssumeLifetime(timing, secondary.tokens);
  if (tokens.expires_in || timing.introspects) return;
  if (timing.default_expires_in || !tokens.refresh_token.empty()) tokens.expires_in = AssumedLifetime(timing);
}

}  // namespace token_refresh
