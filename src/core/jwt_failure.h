// Why a token is refused. May be used by anyone.
#pragma once

#include <string_view>

namespace token_refresh {

enum class JwtFailure {
  kNone,
  kTooLong,
  kMalformed,          // no JWS in compact form, or what it holds is not what it must be
  kCriticalExtension,  // it asks for an extension (crit, b64)
  kType,               // typ is not the wanted one
  kAlgorithm,          // none, unknown, or not one that the key allows
  kUnknownKey,         // no key has its kid: with keys of a provider, the time to fetch them again
  kSignature,          // wrong
  kClaims,             // no JSON object, a name twice, or a registered claim of the wrong type
  kMissingClaim,
  kExpired,
  kNotYetValid,
  kIssuedInFuture,
  kIssuer,
  kAudience,
  kAuthorizedParty,
  kNonce,
  kAuthenticationTooOld,
  kInternal,  // nothing is known about the token: OpenSSL could not check it
};

// One word in lower case with underscores, for audit and statistics; "none" for kNone.
std::string_view JwtFailureWord(JwtFailure failure);

// A fixed sentence that holds nothing of the token; empty for kNone.
std::string_view JwtFailureText(JwtFailure failure);

}  // namespace token_refresh
