// The signature algorithms that this project makes and checks. May be used by anyone.
#pragma once

#include <optional>
#include <string_view>

namespace token_refresh {

enum class JwsAlgorithm {
  kHs256,  // HMAC with SHA-256 (RFC 7518 section 3.2)
  kRs256,  // RSASSA-PKCS1-v1_5 with SHA-256 (3.3)
  kPs256,  // RSASSA-PSS with SHA-256, salt of 32 bytes (3.5)
  kEs256,  // ECDSA on P-256 with SHA-256 (3.4)
  kEdDsa,  // EdDSA on Ed25519 (RFC 8037 section 3.1)
};

constexpr std::string_view JwsAlgorithmName(JwsAlgorithm algorithm) {
  switch (algorithm) {
    case JwsAlgorithm::kHs256:
      return "HS256";
    case JwsAlgorithm::kRs256:
      return "RS256";
    case JwsAlgorithm::kPs256:
      return "PS256";
    case JwsAlgorithm::kEs256:
      return "ES256";
    case JwsAlgorithm::kEdDsa:
      return "EdDSA";
  }
  return {};
}

// Names are case-sensitive; nothing for those that are not served, "none" among them.
// "Ed25519" is the newer name of EdDSA on that curve (RFC 9864).
constexpr std::optional<JwsAlgorithm> FindJwsAlgorithm(std::string_view name) {
  using enum JwsAlgorithm;
  for (const JwsAlgorithm algorithm : {kHs256, kRs256, kPs256, kEs256, kEdDsa}) {
    if (name == JwsAlgorithmName(algorithm)) return algorithm;
  }
  if (name == "Ed25519") return kEdDsa;
  return std::nullopt;
}

}  // namespace token_refresh
