#include "core/token_request.h"

#include "core/client_authentication.h"
#include "core/request_values.h"

namespace token_refresh {

Result<HttpRequest> BuildRefreshRequest(const Provider& provider, const RefreshInput& input,
                                        const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  const RequestValues values(provider, input.subject, input.now);
  HttpRequest request = NewProviderRequest(provider, provider.RefreshUrl(), defaults);
  FormParams params;
  params.Add("grant_type", options.request.grant_type);
  params.Add("refresh_token", input.refresh_token);
  if (!options.scope.empty()) params.AddOwned("scope", Secret(ScopeText(options)));
  AuthenticateClient(provider, request, params);
  if (Status status = FitParams(options, values.Finder(), params); !status) return status.error();
  SendParams(request, options.request, params);
  if (Status status = AddOwnHeaders(options, values.Finder(), request); !status) return status.error();
  return request;
}

}  // namespace token_refresh
