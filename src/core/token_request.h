// Builds the HTTP request that refreshes an access token (RFC 6749 section 6). Called by the engine.
#pragma once

#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/secret.h"

namespace token_refresh {

HttpRequest BuildRefreshRequest(const Provider& provider, const Secret& refresh_token, const HttpDefaults& defaults);

}  // namespace token_refresh
