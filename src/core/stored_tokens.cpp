// ParseStoredTokens: what an application hands over is read strictly, since
// the caller can be told. No message holds a value.
#include <algorithm>
#include <string>
#include <utility>

#include "core/iso_time.h"
#include "core/secret_json.h"
#include "core/token_fields.h"
#include "core/token_response.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxInput = size_t{1024} * 1024;
constexpr size_t kMaxToken = size_t{64} * 1024;

Error Wrong(std::string_view key, std::string_view what) {
  return {ErrorCode::kInvalidArgument, "token_response." + std::string(key) + " " + std::string(what), ""};
}

Result<Secret> TakeToken(const SecretJson& object, std::string_view key) {
  const SecretJson* value = FindPresent(object, key);
  if (value == nullptr) return Secret();
  const std::optional<std::string_view> text = TextOf(*value);
  if (!text.has_value()) return Wrong(key, "must be text, not " + std::string(JsonTypeName(*value)));
  if (text->size() > kMaxToken) return Wrong(key, "must be at most 65536 bytes long");
  if (!text->empty() && !IsUsableToken(*text)) return Wrong(key, "must not hold control characters");
  return Secret(*text);
}

Status TakeTexts(const SecretJson& object, TokenSet& tokens) {
  if (const SecretJson* value = FindPresent(object, "token_type"); value != nullptr) {
    const std::optional<std::string_view> text = TextOf(*value);
    std::optional<std::string> token_type = text.has_value() ? NormalTokenType(*text) : std::nullopt;
    if (!token_type.has_value()) return Wrong("token_type", "must be text of 1 to 64 printable ASCII characters");
    tokens.token_type = *std::move(token_type);
  }
  if (const SecretJson* value = FindPresent(object, "scope"); value != nullptr) {
    std::optional<std::string> scope = ReadScope(*value);
    if (!scope.has_value()) return Wrong("scope", "must be text, or an array of texts, without control characters");
    if (scope->size() > kMaxToken) return Wrong("scope", "must be at most 65536 bytes long");
    tokens.scope = *std::move(scope);
  }
  return Ok();
}

Result<Micros> TakeSeconds(const SecretJson& value, std::string_view key) {
  const std::optional<Micros> lifetime = ReadSeconds(value);
  if (!lifetime.has_value()) return Wrong(key, "must be a positive number of seconds");
  return *lifetime;
}

Result<Micros> TakeMoment(const SecretJson& value) {
  if (const std::optional<std::string_view> text = TextOf(value); text.has_value()) {
    const std::optional<Micros> moment = ParseIsoTime(*text);
    if (!moment.has_value()) return Wrong("expires_at", "must be an ISO 8601 time with a time zone");
    return *moment;
  }
  if (!value.is_number()) return Wrong("expires_at", "must be a time, not " + std::string(JsonTypeName(value)));
  const std::optional<Micros> moment = ReadMoment(value);
  if (!moment.has_value()) return Wrong("expires_at", "must be seconds or milliseconds since 1970");
  return *moment;
}

Status TakeExpiry(const SecretJson& object, Micros now, TokenSet& tokens) {
  const SecretJson* expires_in = FindPresent(object, "expires_in");
  const SecretJson* expires_at = FindPresent(object, "expires_at");
  if (expires_in != nullptr && expires_at != nullptr) {
    return Error{ErrorCode::kInvalidArgument, "token_response holds both expires_in and expires_at",
                 "Give one of them."};
  }
  if (expires_in != nullptr) {
    const Result<Micros> lifetime = TakeSeconds(*expires_in, "expires_in");
    if (!lifetime) return lifetime.error();
    tokens.expires_in = *lifetime;
  }
  if (expires_at != nullptr) {
    const Result<Micros> moment = TakeMoment(*expires_at);
    if (!moment) return moment.error();
    // What has expired stays expired: its refresh token may be alive.
    tokens.expires_in = std::min(*moment - now, kMaxLifetime);
  }
  if (expires_in == nullptr && expires_at == nullptr) ReadExpires(object, tokens);
  return Ok();
}

Status TakeRefreshTimes(const SecretJson& object, TokenSet& tokens) {
  for (const std::string_view key : RefreshLifetimeKeys()) {
    const SecretJson* value = FindPresent(object, key);
    if (value == nullptr || IsZero(*value)) continue;
    const Result<Micros> lifetime = TakeSeconds(*value, key);
    if (!lifetime) return lifetime.error();
    if (!tokens.refresh_expires_in.has_value()) tokens.refresh_expires_in = *lifetime;
  }
  if (const SecretJson* value = FindPresent(object, "refresh_in"); value != nullptr) {
    const Result<Micros> hint = TakeSeconds(*value, "refresh_in");
    if (!hint) return hint.error();
    tokens.refresh_in = *hint;
  }
  return Ok();
}

}  // namespace

Result<TokenSet> ParseStoredTokens(std::string_view json, Micros now, bool access_token_needed) {
  if (json.size() > kMaxInput) {
    return Error{ErrorCode::kInvalidArgument, "token_response must be at most 1 MiB long", ""};
  }
  if (IsNestedTooDeep(json)) {
    return Error{ErrorCode::kInvalidArgument, "token_response must be nested at most 32 levels deep", ""};
  }
  const std::optional<SecretJson> object = ParseSecretJson(json);
  if (!object.has_value() || !object->is_object()) {
    return Error{ErrorCode::kInvalidArgument, "token_response must be a JSON object", ""};
  }
  TokenSet tokens;
  Result<Secret> access_token = TakeToken(*object, "access_token");
  if (!access_token) return access_token.error();
  if (access_token->empty() && access_token_needed) return Wrong("access_token", "must be a non-empty text");
  tokens.access_token = *std::move(access_token);
  Result<Secret> refresh_token = TakeToken(*object, "refresh_token");
  if (!refresh_token) return refresh_token.error();
  tokens.refresh_token = *std::move(refresh_token);

  for (const Status& status :
       {TakeTexts(*object, tokens), TakeExpiry(*object, now, tokens), TakeRefreshTimes(*object, tokens)}) {
    if (!status) return status.error();
  }
  if (tokens.access_token.empty()) tokens.expires_in = 0;
  return tokens;
}

}  // namespace token_refresh
