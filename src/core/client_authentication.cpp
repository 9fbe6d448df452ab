#include "core/client_authentication.h"

#include <utility>

#include "core/client_secret_parts.h"
#include "core/encoding.h"
#include "core/jwt_assertion.h"
#include "core/provider_request.h"

namespace token_refresh {
namespace {

constexpr std::string_view kAssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

void AppendBasicPart(const ProviderOptions& options, std::string_view text, Secret& pair) {
  if (options.basic_encoding == BasicEncoding::kRfc6749) {
    AppendFormEncoded(pair, text);
  } else {
    pair.Append(text);
  }
}

// RFC 7617 with the encoding that RFC 6749 section 2.3.1 puts in front, or without.
Secret BasicAuthorization(const Provider& provider, std::string_view secret) {
  const bool secret_is_user = provider.options.basic_user == BasicUser::kClientSecret;
  Secret pair;
  AppendBasicPart(provider.options, secret_is_user ? secret : std::string_view(provider.client_id), pair);
  pair.Append(":");
  if (!secret_is_user) AppendBasicPart(provider.options, secret, pair);
  Secret header("Basic ");
  header.Append(Base64EncodeSecret(pair.view()).view());
  return header;
}

Status AddAssertion(const Provider& provider, const ClientProof& proof, FormParams& params) {
  Result<Secret> assertion =
      MakeClientAssertion(provider, {proof.token_endpoint, proof.find, proof.now, proof.previous_secret});
  if (!assertion) return assertion.error();
  // RFC 7521 section 4.2 lets client_id be left out; some servers look for it first.
  params.Add("client_id", provider.client_id);
  params.Add("client_assertion_type", kAssertionType);
  params.AddOwned("client_assertion", *std::move(assertion));
  return Ok();
}

}  // namespace

Status AddClientAuthentication(const Provider& provider, const ClientProof& proof, HttpRequest& request,
                               FormParams& params) {
  const ProviderOptions& options = provider.options;
  const Secret& whole = proof.previous_secret ? provider.previous_client_secret : provider.client_secret;
  const auto [secret, key] = SplitClientSecret(whole.view());
  request.client_certificate = options.client_certificate;
  request.client_key = options.client_key;
  const bool sends_secret = options.auth_method == ClientAuthMethod::kClientSecretBasic ||
                            options.auth_method == ClientAuthMethod::kClientSecretPost;
  if (sends_secret && secret.empty() && !key.empty())
    return Error{ErrorCode::kInvalidArgument, "client_secret is a private key, which is never sent", ""};
  switch (options.auth_method) {
    case ClientAuthMethod::kClientSecretBasic:
      SetHeader(request, "Authorization", BasicAuthorization(provider, secret).view());
      break;
    case ClientAuthMethod::kClientSecretPost:
      params.Add("client_id", provider.client_id);
      params.Add("client_secret", secret);
      break;
    case ClientAuthMethod::kClientSecretJwt:
    case ClientAuthMethod::kPrivateKeyJwt:
      return AddAssertion(provider, proof, params);
    case ClientAuthMethod::kNone:
    case ClientAuthMethod::kTlsClientAuth:  // RFC 8705 section 2: the certificate proves what client_id says
    case ClientAuthMethod::kSelfSignedTlsClientAuth:
      params.Add("client_id", provider.client_id);
      break;
  }
  return Ok();
}

bool HasTwoSecrets(const Provider& provider) {
  const Secret& previous = provider.previous_client_secret;
  const RequestDialect& request = provider.options.request;
  return !previous.empty() && !previous.Equals(provider.client_secret.view()) &&
         (ProvesWithSecret(provider.options.auth_method) || request.signature.has_value() ||
          request.grant_type == kJwtBearerGrant);
}

bool ProvesWithSecret(ClientAuthMethod method) {
  switch (method) {
    case ClientAuthMethod::kClientSecretBasic:
    case ClientAuthMethod::kClientSecretPost:
    case ClientAuthMethod::kClientSecretJwt:
    case ClientAuthMethod::kPrivateKeyJwt:
      return true;
    case ClientAuthMethod::kNone:
    case ClientAuthMethod::kTlsClientAuth:
    case ClientAuthMethod::kSelfSignedTlsClientAuth:
      break;
  }
  return false;
}

}  // namespace token_refresh
