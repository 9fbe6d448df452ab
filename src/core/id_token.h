// The id_token of a sign-in (OpenID Connect Core 1.0 sections 2 and 3.1.3.7). Called by SignIns.
#pragma once

#include <optional>
#include <string_view>

#include "core/clock.h"
#include "core/jwk.h"
#include "core/jwt_claims.h"
#include "core/provider.h"

namespace token_refresh {

constexpr Micros kIdTokenLeeway = kMinute;  // how far the provider's clock may be off

struct IdTokenRules {
  std::string_view nonce;  // the one that was sent
  std::optional<Micros> max_authentication_age;
  Micros now = 0;
};

// keys: those of the provider's issuer, as ParseJwks gives them, so that there is no secret among them.
VerifiedJwt VerifyIdToken(const Provider& provider, std::string_view id_token, const JwkSet& keys,
                          const IdTokenRules& rules);

}  // namespace token_refresh
