// The bare AEAD of sealed_box.h. Names in comments (K, N, K1, Kx, Nx) are those
// of the specification, https://c2sp.org/XAES-256-GCM.
#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/nonce_pool.h"
#include "core/openssl_handles.h"
#include "core/sealed_box.h"

namespace token_refresh {
namespace {

constexpr size_t kBlockBytes = 16;
constexpr size_t kTagBytes = 16;
constexpr size_t kDerivationNonceBytes = 12;  // N[:12]; the rest of N is Nx
constexpr size_t kMaxAdditionalBytes = 4 * 1024 * 1024;

enum class Direction { kOpen = 0, kSeal = 1 };  // as EVP_CipherInit_ex2 wants it

// Making a context costs more than a whole seal, so they are made once.
struct Contexts {
  CipherContext block;    // AES-256 under K, to derive Kx
  CipherContext message;  // AES-256-GCM; keeps the last Kx, in a process that keeps K itself
  Secret block_key;       // the K that block is set up for: most calls use the same one
};

// Null when OpenSSL cannot make them. Never freed, because at exit OpenSSL may
// clean up before us.
Contexts* SharedContexts() {
  static Contexts* contexts = nullptr;
  if (contexts != nullptr) return contexts;
  Contexts fresh{CipherContext(EVP_CIPHER_CTX_new()), CipherContext(EVP_CIPHER_CTX_new()), Secret()};
  if (fresh.block == nullptr || fresh.message == nullptr ||
      EVP_CipherInit_ex2(fresh.block.get(), EVP_aes_256_ecb(), nullptr, nullptr, 1, nullptr) != 1 ||
      EVP_CipherInit_ex2(fresh.message.get(), EVP_aes_256_gcm(), nullptr, nullptr, 1, nullptr) != 1 ||
      EVP_CIPHER_CTX_set_padding(fresh.block.get(), 0) != 1) {
    return nullptr;
  }
  contexts = new Contexts(std::move(fresh));
  return contexts;
}

// Kx, wiped when it goes out of scope; before that the blocks it is made from.
struct MessageKey {
  MessageKey() = default;
  MessageKey(const MessageKey&) = delete;
  MessageKey& operator=(const MessageKey&) = delete;
  ~MessageKey() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

