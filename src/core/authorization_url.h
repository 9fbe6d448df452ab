// The authorization request (RFC 6749 section 4.1.1, RFC 7636, OpenID Connect Core 1.0 section 3.1.2.1): the URL to
// which an application sends the browser, and the secrets that tie the answer to it. For the SQL functions.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "core/provider.h"
#include "core/result.h"
#include "core/secret.h"

namespace token_refresh {

constexpr size_t kMaxRedirectUriBytes = 2000;       // as other URLs, parsed_url.h
constexpr size_t kMaxAuthorizationUrlBytes = 8192;  // what web servers read as one line

// 32 random bytes in base64url: 43 characters. Errors: kInternal when there is no randomness to be had.
Result<Secret> MakeCodeVerifier();
Result<Secret> MakeState();

// base64url(HMAC-SHA-256(verifier, "nonce")): a request keeps one secret only, and neither the nonce nor the challenge
// gives it away. Errors: kInternal.
Result<std::string> NonceFor(const Secret& code_verifier);

// RFC 7636 section 4.2, S256. Errors: kInternal.
Result<std::string> CodeChallenge(const Secret& code_verifier);

// An absolute URI without fragment of at most kMaxRedirectUriBytes: https, http to loopback (RFC 8252 section 7.3), or
// a scheme of an application with a dot in it (7.1), such as com.example.app:/callback. Errors: kInvalidArgument.
Status CheckRedirectUri(const std::string& redirect_uri);

struct AuthorizationParams {
  std::string redirect_uri;
  std::string scope;  // empty: not sent
  std::string state;
  Secret code_verifier;
  bool nonce = false;  // for an id_token: NonceFor(code_verifier) is sent
  // Of this call: added; nullopt removes. After those of the provider, in its option authorization_params.
  std::map<std::string, std::optional<std::string>> extra;
};

struct AuthorizationUrl {
  std::string url;
  bool uses_pkce = true;  // false: code_challenge was removed, and code_verifier must not be sent with the code
};

// state, response_type, client_id, redirect_uri and nonce can be neither removed nor replaced, request and request_uri
// (RFC 9101) not be given; code_challenge and
// code_challenge_method only removed, both together. All of these by their standard names, whatever the provider calls
// them. Errors: kInvalidArgument naming what is wrong; kInternal.
Result<AuthorizationUrl> BuildAuthorizationUrl(const Provider& provider, const AuthorizationParams& params);

}  // namespace token_refresh
