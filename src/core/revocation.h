// Token revocation (RFC 7009): the request, and what its answer means. Called by the refresher.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/secret.h"

namespace token_refresh {

// hint: "refresh_token", "access_token", or empty for none. The provider has a revocation_endpoint.
HttpRequest BuildRevocationRequest(const Provider& provider, const Secret& token, std::string_view hint,
                                   const HttpDefaults& defaults);

enum class RevocationOutcome {
  kDone,     // the token is dead: any 2xx, or the provider does not know it
  kRetry,    // nothing was decided: no answer, or any that does not speak of the token
  kRefused,  // asking again will not help: 400 with an error of OAuth
};

struct RevocationVerdict {
  RevocationOutcome outcome = RevocationOutcome::kRetry;
  std::optional<Micros> retry_after;  // of kRetry, when the provider names a time, relative to the answer
  std::string message;                // scrubbed; empty when done
};

// sent: the secrets of the request. now is for an HTTP-date in Retry-After.
RevocationVerdict ReadRevocationAnswer(const Provider& provider, const HttpResponse& response,
                                       const std::vector<std::string_view>& sent, Micros now);

}  // namespace token_refresh
