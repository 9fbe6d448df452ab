#include "core/code_request.h"

#include "core/client_authentication.h"

namespace token_refresh {

HttpRequest BuildCodeRequest(const Provider& provider, const Secret& code, const Secret& code_verifier,
                             const std::string& redirect_uri, const HttpDefaults& defaults) {
  HttpRequest request = NewProviderRequest(provider, provider.options.token_endpoint, defaults);
  request.only_once = true;
  FormParams params;
  params.Add("grant_type", "authorization_code");
  params.Add("code", code.view());
  params.Add("redirect_uri", redirect_uri);
  if (!code_verifier.empty()) params.Add("code_verifier", code_verifier.view());
  AuthenticateClient(provider, request, params);
  PostForm(request, params);
  for (const auto& [name, value] : provider.options.request_headers) SetHeader(request, name, value);
  return request;
}

}  // namespace token_refresh
