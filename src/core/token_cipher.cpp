#include "core/token_cipher.h"

#include "core/hex_cipher.h"
#include "core/sealed_box.h"

namespace token_refresh {

namespace {

Result<const ApplicationKey*> NamedKey(const KeyRing& ring, const TokenCipher& cipher) {
  const ApplicationKey* key = ring.FindApplicationKey(cipher.key_name);
  if (key != nullptr) return key;
  return Error{ErrorCode::kKeyMissing, "the key ring has no application key named \"" + cipher.key_name + "\"",
               "Add it to the key file and reload the configuration."};
}

}  // namespace

Result<Secret> OpenStoredToken(const KeyRing& ring, const TokenCipher& cipher, std::string_view row_key,
                               std::string_view column, std::string_view stored) {
  switch (cipher.kind) {
    case TableCipher::kNative:
      return Open(ring, SealedPlace{cipher.place, row_key, column}, stored);
    case TableCipher::kAes256GcmHex: {
      Result<const ApplicationKey*> key = NamedKey(ring, cipher);
      if (!key.ok()) return key.error();
      return OpenHexCipher(**key, stored);
    }
    case TableCipher::kPlain:
    case TableCipher::kFunctions:
      break;
  }
  return Secret(stored);
}

Result<std::string> SealTokenToStore(const KeyRing& ring, const TokenCipher& cipher, std::string_view row_key,
                                     std::string_view column, std::string_view token, std::string_view replaced) {
  switch (cipher.kind) {
    case TableCipher::kNative:
      return Seal(ring, SealedPlace{cipher.place, row_key, column}, token);
    case TableCipher::kAes256GcmHex: {
      Result<const ApplicationKey*> key = NamedKey(ring, cipher);
      if (!key.ok()) return key.error();
      return SealHexCipher(**key, token, HexCipherIvBytes(replaced));
    }
    case TableCipher::kPlain:
    case TableCipher::kFunctions:
      break;
  }
  return std::string(token);
}

}  // namespace token_refresh
