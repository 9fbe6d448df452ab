#include "core/api_token.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <string>

#include "core/ascii.h"
#include "core/openssl_handles.h"

namespace token_refresh {
namespace {

constexpr size_t kRandomBytes = 32;
constexpr size_t kChecksumBytes = 4;
constexpr std::string_view kDomain = "token_refresh api token";

bool IsPrefixChar(char c) { return IsAsciiAlphanumeric(c) || c == '_' || c == '-' || c == '.'; }

// Writes the first bytes of the digest to out.
Status Checksum(std::string_view prefix, std::string_view random, char* out) {
  char input[kDomain.size() + kMaxApiTokenPrefix + kRandomBytes];
  char* end = std::copy(kDomain.begin(), kDomain.end(), input);
  end = std::copy(prefix.begin(), prefix.end(), end);
  end = std::copy(random.begin(), random.end(), end);
  Result<Sha256Digest> digest = Sha256({input, static_cast<size_t>(end - input)});
  OPENSSL_cleanse(input, sizeof(input));
  if (!digest.ok()) return digest.error();
  std::copy_n(digest->begin(), kChecksumBytes, out);
  return Ok();
}

}  // namespace

bool IsApiTokenPrefix(std::string_view prefix) {
  return prefix.size() <= kMaxApiTokenPrefix && std::all_of(prefix.begin(), prefix.end(), IsPrefixChar);
}

Result<Secret> MakeApiToken(std::string_view prefix) {
  if (!IsApiTokenPrefix(prefix))
    return Error{ErrorCode::kInvalidArgument, "invalid prefix for an API token",
                 "A prefix has at most 32 characters: letters, digits, \"_\", \"-\" and \".\"."};
  char bytes[kRandomBytes + kChecksumBytes];
  if (RAND_bytes(OpensslBytes(bytes), kRandomBytes) != 1) return OpensslError("draw a random API token");
  Status checked = Checksum(prefix, {bytes, kRandomBytes}, bytes + kRandomBytes);
  std::string body = Base64UrlEncode({bytes, sizeof(bytes)});
  OPENSSL_cleanse(bytes, sizeof(bytes));
  Secret token(prefix);
  token.Append(body);
  WipeString(body);
  if (!checked.ok()) return checked.error();
  return token;
}

Result<bool> IsApiToken(std::string_view token) {
  if (token.size() < kApiTokenBodyChars || token.size() > kMaxApiTokenChars) return false;
  const std::string_view prefix = token.substr(0, token.size() - kApiTokenBodyChars);
  if (!IsApiTokenPrefix(prefix)) return false;
  std::optional<Secret> bytes = Base64UrlDecode(token.substr(prefix.size()));
  if (!bytes || bytes->size() != kRandomBytes + kChecksumBytes) return false;
  char checksum[kChecksumBytes];
  Status computed = Checksum(prefix, bytes->view().substr(0, kRandomBytes), checksum);
  if (!computed.ok()) return computed.error();
  return CRYPTO_memcmp(checksum, bytes->view().data() + kRandomBytes, kChecksumBytes) == 0;
}

}  // namespace token_refresh
