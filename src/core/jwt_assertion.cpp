#include "core/jwt_assertion.h"

#include <string>
#include <utility>

#include "core/client_secret_parts.h"
#include "core/encoding.h"
#include "core/request_values.h"
#include "core/secret_json.h"

namespace token_refresh {
namespace {

std::string Dump(const SecretJson& value) {
  return std::string(value.dump(-1, ' ', false, SecretJson::error_handler_t::replace));
}

SecretString Text(std::string_view text) { return SecretString(text); }

std::string Header(const ProviderOptions& options, JwsAlgorithm algorithm) {
  SecretJson header = SecretJson::object();
  header["typ"] = Text("JWT");
  for (const auto& [name, value] : options.assertion.headers) header[Text(name)] = Text(value);
  header["alg"] = Text(JwsAlgorithmName(algorithm));
  return Dump(header);
}

Result<SecretJson> StandardClaims(const Provider& provider, const AssertionInput& input, std::string_view subject) {
  const AssertionOptions& options = provider.options.assertion;
  const Result<std::string> audience = options.audience.empty() ? Result<std::string>(std::string(input.audience))
                                                                : ExpandText(options.audience, input.find);
  if (!audience) return audience.error();
  const std::optional<std::string> id = MakeUuidText();
  if (!id.has_value()) return Error{ErrorCode::kInternal, "there is no randomness to be had", ""};
  const int64_t seconds = input.now / kSecond;
  SecretJson claims = SecretJson::object();
  claims["iss"] = Text(provider.client_id);
  claims["sub"] = Text(subject);
  claims["aud"] = Text(*audience);
  claims["jti"] = Text(*id);
  claims["iat"] = seconds;
  claims["exp"] = seconds + options.lifetime / kSecond;
  return claims;
}

Status AddOwnClaims(const AssertionOptions& options, const FindValue& find, SecretJson& claims) {
  for (const auto& [name, claim] : options.claims) {
    if (claim.kind == AssertionClaim::Kind::kRemoved) {
      claims.erase(Text(name));
    } else if (claim.kind == AssertionClaim::Kind::kJson) {
      claims[Text(name)] = ParseSecretJson(claim.text).value_or(SecretJson());
    } else {
      const Result<std::string> value = ExpandText(claim.text, find);
      if (!value) return value.error();
      claims[Text(name)] = Text(*value);
    }
  }
  return Ok();
}

Result<Secret> Join(const std::string& signed_text, const Result<std::string>& signature) {
  if (!signature) return signature.error();
  Secret token(signed_text);
  token.Append(".");
  token.Append(Base64UrlEncode(*signature));
  return token;
}

std::string SignedText(const Provider& provider, JwsAlgorithm algorithm, const SecretJson& claims) {
  return Base64UrlEncode(Header(provider.options, algorithm)) + "." + Base64UrlEncode(Dump(claims));
}

Result<Secret> SignWithKey(const Provider& provider, const AssertionInput& input, const SecretJson& claims) {
  const auto key = ClientSigningKey(provider, input.previous_secret);
  if (!key) return key.error();
  const std::string text = SignedText(provider, (*key)->algorithm(), claims);
  return Join(text, (*key)->Sign(text));
}

Result<Secret> SignWithSecret(const Provider& provider, const AssertionInput& input, const SecretJson& claims) {
  const Secret& secret = input.previous_secret ? provider.previous_client_secret : provider.client_secret;
  const std::string text = SignedText(provider, JwsAlgorithm::kHs256, claims);
  const Result<Sha256Digest> mac = HmacSha256(secret.view(), text);
  if (!mac) return mac.error();
  return Join(text, std::string(BytesOf(*mac)));
}

}  // namespace

Result<Secret> MakeClientAssertion(const Provider& provider, const AssertionInput& input) {
  const Result<SecretJson> claims = StandardClaims(provider, input, provider.client_id);
  if (!claims) return claims.error();
  return provider.options.auth_method == ClientAuthMethod::kClientSecretJwt ? SignWithSecret(provider, input, *claims)
                                                                            : SignWithKey(provider, input, *claims);
}

Result<Secret> MakeGrantAssertion(const Provider& provider, const AssertionInput& input) {
  const AssertionOptions& options = provider.options.assertion;
  const Result<std::string> subject =
      options.subject.empty() ? Result<std::string>(provider.client_id) : ExpandText(options.subject, input.find);
  if (!subject) return subject.error();
  Result<SecretJson> claims = StandardClaims(provider, input, *subject);
  if (!claims) return claims.error();
  if (Status status = AddOwnClaims(options, input.find, *claims); !status) return status.error();
  return SignWithKey(provider, input, *claims);
}

}  // namespace token_refresh
