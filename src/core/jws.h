// JSON Web Signatures in compact form (RFC 7515), with the care of RFC 8725: made with a key that knows its
// algorithm, checked against keys that know theirs. What a token says about keys (jwk, jku, x5u, x5c) is not
// looked at. For the JWT code and its callers, one thread at a time.
#pragma once

#include <string>
#include <string_view>

#include "core/jwk.h"
#include "core/jws_key.h"
#include "core/jwt_failure.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

constexpr size_t kMaxSessionTokenBytes = 16 * 1024;
constexpr size_t kMaxIdTokenBytes = 64 * 1024;

// claims: a JSON object as strict_json.h reads it; it is signed byte for byte. Errors: kInvalidArgument when it
// is not one, or too long for a token of kMaxSessionTokenBytes; kInternal.
Result<std::string> SignJwt(const SigningKey& key, std::string_view claims);

struct JwsRules {
  size_t max_bytes = kMaxSessionTokenBytes;
  // The wanted typ, without "application/" and in lower case; empty: any will do (RFC 8725 section 3.11).
  std::string_view typ;
};

struct VerifiedJws {
  JwtFailure failure = JwtFailure::kNone;
  Secret payload;  // empty after a failure

  bool ok() const { return failure == JwtFailure::kNone; }
};

// Every part is strict: three of them, none empty, base64url without padding, a header that is a JSON object
// without a name twice. Failures: up to kSignature, and kInternal.
VerifiedJws VerifyJws(std::string_view token, const JwkSet& keys, const JwsRules& rules = {});

}  // namespace token_refresh
