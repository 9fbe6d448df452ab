// JSON Web Keys (RFC 7517, 7518 section 6, 8037): reading those of others, writing our own. For whoever
// verifies or publishes, one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/jws_algorithm.h"
#include "core/jws_key.h"
#include "core/result.h"

namespace token_refresh {

constexpr size_t kMaxJwksBytes = 256 * 1024;  // some carry a certificate chain for each key
constexpr size_t kMaxJwksKeys = 100;
constexpr size_t kMaxKeysTried = 8;  // for one token

class JwkSet {
 public:
  void Add(VerificationKey key) { keys_.push_back(std::move(key)); }

  // The keys to try for a token, kMaxKeysTried at most: those that allow the algorithm and, when the token names
  // a kid, have exactly that one.
  std::vector<const VerificationKey*> FindKeys(std::optional<std::string_view> kid, JwsAlgorithm algorithm) const;
  bool HasKid(std::string_view kid) const;

  const std::vector<VerificationKey>& keys() const { return keys_; }

  // Keys of the document that are not in the set, and why the first of them is not (empty: there are none).
  size_t skipped() const { return skipped_; }
  const std::string& skip_reason() const { return skip_reason_; }

 private:
  friend Result<JwkSet> ParseJwks(std::string_view json);
  void Skip(const Error& why);

  std::vector<VerificationKey> keys_;
  size_t skipped_ = 0;
  std::string skip_reason_;
};

// One key to verify with: RSA, EC on P-256, OKP on Ed25519, or oct for HS256. Private members of the first three
// are not looked at. Errors: kInvalidArgument for another kty, crv, alg, use or key_ops, for members that are
// missing or unusable, and for weak keys, with a fixed sentence that quotes nothing of it; kInternal.
Result<VerificationKey> ParseJwk(std::string_view json);

// The keys of a provider. What ParseJwk refuses is skipped, and so is oct, since a secret that was published
// is none. Errors: kInvalidArgument when it is no JWKS, longer than kMaxJwksBytes, or of more than kMaxJwksKeys
// keys; kInternal. A set without one usable key is no error.
Result<JwkSet> ParseJwks(std::string_view json);

// A JWKS of the public keys; secrets are left out.
std::string PublicJwks(const std::vector<VerificationKey>& keys);

}  // namespace token_refresh
