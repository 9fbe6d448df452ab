#include "core/encoding.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <limits>

#include "core/openssl_handles.h"

namespace token_refresh {
namespace {

// OpenSSL counts in int, so long input goes in pieces: whole groups of three
// bytes, or four characters.
constexpr size_t kGroupBytes = 3;
constexpr size_t kGroupChars = 4;
constexpr size_t kGroupsAtOnce = size_t{1} << 20;

size_t EncodedSize(size_t bytes) { return (bytes + kGroupBytes - 1) / kGroupBytes * kGroupChars; }

bool IsAlphanumeric(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

bool IsBase64Char(char c) { return IsAlphanumeric(c) || c == '+' || c == '/'; }
bool IsBase64UrlChar(char c) { return IsAlphanumeric(c) || c == '-' || c == '_'; }

// EVP_DecodeBlock itself skips white space and ignores set bits after the end,
// hence the checks around it.
bool IsPaddedBase64(std::string_view text, size_t* padding) {
  if (text.size() % kGroupChars != 0) return false;
  *padding = 0;
  while (*padding < 2 && text.size() > *padding && text[text.size() - 1 - *padding] == '=') ++*padding;
  text.remove_suffix(*padding);
  return std::all_of(text.begin(), text.end(), IsBase64Char);
}

bool DecodeGroups(std::string_view text, char* out) {
  while (!text.empty()) {
    const size_t take = std::min(text.size(), kGroupsAtOnce * kGroupChars);
    const int written = EVP_DecodeBlock(OpensslBytes(out), OpensslBytes(text.data()), static_cast<int>(take));
    if (written != static_cast<int>(take / kGroupChars * kGroupBytes)) return false;
    out += written;
    text.remove_prefix(take);
  }
  return true;
}

}  // namespace

std::string Base64Encode(std::string_view bytes) {
  // Each call ends its output with a NUL, which the next one overwrites and the
  // last one puts where the string has its own.
  std::string text(EncodedSize(bytes.size()), '\0');
  char* out = text.data();
  while (!bytes.empty()) {
    const size_t take = std::min(bytes.size(), kGroupsAtOnce * kGroupBytes);
    out += EVP_EncodeBlock(OpensslBytes(out), OpensslBytes(bytes.data()), static_cast<int>(take));
    bytes.remove_prefix(take);
  }
  return text;
}

Secret Base64EncodeSecret(std::string_view bytes) {
  std::string text = Base64Encode(bytes);
  return Secret::TakeFrom(text);
}

std::optional<Secret> Base64Decode(std::string_view text) {
  size_t padding = 0;
  if (!IsPaddedBase64(text, &padding)) return std::nullopt;
  std::string bytes(text.size() / kGroupChars * kGroupBytes, '\0');
  bool valid = DecodeGroups(text, bytes.data());
  // What padding stands for decodes to zeros; the bits before it that belong to
  // no byte land in the first of them.
  if (padding > 0) valid = valid && bytes[bytes.size() - padding] == '\0';
  if (!valid) {
    WipeString(bytes);
    return std::nullopt;
  }
  bytes.resize(bytes.size() - padding);
  return Secret::TakeFrom(bytes);
}

std::string Base64UrlEncode(std::string_view bytes) {
  std::string text = Base64Encode(bytes);
  while (!text.empty() && text.back() == '=') text.pop_back();
  std::replace(text.begin(), text.end(), '+', '-');
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

std::optional<Secret> Base64UrlDecode(std::string_view text) {
  if (!std::all_of(text.begin(), text.end(), IsBase64UrlChar)) return std::nullopt;
  std::string padded;
  padded.reserve(EncodedSize(text.size()));
  padded.assign(text);
  std::replace(padded.begin(), padded.end(), '-', '+');
  std::replace(padded.begin(), padded.end(), '_', '/');
  // A single character over is no byte at all: with three = it is refused below.
  while (padded.size() % kGroupChars != 0) padded.push_back('=');
  std::optional<Secret> bytes = Base64Decode(padded);
  WipeString(padded);
  return bytes;
}

std::string HexEncode(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text.push_back(kDigits[value >> 4]);
    text.push_back(kDigits[value & 0x0f]);
  }
  return text;
}

Result<Sha256Digest> Sha256(std::string_view data) {
  // Made once: finding the algorithm and making a context costs several times the
  // hash of a token. Never freed, because at exit OpenSSL may clean up before us.
  static EVP_MD_CTX* context = nullptr;
  if (context == nullptr) {
    DigestContext fresh(EVP_MD_CTX_new());
    if (fresh == nullptr || EVP_DigestInit_ex2(fresh.get(), EVP_sha256(), nullptr) != 1) {
      return OpensslError("set up SHA-256");
    }
    context = fresh.release();
  }
  Sha256Digest digest;
  if (EVP_DigestInit_ex2(context, nullptr, nullptr) != 1 || EVP_DigestUpdate(context, data.data(), data.size()) != 1 ||
      EVP_DigestFinal_ex(context, digest.data(), nullptr) != 1) {
    return OpensslError("compute SHA-256");
  }
  return digest;
}

Result<Sha256Digest> HmacSha256(std::string_view key, std::string_view data) {
  if (key.size() > static_cast<size_t>(std::numeric_limits<int>::max())) {
    return Error{ErrorCode::kInvalidArgument, "the key of an HMAC is too long", {}};
  }
  // HMAC takes a null pointer for a missing argument, even if the size is 0.
  if (key.data() == nullptr) key = "";
  if (data.data() == nullptr) data = "";
  Sha256Digest digest;
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), OpensslBytes(data.data()), data.size(),
           digest.data(), nullptr) == nullptr) {
    return OpensslError("compute HMAC-SHA-256");
  }
  return digest;
}

}  // namespace token_refresh
