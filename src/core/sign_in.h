// The provider's side of a sign-in: an authorization code becomes tokens, and the tokens say who it is. Lives in the
// refresher, many at a time; does no waiting and no storing. One thread.
//
// 1. The code is exchanged at the token endpoint. It is presented once and never again, whatever becomes of it.
// 2. With openid, and a provider that has issuer and jwks_uri, the answer must hold an id_token, which is verified
//    (OpenID Connect Core 1.0 section 3.1.3.7); its claims are the result. Its algorithm comes from the key, and keys
//    come from the provider's JWKS, where no secret can be: HS256 and none are always refused.
// 3. Otherwise, when claims are needed, the userinfo endpoint is asked.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/http.h"
#include "core/provider.h"
#include "core/provider_request.h"
#include "core/secret.h"
#include "core/token_response.h"

namespace token_refresh {

struct SignInRequest {
  uint64_t id = 0;  // comes back with the result
  std::shared_ptr<const Provider> provider;
  Secret code;
  Secret code_verifier;                          // always there: the nonce is made of it
  std::string redirect_uri;                      // the one that the authorization request had
  bool use_pkce = true;                          // AuthorizationUrl::uses_pkce
  bool openid = false;                           // AuthorizationParams::nonce: a nonce was sent
  std::optional<Micros> max_authentication_age;  // max_age, if the authorization request had it
  bool claims_needed = false;
};

struct SignInResult {
  uint64_t id = 0;
  bool accepted = false;
  // What the provider gave; also when the sign-in is refused afterwards, so that it can be revoked. Then, in rare
  // cases, there is a refresh token without an access token.
  TokenSet tokens;
  std::string claims;  // a JSON object; empty: none
  // One word, empty when accepted: provider_refused (it says no), provider_unavailable (no answer, 5xx, 429),
  // answer_unusable (a success without a usable token), id_token_missing, id_token_<word of JwtFailure>,
  // keys_unavailable, userinfo_unavailable, userinfo_failed, no_claims, shutting_down, internal.
  std::string failure;
  std::string message;  // one sentence, scrubbed; empty when accepted
  Micros duration = 0;
};

class SignIns {
 public:
  static constexpr size_t kDefaultMaxUnderWay = 256;  // requests; the others wait for their turn

  // transport and clock outlive this; nothing else collects from the transport.
  SignIns(HttpTransport& transport, const Clock& clock, size_t max_under_way = kDefaultMaxUnderWay);
  ~SignIns();

  // Holds for requests from now on.
  void Configure(const HttpDefaults& defaults);

  // Whether one more of this provider may begin. A provider has at most as many places as are left to the others, so
  // that none that is slow takes the last; and no more than its option max_in_flight.
  bool HasRoomFor(const Provider& provider) const;

  // Starts at once. Has its result in TakeFinished(), maybe already before the next Turn().
  void Begin(SignInRequest request);

  // Moves everything on without blocking. To be called whenever the transport has something.
  void Turn();
  // When there is something to do even if nothing arrives; INT64_MAX: never.
  Micros NextTurnAt() const;

  std::vector<SignInResult> TakeFinished();
  // Begun and not finished.
  size_t unfinished() const;

  // From now on no code is presented: what begins, or has waited for its turn, ends as shutting_down. What is on
  // its way comes to its end.
  void Drain();
  // Everything that is unfinished ends as shutting_down.
  void Abandon();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace token_refresh
