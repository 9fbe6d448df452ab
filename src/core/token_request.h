// Builds the HTTP request that refreshes an access token (RFC 6749 section 6,
// client authentication of section 2.3.1). Called by the engine.
#pragma once

#include "core/http.h"
#include "core/provider.h"
#include "core/secret.h"

namespace token_refresh {

// default_connect_timeout and default_timeout hold where the provider has none of its own.
struct HttpDefaults {
  Micros connect_timeout = 5 * kSecond;
  Micros timeout = 30 * kSecond;
  std::string ca_file;
  bool allow_insecure_http = false;
};

HttpRequest BuildRefreshRequest(const Provider& provider, const Secret& refresh_token, const HttpDefaults& defaults);

// application/x-www-form-urlencoded, one value (WHATWG URL: the set * - . _ and
// alphanumerics stay, space becomes +).
void AppendFormEncoded(Secret& out, std::string_view value);

}  // namespace token_refresh
