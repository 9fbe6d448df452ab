#include "core/session_refresh_token.h"

#include <openssl/crypto.h>

#include <cstring>
#include <string>

#include "core/encoding.h"

namespace token_refresh {
namespace {

constexpr std::string_view kPrefix = "trs_";
constexpr std::string_view kDomain = "token_refresh session refresh token";
constexpr size_t kSessionBytes = 16;
constexpr size_t kCounterBytes = 4;
constexpr size_t kExpiryBytes = 8;
constexpr size_t kPayloadBytes = kSessionBytes + kCounterBytes + kExpiryBytes;
constexpr size_t kTokenBytes = kPayloadBytes + kSha256Bytes;
static_assert(kSessionRefreshTokenChars == kPrefix.size() + kTokenBytes * 4 / 3);

void PutNumber(std::string* to, uint64_t number, size_t bytes) {
  for (size_t i = bytes; i > 0; --i) to->push_back(static_cast<char>(number >> ((i - 1) * 8)));
}

uint64_t TakeNumber(std::string_view bytes) {
  uint64_t number = 0;
  for (const char c : bytes) number = number << 8 | static_cast<uint8_t>(c);
  return number;
}

Result<Sha256Digest> Mac(std::string_view secret, std::string_view payload) {
  return HmacSha256(secret, std::string(kDomain).append(payload));
}

}  // namespace

Result<Secret> MakeSessionRefreshToken(std::string_view secret, const SessionRefreshToken& token) {
  std::string bytes(BytesOf(token.session));
  PutNumber(&bytes, token.counter, kCounterBytes);
  PutNumber(&bytes, static_cast<uint64_t>(token.expires_at), kExpiryBytes);
  const auto mac = Mac(secret, bytes);
  if (!mac) return mac.error();
  bytes.append(BytesOf(*mac));
  std::string text(kPrefix);
  std::string encoded = Base64UrlEncode(bytes);
  text.append(encoded);
  WipeString(encoded);
  WipeString(bytes);
  return Secret::TakeFrom(text);
}

Result<std::optional<SessionRefreshToken>> ReadSessionRefreshToken(std::string_view secret, std::string_view token) {
  const std::optional<SessionRefreshToken> none;
  if (token.size() != kSessionRefreshTokenChars || !token.starts_with(kPrefix)) return none;
  const std::optional<Secret> bytes = Base64UrlDecode(token.substr(kPrefix.size()));
  if (!bytes.has_value() || bytes->size() != kTokenBytes) return none;
  const std::string_view payload = bytes->view().substr(0, kPayloadBytes);
  const auto mac = Mac(secret, payload);
  if (!mac) return mac.error();
  if (CRYPTO_memcmp(mac->data(), bytes->view().data() + kPayloadBytes, mac->size()) != 0) return none;
  SessionRefreshToken read;
  std::memcpy(read.session.data(), payload.data(), kSessionBytes);
  read.counter = static_cast<uint32_t>(TakeNumber(payload.substr(kSessionBytes, kCounterBytes)));
  read.expires_at = static_cast<Micros>(TakeNumber(payload.substr(kSessionBytes + kCounterBytes)));
  return std::optional<SessionRefreshToken>(read);
}

}  // namespace token_refresh
