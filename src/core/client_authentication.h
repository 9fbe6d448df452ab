// How this database's client proves itself to an authorization server: RFC 6749 section 2.3, by the methods of
// RFC 7591 section 2 (token_endpoint_auth_method). For those who build requests to the endpoints that want it:
// token, revocation (RFC 7009) and introspection (RFC 7662).
#pragma once

#include <string_view>

#include "core/clock.h"
#include "core/form_params.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/result.h"
#include "core/text_template.h"

namespace token_refresh {

struct ClientProof {
  std::string_view token_endpoint;  // its URL, without places; whom an assertion is for
  const FindValue& find;            // for places in assertion_audience
  Micros now = 0;
  bool previous_secret = false;  // prove it with previous_client_secret
};

// Adds what the provider's method needs to the headers, to the parameters, which are yet to be encoded, or to
// the connection. Errors: kInvalidArgument for a key that cannot be used or a value that is missing; kInternal.
// Without a secret in them.
Status AddClientAuthentication(const Provider& provider, const ClientProof& proof, HttpRequest& request,
                               FormParams& params);

// Whether there are two secrets to prove it with, as in an overlap.
bool HasTwoSecrets(const Provider& provider);

// Whether the method proves anything with the client secret, so that another secret may do better.
bool ProvesWithSecret(ClientAuthMethod method);

}  // namespace token_refresh
