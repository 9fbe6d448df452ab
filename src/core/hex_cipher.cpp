#include "core/hex_cipher.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "core/encoding.h"
#include "core/hex_decode.h"
#include "core/nonce_pool.h"
#include "core/openssl_handles.h"
#include "core/sealed_box.h"

namespace token_refresh {
namespace {

constexpr size_t kTagBytes = 16;
constexpr size_t kUsualIvBytes = 16;
static_assert(kMaxHexCipherIvBytes <= kNonceBytes, "an iv is the start of a drawn nonce");

enum class Direction { kOpen = 0, kSeal = 1 };  // as EVP_CipherInit_ex2 wants it

// The parts of a stored text.
struct StoredParts {
  std::array<char, kMaxHexCipherIvBytes> iv{};
  size_t iv_bytes = 0;
  std::array<char, kTagBytes> tag{};
  std::string ciphertext;
};

Error NotOfThatForm(const char* why) {
  return Error{ErrorCode::kNotAuthentic, std::string("this is not aes-256-gcm-hex: ") + why,
               "A stored secret is iv:tag:ciphertext, all in hexadecimal."};
}

// The three parts, still in hexadecimal; nothing when there are more or less.
std::optional<std::array<std::string_view, 3>> SplitAtColons(std::string_view stored) {
  const size_t first = stored.find(':');
  if (first == std::string_view::npos) return std::nullopt;
  const size_t second = stored.find(':', first + 1);
  if (second == std::string_view::npos || stored.find(':', second + 1) != std::string_view::npos) return std::nullopt;
  return std::array{stored.substr(0, first), stored.substr(first + 1, second - first - 1), stored.substr(second + 1)};
}

bool IsIvText(std::string_view text) {
  return text.size() % 2 == 0 && text.size() >= 2 * kMinHexCipherIvBytes && text.size() <= 2 * kMaxHexCipherIvBytes;
}

Result<StoredParts> ParseStored(std::string_view stored) {
  const auto texts = SplitAtColons(stored);
  if (!texts.has_value()) return NotOfThatForm("it does not have three parts with colons between them");
  const auto& [iv, tag, ciphertext] = *texts;
  StoredParts parts;
  parts.iv_bytes = iv.size() / 2;
  if (!IsIvText(iv)) return NotOfThatForm("the iv does not have 24 to 32 digits");
  if (!HexDecodeInto(iv, parts.iv.data())) return NotOfThatForm("the iv is not hexadecimal");
  if (tag.size() != 2 * kTagBytes) return NotOfThatForm("the tag does not have 32 digits");
  if (!HexDecodeInto(tag, parts.tag.data())) return NotOfThatForm("the tag is not hexadecimal");
  if (ciphertext.size() > 2 * kMaxSecretBytes) return NotOfThatForm("the ciphertext is too long");
  parts.ciphertext.resize(ciphertext.size() / 2);
  if (!HexDecodeInto(ciphertext, parts.ciphertext.data())) return NotOfThatForm("the ciphertext is not hexadecimal");
  return parts;
}

Status CheckKey(const ApplicationKey& key) {
  if (key.key.size() == kKeyBytes) return Ok();
  return Error{ErrorCode::kInvalidArgument, "aes-256-gcm-hex takes a key of 32 bytes", {}};
}

// A context that has taken the whole input, so that only the tag is left to do.
// out is as long as the input.
Result<CipherContext> Transform(Direction direction, const ApplicationKey& key, std::string_view iv, std::string_view input,
                                char* out) {
  CipherContext context(EVP_CIPHER_CTX_new());
  const int encrypt = static_cast<int>(direction);
  // The length of the iv must be known before the iv itself is given.
  if (context == nullptr ||
      EVP_CipherInit_ex2(context.get(), EVP_aes_256_gcm(), nullptr, nullptr, encrypt, nullptr) != 1 ||
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_IVLEN, static_cast<int>(iv.size()), nullptr) != 1 ||
      EVP_CipherInit_ex2(context.get(), nullptr, OpensslBytes(key.key.view().data()), OpensslBytes(iv.data()), encrypt,
                         nullptr) != 1) {
    return OpensslError("start AES-256-GCM");
  }
  int written = 0;
  const int size = static_cast<int>(input.size());
  if (size > 0 &&
      (EVP_CipherUpdate(context.get(), OpensslBytes(out), &written, OpensslBytes(input.data()), size) != 1 ||
       written != size)) {
    return OpensslError("run AES-256-GCM");
  }
  return context;
}

// Nothing is left to be written at the end: GCM has no last block to pad.
bool Finish(EVP_CIPHER_CTX* context) {
  std::array<unsigned char, kTagBytes> rest;
  int rest_bytes = 0;
  return EVP_CipherFinal_ex(context, rest.data(), &rest_bytes) == 1;
}

// Decrypts; what it has written when it fails must not be used.
Status OpenInto(const ApplicationKey& key, StoredParts& parts, char* out) {
  auto context = Transform(Direction::kOpen, key, {parts.iv.data(), parts.iv_bytes}, parts.ciphertext, out);
  if (!context) return context.error();
  if (EVP_CIPHER_CTX_ctrl(context->get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, parts.tag.data()) != 1) {
    return OpensslError("set the tag of AES-256-GCM");
  }
  if (Finish(context->get())) return Ok();
  ERR_clear_error();
  return Error{ErrorCode::kNotAuthentic, "a secret in aes-256-gcm-hex does not open with the key \"" + key.name + "\"",
               "It was changed, or encrypted with another key."};
}

}  // namespace

