// How this database's client proves itself to an authorization server: RFC 6749 section 2.3, by the methods of
// RFC 7591 section 2 (token_endpoint_auth_method). For those who build requests to the endpoints that want it:
// token, revocation (RFC 7009) and introspection (RFC 7662).
#pragma once

#include "core/form_params.h"
#include "core/http.h"
#include "core/provider.h"

namespace token_refresh {

// Adds what the provider's method needs to the headers, or to the parameters, which are yet to be encoded.
void AuthenticateClient(const Provider& provider, HttpRequest& request, FormParams& params);

}  // namespace token_refresh
