// The keys that seal secrets at rest. A key ring is read from text, one key a
// line; empty lines and lines that begin with # are skipped:
//
//   sealing key     = name base64(32 bytes)
//   application key = name 64-hex-digits *role
//
// The first sealing key seals, all of them open. An application key is the key of
// an application's own table (hex_cipher.h), in the form in which applications keep
// theirs; it never seals or opens anything of ours, so that nobody who may use it
// gets at that. The roles behind it are those that may name it in attach_table,
// besides superusers. Who reads the file, whether its mode is safe, and when it is
// read again is the caller's business (src/pg/keys).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

constexpr size_t kKeyBytes = 32;
constexpr size_t kKeyIdBytes = 8;
using KeyId = std::array<uint8_t, kKeyIdBytes>;

// One AES-256 key, its subkey for XAES-256-GCM computed once.
struct SealingKey {
  std::string name;  // the administrator's word for it
  KeyId id{};        // first 8 bytes of HMAC-SHA256(key, "token_refresh key id")
  Secret key;        // 32 bytes
  Secret subkey;     // K1 of the C2SP XAES-256-GCM specification, 16 bytes
};

struct ApplicationKey {
  std::string name;
  KeyId id{};
  Secret key;  // 32 bytes
  std::vector<std::string> roles;
};

// Whether a key may have that name: [A-Za-z0-9_.-]{1,63}.
bool IsKeyName(std::string_view word);

class KeyRing {
 public:
  // Errors: kInvalidArgument naming the line number and what is wrong with it
  // (never its content); kKeyMissing when the text holds no sealing key.
  // Names are unique in the ring, and so are keys.
  static Result<KeyRing> Parse(std::string_view text);

  // Asked for when a key is wanted that ring does not hold: a ring that has been read since, which lives as
  // long as ring does; null: there is none.
  using FindNewer = const KeyRing* (*)(const KeyRing& ring);
  void set_find_newer(FindNewer find_newer) { find_newer_ = find_newer; }

  const SealingKey& primary() const { return keys_.front(); }
  const SealingKey* FindById(const KeyId& id) const;
  const std::vector<SealingKey>& keys() const { return keys_; }

  const ApplicationKey* FindApplicationKey(std::string_view name) const;
  const std::vector<ApplicationKey>& application_keys() const { return application_keys_; }

 private:
  Status Add(const std::vector<std::string_view>& words, size_t line);
  const KeyRing* Newer() const { return find_newer_ == nullptr ? nullptr : find_newer_(*this); }

  std::vector<SealingKey> keys_;
  std::vector<ApplicationKey> application_keys_;
  FindNewer find_newer_ = nullptr;
};

// 16 lower-case hex digits, for messages and views; not secret.
std::string KeyIdHex(const KeyId& id);

}  // namespace token_refresh
