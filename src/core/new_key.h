// New keys to sign with. For the SQL functions, one thread at a time.
#pragma once

#include "core/jws_algorithm.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

constexpr size_t kNewSecretBytes = 32;

// Errors: kInternal when there is no randomness to be had.
Result<Secret> MakeSecret();

// What SigningKey::FromPem reads, or FromSecret for HS256: EC on P-256, RSA of 3072 bits (so many that it need not be
// changed before 2030, NIST SP 800-57), Ed25519, 32 random bytes. Errors: kInternal.
Result<Secret> MakeKeyFor(JwsAlgorithm algorithm);

}  // namespace token_refresh
