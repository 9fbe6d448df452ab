#include "core/token_request.h"

#include "core/client_authentication.h"

namespace token_refresh {

HttpRequest BuildRefreshRequest(const Provider& provider, const Secret& refresh_token, const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  HttpRequest request = NewProviderRequest(provider, provider.RefreshUrl(), defaults);
  FormParams params;
  params.Add("grant_type", "refresh_token");
  params.Add("refresh_token", refresh_token.view());
  if (!options.scope.empty()) params.Add("scope", options.scope);
  AuthenticateClient(provider, request, params);
  // A standard parameter is replaced where it stands; others follow in the order of their names.
  for (const auto& [name, value] : options.request_params) {
    if (value.has_value()) {
      params.Set(name, *value);
    } else {
      params.Remove(name);
    }
  }
  PostForm(request, params);
  for (const auto& [name, value] : options.request_headers) SetHeader(request, name, value);
  return request;
}

}  // namespace token_refresh
