// Sealing and opening of secrets: XAES-256-GCM (https://c2sp.org/XAES-256-GCM)
// in a small envelope, bound to the place where it is stored. Called by src/pg
// only; the engine works on opened Secrets.
//
//   envelope   = version key-id nonce ciphertext tag
//   version    = %x01                 ; 1 byte
//   key-id     = 8OCTET               ; see SealingKey::id
//   nonce      = 24OCTET              ; random, drawn anew for every message
//   ciphertext = *OCTET               ; as long as the plaintext
//   tag        = 16OCTET
//
// additional data = version key-id 3(length32 bytes), the bytes being table,
// row key and column, each preceded by its length as a 32-bit big-endian number.
// A ciphertext that is moved to another row or column therefore does not open.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/key_ring.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

// Where a ciphertext lives.
struct SealedPlace {
  std::string_view table;   // "token_refresh.credential"
  std::string_view row;     // the row's key as text
  std::string_view column;  // "refresh_token"
};

constexpr int kEnvelopeVersion = 1;
constexpr size_t kEnvelopeOverhead = 1 + kKeyIdBytes + 24 + 16;
constexpr size_t kMaxSecretBytes = 16 * 1024 * 1024;

// Length of the envelope for a plaintext of that many bytes.
constexpr size_t SealedSize(size_t plaintext_bytes) { return plaintext_bytes + kEnvelopeOverhead; }

// Writes exactly SealedSize(plaintext.size()) bytes to out.
Status SealInto(const KeyRing& ring, const SealedPlace& place, std::string_view plaintext, char* out);
Result<std::string> Seal(const KeyRing& ring, const SealedPlace& place, std::string_view plaintext);

// Length of the plaintext in an envelope; kNotAuthentic when it is too short to be one.
Result<size_t> OpenedSize(std::string_view envelope);

// Writes exactly OpenedSize(envelope) bytes to out; on error out is wiped.
// kKeyMissing (naming the key id) when no key of the ring made it;
// kNotAuthentic when it was changed, or made for another place.
Status OpenInto(const KeyRing& ring, const SealedPlace& place, std::string_view envelope, char* out);
Result<Secret> Open(const KeyRing& ring, const SealedPlace& place, std::string_view envelope);

// The id of the key that sealed it; kNotAuthentic when it is no envelope.
Result<KeyId> EnvelopeKeyId(std::string_view envelope);

// The bare AEAD, for the published vectors: out holds plaintext.size() + 16 bytes.
Status XaesSeal(const SealingKey& key, std::string_view nonce24, std::string_view additional_data,
                std::string_view plaintext, char* out);
Status XaesOpen(const SealingKey& key, std::string_view nonce24, std::string_view additional_data,
                std::string_view ciphertext_and_tag, char* out);

}  // namespace token_refresh
