#include "core/jws.h"

#include <optional>
#include <string>
#include <utility>

#include "core/ascii.h"
#include "core/encoding.h"
#include "core/strict_json.h"

namespace token_refresh {
namespace {

constexpr size_t kMaxHeaderChars = 8 * 1024;  // encoded; certificate chains, which nobody reads, are long
constexpr std::string_view kMediaTypePrefix = "application/";
constexpr std::string_view kOwnType = "jwt";

// The parts of a token, encoded, pointing into it.
struct CompactParts {
  std::string_view header;
  std::string_view payload;
  std::string_view signature;
  std::string_view signed_text;  // header and payload with the dot between them
};

std::optional<CompactParts> Split(std::string_view token) {
  const size_t first = token.find('.');
  if (first == std::string_view::npos) return std::nullopt;
  const size_t second = token.find('.', first + 1);
  if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos) return std::nullopt;
  const CompactParts parts{token.substr(0, first), token.substr(first + 1, second - first - 1),
                           token.substr(second + 1), token.substr(0, second)};
  // An empty payload is a detached one (RFC 7515 appendix F), an empty signature is that of "none".
  if (parts.header.empty() || parts.payload.empty() || parts.signature.empty()) return std::nullopt;
  if (parts.header.size() > kMaxHeaderChars) return std::nullopt;
  return parts;
}

// What a header asks for.
struct Header {
  JwtFailure failure = JwtFailure::kNone;
  JwsAlgorithm algorithm{};
  std::optional<std::string> kid;
};

bool IsWantedType(const SecretJson& header, std::string_view wanted) {
  const SecretJson* member = FindMember(header, "typ");
  const auto text = member == nullptr ? std::nullopt : TextOf(*member);
  if (!text.has_value()) return false;
  const std::string typ = AsciiLower(*text);
  std::string_view short_typ(typ);
  if (short_typ.starts_with(kMediaTypePrefix)) short_typ.remove_prefix(kMediaTypePrefix.size());
  return short_typ == wanted;
}

Header ReadHeader(const SecretJson& header, const JwsRules& rules) {
  // RFC 7797 lets b64 change what is signed; it must come with crit, but better safe.
  if (header.contains("crit") || header.contains("b64")) return {JwtFailure::kCriticalExtension, {}, {}};
  const SecretJson* alg = FindMember(header, "alg");
  const auto alg_name = alg == nullptr ? std::nullopt : TextOf(*alg);
  if (!alg_name.has_value()) return {JwtFailure::kMalformed, {}, {}};
  const auto algorithm = FindJwsAlgorithm(*alg_name);
  if (!algorithm.has_value()) return {JwtFailure::kAlgorithm, {}, {}};
  Header read{JwtFailure::kNone, *algorithm, {}};
  if (const SecretJson* kid = FindMember(header, "kid"); kid != nullptr) {
    const auto text = TextOf(*kid);
    if (!text.has_value()) return {JwtFailure::kMalformed, {}, {}};
    read.kid.emplace(*text);
  }
  if (!rules.typ.empty() && !IsWantedType(header, rules.typ)) return {JwtFailure::kType, {}, {}};
  return read;
}

Header DecodeHeader(std::string_view encoded, const JwsRules& rules) {
  const std::optional<Secret> text = Base64UrlDecode(encoded);
  if (!text.has_value()) return {JwtFailure::kMalformed, {}, {}};
  const std::optional<SecretJson> header = ParseStrictObject(text->view());
  if (!header.has_value()) return {JwtFailure::kMalformed, {}, {}};
  return ReadHeader(*header, rules);
}

// A header that is the very one which a key of ours writes need not be read: that is most of the time that
// a session's token takes before its signature. Nothing when it is another.
std::optional<Header> FindOwnHeader(std::string_view encoded, const JwkSet& keys, const JwsRules& rules) {
  if (!rules.typ.empty() && rules.typ != kOwnType) return std::nullopt;
  for (const VerificationKey& key : keys.keys()) {
    if (key.encoded_header() != encoded) continue;
    Header header{JwtFailure::kNone, *key.only(), {}};
    if (!key.kid().empty()) header.kid = key.kid();
    return header;
  }
  return std::nullopt;
}

JwtFailure CheckSignature(const CompactParts& parts, const Header& header, const JwkSet& keys) {
  const std::optional<Secret> signature = Base64UrlDecode(parts.signature);
  if (!signature.has_value()) return JwtFailure::kMalformed;
  const auto candidates = keys.FindKeys(header.kid, header.algorithm);
  if (candidates.empty()) {
    return header.kid.has_value() && !keys.HasKid(*header.kid) ? JwtFailure::kUnknownKey : JwtFailure::kAlgorithm;
  }
  for (const VerificationKey* key : candidates) {
    const auto right = key->Verify(header.algorithm, parts.signed_text, signature->view());
    if (!right) return JwtFailure::kInternal;
    if (*right) return JwtFailure::kNone;
  }
  return JwtFailure::kSignature;
}

VerifiedJws Refused(JwtFailure failure) { return {failure, {}}; }

}  // namespace

Result<std::string> SignJwt(const SigningKey& key, std::string_view claims) {
  if (claims.size() > kMaxSessionTokenBytes || !ParseStrictObject(claims).has_value()) {
    return Error{ErrorCode::kInvalidArgument,
                 "a token cannot have these claims: they are no JSON object, or hold a name twice, U+0000, a number "
                 "beyond a double, or more than 32 levels",
                 {}};
  }
  std::string token = key.verification_key().encoded_header();
  token.append(".").append(Base64UrlEncode(claims));
  auto signature = key.Sign(token);
  if (!signature) return signature.error();
  token.append(".").append(Base64UrlEncode(*signature));
  if (token.size() > kMaxSessionTokenBytes) {
    return Error{ErrorCode::kInvalidArgument, "the claims make a token of more than 16 KiB", {}};
  }
  return token;
}

VerifiedJws VerifyJws(std::string_view token, const JwkSet& keys, const JwsRules& rules) {
  if (token.size() > rules.max_bytes) return Refused(JwtFailure::kTooLong);
  const auto parts = Split(token);
  if (!parts.has_value()) return Refused(JwtFailure::kMalformed);
  const std::optional<Header> own_header = FindOwnHeader(parts->header, keys, rules);
  const Header header = own_header.has_value() ? *own_header : DecodeHeader(parts->header, rules);
  if (header.failure != JwtFailure::kNone) return Refused(header.failure);
  const JwtFailure failure = CheckSignature(*parts, header, keys);
  if (failure != JwtFailure::kNone) return Refused(failure);
  std::optional<Secret> payload = Base64UrlDecode(parts->payload);
  if (!payload.has_value()) return Refused(JwtFailure::kMalformed);
  return {JwtFailure::kNone, std::move(*payload)};
}

}  // namespace token_refresh
