// The claims of a JWT (RFC 7519) and of an id_token (OpenID Connect Core 1.0 sections 2 and 3.1.3.7), held
// against what the caller expects. For whoever accepts tokens, one thread at a time.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>

#include "core/clock.h"
#include "core/jws.h"
#include "core/jwt_failure.h"
#include "core/secret.h"
#include "core/secret_json.h"

namespace token_refresh {

// What every id_token has besides exp, which every token must have.
constexpr std::array<std::string_view, 4> kIdTokenClaims = {"iss", "sub", "aud", "iat"};

// What is not given is not checked, except that a token with an audience is refused by those who are no
// audience (RFC 7519 section 4.1.3).
struct ClaimRules {
  Micros now = 0;
  Micros leeway = 0;  // how far the clocks may differ: 0 to some minutes
  std::optional<std::string_view> issuer;
  std::optional<std::string_view> audience;
  // azp, if there is one, must be the audience, and must be there if the token has several audiences.
  bool check_authorized_party = false;
  std::optional<std::string_view> nonce;
  std::optional<Micros> max_authentication_age;  // since auth_time, which must then be there
  std::span<const std::string_view> required;
};

// exp is always required. exp, nbf, iat and auth_time are numbers of seconds up to the year 9999, whole or
// with a fraction; iss, sub, jti, azp and nonce are text; aud is text or an array of it.
JwtFailure CheckClaims(const SecretJson& claims, const ClaimRules& rules);

struct VerifiedJwt {
  JwtFailure failure = JwtFailure::kNone;
  Secret payload;     // the text of the claims as it was signed
  SecretJson claims;  // the same, parsed; both are empty after a failure

  bool ok() const { return failure == JwtFailure::kNone; }
};

// The signature, the form of the claims, and the claims.
VerifiedJwt VerifyJwt(std::string_view token, const JwkSet& keys, const JwsRules& form, const ClaimRules& rules);

}  // namespace token_refresh
