#include "core/token_request.h"

#include <utility>

#include "core/client_authentication.h"
#include "core/jwt_assertion.h"
#include "core/request_signature.h"
#include "core/request_values.h"
#include "core/url_template.h"

namespace token_refresh {
namespace {

// RFC 8693 section 3
constexpr std::string_view kAccessTokenType = "urn:ietf:params:oauth:token-type:access_token";
constexpr std::string_view kRefreshTokenType = "urn:ietf:params:oauth:token-type:refresh_token";

// The token that is renewed, under the name that the grant type has for it.
Status AddToken(const RequestDialect& dialect, const RefreshInput& input, FormParams& params) {
  if (dialect.refresh_with == RefreshWith::kNothing) return Ok();
  const bool by_access_token = dialect.refresh_with == RefreshWith::kAccessToken;
  const std::string_view token = input.refresh_token;
  if (token.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 by_access_token ? "there is no access token to present" : "there is no refresh token to present", ""};
  }
  if (dialect.grant_type == kTokenExchangeGrant) {
    params.Add("subject_token", token);
    params.Add("subject_token_type", by_access_token ? kAccessTokenType : kRefreshTokenType);
  } else {
    params.Add(by_access_token ? "access_token" : "refresh_token", token);
  }
  return Ok();
}

Status AddGrant(const Provider& provider, const RefreshInput& input, const ClientProof& proof, FormParams& params) {
  const RequestDialect& dialect = provider.options.request;
  params.Add("grant_type", dialect.grant_type);
  if (dialect.grant_type != kJwtBearerGrant) return AddToken(dialect, input, params);
  Result<Secret> assertion =
      MakeGrantAssertion(provider, {proof.token_endpoint, proof.find, proof.now, proof.previous_secret});
  if (!assertion) return assertion.error();
  params.AddOwned("assertion", *std::move(assertion));
  return Ok();
}

}  // namespace

Result<HttpRequest> BuildRefreshRequest(const Provider& provider, const RefreshInput& input,
                                        const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  if (provider.client_id.empty())
    return Error{ErrorCode::kInvalidArgument, "neither the provider nor the credential has a client_id", ""};
  const RequestValues values(provider, input.subject, input.captured, input.now);
  const FindValue plain = values.Finder();
  const bool presents = options.request.refresh_with != RefreshWith::kNothing;
  RequestSigner signer(provider, input.previous_secret, plain, presents ? input.refresh_token : std::string_view());
  if (Status status = signer.SignBefore(); !status) return status.error();
  const FindValue find = signer.Finder();
  Result<std::string> url = ExpandUrl(provider.RefreshUrl(), find, options.request.allowed_hosts);
  if (!url) return url.error();
  // Whom an assertion is for, wherever it is sent.
  const Result<std::string> token_endpoint = ExpandUrl(options.token_endpoint, find, options.request.allowed_hosts);
  if (!token_endpoint) return token_endpoint.error();
  const ClientProof proof{*token_endpoint, find, input.now, input.previous_secret};

  HttpRequest request = NewProviderRequest(provider, *std::move(url), defaults);
  FormParams params;
  if (Status status = AddGrant(provider, input, proof, params); !status) return status.error();
  if (!options.scope.empty()) params.AddOwned("scope", Secret(ScopeText(options.request, options.scope)));
  if (Status status = AddClientAuthentication(provider, proof, request, params); !status) return status.error();
  if (Status status = FitParams(options, find, params); !status) return status.error();
  SendParams(request, options.request, params);
  if (Status status = signer.SignBody(request.body.view()); !status) return status.error();
  if (Status status = AddOwnHeaders(options, find, request); !status) return status.error();
  return request;
}

}  // namespace token_refresh
