// Token revocation (RFC 7009): the request, and what its answer means. Called by the refresher.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

// hint: "refresh_token", "access_token", or empty for none. The provider has a revocation_endpoint. previous_secret:
// the client proves itself with previous_client_secret. A header whose values are not all known is left out.
// Errors: kInvalidArgument for a key that cannot be used; kInternal.
Result<HttpRequest> BuildRevocationRequest(const Provider& provider, const Secret& token, std::string_view hint,
                                           Micros now, const HttpDefaults& defaults, bool previous_secret = false);

enum class RevocationOutcome {
  kDone,     // the token is dead: any 2xx, or the provider does not know it
  kRetry,    // nothing was decided: no answer, or any that does not speak of the token
  kRefused,  // asking again will not help: 400 with an error of OAuth
  kNothing,  // there was no token to be revoked
};

struct RevocationVerdict {
  RevocationOutcome outcome = RevocationOutcome::kRetry;
  std::optional<Micros> retry_after;  // of kRetry, when the provider names a time, relative to the answer
  std::string message;                // scrubbed; empty when done
  bool other_secret = false;          // of kRetry: the client was refused, and has another secret, which may do better
};

// sent: the secrets of the request. now is for an HTTP-date in Retry-After.
RevocationVerdict ReadRevocationAnswer(const Provider& provider, const HttpResponse& response,
                                       const std::vector<std::string_view>& sent, Micros now);

}  // namespace token_refresh
