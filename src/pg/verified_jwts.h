// JWTs that this process has found to be well signed: most are presented many times, and checking a signature costs
// many times what all the rest does. Only digests are kept of them, with their claims. Whether the session lives is
// not known here and has to be asked each time. For validate_jwt, from C++ code; not more than some MiB.
#pragma once

#include <string_view>

#include "core/clock.h"
#include "core/encoding.h"
#include "core/uuid.h"

namespace token_refresh {

// What the answer depended on, besides the time.
struct JwtSituation {
  uint64_t keys_version;  // signing_keys.h
  std::string_view issuer;
  std::string_view audience;
};

struct VerifiedSession {
  Uuid jwt_id;
  Uuid account;
  Micros expires_at;        // the claim exp
  std::string_view claims;  // the bytes of a jsonb
};

// Null when it is not known, or was verified in another situation. Valid until the next RememberJwt.
const VerifiedSession* FindVerifiedJwt(const Sha256Digest& digest, const JwtSituation& situation);

// Takes the place of another now and then. Does nothing for claims that are too long.
void RememberJwt(const Sha256Digest& digest, const JwtSituation& situation, const VerifiedSession& session);

}  // namespace token_refresh
