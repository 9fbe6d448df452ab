// Builds the HTTP request that refreshes an access token (RFC 6749 section 6), as the provider wants it. Called
// by the engine.
#pragma once

#include <string_view>

#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/result.h"

namespace token_refresh {

// What the request is made of; all must live until it is built.
struct RefreshInput {
  std::string_view refresh_token;  // or what stands in its place (renewal_token.h)
  std::string_view subject;  // of the credential
  Micros now = 0;
  std::string_view captured = {};      // a JSON object of texts, or empty
  bool previous_secret = false;        // the client proves itself with previous_client_secret
};

// Errors: kInvalidArgument when the request needs a value that is not known, or one that cannot stand where it
// is wanted; kInternal. The message holds no secret.
Result<HttpRequest> BuildRefreshRequest(const Provider& provider, const RefreshInput& input,
                                        const HttpDefaults& defaults);

}  // namespace token_refresh
