// Builds the HTTP request that turns an authorization code into tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
// Its answer is read by ReadTokenResponse. Called by SignIns.
#pragma once

#include <string>

#include "core/clock.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

// code_verifier: empty when the authorization request had no code_challenge. The provider's options request_params
// and request_method are of the refresh request and play no part here; format and names of the parameters, headers
// and signature do. A header whose values are not all known is left out. Errors, for which nothing
// must be sent: kInvalidArgument for a key that cannot be used; kInternal.
Result<HttpRequest> BuildCodeRequest(const Provider& provider, const Secret& code, const Secret& code_verifier,
                                     const std::string& redirect_uri, Micros now, const HttpDefaults& defaults);

}  // namespace token_refresh
