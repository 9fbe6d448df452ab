#include "core/client_secret_parts.h"

#include <utility>

#include "core/ascii.h"

namespace token_refresh {
namespace {

constexpr std::string_view kPemMark = "-----BEGIN ";

bool HasKey(const ProviderOptions& options) {
  return options.auth_method == ClientAuthMethod::kPrivateKeyJwt || options.request.grant_type == kJwtBearerGrant;
}

bool SendsSecret(ClientAuthMethod method) {
  return method == ClientAuthMethod::kClientSecretBasic || method == ClientAuthMethod::kClientSecretPost;
}

Error Invalid(std::string message, std::string hint = "") {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(hint)};
}

Result<SigningKey> ReadKey(const ProviderOptions& options, std::string_view pem) {
  if (pem.empty()) {
    return Invalid("client_secret holds no private key",
                   "Give the key in PEM, unencrypted; behind the secret, if there is one as well.");
  }
  return SigningKey::FromPem(pem, options.assertion.algorithm);
}

}  // namespace

// Also where the options want no key (any more): what was one must not be sent as a secret.
ClientSecretParts SplitClientSecret(std::string_view client_secret) {
  const size_t key = client_secret.find(kPemMark);
  if (key == std::string_view::npos) return {client_secret, {}};
  return {TrimAsciiSpace(client_secret.substr(0, key)), client_secret.substr(key)};
}

void AddClientSecrets(const Provider& provider, std::vector<std::string_view>& secrets) {
  for (const Secret* secret : {&provider.client_secret, &provider.previous_client_secret}) {
    const std::string_view sent = SplitClientSecret(secret->view()).secret;
    if (!sent.empty()) secrets.push_back(sent);
    if (secret->size() > sent.size()) secrets.push_back(secret->view());
  }
}

Status CheckClientSecret(const ProviderOptions& options, std::string_view client_secret) {
  const ClientSecretParts parts = SplitClientSecret(client_secret);
  if (!HasKey(options)) {
    if (parts.key_pem.empty()) return Ok();
    if (options.auth_method == ClientAuthMethod::kClientSecretJwt) {
      return Invalid("client_secret holds a private key, and client_secret_jwt signs with a secret",
                     "Set token_endpoint_auth_method to private_key_jwt to sign with it.");
    }
    if (!SendsSecret(options.auth_method)) return Ok();
    return Invalid("client_secret holds a private key, which is never sent",
                   "Set token_endpoint_auth_method to private_key_jwt to sign with it.");
  }
  const Result<SigningKey> key = ReadKey(options, parts.key_pem);
  if (!key) return key.error();
  if (SendsSecret(options.auth_method) && parts.secret.empty()) {
    return Invalid("client_secret holds a private key, but no secret in front of it");
  }
  return Ok();
}

Result<std::shared_ptr<const SigningKey>> ClientSigningKey(const Provider& provider, bool previous_secret) {
  std::shared_ptr<const SigningKey>& known = provider.signing_keys[previous_secret ? 1 : 0];
  if (known != nullptr) return known;
  const Secret& secret = previous_secret ? provider.previous_client_secret : provider.client_secret;
  Result<SigningKey> key = ReadKey(provider.options, SplitClientSecret(secret.view()).key_pem);
  if (!key) return key.error();
  known = std::make_shared<const SigningKey>(*std::move(key));
  return known;
}

}  // namespace token_refresh
