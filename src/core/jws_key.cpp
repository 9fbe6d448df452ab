#include "core/jws_key.h"

#include <openssl/crypto.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "core/encoding.h"
#include "core/utf8.h"

namespace token_refresh {
namespace {

constexpr std::string_view kPemMark = "-----BEGIN ";

Error Invalid(const char* why) { return Error{ErrorCode::kInvalidArgument, why, {}}; }

Status CheckKid(const std::string& kid) {
  if (kid.size() > kMaxKidBytes) return Invalid("the kid of a key is not longer than 256 bytes");
  if (!IsCleanText(kid)) return Invalid("the kid of a key is text without control characters");
  return Ok();
}

std::string QuotedJson(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

JwsAlgorithm UsualAlgorithm(AsymmetricKey::Type type) {
  switch (type) {
    case AsymmetricKey::Type::kP256:
      return JwsAlgorithm::kEs256;
    case AsymmetricKey::Type::kEd25519:
      return JwsAlgorithm::kEdDsa;
    case AsymmetricKey::Type::kRsa:
      break;
  }
  return JwsAlgorithm::kRs256;
}

std::string JwtHeader(JwsAlgorithm algorithm, const std::string& kid) {
  std::string header("{\"alg\":\"");
  header.append(JwsAlgorithmName(algorithm)).append("\"");
  if (!kid.empty()) header.append(",\"kid\":").append(QuotedJson(kid));
  return header + ",\"typ\":\"JWT\"}";
}

}  // namespace

VerificationKey::VerificationKey(Material material, std::optional<JwsAlgorithm> only, std::string kid)
    : material_(std::make_shared<const Material>(std::move(material))), only_(only), kid_(std::move(kid)) {
  if (only_.has_value()) encoded_header_ = Base64UrlEncode(JwtHeader(*only_, kid_));
}

Result<VerificationKey> VerificationKey::FromSecret(std::string_view secret, std::string kid) {
  if (secret.size() < kMinHmacSecretBytes) return Invalid("a secret for HS256 has 32 bytes or more");
  if (secret.find(kPemMark) != std::string_view::npos) return Invalid("a key in PEM is no secret for HS256");
  if (Status fine = CheckKid(kid); !fine) return fine.error();
  auto hmac = HmacKey::FromSecret(secret);
  if (!hmac) return hmac.error();
  return VerificationKey(std::move(*hmac), JwsAlgorithm::kHs256, std::move(kid));
}

Result<VerificationKey> VerificationKey::FromKey(AsymmetricKey key, std::optional<JwsAlgorithm> only, std::string kid) {
  if (only.has_value() && !key.Allows(*only)) return Invalid("the type of this key does not allow its algorithm");
  if (Status fine = CheckKid(kid); !fine) return fine.error();
  return VerificationKey(std::move(key), only, std::move(kid));
}

bool VerificationKey::Allows(JwsAlgorithm algorithm) const {
  return only_.has_value() ? algorithm == *only_ : asymmetric()->Allows(algorithm);
}

std::optional<std::string> VerificationKey::PublicJwk() const {
  const AsymmetricKey* key = asymmetric();
  if (key == nullptr) return std::nullopt;
  std::string jwk = key->public_jwk();
  jwk.pop_back();
  jwk.append(",\"use\":\"sig\"");
  if (only_.has_value()) jwk.append(",\"alg\":\"").append(JwsAlgorithmName(*only_)).append("\"");
  if (!kid_.empty()) jwk.append(",\"kid\":").append(QuotedJson(kid_));
  return jwk + "}";
}

Result<bool> VerificationKey::Verify(JwsAlgorithm algorithm, std::string_view message,
                                     std::string_view signature) const {
  if (!Allows(algorithm)) return false;
  if (const AsymmetricKey* key = asymmetric(); key != nullptr) return key->Verify(algorithm, message, signature);
  auto mac = std::get_if<HmacKey>(material_.get())->Compute(message);
  if (!mac) return mac.error();
  return signature.size() == mac->size() && CRYPTO_memcmp(signature.data(), mac->data(), mac->size()) == 0;
}

Result<SigningKey> SigningKey::FromSecret(std::string_view secret, std::string kid) {
  auto key = VerificationKey::FromSecret(secret, std::move(kid));
  if (!key) return key.error();
  return SigningKey(std::move(*key));
}

Result<SigningKey> SigningKey::FromPem(std::string_view pem, std::optional<JwsAlgorithm> algorithm, std::string kid) {
  auto asymmetric = AsymmetricKey::FromPrivatePem(pem);
  if (!asymmetric) return asymmetric.error();
  if (kid.empty()) {
    auto thumbprint = asymmetric->Thumbprint();
    if (!thumbprint) return thumbprint.error();
    kid = std::move(*thumbprint);
  }
  const JwsAlgorithm bound_to = algorithm.value_or(UsualAlgorithm(asymmetric->type()));
  auto key = VerificationKey::FromKey(std::move(*asymmetric), bound_to, std::move(kid));
  if (!key) return key.error();
  return SigningKey(std::move(*key));
}

Result<std::string> SigningKey::Sign(std::string_view message) const {
  if (const AsymmetricKey* key = verification_key_.asymmetric(); key != nullptr) return key->Sign(algorithm(), message);
  auto mac = std::get_if<HmacKey>(verification_key_.material_.get())->Compute(message);
  if (!mac) return mac.error();
  return std::string(BytesOf(*mac));
}

}  // namespace token_refresh
