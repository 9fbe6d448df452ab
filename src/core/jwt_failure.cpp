#include "core/jwt_failure.h"

namespace token_refresh {
namespace {

struct Description {
  std::string_view word;
  std::string_view text;
};

constexpr Description Describe(JwtFailure failure) {
  switch (failure) {
    case JwtFailure::kNone:
      return {"none", ""};
    case JwtFailure::kTooLong:
      return {"too_long", "the token is too long"};
    case JwtFailure::kMalformed:
      return {"malformed", "the token is not a signed JWT in compact form"};
    case JwtFailure::kCriticalExtension:
      return {"critical_extension", "the token asks for an extension that is not served"};
    case JwtFailure::kType:
      return {"wrong_type", "the token is of another type"};
    case JwtFailure::kAlgorithm:
      return {"algorithm_refused", "the algorithm of the token is not one that the key allows"};
    case JwtFailure::kUnknownKey:
      return {"unknown_key", "no key has the key id of the token"};
    case JwtFailure::kSignature:
      return {"wrong_signature", "the signature of the token is wrong"};
    case JwtFailure::kClaims:
      return {"malformed_claims", "the claims of the token are not a JSON object of the right types"};
    case JwtFailure::kMissingClaim:
      return {"missing_claim", "a claim that the token must have is missing"};
    case JwtFailure::kExpired:
      return {"expired", "the token has expired"};
    case JwtFailure::kNotYetValid:
      return {"not_yet_valid", "the token is not valid yet"};
    case JwtFailure::kIssuedInFuture:
      return {"issued_in_future", "the token was issued in the future"};
    case JwtFailure::kIssuer:
      return {"wrong_issuer", "the token is from another issuer"};
    case JwtFailure::kAudience:
      return {"wrong_audience", "the token is for another audience"};
    case JwtFailure::kAuthorizedParty:
      return {"wrong_authorized_party", "the token was issued to another party"};
    case JwtFailure::kNonce:
      return {"wrong_nonce", "the nonce of the token is not the one that was sent"};
    case JwtFailure::kAuthenticationTooOld:
      return {"authentication_too_old", "the user signed in too long ago"};
    case JwtFailure::kInternal:
      return {"internal", "the token could not be checked"};
  }
  return {};
}

}  // namespace

std::string_view JwtFailureWord(JwtFailure failure) { return Describe(failure).word; }

std::string_view JwtFailureText(JwtFailure failure) { return Describe(failure).text; }

}  // namespace token_refresh
