#include "core/jwk.h"

#include <algorithm>
#include <utility>

#include "core/encoding.h"
#include "core/strict_json.h"

namespace token_refresh {
namespace {

Error Invalid(const char* why) { return Error{ErrorCode::kInvalidArgument, why, {}}; }

// Of a member that is optional: nothing when it is absent, an error when it is something else than text.
Result<std::optional<std::string_view>> OptionalText(const SecretJson& jwk, const char* name, const char* refusal) {
  const SecretJson* member = FindMember(jwk, name);
  if (member == nullptr) return std::optional<std::string_view>();
  const auto text = TextOf(*member);
  if (!text.has_value()) return Invalid(refusal);
  return text;
}

std::string_view TextMember(const SecretJson& jwk, const char* name) {
  const SecretJson* member = FindMember(jwk, name);
  return member == nullptr ? std::string_view() : TextOf(*member).value_or(std::string_view());
}

// The bytes of a number or secret of the key; nothing when it is absent, empty or not base64url.
std::optional<Secret> BytesMember(const SecretJson& jwk, const char* name) {
  std::optional<Secret> bytes = Base64UrlDecode(TextMember(jwk, name));
  if (bytes.has_value() && bytes->empty()) return std::nullopt;
  return bytes;
}

// RFC 7517 sections 4.2 and 4.3: whether the key is for checking signatures.
Status CheckPurpose(const SecretJson& jwk) {
  auto use = OptionalText(jwk, "use", "the use of a key is text");
  if (!use) return use.error();
  if (use->value_or("sig") != "sig") return Invalid("the use of this key is not sig");
  const SecretJson* operations = FindMember(jwk, "key_ops");
  if (operations == nullptr) return Ok();
  if (!operations->is_array()) return Invalid("the key_ops of a key are an array");
  const bool verifies = std::any_of(operations->begin(), operations->end(),
                                    [](const SecretJson& operation) { return TextOf(operation) == "verify"; });
  if (!verifies) return Invalid("verify is not among the key_ops of this key");
  return Ok();
}

Result<AsymmetricKey> ReadRsa(const SecretJson& jwk) {
  const auto modulus = BytesMember(jwk, "n");
  const auto exponent = BytesMember(jwk, "e");
  if (!modulus || !exponent) return Invalid("the n or e of an RSA key is missing or not base64url");
  return AsymmetricKey::FromRsa(modulus->view(), exponent->view());
}

Result<AsymmetricKey> ReadEc(const SecretJson& jwk) {
  if (TextMember(jwk, "crv") != "P-256") return Invalid("the curve of this EC key is not P-256");
  const auto x = BytesMember(jwk, "x");
  const auto y = BytesMember(jwk, "y");
  if (!x || !y) return Invalid("the x or y of an EC key is missing or not base64url");
  return AsymmetricKey::FromP256(x->view(), y->view());
}

Result<AsymmetricKey> ReadOkp(const SecretJson& jwk) {
  if (TextMember(jwk, "crv") != "Ed25519") return Invalid("the curve of this OKP key is not Ed25519");
  const auto x = BytesMember(jwk, "x");
  if (!x) return Invalid("the x of an OKP key is missing or not base64url");
  return AsymmetricKey::FromEd25519(x->view());
}

Result<AsymmetricKey> ReadAsymmetric(const SecretJson& jwk, std::string_view type) {
  if (type == "RSA") return ReadRsa(jwk);
  if (type == "EC") return ReadEc(jwk);
  if (type == "OKP") return ReadOkp(jwk);
  return Invalid("the kty of this key is not one of RSA, EC, OKP and oct");
}

Result<VerificationKey> ReadSecret(const SecretJson& jwk, std::optional<JwsAlgorithm> algorithm, std::string kid) {
  if (algorithm.value_or(JwsAlgorithm::kHs256) != JwsAlgorithm::kHs256) {
    return Invalid("the type of this key does not allow its algorithm");
  }
  const auto secret = BytesMember(jwk, "k");
  if (!secret) return Invalid("the k of a secret is missing or not base64url");
  return VerificationKey::FromSecret(secret->view(), std::move(kid));
}

Result<VerificationKey> ReadJwk(const SecretJson& jwk) {
  if (Status fine = CheckPurpose(jwk); !fine) return fine.error();
  auto name = OptionalText(jwk, "alg", "the alg of a key is text");
  if (!name) return name.error();
  std::optional<JwsAlgorithm> algorithm;
  if (name->has_value()) {
    algorithm = FindJwsAlgorithm(**name);
    if (!algorithm.has_value()) return Invalid("the alg of this key is not served");
  }
  auto kid = OptionalText(jwk, "kid", "the kid of a key is text");
  if (!kid) return kid.error();
  std::string kid_text(kid->value_or(std::string_view()));
  const std::string_view type = TextMember(jwk, "kty");
  if (type == "oct") return ReadSecret(jwk, algorithm, std::move(kid_text));
  auto key = ReadAsymmetric(jwk, type);
  if (!key) return key.error();
  return VerificationKey::FromKey(std::move(*key), algorithm, std::move(kid_text));
}

Result<VerificationKey> ReadPublishedJwk(const SecretJson& jwk) {
  if (TextMember(jwk, "kty") == "oct") return Invalid("a published secret is none");
  return ReadJwk(jwk);
}

}  // namespace

std::vector<const VerificationKey*> JwkSet::FindKeys(std::optional<std::string_view> kid,
                                                     JwsAlgorithm algorithm) const {
  std::vector<const VerificationKey*> found;
  for (const VerificationKey& key : keys_) {
    if (found.size() == kMaxKeysTried) break;
    if (key.Allows(algorithm) && (!kid.has_value() || key.kid() == *kid)) found.push_back(&key);
  }
  return found;
}

bool JwkSet::HasKid(std::string_view kid) const {
  return std::any_of(keys_.begin(), keys_.end(), [&](const VerificationKey& key) { return key.kid() == kid; });
}

void JwkSet::Skip(const Error& why) {
  if (skipped_++ == 0) skip_reason_ = why.message;
}

Result<VerificationKey> ParseJwk(std::string_view json) {
  if (json.size() > kMaxJwksBytes) return Invalid("a JWK is not longer than 256 KiB");
  const auto jwk = ParseStrictObject(json);
  if (!jwk.has_value()) return Invalid("this is no JWK: not a JSON object, or one with a name twice");
  return ReadJwk(*jwk);
}

Result<JwkSet> ParseJwks(std::string_view json) {
  if (json.size() > kMaxJwksBytes) return Invalid("a JWKS is not longer than 256 KiB");
  const auto document = ParseStrictObject(json);
  if (!document.has_value()) return Invalid("this is no JWKS: not a JSON object, or one with a name twice");
  const SecretJson* members = FindMember(*document, "keys");
  if (members == nullptr || !members->is_array()) return Invalid("this is no JWKS: it has no array of keys");
  if (members->size() > kMaxJwksKeys) return Invalid("a JWKS has 100 keys at most");
  JwkSet set;
  for (const SecretJson& member : *members) {
    auto key = ReadPublishedJwk(member);
    if (key) {
      set.Add(std::move(*key));
    } else if (key.error().code == ErrorCode::kInternal) {
      return key.error();
    } else {
      set.Skip(key.error());
    }
  }
  return set;
}

std::string PublicJwks(const std::vector<VerificationKey>& keys) {
  std::string jwks("{\"keys\":[");
  bool is_first = true;
  for (const VerificationKey& key : keys) {
    const std::optional<std::string> jwk = key.PublicJwk();
    if (!jwk.has_value()) continue;
    if (!is_first) jwks.push_back(',');
    jwks.append(*jwk);
    is_first = false;
  }
  return jwks + "]}";
}

}  // namespace token_refresh