  std::array<unsigned char, 2 * kBlockBytes> bytes{};
};

bool SetBlockKey(Contexts& contexts, const Secret& key) {
  if (contexts.block_key.Equals(key.view())) return true;
  contexts.block_key.Wipe();
  if (EVP_CipherInit_ex2(contexts.block.get(), nullptr, OpensslBytes(key.view().data()), nullptr, 1, nullptr) != 1) {
    return false;
  }
  contexts.block_key = key.Clone();
  return true;
}

// Kx = AES(K, M1 ^ K1) || AES(K, M2 ^ K1), Mi = 0 i 'X' 0 || N[:12]
bool DeriveMessageKey(Contexts& contexts, const SealingKey& key, std::string_view nonce, MessageKey& derived) {
  if (!SetBlockKey(contexts, key.key)) return false;
  const std::string_view subkey = key.subkey.view();
  for (unsigned char i = 0; i < 2; ++i) {
    unsigned char* block = derived.bytes.data() + i * kBlockBytes;
    block[1] = static_cast<unsigned char>(i + 1);
    block[2] = 'X';
    std::copy_n(nonce.data(), kDerivationNonceBytes, block + kBlockBytes - kDerivationNonceBytes);
    for (size_t at = 0; at < kBlockBytes; ++at) block[at] ^= static_cast<unsigned char>(subkey[at]);
  }
  int written = 0;
  return EVP_CipherUpdate(contexts.block.get(), derived.bytes.data(), &written, derived.bytes.data(),
                          static_cast<int>(derived.bytes.size())) == 1 &&
         written == static_cast<int>(derived.bytes.size());
}

// With out null the input is additional data. OpenSSL counts in int, which the
// limits in CheckInput keep to.
bool Feed(EVP_CIPHER_CTX* context, std::string_view input, unsigned char* out) {
  if (input.empty()) return true;
  int written = 0;
  const int size = static_cast<int>(input.size());
  return EVP_CipherUpdate(context, out, &written, OpensslBytes(input.data()), size) == 1 && written == size;
}

Status CheckInput(const SealingKey& key, std::string_view nonce, std::string_view additional_data, size_t text_bytes) {
  if (key.key.size() != kKeyBytes || key.subkey.size() != kBlockBytes || nonce.size() != kNonceBytes) {
    return Error{ErrorCode::kInvalidArgument, "XAES-256-GCM takes a 32-byte key and a 24-byte nonce", {}};
  }
  if (text_bytes > kMaxSecretBytes || additional_data.size() > kMaxAdditionalBytes) {
    return Error{ErrorCode::kInvalidArgument, "the message or its additional data is too long to be sealed", {}};
  }
  return Ok();
}

// Everything up to the tag, which is where the directions part.
Result<EVP_CIPHER_CTX*> Transform(Direction direction, const SealingKey& key, std::string_view nonce,
                                  std::string_view additional_data, std::string_view input, char* out) {
  Contexts* contexts = SharedContexts();
  if (contexts == nullptr) return OpensslError("set up AES-256-GCM");
  MessageKey message_key;
  if (!DeriveMessageKey(*contexts, key, nonce, message_key)) return OpensslError("derive a message key");
  EVP_CIPHER_CTX* message = contexts->message.get();
  if (EVP_CipherInit_ex2(message, nullptr, message_key.bytes.data(), OpensslBytes(nonce.data() + kDerivationNonceBytes),
                         static_cast<int>(direction), nullptr) != 1) {
    return OpensslError("start AES-256-GCM");
  }
  if (!Feed(message, additional_data, nullptr)) return OpensslError("authenticate additional data");
  if (!Feed(message, input, OpensslBytes(out))) return OpensslError("run AES-256-GCM");
  return message;
}

}  // namespace

Status XaesSeal(const SealingKey& key, std::string_view nonce24, std::string_view additional_data,
                std::string_view plaintext, char* out) {
  if (Status valid = CheckInput(key, nonce24, additional_data, plaintext.size()); !valid) return valid;
  auto message = Transform(Direction::kSeal, key, nonce24, additional_data, plaintext, out);
  if (!message) return message.error();
  std::array<unsigned char, kBlockBytes> rest;  // stays empty: GCM has no last block to pad
  int rest_bytes = 0;
  if (EVP_CipherFinal_ex(*message, rest.data(), &rest_bytes) != 1 ||
      EVP_CIPHER_CTX_ctrl(*message, EVP_CTRL_AEAD_GET_TAG, kTagBytes, out + plaintext.size()) != 1) {
    return OpensslError("finish AES-256-GCM");
  }
  return Ok();
}

Status XaesOpen(const SealingKey& key, std::string_view nonce24, std::string_view additional_data,
                std::string_view ciphertext_and_tag, char* out) {
  if (ciphertext_and_tag.size() < kTagBytes) {
    return Error{ErrorCode::kNotAuthentic, "the ciphertext is shorter than its tag", {}};
  }
  const size_t size = ciphertext_and_tag.size() - kTagBytes;
  if (Status valid = CheckInput(key, nonce24, additional_data, size); !valid) return valid;
  auto message = Transform(Direction::kOpen, key, nonce24, additional_data, ciphertext_and_tag.substr(0, size), out);
  if (!message) {
    OPENSSL_cleanse(out, size);
    return message.error();
  }
  std::array<char, kTagBytes> tag;
  std::copy_n(ciphertext_and_tag.data() + size, kTagBytes, tag.data());
  if (EVP_CIPHER_CTX_ctrl(*message, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) != 1) {
    OPENSSL_cleanse(out, size);
    return OpensslError("set the tag of AES-256-GCM");
  }
  std::array<unsigned char, kBlockBytes> rest;
  int rest_bytes = 0;
  if (EVP_CipherFinal_ex(*message, rest.data(), &rest_bytes) != 1) {
    OPENSSL_cleanse(out, size);
    ERR_clear_error();
    return Error{ErrorCode::kNotAuthentic, "the ciphertext, its additional data or its nonce was changed", {}};
  }
  return Ok();
}

}  // namespace token_refresh
