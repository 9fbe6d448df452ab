// Random nonces, drawn from the operating system's generator many at a time.
// Private to sealed_box; one thread at a time.
#pragma once

#include <cstddef>

#include "core/result.h"

namespace token_refresh {

constexpr size_t kNonceBytes = 24;

// Writes kNonceBytes fresh bytes to out. Errors: kInternal when OpenSSL has no
// randomness to give.
Status DrawNonce(char* out);

}  // namespace token_refresh
