#include "core/client_authentication.h"

#include "core/encoding.h"
#include "core/provider_request.h"

namespace token_refresh {
namespace {

// RFC 7617 with the encoding that RFC 6749 section 2.3.1 puts in front, or without.
Secret BasicAuthorization(const Provider& provider) {
  Secret pair;
  if (provider.options.basic_encoding == BasicEncoding::kRfc6749) {
    AppendFormEncoded(pair, provider.client_id);
    pair.Append(":");
    AppendFormEncoded(pair, provider.client_secret.view());
  } else {
    pair.Append(provider.client_id);
    pair.Append(":");
    pair.Append(provider.client_secret.view());
  }
  Secret header("Basic ");
  header.Append(Base64EncodeSecret(pair.view()).view());
  return header;
}

}  // namespace

void AuthenticateClient(const Provider& provider, HttpRequest& request, FormParams& params) {
  switch (provider.options.auth_method) {
    case ClientAuthMethod::kClientSecretBasic:
      return SetHeader(request, "Authorization", BasicAuthorization(provider).view());
    case ClientAuthMethod::kClientSecretPost:
      params.Add("client_id", provider.client_id);
      return params.Add("client_secret", provider.client_secret.view());
    case ClientAuthMethod::kNone:
      return params.Add("client_id", provider.client_id);
  }
}

}  // namespace token_refresh
