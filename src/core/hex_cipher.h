// The cipher "aes-256-gcm-hex": how Node applications commonly keep a token in a
// text column. Called by src/pg for attached tables whose owner names it.
//
//   stored     = iv ":" tag ":" ciphertext   ; each in hexadecimal
//   iv         = 12*16OCTET                  ; random, drawn anew for every message
//   tag        = 16OCTET
//   ciphertext = *OCTET                      ; as long as the plaintext
//
// AES-256-GCM (NIST SP 800-38D) under the 32 bytes of the key itself and without
// additional data. Digits are written in lower case and read in either. Unlike a
// sealed box nothing binds the text to its row: whoever may write the table can
// swap two tokens. That is the application's format, and cannot be mended here.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/key_ring.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

constexpr size_t kMinHexCipherIvBytes = 12;
constexpr size_t kMaxHexCipherIvBytes = 16;

// Errors: kNotAuthentic when it is not of that form (saying which part is wrong),
// or does not open with that key; kInvalidArgument when the key is not 32 bytes
// long; kInternal when OpenSSL fails. No message holds anything of the text.
Result<Secret> OpenHexCipher(const ApplicationKey& key, std::string_view stored);

// Errors: kInvalidArgument when iv_bytes is not 12 to 16, the plaintext is longer
// than kMaxSecretBytes (sealed_box.h) or the key is not 32 bytes long; kInternal.
Result<std::string> SealHexCipher(const ApplicationKey& key, std::string_view plaintext, size_t iv_bytes);

// How many bytes the iv of a new text should have, so that the application finds
// what it is used to: as many as in the stored one, and 16 when that is empty or
// not of the form above. Does not decrypt.
size_t HexCipherIvBytes(std::string_view stored);

}  // namespace token_refresh
