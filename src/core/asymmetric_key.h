// An RSA, P-256 or Ed25519 key, and the signatures of JWS with it (RFC 7518 sections 3.3 to 3.5, RFC 8037).
// A thin layer over OpenSSL, for the JWS code, one thread at a time: a key keeps OpenSSL's prepared
// contexts, because preparing one costs more than many a signature.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/jws_algorithm.h"
#include "core/openssl_handles.h"
#include "core/result.h"

namespace token_refresh {

class AsymmetricKey {
 public:
  enum class Type { kRsa, kP256, kEd25519 };

  // Public keys, from the numbers of a JWK: big-endian bytes. Errors: kInvalidArgument when the RSA modulus has
  // fewer than 2048 or more than 8192 bits or the exponent is even, 1 or longer than 8 bytes; when a coordinate
  // has not 32 bytes or the point is not on the curve; kInternal when OpenSSL cannot.
  static Result<AsymmetricKey> FromRsa(std::string_view modulus, std::string_view exponent);
  static Result<AsymmetricKey> FromP256(std::string_view x, std::string_view y);
  static Result<AsymmetricKey> FromEd25519(std::string_view x);

  // A private key, unencrypted, in PKCS#8 or the older forms of RSA and EC. Errors: kInvalidArgument for what
  // cannot be read, other types and curves, weak keys, and halves that do not belong together; kInternal.
  static Result<AsymmetricKey> FromPrivatePem(std::string_view pem);

  Type type() const { return type_; }
  bool Allows(JwsAlgorithm algorithm) const;

  // The required members of the public JWK in the order that RFC 7638 hashes them in.
  const std::string& public_jwk() const { return public_jwk_; }
  // RFC 7638, in base64url.
  Result<std::string> Thumbprint() const;

  // The signature as JWS has it (ES256: r and s of 32 bytes each). Only for an allowed algorithm; Sign only
  // with a private key. Verify says whether it is right; its error is that OpenSSL could not tell.
  Result<std::string> Sign(JwsAlgorithm algorithm, std::string_view message) const;
  Result<bool> Verify(JwsAlgorithm algorithm, std::string_view message, std::string_view signature) const;

 private:
  enum class Purpose { kSign, kVerify };
  struct Prepared {
    PkeyContext context;
    JwsAlgorithm algorithm{};
  };

  AsymmetricKey(Type type, Pkey key, std::string public_jwk)
      : type_(type), key_(std::move(key)), public_jwk_(std::move(public_jwk)) {}

  static Result<AsymmetricKey> Own(Type type, Pkey key);
  Result<EVP_PKEY_CTX*> Prepare(Purpose purpose, JwsAlgorithm algorithm) const;
  Result<std::string> SignEd25519(std::string_view message) const;
  Result<bool> VerifyEd25519(std::string_view message, std::string_view signature) const;
  Status CheckPair() const;

  Type type_;
  Pkey key_;
  std::string public_jwk_;
  mutable Prepared signing_;
  mutable Prepared verifying_;
};

}  // namespace token_refresh
