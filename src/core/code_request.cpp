#include "core/code_request.h"

#include "core/client_authentication.h"
#include "core/request_signature.h"
#include "core/request_values.h"

namespace token_refresh {

Result<HttpRequest> BuildCodeRequest(const Provider& provider, const Secret& code, const Secret& code_verifier,
                                     const std::string& redirect_uri, Micros now, const HttpDefaults& defaults) {
  const ProviderOptions& options = provider.options;
  const RequestValues values(provider, "", "", now);
  const FindValue plain = values.Finder();
  HttpRequest request = NewProviderRequest(provider, options.token_endpoint, defaults);
  request.only_once = true;
  FormParams params;
  params.Add("grant_type", "authorization_code");
  params.Add("code", code.view());
  params.Add("redirect_uri", redirect_uri);
  if (!code_verifier.empty()) params.Add("code_verifier", code_verifier.view());
  const ClientProof proof{options.token_endpoint, plain, now};
  if (Status status = AddClientAuthentication(provider, proof, request, params); !status) return status.error();
  params.Rename(options.request.param_names);
  if (options.request.method == RequestMethod::kGet) {
    PostForm(request, params);  // RFC 6749 section 3.2; a GET is for the refresh
  } else {
    SendParams(request, options.request, params);
  }
  RequestSigner signer(provider, false, plain, code.view());
  // What cannot be signed has no header for it, and is refused by the provider.
  static_cast<void>(signer.SignBefore());
  static_cast<void>(signer.SignBody(request.body.view()));
  AddKnownHeaders(options, signer.Finder(), request);
  return request;
}

}  // namespace token_refresh
