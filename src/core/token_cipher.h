// How the tokens of a token table are encrypted at rest: opened when a row is claimed or
// read, sealed when new tokens are stored. Used by src/pg for every token table, the built-in
// one included. With kFunctions tokens pass through here as they are: SQL encrypts them.
#pragma once

#include <string>
#include <string_view>

#include "core/key_ring.h"
#include "core/result.h"
#include "core/secret.h"
#include "core/table_options.h"

namespace token_refresh {

struct TokenCipher {
  TableCipher kind = TableCipher::kNative;
  std::string place;     // kNative: what ciphertexts are bound to
  std::string key_name;  // kAes256GcmHex
};

// stored is what the column holds. Errors: kNotAuthentic when it does not open, kKeyMissing when the named
// key is not in the ring. Never quotes anything of it.
Result<Secret> OpenStoredToken(const KeyRing& ring, const TokenCipher& cipher, std::string_view row_key,
                               std::string_view column, std::string_view stored);

// What the column is to hold. replaced is what it holds now, or nothing: kAes256GcmHex keeps its form.
Result<std::string> SealTokenToStore(const KeyRing& ring, const TokenCipher& cipher, std::string_view row_key,
                                     std::string_view column, std::string_view token, std::string_view replaced);

}  // namespace token_refresh
