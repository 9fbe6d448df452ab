#include "core/encoding.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <limits>

#include "core/ascii.h"
#include "core/openssl_handles.h"

namespace token_refresh {
namespace {

// OpenSSL counts in int, so long input goes in pieces: whole groups of three
// bytes, or four characters.
constexpr size_t kGroupBytes = 3;
constexpr size_t kGroupChars = 4;
constexpr size_t kGroupsAtOnce = size_t{1} << 20;

size_t EncodedSize(size_t bytes) { return (bytes + kGroupBytes - 1) / kGroupBytes * kGroupChars; }

// For each byte the character of base64 that it stands for, or 0. Looked up, because random text cannot be
// predicted, and branches on its characters cost several times the decoding.
using Alphabet = std::array<char, 256>;

constexpr Alphabet AlphabetWith(char c62, char c63) {
  Alphabet alphabet{};
  for (int c = 0; c < 256; ++c) {
    if (IsAsciiAlphanumeric(static_cast<char>(c))) alphabet[c] = static_cast<char>(c);
  }
  alphabet[static_cast<unsigned char>(c62)] = '+';
  alphabet[static_cast<unsigned char>(c63)] = '/';
  return alphabet;
}

constexpr Alphabet kBase64 = AlphabetWith('+', '/');
constexpr Alphabet kBase64Url = AlphabetWith('-', '_');

// Writes what text is in base64; false when there is a character outside the alphabet.
bool Translate(const Alphabet& alphabet, std::string_view text, char* out) {
  bool known = true;
  for (const char c : text) {
    *out = alphabet[static_cast<unsigned char>(c)];
    known &= *out++ != '\0';
  }
  return known;
}

// EVP_DecodeBlock itself skips white space and ignores set bits after the end,
// hence the checks around it.
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

// text is without its padding.
std::optional<Secret> Decode(const Alphabet& alphabet, std::string_view text) {
  if (text.size() % kGroupChars == 1) return std::nullopt;  // a single character over is no byte at all
  std::string padded((text.size() + kGroupChars - 1) / kGroupChars * kGroupChars, '=');
  const size_t padding = padded.size() - text.size();
  std::string bytes(padded.size() / kGroupChars * kGroupBytes, '\0');
  bool valid = Translate(alphabet, text, padded.data()) && DecodeGroups(padded, bytes.data());
  // What padding stands for decodes to zeros; the bits before it that belong to
  // no byte land in the first of them.
  if (padding > 0) valid = valid && bytes[bytes.size() - padding] == '\0';
  WipeString(padded);
  if (!valid) {
    WipeString(bytes);
    return std::nullopt;
  }
  bytes.resize(bytes.size() - padding);
  return Secret::TakeFrom(bytes);
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
  if (text.size() % kGroupChars != 0) return std::nullopt;
  for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  return Decode(kBase64, text);
}

std::string Base64UrlEncode(std::string_view bytes) {
  std::string text = Base64Encode(bytes);
  while (!text.empty() && text.back() == '=') text.pop_back();
  std::replace(text.begin(), text.end(), '+', '-');
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

std::optional<Secret> Base64UrlDecode(std::string_view text) { return Decode(kBase64Url, text); }

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
