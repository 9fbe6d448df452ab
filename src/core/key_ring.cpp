#include "core/key_ring.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "core/encoding.h"
#include "core/hex_decode.h"
#include "core/openssl_handles.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxTextBytes = 64 * 1024;
constexpr size_t kMaxNameBytes = 63;
constexpr size_t kBlockBytes = 16;
constexpr std::string_view kIdLabel = "token_refresh key id";
constexpr std::string_view kWhiteSpace = " \t\r";

bool IsNameChar(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
}

// Takes what is before the delimiter off the front of text, and the delimiter.
std::string_view TakeUntil(std::string_view& text, std::string_view delimiters) {
  const size_t end = std::min(text.find_first_of(delimiters), text.size());
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return taken;
}

std::vector<std::string_view> Words(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const std::string_view word = TakeUntil(line, kWhiteSpace);
    if (!word.empty()) words.push_back(word);
  }
  return words;
}

// what must not quote the line: words in the wrong order would show the key.
Error LineError(size_t line, const std::string& what) {
  return Error{ErrorCode::kInvalidArgument, "line " + std::to_string(line) + " of the key ring: " + what,
               "A line is a name, a space and 32 random bytes in base64, as `openssl rand -base64 32` prints them."};
}

// K1 of the specification: AES-256(K, 0^128), doubled in GF(2^128) as CMAC does.
Result<Secret> ComputeSubkey(const Secret& key) {
  CipherContext context(EVP_CIPHER_CTX_new());
  std::array<unsigned char, kBlockBytes> block{};
  int written = 0;
  if (context == nullptr ||
      EVP_EncryptInit_ex2(context.get(), EVP_aes_256_ecb(), OpensslBytes(key.view().data()), nullptr, nullptr) != 1 ||
      EVP_EncryptUpdate(context.get(), block.data(), &written, block.data(), kBlockBytes) != 1 ||
      written != static_cast<int>(kBlockBytes)) {
    return OpensslError("derive the subkey of a key");
  }
  const unsigned char carry = block[0] >> 7;
  for (size_t i = 0; i + 1 < kBlockBytes; ++i) {
    block[i] = static_cast<unsigned char>((block[i] << 1) | (block[i + 1] >> 7));
  }
  // By a product and not a branch, because the bit is secret.
  block[kBlockBytes - 1] = static_cast<unsigned char>((block[kBlockBytes - 1] << 1) ^ (carry * 0x87));
  Secret subkey(BytesOf(block));
  OPENSSL_cleanse(block.data(), block.size());
  return subkey;
}

Result<KeyId> ComputeKeyId(const Secret& bytes) {
  auto digest = HmacSha256(bytes.view(), kIdLabel);
  if (!digest) return digest.error();
  KeyId id{};
  std::copy_n(digest->begin(), kKeyIdBytes, id.begin());
  return id;
}

bool IsHex(std::string_view word) {
  return std::all_of(word.begin(), word.end(), [](char c) { return HexDigitValue(c) >= 0; });
}

// The two forms cannot be taken for one another: 32 bytes are 44 characters of
// base64, the last of which is no hex digit.
Result<Secret> ParseKeyBytes(std::string_view word, size_t line) {
  if (IsHex(word)) {
    if (word.size() != 2 * kKeyBytes) {
      return LineError(
          line, "expected 32 bytes in base64 or 64 hex digits, got " + std::to_string(word.size()) + " hex digits");
    }
    std::string bytes(kKeyBytes, '\0');
    HexDecodeInto(word, bytes.data());
    return Secret::TakeFrom(bytes);
  }
  std::optional<Secret> bytes = Base64Decode(word);
  if (!bytes) return LineError(line, "the key is not valid base64 (the padding belongs to it)");
  if (bytes->size() != kKeyBytes) {
    return LineError(line, "expected 32 bytes in base64, got " + std::to_string(bytes->size()));
  }
  return std::move(*bytes);
}

Status CheckWords(const std::vector<std::string_view>& words, size_t line) {
  if (words.size() < 2 || (words.size() > 2 && !IsHex(words[1]))) {
    return LineError(line, "expected a name and a key, got " + std::to_string(words.size()) +
                               (words.size() == 1 ? " word" : " words"));
  }
  if (!IsKeyName(words[0])) return LineError(line, "the name is not 1 to 63 of the characters A-Z a-z 0-9 _ . -");
  return Ok();
}

template <class Key>
bool HasName(const std::vector<Key>& keys, std::string_view name) {
  return std::any_of(keys.begin(), keys.end(), [&](const Key& key) { return key.name == name; });
}

template <class Key>
bool HasId(const std::vector<Key>& keys, const KeyId& id) {
  return std::any_of(keys.begin(), keys.end(), [&](const Key& key) { return key.id == id; });
}

}  // namespace

bool IsKeyName(std::string_view word) {
  return !word.empty() && word.size() <= kMaxNameBytes && std::all_of(word.begin(), word.end(), IsNameChar);
}

Result<KeyRing> KeyRing::Parse(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return Error{ErrorCode::kInvalidArgument, "the key ring is longer than 64 KiB", {}};
  }
  KeyRing ring;
  for (size_t line = 1; !text.empty(); ++line) {
    const std::vector<std::string_view> words = Words(TakeUntil(text, "\n"));
    if (words.empty() || words[0].front() == '#') continue;
    if (Status added = ring.Add(words, line); !added) return added.error();
  }
  if (ring.keys_.empty()) {
    return Error{ErrorCode::kKeyMissing,
                 ring.application_keys_.empty() ? "the key ring holds no key"
                                                : "the key ring holds keys of applications only, none to seal with",
                 "Make one with: echo \"main $(openssl rand -base64 32)\""};
  }
  return ring;
}

Status KeyRing::Add(const std::vector<std::string_view>& words, size_t line) {
  if (Status fine = CheckWords(words, line); !fine) return fine;
  auto bytes = ParseKeyBytes(words[1], line);
  if (!bytes) return bytes.error();
  auto id = ComputeKeyId(*bytes);
  if (!id) return id.error();
  if (HasName(keys_, words[0]) || HasName(application_keys_, words[0])) {
    return LineError(line, "an earlier line has the same name");
  }
  if (HasId(keys_, *id) || HasId(application_keys_, *id)) return LineError(line, "an earlier line has the same key");
  if (IsHex(words[1])) {
    application_keys_.push_back({std::string(words[0]), *id, std::move(*bytes), {words.begin() + 2, words.end()}});
    return Ok();
  }
  auto subkey = ComputeSubkey(*bytes);
  if (!subkey) return subkey.error();
  keys_.push_back({std::string(words[0]), *id, std::move(*bytes), std::move(*subkey)});
  return Ok();
}

const SealingKey* KeyRing::FindById(const KeyId& id) const {
  const auto found = std::find_if(keys_.begin(), keys_.end(), [&](const SealingKey& key) { return key.id == id; });
  if (found != keys_.end()) return &*found;
  const KeyRing* newer = Newer();
  return newer == nullptr ? nullptr : newer->FindById(id);
}

const ApplicationKey* KeyRing::FindApplicationKey(std::string_view name) const {
  const auto found = std::find_if(application_keys_.begin(), application_keys_.end(),
                                  [&](const ApplicationKey& key) { return key.name == name; });
  if (found != application_keys_.end()) return &*found;
  const KeyRing* newer = Newer();
  return newer == nullptr ? nullptr : newer->FindApplicationKey(name);
}

std::string KeyIdHex(const KeyId& id) { return HexEncode(BytesOf(id)); }

}  // namespace token_refresh
