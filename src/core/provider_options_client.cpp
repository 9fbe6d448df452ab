// Options that say how this database's client proves itself to a provider.
#include <algorithm>

#include "core/provider_option_rows.h"

namespace token_refresh {
namespace {

constexpr Micros kMaxAssertionLifetime = 1 * kHour;

const std::vector<std::string_view>& AuthMethodWords() {
  static const std::vector<std::string_view> words = {
      "client_secret_basic", "client_secret_post",         "none", "client_secret_jwt", "private_key_jwt",
      "tls_client_auth",     "self_signed_tls_client_auth"};
  return words;
}

Status SetAuthMethod(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, AuthMethodWords(), options.auth_method);
}

Status SetBasicEncoding(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"rfc6749", "raw"}, options.basic_encoding);
}

Status SetBasicUser(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return SetWord(key, value, {"client_id", "client_secret"}, options.basic_user);
}

Status SetSigningAlgorithm(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  static const std::vector<std::string_view> words = {"HS256", "RS256", "PS256", "ES256", "EdDSA"};
  const Result<size_t> word = ReadWord(key, value, words);
  if (!word) return word.error();
  options.assertion.algorithm = FindJwsAlgorithm(words[*word]);
  return Ok();
}

Status SetAssertionAudience(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadText(key, value, options.assertion.audience);
}

Status SetAssertionSubject(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadText(key, value, options.assertion.subject);
}

Status SetAssertionClaims(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  for (const auto& [name, member] : *value.get_ptr<const SecretJson::object_t*>()) {
    AssertionClaim& claim = options.assertion.claims[std::string(name)];
    if (member.is_null()) {
      claim = {AssertionClaim::Kind::kRemoved, ""};
    } else if (member.is_string()) {
      claim.kind = AssertionClaim::Kind::kText;
      const std::string place = std::string(key) + "." + std::string(name);
      if (Status text = ReadText(place, member, claim.text); !text) return text;
    } else {
      const SecretString json = member.dump(-1, ' ', false, SecretJson::error_handler_t::replace);
      claim = {AssertionClaim::Kind::kJson, std::string(json)};
    }
  }
  return Ok();
}

Status SetAssertionHeaders(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = ReadTextMap(key, value, options.assertion.headers); !status) return status;
  for (const char* name : {"alg", "crit", "b64"}) {
    if (options.assertion.headers.contains(name)) {
      return OptionError(key, "must not hold " + QuoteWord(name),
                         "The algorithm is said by option \"token_endpoint_auth_signing_alg\".");
    }
  }
  return Ok();
}

Status SetAssertionLifetime(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  if (Status status = StoreInterval(key, value, IntervalBound::kPositive, options.assertion.lifetime); !status) {
    return status;
  }
  const Micros lifetime = options.assertion.lifetime;
  if (lifetime >= kSecond && lifetime <= kMaxAssertionLifetime) return Ok();
  return OptionError(key, "must be between 1 second and 1 hour");
}

Status SetClientCertificate(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadAbsolutePath(key, value, options.client_certificate);
}

Status SetClientKey(std::string_view key, const SecretJson& value, ProviderOptions& options) {
  return ReadAbsolutePath(key, value, options.client_key);
}

bool IsTlsMethod(ClientAuthMethod method) {
  return method == ClientAuthMethod::kTlsClientAuth || method == ClientAuthMethod::kSelfSignedTlsClientAuth;
}

// An option that nothing would read is a slip of its author.
Status CheckUse(const SecretJson& object, std::initializer_list<std::string_view> keys, bool used,
                std::string_view needs) {
  for (const std::string_view key : keys) {
    if (!used && FindMember(object, key) != nullptr)
      return OptionError(key, "is only of use with " + std::string(needs));
  }
  return Ok();
}

Status CheckAlgorithm(const ProviderOptions& options) {
  constexpr std::string_view kKey = "token_endpoint_auth_signing_alg";
  if (!options.assertion.algorithm.has_value()) return Ok();
  const bool by_secret = options.auth_method == ClientAuthMethod::kClientSecretJwt;
  if (by_secret == (*options.assertion.algorithm == JwsAlgorithm::kHs256)) return Ok();
  return by_secret ? OptionError(kKey, "must be \"HS256\" with client_secret_jwt")
                   : OptionError(kKey, "must not be \"HS256\": it is a private key that signs");
}

std::string MethodReason(const ProviderOptions& options) {
  const std::string method(AuthMethodWords()[static_cast<size_t>(options.auth_method)]);
  return " with option \"token_endpoint_auth_method\" set to \"" + method + "\"";
}

Error Invalid(std::string message, std::string hint = "") {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(hint)};
}

}  // namespace