Result<Secret> OpenHexCipher(const ApplicationKey& key, std::string_view stored) {
  if (Status valid = CheckKey(key); !valid) return valid.error();
  auto parts = ParseStored(stored);
  if (!parts) return parts.error();
  std::string plaintext(parts->ciphertext.size(), '\0');
  if (Status opened = OpenInto(key, *parts, plaintext.data()); !opened) {
    WipeString(plaintext);
    return opened.error();
  }
  return Secret::TakeFrom(plaintext);
}

Result<std::string> SealHexCipher(const ApplicationKey& key, std::string_view plaintext, size_t iv_bytes) {
  if (Status valid = CheckKey(key); !valid) return valid.error();
  if (iv_bytes < kMinHexCipherIvBytes || iv_bytes > kMaxHexCipherIvBytes) {
    return Error{ErrorCode::kInvalidArgument, "the iv of aes-256-gcm-hex has 12 to 16 bytes", {}};
  }
  if (plaintext.size() > kMaxSecretBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "a secret of " + std::to_string(plaintext.size()) + " bytes is too long to be encrypted",
                 "The limit is " + std::to_string(kMaxSecretBytes) + " bytes."};
  }
  std::array<char, kNonceBytes> nonce;
  if (Status drawn = DrawNonce(nonce.data()); !drawn) return drawn.error();
  const std::string_view iv(nonce.data(), iv_bytes);
  std::string ciphertext(plaintext.size(), '\0');
  auto context = Transform(Direction::kSeal, key, iv, plaintext, ciphertext.data());
  if (!context) return context.error();
  std::array<char, kTagBytes> tag;
  if (!Finish(context->get()) ||
      EVP_CIPHER_CTX_ctrl(context->get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) != 1) {
    return OpensslError("finish AES-256-GCM");
  }
  return HexEncode(iv) + ":" + HexEncode({tag.data(), tag.size()}) + ":" + HexEncode(ciphertext);
}

size_t HexCipherIvBytes(std::string_view stored) {
  const auto parts = SplitAtColons(stored);
  return parts.has_value() && IsIvText(parts->front()) ? parts->front().size() / 2 : kUsualIvBytes;
}

}  // namespace token_refresh
