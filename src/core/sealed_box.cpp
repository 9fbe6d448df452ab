#include "core/sealed_box.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "core/nonce_pool.h"

namespace token_refresh {
namespace {

constexpr char kVersion = kEnvelopeVersion;
constexpr size_t kHeaderBytes = 1 + kKeyIdBytes;  // version and key id, which are authenticated too
constexpr size_t kPrefixBytes = kHeaderBytes + kNonceBytes;
constexpr size_t kMaxPlaceBytes = 1024 * 1024;  // of one part: far beyond any row key

// The parts of an envelope, pointing into it.
struct Envelope {
  std::string_view header;
  std::string_view nonce;
  std::string_view ciphertext_and_tag;
  KeyId key_id{};
  size_t plaintext_bytes = 0;
};

Error NotAnEnvelope(std::string why) {
  return Error{ErrorCode::kNotAuthentic, "this is not a sealed secret: " + std::move(why), {}};
}

Result<Envelope> Split(std::string_view bytes) {
  if (bytes.size() < kEnvelopeOverhead) {
    return NotAnEnvelope(std::to_string(bytes.size()) + " bytes are too few");
  }
  if (bytes.size() > SealedSize(kMaxSecretBytes)) {
    return NotAnEnvelope(std::to_string(bytes.size()) + " bytes are too many");
  }
  if (bytes.front() != kVersion) {
    return NotAnEnvelope("version " + std::to_string(static_cast<unsigned char>(bytes.front())) + " is unknown");
  }
  Envelope envelope;
  envelope.header = bytes.substr(0, kHeaderBytes);
  envelope.nonce = bytes.substr(kHeaderBytes, kNonceBytes);
  envelope.ciphertext_and_tag = bytes.substr(kPrefixBytes);
  envelope.plaintext_bytes = bytes.size() - kEnvelopeOverhead;
  std::copy_n(bytes.begin() + 1, kKeyIdBytes, envelope.key_id.begin());
  return envelope;
}

// The length in front keeps ("ab", "c") and ("a", "bc") apart.
void AppendWithLength(std::string& out, std::string_view part) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>((part.size() >> shift) & 0xff));
  out.append(part);
}

Result<std::string> AdditionalData(std::string_view header, const SealedPlace& place) {
  const auto parts = {place.table, place.row, place.column};
  size_t size = header.size();
  for (std::string_view part : parts) {
    if (part.size() > kMaxPlaceBytes) {
      return Error{
          ErrorCode::kInvalidArgument, "the table, row key or column of a sealed secret is longer than 1 MiB", {}};
    }
    size += sizeof(uint32_t) + part.size();
  }
  std::string data;
  data.reserve(size);
  data.append(header);
  for (std::string_view part : parts) AppendWithLength(data, part);
  return data;
}

// Says which kind of secret it is, but not the row: its key can be personal data.
Error DoesNotOpen(const SealedPlace& place) {
  std::string where(place.table);
  where.append(".").append(place.column);
  return Error{ErrorCode::kNotAuthentic, "a sealed secret in " + where + " does not open",
               "It was changed, or copied here from another row or column."};
}

Error NoKey(const KeyId& id) {
  return Error{ErrorCode::kKeyMissing, "the key ring has no key with the id " + KeyIdHex(id),
               "Put the key that sealed this secret back into the key ring; it need not be the first."};
}

}  // namespace

Status SealInto(const KeyRing& ring, const SealedPlace& place, std::string_view plaintext, char* out) {
  if (ring.keys().empty()) return Error{ErrorCode::kKeyMissing, "the key ring holds no key", {}};
  if (plaintext.size() > kMaxSecretBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "a secret of " + std::to_string(plaintext.size()) + " bytes is too long to be sealed",
                 "The limit is " + std::to_string(kMaxSecretBytes) + " bytes."};
  }
  const SealingKey& key = ring.primary();
  out[0] = kVersion;
  std::copy(key.id.begin(), key.id.end(), out + 1);
  auto additional_data = AdditionalData({out, kHeaderBytes}, place);
  if (!additional_data) return additional_data.error();
  if (Status drawn = DrawNonce(out + kHeaderBytes); !drawn) return drawn;
  return XaesSeal(key, {out + kHeaderBytes, kNonceBytes}, *additional_data, plaintext, out + kPrefixBytes);
}

Result<std::string> Seal(const KeyRing& ring, const SealedPlace& place, std::string_view plaintext) {
  // The limit comes first, so that nothing beyond it is allocated.
  std::string envelope(SealedSize(std::min(plaintext.size(), kMaxSecretBytes)), '\0');
  if (Status sealed = SealInto(ring, place, plaintext, envelope.data()); !sealed) return sealed.error();
  return envelope;
}

Result<size_t> OpenedSize(std::string_view envelope) {
  auto parts = Split(envelope);
  if (!parts) return parts.error();
  return parts->plaintext_bytes;
}

Status OpenInto(const KeyRing& ring, const SealedPlace& place, std::string_view envelope, char* out) {
  auto parts = Split(envelope);
  if (!parts) return parts.error();
  // XaesOpen wipes as well; this is for the ways out before it.
  const auto fail = [&](Error error) -> Status {
    OPENSSL_cleanse(out, parts->plaintext_bytes);
    return error;
  };
  const SealingKey* key = ring.FindById(parts->key_id);
  if (key == nullptr) return fail(NoKey(parts->key_id));
  auto additional_data = AdditionalData(parts->header, place);
  if (!additional_data) return fail(additional_data.error());
  Status opened = XaesOpen(*key, parts->nonce, *additional_data, parts->ciphertext_and_tag, out);
  if (opened) return opened;
  return fail(opened.error().code == ErrorCode::kNotAuthentic ? DoesNotOpen(place) : opened.error());
}

Result<Secret> Open(const KeyRing& ring, const SealedPlace& place, std::string_view envelope) {
  auto size = OpenedSize(envelope);
  if (!size) return size.error();
  std::string plaintext(*size, '\0');
  if (Status opened = OpenInto(ring, place, envelope, plaintext.data()); !opened) return opened.error();
  return Secret::TakeFrom(plaintext);
}

Result<KeyId> EnvelopeKeyId(std::string_view envelope) {
  auto parts = Split(envelope);
  if (!parts) return parts.error();
  return parts->key_id;
}

}  // namespace token_refresh
