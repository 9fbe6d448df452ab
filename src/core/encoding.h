// Text forms of bytes (base64, base64url, hex) and SHA-256, a thin layer over
// OpenSSL. Anyone in the project may call it, one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

// Base64 with padding and without line breaks (RFC 4648 section 4). The Secret
// form leaves no copy behind.
std::string Base64Encode(std::string_view bytes);
Secret Base64EncodeSecret(std::string_view bytes);

// The reverse, strict: nothing when there is a character outside the alphabet
// (white space included), missing or misplaced padding, or a set bit after the end.
std::optional<Secret> Base64Decode(std::string_view text);

// Base64url without padding (RFC 4648 section 5, as RFC 7515 uses it), and its
// reverse, as strict as the above: padding is refused.
std::string Base64UrlEncode(std::string_view bytes);
std::optional<Secret> Base64UrlDecode(std::string_view text);

// Two lower-case hex digits a byte.
std::string HexEncode(std::string_view bytes);

constexpr size_t kSha256Bytes = 32;
using Sha256Digest = std::array<uint8_t, kSha256Bytes>;

// FIPS 180-4 and RFC 2104. Errors: kInternal when OpenSSL cannot (out of
// memory, or configured without SHA-256); a digest is never made up.
Result<Sha256Digest> Sha256(std::string_view data);
Result<Sha256Digest> HmacSha256(std::string_view key, std::string_view data);

// The bytes of an array as the other functions here take them.
template <size_t N>
std::string_view BytesOf(const std::array<uint8_t, N>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), N};
}

}  // namespace token_refresh
