// Refresh tokens of sessions: a number and a proof that we have given it out. The database keeps the newest number
// of each session and no token. Callable by anyone, one thread at a time.
//
//   token    = "trs_" base64url( payload mac )  ; 84 characters
//   payload  = 16OCTET                          ; id of the session
//              4OCTET                           ; number of the token, big-endian, from 1 on
//              8OCTET                           ; microseconds since 1970 when it expires, big-endian
//   mac      = 32OCTET                          ; HMAC-SHA-256 of domain payload under a secret of the database
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/clock.h"
#include "core/result.h"
#include "core/secret.h"
#include "core/uuid.h"

namespace token_refresh {

constexpr size_t kSessionRefreshTokenChars = 84;

struct SessionRefreshToken {
  Uuid session{};
  uint32_t counter = 0;
  Micros expires_at = 0;
};

// Errors: kInternal.
Result<Secret> MakeSessionRefreshToken(std::string_view secret, const SessionRefreshToken& token);

// Nothing when it was not made under this secret. Whether it has expired is the caller's business. Errors: kInternal.
Result<std::optional<SessionRefreshToken>> ReadSessionRefreshToken(std::string_view secret, std::string_view token);

}  // namespace token_refresh