std::vector<OptionRow> ClientOptionRows() {
  using enum OptionType;
  return {
      {{"token_endpoint_auth_method", kText}, SetAuthMethod},
      {{"basic_encoding", kText}, SetBasicEncoding},
      {{"basic_user", kText}, SetBasicUser},
      {{"token_endpoint_auth_signing_alg", kText}, SetSigningAlgorithm},
      {{"assertion_audience", kText}, SetAssertionAudience},
      {{"assertion_subject", kText}, SetAssertionSubject},
      {{"assertion_claims", kObject}, SetAssertionClaims},
      {{"assertion_headers", kObject}, SetAssertionHeaders},
      {{"assertion_lifetime", kInterval}, SetAssertionLifetime},
      {{"client_certificate", kText}, SetClientCertificate},
      {{"client_key", kText}, SetClientKey},
  };
}

Status CheckClientOptions(const SecretJson& object, const ProviderOptions& options) {
  const ClientAuthMethod method = options.auth_method;
  const bool by_jwt = method == ClientAuthMethod::kClientSecretJwt || method == ClientAuthMethod::kPrivateKeyJwt;
  const bool grants = options.request.grant_type == kJwtBearerGrant;
  if (method == ClientAuthMethod::kClientSecretJwt && grants) {
    return OptionError("token_endpoint_auth_method", "must not be \"client_secret_jwt\" with the JWT bearer grant",
                       "There it is a private key that signs: private_key_jwt, or none.");
  }
  const std::string jwt_bearer = "option \"grant_type\" set to \"" + std::string(kJwtBearerGrant) + "\"";
  for (const Status& status :
       {CheckUse(object, {"basic_user"}, method == ClientAuthMethod::kClientSecretBasic, "client_secret_basic"),
        CheckUse(object,
                 {"token_endpoint_auth_signing_alg", "assertion_audience", "assertion_headers", "assertion_lifetime"},
                 by_jwt || grants, "client_secret_jwt, private_key_jwt, or " + jwt_bearer),
        CheckUse(object, {"assertion_subject", "assertion_claims"}, grants, jwt_bearer), CheckAlgorithm(options),
        CheckPlaces("assertion_audience", "", options.assertion.audience, options),
        CheckPlaces("assertion_subject", "", options.assertion.subject, options)}) {
    if (!status) return status;
  }
  for (const auto& [name, claim] : options.assertion.claims) {
    if (claim.kind != AssertionClaim::Kind::kText) continue;
    if (Status status = CheckPlaces("assertion_claims", name, claim.text, options); !status) return status;
  }
  if (options.client_certificate.empty() && !options.client_key.empty()) {
    return OptionError("client_key", "needs option \"client_certificate\"");
  }
  return Ok();
}

Status CheckProviderClient(const ProviderOptions& options, bool has_client_id, bool has_client_secret) {
  if (options.token_endpoint.empty()) {
    return Invalid("option \"token_endpoint\" is missing",
                   "Give options.token_endpoint, or options.issuer, whose metadata has it, or options.preset: see "
                   "token_refresh.provider_preset.");
  }
  const bool grants = options.request.grant_type == kJwtBearerGrant;
  if (!has_client_id && options.registration_endpoint.empty()) {
    return Invalid("client_id is needed" + MethodReason(options));
  }
  if (IsTlsMethod(options.auth_method) && options.client_certificate.empty()) {
    return Invalid("option \"client_certificate\" is needed" + MethodReason(options));
  }
  if (!has_client_id) {
    const bool shared = grants || options.auth_method == ClientAuthMethod::kPrivateKeyJwt;
    if (!has_client_secret || shared) return Ok();
    return Invalid("client_secret needs client_id", "It proves nothing for the clients of single credentials.");
  }
  if (options.auth_method == ClientAuthMethod::kPrivateKeyJwt && !has_client_secret) {
    return Invalid("client_secret is needed" + MethodReason(options),
                   "Give the private key, in PEM, as client_secret.");
  }
  if (grants && !has_client_secret) {
    return Invalid("client_secret is needed with option \"grant_type\" set to \"" + std::string(kJwtBearerGrant) + "\"",
                   "Give the private key, in PEM, as client_secret; behind the secret, if there is one as well.");
  }
  const bool signs = options.request.signature.has_value();
  if (signs && !has_client_secret) return Invalid("client_secret is needed with option \"request_signature\"");
  const bool needs_secret =
      signs || (options.auth_method != ClientAuthMethod::kNone && !IsTlsMethod(options.auth_method));
  if (needs_secret && !has_client_secret) {
    return Invalid("client_secret is needed" + MethodReason(options),
                   "A public client has none: set token_endpoint_auth_method to none.");
  }
  if (!needs_secret && !grants && has_client_secret) {
    return Invalid("client_secret must not be given" + MethodReason(options),
                   "Set token_endpoint_auth_method to client_secret_basic or client_secret_post to use it.");
  }
  return Ok();
}

}  // namespace token_refresh
