// Keys as JWS uses them. The algorithm belongs to the key and never to the token (RFC 8725 section 3.1): a key
// says which algorithms it allows, and whoever checks a token asks it. For the JWS code and its callers, one
// thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "core/asymmetric_key.h"
#include "core/hmac_key.h"
#include "core/jws_algorithm.h"
#include "core/result.h"

namespace token_refresh {

constexpr size_t kMinHmacSecretBytes = 32;  // RFC 7518 section 3.2
constexpr size_t kMaxKidBytes = 256;

// Copies are cheap and share the key.
class VerificationKey {
 public:
  // A secret for HS256. Errors: kInvalidArgument when it is shorter than 32 bytes, when it is a key in PEM
  // (a public one would make everybody a signer), or for an unusable kid; kInternal.
  static Result<VerificationKey> FromSecret(std::string_view secret, std::string kid);

  // only: the algorithm that the key is bound to; without one, all that its type allows. Errors: kInvalidArgument
  // when the type does not allow it, or for an unusable kid.
  static Result<VerificationKey> FromKey(AsymmetricKey key, std::optional<JwsAlgorithm> only, std::string kid);

  // Clean text (utf8.h) of up to kMaxKidBytes; empty: it has none.
  const std::string& kid() const { return kid_; }
  // The algorithm that it is bound to, if it is.
  std::optional<JwsAlgorithm> only() const { return only_; }
  bool Allows(JwsAlgorithm algorithm) const;

  // The JOSE header of a JWT that is signed with this key, in base64url: alg, kid if there is one, typ "JWT".
  // Empty for a key that is not bound to an algorithm.
  const std::string& encoded_header() const { return encoded_header_; }

  // As a JWK, RFC 7517, with use, and with kid and alg if it is bound to them; nothing for a secret.
  std::optional<std::string> PublicJwk() const;

  // Whether the signature is right; false for an algorithm that is not allowed. Errors: kInternal.
  Result<bool> Verify(JwsAlgorithm algorithm, std::string_view message, std::string_view signature) const;

 private:
  friend class SigningKey;
  using Material = std::variant<HmacKey, AsymmetricKey>;

  VerificationKey(Material material, std::optional<JwsAlgorithm> only, std::string kid);

  const AsymmetricKey* asymmetric() const { return std::get_if<AsymmetricKey>(material_.get()); }

  std::shared_ptr<const Material> material_;
  std::optional<JwsAlgorithm> only_;
  std::string kid_;
  std::string encoded_header_;
};

class SigningKey {
 public:
  // As VerificationKey::FromSecret.
  static Result<SigningKey> FromSecret(std::string_view secret, std::string kid);

  // algorithm: when it is not given, RS256 for RSA; the other types have one only. An empty kid becomes the
  // key's thumbprint (RFC 7638). Errors: as AsymmetricKey::FromPrivatePem and VerificationKey::FromKey.
  static Result<SigningKey> FromPem(std::string_view pem, std::optional<JwsAlgorithm> algorithm = std::nullopt,
                                    std::string kid = {});

  JwsAlgorithm algorithm() const { return *verification_key_.only_; }
  const std::string& kid() const { return verification_key_.kid(); }
  const VerificationKey& verification_key() const { return verification_key_; }

  // Errors: kInternal.
  Result<std::string> Sign(std::string_view message) const;

 private:
  explicit SigningKey(VerificationKey key) : verification_key_(std::move(key)) {}

  VerificationKey verification_key_;
};

}  // namespace token_refresh
