// The userinfo endpoint (OpenID Connect Core 1.0 section 5.3), and what providers without OpenID Connect have in its
// place: who has signed in. Called by SignIns.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

// The provider has a userinfo_endpoint.
HttpRequest BuildUserinfoRequest(const Provider& provider, const Secret& access_token, const HttpDefaults& defaults);

// The claims, a JSON object as strict_json.h reads it. Its member sub is text: what the provider's option
// subject_pointer finds, text or a whole number. Errors, with a scrubbed message: kUnavailable when another try may
// help; kInvalidArgument when the answer is not of use. sent: the secrets of the request.
Result<std::string> ReadUserinfo(const Provider& provider, const HttpResponse& response,
                                 const std::vector<std::string_view>& sent, Micros now);

}  // namespace token_refresh
