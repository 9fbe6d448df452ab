// Token introspection (RFC 7662): when does this access token expire? For providers whose answers do not tell
// (option expiry_source). Called by the engine.
#pragma once

#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/result.h"
#include "core/token_request.h"
#include "core/token_response.h"

namespace token_refresh {

// The client proves itself as at the token endpoint. Of input, refresh_token is not looked at. The provider has an
// introspection_endpoint. Errors: as BuildRefreshRequest.
Result<HttpRequest> BuildIntrospectionRequest(const Provider& provider, const RefreshInput& input,
                                              std::string_view access_token, const HttpDefaults& defaults);

// RFC 7662 section 2.2.
struct Introspection {
  bool active = false;
  std::optional<Micros> expires_in;  // relative to the answer; unset: not said. Never over for an active token.
};

// A failure says nothing about the token: kTransient, or kRateLimited. sent are the secrets of the request.
std::variant<Introspection, FailedAnswer> ReadIntrospection(const Provider& provider, const HttpResponse& response,
                                                            const std::vector<std::string_view>& sent, Micros now);

}  // namespace token_refresh
