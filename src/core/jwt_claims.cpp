#include "core/jwt_claims.h"

#include <algorithm>
#include <utility>

#include "core/strict_json.h"

namespace token_refresh {
namespace {

constexpr uint64_t kMaxSeconds = 253402300799;  // the end of the year 9999

// A claim that may be absent and has a type.
template <class T>
struct Claim {
  bool well_formed = true;
  std::optional<T> value;
};

std::optional<Micros> NumericDate(const SecretJson& number) {
  if (const auto* whole = number.get_ptr<const uint64_t*>(); whole != nullptr) {
    if (*whole > kMaxSeconds) return std::nullopt;
    return static_cast<Micros>(*whole) * kSecond;
  }
  const auto* fraction = number.get_ptr<const double*>();
  // NaN fails both comparisons.
  if (fraction == nullptr || !(*fraction >= 0 && *fraction <= static_cast<double>(kMaxSeconds))) return std::nullopt;
  return static_cast<Micros>(*fraction * static_cast<double>(kSecond));
}

Claim<Micros> TimeClaim(const SecretJson& claims, const char* name) {
  const SecretJson* member = FindMember(claims, name);
  if (member == nullptr) return {};
  const auto time = NumericDate(*member);
  return {time.has_value(), time};
}

Claim<std::string_view> TextClaim(const SecretJson& claims, const char* name) {
  const SecretJson* member = FindMember(claims, name);
  if (member == nullptr) return {};
  const auto text = TextOf(*member);
  return {text.has_value(), text};
}

bool IsWellFormedAudience(const SecretJson& audience) {
  if (audience.is_string()) return true;
  return audience.is_array() &&
         std::all_of(audience.begin(), audience.end(), [](const SecretJson& element) { return element.is_string(); });
}

JwtFailure CheckTimes(const SecretJson& claims, const ClaimRules& rules) {
  const auto expires = TimeClaim(claims, "exp");
  const auto not_before = TimeClaim(claims, "nbf");
  const auto issued = TimeClaim(claims, "iat");
  if (!expires.well_formed || !not_before.well_formed || !issued.well_formed) return JwtFailure::kClaims;
  if (!expires.value.has_value()) return JwtFailure::kMissingClaim;
  if (rules.now >= *expires.value + rules.leeway) return JwtFailure::kExpired;
  if (not_before.value.value_or(0) > rules.now + rules.leeway) return JwtFailure::kNotYetValid;
  if (issued.value.value_or(0) > rules.now + rules.leeway) return JwtFailure::kIssuedInFuture;
  return JwtFailure::kNone;
}

JwtFailure CheckParties(const SecretJson& claims, const ClaimRules& rules) {
  const auto issuer = TextClaim(claims, "iss");
  const auto party = TextClaim(claims, "azp");
  const SecretJson* audience = FindMember(claims, "aud");
  if (!issuer.well_formed || !party.well_formed) return JwtFailure::kClaims;
  if (audience != nullptr && !IsWellFormedAudience(*audience)) return JwtFailure::kClaims;
  if (rules.issuer.has_value() && issuer.value != rules.issuer) return JwtFailure::kIssuer;
  if (!rules.audience.has_value()) return audience == nullptr ? JwtFailure::kNone : JwtFailure::kAudience;
  const auto is_ours = [&](const SecretJson& element) { return TextOf(element) == rules.audience; };
  // A text, too, is iterated: as the only element of itself.
  if (audience == nullptr || std::none_of(audience->begin(), audience->end(), is_ours)) return JwtFailure::kAudience;
  if (!rules.check_authorized_party) return JwtFailure::kNone;
  if (party.value.has_value()) return party.value == rules.audience ? JwtFailure::kNone : JwtFailure::kAuthorizedParty;
  return audience->size() > 1 ? JwtFailure::kAuthorizedParty : JwtFailure::kNone;
}

JwtFailure CheckSignIn(const SecretJson& claims, const ClaimRules& rules) {
  const auto nonce = TextClaim(claims, "nonce");
  const auto authenticated = TimeClaim(claims, "auth_time");
  if (rules.nonce.has_value()) {
    if (!nonce.well_formed) return JwtFailure::kClaims;
    if (nonce.value != rules.nonce) return JwtFailure::kNonce;
  }
  if (!rules.max_authentication_age.has_value()) return JwtFailure::kNone;
  if (!authenticated.well_formed) return JwtFailure::kClaims;
  if (!authenticated.value.has_value()) return JwtFailure::kMissingClaim;
  if (rules.now > *authenticated.value + *rules.max_authentication_age + rules.leeway) {
    return JwtFailure::kAuthenticationTooOld;
  }
  return JwtFailure::kNone;
}

JwtFailure CheckPresence(const SecretJson& claims, const ClaimRules& rules) {
  // An empty name would make everybody who has one the same person.
  for (const char* name : {"sub", "jti"}) {
    const auto text = TextClaim(claims, name);
    if (!text.well_formed || (text.value.has_value() && text.value->empty())) return JwtFailure::kClaims;
  }
  const bool complete = std::all_of(rules.required.begin(), rules.required.end(),
                                    [&](std::string_view name) { return FindMember(claims, name) != nullptr; });
  return complete ? JwtFailure::kNone : JwtFailure::kMissingClaim;
}

}  // namespace

JwtFailure CheckClaims(const SecretJson& claims, const ClaimRules& rules) {
  if (!claims.is_object()) return JwtFailure::kClaims;
  for (const auto check : {CheckPresence, CheckTimes, CheckParties, CheckSignIn}) {
    const JwtFailure failure = check(claims, rules);
    if (failure != JwtFailure::kNone) return failure;
  }
  return JwtFailure::kNone;
}

VerifiedJwt VerifyJwt(std::string_view token, const JwkSet& keys, const JwsRules& form, const ClaimRules& rules) {
  VerifiedJws jws = VerifyJws(token, keys, form);
  if (!jws.ok()) return {jws.failure, {}, {}};
  std::optional<SecretJson> claims = ParseStrictObject(jws.payload.view());
  if (!claims.has_value()) return {JwtFailure::kClaims, {}, {}};
  const JwtFailure failure = CheckClaims(*claims, rules);
  if (failure != JwtFailure::kNone) return {failure, {}, {}};
  return {JwtFailure::kNone, std::move(jws.payload), std::move(*claims)};
}

}  // namespace token_refresh
